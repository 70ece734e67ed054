//! GROUP BY: keys, arguments and filters become columns; rows are folded before the exchange, and aggregated behind it.

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, DFSchema};
use datafusion_expr::{self as logical, Expr};
use weir_engine::Exchange;
use weir_operators::{
    AggregateFunction, AggregateInput, AggregateSpec, Aggregation, LocalAggregateSpec, TimeSource, WindowAggregateSpec,
    WindowKind, WindowShape,
};

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::columns::{Time, Traits, WindowColumn, Windowing, of_expr, traits, windowing};
use crate::logical::nodes::WINDOW_COLUMNS;
use crate::logical::optimize::place_of;
use crate::logical::print::as_written;
use crate::logical::windows::{Unwindowed, unwindow};
use crate::names::functions::aggregate::{function_of, separator_of};
use crate::physical::build::rows::Rows;
use crate::physical::build::window::{rows_in_windows, time_meaning};
use crate::physical::build::{Builder, Built, internal, lost};
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Aggregate, Op, duration, local_aggregate, window_aggregate, window_text};
use crate::physical::tree::NewNode;

/// An aggregation whose inputs are columns.
struct Prepared {
    rows: Rows,
    /// Of the rows.
    lineage: Lineage,
    aggregation: Aggregation,
    /// The columns that say when its windows close.
    times: Vec<usize>,
}

