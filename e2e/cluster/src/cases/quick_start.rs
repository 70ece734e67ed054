//! The quick start on Kubernetes, word for word: on a cluster without Weir, to the last of its commands, which takes Weir away again.

use crate::{
    cluster::Cluster,
    install::{NAMESPACE, install, repository},
    space::Space,
};

const DOCUMENT: &str = "docs/quick-start.md";

/// All shell commands of a document, in order.
fn commands(document: &str) -> String {
    document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

pub async fn quick_start_word_for_word(space: Space) {
    for release in [["weir", NAMESPACE], ["weir-crds", "default"]] {
        let _ = Cluster::command("helm", &["uninstall", release[0], "-n", release[1], "--wait"]).await;
    }
    let document = std::fs::read_to_string(repository(DOCUMENT)).expect("the quick start is there");
    let commands = commands(&document);
    assert!(commands.contains("kubectl apply"), "{DOCUMENT} has no commands");
    // The script takes the place that a user's shell has: in the repository.
    let said =
        Cluster::command("bash", &["-euo", "pipefail", "-xc", &format!("cd {}\n{commands}", repository("."))]).await;
    // The other cases need Weir again, whatever has become of this one.
    install(&space.cluster).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("rows are equal"), "the output was not compared:\n{said}");
    // What somebody would do next: ask the chart whether it works.
    let tested = Cluster::command("helm", &["test", "weir", "-n", NAMESPACE, "--timeout", "2m"]).await;
    let tested = tested.unwrap_or_else(|error| panic!("{error}"));
    let passed = |line: &str| line.starts_with("Phase:") && line.ends_with("Succeeded");
    assert!(tested.contains("test-ready") && tested.lines().any(passed), "the chart has not tested itself:\n{tested}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shell_blocks_are_found_in_order() {
        let document = "# Start\n```sh\nhelm install\n```\nThen:\n```yaml\nno: thing\n```\n```sh\nkubectl get\n```\n";
        assert_eq!(commands(document), "helm install\nkubectl get\n");
    }
}
