//! The window columns of a table function without aggregation.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::{
    Batch, Clock, Operator, OperatorContext, OperatorError, OperatorFactory, Output, PIECE_ROWS, Progress, RowKind,
    RowKinds,
};

use crate::rows::column::{from_i64, take_columns};
use crate::spec::{SpecError, TimeSource, WindowAssignSpec, WindowKind, schema_of, window_fields};
use crate::window::slices::{Slices, times};

/// Bytes of the copies of rows that are put out as one piece, beside [`PIECE_ROWS`].
const MAX_BYTES: usize = 16 << 20;

/// `TUMBLE`, `HOP` and `CUMULATE` as plain table functions: each row with `window_start`, `window_end` and `window_time`, once for every
/// window that it is in.
#[derive(Debug, Clone)]
pub struct WindowAssign {
    slices: Slices,
    time: TimeSource,
    output: SchemaRef,
    time_type: DataType,
}

impl WindowAssign {
    /// Checks the spec. The output has the input's columns, then the window's.
    pub fn new(spec: WindowAssignSpec) -> Result<Self, SpecError> {
        let WindowAssignSpec { input, window, time } = spec;
        window.check()?;
        if window.kind == WindowKind::Session || window.attached.is_some() {
            return Err(SpecError::BadWindow("it is not found by a row's time alone".to_owned()));
        }
        let added = window_fields(&input, time)?;
        let time_type = added[2].data_type().clone();
        let fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).chain(added).collect();
        Ok(Self { slices: Slices::new(window), time, output: schema_of(fields), time_type })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }
}

impl OperatorFactory for WindowAssign {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task { spec: self.clone(), clock: Arc::clone(&ctx.clock), now: i64::MIN, copying: None }))
    }
}

struct Task {
    spec: WindowAssign,
    clock: Arc<dyn Clock>,
    now: i64,
    copying: Option<Copying>,
}

/// Rows that are in several windows each, on their way out.
struct Copying {
    batch: Batch,
    times: ScalarBuffer<i64>,
    /// Copies a piece.
    most: usize,
    /// The row that is next, and how many of its windows have been put out.
    row: usize,
    windows: usize,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let slices = self.spec.slices;
        let times: ScalarBuffer<i64> = match self.spec.time {
            TimeSource::Event(column) => times(rows.column(column), rows.schema_ref().field(column).name())?,
            TimeSource::Processing => {
                // Time does not go back, whatever the clock does.
                self.now = self.now.max(self.clock.now_ms());
                vec![self.now; rows.num_rows()].into()
            }
        };
        if slices.is_tumbling() {
            let ends: Vec<i64> = times.iter().map(|&t| slices.slice_end(t)).collect();
            self.emit(rows.columns().to_vec(), batch.kinds.clone(), &ends, out)?;
            return Ok(Progress::Done);
        }
        let row_bytes = batch.used_bytes() / rows.num_rows();
        let most = (MAX_BYTES / row_bytes.max(1)).clamp(1, PIECE_ROWS);
        self.copying = Some(Copying { batch, times, most, row: 0, windows: 0 });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let Some(mut copying) = self.copying.take() else { return Ok(Progress::Done) };
        loop {
            let (of_row, ends) = copying.next(self.spec.slices);
            self.copy(&copying.batch, of_row, &ends, out)?;
            if copying.row == copying.batch.len() {
                return Ok(Progress::Done);
            }
            if out.is_full() {
                self.copying = Some(copying);
                return Ok(Progress::More);
            }
        }
    }
}

impl Copying {
    /// The rows of the next piece, each once for every window, and where the windows end.
    fn next(&mut self, slices: Slices) -> (Vec<u32>, Vec<i64>) {
        let (mut of_row, mut ends) = (Vec::new(), Vec::new());
        while self.row < self.batch.len() && ends.len() < self.most {
            let room = self.most - ends.len();
            let before = ends.len();
            let mut windows = slices.windows(self.times[self.row]).skip(self.windows);
            ends.extend(windows.by_ref().take(room));
            of_row.resize(ends.len(), self.row as u32);
            if windows.next().is_some() {
                self.windows += ends.len() - before;
            } else {
                (self.row, self.windows) = (self.row + 1, 0);
            }
        }
        (of_row, ends)
    }
}

impl Task {
    /// Puts these rows out, each with the window that ends there.
    fn copy(&self, batch: &Batch, of_row: Vec<u32>, ends: &[i64], out: &mut dyn Output) -> Result<(), OperatorError> {
        let kinds = batch
            .kinds
            .as_ref()
            .map(|kinds| of_row.iter().map(|&row| kinds[row as usize]).collect::<Vec<RowKind>>().into());
        let columns = take_columns(batch.rows.columns(), &UInt32Array::from(of_row))?;
        self.emit(columns, kinds, ends, out)
    }

    fn emit(
        &self,
        mut columns: Vec<ArrayRef>,
        kinds: Option<RowKinds>,
        ends: &[i64],
        out: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        columns.extend(window_columns(ends, self.spec.slices, &self.spec.time_type)?);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
        out.emit(Batch { rows, kinds })
    }
}

/// `window_start`, `window_end` and `window_time` of windows that end there.
pub fn window_columns(ends: &[i64], slices: Slices, time_type: &DataType) -> Result<[ArrayRef; 3], OperatorError> {
    let starts: Vec<i64> = ends.iter().map(|e| slices.window_start(*e)).collect();
    columns_of_windows(starts, ends, time_type)
}

/// The same of windows that start and end there.
pub fn columns_of_windows(
    starts: Vec<i64>,
    ends: &[i64],
    time_type: &DataType,
) -> Result<[ArrayRef; 3], OperatorError> {
    let plain = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
    Ok([
        from_i64(starts, None, &plain)?,
        from_i64(ends.to_vec(), None, &plain)?,
        from_i64(ends.iter().map(|e| e - 1).collect(), None, time_type)?,
    ])
}
