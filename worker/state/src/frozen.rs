//! Frozen rows: what a freeze takes out of tables, and how it is written to the backend in the order of the backend's keys.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use weir_runtime::clock;

use crate::{
    backend::{KeyedBackend, WriteBatch},
    budget::StateMemory,
    error::StateError,
    layout::{Space, first_bytes},
    store::page::{KeyPage, RowPage, place},
};

/// The live rows of one store at a freeze, or some of them, by the pages that have some.
pub(crate) struct Generation {
    pub(crate) space: Space,
    pub(crate) width: Option<usize>,
    /// Removed rows may be in the backend.
    pub(crate) deletes: bool,
    pub(crate) pages: Vec<FrozenPage>,
    /// Set when the backend has them.
    pub(crate) written: Arc<AtomicBool>,
    pub(crate) copied: Arc<AtomicUsize>,
    pub(crate) memory: StateMemory,
}

/// A page as it was at a freeze.
pub(crate) struct FrozenPage {
    pub(crate) keys: Arc<KeyPage>,
    pub(crate) rows: Arc<RowPage>,
    /// Rows stamped later than this epoch are the generation's; others were frozen before.
    pub(crate) since: u32,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.pages.clear();
        self.memory.rows().sub(self.copied.swap(0, Ordering::Relaxed));
    }
}

/// All that one table had to write at a freeze: first the slices to be deleted, then rows.
#[derive(Default)]
pub(crate) struct FrozenTable {
    pub(crate) deleted: Vec<Space>,
    /// Ascending by slice.
    pub(crate) generations: Vec<Generation>,
}

/// A row to be written: which page of all generations', and which row of it.
#[derive(Clone, Copy)]
struct Reference(u32);

/// A row of the key group that is being sorted.
struct Sortable {
    generation: u32,
    /// The first bytes of the key, as a number.
    prefix: u128,
    reference: Reference,
}

impl FrozenTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.deleted.is_empty() && self.generations.is_empty()
    }

    /// Writes everything in batches that follow each other in the backend's order, so that a backend can make one sorted run of
    /// them. Returns the bytes of keys and rows.
    pub(crate) fn write(
        &self,
        backend: &dyn KeyedBackend,
        groups: std::ops::Range<u32>,
        batch_bytes: usize,
    ) -> Result<u64, StateError> {
        let mut batch = WriteBatch::new();
        for space in &self.deleted {
            for group in groups.clone() {
                let (from, to) = space.range(group as u16);
                batch.delete_range(from, to);
            }
        }
        if !batch.is_empty() {
            backend.write(&batch)?;
            batch.clear();
        }
        let pages: Vec<_> = (0u32..)
            .zip(&self.generations)
            .flat_map(|(at, generation)| generation.pages.iter().map(move |page| (at, page)))
            .collect();
        let mut bytes = 0;
        let mut sortable = Vec::new();
        let mut key = Vec::new();
        for (group, references) in by_group(&self.generations, &pages) {
            sortable.clear();
            sortable.extend(references.iter().map(|&reference| {
                let (page, i) = place(reference.0);
                Sortable { generation: pages[page].0, prefix: first_bytes(pages[page].1.keys.key(i)), reference }
            }));
            sortable.sort_unstable_by(|a, b| {
                (a.generation, a.prefix).cmp(&(b.generation, b.prefix)).then_with(|| {
                    let key = |reference: Reference| {
                        let (page, i) = place(reference.0);
                        pages[page].1.keys.key(i)
                    };
                    key(a.reference).cmp(key(b.reference))
                })
            });
            for row in &sortable {
                let generation = &self.generations[row.generation as usize];
                let (page, i) = place(row.reference.0);
                let FrozenPage { keys, rows, .. } = pages[page].1;
                key.clear();
                generation.space.prefix(group, &mut key);
                key.extend_from_slice(keys.key(i));
                if rows.stamp(i).is_removed() {
                    batch.delete(&key);
                } else {
                    batch.put(&key, rows.row(i, generation.width));
                }
                if batch.bytes() >= batch_bytes {
                    bytes += batch.bytes() as u64;
                    backend.write(&batch)?;
                    batch.clear();
                }
            }
        }
        if !batch.is_empty() {
            bytes += batch.bytes() as u64;
            backend.write(&batch)?;
        }
        for generation in &self.generations {
            generation.written.store(true, Ordering::Release);
        }
        Ok(bytes)
    }
}

