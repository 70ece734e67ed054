//! The first rows of each partition: the node, and how it comes out of a `ROW_NUMBER()`, `RANK()` or `DENSE_RANK()` that a condition
//! bounds.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, DFSchema, DFSchemaRef, Result, TableReference};
use datafusion_expr::expr::Sort;
use datafusion_expr::{Expr, Extension, Filter, LogicalPlan, SubqueryAlias, UserDefinedLogicalNodeCore};
use weir_operators::RankFunction;

use crate::error::Place;
use crate::logical::columns::{Windowing, partition_window};
use crate::logical::nodes::{one_input, position, sorted};

/// `ROW_NUMBER() OVER (PARTITION BY keys ORDER BY …) <= n`, and the same with RANK and DENSE_RANK.
#[derive(Clone, Debug)]
pub struct TopN {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// The partition columns; none is one partition.
    pub partition: Vec<Expr>,
    /// The columns that rows are ordered by.
    pub order: Vec<Sort>,
    /// How they are numbered.
    pub function: RankFunction,
    /// The least number that is kept.
    pub from: u64,
    /// The greatest number that is kept.
    pub to: u64,
    /// The last output column, with the number, if anything reads it.
    pub rank: Option<(Option<TableReference>, FieldRef)>,
    /// Where it stands in the script.
    pub place: Place,
    schema: DFSchemaRef,
}

/// A [`TopN`] before its schema is known.
pub struct NewTopN {
    pub input: Arc<LogicalPlan>,
    pub partition: Vec<Expr>,
    pub order: Vec<Sort>,
    pub function: RankFunction,
    pub from: u64,
    pub to: u64,
    pub rank: Option<(Option<TableReference>, FieldRef)>,
    pub place: Place,
}

impl NewTopN {
    /// The node.
    pub fn node(self) -> Result<TopN> {
        let Self { input, partition, order, function, from, to, rank, place } = self;
        let fields = input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
        let fields = fields.chain(rank.clone()).collect();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(TopN { input, partition, order, function, from, to, rank, place, schema })
    }
}

impl TopN {
    /// The windows of event time, each of which it numbers by itself: its rows are put out when they close.
    pub fn window(&self) -> Option<Windowing> {
        let is_final = self.function == RankFunction::RowNumber;
        is_final.then(|| partition_window(&self.partition, &self.input)).flatten()
    }

    fn renewed(&self) -> NewTopN {
        let Self { input, partition, order, function, from, to, rank, place, schema: _ } = self.clone();
        NewTopN { input, partition, order, function, from, to, rank, place }
    }
}

impl PartialEq for TopN {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.partition, &self.order, self.function, self.from, self.to, &self.rank)
            == (&other.input, &other.partition, &other.order, other.function, other.from, other.to, &other.rank)
    }
}

impl Eq for TopN {}

impl PartialOrd for TopN {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl Hash for TopN {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.partition.hash(state);
        self.order.hash(state);
        (self.function.name(), self.from, self.to).hash(state);
        self.rank.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for TopN {
    fn name(&self) -> &'static str {
        "TopN"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.partition.iter().cloned().chain(self.order.iter().map(|sort| sort.expr.clone())).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        // A filter on anything but the partition would choose other rows.
        let keys: HashSet<&str> = self.partition.iter().filter_map(|key| key.try_as_col()).map(Column::name).collect();
        let names = self.schema.fields().iter().map(|field| field.name().clone());
        names.filter(|name| !keys.contains(name.as_str())).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, from, to, partition, order, .. } = self;
        write!(f, "TopN: {} {from} to {to} of {partition:?} by {order:?}", function.name())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut new = NewTopN { input: one_input(inputs)?, ..self.renewed() };
        let mut exprs = exprs.into_iter();
        new.partition = exprs.by_ref().take(self.partition.len()).collect();
        for (sort, expr) in new.order.iter_mut().zip(exprs) {
            sort.expr = expr;
        }
        new.node()
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|&column| column < width).collect();
        needed.extend(self.expressions().iter().filter_map(|expr| position(expr, &self.input)));
        Some(vec![sorted(needed)])
    }
}

/// Takes away the numbers that nothing reads: rows that only change their number then change nothing.
pub fn without_unread_numbers(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down(|plan| {
        if !matches!(plan, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_)) {
            return Ok(Transformed::no(plan));
        }
        let exprs = plan.expressions();
        let Some(&input) = plan.inputs().first() else { return Ok(Transformed::no(plan)) };
        match without_number(input, &read(&exprs, input.schema()))? {
            Some(input) => Ok(Transformed::yes(plan.with_new_exprs(exprs, vec![input])?)),
            None => Ok(Transformed::no(plan)),
        }
    })
    .data()
}

/// The columns of a schema that expressions read.
fn read(exprs: &[Expr], schema: &DFSchema) -> HashSet<usize> {
    exprs.iter().flat_map(Expr::column_refs).filter_map(|column| schema.maybe_index_of_column(column)).collect()
}

fn without_number(plan: &LogicalPlan, read_above: &HashSet<usize>) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Filter(filter) => {
            let mut all = read(std::slice::from_ref(&filter.predicate), filter.input.schema());
            all.extend(read_above);
            let Some(input) = without_number(&filter.input, &all)? else { return Ok(None) };
            Ok(Some(LogicalPlan::Filter(Filter::new(filter.predicate.clone(), Arc::new(input)))))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = without_number(&alias.input, read_above)? else { return Ok(None) };
            Ok(Some(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?)))
        }
        LogicalPlan::Extension(extension) => {
            let Some(node) = extension.node.as_any().downcast_ref::<TopN>() else { return Ok(None) };
            let width = node.input.schema().fields().len();
            if node.rank.is_none() || read_above.contains(&width) {
                return Ok(None);
            }
            let node = NewTopN { rank: None, ..node.renewed() }.node()?;
            Ok(Some(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
        }
        _ => Ok(None),
    }
}
