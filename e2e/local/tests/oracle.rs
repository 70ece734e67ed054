//! The oracle: a query over a bounded input gives the same final table as the same question asked of DataFusion as a batch,
//! with checkpoints, kills and rescales at random moments, late rows included.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, fmt::Write as _, fs, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::prelude::SessionContext;
use rand::{RngExt, rngs::StdRng};
use weir_e2e_local::{Job, Settings, Weir, seeded};

/// Rows before the ones that come late.
const ROWS: i64 = 12_000;
/// Rows that come after the watermark has passed all their windows.
const LATE: i64 = 200;
/// So many rows stand between the last on-time rows and the late ones, all of a far later time, that the watermark is ahead.
const FAR: i64 = 9_000;
/// Rows a second of the streaming job: slow enough that kills fall within it.
const RATE: i64 = 9_000;

/// One row; `t` in milliseconds since the epoch.
#[derive(Clone)]
struct Row {
    id: i64,
    k: String,
    v: Option<i64>,
    t: i64,
    late: i64,
}

/// One file in order of time but for some seconds; then rows far ahead; then late ones.
fn rows(random: &mut StdRng) -> Vec<Row> {
    let start = 1_600_000_000_000_i64;
    let mut all = Vec::new();
    for id in 0..ROWS {
        let t = start + id * 10 - random.random_range(0..2_000);
        all.push(row(random, id, t, 0));
    }
    for id in ROWS..ROWS + FAR {
        all.push(row(random, id, start + ROWS * 10 + 3_600_000, 0));
    }
    for id in ROWS + FAR..ROWS + FAR + LATE {
        let t = start + random.random_range(0..ROWS * 10);
        all.push(row(random, id, t, 1));
    }
    all
}

fn row(random: &mut StdRng, id: i64, t: i64, late: i64) -> Row {
    let k = format!("key-{}", random.random_range(0..37));
    let v = (random.random_range(0..10) > 0).then(|| random.random_range(-1_000..1_000));
    Row { id, k, v, t, late }
}

