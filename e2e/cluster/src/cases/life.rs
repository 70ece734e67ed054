//! A job's life: scaled, upgraded, changed live, suspended, finished, deleted in every way.

use std::time::Duration;

use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use super::{
    controller::interrupted,
    refused::{bad_sql, stalls},
};
use crate::{
    job::{Job, NAME, Settings, resource, sql},
    space::Space,
    verify::{KEYS, counts},
    wait::{until, until_within},
};

/// A deletion that waits for nothing: the workers' ends, and a glance at storage.
const SOON: Duration = Duration::from_secs(25);

pub async fn scaled_1_3_2_under_load(space: Space) {
    let job = Job::running(&space, &Settings { workers: 1, seconds: 60, ..Settings::default() }).await;
    for replicas in [3_usize, 2] {
        let attempt = job.attempt().await;
        let scale = ["-n", &space.name, "scale", "streamjob", NAME, &format!("--replicas={replicas}")];
        space.cluster.kubectl(&scale).await.unwrap_or_else(|error| panic!("{error}"));
        job.until_recovered_from(attempt).await;
        job.until_workers(replicas).await;
        until("the scale subresource shows the size", || async {
            (job.status().await["replicas"] == replicas).then_some(())
        })
        .await;
    }
    let scale = ["-n", &space.name, "scale", "streamjob", NAME, "--replicas=0"];
    let refused = space.cluster.kubectl(&scale).await.expect_err("a job has a worker at least");
    assert!(refused.contains("set spec.suspend to true"), "the remedy is not named: {refused}");
    // What an autoscaler asks, and what a user sees.
    let scale =
        ["-n", &space.name, "get", "streamjob", NAME, "--subresource=scale", "-o", "jsonpath={.status.selector}"];
    let selector = space.cluster.kubectl(&scale).await.unwrap_or_else(|error| panic!("{error}"));
    let selected = space.cluster.labelled(&space.name, &selector).await;
    assert!(selected.len() >= 2 && selector.contains(NAME), "{selector} selects {} pods", selected.len());
    let table =
        space.cluster.kubectl(&["-n", &space.name, "get", "sj"]).await.unwrap_or_else(|error| panic!("{error}"));
    let columns = ["NAME", "READY", "REASON", "WORKERS", "ATTEMPT", "CHECKPOINT", "AGE OF IT", "STATE SIZE"];
    let header = table.lines().next().unwrap_or_default();
    assert_eq!(
        header.split("  ").map(str::trim).filter(|name| !name.is_empty()).collect::<Vec<_>>(),
        columns,
        "{table}"
    );
    job.finishes_exact().await;
}

pub async fn upgrade_with_sql_that_fits(space: Space) {
    let settings = Settings::default();
    let job = Job::running(&space, &settings).await;
    let attempt = job.attempt().await;
    let seen = job.checkpoint().await;
    let changed = sql(&space.name, NAME, &settings).replace(" FROM numbers", " FROM numbers WHERE n >= 0");
    job.change(json!({"sql": changed})).await;
    job.until_recovered_from(attempt).await;
    let restored = job.restored().await;
    assert!(restored > Some(seen), "a checkpoint was taken first: restored from {restored:?}, seen before {seen}");
    job.finishes_exact().await;
}

pub async fn upgrade_with_sql_that_does_not_fit(space: Space) {
    let settings = Settings::default();
    let job = Job::running(&space, &settings).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    let changed = sql(&space.name, NAME, &settings).replace("SUM(n)", "COUNT(DISTINCT n)");
    job.change(json!({"sql": changed})).await;
    let (reason, message) = job.until_condition("Stalled", "True").await;
    println!("        {}: Stalled {reason}: {message}", space.name);
    job.until_more_checkpoints(2).await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "the running attempt is not touched");
    job.finishes_exact().await;
}

