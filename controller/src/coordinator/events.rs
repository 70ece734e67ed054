//! What a coordinator is told and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use weir_protocol::record::{Opening, PartRef, Record, RecordRef, Seal};
use weir_protocol::{CheckpointId, RecordNumber, Term, WorkerId};

use crate::gc::{Names, Removal};

/// How often checkpoints are taken and how long they may last. Changes live, by [`Event::Configure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// From one trigger to the next.
    pub interval: Duration,
    /// From the end of one checkpoint, completed or aborted, to the next trigger.
    pub min_pause: Duration,
    /// From the trigger until a checkpoint without all acks is aborted.
    pub timeout: Duration,
    /// Aborted checkpoints in a row that do not yet make `Checkpointed` false.
    pub tolerable_failures: u32,
    /// How many of the newest records stay; at least 1.
    pub retain: u32,
    /// At most one status write in this time.
    pub status_interval: Duration,
    /// From an answer in doubt, a failed removal, a failed read or a failed status write to the next try.
    pub retry: Duration,
}

/// At most one status write a job in this time, so that a job with short intervals does not load the API server.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// From a call to storage or to the status that did not succeed to the next try. Short, since a record in doubt holds back
/// all other checkpoints; long enough not to load storage that is down.
pub const RETRY: Duration = Duration::from_millis(500);

/// The longest wait after checkpoints that failed, where the interval is shorter. It begins with [`RETRY`] and doubles with each.
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);

/// So long a stop waits, after its last record stands, for all workers to acknowledge the commit. Then it tells that they
/// have not, and the next start repeats it.
pub const COMMIT_WAIT: Duration = Duration::from_secs(10);

/// So many pre-commits of a worker may wait for their commit before sources are held back, until half of them are published. Each stands
/// in every part until then, with some 500 bytes, and every part is read by the controller: this many make a part of 5 MB. A checkpoint
/// of a worker that writes 128 MB files has a handful.
pub const MOST_PENDING: u64 = 10_000;

