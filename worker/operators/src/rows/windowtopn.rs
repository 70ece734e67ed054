//! `ROW_NUMBER() OVER (PARTITION BY window_start, window_end, … ORDER BY …) <= n`: the first rows of each partition of a window, put
//! out when the window closes. They are final then: nothing is updated.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::{
    Batch, Counters, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, PIECE_ROWS,
    Progress, RestoredWatermarks, Timestamp,
};
use weir_state::{Changes, Keys, MapRange, MapTable, SortKeys, SortOrder, TableShape, Timers, key_group, type_name};

use crate::aggregate::ingest::{RowGroups, inserts_only};
use crate::aggregate::plan::is_key;
use crate::rows::due::{Due, Step};
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{SpecError, WindowTopNSpec, field, schema_of};
use crate::window::slices::times;

/// The name of the maps.
const ROWS: &str = "rows";

/// The name of the timers.
const ENDS: &str = "ends";

/// How long a bucket of timers is.
const BUCKET_MS: i64 = 1_000;

/// Bytes of the number that tells rows of one sort key apart, in the order in which they came.
const SEQUENCE: usize = 8;

/// The first rows of each partition of a window.
///
/// State: a map a partition, from sort key and order of arrival to the row, of the rows that are among the first so far.
#[derive(Debug, Clone)]
pub struct WindowTopN {
    spec: WindowTopNSpec,
    output: SchemaRef,
    orders: Vec<SortOrder>,
    codec: RowCodec,
}

impl WindowTopN {
    /// Checks the spec. The output has the input's columns, then the number if it is asked for.
    pub fn new(spec: WindowTopNSpec) -> Result<Self, SpecError> {
        for column in spec.partition.iter().copied().chain(spec.order.iter().map(|(column, _)| *column)) {
            let field = field(&spec.input, column)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
        }
        if !spec.partition.contains(&spec.end) {
            return Err(SpecError::BadWindow("rows of a window are not partitioned by its end".to_owned()));
        }
        if spec.from == 0 || spec.to < spec.from {
            return Err(SpecError::Unsupported(format!(
                "ROW_NUMBER from {} to {}: numbers are counted from 1",
                spec.from, spec.to
            )));
        }
        let codec = RowCodec::new(spec.input.fields().iter().map(AsRef::as_ref))?;
        let mut fields: Vec<Field> = spec.input.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(spec.rank.iter().map(|name| Field::new(name, DataType::Int64, false)));
        let orders = spec.order.iter().map(|(_, order)| *order).collect();
        Ok(Self { output: schema_of(fields), orders, codec, spec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    fn types(&self, columns: impl Iterator<Item = usize>) -> Vec<String> {
        columns.map(|column| type_name(self.spec.input.field(column).data_type())).collect()
    }
}

impl OperatorFactory for WindowTopN {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task {
            rows: ctx.state.map(&ctx.identity, ROWS)?,
            ends: ctx.state.timers(&ctx.identity, ENDS, BUCKET_MS)?,
            spec: self.clone(),
            reached: ctx.restored_watermarks.lowest(),
            floors: ctx.restored_watermarks.clone(),
            max_parallelism: ctx.max_parallelism,
            counters: Arc::clone(&ctx.counters),
            groups: RowGroups::default(),
            sort_keys: SortKeys::new(),
            encoded: EncodedRows::default(),
            changes: Changes::new(),
            due: None,
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let key = self.types(self.spec.partition.iter().copied());
        let order = self.spec.order.iter().map(|(column, order)| {
            let way = if order.descending { "DESC" } else { "ASC" };
            let nulls = if order.nulls_first { "FIRST" } else { "LAST" };
            format!("{} {way} NULLS {nulls}", type_name(self.spec.input.field(*column).data_type()))
        });
        let order: Vec<String> = order.collect();
        let value = self.types(0..self.spec.input.fields().len());
        let mut beside = ["END", "ARRIVALS", "OUT"].map(str::to_owned).to_vec();
        // What was left out is nowhere: other rows cannot be asked for later.
        beside.push(format!("ROW_NUMBER TO {}", self.spec.to));
        let mut all = MapTable::shapes(ROWS, &key, &order, &value, &beside).to_vec();
        all.push(Timers::shape(ENDS, &key, BUCKET_MS));
        all
    }
}

struct Task {
    spec: WindowTopN,
    rows: MapTable,
    /// When partitions close.
    ends: Timers,
    reached: Timestamp,
    floors: RestoredWatermarks,
    max_parallelism: u32,
    counters: Arc<Counters>,
    groups: RowGroups,
    sort_keys: SortKeys,
    encoded: EncodedRows,
    changes: Changes,
    due: Option<Due>,
}

/// What stands beside a partition's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Beside {
    /// The end of its window.
    end: Timestamp,
    /// Rows that have come so far.
    arrivals: u64,
    /// Rows that have been put out, while it closes.
    out: u64,
    /// Once no number is free: a row that comes behind this is left out.
    threshold: Option<Vec<u8>>,
}

impl Beside {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (end, rest) = bytes.split_first_chunk::<8>()?;
        let (arrivals, rest) = rest.split_first_chunk::<8>()?;
        let (out, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            end: i64::from_le_bytes(*end),
            arrivals: u64::from_le_bytes(*arrivals),
            out: u64::from_le_bytes(*out),
            // A sort key may be empty: the byte says that it is there.
            threshold: rest.split_first().map(|(_, threshold)| threshold.to_vec()),
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = self.end.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.arrivals.to_le_bytes());
        bytes.extend_from_slice(&self.out.to_le_bytes());
        if let Some(threshold) = &self.threshold {
            bytes.push(1);
            bytes.extend_from_slice(threshold);
        }
        bytes
    }
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, _out: &mut dyn Output) -> Result<Progress, OperatorError> {
        inserts_only(&batch)?;
        if !batch.is_empty() {
            self.take(&batch.rows)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.reached = self.reached.max(watermark);
        let mut looked_at = false;
        while let Step::Look = Due::next(&mut self.due, &mut self.ends, self.reached)? {
            // A barrier may pass when some have been looked at.
            if looked_at && out.is_full() {
                return Ok(Progress::More);
            }
            looked_at = true;
            let Some(mut due) = self.due.take() else { break };
            due.rows = self.close(&due.keys, &due.rows, out)?;
            self.due = Some(due);
        }
        Ok(Progress::Done)
    }

    fn before_barrier(&mut self, _out: &mut dyn Output) -> Result<(), OperatorError> {
        self.due.as_ref().map_or(Ok(()), |due| due.again(&mut self.ends, self.reached))
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.rows.freeze());
        snapshot.frozen.extend(self.ends.freeze());
        Ok(())
    }
}

