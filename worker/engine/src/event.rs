//! What the control loop is told: by sessions, by subtasks, and by what runs beside it.

use tokio::sync::mpsc;
use weir_protocol::{
    Attempt, CheckpointId,
    rpc::{Acked, FromWorker, ToWorker},
};

use crate::{
    api::failure::{Failure, PeerLost},
    checkpoint::persist::Persisted,
    seam::Report,
};

/// What is said to one coordinator.
pub(crate) type Outbox = mpsc::UnboundedSender<FromWorker>;

/// What the loop is told.
pub(crate) enum Event {
    SessionOpened {
        session: u64,
        outbox: Outbox,
    },
    Said {
        session: u64,
        message: Box<ToWorker>,
    },
    SessionEnded {
        session: u64,
        reason: String,
    },
    /// The deployment that is under way has ended; its outcome is in the task.
    Deployed(Attempt),
    Report(Attempt, Report),
    PeerLost(Attempt, PeerLost),
    /// The base record of a checkpoint has been read.
    BaseRead {
        attempt: Attempt,
        id: CheckpointId,
        base: Result<Option<CheckpointId>, String>,
    },
    Persisted(Attempt, Box<Persisted>),
    PartStored {
        ack: Box<Acked>,
        stored: Result<(), String>,
    },
    Committed {
        attempt: Attempt,
        id: CheckpointId,
    },
    CommitFailed(Attempt, Failure),
}
