//! Functions of time with Flink's meaning: the clock, fields of a time, formatting and reading with Java's patterns,
//! rounding. Times are milliseconds since the epoch, the session's zone is UTC.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, PrimitiveArray, StringArray, TimestampMillisecondArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::{DatePart, cast, date_part};
use arrow::datatypes::{DataType, Date32Type, Field, FieldRef, Int64Type, TimestampMillisecondType};
use datafusion_common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::compiled::Compiled;
use super::pattern::{DAY, Pattern, civil, days_of};
use crate::parse::types::{TIMESTAMP, timestamp_ltz};

/// The pattern where none is given.
const DEFAULT_PATTERN: &str = "yyyy-MM-dd HH:mm:ss";

/// Distinct texts kept while one column is formatted; a stream's neighbouring rows rarely have more.
const TEXTS: usize = 64;

/// The function that a time's CAST to STRING becomes.
pub const CAST_TO_TEXT: &str = "$time_to_string";

/// The function that `FLOOR(t TO unit)` becomes.
pub const FLOOR_TO: &str = "$floor_to";

/// The function that `CEIL(t TO unit)` becomes.
pub const CEIL_TO: &str = "$ceil_to";

/// One function of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The clock, with this type.
    Now(Clock),
    /// A field.
    Part(Unit),
    /// `DATE_FORMAT(time, pattern)`.
    Format,
    /// `CAST(time AS STRING)`.
    ToText,
    /// `TO_TIMESTAMP(text[, pattern])`.
    ToTimestamp,
    /// `TO_TIMESTAMP_LTZ(number[, precision])`.
    ToTimestampLtz,
    /// `TO_DATE(text[, pattern])`.
    ToDate,
    /// `FROM_UNIXTIME(seconds[, pattern])`.
    FromUnixtime,
    /// `UNIX_TIMESTAMP([text[, pattern]])`.
    UnixTimestamp,
    /// `FLOOR(t TO unit)` as `(unit, t)`.
    Floor,
    /// `CEIL(t TO unit)` as `(unit, t)`.
    Ceil,
}

/// What the clock is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Clock {
    Local,
    Plain,
    Date,
}

/// A field of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    Year,
    Quarter,
    Month,
    Week,
    DayOfYear,
    DayOfMonth,
    DayOfWeek,
    Hour,
    Minute,
    Second,
    Millisecond,
    Epoch,
}

