//! The self-verifying job, and what a case asks of it and does to it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    s3,
    space::{SECRET, Space},
    verify::{self, KEYS},
    wait::{PATIENCE, answered, until, until_within},
};

/// A job's name where a case has only one.
pub const NAME: &str = "sums";
/// MinIO as pods see it.
pub const ENDPOINT: &str = "http://minio.weir-e2e.svc.cluster.local:9000";

/// A StreamJob in a case's namespace.
#[derive(Clone)]
pub struct Job {
    pub space: Space,
    pub name: String,
    /// Rows that the source has in all.
    pub rows: u64,
}

/// What differs from case to case.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the source lasts at its rate, if nothing holds it up.
    pub seconds: u64,
    /// Rows a second, for the whole job.
    pub rate: u64,
    pub workers: u32,
    pub slots: u32,
    pub interval: &'static str,
    pub endpoint: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seconds: 40, rate: 1_000, workers: 2, slots: 1, interval: "1s", endpoint: ENDPOINT.to_string() }
    }
}

impl Settings {
    /// Its source lasts so long.
    pub fn seconds(seconds: u64) -> Self {
        Self { seconds, ..Self::default() }
    }

    pub fn rows(&self) -> u64 {
        self.seconds * self.rate
    }
}

/// Rows `0..rows` dealt to [`KEYS`] keys; each change of a key's count and sum goes to the output, which is written exactly once.
pub fn sql(space: &str, job: &str, settings: &Settings) -> String {
    let (rows, rate, bucket, endpoint) = (settings.rows(), settings.rate, s3::BUCKET, &settings.endpoint);
    format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{rows}', 'rows-per-second' = '{rate}',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
CREATE TABLE sums (k BIGINT, c BIGINT, s BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://{bucket}/{space}/{job}-out',
  'format' = 'json', 'changelog' = 'true', 's3.endpoint' = '{endpoint}', 's3.region' = 'us-east-1');
INSERT INTO sums SELECT MOD(n, {KEYS}), COUNT(*), SUM(n) FROM numbers GROUP BY MOD(n, {KEYS});",
        rows - 1
    )
}

/// The StreamJob of the self-verifying job.
pub fn resource(space: &str, name: &str, settings: &Settings) -> Value {
    json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "sql": sql(space, name, settings),
            "workers": {
                "replicas": settings.workers,
                "slots": settings.slots,
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
            },
            "state": {"backend": "rocksdb"},
            "restart": {"initialBackoff": "100ms", "maxBackoff": "1s"},
            "checkpoint": {
                "storage": {
                    "url": format!("s3://{}/{space}/checkpoints", s3::BUCKET),
                    "endpoint": settings.endpoint,
                    "region": "us-east-1",
                    "secretRef": {"name": SECRET},
                },
                "interval": settings.interval,
            },
        },
    })
}

impl Job {
    /// Applies the self-verifying job.
    pub async fn start(space: &Space, settings: &Settings) -> Self {
        Self::start_with(space, settings, |_| {}).await
    }

    /// The same with a change to the resource.
    pub async fn start_with(space: &Space, settings: &Settings, change: impl FnOnce(&mut Value)) -> Self {
        Self::start_named(space, NAME, settings, change).await
    }

    /// The same by another name, where a case has more than one.
    pub async fn start_named(space: &Space, name: &str, settings: &Settings, change: impl FnOnce(&mut Value)) -> Self {
        let job = Self { space: space.clone(), name: name.to_string(), rows: settings.rows() };
        let mut resource = resource(&space.name, name, settings);
        change(&mut resource);
        job.apply(&resource).await.unwrap_or_else(|error| panic!("the job is applied: {error}"));
        job
    }

    /// Applies the job and waits until it runs and has a checkpoint.
    pub async fn running(space: &Space, settings: &Settings) -> Self {
        let job = Self::start(space, settings).await;
        job.until_condition("Checkpointed", "True").await;
        job
    }

    pub async fn apply(&self, resource: &Value) -> Result<(), String> {
        let parameters = PatchParams::apply("weir-e2e").force();
        let jobs = self.space.cluster.stream_jobs(&self.space.name);
        jobs.patch(&self.name, &parameters, &Patch::Apply(resource)).await.map(drop).map_err(|error| error.to_string())
    }

