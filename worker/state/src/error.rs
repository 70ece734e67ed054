//! What can go wrong with state, and what the caller must do about it.

use std::{error::Error, fmt, io, path::Path, sync::Arc};

use weir_protocol::settings::FailureKind;
use weir_storage::StorageError;

/// What kind of failure it is, which decides what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateErrorKind {
    /// A checkpoint's bytes are missing or fail their checksum. They are never restored; an older record may be chosen.
    Corrupt,
    /// What is restored or asked for does not fit: another backend, a type that cannot be a key, a row of another width.
    Mismatch,
    /// Disk, storage or network. Trying again may help.
    Io,
    /// More than a format or a backend can carry.
    TooLarge,
}

/// Why state could not be read, written, persisted or restored.
#[derive(Clone, Debug)]
pub struct StateError {
    kind: StateErrorKind,
    message: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl StateError {
    /// An error of this kind. The message says what, where, and what to do.
    pub fn new(kind: StateErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Bytes that must not be restored; the message names the object.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(StateErrorKind::Corrupt, message)
    }

    /// Something that does not fit.
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(StateErrorKind::Mismatch, message)
    }

    /// Disk, storage or network.
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(StateErrorKind::Io, message)
    }

    /// More than fits.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StateErrorKind::TooLarge, message)
    }

    /// With the error that caused this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What kind of failure it is.
    pub const fn kind(&self) -> StateErrorKind {
        self.kind
    }

    /// The same in the words of the protocol.
    pub const fn failure_kind(&self) -> FailureKind {
        match self.kind {
            StateErrorKind::Corrupt => FailureKind::Corrupt,
            StateErrorKind::Mismatch => FailureKind::StateMismatch,
            StateErrorKind::Io | StateErrorKind::TooLarge => FailureKind::Io,
        }
    }

    /// For `map_err` on an operation with a local file or folder.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::io(format!("{action} {path} failed")).because(source)
    }

    /// For `map_err` on an upload.
    pub(crate) fn upload(source: StorageError) -> Self {
        Self::io("a state file could not be uploaded").because(source)
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<&StateError> for FailureKind {
    fn from(error: &StateError) -> Self {
        error.failure_kind()
    }
}
