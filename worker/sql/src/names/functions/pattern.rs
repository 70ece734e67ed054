//! Java's date-time patterns (`yyyy-MM-dd HH:mm:ss`), compiled once, for writing and for reading. Calendar and clock are
//! UTC's, names and weeks those of the United States. Letters that Java has and this does not (time zones) are refused when the
//! pattern is compiled, and so are those that are only written where one is to be read.

use std::fmt::Write as _;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Milliseconds of a day.
pub const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;
const SECOND: i64 = 1_000;

/// The same letter so often at most, as in Java: a number of more digits has no meaning.
const MAX_LETTERS: usize = 19;

/// Bytes of a pattern: what it writes is not much longer.
const MAX_PATTERN: usize = 1_000;

/// Characters of a pattern that an error tells.
const TOLD: usize = 64;

/// Years, months and days beyond this are in no calendar, and their milliseconds would not fit.
const MAX_FIELD: i64 = 1_000_000;

/// Digits of a number that is read: as many as 64 bits hold of each length.
const MAX_DIGITS: usize = 18;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Year(usize),
    YearOfCentury,
    Month(usize),
    MonthName { short: bool },
    Day(usize),
    DayOfYear(usize),
    Weekday { short: bool },
    Hour(usize),
    Hour12(usize),
    Minute(usize),
    Second(usize),
    Fraction(usize),
    Half,
    Text(String),
    Written(Written, usize),
}

/// What is written and never read: Java's older functions give these letters another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    WeekYear,
    Week,
    Weekday,
    Quarter,
    Era,
    MonthLetter,
    HourFrom0,
    HourFrom1,
    Millis,
    Nanos,
    DayPeriod,
}

impl Written {
    fn of(letter: char, count: usize) -> Option<Self> {
        Some(match (letter, count) {
            ('Y', _) => Self::WeekYear,
            ('w', 1 | 2) => Self::Week,
            ('e', 1 | 2) => Self::Weekday,
            ('Q', 1 | 2) => Self::Quarter,
            ('G', 1..=3) => Self::Era,
            ('M' | 'L', 5) => Self::MonthLetter,
            ('K', 1 | 2) => Self::HourFrom0,
            ('k', 1 | 2) => Self::HourFrom1,
            ('A', _) => Self::Millis,
            ('n', _) => Self::Nanos,
            ('B', 1) => Self::DayPeriod,
            _ => return None,
        })
    }

    /// For how long it is the same, in milliseconds.
    fn unit(self) -> i64 {
        match self {
            Self::WeekYear | Self::Week | Self::Weekday | Self::Quarter | Self::Era | Self::MonthLetter => DAY,
            Self::HourFrom0 | Self::HourFrom1 => HOUR,
            Self::DayPeriod => MINUTE,
            Self::Millis | Self::Nanos => 1,
        }
    }

    /// The text, or the number that is written with so many digits at least.
    fn of_time(self, width: usize, days: i64, clock: i64, nanos: i64) -> Result<&'static str, i64> {
        let (year, month, _) = civil(days);
        // A week is that of its Saturday, and the first of a year is the one with its first day.
        let saturday = days + (2 - days).rem_euclid(7);
        let (week_year, _, _) = civil(saturday);
        match self {
            Self::WeekYear if width == 2 => Err(week_year.rem_euclid(100)),
            Self::WeekYear => Err(week_year),
            Self::Week => Err((saturday - days_of(week_year, 1, 1)) / 7 + 1),
            Self::Weekday => Err((days + 4).rem_euclid(7) + 1),
            Self::Quarter => Err((month + 2) / 3),
            Self::Era => Ok(if year > 0 { "AD" } else { "BC" }),
            Self::MonthLetter => Ok(&MONTHS[month as usize - 1][..1]),
            Self::HourFrom0 => Err(clock / HOUR % 12),
            Self::HourFrom1 => Err((clock / HOUR + 23) % 24 + 1),
            Self::Millis => Err(clock),
            Self::Nanos => Err(clock % SECOND * 1_000_000 + nanos),
            Self::DayPeriod => Ok(match clock / MINUTE {
                0 => "midnight",
                720 => "noon",
                360..720 => "in the morning",
                721..1080 => "in the afternoon",
                1080..1260 => "in the evening",
                _ => "at night",
            }),
        }
    }
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    items: Vec<Item>,
}

