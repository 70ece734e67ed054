//! `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= n`, and the same with `RANK` and `DENSE_RANK`.
//!
//! A batch changes what is kept of a partition once, and what is emitted is the difference between before and after: never a row
//! at a time, and nothing where it comes to the same.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::{
    Batch, Counters, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, PIECE_ROWS,
    Progress, RowKind,
};
use weir_state::{Changes, MapRange, MapTable, SortKeys, SortOrder, TableShape, type_name};

use crate::aggregate::ingest::{RowGroups, inserts_only};
use crate::aggregate::plan::is_key;
use crate::rows::column::take_columns;
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{RankFunction, SpecError, TopNSpec, field, schema_of};

/// The name of the maps.
const ROWS: &str = "rows";

/// Bytes of the number that tells rows of one sort key apart, in the order in which they came.
const SEQUENCE: usize = 8;

/// More than any number that tells rows apart, behind a sort key.
const BEHIND: [u8; SEQUENCE + 1] = [u8::MAX; SEQUENCE + 1];

/// Rows read at first where it is not known how many have one rank.
const LEAST_READ: usize = 16;

/// The first rows of each partition.
///
/// State: a map a partition, from sort key and order of arrival to the row without the partition's columns. Where rows are never
/// taken back it holds what is emitted and nothing more, and beside it stands the sort key that a row must reach, so that most rows
/// cost one comparison. Where they may be, it holds all rows.
#[derive(Debug, Clone)]
pub struct TopN {
    spec: TopNSpec,
    output: SchemaRef,
    orders: Vec<SortOrder>,
    /// The columns that are not the partition's.
    kept: Vec<usize>,
    codec: RowCodec,
}

impl TopN {
    /// Checks the spec. The output has the input's columns, then the number if it is asked for.
    pub fn new(spec: TopNSpec) -> Result<Self, SpecError> {
        let storable = |column: usize| {
            let field = field(&spec.input, column)?;
            if is_key(field.data_type()) {
                return Ok(());
            }
            Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() })
        };
        spec.partition.iter().copied().chain(spec.order.iter().map(|(column, _)| *column)).try_for_each(storable)?;
        if spec.from == 0 || spec.to < spec.from {
            return Err(SpecError::Unsupported(format!(
                "{} from {} to {}: numbers are counted from 1",
                spec.function.name(),
                spec.from,
                spec.to
            )));
        }
        let kept: Vec<usize> = (0..spec.input.fields().len()).filter(|c| !spec.partition.contains(c)).collect();
        let codec = RowCodec::new(kept.iter().map(|&c| spec.input.field(c)))?;
        let mut fields: Vec<Field> = spec.input.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(spec.rank.iter().map(|name| Field::new(name, DataType::Int64, false)));
        let orders = spec.order.iter().map(|(_, order)| *order).collect();
        Ok(Self { output: schema_of(fields), orders, kept, codec, spec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// `BIGINT DESC NULLS LAST`.
    fn order_types(&self) -> Vec<String> {
        let of = |(column, order): &(usize, SortOrder)| {
            let way = if order.descending { "DESC" } else { "ASC" };
            let nulls = if order.nulls_first { "FIRST" } else { "LAST" };
            format!("{} {way} NULLS {nulls}", type_name(self.spec.input.field(*column).data_type()))
        };
        self.spec.order.iter().map(of).collect()
    }
}

impl OperatorFactory for TopN {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task {
            spec: self.clone(),
            rows: ctx.state.map(&ctx.identity, ROWS)?,
            counters: Arc::clone(&ctx.counters),
            groups: RowGroups::default(),
            sort_keys: SortKeys::new(),
            encoded: EncodedRows::default(),
            changes: Changes::new(),
            emission: None,
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let of = |&column: &usize| type_name(self.spec.input.field(column).data_type());
        let key: Vec<String> = self.spec.partition.iter().map(of).collect();
        let value: Vec<String> = self.kept.iter().map(of).collect();
        let mut beside = vec!["ARRIVALS".to_owned()];
        if !self.spec.retract_input {
            // What was left out is nowhere: other rows cannot be asked for later.
            beside.push(format!("{} TO {}", self.spec.function.name(), self.spec.to));
        }
        MapTable::shapes(ROWS, &key, &self.order_types(), &value, &beside).to_vec()
    }
}

struct Task {
    spec: TopN,
    rows: MapTable,
    counters: Arc<Counters>,
    groups: RowGroups,
    sort_keys: SortKeys,
    encoded: EncodedRows,
    changes: Changes,
    /// What is still to be put out of the last batch.
    emission: Option<Emission>,
}

/// A row of a partition: what it is ordered by, and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    sub: Vec<u8>,
    row: Vec<u8>,
}