impl Task {
    /// Puts rows among the first of their partitions.
    fn take(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let spec = &self.spec.spec;
        let columns = |of: &[usize]| -> Vec<ArrayRef> { of.iter().map(|&c| Arc::clone(rows.column(c))).collect() };
        let ends = times(rows.column(spec.end), rows.schema_ref().field(spec.end).name())?;
        self.groups.group(&columns(&spec.partition), rows.num_rows())?;
        let order: Vec<usize> = spec.order.iter().map(|(column, _)| *column).collect();
        self.sort_keys.encode(&columns(&order), &self.spec.orders, rows.num_rows())?;
        self.rows.open(&self.groups.keys, self.groups.first())?;
        let (mut besides, mut is_late) = (Vec::new(), Vec::new());
        let (mut new, mut when) = (Vec::new(), Vec::new());
        for (group, &row) in self.groups.first().iter().enumerate() {
            let end = ends[row as usize];
            let of = key_group(self.groups.keys.hash(row as usize), self.max_parallelism);
            let late = end - 1 <= self.floors.of(u32::from(of.0)).max(self.reached);
            let known = Beside::read(self.rows.beside(group)?);
            if known.is_none() && !late {
                new.push(row);
                when.push(end - 1);
            }
            besides.push(known.unwrap_or(Beside { end, ..Beside::default() }));
            is_late.push(late);
        }
        self.ends.register(&self.groups.keys, &new, &when)?;
        self.choose(rows, &mut besides, &is_late)?;
        self.cut(&mut besides, &is_late)
    }

