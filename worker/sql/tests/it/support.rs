//! A catalog with one connector, so that plans can be tested without any real one, and the tables of Nexmark over it.

use std::sync::Arc;

use weir_connectors::{Accepts, ConnectorError, ConnectorFactory, ConnectorRegistry, OptionDoc, TableSpec};
use weir_engine::api::sink::CommitContext;
use weir_engine::{
    Committer, JobGraph, Sink, SinkContext, SinkError, SinkFactory, Source, SourceContext, SourceError, SourceFactory,
};
use weir_sql::{Catalog, PlanError, PlanRequest, plan};

/// A connector that never runs.
struct Test;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "bounded", expects: "'true' or 'false'", default: Some("false"), about: "Whether it ends." },
    OptionDoc {
        name: "changelog",
        expects: "'true', 'false' or 'upsert'",
        default: Some("true"),
        about: "Whether it takes updates, and how.",
    },
    OptionDoc { name: "path", expects: "a path", default: None, about: "Where it is." },
];

impl ConnectorFactory for Test {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        let bounded = table.options.get("bounded").is_some_and(|bounded| bounded == "true");
        Ok(Arc::new(TestSource { bounded }))
    }

    fn sink(&self, _table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        Ok(Arc::new(TestSink))
    }

    fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        match table.options.get("changelog").map(String::as_str) {
            Some("false") => Ok(Accepts::Inserts {
                remedy: "give it a format with a changelog, or aggregate in a window".to_string(),
            }),
            Some("upsert") => Ok(Accepts::Upserts),
            _ => Ok(Accepts::Changes),
        }
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }
}

/// A source that never runs.
pub struct TestSource {
    pub bounded: bool,
}

impl SourceFactory for TestSource {
    fn splits(&self, _parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError> {
        Ok(Vec::new())
    }

    fn create(&self, _ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        Err(SourceError::io("never runs"))
    }

    fn bounded(&self) -> bool {
        self.bounded
    }
}

/// A sink that never runs.
pub struct TestSink;

impl SinkFactory for TestSink {
    fn create(&self, _ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Err(SinkError::io("never runs"))
    }

    fn committer(&self, _ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Err(SinkError::io("never runs"))
    }
}

/// The catalog.
pub fn catalog() -> Catalog {
    let mut connectors = ConnectorRegistry::new();
    connectors.register("test", Arc::new(Test));
    Catalog::new(connectors)
}

/// Plans a script.
pub fn planned(script: &str) -> Result<JobGraph, PlanError> {
    let request = PlanRequest { script: script.to_string(), base_dir: ".".to_string(), max_parallelism: 128 };
    plan(&request, &catalog())
}

/// Nexmark's stream of events, and the view of its bids.
pub const NEXMARK: &str = "
CREATE TABLE nexmark (
    event_type INT,
    person ROW<id BIGINT, name VARCHAR, emailAddress VARCHAR, creditCard VARCHAR, city VARCHAR, state VARCHAR,
               `dateTime` TIMESTAMP(3), extra VARCHAR>,
    auction ROW<id BIGINT, itemName VARCHAR, description VARCHAR, initialBid BIGINT, reserve BIGINT,
                `dateTime` TIMESTAMP(3), expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra VARCHAR>,
    bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, `dateTime` TIMESTAMP(3),
            extra VARCHAR>,
    `dateTime` AS CASE WHEN event_type = 0 THEN person.`dateTime` WHEN event_type = 1 THEN auction.`dateTime`
                  ELSE bid.`dateTime` END,
    WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND
) WITH ('connector' = 'test');
CREATE VIEW bid AS
SELECT bid.auction, bid.bidder, bid.price, bid.channel, bid.url, `dateTime`, bid.extra FROM nexmark WHERE event_type = 2;
";
