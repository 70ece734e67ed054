//! Room for what is read of many jobs' storage by one process. What stands there is the jobs' own: somebody whose objects are
//! huge, or come slowly, must not take the memory or the turn of everybody else.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// What all jobs may have read at once, in reads of up to [`SMALL`] each: nearly all there is.
const OF_SMALL: u64 = 64 << 20;
/// The same of reads that are larger, which wait for each other and for no small one.
const OF_LARGE: u64 = 128 << 20;
/// Records, openings and the parts of most jobs stay below it.
const SMALL: u64 = 1 << 20;
/// Permits count these: a semaphore's number of permits is limited.
const UNIT: u64 = 1 << 10;
/// Nobody holds room for longer than a read may take, so that a turn comes; a wait as long as this means that very many are before it.
const WAIT: Duration = Duration::from_secs(20);

/// The largest read that there is ever room for, in bytes.
pub const LARGEST_READ: u64 = OF_LARGE;

/// Cheap to clone; clones share the room.
#[derive(Clone, Debug)]
pub struct Memory {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    wait: Duration,
}

/// Room that is held until this is dropped.
#[derive(Debug)]
pub struct Room(#[allow(dead_code, reason = "it is held, and given back when it goes")] OwnedSemaphorePermit);

impl Default for Memory {
    fn default() -> Self {
        let room = |bytes: u64| Arc::new(Semaphore::new((bytes / UNIT) as usize));
        Self { small: room(OF_SMALL), large: room(OF_LARGE), wait: WAIT }
    }
}

impl Memory {
    /// Waits for room for so many bytes, in the order of asking; none where there was none in time, or never can be.
    ///
    /// Whoever holds room must not wait for more: all that one step reads is asked for at once.
    pub async fn room(&self, bytes: u64) -> Option<Room> {
        let lane = if bytes <= SMALL { &self.small } else { &self.large };
        let units = u32::try_from(bytes.div_ceil(UNIT).max(1)).ok().filter(|_| bytes <= LARGEST_READ)?;
        let room = timeout(self.wait, Arc::clone(lane).acquire_many_owned(units)).await;
        room.ok()?.ok().map(Room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_reads_wait_for_each_other_and_small_ones_for_none_of_them() {
        let memory = Memory { wait: Duration::from_millis(20), ..Memory::default() };
        let all = memory.room(LARGEST_READ).await.unwrap();
        assert!(memory.room(SMALL + 1).await.is_none(), "there is no room for it before the first has gone");
        assert!(memory.room(SMALL).await.is_some());
        assert!(memory.room(LARGEST_READ + 1).await.is_none(), "more than there ever is");
        drop(all);
        assert!(memory.room(SMALL + 1).await.is_some());
    }
}
