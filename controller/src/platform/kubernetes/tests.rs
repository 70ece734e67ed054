//! Pods as the API server has them, and what is told of each.

use serde_json::{Value, json};

use super::facts::{PodState, state_of};
use super::ledger::{FAILED_KEPT, Ledger};
use super::*;

/// A pod with this status; `extra` is laid over its metadata.
fn pod(name: &str, status: &Value, extra: &Value) -> Pod {
    let mut metadata = json!({"name": name, "labels": {TEMPLATE_LABEL: "t"}});
    if let (Some(metadata), Some(extra)) = (metadata.as_object_mut(), extra.as_object()) {
        metadata.extend(extra.clone());
    }
    let spec = json!({
        "nodeName": "node-1",
        "containers": [{"name": "worker", "resources": {"limits": {"memory": "256Mi"}}}],
    });
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

fn waiting_container(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [
        {"name": "worker", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
         "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn ended_container(phase: &str, terminated: &Value) -> Value {
    json!({"phase": phase, "containerStatuses": [
        {"name": "worker", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
         "state": {"terminated": terminated}}]})
}

fn running(ip: &str) -> Value {
    json!({
        "phase": "Running", "podIP": ip,
        // Whether it answers is the session's question.
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "worker", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
                               "state": {"running": {}}}],
    })
}

fn deleted() -> Value {
    json!({"deletionTimestamp": "2026-11-23T02:00:00Z"})
}

fn obstacle(kind: ObstacleKind, reason: &str) -> Obstacle {
    Obstacle { kind, reason: reason.to_string() }
}

/// A pod with containers beside its worker: `early` and `once` come before it, and `early` stays.
fn in_company(init: &Value, containers: &Value) -> Pod {
    let spec = json!({
        "initContainers": [{"name": "early", "restartPolicy": "Always", "startupProbe": {}}, {"name": "once"}],
        "containers": [{"name": "worker"}, {"name": "logs", "readinessProbe": {}, "resources": {"limits": {"memory": "9Mi"}}}],
    });
    let status = json!({"phase": "Pending", "podIP": "10.0.0.7", "initContainerStatuses": init, "containerStatuses": containers});
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
}

fn container(name: &str, state: &Value, more: &Value) -> Value {
    let mut container =
        json!({"name": name, "ready": true, "restartCount": 0, "image": "i", "imageID": "", "state": state});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn runs() -> Value {
    json!({"running": {}})
}

fn ends(code: i32) -> Value {
    json!({"terminated": {"exitCode": code, "reason": "Error"}})
}

fn container_waits(reason: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": "why"}})
}

fn none() -> Value {
    json!({})
}

fn worker(state: &Value) -> Value {
    container("worker", state, &none())
}

/// A container that is to run before the worker does.
fn early(state: &Value, more: &Value) -> Value {
    container("early", state, more)
}

fn up() -> Value {
    early(&runs(), &json!({"started": true}))
}

#[test]
fn all_containers_before_a_worker_are_looked_at() {
    use ObstacleKind::{Crash, Image, Initializing};

    let unstarted = json!({"started": false, "ready": false});
    let coming = || worker(&json!({"waiting": {"reason": "PodInitializing"}}));
    let crashing = json!({"started": false, "ready": false, "restartCount": 3,
        "lastState": {"terminated": {"exitCode": 7, "reason": "Error"}}});

    let before = [
        (
            "a probe that does not succeed",
            vec![early(&runs(), &unstarted)],
            Initializing,
            "early: runs, but its startupProbe",
        ),
        ("one that runs on", vec![up(), container("once", &runs(), &none())], Initializing, "once: runs, and nothing"),
        (
            "an image",
            vec![up(), container("once", &container_waits("ErrImagePull"), &none())],
            Image,
            "once: ErrImagePull: why",
        ),
        (
            "it crashes",
            vec![early(&container_waits("CrashLoopBackOff"), &none())],
            Crash,
            "early: CrashLoopBackOff: why",
        ),
        (
            "it has crashed, and is tried again",
            vec![early(&runs(), &crashing)],
            Crash,
            "ended 3 times, the last time with exit code 7",
        ),
    ];
    for (case, init, kind, said) in before {
        let PodState::Waiting { obstacle: Some(obstacle) } = state_of(&in_company(&json!(init), &json!([coming()])))
        else {
            panic!("{case}")
        };
        assert_eq!(obstacle.kind, kind, "{case}: {}", obstacle.reason);
        assert!(obstacle.reason.contains(said), "{case}: {}", obstacle.reason);
    }
    let comes = in_company(&json!([up()]), &json!([coming()]));
    assert_eq!(state_of(&comes), PodState::Waiting { obstacle: None });
    let mut failed = in_company(&json!([up(), container("once", &ends(3), &none())]), &json!([coming()]));
    failed.status.as_mut().unwrap().phase = Some("Failed".to_string());
    assert_eq!(state_of(&failed), PodState::Dead { how: "its container once: exit code 3".to_string() });
}

#[test]
fn all_containers_beside_a_worker_are_looked_at() {
    let beside = [
        ("well", up(), container("logs", &runs(), &none()), None),
        ("done", up(), container("logs", &ends(0), &none()), None),
        (
            "dead",
            up(),
            container("logs", &ends(1), &none()),
            Some((true, "logs: has ended with exit code 1, and is not started again")),
        ),
        ("killed", up(), container("logs", &ends(137), &none()), Some((true, "its limits.memory of 9Mi"))),
        (
            "no image",
            up(),
            container("logs", &container_waits("ImagePullBackOff"), &none()),
            Some((true, "logs: ImagePullBackOff: why")),
        ),
        (
            "not ready",
            up(),
            container("logs", &runs(), &json!({"ready": false})),
            Some((false, "logs: runs, but its probe")),
        ),
        (
            "kept up and dead",
            early(&ends(1), &none()),
            container("logs", &runs(), &none()),
            Some((false, "early: has ended with exit code 1, and is started again")),
        ),
        (
            "kept up in vain",
            early(&container_waits("CrashLoopBackOff"), &none()),
            container("logs", &runs(), &none()),
            Some((true, "early: CrashLoopBackOff")),
        ),
    ];
    for (case, early, logs, expected) in beside {
        let pod = in_company(&json!([early]), &json!([worker(&runs()), logs]));
        let PodState::Runs { trouble, .. } = state_of(&pod) else { panic!("{case}") };
        assert_eq!(trouble.as_ref().map(|it| it.lasting), expected.map(|(lasting, _)| lasting), "{case}: {trouble:?}");
        let said = trouble.map(|it| it.reason).unwrap_or_default();
        assert!(said.contains(expected.map_or("", |(_, said)| said)), "{case}: {said}");
    }
}

#[test]
fn whether_room_would_help_is_in_the_schedulers_words() {
    let unscheduled = |message: &str| {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        match state_of(&plain("p", &json!({"phase": "Pending", "conditions": [condition]}))) {
            PodState::Waiting { obstacle: Some(obstacle) } => obstacle.kind,
            state => panic!("{state:?}"),
        }
    };
    for (message, kind) in [
        (
            "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 No preemption victims found",
            ObstacleKind::NoRoom,
        ),
        ("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}.", ObstacleKind::NoRoom),
        ("0/1 nodes are available: 1 Too many pods.", ObstacleKind::NoRoom),
        ("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.", ObstacleKind::NoRoom),
        ("something that nobody has heard of", ObstacleKind::NoRoom),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", ObstacleKind::NoPlace),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", ObstacleKind::NoPlace),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {a: b}.", ObstacleKind::NoPlace),
        ("persistentvolumeclaim \"data\" not found", ObstacleKind::NoPlace),
    ] {
        assert_eq!(unscheduled(message), kind, "{message}");
    }
}

#[test]
fn what_the_api_server_does_not_make_is_told_apart() {
    let refused = |code: u16, message: &str| {
        let status = kube::core::Status { code, message: message.to_string(), ..kube::core::Status::default() };
        not_created(&kube::Error::Api(status.boxed())).kind
    };
    for (code, message, kind) in [
        (
            403,
            "pods \"w\" is forbidden: exceeded quota: tight, requested: pods=1, used: pods=4, limited: pods=4",
            ObstacleKind::Quota,
        ),
        (
            403,
            "pods \"w\" is forbidden: failed quota: tight: must specify limits.cpu for: worker",
            ObstacleKind::Refused,
        ),
        (
            403,
            "pods \"w\" is forbidden: maximum memory usage per Container is 64Mi, but limit is 128Mi",
            ObstacleKind::Refused,
        ),
        (403, "unable to create new content in namespace air because it is being terminated", ObstacleKind::Refused),
        (422, "spec.containers: Required value", ObstacleKind::Refused),
        (500, "failed calling webhook", ObstacleKind::Other),
        (429, "too many requests", ObstacleKind::Other),
    ] {
        assert_eq!(refused(code, message), kind, "{message}");
    }
}

/// What each of these objects of a pod, by status and metadata, says.
fn says(table: impl IntoIterator<Item = (&'static str, Value, Value, PodState)>) {
    for (case, status, metadata, expected) in table {
        assert_eq!(state_of(&pod("p", &status, &metadata)), expected, "{case}");
    }
}

fn dead(how: &str) -> PodState {
    PodState::Dead { how: how.to_string() }
}

#[test]
fn what_the_object_of_a_pod_says_that_comes_runs_or_goes() {
    let waits = |kind: ObstacleKind, reason: &str| PodState::Waiting { obstacle: Some(obstacle(kind, reason)) };
    let comes = PodState::Waiting { obstacle: None };
    let full = "Unschedulable: no node takes it: 0/3 nodes are available: 3 Insufficient memory.";
    let runs = |address: &str| PodState::Runs { address: address.to_string(), trouble: None };
    let unschedulable = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
         "message": "0/3 nodes are available: 3 Insufficient memory."}]});
    let drained = {
        let mut status = running("10.0.0.7");
        status["conditions"].as_array_mut().unwrap().push(json!(
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
             "message": "Eviction API: evicting"}));
        status
    };
    let leaves = |reason: &str| PodState::Leaving { reason: reason.into(), address: Some("10.0.0.7:6120".into()) };

    says([
        ("nothing is known yet", json!({}), none(), comes.clone()),
        ("no node", unschedulable, none(), waits(ObstacleKind::NoRoom, full)),
        ("in the course of things", waiting_container("ContainerCreating", ""), none(), comes.clone()),
        (
            "no image",
            waiting_container("ImagePullBackOff", "Back-off pulling image \"x\""),
            none(),
            waits(ObstacleKind::Image, "ImagePullBackOff: Back-off pulling image \"x\""),
        ),
        (
            "no secret",
            waiting_container("CreateContainerConfigError", "secret \"s3\" not found"),
            none(),
            waits(ObstacleKind::Other, "CreateContainerConfigError: secret \"s3\" not found"),
        ),
        ("no address yet", running(""), none(), comes),
        ("runs", running("10.0.0.7"), none(), runs("10.0.0.7:6120")),
        ("runs with IPv6", running("fd00::7"), none(), runs("[fd00::7]:6120")),
        ("deleted while it runs", running("10.0.0.7"), deleted(), leaves("its pod was deleted")),
        ("drained", drained, deleted(), leaves("EvictionByEvictionAPI: Eviction API: evicting")),
        ("deleted before it ran", waiting_container("ContainerCreating", ""), deleted(), dead("its pod was deleted")),
    ]);
}

