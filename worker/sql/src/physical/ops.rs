//! What the nodes do, as plain data: each can be compared with another, and says what it puts out.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_common::JoinType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column as PhysicalColumn;
use weir_engine::{Exchange, OperatorFactory, SinkFactory, SourceNode};
use weir_operators::{
    AggregateInput, Aggregation, Conflict, ConflictSpec, Deduplicate, DeduplicateSpec, Expand, ExpandSpec,
    FilterProject, IntervalJoin, IntervalJoinSpec, JoinInput, JoinKind, KeyedAggregate, KeyedAggregateSpec,
    LocalAggregate, LocalAggregateSpec, LookupJoin, LookupJoinSpec, NotIn, NotInSpec, Over, OverSpec, RegularJoin,
    RegularJoinSpec, SessionAssign, SessionSpec, SpecError, TimeColumn, TimeSource, TopNSpec, UpsertMaterialize,
    UpsertMaterializeSpec, WindowAggregate, WindowAggregateSpec, WindowAssign, WindowAssignSpec, WindowKind,
    WindowShape, WindowTopN, WindowTopNSpec,
};

use crate::logical::columns::Time;
use crate::physical::changelog::Given;

/// What a node does.
pub enum Op {
    /// Reads a table.
    Scan(Box<Scan>),
    /// Filters and projects.
    Calc(Calc),
    /// Copies each row for every grouping set.
    Expand(ExpandSpec),
    /// Puts rows out with aggregates over those before them.
    Over(Box<OverSpec>),
    /// Gives each row its windows' bounds.
    WindowAssign(WindowAssignSpec),
    /// Gives each row its session's bounds.
    SessionAssign(SessionSpec),
    /// Aggregates before an exchange.
    LocalAggregate(LocalAggregateSpec),
    /// Keeps groups up to date.
    Aggregate(Aggregate),
    /// Puts out each group once its window has closed.
    WindowAggregate(WindowAggregateSpec),
    /// Keeps one row of each key.
    Deduplicate(Dedup),
    /// Keeps the first rows of each partition.
    TopN(TopN),
    /// Puts out the first rows of each partition of a window once it has closed.
    WindowTopN(WindowTop),
    /// Keeps the rows of each primary key, of which the last stands.
    UpsertMaterialize(UpsertMaterializeSpec),
    /// Keeps one row of each primary key.
    Conflict(ConflictSpec),
    /// Rows of two inputs that belong together.
    Join(Box<Join>),
    /// Rows beside those of a table that is looked up in.
    Lookup(Box<Lookup>),
    /// Rows of all inputs go to the subtask that their key belongs to.
    Exchange(Exchange),
    /// The rows of all inputs.
    Union,
    /// Writes a table.
    Sink(Box<Sink>),
}

/// Reads a table.
pub struct Scan {
    /// For the graph; whose it is is not said yet.
    pub node: SourceNode,
    /// Which declaration of the table it reads.
    pub serial: usize,
    /// The table's column that each column is.
    pub columns: Vec<usize>,
    /// What time each column measures.
    pub times: Vec<Option<Time>>,
    /// The table's primary key, where all of it is read: places among the columns.
    pub primary_key: Option<Vec<usize>>,
    /// It ends.
    pub bounded: bool,
}

/// Filters and projects.
#[derive(Debug, PartialEq)]
pub struct Calc {
    /// What keeps a row.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// The columns that it puts out.
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
}

/// Keeps groups up to date.
#[derive(Debug, PartialEq)]
pub struct Aggregate {
    /// Keys and aggregates.
    pub aggregation: Aggregation,
    /// What its rows are when they reach it.
    pub input: AggregateInput,
}

/// Keeps one row of each key.
#[derive(Debug, PartialEq)]
pub struct Dedup {
    /// What the operator is told. Whether it sends rows before their updates is decided last.
    pub spec: DeduplicateSpec,
}

/// Keeps the first rows of each partition.
#[derive(Debug, PartialEq)]
pub struct TopN {
    /// What the operator is told. What its input does, and whether it sends rows before their updates, is decided last.
    pub spec: TopNSpec,
}

