//! The rows of each primary key, of which the last stands.

use weir_engine::StageId;
use weir_operators::UpsertMaterializeSpec;

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::upsert_materialize;
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
}
