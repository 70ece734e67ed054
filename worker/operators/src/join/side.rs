//! The rows of one side of a join: a bag or a map a join key.
//!
//! | the side | its state | an entry |
//! |---|---|---|
//! | is only added to, and nobody asks what its rows have matched | a log | the row |
//! | else, with a unique key | a map by the unique key | what it has matched, if that is asked for; the row |
//! | else | a map by the row | how often it is there; what it has matched, if that is asked for |
//!
//! Numbers are varints. A row is as of [`RowCodec`].

use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use weir_engine::{OperatorError, OperatorSnapshot};
use weir_state::{
    Appends, Changes, Keys, LogPlace, LogTable, MapRange, MapTable, StateError, SubtaskState, TableShape, type_name,
};

use crate::aggregate::plan::is_key;
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{JoinInput, SpecError, field};

/// Entries that are held at once, and their bytes: of more, a part is joined at a time.
pub const MAX_ENTRIES: usize = 4096;
const MAX_BYTES: usize = 8 << 20;

/// How one side is kept.
#[derive(Debug, Clone)]
pub struct Side {
    pub schema: SchemaRef,
    pub keys: Vec<usize>,
    /// The columns that are put out.
    pub outputs: Vec<usize>,
    name: &'static str,
    form: Form,
    /// Entries say how many rows of the other side they have matched.
    counts_matches: bool,
    pub codec: RowCodec,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Log,
    ByKey(Vec<usize>),
    ByRow,
}

impl Side {
    pub fn new(name: &'static str, input: JoinInput, counts_matches: bool) -> Result<Self, SpecError> {
        let JoinInput { schema, keys, outputs, unique, retracts } = input;
        for &column in keys.iter().chain(unique.iter().flatten()) {
            let field = field(&schema, column)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
        }
        if outputs > schema.fields().len() {
            return Err(SpecError::Unsupported("a join that puts out more columns than a side has".to_owned()));
        }
        let codec = RowCodec::new(schema.fields().iter().map(AsRef::as_ref))?;
        let form = match unique {
            _ if !retracts && !counts_matches => Form::Log,
            // The join key is the map's own.
            Some(unique) => Form::ByKey(unique.into_iter().filter(|column| !keys.contains(column)).collect()),
            None => Form::ByRow,
        };
        Ok(Self { schema, keys, outputs: (0..outputs).collect(), name, form, counts_matches, codec })
    }

    /// Its rows cannot be found again, and so not be taken back.
    pub fn is_only_added_to(&self) -> bool {
        self.form == Form::Log
    }

    pub fn shapes(&self) -> [TableShape; 2] {
        let of = |column: usize| type_name(self.schema.field(column).data_type());
        let key: Vec<String> = self.keys.iter().map(|&column| of(column)).collect();
        let row = (0..self.schema.fields().len()).map(of);
        let matches = self.counts_matches.then(|| "MATCHES".to_owned());
        match &self.form {
            Form::Log => LogTable::shapes(self.name, &key, &row.collect::<Vec<_>>()),
            Form::ByKey(unique) => {
                let sub: Vec<String> = unique.iter().map(|&column| format!("UNIQUE {}", of(column))).collect();
                let value: Vec<String> = matches.into_iter().chain(row).collect();
                MapTable::shapes(self.name, &key, &sub, &value, &[])
            }
            Form::ByRow => {
                let value: Vec<String> = std::iter::once("TIMES".to_owned()).chain(matches).collect();
                MapTable::shapes(self.name, &key, &row.collect::<Vec<_>>(), &value, &[])
            }
        }
    }

    pub fn open(&self, state: &SubtaskState, operator: &str) -> Result<SideState, StateError> {
        let rows = match self.form {
            Form::Log => Rows::Log(state.log(operator, self.name)?),
            Form::ByKey(_) | Form::ByRow => Rows::Map(state.map(operator, self.name)?),
        };
        Ok(SideState { side: self.clone(), rows })
    }

    fn value(&self, times: u64, matches: u64, row: &[u8], out: &mut Vec<u8>) {
        out.clear();
        if self.form == Form::ByRow {
            push_varint(out, times);
        }
        if self.counts_matches {
            push_varint(out, matches);
        }
        if self.form != Form::ByRow {
            out.extend_from_slice(row);
        }
    }

