//! Sinks that keep nothing: `print` writes rows where a person sees them, `blackhole` drops them.
//!
//! Neither has transactions. What `print` shows is shown at once, and after a restore shown again.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use weir_engine::api::batch::Batch;
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
use weir_engine::api::source::SourceFactory;
use weir_protocol::CheckpointId;

use crate::error::ConnectorError;
use crate::options::Options;
use crate::spec::{Accepts, ConnectorFactory, OptionDoc, TableSpec};

/// `'connector' = 'print'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Print;

/// `'connector' = 'blackhole'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blackhole;

const PRINT_OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "print-identifier",
        expects: "a text",
        default: Some("nothing"),
        about: "Stands before each row.",
    },
    OptionDoc {
        name: "standard-error",
        expects: "'true' or 'false'",
        default: Some("false"),
        about: "Print to standard error instead of standard output.",
    },
];

fn only_a_sink(table: &TableSpec, name: &str) -> ConnectorError {
    Options::of(table).unsupported(
        Some("connector"),
        &format!("'{name}' is a sink and cannot be read"),
        "read from 'filesystem', 'datagen' or 'nexmark'",
    )
}

impl ConnectorFactory for Print {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        Err(only_a_sink(table, "print"))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        let options = Options::of(table);
        Ok(Arc::new(PrintSinkFactory {
            identifier: options.text("print-identifier").unwrap_or_default().to_string(),
            standard_error: options.flag("standard-error", false)?,
        }))
    }

    fn accepts(&self, _table: &TableSpec) -> Result<Accepts, ConnectorError> {
        Ok(Accepts::Changes)
    }

    fn options(&self) -> &[OptionDoc] {
        PRINT_OPTIONS
    }
}

impl ConnectorFactory for Blackhole {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        Err(only_a_sink(table, "blackhole"))
    }

    fn sink(&self, _table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        Ok(Arc::new(BlackholeSinkFactory))
    }

    fn accepts(&self, _table: &TableSpec) -> Result<Accepts, ConnectorError> {
        Ok(Accepts::Changes)
    }

    fn options(&self) -> &[OptionDoc] {
        &[]
    }
}

/// Nothing is pending, so nothing is published.
pub(crate) struct NoCommits;

#[async_trait]
impl Committer for NoCommits {
    async fn commit(&self, _pending: &[serde_json::Value]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn clean(&self, _keep: &[serde_json::Value]) -> Result<(), SinkError> {
        Ok(())
    }
}

struct BlackholeSinkFactory;

impl SinkFactory for BlackholeSinkFactory {
    fn create(&self, _ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(BlackholeSink))
    }

    fn committer(&self, _ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(NoCommits))
    }
}

/// The engine has counted the rows before they come here.
struct BlackholeSink;

impl Sink for BlackholeSink {
    fn write(&mut self, _batch: Batch) -> Result<(), SinkError> {
        Ok(())
    }

    fn prepare(&mut self, _id: CheckpointId) -> Result<PrepareJob, SinkError> {
        Ok(Box::new(|| Ok(Vec::new())))
    }
}

struct PrintSinkFactory {
    identifier: String,
    standard_error: bool,
}

impl SinkFactory for PrintSinkFactory {
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let to: Box<dyn Write + Send> =
            if self.standard_error { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
        Ok(Box::new(PrintSink { prefix: prefix(&self.identifier, ctx.subtask, ctx.parallelism), to, text: Vec::new() }))
    }

    fn committer(&self, _ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(NoCommits))
    }
}

/// As Flink's: the identifier, and the number of the subtask, from 1, if there are several.
fn prefix(identifier: &str, subtask: u32, parallelism: u32) -> String {
    match (identifier, parallelism) {
        ("", 0..=1) => String::new(),
        ("", _) => format!("{}> ", subtask + 1),
        (_, 0..=1) => format!("{identifier}> "),
        _ => format!("{identifier}:{}> ", subtask + 1),
    }
}

struct PrintSink<W> {
    prefix: String,
    to: W,
    text: Vec<u8>,
}

