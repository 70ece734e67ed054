//! What holds of the rows that a node puts out, computed once, from what holds of its inputs' rows.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_common::tree_node::TreeNode;
use datafusion_physical_expr::utils::collect_columns;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use weir_engine::Exchange;
use weir_operators::{TimeSource, WindowKind};

use crate::error::Place;
use crate::logical::columns::{Time, keeps_times};
use crate::logical::nodes::WINDOW_COLUMNS;
use crate::physical::changelog::{Kinds, Updating, kinds, updating};
use crate::physical::keys::{Key, UpsertKeys, upsert_keys};
use crate::physical::ops::{Calc, Join, Op, Within, event_column, passed};
use crate::physical::tree::Node;

/// What holds of the rows that a node puts out.
#[derive(Clone, Debug)]
pub struct Traits {
    /// Their columns.
    pub schema: SchemaRef,
    /// What the rows do.
    pub kinds: Kinds,
    /// Why there are others than inserts among them.
    pub updating: Option<Updating>,
    /// By which columns later rows replace earlier ones.
    pub keys: UpsertKeys,
    /// What time each column measures.
    pub times: Vec<ColumnTime>,
    /// They end.
    pub bounded: bool,
    /// Which subtask has which of them.
    pub distribution: Distribution,
    /// Columns that are computed anew for each change of a row, and not to the same, as by the clock: what takes the row back does
    /// not equal it.
    pub unstable: Key,
}

/// A column's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnTime {
    /// It is a time attribute.
    pub attribute: Option<Time>,
    /// Each row's value is above the watermark less so many milliseconds, whenever it comes.
    pub behind: Option<i64>,
}

impl ColumnTime {
    fn of(attribute: Option<Time>) -> Self {
        Self { attribute, behind: None }
    }
}

/// Which subtask has which rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Nothing is known.
    Any,
    /// Rows that are the same in these columns are with the same subtask.
    Hash(Vec<usize>),
    /// All rows are with one.
    Single,
}

/// Of a node that does this with the rows of these.
pub fn derive(op: &Op, inputs: &[&Node], schema: SchemaRef, place: Place) -> Traits {
    let below: Vec<&Traits> = inputs.iter().map(|node| &node.traits).collect();
    let kinds = kinds(op, &below);
    let bounded = match op {
        Op::Scan(scan) => scan.bounded,
        _ => below.iter().all(|input| input.bounded),
    };
    Traits {
        kinds,
        updating: updating(op, &below, kinds, place),
        keys: upsert_keys(op, &below, &schema),
        times: times(op, &below, &schema),
        bounded,
        distribution: distribution(op, &below),
        unstable: unstable(op, &below).into_iter().filter(|&column| column < schema.fields().len()).collect(),
        schema,
    }
}

