//! Going through all rows of a store: first those in memory, then those that only the backend has.

use std::ops::ControlFlow;

use super::{Store, page, page::place};
use crate::{backend::KeyedBackend, error::StateError, keys::hash, table::Slot};

/// Called with a row's key group, key and bytes.
pub(crate) type Visit<'a> = dyn FnMut(u16, &[u8], &[u8]) + 'a;

impl Store {
    /// One past the last slot.
    pub(crate) fn end(&self) -> u32 {
        let last = self.rows.len().saturating_sub(1);
        page::slot(last as u32, self.rows.get(last).map_or(0, |rows| rows.get().len()))
    }

    /// While pinned, no row changes its slot, and new rows come after [`end`](Self::end).
    pub(crate) fn pin(&mut self, pinned: bool) {
        if pinned && !self.pinned {
            self.open = self.rows.len().saturating_sub(1) as u32;
        }
        self.pinned = pinned;
    }

    /// Visits up to `limit` rows of memory from slot `from` on. Returns the slot to go on with, `None` at the end.
    pub(crate) fn visit_memory(&self, from: u32, limit: usize, f: &mut Visit<'_>) -> Option<u32> {
        let mut visited = 0;
        let (first, mut start) = place(from);
        for (page, (keys, rows)) in (0..).zip(self.keys.iter().zip(&self.rows)).skip(first) {
            let (keys, rows) = (keys.get(), rows.get());
            for i in std::mem::take(&mut start)..rows.len() {
                if visited == limit {
                    return Some(page::slot(page, i));
                }
                if !rows.stamp(i).is_removed() {
                    f(keys.group(i), keys.key(i), rows.row(i, self.width));
                    visited += 1;
                }
            }
        }
        None
    }

    /// Visits up to `limit` rows of the backend in key group `group`, after key `after`, that were not in memory before slot
    /// `seen`. Rows that came into memory since are visited as they are there. Returns the key to go on after, `None` at the end
    /// of the key group, and how many rows were visited.
    pub(crate) fn visit_backend(
        &self,
        group: u16,
        after: Option<&[u8]>,
        seen: u32,
        limit: usize,
        f: &mut Visit<'_>,
    ) -> Result<(Option<Vec<u8>>, usize), StateError> {
        let (mut from, to) = self.space.range(group);
        let prefix = from.len();
        if let Some(after) = after {
            from.extend_from_slice(after);
            from.push(0);
        }
        let mut visited = 0;
        let mut last = None;
        self.shared.backend.scan(&from, &to, &mut |key, value| {
            let key = &key[prefix..];
            match self.find(hash(key), key) {
                Some(slot) if slot < seen || self.stamp(slot).is_removed() => return ControlFlow::Continue(()),
                Some(slot) => f(group, key, self.row(Slot(slot))),
                None => f(group, key, value),
            }
            visited += 1;
            if visited == limit {
                last = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok((last, visited))
    }
}