/// What a coordinator starts with: the answer of the takeover and of the workers' sessions.
#[derive(Clone, Debug)]
pub struct Start {
    /// The opening of this coordinator's term, as it stands in storage.
    pub opening: Arc<Opening>,
    /// The attempt's workers in slot order. All are deployed (or resumed) and have a session in this term.
    pub workers: Vec<WorkerId>,
    /// The record that `opening.restores` names.
    pub restored: Option<Arc<Record>>,
    /// Every record that still stands in an earlier term, `restored` among them. Names what may be deleted.
    pub inherited: Vec<Arc<Record>>,
    /// The highest id in any record, of [`crate::takeover::Opened`], and in any worker's `Welcome`.
    pub highest_id: CheckpointId,
    /// Checkpoints aborted since the newest record, in the terms before: what is tolerable is counted from the first of them.
    pub failed: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed. To be sent at [`super::Coordinator::next_wake`]; more often does no harm.
    Tick,
    /// `spec.checkpoint` changed.
    Configure(Policy),
    /// Take a checkpoint now, without waiting for the interval: a pod was told to go, or a user asked.
    TriggerNow,
    /// Take one last checkpoint and tell how it went by [`Action::LastTaken`]; nothing is triggered afterwards.
    TakeLast,
    /// After [`Action::LastTaken`]: it was not the last one after all, checkpoints are taken as before.
    CarryOn,
    /// A worker has a session in this term again, after [`Event::SessionLost`].
    SessionOpened {
        /// Which.
        worker: WorkerId,
        /// The highest id that it has ever seen.
        highest_checkpoint: CheckpointId,
    },
    /// A worker's session broke. Whether the worker is lost is the attempt's question; its checkpoint is aborted.
    SessionLost {
        /// Which.
        worker: WorkerId,
    },
    /// A worker's part stands in storage.
    Acked(Ack),
    /// A worker will not take part in a checkpoint.
    Declined {
        /// Which.
        worker: WorkerId,
        /// The attempt that the worker runs.
        attempt: weir_protocol::Attempt,
        /// The checkpoint.
        id: CheckpointId,
        /// For people.
        reason: String,
    },
    /// A worker has published everything up to and with `id`.
    Committed {
        /// Which.
        worker: WorkerId,
        /// The attempt that the worker runs.
        attempt: weir_protocol::Attempt,
        /// The checkpoint.
        id: CheckpointId,
    },
    /// So many pre-commits of a worker wait for their commit.
    Pending {
        /// Which.
        worker: WorkerId,
        /// The attempt that the worker runs.
        attempt: weir_protocol::Attempt,
        /// How many.
        commits: u64,
    },
    /// All subtasks of a worker have reached the end of their input.
    Finished {
        /// Which.
        worker: WorkerId,
        /// The attempt that the worker runs.
        attempt: weir_protocol::Attempt,
    },
    /// Answers [`Action::CreateRecord`].
    Created {
        /// The record's slot.
        number: RecordNumber,
        /// What came of it.
        outcome: Outcome,
    },
    /// Answers [`Action::WriteStatus`].
    StatusWritten {
        /// The record that was to be named.
        record: RecordRef,
        /// What came of it.
        outcome: StatusOutcome,
    },
    /// Answers [`Action::ReadNames`].
    NamesRead {
        /// The record whose parts were read.
        record: RecordRef,
        /// What its parts name.
        names: NamesOutcome,
    },
    /// Answers [`Action::ListLeftovers`]: the paths of all objects below `parts/`, `state/` and `inputs/`; none where the list failed.
    Leftovers(Option<Vec<String>>),
    /// Answers [`Action::Look`].
    Looked {
        /// The first of them that certainly is not there.
        missing: Option<String>,
    },
    /// Answers [`Action::Remove`].
    Removed {
        /// All were carried out. False: it stopped somewhere, and is asked for again later.
        complete: bool,
    },
}

/// One worker's ack of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Who.
    pub worker: WorkerId,
    /// The attempt that the worker runs.
    pub attempt: weir_protocol::Attempt,
    /// The checkpoint.
    pub id: CheckpointId,
    /// Its part.
    pub part: PartRef,
    /// All its subtasks had reached the end of input before the barrier.
    pub finished: bool,
    /// Bytes of state that the part names.
    pub state_bytes: u64,
    /// Bytes that were uploaded for it.
    pub uploaded_bytes: u64,
    /// The version of the part.
    pub format: u32,
}

/// What came of creating an object that must not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Our bytes stand there, and the one request that was sent created them. Only this says so: after any retry below
    /// this call it is [`Outcome::Same`].
    New,
    /// Our bytes stand there; which of several requests brought them is not known, and one may still be on its way.
    Same,
    /// Other bytes stand there.
    Taken(Taken),
    /// No clear answer: it may be there, may come later, or never.
    InDoubt {
        /// For people.
        reason: String,
    },
    /// It is certain that this request created nothing and never will: no space, no permission.
    Refused {
        /// For people.
        reason: String,
    },
}

/// What stands in a slot in our record's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The term is sealed.
    Seal(Seal),
    /// Something else: another's record, or one emptied by a successor. The term is over all the same.
    Other,
}

/// What came of a status write.
///
/// The write must be conditional on the version of the resource that was read just before it (`resourceVersion`), and must
/// not happen where that names a higher [`StatusPointer::term`]: else a write that lands late could go backwards, or name a
/// record that has been deleted meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusOutcome {
    /// It stands there.
    Written,
    /// It failed, or there is no answer; it may have happened.
    InDoubt,
    /// A higher term has written already; this term's status is of no interest any more.
    Superseded,
}

/// What came of reading a record's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamesOutcome {
    /// All were read.
    Read(Arc<Names>),
    /// One of them is missing or cannot be understood; trying again will not help.
    Broken,
    /// Storage did not answer.
    Failed,
}

