//! Columns that rows are gathered in. A record whose last field cannot be read is taken out of all of them again, which Arrow's
//! builders cannot do.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray,
    Time32MillisecondArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{ArrowNativeType, DataType, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;

use super::values::{self, Digits};

/// One column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) field: FieldRef,
    valid: Vec<bool>,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Boolean(Vec<bool>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    /// Also dates and times of day.
    Int32(Vec<i32>),
    /// Also timestamps.
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>),
    /// Texts or bytes, each to its end.
    Bytes {
        bytes: Vec<u8>,
        ends: Vec<i32>,
    },
    Row(Vec<Column>),
    /// Elements of arrays, each array to its end.
    List {
        elements: Box<Column>,
        ends: Vec<i32>,
    },
    /// Entries of maps, each map to its end. One key may be there several times: the last counts.
    Map {
        keys: Box<Column>,
        values: Box<Column>,
        ends: Vec<i32>,
    },
}

/// What a value is read from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text<'a> {
    /// A field of CSV.
    Field(&'a str),
    /// A text of JSON.
    Quoted(&'a str),
    /// A number of JSON.
    Number(&'a str),
    /// `true` or `false` of JSON.
    Word(&'a str),
}

impl<'a> Text<'a> {
    pub(super) const fn text(self) -> &'a str {
        match self {
            Self::Field(text) | Self::Quoted(text) | Self::Number(text) | Self::Word(text) => text,
        }
    }

    /// How its times are read.
    const fn digits(self) -> Digits {
        match self {
            Self::Field(_) => Digits::OneOrTwo,
            _ => Digits::Two,
        }
    }

    /// A decimal's digits: in JSON there may be spaces around them.
    fn decimal(self) -> &'a str {
        match self {
            Self::Quoted(text) => values::trimmed(text),
            other => other.text(),
        }
    }

    fn boolean(self) -> Option<bool> {
        match self {
            Self::Number(_) => None,
            other => values::boolean(other.text()),
        }
    }

    /// JSON has no whole numbers of its own: `1.0` is one.
    fn integer(self) -> Option<i64> {
        match self {
            Self::Number(text) => values::whole(text).or_else(|| values::integral(text)),
            other => values::whole(other.text()),
        }
    }
}

/// Whether columns of this type can be read and written.
pub(crate) fn is_carried(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().all(|field| is_carried(field.data_type())),
        DataType::List(element) => is_carried(element.data_type()),
        // The name of an object's member is its key.
        DataType::Map(..) => entry(data_type)
            .is_some_and(|[key, value]| *key.data_type() == DataType::Utf8 && is_carried(value.data_type())),
        other => Values::new(other).is_some(),
    }
}

/// Key and value of a map.
fn entry(data_type: &DataType) -> Option<&[FieldRef; 2]> {
    let DataType::Map(entries, _) = data_type else { return None };
    let DataType::Struct(fields) = entries.data_type() else { return None };
    fields.as_ref().try_into().ok()
}

