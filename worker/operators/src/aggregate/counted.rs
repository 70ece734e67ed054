//! Values of rows that may be taken back: how often each is there. What a batch does to a value is added up first, so that a
//! value that comes and goes within one costs nothing, and state is touched once for each that is left.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};

use arrow::array::{Array, ArrayRef, UInt32Array};
use weir_engine::OperatorError;
use weir_state::{Changes, Keys, MapRange, MapTable, Slot, SortKeys, SortOrder, Table, decode_sort_keys};

use crate::aggregate::ingest::{Arrived, Ingest};
use crate::aggregate::plan::{Accumulator, Feed, Kind, Reduce};
use crate::aggregate::values::{Groups, Values, list_within};
use crate::rows::column::{BytesColumn, Plain, take_columns};
use crate::rows::index::GroupIndex;

/// Minima are first, maxima last.
const ASCENDING: [SortOrder; 1] = [SortOrder::ASCENDING];

/// The (group, value) pairs of a batch with what the batch does to them, and the buffers to find them with.
#[derive(Debug, Default)]
pub struct CountedPass {
    value_keys: Keys,
    pairs: GroupIndex,
    row_counts: Vec<i64>,
    /// The variants of a pair stand side by side.
    pair_counts: Vec<i64>,
    /// The pairs that do not net to nothing.
    touched: Vec<u32>,
    keys: Keys,
    group_hashes: Vec<u64>,
    all: Vec<u32>,
    slots: Vec<Slot>,
    created: Vec<Slot>,
    row: Vec<u8>,
    hit_signs: Vec<i8>,
    sort_keys: SortKeys,
    /// For each group which of the open maps is its own.
    opened: Vec<Option<u32>>,
    changes: Changes,
}

impl CountedPass {
    /// Finds the pairs of a map that this batch changes.
    fn find(&mut self, ingest: &Ingest, map: usize, arrived: &mut Arrived<'_>) -> Result<(), OperatorError> {
        let Arrived { rows, columns, groups } = arrived;
        let variants = ingest.plan.maps[map].variants.len();
        ingest.counts(map, columns, rows, groups.signs.as_deref(), &mut self.row_counts);
        let value = rows.column(ingest.value_column(map));
        self.value_keys.encode(std::slice::from_ref(value), value.len())?;
        self.pairs.clear();
        self.pair_counts.clear();
        for (row, counts) in self.row_counts.chunks_exact(variants).enumerate() {
            if counts.iter().all(|count| *count == 0) {
                continue;
            }
            let keys = &self.value_keys;
            let pair = self.pairs.group(keys.hash(row), groups.of_row[row], keys.key(row), row) as usize;
            self.pair_counts.resize(self.pair_counts.len().max((pair + 1) * variants), 0);
            for (sum, count) in self.pair_counts[pair * variants..].iter_mut().zip(counts) {
                *sum += count;
            }
        }
        let nets = self.pair_counts.chunks_exact(variants);
        let changed = |(pair, net): (usize, &[i64])| net.iter().any(|count| *count != 0).then_some(pair as u32);
        self.touched.clear();
        self.touched.extend(nets.enumerate().filter_map(changed));
        Ok(())
    }

    /// The first rows of the touched pairs.
    fn rows(&self) -> Vec<u32> {
        self.touched.iter().map(|&pair| self.pairs.first()[pair as usize]).collect()
    }

    /// Brings a DISTINCT map up to date, and feeds values that are there for the first time, or not any more, to the
    /// accumulators that see them. Returns how many values were taken back that were not there.
    pub fn distinct(
        &mut self,
        ingest: &Ingest,
        map: usize,
        table: &mut Table,
        arrived: &mut Arrived<'_>,
        values: &mut Values,
    ) -> Result<u64, OperatorError> {
        self.find(ingest, map, arrived)?;
        if self.touched.is_empty() {
            return Ok(0);
        }
        self.encode_pairs(ingest, map, arrived)?;
        table.upsert_rows(&self.keys, &self.all, &mut self.slots, &mut self.created)?;
        let variants = ingest.plan.maps[map].variants.len();
        let Arrived { rows, columns, groups } = arrived;
        self.hit_signs.clear();
        self.hit_signs.resize(rows.num_rows(), 0);
        let mut unmatched = 0;
        let mut hits: Vec<Vec<(u32, i8)>> = vec![Vec::new(); variants];
        for (&pair, &slot) in self.touched.iter().zip(&self.slots) {
            let net = &self.pair_counts[pair as usize * variants..][..variants];
            let first = self.pairs.first()[pair as usize];
            self.row.clear();
            let (mut left, mut missing) = (false, 0);
            for (variant, (old, net)) in table.row(slot).chunks_exact(8).zip(net).enumerate() {
                let old = count_of(old);
                let new = old + net;
                missing = new.min(0).unsigned_abs().max(missing);
                let new = new.max(0);
                if (old == 0) != (new == 0) {
                    hits[variant].push((first, if new > 0 { 1 } else { -1 }));
                }
                left |= new > 0;
                self.row.extend_from_slice(&new.to_le_bytes());
            }
            unmatched += missing;
            if left {
                table.set(slot, &self.row);
            } else {
                table.remove(slot);
            }
        }
        for (i, a) in ingest.plan.accumulators.iter().enumerate() {
            let Feed::Distinct { map: of, variant } = a.feed else { continue };
            if of != map {
                continue;
            }
            let seen: Vec<u32> = hits[variant].iter().map(|(row, _)| *row).collect();
            for &(row, sign) in &hits[variant] {
                self.hit_signs[row as usize] = sign;
            }
            let groups = Groups { signs: Some(&self.hit_signs), ..groups.groups() };
            if a.reduce == Reduce::Count {
                values.count_rows(i, groups, &seen);
            } else {
                values.reduce_rows(i, a, groups, columns.plain(ingest.value_column(map), a.kind)?, &seen)?;
            }
        }
        Ok(unmatched)
    }

