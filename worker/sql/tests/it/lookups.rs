//! Rows beside those of a table that is looked up in: what is planned, what is refused, and what comes out.

use std::collections::BTreeMap;

use crate::run::{Pieces, Way, run, script, table};
use weir_connectors::ConnectorRegistry;
use weir_engine::JobGraph;
use weir_sql::{Catalog, PlanError, PlanRequest, explain, plan};

const TABLES: &str = "\
CREATE TABLE bid (auction BIGINT, price BIGINT, t TIMESTAMP(3), p AS PROCTIME(), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'datagen');
CREATE TABLE side (id BIGINT, name STRING) WITH ('connector' = 'filesystem', 'path' = 'side', 'format' = 'csv');
CREATE TABLE again (id BIGINT, name STRING) WITH ('connector' = 'filesystem', 'path' = 'side', 'format' = 'csv',
  'lookup.cache' = 'FULL', 'lookup.full-cache.periodic-reload.interval' = '10 min');
CREATE TABLE endless (id BIGINT, name STRING) WITH ('connector' = 'datagen');
CREATE VIEW sides AS SELECT * FROM side;
CREATE TABLE out2 (a BIGINT, b STRING) WITH ('connector' = 'blackhole');
";

fn planned(script: &str) -> Result<JobGraph, PlanError> {
    let request = PlanRequest { script: script.to_string(), base_dir: ".".to_string(), max_parallelism: 128 };
    plan(&request, &Catalog::new(ConnectorRegistry::with_builtin()))
}

#[track_caller]
fn operators(text: &str) -> Vec<String> {
    let graph = planned(&format!("{TABLES}{text}")).unwrap_or_else(|error| panic!("{text}\n{error}"));
    assert!(graph.warnings.is_empty(), "{:?}", graph.warnings);
    let plan = explain(&graph);
    plan.stages.iter().flat_map(|stage| &stage.operators).map(|operator| operator.name.clone()).collect()
}

#[test]
fn a_look_up_stands_in_the_stage_of_its_rows_and_keeps_nothing() {
    for (join, table, name) in [
        ("JOIN", "side", "LookupJoin(side: auction = id)"),
        ("LEFT JOIN", "again", "LookupJoin(again: auction = id, read again every 10m)"),
    ] {
        let all = operators(&format!(
            "INSERT INTO out2 SELECT price, s.name FROM bid {join} {table} FOR SYSTEM_TIME AS OF bid.p AS s ON bid.auction = s.id"
        ));
        assert!(all.contains(&name.to_string()), "{all:#?}");
    }
    // As Nexmark has it: by an expression, with a view of the rows.
    let all = operators(
        "INSERT INTO out2 SELECT b.price, s.name FROM (SELECT *, PROCTIME() AS q FROM bid) b
         JOIN side FOR SYSTEM_TIME AS OF b.q AS s ON MOD(b.auction, 10000) = s.id AND s.name <> 'x' AND b.price > s.id",
    );
    assert!(all.iter().any(|name| name.starts_with("LookupJoin(side: ")), "{all:#?}");
}

#[test]
fn times_go_on_behind_a_look_up() {
    let all = operators(
        "CREATE VIEW named AS SELECT b.t, b.price, s.name FROM bid b JOIN side FOR SYSTEM_TIME AS OF b.p AS s ON b.auction = s.id;
         INSERT INTO out2 SELECT SUM(price), name FROM TABLE(TUMBLE(TABLE named, DESCRIPTOR(t), INTERVAL '1' MINUTE))
         GROUP BY name, window_start, window_end",
    );
    assert!(all.iter().any(|name| name.starts_with("WindowAggregate(")), "{all:#?}");
}

