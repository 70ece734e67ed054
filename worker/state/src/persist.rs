//! From frozen rows to objects in storage: write, snapshot, checksum, upload what is new.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore};
use weir_protocol::{
    Attempt, CheckpointId, WorkerId,
    part::{FileRef, KeyedSnapshot},
    paths,
};
use weir_runtime::clock;
use weir_storage::{Created, JobStore};

use crate::{
    backend::{Carriage, INLINE_LIMIT, KeyedBackend, LocalFile},
    error::StateError,
    frozen::Frozen,
    local::{self, KnownFiles},
    subtask::Shared,
    uploads::{Listed, Uploads},
};

/// Files below this are packed together.
pub const PACK_BELOW: u64 = 1 << 20;
/// A pack is closed when it has so many bytes.
pub const PACK_BYTES: u64 = 8 << 20;
/// Uploads of one worker under way at once.
pub const UPLOADS_AT_ONCE: usize = 4;
/// Objects of no use that are deleted at once: uploads come first.
const DELETES_AT_ONCE: usize = 4;
/// Deletes between two looks at what has come meanwhile.
const DELETES_IN_A_BATCH: usize = 64;
/// So many paths of objects of no use wait to be deleted, while storage deletes none. Older ones are left to a later attempt's
/// coordinator: some megabytes of names must be enough for a storage that is away.
const MOST_GARBAGE: usize = 20_000;
/// Files are read in pieces of this size.
pub(crate) const PIECE: usize = 1 << 20;

/// Uploads the state files of one worker in one attempt, under names that count up. All its subtasks share one.
#[derive(Debug)]
pub struct Uploader {
    store: JobStore,
    runtime: Handle,
    attempt: Attempt,
    worker: WorkerId,
    next: AtomicU64,
    permits: Semaphore,
    garbage: Mutex<Garbage>,
}

/// Objects of this worker and attempt that are of no use any more.
#[derive(Debug, Default)]
struct Garbage {
    paths: VecDeque<String>,
    /// They are being deleted.
    sweeping: bool,
}

impl Uploader {
    /// One a worker and attempt: two would make the same names.
    pub fn new(store: JobStore, runtime: Handle, attempt: Attempt, worker: WorkerId) -> Self {
        let (next, permits) = (AtomicU64::new(1), Semaphore::new(UPLOADS_AT_ONCE));
        Self { store, runtime, attempt, worker, next, permits, garbage: Mutex::default() }
    }

    /// Deletes objects of this worker and attempt that nothing names nor ever will. Beside everything else: what storage
    /// does not delete now is tried again with the next ones, and in the end by the coordinator of a later attempt.
    pub fn discard(self: &Arc<Self>, paths: impl IntoIterator<Item = String>) {
        let mut garbage = self.garbage.lock();
        garbage.paths.extend(paths);
        let excess = garbage.paths.len().saturating_sub(MOST_GARBAGE);
        garbage.paths.drain(..excess);
        if !garbage.sweeping && !garbage.paths.is_empty() {
            garbage.sweeping = true;
            drop(self.runtime.spawn(Arc::clone(self).sweep()));
        }
    }