impl Builder<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &logical::Aggregate) -> Built<Rows> {
        let known = traits(&aggregate.input);
        let mut group: Vec<Traits> =
            aggregate.group_expr.iter().map(|expr| of_expr(expr, &aggregate.input, &known)).collect();
        let Some(windows) = windowing(&group) else { return self.group_aggregate(aggregate) };
        // The windows that rows were in before these are columns as any others.
        for column in &mut group {
            column.window = column.window.filter(|(_, of)| *of == windows);
        }
        match self.planner(unwindow(&aggregate.input))? {
            Some(below) => self.window_aggregate(aggregate, &group, &below),
            None => self.attached_aggregate(aggregate, &group, windows),
        }
    }

    /// Rows that have their windows already: their columns say where they belong.
    fn attached_aggregate(
        &mut self,
        aggregate: &logical::Aggregate,
        group: &[Traits],
        windows: Windowing,
    ) -> Built<Rows> {
        let place = self.place_of_aggregate(aggregate);
        if windows.time == Time::Processing {
            return Err(PlanError::new(
                place.or(self.place),
                "a second aggregation in windows of processing time is not supported",
                "take the windows by a column that has a WATERMARK",
            ));
        }
        let of_window = |column: WindowColumn| {
            let found = group.iter().position(|known| known.window == Some((column, windows)));
            found.map(|at| &aggregate.group_expr[at])
        };
        let keys = aggregate.group_expr.iter().zip(group).filter(|(_, column)| column.window.is_none());
        let mut keys: Vec<&Expr> = keys.map(|(expr, _)| expr).collect();
        if windows.shape.kind == WindowKind::Session {
            // Sessions that end at the same time may have begun at different ones.
            keys.extend(of_window(WindowColumn::Start));
        }
        let Some(end) = of_window(WindowColumn::End) else { return Err(lost(WINDOW_COLUMNS[1], place)) };
        let times: Vec<&Expr> = [end].into_iter().chain(of_window(WindowColumn::Time)).collect();
        let rows = self.rows(&aggregate.input)?;
        self.refuse_updating(&rows, "a window aggregation", place)?;
        let prepared = self.prepare(rows, aggregate, &keys, aggregate.input.schema(), &times)?;
        let (Some(end), Some(time)) = (prepared.times.first(), prepared.times.last()) else {
            return Err(lost(WINDOW_COLUMNS[1], place));
        };
        let (shape, time) = (windows.shape.attached(*end), TimeSource::Event(*time));
        self.in_windows(&prepared, aggregate, group, shape, time, place)
    }

    fn place_of_aggregate(&self, aggregate: &logical::Aggregate) -> Place {
        place_of(aggregate.group_expr.iter().chain(&aggregate.aggr_expr)).or(self.place)
    }

    fn group_aggregate(&mut self, aggregate: &logical::Aggregate) -> Built<Rows> {
        let rows = self.rows(&aggregate.input)?;
        let place = self.place_of_aggregate(aggregate);
        let keys: Vec<&Expr> = aggregate.group_expr.iter().collect();
        let prepared = self.prepare(rows, aggregate, &keys, aggregate.input.schema(), &[])?;
        self.refuse_unstable(&prepared.rows, "an aggregation", place)?;
        let meaning = prepared.meaning();
        let by = prepared.group_meaning();
        let of = Meaning::of(|of| format!("{} GROUP BY {}", of(&prepared.lineage.rows), of(&by)));
        let identity = Identity::of("aggregate", &self.owner, &[&of, &list(&meaning)]);
        let name = if prepared.aggregation.group.is_empty() {
            format!("Aggregate({})", prepared.aggregate_text())
        } else {
            format!("GroupAggregate(by {}: {})", prepared.group_text(), prepared.aggregate_text())
        };
        let retract = prepared.rows.nodes().any(|node| self.tree[node].traits.kinds.changes());
        let input = self.pre_aggregated(&prepared.aggregation, retract);
        let op = Aggregate { aggregation: prepared.aggregation.clone(), input };
        let schema = op.make(retract, true).map_err(|error| spec_error(&error, place))?.output;
        let lineage = Lineage { columns: meaning, rows: of, filters: prepared.lineage.filters.clone() };
        let rows = self.pre_aggregate(&prepared, input, retract, &identity, None)?;
        let exchange = self.exchange(&rows, prepared.exchange(input), &identity);
        let width = schema.fields().len();
        let node =
            self.add(NewNode { op: Op::Aggregate(op), inputs: vec![exchange], schema, lineage, identity, name, place });
        Ok(Rows::all(node, width))
    }

    fn window_aggregate(
        &mut self,
        aggregate: &logical::Aggregate,
        group: &[Traits],
        below: &Unwindowed,
    ) -> Built<Rows> {
        let place = self.place_of_aggregate(aggregate).or(below.window.place);
        let rows = self.rows(&below.plan)?;
        self.refuse_updating(&rows, "a window aggregation", place)?;
        let plain = aggregate.group_expr.iter().zip(group).filter(|(_, column)| column.window.is_none());
        let keys: Vec<&Expr> = plain.map(|(expr, _)| expr).collect();
        let time = below.time.clone().map(Expr::Column);
        let times: Vec<&Expr> = time.iter().collect();
        let prepared = self.prepare(rows, aggregate, &keys, below.plan.schema(), &times)?;
        let time = match (below.window.time_kind, prepared.times.first()) {
            (Time::Event, Some(column)) => TimeSource::Event(*column),
            _ => TimeSource::Processing,
        };
        let rows = self.in_windows(&prepared, aggregate, group, below.window.shape, time, place)?;
        self.raise_conditions(rows, aggregate, group, below)
    }

    /// Aggregates what has been prepared, by windows.
    fn in_windows(
        &mut self,
        prepared: &Prepared,
        aggregate: &logical::Aggregate,
        group: &[Traits],
        shape: WindowShape,
        time: TimeSource,
        place: Place,
    ) -> Built<Rows> {
        if let Some(one) = prepared.aggregation.aggregates.iter().find(|one| by_arrival(one.function)) {
            let what = format!("{} in a window", one.function.name());
            return Err(self.refused(place, &what, "write MIN or MAX, or GROUP BY without a window"));
        }
        let meaning = prepared.meaning();
        let by_window = shape.attached.map_or(time, TimeSource::Event);
        let time_of = time_meaning(&prepared.lineage.columns, by_window);
        let windows = rows_in_windows(shape, &prepared.lineage.rows, &time_of);
        let by = prepared.group_meaning();
        let of = Meaning::of(|of| format!("{} GROUP BY {}", of(&windows), of(&by)));
        let identity = Identity::of("window-aggregate", &self.owner, &[&of, &list(&meaning)]);
        let by = prepared.group_text();
        let by = if by.is_empty() { by } else { format!("by {by}, ") };
        let window = window_text(shape, &time_of.text, duration);
        let name = format!("WindowAggregate({by}{window}: {})", prepared.aggregate_text());
        let input = self.pre_aggregated(&prepared.aggregation, false);
        let spec = WindowAggregateSpec { aggregation: prepared.aggregation.clone(), input, window: shape, time };
        let schema = window_aggregate(&spec).map_err(|error| spec_error(&error, place))?.output;
        let columns = with_windows(meaning, schema.fields().len())?;
        let lineage = Lineage { columns, rows: of, filters: prepared.lineage.filters.clone() };
        let rows = self.pre_aggregate(prepared, input, false, &identity, Some((shape, time)))?;
        let exchange = self.exchange(&rows, prepared.exchange(input), &identity);
        let width = schema.fields().len();
        let op = Op::WindowAggregate(spec);
        let node = self.add(NewNode { op, inputs: vec![exchange], schema, lineage, identity, name, place });
        self.in_order_of_plan(Rows::all(node, width), aggregate, group, prepared.aggregation.group.len())
    }

    /// Brings the operator's columns (keys, aggregates, windows) into the order of the plan.
    fn in_order_of_plan(
        &mut self,
        rows: Rows,
        aggregate: &logical::Aggregate,
        group: &[Traits],
        groups: usize,
    ) -> Built<Rows> {
        let width = self.schema(&rows).fields().len();
        let first_window = width - WINDOW_COLUMNS.len();
        let mut plain = 0..groups;
        let mut order: Vec<usize> = Vec::with_capacity(aggregate.schema.fields().len());
        for column in group {
            match column.window_column() {
                Some(window) => order.push(first_window + window as usize),
                None => order.extend(plain.next()),
            }
        }
        order.extend(groups..first_window);
        let fields = aggregate.schema.fields();
        self.project(rows, None, |builder, branch| {
            let renamed = order.iter().zip(fields).map(|(&column, field)| {
                let mut computed = builder.pass(branch, column);
                computed.field = computed.field.with_name(field.name());
                computed
            });
            Ok(renamed.collect())
        })
    }

    /// Conditions on windows hold above the aggregation.
    fn raise_conditions(
        &self,
        mut rows: Rows,
        aggregate: &logical::Aggregate,
        group: &[Traits],
        below: &Unwindowed,
    ) -> Built<Rows> {
        for (condition, columns) in below.conditions.iter().flatten() {
            let condition = self.raised(condition, columns, aggregate, group)?;
            self.filter(&mut rows, &condition, &aggregate.schema)?;
        }
        Ok(rows)
    }

    /// A condition on window columns, in terms of an aggregation's output.
    fn raised(
        &self,
        condition: &Expr,
        columns: &[(Column, WindowColumn)],
        aggregate: &logical::Aggregate,
        group: &[Traits],
    ) -> Built<Expr> {
        let replaced = condition
            .clone()
            .transform_up(|expr| {
                let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
                let window = columns.iter().find(|(named, _)| named == column).map(|(_, window)| *window);
                let index = group.iter().position(|known| known.window_column() == window && window.is_some());
                match index {
                    Some(index) => {
                        let (qualifier, field) = aggregate.schema.qualified_field(index);
                        Ok(Transformed::yes(Expr::Column(Column::new(qualifier.cloned(), field.name()))))
                    }
                    None => datafusion_common::plan_err!("a condition on window_time needs it in GROUP BY"),
                }
            })
            .data();
        self.planner(replaced)
    }

    /// Brings keys, arguments and filters into columns.
    fn prepare(
        &mut self,
        rows: Rows,
        aggregate: &logical::Aggregate,
        keys: &[&Expr],
        input: &DFSchema,
        times: &[&Expr],
    ) -> Built<Prepared> {
        let mut exprs = Exprs::default();
        let group: Vec<usize> = keys.iter().map(|key| exprs.column_of(key)).collect();
        let mut aggregates = Vec::with_capacity(aggregate.aggr_expr.len());
        let names = aggregate.schema.fields().iter().skip(aggregate.group_expr.len());
        for (expr, field) in aggregate.aggr_expr.iter().zip(names) {
            aggregates.push(self.aggregate_spec(expr, field.name(), &mut exprs)?);
        }
        let times = times.iter().map(|time| exprs.column_of(time)).collect();
        let rows = self.columns_of(rows, exprs, input)?;
        let aggregation = Aggregation { input: self.schema(&rows), group, aggregates };
        Ok(Prepared { lineage: self.lineage(&rows), rows, aggregation, times })
    }

    /// Makes these the columns.
    pub(super) fn columns_of(&mut self, rows: Rows, exprs: Exprs, input: &DFSchema) -> Built<Rows> {
        let named = exprs.0.into_iter().map(|expr| Ok((self.name_of(&expr)?, expr)));
        let named = named.collect::<Built<Vec<(String, Expr)>>>()?;
        let computed: Vec<(&Expr, &str)> = named.iter().map(|(name, expr)| (expr, name.as_str())).collect();
        self.compute(rows, &computed, input, None)
    }

    fn name_of(&self, expr: &Expr) -> Built<String> {
        match expr.try_as_col() {
            Some(column) => Ok(column.name().to_string()),
            None => Ok(self.planner(as_written(expr))?.schema_name().to_string()),
        }
    }

    fn aggregate_spec(&self, expr: &Expr, name: &str, exprs: &mut Exprs) -> Built<AggregateSpec> {
        const REMEDY: &str = "write COUNT, SUM, AVG, MIN, MAX, FIRST_VALUE, LAST_VALUE or LISTAGG";
        let place = place_of([expr].into_iter());
        let Expr::AggregateFunction(call) = expr.clone().unalias() else {
            return Err(self.refused(place, "this aggregate", REMEDY));
        };
        let Some(function) = function_of(&call.func, &call.params.args) else {
            return Err(self.refused(place, call.func.name(), REMEDY));
        };
        if call.params.distinct && by_arrival(function) {
            let what = format!("{} with DISTINCT", function.name());
            return Err(self.refused(place, &what, "select DISTINCT rows in a subquery, and aggregate those"));
        }
        if !call.params.order_by.is_empty() || call.params.null_treatment.is_some() {
            return Err(self.refused(place, "an order within an aggregate", "leave it out"));
        }
        let separator = separator_of(&call.params.args).map_err(|separator| {
            let place = place_of([separator].into_iter()).or(place);
            self.refused(place, "LISTAGG with another separator for each row", "write it out: LISTAGG(text, ', ')")
        })?;
        let argument = (function != AggregateFunction::CountStar).then(|| call.params.args.first()).flatten();
        Ok(AggregateSpec {
            name: name.to_string(),
            function,
            argument: argument.map(|argument| exprs.column_of(argument)),
            distinct: call.params.distinct,
            filter: call.params.filter.as_deref().map(|filter| exprs.column_of(filter)),
            separator,
        })
    }

    /// What an aggregation's rows are when they reach it. Where rows are taken back, what hangs on their order is not folded before
    /// the exchange.
    fn pre_aggregated(&self, aggregation: &Aggregation, retract: bool) -> AggregateInput {
        let hangs = aggregation.aggregates.iter().any(|one| by_arrival(one.function));
        if !self.settings.local_aggregation || (retract && hangs) {
            AggregateInput::Rows
        } else {
            AggregateInput::Partials
        }
    }

    /// Folds the rows before the exchange. What the partial results are made of is what the lineage says.
    fn pre_aggregate(
        &mut self,
        prepared: &Prepared,
        reaches: AggregateInput,
        retract_input: bool,
        identity: &Identity,
        window: Option<(WindowShape, TimeSource)>,
    ) -> Built<Rows> {
        let mut all = Vec::new();
        for input in prepared.rows.nodes() {
            let width = self.tree[input].schema().fields().len();
            if reaches == AggregateInput::Rows {
                all.push(Rows::all(input, width));
                continue;
            }
            let spec = LocalAggregateSpec { aggregation: prepared.aggregation.clone(), window, retract_input };
            let schema = local_aggregate(&spec).map_err(|error| internal(&error))?.output;
            let text = prepared.group_text();
            let by = if text.is_empty() { String::new() } else { format!("(by {text})") };
            let width = schema.fields().len();
            let node = self.add(NewNode {
                op: Op::LocalAggregate(spec),
                inputs: vec![input],
                schema,
                lineage: self.tree[input].lineage.clone(),
                identity: identity.within("local", &[]),
                name: format!("LocalAggregate{by}"),
                place: self.place,
            });
            all.push(Rows::all(node, width));
        }
        Ok(Rows::union(all))
    }
}

