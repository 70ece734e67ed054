//! What happens to a job, as facts: the supervisor states each once, and whoever has to do with the job is told of it.
//!
//! How a fact is told, as a line for people, as an event in a cluster, or as a line for programs, stands in one table
//! ([`telling`]); what it changes in a job's status is `cluster/status.rs`'s.

pub mod history;
pub mod observer;
pub mod recovery;
pub mod telling;
pub mod told;
pub mod why;

use std::{sync::Arc, time::Duration};

use weir_protocol::{
    Attempt, CheckpointId, WorkerId,
    record::{Opening, Record, RecordRef},
};

use self::{recovery::Breakdown, why::Why};
use crate::{
    attempt::{End, Failure},
    platform::{Obstacle, ProcessNumber, Trouble},
    ui::WorkerView,
};

/// A record that was in doubt so often is worth telling of: storage that answered late once is not.
pub const DOUBTS: u32 = 2;

/// Something that happened to a job. [`Fact::telling`] says how it is told.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A term is ours. Whatever a user wished to restore is written down in its opening, and the wish has acted.
    TermOpened {
        /// The opening.
        opening: Arc<Opening>,
        /// The record that it restores, or that a resumed attempt has taken last.
        restored: Option<Arc<Record>>,
        /// Why a term was opened.
        why: Why,
    },
    /// Which processes there are has changed, or what they do.
    Workers(Vec<WorkerView>),
    /// A worker that was asked for does not come yet.
    WorkerWaits {
        /// Which.
        process: ProcessNumber,
        /// Why; none: nothing is in its way any more.
        obstacle: Option<Obstacle>,
    },
    /// Something that the user has put beside a worker does not run as it should, or does again.
    Beside {
        /// What is wrong with one of them.
        trouble: Option<Trouble>,
    },
    /// A worker was told to go by somebody else; its place is handed over.
    WorkerLeaves {
        /// How people call it.
        name: String,
        /// Why.
        reason: String,
    },
    /// So much output waits to be published that sources are held back, or it does not any more.
    HeldBack {
        /// Pre-commits that wait on the worker that has the most of them; none where sources read on.
        waiting: Option<u64>,
    },
    /// Workers cannot publish the output of completed checkpoints, and try again; or can again.
    Publishing {
        /// Why one of them cannot.
        failure: Option<String>,
    },
    /// A worker was lost.
    WorkerLost {
        /// Which.
        worker: WorkerId,
        /// How people call it.
        name: String,
        /// Why.
        cause: String,
        /// The slot position that it held; none for a standby.
        position: Option<u32>,
    },
    /// A worker that was lost has ended, and this is how: its connection breaks before it is known why.
    WorkerEnded {
        /// How people call it.
        name: String,
        /// By which signal, or with which code; that it used too much memory.
        how: String,
    },
    /// A task failed.
    TaskFailed(Failure),
    /// The next attempt begins after this time; zero is at once.
    Restarting {
        /// How long.
        after: Duration,
        /// The failures in a row that this back-off stands for; 0 where none counted.
        failures: u32,
    },
    /// A worker could not be started; tried again.
    StartFailed {
        /// Why.
        reason: String,
    },
    /// Storage did not answer a takeover; tried again.
    TakeOverFailed {
        /// Why.
        reason: String,
    },
    /// All workers have been told to deploy.
    Deploying {
        /// Which attempt.
        attempt: Attempt,
        /// Workers of the attempt.
        workers: u32,
        /// Slots a worker.
        slots: u32,
    },
    /// All workers run.
    Running {
        /// Which attempt.
        attempt: Attempt,
        /// The generation of the job that it runs; none where an attempt was resumed that runs another than the wanted one.
        generation: Option<i64>,
        /// Without having stopped.
        resumed: bool,
        /// What the time since the start or the failure was spent on.
        recovery: Option<Breakdown>,
    },
    /// The first row of an attempt has left a sink.
    FirstOutput(Breakdown),
    /// A checkpoint is complete.
    Completed {
        /// Its record.
        record: Arc<Record>,
        /// The longest pause of processing, where known.
        pause: Option<Duration>,
    },
    /// A checkpoint was aborted.
    Aborted {
        /// Which.
        id: CheckpointId,
        /// Why.
        reason: String,
        /// Aborted in a row up to now.
        failed: u32,
        /// More than `tolerableFailures`.
        beyond_tolerable: bool,
    },
    /// A checkpoint that somebody has asked for is complete, or has failed.
    Requested {
        /// By what it was asked for.
        value: String,
        /// Which one has served.
        id: CheckpointId,
        /// Why it failed; none where it is complete.
        failure: Option<String>,
    },
    /// Whether a record exists is not known; nothing else is decided until it is.
    RecordInDoubt {
        /// Which.
        record: RecordRef,
        /// Why.
        reason: String,
        /// Creates sent up to now.
        tries: u32,
    },
    /// Storage was asked whether it answers, since a checkpoint is late or has failed: it does not, or does again.
    Storage {
        /// The call that failed, and how.
        failure: Option<String>,
    },
    /// All workers have published everything up to this checkpoint.
    Committed {
        /// Which.
        id: CheckpointId,
    },
    /// A script is planned, before anything of a running attempt is touched.
    Planned {
        /// The generation of the job that it belongs to.
        generation: i64,
        /// The plan's fingerprint.
        fingerprint: String,
        /// What is to be said of it, in sentences: state that grows without bound.
        warnings: Vec<String>,
    },
    /// A change is being prepared, or waits: for new workers, or for a checkpoint. The job runs on meanwhile.
    ChangeWaits {
        /// The generation of the job that is wanted.
        generation: i64,
        /// For what.
        reason: String,
    },
    /// All that a change needs is there: a last checkpoint is taken, then the next attempt begins. Also where a worker that
    /// leaves is replaced.
    HandingOver {
        /// The generation of the job that is wanted.
        generation: i64,
    },
    /// What was asked for holds now without a new attempt, or is what runs already.
    ChangeApplied {
        /// The generation of the job.
        generation: i64,
    },
    /// The last checkpoint before the next attempt was taken, or given up: from now on nothing runs until the next attempt does.
    HandedOver,
    /// A change cannot be: its script does not plan, or the state does not fit it. The job runs on, or again, as it was.
    ChangeRefused {
        /// The generation of the job that was wanted.
        generation: i64,
        /// Why.
        reason: String,
    },
    /// A stop was asked for.
    Stopping {
        /// By whom or what.
        why: String,
        /// A last checkpoint is taken first.
        last_checkpoint: bool,
    },
    /// An end without any delay was asked for.
    Killed,
    /// It is over. `Outcome` says the same to the caller.
    Ended(End),
    /// A line that a worker printed for people.
    Printed {
        /// Which.
        process: ProcessNumber,
        /// The line.
        line: String,
    },
}
