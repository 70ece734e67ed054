//! What a query comes to once its views are put in for their names: bounded, since a view over a view over a view can double at
//! each step what the one before it computes.
//!
//! The optimiser moves a condition below the projections that it stands on, and puts their expressions in for its columns. What
//! that can come to at most is counted here, before it is done.

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, Result};
use datafusion_expr::{Expr, LogicalPlan};

use crate::error::{Place, PlanError};
use crate::logical::optimize::place_of;
use crate::parse::bounds::MAX_DEPTH;

/// Nodes of one expression with all views put in: some hundred bytes each, which several rules copy.
pub const MAX_NODES: u64 = 100_000;

/// Steps of one query: views, subqueries, filters, projections. Rules recurse over them with some KiB of stack for each, and go
/// over all of them some dozen times.
pub const MAX_STEPS: usize = 1_000;

/// So many bytes of a constant count as a node.
const NODE: usize = 256;

/// How much an expression is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    nodes: u64,
    depth: u64,
}

const ONE: Size = Size { nodes: 1, depth: 1 };

/// Whether the plan is small enough for the optimiser.
pub fn check_plan(plan: &LogicalPlan, place: Place) -> std::result::Result<(), PlanError> {
    if steps(plan).map_err(|error| PlanError::from_planner(&error, place))? > MAX_STEPS {
        return Err(PlanError::new(
            place,
            format!("with the views that it reads put in the query has more than {MAX_STEPS} steps"),
            "compute in fewer views, or write what some of them give into a table that another job reads",
        ));
    }
    sizes(plan, place).map(drop)
}

/// How many steps there are; a little more than the most, where there are more. Subqueries are within each other as far as parentheses
/// may be.
fn steps(plan: &LogicalPlan) -> Result<usize> {
    let mut count = 0;
    let mut open = vec![plan];
    while let Some(step) = open.pop() {
        count += 1;
        if count > MAX_STEPS {
            break;
        }
        open.extend(step.inputs());
        step.apply_subqueries(|query| {
            count += steps(query)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(count)
}

/// Of each column.
fn sizes(plan: &LogicalPlan, place: Place) -> std::result::Result<Vec<Size>, PlanError> {
    let width = plan.schema().fields().len();
    let mut wrong = None;
    let queries = plan.apply_subqueries(|query| {
        if let Err(error) = sizes(query, place) {
            wrong = Some(error);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    queries.map_err(|error| PlanError::from_planner(&error, place))?;
    wrong.map_or(Ok(()), Err)?;
    let inputs = plan.inputs();
    let below = inputs.iter().map(|input| sizes(input, place)).collect::<std::result::Result<Vec<_>, _>>()?;
    if let LogicalPlan::Union(_) = plan {
        let larger = |column: usize| {
            let of = below.iter().filter_map(|sizes| sizes.get(column));
            of.fold(ONE, |one, other| Size { nodes: one.nodes.max(other.nodes), depth: one.depth.max(other.depth) })
        };
        return Ok((0..width).map(larger).collect());
    }
    let size_of = |column: &Column| {
        let found = inputs.iter().zip(&below).find_map(|(input, sizes)| {
            let index = input.schema().maybe_index_of_column(column)?;
            sizes.get(index).copied()
        });
        found.unwrap_or(ONE)
    };
    let exprs = plan.expressions();
    let mut own = Vec::with_capacity(exprs.len());
    for expr in &exprs {
        let size = size(expr, &size_of).map_err(|error| PlanError::from_planner(&error, place))?;
        if size.nodes > MAX_NODES || size.depth > MAX_DEPTH as u64 {
            return Err(too_large(expr, size, place));
        }
        own.push(size);
    }
    let mut columns = match plan {
        LogicalPlan::Projection(_) => own,
        // What is aggregated is a value of its own, and no condition moves below it.
        LogicalPlan::Aggregate(aggregate) => own.into_iter().take(aggregate.group_expr.len()).collect(),
        _ => below.into_iter().flatten().collect(),
    };
    columns.resize(width, ONE);
    Ok(columns)
}

fn size(expr: &Expr, of_column: &impl Fn(&Column) -> Size) -> Result<Size> {
    match expr {
        Expr::Column(column) => return Ok(of_column(column)),
        Expr::Alias(alias) => return size(&alias.expr, of_column),
        Expr::Literal(value, _) => return Ok(Size { nodes: 1 + (value.size() / NODE) as u64, depth: 1 }),
        _ => {}
    }
    let (mut nodes, mut depth) = (1_u64, 0);
    for twice in computed_twice(expr) {
        nodes = nodes.saturating_add(size(twice, of_column)?.nodes);
    }
    expr.apply_children(|child| {
        let size = size(child, of_column)?;
        nodes = nodes.saturating_add(size.nodes);
        depth = depth.max(size.depth);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(Size { nodes, depth: depth + 1 })
}

/// What stands in the text once, and twice in what is computed.
fn computed_twice(expr: &Expr) -> &[Expr] {
    match expr {
        Expr::Between(between) => std::slice::from_ref(between.expr.as_ref()),
        Expr::ScalarFunction(call) if matches!(call.name(), "coalesce" | "nvl" | "nullif") => {
            call.args.split_last().map_or(&[], |(_, rest)| rest)
        }
        _ => &[],
    }
}

fn too_large(expr: &Expr, size: Size, place: Place) -> PlanError {
    let place = place_of([expr].into_iter()).or(place);
    let (what, most) = if size.nodes > MAX_NODES {
        (format!("{} parts", size.nodes), MAX_NODES)
    } else {
        (format!("{} levels", size.depth), MAX_DEPTH as u64)
    };
    PlanError::new(
        place,
        format!("with the views below put in the expression has {what}, and {most} are the most"),
        "name each column of a view fewer times in the next, or let a function in a worker binary of your own compute it",
    )
}
