//! Where control plane and data plane meet. The control plane builds an attempt out of a plan and what was restored, tells it
//! when to run, when a checkpoint begins and when to stop, carries elements from and to other workers, and takes its reports.
//! Nothing in here waits for the network or the store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use weir_protocol::part::{Item, KeyedSnapshot};
use weir_protocol::settings::CheckpointMode;
use weir_protocol::{Attempt, CheckpointId, JobName, WorkerId};
use weir_state::{BackendRegistry, Frozen, Shares, StateMemory, SubtaskState};
use weir_storage::JobStore;

use crate::api::batch::Batch;
use crate::api::clock::Clock;
use crate::api::error::OperatorError;
use crate::api::graph::{Exchange, JobGraph, StageId};
use crate::api::operator::RestoredWatermarks;
use crate::api::sink::{OutputOwner, PrepareJob};
use crate::api::source::Waker;
use crate::api::time::Timestamp;

/// One directed connection between two subtasks: an edge of the graph, and who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId {
    /// Index over all edges of the graph, in order.
    pub edge: u32,
    /// The sending subtask.
    pub from: u32,
    /// The receiving subtask.
    pub to: u32,
}

impl ChannelId {
    const BITS: u32 = 20;
    const MASK: u64 = (1 << Self::BITS) - 1;

    /// As one number: `edge << 40 | from << 20 | to`.
    pub const fn pack(self) -> u64 {
        (self.edge as u64) << (2 * Self::BITS) | (self.from as u64) << Self::BITS | self.to as u64
    }

    /// Back from [`Self::pack`].
    pub const fn unpack(packed: u64) -> Self {
        Self {
            edge: (packed >> (2 * Self::BITS)) as u32,
            from: (packed >> Self::BITS & Self::MASK) as u32,
            to: (packed & Self::MASK) as u32,
        }
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "edge {} from subtask {} to {}", self.edge, self.from, self.to)
    }
}

/// What goes through a channel. Only batches take credits and wait; all others go at once, in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// Rows.
    Batch(Batch),
    /// What came before belongs to the checkpoint, what comes after does not.
    Barrier(CheckpointId),
    /// No row at or before this time comes any more that is not late.
    Watermark(Timestamp),
    /// The sender holds back no watermark until it sends the next one.
    Idle,
    /// This checkpoint, and every older one, will get no barrier here any more.
    Cancel(CheckpointId),
    /// No row comes any more. Barriers still do.
    EndOfInput,
}

/// The attempt is being stopped; whoever is told so returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attempt is being stopped")]
pub struct Stopped;

/// Sends into one channel whose receiver is on another worker.
pub trait RemoteSender: Send {
    /// Sends an element; never waits. A batch spends the channel's credits: `cost` is what it spends ([`Batch::used_bytes`]:
    /// over the wire goes no more), 0 for all others. The last credits may be overspent by one batch, so that a batch larger
    /// than the window gets through.
    fn send(&mut self, channel: ChannelId, element: Element, cost: usize) -> Result<(), Stopped>;

    /// The channel has no credits left: no further batch should be sent for now. Not of one that is closed, where a send says so.
    fn is_full(&self) -> bool;
}

/// Makes the senders to other workers, and carries credits back to them.
pub trait Remote: Send + Sync {
    /// A sender into this channel; its receiver is on another worker. `room` is called when a channel that was full has credits
    /// again, or is closed. Called once a channel.
    fn sender(&self, channel: ChannelId, room: Waker) -> Box<dyn RemoteSender>;

    /// A subtask of this worker has taken `bytes` out of this channel: the sender may send so many more. Called from the
    /// subtask's thread, must not wait. What a channel starts with is [`BuildAttempt::channel_window`], on both sides.
    fn grant(&self, channel: ChannelId, bytes: u64);
}

/// What one subtask starts with: what was restored for it, or its share of what there is to read.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Snapshots of all old subtasks whose key groups this subtask now owns, wholly or in part.
    pub keyed: Vec<KeyedSnapshot>,
    /// The local files of this subtask, where they match the record.
    pub local_snapshot: Option<PathBuf>,
    /// Non-keyed items dealt to this subtask, by operator identity; also the source's splits.
    pub items: BTreeMap<String, Vec<Item>>,
    /// All old subtasks of this stage had reached the end of input.
    pub finished: bool,
    /// The event time that each key group had reached at the head of the stage, and of each operator that had not been told otherwise.
    pub watermarks: RestoredWatermarks,
    /// The event time of operators that had been told otherwise, by identity.
    pub event_times: BTreeMap<String, RestoredWatermarks>,
}

