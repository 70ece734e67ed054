//! Why a term was opened: what came before an attempt.

/// Why a term was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The job starts.
    Start,
    /// Its attempt goes on under another controller.
    Resume,
    /// A worker was lost, or a task failed.
    Failure,
    /// The job is changed, or a worker's place handed over.
    Change,
}
