//! Openings, records and seals: the objects of a term. All are JSON with a version, created if absent and never changed.
//!
//! Records and seals say the same in all versions, and openings in 2 and 3. An opening of version 1 says what it restores by a record or by
//! null.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ids::{Attempt, CheckpointId, JobName, RecordNumber, Term, WorkerId},
    stored::{FORMAT, Stored},
};

pub use crate::stored::{FormatError, decode, encode, read};

/// The version of openings, records and seals that this build writes where nothing else is said.
pub const RECORD_VERSION: u32 = FORMAT;

/// `terms/<term>/opening`: who coordinates which attempt from here on, and what it was restored from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opening {
    /// The version that it has, or is to have, in storage.
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
    /// What the attempt was restored from.
    pub restores: Restores,
    /// The record whose pending commits are carried out, where that is another: the end of the chain that a user's wish left, for
    /// an older record or for nothing. What it promised is published all the same. The build before does not know this: an opening that says it is of version 2.
    pub commits: Option<RecordRef>,
    /// Of these pending commits, what finds nothing to publish is given up, by a user's wish. As with `commits`, of version 2.
    pub accepts_lost_output: bool,
    /// Worker processes of the attempt.
    pub workers: u32,
    /// Slots a worker.
    pub slots: u32,
    /// Key groups; fixed once there is state.
    pub max_parallelism: u32,
    /// The plan's fingerprint. Every worker must arrive at the same.
    pub fingerprint: String,
    /// The user's wish to restore that has acted last, as it was written: in this opening, or in one before. It acts once.
    /// Version 1 has no place for it.
    pub wish: Option<String>,
}

/// What an attempt begins from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Restores {
    /// Empty state; sources are read from their start.
    #[default]
    Nothing,
    /// A checkpoint of this job.
    Record(RecordRef),
    /// A savepoint, which belongs to the user.
    #[serde(rename_all = "camelCase")]
    Savepoint {
        /// Where it stands.
        location: String,
        /// The checkpoint that it was taken as.
        id: CheckpointId,
    },
}

impl Restores {
    /// The record, if it is one.
    pub const fn record(&self) -> Option<RecordRef> {
        match self {
            Self::Record(record) => Some(*record),
            Self::Nothing | Self::Savepoint { .. } => None,
        }
    }
}

impl From<Option<RecordRef>> for Restores {
    fn from(record: Option<RecordRef>) -> Self {
        record.map_or(Self::Nothing, Self::Record)
    }
}

/// An opening as it stands in storage: in version 1 `R` is `Option<RecordRef>`, in version 2 it is [`Restores`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OpeningForm<R> {
    version: u32,
    term: Term,
    attempt: Attempt,
    job: JobName,
    coordinator: String,
    owner: String,
    cluster: String,
    restores: R,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commits: Option<RecordRef>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    accepts_lost_output: bool,
    workers: u32,
    slots: u32,
    max_parallelism: u32,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wish: Option<String>,
}

impl<R: Into<Restores>> From<OpeningForm<R>> for Opening {
    fn from(form: OpeningForm<R>) -> Self {
        Self {
            version: form.version,
            term: form.term,
            attempt: form.attempt,
            job: form.job,
            coordinator: form.coordinator,
            owner: form.owner,
            cluster: form.cluster,
            restores: form.restores.into(),
            commits: form.commits,
            accepts_lost_output: form.accepts_lost_output,
            workers: form.workers,
            slots: form.slots,
            max_parallelism: form.max_parallelism,
            fingerprint: form.fingerprint,
            wish: form.wish,
        }
    }
}

impl Opening {
    fn form<R>(&self, restores: R) -> OpeningForm<R> {
        OpeningForm {
            version: self.version,
            term: self.term,
            attempt: self.attempt,
            job: self.job.clone(),
            coordinator: self.coordinator.clone(),
            owner: self.owner.clone(),
            cluster: self.cluster.clone(),
            restores,
            commits: self.commits,
            accepts_lost_output: self.accepts_lost_output,
            workers: self.workers,
            slots: self.slots,
            max_parallelism: self.max_parallelism,
            fingerprint: self.fingerprint.clone(),
            wish: self.wish.clone().filter(|_| self.version > 1),
        }
    }
}

/// In the form of its own version. Version 1 has no word for a savepoint.
impl Serialize for Opening {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.version, &self.restores) {
            (1, Restores::Savepoint { .. }) => {
                Err(serde::ser::Error::custom("an opening of version 1 restores no savepoint"))
            }
            (1, restores) => self.form(restores.record()).serialize(serializer),
            (_, restores) => self.form(restores).serialize(serializer),
        }
    }
}

impl Stored for Opening {
    fn upgraded(version: u32, object: Value) -> Result<Self, serde_json::Error> {
        match version {
            1 => serde_json::from_value::<OpeningForm<Option<RecordRef>>>(object).map(Self::from),
            _ => serde_json::from_value::<OpeningForm<Restores>>(object).map(Self::from),
        }
    }
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

impl Stored for Slot {
    fn upgraded(_version: u32, object: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(object)
    }
}

/// The object whose existence makes a checkpoint complete.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The version that it has, or is to have, in storage.
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
    /// The version that it has, or is to have, in storage.
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