/// A query in both dialects. `result` has the columns that `stream` writes; `late` tells that the stream drops late rows.
struct Case {
    name: &'static str,
    columns: &'static str,
    updating: bool,
    stream: &'static str,
    batch: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "filter",
        columns: "id BIGINT, x BIGINT, up STRING",
        updating: false,
        stream: "SELECT id, v * 2 + 1, UPPER(k) FROM input WHERE v > 100 OR v IS NULL",
        batch: "SELECT id, v * 2 + 1, UPPER(k) FROM input WHERE v > 100 OR v IS NULL",
    },
    Case {
        name: "keyed",
        columns: "k STRING, c BIGINT, cv BIGINT, s BIGINT, lo BIGINT, hi BIGINT, d BIGINT, f BIGINT, df BIGINT",
        updating: true,
        stream: "SELECT k, COUNT(*), COUNT(v), SUM(v), MIN(v), MAX(v), COUNT(DISTINCT v), COUNT(*) FILTER (WHERE v > 0),
            COUNT(DISTINCT v) FILTER (WHERE v > 500) FROM input GROUP BY k",
        batch: "SELECT k, COUNT(*), COUNT(v), SUM(v), MIN(v), MAX(v), COUNT(DISTINCT v), COUNT(*) FILTER (WHERE v > 0),
            COUNT(DISTINCT v) FILTER (WHERE v > 500) FROM input GROUP BY k",
    },
    Case {
        name: "global",
        columns: "c BIGINT, s BIGINT, d BIGINT",
        updating: true,
        stream: "SELECT COUNT(*), SUM(v), COUNT(DISTINCT k) FROM input",
        batch: "SELECT COUNT(*), SUM(v), COUNT(DISTINCT k) FROM input",
    },
    Case {
        name: "tumble",
        columns: "k STRING, ws BIGINT, c BIGINT, s BIGINT, hi BIGINT, d BIGINT",
        updating: false,
        stream: "SELECT k, 1000 * UNIX_TIMESTAMP(DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm:ss')), COUNT(*), SUM(v), MAX(v),
            COUNT(DISTINCT v) FROM TABLE(TUMBLE(TABLE input, DESCRIPTOR(t), INTERVAL '5' SECOND))
            GROUP BY k, window_start, window_end",
        batch: "SELECT k, t - t % 5000, COUNT(*), SUM(v), MAX(v), COUNT(DISTINCT v) FROM input WHERE late = 0
            GROUP BY k, t - t % 5000",
    },
    Case {
        name: "hop",
        columns: "k STRING, ws BIGINT, c BIGINT, s BIGINT, lo BIGINT",
        updating: false,
        stream: "SELECT k, 1000 * UNIX_TIMESTAMP(DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm:ss')), COUNT(*), SUM(v), MIN(v)
            FROM TABLE(HOP(TABLE input, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '6' SECOND))
            GROUP BY k, window_start, window_end",
        batch: "SELECT k, ws, COUNT(*), SUM(v), MIN(v) FROM (
            SELECT k, v, t - t % 2000 AS ws FROM input WHERE late = 0 UNION ALL
            SELECT k, v, t - t % 2000 - 2000 AS ws FROM input WHERE late = 0 UNION ALL
            SELECT k, v, t - t % 2000 - 4000 AS ws FROM input WHERE late = 0) GROUP BY k, ws",
    },
    Case {
        name: "last",
        columns: "k STRING, b BIGINT, t BIGINT",
        updating: true,
        stream: "SELECT k, b, ms FROM (SELECT k, MOD(id, 50) AS b, ms, ROW_NUMBER() OVER
            (PARTITION BY k, MOD(id, 50) ORDER BY t DESC) AS n FROM input) WHERE n = 1",
        batch: "SELECT k, id % 50, MAX(t) FROM input GROUP BY k, id % 50",
    },
    Case {
        name: "first",
        columns: "k STRING, b BIGINT, t BIGINT",
        updating: true,
        stream: "SELECT k, b, ms FROM (SELECT k, MOD(id, 50) AS b, ms, ROW_NUMBER() OVER
            (PARTITION BY k, MOD(id, 50) ORDER BY t ASC) AS n FROM input WHERE late = 0) WHERE n = 1",
        batch: "SELECT k, id % 50, MIN(t) FROM input WHERE late = 0 GROUP BY k, id % 50",
    },
    Case {
        name: "union-all",
        columns: "id BIGINT, x BIGINT",
        updating: false,
        stream: "SELECT id, v FROM input WHERE v > 0 UNION ALL SELECT id, ms FROM input WHERE v < 500",
        batch: "SELECT id, v FROM input WHERE v > 0 UNION ALL SELECT id, t FROM input WHERE v < 500",
    },
    Case {
        name: "union",
        columns: "k STRING, b BIGINT",
        updating: false,
        stream: "SELECT k, MOD(id, 90) FROM input WHERE v > 0 UNION SELECT k, MOD(id, 110) FROM input",
        batch: "SELECT k, id % 90 FROM input WHERE v > 0 UNION SELECT k, id % 110 FROM input",
    },
    Case {
        name: "union-windows",
        columns: "k STRING, ws BIGINT, c BIGINT, s BIGINT",
        updating: false,
        stream: "SELECT k, 1000 * UNIX_TIMESTAMP(DATE_FORMAT(TUMBLE_START(t, INTERVAL '5' SECOND), 'yyyy-MM-dd HH:mm:ss')), COUNT(*),
            SUM(v) FROM (SELECT k, v, t FROM input UNION ALL SELECT k, -v AS v, t FROM input WHERE v > 0)
            GROUP BY k, TUMBLE(t, INTERVAL '5' SECOND)",
        batch: "SELECT k, t - t % 5000, COUNT(*), SUM(v) FROM (SELECT k, v, t, late FROM input UNION ALL
            SELECT k, -v AS v, t, late FROM input WHERE v > 0) WHERE late = 0 GROUP BY k, t - t % 5000",
    },
    Case {
        name: "inner-join",
        columns: "id BIGINT, other BIGINT, k STRING",
        updating: false,
        stream: "SELECT a.id, b.id, b.k FROM input a JOIN input b ON a.k = b.k AND MOD(a.id, 900) = b.v AND a.id < b.id",
        batch: "SELECT a.id, b.id, b.k FROM input a JOIN input b ON a.k = b.k AND a.id % 900 = b.v AND a.id < b.id",
    },
    Case {
        name: "full-join",
        columns: "id BIGINT, other BIGINT, k STRING",
        updating: true,
        stream: "SELECT a.id, b.id, b.k FROM input a FULL JOIN (SELECT id, k, v FROM input WHERE MOD(id, 7) = 0) b
            ON a.v = b.v AND a.id < b.id",
        batch: "SELECT a.id, b.id, b.k FROM input a FULL JOIN (SELECT id, k, v FROM input WHERE id % 7 = 0) b
            ON a.v = b.v AND a.id < b.id",
    },
    Case {
        name: "join-of-counts",
        columns: "k STRING, n BIGINT, s BIGINT",
        updating: true,
        stream: "SELECT l.k, l.n, r.s FROM (SELECT k, COUNT(*) AS n FROM input WHERE v > 0 GROUP BY k) l
            LEFT JOIN (SELECT k, SUM(v) AS s FROM input WHERE v < -900 GROUP BY k) r ON l.k = r.k AND l.n > 150",
        batch: "SELECT l.k, l.n, r.s FROM (SELECT k, COUNT(*) AS n FROM input WHERE v > 0 GROUP BY k) l
            LEFT JOIN (SELECT k, SUM(v) AS s FROM input WHERE v < -900 GROUP BY k) r ON l.k = r.k AND l.n > 150",
    },
    Case {
        name: "of-aggregates",
        columns: "c BIGINT, n BIGINT, lo BIGINT, hi BIGINT, s BIGINT, d BIGINT, last STRING",
        updating: true,
        stream: "SELECT c, COUNT(*), MIN(top), MAX(top), SUM(s), COUNT(DISTINCT top), MAX(k) FROM (SELECT k, MOD(id, 50) AS b,
            COUNT(*) AS c, MAX(v) AS top, SUM(v) AS s FROM input GROUP BY k, MOD(id, 50)) GROUP BY c",
        batch: "SELECT c, COUNT(*), MIN(top), MAX(top), SUM(s), COUNT(DISTINCT top), MAX(k) FROM (SELECT k, id % 50 AS b,
            COUNT(*) AS c, MAX(v) AS top, SUM(v) AS s FROM input GROUP BY k, id % 50) GROUP BY c",
    },
    Case {
        name: "of-last",
        columns: "m BIGINT, n BIGINT, s BIGINT, lo STRING",
        updating: true,
        stream: "SELECT MOD(ms, 97), COUNT(*), SUM(ms), MIN(k) FROM (SELECT k, MOD(id, 50) AS b, ms, ROW_NUMBER() OVER
            (PARTITION BY k, MOD(id, 50) ORDER BY t DESC) AS n FROM input) WHERE n = 1 GROUP BY MOD(ms, 97)",
        batch: "SELECT t % 97, COUNT(*), SUM(t), MIN(k) FROM (SELECT k, id % 50, MAX(t) AS t FROM input GROUP BY k, id % 50)
            GROUP BY t % 97",
    },
    Case {
        name: "of-a-filter",
        columns: "k STRING, b BIGINT, c BIGINT",
        updating: true,
        stream: "SELECT k, b, c FROM (SELECT k, MOD(id, 50) AS b, COUNT(*) AS c FROM input GROUP BY k, MOD(id, 50)) WHERE MOD(c, 3) = 0",
        batch: "SELECT k, id % 50, COUNT(*) FROM input GROUP BY k, id % 50 HAVING COUNT(*) % 3 = 0",
    },
    Case {
        name: "distinct-of-changes",
        columns: "c BIGINT",
        updating: true,
        stream: "SELECT DISTINCT c FROM (SELECT COUNT(*) AS c FROM input GROUP BY k, MOD(id, 50) UNION ALL
            SELECT MAX(v) FROM input GROUP BY MOD(id, 200))",
        batch: "SELECT DISTINCT c FROM (SELECT COUNT(*) AS c FROM input GROUP BY k, id % 50 UNION ALL
            SELECT MAX(v) FROM input GROUP BY id % 200)",
    },
    Case {
        name: "top",
        columns: "k STRING, id BIGINT, v BIGINT, n BIGINT",
        updating: true,
        stream: "SELECT k, id, v, n FROM (SELECT k, id, v, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v DESC, id) AS n FROM input
            WHERE v IS NOT NULL) WHERE n <= 7",
        batch: "SELECT k, id, v, n FROM (SELECT k, id, v, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v DESC, id) AS n FROM input
            WHERE v IS NOT NULL) WHERE n <= 7",
    },
    Case {
        name: "top-of-changes",
        columns: "c BIGINT, k STRING, b BIGINT, s BIGINT",
        updating: true,
        stream: "SELECT c, k, b, s FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY c ORDER BY s DESC, k, b) AS n FROM (
            SELECT k, MOD(id, 50) AS b, COUNT(*) AS c, SUM(id) AS s FROM input GROUP BY k, MOD(id, 50))) WHERE n <= 5",
        batch: "SELECT c, k, b, s FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY c ORDER BY s DESC, k, b) AS n FROM (
            SELECT k, id % 50 AS b, COUNT(*) AS c, SUM(id) AS s FROM input GROUP BY k, id % 50)) WHERE n <= 5",
    },
    Case {
        name: "cumulate",
        columns: "k STRING, we BIGINT, c BIGINT, s BIGINT, d BIGINT",
        updating: false,
        stream: "SELECT k, 1000 * UNIX_TIMESTAMP(DATE_FORMAT(window_end, 'yyyy-MM-dd HH:mm:ss')), COUNT(*), SUM(v), COUNT(DISTINCT v)
            FROM TABLE(CUMULATE(TABLE input, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '6' SECOND))
            GROUP BY k, window_start, window_end",
        batch: "SELECT k, we, COUNT(*), SUM(v), COUNT(DISTINCT v) FROM (
            SELECT k, v, t - t % 6000 + 2000 AS we FROM input WHERE late = 0 AND t % 6000 < 2000 UNION ALL
            SELECT k, v, t - t % 6000 + 4000 AS we FROM input WHERE late = 0 AND t % 6000 < 4000 UNION ALL
            SELECT k, v, t - t % 6000 + 6000 AS we FROM input WHERE late = 0) GROUP BY k, we",
    },
    Case {
        name: "session",
        columns: "k STRING, ws BIGINT, we BIGINT, c BIGINT, s BIGINT, d BIGINT",
        updating: false,
        stream: "SELECT k, 1000 * UNIX_TIMESTAMP(DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm:ss')), 1000 * UNIX_TIMESTAMP(DATE_FORMAT(window_end, 'yyyy-MM-dd HH:mm:ss')),
            COUNT(*), SUM(v), COUNT(DISTINCT v)
            FROM TABLE(SESSION(TABLE input PARTITION BY k, DESCRIPTOR(t), INTERVAL '1' SECOND))
            GROUP BY k, window_start, window_end",
        batch: "SELECT k, MIN(t) - MIN(t) % 1000, MAX(t) - MAX(t) % 1000 + 1000, COUNT(*), SUM(v), COUNT(DISTINCT v) FROM (
            SELECT k, v, t, SUM(begins) OVER (PARTITION BY k ORDER BY t, id) AS session FROM (
                SELECT id, k, v, t, CASE WHEN t - LAG(t) OVER (PARTITION BY k ORDER BY t, id) > 1000 THEN 1 ELSE 0 END AS begins
                FROM input WHERE late = 0)) GROUP BY k, session",
    },
    Case {
        name: "windows-of-windows",
        columns: "ws BIGINT, hi BIGINT, s BIGINT, c BIGINT",
        updating: false,
        stream: "SELECT 1000 * UNIX_TIMESTAMP(DATE_FORMAT(s, 'yyyy-MM-dd HH:mm:ss')), MAX(n), SUM(n), COUNT(*) FROM (
            SELECT k, COUNT(*) AS n, window_start AS s, window_end AS e
            FROM TABLE(HOP(TABLE input, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '6' SECOND))
            GROUP BY k, window_start, window_end) GROUP BY s, e",
        batch: "SELECT ws, MAX(n), SUM(n), COUNT(*) FROM (SELECT k, ws, COUNT(*) AS n FROM (
            SELECT k, t - t % 2000 AS ws FROM input WHERE late = 0 UNION ALL
            SELECT k, t - t % 2000 - 2000 AS ws FROM input WHERE late = 0 UNION ALL
            SELECT k, t - t % 2000 - 4000 AS ws FROM input WHERE late = 0) GROUP BY k, ws) GROUP BY ws",
    },
    Case {
        name: "over-range",
        columns: "id BIGINT, c BIGINT, hi BIGINT, s BIGINT",
        updating: false,
        stream: "SELECT id, COUNT(*) OVER w, MAX(v) OVER w, SUM(v) OVER (PARTITION BY k ORDER BY t) FROM input
            WINDOW w AS (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '2' SECOND PRECEDING AND CURRENT ROW)",
        batch: "SELECT id, COUNT(*) OVER w, MAX(v) OVER w, SUM(v) OVER (PARTITION BY k ORDER BY t) FROM input WHERE late = 0
            WINDOW w AS (PARTITION BY k ORDER BY t RANGE BETWEEN 2000 PRECEDING AND CURRENT ROW)",
    },
    Case {
        name: "grouping-sets",
        columns: "k STRING, b BIGINT, c BIGINT, s BIGINT, d BIGINT, g BIGINT, both BIGINT",
        updating: true,
        stream: "SELECT k, b, COUNT(*), SUM(v), COUNT(DISTINCT v), GROUPING(k), GROUPING_ID(k, b)
            FROM (SELECT k, MOD(id, 7) AS b, v FROM input) GROUP BY GROUPING SETS ((k, b), (b), ())",
        batch: "SELECT k, b, COUNT(*), SUM(v), COUNT(DISTINCT v), GROUPING(k), GROUPING(k, b)
            FROM (SELECT k, id % 7 AS b, v FROM input) GROUP BY GROUPING SETS ((k, b), (b), ())",
    },
    Case {
        name: "rollup-in-windows",
        columns: "k STRING, ws BIGINT, c BIGINT, s BIGINT",
        updating: false,
        stream: "SELECT k, 1000 * UNIX_TIMESTAMP(DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm:ss')), COUNT(*), SUM(v)
            FROM TABLE(TUMBLE(TABLE input, DESCRIPTOR(t), INTERVAL '5' SECOND)) GROUP BY window_start, window_end, ROLLUP (k)",
        batch: "SELECT k, ws, COUNT(*), SUM(v) FROM (SELECT k, t - t % 5000 AS ws, v FROM input WHERE late = 0)
            GROUP BY GROUPING SETS ((k, ws), (ws))",
    },
];

