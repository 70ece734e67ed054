//! Windows, and aggregation in them.

use weir_engine::{StageId, StateNote};
use weir_operators::{WindowAggregateSpec, WindowAssignSpec};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::lower::aggregate::keys;
use crate::physical::build::internal;
use crate::physical::ops::{duration, window_aggregate, window_assign};
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn window_assign(&mut self, node: &Node, spec: &WindowAssignSpec) -> Result<StageId, PlanError> {
        let made = window_assign(spec).map_err(|error| internal(&error))?;
        self.operator(node, made, None)
    }

    pub(super) fn window_aggregate(&mut self, node: &Node, spec: &WindowAggregateSpec) -> Result<StageId, PlanError> {
        let made = window_aggregate(spec).map_err(|error| internal(&error))?;
        let keys = keys(&spec.aggregation);
        let each = if keys.is_empty() { "a row".to_string() } else { format!("a row for each {keys}") };
        let bound = format!("{each} in each open window of {}", duration(spec.window.size));
        self.operator(node, made, Some(StateNote { bounded_by: Some(bound) }))
    }
}
