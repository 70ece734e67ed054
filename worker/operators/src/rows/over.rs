//! Aggregates `OVER (PARTITION BY … ORDER BY time …)`: each row with what comes of the rows up to it.
//!
//! By event time a row waits until the watermark has reached it, so that all rows before it are there. By processing time rows are
//! in order as they come; only RANGE with a bound waits for the end of its millisecond, since all rows of it belong together.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, interleave};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use weir_engine::{
    Batch, Clock, Counters, MAX_WATERMARK, MIN_WATERMARK, Operator, OperatorContext, OperatorError, OperatorFactory,
    OperatorSnapshot, Output, PIECE_ROWS, Progress, RestoredWatermarks, Timestamp,
};
use weir_state::{Changes, Keys, MapRange, MapTable, TableShape, Timers, key_group, type_name};

use crate::aggregate::ingest::{Ingest, RowGroups, inserts_only};
use crate::aggregate::plan::{Plan, is_key};
use crate::aggregate::staterow::{Layout, Rows};
use crate::aggregate::values::{Groups, Values};
use crate::rows::column::{Columns, take_columns};
use crate::rows::due::{Due, Step, sub_key, time_of};
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{
    AggregateInput, Aggregation, OverCall, OverFrame, OverSpec, SpecError, TimeSource, field, schema_of, window_fields,
};
use crate::window::slices::times;

/// The name of the maps.
const ROWS: &str = "rows";

/// The name of the timers.
const PENDING: &str = "pending";

/// How long a bucket of timers is: rows wait for as long as the watermark is behind.
const BUCKET_MS: i64 = 1_000;

/// Pairs of a row and a row that it sees that are gone through at once.
const PAIRS: usize = 1 << 16;

/// Rows of a partition for which a running value is made at once: each sees those before it among them.
const RUN: usize = 16;

/// Rows with aggregates over those before them.
///
/// State: a map a partition, from time and order of arrival to the row: those that wait, and of those that are through the ones
/// that later rows see. Beside it stand how many are through, the time of the last, and running values where the frame has no bound.
#[derive(Debug, Clone)]
pub struct Over {
    spec: OverSpec,
    ingest: Ingest,
    layout: Layout,
    /// The input as the aggregates are given it: columns that none reads have no type.
    seen: SchemaRef,
    output: SchemaRef,
    codec: RowCodec,
    /// Rows that are through and are kept, where that is a number.
    keeps: usize,
}

