//! Arithmetic of DECIMAL with Flink's types and roundings: the precision and scale of a result follow from those of the
//! operands, the result is rounded half up to its scale, and one that has too many digits is NULL.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, i256};
use datafusion_common::{Result, exec_err};

use super::kernel::{Call, Kernel};

/// The most digits that a DECIMAL has.
pub const MAX_PRECISION: i32 = 38;

/// The digits behind the point that a result keeps before digits in front of it are given up.
const KEPT_SCALE: i32 = 6;

/// 10 to the power of the index, as far as 128 bits go.
const POWERS: [i128; 39] = {
    let mut powers = [1_i128; 39];
    let mut index = 1;
    while index < 39 {
        powers[index] = powers[index - 1] * 10;
        index += 1;
    }
    powers
};

/// 10 to this power; the caller keeps it from 0 to 38.
pub fn power(exponent: i32) -> i128 {
    POWERS[exponent.clamp(0, 38) as usize]
}

fn wide_power(exponent: i32) -> i256 {
    let low = exponent.min(38);
    i256::from_i128(power(low)).wrapping_mul(i256::from_i128(power(exponent - low)))
}

/// A DECIMAL of this precision and scale; where there are too many digits the scale gives way.
fn adjusted(precision: i32, scale: i32) -> DataType {
    if precision <= MAX_PRECISION {
        return DataType::Decimal128(precision as u8, scale as i8);
    }
    let scale = (MAX_PRECISION - (precision - scale)).max(scale.min(KEPT_SCALE));
    DataType::Decimal128(MAX_PRECISION as u8, scale as i8)
}

/// Precision and scale of a number that is exact.
pub fn as_decimal(data_type: &DataType) -> Option<(i32, i32)> {
    Some(match data_type {
        DataType::Int8 => (3, 0),
        DataType::Int16 | DataType::UInt8 => (5, 0),
        DataType::Int32 | DataType::UInt16 => (10, 0),
        DataType::Int64 | DataType::UInt32 => (19, 0),
        DataType::UInt64 => (20, 0),
        DataType::Decimal128(precision, scale) => (i32::from(*precision), i32::from(*scale)),
        _ => return None,
    })
}

/// An operation on two decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Operation {
    /// The type of its result.
    pub fn result(self, (p1, s1): (i32, i32), (p2, s2): (i32, i32)) -> DataType {
        match self {
            Self::Add | Self::Subtract => {
                let scale = s1.max(s2);
                adjusted((p1 - s1).max(p2 - s2) + scale + 1, scale)
            }
            Self::Multiply => adjusted(p1 + p2 + 1, s1 + s2),
            Self::Divide => {
                let scale = (s1 + p2 + 1).max(KEPT_SCALE);
                adjusted(p1 - s1 + s2 + scale, scale)
            }
            Self::Modulo => {
                let scale = s1.max(s2);
                adjusted((p1 - s1).min(p2 - s2) + scale, scale)
            }
        }
    }

    /// The unscaled result; none where it has too many digits.
    fn apply(self, left: i128, right: i128, scales: Scales) -> Result<Option<i128>> {
        Ok(match self {
            Self::Add | Self::Subtract => {
                let scale = scales.left.max(scales.right);
                let right = if self == Self::Add { right } else { right.wrapping_neg() };
                let narrow = scaled(left, scale - scales.left)
                    .zip(scaled(right, scale - scales.right))
                    .and_then(|(left, right)| left.checked_add(right));
                match narrow {
                    Some(sum) => rescale(sum, scale, scales.result),
                    None => {
                        let left = i256::from_i128(left).wrapping_mul(wide_power(scale - scales.left));
                        let right = i256::from_i128(right).wrapping_mul(wide_power(scale - scales.right));
                        rescaled(left.wrapping_add(right), scale, scales.result)
                    }
                }
            }
            Self::Multiply => {
                let scale = scales.left + scales.right;
                match left.checked_mul(right) {
                    Some(product) => rescale(product, scale, scales.result),
                    None => {
                        let product = i256::from_i128(left).wrapping_mul(i256::from_i128(right));
                        rescaled(product, scale, scales.result)
                    }
                }
            }
            Self::Divide | Self::Modulo if right == 0 => return exec_err!("division by zero"),
            Self::Divide => quotient(left, right, scales),
            Self::Modulo => {
                let scale = scales.left.max(scales.right);
                let left = i256::from_i128(left).wrapping_mul(wide_power(scale - scales.left));
                let right = i256::from_i128(right).wrapping_mul(wide_power(scale - scales.right));
                rescaled(left.wrapping_rem(right), scale, scales.result)
            }
        })
    }
}

