//! What a statement writes.

use std::sync::Arc;

use weir_engine::{SinkNode, StageId};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::ops::Sink;
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn sink(&mut self, node: &Node, sink: &Sink) -> Result<StageId, PlanError> {
        let seat = self.seat(node)?;
        let kin = self.kin(node);
        self.open[seat.0 as usize].sink = Some(SinkNode {
            identity: sink.called.clone(),
            kin,
            name: node.name.clone(),
            sink: Arc::clone(&sink.factory),
            input: Arc::clone(node.schema()),
        });
        Ok(seat)
    }
}
