//! From a planned query to one that can be lowered: types coerced, views inlined, `ROW_NUMBER() … = 1` recognised, filters as
//! low and columns as few as possible.
//!
//! Only rules of DataFusion that hold on unbounded, changing inputs are used: none that looks at statistics, sorts or limits. Joins stay
//! in the order of the script, but where that would join two tables that have no condition with each other.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, Result, ScalarValue};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{Expr, Extension, Filter, LogicalPlan, Operator, Projection, WindowFunctionDefinition};
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
use weir_operators::Keep;

use crate::error::{Place, PlanError};
use crate::logical::columns::{of_expr, traits};
use crate::logical::exprs::{FlinkCasts, FlinkMeaning};
use crate::logical::nodes::Deduplicate;
use crate::logical::subqueries::{OneValue, without_subqueries};
use crate::logical::unions::SameTypes;
use crate::logical::values::TypedValues;
use crate::names::catalog::{planner_options, refuse};

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
    let plan = deduplications(plan)?;
    with_rules(
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
    )
}

fn with_rules(plan: LogicalPlan, rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>) -> Result<LogicalPlan> {
    let context = OptimizerContext::new_with_config_options(Arc::new(planner_options()))
        .with_skip_failing_rules(false)
        .with_max_passes(PASSES);
    Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})
}

/// Puts a [`Deduplicate`] in the place of each `ROW_NUMBER()` that a filter holds to 1.
fn deduplications(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down(|plan| {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        match ranked(filter)? {
            Some(rewritten) => Ok(Transformed::yes(rewritten)),
            None => Ok(Transformed::no(plan)),
        }
    })
    .data()
}

/// The filter without its condition on the row number, over a plan that keeps one row a key; none if there is no such
/// condition.
fn ranked(filter: &Filter) -> Result<Option<LogicalPlan>> {
    let conjuncts = split_conjunction(&filter.predicate);
    for (index, conjunct) in conjuncts.iter().enumerate() {
        let Some((rank, keeps_first)) = rank_condition(conjunct) else { continue };
        let Some(input) = replace_window(&filter.input, rank, keeps_first)? else { continue };
        let rest: Vec<Expr> = conjuncts
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .map(|(_, expr)| (*expr).clone())
            .collect();
        return Ok(Some(match conjunction(rest) {
            Some(predicate) => LogicalPlan::Filter(Filter::new(predicate, Arc::new(input))),
            None => input,
        }));
    }
    Ok(None)
}

/// A comparison of a column with a number: the column, and whether exactly 1 satisfies it among 1, 2, 3, ….
fn rank_condition(expr: &Expr) -> Option<(&Column, bool)> {
    let Expr::BinaryExpr(binary) = expr else { return None };
    let (column, operator, number) = match (strip_cast(&binary.left), strip_cast(&binary.right)) {
        (Expr::Column(column), Expr::Literal(number, _)) => (column, binary.op, number),
        (Expr::Literal(number, _), Expr::Column(column)) => (column, binary.op.swap()?, number),
        _ => return None,
    };
    let ScalarValue::Int64(Some(number)) = number.cast_to(&arrow::datatypes::DataType::Int64).ok()? else {
        return None;
    };
    let one = match operator {
        Operator::Eq | Operator::LtEq => number == 1,
        Operator::Lt => number == 2,
        _ => false,
    };
    Some((column, one))
}

fn strip_cast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => strip_cast(&cast.expr),
        other => other,
    }
}

/// Goes down through projections to the `ROW_NUMBER()` that the column is, and replaces its node.
fn replace_window(plan: &LogicalPlan, rank: &Column, keeps_first: bool) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let Some(index) = plan.schema().maybe_index_of_column(rank) else { return Ok(None) };
            let Expr::Column(below) = projection.expr[index].clone().unalias_nested().data else { return Ok(None) };
            let Some(input) = replace_window(&projection.input, &below, keeps_first)? else { return Ok(None) };
            Ok(Some(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), Arc::new(input))?)))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(index) = plan.schema().maybe_index_of_column(rank) else { return Ok(None) };
            let below = Column::from(alias.input.schema().qualified_field(index));
            let Some(input) = replace_window(&alias.input, &below, keeps_first)? else { return Ok(None) };
            let alias = datafusion_expr::SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Ok(Some(LogicalPlan::SubqueryAlias(alias)))
        }
        LogicalPlan::Window(window) => {
            let index = plan.schema().maybe_index_of_column(rank);
            let width = window.input.schema().fields().len();
            if index.is_none_or(|index| index < width) {
                return Ok(None);
            }
            deduplicate(window, keeps_first).map(Some)
        }
        _ => Ok(None),
    }
}

fn deduplicate(window: &datafusion_expr::Window, keeps_first: bool) -> Result<LogicalPlan> {
    let [expr] = window.window_expr.as_slice() else {
        return Err(refuse(
            Place::default(),
            "several OVER clauses in one SELECT are not supported",
            "keep the ROW_NUMBER() alone",
        ));
    };
    let Expr::WindowFunction(call) = expr.clone().unalias_nested().data else {
        return datafusion_common::internal_err!("a window expression is a call");
    };
    let is_row_number =
        matches!(&call.fun, WindowFunctionDefinition::WindowUDF(function) if function.name() == "row_number");
    let place = place_of(call.params.partition_by.iter().chain(call.params.order_by.iter().map(|sort| &sort.expr)));
    if !is_row_number {
        return Err(refuse(place, format!("{} OVER is not supported", call.fun.name()), "write ROW_NUMBER()"));
    }
    if !keeps_first {
        return Err(refuse(
            place,
            "ROW_NUMBER() for more than the first row of each key (top-n) is not supported yet",
            "keep one row of each key: WHERE row_num = 1",
        ));
    }
    if call.params.partition_by.is_empty() {
        return Err(refuse(
            place,
            "ROW_NUMBER() without PARTITION BY is not supported",
            "add PARTITION BY with the key",
        ));
    }
    let [sort] = call.params.order_by.as_slice() else {
        return Err(refuse(
            place,
            "ROW_NUMBER() must be ordered by one time attribute",
            "write ORDER BY with the column that has the WATERMARK, or with a PROCTIME() column",
        ));
    };
    let below = traits(&window.input);
    let Some(time_kind) = of_expr(&sort.expr, &window.input, &below).time else {
        return Err(refuse(
            place_of([&sort.expr].into_iter()).or(place),
            format!(
                "{} is no time attribute, and ROW_NUMBER() by another order (top-n) is not supported yet",
                sort.expr
            ),
            "order by the column that has the WATERMARK, or by a PROCTIME() column",
        ));
    };
    // Keys that are computed, and an order that is, become columns below.
    let mut exprs: Vec<Expr> = window.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mut columns = Vec::new();
    for key in call.params.partition_by.iter().chain([&sort.expr]) {
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
    let order = columns.pop().unwrap_or_else(|| sort.expr.clone());
    let node =
        Deduplicate { input, keys: columns, order, time_kind, keep: if sort.asc { Keep::First } else { Keep::Last } };
    let kept = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    // The row number of what is kept is 1.
    let (qualifier, field) = window.schema.qualified_field(width);
    let mut exprs: Vec<Expr> = window.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    exprs.push(
        Expr::Literal(ScalarValue::UInt64(Some(1)), None).alias_qualified(qualifier.cloned(), field.name().clone()),
    );
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
