//! The rows of one state, or of one slice of it, in memory over the backend.
//!
//! One hash table leads from a key to its slot, which never changes while the row is in memory. Each row is stamped with the
//! epoch in which it was last written; each page is marked with the last epoch that was frozen of it, and the last that the
//! backend has. A row stamped later than its page was frozen is *live*; one that was frozen and that the backend does not have
//! yet, *frozen*; one that the backend has, *clean*. Freezing shares the pages that have live rows, all of them for a
//! checkpoint or some to make room, and begins the next epoch, so its cost is that of some pointers; what is written meanwhile
//! copies the page that it touches. A clean row may be dropped at any time; a live or frozen one never is, so that no read has
//! to look at what is frozen.

mod evict;
mod freeze;
mod gone;
mod load;
pub(crate) mod page;
mod visit;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hashbrown::{HashTable, hash_table::Entry};

use crate::{
    budget::RowBudget,
    error::StateError,
    keys::{Keys, key_group},
    layout::{KeyBuffer, Space},
    subtask::Shared,
    table::{RowLayout, Slot},
};
use page::{KeyPage, PAGE, RowPage, Shareable, Stamp, place};

/// From so many rows on, the hash table is split, so that none of its growth steps takes long.
const SPLIT_AT: u32 = 1 << 15;
const SHARDS: usize = 64;
/// What a row takes in memory beside its own bytes and a long key's: entry, key group, stamp, hash table.
const ROW_OVERHEAD: usize = 24 + 2 + 4 + 10;
/// What a row of variable width takes in addition.
const SPAN_OVERHEAD: usize = 12;
/// What a store takes however few rows it has.
const STORE_OVERHEAD: usize = 512;

pub(crate) struct Store {
    shared: Arc<Shared>,
    space: Space,
    width: Option<usize>,
    shards: Vec<HashTable<u32>>,
    keys: Vec<Shareable<KeyPage>>,
    rows: Vec<Shareable<RowPage>>,
    /// Slots with a key.
    len: u32,
    /// Slots whose row is removed, which `len` counts too.
    removed: u32,
    /// The current epoch, from 1.
    epoch: u32,
    /// A mark a page.
    marks: Vec<Mark>,
    /// Live rows of all pages.
    live: u32,
    /// What was frozen and is not known to be written.
    flights: Vec<freeze::Flight>,
    /// Where the next piece to be written begins.
    spill_hand: usize,
    /// Everything that the backend has of this store is in memory too: a key that is not here is nowhere.
    complete: bool,
    /// Something may be in the backend.
    in_backend: bool,
    /// The backend had rows of this space from the beginning, so that [`gone`](Self::gone) does not know them all.
    restored: bool,
    /// The keys that memory has given up.
    gone: Option<gone::Gone>,
    long_keys: usize,
    data: usize,
    /// What the budget has been charged.
    charged: usize,
    /// What was copied because the newest frozen generation is still being read.
    copied: Arc<AtomicUsize>,
    /// From so many removed rows on, it is worth looking for some to clean away.
    garbage_at: u32,
    /// The page that is being filled.
    open: u32,
    /// Pages whose rows were given up.
    free: Vec<u32>,
    /// A read goes through the slots: new rows come after all others, and none is given up.
    pinned: bool,
    clock: evict::Clock,
    /// The shard that may grow next.
    turn: usize,
    guesses: Vec<u32>,
    misses: Vec<load::Miss>,
    buffer: KeyBuffer,
}

const NO_GUESS: u32 = u32::MAX;

/// How far a page's rows are on their way to the backend.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Rows stamped with this epoch or an earlier one have been frozen.
    frozen: u32,
    /// Of those, the backend has the ones up to this epoch.
    written: u32,
    /// Rows stamped later than `frozen`.
    live: u32,
    /// The epoch in which the page became full.
    filled: u32,
}

/// hashbrown takes a bucket from the low bits and a tag from the highest seven. The highest bits of our hash are the key
/// group, of which a subtask has few; so the halves are swapped.
#[inline]
fn bucket_hash(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[inline]
fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 16) as usize & (shards - 1)
}

#[inline]
fn hash_of(keys: &[Shareable<KeyPage>], slot: u32) -> u64 {
    let (page, i) = place(slot);
    keys[page].get().hash(i)
}

#[inline]
fn is(keys: &[Shareable<KeyPage>], slot: u32, hash: u64, key: &[u8]) -> bool {
    let (page, i) = place(slot);
    keys[page].get().is(i, hash, key)
}

