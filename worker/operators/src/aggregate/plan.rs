//! From SQL aggregates to the accumulators that are really kept.
//!
//! Several aggregates often need the same running value: `AVG(x)` and `SUM(x)` the same sum, `AVG(x)` and `COUNT(*)` the
//! same count where x is never null. The plan names each once. DISTINCT aggregates over one column share one map from
//! (group, value) to a mask with a bit for each FILTER, whatever functions ask for it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::spec::{
    AggregateFunction, Aggregation, LocalAggregateSpec, MAX_DECIMAL_PRECISION, SpecError, TimeSource, is_bytes,
    schema_of,
};

/// How an accumulator takes in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    Count,
    Sum,
    Min,
    Max,
    First,
    Last,
    /// Texts, one behind the other.
    List,
}

/// What an accumulator is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 64 bits, signed: counts, integers, times, Booleans.
    Int,
    /// 64 bits, IEEE.
    Float,
    /// 128 bits, signed, with the argument's scale.
    Decimal,
    /// Strings and binaries.
    Bytes,
}

impl Kind {
    fn of(t: &DataType) -> Self {
        match t {
            DataType::Float32 | DataType::Float64 => Self::Float,
            DataType::Decimal128(..) => Self::Decimal,
            t if is_bytes(t) => Self::Bytes,
            _ => Self::Int,
        }
    }
}

/// Which rows an accumulator sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// All in which the filter column is true.
    Rows { filter: Option<usize> },
    /// Those that set bit `variant` in a DISTINCT map for the first time; where rows are taken back, those that are the first of
    /// their value, and the last to go.
    Distinct { map: usize, variant: usize },
    /// None: it is what an ordered map has at its ends, or all of it.
    Ordered { map: usize },
}

/// What is kept of the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Whether they are there; where rows are taken back, how often.
    Seen,
    /// How often they are there, in their order: for minima and maxima of rows that are taken back.
    Sorted,
    /// Each of them, in the order in which they came: for first and last values and lists of rows that are taken back.
    Arrivals,
}

/// One running value of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accumulator {
    pub reduce: Reduce,
    /// None counts rows.
    pub column: Option<usize>,
    pub feed: Feed,
    pub kind: Kind,
    /// The argument's scale, of a decimal.
    pub scale: Option<i8>,
    /// The name of what it reads, for errors.
    pub label: String,
    /// What stands between the texts of a list.
    pub separator: String,
}

/// The values of one column that a group has seen; where rows are taken back, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistinctMap {
    pub column: usize,
    /// Bit i of the mask, or count i: the value was seen in a row in which this filter was true.
    pub variants: Vec<Option<usize>>,
    pub keeps: Keeps,
}

impl DistinctMap {
    /// Bytes of a row of counts in state.
    pub fn count_bytes(&self) -> usize {
        self.variants.len() * 8
    }

    /// Bytes of a mask in state.
    pub fn mask_bytes(&self) -> usize {
        self.variants.len().div_ceil(8)
    }
}

/// How an output column comes from accumulators, named by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The accumulator itself.
    Value(usize),
    /// The quotient of two, null where the count is zero.
    Mean { sum: usize, count: usize },
}

/// An output column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub finish: Finish,
    pub output: DataType,
}

/// All that one aggregation keeps and gives.
#[derive(Debug, Clone)]
pub struct Plan {
    pub input: SchemaRef,
    pub group: Vec<usize>,
    pub accumulators: Vec<Accumulator>,
    pub maps: Vec<DistinctMap>,
    pub outputs: Vec<Finished>,
    /// Rows may be taken back.
    pub retract: bool,
    /// Then: the accumulator that counts a group's rows, which says when it is gone.
    pub rows: Option<usize>,
    /// Then: each sum with the count of what it is the sum of, which says when it is null again.
    pub sums: Vec<(usize, usize)>,
}

/// What stands between the values of a LISTAGG that does not say it.
const SEPARATOR: &str = ",";

/// Bits of a DISTINCT mask.
const MAX_VARIANTS: usize = 64;

