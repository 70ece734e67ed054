//! The lookup join: each row of a stream beside the rows of a table that have its key, as the table is when the row passes.
//!
//! The table is held whole in memory, once a worker, and read again from time to time: what a row finds is final, and nothing is kept in
//! a checkpoint. After a restore a row may find another version of the table than it did before.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use weir_engine::api::lookup::FullTable;
use weir_engine::{
    Batch, Clock, Operator, OperatorContext, OperatorError, OperatorFactory, Output, PIECE_ROWS, Progress, RowKind,
    Timestamp,
};

use crate::aggregate::ingest::{RowGroups, inserts_only};
use crate::aggregate::plan::is_key;
use crate::join::emission::{Emission, Sources};
use crate::join::regular::{Residual, output_schema};
use crate::join::side::columns;
use crate::rows::column::take_columns;
use crate::spec::{JoinKind, LookupJoinSpec, SpecError, field};

/// Pairs that are judged at once, where no single row has more.
const RUN_PAIRS: usize = 1 << 14;

/// `a JOIN b FOR SYSTEM_TIME AS OF a.proctime ON a.x = b.y`, inner or left.
#[derive(Clone)]
pub struct LookupJoin {
    spec: Arc<LookupJoinSpec>,
    residual: Option<Residual>,
    output: SchemaRef,
    /// What the subtasks of an attempt share in this process.
    shared: Arc<Mutex<Weak<Held>>>,
}

impl LookupJoin {
    /// Checks the spec. The output is that of a regular join.
    pub fn new(spec: LookupJoinSpec) -> Result<Self, SpecError> {
        if !matches!(spec.kind, JoinKind::Inner | JoinKind::Left) {
            return Err(SpecError::Unsupported("a lookup join that is neither inner nor left".to_owned()));
        }
        if spec.left.keys.is_empty() || spec.left.keys.len() != spec.right.keys.len() {
            return Err(SpecError::Unsupported("a lookup join without keys on both sides".to_owned()));
        }
        for (&l, &r) in spec.left.keys.iter().zip(&spec.right.keys) {
            let (of_left, of_right) = (field(&spec.left.schema, l)?, field(&spec.right.schema, r)?);
            if !is_key(of_left.data_type()) || of_left.data_type() != of_right.data_type() {
                let (column, found) = (of_left.name().clone(), of_left.data_type().clone());
                return Err(SpecError::NotStorable { column, found });
            }
        }
        let output = output_schema(&spec.left, &spec.right, spec.kind);
        let residual = spec.residual.as_ref().map(|of| Residual::new(of, &spec.left.schema, &spec.right.schema));
        Ok(Self { spec: Arc::new(spec), residual, output, shared: Arc::default() })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// The table as the subtasks of this attempt have it; the first of them reads it.
    fn held(&self, ctx: &OperatorContext) -> Result<Arc<Held>, OperatorError> {
        let mut shared = lock(&self.shared);
        if let Some(held) = shared.upgrade() {
            return Ok(held);
        }
        let begun = ctx.clock.now_ms();
        let rows = read(&self.spec, &ctx.runtime, &ctx.clock)?;
        let next = next_reload(&self.spec.table, begun, ctx.clock.now_ms());
        let state = HeldState { rows: Arc::new(rows), next, is_read: false, failed: None };
        let held = Arc::new(Held { state: Mutex::new(state) });
        *shared = Arc::downgrade(&held);
        Ok(held)
    }
}

impl OperatorFactory for LookupJoin {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let held = self.held(ctx)?;
        let rows = Arc::clone(&lock(&held.state).rows);
        Ok(Box::new(Task {
            join: self.clone(),
            held,
            rows,
            runtime: ctx.runtime.clone(),
            clock: Arc::clone(&ctx.clock),
            groups: RowGroups::default(),
            emission: Emission::default(),
            current: None,
        }))
    }
}

/// What subtasks share.
struct Held {
    state: Mutex<HeldState>,
}

struct HeldState {
    rows: Arc<TableRows>,
    /// When it is to be read again.
    next: Option<Timestamp>,
    /// It is being read.
    is_read: bool,
    /// It could not be read.
    failed: Option<String>,
}

/// A thread that panics while it holds this has changed nothing by halves.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_reload(table: &FullTable, begun: Timestamp, done: Timestamp) -> Option<Timestamp> {
    let reload = table.reload?;
    let every = i64::try_from(reload.every.as_millis()).unwrap_or(i64::MAX).max(1);
    Some(if reload.from_begin { begun } else { done }.saturating_add(every))
}

