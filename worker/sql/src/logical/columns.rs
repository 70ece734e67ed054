//! What the planner knows of a plan's columns beyond their types: whether one is a time attribute, and whether one is the
//! start or end of a window that rows were put into.

use datafusion_common::JoinType;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{Expr, Join, LogicalPlan, TableScan};
use weir_operators::WindowShape;

use crate::logical::grouping::Expand;
use crate::logical::intervals::{equal_columns, time_bounds};
use crate::logical::nodes::{Deduplicate, WindowTvf};
use crate::logical::topn::TopN;
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
    /// It is the time attribute of these windows.
    pub fn is_last(&self, of: Windowing) -> bool {
        self.time.is_some() && self.window == Some((WindowColumn::Time, of))
    }

    /// The same, where rows come when their windows close: times within the windows are past then.
    fn behind_windows(self, of: Windowing) -> Self {
        Self { time: self.time.filter(|_| self.is_last(of)), window: self.window.filter(|(_, window)| *window == of) }
    }

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
        LogicalPlan::Filter(filter) => match filter.input.as_ref() {
            // The condition of tables with a comma between.
            LogicalPlan::Join(join) => of_join(join, &split_conjunction(&filter.predicate)),
            input => traits(input),
        },
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
        LogicalPlan::Join(join) => of_join(join, &[]),
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
                let below = traits(&deduplicate.input);
                match partition_window(&deduplicate.keys, &deduplicate.input) {
                    Some(of) => below.into_iter().map(|column| column.behind_windows(of)).collect(),
                    None => below,
                }
            } else if let Some(top) = node.downcast_ref::<TopN>()
                && let Some(of) = top.window()
            {
                let mut all: Vec<Traits> =
                    traits(&top.input).into_iter().map(|column| column.behind_windows(of)).collect();
                all.resize(width, Traits::default());
                all
            } else {
                vec![Traits::default(); width]
            }
        }
        _ => vec![Traits::default(); width],
    }
}

/// Of a join: its times are time attributes where it is one within bounds of time, and its windows go on where it is one of windows.
fn of_join(join: &Join, more: &[&Expr]) -> Vec<Traits> {
    let (left, right) = (traits(&join.left), traits(&join.right));
    let width = join.schema.fields().len();
    let plain = vec![Traits::default(); width];
    if as_of(&join.right).is_some() {
        // Rows pass as they come; what is found beside them is plain.
        let mut all = left;
        all.resize(width, Traits::default());
        return all;
    }
    let equal: Vec<Expr> = join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).collect();
    let own = join.filter.iter().flat_map(split_conjunction).chain(&equal);
    // What stands above an outer join does not bound it.
    let above = more.iter().copied().filter(|_| join.join_type == JoinType::Inner);
    let conditions: Vec<&Expr> = own.chain(above).collect();
    if let Some(WindowJoin { of, .. }) = window_join(join, &conditions) {
        let [of_left, of_right] = keeps_times(join.join_type);
        let kept = |of_side: &[Traits], keeps: bool| -> Vec<Traits> {
            of_side.iter().map(|column| if keeps { column.behind_windows(of) } else { Traits::default() }).collect()
        };
        let mut all = [kept(&left, of_left), kept(&right, of_right)].concat();
        all.truncate(width);
        return all;
    }
    let time_of = |is_right: bool, column: usize| {
        let of: &Vec<Traits> = if is_right { &right } else { &left };
        of.get(column).and_then(|column| column.time)
    };
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) {
        return plain;
    }
    let Some(bounds) = time_bounds(&conditions, join.left.schema(), join.right.schema(), time_of) else { return plain };
    let kept = |of: &[Traits], own: usize, keeps: bool| -> Vec<Traits> {
        let time = |(column, traits): (usize, &Traits)| match bounds.time {
            Time::Event => (column == own && keeps).then_some(Time::Event),
            Time::Processing => traits.time.filter(|time| keeps && *time == Time::Processing),
        };
        of.iter().enumerate().map(|column| Traits { time: time(column), window: None }).collect()
    };
    let [of_left, of_right] = keeps_times(join.join_type);
    [kept(&left, bounds.columns.0, of_left), kept(&right, bounds.columns.1, of_right)].concat()
}

/// The table of a join's side that is looked at as it is at a time.
pub fn as_of(side: &LogicalPlan) -> Option<(&TableScan, &Table)> {
    match side {
        LogicalPlan::SubqueryAlias(alias) => as_of(&alias.input),
        LogicalPlan::Filter(filter) => as_of(&filter.input),
        LogicalPlan::Projection(projection) => as_of(&projection.input),
        LogicalPlan::TableScan(scan) => {
            let table = scan.source.downcast_ref::<Table>()?;
            table.as_of.is_some().then_some((scan, table))
        }
        _ => None,
    }
}

/// Of which side a join's times are never null: those of the left, of the right.
pub fn keeps_times(kind: JoinType) -> [bool; 2] {
    match kind {
        JoinType::Inner => [true, true],
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [true, false],
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => [false, true],
        JoinType::Full => [false, false],
    }
}

/// A join of rows that are in the same windows.
pub struct WindowJoin {
    /// The windows.
    pub of: Windowing,
    /// Where the end stands in the left and in the right.
    pub ends: [usize; 2],
    /// The times that are the last of a window.
    pub times: [Vec<usize>; 2],
}

/// What makes a join one of windows: both sides are in the same windows of event time, and both starts and both ends are equal.
pub fn window_join(join: &Join, conditions: &[&Expr]) -> Option<WindowJoin> {
    if !matches!(
        join.join_type,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti
    ) || join.null_aware
    {
        return None;
    }
    let (left, right) = (traits(&join.left), traits(&join.right));
    let schemas = (join.left.schema(), join.right.schema());
    let pairs = conditions.iter().filter_map(|condition| equal_columns(condition, schemas.0, schemas.1));
    let windows = pairs.filter_map(|(one, other)| {
        let window = left.get(one)?.window?;
        let is_same = right.get(other)?.window == Some(window) && window.1.time == Time::Event;
        is_same.then_some((window, [one, other]))
    });
    let windows: Vec<((WindowColumn, Windowing), [usize; 2])> = windows.collect();
    let is_started = |of: Windowing| windows.iter().any(|(window, _)| *window == (WindowColumn::Start, of));
    let ends = windows.iter().filter(|((column, of), _)| *column == WindowColumn::End && is_started(*of));
    ends.map(|((_, of), ends)| {
        let last = |of_side: &[Traits]| {
            of_side.iter().enumerate().filter(|(_, column)| column.is_last(*of)).map(|(at, _)| at).collect()
        };
        WindowJoin { of: *of, ends: *ends, times: [last(&left), last(&right)] }
    })
    .next()
}

/// The windows of event time that columns of rows' partitions are the start and the end of.
pub fn partition_window(keys: &[Expr], input: &LogicalPlan) -> Option<Windowing> {
    let below = traits(input);
    let of_keys: Vec<Traits> = keys.iter().map(|key| of_expr(key, input, &below)).collect();
    windowing(&of_keys).filter(|of| of.time == Time::Event)
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
