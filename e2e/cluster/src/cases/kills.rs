//! Workers that die in every way a pod can, at every moment: nothing is lost, nothing is counted twice.

use std::time::Duration;

use futures::future::join_all;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, LogParams},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    job::{Job, Settings},
    space::Space,
    toxiproxy::Proxy,
    wait::{until, until_within},
};

/// How a worker is lost.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill9,
    OnePod,
    AllPods,
    OutOfMemory,
}

const BLOWS: [Blow; 4] = [Blow::Kill9, Blow::OnePod, Blow::AllPods, Blow::OutOfMemory];
/// So much longer takes every answer of the storage where a checkpoint or a restore must be long enough to be struck.
const SLOW: u64 = 300;
/// So that a restore, which is a few answers long, is still under way once that is seen.
const VERY_SLOW: u64 = 1_500;

pub async fn kill_9_in_a_container(space: Space) {
    at_any_time(space, Blow::Kill9).await;
}

pub async fn one_pod_deleted(space: Space) {
    at_any_time(space, Blow::OnePod).await;
}

pub async fn all_pods_deleted(space: Space) {
    at_any_time(space, Blow::AllPods).await;
}

pub async fn out_of_memory(space: Space) {
    at_any_time(space, Blow::OutOfMemory).await;
}

pub async fn kill_9_during_a_checkpoint(space: Space) {
    during_a_checkpoint(space, Blow::Kill9).await;
}

pub async fn one_pod_deleted_during_a_checkpoint(space: Space) {
    during_a_checkpoint(space, Blow::OnePod).await;
}

pub async fn all_pods_deleted_during_a_checkpoint(space: Space) {
    during_a_checkpoint(space, Blow::AllPods).await;
}

pub async fn out_of_memory_during_a_checkpoint(space: Space) {
    during_a_checkpoint(space, Blow::OutOfMemory).await;
}

pub async fn kill_9_during_a_restore(space: Space) {
    during_a_restore(space, Blow::Kill9).await;
}

pub async fn one_pod_deleted_during_a_restore(space: Space) {
    during_a_restore(space, Blow::OnePod).await;
}

pub async fn all_pods_deleted_during_a_restore(space: Space) {
    during_a_restore(space, Blow::AllPods).await;
}

pub async fn out_of_memory_during_a_restore(space: Space) {
    during_a_restore(space, Blow::OutOfMemory).await;
}

impl Blow {
    /// Strikes. A worker that is not there any more has been struck already.
    async fn strike(self, job: &Job, which: usize) {
        let workers =
            until("a worker to strike", || async { Some(job.workers().await).filter(|workers| !workers.is_empty()) })
                .await;
        let victim = workers[which % workers.len()].as_str();
        let cluster = &job.space.cluster;
        let now = DeleteParams::default().grace_period(0);
        println!("        {}: {self:?} on {victim}", job.space.name);
        match self {
            Self::Kill9 => drop(cluster.signal("weir-worker", victim, "KILL").await),
            Self::OutOfMemory => drop(cluster.exhaust_memory("weir-worker", victim).await),
            Self::OnePod => drop(cluster.pods(&job.space.name).delete(victim, &now).await),
            Self::AllPods => {
                for worker in &workers {
                    let _ = cluster.pods(&job.space.name).delete(worker, &now).await;
                }
            }
        }
    }
}

async fn at_any_time(space: Space, blow: Blow) {
    let job = Job::running(&space, &Settings::default()).await;
    let attempt = job.attempt().await;
    blow.strike(&job, 1).await;
    job.until_recovered_from(attempt).await;
    let told = until("an event tells of the restore", || async {
        let events = space.events(&job.name).await;
        events.into_iter().map(|(_, message)| message).find(|message| message.to_lowercase().contains("restored"))
    })
    .await;
    println!("        {}: {told}", space.name);
    job.finishes_exact().await;
}

/// A job whose storage takes its time.
async fn slow_job(space: &Space, milliseconds: u64) -> (Job, Proxy) {
    let (proxy, endpoint) = space.proxy().await;
    let job = Job::running(space, &Settings { seconds: 60, endpoint, ..Settings::default() }).await;
    proxy.slow(milliseconds).await;
    (job, proxy)
}

async fn during_a_checkpoint(space: Space, blow: Blow) {
    let (job, proxy) = slow_job(&space, SLOW).await;
    // A checkpoint has just completed, and something has been uploaded since: the next one is under way.
    job.until_more_checkpoints(1).await;
    let records = job.records().await.len();
    let before = uploads(&job).await;
    until("an upload of the next checkpoint", || async { (uploads(&job).await > before).then_some(()) }).await;
    let attempt = job.attempt().await;
    blow.strike(&job, 0).await;
    println!("        {}: {} records before, {} now", space.name, records, job.records().await.len());
    job.until_recovered_from(attempt).await;
    proxy.cure("latency").await;
    job.finishes_exact().await;
}

/// How many files of checkpoints stand in storage.
async fn uploads(job: &Job) -> usize {
    let bucket = &job.space.bucket;
    bucket.list(&format!("{}/state", job.storage())).await.len()
        + bucket.list(&format!("{}/parts", job.storage())).await.len()
}

/// How many terms were opened.
pub async fn openings(job: &Job) -> usize {
    let terms = job.space.bucket.list(&format!("{}/terms", job.storage())).await;
    terms.iter().filter(|path| path.ends_with("/opening")).count()
}