#[test]
fn what_the_object_of_a_pod_says_that_has_ended() {
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
    says([
        (
            "ended well",
            ended_container("Succeeded", &json!({"exitCode": 0, "reason": "Completed"})),
            none(),
            dead("exit code 0"),
        ),
        (
            "crashed",
            ended_container("Failed", &json!({"exitCode": 101, "reason": "Error"})),
            none(),
            dead("exit code 101"),
        ),
        (
            "killed",
            ended_container("Failed", &json!({"exitCode": 137, "reason": "Error"})),
            none(),
            dead(
                "signal 9: killed from outside, it may have used more than its limits.memory of 256Mi; raise \
                 spec.workers.resources.limits.memory",
            ),
        ),
        (
            "said why",
            ended_container("Failed", &json!({"exitCode": 2, "reason": "Error", "message": "no TLS key\n"})),
            none(),
            dead("exit code 2: no TLS key"),
        ),
        (
            "out of memory",
            ended_container("Failed", &json!({"exitCode": 137, "reason": "OOMKilled"})),
            none(),
            dead(
                "out of memory: it used more than its limits.memory of 256Mi; raise spec.workers.resources.limits.memory",
            ),
        ),
        (
            "cannot run",
            ended_container("Failed", &json!({"exitCode": 128, "reason": "StartError", "message": "no such file"})),
            none(),
            dead("exit code 128 (StartError: no such file)"),
        ),
        (
            "the container ended before the pod's phase says so",
            ended_container("Running", &json!({"exitCode": 137, "reason": "Error"})),
            none(),
            dead(
                "signal 9: killed from outside, it may have used more than its limits.memory of 256Mi; raise \
                 spec.workers.resources.limits.memory",
            ),
        ),
        ("evicted", evicted, none(), dead("Evicted: The node was low on resource: memory.")),
        (
            "its node is lost",
            json!({"phase": "Running", "reason": "NodeLost"}),
            none(),
            dead("its node node-1 is lost"),
        ),
        ("ended silently", json!({"phase": "Failed"}), none(), dead("its pod ended without saying why")),
    ]);
}