impl Restored {
    /// The event time that an operator had reached.
    pub fn event_time(&self, operator: &str) -> &RestoredWatermarks {
        self.event_times.get(operator).unwrap_or(&self.watermarks)
    }
}

/// All that is needed to build one attempt's subtasks of this worker.
pub struct BuildAttempt {
    /// Whose job.
    pub job: JobName,
    /// Which of all jobs of this name.
    pub owner: OutputOwner,
    /// Which attempt.
    pub attempt: Attempt,
    /// This worker.
    pub worker: WorkerId,
    /// The plan.
    pub graph: Arc<JobGraph>,
    /// The slots of this worker: it runs these subtasks of every stage.
    pub subtasks: Vec<u32>,
    /// Subtasks a stage.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// Exactly once or at least once.
    pub mode: CheckpointMode,
    /// The longest an alignment may take; `None` is no limit.
    pub alignment_timeout: Option<Duration>,
    /// Below this each subtask has a folder of its own.
    pub state_dir: PathBuf,
    /// The state backend's name and options.
    pub state_backend: String,
    /// The backend's own options.
    pub state_options: BTreeMap<String, String>,
    /// All backends.
    pub registry: Arc<BackendRegistry>,
    /// What all state of this worker shares.
    pub state_memory: StateMemory,
    /// Where state is restored from.
    pub store: JobStore,
    /// What each subtask starts with, by stage and subtask; one without an entry has no state and nothing to read.
    pub restored: BTreeMap<(StageId, u32), Restored>,
    /// Other workers.
    pub remote: Arc<dyn Remote>,
    /// Processing time.
    pub clock: Arc<dyn Clock>,
    /// For connectors and state transfers.
    pub runtime: tokio::runtime::Handle,
    /// Bytes of memory that this worker may use.
    pub memory_budget: u64,
    /// Cancelled when the attempt is stopped, or is not wanted any more before it stands.
    pub stopped: CancellationToken,
}

impl BuildAttempt {
    /// Bytes that may be under way in each channel: what its credits begin with. The same on every worker of the attempt,
    /// since all have the same budget.
    pub fn channel_window(&self) -> usize {
        channel_window(&self.graph, self.parallelism, self.memory_budget)
    }
}

/// What all operators of a worker may keep in caches of their own, beside their tables, in percent of its memory. It comes
/// out of the reserve.
pub const OPERATOR_CACHES_PERCENT: u64 = 5;
/// A channel holds at least so many bytes, or batches of some thousand rows would go through one by one.
pub const MIN_CHANNEL_BYTES: usize = 256 << 10;
/// And at most so many: more only makes barriers slower.
pub const MAX_CHANNEL_BYTES: usize = 4 << 20;

/// Bytes that may be under way in each channel, as if one worker of this budget had all the slots: workers of one attempt
/// may differ in how many they have, and both ends of a channel must arrive at the same number.
pub fn channel_window(graph: &JobGraph, parallelism: u32, memory_budget: u64) -> usize {
    let width = parallelism as usize;
    let channels: usize = graph
        .edges()
        .map(|(_, _, _, edge)| if edge.exchange == Exchange::Forward { width } else { width * width })
        .sum();
    (Shares::of(memory_budget).channels / channels.max(1)).clamp(MIN_CHANNEL_BYTES, MAX_CHANNEL_BYTES)
}

/// A sink's transaction, cut at a checkpoint.
pub struct Prepared {
    /// The sink's identity.
    pub operator: String,
    /// What remains to be done beside processing; gives the pending commits.
    pub job: PrepareJob,
}

/// How far event time has got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// `None` before the first watermark.
    pub watermark: Option<Timestamp>,
    /// That of each key group, while a restore's differences are not yet made up for; else empty.
    pub key_groups: Vec<Timestamp>,
}

