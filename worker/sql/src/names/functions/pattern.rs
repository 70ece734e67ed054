//! Java's date-time patterns (`yyyy-MM-dd HH:mm:ss`), compiled once, for writing and for reading. Calendar and clock are
//! UTC's. Letters that Java has and this does not (time zones, eras, weeks) are refused when the pattern is compiled.

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

/// Years further from 0 than this are in no calendar, and their milliseconds would not fit.
const MAX_YEAR: i64 = 1_000_000;

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
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    items: Vec<Item>,
}

impl Pattern {
    /// Compiles it; the error is a clause that says what cannot be read.
    pub fn compile(text: &str) -> Result<Self, String> {
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
                        None => return Err(format!("the pattern '{text}' has an open quote")),
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
                ('M' | 'L', _) => Item::MonthName { short: count == 3 },
                ('d', _) => Item::Day(count),
                ('D', _) => Item::DayOfYear(count),
                ('E', _) => Item::Weekday { short: count <= 3 },
                ('H', _) => Item::Hour(count),
                ('h', _) => Item::Hour12(count),
                ('m', _) => Item::Minute(count),
                ('s', _) => Item::Second(count),
                ('S', _) => Item::Fraction(count),
                ('a', _) => Item::Half,
                _ => return Err(format!("the letter {ch} in the pattern '{text}' is not supported")),
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
            })
            .min()
            .unwrap_or(DAY)
            .min(DAY)
    }

    /// Appends the text of a time.
    pub fn write(&self, millis: i64, out: &mut String) {
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
                    let digits = format!("{:03}000000", clock % SECOND);
                    out.write_str(digits.get(..*width).unwrap_or(&digits))
                }
                Item::Half => out.write_str(if clock < DAY / 2 { "AM" } else { "PM" }),
                Item::Text(text) => out.write_str(text),
            };
        }
    }

    /// Reads a time; none if the text does not fit.
    pub fn read(&self, text: &str) -> Option<i64> {
        let (mut year, mut month, mut day, mut clock, mut afternoon) = (1970, 1, 1, 0, None);
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
                Item::Hour(width) => clock += number(*width).filter(|&hour| hour < 24)? * HOUR,
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
                    let found = MONTHS.iter().position(|month| starts_with(rest, name(month, *short)))?;
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
                Item::DayOfYear(_) | Item::Weekday { .. } => return None,
            }
        }
        if !rest.is_empty() || year > MAX_YEAR || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
            return None;
        }
        if afternoon == Some(true) {
            clock += DAY / 2;
        }
        Some(days_of(year, month, day) * DAY + clock)
    }
}

/// The whole name, or its first three letters.
fn name(name: &'static str, short: bool) -> &'static str {
    if short { &name[..3] } else { name }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
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

fn days_in(year: i64, month: i64) -> i64 {
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
    }

    #[test]
    fn what_is_written_is_read_back_and_what_does_not_fit_is_not() {
        for (pattern, text, millis) in [
            ("yyyy-MM-dd HH:mm:ss", "2013-01-01 05:15:00", Some(1_357_017_300_000)),
            ("yyyyMMddHHmm", "201301010515", Some(1_357_017_300_000)),
            ("d MMM yyyy h:mm a", "1 Jan 2013 5:15 PM", Some(1_357_060_500_000)),
            ("yyyy-MM-dd", "2013-02-29", None),
            ("yyyy-MM-dd", "2012-02-29", Some(1_330_473_600_000)),
            ("yyyy-MM-dd", "2012-02-29 12", None),
            ("HH:mm", "24:00", None),
        ] {
            assert_eq!(Pattern::compile(pattern).unwrap().read(text), millis, "{pattern} {text}");
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
