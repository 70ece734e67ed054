//! Bounds of time in what a join compares: `l.t BETWEEN r.t - INTERVAL '5' MINUTE AND r.t`. With a lower and an upper one a row of either
//! side waits so long for its partners, and no longer.

use std::collections::BTreeMap;

use datafusion_common::{Column, DFSchema};
use datafusion_expr::expr::Between;
use datafusion_expr::{Expr, Operator};

use crate::logical::columns::Time;
use crate::logical::tvf::interval_millis;

/// Within which time of each other the rows of two sides belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeBounds {
    /// The time of a row of the left, and of one of the right.
    pub columns: (usize, usize),
    /// What time it is.
    pub time: Time,
    /// The left's less the right's, in milliseconds, is so much at least.
    pub lower: i64,
    /// And so much at most.
    pub upper: i64,
    /// Which of the conditions say so, and nothing else.
    pub conditions: Vec<usize>,
}

/// A column of one side, and what is added to it.
#[derive(Clone, Copy)]
struct Term {
    is_right: bool,
    column: usize,
    offset: i64,
}

/// What is known of a pair of columns so far.
#[derive(Default)]
struct Known {
    lower: Option<i64>,
    upper: Option<i64>,
    /// The condition of each comparison that says something of it.
    conditions: Vec<usize>,
}

/// The bounds that conditions, which all must hold, set. `time_of` says of which columns they may be, of the left and (`true`) the right.
pub fn time_bounds(
    conditions_of: &[&Expr],
    left: &DFSchema,
    right: &DFSchema,
    time_of: impl Fn(bool, usize) -> Option<Time>,
) -> Option<TimeBounds> {
    let mut known: BTreeMap<(usize, usize), Known> = BTreeMap::new();
    for (place, condition) in conditions_of.iter().enumerate() {
        for (operator, one, other) in comparisons(condition) {
            let (Some(one), Some(other)) = (term(one, left, right), term(other, left, right)) else { continue };
            let (left, right, operator) = match (one.is_right, other.is_right) {
                (false, true) => (one, other, Some(operator)),
                (true, false) => (other, one, operator.swap()),
                _ => continue,
            };
            let (Some(operator), Some(difference)) = (operator, right.offset.checked_sub(left.offset)) else {
                continue;
            };
            let (lower, upper) = match operator {
                Operator::Eq => (Some(difference), Some(difference)),
                Operator::Gt => (difference.checked_add(1), None),
                Operator::GtEq => (Some(difference), None),
                Operator::Lt => (None, difference.checked_sub(1)),
                Operator::LtEq => (None, Some(difference)),
                _ => continue,
            };
            let of_pair = known.entry((left.column, right.column)).or_default();
            of_pair.lower = of_pair.lower.max(lower);
            of_pair.upper = of_pair.upper.into_iter().chain(upper).min();
            of_pair.conditions.push(place);
        }
    }
    known.into_iter().find_map(|(columns, Known { lower, upper, conditions })| {
        let time = time_of(false, columns.0).filter(|time| time_of(true, columns.1) == Some(*time))?;
        let (lower, upper) = lower.zip(upper)?;
        let whole = |place: &usize| {
            conditions.iter().filter(|of| *of == place).count() == comparisons(conditions_of[*place]).len()
        };
        let mut said: Vec<usize> = conditions.iter().copied().filter(whole).collect();
        said.dedup();
        (lower <= upper).then_some(TimeBounds { columns, time, lower, upper, conditions: said })
    })
}

/// The column of the left and the one of the right that a condition says are equal.
pub fn equal_columns(condition: &Expr, left: &DFSchema, right: &DFSchema) -> Option<(usize, usize)> {
    let [(Operator::Eq, one, other)] = comparisons(condition)[..] else { return None };
    match (term(one, left, right)?, term(other, left, right)?) {
        (Term { is_right: false, column: one, offset: 0 }, Term { is_right: true, column: other, offset: 0 })
        | (Term { is_right: true, column: other, offset: 0 }, Term { is_right: false, column: one, offset: 0 }) => {
            Some((one, other))
        }
        _ => None,
    }
}

