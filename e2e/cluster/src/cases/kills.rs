//! Workers that die in every way a pod can, at every moment: nothing is lost, nothing is counted twice.

use std::time::Duration;

use futures::future::{join, join_all};
use kube::{
    ResourceExt,
    api::{DeleteParams, EvictParams, LogParams},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    cluster::Cluster,
    job::{Job, Settings},
    space::Space,
    stored::attempt_of,
    toxiproxy::Proxy,
    wait::{pass, until, until_ok, until_within},
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
/// A worker's process.
const WORKER: &str = "weir-worker";
/// So much longer takes every answer of the storage, so that a checkpoint or a restore, which is some answers long, is still under
/// way when the blow falls.
const SLOW: u64 = 2_000;
/// A worker that is to go and has no successor: some seconds until that is sure, a last checkpoint, and the pod's end. Its grace period
/// alone would be half a minute.
const DRAINED: Duration = Duration::from_secs(25);
/// So often a blow is dealt for one that falls inside. More would be more events than a job may have of one reason.
const TRIES: usize = 3;

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
    /// Strikes one of the workers that run, and returns its name. One that has just gone is no blow: then another is struck.
    async fn strike(self, job: &Job, which: usize) -> String {
        until_ok(&format!("{self:?}"), || async {
            let workers = job.workers().await;
            let victim = workers.get(which % workers.len().max(1)).ok_or("no worker runs")?;
            self.hit(job, victim).await.map(|()| victim.clone())
        })
        .await
    }

    /// Strikes this worker. An error where it is not there any more, or lives on.
    async fn hit(self, job: &Job, victim: &str) -> Result<(), String> {
        let cluster = &job.space.cluster;
        let pods = cluster.pods(&job.space.name);
        let now = DeleteParams::default().grace_period(0);
        match self {
            Self::Kill9 => cluster.signal(WORKER, victim, "KILL").await?,
            Self::OutOfMemory => cluster.exhaust_memory(WORKER, victim).await?,
            Self::OnePod => drop(pods.delete(victim, &now).await.map_err(|error| error.to_string())?),
            Self::AllPods => {
                for worker in job.workers().await {
                    match pods.delete(&worker, &now).await {
                        Err(kube::Error::Api(status)) if status.code == 404 && worker != victim => {}
                        deleted => drop(deleted.map_err(|error| error.to_string())?),
                    }
                }
            }
        }
        println!("        {}: {self:?} on {victim}", job.space.name);
        Ok(())
    }

    /// What can be said of a worker that was struck, beside that it is gone.
    async fn is_named(self, job: &Job, victim: &str) {
        if let Self::OutOfMemory = self {
            // The container runtime does not always say that it was the limit; then that is told as what may have been.
            let is = |message: &str| message.starts_with(victim) && message.contains("more than its limits.memory of");
            let told = until_told(job, &format!("{victim} has reached its limit"), is).await;
            println!("        {}: {told}", job.space.name);
        }
    }
}

/// Waits for an event about the job, and returns what it says.
async fn until_told(job: &Job, what: &str, is: impl Fn(&str) -> bool) -> String {
    until(&format!("an event tells: {what}"), || async {
        let events = job.space.events(&job.name).await;
        events.into_iter().map(|(_, message)| message).find(|message| is(message))
    })
    .await
}

/// Waits until the controller has noticed that a worker is gone.
async fn until_lost(job: &Job, victim: &str) {
    let lost = format!("{victim} was lost");
    until_told(job, &lost, |message| message.starts_with(&lost)).await;
}

async fn at_any_time(space: Space, blow: Blow) {
    let job = Job::running(&space, &Settings::default()).await;
    let attempt = job.attempt().await;
    let victim = blow.strike(&job, 1).await;
    job.until_recovered_from(attempt).await;
    blow.is_named(&job, &victim).await;
    let told = until_told(&job, "the job is restored", |message| message.contains("restored from checkpoint")).await;
    println!("        {}: {told}", space.name);
    job.finishes_exact().await;
}

