//! From an optimised logical plan to stages.
//!
//! Scans become sources; filters and projections between two other operators become one; an aggregation is split in a
//! pre-aggregation before the exchange and the aggregation behind it; everything that keeps state gets its identity here,
//! and a note of what bounds the state.

pub(crate) mod flow;
pub(crate) mod source;

use std::path::Path;
use std::sync::Arc;

use datafusion_common::{Column, DFSchema};
use datafusion_expr::{Aggregate, Expr, LogicalPlan, Projection, TableScan};
use weir_connectors::ConnectorRegistry;
use weir_engine::{Exchange, PlanWarning, Stage, StageHead, StateNote};
use weir_operators::{
    AggregateFunction, AggregateInput, AggregateSpec, Aggregation, Deduplicate as DeduplicateOperator, DeduplicateSpec,
    Keep, KeyedAggregate, KeyedAggregateSpec, LocalAggregate, LocalAggregateSpec, TimeSource, WindowAggregate,
    WindowAggregateSpec, WindowAssign, WindowAssignSpec, WindowShape,
};

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::columns::{Time, Traits, WindowColumn, is_windowed, of_expr, traits};
use crate::logical::nodes::{Deduplicate, WINDOW_COLUMNS, WindowTvf, position};
use crate::logical::optimize::place_of;
use crate::logical::print::as_written;
use crate::logical::windows::{Unwindowed, unwindow};
use crate::lower::flow::{Computed, Flow, Updating, internal, kin};
use crate::lower::source::plan_source;
use crate::names::catalog::Table;
use crate::names::functions::aggregate::function_of;
use crate::settings::Settings;

/// Lowers the plans of one script.
pub struct Lowering<'a> {
    /// What the script has set.
    pub settings: &'a Settings,
    /// The connectors.
    pub connectors: &'a ConnectorRegistry,
    /// Relative paths are taken from here.
    pub base_dir: &'a Path,
    /// The table that the results go to: part of every identity of state format 1.
    pub owner: String,
    /// Where the statement stands.
    pub place: Place,
    /// Whether −U rows are needed before +U rows.
    pub update_before: bool,
    /// The stages so far.
    pub stages: Vec<Stage>,
    /// What a user should know.
    pub warnings: Vec<PlanWarning>,
}

type Lowered<T> = Result<T, PlanError>;