/// The scales of two operands and of the result.
#[derive(Clone, Copy)]
struct Scales {
    left: i32,
    right: i32,
    result: i32,
}

fn scaled(value: i128, digits: i32) -> Option<i128> {
    if digits == 0 { Some(value) } else { value.checked_mul(power(digits)) }
}

/// Half up, away from zero; none beyond 128 bits.
pub fn rescaled(value: i256, from: i32, to: i32) -> Option<i128> {
    if to >= from {
        return value.checked_mul(wide_power(to - from))?.to_i128();
    }
    let unit = wide_power(from - to);
    let quotient = value.wrapping_div(unit);
    let rest = value.wrapping_rem(unit).wrapping_abs();
    let away = if rest.wrapping_mul(i256::from_i128(2)) >= unit { i256::ONE } else { i256::ZERO };
    (if value.is_negative() { quotient.wrapping_sub(away) } else { quotient.wrapping_add(away) }).to_i128()
}

/// The same within 128 bits.
pub fn rescale(value: i128, from: i32, to: i32) -> Option<i128> {
    if to >= from {
        return if to - from > MAX_PRECISION { (value == 0).then_some(0) } else { scaled(value, to - from) };
    }
    if from - to > MAX_PRECISION {
        return Some(0);
    }
    let unit = power(from - to);
    let (quotient, rest) = (value / unit, (value % unit).unsigned_abs());
    let away = i128::from(rest >= unit.unsigned_abs() - rest);
    Some(if value < 0 { quotient - away } else { quotient + away })
}

/// Java's quotient of 38 significant digits, rounded half up, and rounded half up once more to the scale.
fn quotient(left: i128, right: i128, scales: Scales) -> Option<i128> {
    let negative = (left < 0) != (right < 0);
    let (dividend, divisor) = (left.unsigned_abs(), right.unsigned_abs());
    // The value is dividend / divisor * 10^shift in units of the result.
    let shift = scales.result - scales.left + scales.right;
    let magnitude = narrow_quotient(dividend, divisor, shift).or_else(|| wide_quotient(dividend, divisor, shift))?;
    Some(if negative { -magnitude } else { magnitude })
}

/// Where the dividend can be scaled within 128 bits, and no digit beyond the 38th can turn the rounding.
fn narrow_quotient(dividend: u128, divisor: u128, shift: i32) -> Option<i128> {
    if !(0..=38).contains(&shift) {
        return None;
    }
    let dividend = dividend.checked_mul(power(shift).unsigned_abs())?;
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    if digits(quotient) + digits(divisor) >= MAX_PRECISION {
        return None;
    }
    i128::try_from(quotient + u128::from(rest >= divisor - rest)).ok()
}

/// Digit by digit.
fn wide_quotient(dividend: u128, divisor: u128, shift: i32) -> Option<i128> {
    if dividend == 0 {
        return Some(0);
    }
    let ten = i256::from_i128(10);
    let divisor = i256::from_parts(divisor, 0);
    let mut quotient = i256::from_parts(dividend / u128::try_from(divisor.to_i128()?).ok()?, 0);
    let mut rest = i256::from_parts(dividend, 0).wrapping_rem(divisor);
    let mut exponent = 0;
    let limit = wide_power(MAX_PRECISION - 1);
    while quotient < limit && rest != i256::ZERO {
        rest = rest.wrapping_mul(ten);
        quotient = quotient.wrapping_mul(ten).wrapping_add(rest.wrapping_div(divisor));
        rest = rest.wrapping_rem(divisor);
        exponent += 1;
    }
    if rest.wrapping_mul(i256::from_i128(2)) >= divisor {
        quotient = quotient.wrapping_add(i256::ONE);
    }
    if shift - exponent > 2 * MAX_PRECISION {
        return None;
    }
    if exponent - shift > 2 * MAX_PRECISION {
        return Some(0);
    }
    rescaled(quotient, exponent, shift)
}

