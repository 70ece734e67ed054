//! From canonical bytes back to columns.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BinaryViewBuilder, BooleanArray, FixedSizeBinaryBuilder, LargeBinaryBuilder,
        LargeStringBuilder, NullArray, PrimitiveArray, StringBuilder, StringViewBuilder,
    },
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
        Decimal256Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
        Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalUnit, IntervalYearMonthType,
        Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};

use super::encode::{Canonical, NULL, VALUE, primitive, unsupported};
use crate::error::StateError;

/// Back from canonical bytes to columns of these types. Bytes after the last of them are left alone, so that the group's
/// columns can be read from a composed key.
pub fn decode_keys<'a>(types: &[DataType], keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, StateError> {
    let mut rest: Vec<&[u8]> = keys.collect();
    types.iter().map(|data_type| decode_column(data_type, &mut rest)).collect()
}

fn malformed(data_type: &DataType) -> StateError {
    StateError::mismatch(format!("a key in the state has no {data_type} where one is expected"))
}

fn decode_column(data_type: &DataType, rest: &mut [&[u8]]) -> Result<ArrayRef, StateError> {
    macro_rules! read {
        ($type:ty) => {
            return Ok(Arc::new(read_primitive::<$type>(data_type, rest)?.with_data_type(data_type.clone())))
        };
    }
    primitive!(data_type, read, ());
    macro_rules! bytes {
        ($builder:expr, $width:expr, $convert:expr) => {{
            let mut builder = $builder;
            for row in &mut *rest {
                match read_bytes(row, $width).ok_or_else(|| malformed(data_type))? {
                    Some(value) => builder.append_value($convert(value)?),
                    None => builder.append_null(),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    let text = |value| std::str::from_utf8(value).map_err(|error| malformed(data_type).because(error));
    let plain = Ok::<_, StateError>;
    let rows = rest.len();
    Ok(match data_type {
        DataType::Null => {
            for row in &mut *rest {
                let (NULL, after) =
                    row.split_first().map(|(tag, after)| (*tag, after)).ok_or_else(|| malformed(data_type))?
                else {
                    return Err(malformed(data_type));
                };
                *row = after;
            }
            Arc::new(NullArray::new(rows))
        }
        DataType::Boolean => {
            let values = rest
                .iter_mut()
                .map(|row| Ok(read_bytes(row, Some(1)).ok_or_else(|| malformed(data_type))?.map(|value| value[0] != 0)))
                .collect::<Result<BooleanArray, StateError>>()?;
            Arc::new(values)
        }
        DataType::Utf8 => bytes!(StringBuilder::new(), None, text),
        DataType::LargeUtf8 => bytes!(LargeStringBuilder::new(), None, text),
        DataType::Utf8View => bytes!(StringViewBuilder::new(), None, text),
        DataType::Binary => bytes!(BinaryBuilder::new(), None, plain),
        DataType::LargeBinary => bytes!(LargeBinaryBuilder::new(), None, plain),
        DataType::BinaryView => bytes!(BinaryViewBuilder::new(), None, plain),
        DataType::FixedSizeBinary(width) => {
            let mut builder = FixedSizeBinaryBuilder::with_capacity(rows, *width);
            for row in &mut *rest {
                match read_bytes(row, Some(*width as usize)).ok_or_else(|| malformed(data_type))? {
                    Some(value) => builder.append_value(value).map_err(|error| malformed(data_type).because(error))?,
                    None => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
        DataType::Dictionary(_, values) => {
            let plain = decode_column(values, rest)?;
            cast(&plain, data_type).map_err(|error| malformed(data_type).because(error))?
        }
        other => return Err(unsupported(other)),
    })
}

fn read_primitive<T>(data_type: &DataType, rest: &mut [&[u8]]) -> Result<PrimitiveArray<T>, StateError>
where
    T: ArrowPrimitiveType,
    T::Native: Canonical,
{
    rest.iter_mut()
        .map(|row| {
            let value = read_bytes(row, Some(T::Native::WIDTH)).ok_or_else(|| malformed(data_type))?;
            value
                .map(|bytes| bytes.try_into().map(T::Native::from_canonical).map_err(|_| malformed(data_type)))
                .transpose()
        })
        .collect()
}

/// A value's bytes, or a null.
type Taken<'a> = Option<&'a [u8]>;

/// Takes one value or null off a row; `None` if there is neither. Without a width the length stands first.
fn read_bytes<'a>(row: &mut &'a [u8], width: Option<usize>) -> Option<Taken<'a>> {
    let (&tag, mut after) = row.split_first()?;
    if tag == NULL {
        *row = after;
        return Some(None);
    }
    if tag != VALUE {
        return None;
    }
    let length = match width {
        Some(width) => width,
        None => read_varint(&mut after)?,
    };
    let (value, after) = after.split_at_checked(length)?;
    *row = after;
    Some(Some(value))
}

pub(crate) fn read_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..35).step_by(7) {
        let (&byte, after) = bytes.split_first()?;
        *bytes = after;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
