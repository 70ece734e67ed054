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
    doc = "A checkpointed streaming job: SQL, the workers that run it, and where its checkpoints go. Its identity is namespace and name: deleted with onDelete Retain and applied again, it resumes from its newest checkpoint.",
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
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Workers", type_ = "string", json_path = ".status.workers"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Checkpoint", type_ = "integer", json_path = ".status.checkpoint.latest.id"),
    printcolumn(name = "Age of it", type_ = "date", json_path = ".status.checkpoint.latest.completedAt"),
    printcolumn(name = "State size", type_ = "string", json_path = ".status.stateSize"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[x_kube(validation = ("self.workers.replicas * (has(self.workers.slots) ? self.workers.slots : 1) <= self.maxParallelism",
    "more slots than key groups: replicas × slots must not exceed maxParallelism"))]
#[x_kube(validation = ("!has(self.state.backend) || !has(oldSelf.state.backend) || self.state.backend == oldSelf.state.backend || self.upgrade.mode == 'Stateless'",
    "state.backend cannot change while state is kept: set upgrade.mode to Stateless, which starts from nothing, or leave it"))]
#[serde(rename_all = "camelCase")]
pub struct StreamJobSpec {
    /// The script, in Flink SQL: CREATE TABLE and CREATE VIEW statements, and one INSERT INTO or more. A script that cannot run
    /// is refused with line and column before a running attempt is touched: see the condition Stalled.
    #[x_kube(validation = ("self.trim().size() > 0", "is empty: write the statements of the job"))]
    #[schemars(length(max = 262_144))]
    pub sql: String,
    /// The worker processes that run the job. `kubectl scale` sets their number.
    #[serde(default)]
    pub workers: Workers,
    /// The number of key groups, the units in which keyed state is distributed over subtasks, and so the highest parallelism
    /// that the job can ever have. It can never change.
    #[serde(default = "defaults::max_parallelism")]
    #[schemars(range(min = 1, max = 32768))]
    #[x_kube(validation = ("self == oldSelf",
        "cannot change, since state is cut by it: delete the job and apply it under another name or storage"))]
    pub max_parallelism: u32,
    /// The state backend, which holds keyed state while the job runs.
    #[serde(default)]
    pub state: State,
    /// When checkpoints are taken and where they are stored.
    pub checkpoint: Checkpoint,
    /// The restart policy after a failure of the job's own, such as input that cannot be read. A lost worker is replaced at
    /// once; the policy applies only if workers are lost again within ten seconds of a restart, or cannot be started.
    #[serde(default)]
    pub restart: Restart,
    /// Whether a change of the program (`sql`, `state`, `workers.image`) keeps the state.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// The checkpoint to go back to; without it the job resumes from its newest one. A value acts once, and
    /// `status.restoredFrom` shows the one that acted last. Published output is not taken back: rows after the checkpoint are
    /// written once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// If true, a last checkpoint is taken and all workers are stopped; set to false again, the job resumes from that
    /// checkpoint.
    #[serde(default)]
    pub suspend: bool,
}

/// The processes that run a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workers {
    /// The number of workers. A change takes a checkpoint, and a new attempt resumes from it with the state redistributed.
    #[serde(default = "defaults::one")]
    #[schemars(range(max = 1024))]
    #[x_kube(validation = ("self >= 1", "must be 1 at least: to stop the job and keep its state, set spec.suspend to true"))]
    pub replicas: u32,
    /// How many subtasks of each stage a worker runs. The parallelism of the job is replicas × slots. If absent, as many as
    /// `SET 'parallelism.default'` asks for, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub slots: Option<u32>,
    /// The number of spare workers that are kept running beside the replicas: one takes a lost worker's place without waiting
    /// for a pod to start.
    #[serde(default)]
    #[schemars(range(max = 64))]
    pub standby: u32,
    /// The worker image. If absent, the controller's default of the time when the job started or last changed its program, its
    /// size or its pods. Name one of your own for functions, connectors or state backends of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When a node pulls the image: Always, IfNotPresent or Never. If absent, Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// The resources of each worker. `limits.memory`, 1Gi if absent, is the budget within which state, caches, channels and the
    /// process itself stay.
    #[serde(default)]
    pub resources: Resources,
    /// What is added to the worker pods: labels and annotations, node selection, tolerations, image pull secrets, a
    /// ServiceAccount, volumes, environment variables, sidecars.
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