impl Plan {
    /// Checks the aggregation and plans it; `retract` says whether its rows may be taken back.
    pub fn new(aggregation: Aggregation, retract: bool) -> Result<Self, SpecError> {
        aggregation.check()?;
        let mut plan = Self {
            input: Arc::clone(&aggregation.input),
            group: Vec::new(),
            accumulators: Vec::new(),
            maps: Vec::new(),
            outputs: Vec::new(),
            retract,
            rows: None,
            sums: Vec::new(),
        };
        for a in &aggregation.aggregates {
            let argument = a.argument.map(|c| aggregation.field(c)).transpose()?;
            let output = a.function.result_type(argument.map(Field::data_type))?;
            // A minimum is that of the distinct values too, without a map.
            let distinct = a.distinct && !is_extreme(a.function);
            if distinct && retract && is_by_arrival(a.function) {
                let what = format!("{}(DISTINCT …) over rows that update or delete", a.function.name());
                return Err(SpecError::Unsupported(what));
            }
            let feed = match a.argument {
                Some(column) if distinct => plan.distinct(column, a.filter)?,
                Some(column) if retract && is_extreme(a.function) => plan.ordered(column, a.filter, Keeps::Sorted),
                Some(column) if retract && is_by_arrival(a.function) => plan.ordered(column, a.filter, Keeps::Arrivals),
                _ => Feed::Rows { filter: a.filter },
            };
            let finish = match a.function {
                AggregateFunction::CountStar => Finish::Value(plan.add(Reduce::Count, None, feed)),
                AggregateFunction::Count => Finish::Value(plan.add(Reduce::Count, a.argument, feed)),
                AggregateFunction::Sum => Finish::Value(plan.sum(a.argument, feed)),
                AggregateFunction::Min => Finish::Value(plan.add(Reduce::Min, a.argument, feed)),
                AggregateFunction::Max => Finish::Value(plan.add(Reduce::Max, a.argument, feed)),
                AggregateFunction::FirstValue => Finish::Value(plan.add(Reduce::First, a.argument, feed)),
                AggregateFunction::LastValue => Finish::Value(plan.add(Reduce::Last, a.argument, feed)),
                AggregateFunction::ListAgg => {
                    let separator = a.separator.as_deref().unwrap_or(SEPARATOR);
                    Finish::Value(plan.list_or_other(Reduce::List, a.argument, feed, separator))
                }
                AggregateFunction::Avg => {
                    Finish::Mean { sum: plan.sum(a.argument, feed), count: plan.add(Reduce::Count, a.argument, feed) }
                }
            };
            plan.outputs.push(Finished { finish, output });
        }
        if retract {
            plan.rows = Some(plan.add(Reduce::Count, None, Feed::Rows { filter: None }));
        }
        plan.group = aggregation.group;
        if let Some(map) = plan.maps.iter().find(|m| m.variants.len() > MAX_VARIANTS) {
            return Err(SpecError::TooManyDistinctFilters(map.variants.len()));
        }
        Ok(plan)
    }

    fn distinct(&mut self, column: usize, filter: Option<usize>) -> Result<Feed, SpecError> {
        let field = self.input.field(column);
        if !is_key(field.data_type()) {
            return Err(SpecError::NotStorable { column: field.name().clone(), found: field.data_type().clone() });
        }
        let map = match self.maps.iter().position(|m| m.column == column && m.keeps == Keeps::Seen) {
            Some(map) => map,
            None => {
                self.maps.push(DistinctMap { column, variants: Vec::new(), keeps: Keeps::Seen });
                self.maps.len() - 1
            }
        };
        let variants = &mut self.maps[map].variants;
        let variant = match variants.iter().position(|f| *f == filter) {
            Some(variant) => variant,
            None => {
                variants.push(filter);
                variants.len() - 1
            }
        };
        Ok(Feed::Distinct { map, variant })
    }

    /// A sum. Of rows that are taken back it needs to know when none is left.
    fn sum(&mut self, column: Option<usize>, feed: Feed) -> usize {
        let sum = self.add(Reduce::Sum, column, feed);
        if self.retract {
            let count = self.add(Reduce::Count, column, feed);
            if !self.sums.contains(&(sum, count)) {
                self.sums.push((sum, count));
            }
        }
        sum
    }

    /// One ordered map a column and filter, so that what is asked for is at its ends.
    fn ordered(&mut self, column: usize, filter: Option<usize>, keeps: Keeps) -> Feed {
        let wanted = DistinctMap { column, variants: vec![filter], keeps };
        let map = self.maps.iter().position(|m| *m == wanted).unwrap_or_else(|| {
            self.maps.push(wanted);
            self.maps.len() - 1
        });
        Feed::Ordered { map }
    }

    fn add(&mut self, reduce: Reduce, column: Option<usize>, feed: Feed) -> usize {
        self.list_or_other(reduce, column, feed, "")
    }

    /// Only a list has a separator.
    fn list_or_other(&mut self, reduce: Reduce, column: Option<usize>, feed: Feed, separator: &str) -> usize {
        let field = column.map(|c| self.input.field(c));
        // A count only asks whether the value is there, and the values in a DISTINCT map always are.
        let counts_rows = reduce == Reduce::Count
            && (field.is_none_or(|f| !f.is_nullable()) || matches!(feed, Feed::Distinct { .. }));
        let kind = match (reduce, field) {
            (Reduce::Count, _) | (_, None) => Kind::Int,
            (_, Some(field)) => Kind::of(field.data_type()),
        };
        let scale = field.and_then(|f| if let DataType::Decimal128(_, s) = f.data_type() { Some(*s) } else { None });
        let label = field.map_or_else(|| "*".to_owned(), |f| f.name().clone());
        let column = if counts_rows { None } else { column };
        let wanted = (reduce, column, feed, separator);
        let found = self.accumulators.iter().position(|a| (a.reduce, a.column, a.feed, a.separator.as_str()) == wanted);
        found.unwrap_or_else(|| {
            let separator = separator.to_owned();
            self.accumulators.push(Accumulator { reduce, column, feed, kind, scale, label, separator });
            self.accumulators.len() - 1
        })
    }

