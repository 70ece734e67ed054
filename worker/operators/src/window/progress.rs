//! Which windows have fired, a key group, so that a firing that a barrier interrupted goes on after a restore where it
//! stopped, on whatever subtask the key group is then.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use weir_engine::{OperatorError, OperatorSnapshot, RestoredWatermarks, Timestamp};
use weir_state::{KeyGroup, Keys, RowLayout, Slot, SubtaskState, Table, TableKind, TableShape};

use crate::window::slices::Slices;

/// What is known of one key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyGroupProgress {
    /// Time has come here: what is to fire up to here has fired or is about to.
    pub reached: Timestamp,
    /// All windows up to the one that ends here have fired.
    pub fired: Timestamp,
}

impl KeyGroupProgress {
    fn encode(self) -> [u8; PROGRESS_BYTES] {
        let mut row = [0; PROGRESS_BYTES];
        row[..8].copy_from_slice(&self.reached.to_le_bytes());
        row[8..].copy_from_slice(&self.fired.to_le_bytes());
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let (reached, fired) = row.split_first_chunk::<8>()?;
        let fired = fired.first_chunk::<8>()?;
        Some(Self { reached: i64::from_le_bytes(*reached), fired: i64::from_le_bytes(*fired) })
    }
}

const PROGRESS_BYTES: usize = 16;
const NAME: &str = "firing";
const LAYOUT: RowLayout = RowLayout::Fixed(PROGRESS_BYTES);

/// What a checkpoint is to hold.
pub enum Write {
    /// Rows for all key groups.
    Rows(Vec<KeyGroupProgress>),
    /// No rows.
    Nothing,
    /// What the last one held.
    AsItWas,
}

/// The progress of all key groups of a subtask. It is kept by exception: a key group without a row has fired all that its
/// watermark, which the engine keeps, has closed.
pub struct ProgressTable {
    table: Table,
    groups: Range<u32>,
    max_parallelism: u32,
    /// There are rows in the table.
    written: bool,
    restored: Vec<KeyGroupProgress>,
    interrupted: Vec<bool>,
}

impl ProgressTable {
    /// For the parts of checkpoints.
    pub fn shape() -> TableShape {
        TableShape {
            name: NAME.to_owned(),
            kind: TableKind::Table,
            key: vec!["BIGINT".to_owned()],
            row: vec!["REACHED".to_owned(), "FIRED".to_owned()],
            layout: LAYOUT,
            codec: "progress/1",
        }
    }

    pub fn open(
        state: &SubtaskState,
        identity: &str,
        slices: Slices,
        floors: &RestoredWatermarks,
    ) -> Result<Self, OperatorError> {
        let mut table = state.table(identity, NAME, LAYOUT)?;
        let groups = state.key_groups();
        let mut restored: Vec<KeyGroupProgress> = groups
            .clone()
            .map(|kg| {
                let reached = floors.of(kg);
                KeyGroupProgress { reached, fired: slices.closed_by(reached) }
            })
            .collect();
        let mut interrupted = vec![false; restored.len()];
        let mut written = false;
        table.scan_all(&mut |kg: KeyGroup, _key, row| {
            written = true;
            let i = u32::from(kg.0).checked_sub(groups.start).map(|i| i as usize);
            if let (Some(progress), Some(i)) = (KeyGroupProgress::decode(row), i)
                && let Some(of) = restored.get_mut(i)
            {
                let reached = progress.reached.max(of.reached);
                *of = KeyGroupProgress { reached, ..progress };
                interrupted[i] = true;
            }
        })?;
        Ok(Self { table, groups, max_parallelism: state.max_parallelism(), written, restored, interrupted })
    }

    /// What was restored, by key group from the subtask's first on, and whether it stood in a row.
    pub fn restored(&self) -> (&[KeyGroupProgress], &[bool]) {
        (&self.restored, &self.interrupted)
    }

    /// Brings the table up to date and freezes it.
    pub fn freeze(&mut self, write: &Write, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        let rows = match write {
            Write::Rows(rows) => Some(rows),
            Write::Nothing if self.written => None,
            Write::Nothing | Write::AsItWas => {
                snapshot.frozen.extend(self.table.freeze());
                return Ok(());
            }
        };
        let keys = self.keys()?;
        let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        self.table.upsert(&keys, &mut slots, &mut created)?;
        for (i, slot) in slots.into_iter().enumerate() {
            match rows {
                Some(rows) => self.table.set(slot, &rows[i].encode()),
                None => self.table.remove(slot),
            }
        }
        self.written = rows.is_some();
        snapshot.frozen.extend(self.table.freeze());
        Ok(())
    }

    /// A key for each key group, placed in it.
    fn keys(&self) -> Result<Keys, OperatorError> {
        let numbers: ArrayRef = Arc::new(self.groups.clone().map(i64::from).collect::<Int64Array>());
        let mut keys = Keys::new();
        keys.encode(std::slice::from_ref(&numbers), self.groups.len())?;
        let hashes: Vec<u64> = self.groups.clone().map(|kg| first_hash(kg, self.max_parallelism)).collect();
        keys.with_key_group_hashes(&hashes)?;
        Ok(keys)
    }
}

/// The least hash that falls into a key group.
fn first_hash(key_group: u32, max_parallelism: u32) -> u64 {
    (u64::from(key_group) << 32).div_ceil(u64::from(max_parallelism)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hash_of_a_key_group_falls_into_it() {
        for max in [1, 2, 3, 7, 128, 1000, 32768] {
            for kg in 0..max {
                let hash = first_hash(kg, max);
                assert_eq!(weir_state::key_group(hash, max), KeyGroup(kg as u16));
                if hash > 0 {
                    let before = weir_state::key_group(hash - 1, max);
                    assert_eq!(before, KeyGroup(kg as u16 - 1));
                }
            }
        }
    }

    #[test]
    fn progress_comes_back_from_its_bytes() {
        let progress = KeyGroupProgress { reached: 99, fired: -60 };
        assert_eq!(KeyGroupProgress::decode(&progress.encode()), Some(progress));
    }
}
