//! Comparisons of FLOAT and DOUBLE as Java's operators make them: NaN equals nothing, also not itself, and -0.0 equals 0.0. And those
//! of exact numbers that no DECIMAL holds both of.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, i256};
use datafusion_common::{Result, internal_err};
use datafusion_expr::Operator;

use super::decimal::{as_decimal, power};
use super::kernel::{Call, Kernel};

/// The comparisons, by names that no script can write.
pub static KERNELS: [Kernel; 8] = [
    kernel("$equal", |call| run(call, Operator::Eq)),
    kernel("$not_equal", |call| run(call, Operator::NotEq)),
    kernel("$less", |call| run(call, Operator::Lt)),
    kernel("$less_or_equal", |call| run(call, Operator::LtEq)),
    kernel("$greater", |call| run(call, Operator::Gt)),
    kernel("$greater_or_equal", |call| run(call, Operator::GtEq)),
    kernel("$distinct", |call| run(call, Operator::IsDistinctFrom)),
    kernel("$not_distinct", |call| run(call, Operator::IsNotDistinctFrom)),
];

/// The kernel that compares so.
pub fn kernel_of(operator: Operator) -> Option<&'static Kernel> {
    let index = match operator {
        Operator::Eq => 0,
        Operator::NotEq => 1,
        Operator::Lt => 2,
        Operator::LtEq => 3,
        Operator::Gt => 4,
        Operator::GtEq => 5,
        Operator::IsDistinctFrom => 6,
        Operator::IsNotDistinctFrom => 7,
        _ => return None,
    };
    Some(&KERNELS[index])
}

const fn kernel(name: &'static str, run: fn(&Call<'_>) -> Result<ArrayRef>) -> Kernel {
    Kernel {
        name,
        aliases: &[],
        usage: "two numbers",
        takes: |types| (types.len() == 2).then(|| types.to_vec()),
        gives: |_, _| DataType::Boolean,
        run,
    }
}

fn run(call: &Call<'_>, operator: Operator) -> Result<ArrayRef> {
    match call.data_type(0) {
        DataType::Float32 => each::<Float32Type>(call, operator, |left, right| left.partial_cmp(&right)),
        DataType::Float64 => each::<Float64Type>(call, operator, |left, right| left.partial_cmp(&right)),
        DataType::Decimal128(..) => {
            let scale = |position: usize| as_decimal(call.data_type(position)).map_or(0, |(_, scale)| scale);
            let (left, right) = (scale(0), scale(1));
            let common = left.max(right);
            let wide = move |number: i128, scale: i32| {
                i256::from_i128(number).wrapping_mul(i256::from_i128(power(common - scale)))
            };
            each::<Decimal128Type>(call, operator, move |a, b| Some(wide(a, left).cmp(&wide(b, right))))
        }
        other => internal_err!("{other} is not compared here"),
    }
}

fn each<T: ArrowPrimitiveType>(
    call: &Call<'_>,
    operator: Operator,
    compare: impl Fn(T::Native, T::Native) -> Option<Ordering>,
) -> Result<ArrayRef> {
    let is = |ordering: Ordering| move |found: Option<Ordering>| found == Some(ordering);
    let (equal, less, greater) = (is(Ordering::Equal), is(Ordering::Less), is(Ordering::Greater));
    Ok(Arc::new(match operator {
        Operator::Eq => call.holds_of_two::<T>(|a, b| equal(compare(a, b)))?,
        Operator::NotEq => call.holds_of_two::<T>(|a, b| !equal(compare(a, b)))?,
        Operator::Lt => call.holds_of_two::<T>(|a, b| less(compare(a, b)))?,
        Operator::Gt => call.holds_of_two::<T>(|a, b| greater(compare(a, b)))?,
        Operator::LtEq => call.holds_of_two::<T>(|a, b| compare(a, b).is_some_and(Ordering::is_le))?,
        Operator::GtEq => call.holds_of_two::<T>(|a, b| compare(a, b).is_some_and(Ordering::is_ge))?,
        // Two of these that are NULL are the same.
        _ => {
            let (left, right) = (call.numbers::<T>(0)?, call.numbers::<T>(1)?);
            let same = |row| match (left.get(row), right.get(row)) {
                (Some(left), Some(right)) => equal(compare(left, right)),
                (left, right) => left.is_none() && right.is_none(),
            };
            let wanted = operator == Operator::IsNotDistinctFrom;
            BooleanArray::new(BooleanBuffer::collect_bool(call.rows, |row| same(row) == wanted), None)
        }
    }))
}
