//! What a table that is written by primary key is to hold where rows of several upsert keys have one primary key:
//! `ON CONFLICT DO DEDUPLICATE`.
//!
//! Each row that is there is kept, in the order in which they came. The last stands in the table; when it goes the one before it
//! takes its place, and only when all are gone the key is deleted.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use weir_engine::{
    Batch, Counters, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, Progress,
    RowKind,
};
use weir_state::{Changes, MapRange, MapTable, TableShape, type_name};
use xxhash_rust::xxh3::xxh3_128;

use crate::aggregate::ingest::RowGroups;
use crate::aggregate::plan::is_key;
use crate::rows::column::take_columns;
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{SpecError, UpsertMaterializeSpec, field};

/// The name of the maps.
const ROWS: &str = "rows";

/// The two kinds of sub-keys: by arrival, with the row under it; and by the row's hash and arrival.
const BY_ARRIVAL: u8 = 0;
const BY_ROW: u8 = 1;

/// Keeps the rows of each primary key, and puts out the last of them: an insert, an update without the row before it, or a delete.
///
/// State: a map a key, with two entries for each row that is there. Of equal rows the one that came first is taken back.
#[derive(Debug, Clone)]
pub struct UpsertMaterialize {
    schema: SchemaRef,
    key: Vec<usize>,
    /// The columns that are not the key's.
    kept: Vec<usize>,
    codec: RowCodec,
}

impl UpsertMaterialize {
    /// Checks the spec. The output is the input.
    pub fn new(spec: UpsertMaterializeSpec) -> Result<Self, SpecError> {
        let UpsertMaterializeSpec { input: schema, key } = spec;
        for &column in &key {
            let field = field(&schema, column)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
        }
        let kept: Vec<usize> = (0..schema.fields().len()).filter(|column| !key.contains(column)).collect();
        let codec = RowCodec::new(kept.iter().map(|&column| schema.field(column)))?;
        Ok(Self { schema, key, kept, codec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.schema
    }
}

impl OperatorFactory for UpsertMaterialize {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task {
            spec: self.clone(),
            rows: ctx.state.map(&ctx.identity, ROWS)?,
            counters: Arc::clone(&ctx.counters),
            groups: RowGroups::default(),
            encoded: EncodedRows::default(),
            changes: Changes::new(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let of = |&column: &usize| type_name(self.schema.field(column).data_type());
        let key: Vec<String> = self.key.iter().map(of).collect();
        let row: Vec<String> = self.kept.iter().map(of).collect();
        let sub = ["ARRIVAL".to_owned(), "ROW AND ARRIVAL".to_owned()];
        MapTable::shapes(ROWS, &key, &sub, &row, &["ARRIVALS".to_owned()]).to_vec()
    }
}

struct Task {
    spec: UpsertMaterialize,
    rows: MapTable,
    counters: Arc<Counters>,
    groups: RowGroups,
    encoded: EncodedRows,
    changes: Changes,
}

/// Arrivals of equal rows of one key, the first first.
type Equals = BTreeMap<(usize, u128), VecDeque<u64>>;

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let columns = |which: &[usize]| which.iter().map(|&c| Arc::clone(rows.column(c))).collect::<Vec<ArrayRef>>();
        let keys = columns(&self.spec.key);
        self.groups.group(&keys, rows.num_rows())?;
        self.rows.open(&self.groups.keys, self.groups.first())?;
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        self.spec.codec.encode(&columns(&self.spec.kept), &all, 0, &mut self.encoded);
        let before = self.last()?;
        self.change(&batch)?;
        let after = self.last()?;
        let mut told: Vec<(usize, &[u8], RowKind)> = Vec::new();
        for (group, (before, after)) in before.iter().zip(&after).enumerate() {
            match (before, after) {
                (None, Some(row)) => told.push((group, row, RowKind::Insert)),
                (Some(old), Some(row)) if old != row => told.push((group, row, RowKind::UpdateAfter)),
                (Some(row), None) => told.push((group, row, RowKind::Delete)),
                _ => {}
            }
        }
        if !told.is_empty() {
            out.emit(self.output(&keys, &told)?)?;
        }
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.rows.freeze());
        Ok(())
    }
}

