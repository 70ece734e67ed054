//! Folders of this machine into which a sink writes: made, and made durable.

use std::fs::File;
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