impl<W: Write + Send> Sink for PrintSink<W> {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        let options = FormatOptions::default().with_null("null");
        let columns =
            batch.rows.columns().iter().map(|column| Printed::of(column, &options)).collect::<Result<Vec<_>, _>>()?;
        self.text.clear();
        for row in 0..batch.len() {
            write!(self.text, "{}{}[", self.prefix, batch.kind(row).short())?;
            for (i, column) in columns.iter().enumerate() {
                let comma = if i == 0 { "" } else { ", " };
                write!(self.text, "{comma}")?;
                column.write(row, &mut self.text)?;
            }
            self.text.extend_from_slice(b"]\n");
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

/// A column as Flink prints it: a ROW as `+I[1, a]`, an ARRAY as `[1, 2]`, a MAP as `{a=1}`.
enum Printed<'a> {
    Plain(ArrayFormatter<'a>),
    Row(&'a dyn Array, Vec<Self>),
    List(&'a dyn Array, &'a [i32], Box<Self>),
    Map(&'a dyn Array, &'a [i32], Box<(Self, Self)>),
}

const fn separator(first: bool) -> &'static [u8] {
    if first { b"" } else { b", " }
}

impl<'a> Printed<'a> {
    fn of(column: &'a ArrayRef, options: &FormatOptions<'a>) -> Result<Self, SinkError> {
        Ok(match column.data_type() {
            DataType::Struct(_) => {
                let fields = column.as_struct().columns().iter().map(|field| Self::of(field, options));
                Self::Row(column, fields.collect::<Result<_, _>>()?)
            }
            DataType::List(_) => {
                let list = column.as_list::<i32>();
                Self::List(column, list.value_offsets(), Box::new(Self::of(list.values(), options)?))
            }
            DataType::Map(..) => {
                let map = column.as_map();
                let entry = (Self::of(map.keys(), options)?, Self::of(map.values(), options)?);
                Self::Map(column, map.value_offsets(), Box::new(entry))
            }
            _ => Self::Plain(ArrayFormatter::try_new(column, options)?),
        })
    }

    fn write(&self, row: usize, to: &mut Vec<u8>) -> Result<(), SinkError> {
        match self {
            Self::Plain(column) => write!(to, "{}", column.value(row))?,
            Self::Row(column, ..) | Self::List(column, ..) | Self::Map(column, ..) if column.is_null(row) => {
                to.extend_from_slice(b"null");
            }
            Self::Row(_, fields) => {
                to.extend_from_slice(b"+I[");
                for (at, field) in fields.iter().enumerate() {
                    to.extend_from_slice(separator(at == 0));
                    field.write(row, to)?;
                }
                to.push(b']');
            }
            Self::List(_, offsets, elements) => {
                to.push(b'[');
                for at in offsets[row]..offsets[row + 1] {
                    to.extend_from_slice(separator(at == offsets[row]));
                    elements.write(at as usize, to)?;
                }
                to.push(b']');
            }
            Self::Map(_, offsets, entry) => {
                to.push(b'{');
                for at in offsets[row]..offsets[row + 1] {
                    to.extend_from_slice(separator(at == offsets[row]));
                    entry.0.write(at as usize, to)?;
                    to.push(b'=');
                    entry.1.write(at as usize, to)?;
                }
                to.push(b'}');
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Int64Array, Int64Builder, ListBuilder, MapBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
        TimestampMillisecondArray,
    };
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use weir_engine::api::batch::RowKind;

    use super::*;

    fn batch() -> Batch {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        ]);
        let rows = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(vec![Some(1), None])),
                Arc::new(StringArray::from(vec!["a", "b"])),
                Arc::new(TimestampMillisecondArray::from(vec![0, 1500])),
            ],
        );
        Batch::with_kinds(rows.unwrap(), vec![RowKind::UpdateBefore, RowKind::UpdateAfter])
    }

    #[test]
    fn rows_are_printed_with_their_kinds_as_flink_prints_them() {
        let mut sink = PrintSink { prefix: prefix("out", 1, 4), to: Vec::new(), text: Vec::new() };
        sink.write(batch()).unwrap();
        assert_eq!(
            String::from_utf8(sink.to).unwrap(),
            "out:2> -U[1, a, 1970-01-01T00:00:00]\nout:2> +U[null, b, 1970-01-01T00:00:01.500]\n"
        );
    }

    #[test]
    fn what_holds_values_is_printed_as_flink_prints_it() {
        let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        maps.keys().append_value("a");
        maps.values().append_value(1);
        maps.keys().append_value("b");
        maps.values().append_null();
        maps.append(true).unwrap();
        maps.append(false).unwrap();
        let maps = maps.finish();
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1), None]);
        lists.append_null();
        let lists = lists.finish();
        let rows = StructArray::new(
            vec![Field::new("l", lists.data_type().clone(), true), Field::new("m", maps.data_type().clone(), true)]
                .into(),
            vec![Arc::new(lists), Arc::new(maps)],
            None,
        );
        let schema = Schema::new(vec![Field::new("r", rows.data_type().clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(rows)]).unwrap();
        let mut sink = PrintSink { prefix: String::new(), to: Vec::new(), text: Vec::new() };
        sink.write(Batch::from(batch)).unwrap();
        assert_eq!(String::from_utf8(sink.to).unwrap(), "+I[+I[[1, null], {a=1, b=null}]]\n+I[+I[null, null]]\n");
    }

    #[test]
    fn the_prefix_names_what_there_is_to_tell_apart() {
        assert_eq!(prefix("", 0, 1), "");
        assert_eq!(prefix("", 0, 2), "1> ");
        assert_eq!(prefix("out", 0, 1), "out> ");
    }

    #[test]
    fn neither_has_anything_to_commit_and_neither_can_be_read() {
        let table = TableSpec::new("t", Arc::new(Schema::empty()));
        let mut sink = BlackholeSink;
        sink.write(batch()).unwrap();
        assert!(sink.prepare(CheckpointId(1)).unwrap()().unwrap().is_empty());
        assert!(Print.source(&table).is_err() && Blackhole.source(&table).is_err());
        assert!(Print.sink(&table).is_ok() && Blackhole.sink(&table).is_ok());
    }
}
