//! Pre-aggregation before an exchange: many rows of a key become one partial result.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use weir_engine::{
    Batch, Clock, Operator, OperatorContext, OperatorError, OperatorFactory, Output, Progress, Timestamp,
};
use weir_state::{Keys, decode_keys};

use crate::aggregate::ingest::{Ingest, inserts_only, signs};
use crate::aggregate::keyed::check_group;
use crate::aggregate::plan::{Feed, Keeps, Plan, Reduce, carries_slices};
use crate::aggregate::values::{Groups, Values};
use crate::rows::column::{Columns, take_columns};
use crate::rows::index::GroupIndex;
use crate::spec::{AggregateInput, LocalAggregateSpec, SpecError, TimeSource};
use crate::window::plan::check_attached;
use crate::window::slices::{Slices, times};

/// Rows are held back for at most this long: what a second of waiting would save further is little, and somebody waits
/// for the result.
const LINGER_MS: i64 = 50;

/// Partial results are put out when there are so many groups, or pairs of group and DISTINCT value: about a batch.
const MAX_HELD_GROUPS: usize = 8192;

/// Partial results are put out after so many rows: enough for the most frequent keys to fold.
const MAX_HELD_ROWS: usize = 1 << 16;

/// Strings kept for groups that are put out then.
const MAX_HELD_BYTES: usize = 4 << 20;

/// If fewer rows than this fold into one partial result, rows are passed on as they are, without being looked at.
const WORTHWHILE_FOLD: f64 = 1.25;

/// So many batches are passed on before it is tried again whether they fold.
const BATCHES_BETWEEN_TRIALS: u32 = 100;

/// Folds rows of one key into partial results for the aggregation behind the exchange, and DISTINCT values with the
/// filters that saw them into one. It keeps nothing over a checkpoint: what it holds goes out before the barrier.
///
/// Rows that are taken back count against those that come, so that its sums and counts may be negative; rows that it passes on
/// as they are keep their kinds.
#[derive(Debug, Clone)]
pub struct LocalAggregate {
    ingest: Ingest,
    output: SchemaRef,
    /// How to find the slice of a row: the column and the windows.
    slices: Option<(usize, Slices)>,
}

impl LocalAggregate {
    /// Checks the spec. The group columns are the first of the output.
    pub fn new(spec: LocalAggregateSpec) -> Result<Self, SpecError> {
        check_group(&spec.aggregation)?;
        if let Some((window, time)) = spec.window {
            window.check()?;
            check_attached(&spec.aggregation, window, time)?;
            crate::spec::window_fields(&spec.aggregation.input, time)?;
        }
        if spec.retract_input && spec.window.is_some() {
            return Err(SpecError::Unsupported("windows over rows that update or delete".to_owned()));
        }
        let with_slices = carries_slices(&spec);
        let plan = Plan::new(spec.aggregation, spec.retract_input)?;
        if plan.maps.iter().any(|map| map.keeps == Keeps::Arrivals) {
            let what = "first and last values and lists of rows that update or delete, before an exchange";
            return Err(SpecError::Unsupported(what.to_owned()));
        }
        let output = plan.partial_schema(with_slices);
        let slices = match spec.window {
            Some((window, TimeSource::Event(column))) => Some((window.attached.unwrap_or(column), Slices::new(window))),
            _ => None,
        };
        Ok(Self { ingest: Ingest::new(plan, AggregateInput::Rows, with_slices), output, slices })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }
}

impl OperatorFactory for LocalAggregate {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let mut key_types = self.ingest.group_types.clone();
        if self.slices.is_some() {
            key_types.push(DataType::Int64);
        }
        Ok(Box::new(Task {
            values: Values::new(&self.ingest.plan.accumulators),
            maps: self.ingest.plan.maps.iter().map(|_| HeldMap::default()).collect(),
            spec: self.clone(),
            key_types,
            clock: Arc::clone(&ctx.clock),
            keys: Keys::new(),
            index: GroupIndex::default(),
            of_row: Vec::new(),
            group_rows: Vec::new(),
            held_rows: 0,
            held_since: None,
            first_slice: i64::MAX,
            pass_on: 0,
        }))
    }
}

