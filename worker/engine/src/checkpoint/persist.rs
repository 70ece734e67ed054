//! Persisting beside processing: a few threads that write frozen state and upload it, and a few that finish sinks'
//! transactions.
//!
//! A subtask's jobs always run on the same thread, so that they keep the order of their checkpoints: a later snapshot builds
//! on what an earlier one has written, and a sink's transactions are finished one after the other. State comes first, and
//! waits for no transaction: what a sink writes to may be away for as long as it likes, and what is frozen has to make room.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Sender, unbounded};
use weir_protocol::{
    CheckpointId, SubtaskIndex,
    part::{EventTime, Item, KeyedSnapshot, OperatorPart, SubtaskPart},
};
use weir_runtime::clock;
use weir_state::{Persist, PersistStats, SubtaskState, Uploader};

use crate::{
    api::{
        failure::{Failure, chain},
        graph::StageId,
    },
    restore::deal::PendingCommit,
    seam::{Prepared, Reached, SubtaskSnapshot},
};

type Job = Box<dyn FnOnce() + Send>;

/// The threads that persist subtasks. They end with it, after the jobs that they have been given.
pub struct PersistPool {
    state: Threads,
    transactions: Threads,
}

impl PersistPool {
    /// For so many subtasks.
    pub fn new(subtasks: usize) -> std::io::Result<Self> {
        Ok(Self { state: Threads::new("persist", subtasks)?, transactions: Threads::new("prepare", subtasks)? })
    }

    /// Persists a subtask after all that was submitted for it earlier, and calls `done` in the same order.
    pub fn submit(&self, subtask: usize, work: PersistSubtask, done: impl FnOnce(Persisted) + Send + 'static) {
        let transactions = self.transactions.clone();
        self.state.submit(subtask, move || {
            let stored = work.store_caught();
            transactions.submit(subtask, move || done(stored.prepare_caught()));
        });
    }
}

/// A queue for each of a few threads.
#[derive(Clone)]
struct Threads {
    queues: Vec<Sender<Job>>,
}

impl Threads {
    /// More threads would only compete with processing; the uploads of one job run side by side anyway.
    const MOST_THREADS: usize = 4;

    fn new(name: &str, subtasks: usize) -> std::io::Result<Self> {
        let queues = (0..subtasks.clamp(1, Self::MOST_THREADS))
            .map(|i| {
                // What waits here is bounded: no checkpoint begins while two before it are unfinished.
                let (queue, jobs) = unbounded::<Job>();
                std::thread::Builder::new()
                    .name(format!("{name}-{i}"))
                    .spawn(move || jobs.iter().for_each(|job| job()))?;
                Ok(queue)
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { queues })
    }

    /// Runs a job after all earlier ones of the same subtask.
    fn submit(&self, subtask: usize, job: impl FnOnce() + Send + 'static) {
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
    /// What the sink took to finish its transaction.
    pub prepare: Duration,
    /// How long processing stood still.
    pub pause: Duration,
    /// From the first barrier to the last.
    pub align: Duration,
}

impl SubtaskDone {
    /// What writing state to the backend and taking its snapshot took.
    pub fn persist(&self) -> Duration {
        Duration::from_millis(self.stats.write_ms + self.stats.snapshot_ms)
    }

    /// From its first barrier until it was durable, but for waiting its turn.
    pub fn took(&self) -> Duration {
        self.align + self.pause + self.persist() + self.upload()
    }

    /// What uploading the snapshot and finishing the sink's transaction took.
    pub fn upload(&self) -> Duration {
        Duration::from_millis(self.stats.upload_ms) + self.prepare
    }
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
    /// [`Self::store`]. A panic in a backend's code fails the attempt: the transaction that the sink has cut goes with it.
    fn store_caught(self) -> Stored {
        let whose = self.whose();
        catch_unwind(AssertUnwindSafe(|| self.store())).unwrap_or_else(|panic| {
            let failure = whose.panicked("persisting", &*panic);
            Stored { outcome: Err(failure.message.clone()), transaction: Err(failure), whose }
        })
    }

    /// Blocks until the state is durable.
    fn store(mut self) -> Stored {
        let transaction = Ok(self.snapshot.prepared.take());
        let outcome = if self.cancelled.contains(self.id) {
            // Dropping what was frozen hands it back: it is written with the next checkpoint.
            self.snapshot.frozen.clear();
            Err("it was cancelled".to_string())
        } else {
            self.persist_state()
        };
        Stored { whose: self.whose(), transaction, outcome }
    }

    fn whose(&self) -> Whose {
        Whose { stage: self.stage, identity: self.identity.clone(), subtask: self.subtask, id: self.id }
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
                keyed.key_group_watermarks = std::mem::take(&mut self.snapshot.event_time.key_groups);
                (Some(keyed), stats)
            }
        };
        let part = SubtaskPart {
            stage: self.identity.clone(),
            subtask: SubtaskIndex(self.subtask),
            finished: self.snapshot.finished,
            watermark_ms: self.snapshot.event_time.watermark,
            keyed,
            operators: self.operators(),
            channel_state: Vec::new(),
        };
        Ok(SubtaskDone { part, stats, prepare: Duration::ZERO, pause: self.snapshot.pause, align: self.snapshot.align })
    }

