//! What a join puts out: which row of one side beside which of the other, as indices, made into batches a piece at a time.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::SchemaRef;
use weir_engine::{Batch, OperatorError, PIECE_ROWS, RowKind};

use crate::rows::column::take_columns;

/// The rows that come of a part of a batch, in order.
#[derive(Debug, Default)]
pub struct Emission {
    list: Vec<Joined>,
    /// The next of them, and how often it has been put out.
    at: usize,
    times: u64,
}

/// One row beside another, or beside nothing.
#[derive(Clone, Copy, Debug)]
struct Joined {
    kind: RowKind,
    /// The row of the batch.
    own: Option<u32>,
    /// The row of the other side.
    other: Option<u32>,
    /// So often.
    times: u64,
}

/// The columns that an emission's indices point into, and where they go.
pub struct Sources<'a> {
    /// Of the batch; none where they are not put out.
    pub own: Option<&'a [ArrayRef]>,
    /// Of the other side's rows; none where they are not put out.
    pub other: Option<&'a [ArrayRef]>,
    /// The other side's columns come first.
    pub other_first: bool,
    pub schema: &'a SchemaRef,
}

impl Emission {
    /// Nothing.
    pub fn clear(&mut self) {
        self.list.clear();
        (self.at, self.times) = (0, 0);
    }

    /// Puts a row out so often; nothing for a side is nulls.
    pub fn push(&mut self, kind: RowKind, own: Option<u32>, other: Option<u32>, times: u64) {
        self.list.push(Joined { kind, own, other, times });
    }

    /// The next piece; none if all is out.
    pub fn next(&mut self, sources: &Sources<'_>) -> Result<Option<Batch>, OperatorError> {
        let (mut kinds, mut own, mut other) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(joined) = self.list.get(self.at) {
            let room = PIECE_ROWS - kinds.len();
            let times = usize::try_from(joined.times - self.times).unwrap_or(usize::MAX).min(room);
            kinds.resize(kinds.len() + times, joined.kind);
            own.resize(kinds.len(), joined.own);
            other.resize(kinds.len(), joined.other);
            self.times += times as u64;
            if self.times < joined.times {
                break;
            }
            (self.at, self.times) = (self.at + 1, 0);
        }
        if kinds.is_empty() {
            return Ok(None);
        }
        let taken = |columns: Option<&[ArrayRef]>, rows: Vec<Option<u32>>| match columns {
            Some(columns) => take_columns(columns, &UInt32Array::from(rows)),
            None => Ok(Vec::new()),
        };
        let (own, other) = (taken(sources.own, own)?, taken(sources.other, other)?);
        let columns = if sources.other_first { [other, own] } else { [own, other] }.concat();
        let options = RecordBatchOptions::new().with_row_count(Some(kinds.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(sources.schema), columns, &options)?;
        Ok(Some(Batch::with_kinds(rows, kinds)))
    }
}
