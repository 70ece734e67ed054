//! Functions of numbers with Flink's types and Java's arithmetic: whole numbers wrap around, decimals are exact, the others are
//! DOUBLE.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, builder::Decimal128Builder};
use arrow::compute::cast as arrow_cast;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};
use datafusion_common::{Result, ScalarValue, exec_err};

use super::decimal::{MAX_PRECISION, fits, power, rescale, typed};
use super::kernel::{Call, Kernel};

/// Whether functions of numbers take it.
pub fn is_number(data_type: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Null};
    matches!(data_type, Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(..) | Null)
}

fn is_whole(data_type: &DataType) -> bool {
    use DataType::{Int8, Int16, Int32, Int64, Null};
    matches!(data_type, Int8 | Int16 | Int32 | Int64 | Null)
}

/// All kernels of this module.
pub static KERNELS: [Kernel; 31] = [
    double("acos", &[], |call| each(call, f64::acos)),
    double("asin", &[], |call| each(call, f64::asin)),
    double("atan", &[], |call| each(call, f64::atan)),
    double("cos", &[], |call| each(call, f64::cos)),
    double("cosh", &[], |call| each(call, f64::cosh)),
    double("cot", &[], |call| each(call, |number| 1.0 / number.tan())),
    double("degrees", &[], |call| each(call, |number| number * (180.0 / std::f64::consts::PI))),
    double("exp", &[], |call| each(call, f64::exp)),
    double("ln", &[], |call| each(call, f64::ln)),
    double("log10", &[], |call| each(call, f64::log10)),
    double("log2", &[], |call| each(call, f64::log2)),
    double("radians", &[], |call| each(call, |number| number / 180.0 * std::f64::consts::PI)),
    double("sin", &[], |call| each(call, f64::sin)),
    double("sinh", &[], |call| each(call, f64::sinh)),
    // As a power, so that the root of -0.0 is 0.0 and that of -Infinity Infinity.
    double("sqrt", &[], |call| each(call, |number| if number > 0.0 { number.sqrt() } else { number.powf(0.5) })),
    double("tan", &[], |call| each(call, f64::tan)),
    double("tanh", &[], |call| each(call, f64::tanh)),
    Kernel {
        name: "log",
        aliases: &[],
        usage: "a number, or a base and a number",
        takes: |types| {
            let are_numbers = matches!(types.len(), 1 | 2) && types.iter().all(is_number);
            are_numbers.then(|| vec![DataType::Float64; types.len()])
        },
        gives: |_, _| DataType::Float64,
        run: |call| match call.arguments() {
            1 => each(call, f64::ln),
            _ => pairs(call, |base, number| number.ln() / base.ln()),
        },
    },
    doubles("power", &[], |call| pairs(call, java_power)),
    doubles("atan2", &[], |call| pairs(call, f64::atan2)),
    Kernel {
        name: "e",
        aliases: &[],
        usage: "nothing",
        takes: |types| types.is_empty().then(Vec::new),
        gives: |_, _| DataType::Float64,
        run: |_| Ok(Arc::new(PrimitiveArray::<Float64Type>::from_value(std::f64::consts::E, 1))),
    },
    unary("abs", &[], |types, _| types[0].clone(), absolute),
    unary("sign", &[], |types, _| types[0].clone(), sign),
    unary("floor", &[], |types, _| without_fraction(&types[0]), |call| to_whole(call, Direction::Down)),
    unary("ceil", &["ceiling"], |types, _| without_fraction(&types[0]), |call| to_whole(call, Direction::Up)),
    places("round", |call| to_places(call, Direction::HalfUp)),
    places("truncate", |call| to_places(call, Direction::TowardZero)),
    whole("$int_divide", |call| match call.returns {
        DataType::Int8 => divided::<Int8Type>(call, i8::wrapping_div),
        DataType::Int16 => divided::<Int16Type>(call, i16::wrapping_div),
        DataType::Int32 => divided::<Int32Type>(call, i32::wrapping_div),
        _ => divided::<Int64Type>(call, i64::wrapping_div),
    }),
    whole("$int_modulo", |call| match call.returns {
        DataType::Int8 => divided::<Int8Type>(call, i8::wrapping_rem),
        DataType::Int16 => divided::<Int16Type>(call, i16::wrapping_rem),
        DataType::Int32 => divided::<Int32Type>(call, i32::wrapping_rem),
        _ => divided::<Int64Type>(call, i64::wrapping_rem),
    }),
    unary("$negative", &[], |types, _| types[0].clone(), negative),
    Kernel {
        name: "pi",
        aliases: &[],
        usage: "nothing",
        takes: |types| types.is_empty().then(Vec::new),
        gives: |_, _| DataType::Float64,
        run: |_| Ok(Arc::new(PrimitiveArray::<Float64Type>::from_value(std::f64::consts::PI, 1))),
    },
];

