//! The interval join: two rows belong together if their keys do and their times are no further from each other than two bounds say.
//! Rows of both sides are only added. Where the time is the end of a window and both must be the same it is the window join.
//!
//! A row waits for partners that come later: until event time (or the clock) has reached the last time that such a one may have.
//! Then it goes, and where its side is preserved and it has found none it is put out beside nulls. So event time behind the join is
//! held back by as much as a row may wait.
//!
//! | | |
//! |---|---|
//! | a pair | `lower <= left.time - right.time <= upper` |
//! | how far ahead a partner of the left may be | `-lower` |
//! | how far ahead a partner of the right may be | `upper` |
//! | a row that comes when no later partner can come | meets those that wait, and is not kept |
//! | a row that is late | the same, or it is dropped and counted |
//! | a row whose key or time is null | has no partner |
//! | semi and anti joins | a row of the left goes with its first partner |
//!
//! State: the rows of each side that wait, in a map a key, by time; and for each side timers, which say when a key is to be looked at.

use std::collections::{HashMap, HashSet};
use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_empty_array};
use arrow::datatypes::{DataType, SchemaRef, TimestampMillisecondType};
use weir_engine::{
    Batch, Clock, Counters, MAX_WATERMARK, MIN_WATERMARK, Operator, OperatorContext, OperatorError, OperatorFactory,
    OperatorSnapshot, Output, PIECE_ROWS, Progress, RestoredWatermarks, RowKind, Timestamp,
};
use weir_state::{Changes, Keys, MapRange, MapTable, StateError, TableShape, Timers, key_group, type_name};

use crate::aggregate::ingest::RowGroups;
use crate::aggregate::plan::is_key;
use crate::join::emission::{Emission, Sources};
use crate::join::regular::{Residual, output_schema};
use crate::join::side::{columns, push_varint, read_varint};
use crate::rows::column::take_columns;
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{IntervalJoinSpec, JoinKind, SpecError, TimeColumn, field};

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Rows that are joined at once, at first; and entries and pairs.
const RUN_ROWS: usize = 1 << 10;
const RUN_ENTRIES: usize = 1 << 12;
const RUN_PAIRS: usize = 1 << 14;

/// Keys that are looked at together when their time has come.
const DUE_KEYS: usize = 256;

/// Bytes of a time at the begin of a sub-key.
const TIME_BYTES: usize = 8;

/// One side.
#[derive(Debug, Clone)]
struct Side {
    schema: SchemaRef,
    keys: Vec<usize>,
    outputs: Vec<usize>,
    /// Its event time, and what is added to it; none: it is the clock's.
    time: Option<TimeColumn>,
    /// How much later than a row its last partner may be.
    ahead: i64,
    preserved: bool,
    codec: RowCodec,
    name: &'static str,
    timers: &'static str,
}

/// `a JOIN b ON a.x = b.y AND a.t BETWEEN b.t - … AND b.t + …`.
#[derive(Debug, Clone)]
pub struct IntervalJoin {
    sides: [Side; 2],
    kind: JoinKind,
    drops_late: bool,
    residual: Option<Residual>,
    output: SchemaRef,
    bucket_ms: i64,
}

