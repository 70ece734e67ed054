//! Making room: when a table writes rows to the backend before any checkpoint asks for them, and when it gives rows up.
//!
//! Near the limit, live rows are frozen a piece at a time and written on another thread, beside processing, so that about half
//! of a table is always clean; beyond the limit, some clean rows are given up at each access. Where writing does not keep up,
//! each access waits a moment for it, long before the one that would have to wait for all of it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{error::StateError, frozen::FrozenTable, subtask::Shared};

/// Pages looked at for rows to give up, at each access of a table that is over its limit: a few milliseconds.
const PAGES_A_STEP: usize = 48;
/// A table is written while more than this part of it is live.
const LIVE_PART: usize = 2;
/// How much of a table is written at once. Each piece is a sorted run in the backend, and so is not too small; while it is
/// written it cannot be given up, and so is not too large.
const PIECE_PART: usize = 4;
/// The longest that one access waits for a piece to be written while memory is not exhausted.
const MOMENT: Duration = Duration::from_millis(40);

/// What a table knows about its own way out of memory.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What is being written beside.
    writing: Weak<FrozenTable>,
}

/// A table whose memory is bounded.
pub(crate) trait Bounded {
    /// Bytes of rows that the backend does not have and nobody writes.
    fn live_bytes(&self) -> usize;
    /// Takes out what is live, up to about so many bytes.
    fn freeze_piece(&mut self, bytes: usize) -> FrozenTable;
    /// Gives up clean rows of so many bytes, looking at so many pages. Returns the bytes.
    fn evict(&mut self, bytes: usize, pages: usize) -> usize;
}

impl Shared {
    /// Called before each access of a table that takes `own` bytes.
    pub(crate) fn make_room(
        self: &Arc<Self>,
        room: &mut Room,
        own: usize,
        table: &mut dyn Bounded,
    ) -> Result<(), StateError> {
        let budget = self.memory.rows();
        if !budget.nearly_exceeded_by(own) {
            return Ok(());
        }
        let writing = room.writing.strong_count() > 0;
        if writing && self.gate.has_left_over() {
            // It was held up by a checkpoint that came to nothing.
            self.write_left_over();
        }
        if !writing && table.live_bytes() > own / LIVE_PART && !self.gate.is_closed() {
            room.writing = self.write_beside(table.freeze_piece(own / PIECE_PART));
        }
        if !budget.exceeded_by(own) {
            return Ok(());
        }
        let freed = table.evict(budget.excess(), PAGES_A_STEP);
        if freed >= budget.excess() {
            return Ok(());
        }
        if budget.pressed() && !budget.exhausted() {
            // Whoever writes holds this; what it has written can be given up at the next access.
            drop(self.gate.writer.try_lock_for(MOMENT));
        }
        if budget.exhausted() {
            if table.evict(budget.excess(), usize::MAX) < budget.excess() {
                // There is next to nothing to give up, so the rest has to be written now.
                self.spill(|| table.freeze_piece(usize::MAX))?;
            }
            table.evict(budget.excess(), usize::MAX);
        }
        Ok(())
    }
}