/// What the status is to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusPointer {
    /// The term that writes. To be kept in the status beside the record.
    pub term: Term,
    /// The newest record of the chain.
    pub record: Arc<Record>,
}

/// What is to be done. In the order given; an answer, where there is one, is an [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To every worker: `TriggerCheckpoint`.
    Trigger {
        /// The checkpoint.
        id: CheckpointId,
        /// The record whose files may be reused.
        base: Option<RecordRef>,
    },
    /// To every worker: `CancelCheckpoint`.
    Cancel {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// To one worker: `Commit`, everything up to and with `id`.
    Commit {
        /// Which.
        worker: WorkerId,
        /// The checkpoint.
        id: CheckpointId,
    },
    /// To every worker: `Hold`. Its sources read nothing, or read on.
    Hold(bool),
    /// Create the record at its own path (`record.reference().path()`), bytes by `record::encode` of `Slot::Record`. One
    /// request, without retries below it. Answer: [`Event::Created`], always.
    CreateRecord(Arc<Record>),
    /// Write `status.checkpoint`. At most one is under way. Answer: [`Event::StatusWritten`], always.
    WriteStatus(StatusPointer),
    /// Read the record's parts and tell what they name. Answer: [`Event::NamesRead`], always.
    ReadNames(Arc<Record>),
    /// List `parts/`, `state/` and `inputs/`. Answer: [`Event::Leftovers`], always.
    ListLeftovers,
    /// Remove these, one after the other in this order, and stop at the first that fails. At most one list is under way.
    /// Answer: [`Event::Removed`], always.
    Remove(Vec<Removal>),
    /// Look whether these objects are there. Answer: [`Event::Looked`], always.
    Look {
        /// Their paths.
        paths: Vec<String>,
    },
    /// An object that this term stands on was deleted by somebody. This coordinator does nothing more.
    Gone {
        /// Which.
        path: String,
    },
    /// Something to show and count.
    Note(Note),
    /// `Commit(final)` is acknowledged by all workers.
    Succeeded(RecordRef),
    /// Answers [`Event::TakeLast`].
    LastTaken(Last),
    /// The term is over: another has sealed it. This coordinator does nothing more.
    Superseded {
        /// Who sealed, where that is known.
        by: Option<String>,
    },
}

/// How the last checkpoint before a stop went.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Last {
    /// The record stands. `committed`: all workers have acknowledged its commit; else the next start repeats it.
    Taken {
        /// The record.
        record: RecordRef,
        /// See above.
        committed: bool,
    },
    /// No record; the job goes on from the one before when it is started again.
    Failed {
        /// For people.
        reason: String,
    },
}

/// Something to show, count or tell as an event of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A checkpoint was triggered.
    Triggered {
        /// Which.
        id: CheckpointId,
    },
    /// A checkpoint is complete.
    Completed {
        /// Its record.
        record: Arc<Record>,
    },
    /// A checkpoint was aborted.
    Aborted {
        /// Which.
        id: CheckpointId,
        /// Why, for people.
        reason: String,
        /// Aborted in a row up to now.
        failed: u32,
        /// More than `tolerableFailures`: Checkpointed is False until the next record.
        beyond_tolerable: bool,
    },
    /// Whether the record exists is not known; its create is repeated and nothing else is decided until it is.
    RecordInDoubt {
        /// Which.
        record: RecordRef,
        /// Why, for people.
        reason: String,
        /// Creates sent up to now.
        tries: u32,
    },
    /// Too much output waits to be published, and sources are held back.
    HeldBack {
        /// Pre-commits that wait on the worker that has the most of them.
        commits: u64,
    },
    /// They are not any more.
    LetGo,
    /// All workers have acknowledged the commit.
    Committed {
        /// Up to which checkpoint.
        id: CheckpointId,
    },
}
