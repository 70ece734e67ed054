//! `ROW_NUMBER() OVER (PARTITION BY … ORDER BY t) = 1`: the first or the last row of each key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::interleave;
use arrow::datatypes::{Schema, SchemaRef};
use weir_engine::{
    Batch, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, Progress, RowKind,
};
use weir_state::{RowLayout, Slot, Table, TableKind, TableShape, type_name};

use crate::aggregate::ingest::{RowGroups, inserts_only};
use crate::aggregate::plan::is_key;
use crate::rows::column::{as_i64, take_columns};
use crate::rows::rowcodec::{EncodedRows, RowCodec};
use crate::spec::{DeduplicateSpec, Keep, SpecError, TimeSource, field, window_fields};

/// Keeps one row a key. By event time a key's row can be replaced, also under [`Keep::First`], by an earlier one that comes
/// later; by processing time the first row stands for good and nothing but the key is kept.
///
/// State: a row a key. It holds the order column, and the other columns beside the key's only if −U rows are sent.
#[derive(Debug, Clone)]
pub struct Deduplicate {
    schema: SchemaRef,
    keys: Vec<usize>,
    order: TimeSource,
    keep: Keep,
    update_before: bool,
    /// The columns whose old values must be known to take a row back: all but the keys.
    kept: Vec<usize>,
    codec: RowCodec,
}

/// The name of the table.
const ROWS: &str = "rows";

/// The order column's bytes before the row.
const ORDER_BYTES: usize = 8;

impl Deduplicate {
    /// Checks the spec. The output is the input.
    pub fn new(spec: DeduplicateSpec) -> Result<Self, SpecError> {
        for &key in &spec.keys {
            let field = field(&spec.input, key)?;
            if !is_key(field.data_type()) {
                return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
            }
        }
        // It says whether the column is a timestamp.
        window_fields(&spec.input, spec.order)?;
        let kept: Vec<usize> = (0..spec.input.fields().len()).filter(|c| !spec.keys.contains(c)).collect();
        let codec = RowCodec::new(kept.iter().map(|&c| spec.input.field(c)))?;
        let DeduplicateSpec { input: schema, keys, order, keep, update_before } = spec;
        Ok(Self { schema, keys, order, keep, update_before, kept, codec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.schema
    }

    fn layout(&self) -> RowLayout {
        if self.first_stands() {
            RowLayout::Fixed(1)
        } else if self.update_before {
            RowLayout::Variable
        } else {
            RowLayout::Fixed(ORDER_BYTES)
        }
    }

    /// Nothing that comes later changes anything.
    fn first_stands(&self) -> bool {
        self.keep == Keep::First && self.order == TimeSource::Processing
    }

    /// Whether a row of this order takes the place of one of that order, which came before it.
    fn replaces(&self, new: i64, old: i64) -> bool {
        match self.keep {
            Keep::First => new < old,
            Keep::Last => new >= old,
        }
    }
}

impl OperatorFactory for Deduplicate {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task {
            spec: self.clone(),
            table: ctx.state.table(&ctx.identity, ROWS, self.layout())?,
            groups: RowGroups::default(),
            slots: Vec::new(),
            created: Vec::new(),
            winners: Vec::new(),
            encoded: EncodedRows::default(),
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        let of = |column: usize| type_name(self.schema.field(column).data_type());
        let order = match self.order {
            TimeSource::Event(column) => format!("ORDER {}", of(column)),
            TimeSource::Processing => "ORDER OF ARRIVAL".to_owned(),
        };
        let (row, codec) = if self.first_stands() {
            (vec!["SEEN".to_owned()], "flag/1")
        } else if self.update_before {
            (std::iter::once(order).chain(self.kept.iter().map(|&column| of(column))).collect(), "order-row/1")
        } else {
            (vec![order], "order/1")
        };
        let key = self.keys.iter().map(|&column| of(column)).collect();
        vec![TableShape { name: ROWS.to_owned(), kind: TableKind::Table, key, row, layout: self.layout(), codec }]
    }
}

struct Task {
    spec: Deduplicate,
    table: Table,
    groups: RowGroups,
    slots: Vec<Slot>,
    created: Vec<Slot>,
    winners: Vec<u32>,
    encoded: EncodedRows,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        inserts_only(&batch)?;
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let rows = &batch.rows;
        let key_columns: Vec<ArrayRef> = self.spec.keys.iter().map(|&c| Arc::clone(rows.column(c))).collect();
        self.groups.group(&key_columns, rows.num_rows())?;
        let order = self.order(rows)?;
        self.find_winners(order.as_ref());
        let first = self.groups.first();
        self.table.upsert_rows(&self.groups.keys, first, &mut self.slots, &mut self.created)?;
        self.created.sort_unstable();

        let order = |row: u32| order.as_ref().map_or(0, |o| o[row as usize]);
        let mut changes: Vec<Change> = Vec::with_capacity(self.slots.len());
        for (g, &slot) in self.slots.iter().enumerate() {
            let row = self.winners[g];
            let new = self.created.binary_search(&slot).is_ok();
            if new || (!self.spec.first_stands() && self.spec.replaces(order(row), stored_order(self.table.row(slot))))
            {
                changes.push(Change { slot, row, new });
            }
        }
        if changes.is_empty() {
            return Ok(Progress::Done);
        }
        // The old rows are read before the new ones take their place.
        let emitted = self.emitted(rows, &changes)?;
        self.store(rows, &changes, order);
        out.emit(emitted)?;
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.table.freeze());
        Ok(())
    }
}

