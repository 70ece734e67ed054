//! What Flink makes of the same files, and what it writes: `tests/data/formats.jsonl`, which `Formats.java` beside it asks for.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Fields, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Schema, SchemaRef, Time32MillisecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType,
};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_engine::api::error::SourceError;

use super::decode::Format;
use super::encode::encode;
use crate::spec::{ConnectorFactory as _, TableSpec};
use crate::testing::SourceTest;
use crate::{ConnectorError, Filesystem};

#[derive(Deserialize)]
pub(super) struct Case {
    #[serde(rename = "do")]
    pub(super) what: String,
    pub(super) format: String,
    #[serde(default)]
    pub(super) options: std::collections::BTreeMap<String, String>,
    pub(super) columns: Vec<String>,
    pub(super) text: String,
    #[serde(default)]
    rows: Option<Value>,
    #[serde(default)]
    file: Option<String>,
}

/// `a INT`, `r ROW<x INT, y ROW<z STRING>>` …
fn field(declared: &str) -> Field {
    let (name, data_type) = declared.split_once(' ').unwrap();
    Field::new(name, data_type_of(data_type), true)
}

fn data_type_of(text: &str) -> DataType {
    let (name, argument) = match text.split_once(['(', '<']) {
        Some((name, rest)) => (name, &rest[..rest.len() - 1]),
        None => (text, ""),
    };
    let unit = match argument {
        "0" | "3" => TimeUnit::Millisecond,
        "9" => TimeUnit::Nanosecond,
        _ => TimeUnit::Microsecond,
    };
    match name {
        "BOOLEAN" => DataType::Boolean,
        "TINYINT" => DataType::Int8,
        "SMALLINT" => DataType::Int16,
        "INT" => DataType::Int32,
        "BIGINT" => DataType::Int64,
        "FLOAT" => DataType::Float32,
        "DOUBLE" => DataType::Float64,
        "STRING" => DataType::Utf8,
        "BYTES" => DataType::Binary,
        "DATE" => DataType::Date32,
        "TIME" => DataType::Time32(TimeUnit::Millisecond),
        "TIMESTAMP" => DataType::Timestamp(unit, None),
        "TIMESTAMP_LTZ" => DataType::Timestamp(unit, Some("UTC".into())),
        "DECIMAL" => {
            let (precision, scale) = argument.split_once(", ").unwrap();
            DataType::Decimal128(precision.parse().unwrap(), scale.parse().unwrap())
        }
        // A row's last field may be a row.
        "ROW" => {
            let (first, rest) = argument.split_once(", ").unwrap_or((argument, ""));
            let fields: Fields = [first, rest].into_iter().filter(|text| !text.is_empty()).map(field).collect();
            DataType::Struct(fields)
        }
        other => panic!("{other}"),
    }
}

/// The values of a column, as the file of answers has them.
fn values(array: &ArrayRef) -> Vec<Value> {
    (0..array.len()).map(|row| if array.is_null(row) { Value::Null } else { value(array, row) }).collect()
}

