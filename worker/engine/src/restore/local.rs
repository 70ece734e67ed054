//! The worker's folder for local state: `<state-dir>/<worker>/<attempt>/…`, and which local snapshots a reset may use.
//!
//! Local snapshots of a record stay until a newer record exists, also across attempts that took no checkpoint of their own.
//! Whether their files are the record's is not judged here: the state holds list, lengths and checksums against it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use weir_protocol::{Attempt, CheckpointId};

/// Local snapshots of one checkpoint, by stage identity and subtask.
pub type LocalSnapshots = BTreeMap<(String, u32), PathBuf>;

/// The folder of one worker process.
pub struct LocalFolder {
    root: PathBuf,
    kept: Option<(CheckpointId, LocalSnapshots)>,
}

impl LocalFolder {
    /// Nothing is touched yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root, kept: None }
    }

    /// Where an attempt's subtasks have their folders.
    pub fn attempt(&self, attempt: Attempt) -> PathBuf {
        self.root.join(format!("{:06}", attempt.0))
    }

    /// An attempt has ended and checkpoint `id` is to be restored: `found` is what that attempt has of it. What an attempt
    /// before it had counts where this one has nothing, which is so when it took no checkpoint. Gives all there is.
    pub fn keep(&mut self, id: CheckpointId, found: LocalSnapshots) -> LocalSnapshots {
        let mut snapshots = match self.kept.take() {
            Some((kept, snapshots)) if kept == id => snapshots,
            _ => LocalSnapshots::new(),
        };
        snapshots.extend(found);
        self.kept = Some((id, snapshots.clone()));
        snapshots
    }

    /// Nothing is restored: no local snapshot is of use any more.
    pub fn keep_nothing(&mut self) {
        self.kept = None;
    }

    /// The record of checkpoint `id` exists: what was kept for an older one is of no use any more.
    pub fn recorded(&mut self, id: CheckpointId) -> bool {
        let outdated = self.kept.as_ref().is_some_and(|(kept, _)| *kept < id);
        if outdated {
            self.kept = None;
        }
        outdated
    }

    /// Folders of other attempts that hold nothing which is kept, to be removed.
    pub fn outdated(&self, current: Attempt) -> io::Result<Vec<PathBuf>> {
        let mut outdated = Vec::new();
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(outdated),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path != self.attempt(current) && !self.holds_kept(&path) {
                outdated.push(path);
            }
        }
        Ok(outdated)
    }

    fn holds_kept(&self, folder: &Path) -> bool {
        self.kept.iter().flat_map(|(_, snapshots)| snapshots.values()).any(|snapshot| snapshot.starts_with(folder))
    }

    /// The whole folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Removes folders. What cannot be removed is told in the log and stays: it costs space only.
pub fn remove_all(folders: Vec<PathBuf>) {
    for folder in folders {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "an old state folder stays");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_snapshots_stay_until_a_newer_record_exists() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = LocalFolder::new(root.path().join("worker"));
        for attempt in 1..=3 {
            std::fs::create_dir_all(folder.attempt(Attempt(attempt)).join("s-0")).unwrap();
        }
        let found = LocalSnapshots::from([(("stage".to_string(), 0), folder.attempt(Attempt(1)).join("s-0/5"))]);
        folder.keep(CheckpointId(5), found.clone());
        assert_eq!(folder.outdated(Attempt(3)).unwrap(), [folder.attempt(Attempt(2))]);
        // Attempt 2 took no checkpoint: attempt 1's files are still those of checkpoint 5.
        assert_eq!(folder.keep(CheckpointId(5), LocalSnapshots::new()), found);
        assert!(!folder.recorded(CheckpointId(5)));
        assert!(folder.recorded(CheckpointId(6)));
        let mut outdated = folder.outdated(Attempt(3)).unwrap();
        outdated.sort();
        assert_eq!(outdated, [folder.attempt(Attempt(1)), folder.attempt(Attempt(2))]);
        remove_all(outdated);
        assert!(folder.attempt(Attempt(3)).exists() && !folder.attempt(Attempt(1)).exists());
    }
}
