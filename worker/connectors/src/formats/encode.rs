//! Rows to bytes: lines of a file, or messages.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, PrimitiveArray, RecordBatch, StringArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Schema, Time32MillisecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _};
use weir_engine::api::batch::{Batch, RowKind};
use weir_engine::api::error::SinkError;

use super::decode::{Changes, Csv, Envelope, Format};
use super::json::quote;
use super::records::QUOTE;
use super::values::{per_second, to_base64, to_java};

/// The column that says what a row does to the result.
pub(crate) const OP: &str = "op";

/// Appends a batch to `bytes`; `first` is the first of a file.
pub(crate) fn encode(format: &Format, rows: &RecordBatch, first: bool, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
    let iso = is_iso(format);
    let schema = rows.schema_ref();
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(field, array)| Column::of(field, array, iso)).collect::<Result<Vec<_>, _>>()?;
    let mut text = String::new();
    if let Format::Csv(csv) = format
        && csv.header
        && first
    {
        let names: Vec<_> = columns.iter().map(|column| Some(column.name)).collect();
        write_csv(csv, &names, &mut text);
        text.push('\n');
    }
    for row in 0..rows.num_rows() {
        match format {
            Format::Json(_) => {
                write_object(&columns, row, &mut text)?;
                text.push('\n');
            }
            Format::Changes(changes) => {
                write_change(changes.envelope, RowKind::Insert, &columns, row, &mut text)?;
                text.push('\n');
            }
            Format::Csv(csv) => {
                write_record(csv, &columns, row, &mut text)?;
                text.push('\n');
            }
            Format::Raw(raw) => {
                // No text: what is not UTF-8 has to come out as it is.
                for array in rows.columns() {
                    raw.write(array, row, bytes);
                }
                bytes.push(b'\n');
            }
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Rows as messages, or as one part of them.
pub(crate) struct Messages<'a> {
    format: &'a Format,
    rows: &'a RecordBatch,
    columns: Vec<Column<'a>>,
    text: String,
}

impl<'a> Messages<'a> {
    pub(crate) fn of(format: &'a Format, rows: &'a RecordBatch) -> Result<Self, ArrowError> {
        let iso = is_iso(format);
        let columns = match format {
            Format::Raw(_) => Vec::new(),
            _ => {
                let columns = rows.schema_ref().fields().iter().zip(rows.columns());
                columns.map(|(field, array)| Column::of(field, array, iso)).collect::<Result<_, _>>()?
            }
        };
        Ok(Self { format, rows, columns, text: String::new() })
    }

    /// The message of a row into `to`; `false`: there is none, not even an empty one. What the row does is in the message only in
    /// a format that has a word for it.
    pub(crate) fn write(&mut self, row: usize, kind: RowKind, to: &mut Vec<u8>) -> Result<bool, ArrowError> {
        to.clear();
        self.text.clear();
        match self.format {
            Format::Json(_) => write_object(&self.columns, row, &mut self.text)?,
            Format::Changes(changes) => write_change(changes.envelope, kind, &self.columns, row, &mut self.text)?,
            Format::Csv(csv) => write_record(csv, &self.columns, row, &mut self.text)?,
            Format::Raw(raw) => {
                return Ok(self.rows.columns().first().is_some_and(|array| raw.write(array, row, to)));
            }
        }
        to.extend_from_slice(self.text.as_bytes());
        Ok(true)
    }
}

const fn is_iso(format: &Format) -> bool {
    match format {
        Format::Json(json) | Format::Changes(Changes { json, .. }) => json.iso,
        Format::Csv(_) | Format::Raw(_) => false,
    }
}

/// A row with what it does. As Flink writes it: an update is the row before it taken away, and the row after it put.
fn write_change(
    envelope: Envelope,
    kind: RowKind,
    columns: &[Column<'_>],
    row: usize,
    to: &mut String,
) -> Result<(), ArrowError> {
    let puts = kind.is_addition();
    let (before, behind) = match (envelope, puts) {
        (Envelope::Debezium, true) => (r#"{"before":null,"after":"#, r#","op":"c"}"#),
        (Envelope::Debezium, false) => (r#"{"before":"#, r#","after":null,"op":"d"}"#),
        (Envelope::Canal, true) => (r#"{"data":["#, r#"],"type":"INSERT"}"#),
        (Envelope::Canal, false) => (r#"{"data":["#, r#"],"type":"DELETE"}"#),
        (Envelope::Maxwell, true) => (r#"{"data":"#, r#","type":"insert"}"#),
        (Envelope::Maxwell, false) => (r#"{"data":"#, r#","type":"delete"}"#),
    };
    to.push_str(before);
    write_object(columns, row, to)?;
    to.push_str(behind);
    Ok(())
}

/// A row as a record of CSV.
fn write_record(csv: &Csv, columns: &[Column<'_>], row: usize, to: &mut String) -> Result<(), ArrowError> {
    let fields = columns.iter().map(|column| column.text(row)).collect::<Result<Vec<_>, _>>()?;
    write_csv(csv, &fields, to);
    Ok(())
}

/// A record of these fields, without a line end; none is NULL. Only what would be read as something else is quoted.
fn write_csv<T: AsRef<str>>(csv: &Csv, fields: &[Option<T>], to: &mut String) {
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            to.push(char::from(csv.delimiter));
        }
        match field.as_ref().map(AsRef::as_ref) {
            None => to.push_str(csv.null_literal.as_deref().unwrap_or_default()),
            Some(text) if needs_quotes(csv, text) => {
                to.push('"');
                to.push_str(&text.replace('"', "\"\""));
                to.push('"');
            }
            Some(text) => to.push_str(text),
        }
    }
}

fn needs_quotes(csv: &Csv, text: &str) -> bool {
    let outer = |c: Option<char>| c.is_none_or(|c| c <= ' ');
    outer(text.chars().next())
        || outer(text.chars().next_back())
        || text.bytes().any(|byte| byte == csv.delimiter || matches!(byte, QUOTE | b'\n' | b'\r'))
}

fn write_object(columns: &[Column<'_>], row: usize, to: &mut String) -> Result<(), ArrowError> {
    to.push('{');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            to.push(',');
        }
        quote(column.name, to);
        to.push(':');
        column.write_json(row, to)?;
    }
    to.push('}');
    Ok(())
}

/// One column of a batch.
struct Column<'a> {
    name: &'a str,
    array: &'a dyn Array,
    values: Values<'a>,
}

enum Values<'a> {
    Boolean(&'a BooleanArray),
    Int8(&'a PrimitiveArray<Int8Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Decimal(&'a Decimal128Array, i8),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a PrimitiveArray<Date32Type>),
    Time(&'a PrimitiveArray<Time32MillisecondType>),
    Timestamp(Timestamps<'a>),
    Row(Vec<Column<'a>>),
    /// Where the elements of each row begin and end.
    List(&'a [i32], Box<Column<'a>>),
    Map(&'a [i32], &'a StringArray, Box<Column<'a>>),
}

struct Timestamps<'a> {
    values: &'a [i64],
    unit: TimeUnit,
    instant: bool,
    iso: bool,
}

impl<'a> Column<'a> {
    fn of(field: &'a Field, array: &'a ArrayRef, iso: bool) -> Result<Self, ArrowError> {
        fn values<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef) -> &[i64] {
            array.as_primitive::<T>().values()
        }
        let values = match array.data_type() {
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Int8 => Values::Int8(array.as_primitive()),
            DataType::Int16 => Values::Int16(array.as_primitive()),
            DataType::Int32 => Values::Int32(array.as_primitive()),
            DataType::Int64 => Values::Int64(array.as_primitive()),
            DataType::Float32 => Values::Float32(array.as_primitive()),
            DataType::Float64 => Values::Float64(array.as_primitive()),
            DataType::Decimal128(_, scale) => Values::Decimal(array.as_primitive::<Decimal128Type>(), *scale),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Binary => Values::Bytes(array.as_binary()),
            DataType::Date32 => Values::Date(array.as_primitive()),
            DataType::Time32(TimeUnit::Millisecond) => Values::Time(array.as_primitive()),
            DataType::Timestamp(unit, zone) => Values::Timestamp(Timestamps {
                values: match unit {
                    TimeUnit::Second => values::<TimestampSecondType>(array),
                    TimeUnit::Millisecond => values::<TimestampMillisecondType>(array),
                    TimeUnit::Microsecond => values::<TimestampMicrosecondType>(array),
                    TimeUnit::Nanosecond => values::<TimestampNanosecondType>(array),
                },
                unit: *unit,
                instant: zone.is_some(),
                iso,
            }),
            DataType::Struct(fields) => {
                let row = array.as_struct();
                let columns = fields.iter().zip(row.columns()).map(|(field, array)| Self::of(field, array, iso));
                Values::Row(columns.collect::<Result<_, _>>()?)
            }
            DataType::List(element) => {
                let list = array.as_list::<i32>();
                Values::List(list.value_offsets(), Box::new(Self::of(element, list.values(), iso)?))
            }
            DataType::Map(..) if array.as_map().key_type() == &DataType::Utf8 => {
                let map = array.as_map();
                let entries = map.entries();
                let values = Self::of(&entries.fields()[1], map.values(), iso)?;
                Values::Map(map.value_offsets(), map.keys().as_string(), Box::new(values))
            }
            other => {
                let message = format!("the column '{}' of type {other} cannot be written to files", field.name());
                return Err(ArrowError::NotYetImplemented(message));
            }
        };
        Ok(Self { name: field.name(), array: array.as_ref(), values })
    }

    /// The value as a text; none if there is no value.
    fn text(&self, row: usize) -> Result<Option<String>, ArrowError> {
        if self.array.is_null(row) {
            return Ok(None);
        }
        let mut text = String::new();
        self.write_text(row, &mut text)?;
        Ok(Some(text))
    }

    /// A value that is there.
    fn write_text(&self, row: usize, to: &mut String) -> Result<(), ArrowError> {
        // A String takes whatever is written.
        let _ = match &self.values {
            Values::Boolean(all) => write!(to, "{}", all.value(row)),
            Values::Int8(all) => write!(to, "{}", all.value(row)),
            Values::Int16(all) => write!(to, "{}", all.value(row)),
            Values::Int32(all) => write!(to, "{}", all.value(row)),
            Values::Int64(all) => write!(to, "{}", all.value(row)),
            Values::Float32(all) => write!(to, "{}", to_java(all.value(row))),
            Values::Float64(all) => write!(to, "{}", to_java(all.value(row))),
            Values::Decimal(all, scale) => {
                write_decimal(all.value(row), *scale, to);
                Ok(())
            }
            Values::Text(all) => write!(to, "{}", all.value(row)),
            Values::Bytes(all) => {
                let mut text = Vec::new();
                to_base64(all.value(row), &mut text);
                to.extend(text.into_iter().map(char::from));
                Ok(())
            }
            Values::Date(all) => write_date(date_of(all.value(row)).ok_or_else(|| self.beyond(row))?, to),
            Values::Time(all) => {
                let millis = all.value(row).cast_unsigned();
                let time = NaiveTime::from_num_seconds_from_midnight_opt(millis / 1000, millis % 1000 * 1_000_000);
                write_time(time.ok_or_else(|| self.beyond(row))?, to)
            }
            Values::Timestamp(all) => all.write(row, to).ok_or_else(|| self.beyond(row))?,
            Values::Row(columns) => return write_object(columns, row, to),
            Values::List(offsets, elements) => {
                to.push('[');
                for at in offsets[row]..offsets[row + 1] {
                    if at > offsets[row] {
                        to.push(',');
                    }
                    elements.write_json(at as usize, to)?;
                }
                to.push(']');
                Ok(())
            }
            Values::Map(offsets, keys, values) => {
                to.push('{');
                for at in offsets[row]..offsets[row + 1] {
                    if at > offsets[row] {
                        to.push(',');
                    }
                    quote(keys.value(at as usize), to);
                    to.push(':');
                    values.write_json(at as usize, to)?;
                }
                to.push('}');
                Ok(())
            }
        };
        Ok(())
    }

    fn write_json(&self, row: usize, to: &mut String) -> Result<(), ArrowError> {
        if self.array.is_null(row) {
            to.push_str("null");
            return Ok(());
        }
        let quoted = match &self.values {
            Values::Text(all) => {
                quote(all.value(row), to);
                return Ok(());
            }
            // No number of JSON.
            Values::Float32(all) => !all.value(row).is_finite(),
            Values::Float64(all) => !all.value(row).is_finite(),
            Values::Bytes(_) | Values::Date(_) | Values::Time(_) | Values::Timestamp(_) => true,
            _ => false,
        };
        if quoted {
            to.push('"');
        }
        self.write_text(row, to)?;
        if quoted {
            to.push('"');
        }
        Ok(())
    }

    fn beyond(&self, row: usize) -> ArrowError {
        ArrowError::InvalidArgumentError(format!(
            "the time in column '{}', row {row}, is beyond what can be written",
            self.name
        ))
    }
}

fn write_decimal(value: i128, scale: i8, to: &mut String) {
    let scale = usize::try_from(scale).unwrap_or(0);
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (before, behind) = digits.split_at(digits.len() - scale);
    if value < 0 {
        to.push('-');
    }
    to.push_str(before);
    if scale > 0 {
        to.push('.');
        to.push_str(behind);
    }
}

fn date_of(days: i32) -> Option<NaiveDate> {
    DateTime::from_timestamp(i64::from(days) * 86_400, 0).map(|time| time.date_naive())
}

fn write_date(date: NaiveDate, to: &mut String) -> std::fmt::Result {
    let sign = if date.year() > 9999 { "+" } else { "" };
    write!(to, "{sign}{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
}

/// With a fraction only where there is one, and no longer than it is.
fn write_time(time: NaiveTime, to: &mut String) -> std::fmt::Result {
    write!(to, "{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())?;
    if time.nanosecond() > 0 {
        let fraction = format!("{:09}", time.nanosecond());
        write!(to, ".{}", fraction.trim_end_matches('0'))?;
    }
    Ok(())
}

impl Timestamps<'_> {
    /// None if it is beyond the years that there are.
    fn write(&self, row: usize, to: &mut String) -> Option<std::fmt::Result> {
        let (value, per_second) = (self.values[row], per_second(self.unit));
        let nanos = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
        let time: NaiveDateTime =
            DateTime::from_timestamp(value.div_euclid(per_second), u32::try_from(nanos).ok()?)?.naive_utc();
        Some(write_date(time.date(), to).and_then(|()| {
            to.push(if self.iso { 'T' } else { ' ' });
            write_time(time.time(), to)?;
            if self.instant {
                to.push('Z');
            }
            Ok(())
        }))
    }
}

/// The rows to be written for a batch; without `changelog` only inserts are.
pub(crate) fn rows_of(batch: Batch, changelog: bool) -> Result<RecordBatch, SinkError> {
    if changelog {
        return Ok(with_op(&batch)?);
    }
    if batch.kinds.is_some() {
        return Err(SinkError::bad_input(
            "an update or delete came to a filesystem table that takes inserts only; set 'changelog' = 'true'",
        ));
    }
    Ok(batch.rows)
}

/// The rows with what each does in a first column.
fn with_op(batch: &Batch) -> Result<RecordBatch, ArrowError> {
    let ops = StringArray::from_iter_values((0..batch.len()).map(|row| RowKind::short(batch.kind(row))));
    let mut fields = vec![Arc::new(Field::new(OP, DataType::Utf8, false))];
    fields.extend(batch.schema().fields().iter().cloned());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(ops)];
    columns.extend(batch.rows.columns().iter().cloned());
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
