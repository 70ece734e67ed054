//! Giving up rows: a hand goes round the pages, so that each step is short. Of a page it drops what the backend has and nobody
//! wrote for a round, moves the rest to the page that is being filled, and leaves the page empty for new rows.

use super::{
    Store, bucket_hash,
    gone::Gone,
    page::{self, KeyPage, PAGE, RowPage, Shareable, Stamp},
    shard_of,
};

/// A page of which less than this part would go is left alone.
const WORTH: usize = 4;
/// What part of a store's memory knows the keys that were given up: ten bits for each of three times the keys in memory.
const GONE_PART: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Clock {
    hand: usize,
    /// This round drops rows that were written again since their page became full, too.
    strict: bool,
    dropped: usize,
}

impl Clock {
    /// The next page of `pages`. A round that found little to drop is followed by one that spares nothing.
    fn step(&mut self, pages: usize) -> usize {
        if self.hand >= pages {
            self.strict = self.dropped < pages * PAGE / 16;
            (self.hand, self.dropped) = (0, 0);
        }
        self.hand += 1;
        self.hand - 1
    }
}

impl Store {
    /// Gives up clean rows until `bytes` are free or `pages` pages were looked at. All slots change. Returns the bytes.
    pub(crate) fn evict(&mut self, bytes: usize, pages: usize) -> usize {
        if self.pinned || self.len == 0 {
            return 0;
        }
        self.settle();
        let (before, row) = (self.len, (self.charged / self.len as usize).max(1));
        for _ in 0..pages.min(self.rows.len()) {
            let page = self.clock.step(self.rows.len());
            let (mark, strict) = (self.marks[page], self.clock.strict);
            let goes = |stamp: Stamp| {
                stamp.epoch() <= mark.written && (strict || stamp.is_removed() || stamp.epoch() <= mark.filled)
            };
            self.clock.dropped += self.drop_rows(page, goes);
            if (before - self.len) as usize * row >= bytes {
                break;
            }
        }
        self.charge();
        (before - self.len) as usize * row
    }

    /// Cleans removed rows away that the backend does not have either, when they are many. All slots change.
    pub(crate) fn clean(&mut self) {
        if self.removed < self.garbage_at || self.removed < self.len / 2 || self.pinned {
            return;
        }
        self.settle();
        for page in 0..self.rows.len() {
            let written = self.marks[page].written;
            self.drop_rows(page, |stamp| stamp.is_removed() && stamp.epoch() <= written);
        }
        self.garbage_at = (2 * self.removed).max(PAGE as u32);
        self.charge();
    }

    /// Drops the rows of a page that `goes` is true for, if they are enough, and moves the others. Returns how many it dropped.
    fn drop_rows(&mut self, page: usize, goes: impl Fn(Stamp) -> bool) -> usize {
        let mark = self.marks[page];
        if mark.written != mark.frozen {
            // Whoever writes this page holds on to its memory, and where its frozen rows are is known by the page alone.
            return 0;
        }
        let rows = self.rows[page].get();
        let going = (0..rows.len()).filter(|&i| goes(rows.stamp(i))).count();
        if going * WORTH < rows.len() || going == 0 || page == self.open as usize {
            return 0;
        }
        let keys = std::mem::replace(&mut self.keys[page], Shareable::Owned(KeyPage::default()));
        let rows = std::mem::replace(&mut self.rows[page], Shareable::Owned(RowPage::default()));
        let (keys, rows) = (keys.get(), rows.get());
        self.long_keys -= keys.heap_bytes();
        if self.width.is_none() {
            self.data = self.data.saturating_sub(rows.data_bytes());
        }
        self.len -= rows.len() as u32;
        self.live -= mark.live;
        self.marks[page].live = 0;
        for i in 0..rows.len() {
            let (stamp, old, hash) = (rows.stamp(i), page::slot(page as u32, i), keys.hash(i));
            self.removed -= u32::from(stamp.is_removed());
            let new = if goes(stamp) {
                if !stamp.is_removed() {
                    self.gives_up(hash);
                }
                None
            } else {
                // On its new page a row is live or clean as it was on the old one.
                let epoch = if stamp.epoch() > mark.frozen { self.epoch } else { Stamp::CLEAN.epoch() };
                let stamp = if stamp.is_removed() { Stamp::removed(epoch) } else { Stamp::written(epoch) };
                let slot = self.push(hash, keys.group(i), keys.key(i), stamp);
                self.removed += u32::from(stamp.is_removed());
                self.fill_moved(slot, rows.row(i, self.width));
                Some(slot)
            };
            let shard = shard_of(hash, self.shards.len());
            if let Ok(mut entry) = self.shards[shard].find_entry(bucket_hash(hash), |&slot| slot == old) {
                match new {
                    Some(new) => *entry.get_mut() = new,
                    None => drop(entry.remove()),
                }
            }
        }
        self.free.push(page as u32);
        going
    }

    fn gives_up(&mut self, hash: u64) {
        if self.complete && !self.restored {
            self.gone = Some(Gone::new(self.charged / GONE_PART));
        }
        self.complete = false;
        if let Some(gone) = &mut self.gone {
            gone.add(hash);
        }
    }

    /// The bytes of a row that has moved; its stamp is what it was.
    fn fill_moved(&mut self, slot: u32, row: &[u8]) {
        let (page, i) = page::place(slot);
        let (rows, width) = self.rows_mut(page);
        let before = rows.data_bytes();
        rows.set(i, width, row);
        let grown = rows.data_bytes() - before;
        if width.is_none() {
            self.data += grown;
        }
    }
}
