//! CUMULATE: windows that begin together each hold what the one before it held. Before a window fires, what the slices before its own
//! have is moved into its own, so that each row is merged once a window and not once a slice, and one slice is left.
//!
//! A key is taken out of the one slice in the same step in which it comes into the other. So a barrier may pass between two steps:
//! after a restore what is still to be moved is moved.

use weir_engine::{OperatorError, PIECE_ROWS, Timestamp};
use weir_state::keys::hash;
use weir_state::{Cursor, Keys, SliceTable, Slot};

use crate::aggregate::ingest::{PREFIX_BYTES, read_mask};
use crate::aggregate::staterow::{Layout, Rows};
use crate::aggregate::values::Values;
use crate::window::plan::{Tables, WindowAggregate};

/// What is still to be moved into a window's own slice.
#[derive(Debug)]
pub struct Moving {
    window: Timestamp,
    /// Slices, each with the DISTINCT map that is to be moved; none is the groups.
    left: Vec<(Timestamp, Option<usize>)>,
    cursor: Option<Cursor>,
}

/// Rows of a slice, with their keys.
#[derive(Debug, Default)]
struct Piece {
    keys: Keys,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Piece {
    fn row(&self, i: usize) -> &[u8] {
        &self.bytes[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]]
    }
}

impl Moving {
    /// Out of these slices.
    pub fn new(window: Timestamp, slices: impl Iterator<Item = Timestamp>, maps: usize) -> Self {
        let mut left = Vec::new();
        for slice in slices.filter(|slice| *slice < window) {
            left.extend((0..maps).map(|map| (slice, Some(map))).chain([(slice, None)]));
        }
        left.reverse();
        Self { window, left, cursor: None }
    }

    /// Moves some rows; how many. None when all have been.
    pub fn step(
        &mut self,
        spec: &WindowAggregate,
        layout: &Layout,
        tables: &mut Tables,
    ) -> Result<Option<usize>, OperatorError> {
        let Some(&(slice, map)) = self.left.last() else { return Ok(None) };
        let table = match map {
            Some(map) => &mut tables.maps[map],
            None => &mut tables.groups,
        };
        let mut piece = Piece::default();
        piece.keys.clear();
        let Piece { keys, bytes, ends } = &mut piece;
        self.cursor = table.read(slice, self.cursor.take(), PIECE_ROWS, &mut |key, row| {
            // A map's key stands where its group does, whose length is in the row.
            let group = if map.is_some() { prefix(key, row) } else { key };
            keys.push(key, &[], hash(group));
            bytes.extend_from_slice(row);
            ends.push(bytes.len());
        })?;
        let moved = piece.keys.len();
        if moved > 0 {
            match map {
                Some(map) => add_masks(table, self.window, &piece, spec.ingest.plan.maps[map].mask_bytes())?,
                None => add_groups(table, self.window, &piece, spec, layout)?,
            }
            let mut slots: Vec<Option<Slot>> = Vec::new();
            table.get(slice, &piece.keys, None, &mut slots)?;
            slots.into_iter().flatten().for_each(|slot| table.remove(slice, slot));
        }
        if self.cursor.is_none() {
            table.delete_slice(slice)?;
            self.left.pop();
        }
        Ok(Some(moved))
    }
}

fn prefix<'k>(key: &'k [u8], row: &[u8]) -> &'k [u8] {
    let mut length = [0; PREFIX_BYTES];
    length.copy_from_slice(&row[row.len() - PREFIX_BYTES..]);
    &key[..u32::from_le_bytes(length) as usize]
}

fn add_masks(table: &mut SliceTable, window: Timestamp, piece: &Piece, mask_bytes: usize) -> Result<(), OperatorError> {
    let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
    table.upsert(window, &piece.keys, None, &mut slots, &mut created)?;
    for (i, slot) in slots.into_iter().enumerate() {
        let mask = read_mask(table.row(window, slot), mask_bytes) | read_mask(piece.row(i), mask_bytes);
        let row = [&mask.to_le_bytes()[..mask_bytes], &piece.row(i)[mask_bytes..]].concat();
        table.set(window, slot, &row);
    }
    Ok(())
}

fn add_groups(
    table: &mut SliceTable,
    window: Timestamp,
    piece: &Piece,
    spec: &WindowAggregate,
    layout: &Layout,
) -> Result<(), OperatorError> {
    let accumulators = &spec.ingest.plan.accumulators;
    let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
    table.upsert(window, &piece.keys, None, &mut slots, &mut created)?;
    let (mut before, mut own) = (Rows::default(), Rows::default());
    for (i, &slot) in slots.iter().enumerate() {
        before.push(piece.row(i), layout);
        own.push(table.row(window, slot), layout);
    }
    let (mut all, mut later) = (Values::new(accumulators), Values::new(accumulators));
    all.load(&before, layout);
    later.load(&own, layout);
    let each: Vec<u32> = (0..slots.len() as u32).collect();
    all.merge(accumulators, &later, &each, &each)?;
    let mut rows = Rows::default();
    all.store(&mut rows, layout);
    for (i, slot) in slots.into_iter().enumerate() {
        table.set(window, slot, rows.get(i));
    }
    Ok(())
}