/// Rows of two inputs that belong together. Each input has its query's columns, and behind them keys that are none of these.
#[derive(Debug, PartialEq)]
pub struct Join {
    /// Which rows of which side come out.
    pub kind: JoinType,
    /// Columns of the left and of the right input that are equal.
    pub keys: Vec<(usize, usize)>,
    /// The query's columns of each input.
    pub widths: (usize, usize),
    /// A key that is null equals one that is null.
    pub nulls_match: bool,
    /// NOT IN: a null on the right leaves no row.
    pub null_aware: bool,
    /// What else must hold, over the query's columns of the left and the right.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
    /// Rows wait for each other no longer than this.
    pub within: Option<Within>,
}

/// Within which time of each other the rows of both sides must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Within {
    /// The event time of both inputs; none: time is the clock's.
    pub times: Option<[TimeColumn; 2]>,
    /// The time of the left less that of the right, in milliseconds, is so much at least.
    pub lower: i64,
    /// And so much at most.
    pub upper: i64,
    /// Both are in the same windows, whose ends the times are. Their columns with the last time of a window.
    pub windows: Option<[Vec<usize>; 2]>,
}

/// Keeps the first rows of each partition of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowTop {
    /// What the operator is told.
    pub spec: WindowTopNSpec,
    /// The columns with the last time of a window.
    pub times: Vec<usize>,
    /// It keeps one row, by its time.
    pub is_one: bool,
}

/// Writes a table.
pub struct Sink {
    /// Makes its subtasks.
    pub factory: Arc<dyn SinkFactory>,
    /// Its identity.
    pub called: String,
    /// What it is given of changes.
    pub given: Given,
}

/// An operator, and what it puts out.
pub struct Made {
    /// Makes its subtasks.
    pub factory: Arc<dyn OperatorFactory>,
    /// What it puts out.
    pub output: SchemaRef,
}

fn made<F: OperatorFactory + 'static>(factory: F, output: impl FnOnce(&F) -> &SchemaRef) -> Made {
    let output = Arc::clone(output(&factory));
    Made { factory: Arc::new(factory), output }
}

impl Op {
    /// Whether two nodes over the same inputs do the same.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scan(one), Self::Scan(other)) => (one.serial, &one.columns) == (other.serial, &other.columns),
            (Self::Calc(one), Self::Calc(other)) => one == other,
            (Self::Expand(one), Self::Expand(other)) => one == other,
            (Self::Over(one), Self::Over(other)) => one == other,
            (Self::WindowAssign(one), Self::WindowAssign(other)) => one == other,
            (Self::SessionAssign(one), Self::SessionAssign(other)) => one == other,
            (Self::LocalAggregate(one), Self::LocalAggregate(other)) => one == other,
            (Self::Aggregate(one), Self::Aggregate(other)) => one == other,
            (Self::WindowAggregate(one), Self::WindowAggregate(other)) => one == other,
            (Self::Deduplicate(one), Self::Deduplicate(other)) => one == other,
            (Self::TopN(one), Self::TopN(other)) => one == other,
            (Self::WindowTopN(one), Self::WindowTopN(other)) => one == other,
            (Self::UpsertMaterialize(one), Self::UpsertMaterialize(other)) => one == other,
            (Self::Conflict(one), Self::Conflict(other)) => one == other,
            (Self::Join(one), Self::Join(other)) => one == other,
            (Self::Exchange(one), Self::Exchange(other)) => one == other,
            (Self::Union, Self::Union) => true,
            // Two statements that write the same are two outputs.
            _ => false,
        }
    }

    /// What the operator is called, for people; a node that is no operator has the name of what it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scan(_) => "Scan",
            Self::Calc(_) => "Calc",
            Self::Expand(_) => "Expand",
            Self::Over(_) => "OverAggregate",
            Self::WindowAssign(_) => "WindowAssign",
            Self::SessionAssign(_) => "SessionAssign",
            Self::LocalAggregate(_) => "LocalAggregate",
            Self::Aggregate(aggregate) if aggregate.aggregation.group.is_empty() => "Aggregate",
            Self::Aggregate(_) => "GroupAggregate",
            Self::WindowAggregate(_) => "WindowAggregate",
            Self::Deduplicate(_) => "Deduplicate",
            Self::TopN(_) => "TopN",
            Self::WindowTopN(top) if top.is_one => "WindowDeduplicate",
            Self::WindowTopN(_) => "WindowTopN",
            Self::UpsertMaterialize(_) => "UpsertMaterialize",
            Self::Conflict(_) => "Conflict",
            Self::Join(_) => "Join",
            Self::Lookup(_) => "LookupJoin",
            Self::Exchange(_) => "Exchange",
            Self::Union => "Union",
            Self::Sink(_) => "Sink",
        }
    }
}