impl Over {
    /// Checks the spec. The output has the input's columns, then one for each call.
    pub fn new(spec: OverSpec) -> Result<Self, SpecError> {
        for &column in &spec.partition {
            let field = field(&spec.input, column)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
        }
        // It says whether the column is a timestamp.
        window_fields(&spec.input, spec.time)?;
        let aggregates: Vec<_> = spec
            .calls
            .iter()
            .filter_map(|call| if let OverCall::Aggregate(aggregate) = call { Some(aggregate.clone()) } else { None })
            .collect();
        if aggregates.iter().any(|aggregate| aggregate.distinct) {
            return Err(SpecError::Unsupported("DISTINCT with OVER".to_owned()));
        }
        let aggregation = Aggregation { input: Arc::clone(&spec.input), group: Vec::new(), aggregates };
        aggregation.check()?;
        let mut results = aggregation.output_fields()?.into_iter();
        let mut fields: Vec<Field> = spec.input.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut lag = 0;
        for call in &spec.calls {
            match call {
                OverCall::Aggregate(_) => fields.extend(results.next()),
                OverCall::Lag { name, column, offset, .. } => {
                    lag = lag.max(*offset);
                    fields.push(Field::new(name, field(&spec.input, *column)?.data_type().clone(), true));
                }
            }
        }
        let keeps = match spec.frame {
            OverFrame::Rows(Some(bound)) => bound.max(lag),
            OverFrame::Rows(None) | OverFrame::Range(_) => lag,
        };
        if lag > 0 && matches!(spec.frame, OverFrame::Range(Some(_))) {
            return Err(SpecError::Unsupported("LAG beside a RANGE with a bound".to_owned()));
        }
        let keeps = usize::try_from(keeps).unwrap_or(usize::MAX);
        let codec = RowCodec::new(spec.input.fields().iter().map(AsRef::as_ref))?;
        let ingest = Ingest::new(Plan::new(aggregation, false)?, AggregateInput::Rows, false);
        let read = |column: usize| {
            let of = |one: &crate::AggregateSpec| one.argument == Some(column) || one.filter == Some(column);
            spec.calls.iter().any(|call| matches!(call, OverCall::Aggregate(one) if of(one)))
        };
        let seen = spec.input.fields().iter().enumerate().map(|(at, field)| {
            let data_type = if read(at) { field.data_type().clone() } else { DataType::Null };
            Field::new(field.name(), data_type, true)
        });
        let seen = Arc::new(Schema::new(seen.collect::<Vec<_>>()));
        let layout = Layout::new(&ingest.plan.accumulators);
        Ok(Self { output: schema_of(fields), seen, layout, ingest, codec, keeps, spec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    fn key_types(&self) -> Vec<String> {
        self.spec.partition.iter().map(|&column| type_name(self.spec.input.field(column).data_type())).collect()
    }

    /// Rows go out as they come.
    fn is_immediate(&self) -> bool {
        self.spec.time == TimeSource::Processing && !matches!(self.spec.frame, OverFrame::Range(Some(_)))
    }

    /// Values run on from row to row.
    fn is_running(&self) -> bool {
        matches!(self.spec.frame, OverFrame::Rows(None) | OverFrame::Range(None))
    }

    /// Rows of one time see each other.
    fn has_peers(&self) -> bool {
        matches!(self.spec.frame, OverFrame::Range(_)) && !self.is_immediate()
    }
}

impl OperatorFactory for Over {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        // What event time has reached says nothing about the clock.
        let floors = match self.spec.time {
            TimeSource::Event(_) => ctx.restored_watermarks.clone(),
            TimeSource::Processing => RestoredWatermarks::none(),
        };
        Ok(Box::new(Task {
            rows: ctx.state.map(&ctx.identity, ROWS)?,
            pending: ctx.state.timers(&ctx.identity, PENDING, BUCKET_MS)?,
            spec: self.clone(),
            reached: floors.lowest(),
            floors,
            max_parallelism: ctx.max_parallelism,
            counters: Arc::clone(&ctx.counters),
            clock: Arc::clone(&ctx.clock),
            groups: RowGroups::default(),
            encoded: EncodedRows::default(),
            changes: Changes::new(),
            due: None,
            now: None,
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let key = self.key_types();
        let value: Vec<String> = self.spec.input.fields().iter().map(|field| type_name(field.data_type())).collect();
        let order = ["TIME", "ARRIVAL"].map(str::to_owned);
        let mut beside = ["ARRIVALS", "LAST", "THROUGH", "HELD", "GONE"].map(str::to_owned).to_vec();
        if self.is_running() {
            beside.extend(crate::aggregate::tables::accumulators(&self.ingest.plan));
        }
        let mut all = MapTable::shapes(ROWS, &key, &order, &value, &beside).to_vec();
        all.push(Timers::shape(PENDING, &key, BUCKET_MS));
        all
    }
}

struct Task {
    spec: Over,
    rows: MapTable,
    /// When partitions have rows that are to go out.
    pending: Timers,
    /// Time has come here.
    reached: Timestamp,
    floors: RestoredWatermarks,
    max_parallelism: u32,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    groups: RowGroups,
    encoded: EncodedRows,
    changes: Changes,
    /// Partitions that are due, and are being looked at.
    due: Option<Due>,
    /// Partitions with rows of the batch that are to go out as they have come.
    now: Option<(Keys, Vec<u32>)>,
}

/// What stands beside a partition's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beside {
    /// Rows that have come so far.
    arrivals: u64,
    /// The time of the last row that is through.
    last: Timestamp,
    /// Rows in the map that are through.
    through: u64,
    /// Time had come here when a row came that is before it and not late: such rows go out when time has moved on.
    held: Timestamp,
    /// When the partition is forgotten, where its frame is a length of time.
    gone: Timestamp,
    /// The running values after the last row that is through.
    values: Vec<u8>,
}

impl Beside {
    fn read(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        if bytes.len() < BESIDE_BYTES {
            return Self {
                arrivals: 0,
                last: MIN_WATERMARK,
                through: 0,
                held: MIN_WATERMARK,
                gone: MIN_WATERMARK,
                values: Vec::new(),
            };
        }
        let values = bytes[BESIDE_BYTES..].to_vec();
        let (last, held, gone) = (number(8).cast_signed(), number(24).cast_signed(), number(32).cast_signed());
        Self { arrivals: number(0), last, through: number(16), held, gone, values }
    }

    /// A row has come. As Flink has it, a partition is forgotten half a frame after no row can see this one any more, unless that is
    /// already later than it has to be; then all is as if it had never been, what is late too.
    fn stay(&mut self, frame: OverFrame, time: Timestamp) {
        let OverFrame::Range(Some(bound)) = frame else { return };
        let least = time.saturating_add(bound).saturating_add(1);
        if self.gone == MIN_WATERMARK || self.gone < least {
            self.gone = least.saturating_add(bound / 2);
        }
    }

    fn is_gone(&self, reached: Timestamp) -> bool {
        self.gone > MIN_WATERMARK && self.gone <= reached
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = self.arrivals.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.last.to_le_bytes());
        bytes.extend_from_slice(&self.through.to_le_bytes());
        bytes.extend_from_slice(&self.held.to_le_bytes());
        bytes.extend_from_slice(&self.gone.to_le_bytes());
        bytes.extend_from_slice(&self.values);
        bytes
    }
}

/// Bytes before the running values.
const BESIDE_BYTES: usize = 40;

/// A row: what it is ordered by, and itself.
type Entry = (Vec<u8>, Vec<u8>);

/// A partition whose rows go out.
struct Partition {
    map: usize,
    beside: Beside,
    /// Those that are through, and behind them those that go out.
    entries: Vec<Entry>,
    /// Where they stand among all that have been read.
    start: usize,
}

impl Partition {
    fn through(&self) -> usize {
        self.beside.through as usize
    }

    fn time(&self, at: usize) -> Timestamp {
        time_of(&self.entries[at].0)
    }

    /// The rows that go out, as far as one value is for all of them: a row, or all of one time.
    fn units(&self, peers: bool) -> Vec<(usize, usize)> {
        let mut units: Vec<(usize, usize)> = Vec::new();
        for at in self.through()..self.entries.len() {
            match units.last_mut() {
                Some((_, end)) if peers && self.time(at) == self.time(*end - 1) => *end = at + 1,
                _ => units.push((at, at + 1)),
            }
        }
        units
    }
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        inserts_only(&batch)?;
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        self.take(&batch.rows)?;
        if self.spec.is_immediate() {
            self.now = Some((std::mem::take(&mut self.groups.keys), self.groups.first().to_vec()));
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some((keys, rows)) = self.now.take() {
            let left = self.fire(&keys, &rows, MAX_WATERMARK, out)?;
            if left.is_empty() {
                break;
            }
            self.now = Some((keys, left));
            if out.is_full() {
                return Ok(Progress::More);
            }
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
        match (self.spec.spec.time, &self.due) {
            (TimeSource::Event(_), _) => None,
            (TimeSource::Processing, Some(_)) => Some(self.reached),
            (TimeSource::Processing, None) => self.pending.next().map(|time| time.saturating_add(1)),
        }
    }

    fn on_timer(&mut self, now: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.spec.time {
            TimeSource::Event(_) => Ok(Progress::Done),
            // Rows may come until the millisecond is over.
            TimeSource::Processing => self.advance(now.max(self.clock.now_ms()) - 1, out),
        }
    }

    fn end_of_input(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.spec.time {
            TimeSource::Event(_) => Ok(Progress::Done),
            TimeSource::Processing => self.advance(MAX_WATERMARK, out),
        }
    }

    fn before_barrier(&mut self, _out: &mut dyn Output) -> Result<(), OperatorError> {
        self.due.as_ref().map_or(Ok(()), |due| due.again(&mut self.pending, self.reached))
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.rows.freeze());
        snapshot.frozen.extend(self.pending.freeze());
        Ok(())
    }
}

impl Task {
    /// The time that has been reached for a key: key groups that came from other subtasks may be ahead.
    fn reached_of(&self, row: u32) -> Timestamp {
        let of = key_group(self.groups.keys.hash(row as usize), self.max_parallelism);
        self.floors.of(u32::from(of.0)).max(self.reached)
    }

    /// Puts rows among those of their partitions, to wait for their time.
    fn take(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let partition: Vec<ArrayRef> = self.spec.spec.partition.iter().map(|&c| Arc::clone(rows.column(c))).collect();
        self.groups.group(&partition, rows.num_rows())?;
        self.rows.open(&self.groups.keys, self.groups.first())?;
        let (mut besides, mut reached) = (Vec::new(), Vec::new());
        for (group, &row) in self.groups.first().iter().enumerate() {
            besides.push(Beside::read(self.rows.beside(group)?));
            reached.push(self.reached_of(row));
        }
        let of_rows = match self.spec.spec.time {
            TimeSource::Event(column) => Some(times(rows.column(column), rows.schema_ref().field(column).name())?),
            TimeSource::Processing => None,
        };
        let now = if self.spec.is_immediate() { 0 } else { self.clock.now_ms() };
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        self.spec.codec.encode(rows.columns(), &all, 0, &mut self.encoded);
        self.changes.clear();
        let (mut first, mut late): (Vec<Option<Timestamp>>, u64) = (vec![None; besides.len()], 0);
        for row in 0..rows.num_rows() {
            let group = self.groups.of_row[row] as usize;
            let beside = &mut besides[group];
            // As Flink has it: with a bound, a row is late when a later one of its key is through; without, when time has passed it.
            let late_up_to = if self.spec.is_running() { reached[group] } else { beside.last };
            let time = match &of_rows {
                Some(times) if times[row] <= late_up_to => {
                    late += 1;
                    continue;
                }
                Some(times) => times[row],
                // The clock does not go back behind what is through.
                None if self.spec.is_immediate() => now,
                None => now.max(beside.last.saturating_add(1)),
            };
            beside.stay(self.spec.spec.frame, time);
            let mut due = time;
            if of_rows.is_some() && time <= reached[group] {
                beside.held = reached[group];
                due = beside.held.saturating_add(1);
            }
            first[group] = Some(first[group].map_or(due, |first| first.min(due)));
            self.changes.put(group, &sub_key(time, beside.arrivals), self.encoded.get(row));
            beside.arrivals += 1;
        }
        self.counters.late_rows.add(late);
        let (mut which, mut when) = (Vec::new(), Vec::new());
        for ((group, first), &row) in first.iter().enumerate().zip(self.groups.first()) {
            if let Some(first) = first {
                self.changes.set_beside(group, &besides[group].write());
                which.push(row);
                when.push(*first);
            }
        }
        if !self.spec.is_immediate() {
            self.pending.register(&self.groups.keys, &which, &when)?;
        }
        Ok(self.rows.apply(&self.changes)?)
    }

    /// Lets out the rows that time has reached, some partitions at a time.
    fn advance(&mut self, time: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.reached = self.reached.max(time);
        let mut looked_at = false;
        while let Step::Look = Due::next(&mut self.due, &mut self.pending, self.reached)? {
            // A barrier may pass when some have been looked at.
            if looked_at && out.is_full() {
                return Ok(Progress::More);
            }
            looked_at = true;
            let Some(mut due) = self.due.take() else { break };
            due.rows = self.fire(&due.keys, &due.rows, self.reached, out)?;
            self.due = Some(due);
        }
        Ok(Progress::Done)
    }

    /// Puts out a piece of the rows of these partitions up to a time. Gives the partitions in which there may be more of them.
    fn fire(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        up_to: Timestamp,
        out: &mut dyn Output,
    ) -> Result<Vec<u32>, OperatorError> {
        self.rows.open(keys, rows)?;
        let share = PIECE_ROWS.div_ceil(rows.len().max(1));
        let mut partitions = self.read(rows.len(), share, up_to)?;
        let left: Vec<u32> = partitions
            .iter()
            .filter(|partition| partition.entries.len() >= partition.through() + share)
            .map(|partition| rows[partition.map])
            .collect();
        self.emit(&mut partitions, out)?;
        self.keep(keys, rows, &mut partitions, &left, up_to)?;
        Ok(left)
    }

    /// The rows that are through, and behind them as many as go out.
    fn read(&mut self, maps: usize, share: usize, up_to: Timestamp) -> Result<Vec<Partition>, OperatorError> {
        let to = sub_key(up_to, u64::MAX);
        let mut partitions = Vec::with_capacity(maps);
        for map in 0..maps {
            let beside = Beside::read(self.rows.beside(map)?);
            partitions.push(Partition { map, beside, entries: Vec::new(), start: 0 });
        }
        let range = |of: &Partition| MapRange {
            to: Bound::Included(&to),
            // What is held is left for later.
            limit: of.through() + if of.beside.held < up_to { share } else { 0 },
            ..MapRange::all(of.map)
        };
        let ranges: Vec<MapRange<'_>> = partitions.iter().map(range).collect();
        let mut entries: Vec<Vec<Entry>> = vec![Vec::new(); maps];
        self.rows.range(&ranges, &mut |i, sub, row| {
            entries[i].push((sub.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        })?;
        if self.spec.has_peers() {
            self.read_peers(share, &partitions, &mut entries)?;
        }
        for (partition, entries) in partitions.iter_mut().zip(entries) {
            partition.entries = entries;
        }
        Ok(partitions)
    }

    /// All rows of one time go out together.
    fn read_peers(
        &mut self,
        share: usize,
        partitions: &[Partition],
        entries: &mut [Vec<Entry>],
    ) -> Result<(), OperatorError> {
        let cut = |(partition, entries): (&Partition, &Vec<Entry>)| {
            let (last, _) = entries.last().filter(|_| entries.len() >= partition.through() + share)?;
            Some((partition.map, last.clone(), sub_key(time_of(last), u64::MAX)))
        };
        let cut: Vec<_> = partitions.iter().zip(entries.iter()).filter_map(cut).collect();
        let ranges: Vec<MapRange<'_>> = cut
            .iter()
            .map(|(map, from, to)| MapRange {
                from: Bound::Excluded(from),
                to: Bound::Included(to),
                ..MapRange::all(*map)
            })
            .collect();
        Ok(self.rows.range(&ranges, &mut |i, sub, row| {
            entries[cut[i].0].push((sub.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        })?)
    }

    /// Puts out what goes out of these partitions.
    fn emit(&self, partitions: &mut [Partition], out: &mut dyn Output) -> Result<(), OperatorError> {
        let mut next = 0;
        for partition in partitions.iter_mut() {
            partition.start = next;
            next += partition.entries.len();
        }
        let going: Vec<u32> = partitions
            .iter()
            .flat_map(|of| (of.start + of.through()..of.start + of.entries.len()).map(|at| at as u32))
            .collect();
        if going.is_empty() {
            return Ok(());
        }
        let bytes: Vec<&[u8]> = partitions.iter().flat_map(|of| &of.entries).map(|(_, row)| row.as_slice()).collect();
        let columns = self.spec.codec.decode(&bytes)?;
        let rows = bytes.len();
        let has_aggregates = !self.spec.ingest.plan.outputs.is_empty();
        let results = if has_aggregates { self.aggregates(partitions, &columns, rows)? } else { Vec::new() };
        let mut results = results.into_iter();
        let mut all = take_columns(&columns, &UInt32Array::from(going))?;
        for call in &self.spec.spec.calls {
            match call {
                OverCall::Aggregate(_) => all.extend(results.next()),
                OverCall::Lag { column, offset, default, .. } => {
                    let peers = self.spec.has_peers();
                    all.push(lag(partitions, peers, &columns[*column], *offset, default.as_ref())?);
                }
            }
        }
        out.emit(Batch::inserts(RecordBatch::try_new(Arc::clone(&self.spec.output), all)?))
    }

    /// The aggregates of all rows that go out, in their order.
    fn aggregates(
        &self,
        partitions: &mut [Partition],
        columns: &[ArrayRef],
        rows: usize,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let seen = self.spec.seen.fields().iter().zip(columns).map(|(field, column)| match field.data_type() {
            DataType::Null => new_null_array(&DataType::Null, rows),
            _ => Arc::clone(column),
        });
        let seen: Vec<ArrayRef> = seen.collect();
        if self.spec.is_running() { self.running(partitions, &seen) } else { self.bounded(partitions, &seen) }
    }

    /// What each row sees is gone through anew.
    fn bounded(&self, partitions: &[Partition], seen: &[ArrayRef]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut pairs = Pairs::default();
        let mut of_row: Vec<u32> = Vec::new();
        let mut groups = 0;
        for partition in partitions {
            let mut from = 0;
            for (begin, end) in partition.units(self.spec.has_peers()) {
                match self.spec.spec.frame {
                    OverFrame::Rows(bound) => from = begin.saturating_sub(bound.map_or(0, |bound| bound as usize)),
                    OverFrame::Range(bound) => {
                        let earliest = partition.time(begin).saturating_sub(bound.unwrap_or(0));
                        while partition.time(from) < earliest {
                            from += 1;
                        }
                    }
                }
                pairs.add(partition.start + from..partition.start + end, groups);
                of_row.extend(std::iter::repeat_n(groups, end - begin));
                groups += 1;
            }
        }
        let mut values = Values::new(&self.spec.ingest.plan.accumulators);
        values.resize(groups as usize);
        self.update(&mut values, &pairs, seen)?;
        take_columns(&values.finish(&self.spec.ingest.plan)?, &UInt32Array::from(of_row))
    }

    /// Values run on from row to row, for some rows of each partition at a time.
    fn running(&self, partitions: &mut [Partition], seen: &[ArrayRef]) -> Result<Vec<ArrayRef>, OperatorError> {
        let Over { ingest, layout, .. } = &self.spec;
        let units: Vec<_> = partitions.iter().map(|of| of.units(self.spec.has_peers())).collect();
        let longest = units.iter().map(Vec::len).max().unwrap_or_default();
        let mut rounds: Vec<Vec<ArrayRef>> = Vec::new();
        // For each unit of each partition, where its result stands among all.
        let mut places: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        let mut made = 0;
        for round in 0..longest.div_ceil(RUN) {
            let (mut initial, mut pairs, mut lasts) = (Rows::default(), Pairs::default(), Vec::new());
            for (i, partition) in partitions.iter().enumerate() {
                let run = units[i].iter().enumerate().skip(round * RUN).take(RUN);
                let mut first = None;
                for (unit, &(begin, end)) in run {
                    let group = initial.len() as u32;
                    let from = *first.get_or_insert(begin);
                    initial.push(&partition.beside.values, layout);
                    pairs.add(partition.start + from..partition.start + end, group);
                    places.insert((i, unit), made + group);
                }
                if first.is_some() {
                    lasts.push((i, initial.len() - 1));
                }
            }
            made += initial.len() as u32;
            let mut values = Values::new(&ingest.plan.accumulators);
            values.load(&initial, layout);
            self.update(&mut values, &pairs, seen)?;
            rounds.push(values.finish(&ingest.plan)?);
            let mut stored = Rows::default();
            values.store(&mut stored, layout);
            for (i, last) in lasts {
                partitions[i].beside.values = stored.get(last).to_vec();
            }
        }
        let mut of_row: Vec<u32> = Vec::new();
        for (i, units) in units.iter().enumerate() {
            for (unit, (begin, end)) in units.iter().enumerate() {
                of_row.extend(std::iter::repeat_n(places[&(i, unit)], end - begin));
            }
        }
        let all = (0..ingest.plan.outputs.len()).map(|output| {
            let each: Vec<&dyn Array> = rounds.iter().map(|round| round[output].as_ref()).collect();
            Ok(concat(&each)?)
        });
        let all = all.collect::<Result<Vec<ArrayRef>, OperatorError>>()?;
        take_columns(&all, &UInt32Array::from(of_row))
    }

    /// Takes the rows that each value sees into it.
    fn update(&self, values: &mut Values, pairs: &Pairs, seen: &[ArrayRef]) -> Result<(), OperatorError> {
        let (mut rows, mut of_row): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut flush = |rows: &mut Vec<u32>, of_row: &mut Vec<u32>| -> Result<(), OperatorError> {
            let columns = take_columns(seen, &UInt32Array::from(std::mem::take(rows)))?;
            let batch = RecordBatch::try_new(Arc::clone(&self.spec.seen), columns)?;
            let groups = Groups { of_row: of_row.as_slice(), len: values.len, signs: None };
            self.spec.ingest.update(values, groups, &mut Columns::new(&batch))?;
            of_row.clear();
            Ok(())
        };
        for (range, group) in &pairs.0 {
            for row in range.clone() {
                rows.push(row as u32);
                of_row.push(*group);
                if rows.len() == PAIRS {
                    flush(&mut rows, &mut of_row)?;
                }
            }
        }
        if rows.is_empty() { Ok(()) } else { flush(&mut rows, &mut of_row) }
    }

    /// Keeps of the rows that are through what later ones see, and looks at the partitions again when others are due.
    fn keep(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        partitions: &mut [Partition],
        left: &[u32],
        up_to: Timestamp,
    ) -> Result<(), OperatorError> {
        self.changes.clear();
        for partition in partitions.iter_mut() {
            let length = partition.entries.len();
            if length > partition.through() {
                partition.beside.last = partition.time(length - 1);
            }
            let last = partition.beside.last;
            let from = match self.spec.spec.frame {
                OverFrame::Range(Some(_))
                    if partition.beside.is_gone(up_to) && !left.contains(&rows[partition.map]) =>
                {
                    length
                }
                OverFrame::Range(Some(bound)) => {
                    let earliest = last.saturating_sub(bound);
                    (0..length).find(|&at| partition.time(at) > earliest).unwrap_or(length)
                }
                OverFrame::Rows(_) | OverFrame::Range(None) => length.saturating_sub(self.spec.keeps),
            };
            partition.entries[..from].iter().for_each(|(sub, _)| self.changes.remove(partition.map, sub));
            partition.beside.through = (length - from) as u64;
            self.changes.set_beside(partition.map, &partition.beside.write());
        }
        self.rows.apply(&self.changes)?;
        self.look_again(keys, rows, partitions, left, up_to)
    }

    fn look_again(
        &mut self,
        keys: &Keys,
        rows: &[u32],
        partitions: &[Partition],
        left: &[u32],
        up_to: Timestamp,
    ) -> Result<(), OperatorError> {
        if self.spec.is_immediate() {
            return Ok(());
        }
        let behind = sub_key(up_to, u64::MAX);
        let mut waiting = Vec::new();
        let (mut which, mut when) = (Vec::new(), Vec::new());
        let mut gone = Changes::new();
        for Partition { map, beside, .. } in partitions {
            if left.contains(&rows[*map]) {
                continue;
            }
            if beside.held >= up_to && self.rows.len(*map)? > beside.through {
                which.push(rows[*map]);
                when.push(beside.held.saturating_add(1));
            } else if self.rows.len(*map)? > beside.through {
                waiting.push(MapRange { from: Bound::Excluded(&behind), limit: 1, ..MapRange::all(*map) });
            } else if beside.is_gone(up_to) {
                gone.set_beside(*map, &[]);
            } else if beside.gone > MIN_WATERMARK {
                which.push(rows[*map]);
                when.push(beside.gone);
            }
        }
        self.rows.range(&waiting, &mut |i, sub, _| {
            which.push(rows[waiting[i].map]);
            when.push(time_of(sub));
            ControlFlow::Continue(())
        })?;
        if !gone.is_empty() {
            self.rows.apply(&gone)?;
        }
        Ok(self.pending.register(keys, &which, &when)?)
    }
}

/// Rows, and the value that sees them.
#[derive(Debug, Default)]
struct Pairs(Vec<(std::ops::Range<usize>, u32)>);

impl Pairs {
    fn add(&mut self, rows: std::ops::Range<usize>, group: u32) {
        self.0.push((rows, group));
    }
}

/// The value of the row so many rows before each that goes out; by RANGE so many before the last row of its time, as Flink has it.
fn lag(
    partitions: &[Partition],
    peers: bool,
    column: &ArrayRef,
    offset: u64,
    default: Option<&ArrayRef>,
) -> Result<ArrayRef, OperatorError> {
    let nothing = default.map_or_else(|| new_null_array(column.data_type(), 1), Arc::clone);
    let mut picked = Vec::new();
    for partition in partitions {
        for (begin, end) in partition.units(peers) {
            let before = usize::try_from(offset).ok().and_then(|offset| (end - 1).checked_sub(offset));
            let place = before.map_or((1, 0), |before| (0, partition.start + before));
            picked.extend(std::iter::repeat_n(place, end - begin));
        }
    }
    Ok(interleave(&[column.as_ref(), nothing.as_ref()], &picked)?)
}
