//! What a planner says about an operator: plain data, checked when the operator's factory is made.
//!
//! Columns are named by their index in the operator's input. Names of outputs come with the specs, types are derived
//! here, by Flink's rules, so that a planner can ask ([`AggregateFunction::result_type`]) instead of repeating them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion_physical_expr::PhysicalExpr;
use thiserror::Error;
use weir_engine::BatchFn;
use weir_engine::api::lookup::FullTable;
use weir_state::SortOrder;

/// Why an operator cannot be made from its spec. It is the plan's fault, never the data's.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SpecError {
    /// A column index beyond the input.
    #[error("column {index} does not exist: the input has {columns} columns")]
    NoSuchColumn { index: usize, columns: usize },
    /// The function does not take this type.
    #[error("{function} does not take {argument}")]
    UnsupportedArgument { function: &'static str, argument: DataType },
    /// The function needs an argument, or takes none.
    #[error("{function} {problem}")]
    BadArguments { function: &'static str, problem: &'static str },
    /// A column has the wrong type for its part.
    #[error("column `{column}` is {found}, and {role} must be {expected}")]
    WrongType { column: String, role: &'static str, found: DataType, expected: &'static str },
    /// A group or partition column, or a row to be kept, holds a type that has no state encoding.
    #[error("column `{column}` of type {found} cannot be kept in state")]
    NotStorable { column: String, found: DataType },
    /// A window whose size, slide or offset makes no sense.
    #[error("window: {0}")]
    BadWindow(String),
    /// More variants of one DISTINCT column than a mask has bits.
    #[error("{0} different FILTER clauses on one DISTINCT column: at most 64 are possible")]
    TooManyDistinctFilters(usize),
    /// What is not there yet.
    #[error("not supported: {0}")]
    Unsupported(String),
}

/// The aggregate functions whose state is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    /// `COUNT(*)`: rows.
    CountStar,
    /// `COUNT(x)`: rows in which x is not null.
    Count,
    Sum,
    Avg,
    Min,
    Max,
    /// The first value that came, nulls aside.
    FirstValue,
    /// The last value that came, nulls aside.
    LastValue,
    /// All values in the order in which they came, nulls aside, with a separator between them.
    ListAgg,
}

/// The largest precision of a decimal, and that of every sum and mean of decimals.
pub const MAX_DECIMAL_PRECISION: u8 = 38;

/// The least scale of a mean of decimals.
const AVG_DECIMAL_SCALE: i8 = 6;

impl AggregateFunction {
    /// The function's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::CountStar => "COUNT(*)",
            Self::Count => "COUNT",
            Self::Sum => "SUM",
            Self::Avg => "AVG",
            Self::Min => "MIN",
            Self::Max => "MAX",
            Self::FirstValue => "FIRST_VALUE",
            Self::LastValue => "LAST_VALUE",
            Self::ListAgg => "LISTAGG",
        }
    }

    /// The type of the result, by Flink's rules: SUM and AVG keep an integer's or float's type, decimals widen to 38
    /// digits, COUNT is a BIGINT.
    pub fn result_type(self, argument: Option<&DataType>) -> Result<DataType, SpecError> {
        let function = self.name();
        let argument = match (self, argument) {
            (Self::CountStar, None) | (Self::Count, Some(_)) => return Ok(DataType::Int64),
            (Self::CountStar, Some(_)) => {
                return Err(SpecError::BadArguments { function, problem: "takes no argument" });
            }
            (_, None) => return Err(SpecError::BadArguments { function, problem: "needs an argument" }),
            (_, Some(argument)) => argument,
        };
        match self {
            Self::Sum if argument.is_numeric() => match argument {
                DataType::Decimal128(_, scale) => Ok(DataType::Decimal128(MAX_DECIMAL_PRECISION, *scale)),
                t if is_plain_number(t) => Ok(t.clone()),
                t => Err(SpecError::UnsupportedArgument { function, argument: t.clone() }),
            },
            Self::Avg if argument.is_numeric() => match argument {
                DataType::Decimal128(_, scale) => {
                    Ok(DataType::Decimal128(MAX_DECIMAL_PRECISION, (*scale).max(AVG_DECIMAL_SCALE)))
                }
                t if is_plain_number(t) => Ok(t.clone()),
                t => Err(SpecError::UnsupportedArgument { function, argument: t.clone() }),
            },
            Self::Min | Self::Max | Self::FirstValue | Self::LastValue if is_ordered(argument) => Ok(argument.clone()),
            Self::ListAgg if is_text(argument) => Ok(argument.clone()),
            _ => Err(SpecError::UnsupportedArgument { function, argument: argument.clone() }),
        }
    }

    /// Whether the result can be NULL: a count never is.
    pub fn nullable(self) -> bool {
        !matches!(self, Self::CountStar | Self::Count)
    }
}