async fn during_a_restore(space: Space, blow: Blow) {
    let (job, proxy) = slow_job(&space, VERY_SLOW).await;
    let attempt = job.attempt().await;
    Blow::OnePod.strike(&job, 0).await;
    // From when a worker is told to, it downloads what it needs, one slow answer after the other.
    until("a worker restores", || async { (!told_to_deploy(&job, attempt + 1).await.is_empty()).then_some(()) }).await;
    blow.strike(&job, 0).await;
    // It took another attempt than the one that was being restored.
    job.until_recovered_from(attempt + 1).await;
    proxy.cure("latency").await;
    job.finishes_exact().await;
}

/// The workers that have been told to deploy an attempt.
async fn told_to_deploy(job: &Job, attempt: u64) -> Vec<String> {
    let workers = job.workers().await;
    let pods = job.space.cluster.pods(&job.space.name);
    let parameters = LogParams::default();
    let logs = join_all(workers.iter().map(|worker| pods.logs(worker, &parameters))).await;
    let told = format!("deploying attempt={attempt} ");
    let of_these = workers.into_iter().zip(logs);
    of_these.filter(|(_, log)| log.as_ref().is_ok_and(|log| log.contains(&told))).map(|(worker, _)| worker).collect()
}

pub async fn ten_blows_at_random(space: Space) {
    let seed = std::env::var("WEIR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("        {}: WEIR_SEED={seed} replays the blows, if not their moments", space.name);
    let mut random = StdRng::seed_from_u64(seed);
    let job = Job::running(&space, &Settings::seconds(120)).await;
    let mut settled = true;
    for _ in 0..10 {
        let attempt = job.attempt().await;
        BLOWS[random.random_range(0..BLOWS.len())].strike(&job, random.random_range(0..2)).await;
        // A blow ends the attempt that runs. One that does not run yet may begin with other workers.
        if settled {
            until("the next attempt", || async { (job.attempt().await > attempt).then_some(()) }).await;
        }
        // Half of them fall into the restore that the last one has caused.
        settled = random.random_bool(0.5);
        if settled {
            job.until_condition("Ready", "True").await;
            job.until_more_checkpoints(2).await;
        } else {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        }
    }
    job.finishes_exact().await;
}

pub async fn standby_takes_over(space: Space) {
    let job = Job::start_with(&space, &Settings::default(), |job| job["spec"]["workers"]["standby"] = 1.into()).await;
    job.until_condition("Checkpointed", "True").await;
    let before = job.until_workers(3).await;
    let attempt = job.attempt().await;
    let opened = openings(&job).await;
    // Any of the three may be the one that stands by.
    let at_work = told_to_deploy(&job, attempt).await;
    let which = before.iter().position(|worker| at_work.contains(worker)).expect("somebody runs the attempt");
    Blow::OnePod.strike(&job, which).await;
    until("the next attempt is opened", || async { (openings(&job).await > opened).then_some(()) }).await;
    // The opening names the workers of the attempt: no new pod was waited for.
    job.until_recovered_from(attempt).await;
    let after = job.until_workers(3).await;
    assert_eq!(after.iter().filter(|pod| before.contains(pod)).count(), 2, "two of {before:?} are left in {after:?}");
    job.finishes_exact().await;
}

pub async fn evicted_by_a_drain(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    let attempt = job.attempt().await;
    let victim = job.workers().await.remove(0);
    let pods = space.cluster.pods(&space.name);
    let asked = chrono::Utc::now();
    until("the disruption budget lets the eviction through", || async {
        pods.evict(&victim, &kube::api::EvictParams::default()).await.ok()
    })
    .await;
    // The successor is there before the evicted one is gone.
    until("a successor while the evicted pod still runs", || async {
        let all = space.cluster.labelled(&space.name, &format!("weir.dev/job={}", job.name)).await;
        let leaving = all.iter().any(|pod| pod.name_any() == victim);
        let successor = all.iter().any(|pod| {
            pod.metadata.creation_timestamp.as_ref().is_some_and(|time| time.0.as_second() >= asked.timestamp())
        });
        assert!(leaving || successor, "the evicted pod was gone before a successor was there");
        successor.then_some(())
    })
    .await;
    job.until_recovered_from(attempt).await;
    job.finishes_exact().await;
}

pub async fn cut_off_by_dropped_packets(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    let attempt = job.attempt().await;
    let victim = job.workers().await.remove(0);
    let pods: Api<_> = space.cluster.pods(&space.name);
    let pod = pods.get(&victim).await.expect("the worker's pod is there");
    let address = pod.status.and_then(|status| status.pod_ip).expect("a running pod has an address");
    // No connection is closed: nothing but silence tells that it is cut off.
    space.cluster.drop_packets(Some(&address), None, true).await;
    space.cluster.drop_packets(None, Some(&address), true).await;
    let recovered = until_within(Duration::from_mins(1), "an attempt without the silent worker", || async {
        (job.attempt().await > attempt).then_some(())
    });
    recovered.await;
    job.until_recovered_from(attempt).await;
    space.cluster.drop_packets(Some(&address), None, false).await;
    space.cluster.drop_packets(None, Some(&address), false).await;
    // It is heard again, and fenced: the job's attempt stays what it is.
    let attempt = job.attempt().await;
    job.until_more_checkpoints(3).await;
    assert_eq!(job.attempt().await, attempt, "the worker that came back disturbed the attempt");
    job.finishes_exact().await;
}