async fn during_a_checkpoint(space: Space, blow: Blow) {
    let (proxy, endpoint) = space.proxy().await;
    let job = Job::start_with(&space, &Settings { seconds: 60, endpoint, ..Settings::default() }, |job| {
        // What no record names is of a checkpoint that has none, since no record is ever retired.
        job["spec"]["checkpoint"]["retain"] = 1_000.into();
    })
    .await;
    job.until_condition("Checkpointed", "True").await;
    until_one_falls_inside(&job, "a checkpoint", || falls_into_a_checkpoint(&job, &proxy, blow)).await;
    job.finishes_exact().await;
}

/// Deals blows until one falls inside what it is to strike, as dealing it tells.
async fn until_one_falls_inside<Dealt: Future<Output = bool>>(job: &Job, what: &str, deal: impl Fn() -> Dealt) {
    for _ in 0..TRIES {
        if deal().await {
            return;
        }
        println!("        {}: {what} was over before that", job.space.name);
    }
    panic!("none of {TRIES} blows fell into {what}");
}

/// Strikes when something was uploaded for a checkpoint, and waits until the job has recovered. Whether that checkpoint was never
/// completed.
async fn falls_into_a_checkpoint(job: &Job, proxy: &Proxy, blow: Blow) -> bool {
    let attempt = job.attempt().await;
    job.until_more_checkpoints(1).await;
    proxy.slow(SLOW).await;
    let before = job.uploads().await;
    until("an upload for the next checkpoint", || async { (!job.uploads().await.is_subset(&before)).then_some(()) })
        .await;
    let victim = blow.strike(job, 0).await;
    let uploads = job.uploads().await;
    until_lost(job, &victim).await;
    proxy.cure("latency").await;
    job.until_recovered_from(attempt).await;
    blow.is_named(job, &victim).await;
    let named = job.named().await;
    let lost: Vec<&String> = uploads
        .difference(&before)
        .filter(|upload| attempt_of(upload) == Some(attempt) && !named.contains(*upload))
        .collect();
    println!("        {}: uploaded for a checkpoint without a record: {lost:?}", job.space.name);
    !lost.is_empty()
}

async fn during_a_restore(space: Space, blow: Blow) {
    let (proxy, endpoint) = space.proxy().await;
    let job = Job::running(&space, &Settings { seconds: 60, endpoint, ..Settings::default() }).await;
    until_one_falls_inside(&job, "a restore", || falls_into_a_restore(&job, &proxy, blow)).await;
    job.finishes_exact().await;
}

/// Strikes when a worker restores, and waits until the job has recovered. Whether the attempt that was struck never ran.
async fn falls_into_a_restore(job: &Job, proxy: &Proxy, blow: Blow) -> bool {
    let (attempt, terms) = (job.attempt().await, job.terms().await);
    Blow::OnePod.strike(job, 0).await;
    until("the next attempt is opened", || async { (job.terms().await > terms).then_some(()) }).await;
    proxy.slow(SLOW).await;
    // From when a worker is told to, it downloads what it needs, one slow answer after the other.
    let (restoring, victim) = until_restoring(job, attempt).await;
    until_ok(&format!("{blow:?} on {victim}"), || blow.hit(job, &victim)).await;
    until_lost(job, &victim).await;
    proxy.cure("latency").await;
    job.until_recovered_from(restoring).await;
    blow.is_named(job, &victim).await;
    // Events are told in order: when one tells of the attempt that runs, one of the attempt before would be there.
    let runs = |attempt: u64| format!("attempt {attempt} runs");
    let last = runs(job.attempt().await);
    until_told(job, &last, |message| message.starts_with(&last)).await;
    let struck = runs(restoring);
    !job.space.events(&job.name).await.iter().any(|(_, message)| message.starts_with(&struck))
}

/// Waits until a worker has been told to deploy a later attempt; which, and who.
pub async fn until_restoring(job: &Job, attempt: u64) -> (u64, String) {
    until("a worker restores", || async { told_to_deploy(job).await.into_iter().find(|(told, _)| *told > attempt) })
        .await
}

/// The newest attempt that each worker has been told to deploy, with the worker. A worker whose log cannot be read, since it has just
/// begun or gone, has not been told.
async fn told_to_deploy(job: &Job) -> Vec<(u64, String)> {
    let pods = job.space.cluster.pods(&job.space.name);
    let parameters = LogParams::default();
    let workers = job.workers().await;
    let logs = join_all(workers.iter().map(|worker| pods.logs(worker, &parameters))).await;
    let newest = |log: String| log.lines().filter_map(deploys).max();
    workers.into_iter().zip(logs).filter_map(|(worker, log)| Some((newest(log.ok()?)?, worker))).collect()
}

