//! A table of one operator that is cut into slices of time: (slice end, key) → row. Windows share slices; firing reads them
//! in pieces, and expiry deletes them whole.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    error::StateError,
    frozen::{Frozen, FrozenTable},
    keys::Keys,
    layout::{Space, StateId},
    room::{Bounded, Room},
    store::Store,
    subtask::Shared,
    table::{RowLayout, Slot},
};

/// Stores with fewer bytes than this are not worth being evicted.
const SMALL: usize = 16 << 10;

/// All rows of one sliced state of an operator in one subtask. It belongs to the operator's thread, and is bounded in memory
/// as [`Table`](crate::Table) is.
pub struct SliceTable {
    shared: Arc<Shared>,
    state: StateId,
    layout: RowLayout,
    /// Ascending by end.
    slices: Vec<Slice>,
    /// The slice that was asked for last.
    last: usize,
    /// Deleted slices that the backend still has.
    deleted: BTreeSet<i64>,
    room: Room,
}

struct Slice {
    end: i64,
    store: Store,
}

/// Where a read of a slice goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Memory { slot: u32 },
    Backend { seen: u32, group: u32, after: Option<Vec<u8>> },
}

impl SliceTable {
    /// `ends` are the slices that the backend has.
    pub(crate) fn new(shared: Arc<Shared>, state: StateId, layout: RowLayout, ends: &BTreeSet<i64>) -> Self {
        shared.memory.rows().join();
        let slices = ends.iter().map(|&end| Slice {
            end,
            store: Store::new(shared.clone(), Space { state, slice: Some(end) }, layout, true),
        });
        Self {
            slices: slices.collect(),
            shared,
            state,
            layout,
            last: 0,
            deleted: BTreeSet::new(),
            room: Room::default(),
        }
    }

    #[inline]
    fn find(&self, end: i64) -> Result<usize, usize> {
        if self.slices.get(self.last).is_some_and(|slice| slice.end == end) {
            return Ok(self.last);
        }
        self.slices.binary_search_by_key(&end, |slice| slice.end)
    }

    fn find_or_make(&mut self, end: i64) -> usize {
        self.last = self.find(end).unwrap_or_else(|at| {
            let space = Space { state: self.state, slice: Some(end) };
            // A slice that was deleted before may still be in the backend, but not for us: the deletion is written first.
            let in_backend = self.deleted.contains(&end);
            let store = Store::new(self.shared.clone(), space, self.layout, in_backend).without_backend();
            self.slices.insert(at, Slice { end, store });
            at
        });
        self.last
    }

    /// The store of a slice that the caller knows to exist: slots come from there.
    #[inline]
    fn at(&self, end: i64) -> &Store {
        match self.find(end) {
            Ok(at) => &self.slices[at].store,
            Err(_) => unknown(end),
        }
    }

    #[inline]
    fn at_mut(&mut self, end: i64) -> &mut Store {
        match self.find(end) {
            Ok(at) => {
                self.last = at;
                &mut self.slices[at].store
            }
            Err(_) => unknown(end),
        }
    }

    /// The slots in slice `slice_end` of all rows of `keys`, or of those in `rows`, to which `slots` is then parallel. Rows
    /// that did not exist are made, and reported in `created`. Both vectors are cleared first.
    pub fn upsert(
        &mut self,
        slice_end: i64,
        keys: &Keys,
        rows: Option<&[u32]>,
        slots: &mut Vec<Slot>,
        created: &mut Vec<Slot>,
    ) -> Result<(), StateError> {
        self.make_room()?;
        let at = self.find_or_make(slice_end);
        let store = &mut self.slices[at].store;
        match rows {
            None => store.upsert(keys, 0..keys.len(), slots, created),
            Some(rows) => store.upsert(keys, rows.iter().map(|&row| row as usize), slots, created),
        }
    }

    /// The slots in slice `slice_end` of the rows that exist; none is made.
    pub fn get(
        &mut self,
        slice_end: i64,
        keys: &Keys,
        rows: Option<&[u32]>,
        slots: &mut Vec<Option<Slot>>,
    ) -> Result<(), StateError> {
        self.make_room()?;
        let Ok(at) = self.find(slice_end) else {
            slots.clear();
            slots.resize(rows.map_or(keys.len(), <[u32]>::len), None);
            return Ok(());
        };
        self.last = at;
        let store = &mut self.slices[at].store;
        match rows {
            None => store.get(keys, 0..keys.len(), slots),
            Some(rows) => store.get(keys, rows.iter().map(|&row| row as usize), slots),
        }
    }

    /// A row's bytes.
    #[inline]
    pub fn row(&self, slice_end: i64, slot: Slot) -> &[u8] {
        self.at(slice_end).row(slot)
    }

    /// A row's bytes, to be changed: the row counts as written. Only for [`RowLayout::Fixed`].
    #[inline]
    pub fn row_mut(&mut self, slice_end: i64, slot: Slot) -> &mut [u8] {
        self.at_mut(slice_end).row_mut(slot)
    }

    /// Sets a row's bytes; for [`RowLayout::Fixed`] exactly as many as a row has.
    pub fn set(&mut self, slice_end: i64, slot: Slot, row: &[u8]) {
        self.at_mut(slice_end).set(slot, row);
    }

    /// Removes a row.
    pub fn remove(&mut self, slice_end: i64, slot: Slot) {
        self.at_mut(slice_end).remove(slot);
    }

