//! From columns to canonical bytes.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray,
        LargeStringArray, StringArray, StringViewArray,
    },
    buffer::NullBuffer,
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
        Decimal256Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
        Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalUnit, IntervalYearMonthType,
        Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type, i256,
    },
};

use crate::error::StateError;

/// Stands before every value that is there.
pub(super) const VALUE: u8 = 1;
/// Stands for a null.
pub(super) const NULL: u8 = 0;

/// A value of fixed width as order-preserving bytes, and back.
pub(super) trait Canonical: Copy {
    type Bytes: AsRef<[u8]> + for<'a> TryFrom<&'a [u8]>;
    const WIDTH: usize;
    fn to_canonical(self) -> Self::Bytes;
    fn from_canonical(bytes: Self::Bytes) -> Self;
}

macro_rules! signed {
    ($($type:ty, $width:literal;)*) => {$(
        impl Canonical for $type {
            type Bytes = [u8; $width];
            const WIDTH: usize = $width;
            fn to_canonical(self) -> Self::Bytes {
                (self ^ <$type>::MIN).to_be_bytes()
            }
            fn from_canonical(bytes: Self::Bytes) -> Self {
                <$type>::from_be_bytes(bytes) ^ <$type>::MIN
            }
        }
    )*};
}

macro_rules! unsigned {
    ($($type:ty, $width:literal;)*) => {$(
        impl Canonical for $type {
            type Bytes = [u8; $width];
            const WIDTH: usize = $width;
            fn to_canonical(self) -> Self::Bytes {
                self.to_be_bytes()
            }
            fn from_canonical(bytes: Self::Bytes) -> Self {
                <$type>::from_be_bytes(bytes)
            }
        }
    )*};
}

macro_rules! float {
    ($($type:ty, $bits:ty, $width:literal, $nan:literal;)*) => {$(
        impl Canonical for $type {
            type Bytes = [u8; $width];
            const WIDTH: usize = $width;
            fn to_canonical(self) -> Self::Bytes {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                // Adding zero makes -0.0 the same as 0.0; all NaNs are one.
                let bits: $bits = if self.is_nan() { $nan } else { (self + 0.0).to_bits() };
                (if bits & SIGN == 0 { bits | SIGN } else { !bits }).to_be_bytes()
            }
            fn from_canonical(bytes: Self::Bytes) -> Self {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let bits = <$bits>::from_be_bytes(bytes);
                <$type>::from_bits(if bits & SIGN == 0 { !bits } else { bits & !SIGN })
            }
        }
    )*};
}

signed! { i8, 1; i16, 2; i32, 4; i64, 8; i128, 16; }
unsigned! { u8, 1; u16, 2; u32, 4; u64, 8; }
float! { f32, u32, 4, 0x7fc0_0000; f64, u64, 8, 0x7ff8_0000_0000_0000; }

impl Canonical for i256 {
    type Bytes = [u8; 32];
    const WIDTH: usize = 32;
    fn to_canonical(self) -> Self::Bytes {
        let mut bytes = self.to_be_bytes();
        bytes[0] ^= 0x80;
        bytes
    }
    fn from_canonical(mut bytes: Self::Bytes) -> Self {
        bytes[0] ^= 0x80;
        Self::from_be_bytes(bytes)
    }
}

