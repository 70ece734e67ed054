//! Aggregates over the rows before each.

use weir_engine::{StageId, StateNote};
use weir_operators::{OverFrame, OverSpec, TimeSource};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::lineage::names;
use crate::physical::ops::{duration, over};
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn over(&mut self, node: &Node, spec: &OverSpec) -> Result<StageId, PlanError> {
        let made = over(spec).map_err(|error| internal(&error))?;
        let keys = names(spec.partition.iter().map(|&column| spec.input.field(column)));
        let waiting = match spec.time {
            TimeSource::Event(_) => "the rows that the watermark has not reached",
            TimeSource::Processing => "the rows of the millisecond",
        };
        let kept = match spec.frame {
            OverFrame::Rows(Some(1)) => "the last row".to_string(),
            OverFrame::Rows(Some(bound)) => format!("the last {bound} rows"),
            OverFrame::Range(Some(bound)) => {
                let bound = format!("{waiting}, and those of the last {}", duration(bound));
                return self.operator(node, made, Some(StateNote { bounded_by: Some(bound) }));
            }
            OverFrame::Rows(None) | OverFrame::Range(None) => "a row".to_string(),
        };
        let state = if keys.is_empty() {
            StateNote { bounded_by: Some(format!("{kept}, and {waiting}")) }
        } else {
            self.note(node, &format!("{kept} of each {keys}"))
        };
        self.operator(node, made, Some(state))
    }
}
