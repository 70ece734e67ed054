//! What the controller costs with hundreds and thousands of jobs and a checkpoint a second each, against stub workers.
//!
//! Each size adds to the jobs of the one before. Jobs are applied with a long interval, which is then changed to a second in all of
//! them, without a new attempt: else the writes of those that run hold up those that are to come. The figures are of the leader, over a minute in which all jobs run. What else has
//! used the processors is shown beside it, since all of it runs on one machine.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::usage::{Leader, Metrics, Sample};
use crate::{
    cluster::Cluster,
    install::{self, Controllers},
    job::{self, Job, Settings},
    space::Space,
    stub,
    wait::{pass, until_every},
};

/// So long is measured.
const MEASURED: Duration = Duration::from_mins(1);
/// From the last job's first checkpoint until then: what is done once for each job is over.
const SETTLING: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_mins(20);
/// The intervals of checkpoints while jobs are applied, and while the controller is measured.
const LONG: &str = "1h";
const SHORT: &str = "1s";
/// Between two looks, of which each is work for what is measured.
const LOOK: Duration = Duration::from_secs(2);
/// Jobs that are applied at once.
const AT_ONCE: usize = 8;
/// Jobs that are changed at once: those that are changed already load the API server with their status.
const CHANGED_AT_ONCE: usize = 64;
/// More than the chart's default, so that what is needed is measured, and not what is allowed.
const MEMORY: &str = "resources.limits.memory=8Gi";
/// The label of jobs that run.
const RUNNING: &str = "\"running\"";
/// Programs on the node that have a part in a checkpoint.
const OTHERS: [(&str, &str); 3] = [("kube-apiserver", "API server"), ("etcd", "etcd"), ("minio", "S3 server")];

pub async fn run(cluster: &Cluster, controllers: &Arc<Controllers>, sizes: &[usize], backend: &str) -> Value {
    install::helm(&[MEMORY]).await.unwrap_or_else(|error| panic!("{error}"));
    controllers.settle(cluster).await;
    let stub = start();
    let space = Space::new(cluster, controllers, "bench_stubs").await;
    let (mut rows, mut there) = (Vec::new(), 0);
    for size in sizes {
        let begun = Instant::now();
        change(&space, 0..there, LONG).await;
        apply(&space, there..*size, backend).await;
        let leader = Leader::find(cluster).await;
        let more = size - there;
        there = *size;
        let ready = all(&leader, there, running).await.then(|| begun.elapsed().as_secs_f64());
        match ready {
            Some(seconds) => println!("{more} jobs more run after {seconds:.0} s"),
            None => println!("{there} jobs do not all run after {} s; measured as it is", PATIENCE.as_secs()),
        }
        change(&space, 0..there, SHORT).await;
        if !all(&leader, there, checkpointed).await {
            println!("{there} jobs do not all have a checkpoint after {} s", PATIENCE.as_secs());
        }
        pass(SETTLING).await;
        let (stub_before, before) = (stub_seconds(&stub), leader.sample().await);
        pass(MEASURED).await;
        let (after, stub_after) = (leader.sample().await, stub_seconds(&stub));
        let mut row = Row::between(there, ready, &before, &after);
        row.others.insert("stub workers", (stub_after - stub_before) / row.seconds);
        println!("{}", serde_json::to_string(&row).expect("figures are JSON"));
        rows.push(row);
    }
    table(&rows, backend);
    // A deletion needs storage that answers, which it does not under so many checkpoints.
    change(&space, 0..there, LONG).await;
    let begun = Instant::now();
    delete(&space).await;
    println!("all {there} jobs deleted after {:.0} s", begun.elapsed().as_secs_f64());
    drop(stub);
    space.tidy().await;
    drop(cluster.kubectl(&["delete", "node", stub::NODE]).await);
    install::helm(&[]).await.unwrap_or_else(|error| panic!("{error}"));
    json!({"backend": backend, "sizes": rows})
}

/// What was measured of one size.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    jobs: usize,
    /// Since they were applied; none where some never were.
    all_run_seconds: Option<f64>,
    /// That run at the end.
    running: f64,
    seconds: f64,
    checkpoints: f64,
    aborted: f64,
    workers_lost: f64,
    status_writes_failed: f64,
    /// By method and resource.
    calls: BTreeMap<String, f64>,
    /// Processor seconds in each second.
    processor: f64,
    memory: u64,
    peak_memory: u64,
    /// From the trigger to the record, on average.
    checkpoint_ms: f64,
    /// The same of other programs.
    others: BTreeMap<&'static str, f64>,
}

impl Row {
    fn between(jobs: usize, ready: Option<f64>, before: &Sample, after: &Sample) -> Self {
        let seconds = (after.at - before.at).as_secs_f64();
        let grown = |name: &str, label: &str| after.metrics.sum(name, label) - before.metrics.sum(name, label);
        let calls = after.metrics.series("api_calls_total").filter_map(|(labels, _)| {
            let made = grown("api_calls_total", labels);
            (made > 0.0).then(|| (call(labels), made))
        });
        let used = |program: &str| {
            let of = |sample: &Sample| sample.processor.get(program).copied().unwrap_or_default();
            (of(after) - of(before)) / seconds
        };
        let timed = grown("checkpoint_seconds_count", "").max(1.0);
        Self {
            jobs,
            all_run_seconds: ready,
            running: after.metrics.sum("jobs", RUNNING),
            seconds,
            checkpoints: grown("checkpoints_total", "\"ok\""),
            aborted: grown("checkpoints_total", "\"error\""),
            workers_lost: grown("workers_lost_total", ""),
            status_writes_failed: grown("status_writes_total", "\"error\""),
            calls: calls.collect(),
            processor: (after.leader - before.leader) / seconds,
            memory: after.memory,
            peak_memory: after.peak,
            checkpoint_ms: grown("checkpoint_seconds_sum", "") / timed * 1e3,
            others: OTHERS.iter().map(|(program, name)| (*name, used(program))).collect(),
        }
    }