    /// How often an entry's row is there, what it has matched, and the bytes behind.
    fn read_value<'a>(&self, mut value: &'a [u8]) -> Result<(u64, u64, &'a [u8]), OperatorError> {
        let times = if self.form == Form::ByRow { read_varint(&mut value) } else { Some(1) };
        let matches = if self.counts_matches { read_varint(&mut value) } else { Some(0) };
        let malformed = || {
            OperatorError::from(StateError::mismatch(
                "a join's row in the state is not of the form that this version writes",
            ))
        };
        Ok((times.ok_or_else(malformed)?, matches.ok_or_else(malformed)?, value))
    }
}

/// The rows of one side in the state.
pub struct SideState {
    side: Side,
    rows: Rows,
}

enum Rows {
    Log(LogTable),
    Map(MapTable),
}

/// A row, or several alike, of the side that a batch does not come from.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Whose key it has, among those that are open.
    pub group: u32,
    /// How often it is there.
    pub times: u64,
    /// How many rows of the other side it has matched.
    pub matches: u64,
    sub: (usize, usize),
    row: (usize, usize),
    changed: bool,
}

/// Entries that are held.
#[derive(Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    pub list: Vec<Entry>,
    /// There is more of a key than is held here: where to go on.
    pub rest: Option<Place>,
}

/// Where to go on with a key's entries.
#[derive(Debug, Clone)]
pub enum Place {
    Log(LogPlace),
    Map(Vec<u8>),
}

impl Entries {
    pub fn row(&self, entry: usize) -> &[u8] {
        let (start, end) = self.list[entry].row;
        &self.bytes[start..end]
    }

    /// An entry has matched so many rows.
    pub fn set_matches(&mut self, entry: usize, matches: u64) {
        self.list[entry].matches = matches;
        self.list[entry].changed = true;
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.rest = None;
    }

    fn is_full(&self) -> bool {
        self.list.len() >= MAX_ENTRIES || self.bytes.len() >= MAX_BYTES
    }
}

impl SideState {
    /// Looks the keys of these rows up; key `i` from now on is that of `rows[i]`.
    pub fn find_keys(&mut self, keys: &Keys, rows: &[u32]) -> Result<(), StateError> {
        match &mut self.rows {
            Rows::Log(log) => log.open(keys, rows),
            Rows::Map(map) => map.open(keys, rows),
        }
    }

    /// How many entries a key has.
    pub fn len(&mut self, key: u32) -> Result<u64, StateError> {
        match &mut self.rows {
            Rows::Log(log) => log.len(key as usize),
            Rows::Map(map) => map.len(key as usize),
        }
    }

    /// Reads all entries of these keys, in the order of the keys; `false` where they are too many to be held at once.
    pub fn read_all(&mut self, keys: &[u32], entries: &mut Entries) -> Result<bool, OperatorError> {
        entries.clear();
        let mut fits = true;
        match &mut self.rows {
            Rows::Log(log) => {
                let from: Vec<(u32, LogPlace)> = keys.iter().map(|&key| (key, LogPlace::default())).collect();
                log.read(&from, &mut |i, _, row| {
                    fits &= !entries.is_full();
                    take_row(entries, keys[i], row, fits)
                })?;
            }
            Rows::Map(map) => {
                let ranges: Vec<MapRange<'_>> = keys.iter().map(|&key| MapRange::all(key as usize)).collect();
                let side = &self.side;
                let mut failed = None;
                map.range(&ranges, &mut |i, sub, value| {
                    fits &= !entries.is_full();
                    take_entry(side, entries, keys[i], (sub, value), fits, &mut failed)
                })?;
                failed.map_or(Ok(()), Err)?;
            }
        }
        // Of different keys they come in turns.
        let mut place = HashMap::with_capacity(keys.len());
        place.extend(keys.iter().enumerate().map(|(place, &key)| (key, place)));
        entries.list.sort_by_key(|entry| place.get(&entry.group).copied());
        Ok(fits)
    }