    /// Adds the rows that have a chance.
    fn choose(&mut self, rows: &RecordBatch, besides: &mut [Beside], is_late: &[bool]) -> Result<(), OperatorError> {
        let mut late = 0;
        let mut chosen: Vec<u32> = Vec::new();
        for row in 0..rows.num_rows() as u32 {
            let group = self.groups.of_row[row as usize] as usize;
            if is_late[group] {
                late += 1;
                continue;
            }
            let key = self.sort_keys.key(row as usize);
            let may_be_equal = self.spec.spec.last_first;
            let has_chance =
                |threshold: &Vec<u8>| key < threshold.as_slice() || (may_be_equal && key == threshold.as_slice());
            if besides[group].threshold.as_ref().is_none_or(has_chance) {
                chosen.push(row);
            }
        }
        self.counters.late_rows.add(late);
        self.spec.codec.encode(rows.columns(), &chosen, 0, &mut self.encoded);
        self.changes.clear();
        for (i, &row) in chosen.iter().enumerate() {
            let group = self.groups.of_row[row as usize] as usize;
            let beside = &mut besides[group];
            let mut sub = self.sort_keys.key(row as usize).to_vec();
            let arrival = if self.spec.spec.last_first { !beside.arrivals } else { beside.arrivals };
            sub.extend_from_slice(&arrival.to_be_bytes());
            beside.arrivals += 1;
            self.changes.put(group, &sub, self.encoded.get(i));
        }
        Ok(self.rows.apply(&self.changes)?)
    }

    /// Drops the rows that are not among the first any more.
    fn cut(&mut self, besides: &mut [Beside], is_late: &[bool]) -> Result<(), OperatorError> {
        let to = self.spec.spec.to;
        let mut ranges = Vec::new();
        for (map, late) in is_late.iter().enumerate() {
            let entries = self.rows.len(map)?;
            if !late && entries >= to {
                let surplus = usize::try_from(entries - to).unwrap_or(usize::MAX);
                ranges.push((surplus, MapRange::last(map, surplus.saturating_add(1))));
            }
        }
        self.changes.clear();
        let walked: Vec<MapRange<'_>> = ranges.iter().map(|(_, range)| *range).collect();
        let mut seen = vec![0; ranges.len()];
        let changes = &mut self.changes;
        self.rows.range(&walked, &mut |i, sub, _| {
            let (surplus, range) = &ranges[i];
            if seen[i] < *surplus {
                changes.remove(range.map, sub);
            } else {
                besides[range.map].threshold = Some(sub[..sub.len() - SEQUENCE].to_vec());
            }
            seen[i] += 1;
            ControlFlow::Continue(())
        })?;
        for (map, beside) in besides.iter().enumerate().filter(|(map, _)| !is_late[*map]) {
            self.changes.set_beside(map, &beside.write());
        }
        Ok(self.rows.apply(&self.changes)?)
    }

    /// Puts out a piece of the partitions that are closed. Gives those in which something is left.
    fn close(&mut self, keys: &Keys, rows: &[u32], out: &mut dyn Output) -> Result<Vec<u32>, OperatorError> {
        self.rows.open(keys, rows)?;
        let limit = PIECE_ROWS.div_ceil(rows.len().max(1));
        let mut closed: Vec<(usize, Beside)> = Vec::new();
        let (mut again, mut when) = (Vec::new(), Vec::new());
        for (map, &row) in rows.iter().enumerate() {
            match Beside::read(self.rows.beside(map)?) {
                Some(beside) if beside.end - 1 <= self.reached => closed.push((map, beside)),
                Some(beside) => {
                    again.push(row);
                    when.push(beside.end - 1);
                }
                None => {}
            }
        }
        self.ends.register(keys, &again, &when)?;
        let ranges: Vec<MapRange<'_>> = closed.iter().map(|(map, _)| MapRange::first(*map, limit)).collect();
        let mut entries: Vec<Vec<(Vec<u8>, Vec<u8>)>> = vec![Vec::new(); closed.len()];
        self.rows.range(&ranges, &mut |i, sub, row| {
            entries[i].push((sub.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        })?;
        self.changes.clear();
        let (mut left, mut going, mut ranks): (Vec<u32>, Vec<&[u8]>, Vec<i64>) = Default::default();
        for ((map, beside), entries) in closed.iter_mut().zip(&entries) {
            for (sub, row) in entries {
                self.changes.remove(*map, sub);
                beside.out += 1;
                if beside.out >= self.spec.spec.from {
                    going.push(row);
                    ranks.push(beside.out.cast_signed());
                }
            }
            if entries.len() == limit {
                left.push(rows[*map]);
                self.changes.set_beside(*map, &beside.write());
            } else {
                self.changes.set_beside(*map, &[]);
            }
        }
        self.rows.apply(&self.changes)?;
        if !going.is_empty() {
            let mut columns = self.spec.codec.decode(&going)?;
            if self.spec.spec.rank.is_some() {
                columns.push(Arc::new(Int64Array::from(ranks)));
            }
            out.emit(Batch::inserts(RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?))?;
        }
        Ok(left)
    }
}
