//! What may happen to a job's pods (PodDisruptionBudget), and who may reach them (NetworkPolicy).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{meta, selector};
use crate::cluster::{names, validate::Identity};

fn select(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// One at a time: each eviction is a checkpoint and a hand-over, and the next may come when that is done. Standbys are not counted
/// among `spec.workers.replicas`, which is the scale: so many more may go at once.
pub fn disruption_budget(identity: &Identity) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: meta(identity, names::policy(&identity.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(select(selector(&identity.name))),
            // A pod that is not ready does nothing worth keeping a node for.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_string()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// gRPC is for the job's own workers and for controllers; metrics and health for everybody, since monitors and kubelets live
/// anywhere. What goes out is not limited: sources and sinks are the user's.
pub fn network_policy(identity: &Identity, controller_namespace: &str) -> NetworkPolicy {
    let port = |number: i32| NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_string()),
        ..NetworkPolicyPort::default()
    };
    let label = |name: &str, value: &str| select([(name.to_string(), value.to_string())].into());
    let workers =
        NetworkPolicyPeer { pod_selector: Some(select(selector(&identity.name))), ..NetworkPolicyPeer::default() };
    let controllers = NetworkPolicyPeer {
        namespace_selector: Some(label(names::NAMESPACE_LABEL, controller_namespace)),
        pod_selector: Some(label(names::NAME_LABEL, names::CONTROLLER)),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: meta(identity, names::policy(&identity.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(select(selector(&identity.name))),
            policy_types: Some(vec!["Ingress".to_string()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(vec![workers, controllers]),
                    ports: Some(vec![port(names::GRPC_PORT)]),
                },
                NetworkPolicyIngressRule { from: None, ports: Some(vec![port(names::HTTP_PORT)]) },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}
