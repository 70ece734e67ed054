//! How a batch enters an aggregation: rows or partial results, the accumulators that see all rows, and the DISTINCT maps
//! that let only new values through.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use weir_engine::{Batch, OperatorError, RowKind};
use weir_state::{Keys, RowLayout, SliceTable, Slot, StateError, Table};

use crate::aggregate::plan::{Feed, PartialColumns, Plan, Reduce};
use crate::aggregate::values::{Groups, Values};
use crate::rows::column::{Columns, take_columns};
use crate::rows::index::GroupIndex;
use crate::spec::AggregateInput;

/// Refuses what is not an insert.
pub fn inserts_only(batch: &Batch) -> Result<(), OperatorError> {
    match batch.kinds.as_ref().and_then(|kinds| kinds.iter().find(|k| **k != RowKind::Insert)) {
        None => Ok(()),
        Some(kind) => Err(OperatorError::operator(format!(
            "got a row of kind {}, but takes inserts only: its input must not update or delete",
            kind.short()
        ))),
    }
}

/// Where an aggregation finds its columns in what comes in.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub plan: Arc<Plan>,
    pub partials: Option<PartialColumns>,
    pub group: Vec<usize>,
    pub group_types: Vec<DataType>,
}

impl Ingest {
    pub fn new(plan: Plan, input: AggregateInput, slices: bool) -> Self {
        let group_types = plan.group.iter().map(|&c| plan.input.field(c).data_type().clone()).collect();
        let (partials, group) = match input {
            AggregateInput::Rows => (None, plan.group.clone()),
            AggregateInput::Partials => (Some(plan.partials(slices)), (0..plan.group.len()).collect()),
        };
        Self { plan: Arc::new(plan), partials, group, group_types }
    }

    pub fn group_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.group.iter().map(|&c| Arc::clone(rows.column(c))).collect()
    }

    /// Updates the accumulators that see all rows.
    pub fn update(
        &self,
        values: &mut Values,
        groups: Groups<'_>,
        columns: &mut Columns<'_>,
    ) -> Result<(), OperatorError> {
        for (i, a) in self.plan.accumulators.iter().enumerate() {
            let Feed::Rows { filter } = a.feed else { continue };
            match (&self.partials, a.column) {
                (Some(partials), _) => {
                    let Some(column) = partials.accumulators[i] else { continue };
                    let selected = columns.select(None, Some(column));
                    let (input, selected) = columns.both(column, a.kind, selected)?;
                    values.reduce(i, a, groups, input, selected)?;
                }
                (None, Some(column)) if a.reduce != Reduce::Count => {
                    let selected = columns.select(filter, Some(column));
                    let (input, selected) = columns.both(column, a.kind, selected)?;
                    values.reduce(i, a, groups, input, selected)?;
                }
                (None, column) => {
                    let selected = columns.select(filter, column);
                    values.count(i, groups, columns.selected(selected));
                }
            }
        }
        Ok(())
    }

    /// The column that holds the values of a DISTINCT map.
    pub fn value_column(&self, map: usize) -> usize {
        self.partials.as_ref().map_or(self.plan.maps[map].column, |p| p.maps[map].0)
    }

    /// For each row how often each of the map's variants sees it: 1, or -1 where it is taken back; 0 where the value is null. The
    /// variants of a row stand side by side.
    pub fn counts(
        &self,
        map: usize,
        columns: &mut Columns<'_>,
        rows: &RecordBatch,
        signs: Option<&[i8]>,
        counts: &mut Vec<i64>,
    ) {
        let spec = &self.plan.maps[map];
        let variants = spec.variants.len();
        counts.clear();
        counts.resize(rows.num_rows() * variants, 0);
        let sign = |row: usize| signs.map_or(1, |signs| i64::from(signs[row]));
        for (variant, filter) in spec.variants.iter().enumerate() {
            let mut put = |row: usize, count: i64| counts[row * variants + variant] = count * sign(row);
            if let Some(partials) = &self.partials {
                let column = rows.column(partials.maps[map].1 + variant).as_primitive::<Int64Type>();
                column.values().iter().enumerate().for_each(|(row, &count)| put(row, count));
                continue;
            }
            let selected = columns.select(*filter, Some(spec.column));
            match columns.selected(selected) {
                None => (0..rows.num_rows()).for_each(|row| put(row, 1)),
                Some(selected) => selected.set_indices().for_each(|row| put(row, 1)),
            }
        }
    }

    /// For each row the variants of the map that it is seen by; none where the value is null.
    pub fn masks(&self, map: usize, columns: &mut Columns<'_>, rows: &RecordBatch, masks: &mut Vec<u64>) {
        masks.clear();
        if let Some(partials) = &self.partials {
            masks.extend_from_slice(rows.column(partials.maps[map].1).as_primitive::<UInt64Type>().values());
            return;
        }
        masks.resize(rows.num_rows(), 0);
        let spec = &self.plan.maps[map];
        for (variant, filter) in spec.variants.iter().enumerate() {
            let selected = columns.select(*filter, Some(spec.column));
            match columns.selected(selected) {
                None => masks.iter_mut().for_each(|m| *m |= 1 << variant),
                Some(selected) => {
                    for (mask, s) in masks.iter_mut().zip(selected) {
                        *mask |= u64::from(s) << variant;
                    }
                }
            }
        }
    }
}

