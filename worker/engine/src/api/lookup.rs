//! Tables that rows are looked up in, held whole: all rows of a bounded source, read at the start and again from time to time.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch};
use weir_runtime::clock;

use crate::api::clock::Clock;
use crate::api::counters::Counters;
use crate::api::error::SourceError;
use crate::api::source::{SourceContext, SourceFactory, SourcePoll, Waker};

/// So much of a table is held at most: each worker has all of it in memory.
pub const MOST_TABLE_BYTES: usize = 1 << 30;

/// Rows that are asked for at once.
const POLL_ROWS: usize = 4096;

/// A source that says nothing is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// When a table is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// So long after the last time.
    pub every: Duration,
    /// Counted from when that began, and not from when it was done.
    pub from_begin: bool,
}

/// A table that is read whole.
#[derive(Clone)]
pub struct FullTable {
    /// What reads it. It ends.
    pub source: Arc<dyn SourceFactory>,
    /// None: it is read once an attempt.
    pub reload: Option<Reload>,
}

impl FullTable {
    /// All rows. Waits until they are there, so that it is for threads that nobody waits for.
    pub fn read(
        &self,
        runtime: &tokio::runtime::Handle,
        time: &Arc<dyn Clock>,
    ) -> Result<Vec<RecordBatch>, SourceError> {
        let splits = self.source.splits(1)?;
        if splits.is_empty() {
            return Ok(Vec::new());
        }
        let (wake, woken) = mpsc::sync_channel(1);
        let mut source = self.source.create(&SourceContext {
            subtask: 0,
            parallelism: 1,
            splits,
            counters: Arc::new(Counters::default()),
            clock: Arc::clone(time),
            waker: Waker::new(move || {
                // One call that waits is as good as several.
                let _ = wake.try_send(());
            }),
            runtime: runtime.clone(),
        })?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        loop {
            match source.poll(POLL_ROWS)? {
                SourcePoll::Rows { rows, .. } => {
                    bytes += size(&rows)?;
                    if bytes > MOST_TABLE_BYTES {
                        return Err(SourceError::bad_input(format!(
                            "a table that rows are looked up in has more than {} MiB, and is held in memory: select from it \
                             what is needed into a smaller one, or join it as a stream",
                            MOST_TABLE_BYTES >> 20
                        )));
                    }
                    all.push(rows);
                }
                SourcePoll::SplitFinished(_) | SourcePoll::SplitsAdded(_) => {}
                SourcePoll::Pending { until } => {
                    let wait = until.map_or(ASK_AGAIN, |until| until.saturating_duration_since(clock::now()));
                    // Asked again either way.
                    let _ = woken.recv_timeout(wait);
                }
                SourcePoll::End => return Ok(all),
            }
        }
    }
}

/// The bytes of these rows alone: a source may give many pieces of one batch.
fn size(rows: &RecordBatch) -> Result<usize, SourceError> {
    let of = |column: &ArrayRef| column.to_data().get_slice_memory_size();
    let each = rows.columns().iter().map(of).collect::<Result<Vec<usize>, _>>();
    each.map(|all| all.iter().sum()).map_err(|error| SourceError::bad_input(error.to_string()))
}

impl std::fmt::Debug for FullTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FullTable").field("reload", &self.reload).finish_non_exhaustive()
    }
}