impl Values {
    fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Boolean(Vec::new()),
            DataType::Int8 => Self::Int8(Vec::new()),
            DataType::Int16 => Self::Int16(Vec::new()),
            DataType::Int32 | DataType::Date32 | DataType::Time32(TimeUnit::Millisecond) => Self::Int32(Vec::new()),
            DataType::Int64 | DataType::Timestamp(..) => Self::Int64(Vec::new()),
            DataType::Float32 => Self::Float32(Vec::new()),
            DataType::Float64 => Self::Float64(Vec::new()),
            DataType::Decimal128(..) => Self::Decimal(Vec::new()),
            DataType::Utf8 | DataType::Binary => Self::Bytes { bytes: Vec::new(), ends: Vec::new() },
            DataType::Struct(fields) => Self::Row(fields.iter().map(Column::new).collect::<Option<_>>()?),
            DataType::List(element) => Self::List { elements: Box::new(Column::new(element)?), ends: Vec::new() },
            DataType::Map(..) => {
                let [key, value] = entry(data_type)?;
                let (keys, values) = (Box::new(Column::new(key)?), Box::new(Column::new(value)?));
                Self::Map { keys, values, ends: Vec::new() }
            }
            _ => return None,
        })
    }

    fn push_nothing(&mut self) {
        match self {
            Self::Boolean(all) => all.push(false),
            Self::Int8(all) => all.push(0),
            Self::Int16(all) => all.push(0),
            Self::Int32(all) => all.push(0),
            Self::Int64(all) => all.push(0),
            Self::Float32(all) => all.push(0.0),
            Self::Float64(all) => all.push(0.0),
            Self::Decimal(all) => all.push(0),
            Self::Bytes { bytes, ends } => ends.push(bytes.len() as i32),
            Self::Row(fields) => fields.iter_mut().for_each(Column::push_missing),
            Self::List { elements, ends } => ends.push(elements.len() as i32),
            Self::Map { keys, ends, .. } => ends.push(keys.len() as i32),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Self::Boolean(all) => all.truncate(rows),
            Self::Int8(all) => all.truncate(rows),
            Self::Int16(all) => all.truncate(rows),
            Self::Int32(all) => all.truncate(rows),
            Self::Int64(all) => all.truncate(rows),
            Self::Float32(all) => all.truncate(rows),
            Self::Float64(all) => all.truncate(rows),
            Self::Decimal(all) => all.truncate(rows),
            Self::Bytes { bytes, ends } => {
                ends.truncate(rows);
                bytes.truncate(ends.last().map_or(0, |&end| end as usize));
            }
            Self::Row(fields) => fields.iter_mut().for_each(|field| field.truncate(rows)),
            Self::List { elements, ends } => {
                ends.truncate(rows);
                elements.truncate(ends.last().map_or(0, |&end| end as usize));
            }
            Self::Map { keys, values, ends } => {
                ends.truncate(rows);
                let entries = ends.last().map_or(0, |&end| end as usize);
                keys.truncate(entries);
                values.truncate(entries);
            }
        }
    }
}