/// How many decimal digits a number has.
pub fn digits(value: u128) -> i32 {
    value.checked_ilog10().map_or(1, |log| log as i32 + 1)
}

/// Whether an unscaled number fits the precision.
pub fn fits(value: i128, precision: i32) -> bool {
    precision >= 39 || value.unsigned_abs() < power(precision).unsigned_abs()
}

/// The operations, with names that no script can write.
pub static KERNELS: [Kernel; 5] = [
    kernel("$decimal_add", |types, _| result(Operation::Add, types), |call| run(Operation::Add, call)),
    kernel("$decimal_subtract", |types, _| result(Operation::Subtract, types), |call| run(Operation::Subtract, call)),
    kernel("$decimal_multiply", |types, _| result(Operation::Multiply, types), |call| run(Operation::Multiply, call)),
    kernel("$decimal_divide", |types, _| result(Operation::Divide, types), |call| run(Operation::Divide, call)),
    kernel("$decimal_modulo", |types, _| result(Operation::Modulo, types), |call| run(Operation::Modulo, call)),
];

const fn kernel(
    name: &'static str,
    gives: fn(&[DataType], &[Option<&datafusion_common::ScalarValue>]) -> DataType,
    run: fn(&Call<'_>) -> Result<ArrayRef>,
) -> Kernel {
    Kernel { name, aliases: &[], usage: "two exact numbers", takes: operands, gives, run }
}

fn operands(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [left, right] => {
            let decimal = |(precision, scale): (i32, i32)| DataType::Decimal128(precision as u8, scale as i8);
            Some(vec![decimal(as_decimal(left)?), decimal(as_decimal(right)?)])
        }
        _ => None,
    }
}

fn result(operation: Operation, types: &[DataType]) -> DataType {
    match (types.first().and_then(as_decimal), types.get(1).and_then(as_decimal)) {
        (Some(left), Some(right)) => operation.result(left, right),
        _ => DataType::Null,
    }
}

fn run(operation: Operation, call: &Call<'_>) -> Result<ArrayRef> {
    let scale_of = |data_type: &DataType| as_decimal(data_type).unwrap_or((MAX_PRECISION, 0));
    let (precision, result) = scale_of(call.returns);
    let scales = Scales { left: scale_of(call.data_type(0)).1, right: scale_of(call.data_type(1)).1, result };
    // Each in a loop of its own.
    let values = match operation {
        Operation::Add => each(call, precision, |left, right| Operation::Add.apply(left, right, scales)),
        Operation::Subtract => each(call, precision, |left, right| Operation::Subtract.apply(left, right, scales)),
        Operation::Multiply => each(call, precision, |left, right| Operation::Multiply.apply(left, right, scales)),
        Operation::Divide => each(call, precision, |left, right| Operation::Divide.apply(left, right, scales)),
        Operation::Modulo => each(call, precision, |left, right| Operation::Modulo.apply(left, right, scales)),
    };
    typed(values?, call.returns)
}

fn each(call: &Call<'_>, precision: i32, of: impl Fn(i128, i128) -> Result<Option<i128>>) -> Result<Decimal128Array> {
    let limit = power(precision).unsigned_abs();
    call.try_of_two::<Decimal128Type>(|left, right| Ok(of(left, right)?.filter(|value| value.unsigned_abs() < limit)))
}

/// Numbers as a column of this DECIMAL.
pub fn typed(values: Decimal128Array, data_type: &DataType) -> Result<ArrayRef> {
    match data_type {
        DataType::Decimal128(precision, scale) => Ok(Arc::new(values.with_precision_and_scale(*precision, *scale)?)),
        other => exec_err!("a DECIMAL is expected, and {other} is given"),
    }
}