    /// A row's key, as canonical bytes.
    #[inline]
    pub fn key(&self, slice_end: i64, slot: Slot) -> &[u8] {
        self.at(slice_end).key(slot)
    }

    /// The ends of all slices that hold anything, ascending. Known without reading the backend.
    pub fn slices(&self) -> impl Iterator<Item = i64> {
        self.slices.iter().filter(|slice| !slice.store.is_empty()).map(|slice| slice.end)
    }

    /// Visits up to `limit` rows of a slice from `cursor`, in no order, each once. Returns where to go on, `None` at the end.
    /// Between the pieces anything may happen to the table; rows that are made or removed meanwhile may be visited or not.
    /// A read that was begun is to be brought to its end, or the slice deleted: until then its rows stay in memory.
    pub fn read(
        &mut self,
        slice_end: i64,
        cursor: Option<Cursor>,
        limit: usize,
        f: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<Option<Cursor>, StateError> {
        let Ok(at) = self.find(slice_end) else { return Ok(None) };
        let groups = self.shared.groups.clone();
        let store = &mut self.slices[at].store;
        // Until the read has come to its end, rows stay where they are.
        store.pin(true);
        let mut visit = |_: u16, key: &[u8], row: &[u8]| f(key, row);
        let place = cursor.map_or(Place::Memory { slot: 0 }, |cursor| cursor.0);
        let mut left = limit.max(1);
        let (seen, first, mut after) = match place {
            Place::Memory { slot } => {
                let mut counted = |group: u16, key: &[u8], row: &[u8]| {
                    left -= 1;
                    visit(group, key, row);
                };
                let next = store.visit_memory(slot, limit.max(1), &mut counted);
                if let Some(slot) = next {
                    return Ok(Some(Cursor(Place::Memory { slot })));
                }
                if store.is_complete() {
                    store.pin(false);
                    return Ok(None);
                }
                (store.end(), groups.start, None)
            }
            Place::Backend { seen, group, after } => (seen, group, after),
        };
        for group in first..groups.end {
            if left == 0 {
                return Ok(Some(Cursor(Place::Backend { seen, group, after: None })));
            }
            let (next, visited) = store.visit_backend(group as u16, after.take().as_deref(), seen, left, &mut visit)?;
            left -= visited;
            if next.is_some() {
                return Ok(Some(Cursor(Place::Backend { seen, group, after: next })));
            }
        }
        store.pin(false);
        Ok(None)
    }

    /// Deletes a slice with all its rows. The backend's are deleted with the next persist, by range.
    pub fn delete_slice(&mut self, slice_end: i64) -> Result<(), StateError> {
        self.shared.usable()?;
        if let Ok(at) = self.find(slice_end) {
            let slice = self.slices.remove(at);
            if slice.store.in_backend() {
                self.deleted.insert(slice_end);
            }
        }
        Ok(())
    }

    /// What was deleted always goes first, since a slice of the same end may have been made anew.
    fn freeze_bytes(&mut self, bytes: usize) -> FrozenTable {
        let space = |end| Space { state: self.state, slice: Some(end) };
        let deleted = std::mem::take(&mut self.deleted).into_iter().map(space).collect();
        let (mut generations, mut left) = (Vec::new(), bytes);
        for Slice { store, .. } in &mut self.slices {
            if left == 0 {
                break;
            }
            let (live, row) = (store.live(), store.row_bytes());
            generations.extend(store.freeze_piece((left / row).max(1)));
            left = left.saturating_sub((live - store.live()) * row);
        }
        FrozenTable { deleted, generations }
    }

    /// Takes out what was written since the last freeze; see [`Table::freeze`](crate::Table::freeze).
    pub fn freeze(&mut self) -> Option<Frozen> {
        let table = self.freeze_bytes(usize::MAX);
        Some(self.shared.gate.freeze(table))
    }

    /// Bytes that the table takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.slices.iter().map(|slice| slice.store.charged()).sum()
    }

    fn make_room(&mut self) -> Result<(), StateError> {
        self.shared.usable()?;
        // The sum over all slices is only made when it may matter.
        if !self.shared.memory.rows().nearly_exceeded_by(usize::MAX) {
            return Ok(());
        }
        let (own, shared, mut room) = (self.memory_bytes(), self.shared.clone(), std::mem::take(&mut self.room));
        let made = shared.make_room(&mut room, own, self);
        self.room = room;
        made
    }
}

impl Bounded for SliceTable {
    fn live_bytes(&self) -> usize {
        self.slices.iter().map(|slice| slice.store.live() * slice.store.row_bytes()).sum()
    }

    fn freeze_piece(&mut self, bytes: usize) -> FrozenTable {
        self.freeze_bytes(bytes)
    }

    fn evict(&mut self, bytes: usize, pages: usize) -> usize {
        let mut freed = 0;
        for Slice { store, .. } in self.slices.iter_mut().filter(|slice| slice.store.charged() > SMALL) {
            if freed < bytes {
                freed += store.evict(bytes - freed, pages);
            }
        }
        freed
    }
}

#[cold]
fn unknown(end: i64) -> ! {
    // A slot without its slice is a mistake of the operator's author, as an index beyond the end of a slice is.
    unreachable!("slots were used in slice {end}, which does not exist")
}

impl Drop for SliceTable {
    fn drop(&mut self) {
        self.shared.memory.rows().leave();
    }
}
