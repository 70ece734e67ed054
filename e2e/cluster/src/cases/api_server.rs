//! The API server is gone for a minute: jobs run on, checkpoints complete and commit, the status catches up.

use std::time::Duration;

use crate::{
    job::{Job, Settings},
    space::Space,
    wait::{until, until_within},
};

const GONE: Duration = Duration::from_mins(1);

pub async fn api_server_stopped_for_a_minute(space: Space) {
    let job = Job::running(&space, &Settings::seconds(120)).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    space.cluster.api_server("stop").await;
    let stopped = std::time::Instant::now();
    until("the API server is gone", || async { job.try_get().await.is_err().then_some(()) }).await;
    let before = job.newest_record().await;
    let output = space.bucket.published(&job.output()).await.len();
    // Longer than any lease: the leader knows that nobody else can have taken it.
    until_within(GONE * 2, "a minute has passed, with checkpoints and output", || async {
        let last = job.newest_record().await;
        let published = space.bucket.published(&job.output()).await.len();
        (stopped.elapsed() >= GONE && last >= before + 10 && published > output).then_some(())
    })
    .await;
    space.cluster.api_server("start").await;
    let last = job.newest_record().await;
    until("the status catches up", || async {
        // It needs a while to be there again.
        let status = job.try_get().await.ok()??.data["status"].take();
        (status["checkpoint"]["latest"]["id"].as_u64()? >= last).then_some(())
    })
    .await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "the job has not noticed");
    job.finishes_exact().await;
}
