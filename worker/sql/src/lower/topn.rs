//! The first rows of each partition.

use weir_engine::{PlanWarning, StageId, StateNote};
use weir_operators::RankFunction;

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::{TopN, WindowTop};
use crate::physical::tree::{Node, NodeId};

impl Lowering<'_> {
    pub(super) fn top_n(&mut self, id: NodeId, node: &Node, top: &TopN) -> Result<StageId, PlanError> {
        let retract = node.inputs.iter().any(|input| self.tree[*input].traits.kinds.changes());
        let made = top.make(retract, self.needs.before(id)).map_err(|error| internal(&error))?;
        let spec = &top.spec;
        let keys = names(spec.partition.iter().map(|&key| spec.input.field(key)));
        let rows = match (retract, spec.function, spec.to) {
            (true, _, _) => "all rows".to_string(),
            (false, RankFunction::RowNumber, 1) => "a row".to_string(),
            (false, RankFunction::RowNumber, to) => format!("{to} rows"),
            (false, function, to) => format!("all rows up to {} {to}", function.name()),
        };
        if keys.is_empty() {
            self.warnings.push(PlanWarning {
                operator: node.name.clone(),
                message: "has no PARTITION BY: one subtask gets all rows, however many there are".to_string(),
            });
        }
        let state = match (keys.is_empty(), retract, spec.function) {
            (true, false, RankFunction::RowNumber) => StateNote { bounded_by: Some(rows) },
            (true, _, _) => self.note(node, &rows),
            (false, _, _) => self.note(node, &format!("{rows} for each {keys}")),
        };
        self.operator(node, made, Some(state))
    }

    pub(super) fn window_top_n(&mut self, node: &Node, top: &WindowTop) -> Result<StageId, PlanError> {
        let made = top.make().map_err(|error| internal(&error))?;
        let spec = &top.spec;
        let keys = names(spec.partition.iter().map(|&key| spec.input.field(key)));
        let rows = if spec.to == 1 { "a row".to_string() } else { format!("{} rows", spec.to) };
        let bound = format!("{rows} for each {keys}, of windows that are open");
        self.operator(node, made, Some(StateNote { bounded_by: Some(bound) }))
    }
}
