//! `SESSION(TABLE t PARTITION BY …, DESCRIPTOR(time), gap)`: a session of a partition is over when no row has come for as long as
//! the gap. Its rows are kept until then, and put out with its bounds.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::{
    Batch, Clock, Counters, MAX_WATERMARK, MIN_WATERMARK, Operator, OperatorContext, OperatorError, OperatorFactory,
    OperatorSnapshot, Output, PIECE_ROWS, Progress, RestoredWatermarks, Timestamp,
};
use weir_state::{Changes, Keys, MapRange, MapTable, TableShape, Timers, key_group, type_name};

use crate::aggregate::ingest::{RowGroups, inserts_only};
use crate::aggregate::plan::is_key;
use crate::rows::due::{Due, Step, ordered, sub_key};
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{SessionSpec, SpecError, TimeSource, field, schema_of, window_fields};
use crate::window::assign::columns_of_windows;
use crate::window::slices::times;

/// The name of the maps.
const ROWS: &str = "rows";

/// The name of the timers.
const ENDS: &str = "ends";

/// The sessions of a partition's rows.
///
/// State: a map a partition, from time and order of arrival to the row; beside it stand the bounds of the sessions that are open.
/// It is as large as the rows of all open sessions.
#[derive(Debug, Clone)]
pub struct SessionAssign {
    spec: SessionSpec,
    output: SchemaRef,
    time_type: DataType,
    codec: RowCodec,
}

