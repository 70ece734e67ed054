//! CAST and `TRY_CAST` with Flink's meaning. What Flink refuses is refused when the script is planned; what it cannot read fails at
//! the row, or is NULL under `TRY_CAST`; a number that does not fit a DECIMAL is NULL; whole numbers keep their low bits, as in Java.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, PrimitiveArray, StringBuilder,
    builder::Decimal128Builder, new_null_array,
};
use arrow::compute::cast as arrow_cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Time32MillisecondType, TimeUnit,
};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::bounded::{MAX_CONSTANT, all_of_one_length};
use super::decimal::{self, fits, power, rescale};
use super::floats::{parse, write_double, write_float};
use super::nested::{convert_nested, is_convertible};
use super::pattern::{DAY, days_in, days_of};
use super::time::to_text;
use crate::parse::types::flink_name;

/// The key of a type's metadata under which a CAST finds how long a text or how fine a time is to be.
const LENGTH: &str = "weir.cast";

/// How long a text, how many bytes or how fine a time of day a CAST makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Nothing is cut.
    Any,
    /// `VARCHAR(n)`, `VARBINARY(n)`: cut.
    AtMost(usize),
    /// `CHAR(n)`, `BINARY(n)`: cut, or filled with blanks or zeros.
    Exactly(usize),
}

impl Shape {
    /// A field of this type that says so to a CAST.
    pub fn field(self, data_type: DataType) -> Field {
        let text = match self {
            Self::Any => return Field::new("", data_type, true),
            Self::AtMost(length) => format!("{length}"),
            Self::Exactly(length) => format!("={length}"),
        };
        Field::new("", data_type, true).with_metadata(HashMap::from([(LENGTH.to_string(), text)]))
    }

    fn of(field: &Field) -> Self {
        let Some(text) = field.metadata().get(LENGTH) else { return Self::Any };
        match text.strip_prefix('=') {
            Some(length) => length.parse().map_or(Self::Any, Self::Exactly),
            None => text.parse().map_or(Self::Any, Self::AtMost),
        }
    }
}

/// One kind of CAST.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Cast {
    name: String,
    to: DataType,
    shape: Shape,
    /// `TRY_CAST`: what cannot be read is NULL.
    lenient: bool,
    signature: Signature,
}

/// How a CAST is made.
pub enum Way {
    /// Nothing is to be done.
    Same,
    /// By the planner's own.
    Plain,
    /// By this function.
    By(ScalarUDF),
}

/// What becomes of a CAST from the type `from` to that of the field.
pub fn way(from: &DataType, field: &Field, lenient: bool) -> Result<Way> {
    let to = field.data_type();
    let shape = Shape::of(field);
    if (from.is_nested() || to.is_nested()) && *from != DataType::Null {
        if from == to {
            return Ok(Way::Same);
        }
        if !is_convertible(from, to, is_allowed) {
            return plan_err!("CAST from {} to {} is not supported", flink_name(from), flink_name(to));
        }
        if lenient && to.is_nested() {
            return plan_err!("TRY_CAST from {} to {} is not supported", flink_name(from), flink_name(to));
        }
        return Ok(Way::By(function(format!("cast to {}", flink_name(to)), to, shape, lenient)));
    }
    if !is_known(from) || !is_known(to) {
        return Ok(Way::Plain);
    }
    if from == to && shape == Shape::Any {
        return Ok(Way::Same);
    }
    if !is_allowed(from, to) {
        return plan_err!("CAST from {} to {} is not supported", flink_name(from), flink_name(to));
    }
    if is_wider(from, to) {
        return Ok(Way::Plain);
    }
    if let Shape::Exactly(length) = shape
        && length as u64 > MAX_CONSTANT
    {
        return plan_err!("CAST to {length} characters or bytes, and {MAX_CONSTANT} are the most that it fills");
    }
    let kind = if lenient { "try_cast" } else { "cast" };
    let length = match shape {
        Shape::Any => String::new(),
        Shape::AtMost(length) => format!(" of at most {length}"),
        Shape::Exactly(length) => format!(" of {length}"),
    };
    // No script can name it: it is not among the functions. Times have had their own name since before the others.
    let name = match (from, to, shape) {
        (DataType::Date32 | DataType::Time32(_) | DataType::Timestamp(..), DataType::Utf8, Shape::Any) if !lenient => {
            "$time_to_string".to_string()
        }
        _ => format!("{kind} to {}{length}", flink_name(to)),
    };
    Ok(Way::By(function(name, to, shape, lenient)))
}

