//! Making room: when a table writes rows to the backend before any checkpoint asks for them, and when it gives rows up.
//!
//! Near the limit, what is live is frozen and written on another thread, beside processing; beyond it, some clean rows are
//! given up at each access; and where even that does not help, because everything is still to be written, processing waits.

use std::sync::{Arc, Weak};

use crate::{error::StateError, frozen::FrozenTable, subtask::Shared};

/// Pages looked at for rows to give up, at each access of a table that is over its limit: a few milliseconds.
const PAGES_A_STEP: usize = 48;
/// Less than this part of a table is not worth being written for itself.
const WORTH_WRITING: usize = 4;

/// What a table knows about its own way out of memory.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What is being written beside.
    writing: Weak<FrozenTable>,
    /// Not to look for rows to write again before the table takes so many bytes.
    again_at: usize,
}

/// A table whose memory is bounded.
pub(crate) trait Bounded {
    /// Bytes of rows that the backend does not have; goes through all of them.
    fn unwritten_bytes(&self) -> usize;
    /// Takes out what is live.
    fn freeze(&mut self) -> FrozenTable;
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
            room.again_at = 0;
            return Ok(());
        }
        if own >= room.again_at && room.writing.strong_count() == 0 {
            room.again_at = own + own / 8;
            if !self.gate.is_closed() && table.unwritten_bytes() > own / WORTH_WRITING {
                room.writing = self.write_beside(table.freeze());
            }
        }
        if !budget.exceeded_by(own) {
            return Ok(());
        }
        let freed = table.evict(budget.excess(), PAGES_A_STEP);
        room.again_at = room.again_at.min(own - freed.min(own) + own / 8);
        if budget.exhausted() && freed < budget.excess() {
            if table.evict(budget.excess(), usize::MAX) < budget.excess() {
                // There is next to nothing to give up, so the rest has to be written now.
                self.spill(|| table.freeze())?;
            }
            table.evict(budget.excess(), usize::MAX);
        }
        Ok(())
    }
}
