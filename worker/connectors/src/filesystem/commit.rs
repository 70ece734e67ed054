//! The second phase: pending files get the names that readers see.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use weir_engine::error::SinkError;
use weir_engine::sink::Committer;
use weir_protocol::Attempt;

use super::names::{Owner, Pending};
use super::sink::{cannot, sync_folder};

/// See the module.
pub(super) struct FileCommitter {
    pub(super) folder: PathBuf,
    pub(super) owner: Owner,
    pub(super) attempt: Attempt,
}

#[async_trait]
impl Committer for FileCommitter {
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError> {
        let pending = pending.iter().map(Pending::read).collect::<Result<Vec<_>, _>>()?;
        beside(move || publish_all(&pending)).await
    }

    /// Files of this attempt are left alone: another worker of it may have begun to write.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        let keep = keep.iter().map(Pending::read).collect::<Result<Vec<_>, _>>()?;
        let (folder, owner, attempt) = (self.folder.clone(), self.owner.clone(), self.attempt);
        beside(move || remove_unfinished(&folder, &owner, attempt, &keep)).await
    }
}

/// File systems block.
async fn beside(work: impl FnOnce() -> Result<(), SinkError> + Send + 'static) -> Result<(), SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SinkError::io("the committer was stopped").because(error)),
    }
}

fn publish_all(pending: &[Pending]) -> Result<(), SinkError> {
    for file in pending {
        publish(file)?;
    }
    let folders: BTreeSet<_> = pending.iter().map(|file| &file.folder).collect();
    for folder in folders {
        sync_folder(folder).map_err(|error| cannot("sync the folder", folder, error))?;
    }
    Ok(())
}

fn publish(file: &Pending) -> Result<(), SinkError> {
    match std::fs::rename(file.from(), file.to()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("publish", &file.to(), error)),
        Err(error) if !file.folder.is_dir() => Err(cannot("publish", &file.to(), error)),
        // Published before; a reader may have taken it away since, or a restore from an older checkpoint dropped it.
        Err(_) => {
            if !file.to().exists() {
                tracing::warn!(file = %file.to().display(), "a committed file is neither unfinished nor published");
            }
            Ok(())
        }
    }
}

fn remove_unfinished(folder: &Path, owner: &Owner, attempt: Attempt, keep: &[Pending]) -> Result<(), SinkError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("list", folder, error)),
    };
    let keep: BTreeSet<PathBuf> = keep.iter().map(Pending::from).collect();
    for entry in entries {
        let entry = entry.map_err(|error| cannot("list", folder, error))?;
        let older = entry.file_name().to_str().and_then(|name| owner.attempt_of(name)).is_some_and(|of| of < attempt);
        if !older || keep.contains(&entry.path()) {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("remove", &entry.path(), error));
            }
            _ => {}
        }
    }
    Ok(())
}
