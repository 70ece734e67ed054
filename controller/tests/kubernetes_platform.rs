//! Pods as workers, against a real API server. There is no kubelet: what it would report is written by the test. Ignored where
//! no cluster is at hand; `KUBECONFIG` names one for `cargo test --test kubernetes_platform -- --ignored`, as `make e2e-smoke` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weir_controller::{
    cluster::names::TEMPLATE_LABEL,
    platform::{
        Obstacle, ObstacleKind, Platform, PlatformEvent, ProcessNumber, WorkerTemplate, kubernetes::Kubernetes,
    },
};
use weir_protocol::ids::random_digits;

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    client: Client,
    pods: Api<Pod>,
    job: String,
}

impl Cluster {
    async fn new() -> Self {
        let client = Client::try_default().await.expect("KUBECONFIG should name a cluster");
        let job = format!("j{}", random_digits(8));
        Self { pods: Api::namespaced(client.clone(), "default"), client, job }
    }

    fn selector(&self) -> String {
        format!("weir.dev/job={}", self.job)
    }

    fn platform(&self) -> (Kubernetes, mpsc::Receiver<PlatformEvent>) {
        let (events, received) = mpsc::channel(64);
        (Kubernetes::new(self.client.clone(), "default", &self.selector(), events), received)
    }

