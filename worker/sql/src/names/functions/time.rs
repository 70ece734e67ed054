//! Functions of time with Flink's meaning: the clock, fields of a time, formatting and reading with Java's patterns,
//! rounding. Times are milliseconds since the epoch, the session's zone is UTC.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray, StringArray, TimestampMillisecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::{DatePart, cast, date_part};
use arrow::datatypes::{DataType, Date32Type, Field, FieldRef, Int64Type, TimeUnit, TimestampMillisecondType};
use datafusion_common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::cast::{date, timestamp};
use super::compiled::Compiled;
use super::pattern::{DAY, Pattern, civil, days_of};
use crate::parse::types::{TIMESTAMP, flink_name, timestamp_ltz};

/// The pattern where none is given.
const DEFAULT_PATTERN: &str = "yyyy-MM-dd HH:mm:ss";

/// Distinct texts kept while one column is formatted; a stream's neighbouring rows rarely have more.
const TEXTS: usize = 64;

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
    Microsecond,
    Nanosecond,
    IsoDayOfWeek,
    IsoYear,
    Decade,
    Century,
    Millennium,
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
            "MICROSECOND" => Self::Microsecond,
            "NANOSECOND" => Self::Nanosecond,
            "ISODOW" => Self::IsoDayOfWeek,
            "ISOYEAR" => Self::IsoYear,
            "DECADE" => Self::Decade,
            "CENTURY" => Self::Century,
            "MILLENNIUM" => Self::Millennium,
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
            Self::Microsecond => return beyond_the_second(times, 1_000_000),
            Self::Nanosecond => return beyond_the_second(times, 1_000_000_000),
            Self::IsoDayOfWeek => return of_days(times, iso_day_of_week),
            // A week is in the year that its Thursday is in.
            Self::IsoYear => return of_days(times, |days| civil(days + 4 - iso_day_of_week(days)).0),
            Self::Decade => return of_days(times, |days| civil(days).0.div_euclid(10)),
            Self::Century => return of_days(times, |days| counted(civil(days).0, 100)),
            Self::Millennium => return of_days(times, |days| counted(civil(days).0, 1_000)),
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

    /// Whether a DATE has it.
    fn of_a_date(self) -> bool {
        !matches!(self, Self::Microsecond | Self::Nanosecond)
    }

    /// Whether a TIME has it.
    fn of_a_clock(self) -> bool {
        matches!(self, Self::Hour | Self::Minute | Self::Second | Self::Millisecond)
    }

    /// The start of the unit that the time is in.
    fn floor(self, millis: i64) -> Option<i64> {
        let days = millis.div_euclid(DAY);
        let (year, month, _) = civil(days);
        Some(match self {
            Self::Year => days_of(year, 1, 1).saturating_mul(DAY),
            Self::Quarter => days_of(year, (month - 1) / 3 * 3 + 1, 1).saturating_mul(DAY),
            Self::Month => days_of(year, month, 1).saturating_mul(DAY),
            // Weeks begin on Sunday here, as in Flink; 1970-01-04 was one.
            Self::Week => (days - (days - 3).rem_euclid(7)).saturating_mul(DAY),
            Self::DayOfMonth => days.saturating_mul(DAY),
            Self::Hour => millis.saturating_sub(millis.rem_euclid(3_600_000)),
            Self::Minute => millis.saturating_sub(millis.rem_euclid(60_000)),
            Self::Second => millis.saturating_sub(millis.rem_euclid(1_000)),
            Self::Millisecond => millis,
            Self::Decade => days_of(year.div_euclid(10) * 10, 1, 1).saturating_mul(DAY),
            Self::Century => days_of((counted(year, 100) - 1) * 100 + 1, 1, 1).saturating_mul(DAY),
            Self::Millennium => days_of((counted(year, 1_000) - 1) * 1_000 + 1, 1, 1).saturating_mul(DAY),
            Self::DayOfYear
            | Self::DayOfWeek
            | Self::Epoch
            | Self::Microsecond
            | Self::Nanosecond
            | Self::IsoDayOfWeek
            | Self::IsoYear => return None,
        })
    }

    /// The start of the next unit, or the time itself where it is a start.
    fn ceil(self, millis: i64) -> Option<i64> {
        // Where the unit is longer than a day the clock does not count, as in Flink.
        let millis = match self {
            Self::Year | Self::Quarter | Self::Month | Self::Week => millis.saturating_sub(millis.rem_euclid(DAY)),
            _ => millis,
        };
        let floor = self.floor(millis)?;
        if floor == millis {
            return Some(millis);
        }
        let (year, month, _) = civil(floor.div_euclid(DAY));
        let in_months = |months: i64| {
            let month = month - 1 + months;
            days_of(year + month / 12, month % 12 + 1, 1).saturating_mul(DAY)
        };
        Some(match self {
            Self::Year => in_months(12),
            Self::Quarter => in_months(3),
            Self::Month => in_months(1),
            Self::Decade => in_months(120),
            Self::Century => in_months(1_200),
            Self::Millennium => in_months(12_000),
            Self::Week => floor.saturating_add(7 * DAY),
            Self::DayOfMonth => floor.saturating_add(DAY),
            Self::Hour => floor.saturating_add(3_600_000),
            Self::Minute => floor.saturating_add(60_000),
            _ => floor.saturating_add(1_000),
        })
    }
}

