//! The firing of windows: in order of their ends, a bounded piece at a time, so that a barrier can pass between two pieces.
//!
//! As much of a window goes out in one call as there is room for, and at most [`CALL_GROUPS`] groups. Before a barrier passes
//! it is noted for which keys the window has been emitted; after a restore these are left out.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::DataType;
use weir_engine::{Batch, MIN_WATERMARK, OperatorError, OperatorSnapshot, Output, PIECE_ROWS, Progress, Timestamp};
use weir_state::{KeyGroup, Keys, SliceTable, Slot, key_group};

use crate::aggregate::ingest::{RowGroups, RowStore, Slice, read_mask};
use crate::aggregate::plan::{Feed, Reduce};
use crate::aggregate::staterow::{Layout, Rows};
use crate::aggregate::values::Values;
use crate::rows::column::{Plain, as_i64};
use crate::spec::TimeSource;
use crate::window::assign::{columns_of_windows, window_columns};
use crate::window::cumulate::Moving;
use crate::window::plan::{Tables, WindowAggregate};
use crate::window::progress::{KeyGroupProgress, ProgressTable, Write};
use crate::window::scan::{Placed, Scan, ScanPiece};

/// Groups gone through before a barrier may pass: some tens of milliseconds. As many keys are held until it is noted that they
/// are out.
const CALL_GROUPS: usize = 1 << 16;

/// Decides which windows fire, and emits them.
pub(crate) struct Firer {
    spec: WindowAggregate,
    layout: Layout,
    progress: ProgressTable,
    first_key_group: u32,
    max_parallelism: u32,
    /// By key group, from the subtask's first on, as restored, and moved on while interrupted firings are finished.
    key_groups: Vec<KeyGroupProgress>,
    /// Whether the key group's firing was interrupted by the checkpoint that was restored, and is not finished yet.
    interrupted: Vec<bool>,
    /// The window up to which interrupted firings have been finished, while they are.
    resumed: Option<Timestamp>,
    /// The watermark, or the processing time that is over.
    reached: Timestamp,
    /// All windows up to the one that ends here have fired, in every key group.
    fired: Timestamp,
    highest_floor: Timestamp,
    /// There are windows to fire that time has reached.
    busy: bool,
    firing: Option<Firing>,
    /// The time that the last snapshot of processing time was taken at.
    recorded: Timestamp,
}

/// A window that is being emitted.
struct Firing {
    window: Timestamp,
    /// For CUMULATE, what is first moved into the window's own slice.
    moving: Option<Moving>,
    /// Where windows share slices, the DISTINCT maps that are still to be counted, which is done first.
    maps: Vec<(usize, Scan)>,
    groups: Scan,
    /// The checkpoint that was restored has emitted some of it.
    interrupted: bool,
    /// The keys that were emitted, as columns, and their number, since it was last noted.
    to_note: Vec<(Vec<ArrayRef>, usize)>,
}

impl Firer {
    pub fn new(
        spec: WindowAggregate,
        layout: Layout,
        progress: ProgressTable,
        first_key_group: u32,
        max_parallelism: u32,
    ) -> Self {
        let (restored, interrupted) = progress.restored();
        let (restored, interrupted) = (restored.to_vec(), interrupted.to_vec());
        let lowest = restored.iter().map(|p| p.reached).min().unwrap_or(MIN_WATERMARK);
        let fired = restored.iter().map(|p| p.fired).min().unwrap_or(MIN_WATERMARK);
        let started = restored.iter().zip(&interrupted).filter(|(_, i)| **i).map(|(p, _)| p.fired).min();
        Self {
            spec,
            layout,
            progress,
            first_key_group,
            max_parallelism,
            highest_floor: restored.iter().map(|p| p.reached).max().unwrap_or(MIN_WATERMARK),
            key_groups: restored,
            interrupted,
            resumed: started,
            reached: lowest,
            fired,
            busy: started.is_some(),
            firing: None,
            recorded: lowest,
        }
    }

    /// The time up to which windows have fired or are about to, in all key groups.
    pub fn reached(&self) -> Timestamp {
        self.reached
    }

    /// The same for one key group, as restored.
    pub fn floor(&self, key_group: KeyGroup) -> Timestamp {
        self.at(key_group).map_or(MIN_WATERMARK, |i| self.key_groups[i].reached)
    }

    /// Where a key group stands among the subtask's own.
    fn at(&self, key_group: KeyGroup) -> Option<usize> {
        let i = u32::from(key_group.0).checked_sub(self.first_key_group)? as usize;
        (i < self.key_groups.len()).then_some(i)
    }

