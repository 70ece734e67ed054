//! What a record holds, and who of the next attempt gets it: which stored state is whose, what is dealt to each subtask, what is
//! here already, and what a job reads that starts from nothing.

pub mod deal;
pub mod inputs;
pub mod local;
pub mod matching;

use weir_protocol::settings::FailureKind;

use crate::api::failure::Failure;

/// Runs beside, on a thread that may block. A panic is a failure too.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let panicked =
        |error: tokio::task::JoinError| Failure::new(FailureKind::Operator, format!("the worker failed: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}
