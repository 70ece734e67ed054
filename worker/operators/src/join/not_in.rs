//! `x NOT IN (SELECT y FROM …)`, as SQL has it with nulls: of rows of the left only those remain of which it is certain.
//!
//! | the right side | rows of the left that are put out |
//! |---|---|
//! | has no rows | all |
//! | has a null | none |
//! | else | those whose value is not null and is not there |
//!
//! That is so for each key, where the query compares further columns with `=` (`… WHERE r.k = l.k`); without any, for all rows
//! together, which one subtask then keeps. What a row of the right changes for more than its own value, as the first and a null do,
//! is found by going through the rows of the left a piece at a time.
//!
//! State: the rows of the left in a map by value, and how often each value is there on the right.

use std::collections::{HashMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::datatypes::SchemaRef;
use weir_engine::{
    Batch, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, PIECE_ROWS, Progress,
    RowKind,
};
use weir_state::{Changes, MapRange, MapTable, SortKeys, SortOrder, StateError, TableShape, type_name};

use crate::aggregate::ingest::RowGroups;
use crate::aggregate::plan::is_key;
use crate::join::emission::{Emission, Sources};
use crate::join::side::{columns, push_varint, read_varint};
use crate::rows::column::take_columns;
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{NotInSpec, SpecError, field, schema_of};

const LEFT: usize = 0;

/// A null-aware anti join.
#[derive(Debug, Clone)]
pub struct NotIn {
    schemas: [SchemaRef; 2],
    keys: [Vec<usize>; 2],
    values: [usize; 2],
    outputs: Vec<usize>,
    output: SchemaRef,
    codec: RowCodec,
    /// A null as a value in the state.
    null: Vec<u8>,
}

impl NotIn {
    /// Checks the spec. The output has the left input's columns.
    pub fn new(spec: NotInSpec) -> Result<Self, SpecError> {
        let NotInSpec { left, outputs, right, left_keys, right_keys, left_value, right_value } = spec;
        let left_columns = left_keys.iter().chain([&left_value]);
        let right_columns = right_keys.iter().chain([&right_value]);
        if left_keys.len() != right_keys.len() {
            return Err(SpecError::Unsupported("NOT IN with keys of different numbers of columns".to_owned()));
        }
        for (&l, &r) in left_columns.zip(right_columns) {
            let (of_left, of_right) = (field(&left, l)?, field(&right, r)?);
            if !is_key(of_left.data_type()) {
                let (column, found) = (of_left.name().clone(), of_left.data_type().clone());
                return Err(SpecError::NotStorable { column, found });
            }
            if of_left.data_type() != of_right.data_type() {
                return Err(SpecError::Unsupported(format!(
                    "NOT IN over `{}`, {}, and `{}`, {}: both must be cast to one type",
                    of_left.name(),
                    of_left.data_type(),
                    of_right.name(),
                    of_right.data_type()
                )));
            }
        }
        let fields = left.fields().iter().take(outputs).map(|field| field.as_ref().clone());
        let output = schema_of(fields.collect());
        let codec = RowCodec::new(left.fields().iter().map(AsRef::as_ref))?;
        let mut null = SortKeys::new();
        let value_type = field(&left, left_value)?.data_type();
        let encoded = null.encode(&[new_null_array(value_type, 1)], &[SortOrder::ASCENDING], 1);
        encoded.map_err(|error| SpecError::Unsupported(error.to_string()))?;
        Ok(Self {
            outputs: (0..output.fields().len()).collect(),
            output,
            schemas: [left, right],
            keys: [left_keys, right_keys],
            values: [left_value, right_value],
            codec,
            null: null.key(0).to_vec(),
        })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }
}

impl OperatorFactory for NotIn {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task {
            spec: self.clone(),
            left: ctx.state.map(&ctx.identity, "left")?,
            right: ctx.state.map(&ctx.identity, "right")?,
            groups: RowGroups::default(),
            values: SortKeys::new(),
            rows: EncodedRows::default(),
            changes: Changes::new(),
            verdicts: Vec::new(),
            counts: HashMap::new(),
            scans: VecDeque::new(),
            emission: Emission::default(),
            others: Vec::new(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let of = |side: usize, column: usize| type_name(self.schemas[side].field(column).data_type());
        let key: Vec<String> = self.keys[LEFT].iter().map(|&column| of(LEFT, column)).collect();
        let value = of(LEFT, self.values[LEFT]);
        let row = (0..self.schemas[LEFT].fields().len()).map(|column| of(LEFT, column));
        let left: Vec<String> = std::iter::once(value.clone()).chain(row).collect();
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let left = MapTable::shapes("left", &key, &left, &texts(&["TIMES", "LENGTH"]), &[]);
        let right = MapTable::shapes("right", &key, &[value], &texts(&["TIMES"]), &texts(&["ROWS", "NULLS"]));
        left.into_iter().chain(right).collect()
    }
}

struct Task {
    spec: NotIn,
    left: MapTable,
    right: MapTable,
    groups: RowGroups,
    values: SortKeys,
    rows: EncodedRows,
    changes: Changes,
    /// Of each key of a batch of the right: what it said before, and says now.
    verdicts: Vec<[Verdict; 2]>,
    /// How often values that the batch has changed were there before it.
    counts: HashMap<(u32, Vec<u8>), u64>,
    /// Rows of the left for which that may change something.
    scans: VecDeque<Scan>,
    emission: Emission,
    /// The rows that the emission is of.
    others: Vec<ArrayRef>,
}

/// What the right side as a whole says of the left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    #[default]
    All,
    None,
    ByValue,
}

/// How many rows the right side has of a key, and how many of them are null.
#[derive(Clone, Copy, Debug, Default)]
struct Whole {
    rows: u64,
    nulls: u64,
}

/// Rows of the left of one key, of one value or all.
struct Scan {
    group: u32,
    value: Vec<u8>,
    /// The last that has been gone through.
    from: Option<Vec<u8>>,
}

/// A row of the left.
struct Found {
    value: Vec<u8>,
    row: Vec<u8>,
    times: u64,
}

impl Whole {
    fn read(mut bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut number = || read_varint(&mut bytes).ok_or_else(malformed);
        Ok(Self { rows: number()?, nulls: number()? })
    }

    fn write(self, out: &mut Vec<u8>) {
        out.clear();
        if self.rows > 0 {
            push_varint(out, self.rows);
            push_varint(out, self.nulls);
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self { rows: 0, .. } => Verdict::All,
            Self { nulls: 0, .. } => Verdict::ByValue,
            _ => Verdict::None,
        }
    }
}

impl Verdict {
    /// Whether a row of the left is put out.
    fn lets(self, is_null: bool, count: u64) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::ByValue => !is_null && count == 0,
        }
    }
}

