//! Versions of what stands in storage: which are written, which are read, and how an object of an older one becomes one of ours.
//!
//! Openings, records, seals and parts have one version together. A build writes the newest unless it is told to write the one
//! before, so that one can still go back to the build before; it reads all that there have ever been. `protocol/tests/golden` holds an
//! object of each kind and version, which every build reads.

use std::ops::RangeInclusive;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

/// The version that is written when nothing else is said.
pub const FORMAT: u32 = 3;

/// The versions that this build can write. The older ones are what builds before it read.
pub const FORMATS_WRITTEN: RangeInclusive<u32> = 1..=FORMAT;

/// The environment variable that says which version to write, of `weir run` and of the controller.
pub const FORMAT_VARIABLE: &str = "WEIR_STATE_FORMAT";

/// The version to write, from what [`FORMAT_VARIABLE`] holds.
pub fn format_from(setting: Option<&str>) -> Result<u32, String> {
    let Some(setting) = setting.map(str::trim).filter(|setting| !setting.is_empty()) else { return Ok(FORMAT) };
    let format = setting.parse().ok().filter(|format| FORMATS_WRITTEN.contains(format));
    format.ok_or_else(|| {
        format!(
            "{FORMAT_VARIABLE} is {setting:?}, and this build writes the state formats {} to {}",
            FORMATS_WRITTEN.start(),
            FORMATS_WRITTEN.end()
        )
    })
}

/// An object that stands in storage with a version in it.
pub trait Stored: Sized {
    /// The versions that are read.
    const READ: RangeInclusive<u32> = 1..=FORMAT;

    /// Of an object of one of [`Self::READ`], brought up to date one version after the other.
    fn upgraded(version: u32, object: Value) -> Result<Self, serde_json::Error>;
}

/// Why bytes could not be read as an object of a term, or as a part.
#[derive(Debug, Error)]
pub enum FormatError {
    /// Not the JSON that this build writes.
    #[error("{path} is not readable: {source}")]
    Json {
        /// The object.
        path: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Written by a build with another format.
    #[error(
        "{path} has format version {found}, this build reads {oldest} to {newest}: use the build that wrote it, or a newer one"
    )]
    Version {
        /// The object.
        path: String,
        /// Its version.
        found: u64,
        /// The oldest that we read.
        oldest: u32,
        /// The newest that we read.
        newest: u32,
    },
}

/// Reads an object of any version that this build knows; `path` is named in errors.
pub fn read<T: Stored>(path: &str, bytes: &[u8]) -> Result<T, FormatError> {
    let (version, value) = versioned(path, bytes, T::READ)?;
    T::upgraded(version, value).map_err(|source| FormatError::Json { path: path.to_string(), source })
}

/// Reads a JSON object of which there is one version; `path` is named in errors.
pub fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8], expected: u32) -> Result<T, FormatError> {
    let (_, value) = versioned(path, bytes, expected..=expected)?;
    serde_json::from_value(value).map_err(|source| FormatError::Json { path: path.to_string(), source })
}

fn versioned(path: &str, bytes: &[u8], read: RangeInclusive<u32>) -> Result<(u32, Value), FormatError> {
    let json = |source| FormatError::Json { path: path.to_string(), source };
    let value: Value = serde_json::from_slice(bytes).map_err(json)?;
    let found = value.get("version").and_then(Value::as_u64).unwrap_or(0);
    match u32::try_from(found).ok().filter(|version| read.contains(version)) {
        Some(version) => Ok((version, value)),
        None => {
            let (oldest, newest) = (*read.start(), *read.end());
            Err(FormatError::Version { path: path.to_string(), found, oldest, newest })
        }
    }
}

/// Writes a JSON object. The types of this crate always serialize.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    serde_json::to_writer_pretty(&mut bytes, value).unwrap_or_default();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_to_write_is_the_newest_unless_it_is_one_that_this_build_can_write() {
        assert_eq!(format_from(None), Ok(FORMAT));
        assert_eq!(format_from(Some(" ")), Ok(FORMAT));
        assert_eq!(format_from(Some("1")), Ok(1));
        assert_eq!(format_from(Some("2")), Ok(2));
        assert_eq!(format_from(Some("3")), Ok(3));
        for wrong in ["0", "4", "two"] {
            let error = format_from(Some(wrong)).unwrap_err();
            assert!(error.contains("WEIR_STATE_FORMAT") && error.contains("1 to 3"), "{error}");
        }
    }
}
