//! What may happen to a job's pods (PodDisruptionBudget), and who may reach them (NetworkPolicy).

use std::{collections::BTreeMap, str::FromStr};

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
use crate::cluster::{identity::Identity, names};

/// Who may read workers' metrics, as in a NetworkPolicy's `from`; nobody if empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers(pub Vec<NetworkPolicyPeer>);

impl FromStr for Peers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = |error: &dyn std::fmt::Display| format!("no list of a NetworkPolicy's peers in JSON: {error}");
        let peers: Vec<NetworkPolicyPeer> = serde_json::from_str(text).map_err(|error| form(&error))?;
        if peers.contains(&NetworkPolicyPeer::default()) {
            return Err(form(&"a peer needs a namespaceSelector, a podSelector or an ipBlock"));
        }
        Ok(Self(peers))
    }
}

fn select(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// One at a time: each eviction is a checkpoint and a hand-over, and the next may come when that is done. Standbys are not counted
/// among `spec.workers.replicas`, which is the scale: so many more may go at once. Where the job stands still since nothing has room
/// for a worker of it, no other has work that were worth keeping a node for.
pub fn disruption_budget(identity: &Identity, stands_still: bool) -> PodDisruptionBudget {
    let most = if stands_still { IntOrString::String("100%".to_string()) } else { IntOrString::Int(1) };
    PodDisruptionBudget {
        metadata: meta(identity, names::policy(&identity.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(most),
            selector: Some(select(selector(&identity.name))),
            // A pod that is not ready does nothing worth keeping a node for.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_string()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// gRPC is for the job's own workers and for controllers; metrics for whom the administrator names. Probes are for nobody here: the
/// kubelet, on the pod's own node, is let in by every network. What goes out is not limited: sources and sinks are the user's.
pub fn network_policy(
    identity: &Identity,
    controller_namespace: &str,
    metrics_from: &[NetworkPolicyPeer],
) -> NetworkPolicy {
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
    let grpc =
        NetworkPolicyIngressRule { from: Some(vec![workers, controllers]), ports: Some(vec![port(names::GRPC_PORT)]) };
    // A rule without anybody in it would be one for everybody.
    let metrics = (!metrics_from.is_empty()).then(|| NetworkPolicyIngressRule {
        from: Some(metrics_from.to_vec()),
        ports: Some(vec![port(names::HTTP_PORT)]),
    });
    NetworkPolicy {
        metadata: meta(identity, names::policy(&identity.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(select(selector(&identity.name))),
            policy_types: Some(vec!["Ingress".to_string()]),
            ingress: Some([grpc].into_iter().chain(metrics).collect()),
            ..NetworkPolicySpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(metrics_from: &[NetworkPolicyPeer]) -> Vec<NetworkPolicyIngressRule> {
        let identity = Identity { namespace: "air".to_string(), name: "flights".to_string(), uid: "u".to_string() };
        network_policy(&identity, "weir-system", metrics_from).spec.and_then(|spec| spec.ingress).unwrap_or_default()
    }

    #[test]
    fn metrics_are_for_whom_they_are_meant_and_probes_and_grpc_for_nobody_else() {
        let ports = |rules: &[NetworkPolicyIngressRule]| -> Vec<IntOrString> {
            rules.iter().flat_map(|rule| rule.ports.iter().flatten()).filter_map(|port| port.port.clone()).collect()
        };
        let nobody = rules(&[]);
        assert_eq!(ports(&nobody), [IntOrString::Int(names::GRPC_PORT)]);
        let monitoring = NetworkPolicyPeer {
            namespace_selector: Some(select([(names::NAMESPACE_LABEL.to_string(), "monitoring".to_string())].into())),
            ..NetworkPolicyPeer::default()
        };
        let some = rules(std::slice::from_ref(&monitoring));
        assert_eq!(ports(&some), [IntOrString::Int(names::GRPC_PORT), IntOrString::Int(names::HTTP_PORT)]);
        assert_eq!(some[1].from, Some(vec![monitoring]));
        let written = r#"[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]"#;
        assert_eq!(written.parse(), Ok(Peers(some[1].from.clone().unwrap())));
        assert!("[{}]".parse::<Peers>().is_err_and(|error| error.contains("namespaceSelector")));
        assert!("[{\"namespace\": 1}]".parse::<Peers>().is_err(), "nothing that is known");
        assert!(
            some.iter().all(|rule| rule.from.as_ref().is_some_and(|from| !from.is_empty())),
            "none is for everybody"
        );
    }

    #[test]
    fn a_job_that_stands_still_keeps_no_node() {
        let identity = Identity { namespace: "air".to_string(), name: "flights".to_string(), uid: "u".to_string() };
        let most = |stands_still| disruption_budget(&identity, stands_still).spec.unwrap().max_unavailable;
        assert_eq!(most(false), Some(IntOrString::Int(1)));
        assert_eq!(most(true), Some(IntOrString::String("100%".to_string())));
    }
}
