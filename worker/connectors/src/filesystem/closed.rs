//! Folders that no table reaches: what the kernel shows of the process and of the machine, and what Weir keeps for itself.
//! A script is written by somebody who may not be the one that runs it, and what is read goes to a sink or into an error.
//!
//! Looked at twice: the path as it is written, when a job is planned; and with every link followed, before anything is opened.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use weir_engine::api::error::SourceError;

/// Closed on every machine. A worker in a cluster has its keys below the last.
const ALWAYS: [&str; 3] = ["/proc", "/sys", "/etc/weir"];

/// The closed folders of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Closed {
    own: Vec<PathBuf>,
}

impl Closed {
    /// Those of every machine, and these of the worker.
    pub(super) fn with(own: &[PathBuf]) -> Self {
        // What does not exist yet is compared as it is written.
        Self { own: own.iter().map(|folder| resolved(&normal(folder))).collect() }
    }

    /// The closed folder that a path leads into, as it is written.
    pub(super) fn written(&self, path: &Path) -> Option<&Path> {
        let path = normal(path);
        ALWAYS
            .iter()
            .map(Path::new)
            .chain(self.own.iter().map(PathBuf::as_path))
            .find(|closed| path.starts_with(closed))
    }

    /// The path without links, unless that leads into a closed folder. What does not exist is taken as it is written.
    pub(super) fn open(&self, path: &Path) -> Result<PathBuf, Reached> {
        let real = resolved(path);
        match self.written(&real) {
            Some(closed) => Err(Reached { path: path.to_path_buf(), closed: closed.to_path_buf() }),
            None => Ok(real),
        }
    }
}

/// A path that leads into a closed folder.
#[derive(Debug, thiserror::Error)]
#[error("{} is in {}, which no table reaches; give a folder of your own", path.display(), closed.display())]
pub(super) struct Reached {
    path: PathBuf,
    closed: PathBuf,
}

impl From<Reached> for SourceError {
    fn from(reached: Reached) -> Self {
        Self::bad_input(reached.to_string())
    }
}

/// Without `.` and `..`, as far as that can be known without looking.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
        normal
    })
}

/// With every link followed, as far as the path exists.
fn resolved(path: &Path) -> PathBuf {
    let mut rest: Vec<OsString> = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return rest.iter().rev().fold(real, |real, name| real.join(name));
        }
        match ancestor.components().next_back() {
            Some(Component::Normal(name)) => rest.push(name.to_os_string()),
            _ => break,
        }
    }
    normal(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_folders_are_known_however_they_are_written() {
        let own = tempfile::tempdir().unwrap();
        let closed = Closed::with(&[own.path().to_path_buf()]);
        for path in ["/proc/self/environ", "/data/../proc/1/environ", "/etc/weir/tls/tls.key", "/sys"] {
            assert!(closed.written(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/process/in", "/etc/weird", "/data/proc", "/in"] {
            assert_eq!(closed.written(Path::new(path)), None, "{path}");
        }
        assert!(closed.written(&own.path().canonicalize().unwrap().join("state")).is_some());
    }

    #[test]
    fn links_are_followed_before_a_path_is_judged() {
        let folder = tempfile::tempdir().unwrap();
        let closed = Closed::default();
        std::os::unix::fs::symlink("/proc/self", folder.path().join("link")).unwrap();
        let error = closed.open(&folder.path().join("link/environ")).unwrap_err();
        assert!(error.to_string().contains("is in /proc, which no table reaches"), "{error}");
        assert!(closed.open(&folder.path().join("link/none/at/all")).is_err());
        let real = folder.path().canonicalize().unwrap();
        assert_eq!(closed.open(&folder.path().join("new/out")).unwrap(), real.join("new/out"));
    }
}