/// The pairs of group and value held for one DISTINCT map.
#[derive(Default)]
struct HeldMap {
    keys: Keys,
    pairs: GroupIndex,
    masks: Vec<u64>,
    row_masks: Vec<u64>,
    /// Where rows may be taken back, instead of masks: how often each filter saw the value, side by side.
    counts: Vec<i64>,
    row_counts: Vec<i64>,
}

impl HeldMap {
    /// Takes in the counts of a batch's rows, whose keys and groups are known.
    fn count(&mut self, of_row: &[u32], variants: usize) {
        for (row, counts) in self.row_counts.chunks_exact(variants).enumerate() {
            if counts.iter().all(|count| *count == 0) {
                continue;
            }
            let pair = self.pairs.group(self.keys.hash(row), of_row[row], self.keys.key(row), row) as usize;
            self.counts.resize(self.counts.len().max((pair + 1) * variants), 0);
            for (sum, count) in self.counts[pair * variants..].iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }
}

struct Task {
    spec: LocalAggregate,
    key_types: Vec<DataType>,
    clock: Arc<dyn Clock>,
    keys: Keys,
    index: GroupIndex,
    of_row: Vec<u32>,
    /// With slices: how many rows each group has.
    group_rows: Vec<i64>,
    values: Values,
    maps: Vec<HeldMap>,
    held_rows: usize,
    held_since: Option<Timestamp>,
    /// The end of the earliest slice held.
    first_slice: i64,
    /// Batches still to be passed on unfolded.
    pass_on: u32,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if !self.spec.ingest.plan.retract {
            inserts_only(&batch)?;
        }
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let slices = self.slice_column(rows)?;
        if self.pass_on > 0 {
            self.pass_on -= 1;
            let kinds = batch.kinds.clone();
            out.emit(Batch { rows: self.unfolded(rows, slices)?, kinds })?;
            return Ok(Progress::Done);
        }
        self.hold(rows, slices.as_ref(), signs(&batch).as_deref())?;
        let pairs = self.maps.iter().map(|m| m.pairs.len()).max().unwrap_or(0);
        let bytes =
            self.values.arena_bytes() + self.index.bytes() + self.maps.iter().map(|m| m.pairs.bytes()).sum::<usize>();
        if self.index.len() >= MAX_HELD_GROUPS
            || pairs >= MAX_HELD_GROUPS
            || self.held_rows >= MAX_HELD_ROWS
            || bytes >= MAX_HELD_BYTES
        {
            let results = self.index.len().max(pairs);
            if (self.held_rows as f64) < WORTHWHILE_FOLD * results as f64 {
                self.pass_on = BATCHES_BETWEEN_TRIALS;
            }
            self.flush(out)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        // Only a row whose window the watermark may close has to go out before it. Without windows `first_slice` is never
        // reached but by the end of input.
        if watermark >= self.first_slice.saturating_sub(1) {
            self.flush(out)?;
        }
        Ok(Progress::Done)
    }

    fn next_timer(&self) -> Option<Timestamp> {
        self.held_since.map(|since| since + LINGER_MS)
    }

    fn on_timer(&mut self, _now: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.flush(out)?;
        Ok(Progress::Done)
    }

    fn end_of_input(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.flush(out)?;
        Ok(Progress::Done)
    }

    fn before_barrier(&mut self, out: &mut dyn Output) -> Result<(), OperatorError> {
        self.flush(out)
    }
}

impl Task {
    fn slice_column(&self, rows: &RecordBatch) -> Result<Option<ArrayRef>, OperatorError> {
        let Some((column, slices)) = &self.spec.slices else { return Ok(None) };
        let times = times(rows.column(*column), rows.schema_ref().field(*column).name())?;
        Ok(Some(Arc::new(Int64Array::from(slices.ends(&times)))))
    }

