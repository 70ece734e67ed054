//! What an attempt machine is told and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use weir_protocol::record::{Opening, RecordRef};
use weir_protocol::settings::FailureKind;
use weir_protocol::{Attempt, WorkerId};

use crate::coordinator::Last;

/// `spec.restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RestartPolicy {
    /// Before the first restart.
    pub initial_backoff: Duration,
    /// It doubles with each failure up to this.
    pub max_backoff: Duration,
    /// After running for so long the failures are forgotten.
    pub reset_after: Duration,
    /// More failures than these in a row end the job; none is no limit.
    pub max_failures: Option<u32>,
}

/// How many workers a job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Workers of the attempt.
    pub workers: u32,
    /// Workers that wait to take a lost one's place.
    pub standby: u32,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin, after the job was validated and planned: a new attempt. Once.
    Start,
    /// In place of [`Event::Start`], where a controller comes to a running job: the workers of the running attempt, in slot
    /// order, all of which the platform has found. Each is to say by [`Event::WorkerReady`] what it runs; if one is lost or
    /// runs something else, a new attempt begins.
    Resume {
        /// The workers.
        workers: Vec<WorkerId>,
    },
    /// Time has passed. To be sent at [`super::AttemptMachine::next_wake`]; more often does no harm.
    Tick,
    /// `spec.restart` changed.
    Configure(RestartPolicy),
    /// A worker process is up and welcomes us, or its session was opened anew in a later term.
    WorkerReady {
        /// Which.
        worker: WorkerId,
        /// What it says it runs; `Attempt(0)` for nothing.
        attempt: Attempt,
    },
    /// A worker could not be started, or ended before it was ready.
    StartFailed {
        /// For people.
        reason: String,
    },
    /// A worker is gone: its process ended, or its session broke and could not be opened again at once.
    WorkerLost {
        /// Which.
        worker: WorkerId,
        /// For people.
        cause: String,
    },
    /// Answers [`Action::TakeOver`]: the opening stands.
    TakenOver {
        /// It.
        opening: Arc<Opening>,
    },
    /// Answers [`Action::TakeOver`]: storage did not answer. It is asked for again after a while.
    TakeOverFailed {
        /// For people.
        reason: String,
    },
    /// Answers [`Action::TakeOver`]: it must not be taken over (`takeover::Refusal`).
    TakeOverRefused {
        /// For people.
        reason: String,
    },
    /// A worker has the attempt's subtasks restored and waiting.
    Deployed {
        /// Which.
        worker: WorkerId,
        /// The attempt that it deployed.
        attempt: Attempt,
    },
    /// A task failed.
    TaskFailed(Failure),
    /// The coordinator says that `Commit(final)` is acknowledged by all.
    Succeeded(RecordRef),
    /// The coordinator met a seal, or a takeover was lost: another coordinates this job.
    Superseded {
        /// Who, where that is known.
        by: Option<String>,
    },
    /// End the job's processes: a user's Ctrl-C, `suspend`, deletion.
    Stop {
        /// Take a last checkpoint first.
        last_checkpoint: bool,
    },
    /// Answers [`Action::TakeLast`].
    LastTaken(Last),
}

/// A task's failure, as its worker tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// Which worker.
    pub worker: WorkerId,
    /// The attempt that it runs.
    pub attempt: Attempt,
    /// The operator, by identity; empty where none is the cause.
    pub operator: String,
    /// Which subtask.
    pub subtask: u32,
    /// What kind of failure. A worker's `fatal` with an unknown word is [`FailureKind::Plan`].
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

/// What is to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start one more worker process. Answer: [`Event::WorkerReady`] or [`Event::StartFailed`].
    StartWorker,
    /// Seal the newest term and open the next (`takeover::decide`). `resume`: over the same attempt.
    /// Answer: [`Event::TakenOver`], [`Event::TakeOverFailed`], [`Event::TakeOverRefused`] or [`Event::Superseded`].
    TakeOver {
        /// See `takeover::Request::resume`.
        resume: bool,
    },
    /// Forget the coordinator: it triggers nothing more. What it has under way at storage may still happen.
    DropCoordinator,
    /// Put the opening's attempt on these workers, in slot order (`Deploy`), each restoring what the opening names.
    /// Answer: [`Event::Deployed`] or [`Event::TaskFailed`] of each.
    Deploy {
        /// The opening.
        opening: Arc<Opening>,
        /// The workers; the i-th has the slots `i * opening.slots ..`.
        workers: Vec<WorkerId>,
    },
    /// All are deployed, or go on: start the coordinator over these workers (`coordinator::Start`), and after it, unless
    /// `resumed`, send `Run` to all.
    Run {
        /// The opening.
        opening: Arc<Opening>,
        /// The workers in slot order.
        workers: Vec<WorkerId>,
        /// They have been running all the time.
        resumed: bool,
    },
    /// Give [`crate::coordinator::Event::TakeLast`] to the coordinator.
    TakeLast,
    /// End this worker: `Stop`, and the platform ends the process if it does not go.
    StopWorker {
        /// Which.
        worker: WorkerId,
    },
    /// Something to show and to tell as an event of the job.
    Note(Note),
    /// It is over; no further action follows. All ready workers have been told to stop before, except where another
    /// coordinates the job now: then they are not ours to stop, unless they are this process's own children.
    Ended(End),
}

/// Something to show or tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A worker was lost.
    WorkerLost {
        /// Which.
        worker: WorkerId,
        /// For people.
        cause: String,
        /// The slot position that it held; none for a standby.
        position: Option<u32>,
    },
    /// A stream between two workers broke. Whose fault that is, is told in a moment: by [`Note::WorkerLost`], or else by
    /// [`Note::TaskFailed`].
    PeerLost,
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
        /// For people.
        reason: String,
    },
    /// The takeover did not get through; tried again.
    TakeOverFailed {
        /// For people.
        reason: String,
    },
    /// All workers have been told to deploy.
    Deploying {
        /// Which attempt.
        attempt: Attempt,
    },
    /// All workers run.
    Running {
        /// Which attempt.
        attempt: Attempt,
        /// Without having stopped.
        resumed: bool,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// All input was read, and all output is committed.
    Succeeded(RecordRef),
    /// As asked for. What came of the last checkpoint, if one was asked for and one was possible.
    Stopped(Option<Last>),
    /// A failure that a restart cannot mend, or too many in a row.
    Failed {
        /// The failure.
        failure: Option<Failure>,
        /// For people.
        reason: String,
    },
    /// It must not be taken over.
    Refused {
        /// For people.
        reason: String,
    },
    /// Another coordinates this job.
    Superseded {
        /// Who, where that is known.
        by: Option<String>,
    },
}
