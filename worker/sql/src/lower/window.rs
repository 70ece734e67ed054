//! Windows, and aggregation in them.

use weir_engine::{StageId, StateNote};
use weir_operators::{SessionSpec, WindowAggregateSpec, WindowAssignSpec, WindowKind};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::lower::aggregate::keys;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::{duration, session_assign, window_aggregate, window_assign};
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn window_assign(&mut self, node: &Node, spec: &WindowAssignSpec) -> Result<StageId, PlanError> {
        let made = window_assign(spec).map_err(|error| internal(&error))?;
        self.operator(node, made, None)
    }

    pub(super) fn session_assign(&mut self, node: &Node, spec: &SessionSpec) -> Result<StageId, PlanError> {
        let made = session_assign(spec).map_err(|error| internal(&error))?;
        let keys = names(spec.partition.iter().map(|&column| spec.input.field(column)));
        let of = if keys.is_empty() { String::new() } else { format!(" of {keys}") };
        let bound = format!("the rows of each open session{of}, which ends {} after its last row", duration(spec.gap));
        self.operator(node, made, Some(StateNote { bounded_by: Some(bound) }))
    }

    pub(super) fn window_aggregate(&mut self, node: &Node, spec: &WindowAggregateSpec) -> Result<StageId, PlanError> {
        let made = window_aggregate(spec).map_err(|error| internal(&error))?;
        let keys = keys(&spec.aggregation);
        let each = if keys.is_empty() { "a row".to_string() } else { format!("a row for each {keys}") };
        let bound = match spec.window.kind {
            WindowKind::Session => format!("{each} in each session that is over"),
            WindowKind::Hop | WindowKind::Cumulate => {
                format!("{each} in each open window of {}", duration(spec.window.size))
            }
        };
        self.operator(node, made, Some(StateNote { bounded_by: Some(bound) }))
    }
}
