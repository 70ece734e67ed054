//! What rows do on their way to a sink, what sinks are given of it, and what they refuse.

use crate::support::planned;
use weir_engine::JobGraph;
use weir_sql::{PlanError, explain};

const TABLES: &str = "\
CREATE TABLE bid (auction BIGINT, bidder INT, price BIGINT, channel STRING, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE TABLE clock (k BIGINT, p AS PROCTIME()) WITH ('connector' = 'test');
CREATE TABLE plain (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE by_a (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'test', 'changelog' = 'upsert');
CREATE TABLE by_both (a BIGINT, b BIGINT, PRIMARY KEY (a, b) NOT ENFORCED) WITH ('connector' = 'test', 'changelog' = 'upsert');
CREATE TABLE final (a BIGINT, b BIGINT) WITH ('connector' = 'test', 'changelog' = 'false');
";

fn plan(script: &str) -> Result<JobGraph, PlanError> {
    planned(&format!("{TABLES}{script}"))
}

/// What leaves the last stage: what the rows do, and by which key.
#[track_caller]
fn gives(script: &str) -> String {
    let graph = plan(script).unwrap_or_else(|error| panic!("{script}\n{error}"));
    let plan = explain(&graph);
    let [last] = plan.stages.last().unwrap().changelog.as_slice() else { panic!("{script}: one output") };
    match &last.key {
        Some(key) => format!("{} by ({})", last.rows, key.join(", ")),
        None => last.rows.clone(),
    }
}

#[test]
fn each_operator_says_what_its_rows_do_and_by_which_key() {
    let counts = "SELECT auction, COUNT(*) AS n FROM bid GROUP BY auction";
    let cases = [
        ("INSERT INTO plain SELECT auction, price FROM bid".to_string(), "+I"),
        (format!("INSERT INTO plain {counts}"), "+I -U +U by (a)"),
        (format!("INSERT INTO plain SELECT n, auction FROM ({counts})"), "+I -U +U by (b)"),
        (format!("INSERT INTO plain SELECT n, n FROM ({counts})"), "+I -U +U"),
        (format!("INSERT INTO plain SELECT auction, n FROM ({counts}) WHERE n > 3"), "+I -U +U -D by (a)"),
        // A condition on the key is one on all rows of a key: it is below the aggregation.
        (format!("INSERT INTO plain SELECT auction, n FROM ({counts}) WHERE auction > 3"), "+I -U +U by (a)"),
        ("INSERT INTO plain SELECT COUNT(*), MAX(price) FROM bid".to_string(), "+I -U +U by ()"),
        ("INSERT INTO plain SELECT DISTINCT auction, price FROM bid".to_string(), "+I"),
        (
            "INSERT INTO plain SELECT auction, COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE))
             GROUP BY auction, window_start, window_end"
                .to_string(),
            "+I",
        ),
        (
            "INSERT INTO plain SELECT auction, price FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY t DESC)
             AS n FROM bid) WHERE n = 1"
                .to_string(),
            "+I -U +U by (a)",
        ),
        (
            "INSERT INTO plain SELECT k, k FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY p) AS n FROM clock)
             WHERE n = 1"
                .to_string(),
            "+I",
        ),
        ("INSERT INTO plain SELECT bidder, COUNT(*) FROM bid GROUP BY bidder".to_string(), "+I -U +U by (a)"),
    ];
    for (script, expected) in cases {
        assert_eq!(gives(&script), expected, "{script}");
    }
}