impl Task {
    /// The last row of each open map.
    fn last(&mut self) -> Result<Vec<Option<Vec<u8>>>, OperatorError> {
        let maps = self.rows.maps();
        let ranges: Vec<MapRange<'_>> = (0..maps)
            .map(|map| MapRange { to: Bound::Excluded(&[BY_ROW]), backwards: true, limit: 1, ..MapRange::all(map) })
            .collect();
        let mut last = vec![None; maps];
        self.rows.range(&ranges, &mut |map, _, row| {
            last[map] = Some(row.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(last)
    }

    /// Adds and removes rows in their order.
    fn change(&mut self, batch: &Batch) -> Result<(), OperatorError> {
        let hashes: Vec<u128> = (0..batch.len()).map(|row| xxh3_128(self.encoded.get(row))).collect();
        let mut equals = self.equals(batch, &hashes)?;
        let mut next = Vec::with_capacity(self.rows.maps());
        for map in 0..self.rows.maps() {
            next.push(self.rows.beside(map)?.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)));
        }
        self.changes.clear();
        let mut unmatched = 0;
        for (row, &hash) in hashes.iter().enumerate() {
            let map = self.groups.of_row[row] as usize;
            let known = equals.get_mut(&(map, hash));
            if batch.kind(row).is_addition() {
                let arrival = next[map];
                next[map] += 1;
                self.changes.put(map, &by_arrival(arrival), self.encoded.get(row));
                self.changes.put(map, &by_row(hash, arrival), &[]);
                if let Some(known) = known {
                    known.push_back(arrival);
                }
            } else if let Some(arrival) = known.and_then(VecDeque::pop_front) {
                self.changes.remove(map, &by_arrival(arrival));
                self.changes.remove(map, &by_row(hash, arrival));
            } else {
                unmatched += 1;
            }
        }
        self.counters.unmatched_retractions.add(unmatched);
        for (map, next) in next.iter().enumerate() {
            self.changes.set_beside(map, &next.to_le_bytes());
        }
        self.rows.apply(&self.changes)?;
        self.changes.clear();
        for map in 0..self.rows.maps() {
            if self.rows.is_empty(map)? {
                // A key without rows begins anew, and takes no room.
                self.changes.set_beside(map, &[]);
            }
        }
        Ok(self.rows.apply(&self.changes)?)
    }

    /// The arrivals of the rows that this batch takes back.
    fn equals(&mut self, batch: &Batch, hashes: &[u128]) -> Result<Equals, OperatorError> {
        let mut equals = Equals::new();
        for (row, &hash) in hashes.iter().enumerate().filter(|(row, _)| !batch.kind(*row).is_addition()) {
            equals.entry((self.groups.of_row[row] as usize, hash)).or_default();
        }
        let wanted: Vec<(usize, u128)> = equals.keys().copied().collect();
        let starts: Vec<Vec<u8>> = wanted.iter().map(|(_, hash)| by_row(*hash, 0)).collect();
        let ends: Vec<Vec<u8>> = wanted.iter().map(|(_, hash)| by_row(*hash, u64::MAX)).collect();
        let ranges: Vec<MapRange<'_>> = wanted
            .iter()
            .zip(starts.iter().zip(&ends))
            .map(|((map, _), (start, end))| MapRange {
                from: Bound::Included(start),
                to: Bound::Included(end),
                ..MapRange::all(*map)
            })
            .collect();
        self.rows.range(&ranges, &mut |i, sub, _| {
            if let (Some(found), Some(arrival)) = (equals.get_mut(&wanted[i]), sub.last_chunk()) {
                found.push_back(u64::from_be_bytes(*arrival));
            }
            ControlFlow::Continue(())
        })?;
        Ok(equals)
    }

    fn output(&self, keys: &[ArrayRef], told: &[(usize, &[u8], RowKind)]) -> Result<Batch, OperatorError> {
        let firsts = self.groups.first();
        let rows: UInt32Array = told.iter().map(|(group, ..)| firsts[*group]).collect::<Vec<u32>>().into();
        let keys = take_columns(keys, &rows)?;
        let kept = self.spec.codec.decode(&told.iter().map(|(_, row, _)| *row).collect::<Vec<_>>())?;
        let column = |c: usize| {
            let key = self.spec.key.iter().position(|k| *k == c).map(|i| &keys[i]);
            key.or_else(|| self.spec.kept.iter().position(|k| *k == c).map(|i| &kept[i])).cloned()
        };
        let columns = (0..self.spec.schema.fields().len())
            .map(|c| column(c).ok_or_else(|| OperatorError::operator("a column is missing")))
            .collect::<Result<Vec<ArrayRef>, _>>()?;
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        Ok(Batch::with_kinds(rows, told.iter().map(|(.., kind)| *kind).collect()))
    }
}

fn by_arrival(arrival: u64) -> Vec<u8> {
    [&[BY_ARRIVAL][..], &arrival.to_be_bytes()].concat()
}

fn by_row(hash: u128, arrival: u64) -> Vec<u8> {
    [&[BY_ROW][..], &hash.to_be_bytes(), &arrival.to_be_bytes()].concat()
}
