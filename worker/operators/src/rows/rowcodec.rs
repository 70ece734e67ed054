//! Rows as bytes, for operators that keep whole rows: written and read a column at a time.
//!
//! | bytes | what |
//! |---|---|
//! | 1 for each 8 columns | bit i: column i is null |
//! | each fixed-width column | its value, little-endian; a Boolean is a byte; zeros if null |
//! | 4 for each string or binary column | its length |
//! | the rest | the strings' bytes, in the order of the columns |
//!
//! A ROW, an ARRAY or a MAP is a binary of the bytes that [`nested`] gives it.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BinaryArray, BooleanArray, make_array};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use weir_engine::OperatorError;

use crate::rows::column::BytesColumn;
use crate::rows::nested;
use crate::spec::{SpecError, is_bytes};

#[derive(Debug, Clone, Copy)]
enum Cell {
    Boolean {
        at: usize,
    },
    Fixed {
        at: usize,
        width: usize,
    },
    /// The place of the length.
    Bytes {
        at: usize,
    },
}

/// Where rows are encoded to.
struct Target<'a> {
    rows: &'a [u32],
    /// Where each row starts, behind its header.
    starts: Vec<usize>,
    /// Where its next string goes.
    tails: Vec<usize>,
    out: &'a mut [u8],
}

/// Encodes and decodes rows of certain types.
#[derive(Debug, Clone)]
pub struct RowCodec {
    types: Vec<DataType>,
    cells: Vec<Cell>,
    /// The bytes before the strings.
    fixed: usize,
}

/// Encoded rows, each behind a header of the caller's.
#[derive(Debug, Default)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl EncodedRows {
    pub fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.starts[i]..self.starts[i + 1]]
    }

    /// The header's bytes of row `i`.
    pub fn header(&mut self, i: usize, header: usize) -> &mut [u8] {
        &mut self.bytes[self.starts[i]..self.starts[i] + header]
    }
}