/// SQL that does not plan touches nothing, here as ever; SQL that does not fit the state begins without it; and another number of
/// workers is no other program, and goes on with its state.
pub async fn stateless_upgrade(space: Space) {
    let settings = Settings { workers: 1, seconds: 60, ..Settings::default() };
    let stateless = |job: &mut Value| job["spec"]["upgrade"]["mode"] = "Stateless".into();
    let job = Job::start_with(&space, &settings, stateless).await;
    job.until_condition("Checkpointed", "True").await;
    let (attempt, seen) = (job.attempt().await, job.checkpoint().await);
    job.scale(2).await;
    job.until_recovered_from(attempt).await;
    let restored = job.restored().await;
    assert!(restored >= Some(seen), "scaling keeps the state: restored from {restored:?}, seen before {seen}");
    job.until_more_output().await;
    assert!(job.exact_so_far().await > 0, "there is output");

    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    let (bad, line, column) = bad_sql(&space);
    job.change(json!({"sql": bad})).await;
    stalls(&job, line, column).await;
    job.until_more_checkpoints(2).await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "the running attempt is not touched");

    // What `upgrade_with_sql_that_does_not_fit` is refused with. Its output goes where there is none of the version before.
    let settings = Settings::seconds(15);
    let (from_nothing, place) = ("from-nothing", format!("{NAME}-out'"));
    let changed = sql(&space.name, NAME, &settings).replace("SUM(n)", "COUNT(DISTINCT n)");
    assert!(changed.contains(&place), "{changed} has no {place}");
    job.change(json!({"sql": changed.replace(&place, &format!("{from_nothing}'"))})).await;
    job.until_recovered_from(attempt).await;
    assert_eq!(job.restored().await, None, "it begins from nothing");
    job.until_condition("Succeeded", "True").await;
    let lines = space.bucket.lines(&format!("{}/{from_nothing}", space.name)).await;
    let last = counts(&lines).unwrap_or_else(|error| panic!("the output is not exact: {error}"));
    // Every row from the first on, and no two of a key the same.
    let of_key = settings.rows() / KEYS;
    let whole = (0..KEYS).map(|key| (key, (of_key, of_key))).collect();
    assert_eq!(last, whole, "counts begin anew");
}

pub async fn interval_changes_live(space: Space) {
    let job = Job::running(&space, &Settings { interval: "30s", seconds: 50, ..Settings::default() }).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    job.change(json!({"checkpoint": {"interval": "500ms"}})).await;
    let begun = std::time::Instant::now();
    job.until_more_checkpoints(5).await;
    assert!(
        begun.elapsed().as_secs() < 25,
        "five checkpoints took {} s: the interval is still the old one",
        begun.elapsed().as_secs()
    );
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "a live change makes no new attempt");
    job.finishes_exact().await;
}

pub async fn checkpoint_by_annotation(space: Space) {
    let job = Job::start(&space, &Settings { interval: "1h", seconds: 30, ..Settings::default() }).await;
    job.until_condition("Ready", "True").await;
    let attempt = job.attempt().await;
    for value in ["first", "second"] {
        job.annotate("weir.dev/checkpoint", value).await;
        let served = until("the checkpoint that was asked for", || async {
            let requested = job.status().await["checkpoint"]["requested"].clone();
            (requested["value"] == value).then_some(requested)
        });
        let served = served.await;
        assert!(served["failure"].is_null(), "{served}");
        let newest = job.checkpoint().await;
        assert!(served["id"].as_u64().is_some_and(|id| id <= newest), "{served} stands, and the newest is {newest}");
    }
    assert_eq!(job.attempt().await, attempt, "it makes no new attempt");
    job.finishes_exact().await;
}

pub async fn suspended_and_resumed(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    let seen = job.checkpoint().await;
    job.change(json!({"suspend": true})).await;
    until("all workers are gone", || async { job.all_pods().await.is_empty().then_some(()) }).await;
    let last = job.newest_record().await;
    assert!(last > seen, "a last checkpoint was taken: {last} after {seen}");
    let shown = job.exact_so_far().await;
    job.change(json!({"suspend": false})).await;
    job.until_condition("Ready", "True").await;
    job.until_more_output().await;
    assert!(job.exact_so_far().await > shown, "it goes on where it was");
    job.finishes_exact().await;
}

pub async fn finishes(space: Space) {
    let job = Job::start(&space, &Settings::seconds(10)).await;
    job.finishes_exact().await;
    until("the workers of a finished job are gone", || async { job.pods().await.is_empty().then_some(()) }).await;
}

pub async fn deleted_with_retain_and_applied_again(space: Space) {
    let settings = Settings::default();
    let job = Job::running(&space, &settings).await;
    job.until_more_checkpoints(2).await;
    let attempt = job.attempt().await;
    job.delete().await;
    job.until_gone().await;
    let records = job.records().await;
    assert!(!records.is_empty(), "Retain keeps the records");
    job.exact_so_far().await;
    job.apply(&resource(&space.name, NAME, &settings)).await.expect("the job is applied again");
    job.until_condition("Checkpointed", "True").await;
    assert!(job.attempt().await > attempt, "it goes on, with an attempt after {attempt}");
    job.finishes_exact().await;
}

