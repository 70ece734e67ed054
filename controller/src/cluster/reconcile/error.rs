//! Why a look at a job does not come to its end.

use std::time::Duration;

use thiserror::Error;

use crate::cluster::certs::CertError;

/// A look at a job is made of calls that take milliseconds; one that takes so long is not going to end.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Why a look at a job did not come to its end.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// The API server did not do what it was asked for.
    #[error("{doing}")]
    Api {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A call was not answered.
    #[error("the API server or the storage has not answered in {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// Certificates could not be made.
    #[error(transparent)]
    Certs(#[from] CertError),
}

/// To say what was being done.
pub fn doing(doing: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api { doing, source: Box::new(source) }
}