impl Entry {
    fn sort_key(&self) -> &[u8] {
        &self.sub[..self.sub.len() - SEQUENCE]
    }
}

/// Numbers rows in their order.
#[derive(Debug, Clone)]
struct Ranks {
    function: RankFunction,
    rows: u64,
    rank: u64,
    last: Option<Vec<u8>>,
}

impl Ranks {
    fn new(function: RankFunction) -> Self {
        Self { function, rows: 0, rank: 0, last: None }
    }

    /// The number of the next row, whose sort key this is.
    fn next(&mut self, sort_key: &[u8]) -> u64 {
        self.rows += 1;
        let is_equal = self.last.as_deref() == Some(sort_key);
        match self.function {
            RankFunction::RowNumber => self.rank = self.rows,
            RankFunction::Rank if !is_equal => self.rank = self.rows,
            RankFunction::DenseRank if !is_equal => self.rank += 1,
            RankFunction::Rank | RankFunction::DenseRank => {}
        }
        if !is_equal {
            self.last = Some(sort_key.to_vec());
        }
        self.rank
    }
}

impl Ranked {
    /// What of it is put out.
    fn told(&self, with_rank: bool) -> (&[u8], u64) {
        (&self.row, if with_rank { self.rank } else { 0 })
    }
}

/// What stands beside a partition's rows.
#[derive(Debug, Clone, Default)]
struct Beside {
    /// Rows that have come so far.
    arrivals: u64,
    /// Once no number is free: a row that comes behind this is left out.
    threshold: Option<Vec<u8>>,
}

impl Beside {
    fn read(bytes: &[u8]) -> Self {
        match bytes.split_first_chunk() {
            None => Self::default(),
            Some((arrivals, [])) => Self { arrivals: u64::from_le_bytes(*arrivals), threshold: None },
            Some((arrivals, [_, threshold @ ..])) => {
                Self { arrivals: u64::from_le_bytes(*arrivals), threshold: Some(threshold.to_vec()) }
            }
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = self.arrivals.to_le_bytes().to_vec();
        if let Some(threshold) = &self.threshold {
            // A sort key may be empty: the byte says that it is there.
            bytes.push(1);
            bytes.extend_from_slice(threshold);
        }
        bytes
    }
}

/// A partition that a batch touches: what is emitted of it before and after.
#[derive(Debug, Default)]
struct Partition {
    group: u32,
    beside: Beside,
    before: Vec<Ranked>,
    after: Vec<Ranked>,
}

/// Rows of one partition and sort key.
type Equals = BTreeMap<(usize, Vec<u8>), VecDeque<Entry>>;

/// A row with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranked {
    rank: u64,
    row: Vec<u8>,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if !self.spec.spec.retract_input {
            inserts_only(&batch)?;
        }
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let partition: Vec<ArrayRef> = columns_of(rows, &self.spec.spec.partition);
        self.groups.group(&partition, rows.num_rows())?;
        let order: Vec<usize> = self.spec.spec.order.iter().map(|(column, _)| *column).collect();
        self.sort_keys.encode(&columns_of(rows, &order), &self.spec.orders, rows.num_rows())?;
        self.rows.open(&self.groups.keys, self.groups.first())?;
        let mut partitions: Vec<Partition> = Vec::with_capacity(self.groups.len());
        for group in 0..self.groups.len() {
            let beside = Beside::read(self.rows.beside(group)?);
            partitions.push(Partition { group: group as u32, beside, ..Partition::default() });
        }
        if self.spec.spec.retract_input {
            self.change(&batch, &mut partitions)?;
        } else {
            self.add(rows, &mut partitions)?;
        }
        let firsts = self.groups.first().to_vec();
        self.emission = Some(Emission::new(&self.spec.spec, partition, firsts, partitions));
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some(mut emission) = self.emission.take() {
            if emission.done == emission.kinds.len() {
                break;
            }
            let end = emission.kinds.len().min(emission.done + PIECE_ROWS);
            out.emit(self.piece(&emission, emission.done..end)?)?;
            emission.done = end;
            let is_over = end == emission.kinds.len();
            self.emission = Some(emission).filter(|_| !is_over);
            if !is_over && out.is_full() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.rows.freeze());
        Ok(())
    }
}

impl Task {
    fn encode(&mut self, rows: &RecordBatch, which: &[u32]) {
        let kept = columns_of(rows, &self.spec.kept);
        self.spec.codec.encode(&kept, which, 0, &mut self.encoded);
    }