impl IntervalJoin {
    /// Checks the spec. The output is that of a regular join.
    pub fn new(spec: IntervalJoinSpec) -> Result<Self, SpecError> {
        let IntervalJoinSpec { left, right, times, kind, lower, upper, drops_late, residual } = spec;
        if left.keys.len() != right.keys.len() {
            return Err(SpecError::Unsupported(
                "a join whose sides have keys of different numbers of columns".to_owned(),
            ));
        }
        for (&l, &r) in left.keys.iter().zip(&right.keys) {
            let (of_left, of_right) = (field(&left.schema, l)?, field(&right.schema, r)?);
            if !is_key(of_left.data_type()) {
                let (column, found) = (of_left.name().clone(), of_left.data_type().clone());
                return Err(SpecError::NotStorable { column, found });
            }
            if of_left.data_type() != of_right.data_type() {
                return Err(SpecError::Unsupported(format!(
                    "a join of `{}`, {}, with `{}`, {}: both must be cast to one type",
                    of_left.name(),
                    of_left.data_type(),
                    of_right.name(),
                    of_right.data_type()
                )));
            }
        }
        if left.retracts || right.retracts {
            return Err(SpecError::Unsupported("a join within bounds of time over rows that change".to_owned()));
        }
        if let Some([of_left, of_right]) = times {
            for (schema, time) in [(&left.schema, of_left), (&right.schema, of_right)] {
                let field = field(schema, time.column)?;
                if !matches!(field.data_type(), DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _)) {
                    return Err(SpecError::WrongType {
                        column: field.name().clone(),
                        role: "a time attribute",
                        found: field.data_type().clone(),
                        expected: "a TIMESTAMP(3)",
                    });
                }
            }
        }
        let output = output_schema(&left, &right, kind);
        let residual = residual.map(|expression| Residual::new(&expression, &left.schema, &right.schema));
        let [left_preserved, right_preserved] = kind.preserves();
        let left_preserved = left_preserved || kind == JoinKind::Anti;
        let side = |input: crate::spec::JoinInput, time, ahead, preserved, name, timers| {
            Ok::<Side, SpecError>(Side {
                codec: RowCodec::new(input.schema.fields().iter().map(AsRef::as_ref))?,
                outputs: (0..input.outputs).collect(),
                schema: input.schema,
                keys: input.keys,
                time,
                ahead,
                preserved,
                name,
                timers,
            })
        };
        let sides = [
            side(left, times.map(|times| times[LEFT]), lower.saturating_neg(), left_preserved, "left", "left.timers")?,
            side(right, times.map(|times| times[RIGHT]), upper, right_preserved, "right", "right.timers")?,
        ];
        let bucket_ms = Timers::bucket_for(sides[LEFT].ahead.max(sides[RIGHT].ahead).max(1));
        Ok(Self { sides, kind, drops_late, residual, output, bucket_ms })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    fn is_event_time(&self) -> bool {
        self.sides[LEFT].time.is_some()
    }

    /// No row that is still put out is as old as the watermark less this.
    fn held_back(&self) -> i64 {
        if !self.is_event_time() {
            return 0;
        }
        self.sides.iter().map(|side| side.ahead).max().unwrap_or(0).max(0)
    }
}