impl Column {
    /// None if values of its type cannot be read.
    pub(super) fn new(field: &FieldRef) -> Option<Self> {
        Some(Self { field: Arc::clone(field), valid: Vec::new(), values: Values::new(field.data_type())? })
    }

    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }

    /// Back to so many rows.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        self.values.truncate(rows);
    }

    /// A row without a value.
    pub(super) fn push_null(&mut self) -> Result<(), String> {
        if !self.field.is_nullable() {
            return Err(format!("the column '{}' is NOT NULL and has no value here", self.field.name()));
        }
        self.push_missing();
        Ok(())
    }

    /// Also where the column may not be NULL: within a row that is.
    fn push_missing(&mut self) {
        self.values.push_nothing();
        self.valid.push(false);
    }

    /// The columns of a row's fields; of anything else none.
    pub(super) fn fields(&mut self) -> &mut [Self] {
        match &mut self.values {
            Values::Row(fields) => fields,
            _ => &mut [],
        }
    }

    /// The row's fields have all been given.
    pub(super) fn push_row(&mut self) {
        self.valid.push(true);
    }

    pub(super) const fn is_row(&self) -> bool {
        matches!(self.values, Values::Row(_))
    }

    /// The elements of an array; none of anything else.
    pub(super) fn elements(&mut self) -> Option<&mut Self> {
        match &mut self.values {
            Values::List { elements, .. } => Some(elements),
            _ => None,
        }
    }

    /// Keys and values of a map; none of anything else.
    pub(super) fn entries(&mut self) -> Option<(&mut Self, &mut Self)> {
        match &mut self.values {
            Values::Map { keys, values, .. } => Some((keys, values)),
            _ => None,
        }
    }

    /// The elements or entries of an array or map have all been given.
    pub(super) fn push_all(&mut self) -> Result<(), String> {
        let (ends, count) = match &mut self.values {
            Values::List { elements, ends } => (ends, elements.len()),
            Values::Map { keys, ends, .. } => (ends, keys.len()),
            _ => return Err(self.unreadable("")),
        };
        ends.push(i32::try_from(count).map_err(|_| "a batch has too many elements".to_string())?);
        self.valid.push(true);
        Ok(())
    }

    /// Whether a text of any content is a value of it.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.field.data_type(), DataType::Utf8)
    }

    /// A row with what stands in this text.
    pub(super) fn push(&mut self, text: Text<'_>) -> Result<(), String> {
        match self.try_push(text) {
            Some(true) => self.valid.push(true),
            Some(false) => {
                self.values.truncate(self.valid.len());
                self.push_null()?;
            }
            None => {
                self.values.truncate(self.valid.len());
                return Err(self.unreadable(text.text()));
            }
        }
        Ok(())
    }

    /// False where the text stands for no value.
    fn try_push(&mut self, from: Text<'_>) -> Option<bool> {
        let text = from.text();
        let data_type = self.field.data_type();
        match &mut self.values {
            Values::Boolean(all) => all.push(from.boolean()?),
            Values::Int8(all) => all.push(values::whole(text)?),
            Values::Int16(all) => all.push(values::whole(text)?),
            Values::Int32(all) => all.push(match data_type {
                DataType::Date32 => values::date(text, from.digits())?,
                DataType::Int32 => i32::try_from(from.integer()?).ok()?,
                _ => values::time(text, from.digits())?,
            }),
            Values::Int64(all) => all.push(match data_type {
                DataType::Timestamp(unit, zone) => values::timestamp(text, from.digits(), *unit, zone.is_some())?,
                _ => from.integer()?,
            }),
            Values::Float32(all) => all.push(values::floating(text)?),
            Values::Float64(all) => all.push(values::floating(text)?),
            Values::Decimal(all) => {
                let DataType::Decimal128(precision, scale) = data_type else { return None };
                match values::decimal(from.decimal(), *precision, *scale)? {
                    Ok(value) => all.push(value),
                    Err(values::TooManyDigits) => return Some(false),
                }
            }
            Values::Bytes { bytes, ends } => {
                if *data_type == DataType::Binary {
                    values::from_base64(text, bytes)?;
                } else {
                    bytes.extend_from_slice(text.as_bytes());
                }
                ends.push(i32::try_from(bytes.len()).ok()?);
            }
            Values::Row(_) | Values::List { .. } | Values::Map { .. } => return None,
        }
        Some(true)
    }

    /// A row with the value that these bytes are; those of a number begin with the lowest, and are as many as it takes.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        fn of<const N: usize>(bytes: &[u8]) -> [u8; N] {
            bytes.first_chunk().copied().unwrap_or([0; N])
        }
        match &mut self.values {
            Values::Boolean(all) => all.push(bytes != [0]),
            Values::Int8(all) => all.push(i8::from_le_bytes(of(bytes))),
            Values::Int16(all) => all.push(i16::from_le_bytes(of(bytes))),
            Values::Int32(all) => all.push(i32::from_le_bytes(of(bytes))),
            Values::Int64(all) => all.push(i64::from_le_bytes(of(bytes))),
            Values::Float32(all) => all.push(f32::from_le_bytes(of(bytes))),
            Values::Float64(all) => all.push(f64::from_le_bytes(of(bytes))),
            Values::Bytes { bytes: all, ends } => {
                if *self.field.data_type() == DataType::Binary {
                    all.extend_from_slice(bytes);
                } else {
                    // As Java decodes: what is not UTF-8 becomes U+FFFD.
                    all.extend_from_slice(String::from_utf8_lossy(bytes).as_bytes());
                }
                ends.push(i32::try_from(all.len()).map_err(|_| "a batch has too many bytes".to_string())?);
            }
            Values::Decimal(_) | Values::Row(_) | Values::List { .. } | Values::Map { .. } => {
                return Err(self.unreadable(""));
            }
        }
        self.valid.push(true);
        Ok(())
    }

    /// Why a text is no value of the column.
    pub(super) fn unreadable(&self, text: &str) -> String {
        /// Enough to find it by.
        const SHOWN: usize = 100;
        let shown: String = text.chars().take(SHOWN).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        format!("'{shown}{more}' is no {} for column '{}'", name(self.field.data_type()), self.field.name())
    }

    /// All its rows as an array.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let valid = std::mem::take(&mut self.valid);
        let nulls = Some(NullBuffer::from(valid)).filter(|nulls| nulls.null_count() > 0);
        let data_type = self.field.data_type();
        Ok(match &mut self.values {
            Values::Boolean(all) => Arc::new(BooleanArray::new(BooleanBuffer::from(std::mem::take(all)), nulls)),
            Values::Int8(all) => Arc::new(Int8Array::new(taken(all), nulls)),
            Values::Int16(all) => Arc::new(Int16Array::new(taken(all), nulls)),
            Values::Int32(all) => match data_type {
                DataType::Date32 => Arc::new(Date32Array::new(taken(all), nulls)),
                DataType::Int32 => Arc::new(Int32Array::new(taken(all), nulls)),
                _ => Arc::new(Time32MillisecondArray::new(taken(all), nulls)),
            },
            Values::Int64(all) => {
                let all = taken(all);
                match data_type {
                    DataType::Timestamp(unit, zone) => {
                        let zone = zone.clone();
                        match unit {
                            TimeUnit::Second => {
                                Arc::new(TimestampSecondArray::new(all, nulls).with_timezone_opt(zone)) as ArrayRef
                            }
                            TimeUnit::Millisecond => {
                                Arc::new(TimestampMillisecondArray::new(all, nulls).with_timezone_opt(zone))
                            }
                            TimeUnit::Microsecond => {
                                Arc::new(TimestampMicrosecondArray::new(all, nulls).with_timezone_opt(zone))
                            }
                            TimeUnit::Nanosecond => {
                                Arc::new(TimestampNanosecondArray::new(all, nulls).with_timezone_opt(zone))
                            }
                        }
                    }
                    _ => Arc::new(Int64Array::new(all, nulls)),
                }
            }
            Values::Float32(all) => Arc::new(Float32Array::new(taken(all), nulls)),
            Values::Float64(all) => Arc::new(Float64Array::new(taken(all), nulls)),
            Values::Decimal(all) => Arc::new(Decimal128Array::new(taken(all), nulls).with_data_type(data_type.clone())),
            Values::Bytes { bytes, ends } => {
                let offsets: Vec<i32> = std::iter::once(0).chain(ends.drain(..)).collect();
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let bytes = Buffer::from(std::mem::take(bytes));
                match data_type {
                    DataType::Binary => Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?),
                    _ => Arc::new(StringArray::try_new(offsets, bytes, nulls)?),
                }
            }
            Values::Row(columns) => {
                let rows = nulls.as_ref().map_or_else(|| columns.first().map_or(0, Self::len), NullBuffer::len);
                let arrays = columns.iter_mut().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                let fields: Fields = columns.iter().map(|column| Arc::clone(&column.field)).collect();
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, rows)?)
            }
            Values::List { elements, ends } => {
                let field = Arc::clone(&elements.field);
                Arc::new(ListArray::try_new(field, offsets(std::mem::take(ends)), elements.finish()?, nulls)?)
            }
            Values::Map { keys, values, ends } => {
                let DataType::Map(field, sorted) = data_type else {
                    return Err(ArrowError::SchemaError(format!("{data_type} is no map")));
                };
                let fields = Fields::from(vec![Arc::clone(&keys.field), Arc::clone(&values.field)]);
                let (keys, values, ends) = last_of_each(keys.finish()?, values.finish()?, std::mem::take(ends))?;
                let entries = StructArray::try_new(fields, vec![keys, values], None)?;
                Arc::new(MapArray::try_new(Arc::clone(field), offsets(ends), entries, nulls, *sorted)?)
            }
        })
    }
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::iter::once(0).chain(ends).collect::<Vec<_>>()))
}