    /// The state keys of the touched pairs: group columns and value, placed where the group is.
    fn encode_pairs(&mut self, ingest: &Ingest, map: usize, arrived: &Arrived<'_>) -> Result<(), OperatorError> {
        let Arrived { rows, groups, .. } = arrived;
        let mut columns = ingest.group_columns(rows);
        columns.push(ArrayRef::clone(rows.column(ingest.value_column(map))));
        let first = self.rows();
        let count = first.len();
        self.keys.encode(&take_columns(&columns, &UInt32Array::from(first))?, count)?;
        self.group_hashes.clear();
        for &pair in &self.touched {
            let group = self.pairs.owner(pair as usize) as usize;
            self.group_hashes.push(groups.keys.hash(groups.first()[group] as usize));
        }
        self.keys.with_key_group_hashes(&self.group_hashes)?;
        self.all.clear();
        self.all.extend(0..count as u32);
        Ok(())
    }

    /// Brings an ordered map up to date, and sets the accumulators that are its least or its greatest value. Returns how many
    /// values were taken back that were not there.
    pub fn ordered(
        &mut self,
        ingest: &Ingest,
        map: usize,
        table: &mut MapTable,
        arrived: &mut Arrived<'_>,
        values: &mut Values,
    ) -> Result<u64, OperatorError> {
        self.find(ingest, map, arrived)?;
        if self.touched.is_empty() {
            return Ok(0);
        }
        let groups = arrived.groups;
        let mut of_map: Vec<u32> = Vec::new();
        self.opened.clear();
        self.opened.resize(groups.len(), None);
        for &pair in &self.touched {
            let group = self.pairs.owner(pair as usize);
            self.opened[group as usize].get_or_insert_with(|| {
                of_map.push(group);
                of_map.len() as u32 - 1
            });
        }
        let rows: Vec<u32> = of_map.iter().map(|&group| groups.first()[group as usize]).collect();
        table.open(&groups.keys, &rows)?;
        let value = arrived.rows.column(ingest.value_column(map));
        let value = arrow::compute::take(value, &UInt32Array::from(self.rows()), None)?;
        self.sort_keys.encode(std::slice::from_ref(&value), &ASCENDING, value.len())?;
        let unmatched = self.change_counts(table)?;
        for (i, a) in ingest.plan.accumulators.iter().enumerate() {
            if a.feed == (Feed::Ordered { map }) {
                set_extremes(table, &of_map, i, a.reduce, &value, values, a.kind)?;
            }
        }
        Ok(unmatched)
    }

