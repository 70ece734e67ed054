//! What the README shows is run as it stands there: its job here, its commands for a cluster with those of the quick start, which a
//! case on a cluster runs.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use weir_e2e_local::binary;

const README: &str = include_str!("../../../README.md");
const QUICK_START: &str = include_str!("../../../docs/quick-start.md");

/// The first block of YAML.
fn job() -> &'static str {
    let (_, rest) = README.split_once("```yaml\n").expect("the README has a job");
    rest.split_once("```").expect("the block ends").0
}

/// The first block of commands below this heading.
fn commands_below(heading: &str) -> &'static str {
    let (_, rest) = README.split_once(heading).expect("the README has this heading");
    let (_, rest) = rest.split_once("\n```\n").expect("there are commands below it");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_job_of_the_readme_counts_words_by_length() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("job.yaml"), job()).unwrap();
    fs::write(folder.path().join("words.csv"), "weir\nriver\ndam\nsluice\nlock\ngate\n").unwrap();
    for command in ["validate", "plan", "run"] {
        let output = Command::new(binary("weir"))
            .args([command, "job.yaml"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("weir starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "weir {command}: {}\n{said}", output.status);
    }
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut lines: Vec<serde_json::Value> = Vec::new();
    for entry in fs::read_dir(folder.path().join("out")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
    }
    for line in lines.iter().filter(|line| line["op"] != "-U") {
        let (n, words) = (line["n"].as_u64().unwrap(), line["words"].as_u64().unwrap());
        let newest = counts.entry(n).or_default();
        *newest = words.max(*newest);
    }
    assert_eq!(counts, BTreeMap::from([(3, 1), (4, 3), (5, 1), (6, 1)]));
}

#[test]
fn the_commands_for_a_cluster_are_the_quick_starts() {
    // These are the blocks that `quick_start_word_for_word` runs, in order.
    let blocks = QUICK_START.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut run = blocks.flat_map(str::lines);
    let shown = commands_below("\n## On Kubernetes\n");
    assert!(shown.contains("kubectl apply"), "these are other commands:\n{shown}");
    for command in shown.lines() {
        assert!(run.any(|line| line == command), "docs/quick-start.md does not run this, or earlier:\n{command}");
    }
}
