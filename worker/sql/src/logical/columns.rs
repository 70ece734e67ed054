//! What the planner knows of a plan's columns beyond their types: whether one is a time attribute, and whether one is the
//! start or end of a window that rows were put into.

use datafusion_expr::{Expr, LogicalPlan};
use weir_operators::WindowShape;

use crate::logical::grouping::Expand;
use crate::logical::nodes::{Deduplicate, WindowTvf};
use crate::names::catalog::Table;

/// What time a time attribute measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Time {
    /// The rows' own, with watermarks.
    Event,
    /// The clock's, when a row passes.
    Processing,
}

/// Which column of a window table function a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowColumn {
    /// `window_start`.
    Start,
    /// `window_end`.
    End,
    /// `window_time`.
    Time,
}

/// What is known of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// It is a time attribute.
    pub time: Option<Time>,
    /// It comes unchanged out of a window table function, with nothing between but what leaves rows in their windows: an
    /// aggregation by windows, one row of each key of a window, a join in windows.
    pub window: Option<(WindowColumn, Windowing)>,
}

/// Into which windows rows were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windowing {
    /// The windows.
    pub shape: WindowShape,
    /// By what time.
    pub time: Time,
}

impl Traits {
    /// Which of its window's columns it is.
    pub fn window_column(&self) -> Option<WindowColumn> {
        self.window.map(|(column, _)| column)
    }
}

/// What is known of each output column of a plan.
pub fn traits(plan: &LogicalPlan) -> Vec<Traits> {
    let width = plan.schema().fields().len();
    match plan {
        LogicalPlan::TableScan(scan) => match scan.source.downcast_ref::<Table>() {
            Some(table) => {
                let all = 0..table.columns.len();
                let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(|| all.collect());
                columns.into_iter().map(|column| Traits { time: table.time_of(column), window: None }).collect()
            }
            None => vec![Traits::default(); width],
        },
        LogicalPlan::Projection(projection) => {
            let below = traits(&projection.input);
            projection.expr.iter().map(|expr| of_expr(expr, &projection.input, &below)).collect()
        }
        LogicalPlan::Filter(filter) => traits(&filter.input),
        LogicalPlan::Union(union) => {
            let each: Vec<Vec<Traits>> = union.inputs.iter().map(|input| traits(input)).collect();
            let same = |column: usize| {
                let mut times = each.iter().map(|all| all.get(column).and_then(|column| column.time));
                let first = times.next().flatten();
                // The windows of several queries are columns as any others: they close each at its own time.
                Traits { time: first.filter(|_| times.all(|time| time == first)), window: None }
            };
            (0..width).map(same).collect()
        }
        LogicalPlan::SubqueryAlias(alias) => traits(&alias.input),
        LogicalPlan::Window(window) => {
            let mut all = traits(&window.input);
            all.resize(width, Traits::default());
            all
        }
        LogicalPlan::Aggregate(aggregate) => {
            let below = traits(&aggregate.input);
            let group: Vec<Traits> =
                aggregate.group_expr.iter().map(|expr| of_expr(expr, &aggregate.input, &below)).collect();
            let windowed = windowing(&group);
            let mut all: Vec<Traits> = group
                .into_iter()
                .map(|column| match column.window {
                    Some((WindowColumn::Time, of)) if windowed == Some(of) => column,
                    Some((_, of)) if windowed == Some(of) => Traits { time: None, ..column },
                    _ => Traits::default(),
                })
                .collect();
            all.resize(width, Traits::default());
            all
        }
        LogicalPlan::Extension(extension) => {
            let node = extension.node.as_any();
            if let Some(tvf) = node.downcast_ref::<WindowTvf>() {
                let mut all = traits(&tvf.input);
                let windowing = Windowing { shape: tvf.shape, time: tvf.time_kind };
                for window in [WindowColumn::Start, WindowColumn::End, WindowColumn::Time] {
                    let time = (window == WindowColumn::Time).then_some(tvf.time_kind);
                    all.push(Traits { time, window: Some((window, windowing)) });
                }
                all
            } else if let Some(expand) = node.downcast_ref::<Expand>() {
                let mut all = traits(&expand.input);
                all.resize(width, Traits::default());
                all
            } else if let Some(deduplicate) = node.downcast_ref::<Deduplicate>() {
                traits(&deduplicate.input)
            } else {
                vec![Traits::default(); width]
            }
        }
        _ => vec![Traits::default(); width],
    }
}

/// What is known of an expression over a plan whose columns have the traits `below`.
pub fn of_expr(expr: &Expr, input: &LogicalPlan, below: &[Traits]) -> Traits {
    match expr {
        Expr::Alias(alias) => of_expr(&alias.expr, input, below),
        Expr::Column(column) => {
            input.schema().maybe_index_of_column(column).and_then(|index| below.get(index)).copied().unwrap_or_default()
        }
        Expr::ScalarFunction(call) if call.name() == "proctime" => {
            Traits { time: Some(Time::Processing), window: None }
        }
        _ => Traits::default(),
    }
}

/// The windows that columns make a group, where they are the start and the end of the same ones.
pub fn windowing(columns: &[Traits]) -> Option<Windowing> {
    let ends = columns.iter().filter_map(|column| column.window.filter(|(of, _)| *of == WindowColumn::End));
    let has_start = |of: Windowing| columns.iter().any(|column| column.window == Some((WindowColumn::Start, of)));
    ends.map(|(_, of)| of).find(|of| has_start(*of))
}
