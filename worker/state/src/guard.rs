//! Tells state whose local files have gone bad from state that is bad in storage.
//!
//! A backend only sees that bytes are not what they were. What is to be done depends on where they came from: local files are a
//! cache of what stands in storage, and a disk that loses a bit must cost a download and not the job. So the local files are
//! retired, and the attempt fails as one that a restart mends: the next one downloads. Only if what was downloaded, and was
//! verified then, still is what the record says, is the checkpoint itself what the backend cannot read.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use weir_protocol::part::FileRef;

use crate::{
    backend::{KeyedBackend, LocalFile, VisitEntry, WriteBatch},
    error::{StateError, StateErrorKind},
    local::{self, Folder},
};

/// A snapshot's files as they were opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where they stand.
    pub(crate) dir: PathBuf,
    /// They were there already, and are not of a download.
    pub(crate) local: bool,
    /// What the record says of them.
    pub(crate) files: Vec<FileRef>,
}

/// Judges what a backend finds corrupt, by what it was opened with.
#[derive(Debug)]
pub(crate) struct Judge {
    folder: Arc<Folder>,
    opened: Vec<Opened>,
    damage: OnceLock<StateError>,
}

impl Judge {
    pub(crate) fn new(folder: Arc<Folder>, opened: Vec<Opened>) -> Self {
        Self { folder, opened, damage: OnceLock::new() }
    }

    /// The same error, or what it means where only local files are damaged.
    pub(crate) fn judge(&self, error: StateError) -> StateError {
        if error.kind() != StateErrorKind::Corrupt {
            return error;
        }
        self.folder.retire();
        for opened in self.opened.iter().filter(|opened| opened.local) {
            local::retire(&opened.dir);
        }
        let verdict = if self.is_of_storage() {
            error
        } else {
            tracing::warn!(%error, folder = %self.folder.live().display(), "local state files are damaged and retired");
            StateError::io(format!(
                "local state files below {} are damaged; what was kept there is not used again, and a restart downloads the state",
                self.folder.live().display()
            ))
            .because(error)
        };
        self.damage.get_or_init(|| verdict).clone()
    }

    /// All that was opened was downloaded, and still is what was verified then.
    fn is_of_storage(&self) -> bool {
        let sound = |opened: &Opened| !opened.local && local::damage(&opened.dir, &opened.files, &|| false).is_none();
        !self.opened.is_empty() && self.opened.iter().all(sound)
    }
}

/// A backend and its judge. Dropped in this order: files are removed when nothing has them open.
pub(crate) struct Guarded {
    inner: Arc<dyn KeyedBackend>,
    judge: Judge,
}

impl Guarded {
    pub(crate) fn new(inner: Arc<dyn KeyedBackend>, judge: Judge) -> Self {
        Self { inner, judge }
    }

    /// What was found damaged, if anything was.
    pub(crate) fn damage(&self) -> Option<&StateError> {
        self.judge.damage.get()
    }
}

impl KeyedBackend for Guarded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn multi_get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), StateError> {
        self.inner.multi_get(keys, found).map_err(|error| self.judge.judge(error))
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), StateError> {
        self.inner.write(batch).map_err(|error| self.judge.judge(error))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        self.inner.scan(from, to, visit).map_err(|error| self.judge.judge(error))
    }

    fn snapshot(&self, dir: &Path) -> Result<Vec<LocalFile>, StateError> {
        self.inner.snapshot(dir).map_err(|error| self.judge.judge(error))
    }

    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
}