fn function(name: String, to: &DataType, shape: Shape, lenient: bool) -> ScalarUDF {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(Cast { name, to: to.clone(), shape, lenient, signature })
}

/// What a division leaves over, in the type of its divisor. Expressions are printed without it.
pub fn rest(to: &DataType) -> ScalarUDF {
    function(format!("rest to {}", flink_name(to)), to, Shape::Any, false)
}

/// Whole numbers into wider ones: the planner knows that these keep their order.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    use DataType::{Int8, Int16, Int32, Int64};
    matches!((from, to), (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64))
}

fn is_known(data_type: &DataType) -> bool {
    use DataType::{Binary, Boolean, Date32, Time32, Timestamp, Utf8};
    is_number(data_type)
        || matches!(data_type, Boolean | Utf8 | Binary | Date32 | Time32(TimeUnit::Millisecond) | Timestamp(..))
}

fn is_number(data_type: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
    matches!(data_type, Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(..))
}

fn is_allowed(from: &DataType, to: &DataType) -> bool {
    use DataType::{Boolean, Date32, Time32, Timestamp, Utf8};
    from == to
        || *to == Utf8
        || match from {
            Utf8 => true,
            from if *from == Boolean || is_number(from) => *to == Boolean || is_number(to),
            Date32 | Time32(_) => matches!(to, Timestamp(..)),
            Timestamp(..) => matches!(to, Timestamp(..) | Date32 | Time32(_)),
            _ => false,
        }
}

impl ScalarUDFImpl for Cast {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(&self.name, self.to.clone(), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(value) => {
                let value = self.apply(&value.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?))
            }
            ColumnarValue::Array(values) => Ok(ColumnarValue::Array(self.apply(values)?)),
        }
    }
}

/// Values as a CAST to this type makes them.
pub fn convert(values: &ArrayRef, to: &DataType, lenient: bool) -> Result<ArrayRef> {
    if values.data_type() == to {
        return Ok(Arc::clone(values));
    }
    if *values.data_type() == DataType::Null {
        return Ok(new_null_array(to, values.len()));
    }
    let signature = Signature::any(1, Volatility::Immutable);
    Cast { name: String::new(), to: to.clone(), shape: Shape::Any, lenient, signature }.apply(values)
}

impl Cast {
    fn apply(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let from = values.data_type();
        if from.is_nested() || self.to.is_nested() {
            let converted = convert_nested(values, &self.to, self.lenient)?;
            return if self.to == DataType::Utf8 { self.cut_texts(&converted) } else { Ok(converted) };
        }
        match &self.to {
            DataType::Utf8 => self.cut_texts(&texts(values)?),
            DataType::Binary => self.cut_bytes(values),
            DataType::Boolean => self.booleans(values),
            DataType::Int8 => self.whole::<Int8Type>(values, |number| number as i8),
            DataType::Int16 => self.whole::<Int16Type>(values, |number| number as i16),
            DataType::Int32 => self.whole::<Int32Type>(values, |number| number as i32),
            DataType::Int64 => self.whole::<Int64Type>(values, |number| number),
            DataType::Float32 => self.floats(values),
            DataType::Float64 => self.doubles(values),
            DataType::Decimal128(precision, scale) => self.decimals(values, i32::from(*precision), i32::from(*scale)),
            DataType::Date32 => match from {
                DataType::Utf8 => self.read::<Date32Type>(values, |text| date(text)?.try_into().ok()),
                _ => {
                    let ticks = ticks(values)?;
                    let days = ticks.values.unary::<_, Date32Type>(|tick| tick.div_euclid(ticks.per_day()) as i32);
                    Ok(Arc::new(days))
                }
            },
            DataType::Time32(_) => self.clocks(values),
            DataType::Timestamp(unit, _) => self.timestamps(values, *unit),
            other => exec_err!("CAST to {other} is not supported"),
        }
    }

