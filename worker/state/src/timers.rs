//! Timers: when an operator wants to be told to look at a key again. In event time or processing time, which is the caller's.
//!
//! They are hints. A key is due at the time it was registered for, never later, and sometimes though nothing is to be done: after
//! a restore, or where the operator has found a later time meanwhile. So the operator looks into its own state, does what is due,
//! and registers the key again where it is to be looked at later; what it did is in the same snapshot as that it was done, and
//! a barrier may come between any two keys.
//!
//! That makes them cheap. Time is cut into buckets, and a key has one registration a bucket at most, the earliest; a time that
//! moves on (as a session's end does) costs nothing, because the old registration says it when it is due; none is ever
//! deleted alone, a bucket goes as a whole. Of a bucket that time is in, so many of the next registrations are held in memory.

use std::collections::BTreeSet;

use crate::{
    describe::{TableKind, TableShape},
    error::StateError,
    frozen::Frozen,
    keys::{Keys, hash},
    slices::SliceTable,
    table::{RowLayout, Slot},
};

/// A row is a time.
pub(crate) const LAYOUT: RowLayout = RowLayout::Fixed(8);
/// The shortest bucket: shorter ones would be many, and a slice costs half a kilobyte.
const LEAST_BUCKET_MS: i64 = 1_000;
/// So many buckets a horizon at most.
const BUCKETS: i64 = 64;
/// Registrations of one bucket that are held in memory, in the order of their times.
const HELD: usize = 1 << 16;
/// Rows of a bucket that are read at once.
const PIECE: usize = 4096;

/// All timers of one state of an operator in one subtask.
pub struct Timers {
    table: SliceTable,
    bucket_ms: i64,
    /// The begin of the bucket that is held.
    held: Option<i64>,
    /// Its next registrations.
    next: BTreeSet<(i64, Box<[u8]>)>,
    /// There are more than are held, behind these.
    more: bool,
    /// The last that was due of the bucket that is held.
    passed: Option<(i64, Box<[u8]>)>,
    most: usize,
}

impl Timers {
    pub(crate) fn new(table: SliceTable, bucket_ms: i64) -> Self {
        let bucket_ms = bucket_ms.max(1);
        Self { table, bucket_ms, held: None, next: BTreeSet::new(), more: false, passed: None, most: HELD }
    }

    /// How long buckets should be where times are registered up to `horizon_ms` ahead.
    pub const fn bucket_for(horizon_ms: i64) -> i64 {
        let part = horizon_ms / BUCKETS;
        if part > LEAST_BUCKET_MS { part } else { LEAST_BUCKET_MS }
    }

    /// For the parts of checkpoints.
    pub fn shape(name: &str, key: &[String], bucket_ms: i64) -> TableShape {
        TableShape {
            name: name.to_owned(),
            kind: TableKind::Slices,
            key: key.to_vec(),
            row: vec![format!("TIME IN BUCKETS OF {bucket_ms} MS")],
            layout: LAYOUT,
            codec: "timer/1",
        }
    }

    fn bucket(&self, time: i64) -> i64 {
        let rest = time.rem_euclid(self.bucket_ms);
        time.saturating_sub(rest)
    }

    fn first(&self) -> Option<i64> {
        self.table.slices().next()
    }

    /// It has been due, of the bucket that is held.
    fn is_passed(&self, time: i64, key: &[u8]) -> bool {
        self.passed.as_ref().is_some_and(|(last, of)| (time, key) <= (*last, &**of))
    }