fn sql(case: &Case) -> String {
    format!(
        "CREATE TABLE input (id BIGINT, k STRING, v BIGINT, ms BIGINT, late BIGINT, t AS TO_TIMESTAMP_LTZ(ms, 3),
  WATERMARK FOR t AS t - INTERVAL '3' SECOND)
  WITH ('connector' = 'filesystem', 'path' = '{{folder}}/in', 'format' = 'csv', 'scan.rate-limit' = '{RATE}');
CREATE TABLE result ({}) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out', 'format' = 'json'{});
INSERT INTO result {};",
        case.columns,
        if case.updating { ", 'changelog' = 'true'" } else { "" },
        case.stream
    )
}

/// The rows that stand at the end: all of an append-only result, or what is left of a changelog.
fn final_table(job: &Job, case: &Case) -> BTreeMap<String, i64> {
    let names: Vec<&str> = case.columns.split(", ").filter_map(|column| column.split(' ').next()).collect();
    let mut table: BTreeMap<String, i64> = BTreeMap::new();
    for line in job.output() {
        let row: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
        let mut text = String::new();
        for name in &names {
            match row.get(*name) {
                None | Some(serde_json::Value::Null) => text.push_str("null,"),
                Some(serde_json::Value::String(value)) => write!(text, "{value},").unwrap(),
                Some(value) => write!(text, "{value},").unwrap(),
            }
        }
        let change = match row.get("op").and_then(serde_json::Value::as_str) {
            None | Some("+I" | "+U") => 1,
            Some("-U" | "-D") => -1,
            Some(other) => panic!("op {other}"),
        };
        *table.entry(text).or_default() += change;
    }
    table.retain(|_, count| *count != 0);
    table
}