/// Calls a macro with the Arrow type of a primitive data type whose native type is [`Canonical`].
macro_rules! primitive {
    ($data_type:expr, $call:ident, $other:expr) => {
        match $data_type {
            DataType::Int8 => $call!(Int8Type),
            DataType::Int16 => $call!(Int16Type),
            DataType::Int32 => $call!(Int32Type),
            DataType::Int64 => $call!(Int64Type),
            DataType::UInt8 => $call!(UInt8Type),
            DataType::UInt16 => $call!(UInt16Type),
            DataType::UInt32 => $call!(UInt32Type),
            DataType::UInt64 => $call!(UInt64Type),
            DataType::Float32 => $call!(Float32Type),
            DataType::Float64 => $call!(Float64Type),
            DataType::Date32 => $call!(Date32Type),
            DataType::Date64 => $call!(Date64Type),
            DataType::Time32(TimeUnit::Second) => $call!(Time32SecondType),
            DataType::Time32(TimeUnit::Millisecond) => $call!(Time32MillisecondType),
            DataType::Time64(TimeUnit::Microsecond) => $call!(Time64MicrosecondType),
            DataType::Time64(TimeUnit::Nanosecond) => $call!(Time64NanosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => $call!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => $call!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $call!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => $call!(TimestampNanosecondType),
            DataType::Duration(TimeUnit::Second) => $call!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $call!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $call!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $call!(DurationNanosecondType),
            DataType::Interval(IntervalUnit::YearMonth) => $call!(IntervalYearMonthType),
            DataType::Decimal32(..) => $call!(Decimal32Type),
            DataType::Decimal64(..) => $call!(Decimal64Type),
            DataType::Decimal128(..) => $call!(Decimal128Type),
            DataType::Decimal256(..) => $call!(Decimal256Type),
            _ => $other,
        }
    };
}
pub(super) use primitive;

/// Bytes of a primitive value.
pub(super) fn primitive_width(data_type: &DataType) -> Option<usize> {
    macro_rules! width {
        ($type:ty) => {
            Some(<<$type as ArrowPrimitiveType>::Native as Canonical>::WIDTH)
        };
    }
    primitive!(data_type, width, None)
}

pub(super) fn unsupported(data_type: &DataType) -> StateError {
    StateError::mismatch(format!(
        "a column of type {data_type} cannot be part of a key; cast it to a string or a number"
    ))
}

/// A column to encode.
pub(super) enum Column {
    Null,
    Primitive(ArrayRef, usize),
    Boolean(ArrayRef),
    FixedBinary(FixedSizeBinaryArray),
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    BinaryView(BinaryViewArray),
}

impl Column {
    pub(super) fn of(column: &ArrayRef) -> Result<Self, StateError> {
        if let Some(width) = primitive_width(column.data_type()) {
            return Ok(Self::Primitive(column.clone(), width));
        }
        Ok(match column.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean(column.clone()),
            DataType::FixedSizeBinary(_) => Self::FixedBinary(column.as_fixed_size_binary().clone()),
            DataType::Utf8 => Self::Utf8(column.as_string().clone()),
            DataType::LargeUtf8 => Self::LargeUtf8(column.as_string().clone()),
            DataType::Utf8View => Self::Utf8View(column.as_string_view().clone()),
            DataType::Binary => Self::Binary(column.as_binary().clone()),
            DataType::LargeBinary => Self::LargeBinary(column.as_binary().clone()),
            DataType::BinaryView => Self::BinaryView(column.as_binary_view().clone()),
            DataType::Dictionary(_, values) => {
                let plain = cast(column, values).map_err(|error| {
                    StateError::mismatch("a dictionary column could not be unpacked").because(error)
                })?;
                return Self::of(&plain);
            }
            other => return Err(unsupported(other)),
        })
    }

    /// Bytes a row, where they are the same for all rows.
    fn stride(&self) -> Option<usize> {
        match self {
            Self::Null => Some(1),
            Self::Primitive(array, width) => (array.null_count() == 0).then_some(1 + width),
            Self::Boolean(array) => (array.null_count() == 0).then_some(2),
            Self::FixedBinary(array) => (array.null_count() == 0).then_some(1 + array.value_length() as usize),
            _ => None,
        }
    }

    /// Adds each row's bytes to `lengths`, where all values are of one width or none is there; says whether that is so.
    fn add_fixed_lengths(&self, lengths: &mut [u32]) -> bool {
        match self {
            Self::Null => lengths.iter_mut().for_each(|length| *length += 1),
            Self::Primitive(array, width) => add_fixed(lengths, array.nulls(), *width),
            Self::Boolean(array) => add_fixed(lengths, array.nulls(), 1),
            Self::FixedBinary(array) => add_fixed(lengths, array.nulls(), array.value_length() as usize),
            _ => return false,
        }
        true
    }

    /// Adds each row's bytes to `lengths`.
    fn add_lengths(&self, lengths: &mut [u32]) {
        if self.add_fixed_lengths(lengths) {
            return;
        }
        match self {
            Self::Null | Self::Primitive(..) | Self::Boolean(_) | Self::FixedBinary(_) => {}
            Self::Utf8(array) => add_variable(lengths, array.nulls(), |i| array.value_length(i) as usize),
            Self::LargeUtf8(array) => add_variable(lengths, array.nulls(), |i| array.value_length(i) as usize),
            Self::Utf8View(array) => add_variable(lengths, array.nulls(), |i| array.value(i).len()),
            Self::Binary(array) => add_variable(lengths, array.nulls(), |i| array.value_length(i) as usize),
            Self::LargeBinary(array) => add_variable(lengths, array.nulls(), |i| array.value_length(i) as usize),
            Self::BinaryView(array) => add_variable(lengths, array.nulls(), |i| array.value(i).len()),
        }
    }

    /// Adds each row's bytes to `lengths`, where `length` says how many a value of a length of its own takes.
    pub(super) fn add_lengths_by(&self, lengths: &mut [u32], length: impl Fn(&[u8]) -> usize) {
        if self.add_fixed_lengths(lengths) {
            return;
        }
        match self {
            Self::Null | Self::Primitive(..) | Self::Boolean(_) | Self::FixedBinary(_) => {}
            Self::Utf8(array) => add_by(lengths, array.nulls(), |i| length(array.value(i).as_bytes())),
            Self::LargeUtf8(array) => add_by(lengths, array.nulls(), |i| length(array.value(i).as_bytes())),
            Self::Utf8View(array) => add_by(lengths, array.nulls(), |i| length(array.value(i).as_bytes())),
            Self::Binary(array) => add_by(lengths, array.nulls(), |i| length(array.value(i))),
            Self::LargeBinary(array) => add_by(lengths, array.nulls(), |i| length(array.value(i))),
            Self::BinaryView(array) => add_by(lengths, array.nulls(), |i| length(array.value(i))),
        }
    }

    /// Writes all rows.
    pub(super) fn write(&self, out: &mut impl Rows) {
        match self {
            Self::Null => out.put_nulls(),
            Self::Primitive(array, _) => {
                macro_rules! write {
                    ($type:ty) => {{
                        let array = array.as_primitive::<$type>();
                        let values = array.values();
                        out.put(array.nulls(), |i| values[i])
                    }};
                }
                primitive!(array.data_type(), write, ());
            }
            Self::Boolean(array) => {
                let array = array.as_boolean();
                out.put(array.nulls(), |i| u8::from(array.value(i)));
            }
            Self::FixedBinary(array) => out.put_bytes(array.nulls(), |i| array.value(i), false),
            Self::Utf8(array) => out.put_bytes(array.nulls(), |i| array.value(i).as_bytes(), true),
            Self::LargeUtf8(array) => out.put_bytes(array.nulls(), |i| array.value(i).as_bytes(), true),
            Self::Utf8View(array) => out.put_bytes(array.nulls(), |i| array.value(i).as_bytes(), true),
            Self::Binary(array) => out.put_bytes(array.nulls(), |i| array.value(i), true),
            Self::LargeBinary(array) => out.put_bytes(array.nulls(), |i| array.value(i), true),
            Self::BinaryView(array) => out.put_bytes(array.nulls(), |i| array.value(i), true),
        }
    }
}

