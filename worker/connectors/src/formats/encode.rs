//! Rows to bytes: CSV and JSON lines by Arrow's writers.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::LineDelimited;
use weir_engine::api::batch::{Batch, RowKind};
use weir_engine::api::error::SinkError;

use super::decode::{Csv, Format};

/// The column that says what a row does to the result.
pub(crate) const OP: &str = "op";

/// SQL's form, with a fraction only where there is one.
const TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.f";
/// The same for an instant, which stands in UTC.
const INSTANT: &str = "%Y-%m-%d %H:%M:%S%.fZ";

/// Appends a batch to `bytes`; `first` is the first of a file.
pub(crate) fn encode(format: &Format, rows: &RecordBatch, first: bool, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
    match format {
        Format::Csv(Csv { delimiter, header, null_literal }) => {
            let mut writer = arrow::csv::WriterBuilder::new()
                .with_delimiter(*delimiter)
                .with_header(*header && first)
                .with_null(null_literal.clone().unwrap_or_default())
                .with_timestamp_format(TIMESTAMP.to_string())
                .with_timestamp_tz_format(INSTANT.to_string())
                .build(bytes);
            writer.write(rows)
        }
        Format::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .with_timestamp_format(TIMESTAMP.to_string())
                .with_timestamp_tz_format(INSTANT.to_string())
                .build::<_, LineDelimited>(bytes);
            writer.write(rows)?;
            writer.finish()
        }
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
