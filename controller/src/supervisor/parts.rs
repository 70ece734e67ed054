//! What a supervisor is made of, how it is told what to do, and how it ends.

use tokio::sync::mpsc;
use weir_storage::JobStore;

use crate::{
    attempt,
    facts::observer::Observer,
    job::{Job, Live},
    platform::{Platform, PlatformEvent},
    takeover::{Refusal, Restore},
    workers::wire::SessionTls,
};

/// What a supervisor is made of.
pub struct Parts {
    /// The job.
    pub job: Job,
    /// Its plan's fingerprint. None: the supervisor starts the workers and asks the first of them for the plan, before
    /// anything is written to storage.
    pub fingerprint: Option<String>,
    /// A name for this process that no other ever has.
    pub coordinator: String,
    /// The uid of the cluster; `local` on this machine.
    pub cluster: String,
    /// The uid of the StreamJob; of the state folder on this machine.
    pub owner: String,
    /// What the first attempt restores.
    pub restore: Restore,
    /// Take over even where another owner's opening stands.
    pub adopt: bool,
    /// The resource's wish that these two come from. It acts once, which its opening in storage says.
    pub wish: Option<String>,
    /// Give up output that is lost.
    pub accept_lost_output: bool,
    /// The platform tells first which workers there are already (`PlatformEvent::Found`): an attempt that runs on them goes
    /// on, without a restart, where all its workers are there. Without any worker this is a start like every other.
    pub resume: bool,
    /// Checkpoints that have failed since the newest that completed, under whoever coordinated the job before.
    pub failed: u32,
    /// The version in which openings, records and parts are written. What runs already goes on in its own until its next attempt.
    pub format: u32,
    /// Its objects.
    pub store: JobStore,
    /// Where workers come from, and what is told of them.
    pub platform: Box<dyn Platform>,
    /// See `platform`.
    pub platform_events: mpsc::Receiver<PlatformEvent>,
    /// What to do. Where all senders are gone the job just runs on.
    pub control: mpsc::Receiver<Control>,
    /// Is told what happens.
    pub observer: Box<dyn Observer>,
    /// How workers' gRPC is reached; none is plain text, on this machine only.
    pub tls: Option<SessionTls>,
}

/// What a supervisor is told to do while the job runs.
#[derive(Clone, Debug)]
pub enum Control {
    /// End the job's processes: Ctrl-C, `suspend`, deletion.
    Stop {
        /// Take a last checkpoint first.
        last_checkpoint: bool,
        /// For people: who or what asked.
        why: String,
    },
    /// End the job's processes at once. The next start goes on from the newest checkpoint.
    Kill,
    /// Stop supervising and touch nothing: the workers run on, for another controller to take over. For a leader whose lease
    /// runs out, and for one that is told to go.
    Leave,
    /// Take one checkpoint now. `Fact::Requested` tells how it went, with this text; it is taken as soon as it can be, be it in the
    /// next attempt.
    Checkpoint(String),
    /// Change what changes without a new attempt.
    Configure(Live),
    /// Another size, another script, another image: from a last checkpoint on, a new attempt is made with this. Where it is
    /// refused (`Fact::ChangeRefused`) the job goes on as it was. What of it changes live, changes at once.
    Change(Box<Change>),
    /// From now on workers are reached with this.
    Tls(SessionTls),
}

/// Another version of the job.
#[derive(Clone, Debug)]
pub struct Change {
    /// The whole job, as it is to be.
    pub job: Job,
    /// Its plan's fingerprint, where it is known; else a worker of the new version is asked for the plan first.
    pub fingerprint: Option<String>,
    /// It begins with empty state, once.
    pub empty: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All input was read, and all output is published.
    Succeeded,
    /// Stopped as asked; the next run goes on from the newest checkpoint.
    Stopped,
    /// Stopped as asked, but the last checkpoint could not be taken: the next run goes on from the one before.
    StoppedWithoutCheckpoint(String),
    /// Stopped at once.
    Killed,
    /// Let go of, as asked: the workers run on.
    Left,
    /// The job failed.
    Failed(attempt::Failure),
    /// The job was given up.
    GivenUp(String),
    /// The storage must not be taken over.
    Refused(Option<Refusal>, String),
    /// Another coordinates the job now.
    Superseded(Option<String>),
    /// No worker can be started here.
    NoWorkers(String),
    /// The supervisor's own code panicked. Where workers outlive it they run on, for the next one to take over.
    Panicked(String),
}