fn add_fixed(lengths: &mut [u32], nulls: Option<&NullBuffer>, width: usize) {
    match nulls {
        None => lengths.iter_mut().for_each(|length| *length += 1 + width as u32),
        Some(nulls) => {
            for (length, valid) in lengths.iter_mut().zip(nulls) {
                *length += 1 + if valid { width as u32 } else { 0 };
            }
        }
    }
}

fn add_variable(lengths: &mut [u32], nulls: Option<&NullBuffer>, value_length: impl Fn(usize) -> usize) {
    add_by(lengths, nulls, |i| {
        let bytes = value_length(i);
        varint_length(bytes) + bytes
    });
}

/// A value takes what `bytes` says, and one byte before it; a null takes that one only.
fn add_by(lengths: &mut [u32], nulls: Option<&NullBuffer>, bytes: impl Fn(usize) -> usize) {
    for (i, length) in lengths.iter_mut().enumerate() {
        let bytes = if nulls.is_none_or(|nulls| nulls.is_valid(i)) { bytes(i) } else { 0 };
        *length = length.saturating_add(u32::try_from(1 + bytes).unwrap_or(u32::MAX));
    }
}

pub(crate) fn varint_length(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// LEB128. Returns the bytes written.
pub(crate) fn write_varint(out: &mut [u8], mut value: usize) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Where the rows of a column go, one column after the other.
pub(super) trait Rows {
    /// A null in each row.
    fn put_nulls(&mut self);
    /// A value of fixed width in each row.
    fn put<T: Canonical>(&mut self, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> T);
    /// Bytes in each row, with their length before them where it is not the same for all.
    fn put_bytes<'a>(&mut self, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> &'a [u8], prefixed: bool);
}

/// Rows that are all of one length, without nulls.
struct Strided<'a> {
    bytes: &'a mut [u8],
    stride: usize,
    at: usize,
}

