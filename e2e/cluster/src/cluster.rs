//! The cluster under test: its API, its node, and the scripts that made it.

use std::{path::PathBuf, process::Stdio};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};

use crate::wait::answered;

/// The label on the namespace `kube-system` by which the scripts mark a cluster as theirs.
const MARK: &str = "weir.dev/e2e";

/// A cluster that `cluster.sh` or `kind.sh` made.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    /// The script that made it, and that can reach its node.
    script: PathBuf,
    /// An address of the node at which its node ports answer.
    pub node: String,
}

impl Cluster {
    /// Takes the cluster that the environment names, and refuses any that the scripts did not make.
    pub async fn open() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: run this by `cluster.sh in` or `kind.sh in`, which set it")
            })
        };
        variable("KUBECONFIG");
        let script = PathBuf::from(variable("WEIR_E2E_CLUSTER"));
        let node = variable("WEIR_E2E_NODE");
        let client = Client::try_default().await.expect("the kubeconfig is read");
        let system = Api::<Namespace>::all(client.clone()).get("kube-system").await.expect("the API server answers");
        let mark = system.metadata.labels.and_then(|labels| labels.get(MARK).cloned());
        assert_eq!(
            mark,
            Some(variable("WEIR_E2E_INSTANCE")),
            "this cluster was not made by cluster.sh or kind.sh: the namespace kube-system has no label {MARK} with the instance's name"
        );
        Self { client, script, node }
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn stream_jobs(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", "StreamJob"));
        Api::namespaced_with(self.client.clone(), namespace, &kind)
    }

    /// The pods with these labels, those that go included.
    pub async fn labelled(&self, namespace: &str, labels: &str) -> Vec<Pod> {
        let what = format!("listing the pods of {namespace} with {labels:?}");
        answered(&what, || self.try_labelled(namespace, labels)).await
    }

    /// The same, where the API server may be away.
    pub async fn try_labelled(&self, namespace: &str, labels: &str) -> kube::Result<Vec<Pod>> {
        let list = self.pods(namespace).list(&ListParams::default().labels(labels)).await?;
        Ok(list.items)
    }

    /// Runs a program with the environment's PATH and KUBECONFIG; its output, or what it said when it failed.
    pub async fn command(program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| format!("{program} does not start: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(format!(
            "{program} {}: {}\n{}{}",
            arguments.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        ))
    }

    /// Runs a program whatever comes of it, for destructors, which can neither wait nor fail.
    pub fn at_last(program: &str, arguments: &[&str]) {
        let mut command = std::process::Command::new(program);
        drop(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status());
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        Self::command("kubectl", arguments).await
    }

    /// Runs a shell command on the node: all its processes, its network and its cgroups are in view.
    pub async fn on_node(&self, command: &str) -> Result<String, String> {
        Self::command(&self.script.display().to_string(), &["node", "sh", "-c", command]).await
    }

    /// The same for destructors.
    pub fn on_node_at_last(&self, command: &str) {
        Self::at_last(&self.script.display().to_string(), &["node", "sh", "-c", command]);
    }

    /// What Weir's controllers have asked of the API server, a line of JSON each.
    pub async fn audit(&self) -> String {
        Self::command(&self.script.display().to_string(), &["audit"]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// `stop` or `start`.
    pub async fn api_server(&self, word: &str) {
        Self::command(&self.script.display().to_string(), &["apiserver", word])
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }
}
