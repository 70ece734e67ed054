//! Filter and projection: stateless, a batch in, at most a batch out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::FilterBuilder;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::utils::collect_columns;
use weir_engine::{Batch, Operator, OperatorContext, OperatorError, OperatorFactory, Output, Progress, RowKind};

use crate::rows::column::selection;
use crate::spec::SpecError;
use crate::stateless::oversized::Oversized;

/// Characters of an expression that an error tells.
const TOLD: usize = 300;

/// WHERE and SELECT without aggregates. Row kinds are carried through: each row is filtered for itself.
#[derive(Debug, Clone)]
pub struct FilterProject {
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// The input columns that the projection reads, in the order in which it now finds them.
    needed: Vec<usize>,
    projection: Vec<Projected>,
    output: SchemaRef,
}

#[derive(Debug, Clone)]
enum Projected {
    /// A column passed on, by its place among the needed ones.
    Column(usize),
    /// Computed from the needed columns.
    Expression(Arc<dyn PhysicalExpr>),
}

impl FilterProject {
    /// Rows for which `filter` is true, as the columns of `projection`, which `output` names. Both were compiled against the
    /// input's schema.
    pub fn new(
        filter: Option<Arc<dyn PhysicalExpr>>,
        projection: Vec<Arc<dyn PhysicalExpr>>,
        output: SchemaRef,
    ) -> Result<Self, SpecError> {
        if projection.len() != output.fields().len() {
            return Err(SpecError::Unsupported(format!(
                "a projection of {} expressions onto {} columns",
                projection.len(),
                output.fields().len()
            )));
        }
        let mut needed: Vec<usize> = projection.iter().flat_map(collect_columns).map(|c| c.index()).collect();
        needed.sort_unstable();
        needed.dedup();
        let place = |index: usize| needed.iter().position(|n| *n == index).unwrap_or(index);
        let projection = projection
            .into_iter()
            .map(|e| match as_column(&e) {
                Some(index) => Projected::Column(place(index)),
                None => Projected::Expression(renumber(&e, &place)),
            })
            .collect();
        Ok(Self { filter, needed, projection, output })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// The batch filtered and projected; none if no row is left. For whoever has rows but no operator, as a source has.
    pub fn apply(&self, batch: &Batch) -> Result<Option<Batch>, OperatorError> {
        let rows = &batch.rows;
        let mut length = rows.num_rows();
        let mut kinds = batch.kinds.clone();
        let mut columns: Vec<ArrayRef> = self.needed.iter().map(|&c| Arc::clone(rows.column(c))).collect();
        if let Some(filter) = &self.filter {
            let mask = evaluate(filter, rows)?;
            if mask.data_type() != &DataType::Boolean {
                return Err(OperatorError::operator(format!(
                    "the filter `{filter}` is {}, not BOOLEAN",
                    mask.data_type()
                )));
            }
            let mask = selection(&mask);
            let passing = mask.count_set_bits();
            if passing < length {
                if passing == 0 {
                    return Ok(None);
                }
                kinds = kinds.map(|kinds| mask.set_indices().map(|row| kinds[row]).collect::<Vec<RowKind>>().into());
                let predicate = FilterBuilder::new(&BooleanArray::new(mask, None)).optimize().build();
                columns = columns.iter().map(|c| predicate.filter(c)).collect::<Result<_, _>>()?;
                length = passing;
            }
        }
        if length == 0 {
            return Ok(None);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(length));
        let mut input = None;
        let mut projected = Vec::with_capacity(self.projection.len());
        for p in &self.projection {
            projected.push(match p {
                Projected::Column(place) => Arc::clone(&columns[*place]),
                Projected::Expression(expression) => {
                    if input.is_none() {
                        let fields: Fields = self.needed.iter().map(|&c| input_field(rows, c)).collect();
                        let schema = Arc::new(Schema::new(fields));
                        input = Some(RecordBatch::try_new_with_options(schema, columns.clone(), &options)?);
                    }
                    match &input {
                        Some(input) => evaluate(expression, input)?,
                        None => continue,
                    }
                }
            });
        }
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.output), projected, &options)
            .map_err(|e| OperatorError::operator("the projection does not give what it declares").because(e))?;
        Ok(Some(Batch { rows, kinds }))
    }
}

fn input_field(rows: &RecordBatch, column: usize) -> Arc<Field> {
    Arc::clone(&rows.schema_ref().fields()[column])
}

fn as_column(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let any: &dyn std::any::Any = expression.as_ref();
    any.downcast_ref::<Column>().map(Column::index)
}

pub fn renumber(expression: &Arc<dyn PhysicalExpr>, place: &impl Fn(usize) -> usize) -> Arc<dyn PhysicalExpr> {
    let renumbered = Arc::clone(expression).transform(|e| {
        let any: &dyn std::any::Any = e.as_ref();
        Ok(match any.downcast_ref::<Column>() {
            Some(c) => Transformed::yes(Arc::new(Column::new(c.name(), place(c.index()))) as Arc<dyn PhysicalExpr>),
            None => Transformed::no(e),
        })
    });
    // The closure never fails, and so neither does the transformation.
    renumbered.map_or_else(|_| Arc::clone(expression), |t| t.data)
}

pub fn evaluate(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef, OperatorError> {
    expression
        .evaluate(rows)
        .and_then(|value| value.into_array(rows.num_rows()))
        .map_err(|e| OperatorError::bad_input(format!("`{}` could not be computed", shortened(expression))).because(e))
}

/// An expression's text as far as people read it.
fn shortened(expression: &Arc<dyn PhysicalExpr>) -> String {
    let text = expression.to_string();
    match text.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl OperatorFactory for FilterProject {
    fn create(&self, _ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Task { spec: self.clone(), pending: Vec::new() }))
    }
}

struct Task {
    spec: FilterProject,
    /// What is still to be computed, the first last.
    pending: Vec<Batch>,
}

impl Operator for Task {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.pending.push(batch);
        self.resume(out)
    }

    /// What would be too much at once is computed half by half.
    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some(batch) = self.pending.pop() {
            match self.spec.apply(&batch) {
                Ok(computed) => computed.map_or(Ok(()), |batch| out.emit(batch))?,
                Err(error) if batch.len() > 1 && Oversized::is_by_rows(&error) => {
                    let half = batch.len() / 2;
                    self.pending.extend([batch.slice(half, batch.len() - half), batch.slice(0, half)]);
                    continue;
                }
                Err(error) => return Err(error),
            }
            if !self.pending.is_empty() && out.is_full() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }
}