impl Unit {
    /// The field of this name, in any case, singular or plural.
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        Some(match upper.strip_suffix('S').unwrap_or(&upper) {
            "YEAR" => Self::Year,
            "QUARTER" => Self::Quarter,
            "MONTH" => Self::Month,
            "WEEK" => Self::Week,
            "DOY" | "DAYOFYEAR" => Self::DayOfYear,
            "DAY" | "DAYOFMONTH" => Self::DayOfMonth,
            "DOW" | "DAYOFWEEK" => Self::DayOfWeek,
            "HOUR" => Self::Hour,
            "MINUTE" => Self::Minute,
            "SECOND" => Self::Second,
            "MILLISECOND" => Self::Millisecond,
            "EPOCH" => Self::Epoch,
            _ => return None,
        })
    }

    /// The field of each time, as BIGINT.
    fn of(self, times: &ArrayRef) -> Result<ArrayRef> {
        let part = match self {
            Self::Year => DatePart::Year,
            Self::Quarter => DatePart::Quarter,
            Self::Month => DatePart::Month,
            Self::Week => DatePart::Week,
            Self::DayOfYear => DatePart::DayOfYear,
            Self::DayOfMonth => DatePart::Day,
            Self::DayOfWeek => DatePart::DayOfWeekSunday0,
            // The clock is plain arithmetic on milliseconds, without a calendar.
            Self::Hour => return clock(times, 3_600_000, 24),
            Self::Minute => return clock(times, 60_000, 60),
            Self::Second => return clock(times, 1_000, 60),
            Self::Millisecond => return clock(times, 1, 1_000),
            Self::Epoch => {
                let millis = millis_of(times)?;
                let seconds: Int64Array = millis.unary(|millis| millis.div_euclid(1_000));
                return Ok(Arc::new(seconds));
            }
        };
        let zoneless = match times.data_type() {
            DataType::Timestamp(unit, Some(_)) => cast(times, &DataType::Timestamp(*unit, None))?,
            _ => Arc::clone(times),
        };
        let values = cast(&date_part(&zoneless, part)?, &DataType::Int64)?;
        if self == Self::DayOfWeek {
            let shifted: Int64Array = values.as_primitive::<Int64Type>().unary(|day| day + 1);
            return Ok(Arc::new(shifted));
        }
        Ok(values)
    }

    /// The start of the unit that the time is in.
    fn floor(self, millis: i64) -> Option<i64> {
        let days = millis.div_euclid(DAY);
        let (year, month, _) = civil(days);
        Some(match self {
            Self::Year => days_of(year, 1, 1) * DAY,
            Self::Quarter => days_of(year, (month - 1) / 3 * 3 + 1, 1) * DAY,
            Self::Month => days_of(year, month, 1) * DAY,
            // Weeks begin on Sunday here, as in Flink; 1970-01-04 was one.
            Self::Week => (days - (days - 3).rem_euclid(7)) * DAY,
            Self::DayOfMonth => days * DAY,
            Self::Hour => millis - millis.rem_euclid(3_600_000),
            Self::Minute => millis - millis.rem_euclid(60_000),
            Self::Second => millis - millis.rem_euclid(1_000),
            Self::Millisecond => millis,
            Self::DayOfYear | Self::DayOfWeek | Self::Epoch => return None,
        })
    }

    /// The start of the next unit, or the time itself where it is a start.
    fn ceil(self, millis: i64) -> Option<i64> {
        let floor = self.floor(millis)?;
        if floor == millis {
            return Some(millis);
        }
        let (year, month, _) = civil(floor.div_euclid(DAY));
        let in_months = |months: i64| {
            let month = month - 1 + months;
            days_of(year + month / 12, month % 12 + 1, 1) * DAY
        };
        Some(match self {
            Self::Year => in_months(12),
            Self::Quarter => in_months(3),
            Self::Month => in_months(1),
            Self::Week => floor.saturating_add(7 * DAY),
            Self::DayOfMonth => floor.saturating_add(DAY),
            Self::Hour => floor.saturating_add(3_600_000),
            Self::Minute => floor.saturating_add(60_000),
            _ => floor.saturating_add(1_000),
        })
    }
}

#[derive(Debug)]
struct TimeFunction {
    name: &'static str,
    aliases: Vec<String>,
    kind: Kind,
    signature: Signature,
}

impl PartialEq for TimeFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TimeFunction {}

impl Hash for TimeFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// All functions of this module.
pub fn functions() -> Vec<ScalarUDF> {
    let function = |name: &'static str, aliases: &[&str], kind: Kind| {
        let volatility = match kind {
            Kind::Now(_) => Volatility::Volatile,
            _ => Volatility::Immutable,
        };
        let aliases = aliases.iter().map(|&alias| alias.to_string()).collect();
        let signature = match kind {
            Kind::Now(_) => Signature::nullary(volatility),
            _ => Signature::user_defined(volatility),
        };
        ScalarUDF::new_from_impl(TimeFunction { name, aliases, kind, signature })
    };
    vec![
        function("proctime", &[], Kind::Now(Clock::Local)),
        function("now", &["current_timestamp", "current_row_timestamp"], Kind::Now(Clock::Local)),
        function("localtimestamp", &[], Kind::Now(Clock::Plain)),
        function("current_date", &[], Kind::Now(Clock::Date)),
        function("year", &[], Kind::Part(Unit::Year)),
        function("quarter", &[], Kind::Part(Unit::Quarter)),
        function("month", &[], Kind::Part(Unit::Month)),
        function("week", &[], Kind::Part(Unit::Week)),
        function("dayofyear", &["doy"], Kind::Part(Unit::DayOfYear)),
        function("dayofmonth", &["day"], Kind::Part(Unit::DayOfMonth)),
        function("dayofweek", &["dow"], Kind::Part(Unit::DayOfWeek)),
        function("hour", &[], Kind::Part(Unit::Hour)),
        function("minute", &[], Kind::Part(Unit::Minute)),
        function("second", &[], Kind::Part(Unit::Second)),
        function("millisecond", &[], Kind::Part(Unit::Millisecond)),
        function("epoch", &[], Kind::Part(Unit::Epoch)),
        function("date_format", &[], Kind::Format),
        function(CAST_TO_TEXT, &[], Kind::ToText),
        function("to_timestamp", &[], Kind::ToTimestamp),
        function("to_timestamp_ltz", &[], Kind::ToTimestampLtz),
        function("to_date", &[], Kind::ToDate),
        function("from_unixtime", &[], Kind::FromUnixtime),
        function("unix_timestamp", &[], Kind::UnixTimestamp),
        function(FLOOR_TO, &[], Kind::Floor),
        function(CEIL_TO, &[], Kind::Ceil),
    ]
}

