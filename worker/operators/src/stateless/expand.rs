//! GROUPING SETS: each row once for every set, without the columns that the set does not have.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::{Batch, Operator, OperatorContext, OperatorError, OperatorFactory, Output, Progress};

use crate::spec::{ExpandSpec, SpecError, field, schema_of};

/// Copies rows for each set. What a row does, its copies do.
#[derive(Debug, Clone)]
pub struct Expand {
    spec: ExpandSpec,
    output: SchemaRef,
}

impl Expand {
    /// Checks the spec. The output has the columns that are kept, those of the sets, and the set's number.
    pub fn new(spec: ExpandSpec) -> Result<Self, SpecError> {
        let mut fields: Vec<Field> =
            (0..spec.keep).map(|column| field(&spec.input, column).cloned()).collect::<Result<_, _>>()?;
        for (column, name) in &spec.columns {
            fields.push(Field::new(name, field(&spec.input, *column)?.data_type().clone(), true));
        }
        fields.push(Field::new(&spec.number, DataType::Int64, false));
        if let Some((_, has)) = spec.sets.iter().find(|(_, has)| has.len() != spec.columns.len()) {
            return Err(SpecError::NoSuchColumn { index: has.len(), columns: spec.columns.len() });
        }
        Ok(Self { output: schema_of(fields), spec })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }
}

impl OperatorFactory for Expand {
    fn create(&self, _ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task { of: self.clone(), expanding: None }))
    }
}

struct Task {
    of: Expand,
    /// Rows on their way out, and the set that is next.
    expanding: Option<(Batch, usize)>,
}

impl Operator for Task {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.expanding = Some((batch, 0));
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some((batch, set)) = self.expanding.take() {
            let Some((number, has)) = self.of.spec.sets.get(set) else { break };
            out.emit(self.copy(&batch, *number, has)?)?;
            if set + 1 == self.of.spec.sets.len() {
                break;
            }
            self.expanding = Some((batch, set + 1));
            if out.is_full() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }
}

impl Task {
    fn copy(&self, batch: &Batch, number: i64, has: &[bool]) -> Result<Batch, OperatorError> {
        let spec = &self.of.spec;
        let mut columns: Vec<ArrayRef> = batch.rows.columns()[..spec.keep].to_vec();
        for ((column, _), has) in spec.columns.iter().zip(has) {
            let column = batch.rows.column(*column);
            columns.push(if *has { Arc::clone(column) } else { new_null_array(column.data_type(), batch.len()) });
        }
        columns.push(Arc::new(Int64Array::from_value(number, batch.len())));
        let rows = RecordBatch::try_new(Arc::clone(&self.of.output), columns)?;
        Ok(Batch { rows, kinds: batch.kinds.clone() })
    }
}
