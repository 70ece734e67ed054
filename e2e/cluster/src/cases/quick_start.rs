//! The README's quick start on Kubernetes, word for word.

use crate::{cluster::Cluster, install::repository, space::Space};

/// The heading that it stands under.
const HEADING: &str = "## On Kubernetes";

/// The commands of the first shell block under the heading.
fn quick_start(readme: &str) -> Option<String> {
    let section = readme.split(HEADING).nth(1)?.split("\n## ").next()?;
    let block = section.split("```sh\n").nth(1)?;
    Some(block.split("```").next()?.to_string())
}

pub async fn quick_start_word_for_word(_: Space) {
    let readme = std::fs::read_to_string(repository("README.md")).expect("the README is there");
    let commands =
        quick_start(&readme).unwrap_or_else(|| panic!("README.md has no block of shell commands under {HEADING:?}"));
    let said = Cluster::command("sh", &["-euxc", &format!("cd {}\n{commands}", repository("."))]).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    println!("{said}");
    // It leaves nothing behind for the other cases.
    let _ =
        Cluster::command("kubectl", &["delete", "streamjob", "--all", "-n", "default", "--wait=true", "--timeout=1m"])
            .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_under_the_heading_is_found() {
        let readme = "# Weir\n```sh\nno\n```\n## On Kubernetes\nSo:\n```sh\nhelm install\nkubectl get\n```\n## More\n```sh\nno\n```\n";
        assert_eq!(quick_start(readme).as_deref(), Some("helm install\nkubectl get\n"));
        assert_eq!(quick_start("# Weir"), None);
    }
}
