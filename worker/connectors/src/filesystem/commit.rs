//! The second phase: pending files and objects get the names that readers see.
//!
//! The commit of the newest record comes again after every restore, and a reader may have moved away what was published. So what is
//! under neither name is only known not to be lost by a *mark*, an empty hidden file beside the unfinished one. It stands until a
//! record stands that does not name the file any more.
//!
//! | unfinished | mark | published | what a commit does |
//! |---|---|---|---|
//! | there | there or not | | publishes |
//! | gone | there | | nothing: it was published before |
//! | gone | none | there | nothing: it was published by a build that left no marks |
//! | gone | none | gone | says that output is lost |
//!
//! A file's mark is made durable just before the file is renamed, so a crash between the two and a crash after both leave it
//! behind, and in the first case the unfinished file too; so does a commit that the disk let fail, or that finds the file gone as it
//! renames it, which it says is lost: an attempt that is over must not take away what the next one's mark has become. Only where
//! somebody removes the file after such a crash or failure is a loss taken for a publication. An object's mark is put between the copy
//! and the deletion, so no loss is; a crash between the copy and the mark, and a reader that has moved the copy away by the next
//! commit, publish it a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::Committer;
use weir_protocol::Attempt;
use weir_runtime::tasks;

use super::bucket::{Bucket, Objects, Place, Published};
use super::commit_files::Files;
use super::folder::{Disk, FileSystem};
use super::names::{AnyPending, Owner, Pending, PendingObject};
use super::outcome::{Fate, Outcome};

/// Objects published at once.
const PUBLISHING_AT_ONCE: usize = 8;

/// See the module.
pub(super) struct FileCommitter {
    pub(super) folder: PathBuf,
    pub(super) owner: Owner,
    pub(super) attempt: Attempt,
    pub(super) disk: Arc<dyn FileSystem>,
}

#[async_trait]
impl Committer for FileCommitter {
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError> {
        publish_any(pending, &BTreeMap::new(), &self.disk).await
    }

    /// Files of this attempt are left alone: another worker of it may have begun to write.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        let (keep, _) = read(keep)?;
        let (folder, owner, attempt) = (self.folder.clone(), self.owner.clone(), self.attempt);
        let disk = Arc::clone(&self.disk);
        beside(move || Files(&*disk).remove_unfinished(&folder, &owner, attempt, &keep)).await
    }

    async fn forget(&self, published: &[serde_json::Value]) {
        forget_any(published, &BTreeMap::new(), &self.disk).await;
    }

    fn understands(&self, pending: &serde_json::Value) -> bool {
        AnyPending::read(pending).is_ok()
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
        publish_any(pending, &self.open(), &disk()).await
    }

    /// Nobody sees what is unfinished, and no attempt has to wait until it is removed.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        tasks::detach(self.sweep(keep)?);
        Ok(())
    }

    async fn forget(&self, published: &[serde_json::Value]) {
        forget_any(published, &self.open(), &disk()).await;
    }

    fn understands(&self, pending: &serde_json::Value) -> bool {
        AnyPending::read(pending).is_ok()
    }
}

/// Pending commits of a bucket's sink may be files: the table was moved.
fn disk() -> Arc<dyn FileSystem> {
    Arc::new(Disk)
}

impl ObjectCommitter {
    fn open(&self) -> BTreeMap<Place, Objects> {
        BTreeMap::from([(self.bucket.place.clone(), self.bucket.objects.clone())])
    }

