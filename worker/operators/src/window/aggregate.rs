//! The windowed aggregation: rows go into slices, windows are put together from slices when their time has passed.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use weir_engine::{
    Batch, Clock, Counters, MAX_WATERMARK, MIN_WATERMARK, Operator, OperatorContext, OperatorError, OperatorFactory,
    OperatorSnapshot, Output, Progress, RestoredWatermarks, Timestamp,
};
use weir_state::{RowLayout, SliceTable, Slot, TableKind, TableShape, key_group};

use crate::aggregate::ingest::{Arrived, DistinctPass, RowGroups, RowStore, Slice, inserts_only, map_layout};
use crate::aggregate::staterow::{Layout, Rows};
use crate::aggregate::tables;
use crate::aggregate::values::Values;
use crate::rows::column::{Columns, take_columns};
use crate::spec::TimeSource;
use crate::window::fire::Firer;
use crate::window::plan::{Tables, WindowAggregate};
use crate::window::progress::ProgressTable;
use crate::window::slices::{slice_ends, times};

impl OperatorFactory for WindowAggregate {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let plan = &self.ingest.plan;
        let layout = Layout::new(&plan.accumulators);
        let mut tables = Tables {
            groups: ctx.state.slices(&ctx.identity, "groups", layout.rows())?,
            maps: plan
                .maps
                .iter()
                .enumerate()
                .map(|(i, map)| {
                    // Where windows share slices, distinct values are counted when a window fires, and then a map's row must
                    // tell its group.
                    let layout = map_layout(map.mask_bytes(), !self.slices.is_tumbling());
                    ctx.state.slices(&ctx.identity, &tables::map_name(i), layout)
                })
                .collect::<Result<_, _>>()?,
            merged: if self.merges() { Some(ctx.state.slices(&ctx.identity, "merged", layout.rows())?) } else { None },
            emitted: ctx.state.slices(&ctx.identity, "emitted", EMITTED)?,
        };
        // What event time has reached says nothing about the clock.
        let floors = match self.time {
            TimeSource::Event(_) => ctx.restored_watermarks.clone(),
            TimeSource::Processing => RestoredWatermarks::default(),
        };
        let progress = ProgressTable::open(&ctx.state, &ctx.identity, self.slices, &floors)?;
        tables.forget_merged()?;
        let firer =
            Firer::new(self.clone(), layout.clone(), progress, ctx.state.key_groups().start, ctx.max_parallelism);
        Ok(Box::new(Task {
            values: Values::new(&plan.accumulators),
            spec: self.clone(),
            layout,
            tables,
            firer,
            max_parallelism: ctx.max_parallelism,
            counters: Arc::clone(&ctx.counters),
            clock: Arc::clone(&ctx.clock),
            groups: RowGroups::default(),
            pass: DistinctPass::default(),
            slots: Vec::new(),
            created: Vec::new(),
            old_rows: Rows::default(),
            new_rows: Rows::default(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let plan = &self.ingest.plan;
        let mut all = vec![tables::groups("groups", TableKind::Slices, plan)];
        all.extend(tables::maps(TableKind::Slices, plan, !self.slices.is_tumbling()));
        all.extend(self.merges().then(|| tables::groups("merged", TableKind::Slices, plan)));
        all.push(TableShape {
            name: "emitted".to_owned(),
            kind: TableKind::Slices,
            key: tables::group_types(plan),
            row: vec!["EMITTED".to_owned()],
            layout: EMITTED,
            codec: "flag/1",
        });
        all.push(ProgressTable::shape());
        all
    }
}

/// A row says by being there that its key has been emitted.
const EMITTED: RowLayout = RowLayout::Fixed(1);

struct Task {
    spec: WindowAggregate,
    layout: Layout,
    tables: Tables,
    firer: Firer,
    max_parallelism: u32,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    groups: RowGroups,
    pass: DistinctPass,
    values: Values,
    slots: Vec<Slot>,
    created: Vec<Slot>,
    old_rows: Rows,
    new_rows: Rows,
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
        match self.spec.time {
            TimeSource::Event(_) => self.firer.advance(watermark, &mut self.tables, out),
            TimeSource::Processing => Ok(Progress::Done),
        }
    }

    fn next_timer(&self) -> Option<Timestamp> {
        match self.spec.time {
            TimeSource::Event(_) => None,
            TimeSource::Processing => self.firer.next_window(&self.tables),
        }
    }

    fn on_timer(&mut self, now: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.time {
            TimeSource::Event(_) => Ok(Progress::Done),
            // Rows of a window's last millisecond may come until it is over.
            TimeSource::Processing => self.firer.advance(now.max(self.now()) - 1, &mut self.tables, out),
        }
    }

    fn end_of_input(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.spec.time {
            TimeSource::Event(_) => Ok(Progress::Done),
            TimeSource::Processing => self.firer.advance(MAX_WATERMARK, &mut self.tables, out),
        }
    }

    fn before_barrier(&mut self, _out: &mut dyn Output) -> Result<(), OperatorError> {
        self.firer.note_emitted(&mut self.tables)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.tables.groups.freeze());
        snapshot.frozen.extend(self.tables.maps.iter_mut().filter_map(SliceTable::freeze));
        snapshot.frozen.extend(self.tables.merged.as_mut().and_then(SliceTable::freeze));
        snapshot.frozen.extend(self.tables.emitted.freeze());
        self.firer.freeze(snapshot)
    }
}

impl Task {
    /// Takes rows into their slices.
    fn take(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let ends = match self.spec.time {
            TimeSource::Processing => return self.add(self.spec.slices.slice_end(self.now()), rows),
            TimeSource::Event(_) => self.ends(rows)?,
        };
        let first = ends[0];
        if ends.iter().all(|end| *end == first) {
            return self.add(first, rows);
        }
        // A batch mostly holds neighbouring times, and so few slices.
        let mut slices: Vec<(Timestamp, Vec<u32>)> = Vec::new();
        let mut last = 0;
        for (row, &end) in ends.iter().enumerate() {
            if slices.get(last).is_none_or(|(of, _)| *of != end) {
                last = slices.iter().position(|(of, _)| *of == end).unwrap_or_else(|| {
                    slices.push((end, Vec::new()));
                    slices.len() - 1
                });
            }
            slices[last].1.push(row as u32);
        }
        for (end, selected) in slices {
            let (first, count) = (selected[0] as usize, selected.len());
            let adjoining = selected[count - 1] as usize - first + 1 == count;
            let part = if adjoining {
                rows.slice(first, count)
            } else {
                RecordBatch::try_new(rows.schema(), take_columns(rows.columns(), &UInt32Array::from(selected))?)?
            };
            self.add(end, &part)?;
        }
        Ok(())
    }

