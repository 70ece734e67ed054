//! What a pod's object says of the process in it. Pure: objects in, one of four states out.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStateWaiting, Pod, PodCondition};

use crate::cluster::names::{GRPC_PORT, WORKER_CONTAINER};

/// A process that ends by signal n has this exit code plus n, by the custom of shells and container runtimes.
const SIGNAL_BASE: i32 = 128;
/// How the end by that signal is called which nothing can catch.
const KILLED: &str = "signal 9";
/// What a container waits for in the course of things; all other reasons are in the way.
const COMING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The scheduler's word for a pod that fits on no node.
const UNSCHEDULABLE: &str = "Unschedulable";

/// What is known of the process in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It is on its way. What is in the way, if something is.
    Waiting {
        /// For people.
        reason: Option<String>,
        /// No node has room for it.
        no_room: bool,
    },
    /// It runs. Whether it answers is seen by asking it: the kubelet's probe would say so up to a second later.
    Runs {
        /// host:port of its gRPC server.
        address: String,
    },
    /// It was told to go, and runs on for a while.
    Leaving {
        /// For people.
        reason: String,
        /// host:port of its gRPC server.
        address: Option<String>,
    },
    /// It has ended, or will not begin.
    Dead {
        /// For people.
        how: String,
    },
}

/// What a pod's object says.
pub fn state_of(pod: &Pod) -> PodState {
    let status = pod.status.as_ref();
    let worker = status
        .and_then(|status| status.container_statuses.as_ref())
        .and_then(|statuses| statuses.iter().find(|status| status.name == WORKER_CONTAINER));
    let state = worker.and_then(|worker| worker.state.as_ref());
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let terminated = state.and_then(|state| state.terminated.as_ref());

    if matches!(phase, "Failed" | "Succeeded") || terminated.is_some() {
        return PodState::Dead { how: ended(pod, terminated) };
    }
    if status.and_then(|status| status.reason.as_deref()) == Some("NodeLost") {
        return PodState::Dead { how: format!("its node {} is lost", node(pod)) };
    }
    let runs = state.is_some_and(|state| state.running.is_some());
    let address = status.and_then(|status| status.pod_ip.as_deref()).filter(|ip| !ip.is_empty()).map(address_of);
    if pod.metadata.deletion_timestamp.is_some() {
        let reason = told_to_go(pod);
        return if runs { PodState::Leaving { reason, address } } else { PodState::Dead { how: reason } };
    }
    match address {
        Some(address) if runs => PodState::Runs { address },
        _ => match unscheduled(pod) {
            Some(unscheduled) => {
                let message = unscheduled.message.as_deref().unwrap_or("the scheduler does not say why");
                // The scheduler's own word comes first, as the kubelet's does below: it becomes the reason of a condition.
                let word = unscheduled.reason.as_deref().unwrap_or(UNSCHEDULABLE);
                let reason = format!("{word}: no node takes it: {message}");
                PodState::Waiting { reason: Some(reason), no_room: word == UNSCHEDULABLE }
            }
            None => {
                let reason = in_the_way(state.and_then(|state| state.waiting.as_ref()));
                PodState::Waiting { reason, no_room: false }
            }
        },
    }
}

/// Other containers of it run on: nothing ends them, and they hold all that the pod has asked for.
pub fn is_outlived(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().any(|status| {
        status.name != WORKER_CONTAINER && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

fn address_of(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{GRPC_PORT}") } else { format!("{ip}:{GRPC_PORT}") }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("(none)")
}

/// `reason: message`, as far as there are any.
fn said(reason: Option<&str>, message: Option<&str>) -> Option<String> {
    let filled = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_string);
    match (filled(reason), filled(message)) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (reason, message) => reason.or(message),
    }
}

/// How it ended: what the kubelet says of the pod (evicted, shut down), else what the runtime says of the container.
fn ended(pod: &Pod, terminated: Option<&ContainerStateTerminated>) -> String {
    let status = pod.status.as_ref();
    let of_pod =
        said(status.and_then(|status| status.reason.as_deref()), status.and_then(|status| status.message.as_deref()));
    let disrupted = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let disrupted = disrupted.and_then(|condition| said(condition.reason.as_deref(), condition.message.as_deref()));
    match (of_pod.or(disrupted), terminated) {
        (Some(reason), _) => reason,
        (None, Some(terminated)) => of_container(pod, terminated),
        (None, None) => "its pod ended without saying why".to_string(),
    }
}

fn of_container(pod: &Pod, terminated: &ContainerStateTerminated) -> String {
    let code = terminated.exit_code;
    let how = match (terminated.signal.unwrap_or_default(), code) {
        (0, code) if code > SIGNAL_BASE && code <= SIGNAL_BASE + 64 => format!("signal {}", code - SIGNAL_BASE),
        (0, code) => format!("exit code {code}"),
        (signal, _) => format!("signal {signal}"),
    };
    let message = terminated.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
    match (terminated.reason.as_deref(), message) {
        (Some("OOMKilled"), _) => format!("out of memory: it used more than {}", memory_limit(pod)),
        // The runtime does not always see in time that it was the memory's limit. What it logged last is no reason.
        (Some("Error") | None, _) if how == KILLED => {
            format!("{how}: killed from outside, it may have used more than {}", memory_limit(pod))
        }
        // `Error` and `Completed` say nothing that the code does not.
        (Some("Error" | "Completed") | None, None) => how,
        (Some("Error" | "Completed") | None, Some(message)) => format!("{how}: {message}"),
        (Some(reason), message) => {
            let detail = message.map(|message| format!(": {message}")).unwrap_or_default();
            format!("{how} ({reason}{detail})")
        }
    }
}

fn memory_limit(pod: &Pod) -> String {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let limits = containers
        .iter()
        .find(|container| container.name == WORKER_CONTAINER)
        .and_then(|container| container.resources.as_ref())
        .and_then(|resources| resources.limits.as_ref());
    match limits.and_then(|limits| limits.get("memory")) {
        Some(limit) => format!("its limits.memory of {}; raise spec.workers.resources.limits.memory", limit.0),
        None => "its node has; set spec.workers.resources.limits.memory".to_string(),
    }
}

fn told_to_go(pod: &Pod) -> String {
    let disrupted = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let why = disrupted.and_then(|condition| said(condition.reason.as_deref(), condition.message.as_deref()));
    why.unwrap_or_else(|| "its pod was deleted".to_string())
}

fn unscheduled(pod: &Pod) -> Option<&PodCondition> {
    condition(pod, "PodScheduled").filter(|condition| condition.status == "False")
}

fn in_the_way(waiting: Option<&ContainerStateWaiting>) -> Option<String> {
    let waiting = waiting.filter(|waiting| !COMING.contains(&waiting.reason.as_deref().unwrap_or(COMING[0])))?;
    said(waiting.reason.as_deref(), waiting.message.as_deref())
}
