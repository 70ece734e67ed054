//! Identities of some sixty plans, as they stand in the checkpoints of running jobs. `identities.txt` has each statement after `> `, and
//! below it what keeps state in it: its identity, what builds of state format 1 called it, and its name.
//!
//! A line that changes loses state: give the old identity as an alias first. `UPDATE=1` writes the file.

use std::collections::BTreeSet;
use std::fmt::Write;

use weir_engine::{JobGraph, Kin, StageHead};

use crate::support::planned;

const TABLES: &str = "
CREATE TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, cents DECIMAL(10, 2), rate DOUBLE, small INT, ok BOOLEAN,
                  day DATE, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE TABLE clock (k BIGINT, v STRING, p AS PROCTIME()) WITH ('connector' = 'test');
CREATE VIEW big AS SELECT auction AS id, price * 2 AS twice, UPPER(channel) AS ch, t FROM bid WHERE price > 100;
CREATE TABLE n1 (a BIGINT) WITH ('connector' = 'test');
CREATE TABLE n2 (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE s2 (a STRING, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE d2 (a BIGINT, b DECIMAL(38, 2)) WITH ('connector' = 'test');
CREATE TABLE f2 (a BIGINT, b DOUBLE) WITH ('connector' = 'test');
CREATE TABLE w3 (a BIGINT, b BIGINT, s TIMESTAMP(3)) WITH ('connector' = 'test');
CREATE TABLE rows2 (a BIGINT, t TIMESTAMP(3)) WITH ('connector' = 'test');
CREATE TABLE text2 (a BIGINT, b STRING) WITH ('connector' = 'test');
";

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/identities.txt");

/// What keeps state, in the order of the plan.
fn keepers(graph: &JobGraph) -> Vec<(&str, &Kin, &str)> {
    let mut all = Vec::new();
    for stage in &graph.stages {
        if let StageHead::Source(node) = &stage.head {
            all.push((node.identity.as_str(), &node.kin, node.name.as_str()));
        }
        let stateful = stage.operators.iter().filter(|node| node.state.is_some());
        all.extend(stateful.map(|node| (node.identity.as_str(), &node.kin, node.name.as_str())));
        all.extend(stage.sink.as_ref().map(|node| (node.identity.as_str(), &node.kin, node.name.as_str())));
    }
    all
}

#[test]
fn identities_are_those_that_stand_in_checkpoints() {
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    let scripts: Vec<&str> = golden.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    assert!(scripts.len() >= 60, "{} plans", scripts.len());
    let mut text = String::new();
    for script in scripts {
        let graph = planned(&format!("{TABLES}{script}")).unwrap_or_else(|error| panic!("{script}\n{error}"));
        writeln!(text, "> {script}").unwrap();
        for (identity, kin, name) in keepers(graph.apart.as_deref().unwrap_or(&graph)) {
            let before = kin.aliases.last().map_or("the same", String::as_str);
            writeln!(text, "{identity} was {before}: {name}").unwrap();
        }
        // Where statements share something there are two plans, and checkpoints of both.
        for (identity, kin, name) in graph.apart.iter().flat_map(|_| keepers(&graph)) {
            let before = if kin.aliases.is_empty() { "the same".to_string() } else { kin.aliases.join(" and ") };
            writeln!(text, "shared: {identity} was {before}: {name}").unwrap();
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    for (line, (golden, now)) in golden.lines().zip(text.lines()).enumerate() {
        assert_eq!(now, golden, "line {} of identities.txt", line + 1);
    }
    assert_eq!(text, golden, "there are lines too many or too few");
}

#[test]
fn no_two_plans_of_the_list_share_a_stateful_operator_unless_they_differ_by_a_filter_or_a_sink() {
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    let (mut seen, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for line in golden.lines().filter(|line| {
        !line.starts_with("> ")
            && !line.starts_with("shared: ")
            && !line.starts_with("source")
            && !line.starts_with("sink")
    }) {
        let identity = line.split(' ').next().unwrap();
        if !seen.insert(identity) {
            shared.insert(line);
        }
    }
    // MOD and % are one function, and a filter or a sink tells no operator from another.
    let same = ["GroupAggregate(by auction: COUNT(*))", "Aggregate(COUNT(*))", "Int64(10): COUNT(*))"];
    let expected: BTreeSet<&str> = golden.lines().filter(|line| same.iter().any(|same| line.ends_with(same))).collect();
    assert!(shared.is_subset(&expected), "{:#?}", shared.difference(&expected));
}