    /// The type in which an accumulator's value is passed on as a partial result.
    fn partial_type(&self, a: &Accumulator) -> DataType {
        match (a.kind, a.column.map(|c| self.input.field(c).data_type())) {
            (Kind::Float, _) => DataType::Float64,
            (Kind::Decimal, Some(DataType::Decimal128(_, scale))) => {
                DataType::Decimal128(MAX_DECIMAL_PRECISION, *scale)
            }
            (Kind::Bytes, Some(t)) => t.clone(),
            _ => DataType::Int64,
        }
    }

    /// Where the parts of a partial result stand.
    pub fn partials(&self, slices: bool) -> PartialColumns {
        let mut next = self.group.len();
        let mut take = || {
            next += 1;
            next - 1
        };
        let slice = slices.then(&mut take);
        let rows = slices.then(&mut take);
        // What DISTINCT feeds is counted behind the exchange, where all of a group's values meet.
        let accumulators =
            self.accumulators.iter().map(|a| matches!(a.feed, Feed::Rows { .. }).then(&mut take)).collect();
        let mut maps = Vec::with_capacity(self.maps.len());
        for map in &self.maps {
            let (value, seen) = (take(), take());
            maps.push((value, seen));
            if self.retract {
                // The counts of the other filters follow.
                for _ in 1..map.variants.len() {
                    take();
                }
            }
        }
        PartialColumns { slice, rows, accumulators, maps }
    }

    /// The schema of partial results: the group columns; the slice's end and its number of rows, if slices are told
    /// apart; the accumulators; and for each DISTINCT map a value and its mask, or its counts where rows are taken back. Sums and
    /// counts may then be negative.
    ///
    /// A group's accumulators stand in its first row, and each of its rows brings one value of each map; what a row
    /// does not bring is zero, null, or an empty mask.
    pub fn partial_schema(&self, slices: bool) -> SchemaRef {
        let mut fields: Vec<Field> = self.group.iter().map(|&c| self.input.field(c).clone()).collect();
        if slices {
            fields.push(Field::new("$slice", DataType::Int64, false));
            fields.push(Field::new("$rows", DataType::Int64, false));
        }
        for (i, a) in self.accumulators.iter().enumerate() {
            if matches!(a.feed, Feed::Rows { .. }) {
                let nullable = a.reduce != Reduce::Count;
                fields.push(Field::new(format!("${i}"), self.partial_type(a), nullable));
            }
        }
        for (i, map) in self.maps.iter().enumerate() {
            let value = self.input.field(map.column).data_type().clone();
            fields.push(Field::new(format!("$value{i}"), value, true));
            if self.retract {
                let count = |variant| Field::new(format!("$count{i}_{variant}"), DataType::Int64, false);
                fields.extend((0..map.variants.len()).map(count));
            } else {
                fields.push(Field::new(format!("$mask{i}"), DataType::UInt64, false));
            }
        }
        schema_of(fields)
    }
}

/// Column indexes within [`Plan::partial_schema`]; the group columns are the first ones.
#[derive(Debug, Clone)]
pub struct PartialColumns {
    pub slice: Option<usize>,
    /// How many rows a partial result is made of, to count late ones.
    pub rows: Option<usize>,
    /// For each accumulator; none for those that DISTINCT feeds.
    pub accumulators: Vec<Option<usize>>,
    /// For each map its value and its mask, or the first of its counts.
    pub maps: Vec<(usize, usize)>,
}

/// Whether partial results of this spec carry the slice that they belong to: processing time is read where the windows
/// are, so there it is not known before.
pub fn carries_slices(spec: &LocalAggregateSpec) -> bool {
    matches!(spec.window, Some((_, TimeSource::Event(_))))
}

/// The least or the greatest.
fn is_extreme(function: AggregateFunction) -> bool {
    matches!(function, AggregateFunction::Min | AggregateFunction::Max)
}

/// What comes first or last, or all in its order.
fn is_by_arrival(function: AggregateFunction) -> bool {
    use AggregateFunction::{FirstValue, LastValue, ListAgg};
    matches!(function, FirstValue | LastValue | ListAgg)
}

/// Types that keys are made of.
pub fn is_key(t: &DataType) -> bool {
    !t.is_nested() && !matches!(t, DataType::Union(..) | DataType::Dictionary(..) | DataType::RunEndEncoded(..))
}