async fn answer(rows: &[Row], case: &Case) -> BTreeMap<String, i64> {
    let ints =
        |value: fn(&Row) -> i64| Arc::new(rows.iter().map(|row| Some(value(row))).collect::<Int64Array>()) as ArrayRef;
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("k", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("t", DataType::Int64, true),
        Field::new("late", DataType::Int64, true),
    ]);
    let columns = vec![
        ints(|row| row.id),
        Arc::new(rows.iter().map(|row| Some(row.k.as_str())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
        ints(|row| row.t),
        ints(|row| row.late),
    ];
    let context = SessionContext::new();
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    context.register_batch("input", batch).unwrap();
    let result = context.sql(case.batch).await.unwrap().collect().await.unwrap();
    let mut table = BTreeMap::new();
    let options = FormatOptions::default().with_null("null");
    for batch in result {
        let formatters: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let text: String = formatters.iter().map(|column| format!("{},", column.value(row))).collect();
            *table.entry(text).or_default() += 1;
        }
    }
    table
}

/// Runs the job and disturbs it: kills a worker, or stops it and goes on with another number of workers and slots.
fn run_disturbed(job: &Job, random: &mut StdRng) {
    let mut weir = job.start(&[]);
    for _ in 0..random.random_range(1..4) {
        let seen = job.newest_id();
        let wanted = seen + random.random_range(1..4);
        if !or_ended(&mut weir, || job.newest_id() >= wanted) {
            break;
        }
        if random.random_range(0..3) < 2 {
            let workers = weir.workers();
            if !workers.is_empty() {
                weir.kill_worker(workers[random.random_range(0..workers.len())]);
            }
        } else {
            weir.interrupt();
            weir.succeed();
            let (workers, slots) = (random.random_range(1..4).to_string(), random.random_range(1..3).to_string());
            println!("  goes on with {workers} workers of {slots} slots");
            weir = job.start(&["--workers", &workers, "--slots", &slots]);
        }
    }
    weir.succeed();
}

