//! From a pod's deletion to the first output of the worker that takes its place, with 100 MiB of state.
//!
//! The pod's object says when it was made, scheduled and ready, the worker's log when it was told to deploy, had its state, and put out
//! its first row. The container runtime writes the time of each line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, LogParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use super::middle_and_most;
use crate::{
    cluster::Cluster,
    install::Controllers,
    job::{Job, Settings},
    space::Space,
    wait::until_within,
};

const WORKERS: u32 = 2;
/// Keys, and bytes of state for each: 100 MiB in all.
const KEYS: u64 = 10_240;
const VALUE: u64 = 10_240;
/// Rows a second. The state is there when each key has been seen once.
const RATE: u64 = 500;
/// Two more of them than the first: a worker that is lost again within 10 s of running makes the job wait for the restart policy's
/// back-off, which is not what is measured.
const INTERVAL: &str = "5s";
const CHECKPOINTS_BETWEEN: u64 = 2;
const PATIENCE: Duration = Duration::from_mins(10);

/// Keeps the longest text of each key, and prints a line for each change.
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
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Recovery {
    /// The successor's pod was made, was given a node, was ready; 0 where a standby took over.
    made: u64,
    scheduled: u64,
    ready: u64,
    /// The successor was told to deploy, had its state, put out its first row.
    told: u64,
    deployed: u64,
    output: u64,
}

/// A part of a recovery, and how long it took.
type Part = (&'static str, fn(&Recovery) -> u64);

/// A new worker's parts, in order; together they are the whole.
const OF_A_NEW_WORKER: [Part; 7] = [
    ("detection: until the successor's pod is made", |r| r.made),
    ("scheduling", |r| r.scheduled.saturating_sub(r.made)),
    ("container start: until the pod is ready", |r| r.ready.saturating_sub(r.scheduled)),
    ("hand-over: the next term, and the order to deploy", |r| r.told.saturating_sub(r.ready)),
    ("download: the plan, and the state from storage", |r| r.deployed.saturating_sub(r.told)),
    ("replay: until the first output", |r| r.output.saturating_sub(r.deployed)),
    ("in all", |r| r.output),
];
/// A standby's.
const OF_A_STANDBY: [Part; 4] = [
    ("detection, the next term, and the order to deploy", |r| r.told),
    ("download: the plan, and the state from storage", |r| r.deployed.saturating_sub(r.told)),
    ("replay: until the first output", |r| r.output.saturating_sub(r.deployed)),
    ("in all", |r| r.output),
];

pub async fn run(cluster: &Cluster, controllers: &Arc<Controllers>, deletions: usize) -> Value {
    let mut figures = Vec::new();
    for standby in [0, 1] {
        let space = Space::new(cluster, controllers, &format!("bench_standby_{standby}")).await;
        let (state, recoveries) = recoveries(&space, standby, deletions).await;
        table(standby, state, &recoveries);
        space.tidy().await;
        figures.push(json!({"standby": standby, "stateBytes": state, "milliseconds": recoveries}));
    }
    Value::Array(figures)
}

fn table(standby: u32, state: u64, recoveries: &[Recovery]) {
    let (times, state) = (recoveries.len(), state >> 20);
    let title = format!("a pod deleted {times} times, {state} MiB of state, {standby} standby, ms");
    println!("\n{title:<64} {:>8} {:>8}", "p50", "max");
    let parts: &[Part] = if standby > 0 { &OF_A_STANDBY } else { &OF_A_NEW_WORKER };
    for (part, of) in parts {
        let Some((middle, most)) = middle_and_most(recoveries.iter().map(of)) else { continue };
        println!("  {part:<62} {middle:>8} {most:>8}");
    }
}

/// The bytes of state, and each recovery.
async fn recoveries(space: &Space, standby: u32, deletions: usize) -> (u64, Vec<Recovery>) {
    let settings = Settings { workers: WORKERS, interval: INTERVAL, ..Settings::default() };
    let job = Job::start_with(space, &settings, |job| {
        job["spec"]["sql"] = sql().into();
        job["spec"]["workers"]["standby"] = standby.into();
    })
    .await;
    let size = until_within(PATIENCE, "100 MiB of state", || async {
        job.status().await["checkpoint"]["latest"]["stateBytes"].as_u64().filter(|size| *size >= KEYS * VALUE)
    })
    .await;
    let mut found = Vec::new();
    for n in 1..=deletions {
        job.until_workers((WORKERS + standby) as usize).await;
        let attempt = job.attempt().await;
        let recovery = deletion(space, &job, standby > 0).await;
        println!("  {n:>2}: {recovery:?}");
        found.push(recovery);
        job.until_recovered_from(attempt).await;
        job.until_more_checkpoints(CHECKPOINTS_BETWEEN).await;
    }
    job.delete().await;
    job.until_gone().await;
    (size, found)
}

/// Deletes one working pod, and follows the others until the one that takes its place prints.
async fn deletion(space: &Space, job: &Job, standby: bool) -> Recovery {
    let pods = space.cluster.pods(&space.name);
    let before = job.workers().await;
    let mut printing = Vec::new();
    for pod in &before {
        let last = LogParams { tail_lines: Some(20), ..LogParams::default() };
        let log = pods.logs(pod, &last).await.unwrap_or_default();
        if log.lines().any(row) {
            printing.push(pod.clone());
        }
    }
    let victim = printing.first().expect("a worker prints").clone();
    let spare = before.iter().find(|pod| !printing.contains(pod)).cloned();
    let parameters = WatchParams::default().labels(&format!("weir.dev/job={}", job.name));
    let events = pods.watch(&parameters, "0").await.expect("pods are watched");
    let (begun, wall) = (Instant::now(), Utc::now());
    pods.delete(&victim, &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
    let mut recovery = Recovery::default();
    let successor = match spare.filter(|_| standby) {
        Some(spare) => spare,
        None => follow(Box::pin(events), &before, begun, &mut recovery).await,
    };
    let log = LogParams { timestamps: true, since_time: None, ..LogParams::default() };
    let times = until_within(PATIENCE, "the successor's first output", || async {
        let log = pods.logs(&successor, &log).await.ok()?;
        let lines = log.lines().filter_map(|line| {
            let (time, text) = line.split_once(' ')?;
            let time = DateTime::parse_from_rfc3339(time).ok()?.to_utc();
            (time >= wall).then_some((time, text))
        });
        let lines: Vec<(DateTime<Utc>, &str)> = lines.collect();
        let first = |is: fn(&str) -> bool| lines.iter().find(|(_, text)| is(text)).map(|(time, _)| *time);
        // The worker's own words; the rows come after them.
        let told = first(|text| text.contains(" deploying "))?;
        let deployed = first(|text| text.contains(" deployed "))?;
        Some([told, deployed, first(row)?])
    })
    .await;
    [recovery.told, recovery.deployed, recovery.output] =
        times.map(|time| (time - wall).num_milliseconds().max(0) as u64);
    recovery
}

/// Whether a line of a log is what the print connector writes.
fn row(line: &str) -> bool {
    ["+I", "+U", "-U"].iter().any(|kind| line.contains(&format!("{kind}[")))
}

/// Follows the pods until a new one is ready; returns its name.
async fn follow(
    mut events: impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin,
    before: &[String],
    begun: Instant,
    recovery: &mut Recovery,
) -> String {
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
        note(&mut recovery.made, true);
        note(&mut recovery.scheduled, condition(&pod, "PodScheduled"));
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