/// The attempt that a line of a worker's log says is being deployed.
fn deploys(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" deploying attempt=")?;
    rest.split(' ').next()?.parse().ok()
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
            // What the blow has done is seen in the status by then.
            pass(Duration::from_secs(3)).await;
            job.until_condition("Ready", "True").await;
            job.until_more_checkpoints(2).await;
        } else {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        }
    }
    job.finishes_exact().await;
}

/// A job with two workers at work and one that stands by; and their names, that of the standby last.
async fn with_a_standby(space: &Space, settings: &Settings) -> (Job, Vec<String>) {
    let job = Job::start_with(space, settings, |job| job["spec"]["workers"]["standby"] = 1.into()).await;
    job.until_condition("Checkpointed", "True").await;
    until("one stands by", || async { (job.status().await["workers"] == "2/2+1").then_some(()) }).await;
    let mut workers = job.until_workers(3).await;
    let at_work = at_work(&job, job.attempt().await).await;
    workers.sort_by_key(|worker| !at_work.contains(worker));
    (job, workers)
}

/// The two workers that were told to deploy this attempt.
async fn at_work(job: &Job, attempt: u64) -> Vec<String> {
    until(&format!("two workers deploy attempt {attempt}"), || async {
        let mut told = told_to_deploy(job).await;
        told.retain(|(newest, _)| *newest == attempt);
        (told.len() == 2).then(|| told.into_iter().map(|(_, worker)| worker).collect())
    })
    .await
}

pub async fn standby_takes_over(space: Space) {
    let (job, before) = with_a_standby(&space, &Settings::default()).await;
    let attempt = job.attempt().await;
    Blow::OnePod.hit(&job, &before[0]).await.expect("the worker is there");
    job.until_recovered_from(attempt).await;
    let mut after = at_work(&job, job.attempt().await).await;
    after.sort_by_key(|worker| *worker == before[2]);
    assert_eq!(after, before[1..], "the standby has the lost worker's place, and no new pod was waited for");
    job.until_workers(3).await;
    job.finishes_exact().await;
}

/// What `kubectl drain` asks for, but for the cordon: there is one node, and with it cordoned no successor could ever come.
pub async fn evicted_by_a_drain(space: Space) {
    let job = Job::running(&space, &Settings::seconds(75)).await;
    // From here on no checkpoint is due. One that is taken all the same is taken because somebody has to go.
    job.change(json!({"checkpoint": {"interval": "10m"}})).await;
    job.until_current().await;
    let seen = until("the last of the regular checkpoints", || async {
        let seen = job.newest_record().await;
        pass(Duration::from_secs(2)).await;
        (job.newest_record().await == seen).then_some(seen)
    })
    .await;
    let (attempt, before) = (job.attempt().await, job.until_workers(2).await);
    let there = async || {
        let pods: Vec<String> = job.all_pods().await.iter().map(ResourceExt::name_any).collect();
        assert!(pods.len() >= 2, "of {before:?} one was gone before its successor was there: {pods:?}");
        pods
    };
    until("the disruption budget lets one go", || async {
        let allowed = ["-n", &space.name, "get", "pdb", "-o", "jsonpath={.items[*].status.disruptionsAllowed}"];
        space.cluster.kubectl(&allowed).await.ok().filter(|allowed| allowed == "1")
    })
    .await;
    let pods = space.cluster.pods(&space.name);
    // One is let go; the other is refused, here or by the client's own tries, until the first has been replaced.
    let evict = async |victim: &str| {
        until(&format!("{victim} is let go"), || async {
            there().await;
            match pods.evict(victim, &EvictParams::default()).await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 429 => None,
                Err(error) => panic!("{victim} cannot be evicted: {error}"),
            }
        })
        .await;
    };
    join(evict(&before[0]), evict(&before[1])).await;
    let now = job.workers().await;
    assert!(now.iter().any(|worker| !before.contains(worker)), "both were let go before a successor ran: {now:?}");
    until("both are gone", || async { (!there().await.iter().any(|pod| before.contains(pod))).then_some(()) }).await;
    job.until_attempt_after(attempt).await;
    let restored = job.restored().await;
    assert!(restored > Some(seen), "a checkpoint was taken first: restored from {restored:?}, seen before {seen}");
    let lost = space.events(&job.name).await.into_iter().find(|(reason, _)| reason == "WorkerLost");
    assert_eq!(lost, None, "nobody's place was handed over by its loss");
    job.finishes_exact().await;
}

