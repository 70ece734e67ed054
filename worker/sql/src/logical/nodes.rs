//! Nodes of a logical plan that DataFusion has no name for: windows over rows, and the first or last row of a key. Columns
//! that nobody reads are pruned through them, and filters on columns that they only pass on sink below them.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion_common::{DFSchema, DFSchemaRef, Result, plan_err};
use datafusion_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use weir_operators::{Keep, WindowKind, WindowShape};

use crate::error::Place;
use crate::logical::columns::Time;
use crate::parse::types::{TIMESTAMP, timestamp_ltz};

/// The columns that a window table function adds.
pub const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// `TABLE(TUMBLE(…))`, `HOP`, `CUMULATE` or `SESSION`: each row once for each of its windows, with the window's bounds.
#[derive(Clone, Debug)]
pub struct WindowTvf {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// The PARTITION BY columns of SESSION: each of their values has sessions of its own.
    pub partition: Vec<Expr>,
    /// The event-time column; none for processing time, which is read off the clock.
    pub time: Option<Expr>,
    /// What time it is.
    pub time_kind: Time,
    /// The windows.
    pub shape: WindowShape,
    /// Where the function stands in the script.
    pub place: Place,
    schema: DFSchemaRef,
}

impl WindowTvf {
    /// The node over an input.
    pub fn new(
        input: Arc<LogicalPlan>,
        partition: Vec<Expr>,
        time: Option<Expr>,
        time_kind: Time,
        shape: WindowShape,
        place: Place,
    ) -> Result<Self> {
        let mut fields: Vec<_> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        // The time attribute that a window passes on is of the type of the one it measured.
        let time_type = match (&time, time_kind) {
            (Some(Expr::Column(column)), Time::Event) => {
                input.schema().qualified_field_from_column(column)?.1.data_type().clone()
            }
            _ => timestamp_ltz(),
        };
        for (name, data_type) in WINDOW_COLUMNS.into_iter().zip([TIMESTAMP, TIMESTAMP, time_type]) {
            fields.push((None, Arc::new(Field::new(name, data_type, false))));
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { input, partition, time, time_kind, shape, place, schema })
    }
}

impl PartialEq for WindowTvf {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.partition, &self.time, self.time_kind, self.shape)
            == (&other.input, &other.partition, &other.time, other.time_kind, other.shape)
    }
}

impl Eq for WindowTvf {}

impl PartialOrd for WindowTvf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl Hash for WindowTvf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.partition.hash(state);
        self.time.hash(state);
        self.time_kind.hash(state);
        self.shape.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for WindowTvf {
    fn name(&self) -> &'static str {
        "WindowTvf"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.partition.iter().chain(&self.time).cloned().collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let windows = WINDOW_COLUMNS.into_iter().map(str::to_string);
        if self.shape.kind != WindowKind::Session {
            return windows.collect();
        }
        // Without some of its rows a session would be another one, unless all rows of the partition go.
        let keys: HashSet<&str> =
            self.partition.iter().filter_map(|key| key.try_as_col()).map(datafusion_common::Column::name).collect();
        let others = self.input.schema().fields().iter().map(|field| field.name().clone());
        windows.chain(others.filter(|name| !keys.contains(name.as_str()))).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowTvf: {:?} on {:?}", self.shape, self.time)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let time = if self.time.is_some() { exprs.pop() } else { None };
        Self::new(one_input(inputs)?, exprs, time, self.time_kind, self.shape, self.place)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|&column| column < width).collect();
        needed.extend(self.partition.iter().chain(&self.time).filter_map(|expr| position(expr, &self.input)));
        Some(vec![sorted(needed)])
    }
}

/// `ROW_NUMBER() OVER (PARTITION BY keys ORDER BY time) = 1`: one row a key.
#[derive(Clone, Debug)]
pub struct Deduplicate {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// The partition columns.
    pub keys: Vec<Expr>,
    /// The time attribute.
    pub order: Expr,
    /// What time it is.
    pub time_kind: Time,
    /// Which row stays.
    pub keep: Keep,
}

impl PartialEq for Deduplicate {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.keys, &self.order, self.keep) == (&other.input, &other.keys, &other.order, other.keep)
    }
}

impl Eq for Deduplicate {}

impl PartialOrd for Deduplicate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl Hash for Deduplicate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.keys.hash(state);
        self.order.hash(state);
        (self.keep == Keep::First).hash(state);
    }
}

impl UserDefinedLogicalNodeCore for Deduplicate {
    fn name(&self) -> &'static str {
        "Deduplicate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().cloned().chain([self.order.clone()]).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        // A filter on anything but the keys would choose another row.
        let keys: HashSet<&str> =
            self.keys.iter().filter_map(|key| key.try_as_col()).map(datafusion_common::Column::name).collect();
        self.input
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| !keys.contains(name.as_str()))
            .collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deduplicate: {:?} of {:?} by {:?}", self.keep, self.keys, self.order)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(order) = exprs.pop() else { return plan_err!("a deduplication has an order") };
        Ok(Self { input: one_input(inputs)?, keys: exprs, order, time_kind: self.time_kind, keep: self.keep })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = output_columns.to_vec();
        needed.extend(self.keys.iter().chain([&self.order]).filter_map(|expr| position(expr, &self.input)));
        Some(vec![sorted(needed)])
    }
}

/// The only input.
pub fn one_input(mut inputs: Vec<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
    match inputs.pop() {
        Some(input) if inputs.is_empty() => Ok(Arc::new(input)),
        _ => plan_err!("the node has one input"),
    }
}

/// Where a column stands in a plan's output.
pub fn position(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    expr.try_as_col().and_then(|column| input.schema().maybe_index_of_column(column))
}

/// Columns in their order, each once.
pub fn sorted(mut columns: Vec<usize>) -> Vec<usize> {
    columns.sort_unstable();
    columns.dedup();
    columns
}
