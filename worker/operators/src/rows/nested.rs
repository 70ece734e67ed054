//! ROWs, ARRAYs and MAPs as bytes, within a row of an operator's state. Equal values have equal bytes.
//!
//! | value | bytes |
//! |---|---|
//! | NULL | `00` |
//! | anything else | `01`, then as below |
//! | BOOLEAN | a byte |
//! | of fixed width | its value, little-endian |
//! | STRING, BYTES | its length in 4 bytes, little-endian, then its bytes |
//! | ROW | its fields, one after the other |
//! | ARRAY | how many elements there are, in 4 bytes, then each |
//! | MAP | the same for its entries, each a key and a value, in their order: that of the keys, whoever makes a MAP |
//!
//! The column's own NULL is the row's, so that a value has no byte for it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, MapArray, StructArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use weir_engine::OperatorError;
use weir_state::StateError;

use crate::rows::column::BytesColumn;
use crate::spec::is_bytes;

/// Whether values of this type have such bytes.
pub fn is_nested(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().all(|field| is_part(field.data_type())),
        DataType::List(element) => is_part(element.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.len() == 2 && fields.iter().all(|field| is_part(field.data_type())),
            _ => false,
        },
        _ => false,
    }
}

fn is_part(data_type: &DataType) -> bool {
    is_nested(data_type)
        || *data_type == DataType::Boolean
        || is_bytes(data_type)
        || data_type.primitive_width().is_some()
}