/// Monday is 1; 1970-01-01 was a Thursday.
fn iso_day_of_week(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// Which century, or thousand, of years a year is in; the first begins with the year 1.
fn counted(year: i64, length: i64) -> i64 {
    (year - 1).div_euclid(length) + 1
}

fn of_days(times: &ArrayRef, of: impl Fn(i64) -> i64) -> Result<ArrayRef> {
    let values: Int64Array = millis_of(times)?.unary(|millis| of(millis.div_euclid(DAY)));
    Ok(Arc::new(values))
}

/// What a time has beyond its second, in parts of which a second has so many.
fn beyond_the_second(times: &ArrayRef, parts: i64) -> Result<ArrayRef> {
    let per_second = match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000_000,
        _ => {
            let values: Int64Array = millis_of(times)?.unary(|millis| millis.rem_euclid(1_000) * (parts / 1_000));
            return Ok(Arc::new(values));
        }
    };
    let ticks = cast(times, &DataType::Int64)?;
    let values: Int64Array = ticks.as_primitive::<Int64Type>().unary(|tick| {
        let rest = tick.rem_euclid(per_second);
        if parts >= per_second { rest * (parts / per_second) } else { rest / (per_second / parts) }
    });
    Ok(Arc::new(values))
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
        function("dayofyear", &[], Kind::Part(Unit::DayOfYear)),
        function("dayofmonth", &[], Kind::Part(Unit::DayOfMonth)),
        function("dayofweek", &[], Kind::Part(Unit::DayOfWeek)),
        function("hour", &[], Kind::Part(Unit::Hour)),
        function("minute", &[], Kind::Part(Unit::Minute)),
        function("second", &[], Kind::Part(Unit::Second)),
        // Those that only EXTRACT gives.
        function("$extract_millisecond", &[], Kind::Part(Unit::Millisecond)),
        function("$extract_epoch", &[], Kind::Part(Unit::Epoch)),
        function("$extract_microsecond", &[], Kind::Part(Unit::Microsecond)),
        function("$extract_nanosecond", &[], Kind::Part(Unit::Nanosecond)),
        function("$extract_isodow", &[], Kind::Part(Unit::IsoDayOfWeek)),
        function("$extract_isoyear", &[], Kind::Part(Unit::IsoYear)),
        function("$extract_decade", &[], Kind::Part(Unit::Decade)),
        function("$extract_century", &[], Kind::Part(Unit::Century)),
        function("$extract_millennium", &[], Kind::Part(Unit::Millennium)),
        function("date_format", &[], Kind::Format),
        function("to_timestamp", &[], Kind::ToTimestamp),
        function("to_timestamp_ltz", &[], Kind::ToTimestampLtz),
        function("to_date", &[], Kind::ToDate),
        function("from_unixtime", &[], Kind::FromUnixtime),
        function("unix_timestamp", &[], Kind::UnixTimestamp),
        function(FLOOR_TO, &[], Kind::Floor),
        function(CEIL_TO, &[], Kind::Ceil),
    ]
}

impl TimeFunction {
    /// What is given a time only writes it, with more letters than there are where texts are read too.
    fn compiled(&self, pattern: &str, first: &DataType) -> std::result::Result<Pattern, String> {
        if self.kind == Kind::Format && !matches!(first, DataType::Utf8 | DataType::Null) {
            return Pattern::compile_to_write(pattern);
        }
        Pattern::compile(pattern)
    }