const ONE: ProcessNumber = ProcessNumber(1);

/// A ledger whose first list was empty, and one pod that was asked for.
fn asked() -> Ledger {
    let mut ledger = Ledger::from(FOUND_FROM);
    ledger.list_begins();
    assert_eq!(ledger.list_ends(&[]), [PlatformEvent::Found { processes: Vec::new() }]);
    ledger.asked(ONE, "p".into(), "t".into());
    ledger
}

fn started(process: ProcessNumber, name: &str) -> PlatformEvent {
    let (name, address, template) = (name.to_string(), "10.0.0.7:6120".to_string(), "t".to_string());
    PlatformEvent::Started { process, name, address, pid: None, template }
}

fn died(how: &str) -> PlatformEvent {
    PlatformEvent::Died { process: ONE, how: how.to_string() }
}

fn plain(name: &str, status: &Value) -> Pod {
    pod(name, status, &json!({}))
}

#[test]
fn each_thing_is_told_once_from_the_first_obstacle_to_the_end() {
    let mut ledger = asked();
    let full = plain("p", &waiting_container("ErrImagePull", "no such tag"));
    let waits = Some(obstacle(ObstacleKind::Image, "ErrImagePull: no such tag"));
    assert_eq!(ledger.seen(&full), [PlatformEvent::Waiting { process: ONE, obstacle: waits }]);
    assert_eq!(ledger.seen(&full), []);
    let comes = plain("p", &waiting_container("ContainerCreating", ""));
    assert_eq!(ledger.seen(&comes), [PlatformEvent::Waiting { process: ONE, obstacle: None }]);
    assert_eq!(ledger.seen(&comes), []);
    let runs = plain("p", &running("10.0.0.7"));
    assert_eq!(ledger.seen(&runs), [started(ONE, "p")]);
    assert_eq!(ledger.seen(&runs), []);
    let goes = pod("p", &running("10.0.0.7"), &deleted());
    let leaves = PlatformEvent::Leaving { process: ONE, reason: "its pod was deleted".into() };
    assert_eq!(ledger.seen(&goes), [leaves]);
    assert_eq!(ledger.seen(&goes), []);
    let ended = pod("p", &ended_container("Failed", &json!({"exitCode": 143})), &deleted());
    assert_eq!(ledger.seen(&ended), [died("signal 15")]);
    assert_eq!(ledger.gone(&ended), []);
    assert_eq!(ledger.alive(), []);
}

