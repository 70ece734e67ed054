//! Freezing: sharing pages that have live rows with whoever writes them, and learning later that they were written.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::Store;
use crate::frozen::{FrozenPage, Generation};

/// Pages on their way to the backend.
pub(super) struct Flight {
    epoch: u32,
    pages: Vec<u32>,
    written: Arc<AtomicBool>,
}

impl Store {
    /// Shares all pages with live rows and begins the next epoch. `None` if nothing is live.
    pub(crate) fn freeze(&mut self) -> Option<Generation> {
        self.freeze_piece(usize::MAX)
    }

    /// Shares pages with about so many live rows, going round from where the piece before ended.
    pub(crate) fn freeze_piece(&mut self, limit: usize) -> Option<Generation> {
        if self.live == 0 {
            return None;
        }
        self.settle();
        let (mut pages, mut shared, mut rows) = (Vec::new(), Vec::new(), 0);
        let count = self.rows.len();
        for _ in 0..count {
            if rows as usize >= limit {
                break;
            }
            let page = self.spill_hand % count;
            self.spill_hand = page + 1;
            let mark = &mut self.marks[page];
            if mark.live == 0 {
                continue;
            }
            shared.push(FrozenPage {
                keys: self.keys[page].share(),
                rows: self.rows[page].share(),
                since: mark.frozen,
            });
            pages.push(page as u32);
            rows += mark.live;
            mark.live = 0;
            mark.frozen = self.epoch;
        }
        self.live -= rows;
        if Arc::strong_count(&self.copied) == 1 {
            // The generation before is gone, and what was copied in its last moment with it.
            self.budget().sub(self.copied.swap(0, Ordering::Relaxed));
        }
        self.copied = Arc::default();
        let written = Arc::new(AtomicBool::new(false));
        self.flights.push(Flight { epoch: self.epoch, pages, written: written.clone() });
        let deletes = self.in_backend;
        self.in_backend = true;
        self.epoch += 1;
        Some(Generation {
            space: self.space,
            width: self.width,
            deletes,
            pages: shared,
            written,
            copied: self.copied.clone(),
            memory: self.shared.memory.clone(),
        })
    }

    /// Marks what has been written since. Generations are written in the order in which they were frozen.
    pub(crate) fn settle(&mut self) {
        let marks = &mut self.marks;
        self.flights.retain(|flight| {
            if !flight.written.load(Ordering::Acquire) {
                return true;
            }
            for &page in &flight.pages {
                let written = &mut marks[page as usize].written;
                *written = flight.epoch.max(*written);
            }
            false
        });
    }

    /// How many rows the backend does not have and nobody writes.
    pub(crate) fn live(&self) -> usize {
        self.live as usize
    }
}
