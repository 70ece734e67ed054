//! Pods that cannot start say why, in the job's conditions, and are not made again and again; and what must not be seen in them.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    install::{CONTROLLERS, NAMESPACE},
    job::{Job, Settings},
    s3,
    space::Space,
    wait::{never_within, until, until_within},
};

/// "Within seconds": the kubelet's own first try and the controller's look at it are in this.
const SECONDS: Duration = Duration::from_secs(20);
/// So long the pods are counted.
const WATCHED: Duration = Duration::from_secs(15);
/// Nobody listens there.
const NO_IMAGE: &str = "127.0.0.1:1/nowhere:1";
/// What the schema allows of memory at least.
const SMALLEST: &str = "128Mi";
/// Two workers, tried again after the restart policy's default back-off: 1, 2, 4, 8 s.
const PODS: usize = 10;

/// A job with the default restart policy.
async fn start(space: &Space, change: impl FnOnce(&mut Value)) -> Job {
    Job::start_with(space, &Settings::default(), |job| {
        job["spec"].as_object_mut().expect("a spec").remove("restart");
        change(job);
    })
    .await
}

/// Waits until the job is not Ready for this reason; no hot loop makes pods meanwhile.
async fn says(job: &Job, reason: &str) {
    let message = until_within(SECONDS, &format!("Ready=False for the reason {reason}"), || async {
        let (status, found, message) = job.condition("Ready").await?;
        (status == "False" && found == reason).then_some(message)
    })
    .await;
    println!("        {}: {reason}: {message}", job.space.name);
    assert!(!message.is_empty(), "{reason} has a message");
    let seen = Mutex::new(BTreeSet::new());
    let begun = std::time::Instant::now();
    let labels = format!("weir.dev/job={}", job.name);
    never_within(WATCHED, "a hot loop of pods", || async {
        let pods = job.space.cluster.labelled(&job.space.name, &labels).await;
        let mut seen = seen.lock().expect("no holder panics");
        seen.extend(pods.iter().filter_map(ResourceExt::uid));
        seen.len() > PODS
    })
    .await;
    assert!(!seen.lock().expect("no holder panics").is_empty(), "no pod was tried in {} s", begun.elapsed().as_secs());
    assert_ne!(
        job.condition("Ready").await.map(|(status, ..)| status),
        Some("True".to_string()),
        "a job without workers is Ready"
    );
}

pub async fn image_that_cannot_be_pulled(space: Space) {
    let job = start(&space, |job| job["spec"]["workers"]["image"] = NO_IMAGE.into()).await;
    says(&job, "ImagePullFailed").await;
    // The remedy is taken at once.
    job.change(json!({"workers": {"image": null}})).await;
    job.until_condition("Checkpointed", "True").await;
}

/// What cannot start replaces nothing, and the change can be taken back.
pub async fn upgrade_with_an_image_that_cannot_be_pulled(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    job.change(json!({"workers": {"image": NO_IMAGE}})).await;
    for (kind, wanted, why) in [("Reconciling", "True", "Changing"), ("Ready", "False", "ImagePullFailed")] {
        until_within(SECONDS, &format!("{kind}={wanted} for the reason {why}"), || async {
            let (status, reason, _) = job.condition(kind).await?;
            (status == wanted && reason == why).then_some(())
        })
        .await;
    }
    job.until_more_checkpoints(3).await;
    job.until_more_output().await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers.clone()), "the old workers go on");
    job.change(json!({"workers": {"image": null}})).await;
    job.until_condition("Reconciling", "False").await;
    job.until_condition("Ready", "True").await;
    job.until_more_checkpoints(1).await;
    assert_eq!((job.attempt().await, job.until_workers(2).await), (attempt, workers), "nothing was to be done");
    job.finishes_exact().await;
}

pub async fn unschedulable_pod(space: Space) {
    let nowhere = json!({"spec": {"nodeSelector": {"weir.dev/nowhere": "true"}}});
    let job = start(&space, |job| job["spec"]["workers"]["podTemplate"] = nowhere).await;
    says(&job, "Unschedulable").await;
    job.change(json!({"workers": {"podTemplate": null}})).await;
    job.until_condition("Checkpointed", "True").await;
}

/// What stands beside a worker runs under the restricted profile, and holds no room once the worker has ended.
pub async fn sidecars_go_with_their_worker(space: Space) {
    let beside = json!({"name": "beside", "image": "weir.local/pause:1", "imagePullPolicy": "IfNotPresent"});
    let template = json!({"spec": {"containers": [beside]}});
    let job = Job::start_with(&space, &Settings::default(), |job| {
        job["spec"]["workers"]["podTemplate"] = template;
    })
    .await;
    job.until_condition("Checkpointed", "True").await;
    let attempt = job.attempt().await;
    let workers = job.until_workers(2).await;
    for pod in job.pods().await {
        assert_eq!(pod.spec.map(|spec| spec.containers.len()), Some(2), "a worker has its sidecar");
    }
    space.cluster.signal("weir-worker", &workers[0], "KILL").await.expect("a worker is killed");
    job.until_recovered_from(attempt).await;
    until("the pod of the lost worker is gone", || async {
        job.all_pods().await.iter().all(|pod| pod.metadata.name.as_ref() != Some(&workers[0])).then_some(())
    })
    .await;
    job.finishes_exact().await;
}

