//! Partitions that timers say are due, as far as they have been looked at.

use std::collections::HashSet;

use weir_engine::{OperatorError, Timestamp};
use weir_state::{Keys, Timers};

/// Partitions that are due before a barrier may pass.
const CALL_KEYS: usize = 4096;

/// Partitions that are looked at at once.
const CHUNK_KEYS: usize = 256;

/// Partitions that are due.
pub struct Due {
    pub keys: Keys,
    /// Those that are being looked at.
    pub rows: Vec<u32>,
    /// Those that are to be, the first of them last.
    behind: Vec<u32>,
    /// There may be more that are due.
    more: bool,
}

/// Whether a walk through what is due has come to its end.
pub enum Step {
    /// These are to be looked at: [`Due::rows`].
    Look,
    /// Nothing is due any more.
    Over,
}

impl Due {
    fn new(timers: &mut Timers, reached: Timestamp) -> Result<Self, OperatorError> {
        let mut keys = Keys::new();
        keys.clear();
        let more = timers.due(reached, CALL_KEYS, &mut keys)?;
        // A partition may be due at several times.
        let mut seen = HashSet::new();
        let first = (0..keys.len() as u32).filter(|&row| seen.insert(keys.key(row as usize).to_vec()));
        let mut behind: Vec<u32> = first.collect();
        behind.reverse();
        Ok(Self { keys, rows: Vec::new(), behind, more })
    }

    /// Goes on with what is due at this time.
    pub fn next(due: &mut Option<Self>, timers: &mut Timers, reached: Timestamp) -> Result<Step, OperatorError> {
        loop {
            let mut now = match due.take() {
                Some(now) => now,
                None => Self::new(timers, reached)?,
            };
            if now.rows.is_empty() {
                let from = now.behind.len().saturating_sub(CHUNK_KEYS);
                now.rows = now.behind.split_off(from);
                now.rows.reverse();
            }
            if !now.rows.is_empty() {
                *due = Some(now);
                return Ok(Step::Look);
            }
            if !now.more {
                return Ok(Step::Over);
            }
        }
    }

    /// A barrier is about to pass. Who is due is told once: partitions that have not been looked at are due again.
    pub fn again(&self, timers: &mut Timers, reached: Timestamp) -> Result<(), OperatorError> {
        let rows = [self.rows.as_slice(), &self.behind].concat();
        Ok(timers.register(&self.keys, &rows, &vec![reached; rows.len()])?)
    }
}

/// A time in bytes that are ordered as times are.
pub fn ordered(time: Timestamp) -> [u8; 8] {
    (time.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

/// Back from [`ordered`], with what stands behind it.
pub fn time_of(sub: &[u8]) -> Timestamp {
    let mut time = [0; 8];
    time.copy_from_slice(&sub[..8]);
    (u64::from_be_bytes(time) ^ 1 << 63).cast_signed()
}

/// Rows of one time stand in the order in which they came.
pub fn sub_key(time: Timestamp, arrival: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ordered(time));
    key[8..].copy_from_slice(&arrival.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ordered_by_their_bytes_and_come_back_from_them() {
        assert_eq!(sub_key(-1, 2), [0x7F, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 2]);
        let times = [i64::MIN, -7, -1, 0, 1, i64::MAX];
        assert!(times.windows(2).all(|pair| sub_key(pair[0], u64::MAX) < sub_key(pair[1], 0)));
        assert!(times.iter().all(|time| time_of(&sub_key(*time, 9)) == *time));
    }
}
