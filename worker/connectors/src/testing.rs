//! For tests: a source or a sink driven by hand.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use weir_engine::api::clock::SystemClock;
use weir_engine::api::counters::Counters;
use weir_engine::api::error::SourceError;
use weir_engine::api::sink::{OutputOwner, SinkContext};
use weir_engine::api::source::{Source, SourceContext, SourceFactory, SourcePoll, Waker};
use weir_protocol::{Attempt, JobName, WorkerId};

use crate::error::ConnectorError;

/// The remedy of an error, for `assert!`.
pub(crate) fn remedy(error: &ConnectorError) -> String {
    error.remedy()
}

/// A run of a job on this machine.
pub(crate) fn run_of(uid: &str) -> OutputOwner {
    let (cluster, storage) = ("local".to_string(), "file:///checkpoints".to_string());
    OutputOwner { uid: uid.to_string(), cluster, storage }
}

/// Who the only subtask of a sink is, in a job's first attempt.
pub(crate) fn sink_context(job: &JobName, runtime: &Runtime) -> SinkContext {
    SinkContext {
        job: job.clone(),
        owner: run_of("u1"),
        sink: "sink".to_string(),
        attempt: Attempt(1),
        worker: WorkerId::generate(),
        subtask: 0,
        parallelism: 1,
        counters: Arc::new(Counters::default()),
        runtime: runtime.handle().clone(),
        stopped: CancellationToken::new(),
    }
}

/// One subtask of a source that has all splits.
pub(crate) struct SourceTest {
    source: Box<dyn Source>,
    pub(crate) counters: Arc<Counters>,
    _runtime: Runtime,
}

impl SourceTest {
    pub(crate) fn start(factory: &dyn SourceFactory, parallelism: u32) -> Self {
        Self::restored(factory, 1, factory.splits(parallelism).unwrap())
    }

    pub(crate) fn restored(factory: &dyn SourceFactory, parallelism: u32, splits: Vec<serde_json::Value>) -> Self {
        Self::try_restored(factory, parallelism, splits).unwrap()
    }

    pub(crate) fn try_restored(
        factory: &dyn SourceFactory,
        parallelism: u32,
        splits: Vec<serde_json::Value>,
    ) -> Result<Self, SourceError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let counters = Arc::new(Counters::default());
        let source = factory.create(&SourceContext {
            subtask: 0,
            parallelism,
            splits,
            counters: Arc::clone(&counters),
            clock: Arc::new(SystemClock),
            waker: Waker::none(),
            runtime: runtime.handle().clone(),
        })?;
        Ok(Self { source, counters, _runtime: runtime })
    }

    pub(crate) fn try_poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        self.source.poll(max_rows)
    }

    pub(crate) fn poll(&mut self, max_rows: usize) -> SourcePoll {
        self.try_poll(max_rows).unwrap()
    }

    pub(crate) fn event_time(&mut self, split: usize, reached: i64) {
        self.source.event_time(split, reached);
    }

    pub(crate) fn snapshot(&mut self) -> Vec<serde_json::Value> {
        self.source.snapshot().unwrap()
    }

    /// To the end.
    pub(crate) fn run(&mut self, max_rows: usize, rows: impl FnMut(usize, RecordBatch)) {
        self.try_run(max_rows, rows).unwrap();
    }

    pub(crate) fn try_run(
        &mut self,
        max_rows: usize,
        mut each: impl FnMut(usize, RecordBatch),
    ) -> Result<(), SourceError> {
        loop {
            match self.try_poll(max_rows)? {
                SourcePoll::Rows { split, rows } => each(split, rows),
                SourcePoll::SplitFinished(_) | SourcePoll::SplitsAdded(_) => {}
                SourcePoll::Pending { .. } => std::thread::yield_now(),
                SourcePoll::End => return Ok(()),
            }
        }
    }
}
