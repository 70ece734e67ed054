//! One row of each key.

use weir_engine::StageId;

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::Dedup;
use crate::physical::tree::{Node, NodeId};

impl Lowering<'_> {
    pub(super) fn deduplicate(&mut self, id: NodeId, node: &Node, dedup: &Dedup) -> Result<StageId, PlanError> {
        let made = dedup.make(self.needs.before(id)).map_err(|error| internal(&error))?;
        let keys = names(dedup.spec.keys.iter().map(|&key| dedup.spec.input.field(key)));
        let state = self.note(node, &format!("a row for each {keys}"));
        self.operator(node, made, Some(state))
    }
}
