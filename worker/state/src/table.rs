//! A keyed table of one operator: key → row.

use std::sync::Arc;

use crate::{
    error::StateError,
    frozen::{Frozen, FrozenTable},
    keys::{KeyGroup, Keys},
    layout::Space,
    room::{Bounded, Room},
    store::Store,
    subtask::Shared,
};

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLayout {
    /// So many bytes; zeroes when it is made.
    Fixed(usize),
    /// Any number of bytes; none when it is made.
    Variable,
}

/// Where a row of a table stands. Valid until the next `upsert`, `get`, `read` or `scan_all` of that table; changing, setting
/// and removing rows, and freezing, keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Called with a row's key group, key and bytes.
pub type VisitRow<'a> = dyn FnMut(KeyGroup, &[u8], &[u8]) + 'a;

/// Rows to look at once when all are scanned.
const SCAN_PIECE: usize = 4096;

/// All rows of one state of an operator in one subtask. It belongs to the operator's thread.
///
/// What it holds in memory is bounded by the share of rows in the worker's budget ([`Shares::caches`](crate::Shares)): beyond
/// that, rows are written to the backend and dropped, those first that have not been written for longest.
pub struct Table {
    shared: Arc<Shared>,
    store: Store,
    room: Room,
}

impl Table {
    pub(crate) fn new(shared: Arc<Shared>, space: Space, layout: RowLayout, in_backend: bool) -> Self {
        shared.memory.rows().join();
        Self { store: Store::new(shared.clone(), space, layout, in_backend), shared, room: Room::default() }
    }

    /// The slots of all rows of `keys`: the same key has the same slot. Rows that did not exist are made and reported in
    /// `created`, each once; they count as written. Both vectors are cleared first. The backend is asked once, for all keys
    /// that are not in memory.
    pub fn upsert(&mut self, keys: &Keys, slots: &mut Vec<Slot>, created: &mut Vec<Slot>) -> Result<(), StateError> {
        self.make_room()?;
        self.store.upsert(keys, 0..keys.len(), slots, created)
    }

    /// Like [`upsert`](Self::upsert), only for these rows of `keys`; `slots` is parallel to `rows`.
    pub fn upsert_rows(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        slots: &mut Vec<Slot>,
        created: &mut Vec<Slot>,
    ) -> Result<(), StateError> {
        self.make_room()?;
        self.store.upsert(keys, rows.iter().map(|&row| row as usize), slots, created)
    }

    /// The slots of all rows of `keys` that exist; none is made.
    pub fn get(&mut self, keys: &Keys, slots: &mut Vec<Option<Slot>>) -> Result<(), StateError> {
        self.make_room()?;
        self.store.get(keys, 0..keys.len(), slots)
    }

    /// A row's bytes.
    #[inline]
    pub fn row(&self, slot: Slot) -> &[u8] {
        self.store.row(slot)
    }

    /// A row's bytes, to be changed: the row counts as written. Only for [`RowLayout::Fixed`].
    #[inline]
    pub fn row_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.store.row_mut(slot)
    }

    /// Sets a row's bytes; for [`RowLayout::Fixed`] exactly as many as a row has.
    pub fn set(&mut self, slot: Slot, row: &[u8]) {
        self.store.set(slot, row);
    }

    /// Removes a row. An `upsert` of its key makes it anew.
    pub fn remove(&mut self, slot: Slot) {
        self.store.remove(slot);
    }

    /// A row's key, as canonical bytes.
    #[inline]
    pub fn key(&self, slot: Slot) -> &[u8] {
        self.store.key(slot)
    }

    /// Takes out what was written since the last freeze, for [`SubtaskState::persist`](crate::SubtaskState::persist). It is a
    /// matter of pointers. Also where nothing was written there is something to hand over: until it is persisted or dropped,
    /// nothing newer reaches the backend.
    pub fn freeze(&mut self) -> Option<Frozen> {
        let generations = self.store.freeze().into_iter().collect();
        Some(self.shared.gate.freeze(FrozenTable { deleted: Vec::new(), generations }))
    }

    /// Visits all rows, in no order. Rare: at the end of input, in tests.
    pub fn scan_all(&mut self, f: &mut VisitRow<'_>) -> Result<(), StateError> {
        let mut visit = |group, key: &[u8], row: &[u8]| f(KeyGroup(group), key, row);
        self.store.visit_memory(0, usize::MAX, &mut visit);
        if self.store.is_complete() {
            return Ok(());
        }
        let seen = self.store.end();
        for group in self.shared.groups.clone() {
            let mut after = None;
            loop {
                let group = group as u16;
                (after, _) = self.store.visit_backend(group, after.as_deref(), seen, SCAN_PIECE, &mut visit)?;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Bytes that the table takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.store.charged()
    }

    fn make_room(&mut self) -> Result<(), StateError> {
        self.shared.usable()?;
        self.store.clean();
        let own = self.store.charged();
        let shared = self.shared.clone();
        shared.make_room(&mut self.room, own, &mut Rows(&mut self.store))
    }
}

struct Rows<'a>(&'a mut Store);

impl Bounded for Rows<'_> {
    fn live_bytes(&self) -> usize {
        self.0.live() * self.0.row_bytes()
    }

    fn freeze_piece(&mut self, bytes: usize) -> FrozenTable {
        let rows = (bytes / self.0.row_bytes()).max(1);
        FrozenTable { deleted: Vec::new(), generations: self.0.freeze_piece(rows).into_iter().collect() }
    }

    fn evict(&mut self, bytes: usize, pages: usize) -> usize {
        self.0.evict(bytes, pages)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.shared.memory.rows().leave();
    }
}
