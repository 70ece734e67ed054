//! What a pod's object says of the process in it, and of what the user has put beside it. Pure: objects in, one of four states
//! out.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodCondition,
};

use crate::{
    cluster::names::{GRPC_PORT, WORKER_CONTAINER},
    platform::{Obstacle, ObstacleKind, Trouble},
};

/// A process that ends by signal n has this exit code plus n, by the custom of shells and container runtimes.
const SIGNAL_BASE: i32 = 128;
/// How the end by that signal is called which nothing can catch.
const KILLED: &str = "signal 9";
/// What a container waits for in the course of things; all other reasons are in the way.
const COMING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The scheduler's word for a pod that fits on no node.
const UNSCHEDULABLE: &str = "Unschedulable";
/// Why a node does not take a pod that it would take if another went. The scheduler says so in words only.
const ROOM: [&str; 6] =
    ["Insufficient", "Too many pods", "anti-affinity", "topology spread", "free ports", "max volume count"];
/// Why a node does not take a pod, whatever else goes.
const PLACE: [&str; 6] =
    ["affinity", "taint", "unschedulable", "PersistentVolumeClaim", "persistentvolumeclaim", "volume"];

/// What is known of the process in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It is on its way. What is in the way, if something is.
    Waiting {
        /// None: it comes.
        obstacle: Option<Obstacle>,
    },
    /// It runs. Whether it answers is seen by asking it: the kubelet's probe would say so up to a second later.
    Runs {
        /// host:port of its gRPC server.
        address: String,
        /// What is wrong with what stands beside it.
        trouble: Option<Trouble>,
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
    let state = containers(pod).find(|status| status.name == WORKER_CONTAINER).and_then(|worker| worker.state.as_ref());
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
        Some(address) if runs => PodState::Runs { address, trouble: beside(pod) },
        _ => PodState::Waiting { obstacle: unscheduled(pod).or_else(|| in_the_way(pod)).or_else(|| before(pod)) },
    }
}

/// Other containers of it run on: nothing ends them, and they hold all that the pod has asked for.
pub fn is_outlived(pod: &Pod) -> bool {
    containers(pod).any(|status| {
        status.name != WORKER_CONTAINER && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

/// Of the containers, without those that come before them.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten())
}

/// Of those that come before them.
fn init_containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten())
}

/// As the pod's spec has it.
fn written<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
}

