//! Where the rows of several queries meet with no exchange between them: each subtask goes on with its own.

use weir_engine::{Exchange, StageId};

use crate::lower::Lowering;
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn union(&mut self, node: &Node) -> StageId {
        self.meet(node, &Exchange::Forward)
    }
}
