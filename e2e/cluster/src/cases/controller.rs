//! Controllers that die at the worst moment, are replaced, or are two at once: the job runs on, on the same pods, and ends exact.

use std::{collections::BTreeSet, future::Future, time::Duration};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Event};
use kube::{Api, api::ListParams};

use super::kills::until_restoring;
use crate::{
    install::{NAMESPACE, SYSTEM, helm},
    job::{Job, Settings},
    node::Cut,
    space::Space,
    wait::{answered, until, until_within},
};

/// The controller's process.
const PROGRAM: &str = "weir";

/// The pod that holds the lease.
async fn leader(space: &Space) -> String {
    until("a leader", || async { leader_now(space).await }).await
}

async fn leader_now(space: &Space) -> Option<String> {
    let holder = holder(space).await?;
    // A holder's name may carry more than the pod's.
    let pods = space.cluster.labelled(NAMESPACE, "").await;
    pods.into_iter().filter_map(|pod| pod.metadata.name).find(|name| holder.starts_with(name.as_str()))
}

/// Who holds the lease: a process, which may be gone.
async fn holder(space: &Space) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(space.cluster.client.clone(), NAMESPACE);
    let all = ListParams::default();
    let leases = answered("reading the lease", || leases.list(&all)).await.items;
    leases.into_iter().find_map(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty())
}

async fn kill(space: &Space, leader: &str) {
    space.controllers.kills_one();
    space.cluster.signal(PROGRAM, leader, "KILL").await.expect("the leader is killed");
}

/// Does something, kills the leader at once, and returns when another process leads.
pub async fn interrupted(space: &Space, act: impl Future<Output = ()>) {
    let leader = leader(space).await;
    let before = holder(space).await;
    act.await;
    kill(space, &leader).await;
    let next = until("the next leader", || async { holder(space).await.filter(|now| Some(now) != before.as_ref()) });
    println!("        {}: {leader} was killed, {} leads", space.name, next.await);
}

async fn address(space: &Space, namespace: &str, pod: &str) -> String {
    let pod = space.cluster.pods(namespace).get(pod).await.expect("the pod is there");
    pod.status.and_then(|status| status.pod_ip).expect("a running pod has an address")
}

/// What a job was before the controller was hurt.
struct Before {
    attempt: u64,
    workers: Vec<String>,
    terms: usize,
}

impl Before {
    async fn of(job: &Job) -> Self {
        Self { attempt: job.attempt().await, workers: job.until_workers(2).await, terms: job.terms().await }
    }

    /// The next leader has opened its term over the same attempt, on the same pods, and the job ends exact.
    async fn goes_on(self, job: &Job) {
        until("the next leader opens a term", || async { (job.terms().await > self.terms).then_some(()) }).await;
        job.until_more_checkpoints(2).await;
        assert_eq!(job.attempt().await, self.attempt, "losing the controller stops no attempt");
        assert_eq!(job.workers().await, self.workers, "losing the controller stops no worker");
        job.finishes_exact().await;
    }
}

pub async fn controller_killed_between_the_last_ack_and_the_record(space: Space) {
    let job = Job::running(&space, &Settings::seconds(90)).await;
    let before = Before::of(&job).await;
    let leader = leader(&space).await;
    let controller = address(&space, NAMESPACE, &leader).await;
    let minio = space.cluster.labelled(SYSTEM, "app=minio").await.remove(0);
    let minio = minio.status.and_then(|status| status.pod_ip).expect("MinIO runs");
    // The workers reach the storage and the controller does not: all parts are there and acked, and the record cannot be written.
    let cut = space.cluster.cut(&[(Some(&controller), Some(&minio))]).await;
    let last = job.newest_record().await;
    let id = until("all parts of a checkpoint without a record", || async {
        let parts = space.bucket.list(&format!("{}/parts", job.storage())).await;
        let ids: Vec<u64> =
            parts.iter().filter_map(|path| path.rsplit('/').next()?.split('-').next()?.parse().ok()).collect();
        ids.iter()
            .copied()
            .find(|id| *id > last && ids.iter().filter(|other| *other == id).count() == before.workers.len())
    })
    .await;
    kill(&space, &leader).await;
    assert!(!job.records().await.contains(&id), "the record of {id} is there already: the moment was missed");
    cut.mend().await;
    before.goes_on(&job).await;
}