/// The rows of a table by their keys.
struct TableRows {
    /// The columns that the join reads, those of the query first.
    rows: RecordBatch,
    /// The rows of one key stand beside each other.
    order: Vec<u32>,
    by_key: HashMap<Box<[u8]>, Range<u32>>,
}

impl TableRows {
    fn new(rows: RecordBatch, keys: &[usize]) -> Result<Self, OperatorError> {
        let key_columns = columns(&rows, keys);
        let mut groups = RowGroups::default();
        groups.group(&key_columns, rows.num_rows())?;
        let nulls: Vec<_> = key_columns.iter().filter_map(Array::logical_nulls).collect();
        let has_key = |row: u32| nulls.iter().all(|nulls| nulls.is_valid(row as usize));
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).filter(|&row| has_key(row)).collect();
        // Stable: rows of one key stay as they came.
        order.sort_by_key(|&row| groups.of_row[row as usize]);
        let mut by_key = HashMap::new();
        let mut at = 0;
        for of_key in order.chunk_by(|a, b| groups.of_row[*a as usize] == groups.of_row[*b as usize]) {
            let end = at + of_key.len() as u32;
            by_key.insert(groups.keys.key(of_key[0] as usize).into(), at..end);
            at = end;
        }
        Ok(Self { rows, order, by_key })
    }

    fn of_key(&self, key: &[u8]) -> &[u32] {
        self.by_key.get(key).map_or(&[], |range| &self.order[range.start as usize..range.end as usize])
    }
}

/// Reads the table.
fn read(
    spec: &LookupJoinSpec,
    runtime: &weir_engine::Runtime,
    clock: &Arc<dyn Clock>,
) -> Result<TableRows, OperatorError> {
    let pieces = spec.table.read(runtime, clock).map_err(OperatorError::from)?;
    let prepared = pieces.into_iter().map(|rows| spec.prepare.apply(rows)).collect::<Result<Vec<_>, _>>()?;
    TableRows::new(concat_batches(&spec.right.schema, &prepared)?, &spec.right.keys)
}

/// Reads the table beside what goes on, and puts it in the place of the one before.
fn reload(
    held: &Arc<Held>,
    spec: &Arc<LookupJoinSpec>,
    runtime: &weir_engine::Runtime,
    clock: &Arc<dyn Clock>,
) -> Result<(), OperatorError> {
    let (held, spec, runtime, clock) = (Arc::downgrade(held), Arc::clone(spec), runtime.clone(), Arc::clone(clock));
    let work = move || {
        let begun = clock.now_ms();
        let found = read(&spec, &runtime, &clock);
        // Nobody looks anything up any more.
        let Some(held) = held.upgrade() else { return };
        let mut state = lock(&held.state);
        state.is_read = false;
        state.next = next_reload(&spec.table, begun, clock.now_ms());
        match found {
            Ok(rows) => state.rows = Arc::new(rows),
            Err(error) => state.failed = Some(error.to_string()),
        }
    };
    let thread = std::thread::Builder::new().name("lookup-reload".to_owned()).spawn(work);
    thread.map(drop).map_err(|error| OperatorError::operator("a table could not be read again").because(error))
}

/// A batch that is being joined.
struct Current {
    batch: Batch,
    /// The rows of the table for each row.
    rows: Arc<TableRows>,
    /// The key of each row; none where it is null.
    keys: Vec<Option<u32>>,
    /// The first row that is not joined yet.
    next: usize,
    /// Partners of the next row that are done, and whether one of them fits.
    part: (usize, bool),
    /// The columns of the table's rows that are put out.
    taken: Vec<ArrayRef>,
}

