//! Opening a subtask's state: new, from a snapshot with the same key groups, or out of several with others.
//!
//! No byte is opened before its length and checksum are those of the record, whether it was downloaded or was here already.

use std::{
    ops::{ControlFlow, Range},
    path::Path,
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::AsyncWriteExt;
use weir_protocol::part::{FileRef, KeyedSnapshot};
use weir_runtime::clock;
use weir_storage::{JobStore, StorageError};

use crate::{
    backend::{BackendFactory, KeyedBackend, OpenBackend, WriteBatch},
    budget::DOWNLOAD_PIECE,
    error::StateError,
    guard::{self, Guarded, Judge},
    keys::{MAX_KEY_GROUPS, key_group_range},
    layout::groups_range,
    local::{self, Folder, KnownFiles},
    subtask::OpenState,
};

/// Files of one subtask that are downloaded at once.
const DOWNLOADS_AT_ONCE: usize = 4;

pub(crate) struct Opened {
    pub(crate) backend: Guarded,
    pub(crate) groups: Range<u32>,
    pub(crate) folder: Arc<Folder>,
    pub(crate) known: KnownFiles,
}

pub(crate) fn open(open: &OpenState) -> Result<Opened, StateError> {
    let (max, parallelism) = (open.max_parallelism, open.parallelism);
    if max == 0 || max > MAX_KEY_GROUPS || parallelism == 0 || parallelism > max || open.subtask >= parallelism {
        return Err(StateError::mismatch(format!(
            "subtask {} of {parallelism} with {max} key groups: there are 1 to {MAX_KEY_GROUPS} key groups, and no more subtasks",
            open.subtask
        )));
    }
    let groups = key_group_range(open.subtask, parallelism, max);
    let factory = open.registry.get(&open.backend)?;
    check(open, factory.as_ref(), &groups)?;
    let folder = Arc::new(Folder::open(&open.dir)?);
    let opening = Opening { open, factory: factory.as_ref(), folder: &folder };
    let (backend, known) = match &open.restore[..] {
        [same] if (same.key_group_start..same.key_group_end) == groups => {
            let files = opening.materialize(same, 0)?;
            let known = same.files.iter().map(|file| (file.name.clone(), (file.length, file.crc32c))).collect();
            (opening.backend("state", Some(files))?, known)
        }
        several => {
            let backend = opening.backend("state", None)?;
            for (at, old) in several.iter().enumerate() {
                opening.take_over(old, at, &groups, &backend)?;
            }
            (backend, KnownFiles::new())
        }
    };
    folder.remove_leftovers();
    Ok(Opened { backend, groups, folder, known })
}

/// One subtask's opening.
struct Opening<'a> {
    open: &'a OpenState,
    factory: &'a dyn BackendFactory,
    folder: &'a Arc<Folder>,
}

impl Opening<'_> {
    /// A backend in a folder of its own, empty or with what was materialized.
    fn backend(&self, dir: &str, files: Option<guard::Opened>) -> Result<Guarded, StateError> {
        let orders = OpenBackend {
            dir: self.folder.scratch(dir)?,
            options: self.open.options.clone(),
            memory: self.open.memory.clone(),
            restore_dir: files.as_ref().map(|files| files.dir.clone()),
        };
        let judge = Judge::new(Arc::clone(self.folder), files.into_iter().collect());
        let backend = self.factory.open(orders).map_err(|error| judge.judge(error))?;
        Ok(Guarded::new(backend, judge))
    }

    /// Copies an old subtask's share of our key groups.
    fn take_over(&self, old: &KeyedSnapshot, at: usize, groups: &Range<u32>, to: &Guarded) -> Result<(), StateError> {
        let own = groups.start.max(old.key_group_start)..groups.end.min(old.key_group_end);
        let files = self.materialize(old, at)?;
        let downloaded = (!files.local).then(|| files.dir.clone());
        let dir = format!("old-state-{at}");
        let from = self.backend(&dir, Some(files))?;
        copy(&from, to, &own, self.open.memory.rows().batch_bytes())?;
        drop(from);
        local::remove(&self.folder.live().join(dir));
        if let Some(downloaded) = downloaded {
            local::remove(&downloaded);
        }
        Ok(())
    }
}

/// What is to be restored fits the backend, and has all of our key groups exactly once.
fn check(open: &OpenState, factory: &dyn BackendFactory, groups: &Range<u32>) -> Result<(), StateError> {
    for snapshot in &open.restore {
        let format = open.registry.get(&snapshot.backend).map(|factory| factory.format());
        if !format.is_ok_and(|format| format == factory.format()) {
            return Err(StateError::mismatch(format!(
                "the checkpoint was written by state backend {:?} and cannot be read by {:?}; keep the backend",
                snapshot.backend, open.backend
            )));
        }
    }
    let mut ranges: Vec<_> = open
        .restore
        .iter()
        .map(|snapshot| groups.start.max(snapshot.key_group_start)..groups.end.min(snapshot.key_group_end))
        .filter(|range| !range.is_empty())
        .collect();
    ranges.sort_by_key(|range| range.start);
    let covered = ranges.iter().try_fold(groups.start, |at, range| (range.start == at).then_some(range.end));
    if !open.restore.is_empty() && (covered != Some(groups.end) || ranges.len() != open.restore.len()) {
        return Err(StateError::mismatch(format!(
            "key groups {groups:?} are to be restored, but the snapshots given have {ranges:?} of them"
        )));
    }
    Ok(())
}