/// It comes before the others and stays beside them; Kubernetes starts it again when it ends.
fn is_kept_up(pod: &Pod, name: &str) -> bool {
    written(pod, name).is_some_and(|container| container.restart_policy.as_deref() == Some("Always"))
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

/// Of a container that is not Weir's by its name.
fn of(name: &str, text: &str) -> String {
    if name == WORKER_CONTAINER { text.to_string() } else { format!("its container {name}: {text}") }
}

/// How it ended: what the kubelet says of the pod (evicted, shut down), else what the runtime says of the container, or of the one
/// without which it never began.
fn ended(pod: &Pod, terminated: Option<&ContainerStateTerminated>) -> String {
    let status = pod.status.as_ref();
    let of_pod =
        said(status.and_then(|status| status.reason.as_deref()), status.and_then(|status| status.message.as_deref()));
    let disrupted = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let disrupted = disrupted.and_then(|condition| said(condition.reason.as_deref(), condition.message.as_deref()));
    if let Some(reason) = of_pod.or(disrupted) {
        return reason;
    }
    if let Some(terminated) = terminated {
        return of_container(pod, WORKER_CONTAINER, terminated);
    }
    let failed = |status: &&ContainerStatus| terminated_of(status).is_some_and(|terminated| terminated.exit_code != 0);
    match init_containers(pod).chain(containers(pod)).find(failed) {
        Some(status) => terminated_of(status)
            .map_or_else(String::new, |terminated| of(&status.name, &of_container(pod, &status.name, terminated))),
        None => "its pod ended without saying why".to_string(),
    }
}

fn terminated_of(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

/// How it ended, now or the last time.
fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let last = |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
    let state = if last(&status.state) { &status.state } else { &status.last_state };
    state.as_ref()?.terminated.as_ref()
}

fn of_container(pod: &Pod, name: &str, terminated: &ContainerStateTerminated) -> String {
    let code = terminated.exit_code;
    let how = match (terminated.signal.unwrap_or_default(), code) {
        (0, code) if code > SIGNAL_BASE && code <= SIGNAL_BASE + 64 => format!("signal {}", code - SIGNAL_BASE),
        (0, code) => format!("exit code {code}"),
        (signal, _) => format!("signal {signal}"),
    };
    let message = terminated.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
    match (terminated.reason.as_deref(), message) {
        (Some("OOMKilled"), _) => format!("out of memory: it used more than {}", memory_limit(pod, name)),
        // The runtime does not always see in time that it was the memory's limit. What it logged last is no reason.
        (Some("Error") | None, _) if how == KILLED => {
            format!("{how}: killed from outside, it may have used more than {}", memory_limit(pod, name))
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

fn memory_limit(pod: &Pod, name: &str) -> String {
    let resources = written(pod, name).and_then(|container| container.resources.as_ref());
    let limit = resources.and_then(|resources| resources.limits.as_ref()).and_then(|limits| limits.get("memory"));
    let field =
        if name == WORKER_CONTAINER { "spec.workers.resources" } else { "its resources in spec.workers.podTemplate" };
    match limit {
        Some(limit) if name == WORKER_CONTAINER => {
            format!("its limits.memory of {}; raise {field}.limits.memory", limit.0)
        }
        Some(limit) => format!("its limits.memory of {}; raise {field}", limit.0),
        None if name == WORKER_CONTAINER => format!("its node has; set {field}.limits.memory"),
        None => format!("its node has; limit {field}"),
    }
}

fn told_to_go(pod: &Pod) -> String {
    let disrupted = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let why = disrupted.and_then(|condition| said(condition.reason.as_deref(), condition.message.as_deref()));
    why.unwrap_or_else(|| "its pod was deleted".to_string())
}

fn unscheduled(pod: &Pod) -> Option<Obstacle> {
    let unscheduled = condition(pod, "PodScheduled").filter(|condition| condition.status == "False")?;
    let message = unscheduled.message.as_deref().unwrap_or("the scheduler does not say why");
    let word = unscheduled.reason.as_deref().unwrap_or(UNSCHEDULABLE);
    let kind = if word == UNSCHEDULABLE { unschedulable(message) } else { ObstacleKind::NoPlace };
    Some(Obstacle { kind, reason: format!("{word}: no node takes it: {message}") })
}

/// Whether there would be room if another pod went, by the scheduler's words. What it says of preemption is left out: that looks at
/// pods of lower priority only. Words that nobody knows count as no room, which they mostly are.
fn unschedulable(message: &str) -> ObstacleKind {
    let said = message.split("preemption:").next().unwrap_or_default();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if !has(&ROOM) && has(&PLACE) { ObstacleKind::NoPlace } else { ObstacleKind::NoRoom }
}

/// What one of its containers waits for, if that is not in the course of things.
fn in_the_way(pod: &Pod) -> Option<Obstacle> {
    init_containers(pod).chain(containers(pod)).find_map(|status| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        match waits_for(status, waiting) {
            // It was running a moment ago, and will be started again in another.
            None if is_kept_up(pod, &status.name) => {
                let end = last_end(status).filter(|_| status.started != Some(true) && status.restart_count > 0)?;
                let how = of_container(pod, &status.name, end);
                let text = format!("has ended {} times, the last time with {how}", status.restart_count);
                Some(Obstacle { kind: ObstacleKind::Crash, reason: of(&status.name, &text) })
            }
            found => found,
        }
    })
}

fn waits_for(status: &ContainerStatus, waiting: Option<&ContainerStateWaiting>) -> Option<Obstacle> {
    let waiting = waiting.filter(|waiting| !COMING.contains(&waiting.reason.as_deref().unwrap_or(COMING[0])))?;
    let text = said(waiting.reason.as_deref(), waiting.message.as_deref())?;
    let kind = match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => ObstacleKind::Image,
        "CrashLoopBackOff" | "RunContainerError" | "StartError" | "CreateContainerError" => ObstacleKind::Crash,
        _ => ObstacleKind::Other,
    };
    Some(Obstacle { kind, reason: of(&status.name, &text) })
}

/// What comes before the worker and is not done.
fn before(pod: &Pod) -> Option<Obstacle> {
    let not_done = |status: &&ContainerStatus| {
        let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
        runs && !(is_kept_up(pod, &status.name) && status.started == Some(true))
    };
    let status = init_containers(pod).find(not_done)?;
    let text = if is_kept_up(pod, &status.name) {
        "runs, but its startupProbe has not succeeded yet, and nothing after it starts before"
    } else {
        "runs, and nothing after it starts before it has ended"
    };
    Some(Obstacle { kind: ObstacleKind::Initializing, reason: of(&status.name, text) })
}

/// What is wrong with what stands beside a worker that runs.
fn beside(pod: &Pod) -> Option<Trouble> {
    let others = containers(pod).filter(|status| status.name != WORKER_CONTAINER);
    let kept_up = init_containers(pod).filter(|status| is_kept_up(pod, &status.name));
    let mut troubles: Vec<Trouble> = others.chain(kept_up).filter_map(|status| trouble(pod, status)).collect();
    troubles.sort_by_key(|trouble| !trouble.lasting);
    troubles.into_iter().next()
}

fn trouble(pod: &Pod, status: &ContainerStatus) -> Option<Trouble> {
    let (name, state) = (&status.name, status.state.as_ref()?);
    let kept_up = is_kept_up(pod, name);
    if let Some(end) = state.terminated.as_ref().filter(|end| kept_up || end.exit_code != 0) {
        let how = of_container(pod, name, end);
        let text = if kept_up {
            format!("has ended with {how}, and is started again")
        } else {
            format!(
                "has ended with {how}, and is not started again while its worker runs; what is to be started again stands among \
                 initContainers, with restartPolicy Always"
            )
        };
        return Some(Trouble { lasting: !kept_up, reason: of(name, &text) });
    }
    if let Some(obstacle) = waits_for(status, state.waiting.as_ref()) {
        return Some(Trouble { lasting: true, reason: obstacle.reason });
    }
    let probed = written(pod, name).is_some_and(|it| it.readiness_probe.is_some() || it.startup_probe.is_some());
    let unready = state.running.is_some() && !status.ready && probed;
    unready.then(|| Trouble { lasting: false, reason: of(name, "runs, but its probe does not succeed") })
}
