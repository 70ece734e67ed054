//! Storage that is cut, slow, or answers 503: the job goes on, its conditions say so, and it recovers by itself.

use std::time::Duration;

use crate::{
    job::{Job, Settings},
    space::Space,
    toxiproxy::Proxy,
    wait::{until, until_within},
};

/// Within seconds: a checkpoint that is late, and a read that is not answered.
const SECONDS: Duration = Duration::from_secs(20);

/// A job behind a proxy, that gives up on a checkpoint soon and tolerates one failure.
async fn proxied(space: &Space, seconds: u64) -> (Job, Proxy) {
    let (proxy, endpoint) = space.proxy().await;
    let settings = Settings { seconds, endpoint, ..Settings::default() };
    let job = Job::start_with(space, &settings, |job| {
        job["spec"]["checkpoint"]["timeout"] = "3s".into();
        job["spec"]["checkpoint"]["tolerableFailures"] = 1.into();
    })
    .await;
    job.until_condition("Checkpointed", "True").await;
    (job, proxy)
}

/// What every trouble with storage must come to: a condition that says so, rows that flow on, and no other workers.
async fn goes_on(job: &Job, pods: &[String]) {
    let (reason, message) = job.until_condition("Checkpointed", "False").await;
    println!("        {}: Checkpointed=False {reason}: {message}", job.space.name);
    let read = job.rows_read().await;
    until("more rows are read", || async { (job.rows_read().await > read).then_some(()) }).await;
    assert_eq!(job.workers().await, pods, "storage that fails restarts no worker");
}

pub async fn storage_cut(space: Space) {
    let (job, proxy) = proxied(&space, 60).await;
    let (attempt, pods) = (job.attempt().await, job.until_workers(2).await);
    proxy.cut().await;
    goes_on(&job, &pods).await;
    proxy.mend().await;
    job.until_condition("Checkpointed", "True").await;
    assert_eq!(job.attempt().await, attempt, "storage that fails restarts no attempt");
    job.finishes_exact().await;
}

/// A change waits for its last checkpoint, whose own timeout is minutes away: what it waits for is said within seconds.
pub async fn storage_cut_while_a_change_waits(space: Space) {
    let (proxy, endpoint) = space.proxy().await;
    let job = Job::running(&space, &Settings { seconds: 90, endpoint, ..Settings::default() }).await;
    let attempt = job.attempt().await;
    proxy.cut().await;
    job.scale(1).await;
    for kind in ["Ready", "Checkpointed"] {
        let message = until_within(SECONDS, &format!("{kind}=False, StorageUnreachable"), || async {
            let (status, reason, message) = job.condition(kind).await?;
            (status == "False" && reason == "StorageUnreachable").then_some(message)
        })
        .await;
        println!("        {}: {kind}: {message}", space.name);
        assert!(message.contains("terms/"), "{message} does not name the call");
    }
    assert_eq!(job.condition("Reconciling").await.map(|(_, reason, _)| reason).as_deref(), Some("Changing"));
    let events = space.events(&job.name).await;
    let named = |(reason, message): &(String, String)| reason == "StorageUnreachable" && message.contains("terms/");
    assert!(events.iter().any(named), "no event names the call: {events:?}");
    proxy.mend().await;
    job.until_attempt_after(attempt).await;
    job.finishes_exact().await;
}

pub async fn storage_slow(space: Space) {
    let (job, proxy) = proxied(&space, 60).await;
    let (attempt, pods) = (job.attempt().await, job.until_workers(2).await);
    // Slower than the checkpoint's timeout.
    proxy.slow(4_000).await;
    goes_on(&job, &pods).await;
    proxy.cure("latency").await;
    job.until_condition("Checkpointed", "True").await;
    assert_eq!(job.attempt().await, attempt, "storage that is slow restarts no attempt");
    job.finishes_exact().await;
}

pub async fn storage_answers_503(space: Space) {
    let (job, proxy) = proxied(&space, 60).await;
    let (attempt, pods) = (job.attempt().await, job.until_workers(2).await);
    // Each request is carried out all the same: an answer in doubt is read back, never taken for a no.
    proxy.unavailable().await;
    goes_on(&job, &pods).await;
    proxy.cure("unavailable").await;
    job.until_condition("Checkpointed", "True").await;
    assert_eq!(job.attempt().await, attempt, "storage that answers 503 restarts no attempt");
    job.finishes_exact().await;
}

pub async fn storage_cut_during_a_restore(space: Space) {
    let (job, proxy) = proxied(&space, 60).await;
    let attempt = job.attempt().await;
    proxy.slow(300).await;
    let before = job.terms().await;
    for worker in job.until_workers(2).await {
        let now = kube::api::DeleteParams::default().grace_period(0);
        space.cluster.pods(&space.name).delete(&worker, &now).await.expect("the worker is there");
    }
    until("the next attempt is opened", || async { (job.terms().await > before).then_some(()) }).await;
    proxy.cut().await;
    proxy.cure("latency").await;
    until_within(Duration::from_mins(1), "a job that is not ready", || async {
        job.condition("Ready").await.filter(|(status, ..)| status != "True").map(drop)
    })
    .await;
    proxy.mend().await;
    job.until_recovered_from(attempt).await;
    job.finishes_exact().await;
}