pub async fn deleted_with_delete(space: Space) {
    let job =
        Job::start_with(&space, &Settings::default(), |job| job["spec"]["checkpoint"]["onDelete"] = "Delete".into())
            .await;
    job.until_condition("Checkpointed", "True").await;
    job.delete().await;
    job.until_gone().await;
    let left = space.bucket.list(&job.storage()).await;
    assert_eq!(left, [""; 0], "Delete leaves nothing of the checkpoints");
    until("the worker pods are gone", || async { job.all_pods().await.is_empty().then_some(()) }).await;
    // What the job has published is the user's.
    job.exact_so_far().await;
}

pub async fn deleted_with_storage_gone(space: Space) {
    let (proxy, endpoint) = space.proxy().await;
    let settings = Settings { endpoint, ..Settings::default() };
    let job = Job::start_with(&space, &settings, |job| job["spec"]["checkpoint"]["onDelete"] = "Delete".into()).await;
    job.until_condition("Checkpointed", "True").await;
    proxy.cut().await;
    job.delete().await;
    job.until_gone().await;
    let events = space.events(&job.name).await;
    assert!(events.iter().any(|(reason, _)| reason == "CheckpointsLeft"), "nobody is told what is left: {events:?}");
}

/// Nothing of it is in storage, so nothing there is waited for.
pub async fn deleted_before_it_ran_with_storage_gone(space: Space) {
    let (proxy, endpoint) = space.proxy().await;
    proxy.cut().await;
    let settings = Settings { endpoint, ..Settings::default() };
    let job = Job::start_with(&space, &settings, |job| job["spec"]["checkpoint"]["onDelete"] = "Delete".into()).await;
    job.until_workers(2).await;
    until("storage is missed", || async {
        let (_, reason, _) = job.condition("Ready").await?;
        (reason == "StorageUnreachable").then_some(())
    })
    .await;
    job.delete().await;
    let jobs = space.cluster.stream_jobs(&space.name);
    until_within(SOON, "the resource is gone", || async {
        matches!(jobs.get_opt(&job.name).await, Ok(None)).then_some(())
    })
    .await;
}

pub async fn deleted_with_its_namespace(space: Space) {
    let settings = Settings::default();
    let job = Job::running(&space, &settings).await;
    let attempt = job.attempt().await;
    space.delete().await;
    // The same namespace and name again: the same job, from its checkpoints.
    space.create().await;
    job.apply(&resource(&space.name, NAME, &settings)).await.expect("the job is applied again");
    job.until_condition("Checkpointed", "True").await;
    assert!(job.attempt().await > attempt, "it goes on, with an attempt after {attempt}");
    job.finishes_exact().await;
}

/// Input that cannot be read fails the job again after each restart that the policy allows; it says where, and goes on when that is
/// mended.
pub async fn bad_input_fails_as_the_policy_says(space: Space) {
    let settings = Settings { seconds: 2, ..Settings::default() };
    let (rows, input) = (settings.rows(), format!("{}/numbers/part-1.csv", space.name));
    let put = async |bad: Option<u64>| {
        let line = |n: u64| if bad == Some(n) { "none\n".to_string() } else { format!("{n}\n") };
        let text: String = (0..rows).map(line).collect();
        let put = space.bucket.store().put(&input.as_str().into(), text.into_bytes().into()).await;
        put.unwrap_or_else(|error| panic!("{input}: {error}"));
    };
    put(Some(1_234)).await;
    let job = Job::start_with(&space, &settings, |job| {
        let (from, to) = ("WITH ('connector' = 'datagen'", "'s3.region' = 'us-east-1')");
        let sql = job["spec"]["sql"].as_str().expect("it has SQL").to_string();
        let (before, rest) = sql.split_once(from).expect("its source is datagen");
        let (_, after) = rest.split_once(";\n").expect("its end");
        let path = format!("s3://{}/{}/numbers", crate::s3::BUCKET, space.name);
        let source = format!(
            "WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv', 's3.endpoint' = '{}', {to}",
            settings.endpoint
        );
        job["spec"]["sql"] = format!("{before}{source};\n{after}").into();
        job["spec"]["restart"]["maxFailures"] = 2.into();
    })
    .await;
    let (reason, message) = job.until_condition("Failed", "True").await;
    println!("        {}: Failed {reason}: {message}", space.name);
    assert_eq!(reason, "TaskFailed");
    assert!(message.contains("part-1.csv") && message.contains("1235"), "{message} does not name the file and line");
    let events = space.events(&job.name).await;
    for told in ["TaskFailed", "BackingOff", "Failed"] {
        assert!(events.iter().any(|(reason, _)| reason == told), "no event {told} in {events:?}");
    }
    assert_eq!(job.attempt().await, 3, "two restarts are allowed");
    // Also the next leader knows what it was that failed.
    interrupted(&space, put(None)).await;
    job.change(json!({"restart": {"maxFailures": 3}})).await;
    job.finishes_exact().await;
}