    /// A merge patch of the spec.
    pub async fn change(&self, spec: Value) {
        self.patch(&json!({"spec": spec})).await;
    }

    /// As `kubectl annotate --overwrite`.
    pub async fn annotate(&self, key: &str, value: &str) {
        self.patch(&json!({"metadata": {"annotations": {key: value}}})).await;
    }

    async fn patch(&self, patch: &Value) {
        let jobs = self.space.cluster.stream_jobs(&self.space.name);
        jobs.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap_or_else(|error| panic!("the resource changes: {error}"));
    }

    /// Sets the number of workers, as `kubectl scale` does.
    pub async fn scale(&self, replicas: u32) {
        let jobs = self.space.cluster.stream_jobs(&self.space.name);
        let patch = json!({"spec": {"replicas": replicas}});
        jobs.patch_scale(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap_or_else(|error| panic!("the job is scaled: {error}"));
    }

    pub async fn delete(&self) {
        let jobs = self.space.cluster.stream_jobs(&self.space.name);
        jobs.delete(&self.name, &DeleteParams::default())
            .await
            .unwrap_or_else(|error| panic!("the job is deleted: {error}"));
    }

    pub async fn until_gone(&self) {
        let jobs = self.space.cluster.stream_jobs(&self.space.name);
        until("the resource is gone", || async { matches!(jobs.get_opt(&self.name).await, Ok(None)).then_some(()) })
            .await;
    }

    /// The resource, if it is there.
    pub async fn get(&self) -> Option<DynamicObject> {
        answered(&format!("reading the job {}", self.name), || self.try_get()).await
    }

    /// The same, where the API server may be away.
    pub async fn try_get(&self) -> kube::Result<Option<DynamicObject>> {
        self.space.cluster.stream_jobs(&self.space.name).get_opt(&self.name).await
    }

    pub async fn status(&self) -> Value {
        self.get().await.map(|mut job| job.data["status"].take()).unwrap_or_default()
    }

    /// Status, reason and message of a condition.
    pub async fn condition(&self, kind: &str) -> Option<(String, String, String)> {
        let status = self.status().await;
        let condition = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?.clone();
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_string();
        Some((text("status"), text("reason"), text("message")))
    }

    /// Waits for a condition's status, and returns reason and message.
    pub async fn until_condition(&self, kind: &str, status: &str) -> (String, String) {
        self.until_condition_within(PATIENCE, kind, status).await
    }

    pub async fn until_condition_within(&self, patience: Duration, kind: &str, status: &str) -> (String, String) {
        until_within(patience, &format!("{}: {kind}={status}", self.name), || async {
            let (found, reason, message) = self.condition(kind).await?;
            (found == status).then_some((reason, message))
        })
        .await
    }

    pub async fn attempt(&self) -> u64 {
        self.status().await["attempt"].as_u64().unwrap_or(0)
    }

    /// The id of the newest checkpoint that the status names, 0 if none.
    pub async fn checkpoint(&self) -> u64 {
        self.status().await["checkpoint"]["latest"]["id"].as_u64().unwrap_or(0)
    }

    /// Waits for so many checkpoints more than there are now.
    pub async fn until_more_checkpoints(&self, more: u64) {
        let seen = self.checkpoint().await;
        until(&format!("{more} checkpoints after {seen}"), || async {
            (self.checkpoint().await >= seen + more).then_some(())
        })
        .await;
    }

    /// Waits until the newest spec runs as it says.
    pub async fn until_current(&self) {
        until("the newest spec runs", || async { holds(&self.get().await?, "Ready").then_some(()) }).await;
    }

    /// Waits for a later attempt that runs as the newest spec says.
    pub async fn until_attempt_after(&self, attempt: u64) {
        until(&format!("an attempt after {attempt}, running"), || async {
            let job = self.get().await?;
            (is_after(&job, attempt) && holds(&job, "Ready")).then_some(())
        })
        .await;
    }

    /// Waits for a later attempt that runs as the newest spec says and has a checkpoint of its own.
    pub async fn until_recovered_from(&self, attempt: u64) {
        until(&format!("an attempt after {attempt}, running, with a checkpoint"), || async {
            let job = self.get().await?;
            (is_after(&job, attempt) && holds(&job, "Ready") && holds(&job, "Checkpointed")).then_some(())
        })
        .await;
    }

    /// Waits until it is suspended, and no worker is left.
    pub async fn until_suspended(&self) {
        until(&format!("{} is suspended", self.name), || async {
            let (ready, reason, _) = self.condition("Ready").await?;
            (ready == "False" && reason == "Suspended" && self.processes().await == 0).then_some(())
        })
        .await;
    }

    /// The checkpoint that the attempt was restored from, as the status has it.
    pub async fn restored(&self) -> Option<u64> {
        self.status().await["checkpoint"]["restored"]["id"].as_u64()
    }

    pub fn output(&self) -> String {
        format!("{}/{}-out", self.space.name, self.name)
    }

    /// All its worker pods, those that go or have ended included.
    pub async fn all_pods(&self) -> Vec<Pod> {
        self.space.cluster.labelled(&self.space.name, &format!("weir.dev/job={}", self.name)).await
    }

    /// How many of them have, or will have, a process; also those that go.
    async fn processes(&self) -> usize {
        self.all_pods().await.iter().filter(|pod| !has_ended(pod)).count()
    }

    /// Its worker pods that are not about to go, the oldest first.
    pub async fn pods(&self) -> Vec<Pod> {
        let mut pods = self.all_pods().await;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && !has_ended(pod));
        pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone().map(|time| time.0), pod.name_any()));
        pods
    }

    /// Names of its worker pods that run.
    pub async fn workers(&self) -> Vec<String> {
        let running = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        self.pods().await.iter().filter(|pod| running(pod)).map(ResourceExt::name_any).collect()
    }

    /// Waits until so many workers run.
    pub async fn until_workers(&self, n: usize) -> Vec<String> {
        until(&format!("{n} workers run"), || async { Some(self.workers().await).filter(|workers| workers.len() == n) })
            .await
    }

    /// What a worker says at `/metrics`.
    pub async fn metrics(&self, worker: &str) -> String {
        let path = format!("/api/v1/namespaces/{}/pods/{worker}:9464/proxy/metrics", self.space.name);
        let get = ["get", "--raw", &path];
        self.space.cluster.kubectl(&get).await.unwrap_or_else(|error| panic!("{worker}: {error}"))
    }

    /// Rows that the workers have read in this attempt.
    pub async fn rows_read(&self) -> f64 {
        let mut rows = 0.0;
        let name = format!("weir_worker_rows_out_total{{job=\"{}\",operator=\"numbers\"", self.name);
        for worker in self.workers().await {
            let text = self.metrics(&worker).await;
            let values = text.lines().filter(|line| line.starts_with(&name)).filter_map(|line| line.rsplit(' ').next());
            rows += values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>();
        }
        rows
    }

    /// The answer so far is exact, whatever was done to the job.
    pub async fn exact_so_far(&self) -> u64 {
        let lines = self.space.bucket.lines(&self.output()).await;
        let last = verify::counts(&lines).unwrap_or_else(|error| panic!("the output is not exact: {error}"));
        last.values().map(|(count, _)| count).sum()
    }

    /// Waits for more output than there is now: the job goes on and what it does is published.
    pub async fn until_more_output(&self) {
        let seen = self.space.bucket.published(&self.output()).await.len();
        until("more output", || async {
            (self.space.bucket.published(&self.output()).await.len() > seen).then_some(())
        })
        .await;
    }

    /// Waits for the end of the input, and holds the whole output against the whole answer.
    pub async fn finishes_exact(&self) {
        self.until_condition_within(Duration::from_mins(5), "Succeeded", "True").await;
        let lines = self.space.bucket.lines(&self.output()).await;
        verify::whole(&lines, self.rows).unwrap_or_else(|error| panic!("the output is not exact: {error}"));
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The job is at a later attempt than this one.
fn is_after(job: &DynamicObject, attempt: u64) -> bool {
    job.data["status"]["attempt"].as_u64().is_some_and(|at| at > attempt)
}

/// A condition is true, and of the newest spec.
fn holds(job: &DynamicObject, kind: &str) -> bool {
    let conditions = job.data["status"]["conditions"].as_array();
    let is_true = |condition: &&Value| condition["type"] == kind && condition["status"] == "True";
    let condition = conditions.into_iter().flatten().find(is_true);
    condition.is_some_and(|condition| condition["observedGeneration"].as_i64() == job.metadata.generation)
}
