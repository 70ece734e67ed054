//! Every transition of a job, each cut short by its controller's death: the next leader finishes it, and the output is exact.

use kube::api::DeleteParams;
use serde_json::json;

use super::{back::Past, controller::interrupted};
use crate::{
    job::{Job, NAME, Settings, sql},
    space::Space,
    verify,
    wait::until,
};

/// Two jobs share the deaths: one is scaled, refused a version, upgraded, suspended and resumed, and finishes exact; the other goes back to a checkpoint
/// and is deleted with its checkpoints.
pub async fn transitions_survive_controller_deaths(space: Space) {
    let settings = Settings { workers: 1, seconds: 600, ..Settings::default() };
    let other = Job::start_named(&space, "other", &settings, |job| {
        job["spec"]["checkpoint"]["onDelete"] = "Delete".into();
        // The checkpoint to go back to is kept, however many are taken before the next leader can.
        job["spec"]["checkpoint"]["retain"] = 1_000.into();
    })
    .await;
    other.until_condition("Checkpointed", "True").await;
    let past = Past::of(&other).await;
    let settings = Settings { workers: 1, seconds: 130, ..Settings::default() };
    let job = Job::running(&space, &settings).await;

    let attempt = job.attempt().await;
    interrupted(&space, async {
        past.wish(&other).await;
        job.scale(2).await;
    })
    .await;
    job.until_recovered_from(attempt).await;
    job.until_workers(2).await;
    past.until_restored(&other).await;
    let lines = past.lines(&other).await;
    verify::counts(&lines).unwrap_or_else(|error| panic!("the state is not that of the checkpoint: {error}"));

    // The next leader refuses it too, and knows the version that a lost worker is to be replaced in.
    interrupted(&space, job.change(json!({"sql": "INSERT INTO nowhere SELECT 1"}))).await;
    job.until_condition("Stalled", "True").await;
    let attempt = job.attempt().await;
    let victim = job.until_workers(2).await.remove(0);
    let pods = space.cluster.pods(&space.name);
    pods.delete(&victim, &DeleteParams::default().grace_period(0)).await.expect("a worker is deleted");
    until("the last good version runs again, and is checkpointed", || async {
        (job.attempt().await > attempt && job.condition("Checkpointed").await?.0 == "True").then_some(())
    })
    .await;

    let attempt = job.attempt().await;
    let changed = sql(&space.name, NAME, &settings).replace(" FROM numbers", " FROM numbers WHERE n >= 0");
    interrupted(&space, job.change(json!({"sql": changed}))).await;
    job.until_recovered_from(attempt).await;

    let attempt = job.attempt().await;
    interrupted(&space, async {
        other.delete().await;
        job.change(json!({"suspend": true})).await;
    })
    .await;
    job.until_suspended().await;
    let shown = job.exact_so_far().await;
    other.until_gone().await;
    let left = space.bucket.list(&other.storage()).await;
    assert_eq!(left, [""; 0], "Delete leaves nothing of the checkpoints");
    until("no worker is left of it", || async { other.all_pods().await.is_empty().then_some(()) }).await;

    interrupted(&space, job.change(json!({"suspend": false}))).await;
    job.until_recovered_from(attempt).await;
    job.until_more_output().await;
    assert!(job.exact_so_far().await > shown, "it goes on where it was");
    job.finishes_exact().await;
}