    /// A row without a place among the first has nothing to do here, and most have none.
    fn has_a_chance(&self, row: usize, partition: &Partition) -> bool {
        let Some(threshold) = &partition.beside.threshold else { return true };
        let key = self.sort_keys.key(row);
        match self.spec.spec.function {
            // Of equal rows the one that came first stands before.
            RankFunction::RowNumber => key < threshold.as_slice(),
            RankFunction::Rank | RankFunction::DenseRank => key <= threshold.as_slice(),
        }
    }

    /// Rows that are only added: what is kept is read, the new ones are put among them, and what has no place is dropped.
    fn add(&mut self, rows: &RecordBatch, partitions: &mut Vec<Partition>) -> Result<(), OperatorError> {
        let chosen: Vec<u32> = (0..rows.num_rows() as u32)
            .filter(|&row| {
                let group = self.groups.of_row[row as usize];
                self.has_a_chance(row as usize, &partitions[group as usize])
            })
            .collect();
        self.encode(rows, &chosen);
        let mut new: Vec<Vec<Entry>> = vec![Vec::new(); partitions.len()];
        for (i, &row) in chosen.iter().enumerate() {
            let group = self.groups.of_row[row as usize] as usize;
            let beside = &mut partitions[group].beside;
            new[group].push(Entry {
                sub: sub_key(self.sort_keys.key(row as usize), beside.arrivals),
                row: self.encoded.get(i).to_vec(),
            });
            beside.arrivals += 1;
        }
        partitions.retain(|partition| !new[partition.group as usize].is_empty());
        let ranges: Vec<MapRange<'_>> =
            partitions.iter().map(|partition| MapRange::all(partition.group as usize)).collect();
        let mut before: Vec<Vec<Entry>> = vec![Vec::new(); ranges.len()];
        self.rows.range(&ranges, &mut |i, sub, row| {
            before[i].push(Entry { sub: sub.to_vec(), row: row.to_vec() });
            ControlFlow::Continue(())
        })?;
        self.changes.clear();
        for (partition, before) in partitions.iter_mut().zip(before) {
            self.place(partition, before, std::mem::take(&mut new[partition.group as usize]));
        }
        Ok(self.rows.apply(&self.changes)?)
    }

    /// Puts new rows among those of a partition.
    fn place(&mut self, partition: &mut Partition, before: Vec<Entry>, new: Vec<Entry>) {
        let (map, to) = (partition.group as usize, self.spec.spec.to);
        partition.before = self.ranked(&before);
        let old_end = before.len();
        let mut all: Vec<(usize, Entry)> = before.into_iter().chain(new).enumerate().collect();
        all.sort_by(|(_, a), (_, b)| a.sub.cmp(&b.sub));
        let mut ranks = Ranks::new(self.spec.spec.function);
        let mut last = 0;
        let mut after: Vec<Entry> = Vec::with_capacity(all.len());
        for (was, entry) in all {
            let rank = ranks.next(entry.sort_key());
            if rank <= to {
                if was >= old_end {
                    self.changes.put(map, &entry.sub, &entry.row);
                }
                last = rank;
                after.push(entry);
            } else if was < old_end {
                self.changes.remove(map, &entry.sub);
            }
        }
        let is_full = match self.spec.spec.function {
            RankFunction::DenseRank => last == to,
            RankFunction::RowNumber | RankFunction::Rank => after.len() as u64 >= to,
        };
        let threshold = after.last().filter(|_| is_full);
        partition.beside.threshold = threshold.map(|entry| entry.sort_key().to_vec());
        partition.after = self.ranked(&after);
        self.changes.set_beside(map, &partition.beside.write());
    }

    /// The rows with their numbers, from the least number that is kept on.
    fn ranked(&self, entries: &[Entry]) -> Vec<Ranked> {
        let mut ranks = Ranks::new(self.spec.spec.function);
        let ranked = entries.iter().map(|entry| Ranked { rank: ranks.next(entry.sort_key()), row: entry.row.clone() });
        ranked.filter(|row| row.rank >= self.spec.spec.from).collect()
    }