    /// Reads as many entries of a key as can be held, from a place on.
    pub fn read_part(&mut self, key: u32, from: Option<&Place>, entries: &mut Entries) -> Result<(), OperatorError> {
        entries.clear();
        let mut rest = None;
        match &mut self.rows {
            Rows::Log(log) => {
                let from = if let Some(Place::Log(place)) = from { *place } else { LogPlace::default() };
                log.read(&[(key, from)], &mut |_, place, row| {
                    let flow = take_row(entries, key, row, true);
                    if entries.is_full() {
                        rest = Some(Place::Log(place));
                        return ControlFlow::Break(());
                    }
                    flow
                })?;
            }
            Rows::Map(map) => {
                let from = if let Some(Place::Map(sub)) = from { Bound::Excluded(&sub[..]) } else { Bound::Unbounded };
                let range = MapRange { from, ..MapRange::all(key as usize) };
                let side = &self.side;
                let mut failed = None;
                map.range(&[range], &mut |_, sub, value| {
                    let flow = take_entry(side, entries, key, (sub, value), true, &mut failed);
                    if entries.is_full() {
                        rest = Some(Place::Map(sub.to_vec()));
                        return ControlFlow::Break(());
                    }
                    flow
                })?;
                failed.map_or(Ok(()), Err)?;
            }
        }
        entries.rest = rest;
        Ok(())
    }

    /// Writes what entries have matched, where that has changed.
    pub fn store_matches(&mut self, entries: &Entries) -> Result<(), StateError> {
        let Rows::Map(map) = &mut self.rows else { return Ok(()) };
        let mut changes = Changes::new();
        let mut value = Vec::new();
        for (i, entry) in entries.list.iter().enumerate().filter(|(_, entry)| entry.changed) {
            self.side.value(entry.times, entry.matches, entries.row(i), &mut value);
            changes.put(entry.group as usize, &entries.bytes[entry.sub.0..entry.sub.1], &value);
        }
        map.apply(&changes)
    }

    pub fn freeze(&mut self, snapshot: &mut OperatorSnapshot) {
        match &mut self.rows {
            Rows::Log(log) => snapshot.frozen.extend(log.freeze()),
            Rows::Map(map) => snapshot.frozen.extend(map.freeze()),
        }
    }
}

fn take_row(entries: &mut Entries, group: u32, row: &[u8], fits: bool) -> ControlFlow<()> {
    if !fits {
        return ControlFlow::Break(());
    }
    let start = entries.bytes.len();
    entries.bytes.extend_from_slice(row);
    let row = (start, entries.bytes.len());
    entries.list.push(Entry { group, times: 1, matches: 0, sub: (start, start), row, changed: false });
    ControlFlow::Continue(())
}