    /// The type that an argument of this type is cast to.
    fn argument(&self, position: usize, data_type: &DataType) -> Result<DataType> {
        let name = self.name.trim_start_matches('$').to_ascii_uppercase();
        let wrong = |takes: &str| plan_err!("{name} takes {takes}, and {} is given", flink_name(data_type));
        let is_whole = matches!(data_type, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64);
        match (self.kind, position, data_type) {
            (Kind::Part(_) | Kind::Format, 0, DataType::Null) | (Kind::Floor | Kind::Ceil, 1, DataType::Null) => {
                Ok(TIMESTAMP)
            }
            (Kind::Part(_) | Kind::Format, 0, DataType::Timestamp(..))
            | (Kind::Floor | Kind::Ceil, 1, DataType::Timestamp(..) | DataType::Date32 | DataType::Time32(_)) => {
                Ok(data_type.clone())
            }
            (Kind::Format, 0, DataType::Utf8) => Ok(DataType::Utf8),
            (Kind::Part(unit), 0, DataType::Date32) if unit.of_a_date() => Ok(data_type.clone()),
            (Kind::Part(unit), 0, DataType::Time32(_)) if unit.of_a_clock() => Ok(data_type.clone()),
            (Kind::Part(_) | Kind::Format, 0, _) | (Kind::Floor | Kind::Ceil, 1, _) => wrong("a time"),
            (Kind::ToTimestampLtz, 0, _) if data_type.is_numeric() || *data_type == DataType::Null => {
                Ok(DataType::Int64)
            }
            (Kind::ToTimestampLtz, 0, _) => wrong("a number"),
            (Kind::FromUnixtime, 0, _) | (Kind::ToTimestampLtz, 1, _) => {
                if is_whole || *data_type == DataType::Null {
                    Ok(DataType::Int64)
                } else {
                    wrong("a whole number")
                }
            }
            (_, _, DataType::Utf8 | DataType::Null) => Ok(DataType::Utf8),
            _ => wrong("a text"),
        }
    }
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
            Kind::Format | Kind::FromUnixtime => DataType::Utf8,
            Kind::Floor | Kind::Ceil => arguments.get(1).cloned().unwrap_or(TIMESTAMP),
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        // A pattern that is written out is checked before any row is there.
        if matches!(
            self.kind,
            Kind::Format | Kind::ToTimestamp | Kind::ToDate | Kind::FromUnixtime | Kind::UnixTimestamp
        ) && let Some(Some(ScalarValue::Utf8(Some(pattern)))) = args.scalar_arguments.get(1)
            && let Err(problem) = self.compiled(pattern, args.arg_fields[0].data_type())
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
        if matches!(self.kind, Kind::Floor | Kind::Ceil)
            && matches!(types.get(1), Some(DataType::Time32(_)))
            && let Some(Some(ScalarValue::Utf8(Some(unit)))) = args.scalar_arguments.first()
            && !Unit::named(unit).is_some_and(Unit::of_a_clock)
        {
            return plan_err!("FLOOR and CEIL round a TIME to HOUR, MINUTE, SECOND or MILLISECOND");
        }
        let nullable = !matches!(self.kind, Kind::Now(_));
        Ok(Arc::new(Field::new(self.name, self.return_type(&types)?, nullable)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let (least, most) = match self.kind {
            Kind::Now(_) => (0, 0),
            Kind::Part(_) => (1, 1),
            Kind::Format | Kind::Floor | Kind::Ceil => (2, 2),
            Kind::ToTimestamp | Kind::ToTimestampLtz | Kind::ToDate | Kind::FromUnixtime => (1, 2),
            Kind::UnixTimestamp => (0, 2),
        };
        let name = self.name.to_ascii_uppercase();
        if arguments.len() < least || arguments.len() > most {
            let expected = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            return plan_err!("{name} takes {expected} arguments, and {} are given", arguments.len());
        }
        arguments.iter().enumerate().map(|(position, data_type)| self.argument(position, data_type)).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let length = if all_scalar { 1 } else { rows };
        let array = |position: usize| args.args[position].to_array(length);
        let pattern = |position: usize| match args.args.get(position) {
            None => Ok(Patterns::Constant(compiled(DEFAULT_PATTERN)?)),
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(text)))) => {
                let pattern = self.compiled(text, &args.args[0].data_type());
                Ok(Patterns::Constant(pattern.or_else(|problem| exec_err!("{problem}"))?))
            }
            Some(column) => {
                let lenient = self.kind == Kind::ToTimestamp;
                Ok::<_, DataFusionError>(Patterns::Column { patterns: column.to_array(length)?, lenient })
            }
        };
        let result: ArrayRef = match self.kind {
            Kind::Now(clock) => return Ok(ColumnarValue::Scalar(now(clock))),
            Kind::Part(unit) => unit.of(&array(0)?)?,
            Kind::Format => {
                let times = array(0)?;
                match times.data_type() {
                    DataType::Utf8 => {
                        Arc::new(pattern(1)?.format(&as_array(texts_as_times(&times)), Compiled::times())?)
                    }
                    _ => Arc::new(pattern(1)?.format(&times, Compiled::written_times())?),
                }
            }
            Kind::ToTimestamp => match args.args.len() {
                1 => Arc::new(read(&array(0)?, plain_time)),
                _ => Arc::new(pattern(1)?.read::<TimestampMillisecondType>(&array(0)?, |pattern, text| {
                    pattern.read(text).or_else(|| plain_time(text.trim()))
                })?),
            },
            Kind::ToDate => {
                let times = match args.args.len() {
                    1 => read(&array(0)?, plain_date),
                    _ => pattern(1)?.read::<TimestampMillisecondType>(&array(0)?, Pattern::read_leniently)?,
                };
                let days: PrimitiveArray<Date32Type> = times.unary(|millis| millis.div_euclid(DAY) as i32);
                Arc::new(days)
            }
            Kind::ToTimestampLtz => local_times(&array(0)?, args.args.get(1), length)?,
            Kind::FromUnixtime => {
                let times: TimestampMillisecondArray =
                    array(0)?.as_primitive::<Int64Type>().unary(|seconds| seconds.wrapping_mul(1_000));
                Arc::new(pattern(1)?.format(&as_array(times), Compiled::times())?)
            }
            Kind::UnixTimestamp => {
                if args.args.is_empty() {
                    let seconds = wall_clock().div_euclid(1_000);
                    return Ok(ColumnarValue::Scalar(ScalarValue::Int64(Some(seconds))));
                }
                // Of a text that is no time the least number, as in Flink.
                Arc::new(pattern(1)?.read::<Int64Type>(&array(0)?, |pattern, text| {
                    Some(pattern.read_leniently(text).map_or(i64::MIN, |millis| millis.div_euclid(1_000)))
                })?)
            }
            Kind::Floor | Kind::Ceil => round(&args, self.kind == Kind::Floor, &array(1)?)?,
        };
        if all_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// How times are written or read: one way, which has a meaning, or one a row. A row whose pattern has none fails, or is NULL.