fn value(array: &ArrayRef, row: usize) -> Value {
    let time = |seconds: i64, nanos: i64| {
        let time = chrono::DateTime::from_timestamp(seconds, nanos as u32).unwrap().naive_utc();
        json!(time.format("%Y-%m-%d %H:%M:%S%.9f").to_string())
    };
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row).to_string()),
        DataType::Int8 => json!(array.as_primitive::<Int8Type>().value(row).to_string()),
        DataType::Int16 => json!(array.as_primitive::<Int16Type>().value(row).to_string()),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(row).to_string()),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row).to_string()),
        DataType::Float32 => json!(format!("{:?}", array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => json!(format!("{:?}", array.as_primitive::<Float64Type>().value(row))),
        DataType::Decimal128(..) => json!(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Binary => {
            json!(array.as_binary::<i32>().value(row).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        DataType::Date32 => {
            let days = i64::from(array.as_primitive::<Date32Type>().value(row));
            json!(chrono::DateTime::from_timestamp(days * 86_400, 0).unwrap().format("%Y-%m-%d").to_string())
        }
        DataType::Time32(_) => {
            let millis = i64::from(array.as_primitive::<Time32MillisecondType>().value(row));
            let time = chrono::DateTime::from_timestamp_millis(millis).unwrap();
            json!(time.format("%H:%M:%S%.3f").to_string())
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let value = array.as_primitive::<TimestampMillisecondType>().value(row);
            time(value.div_euclid(1_000), value.rem_euclid(1_000) * 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
            time(value.div_euclid(1_000_000), value.rem_euclid(1_000_000) * 1_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let value = array.as_primitive::<TimestampNanosecondType>().value(row);
            time(value.div_euclid(1_000_000_000), value.rem_euclid(1_000_000_000))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| values(column)[row].clone()).collect(),
        other => panic!("{other}"),
    }
}

impl Case {
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(|column| field(column)).collect::<Vec<_>>()))
    }

    pub(super) fn table(&self, path: &std::path::Path, format: &str) -> TableSpec {
        let table = TableSpec::new("t", self.schema())
            .with("connector", "filesystem")
            .with("path", path.to_str().unwrap())
            .with("format", format);
        self.options
            .iter()
            .filter(|(key, _)| key.starts_with(format))
            .fold(table, |table, (key, value)| table.with(key, value))
    }

    /// The rows of its text as a file of this format.
    fn read(&self, folder: &std::path::Path, format: &str) -> Result<Vec<RecordBatch>, SourceError> {
        let path = folder.join("in");
        std::fs::write(&path, &self.text).unwrap();
        let source = Filesystem.source(&self.table(&path, format)).unwrap();
        let mut batches = Vec::new();
        SourceTest::start(&*source, 1).try_run(100, |_, rows| batches.push(rows))?;
        Ok(batches)
    }

    fn answer(&self, folder: &std::path::Path) -> Result<Value, String> {
        let batches = self.read(folder, &self.format).map_err(|error| error.to_string())?;
        let rows = batches.iter().flat_map(|batch| {
            let columns: Vec<_> = batch.columns().iter().map(values).collect();
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column[row].clone()).collect())
                .collect::<Vec<Value>>()
        });
        Ok(rows.collect())
    }

    fn written(&self, folder: &std::path::Path) -> Result<String, String> {
        let batches = self.read(folder, "json").map_err(|error| error.to_string())?;
        let format = self.output_format(folder).unwrap();
        let mut bytes = Vec::new();
        for batch in batches {
            encode(&format, &batch, false, &mut bytes).map_err(|error| error.to_string())?;
        }
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn output_format(&self, folder: &std::path::Path) -> Result<Format, ConnectorError> {
        let table = self.table(folder, &self.format);
        crate::filesystem::format_of(&table)
    }

    fn data_type(&self) -> &str {
        self.columns[0].split_once(' ').unwrap().1
    }
}

/// Numbers are the same if they are one value; what is not finite has one name.
fn same_value(data_type: &str, ours: &Value, theirs: &Value) -> bool {
    match (data_type, ours, theirs) {
        ("FLOAT", Value::String(ours), Value::String(theirs)) => number::<f32>(ours) == number::<f32>(theirs),
        ("DOUBLE", Value::String(ours), Value::String(theirs)) => number::<f64>(ours) == number::<f64>(theirs),
        _ => ours == theirs,
    }
}

fn number<T: std::str::FromStr + std::fmt::Debug>(text: &str) -> String {
    match text {
        "inf" => "Infinity".to_string(),
        "-inf" => "-Infinity".to_string(),
        text => text.parse::<T>().map_or(text.to_string(), |number| format!("{number:?}").replace("inf", "Infinity")),
    }
}

fn same(case: &Case, ours: &Value, theirs: &Value) -> bool {
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (ours, theirs) = (rows(ours), rows(theirs));
    ours.len() == theirs.len()
        && ours.iter().zip(&theirs).all(|(ours, theirs)| {
            let (ours, theirs) = (rows(ours), rows(theirs));
            let types = case.columns.iter().map(|column| column.split_once(' ').unwrap().1);
            types.zip(ours.iter().zip(&theirs)).all(|(data_type, (ours, theirs))| same_value(data_type, ours, theirs))
        })
}

/// A difference that docs/sql.md names, and where it shows.
type Difference = (&'static str, fn(&Case, &Result<Value, String>) -> bool);

const DIFFERENCES: [Difference; 14] = [
    ("an empty field of CSV is NULL", |case, _| {
        let delimiter = case.options.get("csv.field-delimiter").map_or(",", String::as_str);
        let has_empty = |line: &str| !line.is_empty() && line.split(delimiter).any(str::is_empty);
        case.format == "csv" && case.text.lines().any(has_empty)
    }),
    ("blank lines of CSV are passed over", |case, _| {
        case.format == "csv" && (case.text.contains("\n\n") || case.text.starts_with('\n'))
    }),
    ("a line ends with a line feed", |case, _| case.text.contains('\r') && !case.text.contains('\n')),
    ("no other text than true and false is a BOOLEAN", |case, ours| case.data_type() == "BOOLEAN" && ours.is_err()),
    ("a number with a fraction is no whole number", |case, ours| {
        case.format == "json"
            && matches!(case.data_type(), "INT" | "BIGINT")
            && case.text.contains('.')
            && ours.is_err()
    }),
    ("digits are 0 to 9", |case, ours| case.text.contains('\u{661}') && ours.is_err()),
    ("there is no such day or time", |case, ours| {
        (case.text.contains("2023-02-29") || case.text.contains("24:00:00")) && ours.is_err()
    }),
    ("timestamps are read in both forms", |case, ours| {
        case.data_type().starts_with("TIMESTAMP") && case.rows.is_none() && ours.is_ok()
    }),
    ("nanoseconds are counted in 64 bits", |case, ours| {
        let years = ["0001-", "9999-", "10000-"];
        case.data_type() == "TIMESTAMP(9)" && years.iter().any(|year| case.text.contains(year)) && ours.is_err()
    }),
    ("a line of JSON is one object", |case, ours| {
        let behind = case.text.trim_end().split_once('}').is_some_and(|(_, behind)| !behind.is_empty());
        case.format == "json" && (case.text.starts_with('[') || behind) && ours.is_err()
    }),
    ("an object within a text is as it was written", |case, ours| {
        case.data_type() == "STRING" && (case.text.contains(":{") || case.text.contains(":[")) && ours.is_ok()
    }),
    ("a decimal is written plain", |case, _| case.what == "write" && case.data_type().starts_with("DECIMAL")),
    ("JSON is written with few escapes", |case, _| {
        case.what == "write" && case.format == "json" && case.text.contains('\u{1F600}')
    }),
    ("CSV is written with few quotes, and those say that there is a text", |case, _| {
        case.what == "write" && case.format == "csv"
    }),
];

/// Whether what is written differs in nothing but its form.
fn is_same_text(case: &Case, ours: &str, theirs: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().map_or(text.to_string(), |number| number.to_string());
    if case.format == "json" {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let form = |text: &str| match &read(text)["v"] {
            Value::Number(value) => number(&value.to_string()),
            other => other.to_string(),
        };
        return form(ours) == form(theirs) && read(ours)["e"] == read(theirs)["e"];
    }
    let delimiter = case.options.get("csv.field-delimiter").map_or(b',', |text| text.as_bytes()[0]);
    let fields =
        |text: &str| super::csv::names(text, delimiter).unwrap().iter().map(|field| number(field)).collect::<Vec<_>>();
    fields(ours) == fields(theirs)
}

impl Case {
    /// What Flink says, what we do, and whether that is the same.
    fn compare(&self, folder: &std::path::Path) -> (String, Result<Value, String>, bool) {
        if self.what == "read" {
            let ours = self.answer(folder);
            let right = match (&self.rows, &ours) {
                (None, Err(_)) => true,
                (Some(theirs), Ok(ours)) => same(self, ours, theirs),
                _ => false,
            };
            return (self.rows.as_ref().map_or("a failure".to_string(), Value::to_string), ours, right);
        }
        let ours = self.written(folder);
        let right = match (&self.file, &ours) {
            (Some(theirs), Ok(ours)) => ours == theirs,
            _ => false,
        };
        (format!("{:?}", self.file), ours.map(Value::String), right)
    }

    /// The difference that this is.
    fn known(&self, ours: &Result<Value, String>) -> Option<usize> {
        let found = DIFFERENCES.iter().position(|(_, shows)| shows(self, ours))?;
        match (&self.file, ours) {
            (Some(theirs), Ok(Value::String(ours))) => is_same_text(self, ours, theirs).then_some(found),
            _ => Some(found),
        }
    }
}

/// The file of answers.
pub(super) fn all_cases() -> Vec<Case> {
    include_str!("../../tests/data/formats.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn files_mean_what_they_mean_to_flink() {
    let folder = tempfile::tempdir().unwrap();
    let cases = all_cases();
    let (mut wrong, mut known) = (Vec::new(), [0; DIFFERENCES.len()]);
    for case in &cases {
        let (expected, got, right) = case.compare(folder.path());
        if right {
            continue;
        }
        if let Some(difference) = case.known(&got) {
            known[difference] += 1;
            continue;
        }
        let Case { what, format, options, columns, text, .. } = case;
        wrong.push(format!(
            "{what} {format} {options:?} {columns:?} {text:?}\n  expected {expected}\n  got      {got:?}"
        ));
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    for ((name, _), known) in DIFFERENCES.iter().zip(known) {
        assert!(known > 0, "no case shows that {name}");
    }
    assert!(cases.len() > 2_500);
}
