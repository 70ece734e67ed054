//! Persisting beside processing: a few threads that write frozen state, upload it, and finish sinks' transactions.
//!
//! A subtask's jobs always run on the same thread, so that they keep the order of their checkpoints: a later snapshot builds
//! on what an earlier one has written, and a sink's transactions are finished one after the other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_channel::{Sender, unbounded};
use weir_protocol::{
    CheckpointId, SubtaskIndex,
    part::{Item, KeyedSnapshot, OperatorPart, SubtaskPart},
    settings::FailureKind,
};
use weir_state::{Persist, PersistStats, SubtaskState, Uploader};

use crate::{
    failure::{Failure, chain},
    graph::StageId,
    restore::PendingCommit,
    seam::SubtaskSnapshot,
};

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end with the pool, after the jobs that they have been given.
pub struct PersistPool {
    queues: Vec<Sender<Job>>,
}

impl PersistPool {
    /// More threads would only compete with processing; the uploads of one job run side by side anyway.
    const MOST_THREADS: usize = 4;

    /// For so many subtasks.
    pub fn new(subtasks: usize) -> std::io::Result<Self> {
        let queues = (0..subtasks.clamp(1, Self::MOST_THREADS))
            .map(|i| {
                // What waits here is bounded by the subtasks: each has one checkpoint under way, and those that were cancelled.
                let (queue, jobs) = unbounded::<Job>();
                std::thread::Builder::new()
                    .name(format!("persist-{i}"))
                    .spawn(move || jobs.iter().for_each(|job| job()))?;
                Ok(queue)
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { queues })
    }

    /// Runs a job after all earlier ones of the same subtask.
    pub fn submit(&self, subtask: usize, job: impl FnOnce() + Send + 'static) {
        // A thread that is gone has panicked in a job; then its checkpoints are never acked, and the coordinator gives up.
        drop(self.queues[subtask % self.queues.len()].send(Box::new(job)));
    }
}

/// Checkpoints up to this id are not wanted any more. Shared with the jobs that are under way.
#[derive(Clone, Debug, Default)]
pub struct Cancelled(Arc<AtomicU64>);

impl Cancelled {
    /// Gives up checkpoint `id` and every older one.
    pub fn up_to(&self, id: CheckpointId) {
        self.0.fetch_max(id.0, Ordering::AcqRel);
    }

    /// Whether a checkpoint has been given up.
    pub fn contains(&self, id: CheckpointId) -> bool {
        id.0 <= self.0.load(Ordering::Acquire)
    }
}

/// One subtask's share of one checkpoint, to be persisted.
pub struct PersistSubtask {
    /// Its stage in the plan.
    pub stage: StageId,
    /// The stage's identity.
    pub identity: String,
    /// The operators that have an entry in the part, if only an empty one: a later restore holds them against its plan.
    pub keepers: Vec<String>,
    /// Which subtask.
    pub subtask: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// What it froze.
    pub snapshot: SubtaskSnapshot,
    /// Its keyed state.
    pub state: Option<SubtaskState>,
    /// Its snapshot in the base record.
    pub base: Option<KeyedSnapshot>,
    /// Names and uploads files.
    pub uploader: Arc<Uploader>,
    /// What is not wanted any more.
    pub cancelled: Cancelled,
}

/// A subtask's share of a part, and what it took.
pub struct SubtaskDone {
    /// Without pending commits: those are the worker's.
    pub part: SubtaskPart,
    /// Bytes and times of the keyed state.
    pub stats: PersistStats,
    /// How long processing stood still, in microseconds.
    pub pause_us: u64,
    /// From the first barrier to the last, in microseconds.
    pub align_us: u64,
}

/// What became of one [`PersistSubtask`].
pub struct Persisted {
    /// Its stage.
    pub stage: StageId,
    /// Which subtask.
    pub subtask: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The sink's transaction, whatever became of the checkpoint. A failure here is one of the attempt: rows would be lost.
    pub commits: Result<Vec<(String, PendingCommit)>, Failure>,
    /// `Err` says why the checkpoint is declined.
    pub outcome: Result<SubtaskDone, String>,
}

impl PersistSubtask {
    /// Like [`Self::run`]. A panic in a sink's or backend's code fails the attempt: a checkpoint that is never answered would
    /// only be seen by its timeout, again and again.
    pub fn run_caught(self) -> Persisted {
        let (stage, subtask, id, identity) = (self.stage, self.subtask, self.id, self.identity.clone());
        catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|_| {
            let message = format!("persisting subtask {subtask} of stage `{identity}` panicked; the log has the place");
            let failure = Failure { subtask, ..Failure::new(FailureKind::Operator, message.clone()) };
            Persisted { stage, subtask, id, commits: Err(failure), outcome: Err(message) }
        })
    }