    /// What a text that cannot be read comes to.
    fn unreadable<T>(&self, text: &str) -> Result<Option<T>> {
        if self.lenient {
            return Ok(None);
        }
        exec_err!(
            "CAST to {} cannot read '{}'; TRY_CAST gives NULL instead",
            flink_name(&self.to),
            text.chars().take(SHOWN).collect::<String>()
        )
    }

    fn read<T: ArrowPrimitiveType>(
        &self,
        values: &ArrayRef,
        read: impl Fn(&str) -> Option<T::Native>,
    ) -> Result<ArrayRef> {
        Ok(Arc::new(self.read_numbers::<T>(values, read)?))
    }

    fn read_ticks(&self, values: &ArrayRef, per_day: i64) -> Result<PrimitiveArray<Int64Type>> {
        self.read_numbers(values, |text| {
            let (days, nanos) = timestamp(text)?;
            days.checked_mul(per_day)?.checked_add(nanos / (DAY * 1_000_000 / per_day))
        })
    }

    fn read_numbers<T: ArrowPrimitiveType>(
        &self,
        values: &ArrayRef,
        read: impl Fn(&str) -> Option<T::Native>,
    ) -> Result<PrimitiveArray<T>> {
        values
            .as_string::<i32>()
            .iter()
            .map(|text| match text {
                None => Ok(None),
                Some(text) => match read(text) {
                    Some(value) => Ok(Some(value)),
                    None => self.unreadable(text),
                },
            })
            .collect()
    }

    fn cut_texts(&self, texts: &ArrayRef) -> Result<ArrayRef> {
        let (length, fill) = match self.shape {
            Shape::Any => return Ok(Arc::clone(texts)),
            Shape::AtMost(length) => (length, false),
            Shape::Exactly(length) => (length, true),
        };
        if fill {
            all_of_one_length("CAST", texts.len() - texts.null_count(), length)?;
        }
        let texts = texts.as_string::<i32>();
        let mut out = StringBuilder::with_capacity(texts.len(), texts.len() * length.min(SHOWN));
        for text in texts {
            let Some(text) = text else {
                out.append_null();
                continue;
            };
            let end = text.char_indices().nth(length).map_or(text.len(), |(at, _)| at);
            let cut = &text[..end];
            if fill {
                out.append_value(format!("{cut:<length$}"));
            } else {
                out.append_value(cut);
            }
        }
        Ok(Arc::new(out.finish()))
    }

    fn cut_bytes(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let bytes = arrow_cast(values, &DataType::Binary)?;
        let (length, fill) = match self.shape {
            Shape::Any => return Ok(bytes),
            Shape::AtMost(length) => (length, false),
            Shape::Exactly(length) => (length, true),
        };
        if fill {
            all_of_one_length("CAST", bytes.len() - bytes.null_count(), length)?;
        }
        let cut = bytes.as_binary::<i32>().iter().map(|bytes| {
            bytes.map(|bytes| {
                let mut cut = bytes[..bytes.len().min(length)].to_vec();
                if fill {
                    cut.resize(length, 0);
                }
                cut
            })
        });
        Ok(Arc::new(cut.collect::<BinaryArray>()))
    }

    fn booleans(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let booleans: BooleanArray = match values.data_type() {
            DataType::Utf8 => values
                .as_string::<i32>()
                .iter()
                .map(|text| match text {
                    None => Ok(None),
                    Some(text) => match boolean(text) {
                        Some(value) => Ok(Some(value)),
                        None => self.unreadable(text),
                    },
                })
                .collect::<Result<_>>()?,
            DataType::Decimal128(..) => {
                values.as_primitive::<Decimal128Type>().iter().map(|number| number.map(|number| number != 0)).collect()
            }
            DataType::Float32 | DataType::Float64 => {
                let numbers = arrow_cast(values, &DataType::Float64)?;
                let numbers = numbers.as_primitive::<Float64Type>();
                numbers.iter().map(|number| number.map(|number| number != 0.0)).collect()
            }
            _ => {
                let numbers = arrow_cast(values, &DataType::Int64)?;
                let numbers = numbers.as_primitive::<Int64Type>();
                numbers.iter().map(|number| number.map(|number| number != 0)).collect()
            }
        };
        Ok(Arc::new(booleans))
    }

