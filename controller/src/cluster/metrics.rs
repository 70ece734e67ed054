//! The controller's metrics. Labels are bounded: kinds and states, never names of jobs' parts. One series a job is the most that
//! there is, and it goes with the job.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::facts::history::{self, Entry, History, Phases};

/// How a reconciliation or a checkpoint went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Result {
    /// `ok` or `error`.
    pub result: &'static str,
}

/// In which state so many jobs are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// One word.
    pub state: &'static str,
}

/// What a part of a checkpoint's time was spent on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Phase {
    /// One word.
    pub phase: &'static str,
}

/// Whose series it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    /// Where it lives.
    pub namespace: String,
    /// Its name.
    pub job: String,
}

/// A call to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// GET, POST, PATCH, PUT, DELETE.
    pub method: &'static str,
    /// The resource's plural.
    pub resource: String,
}

/// States of jobs, one series each.
pub const STATES: [&str; 7] = ["starting", "running", "recovering", "suspended", "succeeded", "failed", "stalled"];

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<Result, Counter>,
    reconcile_seconds: Histogram,
    jobs: Family<State, Gauge>,
    checkpoints: Family<Result, Counter>,
    checkpoint_seconds: Histogram,
    phase_seconds: Family<Phase, Histogram>,
    /// What the last checkpoints of each job were spent on. No metric: a page.
    histories: Arc<Mutex<BTreeMap<(String, String), History>>>,
    recovery_seconds: Histogram,
    last_checkpoint: Family<JobLabels, Gauge>,
    workers_lost: Counter,
    calls: Family<Call, Counter>,
    status_writes: Family<Result, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            jobs: Family::default(),
            checkpoints: Family::default(),
            checkpoint_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            phase_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 10))),
            histories: Arc::default(),
            recovery_seconds: Histogram::new(exponential_buckets(0.05, 2.0, 14)),
            last_checkpoint: Family::default(),
            workers_lost: Counter::default(),
            calls: Family::default(),
            status_writes: Family::default(),
            leader: Gauge::default(),
        };
        // A rate over a series that is not there yet is nothing, and an alert that compares with nothing never fires.
        for ok in [true, false] {
            drop(metrics.checkpoints.get_or_create(&result(ok)));
        }
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock();
        let weir = registry.sub_registry_with_prefix("weir_controller");
        weir.register("reconciles", "Reconciliations, by result", self.reconciles.clone());
        weir.register_with_unit("reconcile", "Time of one", Unit::Seconds, self.reconcile_seconds.clone());
        weir.register("jobs", "Jobs, by state", self.jobs.clone());
        weir.register("checkpoints", "Checkpoints completed and aborted", self.checkpoints.clone());
        weir.register_with_unit(
            "checkpoint",
            "From the trigger to the record",
            Unit::Seconds,
            self.checkpoint_seconds.clone(),
        );
        weir.register_with_unit(
            "checkpoint_phase",
            "What complete checkpoints were spent on, by phase",
            Unit::Seconds,
            self.phase_seconds.clone(),
        );
        weir.register_with_unit(
            "recovery",
            "From a failure that was seen to running again",
            Unit::Seconds,
            self.recovery_seconds.clone(),
        );
        weir.register(
            "last_checkpoint_timestamp_seconds",
            "When the newest checkpoint of a job completed; before the first since its start, when it was started",
            self.last_checkpoint.clone(),
        );
        weir.register("workers_lost", "Workers that were lost", self.workers_lost.clone());
        weir.register("api_calls", "Calls to the API server", self.calls.clone());
        weir.register("status_writes", "Writes of statuses, by result", self.status_writes.clone());
        weir.register("leader", "1 where this process leads", self.leader.clone());
    }

    /// As text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &registry);
        out
    }

    /// A checkpoint has ended, or was published.
    pub fn checkpoint_ended(&self, labels: &JobLabels, ended: &Entry, history: &History) {
        let key = (labels.namespace.clone(), labels.job.clone());
        self.histories.lock().insert(key, history.clone());
        if ended.result != history::Result::Complete {
            return;
        }
        let Phases { align_us, freeze_us, persist_us, upload_us, record_us, commit_us, .. } = ended.phases;
        let spent = match commit_us {
            Some(commit) => vec![("commit", commit)],
            None => vec![
                ("align", align_us),
                ("freeze", freeze_us),
                ("persist", persist_us),
                ("upload", upload_us),
                ("record", record_us),
            ],
        };
        for (phase, us) in spent {
            self.phase_seconds.get_or_create(&Phase { phase }).observe(Duration::from_micros(us).as_secs_f64());
        }
    }

    /// A job is not looked after here any more.
    pub fn forget_history(&self, labels: &JobLabels) {
        self.histories.lock().remove(&(labels.namespace.clone(), labels.job.clone()));
    }

    /// The page `/jobs/<namespace>/<name>/checkpoints`, as JSON; none for any other, and for a job that has taken none here.
    pub fn page(&self, path: &str) -> Option<String> {
        let (namespace, name) = path.strip_prefix("/jobs/")?.strip_suffix("/checkpoints")?.split_once('/')?;
        let histories = self.histories.lock();
        serde_json::to_string(histories.get(&(namespace.to_string(), name.to_string()))?).ok()
    }

    /// One reconciliation.
    pub fn reconciled(&self, ok: bool, took: std::time::Duration) {
        self.reconciles.get_or_create(&result(ok)).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A checkpoint is complete.
    pub fn checkpoint_completed(&self, job: &JobLabels, took: std::time::Duration, at_seconds: i64) {
        self.checkpoints.get_or_create(&result(true)).inc();
        self.checkpoint_seconds.observe(took.as_secs_f64());
        self.checkpointed_at(job, at_seconds);
    }

    /// A job is to take checkpoints. Where none of it is known, what would be lost began at this time.
    pub fn checkpointing_since(&self, job: &JobLabels, at_seconds: i64) {
        if self.last_checkpoint.get(job).is_none() {
            self.last_checkpoint.get_or_create(job).set(at_seconds);
        }
    }

    /// A job's newest checkpoint completed at this time, here or before its attempt was taken up.
    pub fn checkpointed_at(&self, job: &JobLabels, at_seconds: i64) {
        self.last_checkpoint.get_or_create(job).set(at_seconds);
    }

    /// A checkpoint was aborted.
    pub fn checkpoint_aborted(&self) {
        self.checkpoints.get_or_create(&result(false)).inc();
    }

    /// A job runs again.
    pub fn recovered(&self, took: std::time::Duration) {
        self.recovery_seconds.observe(took.as_secs_f64());
    }

    /// A worker was lost.
    pub fn worker_lost(&self) {
        self.workers_lost.inc();
    }

    /// A call to the API server.
    pub fn called(&self, call: &Call) {
        self.calls.get_or_create(call).inc();
    }

    /// A status was written, or not.
    pub fn status_written(&self, ok: bool) {
        self.status_writes.get_or_create(&result(ok)).inc();
    }

    /// Whether this process leads.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// So many jobs are in these states.
    pub fn jobs(&self, counts: &std::collections::BTreeMap<&'static str, i64>) {
        for state in STATES {
            self.jobs.get_or_create(&State { state }).set(counts.get(state).copied().unwrap_or_default());
        }
    }

    /// The job is gone.
    pub fn forget(&self, job: &JobLabels) {
        self.last_checkpoint.remove(job);
    }
}