fn times(op: &Op, below: &[&Traits], schema: &SchemaRef) -> Vec<ColumnTime> {
    let first = || below.first().map_or_else(Vec::new, |input| input.times.clone());
    let mut times = match op {
        Op::Scan(scan) => scan.times.iter().map(|time| ColumnTime::of(*time)).collect(),
        Op::Calc(calc) => of_calc(calc, &first()),
        Op::WindowAssign(spec) => {
            let mut all = first();
            // Late rows get their windows as well: nothing is known of these.
            all.extend([ColumnTime::default(); 2]);
            all.push(ColumnTime::of(Some(kind(spec.time))));
            all
        }
        // Rows pass as they come; what is found beside them is plain.
        Op::Lookup(lookup) => first().into_iter().take(lookup.spec.left.outputs).collect(),
        // Rows wait until all before them are there: nothing else is known of when they come.
        Op::Over(_) => first().into_iter().map(|time| ColumnTime::of(time.attribute)).collect(),
        Op::Expand(spec) => first().into_iter().take(spec.keep).collect(),
        Op::SessionAssign(spec) => {
            let mut all = first();
            // A session is over when the watermark reaches its last millisecond, and gives no row before that and none later.
            let behind = event_column(spec.time).map(|_| 0);
            for time in &mut all {
                time.behind = None;
            }
            all.extend([ColumnTime::default(), ColumnTime { attribute: None, behind }]);
            all.push(ColumnTime { attribute: Some(kind(spec.time)), behind });
            all
        }
        Op::WindowAggregate(spec) => {
            // A window closes when the watermark reaches its last millisecond, and gives no row before that and none later.
            let start = (spec.window.kind != WindowKind::Session).then_some(spec.window.size);
            let bounds = [start, Some(0), Some(0)];
            let of_field = |name: &String| {
                let column = WINDOW_COLUMNS.iter().position(|column| column == name);
                column.map_or_else(ColumnTime::default, |column| ColumnTime {
                    attribute: (column == 2).then(|| kind(spec.time)),
                    behind: event_column(spec.time).and(bounds[column]),
                })
            };
            let first_window = schema.fields().len().saturating_sub(WINDOW_COLUMNS.len());
            let fields = schema.fields().iter().enumerate();
            fields
                .map(|(at, field)| if at < first_window { ColumnTime::default() } else { of_field(field.name()) })
                .collect()
        }
        Op::Union => {
            let same = |column: usize| {
                let times: Vec<ColumnTime> =
                    below.iter().filter_map(|input| input.times.get(column)).copied().collect();
                let attribute = times.first().and_then(|time| time.attribute);
                let behind = times.iter().map(|time| time.behind).collect::<Option<Vec<i64>>>();
                ColumnTime {
                    attribute: attribute.filter(|_| times.iter().all(|time| time.attribute == attribute)),
                    behind: behind.and_then(|all| all.into_iter().max()),
                }
            };
            (0..schema.fields().len()).map(same).collect()
        }
        Op::Deduplicate(_) | Op::UpsertMaterialize(_) | Op::Exchange(_) | Op::Sink(_) => first(),
        Op::WindowTopN(top) => {
            let columns = 0..top.spec.input.fields().len();
            columns.map(|column| in_window(column == top.spec.end, top.times.contains(&column))).collect()
        }
        // A row comes out when its partner comes, or when one before it goes, however late that is.
        Op::LocalAggregate(_) | Op::TopN(_) | Op::Conflict(_) | Op::Aggregate(_) => Vec::new(),
        Op::Join(join) => join.within.as_ref().map_or_else(Vec::new, |of| within(join, of, below)),
    };
    times.resize(schema.fields().len(), ColumnTime::default());
    times
}

/// Behind an interval join event time is held back by as much as its rows wait, so that their times stay what they are; behind a window
/// join rows come until their window closes.
fn within(join: &Join, within: &Within, below: &[&Traits]) -> Vec<ColumnTime> {
    let (widths, keeps) = ([join.widths.0, join.widths.1], keeps_times(join.kind));
    let mut all = Vec::new();
    for (side, (input, width)) in below.iter().zip(widths).enumerate() {
        let of = |column: usize| {
            let is_own = within.times.is_some_and(|times| times[side].column == column);
            match (&within.windows, within.times) {
                _ if !keeps[side] => ColumnTime::default(),
                (Some(last), _) => in_window(is_own, last[side].contains(&column)),
                (None, Some(_)) => ColumnTime::of(is_own.then_some(Time::Event)),
                (None, None) => {
                    let attribute = input.times.get(column).and_then(|time| time.attribute);
                    ColumnTime::of(attribute.filter(|time| *time == Time::Processing))
                }
            }
        };
        all.extend((0..width).map(of));
    }
    all
}

/// Rows that come before their window closes, or when it does.
fn in_window(is_end: bool, is_last: bool) -> ColumnTime {
    ColumnTime { attribute: is_last.then_some(Time::Event), behind: (is_end || is_last).then_some(0) }
}

fn kind(time: TimeSource) -> Time {
    match time {
        TimeSource::Event(_) => Time::Event,
        TimeSource::Processing => Time::Processing,
    }
}

fn of_calc(calc: &Calc, below: &[ColumnTime]) -> Vec<ColumnTime> {
    let of = |expr: &Arc<dyn PhysicalExpr>| match passed(expr) {
        Some(column) => below.get(column).copied().unwrap_or_default(),
        None if expr.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| call.name() == "proctime") => {
            ColumnTime::of(Some(Time::Processing))
        }
        None => ColumnTime::default(),
    };
    calc.columns.iter().map(of).collect()
}