    async fn sweep(self: Arc<Self>) {
        loop {
            let batch: Vec<String> = {
                let mut garbage = self.garbage.lock();
                let count = garbage.paths.len().min(DELETES_IN_A_BATCH);
                if count == 0 {
                    garbage.sweeping = false;
                    return;
                }
                garbage.paths.drain(..count).collect()
            };
            let deletes = batch.into_iter().map(|path| async {
                let deleted = self.store.delete(&path).await;
                deleted.err().map(|error| (path, error))
            });
            let failed: Vec<_> =
                stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).filter_map(future::ready).collect().await;
            if let Some((path, error)) = failed.first() {
                tracing::debug!(path, %error, "an object of no use could not be deleted");
                let mut garbage = self.garbage.lock();
                garbage.paths.extend(failed.into_iter().map(|(path, _)| path));
                garbage.sweeping = false;
                return;
            }
        }
    }

    fn next_path(&self) -> String {
        paths::state_file(self.attempt, &self.worker, self.next.fetch_add(1, Ordering::Relaxed))
    }

    async fn upload(&self, upload: Upload, uploads: &Mutex<Uploads>) -> Result<Vec<FileRef>, StateError> {
        let _permit =
            self.permits.acquire().await.map_err(|error| StateError::io("uploads have ended").because(error))?;
        let path = self.next_path();
        uploads.lock().begun(&path);
        let expected: u64 = upload.files.iter().map(|file| file.length).sum();
        let length = match &upload.files[..] {
            [file] if file.length >= PACK_BELOW => {
                self.store.create_from_file(&path, &upload.folder.join(&file.name)).await.map_err(StateError::upload)?
            }
            files => {
                let mut pack = Vec::with_capacity(expected as usize);
                for file in files {
                    let from = upload.folder.join(&file.name);
                    pack.extend(tokio::fs::read(&from).await.map_err(StateError::file("reading", &from))?);
                }
                let length = pack.len() as u64;
                match self.store.create(&path, Bytes::from(pack)).await.map_err(StateError::upload)? {
                    Created::New | Created::Same => length,
                    Created::Taken(_) => {
                        return Err(StateError::io(format!(
                            "{path} is taken by other bytes, though no other process makes it"
                        )));
                    }
                }
            }
        };
        if length != expected {
            return Err(StateError::io(format!("{path} has {length} bytes where {expected} were listed")));
        }
        let mut offset = 0;
        let mut references = Vec::with_capacity(upload.files.len());
        let mut uploads = uploads.lock();
        for Listed { name, length, crc32c, immutable } in upload.files {
            let reference = FileRef { name, path: path.clone(), offset, length, crc32c, inline: None };
            uploads.stands(immutable.then(|| reference.clone()));
            references.push(reference);
            offset += length;
        }
        Ok(references)
    }
}

/// One checkpoint's orders.
#[derive(Clone, Debug)]
pub struct Persist {
    /// The checkpoint.
    pub id: CheckpointId,
    /// This subtask's snapshot in the newest record. `None`: no record names any file of this opening's. All earlier
    /// checkpoints but those on record are given up; what they uploaded is named again, or deleted.
    pub base: Option<KeyedSnapshot>,
    /// The worker's.
    pub uploader: Arc<Uploader>,
}

/// What a persist did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersistStats {
    /// Bytes of all files of the snapshot.
    pub state_bytes: u64,
    /// Bytes that were uploaded.
    pub uploaded_bytes: u64,
    /// Files that were uploaded.
    pub uploaded_files: u64,
    /// Bytes of keys and rows that were written to the backend.
    pub changed_bytes: u64,
    /// Milliseconds for writing to the backend.
    pub write_ms: u64,
    /// Milliseconds for the backend's snapshot.
    pub snapshot_ms: u64,
    /// Milliseconds for checksums and uploads.
    pub upload_ms: u64,
}

struct Upload {
    folder: PathBuf,
    files: Vec<Listed>,
}

pub(crate) fn persist(
    shared: &Arc<Shared>,
    frozen: Vec<Frozen>,
    persist: &Persist,
) -> Result<(KeyedSnapshot, PersistStats), StateError> {
    let mut stats = PersistStats::default();
    let (folder, files) = snapshot(shared, frozen, persist.id, &mut stats)?;
    let started = clock::now();
    let stored = store(shared, persist, &folder, files, &mut stats).and_then(|stored| {
        shared.folder.keep(persist.id, &folder, &stored)?;
        Ok(stored)
    });
    let files = stored.inspect_err(|_| local::remove(&folder))?;
    stats.upload_ms = clock::since(started).as_millis() as u64;
    let snapshot = KeyedSnapshot {
        backend: shared.backend_name.clone(),
        key_group_start: shared.groups.start,
        key_group_end: shared.groups.end,
        key_group_watermarks: Vec::new(),
        files,
    };
    Ok((snapshot, stats))
}

/// Writes what was frozen and takes the backend's snapshot. The gate is open when this returns.
fn snapshot(
    shared: &Shared,
    frozen: Vec<Frozen>,
    id: CheckpointId,
    stats: &mut PersistStats,
) -> Result<(PathBuf, Vec<LocalFile>), StateError> {
    let _writer = shared.gate.writer.lock();
    shared.usable()?;
    let started = clock::now();
    let tables = shared.gate.take(&frozen);
    stats.changed_bytes = shared.write(&tables)?;
    // What was copied because of these is given back before the upload.
    drop(tables);
    stats.write_ms = clock::since(started).as_millis() as u64;
    let started = clock::now();
    let folder = shared.folder.snapshot(id)?;
    let files = shared.backend.snapshot(&folder).inspect_err(|_| local::remove(&folder))?;
    stats.snapshot_ms = clock::since(started).as_millis() as u64;
    drop(frozen);
    Ok((folder, files))
}