impl SessionAssign {
    /// Checks the spec. The output has the input's columns, then the window's.
    pub fn new(spec: SessionSpec) -> Result<Self, SpecError> {
        for &column in &spec.partition {
            let field = field(&spec.input, column)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
        }
        if spec.gap <= 0 {
            return Err(SpecError::BadWindow(format!("a gap of {} ms must be positive", spec.gap)));
        }
        let added = window_fields(&spec.input, spec.time)?;
        let time_type = added[2].data_type().clone();
        let codec = RowCodec::new(spec.input.fields().iter().map(AsRef::as_ref))?;
        let fields: Vec<Field> = spec.input.fields().iter().map(|f| f.as_ref().clone()).chain(added).collect();
        Ok(Self { output: schema_of(fields), time_type, codec, spec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    fn bucket(&self) -> i64 {
        Timers::bucket_for(self.spec.gap)
    }

    fn key_types(&self) -> Vec<String> {
        self.spec.partition.iter().map(|&column| type_name(self.spec.input.field(column).data_type())).collect()
    }
}

impl OperatorFactory for SessionAssign {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        // What event time has reached says nothing about the clock.
        let floors = match self.spec.time {
            TimeSource::Event(_) => ctx.restored_watermarks.clone(),
            TimeSource::Processing => RestoredWatermarks::none(),
        };
        Ok(Box::new(Task {
            rows: ctx.state.map(&ctx.identity, ROWS)?,
            ends: ctx.state.timers(&ctx.identity, ENDS, self.bucket())?,
            spec: self.clone(),
            reached: floors.lowest(),
            floors,
            max_parallelism: ctx.max_parallelism,
            counters: Arc::clone(&ctx.counters),
            clock: Arc::clone(&ctx.clock),
            groups: RowGroups::default(),
            encoded: EncodedRows::default(),
            changes: Changes::new(),
            closing: None,
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let key = self.key_types();
        let value: Vec<String> = self.spec.input.fields().iter().map(|field| type_name(field.data_type())).collect();
        let order = ["TIME", "ARRIVAL"].map(str::to_owned);
        let beside = ["ARRIVALS", "SESSIONS"].map(str::to_owned);
        let mut all = MapTable::shapes(ROWS, &key, &order, &value, &beside).to_vec();
        all.push(Timers::shape(ENDS, &key, self.bucket()));
        all
    }
}

struct Task {
    spec: SessionAssign,
    rows: MapTable,
    ends: Timers,
    /// Time has come here: sessions that end before it are over.
    reached: Timestamp,
    floors: RestoredWatermarks,
    max_parallelism: u32,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    groups: RowGroups,
    encoded: EncodedRows,
    changes: Changes,
    /// Partitions that are due, and are being looked at.
    closing: Option<Due>,
}

/// What a row is ordered by, and itself.
type Entry = (Vec<u8>, Vec<u8>);

/// From its first row's time to a gap behind its last one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    start: Timestamp,
    end: Timestamp,
}

impl Session {
    /// Sessions that touch are one.
    fn meets(self, other: Self) -> bool {
        self.start <= other.end && self.end >= other.start
    }

    /// Time has passed all of it.
    fn is_over(self, reached: Timestamp) -> bool {
        self.end - 1 <= reached
    }
}

/// What stands beside a partition's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Beside {
    /// Rows that have come so far.
    arrivals: u64,
    /// Those that are open, in their order; none touches another.
    sessions: Vec<Session>,
}

impl Beside {
    fn read(bytes: &[u8]) -> Self {
        let mut numbers = bytes.chunks_exact(8).map(|chunk| {
            let mut number = [0; 8];
            number.copy_from_slice(chunk);
            i64::from_le_bytes(number)
        });
        let arrivals = numbers.next().unwrap_or(0).cast_unsigned();
        let mut sessions = Vec::new();
        while let (Some(start), Some(end)) = (numbers.next(), numbers.next()) {
            sessions.push(Session { start, end });
        }
        Self { arrivals, sessions }
    }

    fn write(&self) -> Vec<u8> {
        // A partition without rows takes no room.
        if self.sessions.is_empty() {
            return Vec::new();
        }
        let mut bytes = self.arrivals.to_le_bytes().to_vec();
        for Session { start, end } in &self.sessions {
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        bytes
    }

    /// Makes a row's own session one with those that it touches, unless all of that is over. The end of what it has become.
    fn add(&mut self, row: Session, reached: Timestamp) -> Option<Timestamp> {
        // What is over is closed before any row comes, but where key groups have come from other subtasks.
        let first = self.sessions.partition_point(|open| open.end < row.start || open.is_over(reached));
        let behind = first + self.sessions[first..].iter().take_while(|open| open.meets(row)).count();
        let joined = self.sessions[first..behind]
            .iter()
            .fold(row, |all, open| Session { start: all.start.min(open.start), end: all.end.max(open.end) });
        if joined.is_over(reached) {
            return None;
        }
        self.sessions.splice(first..behind, [joined]);
        Some(joined.end)
    }
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        inserts_only(&batch)?;
        if !batch.is_empty() {
            if self.floors.highest() > self.reached {
                self.close_ahead(&batch.rows, out)?;
            }
            self.take(&batch.rows)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.spec.time {
            TimeSource::Event(_) => self.advance(watermark, out),
            TimeSource::Processing => Ok(Progress::Done),
        }
    }

    fn next_timer(&self) -> Option<Timestamp> {
        match self.spec.spec.time {
            TimeSource::Event(_) => None,
            // Rows of a session's last millisecond may come until that is over.
            TimeSource::Processing => match &self.closing {
                Some(_) => Some(self.reached),
                None => self.ends.next().map(|end| end.saturating_add(1)),
            },
        }
    }

    fn on_timer(&mut self, now: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.spec.time {
            TimeSource::Event(_) => Ok(Progress::Done),
            TimeSource::Processing => self.advance(now.max(self.now()) - 1, out),
        }
    }

    fn end_of_input(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.spec.time {
            TimeSource::Event(_) => Ok(Progress::Done),
            TimeSource::Processing => self.advance(MAX_WATERMARK, out),
        }
    }

    fn before_barrier(&mut self, _out: &mut dyn Output) -> Result<(), OperatorError> {
        self.closing.as_ref().map_or(Ok(()), |closing| closing.again(&mut self.ends, self.reached))
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.rows.freeze());
        snapshot.frozen.extend(self.ends.freeze());
        Ok(())
    }
}

impl Task {
    /// Processing time. It does not go back behind what is over, whatever the clock does.
    fn now(&self) -> Timestamp {
        let reached = self.reached;
        self.clock.now_ms().max(if reached == MIN_WATERMARK { reached } else { reached.saturating_add(1) })
    }

    fn times(&self, rows: &RecordBatch) -> Result<ScalarBuffer<i64>, OperatorError> {
        match self.spec.spec.time {
            TimeSource::Event(column) => times(rows.column(column), rows.schema_ref().field(column).name()),
            TimeSource::Processing => Ok(vec![self.now(); rows.num_rows()].into()),
        }
    }

    /// Takes rows into their sessions.
    fn take(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let times = self.times(rows)?;
        self.group(rows)?;
        self.rows.open(&self.groups.keys, self.groups.first())?;
        let mut besides = Vec::with_capacity(self.groups.len());
        let mut reached = Vec::with_capacity(self.groups.len());
        for (group, &row) in self.groups.first().iter().enumerate() {
            besides.push(Beside::read(self.rows.beside(group)?));
            reached.push(self.reached_of(&self.groups.keys, row));
        }
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        self.spec.codec.encode(rows.columns(), &all, 0, &mut self.encoded);
        self.changes.clear();
        let (mut ends, mut late): (Vec<Option<Timestamp>>, u64) = (vec![None; besides.len()], 0);
        for (row, &time) in times.iter().enumerate() {
            let group = self.groups.of_row[row] as usize;
            let beside = &mut besides[group];
            let own = Session { start: time, end: time + self.spec.spec.gap };
            let Some(end) = beside.add(own, reached[group]) else {
                late += 1;
                continue;
            };
            ends[group] = Some(ends[group].map_or(end, |earliest| earliest.min(end)));
            self.changes.put(group, &sub_key(time, beside.arrivals), self.encoded.get(row));
            beside.arrivals += 1;
        }
        self.counters.late_rows.add(late);
        self.register(&besides, &ends)?;
        for (group, beside) in besides.iter().enumerate() {
            self.changes.set_beside(group, &beside.write());
        }
        Ok(self.rows.apply(&self.changes)?)
    }

    /// Partitions are looked at when one of their sessions may be over.
    fn register(&mut self, besides: &[Beside], touched: &[Option<Timestamp>]) -> Result<(), OperatorError> {
        let (mut rows, mut due) = (Vec::new(), Vec::new());
        for ((beside, &first), touched) in besides.iter().zip(self.groups.first()).zip(touched) {
            if touched.is_some() {
                for session in &beside.sessions {
                    rows.push(first);
                    due.push(session.end - 1);
                }
            }
        }
        Ok(self.ends.register(&self.groups.keys, &rows, &due)?)
    }

    /// Closes the sessions that are over at this time, some partitions at a time.
    fn advance(&mut self, time: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.reached = self.reached.max(time);
        let mut looked_at = false;
        while let Step::Look = Due::next(&mut self.closing, &mut self.ends, self.reached)? {
            // A barrier may pass when some have been looked at.
            if looked_at && out.is_full() {
                return Ok(Progress::More);
            }
            looked_at = true;
            let Some(mut closing) = self.closing.take() else { break };
            let reached = vec![self.reached; closing.rows.len()];
            closing.rows = self.close(&closing.keys, &closing.rows, &reached, out)?;
            self.closing = Some(closing);
        }
        Ok(Progress::Done)
    }

    /// Puts out a piece of the first session of each of these partitions, where it is over at the partition's time. Gives the
    /// partitions in which something is left.
    fn close(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        reached: &[Timestamp],
        out: &mut dyn Output,
    ) -> Result<Vec<u32>, OperatorError> {
        self.rows.open(keys, rows)?;
        let limit = PIECE_ROWS.div_ceil(rows.len().max(1));
        let mut due: Vec<(usize, Beside, Session)> = Vec::new();
        // A session may have become longer since its end was registered.
        let (mut again, mut ends) = (Vec::new(), Vec::new());
        for (map, reached) in reached.iter().enumerate() {
            let beside = Beside::read(self.rows.beside(map)?);
            if let Some(next) = beside.sessions.iter().find(|session| !session.is_over(*reached)) {
                again.push(rows[map]);
                ends.push(next.end - 1);
            }
            if let Some(session) = beside.sessions.first().copied().filter(|first| first.is_over(*reached)) {
                due.push((map, beside, session));
            }
        }
        self.ends.register(keys, &again, &ends)?;
        let bounds: Vec<_> = due.iter().map(|(_, _, of)| (ordered(of.start), ordered(of.end))).collect();
        let ranges: Vec<MapRange<'_>> = due
            .iter()
            .zip(&bounds)
            .map(|((map, ..), (from, to))| MapRange {
                from: Bound::Included(from),
                to: Bound::Excluded(to),
                limit,
                ..MapRange::all(*map)
            })
            .collect();
        let mut entries: Vec<Vec<Entry>> = vec![Vec::new(); due.len()];
        self.rows.range(&ranges, &mut |i, sub, row| {
            entries[i].push((sub.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        })?;
        self.changes.clear();
        let mut left = Vec::new();
        for ((map, beside, _), entries) in due.iter_mut().zip(&entries) {
            for (sub, _) in entries {
                self.changes.remove(*map, sub);
            }
            if entries.len() < limit {
                beside.sessions.remove(0);
            }
            if beside.sessions.first().is_some_and(|next| next.is_over(reached[*map])) {
                left.push(rows[*map]);
            }
            self.changes.set_beside(*map, &beside.write());
        }
        self.rows.apply(&self.changes)?;
        let sessions: Vec<Session> = due.iter().map(|(_, _, session)| *session).collect();
        self.emit(&sessions, &entries, out)?;
        Ok(left)
    }

    fn emit(&self, sessions: &[Session], entries: &[Vec<Entry>], out: &mut dyn Output) -> Result<(), OperatorError> {
        let rows: Vec<&[u8]> = entries.iter().flatten().map(|(_, row)| row.as_slice()).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let each = |of: fn(&Session) -> Timestamp| -> Vec<Timestamp> {
            let of_session = sessions.iter().zip(entries);
            of_session.flat_map(|(session, rows)| std::iter::repeat_n(of(session), rows.len())).collect()
        };
        let mut columns = self.spec.codec.decode(&rows)?;
        columns.extend(columns_of_windows(each(|of| of.start), &each(|of| of.end), &self.spec.time_type)?);
        out.emit(Batch::inserts(RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?))
    }

    /// Key groups that came from other subtasks may be ahead in time: what is over for them goes out before other rows come.
    fn close_ahead(&mut self, rows: &RecordBatch, out: &mut dyn Output) -> Result<(), OperatorError> {
        self.group(rows)?;
        let keys = std::mem::take(&mut self.groups.keys);
        let mut left: Vec<u32> = self.groups.first().to_vec();
        while !left.is_empty() {
            let reached: Vec<Timestamp> = left.iter().map(|&row| self.reached_of(&keys, row)).collect();
            left = self.close(&keys, &left, &reached, out)?;
        }
        Ok(())
    }

    fn group(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let partition: Vec<ArrayRef> = self.spec.spec.partition.iter().map(|&c| Arc::clone(rows.column(c))).collect();
        self.groups.group(&partition, rows.num_rows())
    }

    /// The time that has been reached for a key.
    fn reached_of(&self, keys: &Keys, row: u32) -> Timestamp {
        let of = key_group(keys.hash(row as usize), self.max_parallelism);
        self.floors.of(u32::from(of.0)).max(self.reached)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_beside_comes_back_from_its_bytes() {
        let beside =
            Beside { arrivals: 7, sessions: vec![Session { start: -5, end: 9 }, Session { start: 20, end: 30 }] };
        assert_eq!(Beside::read(&beside.write()), beside);
        assert_eq!(Beside::read(&[]), Beside::default());
        let golden = [7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Beside { arrivals: 7, sessions: vec![Session { start: 1, end: 2 }] }.write(), golden);
    }

    proptest! {
        #[test]
        fn sessions_are_what_is_left_when_all_that_touch_are_joined(times in prop::collection::vec(0i64..100, 1..20)) {
            let mut beside = Beside::default();
            for &time in &times {
                beside.add(Session { start: time, end: time + 7 }, MIN_WATERMARK);
            }
            let mut sorted = times;
            sorted.sort_unstable();
            let mut expected: Vec<Session> = Vec::new();
            for time in sorted {
                match expected.last_mut() {
                    Some(last) if time <= last.end => last.end = time + 7,
                    _ => expected.push(Session { start: time, end: time + 7 }),
                }
            }
            prop_assert_eq!(beside.sessions, expected);
        }
    }
}
