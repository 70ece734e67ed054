//! How a worker's memory is shared out, and what all its subtasks share of it.
//!
//! The shares are fixed parts of the budget, so that what one part does cannot starve another. The reserve pays for what is
//! counted nowhere: the program itself, stacks, batches in operators' hands, the allocator's slack.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rocksdb::{Cache, WriteBufferManager};
use tokio::sync::{Semaphore, SemaphorePermit};

/// RocksDB: block cache, index and filter blocks, and write buffers, all under one manager. A row that is not in memory is one
/// of a hundred in its block, so memory is better spent on rows than on blocks.
pub const ROCKSDB_PERCENT: u64 = 12;
/// Rows that tables keep in memory, frozen ones included.
pub const CACHES_PERCENT: u64 = 30;
/// Batches in channels within and between processes.
pub const CHANNELS_PERCENT: u64 = 8;
/// Read-ahead of sources, open files of sinks.
pub const CONNECTORS_PERCENT: u64 = 4;
/// What is counted nowhere.
pub const RESERVE_PERCENT: u64 = 100 - ROCKSDB_PERCENT - CACHES_PERCENT - CHANNELS_PERCENT - CONNECTORS_PERCENT;

/// Of RocksDB's share, what write buffers may take. Sorted batches go into files without a write buffer, so it is small.
const WRITE_BUFFERS_PERCENT: u64 = 20;
/// Below this budget the shares would be too small to work with.
const LEAST_BUDGET: u64 = 64 << 20;
/// State files are downloaded in pieces of this size.
pub(crate) const DOWNLOAD_PIECE: u64 = 8 << 20;
/// Bytes that a piece on its way takes at most: as it comes, and joined.
const DOWNLOAD_ROOM: usize = 2 * DOWNLOAD_PIECE as usize;
/// Batches written to a backend at once: large enough for few files, small enough that all subtasks' fit the reserve.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = (2 << 20)..=(32 << 20);

/// A budget's shares in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For RocksDB.
    pub rocksdb: usize,
    /// For rows in tables.
    pub caches: usize,
    /// For channels.
    pub channels: usize,
    /// For sources and sinks.
    pub connectors: usize,
}

impl Shares {
    /// The shares of a worker's whole budget in bytes.
    pub fn of(budget: u64) -> Self {
        let budget = budget.max(LEAST_BUDGET);
        let share = |percent: u64| usize::try_from(budget / 100 * percent).unwrap_or(usize::MAX);
        Self {
            rocksdb: share(ROCKSDB_PERCENT),
            caches: share(CACHES_PERCENT),
            channels: share(CHANNELS_PERCENT),
            connectors: share(CONNECTORS_PERCENT),
        }
    }
}

/// The memory that all subtasks of a worker share for state. Made once a process; clones are the same memory.
#[derive(Clone)]
pub struct StateMemory {
    inner: Arc<Inner>,
}

struct Inner {
    shares: Shares,
    cache: Cache,
    write_buffers: WriteBufferManager,
    rows: Arc<RowBudget>,
    downloads: Semaphore,
}

impl StateMemory {
    /// For a worker's whole budget in bytes, see [`Shares`].
    pub fn new(budget: u64) -> Self {
        Self::with_shares(Shares::of(budget))
    }

    /// For shares that were made otherwise.
    pub fn with_shares(shares: Shares) -> Self {
        let buffers = shares.rocksdb / 100 * WRITE_BUFFERS_PERCENT as usize;
        // Zero lets the cache find the size of an entry by itself. Write buffers are charged to the cache, so that one
        // number bounds both; they never stall a writer, since what is written is bounded by the tables' own budget.
        let cache = Cache::new_hyper_clock_cache(shares.rocksdb, 0);
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(buffers, false, cache.clone());
        let rows = Arc::new(RowBudget::new(shares.caches));
        // A restore has the rows' share to itself: no table has rows before all state is there.
        let downloads = Semaphore::new((shares.caches / DOWNLOAD_ROOM).max(1));
        Self { inner: Arc::new(Inner { shares, cache, write_buffers, rows, downloads }) }
    }