fn store(
    shared: &Shared,
    persist: &Persist,
    folder: &Path,
    files: Vec<LocalFile>,
    stats: &mut PersistStats,
) -> Result<Vec<FileRef>, StateError> {
    stats.state_bytes = files.iter().map(|file| file.length).sum();
    let listed = list(&shared.known, folder, files)?;
    if shared.carriage == Carriage::Inline {
        return inline(folder, listed, stats.state_bytes);
    }
    let uploader = &persist.uploader;
    let names = (uploader.attempt, &uploader.worker);
    let (found, garbage) = shared.uploads.lock().begin(names, persist.base.as_ref(), &listed);
    uploader.discard(garbage);
    let mut stored = Vec::with_capacity(listed.len());
    let (mut uploads, mut pack, mut packed) = (Vec::new(), Vec::new(), 0);
    for (file, found) in listed.into_iter().zip(found) {
        if let Some(found) = found {
            stored.push(found);
            continue;
        }
        stats.uploaded_bytes += file.length;
        stats.uploaded_files += 1;
        if file.length >= PACK_BELOW {
            uploads.push(Upload { folder: folder.to_path_buf(), files: vec![file] });
            continue;
        }
        packed += file.length;
        pack.push(file);
        if packed >= PACK_BYTES {
            uploads.push(Upload { folder: folder.to_path_buf(), files: std::mem::take(&mut pack) });
            packed = 0;
        }
    }
    if !pack.is_empty() {
        uploads.push(Upload { folder: folder.to_path_buf(), files: pack });
    }
    let uploaded: Vec<Vec<FileRef>> = uploader.runtime.block_on(
        stream::iter(uploads.into_iter().map(|upload| uploader.upload(upload, &shared.uploads)))
            .buffer_unordered(UPLOADS_AT_ONCE)
            .try_collect(),
    )?;
    stored.extend(uploaded.into_iter().flatten());
    stored.sort();
    Ok(stored)
}

/// Checksums of all files; those of immutable ones are read once.
fn list(known: &Mutex<KnownFiles>, folder: &Path, files: Vec<LocalFile>) -> Result<Vec<Listed>, StateError> {
    let mut still = KnownFiles::new();
    let mut listed = Vec::with_capacity(files.len());
    let mut known = known.lock();
    for LocalFile { name, length, immutable } in files {
        let crc32c = match known.get(&name) {
            Some(&(same, crc32c)) if immutable && same == length => crc32c,
            _ => {
                let (read, crc32c) = checksum(&folder.join(&name), &|| false)?;
                if read != length {
                    return Err(StateError::io(format!(
                        "{name} of a snapshot has {read} bytes where {length} were listed"
                    )));
                }
                crc32c
            }
        };
        if immutable {
            still.insert(name.clone(), (length, crc32c));
        }
        listed.push(Listed { name, length, crc32c, immutable });
    }
    // Files that this snapshot does not have are gone for good.
    *known = still;
    Ok(listed)
}

/// Length and CRC-32C of a file. `stopped` is asked between pieces.
pub(crate) fn checksum(path: &Path, stopped: &dyn Fn() -> bool) -> Result<(u64, u32), StateError> {
    let mut file = File::open(path).map_err(StateError::file("opening", path))?;
    let mut buffer = vec![0; PIECE];
    let (mut length, mut crc) = (0, 0);
    loop {
        if stopped() {
            return Err(StateError::io(format!("reading {} was given up", path.display())));
        }
        let read = file.read(&mut buffer).map_err(StateError::file("reading", path))?;
        if read == 0 {
            return Ok((length, crc));
        }
        length += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

fn inline(folder: &Path, files: Vec<Listed>, bytes: u64) -> Result<Vec<FileRef>, StateError> {
    if bytes > INLINE_LIMIT {
        return Err(StateError::too_large(format!(
            "the state of a subtask has {bytes} bytes, and snapshots carried in the record have {INLINE_LIMIT} at most; use \
             the state backend filesystem or rocksdb"
        )));
    }
    let carry = |Listed { name, length, crc32c, .. }| {
        let path = folder.join(&name);
        let content = std::fs::read(&path).map_err(StateError::file("reading", &path))?;
        let inline = Some(BASE64_STANDARD.encode(content));
        Ok(FileRef { name, path: String::new(), offset: 0, length, crc32c, inline })
    };
    files.into_iter().map(carry).collect()
}