impl Store {
    /// `in_backend` says whether the backend may hold rows of this space.
    pub(crate) fn new(shared: Arc<Shared>, space: Space, layout: RowLayout, in_backend: bool) -> Self {
        let width = match layout {
            RowLayout::Fixed(width) => Some(width),
            RowLayout::Variable => None,
        };
        let buffer = KeyBuffer::new(space);
        Self {
            shared,
            space,
            width,
            shards: vec![HashTable::new()],
            keys: Vec::new(),
            rows: Vec::new(),
            len: 0,
            removed: 0,
            epoch: 1,
            marks: Vec::new(),
            live: 0,
            flights: Vec::new(),
            spill_hand: 0,
            complete: !in_backend,
            in_backend,
            restored: in_backend,
            gone: None,
            long_keys: 0,
            data: 0,
            charged: 0,
            copied: Arc::default(),
            garbage_at: PAGE as u32,
            open: 0,
            free: Vec::new(),
            pinned: false,
            clock: evict::Clock::default(),
            turn: 0,
            guesses: Vec::new(),
            misses: Vec::new(),
            buffer,
        }
    }

    /// The backend's rows of this space are about to be deleted, or gone; what is written from now on is all there is.
    pub(crate) fn without_backend(mut self) -> Self {
        (self.complete, self.restored) = (true, false);
        self
    }