fn take_entry(
    side: &Side,
    entries: &mut Entries,
    group: u32,
    (sub, value): (&[u8], &[u8]),
    fits: bool,
    failed: &mut Option<OperatorError>,
) -> ControlFlow<()> {
    if !fits {
        return ControlFlow::Break(());
    }
    match side.read_value(value) {
        Ok((times, matches, row)) => {
            let start = entries.bytes.len();
            entries.bytes.extend_from_slice(sub);
            let split = entries.bytes.len();
            entries.bytes.extend_from_slice(row);
            let row = if side.form == Form::ByRow { (start, split) } else { (split, entries.bytes.len()) };
            entries.list.push(Entry { group, times, matches, sub: (start, split), row, changed: false });
            ControlFlow::Continue(())
        }
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}

/// The rows of a batch on their way into their side's state.
#[derive(Default)]
pub struct Incoming {
    rows: EncodedRows,
    /// The rows of the batch that are encoded, the first of them.
    first: usize,
    uniques: Keys,
    locals: Vec<Local>,
    /// The local of each row, from the first on.
    of_row: Vec<u32>,
    appends: Appends,
    changes: Changes,
    value: Vec<u8>,
}

/// An entry as it becomes by the rows of a batch.
struct Local {
    group: u32,
    /// A row with its sub-key.
    sub: usize,
    /// The row that it holds now.
    row: usize,
    times: u64,
    matches: u64,
    /// It stands in the state.
    stored: bool,
    changed: bool,
}

impl Incoming {
    /// For a new batch.
    pub fn begin(&mut self, side: &Side, rows: &RecordBatch) -> Result<(), OperatorError> {
        if let Form::ByKey(unique) = &side.form {
            self.uniques.encode(&columns(rows, unique), rows.num_rows())?;
        }
        Ok(())
    }

    /// Looks up what is there of these rows of the batch; rows of no group are left out.
    pub fn find(
        &mut self,
        state: &mut SideState,
        batch: &RecordBatch,
        rows: std::ops::Range<usize>,
        groups: &[Option<u32>],
    ) -> Result<(), OperatorError> {
        let numbers: Vec<u32> = rows.clone().map(|row| row as u32).collect();
        state.side.codec.encode(batch.columns(), &numbers, 0, &mut self.rows);
        self.first = rows.start;
        self.locals.clear();
        self.of_row.clear();
        self.appends.clear();
        self.changes.clear();
        let Rows::Map(map) = &mut state.rows else { return Ok(()) };
        let side = &state.side;
        let Self { rows: encoded, uniques, locals, of_row, first, .. } = self;
        let sub = |row: usize| match &side.form {
            Form::ByKey(columns) if columns.is_empty() => &[][..],
            Form::ByKey(_) => uniques.key(row),
            _ => encoded.get(row - *first),
        };
        let mut known: HashMap<(u32, &[u8]), u32> = HashMap::new();
        for row in rows {
            let Some(group) = groups[row] else {
                of_row.push(u32::MAX);
                continue;
            };
            let local = *known.entry((group, sub(row))).or_insert_with(|| {
                locals.push(Local { group, sub: row, row, times: 0, matches: 0, stored: false, changed: false });
                locals.len() as u32 - 1
            });
            of_row.push(local);
        }
        let probes: Vec<(u32, &[u8])> = locals.iter().map(|local| (local.group, sub(local.sub))).collect();
        let mut failed = None;
        map.find(&probes, &mut |i, value| {
            let Some(value) = value else { return };
            match side.read_value(value) {
                Ok((times, matches, _)) => {
                    let local = &mut locals[i];
                    (local.times, local.matches, local.stored) = (times, matches, true);
                }
                Err(error) => failed = Some(error),
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// There is a row like this to take back.
    pub fn is_there(&self, row: usize) -> bool {
        match self.of_row.get(row - self.first) {
            Some(&local) if local != u32::MAX => self.locals[local as usize].times > 0,
            _ => false,
        }
    }

    /// A row is there now, and has matched so many of the other side.
    pub fn add(&mut self, side: &Side, row: usize, group: u32, matches: u64) {
        if side.form == Form::Log {
            self.appends.push(group as usize, self.rows.get(row - self.first));
            return;
        }
        let local = &mut self.locals[self.of_row[row - self.first] as usize];
        local.times = if side.form == Form::ByRow { local.times.saturating_add(1) } else { 1 };
        (local.row, local.matches, local.changed) = (row, matches, true);
    }

    /// A row is there no more.
    pub fn remove(&mut self, row: usize) {
        let local = &mut self.locals[self.of_row[row - self.first] as usize];
        local.times = local.times.saturating_sub(1);
        local.changed = true;
    }

    /// Writes all of it.
    pub fn store(&mut self, state: &mut SideState) -> Result<(), StateError> {
        let Self { rows, first, uniques, locals, appends, changes, value, .. } = self;
        match &mut state.rows {
            Rows::Log(log) => log.append(appends),
            Rows::Map(map) => {
                for local in locals.iter().filter(|local| local.changed && (local.stored || local.times > 0)) {
                    let sub = match &state.side.form {
                        Form::ByKey(columns) if columns.is_empty() => &[][..],
                        Form::ByKey(_) => uniques.key(local.sub),
                        _ => rows.get(local.sub - *first),
                    };
                    if local.times == 0 {
                        changes.remove(local.group as usize, sub);
                    } else {
                        state.side.value(local.times, local.matches, rows.get(local.row - *first), value);
                        changes.put(local.group as usize, sub, value);
                    }
                }
                map.apply(changes)
            }
        }
    }
}

/// These columns of a batch.
pub fn columns(rows: &RecordBatch, columns: &[usize]) -> Vec<ArrayRef> {
    columns.iter().map(|&column| ArrayRef::clone(rows.column(column))).collect()
}

pub fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, number);
            bytes.push(7);
            let mut rest = &bytes[..];
            assert_eq!((read_varint(&mut rest), rest), (Some(number), &[7][..]));
        }
        assert_eq!(read_varint(&mut &[0x80_u8; 11][..]), None);
        assert_eq!(read_varint(&mut &[0x80_u8][..]), None);
    }
}
