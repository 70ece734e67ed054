//! The rows of a query that stands alone, for who reads this process's output: `weir sql` shows them as a table.
//!
//! A line is a JSON object. The first of a subtask says what is to come: `{"result": name, "columns": […], "numbers": […], "limit": n, "changes":
//! bool}`; each further one is a row and what it does: `{"result": name, "kind": "+I", "row": {…}}`. DECIMAL, FLOAT and DOUBLE come as texts, since
//! a JSON number keeps no more digits than a double and is no NaN; `numbers` names their columns. Like `print` it has no transactions.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use weir_engine::api::batch::Batch;
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
use weir_engine::api::source::SourceFactory;
use weir_protocol::CheckpointId;

use crate::console::NoCommits;
use crate::error::ConnectorError;
use crate::options::Options;
use crate::spec::{Accepts, ChangelogMode, ConnectorFactory, OptionDoc, TableSpec};

/// The name of the connector. No script needs to write it.
pub const RESULTS: &str = "$results";

/// `'connector' = '$results'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Results;

const OPTIONS: &[OptionDoc] = &[OptionDoc {
    name: "limit",
    expects: "a whole number of at least 1",
    default: Some("no end"),
    about: "How many rows are wanted.",
}];

impl ConnectorFactory for Results {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        Err(Options::of(table).unsupported(Some("connector"), "a query's result cannot be read", "make a view of it"))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        let limit = Options::of(table).count("limit")?;
        let changes = table.changelog != ChangelogMode::Append;
        Ok(Arc::new(ResultsFactory { name: table.name.clone(), schema: Arc::clone(&table.schema), limit, changes }))
    }

    fn accepts(&self, _table: &TableSpec) -> Result<Accepts, ConnectorError> {
        Ok(Accepts::Changes)
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }
}

struct ResultsFactory {
    name: String,
    schema: SchemaRef,
    limit: Option<u64>,
    changes: bool,
}

impl SinkFactory for ResultsFactory {
    fn create(&self, _ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let columns: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let numbers = self.schema.fields().iter().filter(|field| is_text(field.data_type()));
        let numbers: Vec<&str> = numbers.map(|field| field.name().as_str()).collect();
        let numbers = serde_json::to_string(&numbers)?;
        let (name, columns) = (serde_json::to_string(&self.name)?, serde_json::to_string(&columns)?);
        let (limit, changes) = (serde_json::to_string(&self.limit)?, self.changes);
        let mut out = io::stdout().lock();
        // A reader knows a result's line by how it begins.
        writeln!(
            out,
            "{{\"result\":{name},\"columns\":{columns},\"numbers\":{numbers},\"limit\":{limit},\"changes\":{changes}}}"
        )?;
        out.flush()?;
        Ok(Box::new(ResultsSink { name: self.name.clone(), to: io::stdout(), text: Vec::new() }))
    }

    fn committer(&self, _ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(NoCommits))
    }
}

struct ResultsSink<W> {
    name: String,
    to: W,
    text: Vec<u8>,
}

impl<W: Write + Send> Sink for ResultsSink<W> {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        let mut writer = WriterBuilder::new()
            .with_explicit_nulls(true)
            .with_timestamp_format("%Y-%m-%d %H:%M:%S%.f".to_string())
            .with_timestamp_tz_format("%Y-%m-%d %H:%M:%S%.fZ".to_string())
            .build::<_, LineDelimited>(Vec::new());
        writer.write(&as_texts(&batch.rows)?)?;
        writer.finish()?;
        let rows = writer.into_inner();
        let rows = std::str::from_utf8(&rows).map_err(|error| SinkError::io("a result is no text").because(error))?;
        let result = serde_json::to_string(&self.name)?;
        self.text.clear();
        for (row, text) in rows.lines().enumerate() {
            let kind = batch.kind(row).short();
            writeln!(self.text, "{{\"result\":{result},\"kind\":\"{kind}\",\"row\":{text}}}")?;
        }
        // In one piece, so that the rows of two subtasks do not mix within a line.
        self.to.write_all(&self.text)?;
        self.to.flush()?;
        Ok(())
    }

    fn prepare(&mut self, _id: CheckpointId) -> Result<PrepareJob, SinkError> {
        Ok(Box::new(|| Ok(Vec::new())))
    }
}