    /// The shares this was made with.
    pub fn shares(&self) -> Shares {
        self.inner.shares
    }

    /// Bytes of rows that tables hold in memory now, frozen ones included.
    pub fn row_bytes(&self) -> usize {
        self.inner.rows.used()
    }

    /// Bytes that RocksDB's block cache, filters and write buffers hold now.
    pub fn rocksdb_bytes(&self) -> usize {
        self.inner.cache.get_usage()
    }

    /// RocksDB's block cache, for a backend that is built on RocksDB too.
    pub fn block_cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// RocksDB's write buffers, for a backend that is built on RocksDB too.
    pub fn write_buffers(&self) -> &WriteBufferManager {
        &self.inner.write_buffers
    }

    /// Room for one piece of a state file, until it is dropped.
    pub(crate) async fn room_for_download(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes the semaphore.
        self.inner.downloads.acquire().await.ok()
    }

    pub(crate) fn rows(&self) -> &Arc<RowBudget> {
        &self.inner.rows
    }
}

impl fmt::Debug for StateMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMemory").field("shares", &self.inner.shares).finish_non_exhaustive()
    }
}

/// Counts the bytes of rows in all tables of a worker, and says which table has to give some up.
#[derive(Debug)]
pub(crate) struct RowBudget {
    limit: usize,
    used: AtomicUsize,
    tables: AtomicUsize,
}

impl RowBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), tables: AtomicUsize::new(0) }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn join(&self) {
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
    }

    fn fair(&self) -> usize {
        self.limit / self.tables.load(Ordering::Relaxed).max(1)
    }

    /// A table that holds `own` bytes is to give some up: the whole is over its limit and the table has its fair share, or
    /// the whole is well over its limit, because tables that are not used now hold more than theirs.
    pub(crate) fn exceeded_by(&self, own: usize) -> bool {
        let (used, fair) = (self.used(), self.fair());
        (used > self.limit && own > fair) || (used > self.limit + self.limit / 8 && own > fair / 4)
    }

    /// Writing does not keep up with what is added.
    pub(crate) fn pressed(&self) -> bool {
        self.used() > self.limit + self.limit / 4
    }

    /// No more may be held, even where writing has to wait for it.
    pub(crate) fn exhausted(&self) -> bool {
        self.used() > self.limit + self.limit / 2
    }

    /// A table that holds `own` bytes should begin to write rows, so that there are some to give up when the limit is reached.
    pub(crate) fn nearly_exceeded_by(&self, own: usize) -> bool {
        let near = |bytes: usize| bytes - bytes / 4;
        (self.used() > near(self.limit) && own > near(self.fair())) || self.exceeded_by(own)
    }

    /// Bytes to give up now: what is too much, and some more, so that it is not at each call.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit) + self.limit / 64
    }

    /// How many bytes to write to a backend at once.
    pub(crate) fn batch_bytes(&self) -> usize {
        (self.limit / 16).clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_a_reserve_of_a_quarter_at_least() {
        const { assert!(RESERVE_PERCENT >= 25) };
        let shares = Shares::of(512 << 20);
        assert!(shares.rocksdb + shares.caches + shares.channels + shares.connectors <= (512 << 20) / 4 * 3);
    }

    #[test]
    fn only_a_table_with_more_than_its_share_gives_up_rows_when_the_whole_is_over() {
        let budget = RowBudget::new(1000);
        budget.join();
        budget.join();
        budget.add(900);
        assert!(!budget.exceeded_by(900));
        budget.add(150);
        assert!(budget.exceeded_by(600));
        assert!(!budget.exceeded_by(450));
        budget.add(200);
        assert!(budget.exceeded_by(450));
    }
}
