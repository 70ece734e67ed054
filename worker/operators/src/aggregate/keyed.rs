//! The updating aggregation: every batch brings each of its keys up to date and emits what changed.
//!
//! Where its rows may be taken back, a hidden count of each group's rows says when the group is gone, and minima, maxima and
//! DISTINCT values are counted. What a batch adds and takes back is added up before anything is compared, so that what nets to
//! nothing emits nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use weir_engine::{
    Batch, Counters, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, Progress,
    RowKind,
};
use weir_state::{MapTable, RowLayout, Slot, SubtaskState, Table, TableKind, TableShape};

use crate::aggregate::counted::CountedPass;
use crate::aggregate::ingest::{Arrived, DistinctPass, Ingest, RowGroups, inserts_only, map_layout, signs};
use crate::aggregate::plan::{Keeps, Plan, is_key};
use crate::aggregate::staterow::{Layout, Rows};
use crate::aggregate::tables;
use crate::aggregate::values::Values;
use crate::rows::column::{Columns, take_columns};
use crate::spec::{Aggregation, KeyedAggregateSpec, SpecError, schema_of};

/// GROUP BY without a window. For each key that a batch touches it emits one change: `+I` for a new key, `-U` and `+U`,
/// side by side, where the result is another than before, nothing where it is the same, `-D` where the key's last row was taken
/// back. That holds for the global aggregate too, which has no row while there are none.
///
/// State: a row of accumulators a key, and for each DISTINCT column a row a key and value; where rows may be taken back, an entry
/// for each value of a MIN or MAX, and two for each row of a `FIRST_VALUE`, `LAST_VALUE` or LISTAGG. All grow with the number of keys, and go with their rows.
#[derive(Debug, Clone)]
pub struct KeyedAggregate {
    ingest: Ingest,
    output: SchemaRef,
    update_before: bool,
}

impl KeyedAggregate {
    /// Checks the spec. The output has the group columns, then the aggregates.
    pub fn new(spec: KeyedAggregateSpec) -> Result<Self, SpecError> {
        check_group(&spec.aggregation)?;
        let output = schema_of(spec.aggregation.output_fields()?);
        let ingest = Ingest::new(Plan::new(spec.aggregation, spec.retract_input)?, spec.input, false);
        Ok(Self { ingest, output, update_before: spec.update_before })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }
}

/// Group columns become keys.
pub(crate) fn check_group(aggregation: &Aggregation) -> Result<(), SpecError> {
    for &column in &aggregation.group {
        let field = aggregation.field(column)?;
        if !is_key(field.data_type()) {
            return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
        }
    }
    Ok(())
}