    fn hold(
        &mut self,
        rows: &RecordBatch,
        slices: Option<&ArrayRef>,
        signs: Option<&[i8]>,
    ) -> Result<(), OperatorError> {
        let count = rows.num_rows();
        if self.held_since.is_none() {
            self.held_since = Some(self.clock.now_ms());
        }
        self.held_rows += count;
        let mut key_columns = self.spec.ingest.group_columns(rows);
        if let Some(slices) = slices {
            let first = arrow::compute::min(slices.as_primitive::<arrow::datatypes::Int64Type>());
            self.first_slice = self.first_slice.min(first.unwrap_or(i64::MAX));
            key_columns.push(Arc::clone(slices));
        }
        self.keys.encode(&key_columns, if key_columns.is_empty() { 1 } else { count })?;
        self.index.assign(&self.keys, &mut self.of_row);
        self.of_row.resize(count, 0);
        self.values.resize(self.index.len());
        let groups = Groups { of_row: &self.of_row, len: self.index.len(), signs };
        let mut columns = Columns::new(rows);
        self.spec.ingest.update(&mut self.values, groups, &mut columns)?;
        if slices.is_some() {
            self.group_rows.resize(self.index.len(), 0);
            for &g in &self.of_row {
                self.group_rows[g as usize] += 1;
            }
        }
        for (i, map) in self.maps.iter_mut().enumerate() {
            let value = rows.column(self.spec.ingest.value_column(i));
            if self.spec.ingest.plan.retract {
                let variants = self.spec.ingest.plan.maps[i].variants.len();
                self.spec.ingest.counts(i, &mut columns, rows, signs, &mut map.row_counts);
                map.keys.encode(std::slice::from_ref(value), count)?;
                map.count(&self.of_row, variants);
                continue;
            }
            self.spec.ingest.masks(i, &mut columns, rows, &mut map.row_masks);
            map.keys.encode(std::slice::from_ref(value), count)?;
            for (row, &mask) in map.row_masks.iter().enumerate() {
                if mask == 0 {
                    continue;
                }
                let pair = map.pairs.group(map.keys.hash(row), self.of_row[row], map.keys.key(row), row) as usize;
                if pair == map.masks.len() {
                    map.masks.push(mask);
                } else {
                    map.masks[pair] |= mask;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), OperatorError> {
        let groups = self.index.len();
        if groups == 0 {
            return Ok(());
        }
        let mut keys = decode_keys(&self.key_types, self.index.keys())?;
        let slices = self.spec.slices.is_some().then(|| keys.pop()).flatten();
        let plan = Arc::clone(&self.spec.ingest.plan);
        let spread = Spread::new(groups, &self.maps);
        let mut columns = if self.maps.is_empty() { keys } else { take_columns(&keys, &spread.groups)? };
        if let Some(slices) = slices {
            let rows: ArrayRef = Arc::new(Int64Array::from(self.group_rows.clone()));
            if self.maps.is_empty() {
                columns.extend([slices, rows]);
            } else {
                columns.push(take(&slices, &spread.groups, None)?);
                let rows = spread.values.iter().map(|&v| self.group_rows.get(v as usize).copied().unwrap_or(0));
                columns.push(Arc::new(rows.collect::<Int64Array>()));
            }
        }
        // One group more, without rows, is what a group's further rows bring.
        let values = if self.maps.is_empty() {
            None
        } else {
            self.values.resize(groups + 1);
            Some(self.values.pick(&self.values, &spread.values))
        };
        let values = values.as_ref().unwrap_or(&self.values);
        for (i, a) in plan.accumulators.iter().enumerate() {
            if matches!(a.feed, Feed::Rows { .. }) {
                let field = self.spec.output.field(columns.len());
                columns.push(values.export(i, a, field.data_type())?);
            }
        }
        for (i, map) in self.maps.iter().enumerate() {
            let t = rows_type(&plan, i);
            let decoded = decode_keys(std::slice::from_ref(&t), map.pairs.keys())?;
            columns.push(take(&decoded[0], &spread.pairs[i], None)?);
            if plan.retract {
                let variants = plan.maps[i].variants.len();
                for variant in 0..variants {
                    let count = |p: u32| map.counts[p as usize * variants + variant];
                    columns.push(Arc::new(spread.pairs[i].iter().map(|p| p.map_or(0, count)).collect::<Int64Array>()));
                }
                continue;
            }
            let masks = spread.pairs[i].iter().map(|p| p.map_or(0, |p| map.masks[p as usize]));
            columns.push(Arc::new(masks.collect::<UInt64Array>()));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
        self.clear();
        out.emit(Batch::inserts(rows))
    }

    fn clear(&mut self) {
        self.index.clear();
        self.values.clear();
        self.group_rows.clear();
        for map in &mut self.maps {
            map.pairs.clear();
            map.masks.clear();
            map.counts.clear();
        }
        self.held_rows = 0;
        self.held_since = None;
        self.first_slice = i64::MAX;
    }

    /// Each row as a partial result of its own.
    fn unfolded(&self, rows: &RecordBatch, slices: Option<ArrayRef>) -> Result<RecordBatch, OperatorError> {
        let count = rows.num_rows();
        let plan = &self.spec.ingest.plan;
        let mut columns = self.spec.ingest.group_columns(rows);
        if let Some(slices) = slices {
            columns.push(slices);
            columns.push(Arc::new(Int64Array::from(vec![1; count])));
        }
        let mut prepared = Columns::new(rows);
        for a in &plan.accumulators {
            let Feed::Rows { filter } = a.feed else { continue };
            let selected = prepared.select(filter, a.column);
            let selected = prepared.selected(selected);
            let column: ArrayRef = match a.column {
                Some(column) if a.reduce != Reduce::Count => {
                    let field = self.spec.output.field(columns.len());
                    let values = cast(rows.column(column), field.data_type())?;
                    match selected {
                        None => values,
                        Some(selected) => {
                            let hidden = arrow::array::BooleanArray::new(!selected, None);
                            arrow::compute::nullif(&values, &hidden)?
                        }
                    }
                }
                _ => match selected {
                    None => Arc::new(Int64Array::from(vec![1; count])),
                    Some(selected) => Arc::new(selected.iter().map(i64::from).collect::<Int64Array>()),
                },
            };
            columns.push(column);
        }
        let (mut masks, mut counts) = (Vec::new(), Vec::new());
        for (i, map) in plan.maps.iter().enumerate() {
            if plan.retract {
                // Whether the row is taken back its kind says.
                self.spec.ingest.counts(i, &mut prepared, rows, None, &mut counts);
                columns.push(Arc::clone(rows.column(map.column)));
                let variants = map.variants.len();
                for variant in 0..variants {
                    let of_variant = counts.iter().skip(variant).step_by(variants).copied();
                    columns.push(Arc::new(Int64Array::from_iter_values(of_variant)));
                }
                continue;
            }
            self.spec.ingest.masks(i, &mut prepared, rows, &mut masks);
            columns.push(Arc::clone(rows.column(map.column)));
            columns.push(Arc::new(UInt64Array::from(masks.clone())));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?)
    }
}

fn rows_type(plan: &Plan, map: usize) -> DataType {
    plan.input.field(plan.maps[map].column).data_type().clone()
}

/// How groups and pairs are laid out in rows: each group has as many rows as its most numerous map has pairs, at least one.
struct Spread {
    /// The group of each row.
    groups: UInt32Array,
    /// The group whose accumulators stand in the row: its own in a group's first row, the empty one in the others.
    values: Vec<u32>,
    /// For each map the pair that stands in the row.
    pairs: Vec<UInt32Array>,
}

impl Spread {
    fn new(groups: usize, maps: &[HeldMap]) -> Self {
        if maps.is_empty() {
            return Self { groups: UInt32Array::from(Vec::<u32>::new()), values: Vec::new(), pairs: Vec::new() };
        }
        let mut rows_of = vec![1_u32; groups];
        let mut counts = vec![0_u32; groups];
        for map in maps {
            counts.fill(0);
            for &owner in map.pairs.owners() {
                counts[owner as usize] += 1;
            }
            for (rows, count) in rows_of.iter_mut().zip(&counts) {
                *rows = (*rows).max(*count);
            }
        }
        let mut starts = Vec::with_capacity(groups);
        let mut of_row = Vec::new();
        let mut values = Vec::new();
        for (g, &rows) in rows_of.iter().enumerate() {
            starts.push(of_row.len());
            of_row.resize(of_row.len() + rows as usize, g as u32);
            values.push(g as u32);
            values.resize(of_row.len(), groups as u32);
        }
        let pairs = maps
            .iter()
            .map(|map| {
                let mut next = starts.clone();
                let mut at: Vec<Option<u32>> = vec![None; of_row.len()];
                for (pair, &owner) in map.pairs.owners().iter().enumerate() {
                    at[next[owner as usize]] = Some(pair as u32);
                    next[owner as usize] += 1;
                }
                UInt32Array::from(at)
            })
            .collect();
        Self { groups: of_row.into(), values, pairs }
    }
}
