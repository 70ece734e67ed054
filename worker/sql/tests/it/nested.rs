//! ROW, ARRAY and MAP through state: kept, taken back, put out again, with checkpoints, restores and other numbers of subtasks between.

use std::collections::BTreeMap;

use crate::run::{Pieces, Texts, Way, run, script, table};
use crate::support::planned;

/// Columns `k, n, s` of `t` and `k, m` of `u`; the sink has `columns`.
fn declared(columns: &str) -> String {
    format!(
        "CREATE TABLE t (k STRING, n BIGINT, s STRING) WITH ('connector' = 'values');
         CREATE TABLE u (k STRING, m BIGINT) WITH ('connector' = 'values');
         CREATE TABLE sink ({columns}) WITH ('connector' = 'values');
         CREATE VIEW v AS SELECT k, n,
           CAST(ROW(n, ROW(s, ARRAY[s, k])) AS ROW<n BIGINT, inner_row ROW<s STRING, l ARRAY<STRING>>>) AS r,
           ARRAY[n, n + 1, CAST(NULL AS BIGINT)] AS l, MAP['s', s, 'k', k] AS m FROM t;\n"
    )
}

fn rows() -> BTreeMap<String, Texts> {
    let texts = |rows: &[&[&str]]| -> Texts {
        let cell = |cell: &&str| (*cell != "NULL").then(|| (*cell).to_string());
        rows.iter().map(|row| row.iter().map(cell).collect()).collect()
    };
    let t: &[&[&str]] = &[
        &["a", "1", "one"],
        &["b", "2", "NULL"],
        &["a", "3", "three"],
        &["c", "NULL", "x"],
        &["b", "5", "ü"],
        &["a", "1", "one"],
        &["c", "7", ""],
        &["b", "6", "six"],
    ];
    let u: &[&[&str]] = &[&["a", "10"], &["b", "20"], &["a", "30"], &["d", "40"]];
    BTreeMap::from([("t".to_string(), texts(t)), ("u".to_string(), texts(u))])
}

/// The rows that the sink comes to, whatever lies between batches.
#[track_caller]
fn comes_to(columns: &str, query: &str, expected: &[&[&str]]) {
    let text = format!("{}INSERT INTO sink {query};", declared(columns));
    let script = script(&text).unwrap_or_else(|error| panic!("{query}: {error}"));
    let read: BTreeMap<String, Texts> =
        rows().into_iter().filter(|(name, _)| query.contains(name) || name == "t").collect();
    let mut wanted: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for row in expected {
        *wanted.entry(row.iter().map(ToString::to_string).collect()).or_default() += 1;
    }
    for seed in 0..24 {
        let pieces = [Pieces::Whole, Pieces::InOrder, Pieces::Few][seed as usize % 3];
        let found = run(&script, &read, Way { seed, pieces });
        assert_eq!(table(&found["sink"]), wanted, "{query}, seed {seed}");
    }
}

#[test]
fn joins_keep_what_holds_values() {
    comes_to(
        "k STRING, r STRING, s STRING, e STRING, l BIGINT, m STRING, n BIGINT",
        "SELECT v.k, CAST(v.r AS STRING), v.r.inner_row.s, v.r.inner_row.l[2], v.l[2], v.m['s'], CARDINALITY(v.l) + u.m \
         FROM v JOIN u ON v.k = u.k WHERE v.n <> 1",
        &[
            &["a", "(3, (three, [three, a]))", "three", "a", "4", "three", "13"],
            &["a", "(3, (three, [three, a]))", "three", "a", "4", "three", "33"],
            &["b", "(2, (NULL, [NULL, b]))", "-", "b", "3", "-", "23"],
            &["b", "(5, (ü, [ü, b]))", "ü", "b", "6", "ü", "23"],
            &["b", "(6, (six, [six, b]))", "six", "b", "7", "six", "23"],
        ],
    );
}