fn distribution(op: &Op, below: &[&Traits]) -> Distribution {
    let first = || below.first().map_or(Distribution::Any, |input| input.distribution.clone());
    match op {
        Op::Exchange(Exchange::Hash { keys }) => Distribution::Hash(keys.clone()),
        Op::Exchange(Exchange::Single) => Distribution::Single,
        Op::Exchange(Exchange::Broadcast | Exchange::Rebalance)
        | Op::Scan(_)
        | Op::LocalAggregate(_)
        | Op::Expand(_) => Distribution::Any,
        Op::Exchange(Exchange::Forward)
        | Op::WindowAssign(_)
        | Op::SessionAssign(_)
        | Op::Over(_)
        | Op::Deduplicate(_)
        | Op::TopN(_)
        | Op::WindowTopN(_)
        | Op::UpsertMaterialize(_)
        | Op::Conflict(_)
        | Op::Sink(_) => first(),
        Op::Lookup(lookup) => match first() {
            Distribution::Hash(keys) if keys.iter().any(|&key| key >= lookup.spec.left.outputs) => Distribution::Any,
            other => other,
        },
        Op::Calc(calc) => match first() {
            Distribution::Hash(keys) => {
                let place = |key: &usize| calc.columns.iter().position(|column| passed(column) == Some(*key));
                keys.iter().map(place).collect::<Option<_>>().map_or(Distribution::Any, Distribution::Hash)
            }
            other => other,
        },
        Op::Aggregate(aggregate) => grouped(aggregate.aggregation.group.len(), first()),
        Op::WindowAggregate(spec) => grouped(spec.aggregation.group.len(), first()),
        Op::Join(join) => match first() {
            // Rows of the right that stand alone have nulls there, wherever they are.
            Distribution::Hash(keys)
                if keys.iter().all(|&key| key < join.widths.0)
                    && Join::sides_of(join.kind).0
                    && !(Join::sides_of(join.kind).1 && join.stand_alone().1) =>
            {
                Distribution::Hash(keys)
            }
            Distribution::Single => Distribution::Single,
            _ => Distribution::Any,
        },
        Op::Union => match first() {
            one if below.iter().all(|input| input.distribution == one) => one,
            _ => Distribution::Any,
        },
    }
}

/// Whether an expression may come to another value for the same row.
pub fn is_volatile(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.exists(|part| Ok(part.is_volatile_node())).unwrap_or(true)
}

fn unstable(op: &Op, below: &[&Traits]) -> Key {
    let changes = below.iter().any(|input| input.kinds.changes());
    match op {
        Op::Calc(calc) => {
            let Some(input) = below.first().filter(|_| changes) else { return Key::new() };
            let reads = |expr: &Arc<dyn PhysicalExpr>| {
                collect_columns(expr).iter().any(|column| input.unstable.contains(&column.index()))
            };
            let columns = calc.columns.iter().enumerate();
            columns.filter(|(_, expr)| is_volatile(expr) || reads(expr)).map(|(place, _)| place).collect()
        }
        Op::Join(join) => match below {
            [left, right] => {
                let right = right.unstable.iter().map(|column| column + join.widths.0);
                left.unstable.iter().copied().filter(|&column| column < join.widths.0).chain(right).collect()
            }
            _ => Key::new(),
        },
        // What takes rows back has refused them.
        Op::Scan(_)
        | Op::LocalAggregate(_)
        | Op::Aggregate(_)
        | Op::WindowAggregate(_)
        | Op::SessionAssign(_)
        | Op::Over(_)
        | Op::TopN(_)
        | Op::WindowTopN(_)
        | Op::Lookup(_)
        | Op::UpsertMaterialize(_)
        | Op::Conflict(_) => Key::new(),
        Op::Expand(spec) => {
            let unstable: Key = below.iter().flat_map(|input| input.unstable.iter().copied()).collect();
            let copies = spec.columns.iter().enumerate().filter(|(_, (column, _))| unstable.contains(column));
            let copies = copies.map(|(at, _)| spec.keep + at);
            unstable.iter().copied().filter(|&column| column < spec.keep).chain(copies).collect()
        }
        Op::WindowAssign(_) | Op::Deduplicate(_) | Op::Exchange(_) | Op::Union | Op::Sink(_) => {
            below.iter().flat_map(|input| input.unstable.iter().copied()).collect()
        }
    }
}

/// The group columns are the first that an aggregation puts out, and those that its rows came by.
fn grouped(groups: usize, below: Distribution) -> Distribution {
    match below {
        Distribution::Hash(_) => Distribution::Hash((0..groups).collect()),
        other => other,
    }
}