impl Calc {
    /// The operator. `output` names and types what the columns are.
    pub fn make(&self, output: &SchemaRef) -> Result<Made, SpecError> {
        let factory = FilterProject::new(self.predicate.clone(), self.columns.clone(), Arc::clone(output))?;
        Ok(made(factory, FilterProject::output))
    }

    /// This one over another, as one: where this one only takes columns of the other.
    pub fn fused(&self, below: &Self) -> Option<Self> {
        if self.predicate.is_some() {
            return None;
        }
        let of =
            |column: &Arc<dyn PhysicalExpr>| passed(column).and_then(|place| below.columns.get(place)).map(Arc::clone);
        let columns = self.columns.iter().map(of).collect::<Option<Vec<_>>>()?;
        Some(Self { predicate: below.predicate.clone(), columns })
    }

    /// All columns are passed on, none is computed.
    pub fn only_passes(&self) -> bool {
        self.columns.iter().all(|column| passed(column).is_some())
    }
}

impl Aggregate {
    /// The operator. With `retract_input` rows are taken back as well.
    pub fn make(&self, retract_input: bool, update_before: bool) -> Result<Made, SpecError> {
        let spec = KeyedAggregateSpec {
            aggregation: self.aggregation.clone(),
            input: self.input,
            retract_input,
            update_before,
        };
        Ok(made(KeyedAggregate::new(spec)?, KeyedAggregate::output))
    }
}

impl Dedup {
    /// The operator.
    pub fn make(&self, update_before: bool) -> Result<Made, SpecError> {
        let spec = DeduplicateSpec { update_before, ..self.spec.clone() };
        Ok(made(Deduplicate::new(spec)?, Deduplicate::output))
    }
}

impl TopN {
    /// The operator.
    pub fn make(&self, retract_input: bool, update_before: bool) -> Result<Made, SpecError> {
        let spec = TopNSpec { retract_input, update_before, ..self.spec.clone() };
        Ok(made(weir_operators::TopN::new(spec)?, weir_operators::TopN::output))
    }

    /// Each of its numbers has one row, which another replaces; else rows come and go.
    pub fn updates(&self) -> bool {
        self.spec.replaces()
    }
}

impl WindowTop {
    /// The operator.
    pub fn make(&self) -> Result<Made, SpecError> {
        Ok(made(WindowTopN::new(self.spec.clone())?, WindowTopN::output))
    }
}

/// Rows beside those of a table that is looked up in.
pub struct Lookup {
    /// What the operator is told.
    pub spec: LookupJoinSpec,
}

impl Lookup {
    /// The operator.
    pub fn make(&self) -> Result<Made, SpecError> {
        Ok(made(LookupJoin::new(self.spec.clone())?, LookupJoin::output))
    }
}

/// What is known of a join's input.
pub struct JoinSide {
    /// Its columns.
    pub schema: SchemaRef,
    /// Columns that no two of its rows have alike.
    pub unique: Option<Vec<usize>>,
    /// Its rows are taken back too.
    pub retracts: bool,
}

