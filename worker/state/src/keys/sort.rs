//! Sort keys: bytes that are ordered as the columns of a row are by ORDER BY. FORMAT.md has the table and golden bytes.
//!
//! They are what an ordered state is ordered by, so they are written into checkpoints. Each value says by itself where it ends,
//! also a text, and no key is the beginning of another of the same types; so keys of several columns are ordered by the first,
//! then by the second, and whatever is put behind one (a number that counts arrivals) only decides among equal ones.

use arrow::{array::ArrayRef, buffer::NullBuffer, datatypes::DataType};

use super::{
    decode::decode_keys,
    encode::{
        Canonical, Column, NULL, Rows, VALUE, lay_out, primitive_width, unsupported, varint_length, write_varint,
    },
};
use crate::error::StateError;

/// Stands for a null that comes after all values.
const NULL_LAST: u8 = u8::MAX;
/// Within a text or bytes: what follows says whether they end here or have a zero.
const ESCAPE: u8 = 0;
/// After an escape: the value's end.
const END: u8 = 0;
/// After an escape: a zero of the value's own.
const ZERO: u8 = u8::MAX;

/// How a column is ordered. Nulls stand where this says, whichever way the values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortOrder {
    /// The largest value comes first.
    pub descending: bool,
    /// Nulls come before all values.
    pub nulls_first: bool,
}

impl SortOrder {
    /// `ASC`: nulls first, since SQL takes a null for less than any value unless the query says otherwise.
    pub const ASCENDING: Self = Self { descending: false, nulls_first: true };
    /// `DESC`: nulls last.
    pub const DESCENDING: Self = Self { descending: true, nulls_first: false };

    const fn null(self) -> u8 {
        if self.nulls_first { NULL } else { NULL_LAST }
    }

    /// Inverts the bytes of values where the order is descending.
    const fn mask(self) -> u8 {
        if self.descending { u8::MAX } else { 0 }
    }
}

/// The sort keys of a batch's rows. One is reused for all batches of an operator.
#[derive(Clone, Debug, Default)]
pub struct SortKeys {
    bytes: Vec<u8>,
    /// One more than rows.
    offsets: Vec<u32>,
    cursors: Vec<u32>,
}

impl SortKeys {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the content by the keys of these columns, `rows` long each; `orders` has one entry a column.
    pub fn encode(&mut self, columns: &[ArrayRef], orders: &[SortOrder], rows: usize) -> Result<(), StateError> {
        if columns.len() != orders.len() || columns.iter().any(|column| column.len() != rows) {
            return Err(StateError::mismatch(format!(
                "a sort key of {} columns in {} orders over {rows} rows has columns of other lengths",
                columns.len(),
                orders.len()
            )));
        }
        let columns = columns.iter().map(Column::of).collect::<Result<Vec<_>, _>>()?;
        self.cursors.clear();
        self.cursors.resize(rows, 0);
        for column in &columns {
            column.add_lengths_by(&mut self.cursors, escaped_length);
        }
        self.offsets.clear();
        let total = lay_out(&mut self.cursors, &mut self.offsets).ok_or_else(|| {
            StateError::too_large(format!("the sort keys of a batch of {rows} rows have more than 4 GiB"))
        })?;
        // What was there before is overwritten, every byte of it.
        self.bytes.resize(total as usize, 0);
        for (column, order) in columns.iter().zip(orders) {
            column.write(&mut Sorted { bytes: &mut self.bytes, cursors: &mut self.cursors, order: *order });
        }
        Ok(())
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.cursors.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// The sort key of row `i`.
    #[inline]
    pub fn key(&self, i: usize) -> &[u8] {
        &self.bytes[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }
}

/// Two bytes of an end, and one more for each zero.
fn escaped_length(value: &[u8]) -> usize {
    value.iter().map(|byte| 1 + usize::from(*byte == ESCAPE)).sum::<usize>() + 2
}

/// Where the rows of one column go.
struct Sorted<'a> {
    bytes: &'a mut [u8],
    cursors: &'a mut [u32],
    order: SortOrder,
}

impl Sorted<'_> {
    /// Writes a mark and what `value` adds behind it; it returns how many bytes that was.
    fn put_all(&mut self, nulls: Option<&NullBuffer>, mut value: impl FnMut(usize, &mut [u8]) -> usize) {
        let null = self.order.null();
        for (i, cursor) in self.cursors.iter_mut().enumerate() {
            let cell = &mut self.bytes[*cursor as usize..];
            *cursor += 1 + if nulls.is_none_or(|nulls| nulls.is_valid(i)) {
                cell[0] = VALUE;
                value(i, &mut cell[1..]) as u32
            } else {
                cell[0] = null;
                0
            };
        }
    }
}