    /// Brings a map of arrivals up to date, and sets the accumulators that are its first or last value or the list of all. Of
    /// equal values the one that came first is taken back. Returns how many values were taken back that were not there.
    pub fn arrivals(
        &mut self,
        ingest: &Ingest,
        map: usize,
        table: &mut MapTable,
        arrived: &mut Arrived<'_>,
        values: &mut Values,
    ) -> Result<u64, OperatorError> {
        let Arrived { rows, columns, groups } = arrived;
        ingest.counts(map, columns, rows, groups.signs.as_deref(), &mut self.row_counts);
        let mut of_map: Vec<u32> = Vec::new();
        self.opened.clear();
        self.opened.resize(groups.len(), None);
        for (row, _) in self.row_counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            let group = groups.of_row[row];
            self.opened[group as usize].get_or_insert_with(|| {
                of_map.push(group);
                of_map.len() as u32 - 1
            });
        }
        if of_map.is_empty() {
            return Ok(0);
        }
        let firsts: Vec<u32> = of_map.iter().map(|&group| groups.first()[group as usize]).collect();
        table.open(&groups.keys, &firsts)?;
        let value = rows.column(ingest.value_column(map));
        self.sort_keys.encode(std::slice::from_ref(value), &ASCENDING, value.len())?;
        let unmatched = self.change_arrivals(table, &groups.of_row)?;
        for (i, a) in ingest.plan.accumulators.iter().enumerate() {
            if a.feed == (Feed::Ordered { map }) {
                set_arrivals(table, &of_map, i, a, value, values)?;
            }
        }
        Ok(unmatched)
    }

    /// Adds and removes arrivals in the order of the batch's rows.
    fn change_arrivals(&mut self, table: &mut MapTable, of_row: &[u32]) -> Result<u64, OperatorError> {
        let mut equals = self.equals(table, of_row)?;
        let Self { row_counts, opened, sort_keys, changes, .. } = self;
        changes.clear();
        let mut next = Vec::with_capacity(table.maps());
        for map in 0..table.maps() {
            next.push(table.beside(map)?.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)));
        }
        let mut unmatched = 0;
        for (row, &count) in row_counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            let (map, key) = (opened[of_row[row] as usize].unwrap_or(0) as usize, sort_keys.key(row));
            let known = equals.get_mut(&(map, key.to_vec()));
            if count > 0 {
                let arrival = next[map];
                next[map] += 1;
                changes.put(map, &by_arrival(arrival), key);
                changes.put(map, &by_value(key, arrival), &[]);
                if let Some(known) = known {
                    known.push_back(arrival);
                }
            } else if let Some(arrival) = known.and_then(VecDeque::pop_front) {
                changes.remove(map, &by_arrival(arrival));
                changes.remove(map, &by_value(key, arrival));
            } else {
                unmatched += 1;
            }
        }
        for (map, next) in next.iter().enumerate() {
            changes.set_beside(map, &next.to_le_bytes());
        }
        table.apply(changes)?;
        changes.clear();
        for map in 0..table.maps() {
            if table.is_empty(map)? {
                // Without values it begins anew, and takes no room.
                changes.set_beside(map, &[]);
            }
        }
        table.apply(changes)?;
        Ok(unmatched)
    }

    /// The arrivals of the values that this batch takes back, the first first, by open map and sort key.
    fn equals(&self, table: &mut MapTable, of_row: &[u32]) -> Result<Equals, OperatorError> {
        let mut equals = Equals::new();
        for (row, _) in self.row_counts.iter().enumerate().filter(|(_, count)| **count < 0) {
            let map = self.opened[of_row[row] as usize].unwrap_or(0) as usize;
            equals.entry((map, self.sort_keys.key(row).to_vec())).or_default();
        }
        let wanted: Vec<(usize, Vec<u8>)> = equals.keys().cloned().collect();
        let starts: Vec<Vec<u8>> = wanted.iter().map(|(_, key)| [&[BY_VALUE], key.as_slice()].concat()).collect();
        let ends: Vec<Vec<u8>> = starts.iter().map(|start| [start.as_slice(), &[u8::MAX; 9]].concat()).collect();
        let ranges: Vec<MapRange<'_>> = wanted
            .iter()
            .zip(starts.iter().zip(&ends))
            .map(|((map, _), (start, end))| MapRange {
                from: Bound::Included(start),
                to: Bound::Excluded(end),
                ..MapRange::all(*map)
            })
            .collect();
        table.range(&ranges, &mut |i, sub, _| {
            if let (Some(found), Some(arrival)) = (equals.get_mut(&wanted[i]), sub.last_chunk()) {
                found.push_back(u64::from_be_bytes(*arrival));
            }
            ControlFlow::Continue(())
        })?;
        Ok(equals)
    }

    /// Adds the pairs' counts to those of the open maps.
    fn change_counts(&mut self, table: &mut MapTable) -> Result<u64, OperatorError> {
        let Self { touched, pairs, opened, sort_keys, pair_counts, changes, .. } = self;
        let map_of = |pair: u32| opened[pairs.owner(pair as usize) as usize].unwrap_or(0);
        let probes: Vec<(u32, &[u8])> =
            touched.iter().enumerate().map(|(i, &pair)| (map_of(pair), sort_keys.key(i))).collect();
        let mut unmatched = 0;
        changes.clear();
        table.find(&probes, &mut |i, old| {
            let old = old.map_or(0, count_of);
            let new = old + pair_counts[touched[i] as usize];
            unmatched += new.min(0).unsigned_abs();
            let (map, sub) = (probes[i].0 as usize, probes[i].1);
            if new > 0 {
                changes.put(map, sub, &new.to_le_bytes());
            } else if old > 0 {
                changes.remove(map, sub);
            }
        })?;
        table.apply(changes)?;
        Ok(unmatched)
    }

    /// Empties the ordered maps of groups that are gone. There is something in them only where rows were taken back that were
    /// never there.
    pub fn forget(&mut self, table: &mut MapTable, keys: &Keys, rows: &[u32]) -> Result<(), OperatorError> {
        table.open(keys, rows)?;
        let mut left = Vec::new();
        let Self { changes, .. } = self;
        changes.clear();
        for map in 0..table.maps() {
            if !table.is_empty(map)? {
                left.push(MapRange::all(map));
                changes.set_beside(map, &[]);
            }
        }
        table.range(&left, &mut |i, sub, _| {
            changes.remove(left[i].map, sub);
            ControlFlow::Continue(())
        })?;
        table.apply(changes)?;
        Ok(())
    }
}