impl ScalarUDFImpl for TimeFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Now(Clock::Local) | Kind::ToTimestampLtz => timestamp_ltz(),
            Kind::Now(Clock::Plain) | Kind::ToTimestamp => TIMESTAMP,
            Kind::Now(Clock::Date) | Kind::ToDate => DataType::Date32,
            Kind::Part(_) | Kind::UnixTimestamp => DataType::Int64,
            Kind::Format | Kind::ToText | Kind::FromUnixtime => DataType::Utf8,
            Kind::Floor | Kind::Ceil => match arguments.get(1) {
                Some(DataType::Timestamp(_, Some(_))) => timestamp_ltz(),
                Some(DataType::Date32) => DataType::Date32,
                _ => TIMESTAMP,
            },
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        // A pattern that is written out is checked before any row is there.
        if matches!(
            self.kind,
            Kind::Format | Kind::ToTimestamp | Kind::ToDate | Kind::FromUnixtime | Kind::UnixTimestamp
        ) && let Some(Some(ScalarValue::Utf8(Some(pattern)))) = args.scalar_arguments.get(1)
            && let Err(problem) = Pattern::compile(pattern)
        {
            return plan_err!("{}: {problem}", self.name.to_ascii_uppercase());
        }
        if self.kind == Kind::ToTimestampLtz
            && let Some(Some(precision)) = args.scalar_arguments.get(1)
            && let Ok(ScalarValue::Int64(Some(precision))) = precision.cast_to(&DataType::Int64)
            && !matches!(precision, 0 | 3)
        {
            return plan_err!("TO_TIMESTAMP_LTZ: the precision must be 0 or 3");
        }
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = !matches!(self.kind, Kind::Now(_));
        Ok(Arc::new(Field::new(self.name, self.return_type(&types)?, nullable)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let (least, most) = match self.kind {
            Kind::Now(_) => (0, 0),
            Kind::Part(_) | Kind::ToText => (1, 1),
            Kind::Format | Kind::Floor | Kind::Ceil => (2, 2),
            Kind::ToTimestamp | Kind::ToTimestampLtz | Kind::ToDate | Kind::FromUnixtime => (1, 2),
            Kind::UnixTimestamp => (0, 2),
        };
        let name = self.name.to_ascii_uppercase();
        if arguments.len() < least || arguments.len() > most {
            let expected = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            return plan_err!("{name} takes {expected} arguments, and {} are given", arguments.len());
        }
        let time = |data_type: &DataType| match data_type {
            DataType::Timestamp(_, zone) => {
                Ok(DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, zone.clone()))
            }
            DataType::Date32 => Ok(DataType::Date32),
            DataType::Time32(_) | DataType::Time64(_) => Ok(DataType::Time32(arrow::datatypes::TimeUnit::Millisecond)),
            DataType::Utf8 | DataType::Null => Ok(TIMESTAMP),
            other => plan_err!("{name} takes a time, and {} is given", crate::parse::types::flink_name(other)),
        };
        arguments
            .iter()
            .enumerate()
            .map(|(position, data_type)| match (self.kind, position) {
                (Kind::Format | Kind::Part(_) | Kind::ToText, 0) | (Kind::Floor | Kind::Ceil, 1) => time(data_type),
                (Kind::ToTimestampLtz | Kind::FromUnixtime, 0) | (Kind::ToTimestampLtz, 1) => Ok(DataType::Int64),
                _ => Ok(DataType::Utf8),
            })
            .collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let length = if all_scalar { 1 } else { rows };
        let array = |position: usize| args.args[position].to_array(length);
        let pattern = |position: usize| match args.args.get(position) {
            None => Ok(Patterns::Constant(compiled(DEFAULT_PATTERN)?)),
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(text)))) => Ok(Patterns::Constant(compiled(text)?)),
            Some(column) => Ok::<_, DataFusionError>(Patterns::Column(column.to_array(length)?)),
        };
        let result: ArrayRef = match self.kind {
            Kind::Now(clock) => return Ok(ColumnarValue::Scalar(now(clock))),
            Kind::Part(unit) => unit.of(&array(0)?)?,
            Kind::Format => Arc::new(pattern(1)?.format(&millis_of(&array(0)?)?)?),
            Kind::ToText => to_text(&array(0)?)?,
            Kind::ToTimestamp => match args.args.len() {
                1 => Arc::new(read(&array(0)?, |text| {
                    compiled_default().into_iter().find_map(|pattern| pattern.read(text))
                })),
                _ => Arc::new(pattern(1)?.read(&array(0)?)),
            },
            Kind::ToDate => {
                let pattern =
                    if args.args.len() == 1 { Patterns::Constant(compiled("yyyy-MM-dd")?) } else { pattern(1)? };
                let times = pattern.read(&array(0)?);
                let days: PrimitiveArray<Date32Type> = times.unary(|millis| millis.div_euclid(DAY) as i32);
                Arc::new(days)
            }
            Kind::ToTimestampLtz => {
                let numbers = array(0)?;
                let numbers = numbers.as_primitive::<Int64Type>();
                let times: TimestampMillisecondArray = match args.args.get(1) {
                    None | Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(3)))) => numbers.unary(|number| number),
                    Some(precisions) => {
                        let precisions = precisions.to_array(length)?;
                        let precisions = precisions.as_primitive::<Int64Type>().iter();
                        let time = |(number, precision): (Option<i64>, Option<i64>)| match precision? {
                            0 => number.map(|number| number.wrapping_mul(1_000)),
                            3 => number,
                            _ => None,
                        };
                        numbers.iter().zip(precisions).map(time).collect()
                    }
                };
                Arc::new(times.with_timezone("UTC"))
            }
            Kind::FromUnixtime => {
                let times: TimestampMillisecondArray =
                    array(0)?.as_primitive::<Int64Type>().unary(|seconds| seconds.wrapping_mul(1_000));
                Arc::new(pattern(1)?.format(&times)?)
            }
            Kind::UnixTimestamp => {
                if args.args.is_empty() {
                    let seconds = wall_clock().div_euclid(1_000);
                    return Ok(ColumnarValue::Scalar(ScalarValue::Int64(Some(seconds))));
                }
                let times = pattern(1)?.read(&array(0)?);
                let seconds: Int64Array = times.unary(|millis| millis.div_euclid(1_000));
                Arc::new(seconds)
            }
            Kind::Floor | Kind::Ceil => round(&args, self.kind == Kind::Floor, &array(1)?)?,
        };
        if all_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// How times are written or read: one way, which has a meaning, or one a row. A row whose pattern has none is NULL.
