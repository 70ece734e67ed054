//! What several queries of a script have in common is computed once, and state of builds that computed it apart is still found.

use crate::support::planned;
use weir_engine::JobGraph;
use weir_sql::{PlanDescription, explain};

const TABLES: &str = "\
CREATE TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE TABLE two (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE one (a BIGINT) WITH ('connector' = 'test');
CREATE VIEW counts AS SELECT auction, COUNT(*) AS n FROM bid WHERE price > 5 GROUP BY auction;
";

#[track_caller]
fn graph(script: &str) -> JobGraph {
    planned(&format!("{TABLES}{script}")).unwrap_or_else(|error| panic!("{script}\n{error}"))
}

/// A line a stage: where its rows come from, and its name.
fn shape(graph: &JobGraph) -> Vec<String> {
    let PlanDescription { stages, .. } = explain(graph);
    let line = |stage: &weir_sql::StageDescription| {
        let from: Vec<String> = stage.inputs.iter().map(|input| format!("{} {}", input.exchange, input.from)).collect();
        format!("{}: {}", from.join(", "), stage.name)
    };
    stages.iter().map(line).collect()
}

fn apart(graph: &JobGraph) -> &JobGraph {
    graph.apart.as_ref().unwrap()
}

#[test]
fn a_table_that_several_statements_read_is_read_once_with_the_columns_of_all() {
    let graph = graph(
        "INSERT INTO one SELECT auction FROM bid WHERE price > 1;
         INSERT INTO two SELECT bidder, MAX(auction) FROM bid GROUP BY bidder",
    );
    assert_eq!(
        shape(&graph),
        [
            ": bid",
            "forward 0: Filter -> one",
            "forward 0: Project -> LocalAggregate",
            "hash 2: GroupAggregate -> Project -> two"
        ]
    );
    let source = explain(&graph).stages[0].source.clone().unwrap();
    assert_eq!(source.columns, ["auction BIGINT", "bidder BIGINT", "price BIGINT", "t TIMESTAMP(3)"]);
    assert_eq!(explain(&graph).stages[1].operators[0].name, "Filter(price@2 > 1)");
}

#[test]
fn what_several_statements_compute_is_computed_once_up_to_where_they_differ() {
    let graph = graph(
        "INSERT INTO one SELECT n FROM counts WHERE n > 100;
         INSERT INTO two SELECT auction, n FROM counts",
    );
    assert_eq!(
        shape(&graph),
        [
            ": bid -> Filter -> LocalAggregate",
            "hash 0: GroupAggregate",
            "forward 1: Project -> Filter -> Project -> one",
            "forward 1: Project -> Project -> two"
        ]
    );
    let keeps = |graph: &JobGraph| {
        let stateful = graph.stages.iter().flat_map(|stage| &stage.operators).filter(|node| node.state.is_some());
        stateful.map(|node| node.identity.clone()).collect::<Vec<_>>()
    };
    assert_eq!(keeps(&graph).len(), 1);
    assert_eq!(keeps(apart(&graph)), [keeps(&graph)[0].clone(), format!("{}-2", keeps(&graph)[0])]);
    assert_eq!(graph.warnings.len(), 1);
}

#[test]
fn another_filter_below_is_another_computation_over_the_same_source() {
    let graph = graph(
        "INSERT INTO two SELECT auction, COUNT(*) FROM bid WHERE price > 1 GROUP BY auction;
         INSERT INTO two SELECT auction, COUNT(*) FROM bid WHERE price > 2 GROUP BY auction",
    );
    assert_eq!(
        shape(&graph),
        [
            ": bid",
            "forward 0: Filter -> LocalAggregate",
            "hash 1: GroupAggregate -> Project -> two",
            "forward 0: Filter -> LocalAggregate",
            "hash 3: GroupAggregate -> Project -> two"
        ]
    );
}

#[test]
fn queries_of_one_union_share_as_well() {
    let graph = graph("INSERT INTO one SELECT auction FROM bid UNION ALL SELECT bidder FROM bid");
    assert_eq!(shape(&graph), [": bid", "forward 0: Project", "forward 0: Project", "forward 1, forward 2: one"]);
    let twice = self::graph("INSERT INTO one SELECT auction FROM bid UNION ALL SELECT auction FROM bid");
    assert_eq!(shape(&twice), [": bid -> Project", "forward 0, forward 0: one"], "each row is there twice");
}

#[test]
fn what_was_planned_before_anything_was_shared_is_there_beside_it() {
    let script = "INSERT INTO one SELECT auction FROM bid; INSERT INTO one SELECT auction FROM bid";
    let shared = graph(script);
    assert_eq!(shape(&shared), [": bid -> Project", "forward 0: one", "forward 0: one"]);
    let set = |source: &str, plans: &str| {
        graph(&format!(
            "SET 'table.optimizer.reuse-source-enabled' = '{source}';
             SET 'table.optimizer.reuse-sub-plan-enabled' = '{plans}';
             {script}"
        ))
    };
    for (source, plans) in [("true", "false"), ("false", "false")] {
        let unshared = set(source, plans);
        assert_eq!(unshared.fingerprint, apart(&shared).fingerprint);
        assert!(unshared.apart.is_none());
        assert_eq!(shape(&unshared).len(), 2);
    }
    assert_eq!(shape(&set("false", "true")).len(), 2, "two sources are two inputs of what is above them");
    assert!(graph("INSERT INTO one SELECT auction FROM bid").apart.is_none());
}

#[test]
fn one_consumer_that_needs_the_row_before_an_update_gets_it_for_all() {
    let graph = graph(
        "CREATE TABLE upserts (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'test', 'changelog' = 'upsert');
         INSERT INTO upserts SELECT auction, n FROM counts;
         INSERT INTO two SELECT auction, n FROM counts",
    );
    let given: Vec<_> = explain(&graph).stages.iter().map(|stage| stage.changelog.clone()).collect();
    assert_eq!(given[1][0].rows, "+I -U +U");
}