impl Prepared {
    fn exchange(&self, input: AggregateInput) -> Exchange {
        let groups = self.aggregation.group.len();
        match input {
            _ if groups == 0 => Exchange::Single,
            AggregateInput::Partials => Exchange::Hash { keys: (0..groups).collect() },
            AggregateInput::Rows => Exchange::Hash { keys: self.aggregation.group.clone() },
        }
    }

    fn group_meaning(&self) -> Meaning {
        list(self.aggregation.group.iter().map(|&column| &self.lineage.columns[column]))
    }

    /// What each output column is.
    fn meaning(&self) -> Vec<Meaning> {
        let group = self.aggregation.group.iter().map(|&column| self.lineage.columns[column].clone());
        let aggregates = self.aggregation.aggregates.iter();
        let aggregates =
            aggregates.map(|one| Meaning::of(|of| aggregate_text(one, |column| of(&self.lineage.columns[column]))));
        group.chain(aggregates).collect()
    }

    /// The keys, for people.
    fn group_text(&self) -> String {
        names(self.aggregation.group.iter().map(|&column| self.aggregation.input.field(column)))
    }

    /// The aggregates, for people.
    fn aggregate_text(&self) -> String {
        let name = |column: usize| self.aggregation.input.field(column).name().as_str();
        let texts: Vec<String> = self.aggregation.aggregates.iter().map(|one| aggregate_text(one, name)).collect();
        texts.join(", ")
    }
}

