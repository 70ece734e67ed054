//! What flows: a record batch and, where rows are not all inserts, what each row does to the table it belongs to.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

/// What a row does to the table that the stream describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RowKind {
    /// `+I`: a new row.
    #[default]
    Insert = 0,
    /// `-U`: the row as it was before an update.
    UpdateBefore = 1,
    /// `+U`: the row as it is after an update.
    UpdateAfter = 2,
    /// `-D`: the row is gone.
    Delete = 3,
}

impl RowKind {
    /// The kind with this number; `None` above 3.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Insert),
            1 => Some(Self::UpdateBefore),
            2 => Some(Self::UpdateAfter),
            3 => Some(Self::Delete),
            _ => None,
        }
    }

    /// The row is added: `+I` and `+U`.
    pub const fn is_addition(self) -> bool {
        matches!(self, Self::Insert | Self::UpdateAfter)
    }

    /// Flink's short name: `+I`, `-U`, `+U`, `-D`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Insert => "+I",
            Self::UpdateBefore => "-U",
            Self::UpdateAfter => "+U",
            Self::Delete => "-D",
        }
    }
}

/// One kind a row.
pub type RowKinds = Arc<[RowKind]>;

/// Rows with their kinds. The schema never changes on the way between two operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The columns.
    pub rows: RecordBatch,
    /// One a row; `None` where all are inserts.
    pub kinds: Option<RowKinds>,
}

impl From<RecordBatch> for Batch {
    fn from(rows: RecordBatch) -> Self {
        Self::inserts(rows)
    }
}

impl Batch {
    /// Rows that are all inserts.
    pub const fn inserts(rows: RecordBatch) -> Self {
        Self { rows, kinds: None }
    }

    /// Rows with their kinds; `kinds` has one entry a row. Kinds that are all inserts are dropped.
    pub fn with_kinds(rows: RecordBatch, kinds: Vec<RowKind>) -> Self {
        debug_assert_eq!(rows.num_rows(), kinds.len());
        let plain = kinds.iter().all(|kind| *kind == RowKind::Insert);
        Self { rows, kinds: (!plain).then(|| kinds.into()) }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// There are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The schema of the columns.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// What row `i` does.
    pub fn kind(&self, i: usize) -> RowKind {
        self.kinds.as_ref().map_or(RowKind::Insert, |kinds| kinds[i])
    }

    /// Rows `offset..offset + length`, sharing this batch's buffers.
    #[must_use]
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Self {
            rows: self.rows.slice(offset, length),
            kinds: self.kinds.as_ref().map(|kinds| kinds[offset..offset + length].into()),
        }
    }

    /// The bytes that this batch keeps alive: whole buffers, also where it is a slice of them, each counted once.
    pub fn held_bytes(&self) -> usize {
        self.held_and_used().0
    }

    /// A batch that is fit to be queued or stored: if it uses less than half of what it keeps alive, it is copied. With it
    /// comes what it then keeps alive, as of [`Self::held_bytes`].
    pub fn compact(self) -> Result<(Self, usize), ArrowError> {
        let (held, used) = self.held_and_used();
        if held <= SMALL_BATCH_BYTES || used >= held / 2 {
            return Ok((self, held));
        }
        let columns = self.rows.columns().iter().map(copy).collect::<Result<_, _>>()?;
        let copied = Self { rows: RecordBatch::try_new(self.rows.schema(), columns)?, kinds: self.kinds };
        let held = copied.held_bytes();
        Ok((copied, held))
    }

    /// The bytes of the rows themselves, without what else their buffers hold.
    pub fn used_bytes(&self) -> usize {
        self.held_and_used().1
    }

    fn held_and_used(&self) -> (usize, usize) {
        let mut buffers: Vec<(usize, usize)> = Vec::with_capacity(self.rows.num_columns() * 3);
        let mut used = BATCH_BYTES + self.kinds.as_ref().map_or(0, |kinds| kinds.len());
        let mut held = used + self.rows.num_columns() * COLUMN_BYTES;
        for column in self.rows.columns() {
            let data = column.to_data();
            used += used_bytes(column, &data);
            note_buffers(&data, &mut buffers);
        }
        buffers.sort_unstable();
        buffers.dedup();
        held += buffers.iter().map(|(_, capacity)| capacity).sum::<usize>();
        (held, used)
    }
}

/// Below this many bytes a batch is never copied: a queue's own bookkeeping costs as much.
const SMALL_BATCH_BYTES: usize = 4096;

/// What a batch costs beside its columns; also a bound on queues of batches without any.
const BATCH_BYTES: usize = 128;

/// What a column costs beside its buffers: the array, its type, reference counts.
const COLUMN_BYTES: usize = 128;

/// Notes the address and size of each allocation.
fn note_buffers(data: &ArrayData, buffers: &mut Vec<(usize, usize)>) {
    buffers.extend(data.buffers().iter().map(|buffer| (buffer.data_ptr().as_ptr() as usize, buffer.capacity())));
    if let Some(nulls) = data.nulls() {
        let buffer = nulls.buffer();
        buffers.push((buffer.data_ptr().as_ptr() as usize, buffer.capacity()));
    }
    for child in data.child_data() {
        note_buffers(child, buffers);
    }
}

fn used_bytes(column: &ArrayRef, data: &ArrayData) -> usize {
    match column.data_type() {
        DataType::Utf8View => view_bytes(column.as_string_view().lengths(), column.len()),
        DataType::BinaryView => view_bytes(column.as_binary_view().lengths(), column.len()),
        _ => data.get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    }
}

/// A view takes 16 bytes; what is longer than 12 stands in a data buffer.
fn view_bytes(lengths: impl Iterator<Item = u32>, rows: usize) -> usize {
    lengths.filter(|length| *length > 12).map(|length| length as usize).sum::<usize>() + rows * 16
}

fn copy(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Utf8View => Ok(Arc::new(column.as_string_view().gc())),
        DataType::BinaryView => Ok(Arc::new(column.as_binary_view().gc())),
        _ => take(column, &UInt32Array::from_iter_values(0..column.len() as u32), None),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn rows(n: i64) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, false)]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from_iter_values(0..n)),
                Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("row {i}")))),
            ],
        )
        .unwrap()
    }

    #[test]
    fn a_slice_under_half_of_its_parent_is_copied_and_a_larger_one_is_shared() {
        let batch = Batch::inserts(rows(10_000));
        let (small, held) = batch.slice(100, 1000).compact().unwrap();
        assert_eq!(held, small.held_bytes());
        assert_eq!(small.rows, batch.rows.slice(100, 1000));
        assert!(small.held_bytes() < batch.held_bytes() / 5, "{} of {}", small.held_bytes(), batch.held_bytes());
        let (large, held) = batch.slice(0, 9000).compact().unwrap();
        assert_eq!(held, large.held_bytes());
        assert_eq!(large.held_bytes(), batch.slice(0, 9000).held_bytes());
    }

    #[test]
    fn kinds_that_are_all_inserts_are_dropped_and_others_are_sliced_with_the_rows() {
        assert_eq!(Batch::with_kinds(rows(2), vec![RowKind::Insert; 2]).kinds, None);
        let batch = Batch::with_kinds(rows(3), vec![RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter]);
        assert_eq!(batch.slice(1, 2).kind(0), RowKind::UpdateBefore);
        assert_eq!(batch.kind(2), RowKind::UpdateAfter);
    }
}