/// What one subtask contributes to a checkpoint, frozen. Persisting it goes on beside processing.
pub struct SubtaskSnapshot {
    /// Frozen generations of all tables of the subtask.
    pub frozen: Vec<Frozen>,
    /// Non-keyed items by operator identity: splits of the source, items of the operators.
    pub items: Vec<(String, Vec<Item>)>,
    /// The sink's cut transaction, if the stage has a sink. Pending commits of earlier checkpoints are not in it.
    pub prepared: Option<Prepared>,
    /// The subtask has reached the end of its input.
    pub finished: bool,
    /// The event time that it has reached.
    pub event_time: Reached,
    /// The event time of stateful operators that have been told otherwise, by identity.
    pub event_times: Vec<(String, Reached)>,
    /// How long processing stood still.
    pub pause: Duration,
    /// From the first barrier to the last.
    pub align: Duration,
}

/// What the data plane tells the control plane. In order for each subtask.
pub enum Report {
    /// A subtask has frozen for a checkpoint.
    Frozen {
        /// Its stage.
        stage: StageId,
        /// Which subtask.
        subtask: u32,
        /// The checkpoint.
        id: CheckpointId,
        /// What is to be persisted.
        snapshot: Box<SubtaskSnapshot>,
        /// Where its keyed state is; `None` for a stage without.
        state: Option<SubtaskState>,
    },
    /// A subtask has given up a checkpoint by itself.
    Declined {
        /// The checkpoint.
        id: CheckpointId,
        /// Its stage.
        stage: StageId,
        /// Which subtask.
        subtask: u32,
        /// Why, in a sentence.
        reason: String,
    },
    /// A subtask's thread has ended with an error.
    Failed {
        /// Its stage.
        stage: StageId,
        /// Which subtask.
        subtask: u32,
        /// What failed; names the operator.
        error: OperatorError,
    },
    /// A subtask has reached the end of its input. It stays and answers barriers.
    Finished {
        /// Its stage.
        stage: StageId,
        /// Which subtask.
        subtask: u32,
    },
    /// The first rows of this attempt have been written into a sink. At most once a worker.
    FirstOutput {
        /// When.
        at: Instant,
    },
}

/// What a worker's subtasks have counted in this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptStats {
    /// Rows that came out of sources.
    pub source_rows: u64,
    /// Rows that went into sinks.
    pub sink_rows: u64,
    /// Rows that were too late.
    pub late_rows: u64,
    /// Rows that could not be read and were skipped.
    pub skipped_rows: u64,
    /// The lowest watermark of the subtasks that have sinks, or of all where none has.
    pub watermark_ms: i64,
    /// Bytes of keyed state.
    pub state_bytes: u64,
    /// Subtasks that have reached the end of input.
    pub finished_subtasks: u32,
    /// All subtasks.
    pub subtasks: u32,
    /// Microseconds that threads spent working, waiting for input, and waiting for room, added up.
    pub busy_us: u64,
    /// See `busy_us`.
    pub idle_us: u64,
    /// See `busy_us`.
    pub backpressured_us: u64,
}

/// What one subtask has counted in this attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubtaskStats {
    /// Its stage's name.
    pub stage: String,
    /// Which subtask.
    pub subtask: u32,
    /// The source, operators and sink, in the order in which rows pass them.
    pub operators: Vec<OperatorStats>,
    /// Rows that were too late.
    pub late_rows: u64,
    /// Rows that were taken back though they were not there.
    pub unmatched_retractions: u64,
    /// Rows that could not be read and were skipped.
    pub skipped_rows: u64,
    /// Records that are there for its source and not read, where that is known.
    pub source_lag: Option<u64>,
    /// The event time that it has reached.
    pub watermark_ms: i64,
    /// Bytes of keyed state; `None` for a stage without.
    pub state_bytes: Option<u64>,
    /// It has reached the end of its input.
    pub finished: bool,
    /// Microseconds that its thread has worked, waited for input, and waited for room.
    pub busy_us: u64,
    /// See `busy_us`.
    pub idle_us: u64,
    /// See `busy_us`.
    pub backpressured_us: u64,
}

/// What has passed one operator of one subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorStats {
    /// Its name, made different from all others of the job.
    pub name: String,
    /// `None` for a source.
    pub rows_in: Option<u64>,
    /// `None` for a sink.
    pub rows_out: Option<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_channel_id_reads_back_from_its_number(edge in 0u32..1 << 20, from in 0u32..1 << 20, to in 0u32..1 << 20) {
            let id = ChannelId { edge, from, to };
            prop_assert_eq!(ChannelId::unpack(id.pack()), id);
        }
    }
}