/// Rows of state, in a table or in one slice of a table of slices.
pub trait RowStore {
    fn upsert_rows(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        slots: &mut Vec<Slot>,
        created: &mut Vec<Slot>,
    ) -> Result<(), StateError>;
    fn row(&self, slot: Slot) -> &[u8];
    fn set(&mut self, slot: Slot, row: &[u8]);
}

impl RowStore for Table {
    fn upsert_rows(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        slots: &mut Vec<Slot>,
        created: &mut Vec<Slot>,
    ) -> Result<(), StateError> {
        Self::upsert_rows(self, keys, rows, slots, created)
    }

    fn row(&self, slot: Slot) -> &[u8] {
        Self::row(self, slot)
    }

    fn set(&mut self, slot: Slot, row: &[u8]) {
        Self::set(self, slot, row);
    }
}

/// One slice of a table of slices.
pub struct Slice<'a> {
    pub table: &'a mut SliceTable,
    pub end: i64,
}

impl RowStore for Slice<'_> {
    fn upsert_rows(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        slots: &mut Vec<Slot>,
        created: &mut Vec<Slot>,
    ) -> Result<(), StateError> {
        self.table.upsert(self.end, keys, Some(rows), slots, created)
    }

    fn row(&self, slot: Slot) -> &[u8] {
        self.table.row(self.end, slot)
    }

    fn set(&mut self, slot: Slot, row: &[u8]) {
        self.table.set(self.end, slot, row);
    }
}

/// What each row of a batch counts for, where some are taken back.
pub fn signs(batch: &Batch) -> Option<Vec<i8>> {
    let kinds = batch.kinds.as_ref()?;
    Some(kinds.iter().map(|kind| if kind.is_addition() { 1 } else { -1 }).collect())
}

/// Groups rows by their group columns.
#[derive(Debug, Default)]
pub struct RowGroups {
    pub keys: Keys,
    pub of_row: Vec<u32>,
    /// What each row counts for; absent where all are added.
    pub signs: Option<Vec<i8>>,
    index: GroupIndex,
}

impl RowGroups {
    pub fn group(&mut self, columns: &[ArrayRef], rows: usize) -> Result<(), OperatorError> {
        self.index.clear();
        if columns.is_empty() {
            // The global aggregate: one group, whose key is empty.
            self.keys.encode(columns, rows.min(1))?;
            self.index.assign(&self.keys, &mut self.of_row);
            self.of_row.resize(rows, 0);
        } else {
            self.keys.encode(columns, rows)?;
            self.index.assign(&self.keys, &mut self.of_row);
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// For each group the row of [`Self::keys`], and of the batch, that it is first seen in.
    pub fn first(&self) -> &[u32] {
        self.index.first()
    }

    pub fn groups(&self) -> Groups<'_> {
        Groups { of_row: &self.of_row, len: self.len(), signs: self.signs.as_deref() }
    }
}

/// A batch that has been grouped.
pub struct Arrived<'a> {
    pub rows: &'a RecordBatch,
    pub columns: Columns<'a>,
    pub groups: &'a RowGroups,
}

/// The layout of a DISTINCT map's rows: the mask, and if asked for, the length of the group's part of the key.
pub fn map_layout(mask_bytes: usize, prefix: bool) -> RowLayout {
    RowLayout::Fixed(mask_bytes + if prefix { PREFIX_BYTES } else { 0 })
}

/// Bytes of the length of the group's part of a map's key.
pub const PREFIX_BYTES: usize = 4;

/// A map's mask in a state row.
pub fn read_mask(row: &[u8], mask_bytes: usize) -> u64 {
    let mut mask = [0; 8];
    mask[..mask_bytes].copy_from_slice(&row[..mask_bytes]);
    u64::from_le_bytes(mask)
}