/// Integers that fit 64 bits signed, and floats.
pub(crate) fn is_plain_number(t: &DataType) -> bool {
    matches!(
        t,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::Float32
            | DataType::Float64
    )
}

/// Types that MIN and MAX compare.
pub(crate) fn is_ordered(t: &DataType) -> bool {
    is_plain_number(t)
        || matches!(
            t,
            DataType::Decimal128(..)
                | DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Duration(_)
        )
        || is_bytes(t)
}

fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Strings and binaries.
pub(crate) fn is_bytes(t: &DataType) -> bool {
    matches!(
        t,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

/// One aggregate of a SELECT list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateSpec {
    /// The output column's name.
    pub name: String,
    pub function: AggregateFunction,
    /// The input column aggregated; none for `COUNT(*)`.
    pub argument: Option<usize>,
    pub distinct: bool,
    /// The FILTER clause: a Boolean input column, null meaning no.
    pub filter: Option<usize>,
    /// What LISTAGG puts between values; a comma where none is given.
    pub separator: Option<String>,
}

impl AggregateSpec {
    /// `COUNT(*)`.
    pub fn count_star(name: impl Into<String>) -> Self {
        let function = AggregateFunction::CountStar;
        Self { name: name.into(), function, argument: None, distinct: false, filter: None, separator: None }
    }

    /// `function(argument)`.
    pub fn new(name: impl Into<String>, function: AggregateFunction, argument: usize) -> Self {
        Self { name: name.into(), function, argument: Some(argument), distinct: false, filter: None, separator: None }
    }

    /// The same, over the distinct values only.
    #[must_use]
    pub fn distinct(mut self) -> Self {
        self.distinct = true;
        self
    }

    /// The same, with another separator than a comma.
    #[must_use]
    pub fn separated_by(mut self, separator: impl Into<String>) -> Self {
        self.separator = Some(separator.into());
        self
    }

    /// The same, over the rows in which this column is true.
    #[must_use]
    pub fn filter(mut self, column: usize) -> Self {
        self.filter = Some(column);
        self
    }
}

/// GROUP BY and its aggregates: what the local, keyed and windowed aggregation have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregation {
    /// The rows that are aggregated. With pre-aggregation too, the schema *before* it.
    pub input: SchemaRef,
    /// The group columns; none is the global aggregate.
    pub group: Vec<usize>,
    pub aggregates: Vec<AggregateSpec>,
}

impl Aggregation {
    /// Checks indexes and types.
    pub fn check(&self) -> Result<(), SpecError> {
        for &column in &self.group {
            self.field(column)?;
        }
        for a in &self.aggregates {
            let argument = a.argument.map(|c| self.field(c)).transpose()?;
            a.function.result_type(argument.map(Field::data_type))?;
            if let Some(filter) = a.filter {
                let field = self.field(filter)?;
                if field.data_type() != &DataType::Boolean {
                    return Err(SpecError::WrongType {
                        column: field.name().clone(),
                        role: "a FILTER",
                        found: field.data_type().clone(),
                        expected: "BOOLEAN",
                    });
                }
            }
        }
        Ok(())
    }

    /// The input's field at `index`.
    pub fn field(&self, index: usize) -> Result<&Field, SpecError> {
        field(&self.input, index)
    }

    /// The output's fields: the group columns, then the aggregates.
    pub fn output_fields(&self) -> Result<Vec<Field>, SpecError> {
        let mut fields = Vec::with_capacity(self.group.len() + self.aggregates.len());
        for &column in &self.group {
            fields.push(self.field(column)?.clone());
        }
        for a in &self.aggregates {
            let argument = a.argument.map(|c| self.field(c)).transpose()?;
            let result = a.function.result_type(argument.map(Field::data_type))?;
            fields.push(Field::new(&a.name, result, a.function.nullable()));
        }
        Ok(fields)
    }
}