impl RowCodec {
    /// For columns of these fields.
    pub fn new<'a>(fields: impl Iterator<Item = &'a Field>) -> Result<Self, SpecError> {
        let fields: Vec<&Field> = fields.collect();
        let mut at = fields.len().div_ceil(8);
        let mut cells = Vec::with_capacity(fields.len());
        for field in &fields {
            let (cell, width) = match field.data_type() {
                DataType::Boolean => (Cell::Boolean { at }, 1),
                t if is_bytes(t) || nested::is_nested(t) => (Cell::Bytes { at }, 4),
                t => match t.primitive_width() {
                    Some(width) => (Cell::Fixed { at, width }, width),
                    None => {
                        return Err(SpecError::NotStorable { column: field.name().clone(), found: t.clone() });
                    }
                },
            };
            cells.push(cell);
            at += width;
        }
        Ok(Self { types: fields.iter().map(|f| f.data_type().clone()).collect(), cells, fixed: at })
    }

    /// Encodes these rows of the columns, each behind `header` bytes that the caller fills in.
    pub fn encode(&self, columns: &[ArrayRef], rows: &[u32], header: usize, out: &mut EncodedRows) {
        let plain: Vec<ArrayRef>;
        let columns = if columns.iter().any(|column| column.data_type().is_nested()) {
            plain = columns.iter().map(flat).collect();
            &plain
        } else {
            columns
        };
        let bytes_columns: Vec<Option<BytesColumn>> = columns.iter().map(BytesColumn::new).collect();
        out.starts.clear();
        out.starts.push(0);
        let mut end = 0;
        let mut lengths = vec![header + self.fixed; rows.len()];
        for (column, bytes) in columns.iter().zip(&bytes_columns) {
            if let Some(bytes) = bytes {
                for (length, &row) in lengths.iter_mut().zip(rows) {
                    if column.is_valid(row as usize) {
                        *length += bytes.get(row as usize).len();
                    }
                }
            }
        }
        for length in lengths {
            end += length;
            out.starts.push(end);
        }
        out.bytes.clear();
        out.bytes.resize(end, 0);
        let starts: Vec<usize> = out.starts[..rows.len()].iter().map(|s| s + header).collect();
        let tails = starts.iter().map(|s| s + self.fixed).collect();
        let mut target = Target { rows, starts, tails, out: &mut out.bytes };
        for (i, column) in columns.iter().enumerate() {
            self.encode_column(i, column, bytes_columns[i].as_ref(), &mut target);
        }
    }

    fn encode_column(&self, i: usize, column: &ArrayRef, bytes: Option<&BytesColumn>, target: &mut Target<'_>) {
        let Target { rows, starts, tails, out } = target;
        if column.null_count() > 0 {
            for (&row, start) in rows.iter().zip(&*starts) {
                if column.is_null(row as usize) {
                    out[start + i / 8] |= 1 << (i % 8);
                }
            }
        }
        match self.cells[i] {
            Cell::Boolean { at } => {
                let values = column.as_boolean();
                for (&row, start) in rows.iter().zip(&*starts) {
                    out[start + at] = u8::from(values.value(row as usize) && values.is_valid(row as usize));
                }
            }
            Cell::Fixed { at, width } => {
                let data = column.to_data();
                let source = &data.buffers()[0].as_slice()[data.offset() * width..];
                match width {
                    8 => copy_fixed::<8>(source, rows, starts, at, out),
                    4 => copy_fixed::<4>(source, rows, starts, at, out),
                    16 => copy_fixed::<16>(source, rows, starts, at, out),
                    2 => copy_fixed::<2>(source, rows, starts, at, out),
                    1 => copy_fixed::<1>(source, rows, starts, at, out),
                    _ => copy_fixed::<32>(source, rows, starts, at, out),
                }
                if column.null_count() > 0 {
                    // Rows that are equal have the same bytes, whatever stands under their nulls.
                    for (&row, start) in rows.iter().zip(&*starts) {
                        if column.is_null(row as usize) {
                            out[start + at..start + at + width].fill(0);
                        }
                    }
                }
            }
            Cell::Bytes { at } => {
                let Some(bytes) = bytes else { return };
                for ((&row, start), tail) in rows.iter().zip(&*starts).zip(tails) {
                    if column.is_null(row as usize) {
                        continue;
                    }
                    let value = bytes.get(row as usize);
                    out[start + at..start + at + 4].copy_from_slice(&(value.len() as u32).to_le_bytes());
                    out[*tail..*tail + value.len()].copy_from_slice(value);
                    *tail += value.len();
                }
            }
        }
    }

    /// The columns of encoded rows, whose headers have been cut off.
    pub fn decode(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut tails = vec![self.fixed; rows.len()];
        (0..self.types.len()).map(|i| self.decode_column(i, rows, &mut tails)).collect()
    }

    /// Some columns of encoded rows, in the order of the columns.
    pub fn decode_columns(&self, columns: &[usize], rows: &[&[u8]]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut tails = vec![self.fixed; rows.len()];
        let mut decoded = Vec::with_capacity(columns.len());
        let end = columns.iter().max().map_or(0, |last| last + 1);
        for i in 0..end {
            if columns.contains(&i) {
                decoded.push(self.decode_column(i, rows, &mut tails)?);
            } else if let Cell::Bytes { at } = self.cells[i] {
                for (row, tail) in rows.iter().zip(&mut tails) {
                    *tail += length_at(row, at);
                }
            }
        }
        Ok(decoded)
    }

    fn decode_column(&self, i: usize, rows: &[&[u8]], tails: &mut [usize]) -> Result<ArrayRef, OperatorError> {
        let t = &self.types[i];
        let valid: Vec<bool> = rows.iter().map(|row| row[i / 8] & (1 << (i % 8)) == 0).collect();
        let nulls = (!valid.iter().all(|v| *v)).then(|| NullBuffer::from(valid));
        Ok(match self.cells[i] {
            Cell::Boolean { at } => {
                let values: Vec<bool> = rows.iter().map(|row| row[at] != 0).collect();
                Arc::new(BooleanArray::new(values.into(), nulls))
            }
            Cell::Fixed { at, width } => {
                let mut bytes = Vec::with_capacity(rows.len() * width);
                for row in rows {
                    bytes.extend_from_slice(&row[at..at + width]);
                }
                // `ScalarBuffer`s of 128 bits want their alignment; the builder copies where the vector has not got it.
                let data = ArrayData::builder(t.clone())
                    .len(rows.len())
                    .add_buffer(Buffer::from_vec(bytes))
                    .nulls(nulls)
                    .align_buffers(true)
                    .build()?;
                make_array(data)
            }
            Cell::Bytes { at } => {
                let mut offsets = Vec::with_capacity(rows.len() + 1);
                let mut bytes = Vec::new();
                offsets.push(0_i32);
                for (row, tail) in rows.iter().zip(tails) {
                    let length = length_at(row, at);
                    bytes.extend_from_slice(&row[*tail..*tail + length]);
                    *tail += length;
                    offsets.push(bytes.len() as i32);
                }
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                if t.is_nested() {
                    return nested::from_bytes(&BinaryArray::try_new(offsets, bytes.into(), nulls)?, t);
                }
                cast(&BinaryArray::try_new(offsets, bytes.into(), nulls)?, t)?
            }
        })
    }
}