    fn operators(&mut self) -> Vec<OperatorPart> {
        let mut parts: Vec<OperatorPart> = self.keepers.iter().map(|operator| OperatorPart::new(operator)).collect();
        for (operator, Reached { watermark, key_groups }) in std::mem::take(&mut self.snapshot.event_times) {
            let event_time = EventTime { watermark_ms: watermark, key_group_watermarks: key_groups };
            parts.iter_mut().filter(|part| part.operator == operator).for_each(|part| {
                part.event_time = Some(event_time.clone());
            });
        }
        for (operator, items) in std::mem::take(&mut self.snapshot.items) {
            add_items(&mut parts, &operator, items);
        }
        parts
    }
}

/// Which subtask, and which checkpoint.
struct Whose {
    stage: StageId,
    identity: String,
    subtask: u32,
    id: CheckpointId,
}

impl Whose {
    fn panicked(&self, doing: &str, panic: &(dyn Any + Send)) -> Failure {
        let Self { identity, subtask, .. } = self;
        let what = format!("{doing} subtask {subtask} of stage `{identity}`");
        Failure { subtask: *subtask, ..Failure::panicked(&what, panic) }
    }

    /// The transaction, as it stands in a part until it is committed.
    fn finish(&self, prepared: Option<Prepared>) -> Result<Vec<(String, PendingCommit)>, Failure> {
        let Some(Prepared { operator, job }) = prepared else { return Ok(Vec::new()) };
        let values = job().map_err(|error| Failure {
            kind: error.kind,
            operator: operator.clone(),
            subtask: self.subtask,
            message: chain(&error),
        })?;
        let pending = |value| (operator.clone(), PendingCommit { checkpoint: self.id, value });
        Ok(values.into_iter().map(pending).collect())
    }
}

/// A subtask whose state has been persisted, or has not, and whose sink's transaction is to be finished whatever became of it.
struct Stored {
    whose: Whose,
    transaction: Result<Option<Prepared>, Failure>,
    outcome: Result<SubtaskDone, String>,
}

impl Stored {
    /// Finishes the transaction; blocks until it can be committed. A panic in a sink's code fails the attempt: a checkpoint
    /// that is never answered would only be seen by its timeout, again and again.
    fn prepare_caught(self) -> Persisted {
        let Self { whose, transaction, mut outcome } = self;
        let began = clock::now();
        let commits = transaction.and_then(|prepared| {
            let operator = prepared.as_ref().map(|prepared| prepared.operator.clone()).unwrap_or_default();
            catch_unwind(AssertUnwindSafe(|| whose.finish(prepared)))
                .unwrap_or_else(|panic| Err(Failure { operator, ..whose.panicked("the pre-commit of", &*panic) }))
        });
        if let Ok(done) = &mut outcome {
            done.prepare = clock::since(began);
        }
        Persisted { stage: whose.stage, subtask: whose.subtask, id: whose.id, commits, outcome }
    }
}

/// Adds items to an operator's entry, which is made if there is none.
pub(crate) fn add_items(parts: &mut Vec<OperatorPart>, operator: &str, items: Vec<Item>) {
    match parts.iter_mut().find(|part| part.operator == operator) {
        Some(part) => part.items.extend(items),
        None if items.is_empty() => {}
        None => parts.push(OperatorPart { items, ..OperatorPart::new(operator) }),
    }
}