pub(crate) fn field(schema: &Schema, index: usize) -> Result<&Field, SpecError> {
    let columns = schema.fields().len();
    schema.fields().get(index).map(AsRef::as_ref).ok_or(SpecError::NoSuchColumn { index, columns })
}

/// What an aggregation's rows are when they reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AggregateInput {
    /// The rows of [`Aggregation::input`].
    #[default]
    Rows,
    /// The partial results of a [`LocalAggregate`](crate::LocalAggregate) over the same [`Aggregation`]. Their group
    /// columns are the first columns, in the order of [`Aggregation::group`].
    Partials,
}

/// The updating aggregation of an unbounded GROUP BY.
#[derive(Debug, Clone)]
pub struct KeyedAggregateSpec {
    pub aggregation: Aggregation,
    pub input: AggregateInput,
    /// Whether the input may update and delete; with partial results, whether that of the [`LocalAggregate`](crate::LocalAggregate)
    /// before it may.
    pub retract_input: bool,
    /// Whether −U rows are sent before +U rows. Only a consumer that knows its rows by key can do without.
    pub update_before: bool,
}

/// Windows that one row may be in. Without an aggregation a row is copied for each, and with one each of them fires for itself:
/// a day's windows every 20 seconds are fewer.
pub const MAX_WINDOWS: i64 = 5_000;

/// How windows follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WindowKind {
    /// `TUMBLE` and `HOP`: each is as long as the others, and begins a slide after the one before it.
    #[default]
    Hop,
    /// `CUMULATE`: windows begin a size after each other, and each grows by a slide until it has that size. All of these
    /// are windows.
    Cumulate,
    /// `SESSION`: a window of a key ends when no row has come for the size, and is as long as it gets. Only rows that have their
    /// windows already can be aggregated in it.
    Session,
}

/// How time is cut into windows, all in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowShape {
    pub kind: WindowKind,
    /// That of a window, of the largest one for CUMULATE; the gap for SESSION.
    pub size: i64,
    /// The distance between two windows' starts; the size itself for TUMBLE. For CUMULATE that between two windows' ends.
    pub slide: i64,
    pub offset: i64,
    /// Rows have their windows already, each one, in columns: this is that of the window's end. Such windows share no slices.
    pub attached: Option<usize>,
}

impl WindowShape {
    /// `TUMBLE(size)`.
    pub fn tumble(size: i64) -> Self {
        Self::of(WindowKind::Hop, size, size)
    }

    /// `HOP(slide, size)`.
    pub fn hop(slide: i64, size: i64) -> Self {
        Self::of(WindowKind::Hop, size, slide)
    }

    /// `CUMULATE(step, size)`.
    pub fn cumulate(step: i64, size: i64) -> Self {
        Self::of(WindowKind::Cumulate, size, step)
    }

    /// `SESSION(gap)`.
    pub fn session(gap: i64) -> Self {
        Self::of(WindowKind::Session, gap, gap)
    }

    fn of(kind: WindowKind, size: i64, slide: i64) -> Self {
        Self { kind, size, slide, offset: 0, attached: None }
    }

    /// The same windows, of rows that have theirs already: their ends stand in this column. For sessions the last group column
    /// is their start.
    #[must_use]
    pub fn attached(mut self, end: usize) -> Self {
        self.attached = Some(end);
        self
    }

    /// The same, moved by an offset.
    #[must_use]
    pub fn with_offset(mut self, offset: i64) -> Self {
        self.offset = offset;
        self
    }

    /// Checks that size and slide are positive, that no row falls between two windows, and that none is in very many.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.size <= 0 || self.slide <= 0 {
            return Err(SpecError::BadWindow(format!(
                "size {} ms and slide {} ms must be positive",
                self.size, self.slide
            )));
        }
        if self.kind == WindowKind::Cumulate && self.size % self.slide != 0 {
            return Err(SpecError::BadWindow(format!(
                "the size of {} ms must be a whole number of steps of {} ms",
                self.size, self.slide
            )));
        }
        if self.slide > self.size {
            return Err(SpecError::BadWindow(format!(
                "a slide of {} ms is longer than the size of {} ms, so rows would fall between windows",
                self.slide, self.size
            )));
        }
        let windows = self.size / self.slide;
        if windows > MAX_WINDOWS {
            return Err(SpecError::BadWindow(format!(
                "each row would be in {windows} windows, one every {} ms, and {MAX_WINDOWS} are the most",
                self.slide
            )));
        }
        Ok(())
    }
}

