//! What a worker is told beside the plan: where storage is, which state backend, which guarantees. Credentials are never
//! in here; a worker takes them from its own environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::JobName;

/// What `weir-worker plan` reads, and every worker plans from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanRequest {
    /// Flink SQL.
    pub script: String,
    /// Relative paths in the script are taken from here.
    pub base_dir: String,
    /// Key groups.
    pub max_parallelism: u32,
}

/// All that the parts of a worker need beside the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSettings {
    /// Whose job it is.
    pub job: JobName,
    /// Where checkpoints go.
    pub storage: StorageSettings,
    /// The state backend's name: memory, hashmap, filesystem, jobmanager, rocksdb, or a registered one.
    pub state_backend: String,
    /// The backend's own options.
    pub state_options: BTreeMap<String, String>,
    /// Exactly once, or at least once.
    pub mode: CheckpointMode,
    /// The longest an alignment may take, in milliseconds; 0 is no limit.
    pub alignment_timeout_ms: u64,
    /// Bytes of memory a worker may use.
    pub memory_budget: u64,
}

/// What a restore may leave out. Nothing is left out unless the user says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// What the plan has and the checkpoint has not starts empty.
    pub allow_new_state: bool,
    /// What the checkpoint has and the plan has not is left behind.
    pub allow_dropped_state: bool,
}

/// How storage is reached. No credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageSettings {
    /// `file:///path` or `s3://bucket/prefix`, without the job's own prefix.
    pub url: String,
    /// For S3: another endpoint than AWS's.
    pub endpoint: Option<String>,
    /// For S3.
    pub region: Option<String>,
}

/// Whether barriers are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckpointMode {
    /// Channels are held back until all barriers have come.
    ExactlyOnce,
    /// Channels flow on; records after a barrier may be counted twice.
    AtLeastOnce,
}

/// Constant words for the kinds of failure in `TaskFailed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The script does not plan, or not to the fingerprint.
    Plan,
    /// A restore does not fit the plan: an operator differs, maxParallelism differs.
    StateMismatch,
    /// A checkpoint's bytes are missing or fail their checksum.
    Corrupt,
    /// Input that cannot be read.
    BadInput,
    /// Storage, disk or network.
    Io,
    /// Anything else that an operator raised.
    Operator,
    /// A peer's stream broke; the peer is the cause.
    PeerLost,
    /// Output that a record names is neither unfinished nor published, and bears no mark that it ever was published.
    OutputLost,
}

impl FailureKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "Plan",
            Self::StateMismatch => "StateMismatch",
            Self::Corrupt => "Corrupt",
            Self::BadInput => "BadInput",
            Self::Io => "Io",
            Self::Operator => "Operator",
            Self::PeerLost => "PeerLost",
            Self::OutputLost => "OutputLost",
        }
    }

    /// A restart cannot mend it.
    pub const fn is_fatal(self) -> bool {
        matches!(self, Self::Plan | Self::StateMismatch | Self::Corrupt | Self::OutputLost)
    }

    /// What was deployed cannot be made of this state; another version can.
    pub const fn is_unfit(self) -> bool {
        matches!(self, Self::Plan | Self::StateMismatch)
    }
}

impl std::str::FromStr for FailureKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [
            Self::Plan,
            Self::StateMismatch,
            Self::Corrupt,
            Self::BadInput,
            Self::Io,
            Self::Operator,
            Self::PeerLost,
            Self::OutputLost,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
        .ok_or(())
    }
}