    /// Whole numbers of any width: low bits of whole numbers and decimals, and what Java's casts make of a floating point
    /// number, which go over INT to what is narrower.
    fn whole<T: ArrowPrimitiveType>(&self, values: &ArrayRef, narrow: fn(i64) -> T::Native) -> Result<ArrayRef>
    where
        T::Native: TryFrom<i64>,
    {
        let is_wide = self.to == DataType::Int64;
        let numbers: PrimitiveArray<T> = match values.data_type() {
            DataType::Utf8 => return self.read::<T>(values, |text| T::Native::try_from(whole_number(text)?).ok()),
            DataType::Float32 | DataType::Float64 => {
                let numbers = arrow_cast(values, &DataType::Float64)?;
                let numbers = numbers.as_primitive::<Float64Type>();
                numbers.unary(|number| narrow(if is_wide { number as i64 } else { i64::from(number as i32) }))
            }
            DataType::Decimal128(_, scale) => {
                let unit = power(i32::from(*scale));
                values.as_primitive::<Decimal128Type>().unary(|number| narrow((number / unit) as i64))
            }
            _ => arrow_cast(values, &DataType::Int64)?.as_primitive::<Int64Type>().unary(narrow),
        };
        Ok(Arc::new(numbers))
    }

    fn floats(&self, values: &ArrayRef) -> Result<ArrayRef> {
        Ok(match values.data_type() {
            DataType::Utf8 => return self.read::<Float32Type>(values, |text| parse(text)?.parse().ok()),
            DataType::Boolean => arrow_cast(&arrow_cast(values, &DataType::Int32)?, &DataType::Float32)?,
            DataType::Decimal128(..) => {
                let numbers = values.as_primitive::<Decimal128Type>();
                let floats: PrimitiveArray<Float32Type> = (0..numbers.len())
                    .map(|row| numbers.is_valid(row).then(|| numbers.value_as_string(row).parse().unwrap_or(f32::NAN)))
                    .collect();
                Arc::new(floats)
            }
            _ => arrow_cast(values, &DataType::Float32)?,
        })
    }

    fn doubles(&self, values: &ArrayRef) -> Result<ArrayRef> {
        Ok(match values.data_type() {
            DataType::Utf8 => return self.read::<Float64Type>(values, |text| parse(text)?.parse().ok()),
            DataType::Boolean => arrow_cast(&arrow_cast(values, &DataType::Int32)?, &DataType::Float64)?,
            DataType::Decimal128(_, scale) => {
                let scale = i32::from(*scale);
                let numbers = values.as_primitive::<Decimal128Type>();
                let exact = 10_f64.powi(scale);
                let doubles: PrimitiveArray<Float64Type> = (0..numbers.len())
                    .map(|row| {
                        let number = numbers.is_valid(row).then(|| numbers.value(row))?;
                        // Both are exact, so that the quotient is rounded once.
                        if number.unsigned_abs() < 1 << f64::MANTISSA_DIGITS && scale <= EXACT_POWERS {
                            return Some(number as f64 / exact);
                        }
                        Some(numbers.value_as_string(row).parse().unwrap_or(f64::NAN))
                    })
                    .collect();
                Arc::new(doubles)
            }
            _ => arrow_cast(values, &DataType::Float64)?,
        })
    }

