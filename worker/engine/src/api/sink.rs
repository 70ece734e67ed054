//! What a sink is: transactions cut by checkpoints and published by their records. Two phases.
//!
//! `write` gathers rows; `prepare` cuts the transaction at a checkpoint and answers with pending commits, which stand in the
//! part; `Committer::commit` publishes them once the record exists, from any subtask of any worker, as often as it is told.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use weir_protocol::{Attempt, CheckpointId, JobName, WorkerId};

use crate::api::batch::Batch;
use crate::api::counters::Counters;
use crate::api::error::SinkError;

/// Makes a sink's subtasks, and what publishes their output.
pub trait SinkFactory: Send + Sync {
    /// Called once a subtask and attempt, on the subtask's thread.
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError>;

    /// What publishes pending commits; made once a worker and attempt.
    fn committer(&self, ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError>;
}

/// Which run of a job writes: its attempts are numbered one after the other, and no other run's are compared with them. Two jobs of
/// one name, in two clusters or on two machines, may write to one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputOwner {
    /// The uid of the StreamJob, or of the state folder. Empty from a controller of an older build: then nobody can tell
    /// what is this run's own, and nothing may be dropped.
    pub uid: String,
    /// The uid of the cluster; `local` for `weir run`.
    pub cluster: String,
    /// Where the checkpoints are, in which the attempts are numbered.
    pub storage: String,
}

/// What a committer is told of whom it works for: it may only drop what this job's older attempts left.
#[derive(Clone, Debug)]
pub struct CommitContext {
    /// Whose output it is.
    pub job: JobName,
    /// Which of all jobs of this name.
    pub owner: OutputOwner,
    /// The attempt that is starting.
    pub attempt: Attempt,
    /// The sink's identity in the graph: two sinks of one job may write to one place.
    pub sink: String,
}

/// What a sink is given at its start.
pub struct SinkContext {
    /// Whose output it is.
    pub job: JobName,
    /// Which of all jobs of this name.
    pub owner: OutputOwner,
    /// The sink's identity in the graph.
    pub sink: String,
    /// The attempt.
    pub attempt: Attempt,
    /// The worker; with attempt and subtask it makes names that nobody else makes.
    pub worker: WorkerId,
    /// Which subtask this is.
    pub subtask: u32,
    /// Subtasks a stage.
    pub parallelism: u32,
    /// What the subtask counts.
    pub counters: Arc<Counters>,
    /// Where a sink's own I/O runs.
    pub runtime: tokio::runtime::Handle,
    /// Cancelled when the attempt is stopped: a sink that waits for storage waits no longer, or its process is ended.
    pub stopped: CancellationToken,
}

/// The part of a pre-commit that can run beside processing: fsync, completing uploads. Gives the pending commits.
pub type PrepareJob = Box<dyn FnOnce() -> Result<Vec<serde_json::Value>, SinkError> + Send>;

/// One parallel instance of a sink. All calls come from one thread.
pub trait Sink: Send {
    /// Adds rows to the open transaction.
    fn write(&mut self, batch: Batch) -> Result<(), SinkError>;

    /// Cuts the transaction at checkpoint `id`: all rows written so far belong before it. Only what cannot run beside
    /// processing happens here; the rest is in the returned job, which runs beside processing and whose answer is
    /// self-contained, with names fixed. The jobs of one sink run in the order of the checkpoints. A checkpoint that fails does
    /// not undo its cut: its pending commits stay pending in every later part until a commit covers them.
    fn prepare(&mut self, id: CheckpointId) -> Result<PrepareJob, SinkError>;
}

/// Publishes pending commits.
///
/// Whoever carries out a commit leaves a durable mark of it: the same commit comes again after every restore, when a reader may long have
/// taken away what was published. Without a mark, what is neither unfinished nor published was lost by somebody else's doing.
#[async_trait]
pub trait Committer: Send + Sync {
    /// Makes visible what these name. Idempotent: a second or a late one changes nothing. All are tried, whatever becomes of
    /// one. What cannot be published any more is an error of the kind [`OutputLost`](weir_protocol::settings::FailureKind::OutputLost)
    /// that names it, and is not tried again; it may only be answered once all else is published or has failed.
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError>;

    /// After a restore: drops what this job left unfinished that belongs to none of `keep`, the pending commits of the
    /// record restored. Called before any subtask of the new attempt writes.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError>;

    /// A record stands that does not carry these any more, since their commit was carried out: no restore brings them
    /// again, and what marks them may go. What cannot be removed is left behind.
    async fn forget(&self, _published: &[serde_json::Value]) {}

    /// Whether this would be able to carry out a pending commit of a sink that is not in the plan any more.
    fn understands(&self, _pending: &serde_json::Value) -> bool {
        false
    }
}