/// A column of such values as one of bytes.
pub fn to_bytes(column: &ArrayRef) -> ArrayRef {
    let writer = Writer::of(column);
    let mut bytes = Vec::new();
    let mut offsets = vec![0_i32];
    for row in 0..column.len() {
        if column.is_valid(row) {
            writer.value(row, &mut bytes);
        }
        offsets.push(bytes.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Arc::new(BinaryArray::new(offsets, bytes.into(), column.nulls().cloned()))
}

enum Writer {
    Boolean(BooleanArray),
    Fixed {
        bytes: Buffer,
        width: usize,
    },
    Bytes(BytesColumn),
    Row(Vec<(ArrayRef, Writer)>),
    List(OffsetBuffer<i32>, ArrayRef, Box<Writer>),
    Map {
        offsets: OffsetBuffer<i32>,
        keys: (ArrayRef, Box<Writer>),
        values: (ArrayRef, Box<Writer>),
    },
    /// Of no type that a codec is made for.
    Nothing,
}

impl Writer {
    fn of(column: &ArrayRef) -> Self {
        let with = |column: &ArrayRef| (Arc::clone(column), Box::new(Self::of(column)));
        match column.data_type() {
            DataType::Boolean => Self::Boolean(column.as_boolean().clone()),
            DataType::Struct(_) => {
                let fields = column.as_struct().columns();
                Self::Row(fields.iter().map(|field| (Arc::clone(field), Self::of(field))).collect())
            }
            DataType::List(_) => {
                let list = column.as_list::<i32>();
                let (values, writer) = with(list.values());
                Self::List(list.offsets().clone(), values, writer)
            }
            DataType::Map(..) => {
                let map = column.as_map();
                Self::Map { offsets: map.offsets().clone(), keys: with(map.keys()), values: with(map.values()) }
            }
            other => match (BytesColumn::new(column), other.primitive_width()) {
                (Some(bytes), _) => Self::Bytes(bytes),
                (None, Some(width)) => {
                    let data = column.to_data();
                    let bytes = data.buffers()[0].slice(data.offset() * width);
                    Self::Fixed { bytes, width }
                }
                (None, None) => Self::Nothing,
            },
        }
    }

    /// A value that is there.
    fn value(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Boolean(values) => out.push(u8::from(values.value(row))),
            Self::Fixed { bytes, width } => out.extend_from_slice(&bytes[row * width..(row + 1) * width]),
            Self::Bytes(bytes) => {
                let bytes = bytes.get(row);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Row(fields) => fields.iter().for_each(|(column, field)| field.part(column, row, out)),
            Self::List(offsets, elements, element) => {
                let (start, end) = (offsets[row], offsets[row + 1]);
                out.extend_from_slice(&(end - start).to_le_bytes());
                (start..end).for_each(|at| element.part(elements, at as usize, out));
            }
            Self::Map { offsets, keys, values } => {
                let (start, end) = (offsets[row], offsets[row + 1]);
                out.extend_from_slice(&(end - start).to_le_bytes());
                for at in start as usize..end as usize {
                    keys.1.part(&keys.0, at, out);
                    values.1.part(&values.0, at, out);
                }
            }
            Self::Nothing => {}
        }
    }

    /// A value within another.
    fn part(&self, column: &ArrayRef, row: usize, out: &mut Vec<u8>) {
        let is_there = column.is_valid(row);
        out.push(u8::from(is_there));
        if is_there {
            self.value(row, out);
        }
    }
}

/// A column of bytes as one of the values that they are.
pub fn from_bytes(bytes: &BinaryArray, data_type: &DataType) -> Result<ArrayRef, OperatorError> {
    let mut reader = Reader::of(data_type);
    for row in 0..bytes.len() {
        if bytes.is_null(row) {
            reader.push_null();
            continue;
        }
        let mut value = bytes.value(row);
        if reader.push_value(&mut value).is_none() || !value.is_empty() {
            return Err(malformed());
        }
    }
    reader.finish(data_type)
}

fn malformed() -> OperatorError {
    let what = "a ROW, ARRAY or MAP in the state is not of the form that this version writes";
    OperatorError::from(StateError::mismatch(what))
}

/// Values that are being read.
struct Reader {
    valid: Vec<bool>,
    values: Values,
}

enum Values {
    Boolean(Vec<bool>),
    Fixed { bytes: Vec<u8>, width: usize },
    Bytes { bytes: Vec<u8>, ends: Vec<i32> },
    Row(Vec<Reader>),
    List { ends: Vec<i32>, elements: Box<Reader> },
    Map { ends: Vec<i32>, keys: Box<Reader>, values: Box<Reader> },
}

impl Reader {
    fn of(data_type: &DataType) -> Self {
        let values = match data_type {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Struct(fields) => Values::Row(fields.iter().map(|field| Self::of(field.data_type())).collect()),
            DataType::List(element) => {
                Values::List { ends: Vec::new(), elements: Box::new(Self::of(element.data_type())) }
            }
            DataType::Map(entries, _) => {
                let of = |at: usize| match entries.data_type() {
                    DataType::Struct(fields) => Box::new(Self::of(fields[at].data_type())),
                    other => Box::new(Self::of(other)),
                };
                Values::Map { ends: Vec::new(), keys: of(0), values: of(1) }
            }
            other => match other.primitive_width() {
                Some(width) => Values::Fixed { bytes: Vec::new(), width },
                None => Values::Bytes { bytes: Vec::new(), ends: Vec::new() },
            },
        };
        Self { valid: Vec::new(), values }
    }

    fn push_null(&mut self) {
        self.valid.push(false);
        match &mut self.values {
            Values::Boolean(all) => all.push(false),
            Values::Fixed { bytes, width } => bytes.resize(bytes.len() + *width, 0),
            Values::Bytes { bytes, ends } => ends.push(bytes.len() as i32),
            Values::Row(fields) => fields.iter_mut().for_each(Self::push_null),
            Values::List { ends, elements } => ends.push(elements.valid.len() as i32),
            Values::Map { ends, keys, .. } => ends.push(keys.valid.len() as i32),
        }
    }

    fn push_part(&mut self, from: &mut &[u8]) -> Option<()> {
        match take(from, 1)? {
            [0] => self.push_null(),
            _ => self.push_value(from)?,
        }
        Some(())
    }

    /// A value that is there.
    fn push_value(&mut self, from: &mut &[u8]) -> Option<()> {
        match &mut self.values {
            Values::Boolean(all) => all.push(take(from, 1)? != [0]),
            Values::Fixed { bytes, width } => bytes.extend_from_slice(take(from, *width)?),
            Values::Bytes { bytes, ends } => {
                let length = count(from)?;
                bytes.extend_from_slice(take(from, length)?);
                ends.push(i32::try_from(bytes.len()).ok()?);
            }
            Values::Row(fields) => fields.iter_mut().try_for_each(|field| field.push_part(from))?,
            Values::List { ends, elements } => {
                for _ in 0..count(from)? {
                    elements.push_part(from)?;
                }
                ends.push(i32::try_from(elements.valid.len()).ok()?);
            }
            Values::Map { ends, keys, values } => {
                for _ in 0..count(from)? {
                    keys.push_part(from)?;
                    values.push_part(from)?;
                }
                ends.push(i32::try_from(keys.valid.len()).ok()?);
            }
        }
        self.valid.push(true);
        Some(())
    }

    fn finish(self, data_type: &DataType) -> Result<ArrayRef, OperatorError> {
        let (rows, valid) = (self.valid.len(), self.valid);
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        Ok(match (self.values, data_type) {
            (Values::Boolean(all), _) => Arc::new(BooleanArray::new(all.into(), nulls)),
            (Values::Fixed { bytes, .. }, _) => {
                let data = ArrayData::builder(data_type.clone()).len(rows).add_buffer(Buffer::from_vec(bytes));
                make_array(data.nulls(nulls).align_buffers(true).build()?)
            }
            (Values::Bytes { bytes, ends }, _) => {
                cast(&BinaryArray::try_new(offsets(ends), bytes.into(), nulls)?, data_type)?
            }
            (Values::Row(readers), DataType::Struct(fields)) => {
                let columns = readers.into_iter().zip(fields).map(|(reader, field)| reader.finish(field.data_type()));
                let columns = columns.collect::<Result<Vec<_>, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, rows)?)
            }
            (Values::List { ends, elements }, DataType::List(field)) => {
                let elements = elements.finish(field.data_type())?;
                Arc::new(ListArray::try_new(Arc::clone(field), offsets(ends), elements, nulls)?)
            }
            (Values::Map { ends, keys, values }, DataType::Map(field, sorted)) => {
                let DataType::Struct(fields) = field.data_type() else { return Err(malformed()) };
                let parts = [*keys, *values].into_iter().zip(fields).map(|(reader, field)| {
                    let field: &Field = field;
                    reader.finish(field.data_type())
                });
                let entries = StructArray::try_new(fields.clone(), parts.collect::<Result<Vec<_>, _>>()?, None)?;
                Arc::new(MapArray::try_new(Arc::clone(field), offsets(ends), entries, nulls, *sorted)?)
            }
            _ => return Err(malformed()),
        })
    }
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::iter::once(0).chain(ends).collect::<Vec<_>>()))
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn count(from: &mut &[u8]) -> Option<usize> {
    let bytes = take(from, 4)?.first_chunk().copied()?;
    Some(u32::from_le_bytes(bytes) as usize)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::Fields;

    use super::*;

    fn list(elements: ArrayRef, ends: &[i32], nulls: Option<Vec<bool>>) -> ArrayRef {
        let field = Arc::new(Field::new("item", elements.data_type().clone(), true));
        Arc::new(ListArray::new(field, offsets(ends.to_vec()), elements, nulls.map(NullBuffer::from)))
    }

    fn map(keys: &[&str], values: ArrayRef, ends: &[i32]) -> ArrayRef {
        let fields = Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", values.data_type().clone(), true),
        ]);
        let keys: ArrayRef = Arc::new(StringArray::from(keys.to_vec()));
        let entries = StructArray::new(fields.clone(), vec![keys, values], None);
        let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        Arc::new(MapArray::new(field, offsets(ends.to_vec()), entries, None, false))
    }

    fn row(columns: Vec<ArrayRef>, nulls: Option<Vec<bool>>) -> ArrayRef {
        let field = |(at, column): (usize, &ArrayRef)| Field::new(format!("f{at}"), column.data_type().clone(), true);
        let fields: Fields = columns.iter().enumerate().map(field).collect();
        Arc::new(StructArray::new(fields, columns, nulls.map(NullBuffer::from)))
    }

    fn come_back(column: &ArrayRef) {
        assert!(is_nested(column.data_type()));
        for column in [Arc::clone(column), column.slice(1, column.len() - 1)] {
            let bytes = to_bytes(&column);
            let back = from_bytes(bytes.as_binary(), column.data_type()).unwrap();
            assert_eq!(&back, &column);
        }
    }

    #[test]
    fn values_within_values_come_back_as_they_were() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(-3), Some(4)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("länger")]));
        let decimals: ArrayRef = Arc::new(
            Decimal128Array::from(vec![Some(1), None, Some(-7), Some(0)]).with_precision_and_scale(20, 2).unwrap(),
        );
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]));
        let rows = row(vec![texts, decimals, flags], Some(vec![true, true, false, true]));
        come_back(&list(Arc::clone(&numbers), &[2, 2, 4], Some(vec![true, false, true])));
        come_back(&list(list(Arc::clone(&numbers), &[1, 3, 3, 4], None), &[1, 1, 4], None));
        come_back(&rows);
        come_back(&list(Arc::clone(&rows), &[0, 3, 4], None));
        come_back(&map(&["x", "y", "z", "x"], rows, &[3, 3, 4]));
        come_back(&row(vec![map(&["x", "a"], Arc::new(Int64Array::from(vec![1, 2])), &[1, 2])], None));
    }

    #[test]
    fn a_value_has_the_bytes_that_the_table_says() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(-2), None]));
        let value = row(vec![list(numbers, &[2], None), Arc::new(StringArray::from(vec!["ab"]))], None);
        let golden = [&[1][..], &[2, 0, 0, 0], &[1, 0xFE, 0xFF, 0xFF, 0xFF], &[0], &[1, 2, 0, 0, 0], b"ab"].concat();
        assert_eq!(to_bytes(&value).as_binary::<i32>().value(0), golden);
    }

    #[test]
    fn bytes_that_are_no_value_are_refused() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let data_type = list(numbers, &[1], None).data_type().clone();
        for bytes in [&[][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 1, 0], &[0, 0, 0, 0, 9]] {
            assert!(from_bytes(&BinaryArray::from(vec![bytes]), &data_type).is_err(), "{bytes:?}");
        }
    }
}
