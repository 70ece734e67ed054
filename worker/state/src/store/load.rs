//! Bringing rows of the backend into memory: one ordered look-up for all keys of a batch that are not there.

use super::{
    Store, bucket_hash, hash_of,
    page::{Stamp, place},
    shard_of,
};
use crate::{
    backend::KeyedBackend,
    error::StateError,
    keys::{Keys, key_group},
    table::Slot,
};

/// A key that memory does not have.
#[derive(Clone, Copy)]
pub(super) struct Miss {
    pub(super) slot: u32,
    pub(super) row: u32,
}

impl Store {
    /// Asks the backend for all misses at once. What it does not have is new.
    pub(super) fn load(&mut self, keys: &Keys, created: &mut Vec<Slot>) -> Result<(), StateError> {
        let mut misses = std::mem::take(&mut self.misses);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for miss in &misses {
            let (page, i) = place(miss.slot);
            buffer.push(self.keys[page].get().group(i), keys.key(miss.row as usize));
        }
        let order = buffer.sorted();
        let sorted: Vec<&[u8]> = order.iter().map(|&at| buffer.get(at as usize)).collect();
        let mut wrong = None;
        let backend = self.shared.backend.clone();
        backend.multi_get(&sorted, &mut |at, value| {
            let miss = &mut misses[order[at] as usize];
            wrong = wrong.or(self.fill(miss.slot, value));
            miss.row = u32::MAX;
        })?;
        created.extend(misses.iter().filter(|miss| miss.row != u32::MAX).map(|miss| Slot(miss.slot)));
        self.misses = misses;
        self.buffer = buffer;
        self.width_fits(wrong)
    }

    /// Puts a row of the backend in. Returns its width if that is not ours.
    fn fill(&mut self, slot: u32, value: &[u8]) -> Option<usize> {
        if self.width.is_some_and(|width| width != value.len()) {
            return Some(value.len());
        }
        let (page, i) = place(slot);
        let (rows, width) = self.rows_mut(page);
        let before = rows.data_bytes();
        rows.set(i, width, value);
        let was = rows.set_stamp(i, Stamp::CLEAN);
        let after = rows.data_bytes();
        self.stamped(page, was, Stamp::CLEAN);
        if self.width.is_none() {
            self.data = (self.data + after).saturating_sub(before);
        }
        None
    }

    fn width_fits(&self, wrong: Option<usize>) -> Result<(), StateError> {
        match (wrong, self.width) {
            (Some(found), Some(width)) => Err(StateError::mismatch(format!(
                "a restored row of {} has {found} bytes where {width} are expected; the operator's state has changed",
                self.shared.describe(self.space.state)
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn load_existing(&mut self, keys: &Keys, slots: &mut [Option<Slot>]) -> Result<(), StateError> {
        let misses = std::mem::take(&mut self.misses);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for miss in &misses {
            let group = key_group(keys.key_group_hash(miss.row as usize), self.shared.max_parallelism).0;
            buffer.push(group, keys.key(miss.row as usize));
        }
        // The same key may have been asked for more than once.
        let order = buffer.sorted();
        let mut sorted: Vec<&[u8]> = Vec::with_capacity(order.len());
        let mut first: Vec<usize> = Vec::with_capacity(order.len());
        for (at, &miss) in order.iter().enumerate() {
            let key = buffer.get(miss as usize);
            if sorted.last() != Some(&key) {
                sorted.push(key);
                first.push(at);
            }
        }
        let mut wrong = None;
        let backend = self.shared.backend.clone();
        backend.multi_get(&sorted, &mut |at, value| {
            let row = misses[order[first[at]] as usize].row as usize;
            let (hash, key) = (keys.hash(row), keys.key(row));
            let group = key_group(keys.key_group_hash(row), self.shared.max_parallelism).0;
            let slot = self.insert_clean(hash, group, key);
            wrong = wrong.or(self.fill(slot, value));
            let end = first.get(at + 1).copied().unwrap_or(order.len());
            for &miss in &order[first[at]..end] {
                slots[misses[miss as usize].slot as usize] = Some(Slot(slot));
            }
        })?;
        self.misses = misses;
        self.buffer = buffer;
        self.width_fits(wrong)
    }

    fn insert_clean(&mut self, hash: u64, group: u16, key: &[u8]) -> u32 {
        let slot = self.push(hash, group, key, Stamp::CLEAN);
        let shard = shard_of(hash, self.shards.len());
        let pages = &self.keys;
        self.shards[shard].insert_unique(bucket_hash(hash), slot, |&slot| bucket_hash(hash_of(pages, slot)));
        slot
    }
}
