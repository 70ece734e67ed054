//! From records to rows: each record's fields into columns, by what the table says of their types. A record that cannot be read
//! leaves nothing behind in them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use weir_engine::api::error::SourceError;

use super::columns::{Column, Text, is_carried};
use super::csv::{Field, names, split};
use super::json;
use super::raw::Raw;
use super::records::{Framing, Record, without_line_end};

/// How a table's rows are written, or one part of them.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    Csv(Csv),
    Json(Json),
    Raw(Raw),
    Changes(Changes),
}

/// JSON in which a message says what its row does; written, and not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) envelope: Envelope,
    pub(crate) json: Json,
}

/// Who says it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    Debezium,
    Canal,
    Maxwell,
}

impl Envelope {
    /// What a script calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Debezium => "debezium-json",
            Self::Canal => "canal-json",
            Self::Maxwell => "maxwell-json",
        }
    }
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

/// The options of JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Json {
    /// Times are written in ISO's form, not in SQL's. Both are read.
    pub(crate) iso: bool,
}

impl Format {
    pub(crate) const fn framing(&self) -> Framing {
        match self {
            Self::Csv(csv) => Framing::Csv { delimiter: csv.delimiter },
            Self::Json(_) | Self::Changes(_) => Framing::Lines,
            Self::Raw(_) => Framing::AllLines,
        }
    }

    pub(crate) const fn has_header(&self) -> bool {
        matches!(self, Self::Csv(Csv { header: true, .. }))
    }

    /// What a script calls it; also the file name's extension.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Json(_) => "json",
            Self::Raw(_) => "raw",
            Self::Changes(changes) => changes.envelope.name(),
        }
    }
}

/// Whether the format has a form for values of this type.
pub(crate) fn carries(format: &Format, data_type: &DataType) -> bool {
    match format {
        Format::Csv(_) => is_carried(data_type) && !data_type.is_nested(),
        Format::Json(_) | Format::Changes(_) => is_carried(data_type),
        Format::Raw(_) => Raw::carries(data_type),
    }
}

/// Reads the records of one file, or messages.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    fields: Fields,
    columns: Vec<Column>,
    schema: SchemaRef,
}

/// How a record is taken apart.
#[derive(Clone, Debug)]
enum Fields {
    Csv {
        csv: Csv,
        /// So many fields has each record.
        count: usize,
        /// Where those of the columns stand.
        wanted: Vec<usize>,
        /// Of the record that is being read.
        fields: Vec<Field>,
    },
    Json,
    Raw(Raw),
}

impl Rows {
    /// For files and messages whose fields stand in the order of the declaration, or have names.
    pub(crate) fn new(format: &Format, physical: &SchemaRef, needed: &[usize]) -> Result<Self, SourceError> {
        let schema: SchemaRef = Arc::new(Schema::new(
            needed.iter().map(|&column| Arc::clone(&physical.fields()[column])).collect::<Vec<_>>(),
        ));
        let column = |field: &FieldRef| {
            let refused = || SourceError::bad_input(format!("the column {} cannot be read from files", field.name()));
            Column::new(field).ok_or_else(refused)
        };
        let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
        let fields = match format {
            Format::Json(_) => Fields::Json,
            Format::Changes(changes) => {
                return Err(SourceError::bad_input(format!("{} cannot be read yet", changes.envelope.name())));
            }
            Format::Raw(raw) => Fields::Raw(*raw),
            Format::Csv(csv) => Fields::Csv {
                csv: csv.clone(),
                count: physical.fields().len(),
                wanted: needed.to_vec(),
                fields: Vec::new(),
            },
        };
        Ok(Self { fields, columns, schema })
    }

    /// The same for a file with this header.
    pub(crate) fn with_header(&self, record: &[u8]) -> Result<Self, String> {
        let Fields::Csv { csv, .. } = &self.fields else {
            return Ok(self.clone());
        };
        let text = std::str::from_utf8(record).map_err(|_| "the header is not UTF-8".to_string())?;
        let names = names(text, csv.delimiter)?;
        let mut wanted = Vec::new();
        for field in self.schema.fields() {
            let exact = names.iter().position(|name| name.trim() == field.name());
            let found = exact.or_else(|| names.iter().position(|name| name.trim().eq_ignore_ascii_case(field.name())));
            wanted.push(
                found.ok_or_else(|| {
                    format!("the header has no column '{}'; it has {}", field.name(), names.join(", "))
                })?,
            );
        }
        let fields = Fields::Csv { csv: csv.clone(), count: names.len(), wanted, fields: Vec::new() };
        Ok(Self { fields, ..self.clone() })
    }

