//! A rate in rows per second: so many rows now, or a time to come back at.

use std::time::{Duration, Instant};

/// Unused time is made up for at most this far: after a pause of a downstream operator the source does not flood it.
const MAX_CREDIT: Duration = Duration::from_millis(200);
/// Rows are let through in batches that are worth about this much time: small enough to be smooth, and not a row each.
const MIN_BATCH: Duration = Duration::from_millis(10);

/// Lets rows through at a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    rows_per_second: f64,
    credit: f64,
    last: Option<Instant>,
}

impl Pace {
    /// One of `shares` equal shares of a job's rate.
    pub(crate) fn share(rows_per_second: u64, shares: u32) -> Self {
        Self { rows_per_second: rows_per_second as f64 / f64::from(shares.max(1)), credit: 0.0, last: None }
    }

    /// How many rows may go now, at least one and at most `max`; or when to ask again.
    pub(crate) fn allow(&mut self, now: Instant, max: usize) -> Result<usize, Instant> {
        let worth = |time: Duration| (self.rows_per_second * time.as_secs_f64()).max(1.0);
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        self.credit = (self.credit + self.rows_per_second * elapsed.as_secs_f64()).min(worth(MAX_CREDIT));
        let least = worth(MIN_BATCH).min(max as f64);
        if self.credit >= least {
            return Ok((self.credit as usize).clamp(1, max));
        }
        // A microsecond more, so that rounding cannot make the caller come back too early for ever.
        let missing = (least - self.credit) / self.rows_per_second + 1e-6;
        Err(now + Duration::from_secs_f64(missing))
    }

    /// So many rows have gone.
    pub(crate) fn took(&mut self, rows: usize) {
        self.credit -= rows as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_in(pace: &mut Pace, start: Instant, time: Duration, max: usize) -> usize {
        let mut now = start;
        let mut rows = 0;
        while now < start + time {
            match pace.allow(now, max) {
                Ok(n) => {
                    pace.took(n);
                    rows += n;
                }
                Err(until) => {
                    assert!(until > now);
                    now = until;
                }
            }
        }
        rows
    }

    #[test]
    fn over_ten_seconds_the_rate_is_kept_whether_it_is_high_or_low() {
        for (rate, shares, expected) in [(1_000_000, 4, 2_500_000), (100, 1, 1000), (1, 2, 5)] {
            let mut pace = Pace::share(rate, shares);
            let rows = rows_in(&mut pace, Instant::now(), Duration::from_secs(10), 4096);
            assert!(rows.abs_diff(expected) <= expected / 50 + 1, "{rows} of {expected}");
        }
    }

    #[test]
    fn after_a_long_pause_only_a_little_is_made_up_for() {
        let mut pace = Pace::share(1000, 1);
        let start = Instant::now();
        assert!(pace.allow(start, 4096).is_err());
        assert_eq!(pace.allow(start + Duration::from_mins(1), 4096), Ok(200));
    }
}