    fn decimals(&self, values: &ArrayRef, precision: i32, scale: i32) -> Result<ArrayRef> {
        let mut out = Decimal128Builder::with_capacity(values.len());
        let fitting = |number: Option<i128>| number.filter(|number| fits(*number, precision));
        match values.data_type() {
            DataType::Utf8 => {
                for text in values.as_string::<i32>() {
                    out.append_option(match text {
                        None => None,
                        Some(text) => match fitting(decimal_number(text, scale)) {
                            Some(number) => Some(number),
                            None => self.unreadable(text)?,
                        },
                    });
                }
            }
            DataType::Float32 | DataType::Float64 => {
                let numbers = arrow_cast(values, &DataType::Float64)?;
                for number in numbers.as_primitive::<Float64Type>() {
                    out.append_option(match number {
                        Some(number) if number.is_finite() => fitting(decimal_number(&format!("{number:e}"), scale)),
                        Some(number) => self.unreadable(&number.to_string())?,
                        None => None,
                    });
                }
            }
            DataType::Decimal128(_, from) => {
                let numbers = values.as_primitive::<Decimal128Type>();
                let numbers = numbers.unary_opt(|number| fitting(rescale(number, i32::from(*from), scale)));
                return decimal::typed(numbers, &self.to);
            }
            from => {
                let wide = arrow_cast(values, &DataType::Int64)?;
                let numbers = wide.as_primitive::<Int64Type>();
                let numbers = match decimal::as_decimal(from) {
                    Some((digits, _)) if precision - scale >= digits => {
                        let unit = power(scale);
                        numbers.unary(|number| i128::from(number) * unit)
                    }
                    _ => numbers.unary_opt(|number| fitting(rescale(i128::from(number), 0, scale))),
                };
                return decimal::typed(numbers, &self.to);
            }
        }
        decimal::typed(out.finish(), &self.to)
    }

    /// Times of day, in whole seconds as `TIME` has them unless the script asks for finer ones.
    fn clocks(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let step = match self.shape {
            Shape::AtMost(digits) => 10_i32.pow(3 - digits.min(3) as u32),
            _ => 1,
        };
        let cut = |millis: i32| millis - millis.rem_euclid(step);
        match values.data_type() {
            DataType::Utf8 => self.read::<Time32MillisecondType>(values, |text| clock(text).map(cut)),
            DataType::Time32(_) => {
                let clocks = values.as_primitive::<Time32MillisecondType>();
                Ok(Arc::new(clocks.unary::<_, Time32MillisecondType>(cut)))
            }
            _ => {
                let ticks = ticks(values)?;
                let per_millisecond = ticks.per_day() / DAY;
                let clocks = ticks.values.unary::<_, Time32MillisecondType>(|tick| {
                    cut((tick.rem_euclid(ticks.per_day()) / per_millisecond) as i32)
                });
                Ok(Arc::new(clocks))
            }
        }
    }

    fn timestamps(&self, values: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef> {
        let per_day = per_day(unit);
        let per_millisecond = per_day / DAY;
        let range = || exec_err!("the time is outside of what {} holds", flink_name(&self.to));
        let numbers: PrimitiveArray<Int64Type> = match values.data_type() {
            DataType::Utf8 => {
                let ticks = self.read_ticks(values, per_day)?;
                return self.as_timestamps(&ticks, unit);
            }
            DataType::Date32 => {
                let days = values.as_primitive::<Date32Type>();
                days.try_unary(|days| i64::from(days).checked_mul(per_day).map_or_else(range, Ok))?
            }
            DataType::Time32(_) => {
                values.as_primitive::<Time32MillisecondType>().unary(|millis| i64::from(millis) * per_millisecond)
            }
            _ => {
                let ticks = ticks(values)?;
                let from = ticks.per_day();
                if from <= per_day {
                    ticks.values.try_unary(|tick| tick.checked_mul(per_day / from).map_or_else(range, Ok))?
                } else {
                    ticks.values.unary(|tick| tick.div_euclid(from / per_day))
                }
            }
        };
        self.as_timestamps(&numbers, unit)
    }

    /// Ticks as timestamps of so many digits behind the second as the script asks for.
    fn as_timestamps(&self, ticks: &PrimitiveArray<Int64Type>, unit: TimeUnit) -> Result<ArrayRef> {
        let per_second = per_day(unit) / (DAY / 1_000);
        let step = match self.shape {
            Shape::AtMost(digits) => (per_second / 10_i64.pow(digits.min(9) as u32)).max(1),
            _ => return Ok(arrow_cast(ticks, &self.to)?),
        };
        let cut = ticks.unary::<_, Int64Type>(|tick| tick - tick.rem_euclid(step));
        Ok(arrow_cast(&cut, &self.to)?)
    }
}

/// Characters of a value in a message, and bytes that a text is expected to have.
const SHOWN: usize = 64;

/// Powers of ten up to this one are exact as DOUBLE.
const EXACT_POWERS: i32 = 22;

fn per_day(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => DAY / 1_000,
        TimeUnit::Millisecond => DAY,
        TimeUnit::Microsecond => DAY * 1_000,
        TimeUnit::Nanosecond => DAY * 1_000_000,
    }
}

