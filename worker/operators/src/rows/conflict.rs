//! What a table that is written by primary key is to hold where two rows may not have one primary key: `ON CONFLICT DO NOTHING` and
//! `DO ERROR`.
//!
//! While rows change, one may have come under its new key before the other has left it: only when event time has gone on is it known
//! which rows stand side by side. So changes wait for the next watermark, and what they come to is looked at then.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::array_value_to_string;
use weir_engine::{
    Batch, Counters, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, Progress,
    RowKind, Timestamp,
};
use weir_state::{Changes, Keys, MapRange, MapTable, TableShape, Timers, decode_keys, type_name};

use crate::aggregate::ingest::RowGroups;
use crate::aggregate::plan::is_key;
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{ConflictSpec, OnConflict, SpecError, field};

/// The name of the maps.
const ROWS: &str = "rows";
/// The name of the timers.
const PENDING: &str = "pending";

/// The two kinds of sub-keys: the row that stands in the table; and changes by their arrival, each with its sign before the row.
const CURRENT: &[u8] = &[0];
const CHANGE: u8 = 1;
const ADDED: u8 = 1;
const TAKEN_BACK: u8 = 0;

/// Keys whose changes have waited for one watermark are looked at so many at a time.
const PIECE: usize = 4096;

/// Buckets of timers. All that waits is due at the next watermark: few buckets are ever there.
const BUCKET_MS: i64 = 60_000;

/// Before it nobody measures time: the year 1. Where no watermark has come yet, changes wait for one behind this.
const FIRST: Timestamp = -62_135_596_800_000;

/// Keeps one row of each primary key. At each watermark the changes that have come before it are added up with the row that stands
/// there: where one is left it is put out if it is another, where none is left the key is deleted. Where several are left the job
/// fails, or the first of them stays and the others are dropped for good.
///
/// State: a map a key, with the row that stands in the table and the changes since the last watermark.
#[derive(Debug, Clone)]
pub struct Conflict {
    schema: SchemaRef,
    key: Vec<usize>,
    key_types: Vec<DataType>,
    kept: Vec<usize>,
    /// What becomes of all rows but the first.
    others: OnConflict,
    codec: RowCodec,
}

impl Conflict {
    /// Checks the spec. The output is the input.
    pub fn new(spec: ConflictSpec) -> Result<Self, SpecError> {
        let ConflictSpec { input: schema, key, on_conflict } = spec;
        let mut key_types = Vec::with_capacity(key.len());
        for &column in &key {
            let field = field(&schema, column)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
            key_types.push(field.data_type().clone());
        }
        let kept: Vec<usize> = (0..schema.fields().len()).filter(|column| !key.contains(column)).collect();
        let codec = RowCodec::new(kept.iter().map(|&column| schema.field(column)))?;
        Ok(Self { schema, key, key_types, kept, others: on_conflict, codec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.schema
    }

    fn types_of(&self, columns: &[usize]) -> Vec<String> {
        columns.iter().map(|&column| type_name(self.schema.field(column).data_type())).collect()
    }
}

impl OperatorFactory for Conflict {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task {
            spec: self.clone(),
            rows: ctx.state.map(&ctx.identity, ROWS)?,
            pending: ctx.state.timers(&ctx.identity, PENDING, BUCKET_MS)?,
            watermark: ctx.restored_watermarks.lowest(),
            counters: Arc::clone(&ctx.counters),
            groups: RowGroups::default(),
            encoded: EncodedRows::default(),
            changes: Changes::new(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let key = self.types_of(&self.key);
        let sub = ["CURRENT".to_owned(), "ARRIVAL".to_owned()];
        let rows = MapTable::shapes(ROWS, &key, &sub, &self.types_of(&self.kept), &["ARRIVALS".to_owned()]);
        rows.into_iter().chain([Timers::shape(PENDING, &key, BUCKET_MS)]).collect()
    }
}

struct Task {
    spec: Conflict,
    rows: MapTable,
    /// The keys with changes that wait.
    pending: Timers,
    watermark: Timestamp,
    counters: Arc<Counters>,
    groups: RowGroups,
    encoded: EncodedRows,
    changes: Changes,
}

/// What is known of a key when a watermark comes.
#[derive(Debug, Default)]
struct Waited {
    /// The row that stands in the table.
    current: Option<Vec<u8>>,
    /// Changes in the order in which they came: whether the row is added, and the row.
    changes: Vec<(bool, Vec<u8>)>,
    /// Under which they are kept.
    subs: Vec<Vec<u8>>,
}

impl Waited {
    /// The rows that are there, in the order in which they came, and how many were taken back that were not.
    fn left(&self) -> (Vec<&[u8]>, u64) {
        let mut left: Vec<&[u8]> = self.current.iter().map(Vec::as_slice).collect();
        // What takes a row back may come before the row, where both come from different subtasks.
        let mut early: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (added, row) in &self.changes {
            let row = row.as_slice();
            if *added {
                match early.get_mut(row).filter(|count| **count > 0) {
                    Some(count) => *count -= 1,
                    None => left.push(row),
                }
            } else if let Some(at) = left.iter().position(|of| *of == row) {
                left.remove(at);
            } else {
                *early.entry(row).or_default() += 1;
            }
        }
        (left, early.values().sum())
    }
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, _out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let columns = |which: &[usize]| which.iter().map(|&c| Arc::clone(rows.column(c))).collect::<Vec<ArrayRef>>();
        self.groups.group(&columns(&self.spec.key), rows.num_rows())?;
        self.rows.open(&self.groups.keys, self.groups.first())?;
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        self.spec.codec.encode(&columns(&self.spec.kept), &all, 0, &mut self.encoded);
        let mut next = Vec::with_capacity(self.rows.maps());
        for map in 0..self.rows.maps() {
            next.push(self.rows.beside(map)?.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)));
        }
        self.changes.clear();
        for row in 0..batch.len() {
            let map = self.groups.of_row[row] as usize;
            let sign = if batch.kind(row).is_addition() { ADDED } else { TAKEN_BACK };
            let change = [&[sign], self.encoded.get(row)].concat();
            self.changes.put(map, &by_arrival(next[map]), &change);
            next[map] += 1;
        }
        for (map, next) in next.iter().enumerate() {
            self.changes.set_beside(map, &next.to_le_bytes());
        }
        self.rows.apply(&self.changes)?;
        let due = self.watermark.max(FIRST).saturating_add(1);
        let firsts = self.groups.first();
        self.pending.register(&self.groups.keys, firsts, &vec![due; firsts.len()])?;
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.watermark = watermark;
        let mut keys = Keys::new();
        keys.clear();
        let more = self.pending.due(watermark, PIECE, &mut keys)?;
        if !keys.is_empty() {
            self.settle(&keys, out)?;
        }
        Ok(if more { Progress::More } else { Progress::Done })
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.rows.freeze());
        snapshot.frozen.extend(self.pending.freeze());
        Ok(())
    }
}