/// Numbers that are not the same as a JSON number.
fn is_text(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Float16 | DataType::Float32 | DataType::Float64
    )
}

/// The type with such numbers as texts, at any depth.
fn texts_in(kind: &DataType) -> DataType {
    let of = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(texts_in(field.data_type())));
    match kind {
        kind if is_text(kind) => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(of).collect::<Fields>()),
        DataType::List(field) => DataType::List(of(field)),
        DataType::Map(entries, sorted) => DataType::Map(Arc::new(with_text_keys(entries)), *sorted),
        other => other.clone(),
    }
}

/// JSON has no other keys.
fn with_text_keys(entries: &Field) -> Field {
    let DataType::Struct(fields) = entries.data_type() else { return entries.clone() };
    let of = |(at, field): (usize, &Arc<Field>)| {
        let kind = if at == 0 { DataType::Utf8 } else { texts_in(field.data_type()) };
        field.as_ref().clone().with_data_type(kind)
    };
    entries.clone().with_data_type(DataType::Struct(fields.iter().enumerate().map(of).collect()))
}

fn as_texts(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = rows.schema();
    let of = |field: &Arc<Field>| field.as_ref().clone().with_data_type(texts_in(field.data_type()));
    let fields: Vec<Field> = schema.fields().iter().map(of).collect();
    let columns = rows.columns().iter().zip(&fields).map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, Float64Array, Float64Builder, Int64Array, Int64Builder, MapBuilder, StringArray,
        TimestampMillisecondArray,
    };
    use arrow::datatypes::TimeUnit;
    use weir_engine::api::batch::RowKind;

    use super::*;

    #[test]
    fn keys_of_any_type_are_texts() {
        let mut map = MapBuilder::new(None, Int64Builder::new(), Float64Builder::new());
        map.keys().append_value(7);
        map.values().append_value(0.5);
        map.append(true).unwrap();
        let map = map.finish();
        let schema = Schema::new(vec![Field::new("m", arrow::array::Array::data_type(&map).clone(), true)]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(map)]).unwrap();
        let mut sink = ResultsSink { name: "r".to_string(), to: Vec::new(), text: Vec::new() };
        sink.write(Batch::inserts(rows)).unwrap();
        let text = String::from_utf8(sink.to).unwrap();
        assert_eq!(text, "{\"result\":\"r\",\"kind\":\"+I\",\"row\":{\"m\":{\"7\":\"0.5\"}}}\n");
    }

    #[test]
    fn a_row_is_a_line_with_what_it_does() {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("d", DataType::Decimal128(38, 2), true),
            Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("f", DataType::Float64, true),
        ]);
        let rows = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(vec![Some(1), None])),
                Arc::new(StringArray::from(vec!["a\"\n", "ä"])),
                Arc::new(
                    Decimal128Array::from(vec![12_345_678_901_234_567_890_120, -5])
                        .with_precision_and_scale(38, 2)
                        .unwrap(),
                ),
                Arc::new(TimestampMillisecondArray::from(vec![0, 1500])),
                Arc::new(Float64Array::from(vec![f64::NAN, 0.1])),
            ],
        );
        let batch = Batch::with_kinds(rows.unwrap(), vec![RowKind::Insert, RowKind::Delete]);
        let mut sink = ResultsSink { name: "r".to_string(), to: Vec::new(), text: Vec::new() };
        sink.write(batch).unwrap();
        let text = String::from_utf8(sink.to).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["kind"], "+I");
        assert_eq!(lines[1]["kind"], "-D");
        assert_eq!(lines[0]["row"]["s"], "a\"\n");
        assert!(lines[1]["row"]["n"].is_null() && lines[1]["row"].as_object().unwrap().contains_key("n"));
        assert_eq!(lines[0]["row"]["d"], "123456789012345678901.20");
        assert_eq!(lines[1]["row"]["d"], "-0.05");
        assert_eq!((&lines[0]["row"]["f"], &lines[1]["row"]["f"]), (&"NaN".into(), &"0.1".into()));
        assert!(text.contains("1970-01-01 00:00:01.5"), "{text}");
    }
}