/// Waits for a condition or the job's end; true if the condition came first.
fn or_ended(weir: &mut Weir, mut condition: impl FnMut() -> bool) -> bool {
    loop {
        if condition() {
            return true;
        }
        if weir.has_ended() {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn check(name: &str, backend: &'static str) {
    let mut random = seeded(name);
    let case = CASES.iter().find(|case| case.name == name).expect("the case is in the table");
    let rows = rows(&mut random);
    let settings = Settings { interval: "150ms", backend, ..Settings::default() };
    let job = Job::new(name, &settings, &sql(case));
    fs::create_dir(job.path().join("in")).unwrap();
    let mut text = String::new();
    for row in &rows {
        let v = row.v.map(|v| v.to_string()).unwrap_or_default();
        writeln!(text, "{},{},{v},{},{}", row.id, row.k, row.t, row.late).unwrap();
    }
    fs::write(job.path().join("in/rows.csv"), text).unwrap();
    run_disturbed(&job, &mut random);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (expected, actual) = (runtime.block_on(answer(&rows, case)), final_table(&job, case));
    let missing: Vec<_> = expected.iter().filter(|(row, count)| actual.get(*row) != Some(count)).take(5).collect();
    let surplus: Vec<_> = actual.iter().filter(|(row, count)| expected.get(*row) != Some(count)).take(5).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{name}: {} rows expected, {} found; of the expected, missing: {missing:?}; surplus: {surplus:?}",
        expected.len(),
        actual.len()
    );
}

#[test]
fn a_filter_and_a_projection_agree_with_the_batch() {
    check("filter", "rocksdb");
}

#[test]
fn several_queries_of_one_table_agree_with_the_batch() {
    check("union-all", "rocksdb");
}

#[test]
fn distinct_rows_of_several_queries_agree_with_the_batch() {
    check("union", "rocksdb");
}

#[test]
fn windows_over_several_queries_agree_with_the_batch() {
    check("union-windows", "rocksdb");
}

#[test]
fn a_table_joined_with_itself_agrees_with_the_batch() {
    check("inner-join", "rocksdb");
}

#[test]
fn rows_without_a_partner_agree_with_the_batch() {
    check("full-join", "rocksdb");
}

#[test]
fn a_join_of_rows_that_change_agrees_with_the_batch() {
    check("join-of-counts", "rocksdb");
}

#[test]
fn keyed_aggregates_agree_with_the_batch() {
    check("keyed", "rocksdb");
}

#[test]
fn keyed_aggregates_in_memory_agree_with_the_batch() {
    check("keyed", "filesystem");
}

#[test]
fn global_aggregates_agree_with_the_batch() {
    check("global", "jobmanager");
}

#[test]
fn tumbling_windows_agree_with_the_batch() {
    check("tumble", "rocksdb");
}

#[test]
fn hopping_windows_agree_with_the_batch() {
    check("hop", "rocksdb");
}

#[test]
fn the_last_row_of_a_key_agrees_with_the_batch() {
    check("last", "rocksdb");
}

#[test]
fn the_first_row_of_a_key_agrees_with_the_batch() {
    check("first", "rocksdb");
}

#[test]
fn aggregates_of_aggregates_agree_with_the_batch() {
    check("of-aggregates", "rocksdb");
}

#[test]
fn aggregates_of_last_rows_agree_with_the_batch() {
    check("of-last", "rocksdb");
}

#[test]
fn a_filter_on_what_changes_agrees_with_the_batch() {
    check("of-a-filter", "rocksdb");
}

#[test]
fn distinct_rows_of_what_changes_agree_with_the_batch() {
    check("distinct-of-changes", "filesystem");
}

#[test]
fn the_first_rows_of_a_key_agree_with_the_batch() {
    check("top", "rocksdb");
}

#[test]
fn the_first_rows_of_what_changes_agree_with_the_batch() {
    check("top-of-changes", "rocksdb");
}

#[test]
fn cumulating_windows_agree_with_the_batch() {
    check("cumulate", "rocksdb");
}

#[test]
fn sessions_agree_with_the_batch() {
    check("session", "rocksdb");
}

#[test]
fn windows_over_windows_agree_with_the_batch() {
    check("windows-of-windows", "rocksdb");
}

#[test]
fn aggregates_over_the_last_seconds_agree_with_the_batch() {
    check("over-range", "rocksdb");
}

#[test]
fn grouping_sets_agree_with_the_batch() {
    check("grouping-sets", "rocksdb");
}

#[test]
fn a_rollup_in_windows_agrees_with_the_batch() {
    check("rollup-in-windows", "rocksdb");
}