    /// Removes what attempts before have left unfinished, but for these pending commits and their marks.
    pub(super) fn sweep(
        &self,
        keep: &[serde_json::Value],
    ) -> Result<impl Future<Output = ()> + Send + use<>, SinkError> {
        let (_, keep) = read(keep)?;
        let marks = keep.iter().map(PendingObject::mark).collect::<Result<Vec<_>, _>>()?;
        let keep: BTreeSet<_> = keep.into_iter().map(|pending| pending.unfinished).chain(marks).collect();
        let (owner, attempt) = (self.owner.clone(), self.attempt);
        let (objects, folder) = (self.bucket.objects.clone(), owner.unfinished_objects(&self.bucket.path));
        Ok(async move {
            let older = move |key: &ObjectPath| owner.attempt_of_object(key).is_some_and(|of| of < attempt);
            let dropped = move |key: &ObjectPath| older(key) && !keep.contains(key);
            if let Err(error) = remove_unfinished_objects(&*objects.store, &folder, dropped).await {
                tracing::warn!(%folder, %error, "unfinished objects of earlier attempts are left behind");
            }
        })
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

async fn publish_any(
    pending: &[serde_json::Value],
    open: &BTreeMap<Place, Objects>,
    disk: &Arc<dyn FileSystem>,
) -> Result<(), SinkError> {
    let (files, found) = read(pending)?;
    let mut outcome = Outcome::default();
    if !files.is_empty() {
        let disk = Arc::clone(disk);
        outcome = beside(move || Ok(Files(&*disk).publish_all(&files))).await?;
    }
    let opened = open_all(&found, open, &mut outcome);
    let mut publishing = Vec::with_capacity(found.len());
    for object in found {
        if let Some(objects) = opened.get(&object.place).cloned() {
            publishing.push(async move { publish_object(&object, &objects).await });
        }
    }
    // All are tried, whatever becomes of one: what can be seen should be.
    let published: Vec<_> = futures::stream::iter(publishing).buffer_unordered(PUBLISHING_AT_ONCE).collect().await;
    for published in published {
        outcome.add(published);
    }
    outcome.result()
}

/// The buckets of these objects, as far as they can be reached.
fn open_all(
    pending: &[PendingObject],
    open: &BTreeMap<Place, Objects>,
    outcome: &mut Outcome,
) -> BTreeMap<Place, Objects> {
    let mut opened = open.clone();
    for PendingObject { place, .. } in pending {
        if !opened.contains_key(place) {
            match place.open() {
                Ok(objects) => drop(opened.insert(place.clone(), objects)),
                Err(error) => outcome.add(Err(SinkError::io(format!("cannot reach {place}")).because(error))),
            }
        }
    }
    opened
}

async fn publish_object(pending: &PendingObject, objects: &Objects) -> Result<Fate, SinkError> {
    let PendingObject { place, unfinished, published } = pending;
    match objects.publish(unfinished, published, &pending.mark()?).await {
        Ok(Published::There) => Ok(Fate::Published),
        Ok(Published::Gone) => Ok(Fate::Lost(format!(
            "the object {place}/{published} is lost: it is neither there nor unfinished at {unfinished}, and no mark says that it was \
             published before"
        ))),
        Err(error) => Err(SinkError::io(format!("cannot publish {place}/{published}")).because(error)),
    }
}

/// What is left behind is an empty hidden file, of which nothing comes.
async fn forget_any(published: &[serde_json::Value], open: &BTreeMap<Place, Objects>, disk: &Arc<dyn FileSystem>) {
    let Ok((files, found)) = read(published) else { return };
    if !files.is_empty() {
        let disk = Arc::clone(disk);
        let removed = beside(move || {
            Files(&*disk).forget(&files);
            Ok(())
        });
        drop(removed.await);
    }
    let opened = open_all(&found, open, &mut Outcome::default());
    let mut removing = Vec::with_capacity(found.len());
    for object in found {
        if let (Ok(mark), Some(objects)) = (object.mark(), opened.get(&object.place).cloned()) {
            removing.push(async move {
                if let Err(error) = objects.store.delete(&mark).await {
                    tracing::debug!(%mark, %error, "a mark is left behind");
                }
            });
        }
    }
    futures::stream::iter(removing).buffer_unordered(PUBLISHING_AT_ONCE).for_each(|()| std::future::ready(())).await;
}

/// File systems block. A panic there is one here.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => Err(SinkError::io("the committer was stopped").because(error)),
        },
    }
}