/// Timestamps in their own unit.
struct Ticks {
    values: PrimitiveArray<Int64Type>,
    unit: TimeUnit,
}

impl Ticks {
    fn per_day(&self) -> i64 {
        per_day(self.unit)
    }
}

fn ticks(values: &ArrayRef) -> Result<Ticks> {
    let DataType::Timestamp(unit, _) = values.data_type() else {
        return exec_err!("a timestamp is expected, and {} is given", values.data_type());
    };
    let numbers = arrow_cast(values, &DataType::Int64)?;
    Ok(Ticks { values: numbers.as_primitive::<Int64Type>().clone(), unit: *unit })
}

/// Any values as Flink writes them.
pub fn texts(values: &ArrayRef) -> Result<ArrayRef> {
    let mut out = StringBuilder::with_capacity(values.len(), values.len() * 8);
    let mut text = String::new();
    match values.data_type() {
        DataType::Utf8 => return Ok(Arc::clone(values)),
        DataType::Timestamp(..) | DataType::Date32 | DataType::Time32(_) => return to_text(values),
        DataType::Boolean => {
            for value in values.as_boolean() {
                out.append_option(value.map(|value| if value { "TRUE" } else { "FALSE" }));
            }
        }
        DataType::Float32 => {
            for value in values.as_primitive::<Float32Type>() {
                text.clear();
                value.inspect(|value| write_float(*value, &mut text));
                out.append_option(value.map(|_| &text));
            }
        }
        DataType::Float64 => {
            for value in values.as_primitive::<Float64Type>() {
                text.clear();
                value.inspect(|value| write_double(*value, &mut text));
                out.append_option(value.map(|_| &text));
            }
        }
        DataType::Binary => {
            for value in values.as_binary::<i32>() {
                out.append_option(value.map(String::from_utf8_lossy));
            }
        }
        _ => return Ok(arrow_cast(values, &DataType::Utf8)?),
    }
    Ok(Arc::new(out.finish()))
}

fn boolean(text: &str) -> Option<bool> {
    Some(match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "1" => true,
        "f" | "false" | "n" | "no" | "0" => false,
        _ => return None,
    })
}

/// Digits with a sign before them; a fraction is cut off.
fn whole_number(text: &str) -> Option<i64> {
    let text = text.trim_matches(' ');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(digits) || !are_digits(fraction) || digits.len() + fraction.len() == 0 {
        return None;
    }
    if digits.is_empty() { Some(0) } else { whole.parse().ok() }
}

/// A number with a sign, a point and an exponent as the unscaled number of this scale, rounded half up.
pub fn decimal_number(text: &str, scale: i32) -> Option<i128> {
    let text = text.trim_matches(' ');
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, mantissa) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 {
        return None;
    }
    let mut unscaled: i128 = 0;
    // The place of the next digit, in digits of the result: from the left, and the first beyond the result rounds it.
    let mut place = whole.len() as i64 + i64::from(exponent) + i64::from(scale);
    let mut rounds = false;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i128::from(digit - b'0');
        if place > 0 {
            unscaled = unscaled.checked_mul(10)?.checked_add(digit)?;
        } else if place == 0 {
            rounds = digit >= 5;
        }
        place -= 1;
    }
    if place > 0 && unscaled != 0 {
        let missing = i32::try_from(place).ok().filter(|missing| *missing <= decimal::MAX_PRECISION)?;
        unscaled = unscaled.checked_mul(power(missing))?;
    }
    unscaled = unscaled.checked_add(i128::from(rounds))?;
    Some(if negative { -unscaled } else { unscaled })
}