/// All rows to be written, by key group: one counting pass, one that deals them out. Four bytes a row.
fn by_group(generations: &[Generation], pages: &[(u32, &FrozenPage)]) -> impl Iterator<Item = (u16, Vec<Reference>)> {
    let each = |f: &mut dyn FnMut(u16, Reference)| {
        for (page, &(generation, FrozenPage { keys, rows, since })) in (0u32..).zip(pages) {
            let generation = &generations[generation as usize];
            for i in 0..rows.len() {
                let stamp = rows.stamp(i);
                if stamp.epoch() > *since && (generation.deletes || !stamp.is_removed()) {
                    f(keys.group(i), Reference(crate::store::page::slot(page, i)));
                }
            }
        }
    };
    let mut counts: Vec<u32> = Vec::new();
    each(&mut |group, _| {
        let group = usize::from(group);
        if group >= counts.len() {
            counts.resize(group + 1, 0);
        }
        counts[group] += 1;
    });
    let mut groups: Vec<Vec<Reference>> = counts.iter().map(|&count| Vec::with_capacity(count as usize)).collect();
    each(&mut |group, reference| groups[usize::from(group)].push(reference));
    (0u16..).zip(groups).filter(|(_, references)| !references.is_empty())
}

/// What a freeze took out of one table, on its way to the persist thread. Dropped without being persisted, it is not lost:
/// it is written with whatever is written next.
pub struct Frozen {
    pub(crate) number: u64,
    pub(crate) gate: Arc<Gate>,
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.gate.release(self.number);
    }
}

/// Who may write to the backend, and what has been frozen but not written.
///
/// From a freeze until the snapshot of it is taken, nothing that was written to tables after the freeze may reach the backend.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
    /// Held by whoever writes to the backend.
    pub(crate) writer: Mutex<()>,
}

#[derive(Default)]
struct GateState {
    next: u64,
    pending: VecDeque<Pending>,
}

struct Pending {
    number: u64,
    table: Option<Arc<FrozenTable>>,
    /// A checkpoint still waits for this one's snapshot.
    awaited: bool,
}

impl Gate {
    /// Registers what was frozen, which closes the gate.
    pub(crate) fn freeze(self: &Arc<Self>, table: FrozenTable) -> Frozen {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let table = (!table.is_empty()).then(|| Arc::new(table));
        state.pending.push_back(Pending { number, table, awaited: true });
        Frozen { number, gate: self.clone() }
    }

    /// Registers what is to be written without any snapshot being waited for.
    pub(crate) fn add(&self, table: Arc<FrozenTable>) {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.pending.push_back(Pending { number, table: Some(table), awaited: false });
    }

    /// A snapshot is waited for.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().pending.iter().any(|pending| pending.awaited)
    }

    /// Something is to be written, nobody has begun to, and no snapshot is waited for.
    pub(crate) fn has_left_over(&self) -> bool {
        let state = self.state.lock();
        !state.pending.is_empty() && !state.pending.iter().any(|pending| pending.awaited)
    }

    /// No snapshot of this one is waited for any more.
    fn release(&self, number: u64) {
        let mut state = self.state.lock();
        if let Some(at) = state.pending.iter().position(|pending| pending.number == number) {
            state.pending[at].awaited = false;
            if state.pending[at].table.is_none() {
                state.pending.remove(at);
            }
        }
        self.opened.notify_all();
    }

    /// What has to be written before a snapshot of `frozen` is taken: it, and what is older.
    pub(crate) fn take(&self, frozen: &[Frozen]) -> Vec<Arc<FrozenTable>> {
        let mut state = self.state.lock();
        let last = frozen.iter().map(|frozen| frozen.number).max();
        // Older ones come first in any case, so that no row is ever replaced by an older one.
        let ours = |pending: &Pending| last.map_or(!pending.awaited, |last| pending.number <= last);
        let taken = state
            .pending
            .iter_mut()
            .filter(|pending| ours(pending))
            .filter_map(|pending| pending.table.take())
            .collect();
        state.pending.retain(|pending| pending.awaited);
        taken
    }

    /// What was frozen for checkpoints that came to nothing, to be written before anything live is. `None` while a snapshot is
    /// waited for; then, if `wait`, it is waited for.
    pub(crate) fn open(&self, wait: Option<Duration>) -> Option<Vec<Arc<FrozenTable>>> {
        let deadline = wait.map(|wait| clock::now() + wait);
        let mut state = self.state.lock();
        while state.pending.iter().any(|pending| pending.awaited) {
            if self.opened.wait_until(&mut state, deadline?).timed_out() {
                return None;
            }
        }
        Some(state.pending.drain(..).filter_map(|pending| pending.table).collect())
    }
}
