//! Texts to values and back, with Flink's meaning, which is mostly Java's.
//!
//! What is read is trimmed as Java trims, of everything up to the space. A value that cannot be read is an error; the only one that
//! becomes NULL is a decimal with more digits than its column has room for.

use std::fmt::{LowerExp, Write as _};

use arrow::datatypes::TimeUnit;
use chrono::{Datelike as _, NaiveDate};

/// Digits of the largest decimal.
const MOST_DIGITS: usize = 38;
/// Beyond this an exponent makes a value of nothing or of too much, whatever the digits are.
const MOST_EXPONENT: i64 = 1 << 31;
const SECONDS_A_DAY: i64 = 86_400;
const NANOS: u32 = 1_000_000_000;

/// Without what Java's `String.trim` takes away.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}

/// A whole number of any width.
pub(super) fn whole<T: std::str::FromStr>(text: &str) -> Option<T> {
    let text = trimmed(text);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| text.parse().ok()).flatten()
}

/// A whole number that is written with a point or an exponent. One with a fraction is none.
pub(super) fn integral(text: &str) -> Option<i64> {
    /// The first that is no `i64`.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    let number: f64 = text.parse().ok()?;
    (number.fract() == 0.0 && (-BEYOND..BEYOND).contains(&number)).then_some(number as i64)
}

/// A number with a fraction, as Java reads it: `NaN` and `Infinity` in this very form, and a type's letter behind the digits.
pub(super) fn floating<T: std::str::FromStr>(text: &str) -> Option<T> {
    let text = trimmed(text);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, "NaN" | "Infinity") {
        return text.parse().ok();
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text).parse().ok()
}

/// `true` or `false`, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    let text = trimmed(text);
    match text.len() {
        4 if text.eq_ignore_ascii_case("true") => Some(true),
        5 if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A number has more digits than its type may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyDigits;

/// A decimal: its digits are rounded to `scale`, half away from zero. `None` if the text is no number.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Option<Result<i128, TooManyDigits>> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, whole_exponent(exponent)?),
        None => (unsigned, 0),
    };
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = || before.bytes().chain(behind.bytes());
    if before.len() + behind.len() == 0 || !all().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // So many of the digits, without leading zeros, are kept; more than there are stand for zeros.
    let digits: Vec<u8> = all().skip_while(|&byte| byte == b'0').map(|byte| byte - b'0').collect();
    let kept = digits.len() as i64 + exponent - behind.len() as i64 + i64::from(scale);
    if digits.is_empty() || kept < 0 {
        return Some(Ok(0));
    }
    if kept > MOST_DIGITS as i64 + 1 {
        return Some(Err(TooManyDigits));
    }
    let kept = kept as usize;
    let mut value: i128 = 0;
    for place in 0..kept {
        let digit = digits.get(place).copied().unwrap_or(0);
        match value.checked_mul(10).and_then(|value| value.checked_add(i128::from(digit))) {
            Some(more) => value = more,
            None => return Some(Err(TooManyDigits)),
        }
    }
    if digits.get(kept).is_some_and(|&next| next >= 5) {
        value += 1;
    }
    let fits = value < 10_i128.pow(u32::from(precision).min(MOST_DIGITS as u32));
    Some(if fits { Ok(if negative { -value } else { value }) } else { Err(TooManyDigits) })
}

fn whole_exponent(text: &str) -> Option<i64> {
    whole::<i64>(text).filter(|exponent| trimmed(text) == text && exponent.abs() <= MOST_EXPONENT)
}

/// How strictly times are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digits {
    /// Two for a month or a day, as in JSON.
    Two,
    /// One or two, as in CSV, where there may also be spaces around a timestamp.
    OneOrTwo,
}

/// The pieces of a time, read from the left.
struct Clock<'a>(&'a str, Digits);