impl Pattern {
    /// Compiles one by which times are read and written; the error is a clause that says what cannot be read.
    pub fn compile(text: &str) -> Result<Self, String> {
        Self::compiled(text, false)
    }

    /// Compiles one by which times are only written: it may have more letters.
    pub fn compile_to_write(text: &str) -> Result<Self, String> {
        Self::compiled(text, true)
    }

    fn compiled(text: &str, writes: bool) -> Result<Self, String> {
        if text.len() > MAX_PATTERN {
            return Err(format!("the pattern has {} bytes, and {MAX_PATTERN} are the most", text.len()));
        }
        let mut items = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(ch) = rest.next() {
            if ch == '\'' {
                if rest.peek() == Some(&'\'') {
                    rest.next();
                    literal.push('\'');
                    continue;
                }
                loop {
                    match rest.next() {
                        None => return Err(format!("the pattern '{}' has an open quote", told(text))),
                        Some('\'') if rest.peek() == Some(&'\'') => {
                            rest.next();
                            literal.push('\'');
                        }
                        Some('\'') => break,
                        Some(quoted) => literal.push(quoted),
                    }
                }
                continue;
            }
            if !ch.is_ascii_alphabetic() {
                literal.push(ch);
                continue;
            }
            let mut count = 1;
            while rest.peek() == Some(&ch) {
                rest.next();
                count += 1;
            }
            if count > MAX_LETTERS {
                return Err(format!("the pattern has the letter {ch} {count} times, and {MAX_LETTERS} are the most"));
            }
            if !literal.is_empty() {
                items.push(Item::Text(std::mem::take(&mut literal)));
            }
            items.push(match (ch, count) {
                ('y' | 'u', 2) => Item::YearOfCentury,
                ('y' | 'u', _) => Item::Year(count),
                ('M' | 'L', 1 | 2) => Item::Month(count),
                ('M' | 'L', 3 | 4) => Item::MonthName { short: count == 3 },
                ('d', _) => Item::Day(count),
                ('D', _) => Item::DayOfYear(count),
                ('E', 1..=4) => Item::Weekday { short: count <= 3 },
                ('H', _) => Item::Hour(count),
                ('h', _) => Item::Hour12(count),
                ('m', _) => Item::Minute(count),
                ('s', _) => Item::Second(count),
                ('S', _) => Item::Fraction(count),
                ('a', _) => Item::Half,
                _ if writes && let Some(written) = Written::of(ch, count) => Item::Written(written, count),
                _ => return Err(format!("the letter {ch} in the pattern '{}' is not supported", told(text))),
            });
        }
        if !literal.is_empty() {
            items.push(Item::Text(literal));
        }
        Ok(Self { items })
    }

    /// How long the same text holds: the unit of the finest item, in milliseconds.
    pub fn unit(&self) -> i64 {
        self.items
            .iter()
            .map(|item| match item {
                Item::Text(_) => i64::MAX,
                Item::Year(_)
                | Item::YearOfCentury
                | Item::Month(_)
                | Item::MonthName { .. }
                | Item::Day(_)
                | Item::DayOfYear(_)
                | Item::Weekday { .. } => DAY,
                Item::Hour(_) | Item::Hour12(_) | Item::Half => HOUR,
                Item::Minute(_) => MINUTE,
                Item::Second(_) => SECOND,
                Item::Fraction(_) => 1,
                Item::Written(written, _) => written.unit(),
            })
            .min()
            .unwrap_or(DAY)
            .min(DAY)
    }

    /// Appends the text of a time.
    pub fn write(&self, millis: i64, out: &mut String) {
        self.write_exact(millis, 0, out);
    }