fn malformed() -> StateError {
    StateError::mismatch("a row of NOT IN in the state is not of the form that this version writes")
}

fn number(mut value: &[u8]) -> Result<u64, StateError> {
    read_varint(&mut value).ok_or_else(malformed)
}

impl Operator for Task {
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let keys = columns(rows, &self.spec.keys[input]);
        self.groups.group(&keys, batch.len())?;
        self.left.open(&self.groups.keys, self.groups.first())?;
        self.right.open(&self.groups.keys, self.groups.first())?;
        let value = ArrayRef::clone(rows.column(self.spec.values[input]));
        self.values.encode(&[value], &[SortOrder::ASCENDING], batch.len())?;
        let nulls: Vec<_> = keys.iter().filter_map(Array::logical_nulls).collect();
        // A key with a null has no rows on the other side.
        let group = |row: usize| nulls.iter().all(|nulls| nulls.is_valid(row)).then(|| self.groups.of_row[row]);
        let groups: Vec<Option<u32>> = (0..batch.len()).map(group).collect();
        if input == LEFT {
            let certain = self.take_left(&batch, &groups)?;
            out.emit(certain)?;
            return Ok(Progress::Done);
        }
        self.take_right(&batch, &groups)?;
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        loop {
            let sources =
                Sources { own: None, other: Some(&self.others), other_first: true, schema: &self.spec.output };
            if let Some(piece) = self.emission.next(&sources)? {
                out.emit(piece)?;
                if out.is_full() {
                    return Ok(Progress::More);
                }
            } else if let Some(scan) = self.scans.pop_front() {
                self.go_through(scan)?;
            } else {
                return Ok(Progress::Done);
            }
        }
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.left.freeze());
        snapshot.frozen.extend(self.right.freeze());
        Ok(())
    }
}

