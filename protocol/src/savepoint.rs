//! A savepoint: a checkpoint that belongs to the user, in a place of its own, with all that it names. JSON with a version.
//!
//! ```text
//! <location>/begun        a savepoint is being taken here; whoever comes second is refused
//! <location>/state/<n>    what the job's state files hold, byte for byte
//! <location>/parts/<n>    the workers' parts, which name these
//! <location>/savepoint    the manifest, created last: a savepoint is complete exactly where it stands
//! ```
//!
//! Paths are relative to the location, so that the whole can be moved and copied. Its parts hold no pending commits: what the first job
//! had promised is that job's to publish, and nobody else's.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CheckpointId, JobName},
    part::{ItemKind, Part},
    record::{PartRef, RecordRef},
};

/// The version of the manifest that this build writes, and the only one that there is.
pub const SAVEPOINT_VERSION: u32 = 1;

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Savepoint {
    /// [`SAVEPOINT_VERSION`].
    pub version: u32,
    /// The build that took it.
    pub build: String,
    /// The job that it was taken of.
    pub job: JobName,
    /// That job's owner.
    pub owner: String,
    /// The owner's cluster.
    pub cluster: String,
    /// The checkpoint that it is.
    pub checkpoint: RecordRef,
    /// How its state is written.
    pub form: Form,
    /// All input had ended.
    pub is_final: bool,
    /// Subtasks a stage.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// The plan's fingerprint.
    pub fingerprint: String,
    /// When the checkpoint was complete, in milliseconds since the epoch.
    pub completed_at_ms: u64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// What of the job's own output was published when it was taken.
    pub output: Output,
    /// The parts, in the order of the record.
    pub parts: Vec<PartRef>,
    /// All other objects.
    pub objects: Vec<SavedObject>,
}

/// How the state of a savepoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// As the state backend has it: fast, and for the same backend and as many key groups.
    Native,
}

/// What is known of the job's own output up to the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// All of it was published before the savepoint was complete.
    Published,
    /// The job did not run. What its last checkpoint promised may wait, in the job's own storage, for it to run again.
    Unknown,
}

/// An object of a savepoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedObject {
    /// Its path below the location.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
}

/// `begun`: who takes a savepoint here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Begun {
    /// [`SAVEPOINT_VERSION`].
    pub version: u32,
    /// Of this job.
    pub job: JobName,
    /// By this one, whose name no other has.
    pub by: String,
    /// As this checkpoint.
    pub checkpoint: CheckpointId,
}

/// A part as it stands in another place: its files under the names that `rename` gives them, and nothing that waits to be published.
#[must_use]
pub fn moved(mut part: Part, mut rename: impl FnMut(&str) -> Option<String>) -> Option<Part> {
    for subtask in &mut part.subtasks {
        let files = subtask.keyed.iter_mut().flat_map(|keyed| &mut keyed.files);
        let channels = subtask.channel_state.iter_mut().map(|channel| &mut channel.file);
        for file in files.chain(channels).filter(|file| file.inline.is_none()) {
            file.path = rename(&file.path)?;
        }
        for operator in &mut subtask.operators {
            operator.items.retain(|item| item.kind != ItemKind::Commit);
        }
    }
    Some(part)
}