#[test]
fn aggregations_over_rows_that_change_have_groups_that_go() {
    let counts = "SELECT auction, COUNT(*) AS n FROM bid GROUP BY auction";
    let newest = "SELECT auction, price FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY t DESC) AS n FROM bid) WHERE n = 1";
    let cases = [
        (format!("SELECT n, COUNT(*) FROM ({counts}) GROUP BY n"), "+I -U +U -D by (a)"),
        (format!("SELECT price, COUNT(*) FROM ({newest}) GROUP BY price"), "+I -U +U -D by (a)"),
        (format!("SELECT COUNT(*), MAX(n) FROM ({counts})"), "+I -U +U -D by ()"),
        (format!("SELECT DISTINCT n, n FROM ({counts})"), "+I -D by (a, b)"),
        (
            format!("SELECT n, COUNT(*) FROM ({counts} UNION ALL SELECT price, auction FROM bid) GROUP BY n"),
            "+I -U +U -D by (a)",
        ),
        (
            format!("SELECT m, COUNT(*) FROM (SELECT n, COUNT(*) AS m FROM ({counts}) GROUP BY n) GROUP BY m"),
            "+I -U +U -D by (a)",
        ),
        (format!("{counts} UNION ALL {newest}"), "+I -U +U"),
    ];
    for (query, expected) in cases {
        let graph = plan(&format!("INSERT INTO plain {query}")).unwrap_or_else(|error| panic!("{query}\n{error}"));
        let plan = explain(&graph);
        // Rows of several queries meet before a sink in a stage of its own.
        let notes = plan.stages.iter().rev().find_map(|stage| stage.changelog.first()).unwrap();
        let key = notes.key.as_ref().map_or_else(String::new, |key| format!(" by ({})", key.join(", ")));
        assert_eq!(format!("{}{key}", notes.rows), expected, "{query}");
    }
}

#[test]
fn first_rows_replace_each_other_by_their_number_and_else_come_and_go() {
    let counts = "SELECT auction, bidder, COUNT(*) AS n FROM bid GROUP BY auction, bidder";
    let top = |number: &str, of: &str, columns: &str, condition: &str| {
        format!("INSERT INTO plain SELECT {columns} FROM (SELECT *, {number} AS r FROM {of}) WHERE {condition}")
    };
    let rows = "ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC)";
    let changing = "ROW_NUMBER() OVER (PARTITION BY auction ORDER BY n DESC)";
    let of_counts = format!("({counts})");
    let cases = [
        (top(rows, "bid", "auction, r", "r <= 3"), "+I -U +U by (a, b)"),
        (top(rows, "bid", "auction, price", "r <= 3"), "+I -D"),
        (top(rows, "bid", "auction, price", "r = 1"), "+I -U +U by (a)"),
        (top(rows, "bid", "auction, r", "r = 2"), "+I -U +U by (a)"),
        (top("RANK() OVER (PARTITION BY auction ORDER BY price)", "bid", "auction, r", "r <= 3"), "+I -D"),
        (top("ROW_NUMBER() OVER (ORDER BY price)", "bid", "price, r", "r < 3"), "+I -U +U by (b)"),
        (top(changing, &of_counts, "auction, r", "r <= 3"), "+I -U +U -D by (a, b)"),
        (top(changing, &of_counts, "auction, bidder", "r <= 3"), "+I -D by (a, b)"),
        (top(changing, &of_counts, "bidder, n", "r <= 3"), "+I -D"),
        (top(changing, &of_counts, "auction, n", "r <= 1"), "+I -U +U -D by (a)"),
        // What is ordered by is another key's: that of its own partition alone tells.
        (top("ROW_NUMBER() OVER (PARTITION BY n ORDER BY auction)", &of_counts, "auction, bidder", "r <= 2"), "+I -D"),
    ];
    for (script, expected) in cases {
        assert_eq!(gives(&script), expected, "{script}");
    }
}

