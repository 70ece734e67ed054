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

/// A version of the job: what an attempt is made of, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Tells one from another; from 1.
    pub number: u64,
    /// How many workers.
    pub size: Size,
    /// The hash of what they are made from.
    pub template: String,
    /// Its script is planned, and the fingerprint known.
    pub planned: bool,
}

/// What came of asking a worker for a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// There is one.
    Fits {
        /// It is what the attempt that runs was made with: script, size and settings.
        same: bool,
    },
    /// There is none; asking another worker would not help.
    Refused {
        /// Why.
        failure: Failure,
    },
    /// The worker did not answer.
    Unreachable,
    /// Planning crashed, or took too long. That may be the machine's fault once or twice.
    Crashed {
        /// Why, for people.
        reason: String,
    },
}

/// What is in the way of a worker that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blocked {
    /// It would come if another went.
    pub room: bool,
    /// For people.
    pub reason: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin: a new attempt. Once.
    Start,
    /// In place of [`Event::Start`], where a controller comes to a running job. Each worker that the platform has found is to
    /// say by [`Event::WorkerReady`] what it runs, in the term that is opened now; where one of the attempt's is missing, a
    /// new attempt begins.
    Resume {
        /// What the workers that were found are made from, one for each.
        found: Vec<String>,
    },
    /// Time has passed. To be sent at [`super::AttemptMachine::next_wake`]; more often does no harm.
    Tick,
    /// `spec.restart` changed.
    Configure(RestartPolicy),
    /// So many workers are to wait to take a lost one's place.
    Standby(u32),
    /// Another version is wanted.
    Change {
        /// It.
        version: Version,
        /// Where it is planned: see [`Planned::Fits`].
        same: bool,
    },
    /// Answers [`Action::Plan`].
    Planned {
        /// The version that was planned.
        version: u64,
        /// What came of it.
        planned: Planned,
    },
    /// A worker process is up and welcomes us, or its session was opened anew in a later term.
    WorkerReady {
        /// Which.
        worker: WorkerId,
        /// What it says it runs; `Attempt(0)` for nothing.
        attempt: Attempt,
        /// That attempt is still being restored there, and [`Event::Deployed`] follows.
        deploying: bool,
        /// What it is made from.
        template: String,
    },
    /// What is in the way of workers that were asked for has changed.
    Blocked {
        /// What they are made from.
        template: String,
        /// None: nothing any more.
        by: Option<Blocked>,
    },
    /// A worker was told to go by somebody else. It works on for a while.
    WorkerLeaving {
        /// Which.
        worker: WorkerId,
    },
    /// A worker could not be started, or ended before it was ready.
    StartFailed {
        /// What it is made from.
        template: String,
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
        /// Where the attempt is resumed: its workers in slot order, as far as that is known.
        order: Vec<WorkerId>,
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
    /// What the job stands on in storage was deleted.
    StorageGone {
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

impl Failure {
    /// In one line.
    pub fn in_words(&self) -> String {
        if self.operator.is_empty() {
            return self.message.clone();
        }
        format!("{}, subtask {}: {}", self.operator, self.subtask, self.message)
    }
}

/// What is to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start one more worker process. Answer: [`Event::WorkerReady`] or [`Event::StartFailed`].
    StartWorker {
        /// For an attempt of this version.
        version: u64,
    },
    /// End so many of the processes that were asked for and are not ready, the newest first. Nothing is to be told of them.
    AbandonStarts {
        /// What they are made from.
        template: String,
        /// How many.
        count: u32,
    },
    /// Ask a worker for the plan. Answer: [`Event::Planned`].
    Plan {
        /// Which worker.
        worker: WorkerId,
        /// Of this version.
        version: u64,
    },
    /// Seal the newest term and open the next (`takeover::decide`). `resume`: over the same attempt.
    /// Answer: [`Event::TakenOver`], [`Event::TakeOverFailed`], [`Event::TakeOverRefused`] or [`Event::Superseded`].
    TakeOver {
        /// See `takeover::Request::resume`.
        resume: bool,
        /// What the attempt is to be made of. An attempt that is resumed is what it is.
        version: u64,
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
        /// What the attempt is made of.
        version: u64,
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
    /// Give [`crate::coordinator::Event::CarryOn`] to the coordinator.
    CarryOn,
    /// Give [`crate::coordinator::Event::TriggerNow`] to the coordinator.
    Checkpoint,
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
        /// What it is made of; 0 where that is not known, since another controller began it.
        version: u64,
    },
    /// A change, or a worker's place that is to be handed over, waits; the job runs on.
    ChangeWaits {
        /// What is wanted.
        version: u64,
        /// For people.
        reason: String,
    },
    /// All that the next attempt needs is there: a last checkpoint is taken.
    HandingOver {
        /// What is wanted.
        version: u64,
    },
    /// It was taken, or given up, and the next attempt begins.
    HandedOver,
    /// What is wanted is what runs.
    Applied {
        /// What is wanted.
        version: u64,
    },
    /// A version cannot be; the job goes on, or goes back, to what ran before.
    ChangeRefused {
        /// Which.
        version: u64,
        /// For people.
        reason: String,
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
