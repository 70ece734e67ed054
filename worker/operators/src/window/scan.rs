//! Reads the union of some slices' rows in bounded pieces, each key once.
//!
//! Slices are read one after the other. A key is left out of a piece if an earlier slice has it too, and what later slices
//! have of it is fetched. So nothing is asked of the order of rows, and no more is in memory than a piece.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use weir_engine::{OperatorError, Timestamp};
use weir_state::keys::hash;
use weir_state::{Cursor, Keys, SliceTable, Slot, decode_keys};

use crate::aggregate::ingest::PREFIX_BYTES;

/// Whose rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Keys are placed by themselves.
    ByKey,
    /// Keys are placed by their beginning, whose length is in the row's last bytes.
    ByPrefix,
}

/// How far the slices have been read.
#[derive(Debug)]
pub struct Scan {
    slices: Vec<Timestamp>,
    at: usize,
    cursor: Option<Cursor>,
    placed: Placed,
}

/// Some keys with all their rows.
#[derive(Debug, Default)]
pub struct ScanPiece {
    bytes: Vec<u8>,
    key_ends: Vec<usize>,
    row_ends: Vec<usize>,
    /// The keys as columns.
    pub columns: Vec<ArrayRef>,
    pub keys: Keys,
    /// Keys that an earlier piece has had already.
    pub repeated: Vec<bool>,
    /// Rows of later slices: which key, and where in `more`.
    more_of: Vec<(u32, usize)>,
    more: Vec<u8>,
}

impl ScanPiece {
    pub fn len(&self) -> usize {
        self.key_ends.len()
    }

    fn key(&self, i: usize) -> &[u8] {
        &self.bytes[if i == 0 { 0 } else { self.row_ends[i - 1] }..self.key_ends[i]]
    }

    /// All rows with their keys' numbers: first one for each key, in order, then those of later slices.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let first = (0..self.len()).map(|i| (i as u32, &self.bytes[self.key_ends[i]..self.row_ends[i]]));
        let more = self.more_of.iter().enumerate().map(|(n, &(key, end))| {
            let start = if n == 0 { 0 } else { self.more_of[n - 1].1 };
            (key, &self.more[start..end])
        });
        first.chain(more)
    }
}

impl Scan {
    pub fn new(slices: Vec<Timestamp>, placed: Placed) -> Self {
        Self { slices, at: 0, cursor: None, placed }
    }

    /// The next keys, at most `limit`; none at the end.
    pub fn next(
        &mut self,
        table: &mut SliceTable,
        types: &[DataType],
        limit: usize,
    ) -> Result<Option<ScanPiece>, OperatorError> {
        let mut piece = ScanPiece::default();
        while piece.len() == 0 {
            let Some(&slice) = self.slices.get(self.at) else { return Ok(None) };
            let ScanPiece { bytes, key_ends, row_ends, .. } = &mut piece;
            self.cursor = table.read(slice, self.cursor.take(), limit, &mut |key, row| {
                bytes.extend_from_slice(key);
                key_ends.push(bytes.len());
                bytes.extend_from_slice(row);
                row_ends.push(bytes.len());
            })?;
            if piece.len() > 0 {
                self.complete(table, types, &mut piece)?;
            }
            if self.cursor.is_none() {
                self.at += 1;
            }
        }
        Ok(Some(piece))
    }

    /// Finds the piece's keys in the other slices.
    fn complete(&self, table: &mut SliceTable, types: &[DataType], piece: &mut ScanPiece) -> Result<(), OperatorError> {
        let columns = decode_keys(types, (0..piece.len()).map(|i| piece.key(i)))?;
        piece.keys.encode(&columns, piece.len())?;
        piece.columns = columns;
        if self.placed == Placed::ByPrefix {
            let hashes: Vec<u64> = (0..piece.len()).map(|i| hash(prefix(piece, i))).collect();
            piece.keys.with_key_group_hashes(&hashes)?;
        }
        piece.repeated = vec![false; piece.len()];
        let mut slots: Vec<Option<Slot>> = Vec::new();
        for (i, &slice) in self.slices.iter().enumerate() {
            if i == self.at {
                continue;
            }
            table.get(slice, &piece.keys, None, &mut slots)?;
            for (key, slot) in slots.iter().enumerate() {
                let Some(slot) = slot else { continue };
                if i < self.at {
                    piece.repeated[key] = true;
                } else {
                    piece.more.extend_from_slice(table.row(slice, *slot));
                    piece.more_of.push((key as u32, piece.more.len()));
                }
            }
        }
        Ok(())
    }
}

fn prefix(piece: &ScanPiece, i: usize) -> &[u8] {
    let row = &piece.bytes[piece.key_ends[i]..piece.row_ends[i]];
    let mut length = [0; PREFIX_BYTES];
    length.copy_from_slice(&row[row.len() - PREFIX_BYTES..]);
    &piece.key(i)[..u32::from_le_bytes(length) as usize]
}