/// What a user adds to the worker pods. What Weir itself sets takes precedence: its own container's command, ports and probes,
/// the labels by which it finds pods, the security of the restricted profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations that are added to the pods.
    #[serde(default)]
    pub metadata: PodTemplateMetadata,
    /// A pod's spec, as in a Deployment; all of it is optional. The container named `worker` is Weir's own: environment
    /// variables, volume mounts and ports of it are added. Other containers run beside it; none is started again when it ends, but
    /// init containers with `restartPolicy: Always`. A port that is added needs a NetworkPolicy of your own: the job's admits only
    /// Weir's two.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub spec: Map<String, Value>,
}

/// Labels and annotations of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateMetadata {
    /// Labels that are added to the pods. Those below `weir.dev/`, `app.kubernetes.io/name` and `app.kubernetes.io/managed-by` are
    /// Weir's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations that are added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Fields that another API defines.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The resources of each worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.limits) || !('memory' in self.limits) || quantity(string(self.limits['memory'])).compareTo(quantity('128Mi')) >= 0",
    "limits.memory is too little: a worker needs 128Mi at least"))]
pub struct Resources {
    /// The most that a worker may use of each resource: `memory`, `cpu`, `ephemeral-storage`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
    /// What the scheduler reserves for a worker of each resource. Local state is on the node's disk: `ephemeral-storage`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
}

/// The state backend, which holds keyed state while the job runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The name of the backend. `rocksdb`: state is on the worker's disk and may be larger than memory. `memory` (also called
    /// `hashmap` and `filesystem`): state is in memory, snapshots are in storage. `jobmanager`: state is in memory, and a
    /// subtask's snapshot, of 5 MiB at most, is inside the checkpoint's record. Or a name that the worker image registers. It
    /// cannot change while state is kept. If absent, what `SET 'state.backend.type'` says, else `rocksdb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub backend: Option<String>,
    /// Options of the backend. `rocksdb` has `compression` (`lz4`, `none`), `block-size` (bytes) and `background-jobs`; the
    /// others of Weir's own have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// When checkpoints are taken and where they are stored. All but the storage and the mode changes without a new attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Where checkpoints are stored.
    pub storage: Storage,
    /// The time from the trigger of one checkpoint to the next, such as `10s`; 10ms at least. If absent, what
    /// `SET 'execution.checkpointing.interval'` says, else 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('10ms')", "is too short: at least 10ms"))]
    pub interval: Option<Duration>,
    /// How long a checkpoint may take before it is aborted and counts as failed; 1s at least. If absent, what
    /// `SET 'execution.checkpointing.timeout'` says, else 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s')", "is too short: at least 1s"))]
    pub timeout: Option<Duration>,
    /// The shortest time from the end of one checkpoint to the trigger of the next. If absent, what
    /// `SET 'execution.checkpointing.min-pause'` says, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_pause: Option<Duration>,
    /// The guarantee for records in state. `ExactlyOnce`: each counts once. `AtLeastOnce`: checkpoints wait less, and records
    /// may count twice after a failure. If absent, what `SET 'execution.checkpointing.mode'` says, else `ExactlyOnce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CheckpointMode>,
    /// How the barriers of a checkpoint are aligned where a subtask has several inputs.
    #[serde(default)]
    pub alignment: Alignment,
    /// How many checkpoints in a row may fail before the condition Checkpointed turns False. The job runs on in any case. If
    /// absent, what `SET 'execution.checkpointing.tolerable-failed-checkpoints'` says, else 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = u32::MAX))]
    pub tolerable_failures: Option<u32>,
    /// How many of the newest completed checkpoints are retained; older ones are deleted.
    #[serde(default = "defaults::retain")]
    #[schemars(range(min = 1, max = 1000))]
    pub retain: u32,
    /// What becomes of the checkpoints when the job is deleted: `Retain` keeps them, so that the job resumes when it is applied
    /// again; `Delete` removes everything below the job's prefix.
    #[serde(default)]
    pub on_delete: OnDelete,
}

/// Where checkpoints are stored: below `<url>/<namespace>/<name>/`. Credentials are never written here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.url.startsWith('s3://') || (!has(self.endpoint) && !has(self.region) && !has(self.secretRef))",
    "endpoint, region and secretRef are for s3:// only: leave them out"))]
