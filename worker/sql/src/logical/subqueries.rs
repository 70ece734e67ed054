//! Subqueries in conditions and as values. They become joins; what cannot is refused here.

use datafusion_common::Result;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::expr::{Exists, InSubquery};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Subquery};
use datafusion_optimizer::AnalyzerRule;

use crate::error::Place;
use crate::logical::unions::alike;
use crate::names::catalog::refuse;
use crate::parse::types::flink_name;

/// Refuses a subquery as a value that may have more than one row, and `x IN (SELECT y …)` of unlike x and y.
#[derive(Debug)]
pub struct OneValue;

impl AnalyzerRule for OneValue {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            plan.apply_expressions(|expr| {
                expr.apply(|expr| {
                    match expr {
                        Expr::ScalarSubquery(subquery) if !has_one_row(&subquery.subquery) => {
                            return Err(refuse(
                                place_of(subquery),
                                "a subquery as a value may give several rows here",
                                "aggregate it: (SELECT MAX(x) FROM …)",
                            ));
                        }
                        Expr::InSubquery(within) => check_types(within, &within.expr.get_type(&schema)?)?,
                        _ => {}
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(plan)
    }

    fn name(&self) -> &'static str {
        "one_value"
    }
}

fn check_types(within: &InSubquery, value: &arrow::datatypes::DataType) -> Result<()> {
    let [field] = within.subquery.subquery.schema().fields().iter().collect::<Vec<_>>()[..] else {
        return Err(refuse(
            place_of(&within.subquery),
            "IN compares with one column of a subquery",
            "select one column",
        ));
    };
    if alike(value, field.data_type()) {
        return Ok(());
    }
    let (of_value, of_column) = (flink_name(value), flink_name(field.data_type()));
    Err(refuse(
        place_of(&within.subquery),
        format!("IN compares {of_value} with {of_column}"),
        format!("write CAST({} AS {of_value})", field.name()),
    ))
}

fn place_of(subquery: &Subquery) -> Place {
    let first = subquery.spans.first();
    first.map_or(Place::default(), |span| Place { line: span.start.line, column: span.start.column })
}

/// An aggregate without groups, or what is computed from it.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) => {
            plan.inputs().into_iter().all(has_one_row)
        }
        _ => false,
    }
}

/// Refuses what could not be made a join.
pub fn without_subqueries(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.apply(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| match expr {
                Expr::ScalarSubquery(subquery)
                | Expr::Exists(Exists { subquery, .. })
                | Expr::InSubquery(InSubquery { subquery, .. }) => Err(refuse(
                    place_of(subquery),
                    "this subquery cannot be made a join",
                    "compare its columns with those outside by = in its WHERE, or write the join out",
                )),
                _ => Ok(TreeNodeRecursion::Continue),
            })
        })
    })?;
    Ok(plan)
}