    /// Registers these rows' keys, each for its time. Keys stand in the key groups of their own hashes.
    pub fn register(&mut self, keys: &Keys, rows: &[u32], times: &[i64]) -> Result<(), StateError> {
        let mut order: Vec<(i64, u32, i64)> =
            rows.iter().zip(times).map(|(&row, &time)| (self.bucket(time), row, time)).collect();
        order.sort_unstable();
        let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        let mut of_bucket = Vec::new();
        for in_bucket in order.chunk_by(|a, b| a.0 == b.0) {
            let bucket = in_bucket[0].0;
            of_bucket.clear();
            of_bucket.extend(in_bucket.iter().map(|(_, row, _)| *row));
            self.table.upsert(bucket, keys, Some(&of_bucket), &mut slots, &mut created)?;
            created.sort_unstable();
            for (&(_, row, time), &slot) in in_bucket.iter().zip(&slots) {
                let is_new = created.binary_search(&slot).is_ok();
                if is_new {
                    created.retain(|of| *of != slot);
                }
                let (key, old) = (keys.key(row as usize), time_of(self.table.row(bucket, slot)));
                let is_held = self.held == Some(bucket);
                // One that has been due is not needed any more.
                if is_new || time < old || (is_held && self.is_passed(old, key)) {
                    self.table.row_mut(bucket, slot).copy_from_slice(&time.to_le_bytes());
                }
                if is_held {
                    self.hold(time, key);
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, time: i64, key: &[u8]) {
        let is_behind = self.next.last().is_none_or(|(last, of)| (*last, &**of) < (time, key));
        if self.more && is_behind && !self.is_passed(time, key) {
            // It will be read with the others that are not held.
            return;
        }
        self.next.insert((time, key.into()));
        if self.next.len() > self.most {
            self.next.pop_last();
            self.more = true;
        }
    }

    /// No key is due before this time. It is where something is to be done, or where it will be known more exactly.
    pub fn next(&self) -> Option<i64> {
        let first = self.first()?;
        match self.next.first() {
            Some((time, _)) if self.held == Some(first) => Some(*time),
            // Of the bucket that is held all are through, but it may be needed until time has left it.
            _ if self.held == Some(first) && !self.more => {
                let second = self.table.slices().nth(1);
                let end = first.saturating_add(self.bucket_ms - 1);
                Some(second.map_or(end, |second| second.min(end)))
            }
            _ => Some(first),
        }
    }

    /// Adds the keys that are due at `time` to `due`, in the order of their times, until it has `limit` of them. Whether there
    /// may be more.
    pub fn due(&mut self, time: i64, limit: usize, due: &mut Keys) -> Result<bool, StateError> {
        while let Some(first) = self.first().filter(|first| *first <= time) {
            if self.held != Some(first) {
                (self.held, self.passed) = (Some(first), None);
                self.load(first)?;
            }
            while self.next.first().is_some_and(|(of, _)| *of <= time) {
                if due.len() >= limit {
                    return Ok(true);
                }
                if let Some((of, key)) = self.next.pop_first() {
                    due.push(&key, &[], hash(&key));
                    self.passed = self.passed.take().max(Some((of, key)));
                }
            }
            if self.next.is_empty() && self.more {
                self.load(first)?;
                continue;
            }
            if !self.next.is_empty() || first.saturating_add(self.bucket_ms - 1) > time {
                return Ok(false);
            }
            self.table.delete_slice(first)?;
            self.held = None;
        }
        Ok(false)
    }

    /// Reads the next registrations of a bucket.
    fn load(&mut self, bucket: i64) -> Result<(), StateError> {
        self.next.clear();
        self.more = false;
        let mut cursor = None;
        loop {
            let (next, passed, most, mut more) = (&mut self.next, &self.passed, self.most, self.more);
            cursor = self.table.read(bucket, cursor, PIECE, &mut |key, row| {
                let time = time_of(row);
                let is_passed = passed.as_ref().is_some_and(|(last, of)| (time, key) <= (*last, &**of));
                let is_behind = more && next.last().is_some_and(|(last, of)| (*last, &**of) < (time, key));
                if is_passed || is_behind {
                    return;
                }
                next.insert((time, key.into()));
                if next.len() > most {
                    next.pop_last();
                    more = true;
                }
            })?;
            self.more = more;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes out what was written since the last freeze; see [`Table::freeze`](crate::Table::freeze).
    pub fn freeze(&mut self) -> Option<Frozen> {
        self.table.freeze()
    }

    /// Bytes that the timers take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Holds fewer registrations, for tests.
    #[doc(hidden)]
    pub const fn hold_at_most(&mut self, most: usize) {
        self.most = most;
    }
}

fn time_of(row: &[u8]) -> i64 {
    row.first_chunk().map_or(i64::MIN, |bytes| i64::from_le_bytes(*bytes))
}
