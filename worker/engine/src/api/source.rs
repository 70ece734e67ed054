//! What a source is: splits, each with a position, read by polling.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;

use crate::api::clock::Clock;
use crate::api::counters::Counters;
use crate::api::error::SourceError;
use crate::api::time::Timestamp;

/// Makes a source's subtasks.
pub trait SourceFactory: Send + Sync {
    /// The splits at the start from nothing: what there is to read now. Blocking. Every worker asks; what the first was
    /// answered holds for all.
    fn splits(&self, parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError>;

    /// Called once a subtask and attempt, on the subtask's thread; not where there is nothing to read.
    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError>;

    /// It ends.
    fn bounded(&self) -> bool;

    /// What there is to read first hangs on when that was looked at, as the end of a topic does: what an attempt has found holds for
    /// all that follow it, until a record has positions.
    fn starts_once(&self) -> bool {
        false
    }

    /// The outside world is to be told how far a job has got: [`Self::recorded`] is called.
    fn follows_records(&self) -> bool {
        false
    }

    /// A record stands that holds these positions of splits, all that this worker has. For others to look at: nothing of the
    /// job may hang on it.
    fn recorded(&self, splits: Vec<serde_json::Value>) -> BoxFuture<'static, ()> {
        drop(splits);
        Box::pin(std::future::ready(()))
    }
}

/// What a source is given at its start.
pub struct SourceContext {
    /// Which subtask this is.
    pub subtask: u32,
    /// Subtasks a stage: a rate for the whole job is divided by it.
    pub parallelism: u32,
    /// The splits dealt to this subtask, as from [`SourceFactory::splits`] or as last snapshotted, also finished ones.
    pub splits: Vec<serde_json::Value>,
    /// What the subtask counts.
    pub counters: Arc<Counters>,
    /// Processing time.
    pub clock: Arc<dyn Clock>,
    /// Wakes the subtask after [`SourcePoll::Pending`].
    pub waker: Waker,
    /// Where a source's own I/O runs.
    pub runtime: tokio::runtime::Handle,
}

/// Wakes a source's subtask; may be called from any thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// Calls this.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes nobody; for tests of a source alone.
    pub fn none() -> Self {
        Self::new(|| ())
    }

    /// There is something to poll.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// One parallel instance of a source. All calls come from one thread.
pub trait Source: Send {
    /// The next rows, at most about `max_rows`. Never blocks longer than a few milliseconds.
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError>;

    /// Event time has got so far in a split, by the rows that it has given; also said of restored splits before the first poll.
    /// A source that chooses among its splits reads the one furthest back, so that rows do not wait for it downstream.
    fn event_time(&mut self, split: usize, reached: Timestamp) {
        let _ = (split, reached);
    }

    /// The source has not asked the split for rows because others come first. A split that is held back is not idle: it still
    /// holds back the watermark.
    fn holds_back(&self, split: usize) -> bool {
        let _ = split;
        false
    }

    /// The positions of all splits, in the order of [`SourceContext::splits`] and then of their addition, including finished ones: after all rows that
    /// have been polled and before the next. Self-contained JSON from which `create` goes on.
    fn snapshot(&mut self) -> Result<Vec<serde_json::Value>, SourceError>;
}

/// What a poll gives.
#[derive(Debug)]
pub enum SourcePoll {
    /// Rows of one split.
    Rows {
        /// Its index in [`SourceContext::splits`].
        split: usize,
        /// All columns that the table was asked for.
        rows: RecordBatch,
    },
    /// A split has no more rows.
    SplitFinished(usize),
    /// There are more splits, behind those that there were, and this is where they begin. They are in the next snapshot; which
    /// subtask finds them is the source's to decide, by what its splits say.
    SplitsAdded(Vec<serde_json::Value>),
    /// Nothing now. Polled again at `until`, or when the waker is called.
    Pending {
        /// `None`: only the waker.
        until: Option<Instant>,
    },
    /// All splits are finished.
    End,
}