impl OperatorFactory for KeyedAggregate {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let plan = &self.ingest.plan;
        let layout = Layout::new(&plan.accumulators);
        let table = ctx.state.table(&ctx.identity, "groups", layout.rows())?;
        let maps =
            (0..plan.maps.len()).map(|i| Seen::open(plan, i, &ctx.state, &ctx.identity)).collect::<Result<_, _>>()?;
        Ok(Box::new(Task {
            values: Values::new(&plan.accumulators),
            spec: self.clone(),
            layout,
            table,
            maps,
            groups: RowGroups::default(),
            pass: DistinctPass::default(),
            counted: CountedPass::default(),
            counters: Arc::clone(&ctx.counters),
            slots: Vec::new(),
            created: Vec::new(),
            old_rows: Rows::default(),
            new_rows: Rows::default(),
            changed: Vec::new(),
            gone: BTreeSet::new(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let plan = &self.ingest.plan;
        let mut all = vec![tables::groups("groups", TableKind::Table, plan)];
        if plan.retract {
            all.extend(tables::counted(plan));
        } else {
            all.extend(tables::maps(TableKind::Table, plan, false));
        }
        all
    }
}

/// The values of one column that groups have seen.
enum Seen {
    /// By which filters.
    Masked(Table),
    /// How often.
    Counted(Table),
    /// How often, in their order, or that of their arrival.
    Ordered(Box<MapTable>),
}

impl Seen {
    fn open(plan: &Plan, i: usize, state: &SubtaskState, identity: &str) -> Result<Self, OperatorError> {
        let map = &plan.maps[i];
        Ok(if map.keeps != Keeps::Seen {
            Self::Ordered(Box::new(state.map(identity, &tables::ordered_name(i))?))
        } else if plan.retract {
            Self::Counted(state.table(identity, &tables::map_name(i), RowLayout::Fixed(map.count_bytes()))?)
        } else {
            Self::Masked(state.table(identity, &tables::map_name(i), map_layout(map.mask_bytes(), false))?)
        })
    }
}

struct Task {
    spec: KeyedAggregate,
    layout: Layout,
    table: Table,
    maps: Vec<Seen>,
    groups: RowGroups,
    pass: DistinctPass,
    counted: CountedPass,
    counters: Arc<Counters>,
    values: Values,
    slots: Vec<Slot>,
    created: Vec<Slot>,
    old_rows: Rows,
    new_rows: Rows,
    changed: Vec<bool>,
    /// The groups of the batch that have no rows left.
    gone: BTreeSet<u32>,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let retract = self.spec.ingest.plan.retract;
        if !retract {
            inserts_only(&batch)?;
        }
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        self.groups.signs = signs(&batch);
        let group_columns = self.spec.ingest.group_columns(rows);
        self.groups.group(&group_columns, rows.num_rows())?;
        let first = self.groups.first();
        self.table.upsert_rows(&self.groups.keys, first, &mut self.slots, &mut self.created)?;
        self.created.sort_unstable();
        self.old_rows.clear();
        for &slot in &self.slots {
            self.old_rows.push(self.table.row(slot), &self.layout);
        }
        self.values.load(&self.old_rows, &self.layout);
        let old = self.values.clone();

        let mut arrived = Arrived { rows, columns: Columns::new(rows), groups: &self.groups };
        self.spec.ingest.update(&mut self.values, self.groups.groups(), &mut arrived.columns)?;
        let mut unmatched = 0;
        for (map, seen) in self.maps.iter_mut().enumerate() {
            let (ingest, values) = (&self.spec.ingest, &mut self.values);
            let of_map = match seen {
                Seen::Masked(table) => {
                    self.pass.run(ingest, map, table, &mut arrived, Some(values))?;
                    0
                }
                Seen::Counted(table) => self.counted.distinct(ingest, map, table, &mut arrived, values)?,
                Seen::Ordered(table) if ingest.plan.maps[map].keeps == Keeps::Arrivals => {
                    self.counted.arrivals(ingest, map, table, &mut arrived, values)?
                }
                Seen::Ordered(table) => self.counted.ordered(ingest, map, table, &mut arrived, values)?,
            };
            // One row is missed by each map that has not got it.
            unmatched = unmatched.max(of_map);
        }
        if retract {
            self.values.settle_sums(&self.spec.ingest.plan.sums);
            unmatched = unmatched.max(self.bury()?);
            self.counters.unmatched_retractions.add(unmatched);
        }

        self.values.store(&mut self.new_rows, &self.layout);
        self.values.changed(&old, &self.spec.ingest.plan, &mut self.changed);
        let mut changes = Changes::default();
        let groups = self.slots.len() as u32;
        for (g, &slot) in self.slots.iter().enumerate() {
            let new_row = self.new_rows.get(g);
            let is_new = self.created.binary_search(&slot).is_ok();
            if self.gone.contains(&(g as u32)) {
                self.table.remove(slot);
                if !is_new {
                    changes.push(g as u32, g as u32 + groups, RowKind::Delete);
                }
            } else if is_new {
                self.table.set(slot, new_row);
                changes.push(g as u32, g as u32, RowKind::Insert);
            } else if new_row != self.old_rows.get(g) {
                self.table.set(slot, new_row);
                if self.changed[g] {
                    if self.spec.update_before {
                        changes.push(g as u32, g as u32 + groups, RowKind::UpdateBefore);
                    }
                    changes.push(g as u32, g as u32, RowKind::UpdateAfter);
                }
            }
        }
        if !changes.kinds.is_empty() {
            out.emit(self.output(&group_columns, &old, changes)?)?;
        }
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.table.freeze());
        for seen in &mut self.maps {
            match seen {
                Seen::Masked(table) | Seen::Counted(table) => snapshot.frozen.extend(table.freeze()),
                Seen::Ordered(table) => snapshot.frozen.extend(table.freeze()),
            }
        }
        Ok(())
    }
}

/// The rows to emit: for each its group, and which values are its own.
#[derive(Default)]
struct Changes {
    groups: Vec<u32>,
    values: Vec<u32>,
    kinds: Vec<RowKind>,
}

impl Changes {
    fn push(&mut self, group: u32, values: u32, kind: RowKind) {
        self.groups.push(group);
        self.values.push(values);
        self.kinds.push(kind);
    }
}

impl Task {
    /// Finds the groups that have no rows left. Returns how many rows were taken back of groups that did not have them.
    fn bury(&mut self) -> Result<u64, OperatorError> {
        self.gone.clear();
        let Some(rows) = self.spec.ingest.plan.rows else { return Ok(0) };
        let mut unmatched = 0;
        for (group, &rows) in self.values.ints(rows).iter().enumerate() {
            if rows <= 0 {
                self.gone.insert(group as u32);
                unmatched += rows.unsigned_abs();
            }
        }
        if !self.gone.is_empty() {
            let first = self.groups.first();
            let rows: Vec<u32> = self.gone.iter().map(|&group| first[group as usize]).collect();
            for seen in &mut self.maps {
                if let Seen::Ordered(table) = seen {
                    self.counted.forget(table, &self.groups.keys, &rows)?;
                }
            }
        }
        Ok(unmatched)
    }

    fn output(&self, group_columns: &[ArrayRef], old: &Values, changes: Changes) -> Result<Batch, OperatorError> {
        let first = self.groups.first();
        let rows: UInt32Array = changes.groups.iter().map(|&g| first[g as usize]).collect::<Vec<u32>>().into();
        let mut columns = take_columns(group_columns, &rows)?;
        let picked = self.values.pick(old, &changes.values);
        columns.extend(picked.finish(&self.spec.ingest.plan)?);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
        Ok(Batch::with_kinds(rows, changes.kinds))
    }
}
