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
//! behind, and in the first case the unfinished file too. Only where somebody removes that file after such a crash is a loss
//! taken for a publication. An object's mark is put between the copy and the deletion, so no loss is; a crash between the copy
//! and the mark, and a reader that has moved the copy away by the next commit, publish it a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use weir_engine::api::error::{FailureKind, SinkError};
use weir_engine::api::sink::Committer;
use weir_protocol::Attempt;

use super::bucket::{Bucket, Objects, Place, Published};
use super::folder::{cannot, sync_folder};
use super::names::{AnyPending, Owner, Pending, PendingObject};

/// Objects published at once.
const PUBLISHING_AT_ONCE: usize = 8;
/// Of so many files or objects that are lost the names are said; there may be thousands.
const LOST_NAMED: usize = 3;

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

    async fn forget(&self, published: &[serde_json::Value]) {
        forget_any(published, &BTreeMap::new()).await;
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
        publish_any(pending, &BTreeMap::from([(self.bucket.place.clone(), self.bucket.objects.clone())])).await
    }

    /// Nobody sees what is unfinished, and no attempt has to wait until it is removed.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        tokio::spawn(self.sweep(keep)?);
        Ok(())
    }

    async fn forget(&self, published: &[serde_json::Value]) {
        forget_any(published, &BTreeMap::from([(self.bucket.place.clone(), self.bucket.objects.clone())])).await;
    }

    fn understands(&self, pending: &serde_json::Value) -> bool {
        AnyPending::read(pending).is_ok()
    }
}

impl ObjectCommitter {
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

/// What became of all that was to be published.
#[derive(Default)]
struct Outcome {
    lost: Vec<String>,
    failed: Option<SinkError>,
}

impl Outcome {
    fn add(&mut self, published: Result<Fate, SinkError>) {
        match published {
            Ok(Fate::Published) => {}
            Ok(Fate::Lost(what)) => self.lost.push(what),
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// What is lost comes first: what failed is tried again, and nobody would hear of the loss while that goes on.
    fn result(self) -> Result<(), SinkError> {
        if self.lost.is_empty() {
            return self.failed.map_or(Ok(()), Err);
        }
        let more = self.lost.len().saturating_sub(LOST_NAMED);
        let named = self.lost.into_iter().take(LOST_NAMED).collect::<Vec<_>>().join("; ");
        let message = if more > 0 { format!("{named}; and {more} more") } else { named };
        Err(SinkError::new(FailureKind::OutputLost, message))
    }
}

/// What became of one file or object.
enum Fate {
    /// It is seen, or was.
    Published,
    /// It is under neither name, and was never published. Says so.
    Lost(String),
}

async fn publish_any(pending: &[serde_json::Value], open: &BTreeMap<Place, Objects>) -> Result<(), SinkError> {
    let (files, found) = read(pending)?;
    let mut outcome = Outcome::default();
    if !files.is_empty() {
        outcome = beside(move || Ok(publish_all(&files))).await?;
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
async fn forget_any(published: &[serde_json::Value], open: &BTreeMap<Place, Objects>) {
    let Ok((files, found)) = read(published) else { return };
    if !files.is_empty() {
        let removed = beside(move || {
            files.iter().map(Pending::mark).for_each(|mark| {
                if let Err(error) = std::fs::remove_file(&mark)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::debug!(mark = %mark.display(), %error, "a mark is left behind");
                }
            });
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

/// Marks all that are to be published, and when that is durable renames them.
fn publish_all(pending: &[Pending]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut due = Vec::with_capacity(pending.len());
    for file in pending {
        match begin(file) {
            Ok(Begun::Due { first }) => due.push((file, first)),
            Ok(Begun::Done) => {}
            Ok(Begun::Lost) => outcome.add(Ok(lost(file))),
            Err(error) => outcome.add(Err(error)),
        }
    }
    let folders: BTreeSet<_> = due.iter().map(|(file, _)| &file.folder).collect();
    let unsynced: BTreeSet<_> = sync(&folders, &mut outcome);
    for (file, first) in due {
        if unsynced.contains(&file.folder) {
            unmark(file, first);
        } else {
            outcome.add(publish(file, first));
        }
    }
    sync(&folders, &mut outcome);
    outcome
}

/// Makes the names in these folders durable; gives those of which that is not known.
fn sync<'a>(folders: &BTreeSet<&'a PathBuf>, outcome: &mut Outcome) -> BTreeSet<&'a PathBuf> {
    let mut unsynced = BTreeSet::new();
    for folder in folders {
        if let Err(error) = sync_folder(folder) {
            outcome.add(Err(cannot("sync the folder", folder, error)));
            unsynced.insert(*folder);
        }
    }
    unsynced
}

/// How far the commit of a file is.
enum Begun {
    /// It is to be renamed. `first`: nobody has begun that before.
    Due {
        first: bool,
    },
    Done,
    Lost,
}

/// The unfinished file is looked for before its mark: whoever else publishes it has made the mark before it goes.
fn begin(file: &Pending) -> Result<Begun, SinkError> {
    let there = |path: PathBuf| path.try_exists().map_err(|error| cannot("look for", &path, error));
    if there(file.from())? {
        let mark = file.mark();
        return match OpenOptions::new().write(true).create_new(true).open(&mark) {
            Ok(_) => Ok(Begun::Due { first: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Begun::Due { first: false }),
            Err(error) => Err(cannot("mark what is to be published by", &mark, error)),
        };
    }
    if there(file.mark())? || there(file.to())? {
        return Ok(Begun::Done);
    }
    if !file.folder.is_dir() {
        let gone = io::Error::new(io::ErrorKind::NotFound, "the folder is gone");
        return Err(cannot("publish", &file.to(), gone));
    }
    Ok(Begun::Lost)
}

fn publish(file: &Pending, first: bool) -> Result<Fate, SinkError> {
    match std::fs::rename(file.from(), file.to()) {
        Ok(()) => Ok(Fate::Published),
        Err(error) if error.kind() != io::ErrorKind::NotFound || !file.folder.is_dir() => {
            unmark(file, first);
            Err(cannot("publish", &file.to(), error))
        }
        // Somebody else publishes it too, or it went away after it was marked: then the mark tells of nothing.
        Err(_) if !first || file.to().exists() => Ok(Fate::Published),
        Err(_) => {
            unmark(file, first);
            Ok(lost(file))
        }
    }
}

/// It was marked just now, and nothing came of it.
fn unmark(file: &Pending, first: bool) {
    if first && let Err(error) = std::fs::remove_file(file.mark()) {
        tracing::warn!(mark = %file.mark().display(), %error, "a mark of what was not published is left behind");
    }
}

fn lost(file: &Pending) -> Fate {
    let (to, from) = (file.to(), file.from());
    Fate::Lost(format!(
        "the file {} is lost: it is neither there nor unfinished as {}, and no mark says that it was published before",
        to.display(),
        from.display()
    ))
}

fn remove_unfinished(folder: &Path, owner: &Owner, attempt: Attempt, keep: &[Pending]) -> Result<(), SinkError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("list", folder, error)),
    };
    let keep: BTreeSet<PathBuf> = keep.iter().flat_map(|pending| [pending.from(), pending.mark()]).collect();
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