impl OperatorFactory for IntervalJoin {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let open = |side: &Side| {
            let rows = ctx.state.map(&ctx.identity, side.name)?;
            let timers = ctx.state.timers(&ctx.identity, side.timers, self.bucket_ms)?;
            Ok::<SideState, OperatorError>(SideState { rows, timers })
        };
        let nothing = |side: &Side| {
            let fields = side.outputs.iter().map(|&column| side.schema.field(column));
            fields.map(|field| new_empty_array(field.data_type())).collect::<Vec<ArrayRef>>()
        };
        let floors = if self.is_event_time() { ctx.restored_watermarks.clone() } else { RestoredWatermarks::default() };
        Ok(Box::new(Task {
            states: [open(&self.sides[LEFT])?, open(&self.sides[RIGHT])?],
            nothing: [nothing(&self.sides[LEFT]), nothing(&self.sides[RIGHT])],
            spec: self.clone(),
            floors,
            max_parallelism: ctx.max_parallelism,
            clock: Arc::clone(&ctx.clock),
            counters: Arc::clone(&ctx.counters),
            watermark: MIN_WATERMARK,
            groups: RowGroups::default(),
            encoded: EncodedRows::default(),
            emission: Emission::default(),
            others: Vec::new(),
            current: None,
            run_rows: RUN_ROWS,
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let of = |side: &Side| {
            let of_column = |column: usize| type_name(side.schema.field(column).data_type());
            let key: Vec<String> = side.keys.iter().map(|&column| of_column(column)).collect();
            let row = (0..side.schema.fields().len()).map(of_column);
            let sub: Vec<String> = std::iter::once("TIME".to_owned()).chain(row).collect();
            let rows = MapTable::shapes(side.name, &key, &sub, &texts(&["WAITING", "MATCHED"]), &[]);
            rows.into_iter().chain([Timers::shape(side.timers, &key, self.bucket_ms)])
        };
        self.sides.iter().flat_map(of).collect()
    }

    fn holds_back(&self) -> bool {
        self.held_back() > 0
    }
}

struct SideState {
    rows: MapTable,
    timers: Timers,
}

struct Task {
    spec: IntervalJoin,
    states: [SideState; 2],
    /// The columns of each side, without a row.
    nothing: [Vec<ArrayRef>; 2],
    floors: RestoredWatermarks,
    max_parallelism: u32,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    watermark: Timestamp,
    groups: RowGroups,
    encoded: EncodedRows,
    emission: Emission,
    /// The columns of the other side's rows that are put out.
    others: Vec<ArrayRef>,
    current: Option<Current>,
    /// Rows of the next run.
    run_rows: usize,
}

/// A batch that is being joined.
struct Current {
    input: usize,
    batch: Batch,
    /// The key of each row, of those that are open; none where it or the time is null.
    groups: Vec<Option<u32>>,
    times: Vec<i64>,
    /// The time that each key has reached.
    reached: Vec<Timestamp>,
    /// Rows that are dropped.
    late: Vec<bool>,
    /// The first row that is not joined yet.
    next: usize,
    /// A row that is being joined with a part of its partners at a time: the sub-key of the last, and whether it has matched.
    large: Option<(Vec<u8>, bool)>,
}

/// A row, or several alike, that waits.
struct Entry {
    group: u32,
    time: i64,
    /// So many have matched nothing yet, and so many have.
    waiting: u64,
    matched: u64,
    sub: Vec<u8>,
    changed: bool,
}

impl Entry {
    fn row(&self) -> &[u8] {
        &self.sub[TIME_BYTES..]
    }
}

/// Entries in the order of their keys and times, and the last of them where there are more.
type Found = (Vec<Entry>, Option<Vec<u8>>);

/// Bytes that are ordered as times are.
fn time_bytes(time: i64) -> [u8; TIME_BYTES] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

fn time_of(sub: &[u8]) -> Option<i64> {
    sub.first_chunk().map(|bytes| (u64::from_be_bytes(*bytes) ^ (1 << 63)) as i64)
}

fn malformed() -> StateError {
    StateError::mismatch("a row of an interval join in the state is not of the form that this version writes")
}

fn counts(mut value: &[u8]) -> Result<(u64, u64), StateError> {
    let mut number = || read_varint(&mut value).ok_or_else(malformed);
    Ok((number()?, number()?))
}

fn put(changes: &mut Changes, map: usize, sub: &[u8], waiting: u64, matched: u64) {
    if waiting + matched == 0 {
        changes.remove(map, sub);
        return;
    }
    let mut value = Vec::with_capacity(4);
    push_varint(&mut value, waiting);
    push_varint(&mut value, matched);
    changes.put(map, sub, &value);
}

impl Operator for Task {
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        if (0..batch.len()).any(|row| batch.kind(row) != RowKind::Insert) {
            return Err(OperatorError::operator(
                "rows that change came into a join within bounds of time, which was planned for rows that are only added",
            ));
        }
        let side = &self.spec.sides[input];
        let keys = columns(&batch.rows, &side.keys);
        self.groups.group(&keys, batch.len())?;
        let (times, timeless) = match side.time {
            None => (vec![self.clock.now_ms(); batch.len()], None),
            Some(TimeColumn { column, offset }) => {
                let times = batch.rows.column(column).as_primitive::<TimestampMillisecondType>();
                let moved = times.values().iter().map(|time| time.saturating_add(offset)).collect();
                (moved, times.logical_nulls())
            }
        };
        let nulls: Vec<_> = keys.iter().filter_map(Array::logical_nulls).chain(timeless).collect();
        let group = |row: usize| nulls.iter().all(|nulls| nulls.is_valid(row)).then(|| self.groups.of_row[row]);
        let groups: Vec<Option<u32>> = (0..batch.len()).map(group).collect();
        for state in &mut self.states {
            state.rows.open(&self.groups.keys, self.groups.first())?;
        }
        let of_key = self.groups.first().iter().map(|&row| self.reached(&self.groups.keys, row as usize));
        let reached: Vec<Timestamp> = of_key.collect();
        let is_late =
            |row: usize| self.spec.drops_late && groups[row].is_some_and(|group| times[row] <= reached[group as usize]);
        let late: Vec<bool> = (0..batch.len()).map(is_late).collect();
        let dropped = late.iter().filter(|late| **late).count();
        self.counters.late_rows.add(dropped as u64);
        self.current = Some(Current { input, batch, groups, times, reached, late, next: 0, large: None });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some(mut current) = self.current.take() {
            if let Some(piece) = self.next_piece(&current)? {
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

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if !self.spec.is_event_time() {
            // At the end nobody waits for the clock.
            return if watermark == MAX_WATERMARK { self.expire(MAX_WATERMARK, out) } else { Ok(Progress::Done) };
        }
        self.watermark = watermark;
        self.expire(watermark, out)
    }

    fn watermark_out(&self, watermark: Timestamp) -> Timestamp {
        if matches!(watermark, MAX_WATERMARK | MIN_WATERMARK) {
            return watermark;
        }
        watermark.saturating_sub(self.spec.held_back())
    }

    fn next_timer(&self) -> Option<Timestamp> {
        if self.spec.is_event_time() {
            return None;
        }
        self.states.iter().filter_map(|state| state.timers.next()).min()
    }

    fn on_timer(&mut self, now: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.expire(now, out)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        for state in &mut self.states {
            snapshot.frozen.extend(state.rows.freeze());
            snapshot.frozen.extend(state.timers.freeze());
        }
        Ok(())
    }
}

impl Task {
    /// The time that a key has reached.
    fn reached(&self, keys: &Keys, row: usize) -> Timestamp {
        if !self.spec.is_event_time() {
            return self.clock.now_ms();
        }
        self.watermark.max(self.floors.of(u32::from(key_group(keys.key_group_hash(row), self.max_parallelism).0)))
    }

    fn next_piece(&mut self, current: &Current) -> Result<Option<Batch>, OperatorError> {
        let outputs = self.spec.sides[current.input].outputs.len();
        let (left_only, is_left) = (self.spec.kind.puts_out_left_only(), current.input == LEFT);
        let sources = Sources {
            own: (is_left || !left_only).then(|| &current.batch.rows.columns()[..outputs]),
            other: (!is_left || !left_only).then_some(&self.others[..]),
            other_first: !is_left,
            schema: &self.spec.output,
        };
        self.emission.next(&sources)
    }

    /// Joins the next rows.
    fn join_run(&mut self, current: &mut Current) -> Result<(), OperatorError> {
        self.emission.clear();
        let own = current.input;
        let (mut rows, (mut entries, rest)) = self.read_run(current)?;
        let pairs = candidates(&self.spec, current, &mut rows, &entries);
        let pairs = self.judged(current, pairs, &entries)?;
        let before = current.large.take().is_some_and(|(_, matched)| matched);
        let preserved = self.spec.sides[own].preserved;
        let mut matched = vec![before; rows.len()];
        for &(row, entry) in &pairs {
            let is_first = !std::mem::replace(&mut matched[row as usize - rows.start], true);
            self.meet(own, row, is_first, entry, &mut entries[entry as usize]);
        }
        let encoded: Vec<&[u8]> = entries.iter().map(Entry::row).collect();
        let other = &self.spec.sides[1 - own];
        self.others = other.codec.decode_columns(&other.outputs, &encoded)?;
        let mut changes = Changes::new();
        for entry in entries.iter().filter(|entry| entry.changed) {
            put(&mut changes, entry.group as usize, &entry.sub, entry.waiting, entry.matched);
        }
        self.states[1 - own].rows.apply(&changes)?;
        if let Some(last) = rest {
            current.large = Some((last, matched.first().copied().unwrap_or(false)));
            return Ok(());
        }
        for row in rows.clone() {
            if preserved && !matched[row - rows.start] && !current.late[row] && !self.waits(current, row) {
                self.emission.push(RowKind::Insert, Some(row as u32), None, 1);
            }
        }
        current.next = rows.end;
        self.keep(current, rows.clone(), &matched)
    }

    /// A row of the batch has met one that waits.
    fn meet(&mut self, own: usize, row: u32, is_first: bool, place: u32, entry: &mut Entry) {
        if self.spec.kind.puts_out_left_only() {
            let semi = self.spec.kind == JoinKind::Semi;
            if own == LEFT {
                if semi && is_first {
                    self.emission.push(RowKind::Insert, Some(row), None, 1);
                }
            } else if entry.waiting > 0 {
                if semi {
                    self.emission.push(RowKind::Insert, None, Some(place), entry.waiting);
                }
                (entry.waiting, entry.changed) = (0, true);
            }
            return;
        }
        let times = entry.waiting + entry.matched;
        self.emission.push(RowKind::Insert, Some(row), Some(place), times);
        if self.spec.sides[1 - own].preserved && entry.waiting > 0 {
            (entry.waiting, entry.matched, entry.changed) = (0, times, true);
        }
    }

    /// A partner of this row may still come.
    fn waits(&self, current: &Current, row: usize) -> bool {
        let ahead = self.spec.sides[current.input].ahead;
        !current.late[row]
            && current.groups[row]
                .is_some_and(|group| current.reached[group as usize] < current.times[row].saturating_add(ahead))
    }

    /// Reads what the next rows can match: as many of them as are joined at once, or a part for one, and then the last of it.
    fn read_run(&mut self, current: &Current) -> Result<(Range<usize>, Found), OperatorError> {
        let start = current.next;
        let left = current.batch.len() - start;
        let mut count = if current.large.is_some() { 1 } else { self.run_rows.min(left) };
        loop {
            let rows = start..start + count;
            let from = current.large.as_ref().map(|(last, _)| last.as_slice());
            let (entries, rest) = self.read(current, rows.clone(), from)?;
            if rest.is_none() || count == 1 {
                self.run_rows = (count * 2).clamp(1, RUN_ROWS);
                return Ok((rows, (entries, rest)));
            }
            count = count.div_ceil(2);
        }
    }

    /// The entries that some of these rows may match, in the order of their keys and times; the last, where there are more than are
    /// held at once.
    fn read(&mut self, current: &Current, rows: Range<usize>, from: Option<&[u8]>) -> Result<Found, OperatorError> {
        let own = current.input;
        let (behind, ahead) = (self.spec.sides[1 - own].ahead, self.spec.sides[own].ahead);
        let mut spans: HashMap<u32, (i64, i64)> = HashMap::new();
        for row in rows {
            let Some(group) = current.groups[row].filter(|_| !current.late[row]) else { continue };
            let time = current.times[row];
            // What has waited long enough is gone, whether it has been taken out yet or not.
            let oldest = current.reached[group as usize].saturating_sub(behind).saturating_add(1);
            let low = time.saturating_sub(behind).max(oldest);
            let high = time.saturating_add(ahead);
            let span = spans.entry(group).or_insert((low, high));
            *span = (span.0.min(low), span.1.max(high));
        }
        let mut spans: Vec<(u32, (i64, i64))> = spans.into_iter().filter(|(_, (low, high))| low <= high).collect();
        spans.sort_unstable();
        let bytes: Vec<([u8; TIME_BYTES], Option<[u8; TIME_BYTES]>)> =
            spans.iter().map(|(_, (low, high))| (time_bytes(*low), high.checked_add(1).map(time_bytes))).collect();
        let ranges: Vec<MapRange<'_>> = spans
            .iter()
            .zip(&bytes)
            .map(|((group, _), (low, end))| MapRange {
                from: from.map_or(Bound::Included(&low[..]), Bound::Excluded),
                to: end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..])),
                ..MapRange::all(*group as usize)
            })
            .collect();
        let (mut entries, mut rest, mut failed) = (Vec::new(), None, None);
        self.states[1 - own].rows.range(&ranges, &mut |i, sub, value| {
            if entries.len() >= RUN_ENTRIES {
                rest = entries.last().map(|last: &Entry| last.sub.clone());
                return ControlFlow::Break(());
            }
            match (counts(value), time_of(sub)) {
                (Ok((waiting, matched)), Some(time)) => {
                    let group = spans[i].0;
                    entries.push(Entry { group, time, waiting, matched, sub: sub.to_vec(), changed: false });
                    ControlFlow::Continue(())
                }
                _ => {
                    failed = Some(malformed());
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)?;
        // Of different keys they come in turns.
        entries.sort_by(|a, b| (a.group, &a.sub).cmp(&(b.group, &b.sub)));
        Ok((entries, rest))
    }

    /// The pairs that the condition lets through.
    fn judged(
        &self,
        current: &Current,
        pairs: Vec<(u32, u32)>,
        entries: &[Entry],
    ) -> Result<Vec<(u32, u32)>, OperatorError> {
        let Some(residual) = self.spec.residual.as_ref().filter(|_| !pairs.is_empty()) else { return Ok(pairs) };
        let own = current.input;
        let own_columns = columns(&current.batch.rows, &residual.needed[own]);
        let rows: Vec<&[u8]> = entries.iter().map(Entry::row).collect();
        let other_columns = self.spec.sides[1 - own].codec.decode_columns(&residual.needed[1 - own], &rows)?;
        let mut matching = Vec::new();
        for pairs in pairs.chunks(PIECE_ROWS) {
            let (own_rows, other_rows): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
            let own_columns = take_columns(&own_columns, &UInt32Array::from(own_rows))?;
            let other_columns = take_columns(&other_columns, &UInt32Array::from(other_rows))?;
            let [left, right] = if own == LEFT { [own_columns, other_columns] } else { [other_columns, own_columns] };
            let judged: BooleanArray = residual.judge(left, right, pairs.len())?;
            matching.extend(judged.values().set_indices().map(|pair| pairs[pair]));
        }
        Ok(matching)
    }

    /// Takes in those of these rows that wait.
    fn keep(&mut self, current: &Current, rows: Range<usize>, matched: &[bool]) -> Result<(), OperatorError> {
        let own = current.input;
        let side = &self.spec.sides[own];
        // What has found its partner has been put out, or never is.
        let goes_at_once = own == LEFT && self.spec.kind.puts_out_left_only();
        let waiting: Vec<(usize, u32)> = rows
            .clone()
            .filter(|&row| self.waits(current, row) && !(goes_at_once && matched[row - rows.start]))
            .filter_map(|row| Some((row, current.groups[row]?)))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let numbers: Vec<u32> = waiting.iter().map(|&(row, _)| row as u32).collect();
        side.codec.encode(current.batch.rows.columns(), &numbers, 0, &mut self.encoded);
        let mut kept: HashMap<(u32, Vec<u8>), (u64, u64)> = HashMap::new();
        let mut earliest: HashMap<u32, i64> = HashMap::new();
        for (place, &(row, group)) in waiting.iter().enumerate() {
            let sub = [&time_bytes(current.times[row])[..], self.encoded.get(place)].concat();
            let (waiting, with) = kept.entry((group, sub)).or_default();
            if matched[row - rows.start] {
                *with += 1;
            } else {
                *waiting += 1;
            }
            let due = self.due(own, current.times[row]);
            earliest.entry(group).and_modify(|first| *first = due.min(*first)).or_insert(due);
        }
        let probes: Vec<(u32, &[u8])> = kept.keys().map(|(group, sub)| (*group, &sub[..])).collect();
        let mut there: Vec<(u64, u64)> = vec![(0, 0); probes.len()];
        let mut failed = None;
        let state = &mut self.states[own];
        state.rows.find(&probes, &mut |i, value| match value.map_or(Ok((0, 0)), counts) {
            Ok(found) => there[i] = found,
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)?;
        let mut changes = Changes::new();
        for (((group, sub), (waiting, with)), (before, before_with)) in kept.iter().zip(&there) {
            put(&mut changes, *group as usize, sub, waiting + before, with + before_with);
        }
        state.rows.apply(&changes)?;
        let (rows, times): (Vec<u32>, Vec<i64>) =
            earliest.into_iter().map(|(group, due)| (self.groups.first()[group as usize], due)).unzip();
        state.timers.register(&self.groups.keys, &rows, &times)?;
        Ok(())
    }

    /// When a row of this side and time has waited long enough.
    fn due(&self, side: usize, time: i64) -> Timestamp {
        time.saturating_add(self.spec.sides[side].ahead)
    }

    /// Takes out what has waited long enough, a piece at a time: what goes has been put out before a barrier can pass.
    fn expire(&mut self, time: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        for side in [LEFT, RIGHT] {
            loop {
                let mut due = Keys::new();
                due.clear();
                self.states[side].timers.due(time, DUE_KEYS, &mut due)?;
                if due.is_empty() {
                    break;
                }
                if let Some(piece) = self.expire_keys(side, &due, time)? {
                    out.emit(piece)?;
                }
                if out.is_full() {
                    return Ok(Progress::More);
                }
            }
        }
        Ok(Progress::Done)
    }

    /// Takes a piece of what has waited long enough out of these keys, and registers them for the rest.
    fn expire_keys(&mut self, side: usize, due: &Keys, time: Timestamp) -> Result<Option<Batch>, OperatorError> {
        // A key may be due at several times.
        let mut seen = HashSet::new();
        let all: Vec<u32> = (0..due.len() as u32).filter(|&row| seen.insert(due.key(row as usize))).collect();
        let of = &self.spec.sides[side];
        let state = &mut self.states[side];
        state.rows.open(due, &all)?;
        let ranges: Vec<MapRange<'_>> = (0..all.len()).map(MapRange::all).collect();
        let (mut gone, mut room, mut failed) = (Vec::new(), PIECE_ROWS as u64, None);
        // The first entry of each key that stays.
        let mut next: Vec<Option<i64>> = vec![None; all.len()];
        state.rows.range(&ranges, &mut |i, sub, value| {
            let (Ok((waiting, matched)), Some(at)) = (counts(value), time_of(sub)) else {
                failed = Some(malformed());
                return ControlFlow::Break(());
            };
            let waits = at.saturating_add(of.ahead) > time;
            if waits || room == 0 {
                next[i] = Some(at);
                return ControlFlow::Break(());
            }
            // Where nobody is told of them, only the look-up costs.
            let out = if of.preserved { waiting.min(room) } else { 0 };
            room -= if of.preserved { out } else { 1 };
            let rest = if of.preserved { waiting - out } else { 0 };
            gone.push((i, sub.to_vec(), out, rest, matched));
            if rest > 0 {
                next[i] = Some(at);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)?;
        let mut changes = Changes::new();
        self.emission.clear();
        let mut rows: Vec<&[u8]> = Vec::new();
        for (key, sub, out, rest, matched) in &gone {
            if *rest > 0 {
                put(&mut changes, *key, sub, *rest, *matched);
            } else {
                changes.remove(*key, sub);
            }
            if *out > 0 {
                self.emission.push(RowKind::Insert, None, Some(rows.len() as u32), *out);
                rows.push(&sub[TIME_BYTES..]);
            }
        }
        self.others = of.codec.decode_columns(&of.outputs, &rows)?;
        state.rows.apply(&changes)?;
        let again = all.iter().zip(&next).filter_map(|(row, at)| Some((*row, (*at)?)));
        let (again, times): (Vec<u32>, Vec<i64>) = again.map(|(key, at)| (key, at.saturating_add(of.ahead))).unzip();
        state.timers.register(due, &again, &times)?;
        let left_only = self.spec.kind.puts_out_left_only();
        let sources = Sources {
            own: (!left_only).then_some(&self.nothing[1 - side][..]),
            other: Some(&self.others),
            other_first: side == LEFT,
            schema: &self.spec.output,
        };
        self.emission.next(&sources)
    }
}

/// The pairs whose keys and times fit, in the order of the rows; `rows` ends before there are too many.
fn candidates(spec: &IntervalJoin, current: &Current, rows: &mut Range<usize>, entries: &[Entry]) -> Vec<(u32, u32)> {
    let own = current.input;
    let (behind, ahead) = (spec.sides[1 - own].ahead, spec.sides[own].ahead);
    let mut pairs = Vec::new();
    for row in rows.clone() {
        let Some(group) = current.groups[row].filter(|_| !current.late[row]) else { continue };
        let time = current.times[row];
        let oldest = current.reached[group as usize].saturating_sub(behind).saturating_add(1);
        let (low, high) = (time.saturating_sub(behind).max(oldest), time.saturating_add(ahead));
        let start = entries.partition_point(|entry| (entry.group, entry.time) < (group, low));
        let end = entries.partition_point(|entry| (entry.group, entry.time) <= (group, high));
        if row > rows.start && pairs.len() + end.saturating_sub(start) > RUN_PAIRS {
            rows.end = row;
            break;
        }
        pairs.extend((start..end).map(|entry| (row as u32, entry as u32)));
    }
    pairs
}
