//! A table as a source: which physical columns it must make, what is computed from them, and what a batch says about event
//! time.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMillisecondType};
use datafusion_common::{DFSchema, Result as PlannerResult};
use datafusion_expr::{Expr, Operator};
use datafusion_physical_expr::PhysicalExpr;
use weir_connectors::{ConnectorRegistry, TableSpec};
use weir_engine::api::error::OperatorError;
use weir_engine::{BatchFn, Kin, SourceNode, StageHead, StageId, Timestamp, WatermarkFn};

use crate::error::PlanError;
use crate::logical::exprs::{physical, unqualified};
use crate::logical::tvf::interval_millis;
use crate::lower::Lowering;
use crate::names::catalog::{Origin, Table};
use crate::parse::types::TIMESTAMP;
use crate::physical::ops::Scan;
use crate::physical::tree::Node;
use crate::settings::Settings;

impl Lowering<'_> {
    pub(super) fn scan(&mut self, node: &Node, scan: &Scan) -> StageId {
        let mut source = scan.node.clone();
        source.identity.clone_from(&node.identity.now);
        source.kin = self.kin(node);
        self.begin(StageHead::Source(source), &node.identity)
    }
}

/// A source whose first columns are those that were asked for; what the watermark needs beside them follows.
pub struct PlannedSource {
    /// For the graph. Whose it is is not said yet.
    pub node: SourceNode,
    /// The table's column that each output column is.
    pub columns: Vec<usize>,
    /// It ends.
    pub bounded: bool,
}

/// Plans the table as a source of these of its columns.
pub fn plan_source(
    table: &Table,
    wanted: &[usize],
    settings: &Settings,
    connectors: &ConnectorRegistry,
    base_dir: &Path,
) -> Result<PlannedSource, PlanError> {
    let mut columns = wanted.to_vec();
    if let Some(watermark) = &table.watermark {
        let mut needed: Vec<usize> = watermark
            .expr
            .column_refs()
            .iter()
            .filter_map(|column| table.schema.index_of(column.name()).ok())
            .collect();
        needed.sort_unstable();
        columns.extend(needed.into_iter().filter(|column| !wanted.contains(column)));
    }
    if columns.is_empty() {
        // Rows are counted by a column; the first one of a fixed width is the cheapest.
        let cheapest = table.schema.fields().iter().position(|field| field.data_type().is_primitive()).unwrap_or(0);
        columns.push(cheapest);
    }
    let mut spec = table.spec(base_dir);
    if settings.projection_pushdown {
        spec.projection = narrowed(table, &columns, &spec);
    }
    let source = connectors.source(&spec).map_err(|error| table.refused(&error))?;
    let bounded = source.bounded();
    let (prepare, schema) =
        prepare(table, &columns, &spec).map_err(|error| PlanError::from_planner(&error, table.place))?;
    // In batch mode event time ends with the input, and no row is late.
    let watermark = if settings.batch { Ok(None) } else { watermark(table, &schema) };
    let watermark = watermark.map_err(|error| PlanError::from_planner(&error, table.place))?;
    let node = SourceNode {
        identity: String::new(),
        kin: Kin::default(),
        name: table.name.clone(),
        source,
        prepare,
        watermark,
        schema,
        idle_timeout: settings.idle_timeout,
    };
    Ok(PlannedSource { node, columns, bounded })
}

/// The physical columns that these columns are made of; none if that is all of them.
fn narrowed(table: &Table, columns: &[usize], spec: &TableSpec) -> Option<Vec<usize>> {
    let mut needed: Vec<usize> = columns
        .iter()
        .flat_map(|&column| match &table.columns[column].origin {
            Origin::Physical(index) => vec![*index],
            Origin::Computed(expr) => {
                expr.column_refs().iter().filter_map(|column| table.physical.index_of(column.name()).ok()).collect()
            }
        })
        .collect();
    needed.sort_unstable();
    needed.dedup();
    if needed.is_empty() {
        needed.push(0);
    }
    (needed.len() < spec.schema.fields().len()).then_some(needed)
}

