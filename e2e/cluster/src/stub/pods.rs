//! The kubelet's part: pods that are bound to the node become ready, and pods that are to go are gone.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    pin::pin,
    sync::{Arc, Mutex},
};

use chrono::{SecondsFormat, Utc};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{NODE, Workers, server, worker::Worker};
use crate::{cluster::Cluster, s3::Bucket};

/// Pods that are started or ended at once, so that the API server is not asked for thousands of things in one moment.
const AT_ONCE: usize = 64;
/// The first address, which leaves some for the node's own use.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 10);
/// The container that holds the worker.
const CONTAINER: &str = "worker";

/// Plays the kubelet of the node.
pub struct Kubelet {
    node: String,
    client: Client,
    workers: Workers,
    bucket: Bucket,
    /// By the uid of their pods.
    running: Mutex<HashMap<String, Arc<Worker>>>,
    slots: Semaphore,
}

impl Kubelet {
    pub fn new(cluster: &Cluster, workers: Workers, bucket: Bucket) -> Arc<Self> {
        Arc::new(Self {
            node: cluster.node.clone(),
            client: cluster.client.clone(),
            workers,
            bucket,
            running: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
        })
    }

    /// Follows the pods of the node for ever.
    pub async fn run(self: Arc<Self>) {
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
        let mut events = pin!(watcher::watcher(Api::<Pod>::all(self.client.clone()), of_node).default_backoff());
        // Addresses are not used again: a connection to a pod that is gone must not meet another.
        let mut next = u32::from(FIRST);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.see(pod, &mut next),
                Ok(Event::Delete(pod)) => self.forget(&pod.uid().unwrap_or_default()),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => eprintln!("the watch of pods broke and is taken up again: {error}"),
            }
        }
    }

    fn see(self: &Arc<Self>, pod: Pod, next: &mut u32) {
        let uid = pod.uid().unwrap_or_default();
        let ended = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Succeeded"));
        let kubelet = Arc::clone(self);
        if pod.metadata.deletion_timestamp.is_some() {
            self.forget(&uid);
            tokio::spawn(async move { kubelet.remove(&pod).await });
            return;
        }
        let mut running = self.running.lock().expect("no holder panics");
        if ended || running.contains_key(&uid) {
            return;
        }
        let address = Ipv4Addr::from(*next);
        *next += 1;
        let worker = Arc::new(Worker::new(address, self.bucket.clone()));
        running.insert(uid, Arc::clone(&worker));
        drop(running);
        tokio::spawn(async move {
            // A pod that cannot be started waits, as with a kubelet; the benchmark then waits in vain and says for what.
            if let Err(error) = kubelet.start(&pod, &worker).await {
                eprintln!("pod {} does not start: {error}", pod.name_any());
            }
        });
    }

    /// Starts the pod's worker, and says that it is ready; once it has ended, says that too.
    async fn start(&self, pod: &Pod, worker: &Arc<Worker>) -> Result<(), String> {
        {
            let _slot = self.slots.acquire().await.map_err(|error| error.to_string())?;
            let certificates = self.certificates(pod).await?;
            worker.serve_with(server::config(&certificates)?);
            self.workers.write().insert(worker.address, Arc::clone(worker));
            self.report(pod, &running(pod, worker.address, &self.node)).await?;
        }
        worker.ended.cancelled().await;
        self.workers.write().remove(&worker.address);
        let _slot = self.slots.acquire().await.map_err(|error| error.to_string())?;
        // Whoever told it to stop mostly deletes the pod at the same time.
        drop(self.report(pod, &succeeded(pod)).await);
        Ok(())
    }

    /// The Secret that the pod mounts for its certificates.
    async fn certificates(&self, pod: &Pod) -> Result<Secret, String> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        let mut secrets = volumes.into_iter().flatten().filter_map(|volume| volume.secret.as_ref());
        let name = secrets.find_map(|secret| secret.secret_name.as_ref()).ok_or("it mounts no Secret")?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        api.get(name).await.map_err(|error| format!("its Secret {name} is not read: {error}"))
    }

    async fn report(&self, pod: &Pod, status: &Value) -> Result<(), String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let patched = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await;
        patched.map(drop).map_err(|error| format!("its status is not written: {error}"))
    }

    async fn remove(&self, pod: &Pod) {
        let Ok(_slot) = self.slots.acquire().await else { return };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        // It may be gone already.
        drop(api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await);
    }

    fn forget(&self, uid: &str) {
        if let Some(worker) = self.running.lock().expect("no holder panics").remove(uid) {
            worker.ended.cancel();
        }
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn image(pod: &Pod) -> String {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.iter().find_map(|container| container.image.clone()).unwrap_or_default()
}

/// What a kubelet says of a pod whose container runs and has passed its readiness probe.
fn running(pod: &Pod, address: Ipv4Addr, node: &str) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now()});
    json!({
        "phase": "Running",
        "hostIP": node, "hostIPs": [{"ip": node}],
        "podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}],
        "startTime": now(),
        "conditions": [condition("Initialized"), condition("ContainersReady"), condition("Ready")],
        "containerStatuses": [{
            "name": CONTAINER, "image": image(pod), "imageID": "", "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": now()}},
        }],
    })
}

/// What a kubelet says of a pod whose process has ended as it should.
fn succeeded(pod: &Pod) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "False", "lastTransitionTime": now()});
    json!({
        "phase": "Succeeded",
        "conditions": [condition("ContainersReady"), condition("Ready")],
        "containerStatuses": [{
            "name": CONTAINER, "image": image(pod), "imageID": "", "ready": false, "started": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now()}},
        }],
    })
}
