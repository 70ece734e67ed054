//! When to try again: the restart policy's back-off.

use std::time::Duration;

use super::RestartPolicy;

/// Failures in a row, and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Failures(u32);

impl Failures {
    /// One more failure, after running for `ran`. The time to wait before the next try, or `None`: no more tries.
    pub(super) fn next(&mut self, policy: &RestartPolicy, ran: Duration) -> Option<Duration> {
        if ran >= policy.reset_after {
            self.0 = 0;
        }
        self.0 = self.0.saturating_add(1);
        if policy.max_failures.is_some_and(|max| self.0 > max) {
            return None;
        }
        let doublings = (self.0 - 1).min(31);
        Some(policy.initial_backoff.saturating_mul(1 << doublings).min(policy.max_backoff))
    }

    pub(super) const fn count(self) -> u32 {
        self.0
    }

    pub(super) fn forget(&mut self) {
        self.0 = 0;
    }
}
