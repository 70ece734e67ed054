//! The status is a copy: wiped, or gone with the resource, it is made again from storage.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    install::{CONTROLLERS, NAMESPACE},
    job::{Job, NAME, Settings, resource},
    space::Space,
    wait::until,
};

/// While its controller looks it is written again from memory; while there is no controller only storage can tell what it was.
pub async fn status_wiped(space: Space) {
    let settings = Settings { workers: 1, seconds: 600, ..Settings::default() };
    let resting = Job::start_named(&space, "resting", &settings, |_| {}).await;
    resting.until_condition("Checkpointed", "True").await;
    resting.change(json!({"suspend": true})).await;
    let job = Job::running(&space, &Settings::seconds(60)).await;
    resting.until_suspended().await;
    job.until_more_checkpoints(2).await;
    let (attempt, seen, workers) = (job.attempt().await, job.checkpoint().await, job.until_workers(2).await);
    let made_again = async || {
        until("the status is made again", || async {
            (job.checkpoint().await >= seen && job.attempt().await == attempt).then_some(())
        })
        .await;
        job.until_condition("Ready", "True").await;
        job.until_condition("Checkpointed", "True").await;
    };
    wipe(&job).await;
    made_again().await;

    let conditions_before = (conditions(&job).await, conditions(&resting).await);
    let attempt_at_rest = resting.attempt().await;
    let controllers = Away::send(&space).await;
    for job in [&job, &resting] {
        wipe(job).await;
        assert!(
            job.status().await.is_null(),
            "somebody has written the status of {} while no controller ran",
            job.name
        );
    }
    controllers.back(&space).await;
    made_again().await;
    let newest = resting.newest_record().await;
    until("the newest checkpoint of what is suspended is found", || async {
        (resting.checkpoint().await == newest).then_some(())
    })
    .await;
    let record = resting.status().await["checkpoint"]["latest"]["record"].take();
    let record = record.as_str().expect("a checkpoint has a record");
    let (path, _) = resting.recorded().await.into_iter().next_back().expect("there is a record");
    assert!(record.ends_with(&format!("{}/{path}", resting.storage())), "{record} is not where {path} stands");
    assert_eq!(resting.attempt().await, attempt_at_rest, "the attempt is found");
    assert_eq!((conditions(&job).await, conditions(&resting).await), conditions_before, "conditions are as they were");
    assert_eq!(job.workers().await, workers, "no worker has noticed");
    job.finishes_exact().await;
}

async fn wipe(job: &Job) {
    let jobs = job.space.cluster.stream_jobs(&job.space.name);
    let nothing = Patch::Merge(json!({"status": null}));
    jobs.patch_status(&job.name, &PatchParams::default(), &nothing).await.expect("the status is wiped");
}

/// Type, status and reason of each condition.
async fn conditions(job: &Job) -> Vec<[Value; 3]> {
    let status = job.status().await;
    let conditions = status["conditions"].as_array().expect("a status has conditions");
    conditions.iter().map(|condition| ["type", "status", "reason"].map(|field| condition[field].clone())).collect()
}

/// The resource is gone and comes back from a backup while no controller looks: another uid, and storage that knows the old one.
pub async fn restored_under_a_new_uid(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    job.until_more_checkpoints(2).await;
    let attempt = job.attempt().await;
    let controllers = Away::send(&space).await;
    job.delete().await;
    let jobs = space.cluster.stream_jobs(&space.name);
    let unheld = json!({"metadata": {"finalizers": null}});
    jobs.patch(NAME, &PatchParams::default(), &Patch::Merge(&unheld)).await.expect("the finalizer is taken away");
    job.until_gone().await;
    job.apply(&resource(&space.name, NAME, &Settings::seconds(60))).await.expect("the job is applied again");
    controllers.back(&space).await;
    let (reason, message) = job.until_condition("Stalled", "True").await;
    assert_eq!(reason, "StorageOwnedByAnother", "{message}");
    assert!(message.contains("restoreFrom"), "the remedy is named: {message}");
    job.change(json!({"restoreFrom": {"previous": true}})).await;
    job.until_condition("Checkpointed", "True").await;
    assert!(job.attempt().await > attempt, "it goes on, with an attempt after {attempt}");
    job.finishes_exact().await;
}

/// No controller runs for as long as this lives. So many there were.
struct Away(String);

impl Away {
    async fn send(space: &Space) -> Self {
        let replicas = "-o=jsonpath={.items[0].spec.replicas}";
        let arguments = ["-n", NAMESPACE, "get", "deployment", "-l", CONTROLLERS, replicas];
        let away = Self(space.cluster.kubectl(&arguments).await.expect("the deployment is there"));
        scale(space, "0").await;
        until("no controller runs", || async {
            space.cluster.labelled(NAMESPACE, CONTROLLERS).await.is_empty().then_some(())
        })
        .await;
        away
    }

    async fn back(self, space: &Space) {
        scale(space, &self.0).await;
        space.controllers.settle(&space.cluster).await;
    }
}

impl Drop for Away {
    /// Also where a case fails: the next one needs them. A second time does no harm.
    fn drop(&mut self) {
        Cluster::at_last("kubectl", &scaled(&format!("--replicas={}", self.0)));
    }
}

fn scaled(replicas: &str) -> [&str; 7] {
    ["-n", NAMESPACE, "scale", "deployment", "-l", CONTROLLERS, replicas]
}

/// Sets the number of controllers.
async fn scale(space: &Space, replicas: &str) {
    let replicas = format!("--replicas={replicas}");
    space.cluster.kubectl(&scaled(&replicas)).await.unwrap_or_else(|error| panic!("{error}"));
}