/// The controller's image, which holds no worker.
async fn other_image() -> String {
    let image = Cluster::command("helm", &["get", "values", "weir", "-n", NAMESPACE, "--all", "-o", "json"]).await;
    let values: Value =
        serde_json::from_str(&image.unwrap_or_else(|error| panic!("{error}"))).expect("values are JSON");
    let repository = values["image"]["repository"].as_str().expect("the chart names the image").to_string();
    let tag = values["image"]["tag"].as_str().filter(|tag| !tag.is_empty()).unwrap_or(env!("CARGO_PKG_VERSION"));
    format!("{repository}:{tag}")
}

/// A container whose process ends at once, with an error.
async fn ends_at_once(name: &str) -> Value {
    json!({"name": name, "image": other_image().await, "imagePullPolicy": "IfNotPresent", "args": ["no-such-command"]})
}

/// Waits for a condition's status and reason, and for these words in its message.
async fn told(job: &Job, kind: &str, wanted: (&str, &str), words: &[&str]) {
    let what = format!("{kind}={} for the reason {}, which says {words:?}", wanted.0, wanted.1);
    let message = until_within(SECONDS, &what, || async {
        let (status, reason, message) = job.condition(kind).await?;
        (status == wanted.0 && reason == wanted.1 && words.iter().all(|word| message.contains(word))).then_some(message)
    })
    .await;
    println!("        {}: {kind} {}: {message}", job.space.name, wanted.1);
}

