//! Where a query may have subqueries: as values, and in WHERE and HAVING as conditions that must all hold.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Query, Select, SelectItem, Spanned, UnaryOperator, Visit, Visitor,
};

use crate::error::{Place, PlanError};

/// Checks the subqueries of a SELECT.
pub fn check_subqueries(select: &Select) -> Result<(), PlanError> {
    for item in &select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let Some(at) = first(expr, Looks::ForConditions)
        {
            return Err(PlanError::new(at, "IN (SELECT …) and EXISTS as values are not supported", WHERE));
        }
    }
    if let GroupByExpr::Expressions(group, _) = &select.group_by {
        for expr in group {
            if let Some(at) = subquery_in(expr) {
                return Err(PlanError::new(
                    at,
                    "a subquery in GROUP BY is not supported",
                    "select it in a view, and group by its column",
                ));
            }
        }
    }
    for condition in select.selection.iter().chain(&select.having).flat_map(all_of) {
        if !is_condition(condition)
            && let Some(at) = first(condition, Looks::ForConditions)
        {
            return Err(PlanError::new(
                at,
                "IN (SELECT …) and EXISTS are supported as conditions of their own, and not within OR, CASE and the like",
                "write a query for each, and UNION between them",
            ));
        }
    }
    Ok(())
}

const WHERE: &str = "write it into WHERE";

/// Where the first subquery of an expression stands.
pub fn subquery_in(expr: &Expr) -> Option<Place> {
    first(expr, Looks::ForAll)
}

/// What AND links.
fn all_of(condition: &Expr) -> Vec<&Expr> {
    let mut all = Vec::new();
    let mut open = vec![condition];
    while let Some(condition) = open.pop() {
        match condition {
            Expr::Nested(inner) => open.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([left.as_ref(), right.as_ref()]),
            other => all.push(other),
        }
    }
    all
}

/// It is `[NOT] EXISTS (…)` or `x [NOT] IN (SELECT …)`, and x has none of these in it.
fn is_condition(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(inner) | Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => is_condition(inner),
        Expr::InSubquery { expr, .. } => first(expr, Looks::ForConditions).is_none(),
        Expr::Exists { .. } => true,
        _ => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    ForAll,
    ForConditions,
}

fn first(expr: &Expr, looks: Looks) -> Option<Place> {
    match expr.visit(&mut Finder { looks, within: 0 }) {
        ControlFlow::Break(place) => Some(place),
        ControlFlow::Continue(()) => None,
    }
}

/// Finds a subquery that is not within another one.
struct Finder {
    looks: Looks,
    within: usize,
}

impl Visitor for Finder {
    type Break = Place;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Place> {
        self.within += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Place> {
        self.within -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Place> {
        let is_one = match expr {
            Expr::InSubquery { .. } | Expr::Exists { .. } => true,
            Expr::Subquery(_) => self.looks == Looks::ForAll,
            _ => false,
        };
        if is_one && self.within == 0 { ControlFlow::Break(expr.span().into()) } else { ControlFlow::Continue(()) }
    }
}
