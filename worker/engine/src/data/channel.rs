//! The sending end of a channel, whose receiver is a subtask of this worker or of another. Sending never waits: a channel takes
//! what it is given, and says that it is full when it holds as much as it should. Whoever sends asks before the next batch.

use std::sync::Arc;

use crate::api::batch::Batch;
use crate::api::error::OperatorError;
use crate::api::source::Waker;
use crate::data::gate::Gate;
use crate::seam::{ChannelId, Element, RemoteSender};

/// Where elements of one channel go.
pub(crate) enum Sender {
    /// Into a gate of this worker.
    Local {
        gate: Arc<Gate>,
        /// Which of its channels.
        channel: usize,
        /// Wakes this end when a full channel has room again.
        room: Waker,
        /// As it was when this end last looked.
        full: bool,
    },
    /// To another worker.
    Remote { sender: Box<dyn RemoteSender>, channel: ChannelId },
}

impl Sender {
    /// Into a channel of a gate of this worker; `room` is called when there is room in it after it was full.
    pub(crate) const fn local(gate: Arc<Gate>, channel: usize, room: Waker) -> Self {
        Self::Local { gate, channel, room, full: false }
    }

    /// Sends rows. What would keep alive much more than it uses is copied first.
    pub(crate) fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
        match self {
            Self::Local { .. } => {
                let (batch, held) = batch.compact()?;
                self.send(Element::Batch(batch), held)
            }
            // Over the wire only the rows themselves go.
            Self::Remote { .. } => {
                let cost = batch.used_bytes();
                self.send(Element::Batch(batch), cost)
            }
        }
    }

    /// Sends what is no rows, and takes no room.
    pub(crate) fn signal(&mut self, element: Element) -> Result<(), OperatorError> {
        debug_assert!(!matches!(element, Element::Batch(_)));
        self.send(element, 0)
    }

    /// The channel holds as much as it should, by what this end knows.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Local { full, .. } => *full,
            Self::Remote { sender, .. } => sender.is_full(),
        }
    }

    /// Looks again whether a channel that was full still is.
    pub(crate) fn look(&mut self) {
        if let Self::Local { gate, channel, full, .. } = self
            && *full
        {
            *full = gate.is_full(*channel);
        }
    }

    fn send(&mut self, element: Element, cost: usize) -> Result<(), OperatorError> {
        let sent = match self {
            Self::Local { gate, channel, room, full } => {
                gate.send(*channel, element, cost, room).map(|now_full| *full = now_full)
            }
            Self::Remote { sender, channel } => sender.send(*channel, element, cost),
        };
        sent.map_err(|_| OperatorError::stopped())
    }
}
