//! What a job reads: files by name, and how each looked when the job first saw it.
//!
//! A position counts bytes, so it means something only in the very file that it was taken in. Each file's length, and what
//! else tells that it is another one, stand in the split; whoever opens the file, in this attempt or a later one, holds it
//! against them. For an object that is its `ETag`. For a local file it is the time of its last change, which is compared
//! only on the file system on which it was noted: copies of a file, as each pod has of a `ConfigMap`, have times of their
//! own.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};
use weir_engine::api::error::SourceError;

/// A file or object of a split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct Input {
    /// A path, or a URL.
    pub(super) name: String,
    /// Its length. Splits of version 1 do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// An object's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    /// A local file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) modified: Option<Modified>,
}

/// When a file was last changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Modified {
    /// The machine and file system on which the time was read.
    on: String,
    /// Since 1970.
    ns: i64,
}

/// As it stands in a split: in version 1 a name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Name(String),
    Known(Known),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    name: String,
    bytes: Option<u64>,
    etag: Option<String>,
    modified: Option<Modified>,
}

impl From<Stored> for Input {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Name(name) => Self { name, ..Self::default() },
            Stored::Known(Known { name, bytes, etag, modified }) => Self { name, bytes, etag, modified },
        }
    }
}

impl Input {
    /// A local file as it is now.
    pub(super) fn local(name: String, metadata: &Metadata) -> Self {
        let ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        let modified = Some(Modified { on: file_system(metadata), ns });
        Self { name, bytes: Some(metadata.len()), etag: None, modified }
    }

    /// An object as it is now.
    pub(super) fn object(name: String, bytes: u64, etag: Option<String>) -> Self {
        Self { name, bytes: Some(bytes), etag, modified: None }
    }

    /// Refuses a local file that is not the one that was seen.
    pub(super) fn check(&self, metadata: &Metadata) -> Result<(), SourceError> {
        self.check_length(metadata.len())?;
        let now = Self::local(String::new(), metadata).modified;
        match (&self.modified, now) {
            (Some(then), Some(now)) if then.on == now.on && then.ns != now.ns => {
                Err(self.changed("it was written again"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a length that is not the one that was seen.
    pub(super) fn check_length(&self, now: u64) -> Result<(), SourceError> {
        match self.bytes {
            Some(then) if then != now => Err(self.changed(&format!("it had {then} bytes and has {now}"))),
            _ => Ok(()),
        }
    }

    /// It is not what it was.
    pub(super) fn changed(&self, how: &str) -> SourceError {
        SourceError::bad_input(format!(
            "{} has changed since the job first saw it: {how}. What is read may not be written to: put the old file back, or start \
             without the checkpoint; give new files names that start with . or _ until they are whole",
            self.name
        ))
    }
}

/// Of the machine by its name, since the numbers of file systems are its own.
fn file_system(metadata: &Metadata) -> String {
    // Where there is no such file, as on macOS, everything runs on one machine.
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", machine.trim(), metadata.dev())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_alone_is_an_input_of_version_1_and_is_held_against_nothing() {
        let input: Input = serde_json::from_value(json!("/in/a.csv")).unwrap();
        assert_eq!(input, Input { name: "/in/a.csv".to_string(), ..Input::default() });
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(input.check(&file.as_file().metadata().unwrap()).is_ok());
        assert!(serde_json::from_value::<Input>(json!({"name": "a", "crc": 1})).is_err());
    }

    #[test]
    fn the_time_of_a_copy_on_another_machine_says_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let here = Input::local("a".to_string(), &metadata);
        let stored: Input = serde_json::from_value(serde_json::to_value(&here).unwrap()).unwrap();
        assert_eq!(stored, here);
        assert!(stored.check(&metadata).is_ok());
        let other = |on: &str| {
            let modified = Some(Modified { on: on.to_string(), ns: 1 });
            Input { modified, ..here.clone() }.check(&metadata)
        };
        assert!(other("another:1").is_ok());
        let error = other(&file_system(&metadata)).unwrap_err();
        assert!(error.to_string().contains("it was written again"), "{error}");
    }
}
