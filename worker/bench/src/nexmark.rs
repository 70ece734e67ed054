//! Nexmark queries: events per second and per CPU-second, beside what Flink 2.3 reached on the same events.

use serde_json::{Value, json};

use crate::runner::{BenchError, Job, Running};

/// A query, the number of events (so many that two checkpoints complete on two cores), and Flink's events per CPU-second (RocksDB, parallelism 2, recommended settings).
struct Query {
    name: &'static str,
    events: f64,
    flink: Option<f64>,
    sink: &'static str,
    select: &'static str,
}

const QUERIES: &[Query] = &[
    Query {
        name: "q0",
        events: 180e6,
        flink: Some(1_057_921.0),
        sink: "auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, `dateTime` TIMESTAMP(3), extra STRING",
        select: "SELECT auction, bidder, price, channel, url, `dateTime`, extra FROM bid",
    },
    Query {
        name: "q1",
        events: 160e6,
        flink: Some(1_021_798.0),
        sink: "auction BIGINT, bidder BIGINT, price DECIMAL(23, 3), `dateTime` TIMESTAMP(3), extra STRING",
        select: "SELECT auction, bidder, 0.908 * price AS price, `dateTime`, extra FROM bid",
    },
    Query {
        name: "q2",
        events: 180e6,
        flink: Some(1_114_206.0),
        sink: "auction BIGINT, price BIGINT",
        select: "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0",
    },
    Query {
        name: "q7-inner",
        events: 160e6,
        flink: None,
        sink: "maxprice BIGINT, window_end TIMESTAMP(3)",
        select: "SELECT MAX(price) AS maxprice, window_end
FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND))
GROUP BY window_start, window_end",
    },
    Query {
        name: "q12",
        events: 140e6,
        flink: Some(272_702.0),
        sink: "bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP_LTZ(3), endtime TIMESTAMP_LTZ(3)",
        select: "SELECT bidder, COUNT(*) AS bid_count, window_start AS starttime, window_end AS endtime
FROM TABLE(TUMBLE(TABLE B, DESCRIPTOR(p_time), INTERVAL '10' SECOND))
GROUP BY bidder, window_start, window_end",
    },
    Query {
        name: "q15",
        events: 70e6,
        flink: Some(160_449.0),
        sink: "`day` STRING, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT, rank3_bids BIGINT, total_bidders BIGINT,
  rank1_bidders BIGINT, rank2_bidders BIGINT, rank3_bidders BIGINT, total_auctions BIGINT, rank1_auctions BIGINT,
  rank2_auctions BIGINT, rank3_auctions BIGINT",
        select: "SELECT DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`,
  COUNT(*) AS total_bids,
  COUNT(*) FILTER (WHERE price < 10000) AS rank1_bids,
  COUNT(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
  COUNT(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
  COUNT(DISTINCT bidder) AS total_bidders,
  COUNT(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
  COUNT(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
  COUNT(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
  COUNT(DISTINCT auction) AS total_auctions,
  COUNT(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions,
  COUNT(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions,
  COUNT(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
FROM bid GROUP BY DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    },
    Query {
        name: "q16",
        events: 16e6,
        flink: Some(30_684.0),
        sink: "channel STRING, `day` STRING, `minute` STRING, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT,
  rank3_bids BIGINT, total_bidders BIGINT, rank1_bidders BIGINT, rank2_bidders BIGINT, rank3_bidders BIGINT,
  total_auctions BIGINT, rank1_auctions BIGINT, rank2_auctions BIGINT, rank3_auctions BIGINT",
        select: "SELECT channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`, MAX(DATE_FORMAT(`dateTime`, 'HH:mm')) AS `minute`,
  COUNT(*) AS total_bids,
  COUNT(*) FILTER (WHERE price < 10000) AS rank1_bids,
  COUNT(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
  COUNT(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
  COUNT(DISTINCT bidder) AS total_bidders,
  COUNT(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
  COUNT(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
  COUNT(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
  COUNT(DISTINCT auction) AS total_auctions,
  COUNT(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions,
  COUNT(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions,
  COUNT(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
FROM bid GROUP BY channel, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    },
    Query {
        name: "q17",
        events: 90e6,
        flink: Some(257_467.0),
        sink: "auction BIGINT, `day` STRING, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT, rank3_bids BIGINT,
  min_price BIGINT, max_price BIGINT, avg_price BIGINT, sum_price BIGINT",
        select: "SELECT auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') AS `day`,
  COUNT(*) AS total_bids,
  COUNT(*) FILTER (WHERE price < 10000) AS rank1_bids,
  COUNT(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
  COUNT(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
  MIN(price) AS min_price, MAX(price) AS max_price, AVG(price) AS avg_price, SUM(price) AS sum_price
FROM bid GROUP BY auction, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd')",
    },
    Query {
        name: "q18",
        events: 40e6,
        flink: Some(114_723.0),
        sink: "auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, `dateTime` TIMESTAMP(3), extra STRING",
        select: "SELECT auction, bidder, price, channel, url, `dateTime`, extra
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY `dateTime` DESC) AS rank_number FROM bid)
WHERE rank_number <= 1",
    },
    Query {
        name: "kc",
        events: 130e6,
        flink: None,
        sink: "bidder BIGINT, bids BIGINT, total BIGINT",
        select: "SELECT bidder, COUNT(*) AS bids, SUM(price) AS total FROM bid GROUP BY bidder",
    },
];

/// The tables and views that all queries share.
pub fn tables(events: u64, pushdown: bool) -> String {
    format!(
        "SET 'weir.projection-pushdown' = '{pushdown}';
CREATE TABLE nexmark (
  event_type INT,
  person ROW<id BIGINT, name STRING, emailAddress STRING, creditCard STRING, city STRING, state STRING,
    `dateTime` TIMESTAMP(3), extra STRING>,
  auction ROW<id BIGINT, itemName STRING, description STRING, initialBid BIGINT, reserve BIGINT, `dateTime` TIMESTAMP(3),
    expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra STRING>,
  bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, `dateTime` TIMESTAMP(3), extra STRING>,
  `dateTime` AS CASE WHEN event_type = 0 THEN person.`dateTime` WHEN event_type = 1 THEN auction.`dateTime`
    ELSE bid.`dateTime` END,
  WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '{events}', 'first-event.rate' = '100000', 'next-event.rate' = '100000');
CREATE VIEW bid AS SELECT bid.auction, bid.bidder, bid.price, bid.channel, bid.url, `dateTime`, bid.extra
  FROM nexmark WHERE event_type = 2;
CREATE VIEW B AS SELECT *, PROCTIME() AS p_time FROM bid;
"
    )
}

fn measure(query: &Query, events: u64, pushdown: bool) -> Result<crate::runner::Run, BenchError> {
    let sql = format!(
        "{}CREATE TABLE s ({}) WITH ('connector' = 'blackhole');\nINSERT INTO s {};",
        tables(events, pushdown),
        query.sink,
        query.select
    );
    let job = Job { name: query.name, sql, workers: 1, slots: 2, memory: "4Gi", interval: "5s" };
    Running::start(&job)?.finish()
}

/// Runs the queries named, or all; prints a row each.
pub fn run(names: &[String], scale: f64) -> Result<Value, BenchError> {
    if let Some(unknown) = names.iter().find(|name| !QUERIES.iter().any(|query| query.name == name.as_str())) {
        return Err(BenchError::NoSuchQuery(unknown.clone()));
    }
    println!(
        "Nexmark, parallelism 2, RocksDB, exactly once, a checkpoint every 5 s; all columns made, all kinds of events counted"
    );
    println!(
        "{:<9} {:>11} {:>7} {:>11} {:>13} {:>13} {:>8} {:>6} {:>9} {:>9} {:>15}",
        "query",
        "events",
        "s",
        "events/s",
        "per CPU-s",
        "Flink",
        "ratio",
        "ckpts",
        "state MB",
        "peak MB",
        "pushdown CPU-s"
    );
    let mut rows = Vec::new();
    for query in QUERIES.iter().filter(|query| names.is_empty() || names.iter().any(|name| name == query.name)) {
        let events = (query.events * scale) as u64;
        let whole = measure(query, events, false)?;
        let pushed = measure(query, events, true)?;
        let per_cpu = events as f64 / whole.cpu.as_secs_f64();
        let pushed_per_cpu = events as f64 / pushed.cpu.as_secs_f64();
        let seconds = whole.report.elapsed_ms as f64 / 1e3;
        let state = whole.report.checkpoints.iter().map(|checkpoint| checkpoint.state_bytes).max().unwrap_or(0);
        let peak = whole.peaks.values().copied().max().unwrap_or(0);
        let (flink, ratio) = match query.flink {
            Some(flink) => (format!("{flink:.0}"), format!("{:.1}", per_cpu / flink)),
            None => ("-".into(), "-".into()),
        };
        println!(
            "{:<9} {:>11} {:>7.1} {:>11.0} {:>13.0} {:>13} {:>8} {:>6} {:>9.1} {:>9.0} {:>15.0}",
            query.name,
            events,
            seconds,
            events as f64 / seconds,
            per_cpu,
            flink,
            ratio,
            whole.report.checkpoints.len(),
            state as f64 / 1e6,
            peak as f64 / 1e6,
            pushed_per_cpu
        );
        rows.push(json!({
            "query": query.name, "events": events, "seconds": seconds, "wallSeconds": whole.wall.as_secs_f64(),
            "cpuSeconds": whole.cpu.as_secs_f64(), "eventsPerCpuSecond": per_cpu, "flinkEventsPerCpuSecond": query.flink,
            "checkpoints": whole.report.checkpoints.len(),
            "stateBytes": state, "peakBytes": peak, "pushdownEventsPerCpuSecond": pushed_per_cpu,
        }));
    }
    Ok(Value::Array(rows))
}