/// What a window measures time with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// A timestamp column of the input.
    Event(usize),
    /// The clock when a row arrives.
    Processing,
}

/// An aggregation over windows: emits once a window, when the window's time has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowAggregateSpec {
    pub aggregation: Aggregation,
    pub input: AggregateInput,
    pub window: WindowShape,
    /// In terms of [`Aggregation::input`], also when the rows come as partials.
    pub time: TimeSource,
}

/// Pre-aggregation before an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAggregateSpec {
    pub aggregation: Aggregation,
    /// The window, for a [`WindowAggregateSpec`]; none for the unbounded aggregation.
    pub window: Option<(WindowShape, TimeSource)>,
    /// Whether the input may update and delete; only without a window.
    pub retract_input: bool,
}

/// How rows of a partition are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankFunction {
    /// Each has a number of its own; of equal ones the first that came has the least.
    RowNumber,
    /// Equal ones have one number, and as many are left out behind them.
    Rank,
    /// Equal ones have one number, and none is left out.
    DenseRank,
}

impl RankFunction {
    /// The function's name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RowNumber => "ROW_NUMBER",
            Self::Rank => "RANK",
            Self::DenseRank => "DENSE_RANK",
        }
    }
}

/// The first rows of each partition by an order: `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopNSpec {
    pub input: SchemaRef,
    /// The PARTITION BY columns; none is one partition.
    pub partition: Vec<usize>,
    /// The ORDER BY columns.
    pub order: Vec<(usize, SortOrder)>,
    pub function: RankFunction,
    /// The least number that is kept, from 1 on.
    pub from: u64,
    /// The greatest number that is kept.
    pub to: u64,
    /// The name of a last output column with the number; without one, rows that only change their number change nothing.
    pub rank: Option<String>,
    /// Whether the input may update and delete.
    pub retract_input: bool,
    /// Whether −U rows are sent before +U rows.
    pub update_before: bool,
}

impl TopNSpec {
    /// Each number that is told apart has one row, and another takes its place; else rows come and go.
    pub fn replaces(&self) -> bool {
        self.function == RankFunction::RowNumber && (self.rank.is_some() || self.from == self.to)
    }
}

/// Rows of several upsert keys that have one primary key, of which the last stands: `ON CONFLICT DO DEDUPLICATE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertMaterializeSpec {
    /// Input and output are the same.
    pub input: SchemaRef,
    /// The primary key's columns.
    pub key: Vec<usize>,
}

/// What is done where two rows have one primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// The first stays.
    Nothing,
    /// The job fails.
    Error,
}

/// Rows of several upsert keys of which no two are to have one primary key: `ON CONFLICT DO NOTHING`, `DO ERROR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictSpec {
    /// Input and output are the same.
    pub input: SchemaRef,
    /// The primary key's columns.
    pub key: Vec<usize>,
    pub on_conflict: OnConflict,
}

/// Which rows before a row an aggregate `OVER` sees, itself among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OverFrame {
    /// So many rows before it; all if there is no number.
    Rows(Option<u64>),
    /// Those of the last so many milliseconds, and all of its own time; all if there is no number.
    Range(Option<i64>),
}

/// What is computed over a frame.
#[derive(Debug, Clone)]
pub enum OverCall {
    Aggregate(AggregateSpec),
    /// A column's value so many rows before, by RANGE so many before the last row of its time; not beside a RANGE with a bound.
    Lag {
        name: String,
        column: usize,
        offset: u64,
        /// One value of the column's type, where there is no such row; else null.
        default: Option<ArrayRef>,
    },
}

