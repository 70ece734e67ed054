//! Topics as tables.
//!
//! As a source a table is read from where it says, or from a checkpoint; each partition is a split. As a sink it is written at least
//! once, or exactly once, in transactions that are committed with the checkpoint that holds their rows. What Kafka is spoken with is
//! `weir-kafka`; formats are those of files.
//!
//! Not here: reading a topic by its keys, formats that need a schema registry, headers, writing to several topics.

mod commit;
mod ids;
mod murmur;
mod options;
mod rows;
mod sink;
mod source;
mod split;
mod start;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use weir_engine::api::sink::SinkFactory;
use weir_engine::api::source::SourceFactory;
use weir_kafka::Purpose;

use self::ids::Pools;
use self::options::{Guarantee, OPTIONS};
use self::rows::{FACTS, Fact};
use self::sink::{KafkaSinkFactory, Rows, Writing};
use self::source::{KafkaSourceFactory, Notes};
use self::start::Reading;
use crate::error::ConnectorError;
use crate::formats::registry::{FORMATS, envelope};
use crate::options::Options;
use crate::spec::{Accepts, ConnectorFactory, OptionDoc, TableSpec};

/// What the names of transactions begin with where nothing is said.
const PREFIX: &str = "weir";

/// `'connector' = 'kafka'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kafka;

/// `'connector' = 'upsert-kafka'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpsertKafka;

impl ConnectorFactory for Kafka {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        let options = Options::of(table);
        for (&index, metadata) in &table.metadata {
            let Some(fact) = Fact::named(&metadata.key) else { continue };
            if !fact.fits(table.schema.field(index).data_type()) {
                let what = format!("'{}' is no value of its type", metadata.key);
                return Err(column(table, index, &what, &format!("declare it {}", fact.types())));
            }
        }
        if writes_changes(table) {
            let option = if options.text("format").is_some() { "format" } else { "value.format" };
            let what = "changes can be written, and not be read yet";
            return Err(options.unsupported(Some(option), what, "read it with 'format' = 'json', as it stands there"));
        }
        let properties = options::properties(table, Purpose::Read)?;
        let reading = Reading {
            topics: options::topics(&options)?,
            start: options::start(&options, &properties)?,
            bound: options::bound(&options, &properties)?,
            discovery: options::discovery(&options, &properties)?,
            properties,
        };
        if let (options::Topics::List(topics), Some("specific-offsets")) =
            (&reading.topics, options.text("scan.startup.mode"))
            && topics.len() > 1
        {
            let what = "'specific-offsets' are those of one topic, and there are several";
            return Err(options.unsupported(Some("scan.startup.mode"), what, "declare a table for each topic"));
        }
        Ok(Arc::new(KafkaSourceFactory {
            sides: options::sides(table, &options)?,
            table: table.clone(),
            reading: Arc::new(reading),
            notes: Arc::new(Notes::default()),
        }))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        sink(table, if writes_changes(table) { Rows::Changes } else { Rows::Inserts })
    }

    fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        if writes_changes(table) {
            return Ok(Accepts::Changes);
        }
        let remedy = "give 'connector' = 'upsert-kafka' with a PRIMARY KEY, or 'format' = 'debezium-json', or write a query that only \
                      inserts (over a window)";
        Ok(Accepts::Inserts { remedy: remedy.to_string() })
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }

    fn metadata(&self) -> &[&'static str] {
        &FACTS
    }
}

impl ConnectorFactory for UpsertKafka {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        let what = "a topic cannot be read by its keys yet";
        let remedy = "read it with 'connector' = 'kafka', and keep the last row of each key with ROW_NUMBER()";
        Err(Options::of(table).unsupported(Some("connector"), what, remedy))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        sink(&with_key(table)?, Rows::Upserts)
    }

    fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        with_key(table).map(|_| Accepts::Upserts)
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }

    fn metadata(&self) -> &[&'static str] {
        &FACTS
    }
}

/// The table's format says what each row does.
fn writes_changes(table: &TableSpec) -> bool {
    let options = Options::of(table);
    let format = options.text("format").or_else(|| options.text("value.format"));
    format.is_some_and(|format| envelope(format).is_some())
}

/// The table of upserts with its primary key as the key of its records.
fn with_key(table: &TableSpec) -> Result<TableSpec, ConnectorError> {
    let options = Options::of(table);
    options.required("key.format", FORMATS)?;
    if envelope(options.required("value.format", FORMATS)?).is_some() {
        return Err(options.invalid("value.format", FORMATS));
    }
    if let Some(option) =
        ["key.fields", "format", "sink.partitioner"].into_iter().find(|name| options.text(name).is_some())
    {
        let what = format!("'{option}' has no meaning for a table that is written by its primary key");
        return Err(options.unsupported(Some(option), &what, "take it out"));
    }
    if table.primary_key.is_empty() {
        let what = "the table is written by its primary key, and has none";
        return Err(options.unsupported(None, what, "declare PRIMARY KEY (…) NOT ENFORCED"));
    }
    let names: Vec<&str> = table.primary_key.iter().map(|&index| table.schema.field(index).name().as_str()).collect();
    Ok(table.clone().with("key.fields", &names.join(";")))
}

fn sink(table: &TableSpec, rows: Rows) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
    let options = Options::of(table);
    let mut timestamp = None;
    for (&index, metadata) in &table.metadata {
        match Fact::named(&metadata.key) {
            Some(fact @ Fact::Timestamp) if fact.fits(table.schema.field(index).data_type()) => timestamp = Some(index),
            Some(Fact::Timestamp) => {
                return Err(column(table, index, "'timestamp' is no value of its type", "declare it TIMESTAMP_LTZ(3)"));
            }
            _ => {
                let what = format!("'{}' is Kafka's to say, and cannot be written", metadata.key);
                return Err(column(table, index, &what, "write VIRTUAL behind METADATA"));
            }
        }
    }
    let properties = options::properties(table, Purpose::Write)?;
    let guarantee = options::guarantee(&options)?;
    if guarantee == Guarantee::ExactlyOnce && (!properties.idempotent || properties.producer.acks != -1) {
        let what = "transactions need 'properties.acks' = 'all' and 'properties.enable.idempotence' = 'true'";
        return Err(options.unsupported(Some("sink.delivery-guarantee"), what, "take the two properties out"));
    }
    Ok(Arc::new(KafkaSinkFactory {
        writing: Arc::new(Writing {
            topic: options::topic(&options)?,
            sides: options::sides(table, &options)?,
            timestamp,
            properties,
            partitioner: options::partitioner(&options)?,
            guarantee,
            prefix: options.text("sink.transactional-id-prefix").unwrap_or(PREFIX).to_string(),
            rows,
        }),
        pools: Arc::new(Pools::default()),
    }))
}

fn column(table: &TableSpec, index: usize, what: &str, remedy: &str) -> ConnectorError {
    ConnectorError::Column {
        table: table.name.clone(),
        column: table.schema.field(index).name().clone(),
        what: what.to_string(),
        remedy: remedy.to_string(),
    }
}
