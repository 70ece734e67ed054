//! The updating aggregation: every batch brings each of its keys up to date and emits what changed.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use weir_engine::{
    Batch, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, Progress, RowKind,
};
use weir_state::{Slot, Table, TableKind, TableShape};

use crate::aggregate::ingest::{Arrived, DistinctPass, Ingest, RowGroups, inserts_only, map_layout};
use crate::aggregate::plan::{Plan, is_key};
use crate::aggregate::staterow::{Layout, Rows};
use crate::aggregate::tables;
use crate::aggregate::values::Values;
use crate::rows::column::{Columns, take_columns};
use crate::spec::{Aggregation, KeyedAggregateSpec, SpecError, schema_of};

/// GROUP BY without a window. For each key that a batch touches it emits one change: `+I` for a new key, `-U` and `+U`,
/// side by side, where the result is another than before, nothing where it is the same.
///
/// State: a row of accumulators a key, and for each DISTINCT column a row a key and value. Both grow with the number of
/// keys.
#[derive(Debug, Clone)]
pub struct KeyedAggregate {
    ingest: Ingest,
    output: SchemaRef,
    update_before: bool,
}

impl KeyedAggregate {
    /// Checks the spec. The output has the group columns, then the aggregates.
    pub fn new(spec: KeyedAggregateSpec) -> Result<Self, SpecError> {
        if spec.retract_input {
            return Err(SpecError::Unsupported("an aggregation over rows that update or delete".to_owned()));
        }
        check_group(&spec.aggregation)?;
        let output = schema_of(spec.aggregation.output_fields()?);
        let ingest = Ingest::new(Plan::new(spec.aggregation)?, spec.input, false);
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
        let maps = plan
            .maps
            .iter()
            .enumerate()
            .map(|(i, map)| ctx.state.table(&ctx.identity, &tables::map_name(i), map_layout(map.mask_bytes(), false)))
            .collect::<Result<_, _>>()?;
        Ok(Box::new(Task {
            values: Values::new(&plan.accumulators),
            spec: self.clone(),
            layout,
            table,
            maps,
            groups: RowGroups::default(),
            pass: DistinctPass::default(),
            slots: Vec::new(),
            created: Vec::new(),
            old_rows: Rows::default(),
            new_rows: Rows::default(),
            changed: Vec::new(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let plan = &self.ingest.plan;
        let groups = tables::groups("groups", TableKind::Table, plan);
        std::iter::once(groups).chain(tables::maps(TableKind::Table, plan, false)).collect()
    }
}

struct Task {
    spec: KeyedAggregate,
    layout: Layout,
    table: Table,
    maps: Vec<Table>,
    groups: RowGroups,
    pass: DistinctPass,
    values: Values,
    slots: Vec<Slot>,
    created: Vec<Slot>,
    old_rows: Rows,
    new_rows: Rows,
    changed: Vec<bool>,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        inserts_only(&batch)?;
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
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
        for (map, table) in self.maps.iter_mut().enumerate() {
            let values = Some(&mut self.values);
            self.pass.run(&self.spec.ingest, map, table, &mut arrived, values)?;
        }

        self.values.store(&mut self.new_rows, &self.layout);
        self.values.changed(&old, &self.spec.ingest.plan, &mut self.changed);
        let mut changes = Changes::default();
        let groups = self.slots.len() as u32;
        for (g, &slot) in self.slots.iter().enumerate() {
            let new_row = self.new_rows.get(g);
            if self.created.binary_search(&slot).is_ok() {
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
        snapshot.frozen.extend(self.maps.iter_mut().filter_map(Table::freeze));
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
