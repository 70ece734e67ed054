//! What time it is.

use std::{
    cell::Cell,
    marker::PhantomData,
    time::{Duration, Instant, SystemTime},
};

thread_local! {
    static HELD: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// The time that only goes forward, to measure spans and to set deadlines.
pub fn now() -> Instant {
    HELD.get().map_or_else(machines_instant, |(now, _)| now)
}

/// The time of the world, which may be set back.
pub fn wall() -> SystemTime {
    HELD.get().map_or_else(machines_wall, |(_, wall)| wall)
}

/// How long ago that was.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

#[allow(clippy::disallowed_methods, reason = "here the machine is asked")]
fn machines_instant() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "here the machine is asked")]
fn machines_wall() -> SystemTime {
    SystemTime::now()
}

/// Time stands still on this thread, for a test, until this is dropped.
#[must_use = "time goes on when it is dropped"]
pub struct Held {
    before: Option<(Instant, SystemTime)>,
    /// It is this thread's.
    here: PhantomData<*const ()>,
}

/// Holds the time of this thread: from now on it is what the test says.
pub fn hold(wall: SystemTime) -> Held {
    let before = HELD.replace(Some((now(), wall)));
    Held { before, here: PhantomData }
}

impl Held {
    /// So much time passes.
    pub fn passes(&self, span: Duration) {
        if let Some((now, wall)) = HELD.get() {
            HELD.set(Some((now + span, wall + span)));
        }
    }

    /// Somebody sets the clock of the world.
    pub fn set(&self, wall: SystemTime) {
        if let Some((now, _)) = HELD.get() {
            HELD.set(Some((now, wall)));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_time_passes_as_it_is_told_to_and_goes_on_afterwards() {
        let (begun, year) = (now(), SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365));
        let held = hold(year);
        let at = now();
        held.passes(Duration::from_hours(1));
        assert_eq!((since(at), wall()), (Duration::from_hours(1), year + Duration::from_hours(1)));
        held.set(year);
        assert_eq!((since(at), wall()), (Duration::from_hours(1), year), "only the world's was set back");
        let others = std::thread::scope(|scope| scope.spawn(wall).join().unwrap());
        assert!(others > year + Duration::from_hours(24 * 365), "other threads have the machine's");
        drop(held);
        assert!(now() >= begun && wall() > year + Duration::from_hours(24 * 365));
    }
}
