//! A subtask's local folder: the backend's live files, and the snapshots kept for a reset in place.
//!
//! ```text
//! <dir>/live-<n>/              of the n-th opening; removed when it is closed
//! <dir>/snapshots/<id>-<n>/    hard links of one checkpoint, with a list of names, lengths and checksums
//! ```

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weir_protocol::{CheckpointId, part::FileRef};

use crate::{error::StateError, persist::checksum};

const SNAPSHOTS: &str = "snapshots";
const LIVE: &str = "live-";
/// The list of a snapshot's files; no backend has a file of this name.
const LIST: &str = "weir-files.json";

/// Length and CRC-32C of files whose names never stand for other bytes while this backend is open.
pub(crate) type KnownFiles = HashMap<String, (u64, u32)>;

/// What a file is, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Listed {
    name: String,
    length: u64,
    crc32c: u32,
}

impl Listed {
    fn of(files: &[FileRef]) -> Vec<Self> {
        let listed = |file: &FileRef| Self { name: file.name.clone(), length: file.length, crc32c: file.crc32c };
        let mut files: Vec<_> = files.iter().map(listed).collect();
        files.sort();
        files
    }
}

#[derive(Serialize, Deserialize)]
struct List {
    /// Of the machine's run. What was linked before a crash of the machine may not have reached the disk.
    boot: String,
    files: Vec<Listed>,
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// One opening's place in a subtask's folder. Its live files go when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    number: u64,
    live: PathBuf,
    snapshots: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    of: Vec<(CheckpointId, PathBuf)>,
    /// What is live here is damaged, and with it all that shares its files: nothing is kept any more.
    retired: bool,
}

impl Folder {
    /// Takes the next number of this folder.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let snapshots = dir.join(SNAPSHOTS);
        fs::create_dir_all(&snapshots).map_err(StateError::file("making the folder", &snapshots))?;
        let number = 1 + entries(dir)?.iter().filter_map(|path| number_after(path, LIVE)).max().unwrap_or(0);
        let number =
            number.max(1 + entries(&snapshots)?.iter().filter_map(|path| last_number(path)).max().unwrap_or(0));
        let mut number = number;
        let live = loop {
            let live = dir.join(format!("{LIVE}{number}"));
            match fs::create_dir(&live) {
                Ok(()) => break live,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(StateError::file("making the folder", &live)(error)),
            }
        };
        Ok(Self { dir: dir.to_path_buf(), number, live, snapshots: Mutex::default() })
    }

    /// Where live files stand.
    pub(crate) fn live(&self) -> &Path {
        &self.live
    }

    /// A new folder for downloads, below the live one, so that it goes with it.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, StateError> {
        make_empty(&self.live.join(name))
    }

    /// A new folder for the snapshot of a checkpoint. It counts only once it is [kept](Self::keep).
    pub(crate) fn snapshot(&self, id: CheckpointId) -> Result<PathBuf, StateError> {
        make_empty(&self.dir.join(SNAPSHOTS).join(format!("{id}-{}", self.number)))
    }

    /// Writes the list of a snapshot's files, which makes it usable.
    pub(crate) fn keep(&self, id: CheckpointId, folder: &Path, files: &[FileRef]) -> Result<(), StateError> {
        let list = List { boot: boot(), files: Listed::of(files) };
        let path = folder.join(LIST);
        let text =
            serde_json::to_vec(&list).map_err(|error| StateError::io("listing a snapshot failed").because(error))?;
        fs::write(&path, text).map_err(StateError::file("writing", &path))?;
        let mut kept = self.snapshots.lock();
        kept.of.push((id, folder.to_path_buf()));
        if kept.retired {
            retire(folder);
        }
        Ok(())
    }

    pub(crate) fn snapshot_of(&self, id: CheckpointId) -> Option<PathBuf> {
        let kept = self.snapshots.lock();
        if kept.retired {
            return None;
        }
        kept.of.iter().rev().find(|(of, _)| *of == id).map(|(_, folder)| folder.clone())
    }

    /// What is live here is damaged, so that no snapshot of this opening is used again: they share their files.
    pub(crate) fn retire(&self) {
        let mut kept = self.snapshots.lock();
        kept.retired = true;
        for (_, folder) in &kept.of {
            retire(folder);
        }
    }

    /// Drops this opening's snapshots of checkpoints that were given up: all before `id` but that of `base`, the newest that
    /// is on record. Each pins files that are live no more.
    pub(crate) fn drop_given_up(&self, id: CheckpointId, base: Option<CheckpointId>) {
        self.snapshots.lock().of.retain(|(of, folder)| {
            let stays = *of >= id || Some(*of) == base;
            if !stays {
                remove(folder);
            }
            stays
        });
    }

    /// Drops the snapshots of earlier checkpoints, of earlier openings as well.
    pub(crate) fn drop_before(&self, id: CheckpointId) {
        self.snapshots.lock().of.retain(|(of, _)| *of >= id);
        for path in entries(&self.dir.join(SNAPSHOTS)).unwrap_or_default() {
            if first_number(&path).is_none_or(|of| of < id.0) {
                remove(&path);
            }
        }
    }

    /// A snapshot, of any opening, whose list is this one and whose files are what it says, length and CRC-32C. `other` is
    /// looked into as well. What is damaged is retired. `stopped` is asked between pieces; then nothing is found.
    pub(crate) fn find(
        &self,
        files: &[FileRef],
        other: Option<&Path>,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Option<PathBuf> {
        let wanted = Listed::of(files);
        let kept = entries(&self.dir.join(SNAPSHOTS)).unwrap_or_default();
        let boot = boot();
        let listed = |folder: &Path| {
            let list = fs::read(folder.join(LIST)).ok().and_then(|text| serde_json::from_slice::<List>(&text).ok());
            list.is_some_and(|list| list.boot == boot && list.files == wanted)
        };
        let candidates = other.map(Path::to_path_buf).into_iter().chain(kept).filter(|folder| listed(folder));
        for folder in candidates {
            match damage(&folder, files, stopped) {
                None => return Some(folder),
                Some(_) if stopped() => return None,
                Some(what) => {
                    tracing::warn!(folder = %folder.display(), what, "a local state file is damaged; the state is downloaded");
                    retire(&folder);
                }
            }
        }
        None
    }

    /// Removes what earlier openings left. Called when this one is open, since they are closed by then.
    pub(crate) fn remove_leftovers(&self) {
        for path in entries(&self.dir).unwrap_or_default() {
            if number_after(&path, LIVE).is_some_and(|number| number < self.number) {
                remove(&path);
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.live);
    }
}

/// Files whose checksums are read at once: a processor reads faster than most disks, and there are a few of each.
const VERIFIED_AT_ONCE: usize = 4;

/// What differs between the files of a folder and what a record says of them; `None` where nothing does. All bytes are read.
pub(crate) fn damage(folder: &Path, files: &[FileRef], stopped: &(dyn Fn() -> bool + Sync)) -> Option<String> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(None);
    let verify = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if found.lock().is_some() {
                return;
            }
            if let Some(what) = damage_of(&folder.join(&file.name), file, stopped) {
                *found.lock() = Some(what);
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 1..VERIFIED_AT_ONCE.min(files.len()) {
            // Where no thread can be had this one does all.
            drop(std::thread::Builder::new().name("verify".to_string()).spawn_scoped(threads, verify));
        }
        verify();
    });
    found.into_inner()
}