fn number(text: &str, most: usize) -> Option<i64> {
    let is_number = !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// `2024-02-29`, `2024-2`, `2024`, and whatever follows a blank behind it.
pub fn date(text: &str) -> Option<i64> {
    let text = text.trim_matches(' ');
    let text = text.split_once(' ').map_or(text, |(date, _)| date);
    let mut parts = text.splitn(3, '-');
    let year = number(parts.next()?, 4)?;
    let month = parts.next().map_or(Some(1), |month| number(month, 2))?;
    let day = parts.next().map_or(Some(1), |day| number(day, 2))?;
    let is_day = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    is_day.then(|| days_of(year, month, day))
}

/// `12:34:56.789`, `12:34`, `12`, in milliseconds.
fn clock(text: &str) -> Option<i32> {
    let mut parts = text.trim_matches(' ').splitn(3, ':');
    let hour = number(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = parts.next().map_or(Some(0), |minute| number(minute, 2)).filter(|minute| *minute < 60)?;
    let (second, fraction) = parts.next().map_or(("0", ""), |rest| rest.split_once('.').unwrap_or((rest, "")));
    let second = number(second, 2).filter(|second| *second < 60)?;
    let fraction = if fraction.is_empty() { 0 } else { number(&format!("{fraction:0<9}"), 9)? / 1_000_000 };
    i32::try_from(((hour * 60 + minute) * 60 + second) * 1_000 + fraction).ok()
}

/// `2024-02-29 12:34:56.123456789` or a date alone: days, and nanoseconds of the day. As in Flink the last days of a short month
/// are its last one, and 24:00:00 is the next day.
pub fn timestamp(text: &str) -> Option<(i64, i64)> {
    let (date, clock) = match text.split_once(' ') {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let mut parts = date.splitn(3, '-');
    let year = parts.next().filter(|year| year.len() == 4).and_then(|year| number(year, 4))?;
    let month = number(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = number(parts.next()?, 2).filter(|day| (1..=31).contains(day))?;
    let days = days_of(year, month, day.min(days_in(year, month)));
    let Some(clock) = clock else { return Some((days, 0)) };
    let mut parts = clock.splitn(3, ':');
    let hour = number(parts.next()?, 2).filter(|hour| *hour <= 24)?;
    let minute = number(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let rest = parts.next()?;
    let (second, fraction) = rest.split_once('.').map_or((rest, None), |(second, fraction)| (second, Some(fraction)));
    let second = number(second, 2).filter(|second| *second < 60)?;
    let fraction = match fraction {
        Some(fraction) => number(fraction, 9).and_then(|_| number(&format!("{fraction:0<9}"), 9))?,
        None => 0,
    };
    let nanos = ((hour * 60 + minute) * 60 + second) * 1_000_000_000 + fraction;
    if hour == 24 {
        return (nanos == DAY * 1_000_000).then_some((days + 1, 0));
    }
    Some((days, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_with_every_exponent_and_rounded_once() {
        for (text, scale, number) in [
            ("1.005", 2, Some(101)),
            ("-1.005", 2, Some(-101)),
            ("1e2", 2, Some(10_000)),
            ("1E-2", 2, Some(1)),
            ("5e-3", 2, Some(1)),
            ("4.9e-3", 2, Some(0)),
            (".5", 0, Some(1)),
            ("5.", 0, Some(5)),
            (" +1.5 ", 1, Some(15)),
            ("0e99", 2, Some(0)),
            ("1e99", 2, None),
            ("", 2, None),
            (".", 2, None),
            ("1,5", 2, None),
            ("99999999999999999999999999999999999999", 0, Some(power(38) - 1)),
        ] {
            assert_eq!(decimal_number(text, scale), number, "{text}");
        }
    }
}
