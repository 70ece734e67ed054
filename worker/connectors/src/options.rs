//! Reading options: typed, with messages that say the expected form, and the nearest known name for a wrong one.

use std::str::FromStr;
use std::time::Duration;

use crate::error::ConnectorError;
use crate::spec::TableSpec;

/// The options of one table, read one after another.
pub(crate) struct Options<'a> {
    table: &'a TableSpec,
}

impl<'a> Options<'a> {
    pub(crate) fn of(table: &'a TableSpec) -> Self {
        Self { table }
    }

    /// The text of an option.
    pub(crate) fn text(&self, option: &str) -> Option<&'a str> {
        self.table.options.get(option).map(String::as_str)
    }

    /// The names of all that are given.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.table.options.keys().map(String::as_str)
    }

    /// The text of an option that must be there.
    pub(crate) fn required(&self, option: &str, expected: &str) -> Result<&'a str, ConnectorError> {
        self.text(option).ok_or_else(|| ConnectorError::MissingOption {
            table: self.table.name.clone(),
            option: option.to_string(),
            expected: expected.to_string(),
        })
    }

    /// The error for a value of a wrong form.
    pub(crate) fn invalid(&self, option: &str, expected: &str) -> ConnectorError {
        ConnectorError::InvalidOption {
            table: self.table.name.clone(),
            option: option.to_string(),
            value: self.text(option).unwrap_or_default().to_string(),
            expected: expected.to_string(),
        }
    }

    /// The error for something that the connector does not do.
    pub(crate) fn unsupported(&self, option: Option<&str>, what: &str, remedy: &str) -> ConnectorError {
        ConnectorError::Unsupported {
            table: self.table.name.clone(),
            option: option.map(str::to_string),
            what: what.to_string(),
            remedy: remedy.to_string(),
        }
    }

    /// A value that `T` parses and `accept` takes.
    pub(crate) fn parsed<T: FromStr>(
        &self,
        option: &str,
        expected: &str,
        accept: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, ConnectorError> {
        self.text(option)
            .map(|text| text.trim().parse::<T>().ok().filter(|value| accept(value)))
            .map(|value| value.ok_or_else(|| self.invalid(option, expected)))
            .transpose()
    }

    /// A whole number of at least one.
    pub(crate) fn count(&self, option: &str) -> Result<Option<u64>, ConnectorError> {
        self.parsed(option, "a whole number of at least 1", |&value: &u64| value >= 1)
    }

    /// `true` or `false`; absent is `default`.
    pub(crate) fn flag(&self, option: &str, default: bool) -> Result<bool, ConnectorError> {
        match self.text(option).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(self.invalid(option, "'true' or 'false'")),
        }
    }

    /// A time: `5 min`, `30 s`, `500` (milliseconds), as Flink reads it.
    pub(crate) fn duration(&self, option: &str, expected: &str) -> Result<Option<Duration>, ConnectorError> {
        self.text(option).map(|text| parse_duration(text).ok_or_else(|| self.invalid(option, expected))).transpose()
    }

    /// A size: `128 MB`, `1 GiB`, `4096` (bytes). Units are powers of 1024, as Flink's are.
    pub(crate) fn bytes(&self, option: &str) -> Result<Option<u64>, ConnectorError> {
        self.text(option)
            .map(|text| {
                parse_bytes(text)
                    .filter(|&bytes| bytes > 0)
                    .ok_or_else(|| self.invalid(option, "a size such as '128MB' or '4096' (bytes)"))
            })
            .transpose()
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim().to_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    Some(match unit.trim() {
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => Duration::from_millis(number),
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => Duration::from_nanos(number),
        "\u{b5}s" | "\u{3bc}s" | "micro" | "micros" | "microsecond" | "microseconds" => Duration::from_micros(number),
        "s" | "sec" | "secs" | "second" | "seconds" => Duration::from_secs(number),
        "m" | "min" | "minute" | "minutes" => Duration::from_secs(number.checked_mul(60)?),
        "h" | "hour" | "hours" => Duration::from_secs(number.checked_mul(3_600)?),
        "d" | "day" | "days" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    })
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" | "bytes" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether an option's name is the one documented, where `#` in the documented one stands for any column's name.
pub(crate) fn matches_pattern(pattern: &str, option: &str) -> bool {
    match pattern.split_once('#') {
        None => pattern == option,
        Some((head, tail)) => {
            option.len() > head.len() + tail.len() && option.starts_with(head) && option.ends_with(tail)
        }
    }
}

/// The candidate with the fewest edits from `name`, if that is at most a third of its length.
pub(crate) fn nearest<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    candidates
        .map(|candidate| (edits(&name.to_ascii_lowercase(), candidate), candidate))
        .min()
        .filter(|&(edits, candidate)| edits <= candidate.len().max(3) / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in bytes.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_flinks_units() {
        assert_eq!(parse_bytes("128 MB"), Some(128 << 20));
        assert_eq!(parse_bytes("1gib"), Some(1 << 30));
        assert_eq!(parse_bytes("4096"), Some(4096));
        assert_eq!(parse_bytes("many"), None);
        assert_eq!(parse_bytes("3 furlongs"), None);
    }

    #[test]
    fn a_mistyped_name_finds_its_neighbour_and_a_strange_one_finds_none() {
        let known = ["path", "format", "scan.rate-limit"];
        assert_eq!(nearest("scan.rate.limit", known.into_iter()), Some("scan.rate-limit"));
        assert_eq!(nearest("fromat", known.into_iter()), Some("format"));
        assert_eq!(nearest("topic", known.into_iter()), None);
    }

    #[test]
    fn a_documented_column_option_matches_any_columns_name() {
        assert!(matches_pattern("fields.#.kind", "fields.a.b.kind"));
        assert!(!matches_pattern("fields.#.kind", "fields..kind"));
        assert!(!matches_pattern("fields.#.kind", "fields.a.min"));
    }
}
