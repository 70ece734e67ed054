//! Fifty small jobs with real pods, applied at once: how long until all are Ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    install::Controllers,
    job::{self, Job, Settings},
    space::Space,
};

const JOBS: usize = 50;
const PATIENCE: Duration = Duration::from_mins(10);

pub async fn run(cluster: &Cluster, controllers: &Arc<Controllers>) -> Value {
    let space = Space::new(cluster, controllers, "bench_many").await;
    let settings = Settings { workers: 1, rate: 10, seconds: 3_600, ..Settings::default() };
    let jobs: Vec<Job> =
        (0..JOBS).map(|n| Job { space: space.clone(), name: format!("job-{n}"), rows: settings.rows() }).collect();
    let begun = Instant::now();
    join_all(jobs.iter().map(|job| async {
        let mut resource = job::resource(&space.name, &job.name, &settings);
        resource["spec"]["workers"]["resources"] =
            json!({"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
        job.apply(&resource).await.unwrap_or_else(|error| panic!("{} is applied: {error}", job.name));
    }))
    .await;
    for job in &jobs {
        job.until_condition_within(PATIENCE, "Ready", "True").await;
    }
    let took = begun.elapsed();
    println!("\n{JOBS} small jobs with a real pod each, applied at once: all Ready after {:.1} s", took.as_secs_f64());
    space.tidy().await;
    json!({"jobs": JOBS, "allReadyMs": took.as_millis() as u64})
}