fn result(ok: bool) -> Result {
    Result { result: if ok { "ok" } else { "error" } }
}

/// What a request to the API server is about: the resource's plural, from its path.
pub fn resource(path: &str) -> &str {
    let mut pieces = path.split('/').filter(|piece| !piece.is_empty());
    let mut next = match pieces.next() {
        Some("api") => pieces.nth(1),
        Some("apis") => pieces.nth(2),
        _ => return "other",
    };
    if next == Some("namespaces") {
        let (_, below) = (pieces.next(), pieces.next());
        next = below.or(Some("namespaces"));
    }
    next.unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_is_in_the_path() {
        for (path, expected) in [
            ("/api/v1/namespaces/air/pods/x", "pods"),
            ("/api/v1/namespaces/kube-system", "namespaces"),
            ("/api/v1/pods", "pods"),
            ("/apis/weir.dev/v1alpha1/namespaces/air/streamjobs/flights/status", "streamjobs"),
            ("/apis/coordination.k8s.io/v1/namespaces/weir/leases/w", "leases"),
            ("/version", "other"),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[test]
    fn every_state_has_a_series_and_a_job_s_goes_with_it() {
        let metrics = Metrics::default();
        metrics.jobs(&[("running", 3)].into());
        let job = JobLabels { namespace: "air".to_string(), job: "flights".to_string() };
        metrics.checkpoint_completed(&job, std::time::Duration::from_millis(180), 1_800_000_000);
        let text = metrics.encode();
        assert!(text.contains("weir_controller_jobs{state=\"running\"} 3"), "{text}");
        assert!(text.contains("weir_controller_jobs{state=\"stalled\"} 0"), "{text}");
        assert!(text.contains("weir_controller_last_checkpoint_timestamp_seconds{namespace=\"air\""), "{text}");
        assert!(text.contains("weir_controller_checkpoints_total{result=\"ok\"} 1"), "{text}");
        metrics.forget(&job);
        assert!(!metrics.encode().contains("flights"));
    }

    #[test]
    fn checkpoints_can_be_compared_before_the_first_one() {
        let text = Metrics::default().encode();
        for result in ["ok", "error"] {
            assert!(text.contains(&format!("weir_controller_checkpoints_total{{result=\"{result}\"}} 0")), "{text}");
        }
    }

    #[test]
    fn a_job_s_age_begins_once_and_a_resumed_attempt_has_that_of_its_checkpoint() {
        let metrics = Metrics::default();
        let job = JobLabels { namespace: "air".to_string(), job: "flights".to_string() };
        let at = |metrics: &Metrics| metrics.last_checkpoint.get(&job).map(|gauge| gauge.get());
        metrics.checkpointing_since(&job, 100);
        metrics.checkpointing_since(&job, 200);
        assert_eq!(at(&metrics), Some(100), "a start that takes long is not begun anew");
        metrics.checkpointed_at(&job, 50);
        assert_eq!(at(&metrics), Some(50));
    }
}