/// Copies the entries of these key groups, which `to` has none of.
fn copy(
    from: &dyn KeyedBackend,
    to: &dyn KeyedBackend,
    groups: &Range<u32>,
    batch_bytes: usize,
) -> Result<(), StateError> {
    let (start, end) = groups_range(groups);
    let mut batch = WriteBatch::new();
    let mut result = Ok(());
    from.scan(&start, &end, &mut |key, value| {
        batch.put(key, value);
        if batch.bytes() >= batch_bytes {
            result = to.write(&batch);
            batch.clear();
            if result.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    result?;
    if !batch.is_empty() {
        to.write(&batch)?;
    }
    Ok(())
}

impl Opening<'_> {
    /// A folder with a snapshot's files: a local one that is the same, or a download.
    fn materialize(&self, snapshot: &KeyedSnapshot, at: usize) -> Result<guard::Opened, StateError> {
        let Self { open, folder, .. } = self;
        let harmless =
            |name: &str| !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
        if let Some(file) = snapshot.files.iter().find(|file| !harmless(&file.name)) {
            return Err(StateError::corrupt(format!(
                "the part names a state file {:?}, which is no file name",
                file.name
            )));
        }
        let files = snapshot.files.clone();
        let began = clock::now();
        let stopped = || open.stopped.is_cancelled();
        if let Some(dir) = folder.find(&files, open.local_snapshot.as_deref(), &stopped) {
            let verified_ms = clock::since(began).as_millis() as u64;
            tracing::info!(folder = %dir.display(), verified_ms, "state is restored from local files");
            return Ok(guard::Opened { dir, local: true, files });
        }
        let dir = folder.scratch(&format!("download-{at}"))?;
        let downloads = stream::iter(&files)
            .map(|file| download(open, file, &dir))
            .buffer_unordered(DOWNLOADS_AT_ONCE)
            .try_collect::<()>();
        let downloaded = open.runtime.block_on(open.stopped.run_until_cancelled(downloads));
        downloaded.unwrap_or_else(|| Err(StateError::io("the restore was given up")))?;
        Ok(guard::Opened { dir, local: false, files })
    }
}

fn object(file: &FileRef) -> String {
    if file.inline.is_some() {
        return format!("state file {} inside the record", file.name);
    }
    format!("state file {} (bytes {} to {} of object {})", file.name, file.offset, file.offset + file.length, file.path)
}

async fn download(open: &OpenState, file: &FileRef, into: &Path) -> Result<(), StateError> {
    let store = &open.store;
    let path = into.join(&file.name);
    let mut local = tokio::fs::File::create(&path).await.map_err(StateError::file("creating", &path))?;
    let (mut length, mut crc) = (0, 0);
    if let Some(inline) = &file.inline {
        let content = BASE64_STANDARD
            .decode(inline)
            .map_err(|error| StateError::corrupt(format!("{} is not base64", object(file))).because(error))?;
        (length, crc) = (content.len() as u64, crc32c::crc32c(&content));
        local.write_all(&content).await.map_err(StateError::file("writing", &path))?;
    } else {
        while length < file.length {
            let end = (file.offset + length + DOWNLOAD_PIECE).min(file.offset + file.length);
            let _room = open.memory.room_for_download().await;
            let piece = match store.get_range(&file.path, file.offset + length..end).await {
                Ok(piece) => piece,
                Err(error) => return Err(unreadable(store, file, error).await),
            };
            if piece.is_empty() {
                break;
            }
            length += piece.len() as u64;
            crc = crc32c::crc32c_append(crc, &piece);
            local.write_all(&piece).await.map_err(StateError::file("writing", &path))?;
        }
    }
    local.flush().await.map_err(StateError::file("writing", &path))?;
    if length != file.length {
        return Err(StateError::corrupt(format!("{} ends after {length} bytes; it is not restored", object(file))));
    }
    if crc != file.crc32c {
        return Err(StateError::corrupt(format!(
            "{} has CRC-32C {crc:08x} where the checkpoint says {:08x}; it is not restored",
            object(file),
            file.crc32c
        )));
    }
    Ok(())
}

/// Tells a missing or shortened object, which no retry mends, from a store that cannot be reached.
async fn unreadable(store: &JobStore, file: &FileRef, error: StorageError) -> StateError {
    if let StorageError::NotFound { .. } = error {
        return StateError::corrupt(format!("{} is missing; it is not restored", object(file))).because(error);
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let size = store.list(folder).await.ok().and_then(|all| all.into_iter().find(|stored| stored.path == file.path));
    match size {
        Some(stored) if stored.size < file.offset + file.length => {
            let size = stored.size;
            StateError::corrupt(format!("{} is cut off: the object has {size} bytes; it is not restored", object(file)))
                .because(error)
        }
        _ => StateError::io(format!("{} could not be downloaded", object(file))).because(error),
    }
}
