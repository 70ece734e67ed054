//! The second phase: pending files get the names that readers see, and pending uploads become objects.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::StreamExt;
use object_store::path::Path as ObjectPath;
use weir_engine::error::SinkError;
use weir_engine::sink::Committer;
use weir_protocol::Attempt;

use super::bucket::{Bucket, Completed, Objects, Place};
use super::names::{AnyPending, Owner, Pending, PendingObject};
use super::sink::{cannot, sync_folder};

/// Uploads completed at once.
const COMPLETING_AT_ONCE: usize = 8;

/// See the module.
pub(super) struct FileCommitter {
    pub(super) folder: PathBuf,
    pub(super) owner: Owner,
    pub(super) attempt: Attempt,
}

#[async_trait]
impl Committer for FileCommitter {
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError> {
        publish_any(pending, &BTreeMap::new()).await
    }

    /// Files of this attempt are left alone: another worker of it may have begun to write.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        let (keep, _) = read(keep)?;
        let (folder, owner, attempt) = (self.folder.clone(), self.owner.clone(), self.attempt);
        beside(move || remove_unfinished(&folder, &owner, attempt, &keep)).await
    }
}

/// See the module.
pub(super) struct ObjectCommitter {
    /// Clients that are there already.
    open: BTreeMap<Place, Objects>,
}

impl ObjectCommitter {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { open: BTreeMap::from([(bucket.place, bucket.objects)]) }
    }
}

#[async_trait]
impl Committer for ObjectCommitter {
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError> {
        publish_any(pending, &self.open).await
    }

    /// An upload that is not completed is seen by nobody, so nothing must be done for the output to be right. What is kept
    /// is read, since a restore that cannot carry it out later had better fail now.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        read(keep).map(drop)
    }
}

fn read(pending: &[serde_json::Value]) -> Result<(Vec<Pending>, Vec<PendingObject>), SinkError> {
    let (mut files, mut objects) = (Vec::new(), Vec::new());
    for value in pending {
        match AnyPending::read(value)? {
            AnyPending::File(file) => files.push(file),
            AnyPending::Object(object) => objects.push(object),
        }
    }
    Ok((files, objects))
}

async fn publish_any(pending: &[serde_json::Value], open: &BTreeMap<Place, Objects>) -> Result<(), SinkError> {
    let (files, uploads) = read(pending)?;
    if !files.is_empty() {
        beside(move || publish_all(&files)).await?;
    }
    let mut opened = open.clone();
    let mut completing = Vec::with_capacity(uploads.len());
    for upload in uploads {
        let objects = match opened.get(&upload.place) {
            Some(objects) => objects.clone(),
            None => {
                let cannot = |error| SinkError::io(format!("cannot reach {}", upload.place)).because(error);
                let objects = upload.place.open().map_err(cannot)?;
                opened.insert(upload.place.clone(), objects.clone());
                objects
            }
        };
        completing.push(async move { complete(&upload, &objects).await });
    }
    // All are tried, whatever becomes of one: what can be seen should be.
    let outcomes: Vec<_> = futures::stream::iter(completing).buffer_unordered(COMPLETING_AT_ONCE).collect().await;
    outcomes.into_iter().collect()
}

async fn complete(pending: &PendingObject, objects: &Objects) -> Result<(), SinkError> {
    let PendingObject { place, key, upload, parts, length } = pending;
    let path =
        ObjectPath::parse(key).map_err(|error| SinkError::bad_input(format!("{key} is no key")).because(error))?;
    match objects.complete(&path, upload, parts, *length).await {
        Ok(Completed::There) => Ok(()),
        // Published before, and a reader has taken it away since; or the bucket drops unfinished uploads too early.
        Ok(Completed::Gone) => {
            tracing::error!(
                object = format!("{place}/{key}"),
                "a committed object is not there, nor is its upload: if no reader took it away, the bucket drops \
                 unfinished uploads too early and these rows are lost"
            );
            Ok(())
        }
        Err(error) => Err(SinkError::io(format!("cannot publish {place}/{key}")).because(error)),
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