enum Patterns {
    Constant(Pattern),
    Column { patterns: ArrayRef, lenient: bool },
}

impl Patterns {
    /// Those of a column are compiled by `compiled`.
    fn format(&self, times: &ArrayRef, mut compiled: Compiled<Pattern>) -> Result<StringArray> {
        match self {
            Self::Constant(pattern) => format_exactly(times, pattern),
            Self::Column { patterns, lenient } => {
                let millis = millis_of(times)?;
                let nanos = beyond_the_second(times, 1_000_000_000)?;
                let nanos = nanos.as_primitive::<Int64Type>();
                let text = |(row, (millis, text)): (usize, (Option<i64>, Option<&str>))| {
                    let Some((millis, text)) = millis.zip(text) else { return Ok(None) };
                    let Some(pattern) = compiled.get(text) else { return without_meaning(text, *lenient) };
                    let mut out = String::new();
                    pattern.write_exact(millis, nanos.value(row) % 1_000_000, &mut out);
                    Ok(Some(out))
                };
                millis.iter().zip(patterns.as_string::<i32>()).enumerate().map(text).collect()
            }
        }
    }

    fn read<T: ArrowPrimitiveType>(
        &self,
        texts: &ArrayRef,
        of: impl Fn(&Pattern, &str) -> Option<T::Native>,
    ) -> Result<PrimitiveArray<T>> {
        let texts = texts.as_string::<i32>();
        match self {
            Self::Constant(pattern) => Ok(texts.iter().map(|text| of(pattern, text?)).collect()),
            Self::Column { patterns, lenient } => {
                let mut compiled = Compiled::times();
                let time = |(text, pattern): (Option<&str>, Option<&str>)| {
                    let Some((text, pattern)) = text.zip(pattern) else { return Ok(None) };
                    match compiled.get(pattern) {
                        Some(pattern) => Ok(of(pattern, text)),
                        None => without_meaning(pattern, *lenient),
                    }
                };
                texts.iter().zip(patterns.as_string::<i32>()).map(time).collect()
            }
        }
    }
}