impl Clock<'_> {
    /// A number of so many digits.
    fn digits(&mut self, count: usize) -> Option<u32> {
        let digits = self.0.get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        self.0 = &self.0[count..];
        digits.parse().ok()
    }

    /// A month, day, hour, minute or second.
    fn part(&mut self) -> Option<u32> {
        let is_short = self.1 == Digits::OneOrTwo && !self.0.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        self.digits(if is_short { 1 } else { 2 })
    }

    fn skip(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// `2024-05-06`; a year of more digits has a sign.
    fn date(&mut self) -> Option<NaiveDate> {
        let sign = self.0.bytes().next().filter(|byte| matches!(byte, b'+' | b'-'));
        self.0 = &self.0[usize::from(sign.is_some())..];
        let width = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let fits = match sign {
            None => width == 4,
            Some(b'+') => (5..=9).contains(&width),
            Some(_) => (4..=9).contains(&width),
        };
        let year = fits.then(|| self.digits(width)).flatten()?.cast_signed();
        let year = if sign == Some(b'-') { -year } else { year };
        self.skip("-")?;
        let month = self.part()?;
        self.skip("-")?;
        NaiveDate::from_ymd_opt(year, month, self.part()?)
    }

    /// `07:08:09.123`, as seconds of the day and nanoseconds; seconds may lack where `short` says so.
    fn time(&mut self, short: bool) -> Option<(u32, u32)> {
        let hours = self.part()?;
        self.skip(":")?;
        let minutes = self.part()?;
        if hours > 23 || minutes > 59 {
            return None;
        }
        let start = hours * 3600 + minutes * 60;
        if self.skip(":").is_none() {
            return short.then_some((start, 0));
        }
        let seconds = self.part().filter(|&seconds| seconds < 60)?;
        Some((start + seconds, self.fraction()?))
    }

    fn fraction(&mut self) -> Option<u32> {
        if self.skip(".").is_none() {
            return Some(0);
        }
        let width = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let fraction = self.digits(width)?;
        (width <= 9).then(|| fraction * 10_u32.pow(9 - width as u32))
    }

    /// Of a time with a zone: none or `Z` for UTC, else `+02:00`. In seconds.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() || self.skip("Z").is_some() {
            return Some(0);
        }
        let sign = if self.skip("+").is_some() { 1 } else { self.skip("-").map(|()| -1)? };
        let hours = self.digits(2)?;
        self.skip(":")?;
        let minutes = self.digits(2)?;
        (hours <= 18 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
    }

    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// Days since 1970.
pub(super) fn date(text: &str, digits: Digits) -> Option<i32> {
    let mut clock = Clock(text, digits);
    let date = clock.date()?;
    clock.end(days(date))
}

fn days(date: NaiveDate) -> i32 {
    date.num_days_from_ce() - EPOCH_FROM_CE
}

/// The day number of 1970-01-01, counted from year 1.
const EPOCH_FROM_CE: i32 = 719_163;

/// Milliseconds of the day.
pub(super) fn time(text: &str, digits: Digits) -> Option<i32> {
    // CSV's are read as ISO's, which need no seconds but all digits; JSON's as SQL's.
    let mut clock = Clock(text, Digits::Two);
    let (seconds, nanos) = clock.time(digits == Digits::OneOrTwo)?;
    clock.end((seconds * 1000 + nanos / 1_000_000).cast_signed())
}

/// A timestamp in this unit since 1970, in SQL's form or in ISO's. `Z` may stand behind each; an instant may have an offset.
pub(super) fn timestamp(text: &str, digits: Digits, unit: TimeUnit, instant: bool) -> Option<i64> {
    let text = if digits == Digits::OneOrTwo { trimmed(text) } else { text };
    let mut clock = Clock(text, Digits::Two);
    let date = clock.date()?;
    let iso = clock.skip("T").is_some();
    if !iso {
        clock.skip(" ")?;
    }
    let (seconds, nanos) = clock.time(iso)?;
    let offset = if instant { clock.offset()? } else { clock.skip("Z").map_or(0, |()| 0) };
    let seconds = i64::from(days(date)) * SECONDS_A_DAY + i64::from(seconds) - offset;
    clock.end(())?;
    let per_second = per_second(unit);
    seconds.checked_mul(per_second)?.checked_add(i64::from(nanos) / (i64::from(NANOS) / per_second))
}