/// A drain of the only node: no successor can come, so nobody is kept for one. Each goes after a last checkpoint, or at once where it
/// has no work, and the drain ends.
pub async fn drained_without_room_elsewhere(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    let (attempt, before) = (job.attempt().await, job.until_workers(2).await);
    let cordon = Cordon::put(&space).await;
    let pods = space.cluster.pods(&space.name);
    let begun = std::time::Instant::now();
    for victim in &before {
        until_within(DRAINED, &format!("{victim} is let go"), || async {
            match pods.evict(victim, &EvictParams::default()).await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 429 => None,
                Err(error) => panic!("{victim} cannot be evicted: {error}"),
            }
        })
        .await;
    }
    until_within(DRAINED, "the drain ends", || async {
        (!job.all_pods().await.iter().any(|pod| before.contains(&pod.name_any()))).then_some(())
    })
    .await;
    println!("        {}: drained in {} s", space.name, begun.elapsed().as_secs());
    let (_, reason, message) = job.condition("Ready").await.expect("it says how it is");
    assert_eq!(reason, "Unschedulable", "{message}");
    drop(cordon);
    job.until_recovered_from(attempt).await;
    job.finishes_exact().await;
}

/// No new pod comes to the node for as long as this lives.
struct Cordon(String);

impl Cordon {
    async fn put(space: &Space) -> Self {
        let names = ["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"];
        let nodes = space.cluster.kubectl(&names).await.unwrap_or_else(|error| panic!("{error}"));
        let cordon = Self(nodes);
        for node in cordon.0.split_whitespace() {
            space.cluster.kubectl(&["cordon", node]).await.unwrap_or_else(|error| panic!("{error}"));
        }
        cordon
    }
}

impl Drop for Cordon {
    /// Also where a case fails: the next one needs the node.
    fn drop(&mut self) {
        for node in self.0.split_whitespace() {
            Cluster::at_last("kubectl", &["uncordon", node]);
        }
    }
}

pub async fn cut_off_by_dropped_packets(space: Space) {
    let (job, mut workers) = with_a_standby(&space, &Settings::seconds(60)).await;
    let (attempt, victim) = (job.attempt().await, workers.remove(0));
    let pod = space.cluster.pods(&space.name).get(&victim).await.expect("the worker's pod is there");
    let address = pod.status.and_then(|status| status.pod_ip).expect("a running pod has an address");
    // The kubelet, which reaches all that is on its node, would end the worker at the controller's word. A node that is cut off with
    // its pods hears of nothing.
    let kubelet = space.cluster.freeze_kubelet().await;
    // No connection is closed: nothing but silence tells that it is cut off.
    let cut = space.cluster.cut(&[(Some(&address), None), (None, Some(&address))]).await;
    job.until_recovered_from(attempt).await;
    let next = job.attempt().await;
    assert!(space.cluster.has_process(WORKER, &victim).await, "who is cut off works on");
    cut.mend().await;
    // It is heard again, and fenced.
    job.until_more_checkpoints(3).await;
    assert!(space.cluster.has_process(WORKER, &victim).await, "who was cut off is back");
    kubelet.thaw().await;
    assert_eq!(job.attempt().await, next, "the worker that came back disturbed the attempt");
    job.finishes_exact().await;
    assert_eq!(job.attempt().await, next, "the worker that came back disturbed the attempt");
    until("the worker that was cut off is ended at last", || async {
        (!space.cluster.has_process(WORKER, &victim).await).then_some(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_says_what_it_deploys() {
        let line =
            r#"2026-11-23T08:15:46.155522Z  INFO weir_engine::control: deploying attempt=12 restore="terms/1/2""#;
        assert_eq!(deploys(line), Some(12));
        assert_eq!(deploys("INFO weir_engine::control: deployed attempt=2 restore_ms=1550"), None);
    }
}
