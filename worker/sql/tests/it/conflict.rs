//! Rows of several upsert keys under one primary key: what `ON CONFLICT DO DEDUPLICATE` leaves in the table, against a model over the
//! same changes.

use std::collections::BTreeMap;

use weir_engine::RowKind;

use crate::run::{Pieces, Texts, Way, run, script, table_by_key};

const ROWS: i64 = 60;

/// `k` from 0 to 6 and `v`, from a fixed walk.
fn rows() -> Texts {
    let row = |n: i64| vec![Some((n * n % 7).to_string()), Some((n * 5 % 11).to_string())];
    (0..ROWS).map(row).collect()
}

/// The query into a table with every change, and into one that is written by its first column.
fn text(query: &str) -> String {
    format!(
        "SET 'weir.projection-pushdown' = 'false'; SET 'weir.local-aggregation' = 'false';
         CREATE TABLE t (k BIGINT, v BIGINT) WITH ('connector' = 'values');
         CREATE TABLE changes (a BIGINT, b BIGINT) WITH ('connector' = 'values');
         CREATE TABLE by_a (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'values', 'changelog' = 'upsert');
         INSERT INTO changes {query};
         INSERT INTO by_a {query} ON CONFLICT DO DEDUPLICATE;"
    )
}

/// The rows of each key that are there, in the order in which they came; of equal ones the first is taken back.
fn model(changes: &[(RowKind, Vec<String>)]) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut rows: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for (kind, row) in changes {
        let of_key = rows.entry(row[0].clone()).or_default();
        if kind.is_addition() {
            of_key.push(row.clone());
        } else {
            of_key.remove(of_key.iter().position(|of| of == row).unwrap());
        }
    }
    rows.retain(|_, of_key| !of_key.is_empty());
    rows
}

#[test]
fn of_the_rows_of_one_primary_key_the_last_stands_and_the_one_before_it_when_it_goes() {
    let queries = [
        "SELECT COUNT(*), k FROM t GROUP BY k",
        "SELECT n, m FROM (SELECT k, COUNT(*) AS n, MAX(v) AS m FROM t GROUP BY k) WHERE m > 3",
        "SELECT MOD(s, 5), n FROM (SELECT v, SUM(k) AS s, COUNT(*) AS n FROM t GROUP BY v)",
        "SELECT CAST(k AS BIGINT), v FROM (SELECT k, v, ROW_NUMBER() OVER (PARTITION BY v ORDER BY k) AS r FROM t) WHERE r <= 2",
    ];
    for query in queries {
        let planned = script(&text(query)).unwrap_or_else(|error| panic!("{query}\n{error}"));
        let rows = BTreeMap::from([("t".to_string(), rows())]);
        for seed in 0..4 {
            // The same order on both ways: the last is the last.
            let out = run(&planned, &rows, Way { seed, pieces: Pieces::InOrder });
            let expected = model(&out["changes"]);
            let last = expected.values().map(|rows| (rows.last().unwrap().clone(), 1)).collect();
            assert_eq!(table_by_key(&out["by_a"], &[0]), last, "{query} in order, {seed}");
            // In any order: one of those that are there, for each key that has any.
            let out = run(&planned, &rows, Way { seed, pieces: Pieces::Few });
            let expected = model(&out["changes"]);
            let found = table_by_key(&out["by_a"], &[0]);
            assert_eq!(found.len(), expected.len(), "{query}, {seed}");
            for row in found.keys() {
                assert!(expected[&row[0]].contains(row), "{query}: {row:?} is not of {:?}", expected[&row[0]]);
            }
        }
    }
}