#[test]
fn what_cannot_be_looked_up_is_refused() {
    let insert = "INSERT INTO out2 SELECT b.price, s.name FROM";
    for (query, message, remedy) in [
        ("bid b JOIN side FOR SYSTEM_TIME AS OF b.t AS s ON b.auction = s.id", "which is event time", "PROCTIME()"),
        ("bid b JOIN side FOR SYSTEM_TIME AS OF b.price AS s ON b.auction = s.id", "no time attribute", "PROCTIME()"),
        ("bid b JOIN side FOR SYSTEM_TIME AS OF b.nix AS s ON b.auction = s.id", "no column", "before"),
        ("bid b JOIN side FOR SYSTEM_TIME AS OF PROCTIME() AS s ON b.auction = s.id", "takes a column", "AS OF a.p"),
        ("bid b JOIN sides FOR SYSTEM_TIME AS OF b.p AS s ON b.auction = s.id", "is a view", "name the table"),
        ("bid b JOIN nix FOR SYSTEM_TIME AS OF b.p AS s ON b.auction = s.id", "there is no table nix", ""),
        ("bid b JOIN endless FOR SYSTEM_TIME AS OF b.p AS s ON b.auction = s.id", "cannot look rows up", "filesystem"),
        ("bid b JOIN side FOR SYSTEM_TIME AS OF b.p AS s ON b.auction > s.id", "compared with =", "a.x = b.y"),
        ("bid b RIGHT JOIN side FOR SYSTEM_TIME AS OF b.p AS s ON b.auction = s.id", "no other join", "LEFT JOIN"),
    ] {
        let Err(error) = planned(&format!("{TABLES}{insert} {query}")) else { panic!("{query} is planned") };
        assert!(error.message.contains(message) && error.remedy.contains(remedy), "{query}: {error}");
        assert!(error.line.is_some() || message.starts_with("there is no"), "{query}: {error}");
    }
    let changing = planned(&format!(
        "{TABLES} INSERT INTO out2 SELECT b.n, s.name FROM (SELECT auction, n, PROCTIME() AS p FROM (SELECT auction, COUNT(*) AS n
         FROM bid GROUP BY auction)) b JOIN side FOR SYSTEM_TIME AS OF b.p AS s ON b.auction = s.id"
    ));
    let Err(error) = changing else { panic!("is planned") };
    assert!(error.message.contains("rows that change") || error.message.contains("the clock gives"), "{error}");
    let alone = planned(&format!("{TABLES} INSERT INTO out2 SELECT id, name FROM side FOR SYSTEM_TIME AS OF id"));
    let Err(error) = alone else { panic!("is planned") };
    assert!(error.message.contains("on the right of a JOIN"), "{error}");
}

#[test]
fn rows_find_what_files_have_with_checkpoints_and_other_numbers_of_subtasks_between_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("one.csv"), "1,one\n2,two\n2,zwei\n4,four\n").unwrap();
    std::fs::write(folder.path().join("two.csv"), "3,three\n,none\n5,x\n").unwrap();
    let text = |join: &str| {
        format!(
            "CREATE TABLE t (k BIGINT, v BIGINT, p AS PROCTIME()) WITH ('connector' = 'values');
             CREATE TABLE side (id BIGINT, name STRING) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'csv');
             CREATE TABLE result (k BIGINT, v BIGINT, name STRING) WITH ('connector' = 'values');
             INSERT INTO result SELECT t.k, t.v, s.name FROM t {join} side FOR SYSTEM_TIME AS OF t.p AS s
             ON MOD(t.k, 10) = s.id AND s.name <> 'x'",
            folder.path().display()
        )
    };
    let rows: Vec<Vec<Option<String>>> =
        [(Some(1), 1), (Some(12), 2), (Some(3), 3), (None, 4), (Some(5), 5), (Some(24), 6)]
            .into_iter()
            .map(|(k, v): (Option<i64>, i64)| vec![k.map(|k| k.to_string()), Some(v.to_string())])
            .collect();
    let rows = BTreeMap::from([("t".to_string(), rows)]);
    let inner = ["1 1 one", "12 2 two", "12 2 zwei", "24 6 four", "3 3 three"];
    let left = ["- 4 -", "1 1 one", "12 2 two", "12 2 zwei", "24 6 four", "3 3 three", "5 5 -"];
    for (join, expected) in [("JOIN", &inner[..]), ("LEFT JOIN", &left[..])] {
        let planned = script(&text(join)).unwrap();
        for seed in 0..12 {
            let pieces = if seed % 3 == 0 { Pieces::Whole } else { Pieces::Few };
            let out = run(&planned, &rows, Way { seed, pieces });
            let found: Vec<String> = table(&out["result"]).into_keys().map(|row| row.join(" ")).collect();
            assert_eq!(found, expected, "{join} {seed}");
        }
    }
}
