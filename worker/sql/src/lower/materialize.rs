//! The rows of each primary key, of which one stands.

use weir_engine::StageId;
use weir_operators::{ConflictSpec, UpsertMaterializeSpec};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::{conflict, upsert_materialize};
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn upsert_materialize(
        &mut self,
        node: &Node,
        spec: &UpsertMaterializeSpec,
    ) -> Result<StageId, PlanError> {
        let made = upsert_materialize(spec).map_err(|error| internal(&error))?;
        let keys = names(spec.key.iter().map(|&column| spec.input.field(column)));
        let state = self.note(node, &format!("all rows for each {keys}"));
        self.operator(node, made, Some(state))
    }

    pub(super) fn conflict(&mut self, node: &Node, spec: &ConflictSpec) -> Result<StageId, PlanError> {
        let made = conflict(spec).map_err(|error| internal(&error))?;
        let keys = names(spec.key.iter().map(|&column| spec.input.field(column)));
        let state = self.note(node, &format!("a row for each {keys}"));
        self.operator(node, made, Some(state))
    }
}