#[test]
fn trouble_beside_a_worker_is_told_when_it_begins_and_when_it_is_over() {
    let with = |state: Value| {
        let mut pod = running("10.0.0.7");
        pod["containerStatuses"].as_array_mut().unwrap().push(container("logs", &state, &json!({})));
        plain("p", &pod)
    };
    let mut ledger = asked();
    let dead = ledger.seen(&with(json!({"terminated": {"exitCode": 1}})));
    assert!(
        matches!(&dead[..], [PlatformEvent::Started { .. }, PlatformEvent::Beside { trouble: Some(_), .. }]),
        "{dead:?}"
    );
    assert_eq!(ledger.seen(&with(json!({"terminated": {"exitCode": 1}}))), []);
    let well = PlatformEvent::Beside { process: ONE, trouble: None };
    assert_eq!(ledger.seen(&with(json!({"running": {}}))), [well]);
}

#[test]
fn what_we_end_ourselves_does_not_leave_and_dies_once() {
    let mut ledger = asked();
    ledger.seen(&plain("p", &running("10.0.0.7")));
    assert_eq!(ledger.end(ONE), Some("p".to_string()));
    assert_eq!(ledger.seen(&pod("p", &running("10.0.0.7"), &deleted())), []);
    assert_eq!(ledger.gone(&pod("p", &running("10.0.0.7"), &deleted())), [died("its pod was deleted")]);
    assert_eq!(ledger.end(ONE), None, "there is nothing left to end");
}