impl Task {
    /// Adds up what has waited of these keys, and puts out what has become another.
    fn settle(&mut self, keys: &Keys, out: &mut dyn Output) -> Result<(), OperatorError> {
        let all: Vec<u32> = (0..keys.len() as u32).collect();
        self.rows.open(keys, &all)?;
        let waited = self.waited()?;
        self.changes.clear();
        let mut told: Vec<(usize, &[u8], RowKind)> = Vec::new();
        let mut unmatched = 0;
        for (map, of) in waited.iter().enumerate().filter(|(_, of)| !of.changes.is_empty()) {
            let (left, early) = of.left();
            if left.len() > 1 && self.spec.others == OnConflict::Error {
                return Err(self.conflict(keys, map)?);
            }
            if self.spec.others == OnConflict::Error {
                unmatched += early;
            }
            of.subs.iter().for_each(|sub| self.changes.remove(map, sub));
            self.changes.set_beside(map, &[]);
            match (of.current.as_deref(), left.first().copied()) {
                (None, Some(row)) => {
                    self.changes.put(map, CURRENT, row);
                    told.push((map, row, RowKind::Insert));
                }
                (Some(old), Some(row)) if old != row => {
                    self.changes.put(map, CURRENT, row);
                    told.push((map, row, RowKind::UpdateAfter));
                }
                (Some(old), None) => {
                    self.changes.remove(map, CURRENT);
                    told.push((map, old, RowKind::Delete));
                }
                _ => {}
            }
        }
        self.rows.apply(&self.changes)?;
        self.counters.unmatched_retractions.add(unmatched);
        if !told.is_empty() {
            out.emit(self.output(keys, &told)?)?;
        }
        Ok(())
    }

    /// What is known of the open maps.
    fn waited(&mut self) -> Result<Vec<Waited>, OperatorError> {
        let maps = self.rows.maps();
        let mut waited: Vec<Waited> = std::iter::repeat_with(Waited::default).take(maps).collect();
        let ranges: Vec<MapRange<'_>> = (0..maps).map(MapRange::all).collect();
        self.rows.range(&ranges, &mut |map, sub, row| {
            let of = &mut waited[map];
            if sub == CURRENT {
                of.current = Some(row.to_vec());
            } else if let Some((sign, row)) = row.split_first() {
                of.changes.push((*sign == ADDED, row.to_vec()));
                of.subs.push(sub.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        Ok(waited)
    }

    fn key_columns(&self, keys: &Keys, which: impl Iterator<Item = usize>) -> Result<Vec<ArrayRef>, OperatorError> {
        let which: Vec<usize> = which.collect();
        Ok(decode_keys(&self.spec.key_types, which.iter().map(|&map| keys.key(map)))?)
    }

    fn conflict(&self, keys: &Keys, map: usize) -> Result<OperatorError, OperatorError> {
        let columns = self.key_columns(keys, std::iter::once(map))?;
        let mut cells = Vec::with_capacity(columns.len());
        for (&column, values) in self.spec.key.iter().zip(&columns) {
            cells.push(format!("{} = {}", self.spec.schema.field(column).name(), array_value_to_string(values, 0)?));
        }
        Ok(OperatorError::bad_input(format!(
            "several rows have the primary key {}, and the statement says ON CONFLICT DO ERROR: group by the primary key, or write \
             ON CONFLICT DO NOTHING, which keeps the first of them",
            cells.join(", ")
        )))
    }

    fn output(&self, keys: &Keys, told: &[(usize, &[u8], RowKind)]) -> Result<Batch, OperatorError> {
        let keys = self.key_columns(keys, told.iter().map(|(map, ..)| *map))?;
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
    [&[CHANGE][..], &arrival.to_be_bytes()].concat()
}
