//! `make bench-cluster`: how long it takes from a pod's deletion to the first output of its successor, with 100 MiB of state, and what
//! that is made of; and fifty jobs at once.

use std::time::{Duration, Instant};

use futures::{TryStreamExt, future::join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, LogParams, WatchEvent, WatchParams},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    install::{self, Controllers},
    job::{Job, Settings},
    space::Space,
    wait::until_within,
};

/// How often a pod is deleted, with and without a standby.
const DELETIONS: usize = 30;
/// Keys, and bytes of state for each: 100 MiB in all.
const KEYS: u64 = 10_240;
const VALUE: u64 = 10_240;
/// Rows a second. The state is there when each key has been seen once.
const RATE: u64 = 500;
const MANY: usize = 50;
const PATIENCE: Duration = Duration::from_mins(10);

/// Keeps the longest text of each key, and prints a line for each change: what a pod prints is in its log with the time.
fn sql() -> String {
    format!(
        "CREATE TABLE texts (n BIGINT, text STRING) WITH ('connector' = 'datagen', 'rows-per-second' = '{RATE}',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '1000000000', 'fields.text.length' = '{VALUE}');
CREATE TABLE lengths (k BIGINT, c BIGINT, l BIGINT) WITH ('connector' = 'print');
INSERT INTO lengths SELECT k, c, CHAR_LENGTH(t) FROM (
  SELECT MOD(n, {KEYS}) AS k, COUNT(*) AS c, MAX(text) AS t FROM texts GROUP BY MOD(n, {KEYS}));"
    )
}

/// Milliseconds from the deletion to each step.
#[derive(Clone, Copy, Debug, Default)]
struct Recovery {
    /// The successor's pod was made; 0 where a standby took over.
    created: u64,
    scheduled: u64,
    started: u64,
    ready: u64,
    output: u64,
}

/// Runs the benchmarks and prints a table.
pub async fn run() {
    let cluster = Cluster::open().await;
    install::install(&cluster).await;
    let controllers = std::sync::Arc::new(Controllers::default());
    controllers.settle(&cluster).await;
    for standby in [0, 1] {
        let space = Space::new(&cluster, &controllers, &format!("bench_standby_{standby}")).await;
        let recoveries = recoveries(&space, standby).await;
        table(standby, &recoveries);
        space.delete().await;
    }
    let space = Space::new(&cluster, &controllers, "bench_fifty").await;
    println!("{MANY} jobs, applied at once, all Ready after {} s", many(&space).await.as_secs());
    space.tidy().await;
}

async fn recoveries(space: &Space, standby: u64) -> Vec<Recovery> {
    let settings = Settings { workers: 2, interval: "5s", ..Settings::default() };
    let job = Job::start_with(space, &settings, |job| {
        job["spec"]["sql"] = sql().into();
        job["spec"]["workers"]["standby"] = standby.into();
    })
    .await;
    let size = until_within(PATIENCE, "100 MiB of state", || async {
        job.status().await["checkpoint"]["latest"]["stateBytes"].as_u64().filter(|size| *size >= KEYS * VALUE)
    })
    .await;
    println!("state of {} MiB", size >> 20);
    let mut found = Vec::new();
    for n in 0..DELETIONS {
        let seen = job.attempt().await;
        let recovery = deletion(space, &job, standby > 0).await;
        println!("  {:>2}: {recovery:?}", n + 1);
        found.push(recovery);
        if seen > 0 {
            job.until_recovered_from(seen).await;
        }
        job.until_workers(2 + standby as usize).await;
    }
    found
}

