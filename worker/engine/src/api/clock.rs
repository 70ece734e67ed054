//! Processing time, so that a test can hold it. Deadlines that only bound waiting use `Instant` and not this.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use weir_runtime::clock;

use crate::api::time::Timestamp;

/// Says what time it is.
pub trait Clock: Send + Sync {
    /// Milliseconds since the epoch.
    fn now_ms(&self) -> Timestamp;

    /// How long a thread may sleep before it looks whether `until` has come.
    fn wait(&self, until: Timestamp) -> Duration {
        Duration::from_millis(until.saturating_sub(self.now_ms()).max(0) as u64)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> Timestamp {
        clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Timestamp)
    }
}

/// A clock that a test sets. Threads that wait for it look again every millisecond.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Stands at this time.
    pub const fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now))
    }

    /// Sets it.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> Timestamp {
        self.0.load(Ordering::SeqCst)
    }

    fn wait(&self, until: Timestamp) -> Duration {
        Duration::from_millis(u64::from(until > self.now_ms()))
    }
}