    /// Processing time. It does not go back behind what has fired, whatever the clock does.
    fn now(&self) -> Timestamp {
        let reached = self.firer.reached();
        self.clock.now_ms().max(if reached == MIN_WATERMARK { reached } else { reached.saturating_add(1) })
    }

    /// The end of each row's slice.
    fn ends(&self, rows: &RecordBatch) -> Result<Vec<Timestamp>, OperatorError> {
        if let Some(partials) = &self.spec.ingest.partials
            && let Some(column) = partials.slice
        {
            return Ok(slice_ends(rows.column(column)).to_vec());
        }
        let TimeSource::Event(column) = self.spec.time else { return Ok(Vec::new()) };
        let column = self.spec.ends.unwrap_or(column);
        let times = times(rows.column(column), rows.schema_ref().field(column).name())?;
        Ok(self.spec.slices.ends(&times))
    }

    /// Adds rows to their slice, unless they are late.
    fn add(&mut self, end: Timestamp, rows: &RecordBatch) -> Result<(), OperatorError> {
        let last = self.spec.slices.last_window(end);
        if last - 1 <= self.firer.reached() {
            self.count_late(rows);
            return Ok(());
        }
        self.groups.group(&self.spec.ingest.group_columns(rows), rows.num_rows())?;
        if last - 1 <= self.firer.highest_floor() {
            // Key groups that came from other subtasks may be ahead in time.
            let late = self.late_groups(last);
            if late.contains(&true) {
                let is_late: BooleanArray = self.groups.of_row.iter().map(|g| Some(late[*g as usize])).collect();
                self.count_late(&filter_record_batch(rows, &is_late)?);
                let timely = filter_record_batch(rows, &arrow::compute::not(&is_late)?)?;
                if timely.num_rows() == 0 {
                    return Ok(());
                }
                self.groups.group(&self.spec.ingest.group_columns(&timely), timely.num_rows())?;
                return self.update(end, &timely);
            }
        }
        self.update(end, rows)
    }

    fn late_groups(&self, last_window: Timestamp) -> Vec<bool> {
        let group = |row: u32| key_group(self.groups.keys.hash(row as usize), self.max_parallelism);
        self.groups.first().iter().map(|&row| last_window - 1 <= self.firer.floor(group(row))).collect()
    }

    fn count_late(&self, rows: &RecordBatch) {
        let partials = self.spec.ingest.partials.as_ref();
        let late = match partials.and_then(|p| p.rows) {
            None => rows.num_rows() as u64,
            Some(column) => rows.column(column).as_primitive::<Int64Type>().values().iter().sum::<i64>() as u64,
        };
        self.counters.late_rows.add(late);
    }

    /// Takes rows, which have been grouped, into their slice.
    fn update(&mut self, end: Timestamp, rows: &RecordBatch) -> Result<(), OperatorError> {
        let Self { spec, layout, tables, groups, pass, values, slots, created, old_rows, new_rows, .. } = self;
        let mut arrived = Arrived { rows, columns: Columns::new(rows), groups };
        {
            let mut slice = Slice { table: &mut tables.groups, end };
            slice.upsert_rows(&groups.keys, groups.first(), slots, created)?;
            old_rows.clear();
            for &slot in slots.iter() {
                old_rows.push(slice.row(slot), layout);
            }
        }
        values.load(old_rows, layout);
        spec.ingest.update(values, groups.groups(), &mut arrived.columns)?;
        let tumbling = spec.slices.is_tumbling();
        for (map, table) in tables.maps.iter_mut().enumerate() {
            let mut slice = Slice { table, end };
            let values = tumbling.then_some(&mut *values);
            pass.run(&spec.ingest, map, &mut slice, &mut arrived, values)?;
        }
        values.store(new_rows, layout);
        let mut slice = Slice { table: &mut tables.groups, end };
        for (g, &slot) in slots.iter().enumerate() {
            let row = new_rows.get(g);
            if row != old_rows.get(g) {
                slice.set(slot, row);
            }
        }
        Ok(())
    }
}