fn without_meaning<T>(pattern: &str, lenient: bool) -> Result<Option<T>> {
    match Pattern::compile_to_write(pattern) {
        Err(problem) if !lenient => exec_err!("{problem}"),
        Ok(_) if !lenient => exec_err!("a letter of the pattern is one by which no time is read"),
        _ => Ok(None),
    }
}

fn as_array(times: TimestampMillisecondArray) -> ArrayRef {
    Arc::new(times)
}

fn compiled(pattern: &str) -> Result<Pattern> {
    Pattern::compile(pattern).or_else(|problem| exec_err!("{problem}"))
}

/// What `TO_TIMESTAMP` takes without a pattern: what CAST takes, in milliseconds.
fn plain_time(text: &str) -> Option<i64> {
    let (days, nanos) = timestamp(text)?;
    Some(days * DAY + nanos / 1_000_000)
}

/// What `TO_DATE` takes without a pattern: what CAST takes, but no blank before it.
fn plain_date(text: &str) -> Option<i64> {
    if text.starts_with(' ') { None } else { Some(date(text)? * DAY) }
}

/// Texts in the place of times, as `DATE_FORMAT` takes them: whole seconds.
fn texts_as_times(texts: &ArrayRef) -> TimestampMillisecondArray {
    match Pattern::compile(DEFAULT_PATTERN) {
        Ok(pattern) => read(texts, |text| pattern.read_leniently(text)),
        Err(_) => read(texts, |_| None),
    }
}

/// So many of so many milliseconds as a time of the years 1 to 9999; NULL beyond.
fn local_time(number: i64, milliseconds: i64) -> Option<i64> {
    let (first, last) = (days_of(1, 1, 1) * DAY, days_of(10_000, 1, 1) * DAY);
    number.checked_mul(milliseconds).filter(|millis| (first..last).contains(millis))
}

/// `TO_TIMESTAMP_LTZ`: numbers of seconds or, which is the default, of milliseconds.
fn local_times(numbers: &ArrayRef, precisions: Option<&ColumnarValue>, length: usize) -> Result<ArrayRef> {
    let numbers = numbers.as_primitive::<Int64Type>();
    let times: TimestampMillisecondArray = match precisions {
        None | Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(3)))) => {
            numbers.unary_opt(|number| local_time(number, 1))
        }
        Some(precisions) => {
            let precisions = precisions.to_array(length)?;
            let precisions = precisions.as_primitive::<Int64Type>().iter();
            let time = |(number, precision): (Option<i64>, Option<i64>)| match precision? {
                0 => local_time(number?, 1_000),
                3 => local_time(number?, 1),
                _ => None,
            };
            numbers.iter().zip(precisions).map(time).collect()
        }
    };
    Ok(Arc::new(times.with_timezone("UTC")))
}

