//! Bags that are only added to, one a key: entries in the order in which they came, which are read and never changed.
//!
//! A key's row holds the newest entries; when they are many they become a chunk, a row of its own that is never written again.
//! So adding touches one row however long the bag is, and reading it is one look-up more. FORMAT.md has the bytes.

use std::ops::ControlFlow;

use crate::{
    describe::{TableKind, TableShape},
    error::StateError,
    frozen::Frozen,
    keys::{Keys, read_varint},
    map::{push_varint, take_bytes},
    table::{RowLayout, Slot, Table},
};

/// Newest entries of more bytes become a chunk.
const OPEN_BYTES: usize = 1 << 10;
/// Chunks that are read at once for one key, and for all.
const CHUNKS_A_KEY: u32 = 64;
const CHUNKS_A_ROUND: usize = 4096;

const HEAD_CODEC: &str = "log-head/1";
const CHUNK_CODEC: &str = "log-chunk/1";

/// All logs of one state of an operator in one subtask.
pub struct LogTable {
    heads: Table,
    chunks: Table,
    /// Of the logs that are open.
    keys: Keys,
    slots: Vec<Option<Slot>>,
    fresh: bool,
    chunk_keys: Keys,
    chunk_slots: Vec<Option<Slot>>,
}

/// The name of the table of chunks.
pub(crate) fn chunks_name(name: &str) -> String {
    format!("{name}.chunks")
}

/// A place in a log, which stays where it is when entries are added: a read can go on there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    chunk: u32,
    byte: u32,
}

/// Called with the number of the read, the place behind the entry, and the entry.
pub type VisitLog<'a> = dyn FnMut(usize, LogPlace, &[u8]) -> ControlFlow<()> + 'a;

/// Entries to be added to open logs.
#[derive(Debug, Default)]
pub struct Appends {
    bytes: Vec<u8>,
    /// Which log, and where its entry ends.
    list: Vec<(u32, usize)>,
}

impl Appends {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    /// Adds an entry.
    pub fn push(&mut self, log: usize, entry: &[u8]) {
        push_varint(&mut self.bytes, entry.len());
        self.bytes.extend_from_slice(entry);
        self.list.push((log as u32, self.bytes.len()));
    }
}

struct Head<'a> {
    entries: u64,
    /// Full chunks.
    chunks: u32,
    open: &'a [u8],
}

fn malformed() -> StateError {
    StateError::mismatch("a log in the state is not of the form that this version writes")
}

impl<'a> Head<'a> {
    fn read(row: &'a [u8]) -> Result<Self, StateError> {
        if row.is_empty() {
            return Ok(Self { entries: 0, chunks: 0, open: &[] });
        }
        let mut rest = row;
        let mut read = || {
            let entries = read_varint(&mut rest)? as u64;
            let chunks = u32::try_from(read_varint(&mut rest)?).ok()?;
            Some(Self { entries, chunks, open: rest })
        };
        read().ok_or_else(malformed)
    }

    fn write(&self, out: &mut Vec<u8>) {
        push_varint(out, self.entries as usize);
        push_varint(out, self.chunks as usize);
        out.extend_from_slice(self.open);
    }
}

impl LogTable {
    pub(crate) fn new(heads: Table, chunks: Table) -> Self {
        Self {
            heads,
            chunks,
            keys: Keys::new(),
            slots: Vec::new(),
            fresh: false,
            chunk_keys: Keys::new(),
            chunk_slots: Vec::new(),
        }
    }

    /// Both tables of logs, for the parts of checkpoints: the types of the key, and what an entry holds.
    pub fn shapes(name: &str, key: &[String], entry: &[String]) -> [TableShape; 2] {
        let mut chunk_key = key.to_vec();
        chunk_key.push("CHUNK".to_owned());
        let shape = |name: String, key: Vec<String>, codec| TableShape {
            name,
            kind: TableKind::Table,
            key,
            row: entry.to_vec(),
            layout: RowLayout::Variable,
            codec,
        };
        [shape(name.to_owned(), key.to_vec(), HEAD_CODEC), shape(chunks_name(name), chunk_key, CHUNK_CODEC)]
    }

