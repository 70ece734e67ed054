//! Savepoints: a checkpoint copied to a place of the user's, with all that it names, and brought into a job's storage from there.
//!
//! Both only copy objects. What a savepoint holds says [`weir_protocol::savepoint`]; that it is the beginning of a job's next attempt is
//! the takeover's decision ([`crate::takeover`]).

pub mod bring;
pub mod take;

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;
use weir_protocol::{
    part::Part,
    paths,
    record::{PartRef, decode, read},
    savepoint::{Begun, SAVEPOINT_VERSION, Savepoint},
};
use weir_storage::{JobStore, StorageError};

use crate::{
    effects::{LIST_LIMIT, OPENING_LIMIT, PART_LIMIT, chain},
    takeover::Wanted,
};

/// A manifest names every object of a savepoint, in some hundred bytes each.
const MANIFEST_LIMIT: u64 = 16 << 20;
/// Objects that are copied at once: a request each, of storage that copies by itself.
const COPIES_AT_ONCE: usize = 4;

/// Why a savepoint cannot be taken, read or restored.
#[derive(Debug, Error)]
pub enum SavepointError {
    /// Storage did not do what it was asked, and may the next time.
    #[error("{}", chain(.0))]
    Storage(#[from] StorageError),
    /// There is nothing of a savepoint.
    #[error("{location} holds no savepoint")]
    None {
        /// Where it was looked for.
        location: String,
    },
    /// It was begun and is not complete, or not any more.
    #[error("the savepoint in {location} is not complete: {reason}")]
    Incomplete {
        /// Where it stands.
        location: String,
        /// What is missing.
        reason: String,
    },
    /// An object of it cannot be understood.
    #[error("the savepoint in {location} cannot be read: {reason}")]
    Unreadable {
        /// Where it stands.
        location: String,
        /// Why.
        reason: String,
    },
    /// A savepoint goes where nothing is.
    #[error("{location} is not empty: {found}; name a folder or prefix of its own, in which nothing is")]
    NotEmpty {
        /// Where it was to go.
        location: String,
        /// What is there.
        found: String,
    },
    /// The job has no checkpoint that could be copied.
    #[error("{job} has no checkpoint in {store} that can be copied: {reason}")]
    NoCheckpoint {
        /// Which job.
        job: String,
        /// Its storage.
        store: String,
        /// Why.
        reason: String,
    },
}

impl SavepointError {
    /// Another try may do better.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Storage(error) => !matches!(
                error,
                StorageError::Settings { .. } | StorageError::NotFound { .. } | StorageError::TooLarge { .. }
            ),
            _ => false,
        }
    }
}

/// Reads the manifest of a savepoint.
pub async fn manifest(place: &JobStore) -> Result<Savepoint, SavepointError> {
    let location = place.name().to_string();
    let _room = place.room(paths::SAVEPOINT, MANIFEST_LIMIT).await?;
    let bytes = match place.get_at_most(paths::SAVEPOINT, MANIFEST_LIMIT).await {
        Ok(bytes) => bytes,
        Err(StorageError::NotFound { .. }) => return Err(unfinished(place).await),
        Err(error @ StorageError::TooLarge { .. }) => {
            return Err(SavepointError::Unreadable { location, reason: chain(&error) });
        }
        Err(error) => return Err(error.into()),
    };
    let savepoint: Savepoint = decode(paths::SAVEPOINT, &bytes, SAVEPOINT_VERSION)
        .map_err(|error| SavepointError::Unreadable { location: location.clone(), reason: chain(&error) })?;
    // It comes from wherever the user has it: no path of it leads out of its location.
    let (parts, objects) =
        (savepoint.parts.iter().map(|part| &part.path), savepoint.objects.iter().map(|object| &object.path));
    let strange = parts.chain(objects).find(|path| {
        let inside = path.starts_with(&format!("{}/", paths::STATE)) || path.starts_with(&format!("{}/", paths::PARTS));
        !inside || path.split('/').any(|piece| matches!(piece, "" | "." | ".."))
    });
    match strange {
        Some(path) => {
            Err(SavepointError::Unreadable { location, reason: format!("it names {path:?}, which no savepoint has") })
        }
        None => Ok(savepoint),
    }
}

/// What is wrong where there is no manifest.
async fn unfinished(place: &JobStore) -> SavepointError {
    let location = place.name().to_string();
    match place.get_at_most(paths::SAVEPOINT_BEGUN, OPENING_LIMIT).await {
        Ok(bytes) => {
            let begun = decode::<Begun>(paths::SAVEPOINT_BEGUN, &bytes, SAVEPOINT_VERSION);
            let reason = begun.map_or_else(
                |error| chain(&error),
                |begun| {
                    format!(
                        "{} began it, of checkpoint {} of {}, and has not ended it",
                        begun.by, begun.checkpoint, begun.job
                    )
                },
            );
            SavepointError::Incomplete { location, reason }
        }
        Err(StorageError::NotFound { .. }) => SavepointError::None { location },
        Err(error) => error.into(),
    }
}

/// Reads the manifest, and sees that all that it names is there in its length.
pub async fn complete(place: &JobStore) -> Result<Savepoint, SavepointError> {
    let savepoint = manifest(place).await?;
    let mut there = BTreeMap::new();
    for folder in [paths::STATE, paths::PARTS] {
        let listed = place.list_at_most(folder, LIST_LIMIT).await?;
        there.extend(listed.into_iter().map(|object| (object.path, object.size)));
    }
    let parts = savepoint.parts.iter().map(|part| (&part.path, part.length));
    for (path, length) in parts.chain(savepoint.objects.iter().map(|object| (&object.path, object.length))) {
        let reason = match there.get(path) {
            Some(size) if *size == length => continue,
            Some(size) => format!("{path} has {size} bytes instead of {length}"),
            None => format!("{path} is missing"),
        };
        return Err(SavepointError::Incomplete { location: place.name().to_string(), reason });
    }
    Ok(savepoint)
}

/// A savepoint that is to be restored, after it was found complete.
pub async fn wanted(store: &JobStore, location: &str) -> Result<Wanted, SavepointError> {
    let savepoint = complete(&store.beside(location, false)?).await?;
    Ok(Wanted {
        location: location.to_string(),
        id: savepoint.checkpoint.id,
        max_parallelism: savepoint.max_parallelism,
    })
}

/// Reads a part, unless it is another than what is named.
pub async fn part(place: &JobStore, part: &PartRef) -> Result<Part, SavepointError> {
    let unreadable = |reason: String| SavepointError::Unreadable { location: place.name().to_string(), reason };
    let bytes = match &part.inline {
        Some(inline) => Bytes::copy_from_slice(inline.as_bytes()),
        None => place.get_at_most(&part.path, part.length.min(PART_LIMIT)).await?,
    };
    let crc = crc32c::crc32c(&bytes);
    if bytes.len() as u64 != part.length || crc != part.crc32c {
        let (path, found, length, wanted) = (&part.path, bytes.len(), part.length, part.crc32c);
        return Err(unreadable(format!(
            "{path} has {found} bytes with CRC-32C {crc:08x}, and {length} with {wanted:08x} were written"
        )));
    }
    read(&part.path, &bytes).map_err(|error| unreadable(chain(&error)))
}

#[cfg(test)]
mod tests;