#[test]
fn first_rows_say_what_they_keep_and_that_one_subtask_gets_all() {
    let described = |query: &str| explain(&plan(&format!("INSERT INTO plain {query}")).unwrap());
    let operator = |query: &str| {
        let plan = described(query);
        let mut operators = plan.stages.into_iter().flat_map(|stage| stage.operators);
        let top = operators.rfind(|one| one.name.starts_with("TopN(") || one.name.starts_with("Dedup")).unwrap();
        (top.name, top.state.unwrap().bounded_by)
    };
    let top = |over: &str, of: &str, condition: &str| {
        format!("SELECT price, price FROM (SELECT *, ROW_NUMBER() OVER ({over}) AS r FROM {of}) WHERE {condition}")
    };
    let (name, bound) = operator(&top("PARTITION BY auction ORDER BY price DESC, bidder", "bid", "r <= 3"));
    assert_eq!((name.as_str(), bound), ("TopN(ROW_NUMBER 1 to 3 by price DESC, bidder ASC of each auction)", None));
    let (name, bound) = operator(&top("ORDER BY price", "bid", "r BETWEEN 2 AND 3"));
    assert_eq!((name.as_str(), bound.as_deref()), ("TopN(ROW_NUMBER 2 to 3 by price ASC)", Some("3 rows")));
    let (name, _) = operator(&top("PARTITION BY auction ORDER BY t DESC", "bid", "r = 1"));
    assert_eq!(name, "Deduplicate(keep last row of auction)");
    let all = described(&top("ORDER BY price", "bid", "r <= 3"));
    assert!(
        all.warnings.iter().any(|warning| warning.message.contains("one subtask gets all rows")),
        "{:?}",
        all.warnings
    );
}

#[test]
fn what_hangs_on_the_order_of_rows_that_change_is_not_folded_before_the_exchange() {
    let folded = |query: &str| {
        let graph = plan(&format!("INSERT INTO plain {query}")).unwrap_or_else(|error| panic!("{query}\n{error}"));
        graph.stages.iter().flat_map(|stage| &stage.operators).filter(|one| one.name.starts_with("LocalAgg")).count()
    };
    let counts = "SELECT auction, COUNT(*) AS n FROM bid GROUP BY auction";
    assert_eq!(folded(&format!("SELECT n, MAX(auction) FROM ({counts}) GROUP BY n")), 2);
    assert_eq!(folded(&format!("SELECT n, LAST_VALUE(auction) FROM ({counts}) GROUP BY n")), 1);
    assert_eq!(folded("SELECT auction, LAST_VALUE(price) FROM bid GROUP BY auction"), 1);
}

#[test]
fn a_sink_by_key_is_given_no_row_before_an_update_unless_something_on_the_way_needs_it() {
    let counts = "SELECT auction, COUNT(*) AS n FROM bid GROUP BY auction";
    assert_eq!(gives(&format!("INSERT INTO by_a {counts}")), "+I +U by (a)");
    assert_eq!(gives("INSERT INTO by_a SELECT bidder, COUNT(*) FROM bid GROUP BY bidder"), "+I +U by (a)", "widened");
    assert_eq!(gives("INSERT INTO by_a SELECT auction, price FROM bid"), "+I");
    // Without the row before, the row that no longer passes would stay for ever.
    assert_eq!(gives(&format!("INSERT INTO by_a {counts} HAVING COUNT(*) < 10")), "+I -U +U -D by (a)");
    // An update changes the rest of the primary key, so the row under the old one has to go.
    assert_eq!(gives(&format!("INSERT INTO by_both {counts}")), "+I -U +U by (a)");
}

#[test]
fn a_plan_without_rows_before_updates_is_another_plan_and_what_it_keeps_is_found_all_the_same() {
    let of = |changelog: &str| {
        let script = format!(
            "{TABLES}CREATE TABLE s (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'test', 'changelog' = '{changelog}');
             INSERT INTO s SELECT auction, COUNT(*) FROM bid GROUP BY auction"
        );
        planned(&script).unwrap()
    };
    let (retract, upsert) = (of("true"), of("upsert"));
    let keeps = |graph: &JobGraph| graph.stages[1].operators[0].identity.clone();
    assert_eq!(keeps(&retract), keeps(&upsert));
    assert_ne!(retract.fingerprint, upsert.fingerprint);
}

#[track_caller]
fn refused(script: &str, line: u64, column: u64, message: &str, remedy: &str) {
    let Err(error) = plan(script) else { panic!("{script}\n is planned") };
    let place = (error.line.map(|line| line - 6), error.column);
    assert_eq!(place, (Some(line), Some(column)), "{script}\n{error}");
    assert!(error.message.contains(message), "{script}\n{error}");
    assert!(error.remedy.contains(remedy), "{script}\n{error}");
}

