//! Joins: the rows of both sides meet by their keys, and stay.

use std::sync::Arc;

use weir_engine::{Edge, StageHead, StageId, StateNote};

use crate::error::PlanError;
use crate::lower::Lowering;
use crate::physical::build::internal;
use crate::physical::ops::{Join, JoinSide, Op, Within, duration};
use crate::physical::tree::{Node, NodeId};

impl Lowering<'_> {
    pub(super) fn join(&mut self, node: &Node, join: &Join) -> Result<StageId, PlanError> {
        let [left, right] = node.inputs.as_slice() else {
            return Err(internal(&std::io::Error::other("a join has not two inputs")));
        };
        let edges = vec![self.edge_into_join(*left)?, self.edge_into_join(*right)?];
        let made = join.make(self.side(*left), self.side(*right)).map_err(|error| internal(&error))?;
        let stage = self.begin(StageHead::Inputs(edges), &node.identity);
        if join.null_aware && join.meets_by().is_empty() {
            self.warn(
                node,
                "a null on one side meets all rows of the other: all rows of both go to one subtask, whatever the parallelism; write \
                 NOT EXISTS (SELECT …) where there are no nulls",
            );
        } else if join.keys.is_empty() {
            self.warn(
                node,
                "no column of one side is compared with = with one of the other: all rows of both go to one subtask, whatever the \
                 parallelism; add such a condition where there is one",
            );
        }
        let state = match &join.within {
            Some(within) => within_bounds(within),
            None => self.rows_of_both(node),
        };
        Ok(self.put(stage, node, made, Some(state)))
    }

    fn edge_into_join(&self, exchange: NodeId) -> Result<Edge, PlanError> {
        match (&self.tree[exchange].op, self.tree[exchange].inputs.as_slice()) {
            (Op::Exchange(exchange), [input]) => Ok(self.edge(*input, exchange)),
            _ => Err(internal(&std::io::Error::other("a join's rows come over no exchange"))),
        }
    }

    /// What is known of the rows that come over an exchange.
    fn side(&self, exchange: NodeId) -> JoinSide {
        let traits = &self.tree[exchange].traits;
        let retracts = traits.kinds.changes();
        // A key of rows that are only added is declared, and not checked.
        let unique = traits.keys.first().filter(|_| retracts).map(|key| key.iter().copied().collect());
        JoinSide { schema: Arc::clone(&traits.schema), unique, retracts }
    }

    fn rows_of_both(&mut self, node: &Node) -> StateNote {
        const KEEPS: &str = "all rows of both sides";
        if node.traits.bounded {
            return StateNote { bounded_by: Some(format!("{KEEPS}, of inputs that end")) };
        }
        self.warn(
            node,
            format!(
                "keeps {KEEPS} for ever: its state grows without bound; aggregate a side, or keep one row of each key of it, before \
                 the join"
            ),
        );
        StateNote { bounded_by: None }
    }
}

/// How long rows wait.
fn within_bounds(Within { times, lower, upper, windows }: &Within) -> StateNote {
    if windows.is_some() {
        return StateNote { bounded_by: Some("the rows of both sides in windows that are open".to_string()) };
    }
    let [left, right] = [lower.saturating_neg(), *upper].map(|ahead| duration(ahead.max(0)));
    let time = if times.is_some() { "event time" } else { "processing time" };
    StateNote { bounded_by: Some(format!("{left} of {time} on the left, and {right} on the right")) }
}
