//! From records to rows. Arrow's readers do the parsing, a batch at a time; only where a batch fails is it halved until the
//! record at fault is alone.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use regex::Regex;
use weir_engine::api::error::SourceError;

use super::records::{Framing, Record, csv_fields, is_blank};

/// How a table's files are written.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    Csv(Csv),
    Json,
}

/// The options of CSV.
#[derive(Clone, Debug)]
pub(crate) struct Csv {
    pub(crate) delimiter: u8,
    /// The first record of each file names the columns.
    pub(crate) header: bool,
    /// What stands for NULL; none: an empty field.
    pub(crate) null_literal: Option<String>,
}

impl Format {
    pub(crate) const fn framing(&self) -> Framing {
        match self {
            Self::Csv(csv) => Framing::Csv { delimiter: csv.delimiter },
            Self::Json => Framing::Lines,
        }
    }

    pub(crate) const fn has_header(&self) -> bool {
        matches!(self, Self::Csv(Csv { header: true, .. }))
    }

    /// The file name's extension.
    pub(crate) const fn extension(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Json => "json",
        }
    }
}

/// Whether CSV has a text for values of this type.
pub(crate) fn csv_carries(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null | DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => false,
        other => !other.is_nested(),
    }
}

/// Reads the records of one file.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Csv(CsvRows),
    /// The columns wanted.
    Json(SchemaRef),
}

/// See [`Rows`].
#[derive(Clone, Debug)]
pub(crate) struct CsvRows {
    csv: Csv,
    nulls: Option<Regex>,
    /// A column for each field of a record.
    fields: SchemaRef,
    /// Those wanted, in the order in which they are wanted.
    wanted: Vec<usize>,
    schema: SchemaRef,
}

impl Rows {
    /// For files whose fields stand in the order of the declaration, or have names.
    pub(crate) fn new(format: &Format, physical: &SchemaRef, needed: &[usize]) -> Result<Self, ArrowError> {
        let wanted: Vec<_> = needed.iter().map(|&column| Arc::clone(&physical.fields()[column])).collect();
        let schema = Arc::new(Schema::new(wanted));
        Ok(match format {
            Format::Json => Self::Json(schema),
            Format::Csv(csv) => {
                let nulls =
                    csv.null_literal.as_ref().map(|literal| Regex::new(&format!("^{}$", regex::escape(literal))));
                Self::Csv(CsvRows {
                    csv: csv.clone(),
                    nulls: nulls.transpose().map_err(|error| ArrowError::ExternalError(Box::new(error)))?,
                    fields: Arc::clone(physical),
                    wanted: needed.to_vec(),
                    schema,
                })
            }
        })
    }

    /// The same for a file with this header.
    pub(crate) fn with_header(&self, record: &[u8]) -> Result<Self, String> {
        let Self::Csv(rows) = self else {
            return Ok(self.clone());
        };
        let text = std::str::from_utf8(record).map_err(|_| "the header is not UTF-8".to_string())?;
        let names = csv_fields(text, rows.csv.delimiter);
        let mut wanted = Vec::new();
        for field in rows.schema.fields() {
            let exact = names.iter().position(|name| name.trim() == field.name());
            let found = exact.or_else(|| names.iter().position(|name| name.trim().eq_ignore_ascii_case(field.name())));
            wanted.push(
                found.ok_or_else(|| {
                    format!("the header has no column '{}'; it has {}", field.name(), names.join(", "))
                })?,
            );
        }
        let mut fields: Vec<_> =
            (0..names.len()).map(|i| Arc::new(Field::new(format!("{i}"), DataType::Utf8, true))).collect();
        for (&position, field) in wanted.iter().zip(rows.schema.fields()) {
            fields[position] = Arc::clone(field);
        }
        Ok(Self::Csv(CsvRows { fields: Arc::new(Schema::new(fields)), wanted, ..rows.clone() }))
    }

    /// Parses bytes that hold exactly this many records.
    pub(crate) fn parse(&self, bytes: &[u8], records: usize) -> Result<RecordBatch, ArrowError> {
        match self {
            Self::Csv(rows) => rows.parse(bytes, records),
            Self::Json(schema) => parse_json(schema, bytes, records),
        }
    }

    /// Why a record cannot be read, in few words.
    pub(crate) fn reason(&self, error: &ArrowError) -> String {
        let text = match error {
            ArrowError::CsvError(text)
            | ArrowError::JsonError(text)
            | ArrowError::ParseError(text)
            | ArrowError::InvalidArgumentError(text) => text.clone(),
            other => other.to_string(),
        };
        // Arrow counts lines from the start of what it was given.
        let mut reason = text.replace(" for line 1,", ",").replace(" for line 1 ", " ");
        if let Some(at) = reason.find(" at line ") {
            reason.truncate(at);
        }
        if let Self::Csv(rows) = self
            && let Some((_, number)) = reason.rsplit_once("for column ")
            && let Ok(number) = number.parse::<usize>()
            && let Some(field) = rows.fields.fields().get(number)
        {
            let cut = reason.len() - number.to_string().len();
            reason.truncate(cut);
            let _ = write!(reason, "'{}'", field.name());
        }
        reason
    }
}

