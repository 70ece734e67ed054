//! The sending end of a channel, whose receiver is a subtask of this worker or of another.

use std::sync::Arc;

use crate::api::batch::Batch;
use crate::api::counters::Counters;
use crate::api::error::OperatorError;
use crate::data::gate::Gate;
use crate::seam::{ChannelId, Element, RemoteSender};

/// Where elements of one channel go.
pub(crate) enum Sender {
    /// Into a gate of this worker.
    Local {
        gate: Arc<Gate>,
        /// Which of its channels.
        channel: usize,
    },
    /// To another worker.
    Remote { sender: Box<dyn RemoteSender>, channel: ChannelId },
}

impl Sender {
    /// Sends rows, and waits while the channel is full. What would keep alive much more than it uses is copied first.
    pub(crate) fn batch(&mut self, batch: Batch, counters: &Counters) -> Result<(), OperatorError> {
        match self {
            Self::Local { .. } => {
                let batch = batch.compact()?;
                let cost = batch.held_bytes();
                self.send(Element::Batch(batch), cost, counters)
            }
            // Over the wire only the rows themselves go.
            Self::Remote { .. } => {
                let cost = batch.used_bytes();
                self.send(Element::Batch(batch), cost, counters)
            }
        }
    }

    /// Sends what never waits.
    pub(crate) fn signal(&mut self, element: Element, counters: &Counters) -> Result<(), OperatorError> {
        debug_assert!(!matches!(element, Element::Batch(_)));
        self.send(element, 0, counters)
    }

    fn send(&mut self, element: Element, cost: usize, counters: &Counters) -> Result<(), OperatorError> {
        let sent = match self {
            Self::Local { gate, channel } => gate.send(*channel, element, cost, &counters.backpressured),
            Self::Remote { sender, channel } if cost == 0 => sender.send(*channel, element, 0),
            Self::Remote { sender, channel } => counters.backpressured.during(|| sender.send(*channel, element, cost)),
        };
        sent.map_err(|_| OperatorError::stopped())
    }
}
