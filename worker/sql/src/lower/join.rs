//! Joins. What they are is known (their kinds, keys and traits); the operators that run them are not there yet.

use weir_engine::StageId;

use crate::error::PlanError;
use crate::physical::ops::Join;
use crate::physical::tree::Node;

/// Refuses a join.
pub fn refuse(node: &Node, join: &Join) -> Result<StageId, PlanError> {
    Err(PlanError::new(
        node.place,
        format!("{} is not supported yet", join.name()),
        "bring the columns together before they reach this job",
    ))
}