/// Deletes one working pod, and follows the others until the one that takes its place prints.
async fn deletion(space: &Space, job: &Job, standby: bool) -> Recovery {
    let pods = space.cluster.pods(&space.name);
    let before = job.workers().await;
    let mut printing = Vec::new();
    for pod in &before {
        let log = pods.logs(pod, &LogParams { tail_lines: Some(1), ..LogParams::default() }).await.unwrap_or_default();
        if row(&log) {
            printing.push(pod.clone());
        }
    }
    let victim = printing.first().expect("a worker prints").clone();
    let spare = before.iter().find(|pod| !printing.contains(pod)).cloned();
    let begun = Instant::now();
    let wall = chrono::Utc::now();
    pods.delete(&victim, &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
    let mut recovery = Recovery::default();
    let successor = match spare.filter(|_| standby) {
        Some(spare) => spare,
        None => follow(space, job, &before, begun, &mut recovery).await,
    };
    // The container runtime writes the time of each line.
    let parameters = LogParams { timestamps: true, since_time: None, ..LogParams::default() };
    let line = until_within(PATIENCE, "the successor's first output", || async {
        let log = pods.logs(&successor, &parameters).await.ok()?;
        log.lines().find(|line| line.split_once(' ').is_some_and(|(_, text)| row(text))).map(str::to_string)
    })
    .await;
    let time = line
        .split(' ')
        .next()
        .and_then(|time| chrono::DateTime::parse_from_rfc3339(time).ok())
        .expect("a log line has a time");
    recovery.output = (time.to_utc() - wall).num_milliseconds().max(0) as u64;
    recovery
}

/// Whether a line of a log is what the print connector writes.
fn row(line: &str) -> bool {
    ["+I", "+U", "-U"].iter().any(|kind| line.contains(&format!("{kind}[")))
}

/// Watches the pods until a new one is ready; returns its name.
async fn follow(space: &Space, job: &Job, before: &[String], begun: Instant, recovery: &mut Recovery) -> String {
    let pods = space.cluster.pods(&space.name);
    let parameters = WatchParams::default().labels(&format!("weir.dev/job={}", job.name));
    let mut events = Box::pin(pods.watch(&parameters, "0").await.expect("pods are watched"));
    while let Some(event) = events.try_next().await.expect("the watch goes on") {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        if before.contains(&pod.name_any()) {
            continue;
        }
        let now = begun.elapsed().as_millis() as u64;
        let note = |step: &mut u64, reached: bool| {
            if reached && *step == 0 {
                *step = now;
            }
        };
        note(&mut recovery.created, true);
        note(&mut recovery.scheduled, condition(&pod, "PodScheduled"));
        note(
            &mut recovery.started,
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")),
        );
        note(&mut recovery.ready, condition(&pod, "Ready"));
        if recovery.ready > 0 {
            return pod.name_any();
        }
    }
    panic!("the watch ended before a successor was ready");
}

fn condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// A step of a recovery, and when it was over.
type Step = (&'static str, fn(&Recovery) -> u64);

fn table(standby: u64, recoveries: &[Recovery]) {
    println!("\nfrom the deletion of a pod, {DELETIONS} times, {standby} standby, in ms      p50      max");
    let steps: [Step; 5] = [
        ("the successor's pod is made", |recovery| recovery.created),
        ("it is scheduled", |recovery| recovery.scheduled),
        ("its container has started", |recovery| recovery.started),
        ("it is ready", |recovery| recovery.ready),
        ("its first output", |recovery| recovery.output),
    ];
    for (step, of) in steps {
        let mut times: Vec<u64> = recoveries.iter().map(of).collect();
        times.sort_unstable();
        println!("  {step:<52} {:>8} {:>8}", times[times.len() / 2], times[times.len() - 1]);
    }
}

/// Applies many small jobs and waits until all are Ready.
async fn many(space: &Space) -> Duration {
    let settings = Settings { workers: 1, rate: 10, seconds: 3_600, ..Settings::default() };
    let jobs: Vec<Job> =
        (0..MANY).map(|n| Job { space: space.clone(), name: format!("job-{n}"), rows: settings.rows() }).collect();
    let begun = Instant::now();
    join_all(jobs.iter().map(|job| async {
        let mut resource = crate::job::resource(&space.name, &job.name, &settings);
        resource["spec"]["workers"]["resources"] =
            json!({"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
        job.apply(&resource).await.expect("the job is applied");
    }))
    .await;
    for job in &jobs {
        job.until_condition_within(PATIENCE, "Ready", "True").await;
    }
    begun.elapsed()
}
