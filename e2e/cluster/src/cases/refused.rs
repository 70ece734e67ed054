//! What is wrong is refused before anything of a running attempt is touched, and says where and what to write instead.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    job::{Job, NAME, Settings, resource},
    space::Space,
    wait::until,
};

/// Each a path into the resource, a value that is wrong there (null leaves the field out), and a part of what the API server answers.
fn table() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/spec/sql", json!("  "), "is empty"),
        ("/spec/workers/replicas", json!(0), "set spec.suspend to true"),
        ("/spec/workers/replicas", json!(200), "more slots than key groups"),
        ("/spec/workers/resources/limits/memory", json!("127Mi"), "a worker needs 128Mi at least"),
        ("/spec/workers/resources/limits/cpu", json!("1.2.3"), "should match"),
        ("/spec/workers/resources/limits/cpu", json!(-1), "greater than or equal to 0"),
        ("/spec/state/backend", json!(""), "at least 1"),
        ("/spec/checkpoint/interval", json!("5ms"), "too short"),
        ("/spec/checkpoint/interval", json!("10 s"), "is no duration"),
        ("/spec/checkpoint/interval", json!(10), "expected string"),
        ("/spec/checkpoint/storage/url", json!("ftp://somewhere"), "no storage that Weir knows"),
        ("/spec/checkpoint/storage/url", Value::Null, "Required value"),
        ("/spec/checkpoint/storage/url", json!("s3:///checkpoints"), "names no bucket"),
        ("/spec/checkpoint/storage/url", json!("s3://weir/../others"), "leaves its prefix"),
        ("/spec/checkpoint/storage/url", json!("file:///data"), "are for s3:// only"),
        ("/spec/checkpoint/storage/endpoint", json!("minio:9000"), "is no endpoint"),
        ("/spec/checkpoint/timeout", json!("100ms"), "is too short"),
        ("/spec/checkpoint/mode", json!("AtMostOnce"), "Unsupported value"),
        ("/spec/checkpoint/retain", json!(0), "greater than or equal to 1"),
        ("/spec/checkpoint/tolerableFailures", json!(4_294_967_296_i64), "should be less than or equal to"),
        ("/spec/restart/maxFailures", json!(4_294_967_296_i64), "should be less than or equal to"),
        ("/spec/restart/initialBackoff", json!("2m"), "must not exceed"),
        ("/spec/restoreFrom", json!({"previous": true, "record": "x"}), "name one"),
        ("/spec/restoreFrom", json!({}), "name one"),
        ("/spec/maxParallelism", json!(0), "greater than or equal to 1"),
    ]
}

/// Sets a value, making the objects on the way; null takes the field away.
fn set(resource: &mut Value, path: &str, value: Value) {
    let (parents, name) = path.rsplit_once('/').expect("a path begins with a slash");
    let place = parents.split('/').skip(1).fold(resource, |place, name| &mut place[name]);
    match (value, place) {
        (Value::Null, Value::Object(fields)) => drop(fields.remove(name)),
        (value, place) => place[name] = value,
    }
}

pub async fn bad_specs_at_apply(space: Space) {
    let jobs = space.cluster.stream_jobs(&space.name);
    let parameters = PatchParams::apply("weir-e2e").force();
    for (path, value, complaint) in table() {
        let mut bad = resource(&space.name, NAME, &Settings::default());
        set(&mut bad, path, value.clone());
        match jobs.patch(NAME, &parameters, &Patch::Apply(&bad)).await {
            Ok(_) => panic!("{path} = {value} was taken"),
            Err(error) => {
                assert!(error.to_string().contains(complaint), "{path} = {value}: {error} does not say {complaint:?}");
            }
        }
    }
    // A field that is not there at all, as kubectl reports it.
    let mut bad = resource(&space.name, NAME, &Settings::default());
    set(&mut bad, "/spec/workers/replica", json!(2));
    let file = std::env::temp_dir().join(format!("{}.json", space.name));
    std::fs::write(&file, bad.to_string()).expect("the file is written");
    let error = space
        .cluster
        .kubectl(&["apply", "-f", &file.display().to_string()])
        .await
        .expect_err("an unknown field is refused");
    assert!(error.contains("unknown field \"spec.workers.replica\""), "{error}");
    let _ = std::fs::remove_file(file);
    // What is fixed once the job is there.
    let job = Job::start(&space, &Settings::default()).await;
    for (path, value, complaint) in [
        ("/spec/maxParallelism", json!(256), "state is cut by it"),
        ("/spec/checkpoint/storage/url", json!("s3://weir/elsewhere"), "the job's checkpoints are there"),
        ("/spec/state/backend", json!("memory"), "cannot change while state is kept"),
    ] {
        let mut bad = resource(&space.name, NAME, &Settings::default());
        set(&mut bad, path, value);
        let error = job.apply(&bad).await.expect_err(path);
        assert!(error.contains(complaint), "{path}: {error} does not say {complaint:?}");
    }
}

/// The self-verifying job's SQL with a column that is not there, and where that is.
pub fn bad_sql(space: &Space) -> (String, usize, usize) {
    let sql = crate::job::sql(&space.name, NAME, &Settings::default()).replace("SUM(n)", "SUM(m)");
    let (line, text) = sql.lines().enumerate().find(|(_, text)| text.contains("SUM(m)")).expect("the query is there");
    let column = text.find("SUM(m)").expect("it is in this line") + "SUM(".len() + 1;
    (sql, line + 1, column)
}

/// Waits for Stalled, and holds its message against the place of the fault.
pub async fn stalls(job: &Job, line: usize, column: usize) {
    let (reason, message) = job.until_condition("Stalled", "True").await;
    println!("        {}: Stalled {reason}: {message}", job.space.name);
    assert!(
        message.contains(&format!("line {line}, column {column}")),
        "{message} does not say line {line}, column {column}"
    );
}

pub async fn bad_sql_stalls_with_line_and_column(space: Space) {
    let (sql, line, column) = bad_sql(&space);
    let job = Job::start_with(&space, &Settings::default(), |job| job["spec"]["sql"] = sql.into()).await;
    stalls(&job, line, column).await;
    assert_eq!(job.records().await, [0_u64; 0], "nothing has begun");
    // The remedy is taken at once.
    job.change(json!({"sql": crate::job::sql(&space.name, NAME, &Settings::seconds(15))})).await;
    let job = Job { rows: Settings::seconds(15).rows(), ..job };
    job.until_condition("Stalled", "False").await;
    job.finishes_exact().await;
}

pub async fn bad_sql_on_an_update_keeps_the_last_good_version(space: Space) {
    let job = Job::running(&space, &Settings::default()).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    let (sql, line, column) = bad_sql(&space);
    job.change(json!({"sql": sql})).await;
    stalls(&job, line, column).await;
    job.until_more_checkpoints(2).await;
    job.until_more_output().await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "the running attempt is not touched");
    job.change(json!({"sql": crate::job::sql(&space.name, NAME, &Settings::default())})).await;
    until("Stalled is over", || async {
        let stalled = job.condition("Stalled").await;
        stalled.is_none_or(|(status, ..)| status != "True").then_some(())
    })
    .await;
    job.finishes_exact().await;
}