    /// Rows that are added and taken back: all are kept, and the first ones are read before and after.
    fn change(&mut self, batch: &Batch, partitions: &mut [Partition]) -> Result<(), OperatorError> {
        let rows = &batch.rows;
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        self.encode(rows, &all);
        for (partition, top) in partitions.iter_mut().zip(self.read_top()?) {
            partition.before = self.ranked(&top);
        }
        let mut equals = self.equals(batch)?;
        self.changes.clear();
        let mut unmatched = 0;
        for row in 0..batch.len() {
            let group = self.groups.of_row[row] as usize;
            let sort_key = self.sort_keys.key(row);
            let own = self.encoded.get(row);
            let known = equals.get_mut(&(group, sort_key.to_vec()));
            if batch.kind(row).is_addition() {
                let beside = &mut partitions[group].beside;
                let sub = sub_key(sort_key, beside.arrivals);
                beside.arrivals += 1;
                self.changes.put(group, &sub, own);
                if let Some(known) = known {
                    known.push_back(Entry { sub, row: own.to_vec() });
                }
                continue;
            }
            let found = known.and_then(|known| {
                let at = known.iter().position(|entry| entry.row == own)?;
                known.remove(at)
            });
            match found {
                Some(entry) => self.changes.remove(group, &entry.sub),
                None => unmatched += 1,
            }
        }
        self.counters.unmatched_retractions.add(unmatched);
        for partition in &*partitions {
            self.changes.set_beside(partition.group as usize, &partition.beside.write());
        }
        self.rows.apply(&self.changes)?;
        let mut empty = Changes::new();
        for partition in &*partitions {
            if self.rows.is_empty(partition.group as usize)? {
                // A partition without rows begins anew, and takes no room.
                empty.set_beside(partition.group as usize, &[]);
            }
        }
        self.rows.apply(&empty)?;
        for (partition, top) in partitions.iter_mut().zip(self.read_top()?) {
            partition.after = self.ranked(&top);
        }
        Ok(())
    }

    /// The rows with the sort keys of those that this batch takes back, by partition and sort key, in the order in which they
    /// came.
    fn equals(&mut self, batch: &Batch) -> Result<Equals, OperatorError> {
        let mut equals = Equals::new();
        for row in (0..batch.len()).filter(|&row| !batch.kind(row).is_addition()) {
            let group = self.groups.of_row[row] as usize;
            equals.entry((group, self.sort_keys.key(row).to_vec())).or_default();
        }
        let ends: Vec<Vec<u8>> = equals.keys().map(|(_, sort_key)| [sort_key.as_slice(), &BEHIND].concat()).collect();
        let wanted: Vec<(usize, Vec<u8>)> = equals.keys().cloned().collect();
        let ranges: Vec<MapRange<'_>> = wanted
            .iter()
            .zip(&ends)
            .map(|((map, sort_key), end)| MapRange {
                from: Bound::Included(sort_key),
                to: Bound::Excluded(end),
                ..MapRange::all(*map)
            })
            .collect();
        self.rows.range(&ranges, &mut |i, sub, row| {
            if let Some(found) = equals.get_mut(&wanted[i]) {
                found.push_back(Entry { sub: sub.to_vec(), row: row.to_vec() });
            }
            ControlFlow::Continue(())
        })?;
        Ok(equals)
    }

    /// The first rows of all open maps, up to the last number that is kept.
    fn read_top(&mut self) -> Result<Vec<Vec<Entry>>, OperatorError> {
        let (function, to) = (self.spec.spec.function, self.spec.spec.to);
        let maps = self.rows.maps();
        let mut tops: Vec<Vec<Entry>> = vec![Vec::new(); maps];
        let mut left: Vec<usize> = (0..maps).collect();
        let mut limit = usize::try_from(to).unwrap_or(usize::MAX);
        if function != RankFunction::RowNumber {
            // As many as have the last number are read, and one that has the next.
            limit = limit.max(LEAST_READ);
        }
        while !left.is_empty() {
            let mut ranks = vec![Ranks::new(function); left.len()];
            let mut whole = vec![0; left.len()];
            let ranges: Vec<MapRange<'_>> = left.iter().map(|&map| MapRange::first(map, limit)).collect();
            for &map in &left {
                tops[map].clear();
            }
            self.rows.range(&ranges, &mut |i, sub, row| {
                let entry = Entry { sub: sub.to_vec(), row: row.to_vec() };
                if ranks[i].next(entry.sort_key()) > to {
                    whole[i] = 0;
                    return ControlFlow::Break(());
                }
                whole[i] += 1;
                tops[left[i]].push(entry);
                ControlFlow::Continue(())
            })?;
            let more = |(i, _): &(usize, &usize)| function != RankFunction::RowNumber && whole[*i] == limit;
            left = left.iter().enumerate().filter(more).map(|(_, map)| *map).collect();
            limit = limit.saturating_mul(4);
        }
        Ok(tops)
    }