    fn calls(&self) -> f64 {
        self.calls.values().sum()
    }
}

/// `{method="PATCH",resource="streamjobs"}` in short.
fn call(labels: &str) -> String {
    labels.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ")
}

fn table(rows: &[Row], backend: &str) {
    let line = |what: &str, value: &dyn Fn(&Row) -> String| {
        let values: String = rows.iter().map(|row| format!(" {:>12}", value(row))).collect();
        println!("  {what:<58}{values}");
    };
    println!("\nThe controller, with a checkpoint a second and job, stub workers, state backend {backend}");
    line("jobs", &|row| row.jobs.to_string());
    line("all run after, s", &|row| row.all_run_seconds.map_or("never".to_string(), |s| format!("{s:.0}")));
    line("running at the end", &|row| format!("{:.0}", row.running));
    line("checkpoints/s", &|row| format!("{:.0}", row.checkpoints / row.seconds));
    line("checkpoints aborted", &|row| format!("{:.0}", row.aborted));
    line("from the trigger to the record, mean ms", &|row| format!("{:.0}", row.checkpoint_ms));
    line("processors", &|row| format!("{:.2}", row.processor));
    line("processor time a checkpoint, ms", &|row| {
        format!("{:.2}", row.processor * row.seconds / row.checkpoints * 1e3)
    });
    line("memory, MiB", &|row| (row.memory >> 20).to_string());
    line("memory at most, MiB", &|row| (row.peak_memory >> 20).to_string());
    line("API calls a checkpoint", &|row| format!("{:.3}", row.calls() / row.checkpoints));
    let kinds: std::collections::BTreeSet<&String> = rows.iter().flat_map(|row| row.calls.keys()).collect();
    for kind in kinds {
        let value = |row: &Row| format!("{:.4}", row.calls.get(kind).copied().unwrap_or_default() / row.checkpoints);
        line(&format!("  of these {kind}"), &value);
    }
    line("status writes that failed", &|row| format!("{:.0}", row.status_writes_failed));
    line("workers lost", &|row| format!("{:.0}", row.workers_lost));
    for name in OTHERS.iter().map(|(_, name)| *name).chain(["stub workers"]) {
        line(&format!("processors of the {name}"), &|row| format!("{:.2}", row.others[name]));
    }
}

/// This program again, as the node and the workers; it ends with what holds it.
fn start() -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    let stub = Command::new(program).args(["stub", "--held"]).stdin(Stdio::piped()).kill_on_drop(true).spawn();
    stub.expect("the stub workers start")
}

fn stub_seconds(stub: &Child) -> f64 {
    let stat = stub.id().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/stat")).ok()).unwrap_or_default();
    super::usage::processor_of(&stat).map(|(_, seconds)| seconds).expect("the stub workers run")
}

async fn apply(space: &Space, which: std::ops::Range<usize>, backend: &str) {
    let settings = Settings { workers: 1, interval: LONG, ..Settings::default() };
    stream::iter(which)
        .for_each_concurrent(AT_ONCE, |n| {
            let job = Job { space: space.clone(), name: format!("job-{n}"), rows: settings.rows() };
            let mut resource = job::resource(&space.name, &job.name, &settings);
            resource["spec"]["state"]["backend"] = backend.into();
            resource["spec"]["workers"]["podTemplate"]["spec"] = json!({
                "nodeSelector": {stub::MARK: "true"},
                "tolerations": [{"key": stub::MARK, "operator": "Exists", "effect": "NoSchedule"}],
            });
            async move {
                job.apply(&resource).await.unwrap_or_else(|error| panic!("{} is applied: {error}", job.name));
            }
        })
        .await;
}

/// Changes the interval of these jobs, which needs no new attempt.
async fn change(space: &Space, which: std::ops::Range<usize>, interval: &str) {
    stream::iter(which)
        .for_each_concurrent(CHANGED_AT_ONCE, |n| {
            let job = Job { space: space.clone(), name: format!("job-{n}"), rows: 0 };
            async move { job.change(json!({"checkpoint": {"interval": interval}})).await }
        })
        .await;
}

/// Waits until all jobs have come so far; false if they do not. Asks the controller and not the API server, which would have to
/// answer with all of them.
async fn all(leader: &Leader, jobs: usize, so_far: fn(&Metrics) -> usize) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if leader.metrics().await.is_some_and(|metrics| so_far(&metrics) >= jobs) {
            return true;
        }
        pass(LOOK).await;
    }
    false
}

fn running(metrics: &Metrics) -> usize {
    metrics.sum("jobs", RUNNING) as usize
}

fn checkpointed(metrics: &Metrics) -> usize {
    metrics.series("last_checkpoint_timestamp_seconds").count()
}

/// Deletes all jobs. An API server that has no time for so much at once is asked again.
async fn delete(space: &Space) {
    let jobs = space.cluster.stream_jobs(&space.name);
    let all = ListParams::default();
    until_every(LOOK, PATIENCE, "all jobs are gone", || async {
        let left = jobs.list_metadata(&all).await.ok()?.items;
        if left.iter().any(|job| job.metadata.deletion_timestamp.is_none()) {
            drop(jobs.delete_collection(&DeleteParams::default(), &all).await);
        }
        left.is_empty().then_some(())
    })
    .await;
}
