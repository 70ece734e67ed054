//! UNION and UNION ALL: several edges into one stage.

use std::fmt::Write;

use crate::support::planned;
use weir_sql::{PlanDescription, PlanError, explain};

const TABLES: &str = "\
CREATE TABLE bid (auction BIGINT, bidder INT, price BIGINT, channel STRING, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE TABLE ask (auction BIGINT, seller INT, price BIGINT, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '9' SECOND) WITH ('connector' = 'test');
CREATE TABLE two (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE one (a BIGINT) WITH ('connector' = 'test');
";

fn plan(script: &str) -> Result<PlanDescription, PlanError> {
    planned(&format!("{TABLES}{script}")).map(|graph| explain(&graph))
}

#[track_caller]
fn described(script: &str) -> PlanDescription {
    plan(script).unwrap_or_else(|error| panic!("{script}\n{error}"))
}

/// `0 reads bid: Project -> 2 forward` and so on: a line a stage.
fn shape(plan: &PlanDescription) -> Vec<String> {
    let stage = |stage: &weir_sql::StageDescription| {
        let from: Vec<String> = stage.inputs.iter().map(|input| format!("{} {}", input.exchange, input.from)).collect();
        format!("{}: {}", from.join(", "), stage.name)
    };
    plan.stages.iter().map(stage).collect()
}

#[test]
fn queries_meet_before_a_sink() {
    let plan = described(
        "INSERT INTO two SELECT auction, price FROM bid UNION ALL SELECT auction, price FROM ask WHERE price > 1",
    );
    assert_eq!(shape(&plan), [": bid -> Project", ": ask -> Filter", "forward 0, forward 1: two"]);
    assert_eq!(plan.stages[0].changelog, plan.stages[1].changelog);
}

#[test]
fn queries_meet_at_an_exchange_and_each_is_folded_before_it() {
    let plan = described(
        "INSERT INTO two SELECT auction, COUNT(*) FROM (SELECT auction FROM bid UNION ALL SELECT auction FROM ask
         UNION ALL SELECT price FROM ask) GROUP BY auction",
    );
    assert_eq!(
        shape(&plan),
        [
            ": bid -> Project -> LocalAggregate",
            ": ask",
            "forward 1: Project -> LocalAggregate",
            "forward 1: Project -> LocalAggregate",
            "hash 0, hash 2, hash 3: GroupAggregate -> Project -> two",
        ]
    );
}

#[test]
fn a_union_without_all_has_each_row_once() {
    let plan = described("INSERT INTO one SELECT auction FROM bid UNION SELECT auction FROM ask");
    assert_eq!(
        shape(&plan),
        [
            ": bid -> Project -> LocalAggregate",
            ": ask -> Project -> LocalAggregate",
            "hash 0, hash 1: GroupAggregate -> Project -> one"
        ]
    );
    assert_eq!(plan.stages[2].changelog[0].rows, "+I");
}

#[test]
fn columns_of_a_union_are_the_widest_of_their_types() {
    let plan = described("INSERT INTO one SELECT bidder FROM bid UNION ALL SELECT price FROM ask");
    assert_eq!(shape(&plan)[0], ": bid -> Project");
    assert_eq!(plan.stages[0].operators[0].columns, ["a BIGINT"]);
    described("INSERT INTO one SELECT NULL FROM bid UNION ALL SELECT price FROM ask");
}

#[test]
fn a_window_over_a_union_is_a_window() {
    let plan = described(
        "CREATE VIEW both AS SELECT auction, t FROM bid UNION ALL SELECT auction, t FROM ask;
         INSERT INTO one SELECT COUNT(*) FROM TABLE(TUMBLE(TABLE both, DESCRIPTOR(t), INTERVAL '1' MINUTE))
         GROUP BY window_start, window_end",
    );
    assert!(plan.stages[2].operators[0].name.starts_with("WindowAggregate("), "{:?}", shape(&plan));
    assert_eq!(plan.stages[2].inputs.len(), 2);
    let plan = described(
        "CREATE VIEW both AS SELECT auction, t FROM bid UNION ALL SELECT auction, t FROM ask;
         INSERT INTO two SELECT auction, 1 FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY t) AS n FROM both)
         WHERE n = 1",
    );
    assert!(plan.stages[2].operators[0].name.starts_with("Deduplicate("), "{:?}", shape(&plan));
}

#[test]
fn an_aggregation_over_a_union_is_known_by_all_its_queries_in_their_order() {
    let keeps = |script: &str| {
        let plan = described(script);
        plan.stages.last().unwrap().operators[0].identity.clone()
    };
    let of = |from: &str| keeps(&format!("INSERT INTO one SELECT COUNT(*) FROM ({from})"));
    let both = of("SELECT auction FROM bid UNION ALL SELECT auction FROM ask");
    assert_eq!(both, of("SELECT auction FROM bid WHERE price > 1 UNION ALL SELECT auction FROM ask"));
    assert_ne!(both, of("SELECT auction FROM bid UNION ALL SELECT auction FROM bid"));
    assert_ne!(both, of("SELECT auction FROM bid"));
}

#[track_caller]
fn refused(script: &str, line: u64, column: u64, message: &str) {
    let Err(error) = plan(script) else { panic!("{script}\n is planned") };
    assert_eq!((error.line.map(|line| line - 4), error.column), (Some(line), Some(column)), "{script}\n{error}");
    assert!(error.message.contains(message), "{script}\n{error}");
}

#[test]
fn queries_that_do_not_fit_each_other_are_refused() {
    refused(
        "INSERT INTO one SELECT auction FROM bid UNION ALL SELECT CAST(seller AS STRING) FROM ask",
        1,
        51,
        "column 1 of the UNION is BIGINT in one query",
    );
    refused("INSERT INTO one SELECT auction FROM bid UNION ALL SELECT auction, price FROM ask", 1, 17, "columns");
    refused("INSERT INTO one SELECT auction FROM bid\nINTERSECT ALL SELECT auction FROM ask", 2, 15, "INTERSECT ALL");
    refused("INSERT INTO one SELECT auction FROM bid\nEXCEPT ALL SELECT auction FROM ask", 2, 12, "EXCEPT ALL");
    refused("INSERT INTO one SELECT auction FROM bid\nUNION ALL SELECT aucton FROM ask", 2, 18, "no column aucton");
}

#[test]
fn a_view_that_is_put_together_with_itself_again_and_again_is_refused_when_it_is_too_large() {
    let mut script = "CREATE VIEW v0 AS SELECT auction FROM bid;\n".to_string();
    for view in 1..12 {
        let below = view - 1;
        writeln!(script, "CREATE VIEW v{view} AS SELECT * FROM v{below} UNION ALL SELECT * FROM v{below};").unwrap();
    }
    let error = plan(&format!("{script}INSERT INTO one SELECT auction FROM v11")).unwrap_err();
    assert!(error.message.contains("more than 1000 steps"), "{error}");
}
