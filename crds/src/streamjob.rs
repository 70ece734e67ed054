//! The `StreamJob` resource. An enum holds only what runs; what is to come adds its values.
// Each printer column is an attribute of the same names as the one before.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{duration::Duration, quantity::Quantity, status::StreamJobStatus};

/// A checkpointed streaming job: SQL, the workers that run it, and where its checkpoints go.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "StreamJob",
    namespaced,
    shortname = "sj",
    category = "all",
    category = "streaming",
    doc = "A checkpointed streaming job: SQL, the workers that run it, and where its checkpoints go. Its identity is namespace and name: deleted with onDelete Retain and applied again, it goes on from its newest checkpoint.",
    status = "StreamJobStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.workers.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = ("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 50",
        "metadata.name must begin with a letter, hold lower-case letters, digits and dashes, and have 50 characters at most: Services and pods are named after the job"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Workers", type_ = "string", json_path = ".status.workers"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Checkpoint", type_ = "integer", json_path = ".status.checkpoint.latest.id"),
    printcolumn(name = "Age of it", type_ = "date", json_path = ".status.checkpoint.latest.completedAt"),
    printcolumn(name = "State size", type_ = "string", json_path = ".status.stateSize"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[x_kube(validation = ("self.workers.replicas * self.workers.slots <= self.maxParallelism",
    "more slots than key groups: replicas × slots must not exceed maxParallelism"))]
#[x_kube(validation = ("self.state.backend == oldSelf.state.backend || self.upgrade.mode == 'Stateless'",
    "state.backend cannot change while state is kept: set upgrade.mode to Stateless, which starts from nothing, or leave it"))]
#[serde(rename_all = "camelCase")]
pub struct StreamJobSpec {
    /// The script, in Flink's SQL: CREATE TABLE and CREATE VIEW statements, and INSERT INTO. What cannot run is refused with
    /// line and column before anything of a running attempt is touched: see the condition Stalled.
    #[x_kube(validation = ("self.trim().size() > 0", "is empty: write the statements of the job"))]
    #[schemars(length(max = 262_144))]
    pub sql: String,
    /// The processes that run it. `kubectl scale` sets their number.
    #[serde(default)]
    pub workers: Workers,
    /// Key groups: the units by which keyed state is dealt out, and so the most subtasks that a stage can ever have. It can
    /// never change.
    #[serde(default = "defaults::max_parallelism")]
    #[schemars(range(min = 1, max = 32768))]
    #[x_kube(validation = ("self == oldSelf",
        "cannot change, since state is cut by it: delete the job and apply it under another name or storage"))]
    pub max_parallelism: u32,
    /// Where keyed state rests while the job runs.
    #[serde(default)]
    pub state: State,
    /// When checkpoints are taken and where they go.
    pub checkpoint: Checkpoint,
    /// What happens after a failure of the job's own, such as bad input. A lost worker is replaced at once, whatever stands
    /// here.
    #[serde(default)]
    pub restart: Restart,
    /// What happens to the running attempt when the SQL, the image or another part of the job changes that cannot change live.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// Which checkpoint to go back to. It acts once for each value in the life of a resource; without it the job goes on from
    /// its newest checkpoint. `status.restoredFrom` shows the value that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// Takes a last checkpoint and stops all workers, until it is false again: then the job goes on from there.
    #[serde(default)]
    pub suspend: bool,
}

/// The processes that run a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workers {
    /// How many. A change takes a checkpoint, and a new attempt goes on from it with the state dealt out anew.
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 1, max = 1024))]
    pub replicas: u32,
    /// Subtasks of every stage in each worker. The parallelism of the job is replicas × slots.
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 1, max = 256))]
    pub slots: u32,
    /// Workers kept ready beside them: one takes a lost worker's place without waiting for a pod to start.
    #[serde(default)]
    #[schemars(range(max = 64))]
    pub standby: u32,
    /// The worker image; the controller's own default if absent. Name one that holds functions, connectors or state backends
    /// of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When a node pulls the image: Always, IfNotPresent or Never. If absent, Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// What each may use. `limits.memory` is the budget that state, caches and channels share; 1Gi if absent.
    #[serde(default)]
    pub resources: Resources,
    /// Completes the worker pods: labels and annotations, node selection, tolerations, volumes, variables, sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// When a node pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// What a user adds to the worker pods. What Weir itself sets (its own container's command, ports and probes, the labels
/// it finds pods by, the security of the restricted profile) stands above it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default)]
    pub metadata: PodTemplateMetadata,
    /// A pod's spec, as in a Deployment; all of it is optional. The container named `worker` is Weir's own: variables, volume
    /// mounts and ports written there are added to it. Other containers run beside it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub spec: Map<String, Value>,
}

/// Labels and annotations of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateMetadata {
    /// Added to the pods' labels. Those of weir.dev and app.kubernetes.io/name and managed-by stay Weir's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Added to the pods' annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Fields that another API defines.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// What each worker may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.limits) || !('memory' in self.limits) || quantity(string(self.limits['memory'])).compareTo(quantity('64Mi')) >= 0",
    "limits.memory is too little: a worker needs 64Mi at least"))]
