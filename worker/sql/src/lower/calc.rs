//! A filter and a projection.

use weir_engine::StageId;

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::ops::Calc;
use crate::physical::tree::Node;

impl Lowering<'_> {
    pub(super) fn calc(&mut self, node: &Node, calc: &Calc) -> Result<StageId, PlanError> {
        let made = calc.make(node.schema()).map_err(|error| internal(&error))?;
        self.operator(node, made, None)
    }
}