impl PartialEq for OverCall {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Aggregate(one), Self::Aggregate(other)) => one == other,
            (
                Self::Lag { name, column, offset, default },
                Self::Lag { name: other_name, column: other_column, offset: other_offset, default: other_default },
            ) => {
                let same = match (default, other_default) {
                    (Some(one), Some(other)) => one.to_data() == other.to_data(),
                    (None, None) => true,
                    _ => false,
                };
                (name, column, offset) == (other_name, other_column, other_offset) && same
            }
            _ => false,
        }
    }
}

/// Calls with the same `OVER (PARTITION BY … ORDER BY time frame)`.
#[derive(Debug, Clone, PartialEq)]
pub struct OverSpec {
    pub input: SchemaRef,
    /// The PARTITION BY columns; none is one partition.
    pub partition: Vec<usize>,
    /// What rows are ordered by.
    pub time: TimeSource,
    pub frame: OverFrame,
    pub calls: Vec<OverCall>,
}

/// Each row once for every set of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandSpec {
    pub input: SchemaRef,
    /// So many of the input's first columns are passed on as they are.
    pub keep: usize,
    /// Columns that are null where a set does not have them, and what they are called.
    pub columns: Vec<(usize, String)>,
    /// What the column with the set's number is called.
    pub number: String,
    /// For each set its number, and which of the columns it has.
    pub sets: Vec<(i64, Vec<bool>)>,
}

/// The first rows of each partition of windows that the rows have already: `ROW_NUMBER() OVER (PARTITION BY window_start, window_end,
/// … ORDER BY …) <= n`, put out when the window closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowTopNSpec {
    pub input: SchemaRef,
    /// The PARTITION BY columns, among them the window's end.
    pub partition: Vec<usize>,
    /// The column of the window's end.
    pub end: usize,
    /// The ORDER BY columns.
    pub order: Vec<(usize, SortOrder)>,
    /// Of equal rows the one that came last stands before the others, as deduplication has it that keeps the last row.
    pub last_first: bool,
    /// The least number that is kept, from 1 on.
    pub from: u64,
    /// The greatest number that is kept.
    pub to: u64,
    /// The name of a last output column with the number.
    pub rank: Option<String>,
}

/// The window columns of a window table function without aggregation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowAssignSpec {
    pub input: SchemaRef,
    pub window: WindowShape,
    pub time: TimeSource,
}

/// Which row of a key `ROW_NUMBER() … = 1` keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `ORDER BY t ASC`: the earliest; of equals the one that came first.
    First,
    /// `ORDER BY t DESC`: the latest; of equals the one that came last.
    Last,
}

/// `ROW_NUMBER() OVER (PARTITION BY keys ORDER BY t) = 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeduplicateSpec {
    /// Input and output are the same.
    pub input: SchemaRef,
    /// The partition columns.
    pub keys: Vec<usize>,
    pub order: TimeSource,
    pub keep: Keep,
    /// Whether −U rows are sent before +U rows.
    pub update_before: bool,
}

/// How the sides of a join meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinKind {
    Inner,
    /// Rows of the left are put out beside nulls while they have no partner.
    Left,
    /// The same of the right.
    Right,
    /// The same of both.
    Full,
    /// Rows of the left that have a partner: `IN`, `EXISTS`.
    Semi,
    /// Rows of the left that have none: `NOT EXISTS`.
    Anti,
}

impl JoinKind {
    /// Only the left side's columns are put out.
    pub const fn puts_out_left_only(self) -> bool {
        matches!(self, Self::Semi | Self::Anti)
    }

    /// Rows of the left, and of the right, are put out without a partner, beside nulls.
    pub const fn preserves(self) -> [bool; 2] {
        [matches!(self, Self::Left | Self::Full), matches!(self, Self::Right | Self::Full)]
    }

    /// What a row of the left, and of the right, has matched has to be known.
    pub const fn counts_matches(self) -> [bool; 2] {
        let [left, right] = self.preserves();
        [left || self.puts_out_left_only(), right]
    }
}

/// One side of a join.
#[derive(Debug, Clone)]
pub struct JoinInput {
    pub schema: SchemaRef,
    /// The columns that are compared with those of the other side, one by one; of the same types there.
    pub keys: Vec<usize>,
    /// So many of its first columns are put out. Those behind are only compared.
    pub outputs: usize,
    /// Columns that no two rows of the side have alike, if there are such.
    pub unique: Option<Vec<usize>>,
    /// Rows are updated and deleted. Of each update the row before comes too.
    pub retracts: bool,
}