/// How many of a unit there are in a second.
pub(super) const fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the bytes that a text in base64 stands for.
pub(super) fn from_base64(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text).as_bytes();
    for four in digits.chunks(4) {
        let mut bits: u32 = 0;
        for &letter in four {
            bits = bits << 6 | BASE64.iter().position(|&known| known == letter)? as u32;
        }
        match four.len() {
            4 => bytes.extend_from_slice(&bits.to_be_bytes()[1..]),
            3 => bytes.extend_from_slice(&(bits << 6).to_be_bytes()[1..3]),
            2 => bytes.push((bits << 12).to_be_bytes()[1]),
            _ => return None,
        }
    }
    Some(())
}

/// Appends bytes in base64.
pub(super) fn to_base64(bytes: &[u8], text: &mut Vec<u8>) {
    for three in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(bits);
        for place in 0..4 {
            let letter = BASE64[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place as usize <= three.len() { letter } else { b'=' });
        }
    }
}

/// A number as Java writes it: plain from a thousandth to ten million, and always with a fraction.
pub(super) fn to_java<T: LowerExp + Into<f64> + Copy>(number: T) -> String {
    let value: f64 = number.into();
    if value.is_nan() {
        return "NaN".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    // The fewest digits that read back as the number, in `d.dddde±x`; where one would do, the best two.
    let fewest = format!("{number:e}");
    let digits = if fewest.contains('.') { fewest } else { format!("{number:.1e}") };
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    // Of two digits the second is mostly none.
    let digits = digits.strip_suffix('0').filter(|_| digits.len() == 2).unwrap_or(&digits);
    let mut text = sign.to_string();
    if value == 0.0 {
        text.push_str("0.0");
    } else if (-3..7).contains(&exponent) {
        plain(digits, exponent, &mut text);
    } else {
        let behind = if digits.len() > 1 { &digits[1..] } else { "0" };
        let _ = write!(text, "{}.{behind}E{exponent}", &digits[..1]);
    }
    text
}

/// Digits with the point where the exponent says.
fn plain(digits: &str, exponent: i32, text: &mut String) {
    if exponent < 0 {
        text.push_str("0.");
        (1..-exponent).for_each(|_| text.push('0'));
        text.push_str(digits);
        return;
    }
    let before = exponent as usize + 1;
    for place in 0..before.max(digits.len()) {
        if place == before {
            text.push('.');
        }
        text.push(digits[place.min(digits.len())..].chars().next().unwrap_or('0'));
    }
    if before >= digits.len() {
        text.push_str(".0");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn base64_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (mut text, mut back) = (Vec::new(), Vec::new());
            to_base64(&bytes, &mut text);
            prop_assert_eq!(text.len() % 4, 0);
            from_base64(std::str::from_utf8(&text).unwrap(), &mut back).unwrap();
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn numbers_in_javas_form_come_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let text = to_java(value);
            let back: f64 = floating(&text).unwrap();
            prop_assert!(back.to_bits() == value.to_bits() || (back.is_nan() && value.is_nan()), "{text}");
        }

        #[test]
        fn decimals_are_read_to_the_last_digit(value in -(10_i128.pow(38) - 1)..10_i128.pow(38)) {
            prop_assert_eq!(decimal(&value.to_string(), 38, 0), Some(Ok(value)));
            prop_assert_eq!(decimal(&format!("{value}e-7"), 38, 7), Some(Ok(value)));
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,40}") {
            let _ = (decimal(&text, 10, 2), floating::<f64>(&text), whole::<i8>(&text), boolean(&text), date(&text, Digits::OneOrTwo), time(&text, Digits::Two));
            let _ = (timestamp(&text, Digits::OneOrTwo, TimeUnit::Nanosecond, true), from_base64(&text, &mut Vec::new()));
        }
    }
}