impl CsvRows {
    fn parse(&self, bytes: &[u8], records: usize) -> Result<RecordBatch, ArrowError> {
        let mut reader = arrow::csv::ReaderBuilder::new(Arc::clone(&self.fields))
            .with_delimiter(self.csv.delimiter)
            .with_batch_size(records)
            .with_projection(self.wanted.clone());
        if let Some(nulls) = &self.nulls {
            reader = reader.with_null_regex(nulls.clone());
        }
        let mut decoder = reader.build_decoder();
        let read = feed(bytes, |rest| decoder.decode(rest))?;
        match decoder.flush()? {
            None => Err(ArrowError::CsvError("a quote is not closed".to_string())),
            rows => whole(rows, &bytes[read..], records, &self.schema),
        }
    }
}

fn parse_json(schema: &SchemaRef, bytes: &[u8], records: usize) -> Result<RecordBatch, ArrowError> {
    let mut decoder = arrow::json::ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(records)
        .with_coerce_primitive(true)
        .build_decoder()?;
    let read = feed(bytes, |rest| decoder.decode(rest))?;
    if decoder.has_partial_record() {
        return Err(ArrowError::JsonError("the line ends within the object".to_string()));
    }
    let rows = decoder.flush()?;
    whole(rows, &bytes[read..], records, schema)
}

/// How many bytes a decoder takes before it is full or they are all read.
fn feed(bytes: &[u8], mut decode: impl FnMut(&[u8]) -> Result<usize, ArrowError>) -> Result<usize, ArrowError> {
    let mut read = 0;
    while read < bytes.len() {
        match decode(&bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// As many rows as records, and nothing left over: one row a record.
fn whole(
    rows: Option<RecordBatch>,
    left: &[u8],
    records: usize,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    match rows {
        Some(rows) if rows.num_rows() == records && is_blank(left) => {
            if rows.schema_ref() == schema {
                return Ok(rows);
            }
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(records));
            RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)
        }
        rows => Err(ArrowError::ParseError(format!(
            "expected one row, found {}{}",
            rows.map_or(0, |rows| rows.num_rows()),
            if is_blank(left) { "" } else { " and more text behind it" },
        ))),
    }
}

/// What becomes of records that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnBadRecord {
    Fail,
    Skip,
}

/// Rows of a run of records.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) batches: Vec<RecordBatch>,
    /// Records skipped.
    pub(crate) skipped: u64,
    /// Reading goes on here if not behind the last record: at the second line of a bad record that has several.
    pub(crate) resume: Option<(usize, u64)>,
}

/// Parses a run of records; `name` is the file's, for messages.
pub(crate) fn parse_records(
    rows: &Rows,
    bytes: &[u8],
    records: &[Record],
    on_bad: OnBadRecord,
    name: &str,
) -> Result<Parsed, SourceError> {
    let mut parsed = Parsed::default();
    let mut runs = vec![records];
    while let Some(run) = runs.pop() {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        // Blank lines between records are the format's to pass over.
        match rows.parse(&bytes[first.start..last.end], run.len()) {
            Ok(batch) => parsed.batches.push(batch),
            Err(_) if run.len() > 1 => {
                let (head, tail) = run.split_at(run.len() / 2);
                runs.push(tail);
                runs.push(head);
            }
            Err(error) if on_bad == OnBadRecord::Fail => return Err(bad_record(rows, &error, name, first)),
            Err(_) => {
                parsed.skipped += 1;
                if first.lines > 1 {
                    // A quote that is never closed swallows good lines: only the first line is given up.
                    let line_end = memchr::memchr(b'\n', &bytes[first.start..]).map_or(0, |i| i + 1);
                    parsed.resume = Some((first.start + line_end, first.line + 1));
                    return Ok(parsed);
                }
            }
        }
    }
    Ok(parsed)
}

fn bad_record(rows: &Rows, error: &ArrowError, name: &str, record: &Record) -> SourceError {
    let (option, hint) = match rows {
        Rows::Csv(csv) if record.line == 1 && !csv.csv.header => {
            ("csv.ignore-parse-errors", "; if this line has the columns' names, set 'csv.header' = 'true'")
        }
        Rows::Csv(_) => ("csv.ignore-parse-errors", ""),
        Rows::Json(_) => ("json.ignore-parse-errors", ""),
    };
    SourceError::bad_input(format!(
        "{name}:{}: {}; correct the line, or set '{option}' = 'true' to skip and count such lines{hint}",
        record.line,
        rows.reason(error),
    ))
}