impl Join {
    /// The operator.
    pub fn make(&self, left: JoinSide, right: JoinSide) -> Result<Made, SpecError> {
        let kind = match self.kind {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            JoinType::Right => JoinKind::Right,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftAnti if self.null_aware => return self.not_in(left, right),
            JoinType::LeftSemi => JoinKind::Semi,
            JoinType::LeftAnti => JoinKind::Anti,
            _ => return Err(SpecError::Unsupported(format!("a {}", self.name()))),
        };
        let width = left.schema.fields().len();
        let residual = self.residual.as_ref().map(|residual| self.over_inputs(residual, width));
        let (left_keys, right_keys) = self.keys.iter().copied().unzip();
        let input = |side: JoinSide, keys, outputs| {
            let JoinSide { schema, unique, retracts } = side;
            JoinInput { schema, keys, outputs, unique, retracts }
        };
        let (left, right) = (input(left, left_keys, self.widths.0), input(right, right_keys, self.widths.1));
        if let Some(Within { times, lower, upper, windows }) = self.within.clone() {
            let drops_late = windows.is_some();
            let spec = IntervalJoinSpec { left, right, times, kind, lower, upper, drops_late, residual };
            return Ok(made(IntervalJoin::new(spec)?, IntervalJoin::output));
        }
        let spec =
            RegularJoinSpec { left, right, kind, nulls_match: vec![self.nulls_match; self.keys.len()], residual };
        Ok(made(RegularJoin::new(spec)?, RegularJoin::output))
    }

    fn not_in(&self, left: JoinSide, right: JoinSide) -> Result<Made, SpecError> {
        let Some((&(left_value, right_value), keys)) = self.keys.split_first() else {
            return Err(SpecError::Unsupported("NOT IN without a value".to_string()));
        };
        if self.residual.is_some() {
            return Err(SpecError::Unsupported("NOT IN with a condition that is no equality".to_string()));
        }
        let (left_keys, right_keys) = keys.iter().copied().unzip();
        let spec = NotInSpec {
            left: left.schema,
            outputs: self.widths.0,
            right: right.schema,
            left_keys,
            right_keys,
            left_value,
            right_value,
        };
        Ok(made(NotIn::new(spec)?, NotIn::output))
    }

    /// The columns by which rows come together, of the left and of the right. The value of NOT IN is none: a null meets all.
    pub fn meets_by(&self) -> &[(usize, usize)] {
        if self.null_aware { self.keys.get(1..).unwrap_or_default() } else { &self.keys }
    }

    /// A condition over the query's columns of both sides, as one over all columns of both inputs.
    pub fn over_inputs(&self, condition: &Arc<dyn PhysicalExpr>, left_width: usize) -> Arc<dyn PhysicalExpr> {
        let moved = Arc::clone(condition).transform_up(|expr| {
            let Some(column) = expr.downcast_ref::<PhysicalColumn>() else { return Ok(Transformed::no(expr)) };
            let Some(of_right) = column.index().checked_sub(self.widths.0) else { return Ok(Transformed::no(expr)) };
            let moved = PhysicalColumn::new(column.name(), left_width + of_right);
            Ok(Transformed::yes(Arc::new(moved) as Arc<dyn PhysicalExpr>))
        });
        // The closure never fails.
        moved.map_or_else(|_| Arc::clone(condition), |moved| moved.data)
    }

    /// Whose columns come out: the left's, the right's.
    pub fn sides_of(kind: JoinType) -> (bool, bool) {
        match kind {
            JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => (true, false),
            JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (false, true),
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => (true, true),
        }
    }

