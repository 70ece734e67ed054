//! Aggregation, and what is folded before its exchange.

use weir_engine::{StageId, StateNote};
use weir_operators::{Aggregation, LocalAggregateSpec};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::{Aggregate, local_aggregate};
use crate::physical::tree::{Node, NodeId};

impl Lowering<'_> {
    pub(super) fn local_aggregate(&mut self, node: &Node, spec: &LocalAggregateSpec) -> Result<StageId, PlanError> {
        let made = local_aggregate(spec).map_err(|error| internal(&error))?;
        self.operator(node, made, None)
    }

    pub(super) fn aggregate(&mut self, id: NodeId, node: &Node, aggregate: &Aggregate) -> Result<StageId, PlanError> {
        let retract = node.inputs.iter().any(|input| self.tree[*input].traits.kinds.changes());
        let made = aggregate.make(retract, self.needs.before(id)).map_err(|error| internal(&error))?;
        let keys = keys(&aggregate.aggregation);
        let distinct = aggregate.aggregation.aggregates.iter().any(|one| one.distinct);
        let state = match (keys.is_empty(), distinct) {
            (true, false) => StateNote { bounded_by: Some("one row".to_string()) },
            (true, true) => self.note(node, "each distinct value"),
            (false, false) => self.note(node, &format!("a row for each {keys}")),
            (false, true) => self.note(node, &format!("a row for each {keys}, and its distinct values")),
        };
        self.operator(node, made, Some(state))
    }
}

/// The group columns, for people.
pub fn keys(aggregation: &Aggregation) -> String {
    names(aggregation.group.iter().map(|&column| aggregation.input.field(column)))
}