    /// Appends the text of a time that is so many nanoseconds beyond its millisecond.
    pub fn write_exact(&self, millis: i64, nanos: i64, out: &mut String) {
        let days = millis.div_euclid(DAY);
        let clock = millis.rem_euclid(DAY);
        let (year, month, day) = civil(days);
        for item in &self.items {
            // Writing into a string cannot fail.
            let _ = match item {
                Item::Year(width) => write!(out, "{year:0width$}"),
                Item::YearOfCentury => write!(out, "{:02}", year.rem_euclid(100)),
                Item::Month(width) => write!(out, "{month:0width$}"),
                Item::MonthName { short } => out.write_str(name(MONTHS[month as usize - 1], *short)),
                Item::Day(width) => write!(out, "{day:0width$}"),
                Item::DayOfYear(width) => write!(out, "{:0width$}", days - days_of(year, 1, 1) + 1),
                Item::Weekday { short } => out.write_str(name(WEEKDAYS[days.rem_euclid(7) as usize], *short)),
                Item::Hour(width) => write!(out, "{:0width$}", clock / HOUR),
                Item::Hour12(width) => write!(out, "{:0width$}", (clock / HOUR + 11) % 12 + 1),
                Item::Minute(width) => write!(out, "{:0width$}", clock / MINUTE % 60),
                Item::Second(width) => write!(out, "{:0width$}", clock / SECOND % 60),
                Item::Fraction(width) => {
                    let width = (*width).min(9);
                    let fraction = (clock % SECOND * 1_000_000 + nanos) / 10_i64.pow(9 - width as u32);
                    write!(out, "{fraction:0width$}")
                }
                Item::Half => out.write_str(if clock < DAY / 2 { "AM" } else { "PM" }),
                Item::Text(text) => out.write_str(text),
                Item::Written(written, width) => match written.of_time(*width, days, clock, nanos) {
                    Ok(text) => out.write_str(text),
                    Err(number) => write!(out, "{number:0width$}"),
                },
            };
        }
    }

    /// Reads the time that a text begins with, as Java's older reader does: what follows is not looked at, blanks before numbers are
    /// passed over, a number has as many digits as there are, and one beyond its range counts on.
    pub fn read_leniently(&self, text: &str) -> Option<i64> {
        let mut fields = Fields { year: 1970, month: 1, day: 1, of_year: None, clock: 0, afternoon: false };
        let mut rest = text;
        for (index, item) in self.items.iter().enumerate() {
            // Without a separator behind it, a number takes only as many digits as the pattern has letters.
            let tight = !matches!(self.items.get(index + 1), None | Some(Item::Text(_)));
            let mut number = |width: usize| {
                rest = rest.trim_start_matches([' ', '\t']);
                let before = rest.len();
                let number = take_number(&mut rest, if tight { width } else { MAX_DIGITS });
                number.map(|number| (number, before - rest.len()))
            };
            match item {
                Item::Year(width) => fields.year = number(*width)?.0,
                Item::YearOfCentury => {
                    let (year, digits) = number(2)?;
                    fields.year = if digits == 2 { of_this_century(year) } else { year };
                }
                Item::Month(width) => fields.month = number(*width)?.0,
                Item::Day(width) => fields.day = number(*width)?.0,
                Item::DayOfYear(width) => fields.of_year = Some(number(*width)?.0),
                Item::Hour(width) => fields.add(number(*width)?.0, HOUR)?,
                Item::Hour12(width) => {
                    let hour = number(*width)?.0;
                    fields.add(if hour == 12 { 0 } else { hour }, HOUR)?;
                }
                Item::Minute(width) => fields.add(number(*width)?.0, MINUTE)?,
                Item::Second(width) => fields.add(number(*width)?.0, SECOND)?,
                Item::Fraction(width) => fields.add(number(*width)?.0, 1)?,
                Item::MonthName { .. } => fields.month = take_name(&mut rest, &MONTHS)? as i64 + 1,
                Item::Weekday { .. } => {
                    take_name(&mut rest, &WEEKDAYS)?;
                }
                Item::Half => fields.afternoon = take_half(&mut rest)?,
                Item::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Item::Written(..) => return None,
            }
        }
        fields.millis()
    }