    pub(crate) fn in_backend(&self) -> bool {
        self.in_backend
    }

    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.complete && self.len == self.removed
    }

    fn budget(&self) -> &RowBudget {
        self.shared.memory.rows()
    }

    /// Tells the budget what this store takes now.
    fn charge(&mut self) {
        let row = ROW_OVERHEAD + self.width.unwrap_or(SPAN_OVERHEAD);
        let gone = self.gone.as_ref().map_or(0, gone::Gone::bytes);
        let now = STORE_OVERHEAD + gone + self.len as usize * row + self.long_keys + self.data;
        if now > self.charged {
            self.budget().add(now - self.charged);
        } else {
            self.budget().sub(self.charged - now);
        }
        self.charged = now;
    }

    /// The backend may have a row of this key, which is not in memory.
    #[inline]
    fn elsewhere(&self, hash: u64) -> bool {
        !self.complete && self.gone.as_ref().is_none_or(|gone| gone.perhaps(hash))
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let shard = &self.shards[shard_of(hash, self.shards.len())];
        shard.find(bucket_hash(hash), |&slot| is(&self.keys, slot, hash, key)).copied()
    }

    /// Adds a row to the pages; the caller has put, or puts, its slot into the hash table.
    #[inline]
    fn push(&mut self, hash: u64, group: u16, key: &[u8], stamp: Stamp) -> u32 {
        let page = self.open as usize;
        if self.rows.get(page).is_none_or(|rows| rows.get().is_full()) {
            self.open_page();
        }
        let page = self.open as usize;
        self.long_keys += self.keys[page].owned(|_| {}).push(hash, group, key);
        let (rows, width) = self.rows_mut(page);
        let slot = page::slot(page as u32, rows.len());
        rows.push(width, stamp);
        self.len += 1;
        let mark = &mut self.marks[page];
        if stamp.epoch() > mark.frozen {
            mark.live += 1;
            self.live += 1;
        }
        slot
    }

    /// Stamps a row of a page that is [owned](Self::rows_mut).
    #[inline]
    fn stamped(&mut self, page: usize, was: Stamp, is: Stamp) {
        let mark = &mut self.marks[page];
        match (was.epoch() > mark.frozen, is.epoch() > mark.frozen) {
            (false, true) => {
                mark.live += 1;
                self.live += 1;
            }
            (true, false) => {
                mark.live -= 1;
                self.live -= 1;
            }
            _ => {}
        }
    }

    /// The slot that the next [`push`](Self::push) fills.
    #[inline]
    fn next_slot(&mut self) -> u32 {
        if self.rows.get(self.open as usize).is_none_or(|rows| rows.get().is_full()) {
            self.open_page();
        }
        page::slot(self.open, self.rows[self.open as usize].get().len())
    }

    /// Takes an empty page to be filled: one whose rows were given up, or a new one.
    fn open_page(&mut self) {
        if let Some(mark) = self.marks.get_mut(self.open as usize) {
            mark.filled = self.epoch;
        }
        let mark = Mark { frozen: self.epoch - 1, written: self.epoch - 1, live: 0, filled: u32::MAX };
        if !self.pinned {
            while let Some(page) = self.free.pop() {
                if self.rows[page as usize].get().len() == 0 {
                    self.open = page;
                    self.marks[page as usize] = mark;
                    return;
                }
            }
        }
        self.open = self.keys.len() as u32;
        self.keys.push(Shareable::Owned(KeyPage::default()));
        self.rows.push(Shareable::Owned(RowPage::default()));
        self.marks.push(mark);
    }

    /// A page's rows, to be changed.
    #[inline]
    fn rows_mut(&mut self, page: usize) -> (&mut RowPage, Option<usize>) {
        let (shared, copied, width) = (&self.shared, &self.copied, self.width);
        let rows = self.rows[page].owned(|page| {
            let bytes = page.data_bytes() + page.len() * size_of::<Stamp>();
            copied.fetch_add(bytes, Ordering::Relaxed);
            shared.memory.rows().add(bytes);
        });
        (rows, width)
    }

    /// The slots of these rows' keys, made where there are none. `created` gets each slot whose row is new, once.
    pub(crate) fn upsert(
        &mut self,
        keys: &Keys,
        rows: impl Iterator<Item = usize> + Clone,
        slots: &mut Vec<Slot>,
        created: &mut Vec<Slot>,
    ) -> Result<(), StateError> {
        slots.clear();
        created.clear();
        self.misses.clear();
        if self.shards.len() == 1 && self.len >= SPLIT_AT {
            self.split();
        }
        self.grow_one_shard();
        let max_parallelism = self.shared.max_parallelism;
        let stamp = Stamp::written(self.epoch);
        self.guess(keys, rows.clone());
        for (at, row) in rows.enumerate() {
            let (hash, key) = (keys.hash(row), keys.key(row));
            let guess = self.guesses[at];
            if guess != NO_GUESS && is(&self.keys, guess, hash, key) {
                if self.removed > 0 && self.revive(guess) {
                    created.push(Slot(guess));
                }
                slots.push(Slot(guess));
                continue;
            }
            let next = self.next_slot();
            let shard = shard_of(hash, self.shards.len());
            let pages = &self.keys;
            let found = self.shards[shard].entry(
                bucket_hash(hash),
                |&slot| is(pages, slot, hash, key),
                |&slot| bucket_hash(hash_of(pages, slot)),
            );
            let slot = match found {
                Entry::Occupied(entry) => {
                    let slot = *entry.get();
                    if self.removed > 0 && self.revive(slot) {
                        created.push(Slot(slot));
                    }
                    slot
                }
                Entry::Vacant(entry) => {
                    entry.insert(next);
                    let slot = next;
                    let group = key_group(keys.key_group_hash(row), max_parallelism).0;
                    self.push(hash, group, key, stamp);
                    if self.elsewhere(hash) {
                        self.misses.push(load::Miss { slot, row: row as u32 });
                    } else {
                        created.push(Slot(slot));
                    }
                    slot
                }
            };
            slots.push(Slot(slot));
        }
        if !self.misses.is_empty() {
            self.load(keys, created)?;
        }
        self.charge();
        Ok(())
    }

    /// Lets one shard after the other grow before it has to, since all of them would have to at about the same time.
    fn grow_one_shard(&mut self) {
        self.turn = (self.turn + 1) % self.shards.len();
        let (shard, pages) = (&mut self.shards[self.turn], &self.keys);
        if shard.len() > shard.capacity() / 4 * 3 && shard.len() > PAGE {
            shard.reserve(shard.len(), |&slot| bucket_hash(hash_of(pages, slot)));
        }
    }

    /// For each row the first slot that the hash table has for its hash, in a loop by itself: its reads do not depend on each
    /// other, so that many are under way at once. They are what most of the time goes into where there are many keys.
    fn guess(&mut self, keys: &Keys, rows: impl Iterator<Item = usize>) {
        self.guesses.clear();
        let shards = &self.shards;
        self.guesses.extend(rows.map(|row| {
            let hash = keys.hash(row);
            shards[shard_of(hash, shards.len())].iter_hash(bucket_hash(hash)).next().copied().unwrap_or(NO_GUESS)
        }));
    }

    /// A removed row becomes a new one.
    fn revive(&mut self, slot: u32) -> bool {
        let (page, i) = place(slot);
        if !self.rows[page].get().stamp(i).is_removed() {
            return false;
        }
        let stamp = Stamp::written(self.epoch);
        let (rows, width) = self.rows_mut(page);
        rows.clear(i, width);
        let was = rows.set_stamp(i, stamp);
        self.stamped(page, was, stamp);
        self.removed -= 1;
        true
    }

    /// The slots of these rows' keys that exist.
    pub(crate) fn get(
        &mut self,
        keys: &Keys,
        rows: impl Iterator<Item = usize>,
        slots: &mut Vec<Option<Slot>>,
    ) -> Result<(), StateError> {
        slots.clear();
        self.misses.clear();
        for row in rows {
            let found = self.find(keys.hash(row), keys.key(row));
            if found.is_none() && self.elsewhere(keys.hash(row)) {
                // Here the miss's slot is the place in the answer.
                self.misses.push(load::Miss { slot: slots.len() as u32, row: row as u32 });
            }
            slots.push(found.filter(|&slot| !self.stamp(slot).is_removed()).map(Slot));
        }
        if !self.misses.is_empty() {
            self.load_existing(keys, slots)?;
        }
        self.charge();
        Ok(())
    }

    fn split(&mut self) {
        self.shards.clear();
        self.shards.resize_with(SHARDS, HashTable::new);
        self.index();
    }

    /// Puts all slots into the (empty) hash tables.
    fn index(&mut self) {
        let (shards, pages) = (&mut self.shards, &self.keys);
        let count = shards.len();
        let expected = self.len as usize / count;
        for shard in &mut *shards {
            shard.reserve(expected, |&slot| bucket_hash(hash_of(pages, slot)));
        }
        for (page, rows) in (0..).zip(&self.rows) {
            for i in 0..rows.get().len() {
                let slot = page::slot(page, i);
                let hash = hash_of(pages, slot);
                shards[shard_of(hash, count)]
                    .insert_unique(bucket_hash(hash), slot, |&slot| bucket_hash(hash_of(pages, slot)));
            }
        }
    }

    #[inline]
    fn stamp(&self, slot: u32) -> Stamp {
        let (page, i) = place(slot);
        self.rows[page].get().stamp(i)
    }

    #[inline]
    pub(crate) fn row(&self, slot: Slot) -> &[u8] {
        let (page, i) = place(slot.0);
        self.rows[page].get().row(i, self.width)
    }

    #[inline]
    pub(crate) fn key(&self, slot: Slot) -> &[u8] {
        let (page, i) = place(slot.0);
        self.keys[page].get().key(i)
    }

    /// A row of fixed width, to be changed; of variable width none can be, and this is empty.
    #[inline]
    pub(crate) fn row_mut(&mut self, slot: Slot) -> &mut [u8] {
        let (page, i) = place(slot.0);
        let stamp = Stamp::written(self.epoch);
        let (rows, _) = self.rows_mut(page);
        let was = rows.set_stamp(i, stamp);
        self.stamped(page, was, stamp);
        let (rows, width) = self.rows_mut(page);
        rows.row_mut(i, width.unwrap_or(0))
    }

    pub(crate) fn set(&mut self, slot: Slot, row: &[u8]) {
        let (page, i) = place(slot.0);
        let stamp = Stamp::written(self.epoch);
        let (rows, width) = self.rows_mut(page);
        let before = rows.data_bytes();
        rows.set(i, width, row);
        let was = rows.set_stamp(i, stamp);
        let after = rows.data_bytes();
        self.stamped(page, was, stamp);
        if self.width.is_none() {
            self.data = (self.data + after).saturating_sub(before);
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let (page, i) = place(slot.0);
        if self.rows[page].get().stamp(i).is_removed() {
            return;
        }
        let stamp = Stamp::removed(self.epoch);
        let (rows, width) = self.rows_mut(page);
        rows.clear(i, width);
        let was = rows.set_stamp(i, stamp);
        self.stamped(page, was, stamp);
        self.removed += 1;
    }

    /// What a row takes in memory, on average; never zero.
    pub(crate) fn row_bytes(&self) -> usize {
        (self.charged / (self.len as usize).max(1)).max(1)
    }

    /// Memory has all there is.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.budget().sub(self.charged);
        if Arc::strong_count(&self.copied) == 1 {
            self.budget().sub(self.copied.swap(0, Ordering::Relaxed));
        }
    }
}