    /// Opens the logs of these rows' keys, until others are opened: log `i` is that of `rows[i]`. A key may be there once only.
    pub fn open(&mut self, keys: &Keys, rows: &[u32]) -> Result<(), StateError> {
        self.keys.clear();
        for &row in rows {
            self.keys.push_row(keys, row as usize);
        }
        self.fresh = false;
        self.refresh()
    }

    fn refresh(&mut self) -> Result<(), StateError> {
        if !self.fresh {
            self.heads.get(&self.keys, &mut self.slots)?;
            self.fresh = true;
        }
        Ok(())
    }

    fn head(&self, log: usize) -> Result<Head<'_>, StateError> {
        Head::read(self.slots[log].map_or(&[], |slot| self.heads.row(slot)))
    }

    /// How many entries a log has.
    pub fn len(&mut self, log: usize) -> Result<u64, StateError> {
        self.refresh()?;
        Ok(self.head(log)?.entries)
    }

    /// A log has no entries.
    pub fn is_empty(&mut self, log: usize) -> Result<bool, StateError> {
        Ok(self.len(log)? == 0)
    }

    /// Adds entries, in their order.
    pub fn append(&mut self, appends: &Appends) -> Result<(), StateError> {
        let mut by_log: Vec<(u32, std::ops::Range<usize>)> = Vec::with_capacity(appends.list.len());
        let mut start = 0;
        for &(log, end) in &appends.list {
            by_log.push((log, start..end));
            start = end;
        }
        // Stable: entries of one log stay in their order.
        by_log.sort_by_key(|(log, _)| *log);
        let logs: Vec<u32> = by_log.chunk_by(|a, b| a.0 == b.0).map(|of_log| of_log[0].0).collect();
        let Self { heads, chunks, keys, chunk_keys, .. } = self;
        let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        heads.upsert_rows(keys, &logs, &mut slots, &mut created)?;
        chunk_keys.clear();
        let mut full: Vec<Vec<u8>> = Vec::new();
        let mut row = Vec::new();
        for (of_log, &slot) in by_log.chunk_by(|a, b| a.0 == b.0).zip(&slots) {
            let log = of_log[0].0 as usize;
            let head = Head::read(heads.row(slot))?;
            let (entries, mut number) = (head.entries + of_log.len() as u64, head.chunks);
            let mut open = head.open.to_vec();
            for (_, entry) in of_log {
                if open.len() > OPEN_BYTES {
                    chunk_keys.push(keys.key(log), &number.to_be_bytes(), keys.key_group_hash(log));
                    full.push(std::mem::take(&mut open));
                    number += 1;
                }
                open.extend_from_slice(&appends.bytes[entry.clone()]);
            }
            row.clear();
            Head { entries, chunks: number, open: &open }.write(&mut row);
            heads.set(slot, &row);
        }
        self.fresh = false;
        if !full.is_empty() {
            chunks.upsert(chunk_keys, &mut slots, &mut created)?;
            for (chunk, &slot) in full.iter().zip(&slots) {
                chunks.set(slot, chunk);
            }
        }
        Ok(())
    }

    /// Visits the entries of these logs from these places on, those of one log in their order. `visit` gets which read it is
    /// of, the place behind the entry, and the entry; it says whether to go on with that log.
    pub fn read(&mut self, from: &[(u32, LogPlace)], visit: &mut VisitLog<'_>) -> Result<(), StateError> {
        self.refresh()?;
        let mut at: Vec<(usize, LogPlace)> = from.iter().map(|(_, place)| *place).enumerate().collect();
        let mut round: Vec<(usize, u32)> = Vec::new();
        while !at.is_empty() {
            round.clear();
            self.chunk_keys.clear();
            for (i, place) in &at {
                let log = from[*i].0 as usize;
                let end = self.head(log)?.chunks.min(place.chunk.saturating_add(CHUNKS_A_KEY));
                if round.len() >= CHUNKS_A_ROUND {
                    break;
                }
                for chunk in place.chunk..end {
                    self.chunk_keys.push(self.keys.key(log), &chunk.to_be_bytes(), self.keys.key_group_hash(log));
                    round.push((*i, chunk));
                }
            }
            self.chunks.get(&self.chunk_keys, &mut self.chunk_slots)?;
            let mut slots = round.iter().zip(&self.chunk_slots).peekable();
            let mut left = Vec::new();
            for (i, place) in &mut at {
                let mut over = false;
                while let Some(((_, chunk), slot)) = slots.next_if(|((of, _), _)| of == i) {
                    let block = self.chunks.row(slot.ok_or_else(malformed)?);
                    over = over || read_block(*i, block, place, visit)?;
                    if !over {
                        *place = LogPlace { chunk: chunk + 1, byte: 0 };
                    }
                }
                let head = self.head(from[*i].0 as usize)?;
                if !over && place.chunk < head.chunks {
                    left.push((*i, *place));
                } else if !over {
                    read_block(*i, head.open, place, visit)?;
                }
            }
            at = left;
        }
        Ok(())
    }

    /// Removes all entries of these logs.
    pub fn remove(&mut self, logs: &[u32]) -> Result<(), StateError> {
        self.refresh()?;
        self.chunk_keys.clear();
        for &log in logs {
            let log = log as usize;
            for chunk in 0..self.head(log)?.chunks {
                self.chunk_keys.push(self.keys.key(log), &chunk.to_be_bytes(), self.keys.key_group_hash(log));
            }
        }
        for slot in logs.iter().filter_map(|&log| self.slots[log as usize]) {
            self.heads.remove(slot);
        }
        self.fresh = false;
        let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        self.chunks.upsert(&self.chunk_keys, &mut slots, &mut created)?;
        for slot in slots {
            self.chunks.remove(slot);
        }
        Ok(())
    }

    /// Takes out what was written since the last freeze; see [`Table::freeze`].
    pub fn freeze(&mut self) -> impl Iterator<Item = Frozen> + use<> {
        [self.heads.freeze(), self.chunks.freeze()].into_iter().flatten()
    }

    /// Bytes that the logs take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.heads.memory_bytes() + self.chunks.memory_bytes()
    }
}