#[test]
fn outer_joins_take_back_what_holds_values() {
    comes_to(
        "k STRING, r STRING, l STRING, m STRING, n BIGINT",
        "SELECT v.k, CAST(v.r AS STRING), CAST(v.l AS STRING), CAST(v.m AS STRING), u.m \
         FROM v LEFT JOIN u ON v.k = u.k AND u.m > 15 WHERE v.n IN (1, 6, 7)",
        &[
            &["a", "(1, (one, [one, a]))", "[1, 2, NULL]", "{k=a, s=one}", "30"],
            &["a", "(1, (one, [one, a]))", "[1, 2, NULL]", "{k=a, s=one}", "30"],
            &["b", "(6, (six, [six, b]))", "[6, 7, NULL]", "{k=b, s=six}", "20"],
            &["c", "(7, (, [, c]))", "[7, 8, NULL]", "{k=c, s=}", "-"],
        ],
    );
}

#[test]
fn the_first_rows_of_a_key_keep_what_holds_values() {
    comes_to(
        "k STRING, r STRING, m STRING",
        "SELECT k, CAST(r AS STRING), m['s'] FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY n DESC) AS i FROM v) \
         WHERE i <= 1",
        &[
            &["a", "(3, (three, [three, a]))", "three"],
            &["b", "(6, (six, [six, b]))", "six"],
            &["c", "(7, (, [, c]))", ""],
        ],
    );
}

#[test]
fn what_holds_values_goes_into_sinks_by_position() {
    comes_to(
        "r ROW<a DOUBLE, b ROW<c STRING, d ARRAY<STRING>>>, l ARRAY<DECIMAL(10, 1)>, m MAP<STRING, STRING>",
        "SELECT r, l, m FROM v WHERE n = ELEMENT(ARRAY[7]) AND CARDINALITY(m) = 2",
        &[&["{a: 7.0, b: {c: , d: [, c]}}", "[7.0, 8.0, -]", "{k: c, s: }"]],
    );
}

#[test]
fn what_a_type_cannot_do_is_told_with_its_place() {
    for (query, message) in [
        ("SELECT COUNT(*) FROM v GROUP BY m", "m"),
        ("SELECT COUNT(DISTINCT r) FROM v", "r"),
        ("SELECT n FROM v WHERE l > l", "does not take ARRAY<BIGINT>"),
        ("SELECT n FROM v WHERE m['s'] = l", "does not take STRING and ARRAY<BIGINT>"),
        ("SELECT n FROM v WHERE l = l", "compare what they hold"),
        ("SELECT TRY_CAST(l AS ARRAY<INT>) FROM v", "TRY_CAST from ARRAY<BIGINT> to ARRAY<INT> is not supported"),
        ("SELECT CAST(l AS BIGINT) FROM v", "CAST from ARRAY<BIGINT> to BIGINT is not supported"),
        ("SELECT CAST(n AS ARRAY<BIGINT>) FROM v", "CAST from BIGINT to ARRAY<BIGINT> is not supported"),
        ("SELECT l['a'] FROM v", "an ARRAY and a number from 1 on"),
        ("SELECT m[1] FROM v", "a MAP and a key"),
        ("SELECT MAP[1] FROM v", "a key and a value for each entry"),
        ("SELECT ARRAY[1, 'a'] FROM v", "values of one type"),
        ("SELECT CAST(l AS ARRAY<VARCHAR(2)>) FROM v", "of a length is not supported"),
        ("SELECT CAST(l AS MULTISET<INT>) FROM v", "MULTISET are not supported"),
        ("SELECT r.nothing FROM v", "nothing"),
    ] {
        let text = format!("{}INSERT INTO sink {query};", declared("x BIGINT")).replace("'values'", "'test'");
        let error = planned(&text).err().unwrap_or_else(|| panic!("{query} is planned"));
        assert!(error.message.contains(message) || error.remedy.contains(message), "{query}: {error}");
        assert!(error.place().is_known(), "{query}: {error}");
    }
    for (columns, message) in [
        ("a ROW<b MULTISET<INT>>", "MULTISET"),
        ("a RAW('x', 'y')", "RAW"),
        ("a MAP<STRING>", "expected ','"),
        ("a ARRAY<INT", "expected '>'"),
    ] {
        let error = planned(&format!("CREATE TABLE x ({columns}) WITH ('connector' = 'test');")).err().unwrap();
        assert!(error.message.contains(message) && error.place().is_known(), "{columns}: {error}");
    }
    let deep = format!("CREATE TABLE x (a {}INT{}) WITH ('connector' = 'test');", "ARRAY<".repeat(40), ">".repeat(40));
    assert!(planned(&deep).err().unwrap().message.contains("within 32 others"));
}
