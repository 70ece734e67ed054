//! Entries side by side in the order of their sub-keys: what a head, an inner node and a leaf hold.
//!
//! An entry is the length of its sub-key as LEB128, the sub-key, the length of its value, the value.

use std::ops::Range;

use crate::{
    error::StateError,
    keys::{read_varint, varint_length, write_varint},
};

pub(super) fn malformed() -> StateError {
    StateError::mismatch("a map in the state is not of the form that this version writes")
}

/// Appends LEB128.
pub(crate) fn push_varint(out: &mut Vec<u8>, value: usize) {
    let at = out.len();
    out.resize(at + varint_length(value), 0);
    write_varint(&mut out[at..], value);
}

/// Takes bytes off, with their length before them.
pub(crate) fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_varint(from)?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// A sub-key and its value.
pub(super) type Entry<'a> = (&'a [u8], &'a [u8]);

/// Reads entries.
#[derive(Clone, Copy)]
pub(super) struct Entries<'a>(pub(super) &'a [u8]);

impl<'a> Entries<'a> {
    /// The next entry.
    #[inline]
    pub(super) fn take(&mut self) -> Result<Option<Entry<'a>>, StateError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let sub = take_bytes(&mut self.0).ok_or_else(malformed)?;
        let value = take_bytes(&mut self.0).ok_or_else(malformed)?;
        Ok(Some((sub, value)))
    }

    /// The value under a sub-key.
    pub(super) fn find(mut self, sub: &[u8]) -> Result<Option<&'a [u8]>, StateError> {
        while let Some((at, value)) = self.take()? {
            match at.cmp(sub) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(value)),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Of an inner node: the child in which a sub-key belongs, the last one that does not begin after it.
    pub(super) fn route(mut self, sub: &[u8]) -> Result<u32, StateError> {
        let (_, mut child) = self.take()?.ok_or_else(malformed)?;
        while let Some((separator, next)) = self.take()? {
            if separator > sub {
                break;
            }
            child = next;
        }
        child_number(child)
    }
}

/// The value of an inner node's entry.
pub(super) fn child_number(mut value: &[u8]) -> Result<u32, StateError> {
    read_varint(&mut value).and_then(|number| u32::try_from(number).ok()).ok_or_else(malformed)
}

/// Entries that are being put together.
#[derive(Default)]
pub(super) struct Built {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Built {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many entries.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn push(&mut self, sub: &[u8], value: &[u8]) {
        self.starts.push(self.bytes.len());
        push_varint(&mut self.bytes, sub.len());
        self.bytes.extend_from_slice(sub);
        push_varint(&mut self.bytes, value.len());
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn push_child(&mut self, separator: &[u8], child: u32) {
        let mut number = [0; 5];
        let length = write_varint(&mut number, child as usize);
        self.push(separator, &number[..length]);
    }

    /// Becomes `block` with these changes, each of another sub-key and ascending: a value to be set, or none to be removed.
    pub(super) fn merge<'a>(
        &mut self,
        block: &[u8],
        changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), StateError> {
        self.clear();
        let mut entries = Entries(block);
        let mut entry = entries.take()?;
        for (sub, value) in changes {
            while let Some((at, old)) = entry.filter(|(at, _)| *at < sub) {
                self.push(at, old);
                entry = entries.take()?;
            }
            if entry.is_some_and(|(at, _)| at == sub) {
                entry = entries.take()?;
            }
            if let Some(value) = value {
                self.push(sub, value);
            }
        }
        while let Some((at, old)) = entry {
            self.push(at, old);
            entry = entries.take()?;
        }
        Ok(())
    }

    /// Gives the first entry another sub-key, which is none above its own.
    pub(super) fn rename_first(&mut self, sub: &[u8]) -> Result<(), StateError> {
        let old = std::mem::take(self);
        let mut entries = Entries(&old.bytes);
        let mut first = Some(sub);
        while let Some((at, value)) = entries.take()? {
            self.push(first.take().unwrap_or(at), value);
        }
        Ok(())
    }

    /// Cuts the entries into pieces of about three quarters of `most` bytes, with at least so many entries each; all in one
    /// where they fit.
    pub(super) fn pieces(&self, most: usize, least_entries: usize) -> Vec<Range<usize>> {
        let end = self.bytes.len();
        if end <= most {
            return std::iter::once(0..end).filter(|piece| !piece.is_empty()).collect();
        }
        let target = end.div_ceil(end.div_ceil(most / 4 * 3));
        let (mut pieces, mut start, mut entries) = (Vec::new(), 0, 0);
        for (i, &at) in self.starts.iter().enumerate() {
            if at - start >= target && entries >= least_entries && self.starts.len() - i >= least_entries {
                pieces.push(start..at);
                (start, entries) = (at, 0);
            }
            entries += 1;
        }
        pieces.push(start..end);
        pieces
    }
}

/// The first sub-key of a block.
pub(super) fn first_sub(block: &[u8]) -> Result<&[u8], StateError> {
    Entries(block).take()?.map(|(sub, _)| sub).ok_or_else(malformed)
}
