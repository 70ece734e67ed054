//! An aggregation over windows makes the window columns itself: here the window function is taken out from under it, with
//! everything between that only passes those columns on.

use std::sync::Arc;

use datafusion_common::{Column, Result};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{Expr, Filter, LogicalPlan, Projection, SubqueryAlias};

use weir_operators::WindowKind;

use crate::logical::columns::{WindowColumn, of_expr, traits};
use crate::logical::nodes::WindowTvf;

/// Rows without their windows.
pub struct Unwindowed {
    /// The rows, with the time column.
    pub plan: LogicalPlan,
    /// The function that was taken out.
    pub window: WindowTvf,
    /// The event-time column of `plan`.
    pub time: Option<Column>,
    /// Conditions on window columns alone, which hold above the aggregation as well.
    pub conditions: Vec<Vec<WindowCondition>>,
}

/// A condition, and which of its columns are which of the window's.
pub type WindowCondition = (Expr, Vec<(Column, WindowColumn)>);

/// Takes the window function out; none if rows need their window columns below the aggregation: for an expression, or since
/// they were aggregated in their windows before, or since only all rows together say what the windows are.
pub fn unwindow(plan: &LogicalPlan) -> Result<Option<Unwindowed>> {
    match plan {
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<WindowTvf>() {
            Some(window) if window.shape.kind == WindowKind::Session => Ok(None),
            Some(window) => Ok(Some(Unwindowed {
                plan: window.input.as_ref().clone(),
                window: window.clone(),
                time: window.time.as_ref().and_then(|time| time.try_as_col().cloned()),
                conditions: Vec::new(),
            })),
            None => Ok(None),
        },
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(below) = unwindow(&alias.input)? else { return Ok(None) };
            let time = below.time.as_ref().map(|time| Column::new(Some(alias.alias.clone()), time.name()));
            let plan = LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(below.plan), alias.alias.clone())?);
            Ok(Some(Unwindowed { plan, time, ..below }))
        }
        LogicalPlan::Projection(projection) => {
            let Some(below) = unwindow(&projection.input)? else { return Ok(None) };
            let known = traits(&projection.input);
            let mut exprs = Vec::with_capacity(projection.expr.len() + 1);
            for expr in &projection.expr {
                if of_expr(expr, &projection.input, &known).window.is_some() {
                    continue;
                }
                if reads_window(expr, &projection.input, &known) {
                    return Ok(None);
                }
                exprs.push(expr.clone());
            }
            if let Some(time) = &below.time
                && !exprs.iter().any(|expr| expr.try_as_col() == Some(time))
            {
                exprs.push(Expr::Column(time.clone()));
            }
            let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(below.plan))?);
            Ok(Some(Unwindowed { plan, ..below }))
        }
        LogicalPlan::Filter(filter) => {
            let Some(mut below) = unwindow(&filter.input)? else { return Ok(None) };
            let known = traits(&filter.input);
            let (mut above, mut here) = (Vec::new(), Vec::new());
            for conjunct in split_conjunction(&filter.predicate) {
                if !reads_window(conjunct, &filter.input, &known) {
                    here.push(conjunct.clone());
                    continue;
                }
                let columns: Option<Vec<(Column, WindowColumn)>> = conjunct
                    .column_refs()
                    .into_iter()
                    .map(|column| {
                        let window = of_expr(&Expr::Column(column.clone()), &filter.input, &known).window_column()?;
                        Some((column.clone(), window))
                    })
                    .collect();
                match columns {
                    Some(columns) => above.push((conjunct.clone(), columns)),
                    None => return Ok(None),
                }
            }
            below.conditions.push(above);
            if let Some(predicate) = conjunction(here) {
                below.plan = LogicalPlan::Filter(Filter::new(predicate, Arc::new(below.plan)));
            }
            Ok(Some(below))
        }
        _ => Ok(None),
    }
}

fn reads_window(expr: &Expr, input: &LogicalPlan, known: &[crate::logical::columns::Traits]) -> bool {
    expr.column_refs().into_iter().any(|column| of_expr(&Expr::Column(column.clone()), input, known).window.is_some())
}