    /// Appends a record as the row of this number. Where it cannot be read the columns may have a part of it.
    fn push(&mut self, record: &[u8], row: usize) -> Result<(), String> {
        if let Fields::Raw(raw) = &self.fields {
            let raw = *raw;
            return self.columns.iter_mut().try_for_each(|column| raw.push(Some(record), column));
        }
        let text = std::str::from_utf8(record)
            .map_err(|error| format!("a text is not UTF-8, from byte {} of the line on", error.valid_up_to() + 1))?;
        match &mut self.fields {
            Fields::Raw(_) => Ok(()),
            Fields::Json => json::push_row(text, row, &mut self.columns),
            Fields::Csv { csv, count, wanted, fields } => {
                split(text, csv.delimiter, fields)?;
                if fields.len() == *count + 1 && fields.last().is_some_and(Field::is_nothing) {
                    // A delimiter may also end the record.
                    fields.pop();
                }
                if fields.len() != *count {
                    return Err(format!("the line has {} fields, and {count} are expected", fields.len()));
                }
                let mut room = String::new();
                for (&place, column) in wanted.iter().zip(&mut self.columns) {
                    let field = fields[place];
                    let text = field.text(text, &mut room);
                    if csv.is_null(text, field.quoted) {
                        column.push_null()?;
                    } else {
                        column.push(Text::Field(text))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Appends a message as the row of this number. `false`: it stands for no row. Where it cannot be read the columns may have a
    /// part of it.
    pub(crate) fn push_message(&mut self, message: Option<&[u8]>, row: usize) -> Result<bool, String> {
        match (&self.fields, message) {
            // Alone of all formats this one has a form for no value.
            (Fields::Raw(raw), message) => {
                let raw = *raw;
                self.columns.iter_mut().try_for_each(|column| raw.push(message, column))?;
            }
            // To Flink an empty text is no object, and a record of CSV that is not one.
            (_, None) | (Fields::Json, Some([])) => return Ok(false),
            (_, Some([])) => return Err("the message is empty".to_string()),
            (Fields::Csv { csv, .. }, Some(message)) => {
                // What stands behind the first record is not looked at.
                let framing = Framing::Csv { delimiter: csv.delimiter };
                let end = framing.end_of_record(message, 0).map_or(message.len(), |(end, _)| end);
                self.push(&message[..end], row)?;
            }
            (Fields::Json, Some(message)) => self.push(message, row)?,
        }
        Ok(true)
    }

    /// Back to so many rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// All rows, a column each, and none are left.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }

    /// Reads a run of records; `name` is the file's, for messages.
    pub(crate) fn parse(
        &mut self,
        bytes: &[u8],
        records: &[Record],
        on_bad: OnBadRecord,
        name: &str,
    ) -> Result<Parsed, SourceError> {
        let (mut rows, mut skipped, mut resume) = (0, 0, None);
        for record in records {
            let mut content = &bytes[record.start..record.end];
            if let Fields::Raw(_) = &self.fields {
                content = without_line_end(content);
            }
            let Err(reason) = self.push(content, rows) else {
                rows += 1;
                continue;
            };
            self.truncate(rows);
            if on_bad == OnBadRecord::Fail {
                return Err(self.bad_record(&reason, name, record));
            }
            skipped += 1;
            if record.lines > 1 {
                // A quote that is never closed swallows good lines: only the first line is given up.
                let line_end = memchr::memchr(b'\n', &bytes[record.start..]).map_or(0, |i| i + 1);
                resume = Some((record.start + line_end, record.line + 1));
                break;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arrays = self.finish()?;
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        Ok(Parsed { rows: (rows > 0).then_some(batch), skipped, resume })
    }

    fn bad_record(&self, reason: &str, name: &str, record: &Record) -> SourceError {
        let at = format!("{name}:{}", record.line);
        let (option, hint) = match &self.fields {
            Fields::Csv { csv, .. } if record.line == 1 && !csv.header => {
                ("csv.ignore-parse-errors", "; if this line has the columns' names, set 'csv.header' = 'true'")
            }
            Fields::Csv { .. } => ("csv.ignore-parse-errors", ""),
            Fields::Json => ("json.ignore-parse-errors", ""),
            Fields::Raw(_) => return SourceError::bad_input(format!("{at}: {reason}; correct the line")),
        };
        SourceError::bad_input(format!(
            "{at}: {reason}; correct the line, or set '{option}' = 'true' to skip and count such lines{hint}"
        ))
    }
}

impl Csv {
    /// Whether a field stands for no value: by the table's text for that, else an empty one that is not in quotes.
    fn is_null(&self, text: &str, quoted: bool) -> bool {
        match &self.null_literal {
            Some(literal) => text == literal,
            None => text.is_empty() && !quoted,
        }
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
    /// None if all were skipped.
    pub(crate) rows: Option<RecordBatch>,
    /// Records skipped.
    pub(crate) skipped: u64,
    /// Reading goes on here if not behind the last record: at the second line of a bad record that has several.
    pub(crate) resume: Option<(usize, u64)>,
}
