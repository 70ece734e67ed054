//! What is too large is refused with its place before it costs anything, and what is large plans.

use weir_sql::PlanError;

use crate::support::planned;

const TABLES: &str = "\
CREATE TABLE t (a BIGINT, s STRING, b BOOLEAN) WITH ('connector' = 'test');
CREATE TABLE o (a BIGINT, n BIGINT) WITH ('connector' = 'test');
CREATE TABLE texts (s STRING) WITH ('connector' = 'test');
";

fn script(text: &str) -> String {
    format!("{TABLES}{text}")
}

/// The error, which has a place below the tables and a remedy.
#[track_caller]
fn refused(text: &str) -> PlanError {
    let error = planned(&script(text)).err().unwrap_or_else(|| panic!("{} … is planned", &text[..text.len().min(80)]));
    assert!(error.line.is_some_and(|line| line > 3) && error.column.is_some(), "{error}");
    assert!(!error.remedy.is_empty(), "{error}");
    error
}

/// `views` views, each `SELECT <step> AS a FROM` the one before it, and an INSERT from the last.
fn views(views: usize, step: &str, end: &str) -> String {
    let mut text = "CREATE VIEW v0 AS SELECT a, b FROM t;\n".to_string();
    for view in 1..=views {
        text += &[
            "CREATE VIEW v",
            &view.to_string(),
            " AS SELECT ",
            step,
            " AS a, b FROM v",
            &(view - 1).to_string(),
            ";\n",
        ]
        .concat();
    }
    text + &format!("INSERT INTO o SELECT a, 1 FROM v{views}{end}")
}

#[test]
fn two_thousand_terms_plan() {
    for text in [
        format!("INSERT INTO o SELECT a{}, 1 FROM t", " + a".repeat(1_400)),
        format!("INSERT INTO o SELECT a, 1 FROM t WHERE a = 0{}", " OR a = 1 AND b".repeat(1_400)),
        format!("INSERT INTO texts SELECT s{} FROM t", " || s".repeat(1_400)),
        format!("INSERT INTO o SELECT a, 1 FROM t WHERE a IN ({}1)", "7, ".repeat(20_000)),
    ] {
        planned(&script(&text)).unwrap_or_else(|error| panic!("{}: {error}", &text[..60]));
    }
}

#[test]
fn a_chain_that_is_too_deep_is_refused_with_its_place() {
    let error = refused(&format!("INSERT INTO o\nSELECT a{}, 1 FROM t", " + a".repeat(5_000)));
    assert_eq!((error.line, error.column), (Some(5), Some(8)));
    assert!(error.message.contains("1500 levels deep"), "{error}");
    refused(&format!("INSERT INTO o SELECT a, 1 FROM t WHERE a = 0{}", " OR a = 1".repeat(5_000)));
    refused(&format!("INSERT INTO o SELECT a, 1 FROM t WHERE a = 0{}", " OR a = 1".repeat(50_000)));
    refused(&format!("CREATE TABLE c (a BIGINT, b AS a{}) WITH ('connector' = 'test')", " + a".repeat(5_000)));
    refused(&format!("INSERT INTO o SELECT a, 1 FROM t WHERE {}b", "NOT ".repeat(5_000)));
    refused(&format!("INSERT INTO o SELECT a, 1 FROM t WHERE {}b{}", "(".repeat(60), ")".repeat(60)));
    refused(&format!("INSERT INTO o {}", "SELECT a, 1 FROM t UNION ALL ".repeat(20_000)));
}

#[test]
fn views_that_double_at_each_step_are_refused_where_that_becomes_too_much() {
    for end in ["", " WHERE a > 0", " GROUP BY a"] {
        planned(&script(&views(12, "a + a", end))).unwrap_or_else(|error| panic!("{end}: {error}"));
        let error = refused(&views(40, "a + a", end));
        assert!(error.message.contains("131071 parts, and 100000 are the most"), "{error}");
        assert_eq!(error.line, Some(20), "the view that is too much");
        refused(&views(11, "CASE WHEN a > 1 THEN a WHEN a < 2 THEN a ELSE a END", end));
    }
}

#[test]
fn views_that_add_a_level_at_each_step_are_as_deep_as_one_expression() {
    planned(&script(&views(100, "a + 1", " WHERE a > 0"))).unwrap_or_else(|error| panic!("{error}"));
    let step = format!("a{}", " + 1".repeat(400));
    let error = refused(&views(20, &step, " WHERE a > 0"));
    assert!(error.message.contains("levels, and 1500 are the most"), "{error}");
}

#[test]
fn a_query_of_very_many_steps_is_refused() {
    let error = refused(&views(1_200, "a", ""));
    assert!(error.message.contains("1000 steps"), "{error}");
    let mut ctes = "INSERT INTO o WITH c0 AS (SELECT a FROM t)".to_string();
    (1..500).for_each(|n| ctes += &[", c", &n.to_string(), " AS (SELECT a FROM c", &(n - 1).to_string(), ")"].concat());
    refused(&format!("{ctes} SELECT a, 1 FROM c499"));
}

#[test]
fn what_is_wide_or_nested_without_bound_is_refused() {
    refused(&format!("INSERT INTO o SELECT {}1 FROM t", "a, ".repeat(60_000)));
    refused(&format!(
        "CREATE TABLE deep (a {}INT{}) WITH ('connector' = 'test')",
        "ROW<b INT, a ".repeat(40),
        ">".repeat(40)
    ));
    let error = planned(&" ".repeat(2 << 20)).err().expect("two megabytes are refused");
    assert!(error.message.contains("bytes"), "{error}");
    // The same name very many times is numbered, and that is not quadratic in what it costs.
    let error = refused(&format!("INSERT INTO o SELECT {}a FROM t", "a, ".repeat(5_000)));
    assert!(error.message.contains("the query gives 5001 columns"), "{error}");
}