/// What hangs on the order in which rows come.
fn by_arrival(function: AggregateFunction) -> bool {
    matches!(function, AggregateFunction::FirstValue | AggregateFunction::LastValue | AggregateFunction::ListAgg)
}

/// Expressions that become columns, each once.
#[derive(Default)]
pub(super) struct Exprs(Vec<Expr>);

impl Exprs {
    /// These are there already.
    pub(super) fn of(columns: Vec<Expr>) -> Self {
        Self(columns)
    }

    pub(super) fn column_of(&mut self, expr: &Expr) -> usize {
        let expr = expr.clone().unalias();
        self.0.iter().position(|known| *known == expr).unwrap_or_else(|| {
            self.0.push(expr);
            self.0.len() - 1
        })
    }
}

/// What the columns of a window aggregation are: keys and aggregates, and its windows behind them.
fn with_windows(mut columns: Vec<Meaning>, width: usize) -> Built<Vec<Meaning>> {
    columns.extend(WINDOW_COLUMNS.iter().map(|name| Meaning::same(*name)));
    if columns.len() != width {
        return Err(internal(&std::io::Error::other("a window aggregation has columns of no known meaning")));
    }
    Ok(columns)
}

/// One aggregate over columns of these names: for people, and for identities.
pub(super) fn aggregate_text<'s>(one: &AggregateSpec, name: impl Fn(usize) -> &'s str) -> String {
    let mut text = match one.argument {
        None => one.function.name().to_string(),
        Some(column) => {
            let distinct = if one.distinct { "DISTINCT " } else { "" };
            let separator = one.separator.as_ref().map_or_else(String::new, |text| format!(", '{text}'"));
            format!("{}({distinct}{}{separator})", one.function.name(), name(column))
        }
    };
    if let Some(filter) = one.filter {
        text.push_str(" FILTER ");
        text.push_str(name(filter));
    }
    text
}

pub(super) fn spec_error(error: &weir_operators::SpecError, place: Place) -> PlanError {
    PlanError::new(place, error.to_string(), "group by, and aggregate, columns of plain types")
}