/// A key whose row is new or another.
struct Change {
    slot: Slot,
    row: u32,
    new: bool,
}

fn stored_order(row: &[u8]) -> i64 {
    let mut order = [0; ORDER_BYTES];
    order.copy_from_slice(&row[..ORDER_BYTES]);
    i64::from_le_bytes(order)
}

impl Task {
    /// The order column in its own unit; none by processing time, where all that counts is what came when.
    fn order(&self, rows: &RecordBatch) -> Result<Option<ScalarBuffer<i64>>, OperatorError> {
        let TimeSource::Event(column) = self.spec.order else { return Ok(None) };
        let values = rows.column(column);
        if values.null_count() > 0 {
            let name = rows.schema_ref().field(column).name();
            return Err(OperatorError::bad_input(format!(
                "the time column `{name}` is null in a row: filter such rows out, or give them a time"
            )));
        }
        as_i64(values).map(Some)
    }

    /// The row of the batch that stands for each of its keys.
    fn find_winners(&mut self, order: Option<&ScalarBuffer<i64>>) {
        self.winners.clear();
        self.winners.extend_from_slice(self.groups.first());
        match (order, self.spec.keep) {
            (None, Keep::First) => {}
            (None, Keep::Last) => {
                for (row, &g) in self.groups.of_row.iter().enumerate() {
                    self.winners[g as usize] = row as u32;
                }
            }
            (Some(order), _) => {
                for (row, &g) in self.groups.of_row.iter().enumerate() {
                    let winner = &mut self.winners[g as usize];
                    if row as u32 != *winner && self.spec.replaces(order[row], order[*winner as usize]) {
                        *winner = row as u32;
                    }
                }
            }
        }
    }

    fn store(&mut self, rows: &RecordBatch, changes: &[Change], order: impl Fn(u32) -> i64) {
        if self.spec.first_stands() {
            for change in changes {
                self.table.set(change.slot, &[1]);
            }
        } else if self.spec.update_before {
            let kept: Vec<ArrayRef> = self.spec.kept.iter().map(|&c| Arc::clone(rows.column(c))).collect();
            let winners: Vec<u32> = changes.iter().map(|c| c.row).collect();
            self.spec.codec.encode(&kept, &winners, ORDER_BYTES, &mut self.encoded);
            for (i, change) in changes.iter().enumerate() {
                self.encoded.header(i, ORDER_BYTES).copy_from_slice(&order(change.row).to_le_bytes());
                self.table.set(change.slot, self.encoded.get(i));
            }
        } else {
            for change in changes {
                self.table.set(change.slot, &order(change.row).to_le_bytes());
            }
        }
    }

    fn emitted(&self, rows: &RecordBatch, changes: &[Change]) -> Result<Batch, OperatorError> {
        let after = |c: &Change| if c.new { RowKind::Insert } else { RowKind::UpdateAfter };
        if !self.spec.update_before || changes.iter().all(|c| c.new) {
            let winners: UInt32Array = changes.iter().map(|c| c.row).collect::<Vec<u32>>().into();
            let columns = take_columns(rows.columns(), &winners)?;
            let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
            return Ok(Batch::with_kinds(rows, changes.iter().map(after).collect()));
        }
        let old: Vec<&[u8]> =
            changes.iter().filter(|c| !c.new).map(|c| &self.table.row(c.slot)[ORDER_BYTES..]).collect();
        let old = self.spec.codec.decode(&old)?;
        let mut kinds = Vec::with_capacity(changes.len() * 2);
        // For each row to emit: from the batch (0) or the old rows (1), and which.
        let mut picks: Vec<(usize, usize)> = Vec::with_capacity(changes.len() * 2);
        let mut key_rows: Vec<u32> = Vec::with_capacity(changes.len() * 2);
        let mut next_old = 0;
        for change in changes {
            if !change.new {
                kinds.push(RowKind::UpdateBefore);
                picks.push((1, next_old));
                key_rows.push(change.row);
                next_old += 1;
            }
            kinds.push(after(change));
            picks.push((0, change.row as usize));
            key_rows.push(change.row);
        }
        let key_rows = UInt32Array::from(key_rows);
        let columns = (0..rows.num_columns())
            .map(|c| match self.spec.kept.iter().position(|k| *k == c) {
                // A key is the same before and after.
                None => arrow::compute::take(rows.column(c), &key_rows, None),
                Some(kept) => interleave(&[rows.column(c).as_ref(), old[kept].as_ref()], &picks),
            })
            .collect::<Result<Vec<ArrayRef>, _>>()?;
        let schema: &Arc<Schema> = &self.spec.schema;
        Ok(Batch::with_kinds(RecordBatch::try_new(Arc::clone(schema), columns)?, kinds))
    }
}
