//! The node: its object, and the lease that says that it is alive.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{MARK, NODE};
use crate::cluster::Cluster;

/// Renewed as often as by a kubelet, and valid as long.
const RENEW: Duration = Duration::from_secs(10);
const VALID_SECONDS: u32 = 40;
/// More than any benchmark asks for.
const PODS: u32 = 10_000;

/// Who applies the objects.
pub fn manager() -> PatchParams {
    PatchParams::apply("weir-e2e-stub").force()
}

/// Makes the node, ready to take pods that tolerate it.
pub async fn register(cluster: &Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {MARK: "true", "kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}},
        "spec": {"taints": [{"key": MARK, "value": "true", "effect": "NoSchedule"}]},
    });
    nodes.patch(NODE, &manager(), &Patch::Apply(&node)).await.expect("the node is made");
    beat(cluster).await.expect("the lease is made");
    nodes.patch_status(NODE, &manager(), &Patch::Apply(&status(cluster))).await.expect("the node is ready");
}

fn status(cluster: &Cluster) -> Value {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let room = json!({"pods": PODS.to_string(), "cpu": "10k", "memory": "100Ti", "ephemeral-storage": "100Ti"});
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Stub", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE},
        "status": {
            "capacity": room, "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": cluster.node}, {"type": "Hostname", "address": NODE}],
            "conditions": [
                condition("Ready", "True"), condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                condition("PIDPressure", "False"),
            ],
        },
    })
}

/// Renews the lease for ever. An API server that is too busy for one is asked again: three may be missed.
pub async fn renew(cluster: &Cluster) {
    let mut due = tokio::time::interval(RENEW);
    loop {
        due.tick().await;
        if let Err(error) = beat(cluster).await {
            eprintln!("the lease of {NODE} is not renewed: {error}");
        }
    }
}

async fn beat(cluster: &Cluster) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": NODE},
        "spec": {
            "holderIdentity": NODE, "leaseDurationSeconds": VALID_SECONDS,
            "renewTime": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        },
    });
    leases.patch(NODE, &manager(), &Patch::Apply(&lease)).await.map(drop)
}
