//! From a planned query to one that can be lowered: types coerced, views inlined, `ROW_NUMBER() … = 1` recognised, filters as
//! low and columns as few as possible.
//!
//! Only rules of DataFusion that hold on unbounded, changing inputs are used: none that looks at statistics, sorts or limits. Joins stay
//! in the order of the script, but where that would join two tables that have no condition with each other.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, Result, ScalarValue};
use datafusion_expr::expr::{Sort, WindowFunction};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{
    Expr, Extension, Filter, LogicalPlan, Projection, UserDefinedLogicalNode, WindowFunctionDefinition,
};
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion_optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion_optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion_optimizer::eliminate_filter::EliminateFilter;
use datafusion_optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion_optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::push_down_filter::PushDownFilter;
use datafusion_optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion_optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion_optimizer::simplify_expressions::SimplifyExpressions;
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerContext, OptimizerRule};
use weir_operators::{Keep, RankFunction};

use crate::error::{Place, PlanError};
use crate::logical::columns::{Time, of_expr, traits};
use crate::logical::exprs::{FlinkCasts, FlinkMeaning};
use crate::logical::grouping::GroupingSets;
use crate::logical::nodes::Deduplicate;
use crate::logical::numbers::Numbers;
use crate::logical::subqueries::{OneValue, without_subqueries};
use crate::logical::topn::{NewTopN, without_unread_numbers};
use crate::logical::unions::SameTypes;
use crate::logical::values::TypedValues;
use crate::names::catalog::{planner_options, refuse};
use crate::names::functions::rank::function_of;

/// Rounds of the rules until nothing changes any more.
const PASSES: u8 = 8;

/// Coerces types. What is wrong with a query's types is said here.
pub fn analyze(plan: LogicalPlan, place: Place) -> Result<LogicalPlan, PlanError> {
    let analyzer = Analyzer::with_rules(vec![
        Arc::new(FlinkMeaning),
        Arc::new(OneValue),
        Arc::new(TypedValues),
        Arc::new(SameTypes),
        Arc::new(TypeCoercion::new()),
        Arc::new(FlinkCasts),
        Arc::new(GroupingSets),
    ]);
    analyzer
        .execute_and_check(plan, &planner_options(), |_, _| {})
        .map_err(|error| PlanError::from_planner(&error, place))
}

/// Optimises an analysed plan.
pub fn optimize(plan: LogicalPlan, place: Place) -> Result<LogicalPlan, PlanError> {
    run(plan).and_then(without_subqueries).map_err(|error| PlanError::from_planner(&error, place))
}

fn run(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = with_rules(
        plan,
        vec![
            Arc::new(ReplaceDistinctWithAggregate::new()),
            Arc::new(DecorrelatePredicateSubquery::new()),
            Arc::new(ScalarSubqueryToJoin::new()),
            Arc::new(SimplifyExpressions::new()),
            Arc::new(ExtractEquijoinPredicate::new()),
            Arc::new(EliminateCrossJoin::new()),
            Arc::new(EliminateOuterJoin::new()),
            Arc::new(PushDownFilter::new()),
            Arc::new(OptimizeProjections::new()),
        ],
    )?;
    let plan = first_rows(plan)?;
    let plan = with_rules(
        plan,
        vec![
            Arc::new(SimplifyExpressions::new()),
            Arc::new(EliminateFilter::new()),
            Arc::new(ExtractEquijoinPredicate::new()),
            Arc::new(EliminateOuterJoin::new()),
            Arc::new(PushDownFilter::new()),
            Arc::new(CommonSubexprEliminate::new()),
            Arc::new(OptimizeProjections::new()),
        ],
    )?;
    without_unread_numbers(plan)
}

fn with_rules(plan: LogicalPlan, rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>) -> Result<LogicalPlan> {
    let context = OptimizerContext::new_with_config_options(Arc::new(planner_options()))
        .with_skip_failing_rules(false)
        .with_max_passes(PASSES);
    Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})
}

/// Puts what keeps the first rows in the place of each `ROW_NUMBER()`, `RANK()` and `DENSE_RANK()` that a filter bounds.
fn first_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down(|plan| {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        match ranked(filter)? {
            Some(rewritten) => Ok(Transformed::yes(rewritten)),
            None => Ok(Transformed::no(plan)),
        }
    })
    .data()
}

/// The filter without its conditions on a row's number, over a plan that keeps the rows of these numbers; none if there are no such
/// conditions.
fn ranked(filter: &Filter) -> Result<Option<LogicalPlan>> {
    let conjuncts = split_conjunction(&filter.predicate);
    let of_each: Vec<Option<(&Column, Numbers)>> = conjuncts.iter().map(|conjunct| Numbers::of(conjunct)).collect();
    for (column, _) in of_each.iter().flatten() {
        let of_column = of_each.iter().flatten().filter(|(other, _)| other == column);
        let numbers = of_column.fold(Numbers::all(), |all, (_, numbers)| all.and(numbers));
        let Some(input) = replace_window(&filter.input, column, &numbers)? else { continue };
        // Numbers that are not all between the first and the last are told apart above.
        let is_done = |known: &Option<(&Column, Numbers)>| {
            numbers.is_range() && known.as_ref().is_some_and(|(other, _)| other == column)
        };
        let rest = conjuncts.iter().zip(&of_each).filter(|(_, known)| !is_done(known)).map(|(expr, _)| (*expr).clone());
        return Ok(Some(match conjunction(rest) {
            Some(predicate) => LogicalPlan::Filter(Filter::new(predicate, Arc::new(input))),
            None => input,
        }));
    }
    Ok(None)
}

