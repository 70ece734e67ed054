//! GROUPING SETS, ROLLUP and CUBE: each row is there once for every set, without the columns that the set does not have, and with
//! a number that says which these are. What is grouped is then grouped as anything else.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult};
use datafusion_common::{Column, DFSchema, DFSchemaRef, Result, ScalarValue, plan_err};
use datafusion_expr::expr::Case;
use datafusion_expr::utils::grouping_set_to_exprlist;
use datafusion_expr::{
    Aggregate, Expr, ExprSchemable, Extension, GroupingSet, LogicalPlan, Projection, UserDefinedLogicalNodeCore,
};
use datafusion_optimizer::analyzer::AnalyzerRule;

use crate::names::functions::aggregate::GROUPING;

/// The column that says which columns a row lacks: a bit each, that of the last one the lowest.
const NUMBER: &str = "$grouping";

/// As many sets as bits can tell apart are far more than a row should be copied for.
const MAX_SETS: usize = 1024;

/// Puts an [`Expand`] below each aggregation by several sets.
#[derive(Debug)]
pub struct GroupingSets;

impl AnalyzerRule for GroupingSets {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match &plan {
            LogicalPlan::Aggregate(aggregate) => Ok(match rewrite(aggregate)? {
                Some(plan) => Transformed::yes(plan),
                None => Transformed::no(plan),
            }),
            _ => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "grouping_sets"
    }
}

/// The aggregation over expanded rows, with the columns that it had; none if it is by one set and does not ask which.
fn rewrite(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    let set = match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(set)] => Some(set),
        _ => None,
    };
    if set.is_none() && !aggregate.aggr_expr.iter().any(is_grouping) {
        return Ok(None);
    }
    let columns: Vec<Expr> = grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
    let numbers = match set {
        Some(set) => numbers_of(set, &columns)?,
        None => vec![0],
    };
    // A column that all sets have is grouped by as it is, as a window's bounds have to be.
    let shared: Vec<bool> =
        (0..columns.len()).map(|at| numbers.iter().all(|number| number & bit(at, columns.len()) == 0)).collect();
    let expanded: Vec<(usize, Expr)> =
        columns.iter().enumerate().filter(|(at, _)| !shared[*at]).map(|(at, expr)| (at, expr.clone())).collect();
    let number = Expr::Column(Column::new_unqualified(NUMBER));
    let (input, mut group) = if set.is_some() {
        let node = Expand::new(Arc::clone(&aggregate.input), expanded, columns.len(), numbers.clone())?;
        let input = Arc::new(LogicalPlan::Extension(Extension { node: Arc::new(node) }));
        let of = |at: usize| {
            if shared[at] { columns[at].clone() } else { Expr::Column(Column::new_unqualified(name_of(at))) }
        };
        (input, (0..columns.len()).map(of).collect::<Vec<_>>())
    } else {
        (Arc::clone(&aggregate.input), columns.clone())
    };
    if set.is_some() {
        group.push(number.clone());
    }
    let kept: Vec<Expr> = aggregate.aggr_expr.iter().filter(|expr| !is_grouping(expr)).cloned().collect();
    let grouped = Aggregate::try_new(input, group, kept)?;
    // The names that stand above.
    let mut out: Vec<Expr> = Vec::with_capacity(aggregate.schema.fields().len());
    let groups = columns.len() + usize::from(set.is_some());
    let schema = Arc::clone(&grouped.schema);
    let mut aggregates = schema.iter().skip(grouped.group_expr.len());
    for (at, (qualifier, field)) in aggregate.schema.iter().enumerate() {
        let expr = if at < columns.len() {
            Expr::Column(Column::from(grouped.schema.qualified_field(at)))
        } else if at < groups {
            number.clone().cast_to(field.data_type(), &grouped.schema)?
        } else {
            match grouping_arguments(&aggregate.aggr_expr[at - groups]) {
                Some(arguments) => which(arguments, &columns, &numbers, &number)?,
                None => match aggregates.next() {
                    Some(field) => Expr::Column(Column::from(field)),
                    None => return plan_err!("an aggregate of GROUPING SETS got lost"),
                },
            }
        };
        out.push(expr.alias_qualified(qualifier.cloned(), field.name().clone()));
    }
    let grouped = Arc::new(LogicalPlan::Aggregate(grouped));
    Ok(Some(LogicalPlan::Projection(Projection::try_new(out, grouped)?)))
}

fn bit(at: usize, columns: usize) -> i64 {
    1 << (columns - 1 - at)
}

fn name_of(at: usize) -> String {
    format!("$group{at}")
}