enum Patterns {
    Constant(Pattern),
    Column(ArrayRef),
}

impl Patterns {
    fn format(&self, times: &TimestampMillisecondArray) -> Result<StringArray> {
        match self {
            Self::Constant(pattern) => format(times, pattern),
            Self::Column(patterns) => {
                let mut compiled = Compiled::times();
                let text = |(millis, pattern): (Option<i64>, Option<&str>)| {
                    let mut text = String::new();
                    compiled.get(pattern?)?.write(millis?, &mut text);
                    Some(text)
                };
                Ok(times.iter().zip(patterns.as_string::<i32>()).map(text).collect())
            }
        }
    }

    fn read(&self, texts: &ArrayRef) -> TimestampMillisecondArray {
        match self {
            Self::Constant(pattern) => read(texts, |text| pattern.read(text)),
            Self::Column(patterns) => {
                let mut compiled = Compiled::times();
                let time = |(text, pattern): (Option<&str>, Option<&str>)| compiled.get(pattern?)?.read(text?.trim());
                texts.as_string::<i32>().iter().zip(patterns.as_string::<i32>()).map(time).collect()
            }
        }
    }
}

fn compiled(pattern: &str) -> Result<Pattern> {
    Pattern::compile(pattern).or_else(|problem| exec_err!("{problem}"))
}

/// What `TO_TIMESTAMP` takes without a pattern.
fn compiled_default() -> [Pattern; 2] {
    ["yyyy-MM-dd HH:mm:ss", "yyyy-MM-dd HH:mm:ss.SSSSSSSSS"]
        .map(|pattern| Pattern::compile(pattern).unwrap_or_else(|_| unreachable!("a pattern of this file compiles")))
}

fn wall_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn now(clock: Clock) -> ScalarValue {
    let millis = wall_clock();
    match clock {
        Clock::Local => ScalarValue::TimestampMillisecond(Some(millis), Some("UTC".into())),
        Clock::Plain => ScalarValue::TimestampMillisecond(Some(millis), None),
        Clock::Date => ScalarValue::Date32(Some(i32::try_from(millis.div_euclid(DAY)).unwrap_or(i32::MAX))),
    }
}

