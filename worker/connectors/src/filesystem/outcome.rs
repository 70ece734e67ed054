//! What became of what was to be published.

use weir_engine::api::error::{FailureKind, SinkError};

/// Of so many files or objects that are lost the names are said; there may be thousands.
const LOST_NAMED: usize = 3;

/// What became of all that was to be published.
#[derive(Default)]
pub(super) struct Outcome {
    lost: Vec<String>,
    failed: Option<SinkError>,
}

impl Outcome {
    /// One more.
    pub(super) fn add(&mut self, published: Result<Fate, SinkError>) {
        match published {
            Ok(Fate::Published) => {}
            Ok(Fate::Lost(what)) => self.lost.push(what),
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// What is lost comes first: what failed is tried again, and nobody would hear of the loss while that goes on.
    pub(super) fn result(self) -> Result<(), SinkError> {
        if self.lost.is_empty() {
            return self.failed.map_or(Ok(()), Err);
        }
        let more = self.lost.len().saturating_sub(LOST_NAMED);
        let named = self.lost.into_iter().take(LOST_NAMED).collect::<Vec<_>>().join("; ");
        let message = if more > 0 { format!("{named}; and {more} more") } else { named };
        Err(SinkError::new(FailureKind::OutputLost, message))
    }
}

/// What became of one file or object.
pub(super) enum Fate {
    /// It is seen, or was.
    Published,
    /// It is under neither name, and was never published. Says so.
    Lost(String),
}