/// A column as what a cell holds: of one whose values hold others, their bytes.
fn flat(column: &ArrayRef) -> ArrayRef {
    if column.data_type().is_nested() { nested::to_bytes(column) } else { Arc::clone(column) }
}

/// The length of a string or binary that stands there.
fn length_at(row: &[u8], at: usize) -> usize {
    let mut length = [0; 4];
    length.copy_from_slice(&row[at..at + 4]);
    u32::from_le_bytes(length) as usize
}

fn copy_fixed<const N: usize>(source: &[u8], rows: &[u32], starts: &[usize], at: usize, out: &mut [u8]) {
    for (&row, start) in rows.iter().zip(starts) {
        let from = row as usize * N;
        out[start + at..start + at + N].copy_from_slice(&source[from..from + N]);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array, Int16Array, Int64Array, StringArray, StringViewArray};
    use arrow::compute::take;

    use super::*;

    #[test]
    fn rows_of_all_types_with_nulls_come_back_as_they_were() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])),
            Arc::new(StringArray::from(vec![Some("eins"), Some(""), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(StringViewArray::from(vec![None, Some("a string of more than twelve bytes"), Some("b")])),
            Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-0.0), None])),
            Arc::new(Decimal128Array::from(vec![Some(7), None, Some(-9)]).with_precision_and_scale(20, 3).unwrap()),
            Arc::new(Int16Array::from(vec![1, 2, 3])),
        ];
        let fields: Vec<Field> =
            columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
        let codec = RowCodec::new(fields.iter()).unwrap();
        let rows = [2, 0, 1, 0];
        let mut encoded = EncodedRows::default();
        codec.encode(&columns, &rows, 3, &mut encoded);
        let slices: Vec<&[u8]> = (0..rows.len()).map(|i| &encoded.get(i)[3..]).collect();
        let decoded = codec.decode(&slices).unwrap();
        let rows = arrow::array::UInt32Array::from(rows.to_vec());
        for (decoded, column) in decoded.iter().zip(&columns) {
            assert_eq!(decoded.to_data(), take(column, &rows, None).unwrap().to_data());
        }
        let some = codec.decode_columns(&[1, 3, 6], &slices).unwrap();
        assert_eq!(some, [&decoded[1], &decoded[3], &decoded[6]].map(Arc::clone));
    }

    #[test]
    fn equal_rows_have_equal_bytes_whatever_stands_under_their_nulls() {
        let nulls = || Some(NullBuffer::from(vec![false]));
        let column = |value| Arc::new(Int64Array::new(vec![value].into(), nulls())) as ArrayRef;
        let codec = RowCodec::new([Field::new("c", DataType::Int64, true)].iter()).unwrap();
        let bytes = |value| {
            let mut encoded = EncodedRows::default();
            codec.encode(&[column(value)], &[0], 0, &mut encoded);
            encoded.get(0).to_vec()
        };
        assert_eq!(bytes(7), bytes(-1));
    }

    #[test]
    fn a_row_has_the_bytes_that_the_table_says() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["ab"])),
            Arc::new(Int64Array::from(vec![-2])),
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(StringArray::from(vec![None::<&str>])),
        ];
        let fields: Vec<Field> = columns.iter().map(|c| Field::new("c", c.data_type().clone(), true)).collect();
        let mut encoded = EncodedRows::default();
        RowCodec::new(fields.iter()).unwrap().encode(&columns, &[0], 0, &mut encoded);
        let golden = [&[0b1000][..], &[2, 0, 0, 0], &[0xFE], &[0xFF; 7], &[1], &[0; 4], b"ab"].concat();
        assert_eq!(encoded.get(0), golden);
    }
}
