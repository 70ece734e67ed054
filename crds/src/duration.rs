//! Durations as people write them: `10s`, `500ms`, `1h30m`. The units are those that Go's `ParseDuration`, and so CEL's
//! `duration()`, knows; days are not among them.

use std::{fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Longer strings are no durations that anybody means; the bound also lets the API server estimate the rule's cost.
const MAX_LENGTH: usize = 32;

/// A span of time, written as a string with units: `10s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub time::Duration);

/// Why a string is no duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no duration: write a number with a unit, such as 10s, 500ms or 1h30m")]
pub struct DurationError(String);

/// The units, longest names first where one begins another, with their nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

impl Duration {
    /// So many whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    /// In whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError(text.chars().take(MAX_LENGTH).collect());
        if text.len() > MAX_LENGTH || text.is_empty() {
            return Err(error());
        }
        let mut rest = text;
        let mut total = time::Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let number: f64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let (unit, nanoseconds) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(error)?;
            let part = time::Duration::try_from_secs_f64(number * (*nanoseconds as f64) / 1e9).map_err(|_| error())?;
            total = total.checked_add(part).ok_or_else(error)?;
            rest = &rest[unit.len()..];
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Duration {
    /// The shortest form that reads back as the same: the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        if nanoseconds == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in
            [("h", 3_600_000_000_000_u128), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)]
        {
            if nanoseconds.is_multiple_of(size) {
                return write!(f, "{}{unit}", nanoseconds / size);
            }
        }
        write!(f, "{nanoseconds}ns")
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": [{
                "rule": r"self.matches('^([0-9]+(\\.[0-9]+)?(h|m|s|ms|us|ns))+$')",
                "message": "is no duration: write a number with a unit, such as 10s, 500ms or 1h30m",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_back_shortly() {
        for (text, millis, back) in [
            ("10s", 10_000, "10s"),
            ("500ms", 500, "500ms"),
            ("1h30m", 5_400_000, "90m"),
            ("1.5s", 1_500, "1500ms"),
            ("0s", 0, "0s"),
            ("10m", 600_000, "10m"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(duration.to_string(), back, "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_or_with_a_foreign_one_is_refused() {
        for text in ["", "10", "10 s", "s", "-1s", "1d", "10sec", "1..5s", "ten seconds"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