/// Arrivals of equal values of one open map.
type Equals = BTreeMap<(usize, Vec<u8>), VecDeque<u64>>;

/// The two kinds of sub-keys of a map of arrivals: by arrival, with the value's sort key under it; and by value and arrival.
const BY_ARRIVAL: u8 = 0;
const BY_VALUE: u8 = 1;

fn by_arrival(arrival: u64) -> Vec<u8> {
    [&[BY_ARRIVAL][..], &arrival.to_be_bytes()].concat()
}

fn by_value(sort_key: &[u8], arrival: u64) -> Vec<u8> {
    [&[BY_VALUE], sort_key, &arrival.to_be_bytes()].concat()
}

/// A count of 8 bytes.
fn count_of(bytes: &[u8]) -> i64 {
    bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

/// Sets accumulator `i` of the groups whose maps are open. `of_type` is any column of the values' type.
fn set_extremes(
    table: &mut MapTable,
    of_map: &[u32],
    i: usize,
    reduce: Reduce,
    of_type: &ArrayRef,
    values: &mut Values,
    kind: Kind,
) -> Result<(), OperatorError> {
    let end = if reduce == Reduce::Max { MapRange::last } else { MapRange::first };
    let ranges: Vec<MapRange<'_>> = (0..of_map.len()).map(|map| end(map, 1)).collect();
    let (groups, column) = read_values(table, of_map, &ranges, of_type, |sub, _| sub)?;
    for &group in of_map {
        values.unset(i, group as usize);
    }
    values.set_values(i, &groups, &Plain::new(&column, kind)?);
    Ok(())
}

/// The values in these ranges of the open maps, and whose each is. `pick` says where in an entry the value's sort key stands.
fn read_values(
    table: &mut MapTable,
    of_map: &[u32],
    ranges: &[MapRange<'_>],
    of_type: &ArrayRef,
    pick: for<'e> fn(&'e [u8], &'e [u8]) -> &'e [u8],
) -> Result<(Vec<u32>, ArrayRef), OperatorError> {
    let (mut groups, mut sort_keys) = (Vec::with_capacity(ranges.len()), Vec::with_capacity(ranges.len()));
    table.range(ranges, &mut |map, sub, value| {
        groups.push(of_map[map]);
        sort_keys.push(pick(sub, value).to_vec());
        ControlFlow::Continue(())
    })?;
    let types = [of_type.data_type().clone()];
    let column = decode_sort_keys(&types, &ASCENDING, sort_keys.iter().map(Vec::as_slice))?.remove(0);
    Ok((groups, column))
}

/// Sets accumulator `i` of the groups whose maps of arrivals are open. `of_type` is any column of the values' type.
fn set_arrivals(
    table: &mut MapTable,
    of_map: &[u32],
    i: usize,
    a: &Accumulator,
    of_type: &ArrayRef,
    values: &mut Values,
) -> Result<(), OperatorError> {
    let ranges: Vec<MapRange<'_>> = (0..of_map.len())
        .map(|map| MapRange {
            to: Bound::Excluded(&[BY_VALUE]),
            backwards: a.reduce == Reduce::Last,
            limit: if a.reduce == Reduce::List { usize::MAX } else { 1 },
            ..MapRange::all(map)
        })
        .collect();
    let (groups, column) = read_values(table, of_map, &ranges, of_type, |_, sort_key| sort_key)?;
    for &group in of_map {
        values.unset(i, group as usize);
    }
    if a.reduce != Reduce::List {
        values.set_values(i, &groups, &Plain::new(&column, a.kind)?);
        return Ok(());
    }
    let texts = BytesColumn::new(&column).ok_or_else(|| OperatorError::operator("a list is of texts"))?;
    let mut lists: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for (row, group) in groups.iter().enumerate() {
        match lists.get_mut(group) {
            None => drop(lists.insert(*group, texts.get(row).to_vec())),
            Some(list) => {
                list.extend_from_slice(a.separator.as_bytes());
                list.extend_from_slice(texts.get(row));
                list_within(a, list.len())?;
            }
        }
    }
    for (group, list) in lists {
        values.set_bytes(i, group as usize, &list);
    }
    Ok(())
}