    fn piece(&self, emission: &Emission, piece: Range<usize>) -> Result<Batch, OperatorError> {
        let places = &emission.places[piece.clone()];
        let first = |place: &Place| emission.firsts[emission.partitions[place.partition].group as usize];
        let rows = UInt32Array::from(places.iter().map(first).collect::<Vec<u32>>());
        let keys = take_columns(&emission.keys, &rows)?;
        let rows: Vec<&Ranked> = places.iter().map(|place| emission.row(place)).collect();
        let kept = self.spec.codec.decode(&rows.iter().map(|row| row.row.as_slice()).collect::<Vec<_>>())?;
        let mut columns: Vec<ArrayRef> = (0..self.spec.spec.input.fields().len())
            .map(|c| {
                let key = self.spec.spec.partition.iter().position(|p| *p == c).map(|i| &keys[i]);
                let column = key.or_else(|| self.spec.kept.iter().position(|k| *k == c).map(|i| &kept[i]));
                column.cloned().ok_or_else(|| OperatorError::operator("a column is missing"))
            })
            .collect::<Result<_, _>>()?;
        if self.spec.spec.rank.is_some() {
            let ranks = rows.iter().map(|row| row.rank as i64);
            columns.push(Arc::new(Int64Array::from_iter_values(ranks)));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
        Ok(Batch::with_kinds(rows, emission.kinds[piece].to_vec()))
    }
}

fn columns_of(rows: &RecordBatch, columns: &[usize]) -> Vec<ArrayRef> {
    columns.iter().map(|&c| Arc::clone(rows.column(c))).collect()
}

/// A sort key with what tells equal ones apart.
fn sub_key(sort_key: &[u8], arrival: u64) -> Vec<u8> {
    [sort_key, &arrival.to_be_bytes()].concat()
}

/// Where a row to be put out stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: usize,
    is_after: bool,
    at: usize,
}

/// What a batch has changed.
struct Emission {
    /// The partition's columns of the batch, and for each of its groups the row that has them.
    keys: Vec<ArrayRef>,
    firsts: Vec<u32>,
    partitions: Vec<Partition>,
    places: Vec<Place>,
    kinds: Vec<RowKind>,
    /// So many are out.
    done: usize,
}

impl Emission {
    fn new(spec: &TopNSpec, keys: Vec<ArrayRef>, firsts: Vec<u32>, partitions: Vec<Partition>) -> Self {
        let (mut places, mut kinds) = (Vec::new(), Vec::new());
        for (partition, of) in partitions.iter().enumerate() {
            let mut push = |is_after: bool, at: usize, kind: RowKind| {
                places.push(Place { partition, is_after, at });
                kinds.push(kind);
            };
            if spec.replaces() {
                by_number(of, spec.update_before, &mut push);
            } else {
                as_bags(of, spec.rank.is_some(), &mut push);
            }
        }
        Self { keys, firsts, partitions, places, kinds, done: 0 }
    }

    fn row(&self, place: &Place) -> &Ranked {
        let of = &self.partitions[place.partition];
        if place.is_after { &of.after[place.at] } else { &of.before[place.at] }
    }
}

/// Each number has one row: the one before, and the one after.
fn by_number(of: &Partition, update_before: bool, push: &mut dyn FnMut(bool, usize, RowKind)) {
    for i in 0..of.before.len().max(of.after.len()) {
        match (of.before.get(i), of.after.get(i)) {
            (Some(old), Some(new)) if old.row == new.row => {}
            (Some(_), Some(_)) => {
                if update_before {
                    push(false, i, RowKind::UpdateBefore);
                }
                push(true, i, RowKind::UpdateAfter);
            }
            (Some(_), None) => push(false, i, RowKind::Delete),
            (None, Some(_)) => push(true, i, RowKind::Insert),
            (None, None) => {}
        }
    }
}

/// The rows that are there no more, then those that are there only now; a row may be there more than once.
fn as_bags(of: &Partition, with_rank: bool, push: &mut dyn FnMut(bool, usize, RowKind)) {
    let mut counts: BTreeMap<(&[u8], u64), i64> = BTreeMap::new();
    for row in &of.before {
        *counts.entry(row.told(with_rank)).or_default() -= 1;
    }
    for row in &of.after {
        *counts.entry(row.told(with_rank)).or_default() += 1;
    }
    for (rows, is_after, sign, kind) in
        [(&of.before, false, -1, RowKind::Delete), (&of.after, true, 1, RowKind::Insert)]
    {
        for (at, row) in rows.iter().enumerate() {
            if let Some(count) = counts.get_mut(&row.told(with_rank)).filter(|count| **count * sign > 0) {
                *count -= sign;
                push(is_after, at, kind);
            }
        }
    }
}