#[test]
fn one_that_never_served_has_failed_to_start() {
    for (status, how) in [
        (ended_container("Failed", &json!({"exitCode": 1})), "exit code 1"),
        (ended_container("Succeeded", &json!({"exitCode": 0})), "exit code 0"),
    ] {
        let mut ledger = asked();
        let reason = format!("pod p ended before it served: {how}");
        let failed = PlatformEvent::StartFailed { process: ONE, reason, hopeless: false };
        assert_eq!(ledger.seen(&plain("p", &status)), [failed]);
    }
}

#[test]
fn a_pod_that_is_missing_when_all_are_listed_again_is_dead_unless_it_was_made_meanwhile() {
    let mut ledger = asked();
    ledger.seen(&plain("p", &running("10.0.0.7")));
    ledger.list_begins();
    ledger.asked(ProcessNumber(2), "q".into(), "t".into());
    ledger.created(ProcessNumber(2));
    assert_eq!(ledger.list_ends(&[]), [died("its pod is gone")]);
    assert_eq!(ledger.alive(), [ProcessNumber(2)]);
}

#[test]
fn pods_that_are_there_already_are_told_first_and_then_one_by_one() {
    let pods = [
        plain("dead", &ended_container("Failed", &json!({"exitCode": 1}))),
        plain("serves", &running("10.0.0.7")),
        plain("comes", &waiting_container("ContainerCreating", "")),
        pod("goes", &running("10.0.0.7"), &deleted()),
    ];
    let mut ledger = Ledger::from(0);
    ledger.list_begins();
    for pod in &pods {
        assert_eq!(ledger.seen(pod), []);
    }
    let number = ProcessNumber;
    let processes = [1, 2, 3].map(|n| (number(n), "t".to_string())).to_vec();
    let expected = [
        PlatformEvent::Found { processes },
        started(number(1), "serves"),
        started(number(3), "goes"),
        PlatformEvent::Leaving { process: number(3), reason: "its pod was deleted".into() },
    ];
    assert_eq!(ledger.list_ends(&pods), expected);
    assert_eq!(ledger.seen(&plain("comes", &running("10.0.0.7"))), [started(number(2), "comes")]);
}

#[test]
fn a_creation_that_does_not_succeed_is_told_when_the_reason_changes() {
    let mut ledger = asked();
    let mut not_created = |reason: &str| ledger.not_created(ONE, obstacle(ObstacleKind::Quota, reason));
    let waits =
        |reason: &str| PlatformEvent::Waiting { process: ONE, obstacle: Some(obstacle(ObstacleKind::Quota, reason)) };
    assert_eq!(not_created("exceeded quota"), [waits("exceeded quota")]);
    assert_eq!(not_created("exceeded quota"), []);
    assert_eq!(not_created("forbidden"), [waits("forbidden")]);
}

#[test]
fn some_failed_pods_are_kept_for_their_logs() {
    let mut ledger = asked();
    for n in 0..FAILED_KEPT + 2 {
        ledger.seen(&plain(&format!("p{n}"), &ended_container("Failed", &json!({"exitCode": 1}))));
    }
    assert_eq!(ledger.unwanted(), ["p0", "p1"]);
    assert_eq!(ledger.unwanted(), Vec::<String>::new());
}