/// What a condition compares with what.
fn comparisons(condition: &Expr) -> Vec<(Operator, &Expr, &Expr)> {
    match condition {
        Expr::BinaryExpr(binary) => vec![(binary.op, &binary.left, &binary.right)],
        Expr::Between(Between { expr, negated: false, low, high }) => {
            vec![(Operator::GtEq, expr, low), (Operator::LtEq, expr, high)]
        }
        _ => Vec::new(),
    }
}

fn term(expr: &Expr, left: &DFSchema, right: &DFSchema) -> Option<Term> {
    match expr {
        Expr::Column(column) => of_column(column, left, right),
        Expr::Alias(alias) => term(&alias.expr, left, right),
        Expr::BinaryExpr(binary) => {
            let (of, offset) = match (binary.op, binary.left.as_ref(), binary.right.as_ref()) {
                (Operator::Plus, of, Expr::Literal(interval, _)) | (Operator::Plus, Expr::Literal(interval, _), of) => {
                    (of, interval_millis(interval)?)
                }
                (Operator::Minus, of, Expr::Literal(interval, _)) => (of, interval_millis(interval)?.checked_neg()?),
                _ => return None,
            };
            let term = term(of, left, right)?;
            Some(Term { offset: term.offset.checked_add(offset)?, ..term })
        }
        _ => None,
    }
}

fn of_column(column: &Column, left: &DFSchema, right: &DFSchema) -> Option<Term> {
    match (left.maybe_index_of_column(column), right.maybe_index_of_column(column)) {
        (Some(column), None) => Some(Term { is_right: false, column, offset: 0 }),
        (None, Some(column)) => Some(Term { is_right: true, column, offset: 0 }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema, TimeUnit};
    use datafusion_common::ScalarValue;
    use datafusion_expr::{col, lit};

    use super::*;

    fn side(name: &str) -> DFSchema {
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let fields = vec![
            Field::new("k", DataType::Int64, true),
            Field::new("t", millis.clone(), true),
            Field::new("u", millis, true),
        ];
        DFSchema::try_from_qualified_schema(name, &Arc::new(Schema::new(fields))).unwrap()
    }

    fn seconds(seconds: i64) -> Expr {
        let interval = IntervalMonthDayNano::new(0, 0, seconds * 1_000_000_000);
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), None)
    }

    /// Conditions, and the bounds that they set.
    type Case = (Vec<Expr>, Option<(i64, i64)>);

    fn bounds(conditions: &[Expr]) -> Option<(i64, i64)> {
        let conditions: Vec<&Expr> = conditions.iter().collect();
        let found = time_bounds(&conditions, &side("l"), &side("r"), |_, column| (column == 1).then_some(Time::Event));
        found.map(|found| (found.lower, found.upper))
    }

    #[test]
    fn bounds_are_read_from_either_side_in_any_order() {
        let (l, r) = (|| col("l.t"), || col("r.t"));
        let cases: [Case; 11] = [
            (vec![l().between(r() - seconds(5), r() + seconds(1))], Some((-5_000, 1_000))),
            (vec![r().between(l(), l() + seconds(10))], Some((-10_000, 0))),
            (vec![l().gt_eq(r()), l().lt(r() + seconds(3))], Some((0, 2_999))),
            (vec![r().lt_eq(l() + seconds(1)), (r() + seconds(2)).gt(l())], Some((-1_000, 1_999))),
            (vec![l().eq(r())], Some((0, 0))),
            (vec![(l() - seconds(1)).eq(seconds(1) + r())], Some((2_000, 2_000))),
            (
                vec![l().gt_eq(r()), l().gt(r() - seconds(9)), l().lt_eq(r() + seconds(4)), l().lt(r() + seconds(9))],
                Some((0, 4_000)),
            ),
            (vec![l().gt_eq(r())], None),
            (vec![l().between(r() + seconds(5), r())], None),
            (vec![col("l.u").between(r(), r() + seconds(5))], None),
            (vec![col("l.k").eq(lit(1_i64)), l().gt(lit(1_i64))], None),
        ];
        for (conditions, expected) in cases {
            assert_eq!(bounds(&conditions), expected, "{conditions:?}");
        }
    }
}