impl Lowering<'_> {
    /// Errors of the planner, with the statement's place where they have none.
    fn planner<T>(&self, result: datafusion_common::Result<T>) -> Lowered<T> {
        result.map_err(|error| PlanError::from_planner(&error, self.place))
    }

    /// The rows of a plan.
    pub fn lower(&mut self, plan: &LogicalPlan) -> Lowered<Flow> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => {
                let mut flow = self.lower(&filter.input)?;
                self.planner(flow.filter(&filter.predicate, filter.input.schema()))?;
                Ok(flow)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                if let Some(window) = node.downcast_ref::<WindowTvf>() {
                    self.assign(window)
                } else if let Some(deduplicate) = node.downcast_ref::<Deduplicate>() {
                    self.deduplicate(deduplicate)
                } else {
                    Err(self.refused(Place::default(), extension.node.name(), "write the query in another way"))
                }
            }
            LogicalPlan::EmptyRelation(_) => Err(self.refused(
                Place::default(),
                "a query that never gives a row",
                "its condition is never true: change it, or leave the INSERT out",
            )),
            LogicalPlan::Window(window) => Err(self.refused(
                place_of(window.window_expr.iter()),
                "a ROW_NUMBER() without a condition on it",
                "put the query into a subquery and write WHERE row_num = 1 around it",
            )),
            other => {
                let text = other.display().to_string();
                let name = text.split(':').next().unwrap_or_default();
                Err(self.refused(Place::default(), name, "write the query in another way"))
            }
        }
    }

    fn refused(&self, place: Place, what: &str, remedy: &str) -> PlanError {
        PlanError::new(place.or(self.place), format!("{what} is not supported"), remedy)
    }

    fn scan(&mut self, scan: &TableScan) -> Lowered<Flow> {
        let Some(table) = scan.source.downcast_ref::<Table>() else {
            return Err(self.refused(Place::default(), "this relation", "read from a table or a view"));
        };
        let wanted: Vec<usize> = scan.projection.clone().unwrap_or_else(|| (0..table.columns.len()).collect());
        let mut planned = plan_source(table, &wanted, self.settings, self.connectors, self.base_dir)?;
        let connector = table.options.iter().find(|option| option.key == "connector");
        let connector = connector.map_or("", |option| option.value.as_str());
        let identity =
            Identity::of("source", &self.owner, &[&Meaning::same(table.name.as_str()), &Meaning::same(connector)]);
        planned.node.identity.clone_from(&identity.now);
        planned.node.kin = kin(self.place, identity.before.clone());
        let meaning = planned
            .columns
            .iter()
            .map(|&column| Meaning::same(format!("{}.{}", table.name, table.schema.field(column).name())))
            .collect();
        let schema = Arc::clone(&planned.node.schema);
        let rows = Meaning::same(format!("FROM {}", table.name));
        let mut flow = Flow::new(StageHead::Source(planned.node), identity, schema, meaning, rows);
        flow.bounded = planned.bounded;
        Ok(flow)
    }

    fn projection(&mut self, projection: &Projection) -> Lowered<Flow> {
        let mut flow = self.lower(&projection.input)?;
        let columns = self.computed(&flow, &projection.expr, projection.input.schema(), &projection.schema)?;
        flow.project(columns, None)?;
        Ok(flow)
    }

    /// The columns of a projection.
    pub fn computed(&self, flow: &Flow, exprs: &[Expr], input: &DFSchema, output: &DFSchema) -> Lowered<Vec<Computed>> {
        exprs
            .iter()
            .zip(output.fields())
            .map(|(expr, field)| self.planner(flow.compute(expr, field.name(), input)))
            .collect()
    }

    /// A window function that no aggregation takes in.
    fn assign(&mut self, window: &WindowTvf) -> Lowered<Flow> {
        let mut flow = self.lower(&window.input)?;
        self.refuse_updating(&flow, "a window", window.place)?;
        flow.trim(window.input.schema().fields().len())?;
        let time = match &window.time {
            Some(time) => TimeSource::Event(self.column(time, &window.input)?),
            None => TimeSource::Processing,
        };
        let spec = WindowAssignSpec { input: Arc::clone(&flow.schema), window: window.shape, time };
        let factory = WindowAssign::new(spec).map_err(|error| internal(&error))?;
        let text = window_text(window, &flow, time);
        let output = Arc::clone(factory.output());
        flow.rows = rows_in_windows(window, &flow, time);
        flow.meaning.extend(WINDOW_COLUMNS.iter().map(|column| Meaning::same(*column)));
        let identity = Identity::of("window-assign", &self.owner, &[&flow.rows]);
        flow.push(identity, window.place, format!("WindowAssign({text})"), Arc::new(factory), None, output);
        Ok(flow)
    }

    fn deduplicate(&mut self, node: &Deduplicate) -> Lowered<Flow> {
        let place = place_of(node.keys.iter().chain([&node.order])).or(self.place);
        let mut flow = self.lower(&node.input)?;
        self.refuse_updating(&flow, "ROW_NUMBER()", place)?;
        flow.trim(node.input.schema().fields().len())?;
        let keys = node.keys.iter().map(|key| self.column(key, &node.input)).collect::<Lowered<Vec<usize>>>()?;
        let order_column = self.column(&node.order, &node.input)?;
        let order = match node.time_kind {
            Time::Event => TimeSource::Event(order_column),
            Time::Processing => TimeSource::Processing,
        };
        let spec = DeduplicateSpec {
            input: Arc::clone(&flow.schema),
            keys: keys.clone(),
            order,
            keep: node.keep,
            update_before: self.update_before,
        };
        let factory = DeduplicateOperator::new(spec).map_err(|error| internal(&error))?;
        let key_text = names(&flow, &keys);
        let by = list(keys.iter().map(|&key| &flow.meaning[key]));
        let keep = if node.keep == Keep::First { "first" } else { "last" };
        let order_of = &flow.meaning[order_column];
        let rows = Meaning::of(|of| format!("{} KEEP {keep} BY {} OF {}", of(&flow.rows), of(order_of), of(&by)));
        let identity = Identity::of("deduplicate", &self.owner, &[&rows, &list(&flow.meaning)]);
        let name = format!("Deduplicate(keep {keep} row of {key_text})");
        let state = self.note(&name, &flow, &format!("a row for each {key_text}"));
        let mut flow = flow.exchange(Exchange::Hash { keys }, identity.clone(), &mut self.stages);
        let output = Arc::clone(factory.output());
        flow.push(identity, place, name.clone(), Arc::new(factory), Some(state), output);
        flow.rows = rows;
        // The first row that the clock sees is never another; the first or last by event time can be.
        if !(node.keep == Keep::First && node.time_kind == Time::Processing) {
            flow.updating = Some(Updating { operator: name, place });
        }
        Ok(flow)
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Lowered<Flow> {
        let known = traits(&aggregate.input);
        let group: Vec<Traits> =
            aggregate.group_expr.iter().map(|expr| of_expr(expr, &aggregate.input, &known)).collect();
        if is_windowed(&group) {
            match self.planner(unwindow(&aggregate.input))? {
                Some(unwindowed) => return self.window_aggregate(aggregate, &group, &unwindowed),
                None => {
                    return Err(PlanError::new(
                        place_of(aggregate.group_expr.iter()).or(self.place),
                        "an expression of window_start or window_end below the GROUP BY is not supported",
                        "compute it above the GROUP BY, from its result",
                    ));
                }
            }
        }
        let flow = self.lower(&aggregate.input)?;
        let place = self.place_of_aggregate(aggregate);
        self.refuse_updating(&flow, "an aggregation", place)?;
        let keys: Vec<&Expr> = aggregate.group_expr.iter().collect();
        let mut prepared = self.prepare(flow, aggregate, &keys, aggregate.input.schema(), None)?;
        let aggregation = prepared.aggregation.clone();
        let meaning = prepared.meaning();
        let by = list(prepared.group_meaning());
        let rows = Meaning::of(|of| format!("{} GROUP BY {}", of(&prepared.flow.rows), of(&by)));
        let identity = Identity::of("aggregate", &self.owner, &[&rows, &list(&meaning)]);
        let key_text = names(&prepared.flow, &aggregation.group);
        let name = if aggregation.group.is_empty() {
            format!("Aggregate({})", prepared.aggregate_text())
        } else {
            format!("GroupAggregate(by {key_text}: {})", prepared.aggregate_text())
        };
        let distinct = aggregation.aggregates.iter().any(|one| one.distinct);
        let state = match (aggregation.group.is_empty(), distinct) {
            (true, false) => StateNote { bounded_by: Some("one row".to_string()) },
            (true, true) => self.note(&name, &prepared.flow, "each distinct value"),
            (false, false) => self.note(&name, &prepared.flow, &format!("a row for each {key_text}")),
            (false, true) => {
                self.note(&name, &prepared.flow, &format!("a row for each {key_text}, and its distinct values"))
            }
        };
        let input = self.pre_aggregate(&mut prepared, &identity, None)?;
        let spec = KeyedAggregateSpec { aggregation, input, retract_input: false, update_before: self.update_before };
        let factory = KeyedAggregate::new(spec).map_err(|error| spec_error(&error, place))?;
        let exchange = prepared.exchange(input);
        let mut flow = prepared.flow.exchange(exchange, identity.clone(), &mut self.stages);
        let output = Arc::clone(factory.output());
        // DISTINCT alone never changes a row that it has put out.
        if !aggregate.aggr_expr.is_empty() {
            flow.updating = Some(Updating { operator: name.clone(), place });
        }
        flow.push(identity, place, name, Arc::new(factory), Some(state), output);
        flow.meaning = meaning;
        flow.rows = rows;
        Ok(flow)
    }

    fn window_aggregate(&mut self, aggregate: &Aggregate, group: &[Traits], below: &Unwindowed) -> Lowered<Flow> {
        let place = self.place_of_aggregate(aggregate).or(below.window.place);
        let flow = self.lower(&below.plan)?;
        self.refuse_updating(&flow, "a window aggregation", place)?;
        let keys: Vec<&Expr> = aggregate
            .group_expr
            .iter()
            .zip(group)
            .filter(|(_, column)| column.window.is_none())
            .map(|(expr, _)| expr)
            .collect();
        let mut prepared = self.prepare(flow, aggregate, &keys, below.plan.schema(), below.time.as_ref())?;
        let aggregation = prepared.aggregation.clone();
        let time = match (below.window.time_kind, prepared.time) {
            (Time::Event, Some(column)) => TimeSource::Event(column),
            _ => TimeSource::Processing,
        };
        let meaning = prepared.meaning();
        let window_text = window_text(&below.window, &prepared.flow, time);
        let by = list(prepared.group_meaning());
        let windows = rows_in_windows(&below.window, &prepared.flow, time);
        let rows = Meaning::of(|of| format!("{} GROUP BY {}", of(&windows), of(&by)));
        let identity = Identity::of("window-aggregate", &self.owner, &[&rows, &list(&meaning)]);
        let key_text = names(&prepared.flow, &aggregation.group);
        let by = if key_text.is_empty() { String::new() } else { format!("by {key_text}, ") };
        let name = format!("WindowAggregate({by}{window_text}: {})", prepared.aggregate_text());
        let each = if key_text.is_empty() { "a row".to_string() } else { format!("a row for each {key_text}") };
        let bound = format!("{each} in each open window of {}", duration(below.window.shape.size));
        let state = StateNote { bounded_by: Some(bound) };
        let input = self.pre_aggregate(&mut prepared, &identity, Some((below.window.shape, time)))?;
        let groups = aggregation.group.len();
        let aggregates = aggregation.aggregates.len();
        let spec = WindowAggregateSpec { aggregation, input, window: below.window.shape, time };
        let factory = WindowAggregate::new(spec).map_err(|error| spec_error(&error, place))?;
        let exchange = prepared.exchange(input);
        let mut flow = prepared.flow.exchange(exchange, identity.clone(), &mut self.stages);
        let output = Arc::clone(factory.output());
        flow.push(identity, place, name, Arc::new(factory), Some(state), Arc::clone(&output));
        flow.rows = rows;
        // The operator's columns by name, brought into the order of the plan.
        let of_window = |window: WindowColumn| {
            let name = WINDOW_COLUMNS[window as usize];
            output.fields().iter().rposition(|field| field.name() == name)
        };
        let starts = [WindowColumn::Start, WindowColumn::End, WindowColumn::Time].map(of_window);
        let others: Vec<usize> = (0..output.fields().len()).filter(|column| !starts.contains(&Some(*column))).collect();
        flow.meaning = vec![Meaning::default(); output.fields().len()];
        for (meaning, &column) in meaning.iter().zip(&others) {
            flow.meaning[column].clone_from(meaning);
        }
        for (name, column) in WINDOW_COLUMNS.iter().zip(starts) {
            if let Some(column) = column {
                flow.meaning[column] = Meaning::same(*name);
            }
        }
        if others.len() != groups + aggregates {
            return Err(internal(&std::io::Error::other("a window aggregation has columns of no known meaning")));
        }
        let mut plain = 0;
        let mut order = Vec::with_capacity(aggregate.schema.fields().len());
        for column in group {
            match column.window {
                Some(window) => order.extend(of_window(window)),
                None => {
                    order.push(others[plain]);
                    plain += 1;
                }
            }
        }
        order.extend(others[groups..].iter().copied());
        let fields = aggregate.schema.fields();
        let columns = order
            .iter()
            .zip(fields)
            .map(|(&column, field)| {
                let mut computed = flow.pass(column);
                computed.field = computed.field.with_name(field.name());
                computed
            })
            .collect();
        flow.project(columns, None)?;
        for conditions in &below.conditions {
            for (condition, columns) in conditions {
                let condition = self.raised(condition, columns, aggregate, group)?;
                self.planner(flow.filter(&condition, &aggregate.schema))?;
            }
        }
        Ok(flow)
    }

    /// A condition on window columns, in terms of an aggregation's output.
    fn raised(
        &self,
        condition: &Expr,
        columns: &[(Column, WindowColumn)],
        aggregate: &Aggregate,
        group: &[Traits],
    ) -> Lowered<Expr> {
        use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
        let replaced = condition
            .clone()
            .transform_up(|expr| {
                let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
                let window = columns.iter().find(|(named, _)| named == column).map(|(_, window)| *window);
                let index = group.iter().position(|known| known.window == window && window.is_some());
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
        &self,
        mut flow: Flow,
        aggregate: &Aggregate,
        keys: &[&Expr],
        input: &DFSchema,
        time: Option<&Column>,
    ) -> Lowered<Prepared> {
        let mut exprs: Vec<Expr> = Vec::new();
        let mut column_of = |expr: &Expr| {
            let expr = expr.clone().unalias();
            exprs.iter().position(|known| *known == expr).unwrap_or_else(|| {
                exprs.push(expr);
                exprs.len() - 1
            })
        };
        let group: Vec<usize> = keys.iter().map(|key| column_of(key)).collect();
        let mut aggregates = Vec::with_capacity(aggregate.aggr_expr.len());
        let names = aggregate.schema.fields().iter().skip(aggregate.group_expr.len());
        for (expr, field) in aggregate.aggr_expr.iter().zip(names) {
            let Expr::AggregateFunction(call) = expr.clone().unalias() else {
                return Err(self.refused(
                    place_of([expr].into_iter()),
                    "this aggregate",
                    "write COUNT, SUM, AVG, MIN or MAX",
                ));
            };
            let place = place_of([expr].into_iter());
            let Some(function) = function_of(&call.func, &call.params.args) else {
                return Err(self.refused(place, call.func.name(), "write COUNT, SUM, AVG, MIN or MAX"));
            };
            if !call.params.order_by.is_empty() || call.params.null_treatment.is_some() {
                return Err(self.refused(place, "an order within an aggregate", "leave it out"));
            }
            let argument = (function != AggregateFunction::CountStar).then(|| call.params.args.first()).flatten();
            aggregates.push(AggregateSpec {
                name: field.name().clone(),
                function,
                argument: argument.map(&mut column_of),
                distinct: call.params.distinct,
                filter: call.params.filter.as_deref().map(&mut column_of),
                separator: None,
            });
        }
        let time = time.map(|time| column_of(&Expr::Column(time.clone())));
        let columns = exprs
            .iter()
            .map(|expr| {
                let name = match expr.try_as_col() {
                    Some(column) => column.name().to_string(),
                    None => self.planner(as_written(expr))?.schema_name().to_string(),
                };
                self.planner(flow.compute(expr, &name, input))
            })
            .collect::<Lowered<Vec<_>>>()?;
        flow.project(columns, None)?;
        let aggregation = Aggregation { input: Arc::clone(&flow.schema), group, aggregates };
        Ok(Prepared { flow, aggregation, time })
    }

    /// Puts the pre-aggregation before the exchange.
    fn pre_aggregate(
        &self,
        prepared: &mut Prepared,
        identity: &Identity,
        window: Option<(WindowShape, TimeSource)>,
    ) -> Lowered<AggregateInput> {
        if !self.settings.local_aggregation {
            return Ok(AggregateInput::Rows);
        }
        let spec = LocalAggregateSpec { aggregation: prepared.aggregation.clone(), window, retract_input: false };
        let factory = LocalAggregate::new(spec).map_err(|error| internal(&error))?;
        let output = Arc::clone(factory.output());
        let text = names(&prepared.flow, &prepared.aggregation.group);
        let by = if text.is_empty() { String::new() } else { format!("(by {text})") };
        let identity = identity.within("local", &[]);
        prepared.flow.push(identity, self.place, format!("LocalAggregate{by}"), Arc::new(factory), None, output);
        Ok(AggregateInput::Partials)
    }

    fn column(&self, expr: &Expr, input: &LogicalPlan) -> Lowered<usize> {
        position(expr, input).ok_or_else(|| {
            PlanError::new(
                self.place,
                format!("the column {expr} got lost"),
                "write the query in another way, and report this one",
            )
        })
    }

    fn place_of_aggregate(&self, aggregate: &Aggregate) -> Place {
        place_of(aggregate.group_expr.iter().chain(&aggregate.aggr_expr)).or(self.place)
    }

    /// Nothing takes retractions in yet.
    fn refuse_updating(&self, flow: &Flow, what: &str, place: Place) -> Lowered<()> {
        let Some(updating) = &flow.updating else { return Ok(()) };
        let from = updating.operator.split('(').next().unwrap_or_default();
        let at = if updating.place.is_known() { format!(" of line {}", updating.place.line) } else { String::new() };
        Err(PlanError::new(
            place.or(self.place),
            format!("{what} over rows that change ({from}{at} updates them) is not supported yet"),
            "let the rows below be final: aggregate them in a window, GROUP BY window_start, window_end over TABLE(TUMBLE(…))",
        ))
    }

    /// What bounds a state of this size; a warning where nothing does.
    fn note(&mut self, operator: &str, flow: &Flow, keeps: &str) -> StateNote {
        if flow.bounded {
            return StateNote { bounded_by: Some(format!("{keeps} of an input that ends")) };
        }
        self.warnings.push(PlanWarning {
            operator: operator.to_string(),
            message: format!(
                "keeps {keeps} for ever: its state grows without bound unless the keys are few; a window would bound it"
            ),
        });
        StateNote { bounded_by: None }
    }
}

/// An aggregation whose inputs are columns.
struct Prepared {
    flow: Flow,
    aggregation: Aggregation,
    time: Option<usize>,
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

    fn group_meaning(&self) -> impl Iterator<Item = &Meaning> {
        self.aggregation.group.iter().map(|&column| &self.flow.meaning[column])
    }

    /// What each output column is.
    fn meaning(&self) -> Vec<Meaning> {
        let group = self.group_meaning().cloned();
        let aggregates = self
            .aggregation
            .aggregates
            .iter()
            .map(|one| Meaning::of(|of| aggregate_text(one, |column| of(&self.flow.meaning[column]))));
        group.chain(aggregates).collect()
    }

    /// The aggregates, for people.
    fn aggregate_text(&self) -> String {
        let texts: Vec<String> = self
            .aggregation
            .aggregates
            .iter()
            .map(|one| aggregate_text(one, |column| self.flow.schema.field(column).name().as_str()))
            .collect();
        texts.join(", ")
    }
}

/// One aggregate over columns of these names: for people, and for identities.
fn aggregate_text<'s>(one: &AggregateSpec, name: impl Fn(usize) -> &'s str) -> String {
    let mut text = match one.argument {
        None => one.function.name().to_string(),
        Some(column) => {
            let distinct = if one.distinct { "DISTINCT " } else { "" };
            format!("{}({distinct}{})", one.function.name(), name(column))
        }
    };
    if let Some(filter) = one.filter {
        text.push_str(" FILTER ");
        text.push_str(name(filter));
    }
    text
}

fn names(flow: &Flow, columns: &[usize]) -> String {
    let names: Vec<&str> = columns.iter().map(|&column| flow.schema.field(column).name().as_str()).collect();
    names.join(", ")
}

/// A window for people.
fn window_text(window: &WindowTvf, flow: &Flow, time: TimeSource) -> String {
    window_in(window, &time_of(flow, time).text, duration)
}

fn time_of(flow: &Flow, time: TimeSource) -> Meaning {
    match time {
        TimeSource::Event(column) => flow.meaning[column].clone(),
        TimeSource::Processing => Meaning::same("processing time"),
    }
}

fn window_in(window: &WindowTvf, time: &str, duration: impl Fn(i64) -> String) -> String {
    let WindowShape { size, slide, offset } = window.shape;
    let offset = if offset == 0 { String::new() } else { format!(", offset {}", duration(offset)) };
    if size == slide {
        format!("TUMBLE({time}, {}{offset})", duration(size))
    } else {
        format!("HOP({time}, {}, {}{offset})", duration(slide), duration(size))
    }
}

/// The rows of a flow, each in its windows.
fn rows_in_windows(window: &WindowTvf, flow: &Flow, time: TimeSource) -> Meaning {
    let time = time_of(flow, time);
    let now = window_in(window, &time.text, |millis| format!("{millis} ms"));
    let before = window_in(window, &time.before, duration);
    Meaning { text: format!("{} {now}", flow.rows.text), before: format!("{} {before}", flow.rows.before) }
}

fn duration(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    format!("{sign}{}", humantime::format_duration(std::time::Duration::from_millis(millis.unsigned_abs())))
}

fn spec_error(error: &weir_operators::SpecError, place: Place) -> PlanError {
    PlanError::new(place, error.to_string(), "group by, and aggregate, columns of plain types")
}