impl Rows for Strided<'_> {
    fn put_nulls(&mut self) {
        for row in self.bytes.chunks_exact_mut(self.stride) {
            row[self.at] = NULL;
        }
        self.at += 1;
    }

    fn put<T: Canonical>(&mut self, _nulls: Option<&NullBuffer>, value: impl Fn(usize) -> T) {
        for (i, row) in self.bytes.chunks_exact_mut(self.stride).enumerate() {
            let cell = &mut row[self.at..=self.at + T::WIDTH];
            cell[0] = VALUE;
            cell[1..].copy_from_slice(value(i).to_canonical().as_ref());
        }
        self.at += 1 + T::WIDTH;
    }

    fn put_bytes<'a>(&mut self, _nulls: Option<&NullBuffer>, value: impl Fn(usize) -> &'a [u8], _prefixed: bool) {
        let mut end = self.at;
        for (i, row) in self.bytes.chunks_exact_mut(self.stride).enumerate() {
            let value = value(i);
            end = self.at + 1 + value.len();
            row[self.at] = VALUE;
            row[self.at + 1..end].copy_from_slice(value);
        }
        self.at = end;
    }
}

/// Rows of any length; `cursors` says where each goes on.
struct Scattered<'a> {
    bytes: &'a mut [u8],
    cursors: &'a mut [u32],
}

impl Rows for Scattered<'_> {
    fn put_nulls(&mut self) {
        for cursor in &mut *self.cursors {
            self.bytes[*cursor as usize] = NULL;
            *cursor += 1;
        }
    }

    fn put<T: Canonical>(&mut self, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> T) {
        for (i, cursor) in self.cursors.iter_mut().enumerate() {
            let at = *cursor as usize;
            if nulls.is_none_or(|nulls| nulls.is_valid(i)) {
                let cell = &mut self.bytes[at..=at + T::WIDTH];
                cell[0] = VALUE;
                cell[1..].copy_from_slice(value(i).to_canonical().as_ref());
                *cursor += 1 + T::WIDTH as u32;
            } else {
                self.bytes[at] = NULL;
                *cursor += 1;
            }
        }
    }

    fn put_bytes<'a>(&mut self, nulls: Option<&NullBuffer>, value: impl Fn(usize) -> &'a [u8], prefixed: bool) {
        for (i, cursor) in self.cursors.iter_mut().enumerate() {
            let mut at = *cursor as usize;
            if nulls.is_none_or(|nulls| nulls.is_valid(i)) {
                let value = value(i);
                self.bytes[at] = VALUE;
                at += 1;
                if prefixed {
                    at += write_varint(&mut self.bytes[at..], value.len());
                }
                self.bytes[at..at + value.len()].copy_from_slice(value);
                at += value.len();
            } else {
                self.bytes[at] = NULL;
                at += 1;
            }
            *cursor = at as u32;
        }
    }
}

/// Encodes the rows of these columns into `bytes`, row `i` from `offsets[i]` to `offsets[i + 1]`.
pub(super) fn encode(
    columns: &[ArrayRef],
    rows: usize,
    bytes: &mut Vec<u8>,
    offsets: &mut Vec<u32>,
    cursors: &mut Vec<u32>,
) -> Result<(), StateError> {
    if let Some(column) = columns.iter().find(|column| column.len() != rows) {
        return Err(StateError::mismatch(format!("a key column has {} rows in a batch of {rows}", column.len())));
    }
    let columns = columns.iter().map(Column::of).collect::<Result<Vec<_>, _>>()?;
    let too_large = || StateError::too_large(format!("the keys of a batch of {rows} rows have more than 4 GiB"));
    // What was there before is overwritten, every byte of it.
    let stride = columns.iter().try_fold(0, |sum, column| Some(sum + column.stride()?));
    offsets.clear();
    if let Some(stride) = stride {
        let total = u32::try_from(stride * rows).map_err(|_| too_large())?;
        bytes.resize(total as usize, 0);
        offsets.extend((0..=rows).map(|row| (row * stride) as u32));
        if stride > 0 {
            let mut out = Strided { bytes, stride, at: 0 };
            for column in &columns {
                column.write(&mut out);
            }
        }
        return Ok(());
    }
    cursors.clear();
    cursors.resize(rows, 0);
    for column in &columns {
        column.add_lengths(cursors);
    }
    let total = lay_out(cursors, offsets).ok_or_else(too_large)?;
    bytes.resize(total as usize, 0);
    let mut out = Scattered { bytes, cursors };
    for column in &columns {
        column.write(&mut out);
    }
    Ok(())
}

/// From the rows' lengths to where each begins, which is put in their place and, with the end of the last, into `offsets`.
/// Returns the end; none above 4 GiB.
pub(super) fn lay_out(lengths: &mut [u32], offsets: &mut Vec<u32>) -> Option<u32> {
    offsets.push(0);
    let mut total = 0u32;
    for length in lengths {
        let start = total;
        total = total.checked_add(*length)?;
        offsets.push(total);
        *length = start;
    }
    Some(total)
}