/// Visits entries of a chunk from a place on, which moves with it; whether the read is over.
fn read_block(i: usize, block: &[u8], place: &mut LogPlace, visit: &mut VisitLog<'_>) -> Result<bool, StateError> {
    let mut rest = block.get(place.byte as usize..).ok_or_else(malformed)?;
    while !rest.is_empty() {
        let entry = take_bytes(&mut rest).ok_or_else(malformed)?;
        place.byte = (block.len() - rest.len()) as u32;
        if visit(i, *place, entry).is_break() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::hex;

    /// The golden vector of FORMAT.md. It never changes.
    #[test]
    fn heads_are_those_of_the_format() {
        let mut appends = Appends::new();
        appends.push(0, b"one");
        appends.push(0, b"");
        let mut row = Vec::new();
        Head { entries: 302, chunks: 3, open: &appends.bytes }.write(&mut row);
        let line =
            format!("| a log of 302 entries, of which `one` and an empty one are in no chunk | `{}` |", hex(&row));
        assert!(include_str!("../FORMAT.md").contains(&line), "FORMAT.md lacks the line\n{line}");
        let back = Head::read(&row).unwrap();
        assert_eq!((back.entries, back.chunks, back.open), (302, 3, &appends.bytes[..]));
        assert!(Head::read(&[0xff]).is_err());
    }
}
