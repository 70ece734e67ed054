//! The `StreamJob` resource. An enum holds only what runs; what is to come adds its values.
// Each printer column is an attribute of the same names as the one before.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, quantity::Quantity, status::StreamJobStatus};

/// A checkpointed streaming job: SQL, the workers that run it, and where its checkpoints go.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "StreamJob",
    namespaced,
    shortname = "sj",
    category = "streaming",
    doc = "A checkpointed streaming job: SQL, the workers that run it, and where its checkpoints go.",
    status = "StreamJobStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.workers.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Checkpoint", type_ = "integer", json_path = ".status.checkpoint.latest.id"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.checkpoint.latest.completedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = ("self.workers.replicas * self.workers.slots <= self.maxParallelism",
    "more slots than key groups: replicas × slots must not exceed maxParallelism"))]
#[serde(rename_all = "camelCase")]
pub struct StreamJobSpec {
    /// The script, in Flink's SQL.
    #[x_kube(validation = ("self.trim().size() > 0", "is empty: write the statements of the job"))]
    #[schemars(length(max = 262_144))]
    pub sql: String,
    /// The processes that run it.
    #[serde(default)]
    pub workers: Workers,
    /// Key groups: the most subtasks that a stage can ever have. Fixed once there is state.
    #[serde(default = "defaults::max_parallelism")]
    #[schemars(range(min = 1, max = 32768))]
    pub max_parallelism: u32,
    /// Where keyed state rests while the job runs.
    #[serde(default)]
    pub state: State,
    /// When checkpoints are taken and where they go.
    pub checkpoint: Checkpoint,
    /// What happens after a failure of the job's own.
    #[serde(default)]
    pub restart: Restart,
    /// Which checkpoint to go back to, once for each value; else the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// Takes a last checkpoint and stops all workers, until it is false again.
    #[serde(default)]
    pub suspend: bool,
}

/// The processes that run a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workers {
    /// How many.
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 1, max = 1024))]
    pub replicas: u32,
    /// Subtasks of every stage in each.
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 1, max = 256))]
    pub slots: u32,
    /// A worker image with functions, connectors or state backends of one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What each may use. `limits.memory` is the budget that state, caches and channels share; 1Gi if absent.
    #[serde(default)]
    pub resources: Resources,
}

/// What each worker may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.limits) || !('memory' in self.limits) || quantity(string(self.limits['memory'])).compareTo(quantity('64Mi')) >= 0",
    "limits.memory is too little: a worker needs 64Mi at least"))]
pub struct Resources {
    /// The most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
}

/// Where keyed state rests while the job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// `rocksdb`, `memory` (also called `hashmap` and `filesystem`), `jobmanager`, or a name that the worker image registers.
    #[serde(default = "defaults::backend")]
    #[schemars(length(min = 1, max = 63))]
    pub backend: String,
    /// The backend's own options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// When checkpoints are taken and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Where they go.
    pub storage: Storage,
    /// From one trigger to the next.
    #[serde(default = "defaults::interval")]
    #[x_kube(validation = ("duration(self) >= duration('10ms')", "is too short: at least 10ms"))]
    pub interval: Duration,
    /// One that takes longer is aborted.
    #[serde(default = "defaults::timeout")]
    #[x_kube(validation = ("duration(self) >= duration('1s')", "is too short: at least 1s"))]
    pub timeout: Duration,
    /// From the end of one to the next trigger, at least.
    #[serde(default)]
    pub min_pause: Duration,
    /// `ExactlyOnce`, or `AtLeastOnce` with less waiting.
    #[serde(default)]
    pub mode: CheckpointMode,
    /// How barriers meet.
    #[serde(default)]
    pub alignment: Alignment,
    /// So many may fail one after the other before `Checkpointed` turns False.
    #[serde(default = "defaults::tolerable_failures")]
    pub tolerable_failures: u32,
    /// So many of the newest are kept.
    #[serde(default = "defaults::retain")]
    #[schemars(range(min = 1, max = 1000))]
    pub retain: u32,
    /// What becomes of the checkpoints when the job is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
}

/// Where checkpoints go. Credentials are never written here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// `s3://bucket/prefix`, `file:///folder`, or, for `weir run`, a folder relative to the job's file.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("!self.contains('://') || self.startsWith('s3://') || self.startsWith('file:///')",
        "is no storage that Weir knows: write s3://bucket/prefix or file:///folder"))]
    pub url: String,
    /// For S3: another endpoint than AWS's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// For S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. `weir run` takes them from its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// Names a Secret in the job's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    pub name: String,
}

/// Whether records between barriers are counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointMode {
    #[default]
    ExactlyOnce,
    AtLeastOnce,
}

/// How barriers meet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alignment {
    /// Channels are held back until all barriers have come.
    #[serde(default, rename = "type")]
    pub kind: AlignmentType,
}

/// How barriers meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AlignmentType {
    #[default]
    Aligned,
}

/// What becomes of the checkpoints when the job is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    #[default]
    Retain,
    Delete,
}

/// What happens after a failure of the job's own. A lost worker is replaced at once, whatever stands here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("duration(self.initialBackoff) <= duration(self.maxBackoff)", "initialBackoff must not exceed maxBackoff"))]
pub struct Restart {
    /// The wait before the first restart; it doubles with each.
    #[serde(default = "defaults::initial_backoff")]
    pub initial_backoff: Duration,
    /// The longest wait.
    #[serde(default = "defaults::max_backoff")]
    pub max_backoff: Duration,
    /// After running so long the count and the wait begin anew.
    #[serde(default = "defaults::reset_after")]
    pub reset_after: Duration,
    /// The job is given up after so many failures; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
}

/// Which checkpoint to go back to. Acts once for each value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.record) != (has(self.previous) && self.previous)", "name one: a record, or previous: true"))]
pub struct RestoreFrom {
    /// The path or URL of a record of this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// The newest record of this prefix, also one of another owner, whose term is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<bool>,
}

impl Default for Workers {
    fn default() -> Self {
        Self { replicas: defaults::one(), slots: defaults::one(), image: None, resources: Resources::default() }
    }
}

impl Default for State {
    fn default() -> Self {
        Self { backend: defaults::backend(), options: BTreeMap::new() }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            initial_backoff: defaults::initial_backoff(),
            max_backoff: defaults::max_backoff(),
            reset_after: defaults::reset_after(),
            max_failures: None,
        }
    }
}

/// The memory budget of a worker that names none, in bytes.
const DEFAULT_MEMORY: u64 = 1 << 30;

impl Workers {
    /// The bytes of memory that each worker may use.
    pub fn memory_budget(&self) -> u64 {
        self.resources.limits.get("memory").map_or(DEFAULT_MEMORY, Quantity::value)
    }
}

/// The defaults, as functions because serde and the schema take them so.
mod defaults {
    use crate::duration::Duration;

    pub fn one() -> u32 {
        1
    }
    pub fn max_parallelism() -> u32 {
        128
    }
    pub fn backend() -> String {
        "rocksdb".to_string()
    }
    pub fn interval() -> Duration {
        Duration::from_secs(10)
    }
    pub fn timeout() -> Duration {
        Duration::from_secs(600)
    }
    pub fn tolerable_failures() -> u32 {
        3
    }
    pub fn retain() -> u32 {
        3
    }
    pub fn initial_backoff() -> Duration {
        Duration::from_secs(1)
    }
    pub fn max_backoff() -> Duration {
        Duration::from_secs(60)
    }
    pub fn reset_after() -> Duration {
        Duration::from_secs(600)
    }
}