/// What stands beside a worker and is dead is told, by its name; the job runs on, and the template mends it.
pub async fn containers_beside_a_worker(space: Space) {
    let crasher = ends_at_once("crasher").await;
    let job = Job::start_with(&space, &Settings::seconds(90), |job| {
        job["spec"]["workers"]["podTemplate"] = json!({"spec": {"containers": [crasher]}});
    })
    .await;
    job.until_condition("Checkpointed", "True").await;
    for (kind, status) in [("Ready", "False"), ("Stalled", "True")] {
        told(&job, kind, (status, "SidecarsFail"), &["crasher", "exit code", "runs on"]).await;
    }
    job.until_more_checkpoints(2).await;
    let table =
        space.cluster.kubectl(&["-n", &space.name, "get", "sj"]).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(table.contains("SidecarsFail"), "the table says why it is not Ready: {table}");
    let events = space.events(&job.name).await;
    assert!(events.iter().any(|(reason, _)| reason == "SidecarsFail"), "nobody is told: {events:?}");

    let image = json!({"name": "logs", "image": NO_IMAGE});
    job.change(json!({"workers": {"podTemplate": {"spec": {"containers": [image]}}}})).await;
    told(&job, "Ready", ("False", "SidecarsFail"), &["logs", "Image"]).await;

    let silent = json!({"name": "silent", "image": "weir.local/pause:1", "imagePullPolicy": "IfNotPresent",
        "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1}});
    job.change(json!({"workers": {"podTemplate": {"spec": {"containers": [silent]}}}})).await;
    told(&job, "Ready", ("False", "WorkersWaiting"), &["silent", "probe"]).await;
    job.change(json!({"workers": {"podTemplate": null}})).await;
    job.until_current().await;
    job.finishes_exact().await;
}

/// What comes before a worker and does not end, or ends with an error, is told, by its name; and the template mends it.
pub async fn containers_before_a_worker(space: Space) {
    let early = json!({"name": "early", "image": "weir.local/pause:1", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1000}});
    let job = start(&space, |job| {
        job["spec"]["workers"]["podTemplate"] = json!({"spec": {"initContainers": [early]}});
    })
    .await;
    told(&job, "Ready", ("False", "WorkersWaiting"), &["early", "startupProbe"]).await;
    let prepare = ends_at_once("prepare").await;
    job.change(json!({"workers": {"podTemplate": {"spec": {"initContainers": [prepare]}}}})).await;
    told(&job, "Ready", ("False", "WorkersCrash"), &["prepare", "exit code"]).await;
    job.change(json!({"workers": {"podTemplate": null}})).await;
    job.until_condition("Checkpointed", "True").await;
    job.finishes_exact().await;
}

/// What a pod may name once is refused before anything is made.
pub async fn names_that_are_there_twice(space: Space) {
    let twice = json!([{"name": "x", "image": "a"}, {"name": "x", "image": "b"}]);
    let job = start(&space, |job| job["spec"]["workers"]["podTemplate"] = json!({"spec": {"containers": twice}})).await;
    told(&job, "Stalled", ("True", "InvalidSpec"), &["spec.workers.podTemplate.spec.containers[1].name", "\"x\""])
        .await;
    assert!(job.all_pods().await.is_empty(), "pods were made");
    let services = ["-n", &space.name, "get", "services,poddisruptionbudgets,networkpolicies", "-o", "name"];
    assert_eq!(space.cluster.kubectl(&services).await.unwrap_or_else(|error| panic!("{error}")).trim(), "");
    job.change(json!({"workers": {"podTemplate": null}})).await;
    job.until_condition("Checkpointed", "True").await;
}

/// The least memory that a worker may have is enough for one.
pub async fn smallest_worker(space: Space) {
    let job = Job::start_with(&space, &Settings::seconds(30), |job| {
        job["spec"]["workers"]["resources"] = json!({"requests": {"cpu": "50m"}, "limits": {"memory": SMALLEST}});
    })
    .await;
    job.until_condition("Checkpointed", "True").await;
    let workers = job.until_workers(2).await;
    job.finishes_exact().await;
    assert_eq!(job.attempt().await, 1, "of {workers:?} one was lost");
}

pub async fn crash_loop(space: Space) {
    // Its process ends at once.
    let image = other_image().await;
    let job = start(&space, |job| job["spec"]["workers"]["image"] = image.into()).await;
    says(&job, "WorkersCrash").await;
}

pub async fn secrets_are_nowhere(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    let mut texts = Vec::new();
    for arguments in [
        vec!["-n", &space.name, "get", "streamjobs,pods,services,serviceaccounts,networkpolicies,events", "-o", "yaml"],
        vec!["-n", NAMESPACE, "get", "deployments,pods,events", "-o", "yaml"],
        vec!["-n", NAMESPACE, "logs", "-l", CONTROLLERS, "--tail=-1"],
        vec!["-n", &space.name, "logs", "-l", "weir.dev/job=sums", "--tail=-1"],
    ] {
        texts.push(space.cluster.kubectl(&arguments).await.unwrap_or_else(|error| panic!("{error}")));
    }
    // What a process was called with, as anyone on the node sees it.
    texts.push(
        space
            .cluster
            .on_node("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done")
            .await
            .expect("the node answers"),
    );
    for text in &texts {
        let line = text.lines().find(|line| line.contains(s3::PASSWORD) && !line.contains("MINIO_ROOT_PASSWORD"));
        assert_eq!(line, None, "the storage's password is seen");
        assert!(!text.contains("BEGIN PRIVATE KEY") && !text.contains("BEGIN EC PRIVATE KEY"), "a private key is seen");
    }
    job.delete().await;
}

/// By operator, and with the container's limit as the budget; and what the controllers log is for machines.
pub async fn workers_say_what_they_count(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    let mut texts = String::new();
    for worker in job.until_workers(2).await {
        let text = job.metrics(&worker).await;
        let budget = "weir_worker_memory_bytes{job=\"sums\",of=\"budget\"} 536870912";
        assert!(text.contains(budget), "{worker} does not say {budget}:\n{text}");
        texts.push_str(&text);
    }
    for name in ["rows_in_total", "rows_out_total"] {
        let line = format!("weir_worker_{name}{{job=\"sums\",operator=\"");
        assert!(texts.contains(&line), "nobody says {line}:\n{texts}");
    }
    for name in [
        "busy_seconds_total",
        "idle_seconds_total",
        "backpressured_seconds_total",
        "state_bytes",
        "checkpoint_seconds_sum",
    ] {
        let line = format!("weir_worker_{name}{{job=\"sums\",stage=\"");
        assert!(texts.contains(&line), "nobody says {line}:\n{texts}");
    }
    let logs = ["-n", NAMESPACE, "logs", "-l", CONTROLLERS, "--tail=100"];
    let logs = space.cluster.kubectl(&logs).await.unwrap_or_else(|error| panic!("{error}"));
    let plain = logs.lines().find(|line| serde_json::from_str::<Value>(line).is_err());
    assert_eq!(plain, None, "a line of the log is no JSON");
    job.finishes_exact().await;
}

pub async fn plain_text_is_refused(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    for worker in job.until_workers(2).await {
        let pod = space.cluster.pods(&space.name).get(&worker).await.expect("the worker's pod is there");
        let address = pod.status.and_then(|status| status.pod_ip).expect("a running pod has an address");
        // How HTTP/2 begins without TLS. A server that speaks it so answers with its settings; one that wants TLS with an alert, or
        // not at all, and may hang up before it has heard all.
        let hello = r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
        let ask = format!(
            "trap '' PIPE; exec 3<>/dev/tcp/{address}/6120; printf '{hello}' >&3 2>/dev/null; timeout 5 head -c 1 <&3 | od -An -tx1"
        );
        let answer =
            space.cluster.on_node(&format!("bash -c \"{ask}\"")).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(["", "15"].contains(&answer.trim()), "{worker} answers {answer:?} to one without a certificate");
    }
    job.finishes_exact().await;
}
