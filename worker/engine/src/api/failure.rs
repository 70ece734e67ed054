//! What a worker tells its coordinator when something went wrong: what may be done about it, where, and a sentence.

use weir_protocol::{Attempt, WorkerId, rpc::TaskFailed, settings::FailureKind};
use weir_state::StateError;
use weir_storage::StorageError;

use crate::api::error::{BuildError, OperatorError};

/// A peer of this attempt can no longer be reached, or has said what it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {peer} is lost: {reason}")]
pub struct PeerLost {
    /// Who.
    pub peer: WorkerId,
    /// What was seen.
    pub reason: String,
}

/// A failure of an attempt, or of its deployment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What may be done about it.
    pub kind: FailureKind,
    /// The operator's name; for [`FailureKind::PeerLost`] the id of the worker that is lost; else empty.
    pub operator: String,
    /// Which of its subtasks, where that is known.
    pub subtask: u32,
    /// What, where, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure of no operator in particular.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, operator: String::new(), subtask: 0, message: message.into() }
    }

    /// Storage, disk or network.
    pub fn io(error: &dyn std::error::Error) -> Self {
        Self::new(FailureKind::Io, chain(error))
    }

    /// A checkpoint's bytes are missing or are not those that were written.
    pub fn corrupt(object: &str, what: &str) -> Self {
        Self::new(
            FailureKind::Corrupt,
            format!("{object} {what}: this checkpoint cannot be restored; choose an older one that is retained"),
        )
    }

    /// The restore does not fit the plan.
    pub fn mismatch(operator: &str, message: impl Into<String>) -> Self {
        Self { operator: operator.to_string(), ..Self::new(FailureKind::StateMismatch, message) }
    }

    /// Something of a subtask's.
    pub fn of_subtask(subtask: u32, error: &OperatorError) -> Self {
        Self { kind: error.kind, operator: error.operator.clone(), subtask, message: error.describe() }
    }

    /// A panic of what was to be done in code that may not be Weir's own. The log has the place.
    pub fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why");
        Self::new(FailureKind::Operator, format!("{what} panicked: {text}"))
    }

    /// As the protocol tells it.
    pub fn to_message(&self, attempt: Attempt) -> TaskFailed {
        TaskFailed {
            attempt: attempt.0,
            operator: self.operator.clone(),
            subtask: self.subtask,
            message: self.message.clone(),
            fatal: self.kind.is_fatal(),
            kind: self.kind.as_str().to_string(),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::io(&error)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(error.failure_kind(), chain(&error))
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let message = format!("{error}: {}", error.error.describe());
        Self { message, ..Self::of_subtask(error.subtask, &error.error) }
    }
}

impl From<PeerLost> for Failure {
    fn from(lost: PeerLost) -> Self {
        Self { operator: lost.peer.0.clone(), ..Self::new(FailureKind::PeerLost, lost.to_string()) }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Errors that print their source in their own text would say everything twice.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
