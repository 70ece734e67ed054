//! The second phase: pending files and objects get the names that readers see.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::Committer;
use weir_protocol::Attempt;

use super::bucket::{Bucket, Objects, Place, Published};
use super::names::{AnyPending, Owner, Pending, PendingObject};
use super::sink::{cannot, sync_folder};

/// Objects published at once.
const PUBLISHING_AT_ONCE: usize = 8;

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
    pub(super) bucket: Bucket,
    pub(super) owner: Owner,
    pub(super) attempt: Attempt,
}

#[async_trait]
impl Committer for ObjectCommitter {
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError> {
        publish_any(pending, &BTreeMap::from([(self.bucket.place.clone(), self.bucket.objects.clone())])).await
    }

    /// Nobody sees what is unfinished, and no attempt has to wait until it is removed.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        let (_, keep) = read(keep)?;
        let keep: BTreeSet<_> = keep.into_iter().map(|pending| pending.unfinished).collect();
        let (owner, attempt) = (self.owner.clone(), self.attempt);
        let (objects, folder) = (self.bucket.objects.clone(), owner.unfinished_objects(&self.bucket.path));
        tokio::spawn(async move {
            let older = move |key: &ObjectPath| owner.attempt_of_object(key).is_some_and(|of| of < attempt);
            let dropped = move |key: &ObjectPath| older(key) && !keep.contains(key);
            if let Err(error) = remove_unfinished_objects(&*objects.store, &folder, dropped).await {
                tracing::warn!(%folder, %error, "unfinished objects of earlier attempts are left behind");
            }
        });
        Ok(())
    }
}

/// As of files: those of this attempt are left alone.
async fn remove_unfinished_objects(
    store: &dyn ObjectStore,
    folder: &ObjectPath,
    mut dropped: impl FnMut(&ObjectPath) -> bool + Send + 'static,
) -> Result<(), object_store::Error> {
    let listed = store.list(Some(folder)).map_ok(|object| object.location);
    let dropped = listed.try_filter(move |key| std::future::ready(dropped(key)));
    store.delete_stream(dropped.boxed()).try_for_each(|_| std::future::ready(Ok(()))).await
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
    let (files, found) = read(pending)?;
    if !files.is_empty() {
        beside(move || publish_all(&files)).await?;
    }
    let mut opened = open.clone();
    let mut publishing = Vec::with_capacity(found.len());
    for object in found {
        let objects = match opened.get(&object.place) {
            Some(objects) => objects.clone(),
            None => {
                let cannot = |error| SinkError::io(format!("cannot reach {}", object.place)).because(error);
                let objects = object.place.open().map_err(cannot)?;
                opened.insert(object.place.clone(), objects.clone());
                objects
            }
        };
        publishing.push(async move { publish_object(&object, &objects).await });
    }
    // All are tried, whatever becomes of one: what can be seen should be.
    let outcomes: Vec<_> = futures::stream::iter(publishing).buffer_unordered(PUBLISHING_AT_ONCE).collect().await;
    outcomes.into_iter().collect()
}

async fn publish_object(pending: &PendingObject, objects: &Objects) -> Result<(), SinkError> {
    let PendingObject { place, unfinished, published } = pending;
    match objects.publish(unfinished, published).await {
        Ok(Published::There) => Ok(()),
        // Published before; a reader may have taken it away since, or a restore from an older checkpoint dropped it.
        Ok(Published::Gone) => {
            tracing::warn!(
                object = format!("{place}/{published}"),
                "a committed object is neither unfinished nor published"
            );
            Ok(())
        }
        Err(error) => Err(SinkError::io(format!("cannot publish {place}/{published}")).because(error)),
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