#[test]
fn pods_that_nobody_wants_and_that_would_stay_are_strays() {
    let ended = |phase: &str| ended_container(phase, &json!({"exitCode": 137}));
    let outlived = {
        let mut status = ended("Running");
        let beside = json!({"name": "beside", "ready": true, "restartCount": 0, "image": "i", "imageID": "",
            "state": {"running": {}}});
        status["containerStatuses"].as_array_mut().unwrap().push(beside);
        status
    };
    let mut ledger = asked();
    ledger.seen(&plain("p", &running("10.0.0.7")));
    assert_eq!(ledger.seen(&plain("p", &outlived)).len(), 1, "its worker's end is told");
    assert_eq!(ledger.unwanted(), ["p"], "its other containers hold what it has asked for");
    assert_eq!(ledger.seen(&pod("p", &outlived, &deleted())), []);
    assert_eq!(ledger.unwanted(), Vec::<String>::new(), "it goes");
    ledger.seen(&plain("another's", &outlived));
    assert_eq!(ledger.unwanted(), ["another's"]);

    let mut late = asked();
    late.end(ONE);
    assert_eq!(late.never_created(ONE).len(), 1);
    assert_eq!(late.seen(&plain("p", &running("10.0.0.7"))), [], "its end has been told");
    assert_eq!(late.unwanted(), ["p"], "it came after it had been called off");
}

#[test]
fn a_pod_is_its_template_with_a_name_and_the_templates_hash() {
    let template = WorkerTemplate {
        hash: "abc".into(),
        pod: Some(Arc::new(
            serde_json::from_value(json!({
                "metadata": {"generateName": "flights-worker-", "labels": {"weir.dev/job": "flights"}},
            }))
            .unwrap(),
        )),
    };
    let pod = pod_of(&template, "flights-worker-1");
    assert_eq!((pod.metadata.generate_name, pod.metadata.name.as_deref()), (None, Some("flights-worker-1")));
    let labels = pod.metadata.labels.unwrap();
    assert_eq!((labels["weir.dev/job"].as_str(), labels[TEMPLATE_LABEL].as_str()), ("flights", "abc"));
}

#[test]
fn tries_are_spaced_out_up_to_a_limit() {
    let waits: Vec<u128> = [1, 2, 3, 4, 5, 6, 60].map(|tries| retry_after(tries).as_millis()).to_vec();
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
}

/// An API server that refuses every pod by a quota, and counts.
#[derive(Default)]
struct Refuses {
    asked: AtomicU32,
    at_once: AtomicU32,
    most_at_once: AtomicU32,
}

impl Refuses {
    fn client(self: &Arc<Self>) -> kube::Client {
        let server = Arc::clone(self);
        let answers = tower::service_fn(move |request: hyper::Request<kube::client::Body>| {
            let server = Arc::clone(&server);
            async move { server.answer(request).await }
        });
        kube::Client::new(answers, "default")
    }

    async fn answer(
        &self,
        request: hyper::Request<kube::client::Body>,
    ) -> Result<hyper::Response<kube::client::Body>, std::convert::Infallible> {
        let (code, body) = match *request.method() {
            hyper::Method::POST => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
                self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.at_once.fetch_sub(1, Ordering::Relaxed);
                let message = "pods is forbidden: exceeded quota";
                (
                    403,
                    json!({"kind": "Status", "apiVersion": "v1", "code": 403, "reason": "Forbidden", "message": message}),
                )
            }
            _ if request.uri().query().is_some_and(|query| query.contains("watch=")) => std::future::pending().await,
            _ => {
                (200, json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}))
            }
        };
        let body = kube::client::Body::from(serde_json::to_vec(&body).unwrap());
        Ok(hyper::Response::builder().status(code).body(body).unwrap())
    }
}

#[tokio::test]
async fn a_quota_that_refuses_a_thousand_pods_is_not_asked_for_all_of_them_at_once() {
    let server = Arc::new(Refuses::default());
    let (events, mut told) = mpsc::channel(1024);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    let mut platform = Kubernetes::new(server.client(), "default", "weir.dev/job=j", events);
    for _ in 0..1000 {
        platform.start(&WorkerTemplate::default());
    }
    let asked = || server.asked.load(Ordering::Relaxed);
    // Those that have not been tried wait too, once a whole round was refused.
    let second_round = async {
        while asked() <= CREATES as u32 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let begun = std::time::Instant::now();
    tokio::time::timeout(20 * FIRST_RETRY, second_round).await.expect("it is asked again");
    assert!(begun.elapsed() >= FIRST_RETRY, "{:?}", begun.elapsed());
    assert!(asked() <= 2 * CREATES as u32, "{}", asked());
    assert_eq!(server.most_at_once.load(Ordering::Relaxed), CREATES as u32);
}