/// Goes down through projections to the number that the column is, and replaces its node.
fn replace_window(plan: &LogicalPlan, rank: &Column, numbers: &Numbers) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let Some(index) = plan.schema().maybe_index_of_column(rank) else { return Ok(None) };
            let Expr::Column(below) = projection.expr[index].clone().unalias_nested().data else { return Ok(None) };
            let Some(input) = replace_window(&projection.input, &below, numbers)? else { return Ok(None) };
            Ok(Some(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), Arc::new(input))?)))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(index) = plan.schema().maybe_index_of_column(rank) else { return Ok(None) };
            let below = Column::from(alias.input.schema().qualified_field(index));
            let Some(input) = replace_window(&alias.input, &below, numbers)? else { return Ok(None) };
            let alias = datafusion_expr::SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Ok(Some(LogicalPlan::SubqueryAlias(alias)))
        }
        LogicalPlan::Window(window) => {
            let width = window.input.schema().fields().len();
            let index = plan.schema().maybe_index_of_column(rank);
            match index.and_then(|index| index.checked_sub(width)) {
                Some(index) => numbered(window, index, numbers),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// What keeps the rows of these numbers, if it is a number that the window gives.
fn numbered(window: &datafusion_expr::Window, index: usize, numbers: &Numbers) -> Result<Option<LogicalPlan>> {
    let Some(Expr::WindowFunction(call)) = window.window_expr.get(index).map(|expr| expr.clone().unalias_nested().data)
    else {
        return Ok(None);
    };
    let WindowFunctionDefinition::WindowUDF(function) = &call.fun else { return Ok(None) };
    let Some(function) = function_of(function.name()) else { return Ok(None) };
    let place = place_of(call.params.partition_by.iter().chain(call.params.order_by.iter().map(|sort| &sort.expr)));
    if window.window_expr.len() > 1 {
        return Err(refuse(
            place,
            "several OVER clauses in one SELECT are not supported",
            format!("keep the {}() alone", function.name()),
        ));
    }
    let Some((from, to)) = numbers.bounds() else {
        return Err(refuse(
            place,
            format!("no row has such a {}(): it is 1 or more", function.name()),
            "change the condition on it",
        ));
    };
    let Some(to) = to else {
        return Err(refuse(
            place,
            format!("{}() without a last number would keep all rows in their order", function.name()),
            "say which is the last that is kept: WHERE row_num <= 10",
        ));
    };
    if call.params.order_by.is_empty() {
        return Err(refuse(
            place,
            format!("{}() lacks its ORDER BY", function.name()),
            "say what comes first: OVER (PARTITION BY … ORDER BY …)",
        ));
    }
    keep_first(window, &call, (function, from, to), place).map(Some)
}

fn keep_first(
    window: &datafusion_expr::Window,
    call: &WindowFunction,
    (function, from, to): (RankFunction, u64, u64),
    place: Place,
) -> Result<LogicalPlan> {
    let below = traits(&window.input);
    let times: Vec<Option<Time>> =
        call.params.order_by.iter().map(|sort| of_expr(&sort.expr, &window.input, &below).time).collect();
    // Keys that are computed, and an order that is, become columns below.
    let mut exprs: Vec<Expr> = window.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mut columns = Vec::new();
    for key in call.params.partition_by.iter().chain(call.params.order_by.iter().map(|sort| &sort.expr)) {
        if let Expr::Column(_) = key {
            columns.push(key.clone());
        } else {
            let name = format!("$key{}", columns.len());
            exprs.push(key.clone().alias(&name));
            columns.push(Expr::Column(Column::new_unqualified(name)));
        }
    }
    let width = window.input.schema().fields().len();
    let input = if exprs.len() > width {
        Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, Arc::clone(&window.input))?))
    } else {
        Arc::clone(&window.input)
    };
    let order = columns.split_off(call.params.partition_by.len());
    let sorts: Vec<Sort> =
        order.into_iter().zip(&call.params.order_by).map(|(expr, sort)| Sort { expr, ..sort.clone() }).collect();
    let (qualifier, field) = window.schema.qualified_field(width);
    let is_one = function == RankFunction::RowNumber && from == to;
    let node: Arc<dyn UserDefinedLogicalNode> = match (sorts.as_slice(), times.as_slice()) {
        ([sort], [Some(time_kind)]) if is_one && to == 1 => {
            let keep = if sort.asc { Keep::First } else { Keep::Last };
            Arc::new(Deduplicate { input, keys: columns, order: sort.expr.clone(), time_kind: *time_kind, keep })
        }
        ([sort, ..], [Some(Time::Processing), ..]) if !sort.asc => {
            return Err(refuse(
                place,
                format!(
                    "{}() by processing time, the newest first, for more than one row is not supported",
                    function.name()
                ),
                "keep the newest row: WHERE row_num = 1; or order by a column with the time",
            ));
        }
        _ => {
            let rank = (!is_one).then(|| (qualifier.cloned(), Arc::clone(field)));
            Arc::new(NewTopN { input, partition: columns, order: sorts, function, from, to, rank, place }.node()?)
        }
    };
    let kept = LogicalPlan::Extension(Extension { node });
    let mut exprs: Vec<Expr> = window.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    exprs.push(if is_one {
        let number = Expr::Literal(ScalarValue::Int64(Some(to.cast_signed())), None);
        number.alias_qualified(qualifier.cloned(), field.name().clone())
    } else {
        Expr::Column(Column::new(qualifier.cloned(), field.name()))
    });
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(kept))?))
}

/// The first place that the columns of these expressions stand at.
pub fn place_of<'e>(exprs: impl Iterator<Item = &'e Expr>) -> Place {
    exprs
        .flat_map(|expr| expr.column_refs())
        .filter_map(|column| column.spans.first())
        .map(|span| Place { line: span.start.line, column: span.start.column })
        .min()
        .unwrap_or_default()
}