/// `a JOIN b ON a.x = b.y AND …` without bounds of time.
#[derive(Debug, Clone)]
pub struct RegularJoinSpec {
    /// The first input.
    pub left: JoinInput,
    /// The second input.
    pub right: JoinInput,
    pub kind: JoinKind,
    /// For each pair of keys: `IS NOT DISTINCT FROM` and not `=`.
    pub nulls_match: Vec<bool>,
    /// What must hold beside, compiled against the columns of the left and then of the right.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
}

/// A column that says when a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeColumn {
    /// A `TIMESTAMP(3)`.
    pub column: usize,
    /// What is added to it, in milliseconds: the last moment of a window is before its end.
    pub offset: i64,
}

/// `a JOIN b ON a.x = b.y AND a.t BETWEEN b.t - … AND b.t + …`.
#[derive(Debug, Clone)]
pub struct IntervalJoinSpec {
    /// The first input. Its rows are only added.
    pub left: JoinInput,
    /// The second input. Its rows are only added.
    pub right: JoinInput,
    /// The event time of the left and of the right; none: time is the clock's.
    pub times: Option<[TimeColumn; 2]>,
    pub kind: JoinKind,
    /// The time of the left less that of the right, in milliseconds, is so much at least.
    pub lower: i64,
    /// And so much at most.
    pub upper: i64,
    /// Rows that are not after the watermark are dropped, and not joined with what is still there.
    pub drops_late: bool,
    /// What must hold beside, compiled against the columns of the left and then of the right.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
}

/// `a JOIN b FOR SYSTEM_TIME AS OF a.proctime ON a.x = b.y`.
#[derive(Clone)]
pub struct LookupJoinSpec {
    /// The rows. They are only added.
    pub left: JoinInput,
    /// The table.
    pub right: JoinInput,
    /// Inner or left.
    pub kind: JoinKind,
    /// How the table is read.
    pub table: FullTable,
    /// Makes the columns of `right` of what is read, and leaves rows out that are not joined.
    pub prepare: Arc<dyn BatchFn>,
    /// What must hold beside, compiled against the columns of the left and then of the right.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
}

/// `l.x NOT IN (SELECT y FROM r WHERE r.k = l.k AND …)`, where one of x and y can be null; else it is an anti join.
#[derive(Debug, Clone)]
pub struct NotInSpec {
    /// The first input.
    pub left: SchemaRef,
    /// So many of its first columns are put out. Those behind are only compared.
    pub outputs: usize,
    /// The second input.
    pub right: SchemaRef,
    /// The columns that are compared with `=` beside; none: one subtask has to get all rows.
    pub left_keys: Vec<usize>,
    /// Of the same types.
    pub right_keys: Vec<usize>,
    /// x.
    pub left_value: usize,
    /// y, of the same type.
    pub right_value: usize,
}

/// `SESSION(TABLE t PARTITION BY …, DESCRIPTOR(time), gap)`: each row with the window of its session, when that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    pub input: SchemaRef,
    /// The PARTITION BY columns; none is one partition.
    pub partition: Vec<usize>,
    pub time: TimeSource,
    /// In milliseconds.
    pub gap: i64,
}

/// `window_start`, `window_end`, `window_time`, as Flink types them: the first two are plain timestamps, the third has
/// the type of the time attribute.
pub fn window_fields(input: &Schema, time: TimeSource) -> Result<Vec<Field>, SpecError> {
    let plain = DataType::Timestamp(TimeUnit::Millisecond, None);
    let zone = match time {
        TimeSource::Processing => None,
        TimeSource::Event(column) => {
            let field = field(input, column)?;
            match field.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                found => {
                    return Err(SpecError::WrongType {
                        column: field.name().clone(),
                        role: "a time attribute",
                        found: found.clone(),
                        expected: "a TIMESTAMP",
                    });
                }
            }
        }
    };
    Ok(vec![
        Field::new("window_start", plain.clone(), false),
        Field::new("window_end", plain, false),
        Field::new("window_time", DataType::Timestamp(TimeUnit::Millisecond, zone), false),
    ])
}

/// A schema of these fields.
pub(crate) fn schema_of(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(Fields::from(fields)))
}
