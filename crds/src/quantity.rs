//! Amounts as Kubernetes writes them: `512Mi`, `2`, `500m`. Only what is needed to read a memory limit; comparing and
//! adding is the cluster's business.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// An amount of memory, CPU or another resource, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quantity(String);

/// Why a string is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no quantity: write a number with a unit, such as 512Mi, 1Gi or 500m")]
pub struct QuantityError(String);

/// Suffixes with their factors; the two-letter ones first.
const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("m", 0.001),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

impl Quantity {
    /// The amount, rounded up to a whole number: bytes for memory.
    pub fn value(&self) -> u64 {
        parse(&self.0).unwrap_or_default().ceil() as u64
    }
}

fn parse(text: &str) -> Option<f64> {
    let (suffix, factor) = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix))?;
    let number = &text[..text.len() - suffix.len()];
    // Rust also reads signs, exponents and words.
    let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let value: f64 = number.parse().ok().filter(|_| is_plain)?;
    Some(value * factor)
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse(text).map(|_| Self(text.to_string())).ok_or_else(|| QuantityError(text.to_string()))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(u64),
            String(String),
        }
        match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(number) => Ok(Self(number.to_string())),
            IntOrString::String(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            // Of a text; the minimum is of a number.
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|m|k|M|G|T|P|E)?$",
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_binary_and_decimal_units() {
        for (text, bytes) in
            [("512Mi", 536_870_912), ("1Gi", 1_073_741_824), ("1.5G", 1_500_000_000), ("1024", 1024), ("1500m", 2)]
        {
            assert_eq!(text.parse::<Quantity>().unwrap().value(), bytes, "{text}");
        }
    }

    #[test]
    fn other_units_are_refused() {
        for text in ["", "1GB", "Mi", "-1", "1 Gi", "inf", "1.2.3", ".", "1e3"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