pub struct Storage {
    /// The URL of the storage: `s3://bucket/prefix`, which it must be in a cluster. For `weir run` also `file:///folder`, or a
    /// folder relative to the job's file. It cannot change: the job's checkpoints are there.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("!self.contains('://') || self.startsWith('s3://') || self.startsWith('file:///')",
        "is no storage that Weir knows: write s3://bucket/prefix or file:///folder"))]
    #[x_kube(validation = ("!self.startsWith('s3://') || self.matches('^s3://[a-z0-9][a-z0-9.-]*(/.*)?$')",
        "names no bucket: write s3://bucket/prefix"))]
    #[x_kube(validation = ("!self.matches('(^|/)\\\\.\\\\.(/|$)') || !self.contains('://')", "leaves its prefix: write it without .."))]
    #[x_kube(validation = ("self == oldSelf",
        "cannot change, since the job's checkpoints are there: delete the job and apply it with the other storage"))]
    pub url: String,
    /// For S3: the endpoint, if it is not AWS's, such as `http://minio.storage.svc:9000`. The controller uses it too, so the
    /// name of a Service needs its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("self.startsWith('http://') || self.startsWith('https://')", "is no endpoint: write https://host or http://host:port"))]
    pub endpoint: Option<String>,
    /// For S3: the bucket's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// For S3: the Secret, in the job's namespace, that holds the credentials, under `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and, for temporary ones, `AWS_SESSION_TOKEN`. Controller and workers use them for checkpoints,
    /// workers also for tables on `s3://`. If absent, each pod's own identity is used, such as that of its ServiceAccount in the
    /// cloud. `weir run` takes credentials from its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// A reference to a Secret in the job's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The guarantee for records in state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointMode {
    #[default]
    ExactlyOnce,
    AtLeastOnce,
}

/// How the barriers of a checkpoint are aligned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alignment {
    /// The kind of alignment. `Aligned`: an input whose barrier has arrived is not read until the barriers of all inputs have.
    #[serde(default, rename = "type")]
    pub kind: AlignmentType,
}

/// How the barriers of a checkpoint are aligned.
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

/// The restart policy after a failure of the job's own. A lost worker is replaced at once; the policy applies only if workers
/// are lost again within ten seconds of a restart, or cannot be started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("duration(self.initialBackoff) <= duration(self.maxBackoff)", "initialBackoff must not exceed maxBackoff"))]
pub struct Restart {
    /// How long to wait before the first restart after a failure. The wait doubles with each further failure in a row.
    #[serde(default = "defaults::initial_backoff")]
    pub initial_backoff: Duration,
    /// The longest wait before a restart; `initialBackoff` at least.
    #[serde(default = "defaults::max_backoff")]
    pub max_backoff: Duration,
    /// How long the job must have run before a failure counts as the first one again, and waits as the first does.
    #[serde(default = "defaults::reset_after")]
    pub reset_after: Duration,
    /// How many failures in a row are followed by a restart. One more and the job is given up: the condition Failed says why.
    /// If absent, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = u32::MAX))]
    pub max_failures: Option<u32>,
}

/// Whether a change of the program keeps the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// What a new version starts from when `sql`, `state` or `workers.image` changes. `LastState`: a last checkpoint, from which
    /// the new version resumes; a change that does not fit the state is refused, and the old version runs on. `Stateless`: a
    /// last checkpoint is taken, and the new version starts with empty state and reads its sources from the start; published
    /// output stays. Other changes, such as scaling, keep the state in either mode.
    #[serde(default)]
    pub mode: UpgradeMode,
    /// Whether a source, a stateful operator or a sink that the checkpoint knows nothing of may start: a source at its start, an
    /// operator with empty state. Without it such a change is refused, and the message names it.
    #[serde(default)]
    pub allow_new_state: bool,
    /// Whether the state of a source or a stateful operator that the SQL has no more may be left behind. Without it such a change is
    /// refused, and the message names it. Take it out again once the new version runs.
    #[serde(default)]
    pub allow_dropped_state: bool,
}

/// What a new version starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeMode {
    #[default]
    LastState,
    Stateless,
}

/// The checkpoint to go back to. A value acts once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(has(self.record) ? 1 : 0) + (has(self.savepoint) ? 1 : 0) + (has(self.previous) && self.previous ? 1 : 0) == 1", "name one: a record, a savepoint, or previous: true"))]
pub struct RestoreFrom {
    /// The path or URL of a retained checkpoint's record, as `status.checkpoint.latest.record` and `weir checkpoints` show
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub record: Option<String>,
    /// The URL of a savepoint, which may be another job's: `s3://bucket/prefix`, read with the endpoint and the credentials of
    /// `checkpoint.storage`. It is copied into this job's storage. What its own job has promised to publish stays that job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub savepoint: Option<String>,
    /// If true, the newest checkpoint below the prefix, also one of another owner: a job of another cluster, or a `weir run`.
    /// The other can complete no checkpoint any more, and stops. A job that was deleted and applied again in its own cluster
    /// resumes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<bool>,
    /// If true, output that a checkpoint has promised and that somebody has removed before it was published is given up; all
    /// else that was promised is published. Without it such a job is Stalled with the reason `OutputLost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_lost_output: Option<bool>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            replicas: defaults::one(),
            slots: None,
            standby: 0,
            image: None,
            image_pull_policy: None,
            resources: Resources::default(),
            pod_template: None,
        }
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