type Gives = fn(&[DataType], &[Option<&ScalarValue>]) -> DataType;
type Run = fn(&Call<'_>) -> Result<ArrayRef>;

const fn double(name: &'static str, aliases: &'static [&'static str], run: Run) -> Kernel {
    Kernel {
        name,
        aliases,
        usage: "a number",
        takes: |types| (types.len() == 1 && is_number(&types[0])).then(|| vec![DataType::Float64]),
        gives: |_, _| DataType::Float64,
        run,
    }
}

const fn doubles(name: &'static str, aliases: &'static [&'static str], run: Run) -> Kernel {
    Kernel {
        name,
        aliases,
        usage: "two numbers",
        takes: |types| (types.len() == 2 && types.iter().all(is_number)).then(|| vec![DataType::Float64; 2]),
        gives: |_, _| DataType::Float64,
        run,
    }
}

const fn unary(name: &'static str, aliases: &'static [&'static str], gives: Gives, run: Run) -> Kernel {
    Kernel {
        name,
        aliases,
        usage: "a number",
        takes: |types| match types {
            [DataType::Null] => Some(vec![DataType::Int32]),
            [number] if is_number(number) => Some(vec![number.clone()]),
            _ => None,
        },
        gives,
        run,
    }
}

/// A function that rounds to so many places behind the point.
const fn places(name: &'static str, run: Run) -> Kernel {
    Kernel {
        name,
        aliases: &[],
        usage: "a number and the number of places",
        takes: |types| match types {
            [number] if is_number(number) => Some(vec![number.clone()]),
            [number, places] if is_number(number) && is_whole(places) => Some(vec![number.clone(), DataType::Int32]),
            _ => None,
        },
        gives: |types, constants| rounded_type(&types[0], types.len(), constants),
        run,
    }
}

const fn whole(name: &'static str, run: Run) -> Kernel {
    Kernel {
        name,
        aliases: &[],
        usage: "two whole numbers",
        takes: |types| (types.len() == 2 && types.iter().all(is_whole)).then(|| types.to_vec()),
        gives: |types, _| types[0].clone(),
        run,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a kernel gives a result")]
fn each(call: &Call<'_>, of: impl Fn(f64) -> f64) -> Result<ArrayRef> {
    let array = call.array(0).as_primitive::<Float64Type>();
    Ok(Arc::new(array.unary::<_, Float64Type>(of)))
}

fn pairs(call: &Call<'_>, of: impl Fn(f64, f64) -> f64) -> Result<ArrayRef> {
    Ok(Arc::new(call.of_two::<Float64Type, Float64Type>(of)?))
}

/// Java has no number for a power of 1 or -1 with an infinite exponent.
#[allow(clippy::float_cmp, reason = "1 is meant, and not what is near it")]
fn java_power(base: f64, exponent: f64) -> f64 {
    if exponent.is_infinite() && base.abs() == 1.0 || exponent.is_nan() { f64::NAN } else { base.powf(exponent) }
}

fn divided<T: ArrowPrimitiveType>(call: &Call<'_>, of: fn(T::Native, T::Native) -> T::Native) -> Result<ArrayRef>
where
    T::Native: PartialEq + Default,
{
    let zero = T::Native::default();
    let quotient = |left, right| if right == zero { exec_err!("division by zero") } else { Ok(Some(of(left, right))) };
    Ok(Arc::new(call.try_of_two::<T>(quotient)?))
}

/// The same function of every type of number.
macro_rules! of_each_type {
    ($array:expr, $whole:ident, $float:expr, $exact:expr) => {{
        let array = $array;
        let values: ArrayRef = match array.data_type() {
            DataType::Int8 => Arc::new(array.as_primitive::<Int8Type>().unary::<_, Int8Type>(|n| n.$whole())),
            DataType::Int16 => Arc::new(array.as_primitive::<Int16Type>().unary::<_, Int16Type>(|n| n.$whole())),
            DataType::Int32 => Arc::new(array.as_primitive::<Int32Type>().unary::<_, Int32Type>(|n| n.$whole())),
            DataType::Int64 => Arc::new(array.as_primitive::<Int64Type>().unary::<_, Int64Type>(|n| n.$whole())),
            DataType::Float32 => {
                Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(|n| ($float)(f64::from(n)) as f32))
            }
            DataType::Float64 => Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>($float)),
            _ => typed(array.as_primitive::<Decimal128Type>().unary::<_, Decimal128Type>($exact), array.data_type())?,
        };
        Ok(values)
    }};
}

fn absolute(call: &Call<'_>) -> Result<ArrayRef> {
    of_each_type!(call.array(0), wrapping_abs, |n: f64| n.abs(), |n: i128| n.wrapping_abs())
}

fn negative(call: &Call<'_>) -> Result<ArrayRef> {
    of_each_type!(call.array(0), wrapping_neg, |n: f64| -n, |n: i128| n.wrapping_neg())
}

fn sign(call: &Call<'_>) -> Result<ArrayRef> {
    let one = match call.data_type(0) {
        // A type without digits before the point does not hold a 1.
        DataType::Decimal128(precision, scale) if i16::from(*precision) == i16::from(*scale) => {
            let signs = call.array(0).as_primitive::<Decimal128Type>().unary_opt(|number| (number == 0).then_some(0));
            return typed(signs, call.returns);
        }
        DataType::Decimal128(_, scale) => power(i32::from(*scale)),
        _ => 1,
    };
    let of = |n: f64| if n == 0.0 || n.is_nan() { n } else { n.signum() };
    of_each_type!(call.array(0), signum, of, |n: i128| n.signum() * one)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Down,
    Up,
    HalfUp,
    TowardZero,
}

fn without_fraction(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Decimal128(precision, _) => DataType::Decimal128(*precision, 0),
        other => other.clone(),
    }
}

fn to_whole(call: &Call<'_>, direction: Direction) -> Result<ArrayRef> {
    let array = call.array(0);
    Ok(match array.data_type() {
        DataType::Float32 => {
            let numbers = array.as_primitive::<Float32Type>();
            Arc::new(numbers.unary::<_, Float32Type>(if direction == Direction::Up { f32::ceil } else { f32::floor }))
        }
        DataType::Float64 => {
            let numbers = array.as_primitive::<Float64Type>();
            Arc::new(numbers.unary::<_, Float64Type>(if direction == Direction::Up { f64::ceil } else { f64::floor }))
        }
        DataType::Decimal128(precision, scale) => {
            let (precision, unit) = (i32::from(*precision), power(i32::from(*scale)));
            let mut out = Decimal128Builder::with_capacity(array.len());
            for number in array.as_primitive::<Decimal128Type>() {
                let whole = number.map(|number| {
                    number.div_euclid(unit) + i128::from(direction == Direction::Up && number.rem_euclid(unit) != 0)
                });
                out.append_option(whole.filter(|whole| fits(*whole, precision)));
            }
            typed(out.finish(), call.returns)?
        }
        _ => Arc::clone(array),
    })
}

/// The type of a number that is rounded to a constant number of places.
fn rounded_type(data_type: &DataType, arguments: usize, constants: &[Option<&ScalarValue>]) -> DataType {
    let DataType::Decimal128(precision, scale) = data_type else { return data_type.clone() };
    let (precision, scale) = (i32::from(*precision), i32::from(*scale));
    let places = match (arguments, constants.get(1)) {
        (1, _) => 0,
        (_, Some(Some(ScalarValue::Int32(Some(places))))) => *places,
        _ => return data_type.clone(),
    };
    if places >= scale {
        return data_type.clone();
    }
    let places = places.max(0);
    DataType::Decimal128((1 + precision - scale + places).min(MAX_PRECISION) as u8, places as i8)
}

fn to_places(call: &Call<'_>, direction: Direction) -> Result<ArrayRef> {
    let given = if call.arguments() == 1 { None } else { Some(call.numbers::<Int32Type>(1)?) };
    let places = |row: usize| given.as_ref().map_or(Some(0), |given| given.get(row));
    match call.data_type(0) {
        DataType::Float32 | DataType::Float64 => {
            let doubles = arrow_cast(call.array(0), &DataType::Float64)?;
            let doubles = Call::new(&[call.column(0, doubles)], call.rows, &DataType::Float64)?;
            let numbers = doubles.numbers::<Float64Type>(0)?;
            let rounded: PrimitiveArray<Float64Type> = (0..call.rows)
                .map(|row| numbers.get(row).zip(places(row)).map(|(n, places)| round_double(n, places, direction)))
                .collect();
            Ok(arrow_cast(&rounded, call.returns)?)
        }
        DataType::Decimal128(_, from) => {
            let numbers = call.numbers::<Decimal128Type>(0)?;
            let (from, DataType::Decimal128(precision, to)) = (i32::from(*from), call.returns) else {
                return exec_err!("a DECIMAL is expected, and {} is given", call.returns);
            };
            let mut out = Decimal128Builder::with_capacity(call.rows);
            for row in 0..call.rows {
                let rounded = numbers.get(row).zip(places(row)).and_then(|(number, places)| {
                    let number = round_exact(number, from, places, direction)?;
                    rescale(number, from, i32::from(*to)).filter(|number| fits(*number, i32::from(*precision)))
                });
                out.append_option(rounded);
            }
            typed(out.finish(), call.returns)
        }
        _ => {
            let wide = arrow_cast(call.array(0), &DataType::Int64)?;
            let wide = Call::new(&[call.column(0, wide)], call.rows, &DataType::Int64)?;
            let numbers = wide.numbers::<Int64Type>(0)?;
            let rounded: PrimitiveArray<Int64Type> = (0..call.rows)
                .map(|row| {
                    let (number, places) = numbers.get(row).zip(places(row))?;
                    Some(round_exact(i128::from(number), 0, places, direction).unwrap_or(0) as i64)
                })
                .collect();
            Ok(match call.returns {
                DataType::Int8 => Arc::new(rounded.unary::<_, Int8Type>(|number| number as i8)),
                DataType::Int16 => Arc::new(rounded.unary::<_, Int16Type>(|number| number as i16)),
                DataType::Int32 => Arc::new(rounded.unary::<_, Int32Type>(|number| number as i32)),
                _ => Arc::new(rounded),
            })
        }
    }
}

/// An unscaled number with zeros from this place on.
fn round_exact(number: i128, scale: i32, places: i32, direction: Direction) -> Option<i128> {
    if places >= scale {
        return Some(number);
    }
    let dropped = scale.saturating_sub(places);
    if dropped > MAX_PRECISION {
        return Some(0);
    }
    let unit = power(dropped);
    let whole = match direction {
        Direction::TowardZero => number / unit,
        _ => rescale(number, dropped, 0)?,
    };
    whole.checked_mul(unit)
}

/// Of the digits that Java prints for the number; what is not finite stays as it is, and there is no negative zero.
fn round_double(number: f64, places: i32, direction: Direction) -> f64 {
    if !number.is_finite() {
        return number;
    }
    let text = format!("{:e}", number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.replace('.', "");
    let kept = exponent.parse::<i64>().unwrap_or(0) + 1 + i64::from(places);
    let Ok(kept) = usize::try_from(kept) else { return 0.0 };
    if kept >= digits.len() {
        return number + 0.0;
    }
    let (head, tail) = digits.split_at(kept);
    let up = direction == Direction::HalfUp && tail.as_bytes()[0] >= b'5';
    let whole = head.parse().unwrap_or(0_u64) + u64::from(up);
    let rounded: f64 = format!("{whole}e{}", -i64::from(places)).parse().unwrap_or(number);
    if number < 0.0 && whole > 0 { -rounded } else { rounded }
}