/// What turns the connector's batches into these columns; nothing where they are that already.
fn prepare(table: &Table, columns: &[usize], spec: &TableSpec) -> PlannerResult<(Option<Arc<dyn BatchFn>>, SchemaRef)> {
    let made = spec.projected_schema();
    let input = unqualified(&made)?;
    let mut exprs = Vec::with_capacity(columns.len());
    let mut fields: Vec<Field> = Vec::with_capacity(columns.len());
    for &column in columns {
        let field = table.schema.field(column).clone();
        let expr = match &table.columns[column].origin {
            Origin::Physical(index) => crate::logical::exprs::column(table.physical.field(*index).name()),
            Origin::Computed(expr) => expr.clone(),
        };
        exprs.push(physical(&expr, &input)?);
        fields.push(field);
    }
    let schema = Arc::new(Schema::new(fields));
    if schema.fields() == made.fields() {
        return Ok((None, made));
    }
    let prepare = Columns { exprs, schema: Arc::clone(&schema) };
    Ok((Some(Arc::new(prepare)), schema))
}

/// Computes columns from a batch.
struct Columns {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

impl BatchFn for Columns {
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, OperatorError> {
        let count = rows.num_rows();
        let columns = self
            .exprs
            .iter()
            .map(|expr| expr.evaluate(&rows).and_then(|value| value.into_array(count)))
            .collect::<PlannerResult<Vec<_>>>()
            .map_err(|error| OperatorError::operator(error.strip_backtrace()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// What the table's WATERMARK says of batches of this schema.
fn watermark(table: &Table, schema: &SchemaRef) -> PlannerResult<Option<Arc<dyn WatermarkFn>>> {
    let Some(watermark) = &table.watermark else { return Ok(None) };
    if let Some((column, lag)) = bounded_lag(&watermark.expr)
        && let Ok(column) = schema.index_of(&column)
        && matches!(schema.field(column).data_type(), DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _))
    {
        return Ok(Some(Arc::new(BoundedLag { column, lag })));
    }
    let input: DFSchema = unqualified(schema)?;
    Ok(Some(Arc::new(Computed { expr: physical(&watermark.expr, &input)? })))
}

/// `c`, or `c - INTERVAL …`: the column and the lag in milliseconds.
fn bounded_lag(expr: &Expr) -> Option<(String, i64)> {
    match expr {
        Expr::Column(column) => Some((column.name().to_string(), 0)),
        Expr::BinaryExpr(binary) if binary.op == Operator::Minus => match (&*binary.left, &*binary.right) {
            (Expr::Column(column), Expr::Literal(lag, _)) => Some((column.name().to_string(), interval_millis(lag)?)),
            _ => None,
        },
        _ => None,
    }
}

/// The usual watermark: the largest time less a constant.
struct BoundedLag {
    column: usize,
    lag: i64,
}

impl WatermarkFn for BoundedLag {
    fn watermark(&self, rows: &RecordBatch) -> Result<Option<Timestamp>, OperatorError> {
        let times = rows.column(self.column).as_primitive_opt::<TimestampMillisecondType>();
        Ok(times.and_then(max).map(|time| time.saturating_sub(self.lag)))
    }
}

/// Any other expression, row by row.
struct Computed {
    expr: Arc<dyn PhysicalExpr>,
}

impl WatermarkFn for Computed {
    fn watermark(&self, rows: &RecordBatch) -> Result<Option<Timestamp>, OperatorError> {
        let values = self
            .expr
            .evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
            .map_err(|error| OperatorError::operator(error.strip_backtrace()))?;
        let plain = match values.data_type() {
            DataType::Timestamp(unit, Some(_)) => cast(&values, &DataType::Timestamp(*unit, None))?,
            _ => values,
        };
        let millis = cast(&plain, &TIMESTAMP)?;
        Ok(millis.as_primitive_opt::<TimestampMillisecondType>().and_then(max))
    }
}
