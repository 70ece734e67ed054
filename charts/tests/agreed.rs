//! What is written for operators agrees with the code: the runbook has a section for each reason, the list of metrics a row for each
//! metric, and neither has one that is gone. (That the role grants what the controller asks for, and nothing else, is tested where
//! the controller says it: controller/src/cluster/permissions.rs.) Sources are read as text, so nothing is built for it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::Path};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of metrics between backquotes in the table of docs/metrics.md, for one process.
fn documented_metrics(prefix: &str) -> BTreeSet<String> {
    let text = read("../docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix(&format!("| `{prefix}_")));
    // A counter's ending is the format's, not the name's.
    rows.filter_map(|row| row.split('`').next()).map(|name| name.trim_end_matches("_total").to_string()).collect()
}

/// What follows each of these calls, up to the closing quote.
fn named_in(source: &str, calls: &[(&str, &str)]) -> BTreeSet<String> {
    let text: String = read(source).split_whitespace().collect();
    let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
    let names = |(call, ending): &(&str, &str)| -> Vec<String> {
        code.split(&format!("{call}(\""))
            .skip(1)
            .filter_map(|rest| Some(rest.split_once('"')?.0.to_string() + ending))
            .collect()
    };
    calls.iter().flat_map(names).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let worker = [("families.counter", ""), ("families.gauge", ""), ("families.histograms", "")];
    assert_eq!(
        named_in("../worker/engine/src/metrics.rs", &worker),
        documented_metrics("weir_worker"),
        "worker/engine/src/metrics.rs on the left, docs/metrics.md on the right"
    );
    let controller = [("weir.register", ""), ("weir.register_with_unit", "_seconds")];
    assert_eq!(
        named_in("../controller/src/cluster/metrics.rs", &controller),
        documented_metrics("weir_controller"),
        "controller/src/cluster/metrics.rs on the left, docs/metrics.md on the right"
    );
}

#[test]
fn alerts_are_made_of_metrics_that_are_there() {
    let rules = read("weir/templates/prometheusrule.yaml");
    for process in ["weir_controller", "weir_worker"] {
        let documented = documented_metrics(process);
        let used: BTreeSet<&str> = rules
            .split(&format!("{process}_"))
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next())
            .map(|name| name.trim_end_matches("_total"))
            .collect();
        let unknown: Vec<_> = used.iter().filter(|name| !documented.contains(**name)).collect();
        assert!(!used.is_empty() && unknown.is_empty(), "no metrics of {process}: {unknown:?}");
    }
}

#[test]
fn the_runbook_has_a_section_for_each_reason() {
    let source = read("../controller/src/reasons.rs");
    let runbook = read("../docs/runbook.md");
    let (conditions, events) = source.split_once("pub mod events").unwrap();
    let values = |text: &str| -> BTreeSet<String> {
        let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((text, ""));
        code.lines().filter_map(|line| Some(line.split_once(" = \"")?.1.split_once("\";")?.0.to_string())).collect()
    };
    let sections = runbook.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let sections: BTreeSet<String> = sections.map(str::to_string).collect();
    assert_eq!(values(conditions), sections, "controller/src/reasons.rs on the left, docs/runbook.md on the right");
    let untold: Vec<_> =
        values(events).into_iter().filter(|reason| !runbook.contains(&format!("`{reason}`"))).collect();
    assert!(untold.is_empty(), "docs/runbook.md tells nothing of the events {untold:?}");
}