    /// Blocks until all is durable.
    pub fn run(mut self) -> Persisted {
        let commits = self.finish_transaction();
        let outcome = if self.cancelled.contains(self.id) {
            // Dropping what was frozen hands it back: it is written with the next checkpoint.
            self.snapshot.frozen.clear();
            Err("it was cancelled".to_string())
        } else {
            self.persist_state()
        };
        Persisted { stage: self.stage, subtask: self.subtask, id: self.id, commits, outcome }
    }

    fn finish_transaction(&mut self) -> Result<Vec<(String, PendingCommit)>, Failure> {
        let Some(prepared) = self.snapshot.prepared.take() else { return Ok(Vec::new()) };
        let operator = prepared.operator;
        let values = (prepared.job)().map_err(|error| Failure {
            kind: error.kind,
            operator: operator.clone(),
            subtask: self.subtask,
            message: chain(&error),
        })?;
        let pending = |value| (operator.clone(), PendingCommit { checkpoint: self.id, value });
        Ok(values.into_iter().map(pending).collect())
    }

    fn persist_state(&mut self) -> Result<SubtaskDone, String> {
        let frozen = std::mem::take(&mut self.snapshot.frozen);
        let (keyed, stats) = match &self.state {
            None => (None, PersistStats::default()),
            Some(state) => {
                let orders = Persist { id: self.id, base: self.base.take(), uploader: Arc::clone(&self.uploader) };
                let (mut keyed, stats) = state.persist(frozen, &orders).map_err(|error| {
                    format!("subtask {} of stage `{}`: {}", self.subtask, self.identity, chain(&error))
                })?;
                keyed.key_group_watermarks = std::mem::take(&mut self.snapshot.key_group_watermarks);
                (Some(keyed), stats)
            }
        };
        let part = SubtaskPart {
            stage: self.identity.clone(),
            subtask: SubtaskIndex(self.subtask),
            finished: self.snapshot.finished,
            watermark_ms: self.snapshot.watermark,
            keyed,
            operators: self.operators(),
            channel_state: Vec::new(),
        };
        Ok(SubtaskDone {
            part,
            stats,
            pause_us: self.snapshot.pause.as_micros() as u64,
            align_us: self.snapshot.align.as_micros() as u64,
        })
    }

    fn operators(&mut self) -> Vec<OperatorPart> {
        let empty = |operator: &String| OperatorPart { operator: operator.clone(), items: Vec::new() };
        let mut parts: Vec<OperatorPart> = self.keepers.iter().map(empty).collect();
        for (operator, items) in std::mem::take(&mut self.snapshot.items) {
            add_items(&mut parts, &operator, items);
        }
        parts
    }
}

/// Adds items to an operator's entry, which is made if there is none.
pub(crate) fn add_items(parts: &mut Vec<OperatorPart>, operator: &str, items: Vec<Item>) {
    match parts.iter_mut().find(|part| part.operator == operator) {
        Some(part) => part.items.extend(items),
        None if items.is_empty() => {}
        None => parts.push(OperatorPart { operator: operator.to_string(), items }),
    }
}