    /// A row of one side that has found none of the other stands alone, until it finds one: the left's, the right's.
    pub fn stand_alone(&self) -> (bool, bool) {
        match self.kind {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => (false, false),
            JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => (true, false),
            JoinType::Right | JoinType::RightAnti | JoinType::RightMark => (false, true),
            JoinType::Full => (true, true),
        }
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        let within = self.within.as_ref().map(|within| within.windows.is_some());
        match self.kind {
            JoinType::Inner if within == Some(true) => "InnerWindowJoin",
            JoinType::Left if within == Some(true) => "LeftWindowJoin",
            JoinType::Right if within == Some(true) => "RightWindowJoin",
            JoinType::Full if within == Some(true) => "FullWindowJoin",
            JoinType::LeftSemi if within == Some(true) => "SemiWindowJoin",
            JoinType::LeftAnti if within == Some(true) => "AntiWindowJoin",
            JoinType::Inner if within.is_some() => "InnerIntervalJoin",
            JoinType::Left if within.is_some() => "LeftIntervalJoin",
            JoinType::Right if within.is_some() => "RightIntervalJoin",
            JoinType::Full if within.is_some() => "FullIntervalJoin",
            JoinType::Inner => "InnerJoin",
            JoinType::Left => "LeftJoin",
            JoinType::Right => "RightJoin",
            JoinType::Full => "FullJoin",
            JoinType::LeftSemi | JoinType::RightSemi => "SemiJoin",
            JoinType::LeftAnti if self.null_aware => "NotIn",
            JoinType::LeftAnti | JoinType::RightAnti => "AntiJoin",
            JoinType::LeftMark | JoinType::RightMark => "MarkJoin",
        }
    }
}

/// The operator that keeps the rows of each primary key.
pub fn upsert_materialize(spec: &UpsertMaterializeSpec) -> Result<Made, SpecError> {
    Ok(made(UpsertMaterialize::new(spec.clone())?, UpsertMaterialize::output))
}

/// The operator that keeps one row of each primary key.
pub fn conflict(spec: &ConflictSpec) -> Result<Made, SpecError> {
    Ok(made(Conflict::new(spec.clone())?, Conflict::output))
}

/// The operator that copies rows.
pub fn expand(spec: &ExpandSpec) -> Result<Made, SpecError> {
    Ok(made(Expand::new(spec.clone())?, Expand::output))
}

/// The operator that aggregates over the rows before each.
pub fn over(spec: &OverSpec) -> Result<Made, SpecError> {
    Ok(made(Over::new(spec.clone())?, Over::output))
}

/// The operator that gives rows their windows.
pub fn window_assign(spec: &WindowAssignSpec) -> Result<Made, SpecError> {
    Ok(made(WindowAssign::new(spec.clone())?, WindowAssign::output))
}

/// The operator that gives rows their sessions.
pub fn session_assign(spec: &SessionSpec) -> Result<Made, SpecError> {
    Ok(made(SessionAssign::new(spec.clone())?, SessionAssign::output))
}

/// The operator before the exchange.
pub fn local_aggregate(spec: &LocalAggregateSpec) -> Result<Made, SpecError> {
    Ok(made(LocalAggregate::new(spec.clone())?, LocalAggregate::output))
}

/// The operator that aggregates in windows.
pub fn window_aggregate(spec: &WindowAggregateSpec) -> Result<Made, SpecError> {
    Ok(made(WindowAggregate::new(spec.clone())?, WindowAggregate::output))
}

/// The column that an expression passes on unchanged.
pub fn passed(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<PhysicalColumn>().map(PhysicalColumn::index)
}

/// A window for people, or for identities, by how it writes lengths of time.
pub fn window_text(shape: WindowShape, time: &str, duration: impl Fn(i64) -> String) -> String {
    let WindowShape { kind, size, slide, offset, attached } = shape;
    let offset = if offset == 0 { String::new() } else { format!(", offset {}", duration(offset)) };
    let of = if attached.is_some() { "end " } else { "" };
    match kind {
        WindowKind::Session => format!("SESSION({of}{time}, {})", duration(size)),
        WindowKind::Cumulate => format!("CUMULATE({of}{time}, {}, {}{offset})", duration(slide), duration(size)),
        WindowKind::Hop if size == slide => format!("TUMBLE({of}{time}, {}{offset})", duration(size)),
        WindowKind::Hop => format!("HOP({of}{time}, {}, {}{offset})", duration(slide), duration(size)),
    }
}

/// A length of time, for people.
pub fn duration(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    format!("{sign}{}", humantime::format_duration(std::time::Duration::from_millis(millis.unsigned_abs())))
}

/// The event-time column, if time is not the clock's.
pub fn event_column(time: TimeSource) -> Option<usize> {
    match time {
        TimeSource::Event(column) => Some(column),
        TimeSource::Processing => None,
    }
}