impl Rows for Sorted<'_> {
    fn put_nulls(&mut self) {
        let null = self.order.null();
        for cursor in &mut *self.cursors {
            self.bytes[*cursor as usize] = null;
            *cursor += 1;
        }
    }

    fn put<T: Canonical>(&mut self, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> T) {
        let mask = self.order.mask();
        self.put_all(nulls, |i, cell| {
            for (to, from) in cell.iter_mut().zip(value(i).to_canonical().as_ref()) {
                *to = from ^ mask;
            }
            T::WIDTH
        });
    }

    /// `prefixed` says that values have lengths of their own: here they are escaped, since a length before them would come
    /// before their bytes in the order.
    fn put_bytes<'a>(&mut self, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> &'a [u8], prefixed: bool) {
        let mask = self.order.mask();
        self.put_all(nulls, |i, cell| {
            let value = value(i);
            if !prefixed {
                for (to, from) in cell.iter_mut().zip(value) {
                    *to = from ^ mask;
                }
                return value.len();
            }
            let mut at = 0;
            let mut put = |byte: u8| {
                cell[at] = byte ^ mask;
                at += 1;
            };
            for &byte in value {
                put(byte);
                if byte == ESCAPE {
                    put(ZERO);
                }
            }
            put(ESCAPE);
            put(END);
            at
        });
    }
}

/// Back from sort keys to columns of these types. Bytes behind the last of them are left alone. A negative zero comes back as
/// zero, and every NaN as the same.
pub fn decode_sort_keys<'a>(
    types: &[DataType],
    orders: &[SortOrder],
    keys: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<ArrayRef>, StateError> {
    let widths = types.iter().map(Width::of).collect::<Result<Vec<_>, _>>()?;
    let mut canonical = Vec::new();
    let mut ends = Vec::new();
    for mut key in keys {
        for ((width, order), data_type) in widths.iter().zip(orders).zip(types) {
            unsort(&mut key, *width, *order, &mut canonical).ok_or_else(|| {
                StateError::mismatch(format!("a sort key in the state has no {data_type} where one is expected"))
            })?;
        }
        ends.push(canonical.len());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    decode_keys(types, starts.zip(&ends).map(|(start, end)| &canonical[start..*end]))
}

/// How many bytes a value has.
#[derive(Clone, Copy)]
enum Width {
    Fixed(usize),
    Escaped,
}

impl Width {
    fn of(data_type: &DataType) -> Result<Self, StateError> {
        if let Some(width) = primitive_width(data_type) {
            return Ok(Self::Fixed(width));
        }
        Ok(match data_type {
            DataType::Null => Self::Fixed(0),
            DataType::Boolean => Self::Fixed(1),
            DataType::FixedSizeBinary(bytes) => Self::Fixed(*bytes as usize),
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => Self::Escaped,
            DataType::Dictionary(_, values) => return Self::of(values),
            other => return Err(unsupported(other)),
        })
    }
}

/// Takes one value off a sort key and appends it as canonical bytes; `None` if there is none.
fn unsort(key: &mut &[u8], width: Width, order: SortOrder, out: &mut Vec<u8>) -> Option<()> {
    let (&mark, mut rest) = key.split_first()?;
    if mark == order.null() {
        out.push(NULL);
        *key = rest;
        return Some(());
    }
    if mark != VALUE {
        return None;
    }
    out.push(VALUE);
    let mask = order.mask();
    match width {
        Width::Fixed(width) => {
            let (value, after) = rest.split_at_checked(width)?;
            out.extend(value.iter().map(|byte| byte ^ mask));
            rest = after;
        }
        Width::Escaped => {
            let mut value = Vec::new();
            let mut next = || {
                let (&byte, after) = rest.split_first()?;
                rest = after;
                Some(byte ^ mask)
            };
            loop {
                let byte = next()?;
                if byte != ESCAPE {
                    value.push(byte);
                    continue;
                }
                match next()? {
                    END => break,
                    ZERO => value.push(0),
                    _ => return None,
                }
            }
            let at = out.len();
            out.resize(at + varint_length(value.len()), 0);
            write_varint(&mut out[at..], value.len());
            out.extend_from_slice(&value);
        }
    }
    *key = rest;
    Some(())
}

#[cfg(test)]
mod tests;