struct Task {
    join: LookupJoin,
    held: Arc<Held>,
    rows: Arc<TableRows>,
    runtime: weir_engine::Runtime,
    clock: Arc<dyn Clock>,
    groups: RowGroups,
    emission: Emission,
    current: Option<Current>,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        inserts_only(&batch)?;
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        self.look()?;
        let keys = columns(&batch.rows, &self.join.spec.left.keys);
        self.groups.group(&keys, batch.len())?;
        let nulls: Vec<_> = keys.iter().filter_map(Array::logical_nulls).collect();
        let group = |row: usize| nulls.iter().all(|nulls| nulls.is_valid(row)).then(|| self.groups.of_row[row]);
        let keys = (0..batch.len()).map(group).collect();
        let rows = Arc::clone(&self.rows);
        let outputs = self.join.spec.right.outputs;
        let taken = rows.rows.columns()[..outputs].to_vec();
        self.emission.clear();
        self.current = Some(Current { batch, rows, keys, next: 0, part: (0, false), taken });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some(mut current) = self.current.take() {
            let outputs = self.join.spec.left.outputs;
            let piece = self.emission.next(&Sources {
                own: Some(&current.batch.rows.columns()[..outputs]),
                other: Some(&current.taken),
                other_first: false,
                schema: &self.join.output,
            })?;
            if let Some(piece) = piece {
                self.current = Some(current);
                out.emit(piece)?;
                if out.is_full() {
                    return Ok(Progress::More);
                }
            } else if current.next < current.batch.len() {
                self.join_run(&mut current)?;
                self.current = Some(current);
            }
        }
        Ok(Progress::Done)
    }

    fn next_timer(&self) -> Option<Timestamp> {
        lock(&self.held.state).next
    }

    fn on_timer(&mut self, now: Timestamp, _out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.look()?;
        let begins = {
            let mut state = lock(&self.held.state);
            let is_due = state.next.is_some_and(|next| next <= now);
            if is_due {
                // While it is read: so that it is looked at again.
                state.next = next_reload(&self.join.spec.table, now, now);
            }
            let begins = is_due && !state.is_read;
            state.is_read |= is_due;
            begins
        };
        if begins {
            reload(&self.held, &self.join.spec, &self.runtime, &self.clock)?;
        }
        Ok(Progress::Done)
    }
}

impl Task {
    /// Takes the table as it is now.
    fn look(&mut self) -> Result<(), OperatorError> {
        let state = lock(&self.held.state);
        if let Some(error) = &state.failed {
            return Err(OperatorError::bad_input(format!(
                "a table that rows are looked up in was read again: {error}"
            )));
        }
        if !Arc::ptr_eq(&self.rows, &state.rows) {
            self.rows = Arc::clone(&state.rows);
        }
        Ok(())
    }

    /// Joins the next rows, or the next part of what one row finds.
    fn join_run(&mut self, current: &mut Current) -> Result<(), OperatorError> {
        self.emission.clear();
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let first = current.next;
        let (mut done, mut end) = (current.part.0, first);
        while end < current.batch.len() && pairs.len() < RUN_PAIRS {
            let found = current.keys[end].map_or(&[][..], |group| {
                current.rows.of_key(self.groups.keys.key(self.groups.first()[group as usize] as usize))
            });
            let part = &found[done..found.len().min(done + RUN_PAIRS - pairs.len())];
            pairs.extend(part.iter().map(|&row| (end as u32, row)));
            done += part.len();
            if done < found.len() {
                break;
            }
            (done, end) = (0, end + 1);
        }
        let pairs = self.judged(current, pairs)?;
        let mut at = pairs.iter().peekable();
        let is_left = self.join.spec.kind == JoinKind::Left;
        let mut matched = current.part.1;
        for row in first..=end.min(current.batch.len() - 1) {
            while let Some(&(_, other)) = at.next_if(|(own, _)| *own as usize == row) {
                matched = true;
                self.emission.push(RowKind::Insert, Some(row as u32), Some(other), 1);
            }
            // Of the last there may be more.
            if row < end {
                if is_left && !matched {
                    self.emission.push(RowKind::Insert, Some(row as u32), None, 1);
                }
                matched = false;
            }
        }
        (current.next, current.part) = (end, (done, matched));
        Ok(())
    }

    /// The pairs that the condition lets through, in their order.
    fn judged(&self, current: &Current, pairs: Vec<(u32, u32)>) -> Result<Vec<(u32, u32)>, OperatorError> {
        let Some(residual) = self.join.residual.as_ref().filter(|_| !pairs.is_empty()) else { return Ok(pairs) };
        let left = columns(&current.batch.rows, &residual.needed[0]);
        let right = columns(&current.rows.rows, &residual.needed[1]);
        let mut matching = Vec::new();
        for pairs in pairs.chunks(PIECE_ROWS) {
            let (own, other): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
            let left = take_columns(&left, &UInt32Array::from(own))?;
            let right = take_columns(&right, &UInt32Array::from(other))?;
            let judged: BooleanArray = residual.judge(left, right, pairs.len())?;
            matching.extend(judged.values().set_indices().map(|pair| pairs[pair]));
        }
        Ok(matching)
    }
}