impl Task {
    /// Takes rows of the left in; gives those that are put out.
    fn take_left(&mut self, batch: &Batch, groups: &[Option<u32>]) -> Result<Batch, OperatorError> {
        let numbers: Vec<u32> = (0..batch.len() as u32).collect();
        self.spec.codec.encode(batch.rows.columns(), &numbers, 0, &mut self.rows);
        let subs: Vec<Vec<u8>> =
            (0..batch.len()).map(|row| [self.values.key(row), self.rows.get(row)].concat()).collect();
        let known: Vec<(usize, u32)> =
            groups.iter().enumerate().filter_map(|(row, group)| Some((row, (*group)?))).collect();
        let mut times: HashMap<(u32, &[u8]), u64> = HashMap::new();
        let probes: Vec<(u32, &[u8])> = known.iter().map(|&(row, group)| (group, &subs[row][..])).collect();
        let mut failed = None;
        self.left.find(&probes, &mut |i, value| match value.map_or(Ok(0), number) {
            Ok(found) => drop(times.insert(probes[i], found)),
            Err(error) => failed = Some(error),
        })?;
        let values: Vec<(u32, &[u8])> = known.iter().map(|&(row, group)| (group, self.values.key(row))).collect();
        let mut counts = vec![0; known.len()];
        self.right.find(&values, &mut |i, value| match value.map_or(Ok(0), number) {
            Ok(found) => counts[i] = found,
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)?;
        self.changes.clear();
        let mut certain = Vec::new();
        let mut known = known.iter().zip(&counts).peekable();
        for (row, group) in groups.iter().enumerate() {
            let kind = if batch.kind(row).is_addition() { RowKind::Insert } else { RowKind::Delete };
            let Some((&(_, group), &count)) = group.and_then(|_| known.next()) else {
                certain.push((row as u32, kind));
                continue;
            };
            let Some(there) = times.get_mut(&(group, &subs[row][..])) else { continue };
            if !kind.is_addition() && *there == 0 {
                continue;
            }
            *there = if kind.is_addition() { there.saturating_add(1) } else { *there - 1 };
            let verdict = Whole::read(self.right.beside(group as usize)?)?.verdict();
            if verdict.lets(self.values.key(row) == self.spec.null, count) {
                certain.push((row as u32, kind));
            }
        }
        let mut value = Vec::new();
        for (&(group, sub), &there) in &times {
            let length = sub.len() as u64;
            value.clear();
            push_varint(&mut value, there);
            // Every row of a value has the same bytes before it.
            let of_value = probes.iter().position(|probe| *probe == (group, sub)).map(|i| values[i].1.len() as u64);
            push_varint(&mut value, of_value.unwrap_or(length));
            if there == 0 {
                self.changes.remove(group as usize, sub);
            } else {
                self.changes.put(group as usize, sub, &value);
            }
        }
        self.left.apply(&self.changes)?;
        let (rows, kinds): (Vec<u32>, Vec<RowKind>) = certain.into_iter().unzip();
        let put_out = &batch.rows.columns()[..self.spec.outputs.len()];
        let taken = take_columns(put_out, &UInt32Array::from(rows))?;
        let options = RecordBatchOptions::new().with_row_count(Some(kinds.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.spec.output), taken, &options)?;
        Ok(Batch::with_kinds(rows, kinds))
    }

    /// Takes rows of the right in, and notes what of the left they may change.
    fn take_right(&mut self, batch: &Batch, groups: &[Option<u32>]) -> Result<(), OperatorError> {
        let known: Vec<(usize, u32)> =
            groups.iter().enumerate().filter_map(|(row, group)| Some((row, (*group)?))).collect();
        let mut now: HashMap<(u32, &[u8]), u64> = HashMap::new();
        let probes: Vec<(u32, &[u8])> = known.iter().map(|&(row, group)| (group, self.values.key(row))).collect();
        let mut failed = None;
        self.right.find(&probes, &mut |i, value| match value.map_or(Ok(0), number) {
            Ok(found) => drop(now.insert(probes[i], found)),
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)?;
        self.counts = now.iter().map(|(&(group, value), &count)| ((group, value.to_vec()), count)).collect();
        let mut wholes = Vec::with_capacity(self.groups.len());
        for group in 0..self.groups.len() {
            wholes.push(Whole::read(self.right.beside(group)?)?);
        }
        self.verdicts = wholes.iter().map(|whole| [whole.verdict(); 2]).collect();
        for (&(row, group), probe) in known.iter().zip(&probes) {
            let (Some(count), whole) = (now.get_mut(probe), &mut wholes[group as usize]) else { continue };
            let null = u64::from(probe.1 == self.spec.null);
            if batch.kind(row).is_addition() {
                (*count, whole.rows, whole.nulls) = (*count + 1, whole.rows + 1, whole.nulls + null);
            } else if *count > 0 {
                (*count, whole.rows, whole.nulls) = (*count - 1, whole.rows - 1, whole.nulls - null);
            }
        }
        self.changes.clear();
        let mut bytes = Vec::new();
        for (&(group, value), &count) in &now {
            bytes.clear();
            push_varint(&mut bytes, count);
            if count == 0 {
                self.changes.remove(group as usize, value);
            } else {
                self.changes.put(group as usize, value, &bytes);
            }
        }
        for (group, whole) in wholes.iter().enumerate() {
            whole.write(&mut bytes);
            self.changes.set_beside(group, &bytes);
            self.verdicts[group][1] = whole.verdict();
        }
        for (group, [before, after]) in self.verdicts.iter().enumerate() {
            let group = group as u32;
            if before != after {
                self.scans.push_back(Scan { group, value: Vec::new(), from: None });
            } else if *after == Verdict::ByValue {
                let of_group = now.iter().filter(|((of, _), _)| *of == group);
                for (&(_, value), &count) in of_group {
                    let was = self.counts.get(&(group, value.to_vec())).copied().unwrap_or(0);
                    if (was == 0) != (count == 0) {
                        self.scans.push_back(Scan { group, value: value.to_vec(), from: None });
                    }
                }
            }
        }
        self.right.apply(&self.changes)?;
        Ok(())
    }

    /// Goes through a piece of the rows of the left that a scan is of.
    fn go_through(&mut self, mut scan: Scan) -> Result<(), OperatorError> {
        let mut found: Vec<Found> = Vec::new();
        let mut failed = None;
        let from = match &scan.from {
            Some(last) => Bound::Excluded(&last[..]),
            None => Bound::Included(&scan.value[..]),
        };
        let range = MapRange { from, limit: PIECE_ROWS, ..MapRange::all(scan.group as usize) };
        let mut last = None;
        self.left.range(&[range], &mut |_, sub, mut value| {
            if !sub.starts_with(&scan.value) {
                return ControlFlow::Break(());
            }
            let numbers = read_varint(&mut value).zip(read_varint(&mut value));
            let Some((times, length)) = numbers.filter(|(_, length)| *length as usize <= sub.len()) else {
                failed = Some(malformed());
                return ControlFlow::Break(());
            };
            let (value, row) = sub.split_at(length as usize);
            found.push(Found { value: value.to_vec(), row: row.to_vec(), times });
            last = (found.len() == PIECE_ROWS).then(|| sub.to_vec());
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)?;
        let probes: Vec<(u32, &[u8])> = found.iter().map(|found| (scan.group, &found.value[..])).collect();
        let mut counts = vec![0; found.len()];
        let mut failed = None;
        self.right.find(&probes, &mut |i, value| match value.map_or(Ok(0), number) {
            Ok(count) => counts[i] = count,
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)?;
        self.emission.clear();
        let [before, after] = self.verdicts[scan.group as usize];
        let mut rows: Vec<&[u8]> = Vec::new();
        for (found, &count) in found.iter().zip(&counts) {
            let is_null = found.value == self.spec.null;
            let was = self.counts.get(&(scan.group, found.value.clone())).copied().unwrap_or(count);
            let kind = match (before.lets(is_null, was), after.lets(is_null, count)) {
                (false, true) => RowKind::Insert,
                (true, false) => RowKind::Delete,
                _ => continue,
            };
            self.emission.push(kind, None, Some(rows.len() as u32), found.times);
            rows.push(&found.row);
        }
        self.others = self.spec.codec.decode_columns(&self.spec.outputs, &rows)?;
        if last.is_some() {
            scan.from = last;
            self.scans.push_front(scan);
        }
        Ok(())
    }
}
