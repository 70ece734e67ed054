//! Folders of this machine into which a sink writes: made, and made durable; and what a commit asks of a file system, so that a
//! simulation can stand in for one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use weir_engine::api::error::SinkError;

/// What could not be done to a file or folder.
pub(super) fn cannot(what: &str, path: &Path, error: io::Error) -> SinkError {
    SinkError::io(format!("cannot {what} {}", path.display())).because(error)
}

/// With all its parents, each durable in the one above.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let Some(parent) = folder.parent() else {
        return Ok(());
    };
    create_folder(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        other => other,
    }?;
    sync_folder(parent)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What a commit asks of a file system. A name is durable, or durably gone, once its folder was synced.
pub(super) trait FileSystem: Send + Sync {
    /// Whether there is a file.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Whether there is a folder.
    fn is_folder(&self, path: &Path) -> bool;
    /// Makes an empty file; refused where one is there.
    fn create(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>>;
    /// Makes the names in a folder durable.
    fn sync(&self, folder: &Path) -> io::Result<()>;
}

/// The one of this machine.
pub(super) struct Disk;

impl FileSystem for Disk {
    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).open(path).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }
}