    /// The highest of all floors.
    pub fn highest_floor(&self) -> Timestamp {
        self.highest_floor
    }

    /// The end of the next window that holds anything.
    pub fn next_window(&self, tables: &Tables) -> Option<Timestamp> {
        if self.busy { Some(self.reached) } else { self.next_after(self.fired, tables) }
    }

    fn next_after(&self, fired: Timestamp, tables: &Tables) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for slice in tables.groups.slices() {
            // Later slices have later windows only.
            if next.is_some_and(|n| self.spec.slices.first_window(slice) > n) {
                break;
            }
            if let Some(window) = self.spec.slices.next_window(slice, fired) {
                next = Some(next.map_or(window, |n| n.min(window)));
            }
        }
        next
    }

    /// Fires what is due at this time.
    pub fn advance(
        &mut self,
        time: Timestamp,
        tables: &mut Tables,
        out: &mut dyn Output,
    ) -> Result<Progress, OperatorError> {
        if time <= self.reached && !self.busy {
            return Ok(Progress::Done);
        }
        self.reached = self.reached.max(time);
        self.busy = true;
        let mut emitted = 0;
        loop {
            if self.firing.is_none() && !self.start_next(tables)? {
                self.busy = false;
                return Ok(Progress::Done);
            }
            match self.step(tables, out)? {
                Some(groups) => emitted += groups,
                None => self.finish_window(tables)?,
            }
            if self.keys_to_note() >= CALL_GROUPS {
                self.note_emitted(tables)?;
            }
            if emitted >= CALL_GROUPS || out.is_full() {
                return Ok(Progress::More);
            }
        }
    }

    fn keys_to_note(&self) -> usize {
        self.firing.as_ref().map_or(0, |firing| firing.to_note.iter().map(|(_, rows)| rows).sum())
    }

    /// Starts the next window that is due; false if there is none.
    fn start_next(&mut self, tables: &mut Tables) -> Result<bool, OperatorError> {
        if let Some(resumed) = self.resumed {
            let due = self
                .key_groups
                .iter()
                .zip(&self.interrupted)
                .filter(|(_, interrupted)| **interrupted)
                .map(|(p, _)| self.spec.slices.closed_by(p.reached))
                .max();
            match self.next_after(resumed, tables).filter(|window| due.is_some_and(|due| *window <= due)) {
                Some(window) => {
                    self.start(window, tables)?;
                    return Ok(true);
                }
                None => self.end_resuming(),
            }
        }
        let due = self.spec.slices.closed_by(self.reached);
        while let Some(window) = self.next_after(self.fired, tables).filter(|window| *window <= due) {
            if self.key_groups.iter().any(|p| p.fired < window) {
                self.start(window, tables)?;
                return Ok(true);
            }
            self.fired = window;
            self.expire(tables)?;
        }
        self.fired = self.fired.max(due);
        self.expire(tables)?;
        Ok(false)
    }

    fn end_resuming(&mut self) {
        self.resumed = None;
        for (p, interrupted) in self.key_groups.iter_mut().zip(&mut self.interrupted) {
            if *interrupted {
                p.fired = p.fired.max(self.spec.slices.closed_by(p.reached));
                *interrupted = false;
            }
        }
    }

    fn start(&mut self, window: Timestamp, tables: &mut Tables) -> Result<(), OperatorError> {
        let slices = self.spec.slices;
        let moving = slices.moves().then(|| {
            let earlier = tables.groups.slices().filter(|end| slices.holds(window, *end));
            Moving::new(window, earlier, tables.maps.len())
        });
        let held = |table: &SliceTable| match moving {
            Some(_) => vec![window],
            None => table.slices().filter(|end| slices.holds(window, *end)).collect::<Vec<_>>(),
        };
        let groups = Scan::new(held(&tables.groups), Placed::ByKey);
        let mut maps = Vec::new();
        if let Some(merged) = &mut tables.merged {
            merged.delete_slice(window)?;
            maps = tables.maps.iter().enumerate().map(|(i, map)| (i, Scan::new(held(map), Placed::ByPrefix))).collect();
        }
        let interrupted = tables.emitted.slices().any(|of| of == window);
        self.firing = Some(Firing { window, moving, groups, maps, interrupted, to_note: Vec::new() });
        Ok(())
    }

    fn finish_window(&mut self, tables: &mut Tables) -> Result<(), OperatorError> {
        let Some(firing) = self.firing.take() else { return Ok(()) };
        tables.end_window(firing.window)?;
        if self.resumed.is_some() {
            self.resumed = Some(firing.window);
            return Ok(());
        }
        self.fired = firing.window;
        self.expire(tables)
    }

    /// Drops the slices whose last window has fired.
    fn expire(&self, tables: &mut Tables) -> Result<(), OperatorError> {
        let expired: Vec<Timestamp> =
            tables.groups.slices().take_while(|slice| self.spec.slices.last_window(*slice) <= self.fired).collect();
        for slice in expired {
            tables.delete_slice(slice)?;
        }
        Ok(())
    }

    /// Does the next bounded piece of work; none if the window is finished.
    fn step(&mut self, tables: &mut Tables, out: &mut dyn Output) -> Result<Option<usize>, OperatorError> {
        let Some(mut firing) = self.firing.take() else { return Ok(None) };
        let moved = match &mut firing.moving {
            Some(moving) => moving.step(&self.spec, &self.layout, tables)?,
            None => None,
        };
        let done = if moved.is_some() {
            moved
        } else if let Some((map, scan)) = firing.maps.last_mut() {
            let merged = self.merge_values(*map, scan, firing.window, tables)?;
            if merged.is_none() {
                firing.maps.pop();
            }
            Some(merged.unwrap_or(0))
        } else {
            self.emit_groups(&mut firing, tables, out)?
        };
        self.firing = Some(firing);
        Ok(done)
    }

    /// Adds what some distinct values come to, to their groups' rows for this window.
    fn merge_values(
        &self,
        map: usize,
        scan: &mut Scan,
        window: Timestamp,
        tables: &mut Tables,
    ) -> Result<Option<usize>, OperatorError> {
        let Tables { maps, merged: Some(merged), .. } = tables else { return Ok(None) };
        let plan = &self.spec.ingest.plan;
        let spec = &plan.maps[map];
        let mut types: Vec<DataType> = self.spec.ingest.group_types.clone();
        types.push(plan.input.field(spec.column).data_type().clone());
        let Some(mut piece) = scan.next(&mut maps[map], &types, PIECE_ROWS)? else { return Ok(None) };
        let mut masks = vec![0_u64; piece.len()];
        for (key, row) in piece.rows() {
            masks[key as usize] |= read_mask(row, spec.mask_bytes());
        }
        for (mask, repeated) in masks.iter_mut().zip(&piece.repeated) {
            if *repeated {
                *mask = 0;
            }
        }
        let Some(value) = piece.columns.pop() else { return Ok(None) };
        let mut groups = RowGroups::default();
        groups.group(&piece.columns, piece.len())?;
        let mut store = Slice { table: merged, end: window };
        let (mut slots, mut created) = (Vec::new(), Vec::new());
        store.upsert_rows(&groups.keys, groups.first(), &mut slots, &mut created)?;
        let mut rows = Rows::default();
        for &slot in &slots {
            rows.push(store.row(slot), &self.layout);
        }
        let mut values = Values::new(&plan.accumulators);
        values.load(&rows, &self.layout);
        for (i, a) in plan.accumulators.iter().enumerate() {
            let Feed::Distinct { map: of, variant } = a.feed else { continue };
            if of != map {
                continue;
            }
            let seen: Vec<u32> =
                (0..masks.len() as u32).filter(|&key| masks[key as usize] >> variant & 1 == 1).collect();
            if a.reduce == Reduce::Count {
                values.count_rows(i, groups.groups(), &seen);
            } else {
                values.reduce_rows(i, a, groups.groups(), &Plain::new(&value, a.kind)?, &seen)?;
            }
        }
        values.store(&mut rows, &self.layout);
        for (g, &slot) in slots.iter().enumerate() {
            store.set(slot, rows.get(g));
        }
        Ok(Some(piece.len()))
    }

    /// Emits some groups.
    fn emit_groups(
        &self,
        firing: &mut Firing,
        tables: &mut Tables,
        out: &mut dyn Output,
    ) -> Result<Option<usize>, OperatorError> {
        let types = &self.spec.ingest.group_types;
        let Some(piece) = firing.groups.next(&mut tables.groups, types, PIECE_ROWS)? else { return Ok(None) };
        let groups = piece.len();
        let mut keep: Vec<bool> = piece.repeated.iter().map(|repeated| !repeated).collect();
        if self.resumed.is_some() || self.fired <= self.highest_floor {
            for (i, keep) in keep.iter_mut().enumerate() {
                *keep &= self.wants(firing.window, key_group(piece.keys.hash(i), self.max_parallelism));
            }
        }
        if firing.interrupted {
            let mut slots: Vec<Option<Slot>> = Vec::new();
            tables.emitted.get(firing.window, &piece.keys, None, &mut slots)?;
            for (keep, slot) in keep.iter_mut().zip(&slots) {
                *keep &= slot.is_none();
            }
        }
        let values = self.values(&piece, firing.window, tables.merged.as_mut())?;
        let mut keys = piece.columns;
        let mut columns = keys.clone();
        columns.extend(values.finish(&self.spec.ingest.plan)?);
        let ends = vec![firing.window; groups];
        columns.extend(match keys.last().filter(|_| self.spec.start_in_group) {
            Some(starts) => columns_of_windows(as_i64(starts)?.to_vec(), &ends, &self.spec.time_type)?,
            None => window_columns(&ends, self.spec.slices, &self.spec.time_type)?,
        });
        let mut rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
        if keep.contains(&false) {
            let keep = BooleanArray::from(keep);
            rows = filter_record_batch(&rows, &keep)?;
            keys = keys.iter().map(|c| filter(c, &keep)).collect::<Result<_, _>>()?;
        }
        if rows.num_rows() > 0 {
            firing.to_note.push((keys, rows.num_rows()));
            out.emit(Batch::inserts(rows))?;
        }
        Ok(Some(groups))
    }

    /// The values of a piece's groups, over all slices of the window.
    fn values(
        &self,
        piece: &ScanPiece,
        window: Timestamp,
        merged: Option<&mut SliceTable>,
    ) -> Result<Values, OperatorError> {
        let plan = &self.spec.ingest.plan;
        let groups = piece.len();
        let (mut rows, mut into) = (Rows::default(), Vec::with_capacity(groups));
        for (group, row) in piece.rows() {
            rows.push(row, &self.layout);
            into.push(group);
        }
        if let Some(merged) = merged {
            let mut slots: Vec<Option<Slot>> = Vec::new();
            merged.get(window, &piece.keys, None, &mut slots)?;
            for (group, slot) in slots.iter().enumerate() {
                if let Some(slot) = slot {
                    rows.push(merged.row(window, *slot), &self.layout);
                    into.push(group as u32);
                }
            }
        }
        let mut values = Values::new(&plan.accumulators);
        values.load(&rows, &self.layout);
        if into.len() == groups {
            return Ok(values);
        }
        let mut all = Values::new(&plan.accumulators);
        all.resize(groups);
        let from: Vec<u32> = (0..into.len() as u32).collect();
        all.merge(&plan.accumulators, &values, &from, &into)?;
        Ok(all)
    }

    /// Whether the key group still has this window to emit.
    fn wants(&self, window: Timestamp, key_group: KeyGroup) -> bool {
        let Some(i) = self.at(key_group) else { return false };
        let progress = &self.key_groups[i];
        let resuming = self.resumed.is_some();
        window > progress.fired
            && (!resuming || (self.interrupted[i] && window <= self.spec.slices.closed_by(progress.reached)))
    }

    /// A barrier is about to pass: notes which keys of the window are out.
    pub fn note_emitted(&mut self, tables: &mut Tables) -> Result<(), OperatorError> {
        let Some(firing) = &mut self.firing else { return Ok(()) };
        let mut keys = Keys::new();
        let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        for (columns, rows) in firing.to_note.drain(..) {
            keys.encode(&columns, rows)?;
            tables.emitted.upsert(firing.window, &keys, None, &mut slots, &mut created)?;
        }
        Ok(())
    }

    pub fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        let by_clock = self.spec.time == TimeSource::Processing;
        let write = if self.busy || (by_clock && self.recorded != self.reached) {
            Write::Rows(self.progress_now())
        } else if by_clock {
            Write::AsItWas
        } else {
            Write::Nothing
        };
        self.recorded = self.reached;
        self.progress.freeze(&write, snapshot)
    }

    /// The progress of all key groups at this moment.
    fn progress_now(&self) -> Vec<KeyGroupProgress> {
        let now = |(restored, interrupted): (&KeyGroupProgress, &bool)| {
            let mut fired = restored.fired.max(self.fired);
            if let Some(resumed) = self.resumed
                && *interrupted
            {
                fired = fired.max(resumed.min(self.spec.slices.closed_by(restored.reached)));
            }
            KeyGroupProgress { reached: restored.reached.max(self.reached), fired }
        };
        self.key_groups.iter().zip(&self.interrupted).map(now).collect()
    }
}
