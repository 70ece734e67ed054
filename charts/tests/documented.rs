//! The charts' files agree with each other, with the types they are made from, and with the version of the build. No tools needed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use serde_json::Value;

const CHARTS: [&str; 2] = ["weir", "weir-crds"];

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The committed file is this text; with `UPDATE` in the environment it is made so.
fn assert_generated(path: &str, text: &str) {
    if env::var_os("UPDATE").is_some() {
        fs::write(file(path), text).unwrap();
    }
    assert_eq!(read(path), text, "charts/{path} has drifted; `make generate` writes it anew");
}

#[test]
fn each_readme_lists_the_values_as_their_comments_do() {
    for chart in CHARTS {
        let path = format!("{chart}/README.md");
        let text = weir_charts::readme(&read(&path), &read(&format!("{chart}/values.yaml"))).unwrap();
        assert_generated(&path, &text);
    }
}

#[test]
fn charts_are_of_the_version_that_they_install() {
    for chart in CHARTS {
        let about = yaml(&format!("{chart}/Chart.yaml"));
        assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"), "{chart}");
        assert_eq!(about["name"], chart);
    }
}

/// Paths of all values, down to those that the schema leaves open.
fn values(value: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match (value.as_object(), schema["properties"].as_object()) {
        (Some(fields), Some(known)) => {
            for (name, below) in fields {
                let schema = known.get(name).unwrap_or(&Value::Null);
                values(below, schema, &format!("{path}.{name}"), found);
            }
        }
        _ => {
            found.insert(path.to_string());
        }
    }
}

/// Paths of all that the schema knows.
fn known(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(fields) => {
            assert_eq!(
                schema["additionalProperties"], false,
                "{path} takes any field, so a misspelt one is not noticed"
            );
            for (name, below) in fields {
                known(below, &format!("{path}.{name}"), found);
            }
        }
        None => {
            found.insert(path.to_string());
        }
    }
}

#[test]
fn schema_and_values_know_the_same() {
    for chart in CHARTS {
        let schema: Value = serde_json::from_str(&read(&format!("{chart}/values.schema.json"))).unwrap();
        let (mut there, mut allowed) = (BTreeSet::new(), BTreeSet::new());
        values(&yaml(&format!("{chart}/values.yaml")), &schema, "", &mut there);
        known(&schema, "", &mut allowed);
        // What Helm itself puts beside a chart's values, and what Kubernetes allows in resources and this chart sets nothing of.
        for absent in [".global", ".resources.claims"] {
            allowed.remove(absent);
        }
        assert_eq!(there, allowed, "{chart}: values.yaml on the left, values.schema.json on the right");
    }
}

#[test]
fn the_example_for_a_cluster_is_a_job() {
    let job = weir_crds::load_job(&read("../examples/flights/job-kubernetes.yaml")).unwrap();
    assert_eq!(job.spec.workers.replicas, 2);
}

/// The words between double quotes that follow this one, anywhere in a template.
fn quoted_after<'a>(text: &'a str, word: &str) -> BTreeSet<&'a str> {
    text.split(&format!("{word} \"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_runbook_has_a_section_for_each_alert() {
    let rules = read("weir/templates/prometheusrule.yaml");
    let alerts = quoted_after(&rules, "\"alert\"");
    assert!(alerts.len() >= 6, "{alerts:?}");
    let runbook = read("../docs/runbook.md");
    let (_, sections) = runbook.split_once("\n## Alerts\n").unwrap();
    let sections: BTreeSet<&str> = sections.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(alerts, sections, "alerts on the left, sections of docs/runbook.md on the right");
}

#[test]
fn images_are_built_with_the_toolchain_of_the_workspace() {
    let toolchain = read("../rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(
        read("../Dockerfile").contains(&format!("\nARG RUST_VERSION={channel}\n")),
        "the Dockerfile builds with another"
    );
}