/// Any time as milliseconds.
fn millis_of(times: &ArrayRef) -> Result<TimestampMillisecondArray> {
    let plain = match times.data_type() {
        DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None) => Arc::clone(times),
        DataType::Time32(_) | DataType::Time64(_) => {
            let millis = cast(times, &DataType::Time32(arrow::datatypes::TimeUnit::Millisecond))?;
            cast(&cast(&cast(&millis, &DataType::Int32)?, &DataType::Int64)?, &TIMESTAMP)?
        }
        DataType::Timestamp(unit, Some(_)) => cast(&cast(times, &DataType::Timestamp(*unit, None))?, &TIMESTAMP)?,
        _ => cast(times, &TIMESTAMP)?,
    };
    Ok(plain.as_primitive::<TimestampMillisecondType>().clone())
}

fn clock(times: &ArrayRef, unit: i64, modulus: i64) -> Result<ArrayRef> {
    let values: Int64Array = millis_of(times)?.unary(|millis| millis.div_euclid(unit).rem_euclid(modulus));
    Ok(Arc::new(values))
}

/// Writes each time. The text of a unit is made once and copied while the rows stay in it; the last few are kept.
fn format(times: &TimestampMillisecondArray, pattern: &Pattern) -> Result<StringArray> {
    let unit = pattern.unit();
    let mut texts: [(i64, String); TEXTS] = std::array::from_fn(|_| (i64::MIN, String::new()));
    let (mut from, mut to, mut current) = (0_i64, 0_i64, 0_usize);
    let mut bytes: Vec<u8> = Vec::with_capacity(times.len() * 16);
    let mut offsets: Vec<i32> = Vec::with_capacity(times.len() + 1);
    offsets.push(0);
    let nulls: Option<&NullBuffer> = times.nulls();
    for (row, &millis) in times.values().iter().enumerate() {
        if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
            if millis < from || millis >= to {
                let key = millis.div_euclid(unit);
                from = key.saturating_mul(unit);
                to = from.saturating_add(unit);
                current = (key as usize) % TEXTS;
                let (kept, text) = &mut texts[current];
                if *kept != key || text.is_empty() {
                    *kept = key;
                    text.clear();
                    pattern.write(from, text);
                }
            }
            bytes.extend_from_slice(texts[current].1.as_bytes());
        }
        offsets.push(i32::try_from(bytes.len()).or_else(|_| exec_err!("a column of texts has more than 2 GiB"))?);
    }
    Ok(StringArray::try_new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(bytes), nulls.cloned())?)
}

/// Times as Flink writes them in a CAST: `2015-07-15 00:00:01.234`.
fn to_text(times: &ArrayRef) -> Result<ArrayRef> {
    let pattern = match times.data_type() {
        DataType::Date32 => "yyyy-MM-dd",
        DataType::Time32(_) | DataType::Time64(_) => "HH:mm:ss",
        _ => "yyyy-MM-dd HH:mm:ss.SSS",
    };
    Ok(Arc::new(format(&millis_of(times)?, &compiled(pattern)?)?))
}

/// Reads each text; null where it does not fit.
fn read(texts: &ArrayRef, read: impl Fn(&str) -> Option<i64>) -> TimestampMillisecondArray {
    texts.as_string::<i32>().iter().map(|text| text.and_then(|text| read(text.trim()))).collect()
}

fn round(args: &ScalarFunctionArgs, down: bool, times: &ArrayRef) -> Result<ArrayRef> {
    let unit = match &args.args[0] {
        ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit))) => Unit::named(unit),
        _ => None,
    };
    let Some(unit) = unit.filter(|unit| unit.floor(0).is_some()) else {
        return exec_err!("FLOOR and CEIL round to YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE or SECOND");
    };
    let rounded: TimestampMillisecondArray =
        millis_of(times)?.unary(|millis| if down { unit.floor(millis) } else { unit.ceil(millis) }.unwrap_or(millis));
    Ok(match times.data_type() {
        DataType::Date32 => cast(&(Arc::new(rounded) as ArrayRef), &DataType::Date32)?,
        DataType::Timestamp(_, Some(_)) => Arc::new(rounded.with_timezone("UTC")),
        _ => Arc::new(rounded),
    })
}