fn wall_clock() -> i64 {
    weir_runtime::clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
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
        DataType::Timestamp(TimeUnit::Millisecond, None) => Arc::clone(times),
        DataType::Time32(_) | DataType::Time64(_) => {
            let millis = cast(times, &DataType::Time32(TimeUnit::Millisecond))?;
            cast(&cast(&cast(&millis, &DataType::Int32)?, &DataType::Int64)?, &TIMESTAMP)?
        }
        DataType::Timestamp(unit, _) => {
            let ticks = cast(times, &DataType::Int64)?;
            let ticks = ticks.as_primitive::<Int64Type>();
            // Down, also before 1970.
            let millis: TimestampMillisecondArray = match unit {
                TimeUnit::Second => ticks.unary(|tick| tick.saturating_mul(1_000)),
                TimeUnit::Millisecond => ticks.unary(|tick| tick),
                TimeUnit::Microsecond => ticks.unary(|tick| tick.div_euclid(1_000)),
                TimeUnit::Nanosecond => ticks.unary(|tick| tick.div_euclid(1_000_000)),
            };
            return Ok(millis);
        }
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

/// Times as Flink writes them in a CAST: `2015-07-15 00:00:01.234`, with as many digits behind the second as the type has.
pub fn to_text(times: &ArrayRef) -> Result<ArrayRef> {
    let pattern = match times.data_type() {
        DataType::Date32 => "yyyy-MM-dd",
        DataType::Time32(_) | DataType::Time64(_) => "HH:mm:ss",
        DataType::Timestamp(TimeUnit::Second, _) => "yyyy-MM-dd HH:mm:ss",
        DataType::Timestamp(TimeUnit::Microsecond, _) => "yyyy-MM-dd HH:mm:ss.SSSSSS",
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "yyyy-MM-dd HH:mm:ss.SSSSSSSSS",
        _ => "yyyy-MM-dd HH:mm:ss.SSS",
    };
    Ok(Arc::new(format_exactly(times, &compiled(pattern)?)?))
}

/// Writes each time with what it has beyond its millisecond.
fn format_exactly(times: &ArrayRef, pattern: &Pattern) -> Result<StringArray> {
    let nanos_of_tick = match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1,
        _ => return format(&millis_of(times)?, pattern),
    };
    if pattern.unit() > 1 {
        return format(&millis_of(times)?, pattern);
    }
    let ticks = cast(times, &DataType::Int64)?;
    let per_millisecond = 1_000_000 / nanos_of_tick;
    let text = |tick: i64| {
        let mut text = String::new();
        pattern.write_exact(
            tick.div_euclid(per_millisecond),
            tick.rem_euclid(per_millisecond) * nanos_of_tick,
            &mut text,
        );
        text
    };
    Ok(ticks.as_primitive::<Int64Type>().iter().map(|tick| tick.map(text)).collect())
}

/// Reads each text; null where it does not fit.
fn read(texts: &ArrayRef, read: impl Fn(&str) -> Option<i64>) -> TimestampMillisecondArray {
    texts.as_string::<i32>().iter().map(|text| text.and_then(&read)).collect()
}

fn round(args: &ScalarFunctionArgs, down: bool, times: &ArrayRef) -> Result<ArrayRef> {
    let unit = match &args.args[0] {
        ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit))) => Unit::named(unit),
        _ => None,
    };
    let Some(unit) = unit.filter(|unit| unit.floor(0).is_some()) else {
        return exec_err!("FLOOR and CEIL round to YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE, SECOND and the like");
    };
    let rounded = |millis: i64| if down { unit.floor(millis) } else { unit.ceil(millis) }.unwrap_or(millis);
    match times.data_type() {
        DataType::Timestamp(tick, _) => {
            let per_millisecond = match tick {
                TimeUnit::Nanosecond => 1_000_000,
                TimeUnit::Microsecond => 1_000,
                _ => 1,
            };
            let ticks = cast(times, &DataType::Int64)?;
            // What the type does not hold is NULL.
            let ticks: Int64Array = ticks.as_primitive::<Int64Type>().unary_opt(|tick| {
                let millis = tick.div_euclid(per_millisecond);
                let is_cut = !down && unit == Unit::Millisecond && tick.rem_euclid(per_millisecond) != 0;
                rounded(millis).checked_add(i64::from(is_cut))?.checked_mul(per_millisecond)
            });
            Ok(cast(&ticks, times.data_type())?)
        }
        DataType::Time32(_) if unit.of_a_clock() => {
            let clocks: Int64Array = millis_of(times)?.unary(|millis| rounded(millis).rem_euclid(DAY));
            Ok(cast(&cast(&clocks, &DataType::Int32)?, times.data_type())?)
        }
        DataType::Date32 => {
            let days: PrimitiveArray<Date32Type> =
                millis_of(times)?.unary(|millis| rounded(millis).div_euclid(DAY) as i32);
            Ok(Arc::new(days))
        }
        _ => exec_err!("FLOOR and CEIL round a TIME to HOUR, MINUTE, SECOND or MILLISECOND"),
    }
}