    /// A pod that is bound to a node, so that it is deleted with grace.
    fn template(&self, hash: &str) -> WorkerTemplate {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{}-worker-", self.job), "labels": {"weir.dev/job": self.job}},
            "spec": {"nodeName": "nowhere", "restartPolicy": "Never",
                     "containers": [{"name": "worker", "image": "worker"}]},
        }))
        .unwrap();
        WorkerTemplate { hash: hash.to_string(), pod: Some(Arc::new(pod)) }
    }

    async fn names(&self) -> Vec<String> {
        let list = self.pods.list(&ListParams::default().labels(&self.selector())).await.unwrap();
        list.items.into_iter().map(|pod| pod.metadata.name.unwrap()).collect()
    }

    /// Waits until there are so many pods.
    async fn until(&self, count: usize) -> Vec<String> {
        let there = async {
            loop {
                let names = self.names().await;
                if names.len() == count {
                    return names;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("there should be {count} pods"))
    }

    async fn report(&self, pod: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.pods.patch_status(pod, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn serves(&self, pod: &str) {
        let status = json!({"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "worker", "ready": true, "restartCount": 0, "image": "worker", "imageID": "",
                                   "state": {"running": {}}}]});
        self.report(pod, status).await;
    }

    async fn forget(&self, pod: &str) {
        self.pods.delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

async fn next(events: &mut mpsc::Receiver<PlatformEvent>) -> PlatformEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event should come").unwrap()
}

fn started(process: ProcessNumber, name: &str, template: &str) -> PlatformEvent {
    let (name, template, address) = (name.to_string(), template.to_string(), "10.0.0.7:6120".to_string());
    PlatformEvent::Started { process, name, address, pid: None, template }
}

#[tokio::test]
#[ignore = "needs a cluster's API server"]
async fn a_pod_is_created_told_of_and_ended() {
    let cluster = Cluster::new().await;
    let (mut platform, mut events) = cluster.platform();
    assert_eq!(next(&mut events).await, PlatformEvent::Found { processes: Vec::new() });

    let one = platform.start(&cluster.template("a"));
    let names = cluster.until(1).await;
    let pod = cluster.pods.get(&names[0]).await.unwrap();
    assert_eq!(pod.metadata.labels.unwrap()[TEMPLATE_LABEL], "a");
    let waiting = json!({"phase": "Pending", "containerStatuses": [
        {"name": "worker", "ready": false, "restartCount": 0, "image": "worker", "imageID": "",
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]});
    cluster.report(&names[0], waiting).await;
    let reason = "ImagePullBackOff: no such image".to_string();
    let obstacle = Some(Obstacle { kind: ObstacleKind::Image, reason });
    assert_eq!(next(&mut events).await, PlatformEvent::Waiting { process: one, obstacle });
    cluster.serves(&names[0]).await;
    assert_eq!(next(&mut events).await, started(one, &names[0], "a"));

    // Somebody else deletes it; in the end it is gone.
    cluster.pods.delete(&names[0], &DeleteParams::default()).await.unwrap();
    let reason = "its pod was deleted".to_string();
    assert_eq!(next(&mut events).await, PlatformEvent::Leaving { process: one, reason: reason.clone() });
    cluster.forget(&names[0]).await;
    assert_eq!(next(&mut events).await, PlatformEvent::Died { process: one, how: reason });

    // One that is cut off is ended without waiting for its node.
    let two = platform.start(&cluster.template("a"));
    let names = cluster.until(1).await;
    cluster.serves(&names[0]).await;
    assert_eq!(next(&mut events).await, started(two, &names[0], "a"));
    platform.kill(two);
    assert!(matches!(next(&mut events).await, PlatformEvent::Died { process, .. } if process == two));
    cluster.until(0).await;

    // One that ends by itself stays for its logs.
    let three = platform.start(&cluster.template("a"));
    let names = cluster.until(1).await;
    cluster.serves(&names[0]).await;
    assert_eq!(next(&mut events).await, started(three, &names[0], "a"));
    cluster
        .report(
            &names[0],
            json!({"phase": "Failed", "containerStatuses": [
                {"name": "worker", "ready": false, "restartCount": 0, "image": "worker", "imageID": "",
                 "state": {"running": null, "terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
        )
        .await;
    let PlatformEvent::Died { how, .. } = next(&mut events).await else { panic!() };
    assert!(how.starts_with("out of memory"), "{how}");
    assert_eq!(cluster.names().await, names);
    platform.finish().await;
    cluster.forget(&names[0]).await;
}

#[tokio::test]
#[ignore = "needs a cluster's API server"]
async fn pods_outlive_a_platform_that_lets_go_and_the_next_one_finds_and_ends_them() {
    let cluster = Cluster::new().await;
    let (mut platform, mut events) = cluster.platform();
    next(&mut events).await;
    platform.start(&cluster.template("a"));
    platform.start(&cluster.template("b"));
    let names = cluster.until(2).await;
    for name in &names {
        cluster.serves(name).await;
        assert!(matches!(next(&mut events).await, PlatformEvent::Started { .. }));
    }
    platform.release().await;

    let (mut platform, mut events) = cluster.platform();
    let PlatformEvent::Found { processes } = next(&mut events).await else { panic!() };
    let mut templates: Vec<_> = processes.iter().map(|(_, template)| template.as_str()).collect();
    templates.sort_unstable();
    assert_eq!(templates, ["a", "b"]);
    for _ in 0..2 {
        let PlatformEvent::Started { process, template, .. } = next(&mut events).await else { panic!() };
        assert!(processes.contains(&(process, template)));
    }
    // Nobody plays the kubelet: with a grace period of nothing the API server removes them by itself.
    for (process, _) in &processes {
        platform.kill(*process);
    }
    platform.finish().await;
    cluster.until(0).await;
}

#[tokio::test]
#[ignore = "needs a cluster's API server"]
async fn a_pod_that_cannot_be_created_is_told_and_is_not_waited_for_at_the_end() {
    let cluster = Cluster::new().await;
    let (mut platform, mut events) = cluster.platform();
    next(&mut events).await;
    let mut template = cluster.template("a");
    let mut pod = (*template.pod.clone().unwrap()).clone();
    pod.spec.as_mut().unwrap().containers.clear();
    template.pod = Some(Arc::new(pod));
    let process = platform.start(&template);
    let PlatformEvent::Waiting { process: waits, obstacle } = next(&mut events).await else { panic!() };
    let Obstacle { kind, reason } = obstacle.expect("it is refused");
    assert_eq!((waits, kind), (process, ObstacleKind::Refused));
    assert!(
        reason.starts_with("Invalid: its pod cannot be created:") && reason.contains("spec.containers"),
        "{reason}"
    );
    platform.stop(process);
    platform.finish().await;
    assert!(matches!(next(&mut events).await, PlatformEvent::StartFailed { .. }));
    cluster.until(0).await;
}