fn damage_of(path: &Path, file: &FileRef, stopped: &dyn Fn() -> bool) -> Option<String> {
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) => return Some(format!("{}: {error}", file.name)),
    };
    if length != file.length {
        return Some(format!("{} has {length} bytes instead of {}", file.name, file.length));
    }
    match checksum(path, stopped) {
        Err(error) => Some(format!("{}: {error}", file.name)),
        Ok((_, crc32c)) if crc32c != file.crc32c => {
            Some(format!("{} has CRC-32C {crc32c:08x} instead of {:08x}", file.name, file.crc32c))
        }
        Ok(_) => None,
    }
}

/// Makes a snapshot's folder one that is never used again; the files go when a later record exists.
pub(crate) fn retire(folder: &Path) {
    match fs::remove_file(folder.join(LIST)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, folder = %folder.display(), "a damaged state folder could not be retired");
        }
        _ => {}
    }
}

/// Removes a folder that is of no use any more. One that stays takes disk and harms nobody.
pub(crate) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::debug!(%error, folder = %folder.display(), "a state folder could not be removed");
    }
}

fn make_empty(folder: &Path) -> Result<PathBuf, StateError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(StateError::file("removing", folder))?;
    }
    fs::create_dir_all(folder).map_err(StateError::file("making the folder", folder))?;
    Ok(folder.to_path_buf())
}

/// Makes `to` the same file as `from`: a link where that is possible and `link` allows it, else a copy.
pub(crate) fn link_or_copy(from: &Path, to: &Path, link: bool) -> Result<(), StateError> {
    if link && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map_err(StateError::file("copying", from))?;
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(StateError::file("listing", dir))?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn number_after(path: &Path, prefix: &str) -> Option<u64> {
    name(path).strip_prefix(prefix)?.parse().ok()
}

fn first_number(path: &Path) -> Option<u64> {
    name(path).split_once('-')?.0.parse().ok()
}

fn last_number(path: &Path) -> Option<u64> {
    name(path).rsplit_once('-')?.1.parse().ok()
}