pub struct Resources {
    /// The most that a worker gets, by resource: `memory`, `cpu`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
    /// What the scheduler sets aside for each, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
}

/// Where keyed state rests while the job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// `rocksdb`: on the worker's disk, larger than memory. `memory` (also called `hashmap` and `filesystem`): in memory,
    /// snapshots in storage. `jobmanager`: in memory, snapshots of 5 MiB at most inside the checkpoint's record. Or a name that
    /// the worker image registers. It cannot change while state is kept.
    #[serde(default = "defaults::backend")]
    #[schemars(length(min = 1, max = 63))]
    pub backend: String,
    /// The backend's own options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// When checkpoints are taken and where they go. All but the storage and the mode changes live, without a new attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Where they go.
    pub storage: Storage,
    /// From one trigger to the next, such as `10s`; 10ms at least.
    #[serde(default = "defaults::interval")]
    #[x_kube(validation = ("duration(self) >= duration('10ms')", "is too short: at least 10ms"))]
    pub interval: Duration,
    /// One that takes longer is aborted and counted as failed; 1s at least.
    #[serde(default = "defaults::timeout")]
    #[x_kube(validation = ("duration(self) >= duration('1s')", "is too short: at least 1s"))]
    pub timeout: Duration,
    /// From the end of one to the next trigger, at least.
    #[serde(default)]
    pub min_pause: Duration,
    /// `ExactlyOnce`, or `AtLeastOnce`: less waiting at a checkpoint, and records may count twice after a failure.
    #[serde(default)]
    pub mode: CheckpointMode,
    /// How barriers meet.
    #[serde(default)]
    pub alignment: Alignment,
    /// So many may fail one after the other before the condition Checkpointed turns False. The job runs on in any case.
    #[serde(default = "defaults::tolerable_failures")]
    pub tolerable_failures: u32,
    /// So many of the newest are kept.
    #[serde(default = "defaults::retain")]
    #[schemars(range(min = 1, max = 1000))]
    pub retain: u32,
    /// What becomes of the checkpoints when the job is deleted: `Retain` keeps them, so that the job can be applied again and
    /// goes on; `Delete` removes everything below the job's prefix.
    #[serde(default)]
    pub on_delete: OnDelete,
}

/// Where checkpoints go, below `<url>/<namespace>/<name>/`. Credentials are never written here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.url.startsWith('s3://') || (!has(self.endpoint) && !has(self.region) && !has(self.secretRef))",
    "endpoint, region and secretRef are for s3:// only: leave them out"))]
pub struct Storage {
    /// `s3://bucket/prefix`; in a cluster it must be this. For `weir run` also `file:///folder`, or a folder relative to the
    /// job's file. It cannot change: the job's checkpoints are there.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("!self.contains('://') || self.startsWith('s3://') || self.startsWith('file:///')",
        "is no storage that Weir knows: write s3://bucket/prefix or file:///folder"))]
    #[x_kube(validation = ("!self.startsWith('s3://') || self.matches('^s3://[a-z0-9][a-z0-9.-]*(/.*)?$')",
        "names no bucket: write s3://bucket/prefix"))]
    #[x_kube(validation = ("!self.matches('(^|/)\\\\.\\\\.(/|$)') || !self.contains('://')", "leaves its prefix: write it without .."))]
    #[x_kube(validation = ("self == oldSelf",
        "cannot change, since the job's checkpoints are there: delete the job and apply it with the other storage"))]
    pub url: String,
    /// For S3: another endpoint than AWS's, such as `http://minio.storage:9000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("self.startsWith('http://') || self.startsWith('https://')", "is no endpoint: write https://host or http://host:port"))]
    pub endpoint: Option<String>,
    /// For S3: the bucket's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// For S3: the Secret, in the job's namespace, with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where there is one,
    /// `AWS_SESSION_TOKEN`. If absent, requests go out as the surroundings of the pods allow. `weir run` takes them from its
    /// environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// Names a Secret in the job's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
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
    /// `Aligned`: channels are held back until all barriers have come.
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
    /// The job is given up after so many failures; never if absent. The condition Failed then says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
}

/// What happens to the running attempt when the job changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// `LastState`: a checkpoint is taken, and the new version goes on from it; a change that does not fit the state is refused,
    /// and the old version runs on. `Stateless`: the new version starts from nothing.
    #[serde(default)]
    pub mode: UpgradeMode,
}

/// What a new version starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeMode {
    #[default]
    LastState,
    Stateless,
}

/// Which checkpoint to go back to. Acts once for each value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.record) != (has(self.previous) && self.previous)", "name one: a record, or previous: true"))]
pub struct RestoreFrom {
    /// The path or URL of a record of this job, as `status.checkpoint.latest.record` and `weir checkpoints` show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub record: Option<String>,
    /// The newest record of this prefix, also one of another owner: a job of another cluster, or a `weir run`. The other is
    /// sealed off and stops. A job that was deleted and applied again in its own cluster goes on without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<bool>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            replicas: defaults::one(),
            slots: defaults::one(),
            standby: 0,
            image: None,
            image_pull_policy: None,
            resources: Resources::default(),
            pod_template: None,
        }
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
