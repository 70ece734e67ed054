//! Which of the numbers 1, 2, 3, … a condition on a row's number lets through.

use arrow::datatypes::DataType;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::{Expr, Operator};

/// A set of numbers from 1 on: ranges in their order, each with its first and its last number, none beside another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(Vec<(u64, u64)>);

impl Numbers {
    /// All of them.
    pub fn all() -> Self {
        Self(vec![(1, u64::MAX)])
    }

    fn from_to(from: u64, to: u64) -> Self {
        let from = from.max(1);
        Self(if from <= to { vec![(from, to)] } else { Vec::new() })
    }

    /// Those of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let pairs =
            self.0.iter().flat_map(|one| other.0.iter().map(move |other| (one.0.max(other.0), one.1.min(other.1))));
        Self(pairs.filter(|(from, to)| from <= to).collect())
    }

    fn or(&self, other: &Self) -> Self {
        let mut all: Vec<(u64, u64)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (from, to) in all {
            match joined.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    fn not(&self) -> Self {
        let mut next = Some(1);
        let mut all = Vec::with_capacity(self.0.len() + 1);
        for &(from, to) in &self.0 {
            if let Some(start) = next.filter(|start| *start < from) {
                all.push((start, from - 1));
            }
            next = to.checked_add(1);
        }
        all.extend(next.map(|start| (start, u64::MAX)));
        Self(all)
    }

    /// The least and the greatest; the greatest only where there is one. None where there are no numbers.
    pub fn bounds(&self) -> Option<(u64, Option<u64>)> {
        let (from, to) = (self.0.first()?.0, self.0.last()?.1);
        Some((from, (to < u64::MAX).then_some(to)))
    }

    /// They are all between the least and the greatest.
    pub fn is_range(&self) -> bool {
        self.0.len() == 1
    }

    /// What a condition says of one column and of nothing else: the column, and the numbers that it lets through.
    pub fn of(condition: &Expr) -> Option<(&Column, Self)> {
        match condition {
            Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
                let (column, left) = Self::of(&binary.left)?;
                let (other, right) = Self::of(&binary.right)?;
                let both = if binary.op == Operator::And { left.and(&right) } else { left.or(&right) };
                (column == other).then_some((column, both))
            }
            Expr::Not(inner) => Self::of(inner).map(|(column, numbers)| (column, numbers.not())),
            Expr::BinaryExpr(binary) => match (strip_cast(&binary.left), strip_cast(&binary.right)) {
                (Expr::Column(column), number) => Some((column, compared(binary.op, whole(number)?)?)),
                (number, Expr::Column(column)) => Some((column, compared(binary.op.swap()?, whole(number)?)?)),
                _ => None,
            },
            Expr::Between(between) => {
                let Expr::Column(column) = strip_cast(&between.expr) else { return None };
                let from = compared(Operator::GtEq, whole(strip_cast(&between.low))?)?;
                let to = compared(Operator::LtEq, whole(strip_cast(&between.high))?)?;
                let numbers = from.and(&to);
                Some((column, if between.negated { numbers.not() } else { numbers }))
            }
            Expr::InList(list) => {
                let Expr::Column(column) = strip_cast(&list.expr) else { return None };
                let mut numbers = Self(Vec::new());
                for item in &list.list {
                    numbers = numbers.or(&compared(Operator::Eq, whole(strip_cast(item))?)?);
                }
                Some((column, if list.negated { numbers.not() } else { numbers }))
            }
            _ => None,
        }
    }
}

fn compared(operator: Operator, number: i64) -> Option<Numbers> {
    // Below 1 there are none.
    let at = u64::try_from(number).unwrap_or(0);
    let up_to = |last: u64| Numbers::from_to(1, last);
    Some(match operator {
        Operator::Eq => Numbers::from_to(at, at),
        Operator::NotEq => Numbers::from_to(at, at).not(),
        Operator::Lt => up_to(at.saturating_sub(1)),
        Operator::LtEq => up_to(at),
        Operator::Gt => up_to(at).not(),
        Operator::GtEq => up_to(at.saturating_sub(1)).not(),
        _ => return None,
    })
}

fn whole(expr: &Expr) -> Option<i64> {
    let Expr::Literal(number, _) = expr else { return None };
    let is_whole = number.data_type().is_integer();
    match number.cast_to(&DataType::Int64).ok().filter(|_| is_whole)? {
        ScalarValue::Int64(number) => number,
        _ => None,
    }
}

fn strip_cast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => strip_cast(&cast.expr),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use datafusion_expr::{col, lit};

    use super::*;

    fn numbers(condition: &Expr) -> Vec<(u64, u64)> {
        Numbers::of(condition).unwrap().1.0
    }

    #[test]
    fn a_condition_lets_through_the_numbers_that_satisfy_it() {
        const MAX: u64 = u64::MAX;
        let n = || col("n");
        let cases: [(Expr, &[(u64, u64)]); 16] = [
            (n().eq(lit(1)), &[(1, 1)]),
            (n().lt(lit(3)), &[(1, 2)]),
            (lit(3).gt(n()), &[(1, 2)]),
            (lit(3_i64).gt_eq(n()), &[(1, 3)]),
            (n().gt(lit(2)), &[(3, MAX)]),
            (n().gt_eq(lit(2)).and(n().lt_eq(lit(4))), &[(2, 4)]),
            (n().lt_eq(lit(2)).or(n().eq(lit(3))), &[(1, 3)]),
            (n().lt_eq(lit(2)).or(n().eq(lit(5))), &[(1, 2), (5, 5)]),
            (n().not_eq(lit(2)), &[(1, 1), (3, MAX)]),
            (n().between(lit(2), lit(4)), &[(2, 4)]),
            (n().not_between(lit(2), lit(4)), &[(1, 1), (5, MAX)]),
            (n().in_list(vec![lit(4), lit(1), lit(2)], false), &[(1, 2), (4, 4)]),
            (n().in_list(vec![lit(1)], true), &[(2, MAX)]),
            (n().lt_eq(lit(0)), &[]),
            (n().gt_eq(lit(-5)), &[(1, MAX)]),
            (!n().gt(lit(3)), &[(1, 3)]),
        ];
        for (condition, expected) in cases {
            assert_eq!(numbers(&condition), expected, "{condition}");
        }
        assert_eq!(Numbers::of(&n().lt_eq(lit(2.5))), None);
        assert_eq!(Numbers::of(&n().lt_eq(col("k"))), None);
        assert_eq!(Numbers::of(&n().lt(lit(3)).and(col("k").lt(lit(3)))), None);
    }

    #[test]
    fn what_a_set_lets_through_its_complement_does_not() {
        // Each set of ranges below 12 by its bits.
        for bits in 0_u64..1 << 11 {
            let set = (1..12)
                .filter(|n| bits >> (n - 1) & 1 == 1)
                .fold(Numbers(Vec::new()), |set, n| set.or(&Numbers::from_to(n, n)));
            assert_eq!(set.not().not(), set);
            assert_eq!(set.and(&set.not()), Numbers(Vec::new()));
            assert_eq!(set.or(&set.not()), Numbers::all());
            assert_eq!(
                set.is_range(),
                set.bounds().is_some_and(|(from, to)| set == Numbers::from_to(from, to.unwrap()))
            );
        }
    }
}