pub async fn controller_killed_between_record_and_commit(space: Space) {
    let (proxy, endpoint) = space.proxy().await;
    let job = Job::running(&space, &Settings { endpoint, seconds: 90, ..Settings::default() }).await;
    proxy.slow(250).await;
    let before = Before::of(&job).await;
    let leader = leader(&space).await;
    let controller = address(&space, NAMESPACE, &leader).await;
    let mut workers = Vec::new();
    for worker in &before.workers {
        workers.push(address(&space, &space.name, worker).await);
    }
    // Once a checkpoint is under way nothing that the controller says arrives any more, while it hears the acks: it writes the
    // record, and its Commit is lost. Where the Commit was quicker than that, there is a next checkpoint.
    let ways: Vec<_> = workers.iter().map(|worker| (Some(controller.as_str()), Some(worker.as_str()))).collect();
    let moment = until_within(Duration::from_mins(1), "a record without its commit", || async {
        job.until_more_checkpoints(1).await;
        let seen = job.uploads().await;
        until("a checkpoint is under way", || async { (!job.uploads().await.is_subset(&seen)).then_some(()) }).await;
        let cut = space.cluster.cut(&ways).await;
        let last = job.newest_record().await;
        let output = space.bucket.published(&job.output()).await.len();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if job.newest_record().await > last {
                if space.bucket.published(&job.output()).await.len() == output {
                    return Some((cut, output));
                }
                break;
            }
        }
        cut.mend().await;
        None
    });
    let (cut, output): (Cut, usize) = moment.await;
    kill(&space, &leader).await;
    assert_eq!(space.bucket.published(&job.output()).await.len(), output, "what the record names is not published yet");
    cut.mend().await;
    until("what the record names is published", || async {
        (space.bucket.published(&job.output()).await.len() > output).then_some(())
    })
    .await;
    proxy.cure("latency").await;
    before.goes_on(&job).await;
}

pub async fn controller_killed_between_two_triggers(space: Space) {
    let job = Job::running(&space, &Settings { interval: "4s", seconds: 60, ..Settings::default() }).await;
    let before = Before::of(&job).await;
    job.until_more_checkpoints(1).await;
    let leader = leader(&space).await;
    kill(&space, &leader).await;
    before.goes_on(&job).await;
}

/// The workers have been told what to deploy, and are at it yet: under the next leader the same attempt runs.
pub async fn controller_killed_during_a_restore(space: Space) {
    let (proxy, endpoint) = space.proxy().await;
    let job = Job::running(&space, &Settings { endpoint, seconds: 90, ..Settings::default() }).await;
    let (attempt, terms) = (job.attempt().await, job.terms().await);
    let victim = job.until_workers(2).await.remove(0);
    let now = kube::api::DeleteParams::default().grace_period(0);
    space.cluster.pods(&space.name).delete(&victim, &now).await.expect("a worker is deleted");
    until("the next attempt is opened", || async { (job.terms().await > terms).then_some(()) }).await;
    proxy.slow(2_000).await;
    interrupted(&space, async { drop(until_restoring(&job, attempt).await) }).await;
    let told = |message: &String| message.starts_with(&format!("attempt {} runs", attempt + 1));
    let events = space.events(&job.name).await;
    assert!(!events.iter().any(|(_, message)| told(message)), "the moment was missed: {events:?}");
    proxy.cure("latency").await;
    job.until_recovered_from(attempt).await;
    assert_eq!(job.attempt().await, attempt + 1, "losing the controller stops no attempt");
    job.finishes_exact().await;
}

pub async fn controller_replaced_by_its_standby(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    let before = Before::of(&job).await;
    let first = leader(&space).await;
    let now = kube::api::DeleteParams::default().grace_period(0);
    space.cluster.pods(NAMESPACE).delete(&first, &now).await.expect("the leader's pod is deleted");
    until("another leader", || async { leader_now(&space).await.filter(|leader| *leader != first) }).await;
    before.goes_on(&job).await;
}