/// The rows of a batch that bring values not seen before, and the buffers to find them with.
#[derive(Debug, Default)]
pub struct DistinctPass {
    value_keys: Keys,
    keys: Keys,
    pairs: GroupIndex,
    pair_masks: Vec<u64>,
    row_masks: Vec<u64>,
    group_hashes: Vec<u64>,
    all: Vec<u32>,
    slots: Vec<Slot>,
    created: Vec<Slot>,
    row: Vec<u8>,
    hits: Vec<Vec<u32>>,
}

impl DistinctPass {
    /// Notes this batch's values in the map's state, and feeds the new ones to the accumulators that see them. Without
    /// `values` the state is all that is updated; its rows then tell the group's part of the key.
    pub fn run(
        &mut self,
        ingest: &Ingest,
        map: usize,
        store: &mut impl RowStore,
        arrived: &mut Arrived<'_>,
        values: Option<&mut Values>,
    ) -> Result<(), OperatorError> {
        let Arrived { rows: batch, columns, groups } = arrived;
        let value_column = ingest.value_column(map);
        ingest.masks(map, columns, batch, &mut self.row_masks);
        self.find_pairs(batch.column(value_column), groups)?;
        if self.pairs.len() == 0 {
            return Ok(());
        }
        self.encode_pairs(ingest, batch, value_column, groups)?;
        store.upsert_rows(&self.keys, &self.all, &mut self.slots, &mut self.created)?;

        let spec = &ingest.plan.maps[map];
        let mask_bytes = spec.mask_bytes();
        self.hits.resize(spec.variants.len(), Vec::new());
        self.hits.iter_mut().for_each(Vec::clear);
        for (pair, &slot) in self.slots.iter().enumerate() {
            let old = read_mask(store.row(slot), mask_bytes);
            let mut new = self.pair_masks[pair] & !old;
            if new == 0 {
                continue;
            }
            self.row.clear();
            self.row.extend_from_slice(&(old | new).to_le_bytes()[..mask_bytes]);
            if values.is_none() {
                let group = groups.first()[self.pairs.owner(pair) as usize] as usize;
                self.row.extend_from_slice(&(groups.keys.key(group).len() as u32).to_le_bytes());
            }
            store.set(slot, &self.row);
            let row = self.pairs.first()[pair];
            while new != 0 {
                self.hits[new.trailing_zeros() as usize].push(row);
                new &= new - 1;
            }
        }
        let Some(values) = values else { return Ok(()) };
        for (i, a) in ingest.plan.accumulators.iter().enumerate() {
            let Feed::Distinct { map: of, variant } = a.feed else { continue };
            if of != map {
                continue;
            }
            if a.reduce == Reduce::Count {
                values.count_rows(i, groups.groups(), &self.hits[variant]);
            } else {
                let input = columns.plain(value_column, a.kind)?;
                values.reduce_rows(i, a, groups.groups(), input, &self.hits[variant])?;
            }
        }
        Ok(())
    }

    /// The distinct (group, value) of the batch, with the union of their masks.
    fn find_pairs(&mut self, value: &ArrayRef, groups: &RowGroups) -> Result<(), OperatorError> {
        self.value_keys.encode(std::slice::from_ref(value), value.len())?;
        self.pairs.clear();
        self.pair_masks.clear();
        for (row, &mask) in self.row_masks.iter().enumerate() {
            if mask == 0 {
                continue;
            }
            let keys = &self.value_keys;
            let pair = self.pairs.group(keys.hash(row), groups.of_row[row], keys.key(row), row) as usize;
            if pair == self.pair_masks.len() {
                self.pair_masks.push(mask);
            } else {
                self.pair_masks[pair] |= mask;
            }
        }
        Ok(())
    }

    /// The state keys of the pairs: group columns and value, placed where the group is.
    fn encode_pairs(
        &mut self,
        ingest: &Ingest,
        batch: &RecordBatch,
        value_column: usize,
        groups: &RowGroups,
    ) -> Result<(), OperatorError> {
        let mut columns = ingest.group_columns(batch);
        columns.push(Arc::clone(batch.column(value_column)));
        let first = self.pairs.first();
        if first.len() < batch.num_rows() {
            columns = take_columns(&columns, &UInt32Array::from(first.to_vec()))?;
        }
        self.keys.encode(&columns, first.len())?;
        self.group_hashes.clear();
        let group_rows = groups.first();
        self.group_hashes
            .extend(self.pairs.owners().iter().map(|&g| groups.keys.hash(group_rows[g as usize] as usize)));
        self.keys.with_key_group_hashes(&self.group_hashes)?;
        self.all.clear();
        self.all.extend(0..first.len() as u32);
        Ok(())
    }
}
