//! Who is told what happens to a job: `weir run`'s view and files, or the resource's status and events in a cluster.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::oneshot;
use weir_crds::LatestCheckpoint;

use super::{
    Fact,
    history::{Entry, History},
};
use crate::{
    coordinator::{StatusOutcome, StatusPointer},
    time::Millis,
    ui::View,
};

/// Is told what happens. All calls come from the supervisor's loop, in order, and must return at once: whoever writes to an
/// API server queues and writes elsewhere.
pub trait Observer: Send {
    /// Something happened, at this time.
    fn fact(&mut self, at: Millis, fact: &Fact);

    /// `status.checkpoint` is to name this. At most one write is under way, at most one a second is asked for, and the
    /// newest wins; `coordinator::StatusOutcome` says what a write must hold to. Dropping `answer` says that the write is
    /// in doubt, and it is asked for again.
    fn write_status(&mut self, write: StatusWrite, answer: StatusAnswer);

    /// A checkpoint has ended, or was published: this one, of these.
    fn checkpoint(&mut self, ended: &Entry, history: &History);

    /// The state of things, several times a second.
    fn view(&mut self, view: &View);

    /// Nothing more comes.
    fn finish(&mut self, view: &View);
}

/// What is to stand in `status.checkpoint`.
#[derive(Clone, Debug)]
pub struct StatusWrite {
    /// The record, and the term that writes.
    pub pointer: StatusPointer,
    /// The record's URL.
    pub record: String,
    /// Checkpoints that failed since.
    pub failed_since_latest: u32,
}

impl StatusWrite {
    /// As the resource's status has it.
    pub fn latest(&self) -> LatestCheckpoint {
        let record = &self.pointer.record;
        let completed =
            DateTime::<Utc>::from_timestamp_millis(i64::try_from(record.completed_at_ms).unwrap_or_default());
        LatestCheckpoint {
            id: record.id.0,
            record: self.record.clone(),
            completed_at: completed.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true),
            duration: weir_crds::Duration(Duration::from_millis(record.duration_ms)),
            state_bytes: record.state_bytes,
            uploaded_bytes: record.uploaded_bytes,
        }
    }
}

/// Takes the answer to one status write.
#[derive(Debug)]
pub struct StatusAnswer(oneshot::Sender<StatusOutcome>);

impl StatusAnswer {
    /// An answer that is to be given, and where it comes to.
    pub fn new() -> (Self, oneshot::Receiver<StatusOutcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// What came of it. May be called from any task.
    pub fn give(self, outcome: StatusOutcome) {
        // A supervisor that has ended does not ask any more.
        let _ = self.0.send(outcome);
    }
}