/// The entries of maps in the order of their keys, of those of one key only the last.
fn last_of_each(
    keys: ArrayRef,
    values: ArrayRef,
    ends: Vec<i32>,
) -> Result<(ArrayRef, ArrayRef, Vec<i32>), ArrowError> {
    let Some(names) = keys.as_string_opt::<i32>() else { return Ok((keys, values, ends)) };
    let (mut kept, mut kept_ends, mut start) = (Vec::with_capacity(keys.len()), Vec::with_capacity(ends.len()), 0);
    for &end in &ends {
        let entries: BTreeMap<&str, u32> = (start..end as usize).map(|at| (names.value(at), at as u32)).collect();
        kept.extend(entries.into_values());
        kept_ends.push(kept.len() as i32);
        start = end as usize;
    }
    let kept = UInt32Array::from(kept);
    Ok((take(&keys, &kept, None)?, take(&values, &kept, None)?, kept_ends))
}

fn taken<T: ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    ScalarBuffer::from(std::mem::take(values))
}

/// What a type is called in SQL.
fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_string(),
        DataType::Int8 => "TINYINT".to_string(),
        DataType::Int16 => "SMALLINT".to_string(),
        DataType::Int32 => "INT".to_string(),
        DataType::Int64 => "BIGINT".to_string(),
        DataType::Float32 => "FLOAT".to_string(),
        DataType::Float64 => "DOUBLE".to_string(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Date32 => "DATE".to_string(),
        DataType::Time32(_) => "TIME".to_string(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_string(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP_LTZ".to_string(),
        DataType::Binary => "BYTES in base64".to_string(),
        DataType::Struct(_) => "ROW".to_string(),
        DataType::List(_) => "ARRAY".to_string(),
        DataType::Map(..) => "MAP".to_string(),
        _ => "STRING".to_string(),
    }
}
