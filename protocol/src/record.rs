//! Openings, records and seals: the objects of a term. All are JSON with a version, created if absent and never changed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Attempt, CheckpointId, JobName, RecordNumber, Term, WorkerId};

/// The version of openings, records and seals that this build writes. It reads this one and no other.
pub const RECORD_VERSION: u32 = 1;

/// `terms/<term>/opening`: who coordinates which attempt from here on, and what it was restored from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Opening {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// This opening's term.
    pub term: Term,
    /// The attempt that the term is over.
    pub attempt: Attempt,
    /// Whose job this is.
    pub job: JobName,
    /// Names the coordinating process for people: host, process id, start.
    pub coordinator: String,
    /// The uid of the StreamJob in its cluster; of the state folder for `weir run`.
    pub owner: String,
    /// The uid of the cluster; `local` for `weir run`.
    pub cluster: String,
    /// The record that the attempt was restored from; none for a start from nothing.
    pub restores: Option<RecordRef>,
    /// Worker processes of the attempt.
    pub workers: u32,
    /// Slots a worker.
    pub slots: u32,
    /// Key groups; fixed once there is state.
    pub max_parallelism: u32,
    /// The plan's fingerprint. Every worker must arrive at the same.
    pub fingerprint: String,
}

/// Points at a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordRef {
    /// The checkpoint's id.
    pub id: CheckpointId,
    /// The term that the record stands in.
    pub term: Term,
    /// The slot within the term.
    pub number: RecordNumber,
}

impl RecordRef {
    /// The record's object path.
    pub fn path(&self) -> String {
        crate::paths::slot(self.term, self.number)
    }
}

/// What can stand in a slot of a term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Slot {
    /// A completed checkpoint.
    Record(Record),
    /// The end of the term.
    Seal(Seal),
}

/// The object whose existence makes a checkpoint complete.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The checkpoint's id.
    pub id: CheckpointId,
    /// The term this record stands in.
    pub term: Term,
    /// Its slot there.
    pub number: RecordNumber,
    /// The attempt that took the checkpoint.
    pub attempt: Attempt,
    /// Whose checkpoint this is.
    pub job: JobName,
    /// All input had ended before this checkpoint; nothing comes after it.
    pub is_final: bool,
    /// Subtasks a stage.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// The plan's fingerprint.
    pub fingerprint: String,
    /// One a worker.
    pub parts: Vec<PartRef>,
    /// When the record was made, in milliseconds since the epoch.
    pub completed_at_ms: u64,
    /// From the trigger to here, in milliseconds.
    pub duration_ms: u64,
    /// Bytes of state that this checkpoint names.
    pub state_bytes: u64,
    /// Bytes that were uploaded for it.
    pub uploaded_bytes: u64,
}

impl Record {
    /// Points at this record.
    pub fn reference(&self) -> RecordRef {
        RecordRef { id: self.id, term: self.term, number: self.number }
    }
}

/// Names one worker's part, or carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartRef {
    /// The worker that wrote it.
    pub worker: WorkerId,
    /// Its object path below the job's prefix; also the name of an inline part.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its CRC-32C.
    pub crc32c: u32,
    /// The part itself, where the state backend carries its snapshots in the ack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
}

/// Ends a term. What its coordinator does afterwards is in no chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seal {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The term it ends.
    pub term: Term,
    /// Its slot there.
    pub number: RecordNumber,
    /// The coordinator that sealed.
    pub by: String,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}

/// Why bytes could not be read as an object of a term, or as a part.
#[derive(Debug, Error)]
pub enum FormatError {
    /// Not the JSON that this build writes.
    #[error("{path} is not readable: {source}")]
    Json {
        /// The object.
        path: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Written by a build with another format.
    #[error("{path} has format version {found}, this build reads {expected}")]
    Version {
        /// The object.
        path: String,
        /// Its version.
        found: u64,
        /// Ours.
        expected: u32,
    },
}

/// Reads a versioned JSON object; `path` is named in errors.
pub fn decode<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8], expected: u32) -> Result<T, FormatError> {
    let json = |source| FormatError::Json { path: path.to_string(), source };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(json)?;
    let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if found != u64::from(expected) {
        return Err(FormatError::Version { path: path.to_string(), found, expected });
    }
    serde_json::from_value(value).map_err(json)
}

/// Writes a JSON object. The types of this module always serialize.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    serde_json::to_writer_pretty(&mut bytes, value).unwrap_or_default();
    bytes
}