#[test]
fn a_sink_that_cannot_take_a_result_says_which_operator_updates_it_and_on_which_line() {
    refused(
        "INSERT INTO final\nSELECT auction, COUNT(*)\nFROM bid GROUP BY auction",
        1,
        13,
        "table final: it takes inserts only, and GroupAggregate of line 9 updates its rows",
        "aggregate in a window",
    );
    refused(
        "CREATE VIEW newest AS SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY t DESC) AS n FROM bid;
         INSERT INTO final SELECT auction, price FROM newest WHERE n = 1",
        2,
        22,
        "Deduplicate of line 7 updates its rows",
        "aggregate in a window",
    );
    refused(
        "INSERT INTO by_a SELECT price, COUNT(*) FROM bid GROUP BY auction, price",
        1,
        13,
        "the primary key of by_a is a, and the rows that GroupAggregate of line 7 updates have no key that is known",
        "group by a",
    );
    refused(
        "INSERT INTO by_a SELECT COUNT(*), auction FROM bid GROUP BY auction",
        1,
        13,
        "are kept apart by b: several of them may have one primary key",
        "or write ON CONFLICT DO DEDUPLICATE behind the query",
    );
}

#[test]
fn rows_of_several_keys_under_one_primary_key_are_kept_where_the_statement_says_so() {
    let other = "INSERT INTO by_a SELECT COUNT(*), auction FROM bid GROUP BY auction ON CONFLICT DO DEDUPLICATE";
    let plan = explain(&plan(other).unwrap());
    let last = plan.stages.last().unwrap();
    assert_eq!(last.inputs.iter().map(|input| input.keys.clone()).collect::<Vec<_>>(), [["a"]]);
    let names: Vec<&str> = last.operators.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["UpsertMaterialize(by a)"]);
    assert_eq!(last.changelog[0].rows, "+I +U -D");
    assert!(plan.warnings.iter().any(|warning| warning.message.contains("keeps all rows for each a for ever")));
    // What needs none gets none.
    for query in ["SELECT auction, COUNT(*) FROM bid GROUP BY auction", "SELECT auction, price FROM bid"] {
        let plan = explain(&self::plan(&format!("INSERT INTO by_a {query} ON CONFLICT DO DEDUPLICATE")).unwrap());
        assert!(
            !plan.stages.iter().flat_map(|stage| &stage.operators).any(|one| one.name.starts_with("Upsert")),
            "{query}"
        );
    }
}

#[test]
fn on_conflict_is_understood_and_refused_where_there_is_nothing_that_it_could_wait_for() {
    let same = "INSERT INTO by_a SELECT auction, COUNT(*) FROM bid GROUP BY auction";
    for what in ["DEDUPLICATE", "NOTHING", "ERROR"] {
        assert_eq!(gives(&format!("{same} ON CONFLICT DO {what}")), "+I +U by (a)");
    }
    assert_eq!(gives("INSERT INTO by_a SELECT auction, price FROM bid ON CONFLICT DO DEDUPLICATE"), "+I");
    let other = "INSERT INTO by_a SELECT COUNT(*), auction FROM bid GROUP BY auction";
    assert_eq!(gives(&format!("{other} ON CONFLICT DO DEDUPLICATE")), "+I +U -D by (a)");
    assert_eq!(gives(&format!("{other} ON CONFLICT DO NOTHING")), "+I +U -D by (a)");
    assert_eq!(gives(&format!("{other} ON CONFLICT DO ERROR")), "+I +U -D by (a)");
    refused(
        "INSERT INTO by_a SELECT COUNT(*), k FROM clock GROUP BY k ON CONFLICT DO NOTHING",
        1,
        59,
        "ON CONFLICT DO NOTHING looks for conflicts whenever event time goes on, and the table clock has no watermark",
        "declare a WATERMARK in clock",
    );
    refused(
        "INSERT INTO plain SELECT auction, price FROM bid ON CONFLICT DO NOTHING",
        1,
        50,
        "ON CONFLICT is for tables that are written by their primary key, and plain is not",
        "leave ON CONFLICT out",
    );
    refused(&format!("{same} ON CONFLICT DO UPDATE"), 1, 84, "DEDUPLICATE, NOTHING or ERROR", "");
}
