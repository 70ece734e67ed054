//! The status is a copy: wiped, or gone with the resource, it is made again from storage.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{
    install::{CONTROLLERS, NAMESPACE},
    job::{Job, NAME, Settings, resource},
    space::Space,
    wait::until,
};

pub async fn status_wiped(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    job.until_more_checkpoints(2).await;
    let (attempt, seen, workers) = (job.attempt().await, job.checkpoint().await, job.until_workers(2).await);
    let jobs = space.cluster.stream_jobs(&space.name);
    jobs.patch_status(NAME, &PatchParams::default(), &Patch::Merge(json!({"status": null})))
        .await
        .expect("the status is wiped");
    until("the status is made again", || async {
        (job.checkpoint().await >= seen && job.attempt().await == attempt).then_some(())
    })
    .await;
    job.until_condition("Ready", "True").await;
    assert_eq!(job.workers().await, workers, "no worker has noticed");
    job.finishes_exact().await;
}

/// The resource is gone and comes back from a backup while no controller looks: another uid, and storage that knows the old one.
pub async fn restored_under_a_new_uid(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    job.until_more_checkpoints(2).await;
    let attempt = job.attempt().await;
    let replicas = space.cluster.kubectl(&[
        "-n",
        NAMESPACE,
        "get",
        "deployment",
        "-l",
        CONTROLLERS,
        "-o",
        "jsonpath={.items[0].spec.replicas}",
    ]);
    let replicas = replicas.await.expect("the deployment is there");
    scale(&space, "0").await;
    until("no controller runs", || async {
        space.cluster.labelled(NAMESPACE, CONTROLLERS).await.is_empty().then_some(())
    })
    .await;
    job.delete().await;
    let jobs = space.cluster.stream_jobs(&space.name);
    let unheld = json!({"metadata": {"finalizers": null}});
    jobs.patch(NAME, &PatchParams::default(), &Patch::Merge(&unheld)).await.expect("the finalizer is taken away");
    job.until_gone().await;
    job.apply(&resource(&space.name, NAME, &Settings::seconds(60))).await.expect("the job is applied again");
    scale(&space, &replicas).await;
    let (reason, message) = job.until_condition("Stalled", "True").await;
    assert_eq!(reason, "StorageOwnedByAnother", "{message}");
    assert!(message.contains("restoreFrom"), "the remedy is named: {message}");
    job.change(json!({"restoreFrom": {"previous": true}})).await;
    job.until_condition("Checkpointed", "True").await;
    assert!(job.attempt().await > attempt, "it goes on, with an attempt after {attempt}");
    job.finishes_exact().await;
    space.controllers.settle(&space.cluster).await;
}

/// Sets the number of controllers.
async fn scale(space: &Space, replicas: &str) {
    let replicas = format!("--replicas={replicas}");
    let arguments = ["-n", NAMESPACE, "scale", "deployment", "-l", CONTROLLERS, &replicas];
    space.cluster.kubectl(&arguments).await.unwrap_or_else(|error| panic!("{error}"));
}
