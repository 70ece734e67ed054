//! A table that rows are looked up in: what is made of its rows before they are found.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::Result as PlannerResult;
use datafusion_common::cast::as_boolean_array;
use datafusion_physical_expr::PhysicalExpr;
use weir_engine::api::error::OperatorError;
use weir_engine::{BatchFn, StageId};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::ops::Lookup;
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn lookup(&mut self, node: &Node, lookup: &Lookup) -> Result<StageId, PlanError> {
        let made = lookup.make().map_err(|error| internal(&error))?;
        self.operator(node, made, None)
    }
}

/// What is done with all rows.
pub enum Step {
    /// Those stay for which this is true.
    Keep(Arc<dyn PhysicalExpr>),
    /// These columns take the place of those before.
    Make(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

impl Step {
    /// What it computes.
    pub fn exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        match self {
            Self::Keep(condition) => std::slice::from_ref(condition).iter(),
            Self::Make(columns, _) => columns.iter(),
        }
    }
}

/// Makes what a join reads of what a connector gives.
pub struct Rows {
    /// Computes the table's own columns.
    pub prepare: Option<Arc<dyn BatchFn>>,
    /// So many columns are needed; behind them are those of a watermark.
    pub take: usize,
    /// In their order.
    pub steps: Vec<Step>,
}

impl BatchFn for Rows {
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, OperatorError> {
        let rows = self.prepare.as_ref().map_or(Ok(rows.clone()), |prepare| prepare.apply(rows))?;
        let mut rows = rows.project(&(0..self.take).collect::<Vec<usize>>())?;
        for step in &self.steps {
            rows = match step {
                Step::Keep(condition) => {
                    let values = condition.evaluate(&rows).and_then(|value| value.into_array(rows.num_rows()));
                    let values = values.map_err(|error| OperatorError::operator(error.strip_backtrace()))?;
                    let values = cast(&values, &DataType::Boolean)?;
                    let kept =
                        as_boolean_array(&values).map_err(|error| OperatorError::operator(error.strip_backtrace()))?;
                    filter_record_batch(&rows, kept)?
                }
                Step::Make(columns, schema) => make(&rows, columns, schema)?,
            };
        }
        Ok(rows)
    }
}

fn make(
    rows: &RecordBatch,
    columns: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
) -> Result<RecordBatch, OperatorError> {
    let count = rows.num_rows();
    let made = columns
        .iter()
        .map(|expr| expr.evaluate(rows).and_then(|value| value.into_array(count)))
        .collect::<PlannerResult<Vec<_>>>()
        .map_err(|error| OperatorError::operator(error.strip_backtrace()))?;
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), made, &options)?)
}
