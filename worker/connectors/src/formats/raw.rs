//! A value as its bytes, with nothing around them: a table of one column.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};

use super::columns::Column;

/// The options of raw values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    /// Numbers have their lowest byte first.
    pub(crate) little_endian: bool,
}

impl Raw {
    /// Whether values of this type have a raw form.
    pub(super) const fn carries(data_type: &DataType) -> bool {
        matches!(
            data_type,
            DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Float32
                | DataType::Float64
                | DataType::Utf8
                | DataType::Binary
        )
    }

    /// Appends the value that these bytes are.
    pub(super) fn push(self, value: Option<&[u8]>, column: &mut Column) -> Result<(), String> {
        let Some(bytes) = value else { return column.push_null() };
        let Some(width) = width(column.field.data_type()) else { return column.push_raw(bytes) };
        if bytes.len() != width {
            return Err(format!(
                "the value has {} bytes, and one of column '{}' has {width}",
                bytes.len(),
                column.field.name()
            ));
        }
        let mut ordered = [0; 8];
        let ordered = &mut ordered[..width];
        ordered.copy_from_slice(bytes);
        if !self.little_endian {
            ordered.reverse();
        }
        column.push_raw(ordered)
    }

    /// Appends the bytes of a value; `false` where there is none.
    pub(super) fn write(self, array: &ArrayRef, row: usize, to: &mut Vec<u8>) -> bool {
        if array.is_null(row) {
            return false;
        }
        let start = to.len();
        match array.data_type() {
            DataType::Boolean => to.push(u8::from(array.as_boolean().value(row))),
            DataType::Int8 => to.extend(native::<Int8Type>(array, row).to_le_bytes()),
            DataType::Int16 => to.extend(native::<Int16Type>(array, row).to_le_bytes()),
            DataType::Int32 => to.extend(native::<Int32Type>(array, row).to_le_bytes()),
            DataType::Int64 => to.extend(native::<Int64Type>(array, row).to_le_bytes()),
            DataType::Float32 => to.extend(native::<Float32Type>(array, row).to_le_bytes()),
            DataType::Float64 => to.extend(native::<Float64Type>(array, row).to_le_bytes()),
            DataType::Utf8 => to.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
            DataType::Binary => to.extend_from_slice(array.as_binary::<i32>().value(row)),
            // The declaration has none of another type.
            _ => return false,
        }
        if !self.little_endian && width(array.data_type()).is_some() {
            to[start..].reverse();
        }
        true
    }
}

fn native<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

/// The bytes of a value, where all have as many.
const fn width(data_type: &DataType) -> Option<usize> {
    Some(match data_type {
        DataType::Boolean | DataType::Int8 => 1,
        DataType::Int16 => 2,
        DataType::Int32 | DataType::Float32 => 4,
        DataType::Int64 | DataType::Float64 => 8,
        _ => return None,
    })
}