    /// Reads a time; none if the text does not fit.
    pub fn read(&self, text: &str) -> Option<i64> {
        let (mut year, mut month, mut day, mut clock, mut afternoon) = (1970, 1, 1, 0, None);
        let (mut of_year, mut weekday) = (None, None);
        let mut rest = text;
        for (index, item) in self.items.iter().enumerate() {
            // Without a separator behind it, a number takes only as many digits as the pattern has letters.
            let tight = !matches!(self.items.get(index + 1), None | Some(Item::Text(_)));
            let mut number = |width: usize| take_number(&mut rest, if tight { width } else { width.max(2) });
            match item {
                Item::Year(width) => year = number((*width).max(4))?,
                Item::YearOfCentury => year = 2000 + number(2)?,
                Item::Month(width) => month = number(*width)?,
                Item::Day(width) => day = number(*width)?,
                Item::DayOfYear(width) => of_year = Some(number((*width).max(3))?),
                Item::Hour(width) => clock += number(*width).filter(|&hour| hour <= 24)? * HOUR,
                Item::Hour12(width) => {
                    clock += number(*width).filter(|&hour| (1..=12).contains(&hour))? % 12 * HOUR;
                }
                Item::Minute(width) => clock += number(*width).filter(|&minute| minute < 60)? * MINUTE,
                Item::Second(width) => clock += number(*width).filter(|&second| second < 60)? * SECOND,
                Item::Fraction(width) => {
                    let before = rest.len();
                    let value = take_number(&mut rest, *width)?;
                    let digits = (before - rest.len()) as u32;
                    clock += if digits > 3 { value / 10_i64.pow(digits - 3) } else { value * 10_i64.pow(3 - digits) };
                }
                Item::MonthName { short } => {
                    let found = MONTHS.iter().position(|month| rest.starts_with(name(month, *short)))?;
                    rest = &rest[name(MONTHS[found], *short).len()..];
                    month = found as i64 + 1;
                }
                Item::Half => {
                    afternoon = Some(match rest.get(..2)?.to_ascii_uppercase().as_str() {
                        "AM" => false,
                        "PM" => true,
                        _ => return None,
                    });
                    rest = &rest[2..];
                }
                Item::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Item::Weekday { short } => {
                    let found = WEEKDAYS.iter().position(|day| rest.starts_with(name(day, *short)))?;
                    rest = &rest[name(WEEKDAYS[found], *short).len()..];
                    weekday = Some(found as i64);
                }
                Item::Written(..) => return None,
            }
        }
        let is_date = year <= MAX_FIELD && (1..=12).contains(&month) && (1..=31).contains(&day);
        if !rest.is_empty() || !is_date || of_year.is_some_and(|day| day > MAX_FIELD) {
            return None;
        }
        if afternoon == Some(true) {
            clock += DAY / 2;
        }
        // As in Java the last days of a short month are its last one, and 24:00 is the next day.
        let days = match of_year {
            None => days_of(year, month, day.min(days_in(year, month))),
            Some(day) => Some(days_of(year, 1, 1) + day - 1).filter(|days| day > 0 && civil(*days).0 == year)?,
        };
        let is_that_day = weekday.is_none_or(|weekday| days.rem_euclid(7) == weekday);
        (is_that_day && clock <= DAY).then_some(days * DAY + clock)
    }
}

/// What a text has given so far, for the readers that take any number: the fields add up, so that the 32nd of January is the first
/// of February.
struct Fields {
    year: i64,
    month: i64,
    day: i64,
    of_year: Option<i64>,
    clock: i64,
    afternoon: bool,
}

impl Fields {
    /// So many of this many milliseconds.
    fn add(&mut self, number: i64, unit: i64) -> Option<()> {
        self.clock = self.clock.checked_add(number.checked_mul(unit)?)?;
        Some(())
    }

