//! Weir in the cluster, by its own charts, with an S3 server and a proxy beside it; and the watch that no controller restarts unasked.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicI32, Ordering},
    },
};

use kube::ResourceExt;

use crate::{
    cluster::Cluster,
    s3::{self, Bucket},
    toxiproxy,
    wait::until,
};

/// Where Weir's controllers run, as the README says.
pub const NAMESPACE: &str = "weir-system";
/// Where what the cases need runs.
pub const SYSTEM: &str = "weir-e2e";
/// Finds the controllers' pods.
pub const CONTROLLERS: &str = "app.kubernetes.io/name=weir";

/// The path of a file of the repository.
pub fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).display().to_string()
}

/// Installs everything; a second time changes nothing.
pub async fn install(cluster: &Cluster) {
    let done = |result: Result<String, String>| result.unwrap_or_else(|error| panic!("{error}"));
    let manifest = repository("e2e/cluster/system.yaml");
    done(cluster.kubectl(&["apply", "--server-side", "-f", &manifest]).await);
    done(
        Cluster::command("helm", &["upgrade", "--install", "weir-crds", &repository("charts/weir-crds"), "--wait"])
            .await,
    );
    done(helm(&[]).await);
    for deployment in ["minio", "toxiproxy"] {
        done(
            cluster
                .kubectl(&["-n", SYSTEM, "rollout", "status", &format!("deployment/{deployment}"), "--timeout=3m"])
                .await,
        );
    }
    until("toxiproxy answers", || async { toxiproxy::close_all(&cluster.node).await.ok() }).await;
    until("MinIO makes the bucket", || async { Bucket::create(&cluster.node).await.ok() }).await;
}

/// Installs or upgrades the controllers, with values beside the defaults.
pub async fn helm(values: &[&str]) -> Result<String, String> {
    let chart = repository("charts/weir");
    let mut arguments =
        vec!["upgrade", "--install", "weir", &chart, "-n", NAMESPACE, "--create-namespace", "--wait", "--timeout=3m"];
    for value in values {
        arguments.extend(["--set", value]);
    }
    Cluster::command("helm", &arguments).await
}

/// The controllers' pods as they were last seen when all was as it should be.
#[derive(Default)]
pub struct Controllers {
    seen: Mutex<BTreeMap<String, i32>>,
    /// How many of their containers a case has killed since.
    killed: AtomicI32,
}

impl Controllers {
    /// Pods by name, with the restarts of their container.
    async fn look(cluster: &Cluster) -> BTreeMap<String, i32> {
        let restarts = |pod: &k8s_openapi::api::core::v1::Pod| {
            let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            containers.into_iter().flatten().map(|container| container.restart_count).sum()
        };
        let pods = cluster.labelled(NAMESPACE, CONTROLLERS).await;
        pods.iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(|pod| (pod.name_any(), restarts(pod)))
            .collect()
    }

    /// Waits until all of them are ready, and takes them as they are: a case has restarted them on purpose.
    pub async fn settle(&self, cluster: &Cluster) {
        until("the controllers are ready", || async {
            cluster
                .kubectl(&["-n", NAMESPACE, "rollout", "status", "deployment", "-l", CONTROLLERS, "--timeout=1s"])
                .await
                .ok()
        })
        .await;
        let seen = Self::look(cluster).await;
        assert!(!seen.is_empty(), "there is no controller in {NAMESPACE} with the label {CONTROLLERS}");
        *self.seen.lock().expect("no holder panics") = seen;
        self.killed.store(0, Ordering::Relaxed);
    }

    /// A case kills one of them now.
    pub fn kills_one(&self) {
        self.killed.fetch_add(1, Ordering::Relaxed);
    }

    /// What is wrong with them after a case that may kill and replace them.
    pub async fn complaint_beyond_kills(&self, cluster: &Cluster) -> Option<String> {
        let now = Self::look(cluster).await;
        let before = self.seen.lock().expect("no holder panics").clone();
        let restarts: i32 = now.iter().map(|(pod, restarts)| restarts - before.get(pod).copied().unwrap_or(0)).sum();
        let killed = self.killed.load(Ordering::Relaxed);
        (restarts > killed).then(|| format!("controllers restarted {restarts} times and were killed {killed} times"))
    }

    /// What is wrong with them, if something is.
    pub async fn complaint(&self, cluster: &Cluster) -> Option<String> {
        let now = Self::look(cluster).await;
        let before = self.seen.lock().expect("no holder panics").clone();
        (now != before).then(|| format!("a controller restarted unasked: there were {before:?}, now {now:?}"))
    }
}

impl Bucket {
    /// Makes the bucket, which may be there already.
    async fn create(node: &str) -> Result<(), String> {
        use object_store::{aws::AmazonS3Builder, path::Path, signer::Signer};
        let store = AmazonS3Builder::new()
            .with_bucket_name(s3::BUCKET)
            .with_region("us-east-1")
            .with_endpoint(format!("http://{node}:{}", s3::PORT))
            .with_allow_http(true)
            .with_access_key_id(s3::USER)
            .with_secret_access_key(s3::PASSWORD)
            .build()
            .map_err(|error| error.to_string())?;
        let hour = std::time::Duration::from_hours(1);
        let url =
            store.signed_url(reqwest::Method::PUT, &Path::default(), hour).await.map_err(|error| error.to_string())?;
        let answer = reqwest::Client::new().put(url).send().await.map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 | 409 => Ok(()),
            status => Err(format!("{status}: {}", answer.text().await.unwrap_or_default())),
        }
    }
}
