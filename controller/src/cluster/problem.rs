//! Why a job cannot run.

use crate::reasons;

/// Why a job cannot run, as a condition says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// One of [`reasons::CONDITIONS`].
    pub reason: &'static str,
    /// What, where, and what to do.
    pub message: String,
}

impl Problem {
    /// The spec is wrong.
    pub fn spec(message: impl Into<String>) -> Self {
        Self { reason: reasons::INVALID_SPEC, message: message.into() }
    }
}