    fn millis(&self) -> Option<i64> {
        if [self.year, self.month, self.day, self.of_year.unwrap_or(1)].iter().any(|field| *field > MAX_FIELD) {
            return None;
        }
        let months = self.year * 12 + self.month - 1;
        let start = match self.of_year {
            Some(day) => days_of(self.year, 1, 1) + day - 1,
            None => days_of(months.div_euclid(12), months.rem_euclid(12) + 1, 1) + self.day - 1,
        };
        let clock = self.clock.checked_add(if self.afternoon { DAY / 2 } else { 0 })?;
        start.checked_mul(DAY)?.checked_add(clock)
    }
}

/// Two digits of a year are of 1950 to 2049.
fn of_this_century(year: i64) -> i64 {
    if year < 50 { 2000 + year } else { 1900 + year }
}

/// What an error says of a pattern.
fn told(pattern: &str) -> String {
    pattern.chars().take(TOLD).collect()
}

/// The whole name, or its first three letters.
fn name(name: &'static str, short: bool) -> &'static str {
    if short { &name[..3] } else { name }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

/// A name in full or its first three letters: which of them it is.
fn take_name(rest: &mut &str, names: &[&'static str]) -> Option<usize> {
    for short in [false, true] {
        if let Some(found) = names.iter().position(|full| starts_with(rest, name(full, short))) {
            *rest = &rest[name(names[found], short).len()..];
            return Some(found);
        }
    }
    None
}

/// Whether `AM` or `PM` is `PM`.
fn take_half(rest: &mut &str) -> Option<bool> {
    let afternoon = match rest.get(..2)?.to_ascii_uppercase().as_str() {
        "AM" => false,
        "PM" => true,
        _ => return None,
    };
    *rest = &rest[2..];
    Some(afternoon)
}

fn take_number(rest: &mut &str, width: usize) -> Option<i64> {
    let digits = rest.bytes().take(width).take_while(u8::is_ascii_digit).count();
    let (number, tail) = rest.split_at(digits);
    *rest = tail;
    number.parse().ok()
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Counted in eras of 400 years
/// that begin in March, so that the leap day is a year's last.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
pub fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

/// How many days a month has.
pub fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pattern: &str, millis: i64) -> String {
        let mut out = String::new();
        Pattern::compile(pattern).unwrap().write(millis, &mut out);
        out
    }

    #[test]
    fn times_are_written_as_java_writes_them() {
        let millis = 1_436_918_401_234;
        assert_eq!(written("yyyy-MM-dd HH:mm:ss.SSS", millis), "2015-07-15 00:00:01.234");
        assert_eq!(written("yy/M/d h:mm a", millis), "15/7/15 12:00 AM");
        assert_eq!(written("EEE, d MMM yyyy 'at' HH''mm", millis), "Wed, 15 Jul 2015 at 00'00");
        assert_eq!(written("D EEEE MMMM SS", millis), "196 Wednesday July 23");
        assert_eq!(written("yyyy-MM-dd", -1), "1969-12-31");
        let written = |pattern: &str, millis: i64| {
            let mut out = String::new();
            Pattern::compile_to_write(pattern).unwrap().write(millis, &mut out);
            out
        };
        assert_eq!(written("YYYY-'W'ww-e Q MMMMM G", millis), "2015-W29-4 3 J AD");
        assert_eq!(written("YY w", 978_220_800_000), "01 1", "2000-12-31 is in the first week of 2001");
        assert_eq!(written("K k A n B", 0), "0 24 0 0 midnight");
        assert_eq!(written("KK kk B", 13 * HOUR), "01 13 in the afternoon");
        assert!(Pattern::compile("YYYY").is_err(), "it is not read");
    }

    #[test]
    fn what_is_written_is_read_back_and_what_does_not_fit_is_not() {
        for (pattern, text, millis) in [
            ("yyyy-MM-dd HH:mm:ss", "2013-01-01 05:15:00", Some(1_357_017_300_000)),
            ("yyyyMMddHHmm", "201301010515", Some(1_357_017_300_000)),
            ("d MMM yyyy h:mm a", "1 Jan 2013 5:15 PM", Some(1_357_060_500_000)),
            ("yyyy-MM-dd", "2013-02-29", Some(1_362_009_600_000)),
            ("yyyy-MM-dd", "2013-02-32", None),
            ("yyyy-DDD", "2015-196", Some(1_436_918_400_000)),
            ("yyyy-DDD", "2015-366", None),
            ("EEE, d MMM yyyy", "Wed, 15 Jul 2015", Some(1_436_918_400_000)),
            ("EEE, d MMM yyyy", "Thu, 15 Jul 2015", None),
            ("MMM d, yyyy", "jul 15, 2015", None),
            ("yyyy-MM-dd", "2012-02-29", Some(1_330_473_600_000)),
            ("yyyy-MM-dd", "2012-02-29 12", None),
            ("HH:mm", "24:00", Some(DAY)),
            ("HH:mm", "24:01", None),
        ] {
            assert_eq!(Pattern::compile(pattern).unwrap().read(text), millis, "{pattern} {text}");
        }
    }

    #[test]
    fn the_lenient_reader_counts_on_and_stops_where_the_pattern_ends() {
        for (pattern, text, millis) in [
            ("yyyy-MM-dd", "2015-02-30 and more", Some(1_425_254_400_000)),
            ("yyyy-MM-dd", "2015-13-01", Some(1_451_606_400_000)),
            ("yyyy-MM-dd", "  2015-7-5", Some(1_436_054_400_000)),
            ("yyyyMMddHHmmss", "20150715130203", Some(1_436_965_323_000)),
            ("yyyy-MM-dd HH:mm:ss", "2024-02-29 12:60:00", Some(1_709_211_600_000)),
            ("EEE, d MMM yyyy", "thu, 15 jul 2015", Some(1_436_918_400_000)),
            ("d/M/yy", "5/7/85", Some(489_369_600_000)),
            ("yyyy-MM-dd", "2015/07/15", None),
            ("yyyy-MM-dd", "", None),
            ("yyyy", "999999999999999999", None),
        ] {
            assert_eq!(Pattern::compile(pattern).unwrap().read_leniently(text), millis, "{pattern} {text}");
        }
    }

    #[test]
    fn letters_without_a_meaning_here_are_refused() {
        assert!(Pattern::compile("yyyy-MM-dd z").unwrap_err().contains("the letter z"));
        assert!(Pattern::compile("yyyy 'open").unwrap_err().contains("open quote"));
    }

    #[test]
    fn a_pattern_has_bounds_and_what_is_read_by_it_too() {
        for pattern in ["y".repeat(70_000), "y".repeat(20), "'".to_string() + &"x".repeat(2_000) + "'"] {
            assert!(Pattern::compile(&pattern).unwrap_err().contains("are the most"), "{pattern}");
        }
        let widest = "yyyyyyyyyyyyyyyyyyy";
        assert_eq!(written(widest, 0), "0000000000000001970");
        let read = |pattern: &str, text: &str| Pattern::compile(pattern).unwrap().read(text);
        assert_eq!(read(widest, "9999999999999999999"), None);
        assert_eq!(read(widest, "1999999999999999999"), None);
        assert_eq!(read("yyyy SSSSSSSSSSSSSSSSSSS", "1970 0000000000000000001"), Some(0));
        assert_eq!(read("DDDDDDDDDDDDDDDDDDD", "9223372036854775807"), None);
        let leniently = |pattern: &str, text: &str| Pattern::compile(pattern).unwrap().read_leniently(text);
        assert_eq!(leniently("HH SSS", "2562047788015 999999999999999999"), None);
        assert_eq!(leniently("HH H", "2562047788015 2562047788015"), None);
    }

    #[test]
    fn days_go_to_the_calendar_and_back() {
        for days in (-800_000..800_000).step_by(97) {
            let (year, month, day) = civil(days);
            assert_eq!(days_of(year, month, day), days);
        }
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
    }
}