pub async fn two_controllers_at_once(space: Space) {
    let job = Job::running(&space, &Settings::seconds(90)).await;
    let before = Before::of(&job).await;
    let first = leader(&space).await;
    space.cluster.signal(PROGRAM, &first, "STOP").await.expect("the leader is frozen");
    until("another leader", || async { leader_now(&space).await.filter(|leader| *leader != first) }).await;
    until("it opens a term", || async { (job.terms().await > before.terms).then_some(()) }).await;
    // The old one goes on where it was, believing that it leads. That is less than half a minute after it was frozen: after that its
    // liveness probe would have had it ended, and there would be nothing to let go.
    space.cluster.signal(PROGRAM, &first, "CONT").await.expect("the first leader is still there, frozen");
    before.goes_on(&job).await;
}

pub async fn operator_upgrade_restarts_no_worker(space: Space) {
    let job = Job::running(&space, &Settings::seconds(120)).await;
    let before = Before::of(&job).await;
    // Jobs that name no image would get the new default if their pods were made anew.
    helm(&["image.tag=next", "worker.image.tag=next"]).await.unwrap_or_else(|error| panic!("{error}"));
    until_within(std::time::Duration::from_mins(1), "the new controllers lead", || async {
        let leader = leader_now(&space).await?;
        let pod = space.cluster.pods(NAMESPACE).get(&leader).await.ok()?;
        pod.spec?.containers.first()?.image.as_ref()?.ends_with(":next").then_some(())
    })
    .await;
    job.until_more_checkpoints(2).await;
    assert_eq!(job.workers().await, before.workers, "an upgrade of the operator restarts no worker");
    helm(&[]).await.unwrap_or_else(|error| panic!("{error}"));
    before.goes_on(&job).await;
}

/// State that nothing bounds, which planning warns of.
const WITHOUT_BOUND: &str = "
    CREATE TABLE ever (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '10');
    CREATE TABLE nowhere (n BIGINT, c BIGINT) WITH ('connector' = 'blackhole');
    INSERT INTO nowhere SELECT n, COUNT(*) FROM ever GROUP BY n;";

/// Another leader goes on with the events of the one before: it adds one object at most, warns of a plan no second time, and what it
/// tells has a time by which it can be sorted.
pub async fn events_of_two_leaders(space: Space) {
    let job = Job::start_with(&space, &Settings::seconds(90), |job| {
        let sql = job["spec"]["sql"].as_str().unwrap_or_default().to_string();
        job["spec"]["sql"] = (sql + WITHOUT_BOUND).into();
    })
    .await;
    job.until_condition("Checkpointed", "True").await;
    let before = Before::of(&job).await;
    let (objects, terms) = (space.event_objects(&job.name).await, job.terms().await);
    let leader = leader(&space).await;
    kill(&space, &leader).await;
    until("the next leader opens a term", || async { (job.terms().await > terms).then_some(()) }).await;
    let resumed = |event: &Event| event.reason.as_deref() == Some("Resumed");
    until("the next leader tells that the job is resumed", || async {
        space.event_objects(&job.name).await.iter().any(resumed).then_some(())
    })
    .await;
    job.until_more_checkpoints(3).await;
    let after = space.event_objects(&job.name).await;
    let names =
        |events: &[Event]| -> BTreeSet<String> { events.iter().filter_map(|it| it.metadata.name.clone()).collect() };
    let added: Vec<String> = names(&after).difference(&names(&objects)).cloned().collect();
    assert!(added.len() <= 1, "another leader has added {added:?}");
    for event in &after {
        assert!(event.last_timestamp.is_some() && event.count.is_some_and(|count| count > 0), "{event:?} has no time");
    }
    let warnings: Vec<_> = after.iter().filter(|event| event.reason.as_deref() == Some("PlanWarning")).collect();
    assert_eq!(warnings.iter().filter_map(|event| event.count).collect::<Vec<_>>(), [1], "{warnings:?}");
    assert_eq!(job.workers().await, before.workers, "another leader restarts no worker");
}
