//! Expressions: from the script's text to something that runs on batches, with Flink's types on the way.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, DFSchema, JoinConstraint, NullEquality, Result, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::utils::{conjunction, merge_schema};
use datafusion_expr::{Expr, LogicalPlan};
use datafusion_optimizer::AnalyzerRule;
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_sql::planner::{NullOrdering, ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{self, Query, Statement};

use crate::error::{Place, PlanError};
use crate::logical::operators::{Copies, cast_into, converted, flink};
use crate::names::catalog::{Names, planner_options};
use crate::names::functions::bounded::held;

/// How DataFusion's planner reads a query.
fn parser_options() -> ParserOptions {
    ParserOptions::new()
        .with_enable_ident_normalization(false)
        .with_parse_float_as_decimal(true)
        .with_map_string_types_to_utf8view(false)
        .with_default_null_ordering(NullOrdering::NullsMin)
        .with_collect_spans(true)
}

/// Plans a query that has passed the checks.
pub fn plan_query(query: Query, names: &Names, place: Place) -> Result<LogicalPlan, PlanError> {
    SqlToRel::new_with_options(names, parser_options())
        .sql_statement_to_plan(Statement::Query(Box::new(query)))
        .map_err(|error| PlanError::from_planner(&error, place))
}

/// Plans one expression over these columns, typed and simplified.
pub fn plan_expr(expr: ast::Expr, schema: &DFSchema, names: &Names, place: Place) -> Result<Expr, PlanError> {
    let planned = SqlToRel::new_with_options(names, parser_options())
        .sql_to_expr(expr, schema, &mut PlannerContext::new())
        .and_then(|expr| meant(expr, schema, &Copies::default()))
        .and_then(|expr| typed(expr, schema));
    planned.map_err(|error| PlanError::from_planner(&error, place))
}

/// Coerces types and simplifies.
fn typed(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::new(planner_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(expr, schema)?;
    simplifier.simplify(casts(coerced, schema)?)
}

/// Compiles an expression for batches of this schema.
pub fn physical(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    datafusion_physical_expr::create_physical_expr(
        &held(expr, schema)?,
        schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
}

/// Columns without a table's name.
pub fn unqualified(schema: &Schema) -> Result<DFSchema> {
    DFSchema::from_unqualified_fields(schema.fields().clone(), schema.metadata().clone())
}

/// A cast that does nothing where the type is there already.
pub fn cast_to(expr: Expr, data_type: &DataType, schema: &DFSchema) -> Result<Expr> {
    cast_into(expr, data_type, schema)
}

/// Whole numbers are INT where they fit, as in Flink, and not all BIGINT; and every operator means what it means in Flink.
fn meant(expr: Expr, schema: &DFSchema, copies: &Copies) -> Result<Expr> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::Literal(ScalarValue::Int64(Some(number)), metadata) => match i32::try_from(number) {
                Ok(number) => Transformed::yes(Expr::Literal(ScalarValue::Int32(Some(number)), metadata)),
                Err(_) => Transformed::no(Expr::Literal(ScalarValue::Int64(Some(number)), metadata)),
            },
            other => Transformed::yes(flink(other, schema, copies)?),
        })
    })
    .data()
}

/// The casts that coercion has put in, with Flink's meaning too.
fn casts(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::Cast(cast) => Transformed::yes(converted(*cast.expr, cast.field.as_ref(), false, schema)?),
            Expr::TryCast(cast) => Transformed::yes(converted(*cast.expr, cast.field.as_ref(), true, schema)?),
            other => Transformed::no(other),
        })
    })
    .data()
}

/// [`meant`] over a plan, before types are coerced.
#[derive(Debug)]
pub struct FlinkMeaning;

impl AnalyzerRule for FlinkMeaning {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let copies = Copies::default();
        rewrite_expressions(compared(plan)?, |expr, schema| meant(expr, schema, &copies))
    }

    fn name(&self) -> &'static str {
        "flink_meaning"
    }
}

/// What a join compares, as its condition: USING too compares as `=` does in Flink. Which of it are keys is found later.
fn compared(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::Join(mut join) = plan else { return Ok(Transformed::no(plan)) };
        if join.on.is_empty() || join.null_equality == NullEquality::NullEqualsNull {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let equal = std::mem::take(&mut join.on).into_iter().map(|(left, right)| left.eq(right));
        join.filter = conjunction(equal.chain(join.filter.take()));
        join.join_constraint = JoinConstraint::On;
        Ok(Transformed::yes(LogicalPlan::Join(join)))
    })
    .data()
}

/// [`casts`] over a plan, after types are coerced.
#[derive(Debug)]
pub struct FlinkCasts;

impl AnalyzerRule for FlinkCasts {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_expressions(plan, casts)
    }

    fn name(&self) -> &'static str {
        "flink_casts"
    }
}

fn rewrite_expressions(plan: LogicalPlan, rewrite: impl Fn(Expr, &DFSchema) -> Result<Expr>) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(Transformed::yes(name.restore(rewrite(expr, &schema)?)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })
    .data()
}

/// Columns by position: what an operator's output is called and where it stands.
pub fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}
