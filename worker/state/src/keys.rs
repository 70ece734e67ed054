//! Keys: their canonical bytes, hash and key group. FORMAT.md holds the tables and golden bytes; none of it ever changes.
//!
//! Rows are encoded a column at a time. Equal values of one type have equal bytes, each value says by itself where it ends, so
//! that no two different keys share their bytes and a group's key is a prefix of the keys composed with it. Fixed-width values
//! are big-endian and order-preserving, so that neighbours stand near each other in a backend; strings and binary are not
//! order-preserving.

mod decode;
mod encode;
pub mod sort;

use std::ops::Range;

use arrow::array::ArrayRef;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::StateError;

pub use decode::decode_keys;
pub(crate) use decode::read_varint;
pub(crate) use encode::{varint_length, write_varint};

/// The seed of the hash of keys: `Weir` and the number of the format.
pub const HASH_SEED: u64 = 0x5765_6972_0000_0001;

/// The most key groups a job can have: a key group is two bytes.
pub const MAX_KEY_GROUPS: u32 = 1 << 15;

/// The unit by which keyed state is assigned and moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u16);

/// The hash of a key's canonical bytes.
#[inline]
pub fn hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, HASH_SEED)
}

/// The key group of a hash: its high half, scaled.
#[inline]
pub fn key_group(hash: u64, max_parallelism: u32) -> KeyGroup {
    KeyGroup((((hash >> 32) * u64::from(max_parallelism)) >> 32) as u16)
}

/// The subtask that owns a key group.
#[inline]
pub fn subtask_of(key_group: KeyGroup, max_parallelism: u32, parallelism: u32) -> u32 {
    u32::from(key_group.0) * parallelism / max_parallelism
}

/// The key groups that a subtask owns: the inverse of [`subtask_of`].
pub fn key_group_range(subtask: u32, parallelism: u32, max_parallelism: u32) -> Range<u32> {
    let first = |subtask: u32| (subtask * max_parallelism).div_ceil(parallelism);
    first(subtask)..first(subtask + 1)
}

/// The keys of a batch's rows: canonical bytes and hashes. One is reused for all batches of an operator.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    /// One more than rows.
    offsets: Vec<u32>,
    hashes: Vec<u64>,
    /// Where the key group is not that of the row's own hash; else empty.
    group_hashes: Vec<u64>,
    /// Where the next column of each row is written.
    cursors: Vec<u32>,
}

impl Keys {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the content by the keys of these columns, `rows` long each. No columns make `rows` empty keys, which all
    /// fall into the one key group of the empty key.
    pub fn encode(&mut self, columns: &[ArrayRef], rows: usize) -> Result<(), StateError> {
        self.group_hashes.clear();
        encode::encode(columns, rows, &mut self.bytes, &mut self.offsets, &mut self.cursors)?;
        self.hashes.clear();
        let (bytes, offsets) = (&self.bytes, &self.offsets);
        self.hashes.extend(offsets.windows(2).map(|at| hash(&bytes[at[0] as usize..at[1] as usize])));
        Ok(())
    }

    /// Makes these composed keys: they fall into the key groups of `group_hashes` (one a row, the hashes of the keys that
    /// they were composed from), and so stand where those do.
    pub fn with_key_group_hashes(&mut self, group_hashes: &[u64]) -> Result<(), StateError> {
        if group_hashes.len() != self.len() {
            let (rows, given) = (self.len(), group_hashes.len());
            return Err(StateError::mismatch(format!("{given} key group hashes were given for {rows} keys")));
        }
        self.group_hashes.clear();
        self.group_hashes.extend_from_slice(group_hashes);
        Ok(())
    }

    /// Removes all keys, to be filled by [`push`](Self::push).
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.hashes.clear();
        self.group_hashes.clear();
    }

    /// Adds `key` with `suffix` behind it, in the key group of `group_hash`, to keys that were [cleared](Self::clear).
    pub fn push(&mut self, key: &[u8], suffix: &[u8], group_hash: u64) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(suffix);
        self.hashes.push(hash(&self.bytes[start..]));
        self.group_hashes.push(group_hash);
        self.offsets.push(self.bytes.len() as u32);
    }

    /// Adds a key of others to keys that were [cleared](Self::clear).
    pub fn push_row(&mut self, of: &Self, row: usize) {
        self.bytes.extend_from_slice(of.key(row));
        self.hashes.push(of.hash(row));
        self.group_hashes.push(of.key_group_hash(row));
        self.offsets.push(self.bytes.len() as u32);
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The canonical bytes of row `i`.
    #[inline]
    pub fn key(&self, i: usize) -> &[u8] {
        &self.bytes[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// The hash of row `i`.
    #[inline]
    pub fn hash(&self, i: usize) -> u64 {
        self.hashes[i]
    }

    /// All hashes.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The hash that row `i`'s key group is made of.
    #[inline]
    pub fn key_group_hash(&self, i: usize) -> u64 {
        if self.group_hashes.is_empty() { self.hashes[i] } else { self.group_hashes[i] }
    }
}

#[cfg(test)]
mod tests;