/// The number of each set, in their order, each once.
fn numbers_of(set: &GroupingSet, columns: &[Expr]) -> Result<Vec<i64>> {
    let sets: Vec<Vec<Expr>> = match set {
        GroupingSet::GroupingSets(sets) => sets.clone(),
        GroupingSet::Rollup(exprs) => (0..=exprs.len()).rev().map(|length| exprs[..length].to_vec()).collect(),
        GroupingSet::Cube(exprs) if exprs.len() < 11 => (0..1usize << exprs.len())
            .rev()
            .map(|mask| {
                let has = |at: &usize| mask >> (exprs.len() - 1 - at) & 1 == 1;
                (0..exprs.len()).filter(has).map(|at| exprs[at].clone()).collect()
            })
            .collect(),
        GroupingSet::Cube(exprs) => return plan_err!("CUBE of {} columns has more than {MAX_SETS} sets", exprs.len()),
    };
    if sets.len() > MAX_SETS || columns.len() > 62 {
        return plan_err!("{} sets of {} columns are more than {MAX_SETS} of 62", sets.len(), columns.len());
    }
    let mut seen = BTreeSet::new();
    let number = |set: &Vec<Expr>| {
        let lacks = columns.iter().enumerate().filter(|(_, column)| !set.contains(column));
        lacks.map(|(at, _)| bit(at, columns.len())).sum::<i64>()
    };
    Ok(sets.iter().map(number).filter(|number| seen.insert(*number)).collect())
}

fn is_grouping(expr: &Expr) -> bool {
    grouping_arguments(expr).is_some()
}

fn grouping_arguments(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Alias(alias) => grouping_arguments(&alias.expr),
        Expr::AggregateFunction(call) if call.func.name() == GROUPING => Some(&call.params.args),
        _ => None,
    }
}

/// `GROUPING(a, …)`: a bit for each argument, 1 where a row's set does not have it.
fn which(arguments: &[Expr], columns: &[Expr], numbers: &[i64], number: &Expr) -> Result<Expr> {
    let mut places = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match columns.iter().position(|column| column == argument) {
            Some(at) => places.push(at),
            None => return plan_err!("GROUPING takes columns of GROUP BY, and {argument} is none"),
        }
    }
    let of =
        |number: i64| places.iter().fold(0, |bits, &at| bits << 1 | i64::from(number & bit(at, columns.len()) != 0));
    let literal = |value: i64| Expr::Literal(ScalarValue::Int64(Some(value)), None);
    if numbers.iter().all(|one| of(*one) == of(numbers[0])) {
        return Ok(literal(of(numbers[0])));
    }
    let when = numbers.iter().map(|&one| (Box::new(number.clone().eq(literal(one))), Box::new(literal(of(one)))));
    Ok(Expr::Case(Case::new(None, when.collect(), Some(Box::new(literal(0))))))
}

/// Each row once for every set: its columns, then those that are grouped by, null where the set does not have them, then the number
/// that says which these are.
#[derive(Clone, Debug)]
pub struct Expand {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// What some set does not have, and its place among all that is grouped by.
    pub columns: Vec<(usize, Expr)>,
    /// How many columns are grouped by.
    pub width: usize,
    /// The sets.
    pub numbers: Vec<i64>,
    schema: DFSchemaRef,
}

impl Expand {
    fn new(input: Arc<LogicalPlan>, columns: Vec<(usize, Expr)>, width: usize, numbers: Vec<i64>) -> Result<Self> {
        let mut fields: Vec<_> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        for (at, expr) in &columns {
            let data_type = expr.get_type(input.schema())?;
            fields.push((None, Arc::new(Field::new(name_of(*at), data_type, true))));
        }
        fields.push((None, Arc::new(Field::new(NUMBER, DataType::Int64, false))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { input, columns, width, numbers, schema })
    }

    /// What all columns are called.
    pub fn names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// For each set, whether it has each of the columns.
    pub fn sets(&self) -> Vec<(i64, Vec<bool>)> {
        let has = |number: i64| self.columns.iter().map(|(at, _)| number & bit(*at, self.width) == 0).collect();
        self.numbers.iter().map(|&number| (number, has(number))).collect()
    }
}

impl PartialEq for Expand {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.columns, self.width, &self.numbers)
            == (&other.input, &other.columns, other.width, &other.numbers)
    }
}

impl Eq for Expand {}

impl PartialOrd for Expand {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl Hash for Expand {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.columns.hash(state);
        self.width.hash(state);
        self.numbers.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for Expand {
    fn name(&self) -> &'static str {
        "Expand"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.columns.iter().map(|(_, expr)| expr.clone()).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.columns.iter().map(|(at, _)| name_of(*at)).chain([NUMBER.to_string()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expand: {:?} by {:?}", self.numbers, self.columns)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let [input] = <[LogicalPlan; 1]>::try_from(inputs)
            .map_err(|_| datafusion_common::plan_datafusion_err!("an expansion has one input"))?;
        let columns = self.columns.iter().map(|(at, _)| *at).zip(exprs).collect();
        Self::new(Arc::new(input), columns, self.width, self.numbers.clone())
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|&column| column < width).collect();
        let read = self.columns.iter().flat_map(|(_, expr)| expr.column_refs());
        needed.extend(read.filter_map(|column| self.input.schema().maybe_index_of_column(column)));
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}
