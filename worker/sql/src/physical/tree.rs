//! The nodes of a script's plan. A node is added after its inputs, so that their order is that in which rows flow.
//!
//! What does the same with the same inputs is one node, where that is asked for: sources and parts of queries that several
//! statements have in common are computed once.

use std::collections::BTreeSet;
use std::ops::Index;

use arrow::datatypes::SchemaRef;

use crate::error::Place;
use crate::identity::Identity;
use crate::physical::lineage::Lineage;
use crate::physical::ops::Op;
use crate::physical::traits::{Traits, derive};

/// A node's place in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A node before its traits are known.
pub struct NewNode {
    /// What it does.
    pub op: Op,
    /// Where its rows come from.
    pub inputs: Vec<NodeId>,
    /// What it puts out.
    pub schema: SchemaRef,
    /// Of what it puts out.
    pub lineage: Lineage,
    /// Its state is found by it. Of a node that gets its identity from where it stands in its stage: nothing.
    pub identity: Identity,
    /// For people.
    pub name: String,
    /// Where it stands in the script.
    pub place: Place,
}

/// A node.
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Where its rows come from.
    pub inputs: Vec<NodeId>,
    /// What holds of its rows.
    pub traits: Traits,
    /// Where its rows come from.
    pub lineage: Lineage,
    /// Its state is found by it.
    pub identity: Identity,
    /// What builds of state format 1 called it in the other statements that it serves.
    pub aliases: Vec<String>,
    /// For people.
    pub name: String,
    /// Where it stands in the script.
    pub place: Place,
    /// The statements that it serves.
    pub statements: BTreeSet<usize>,
}

impl Node {
    /// What it puts out.
    pub fn schema(&self) -> &SchemaRef {
        &self.traits.schema
    }
}

/// All nodes of a script.
#[derive(Default)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Adds a node for a statement. With `shared` one that is there already and does the same stands for it.
    pub fn add(&mut self, new: NewNode, statement: usize, shared: bool) -> NodeId {
        let NewNode { op, inputs, schema, lineage, identity, name, place } = new;
        if shared {
            let same = |node: &Node| {
                node.inputs == inputs
                    && node.identity.now == identity.now
                    && *node.schema() == schema
                    && node.op.is_same(&op)
            };
            if let Some(found) = self.nodes.iter().position(same) {
                let node = &mut self.nodes[found];
                node.statements.insert(statement);
                if node.identity.before != identity.before && !node.aliases.contains(&identity.before) {
                    node.aliases.push(identity.before);
                }
                return NodeId(found);
            }
        }
        let below: Vec<&Node> = inputs.iter().map(|input| &self[*input]).collect();
        let traits = derive(&op, &below, schema, place);
        let statements = BTreeSet::from([statement]);
        let aliases = Vec::new();
        self.nodes.push(Node { op, inputs, traits, lineage, identity, aliases, name, place, statements });
        NodeId(self.nodes.len() - 1)
    }

    /// Of each node, how many read it on the way to a sink. What none reads and is no sink was only a step while others were built.
    pub fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.nodes.len()];
        for (id, node) in self.nodes().rev() {
            if readers[id.0] > 0 || matches!(node.op, Op::Sink(_)) {
                node.inputs.iter().for_each(|input| readers[input.0] += 1);
            }
        }
        readers
    }

    /// The nodes that lead to a sink, inputs before what reads them.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        let readers = self.readers();
        self.nodes().filter(move |(id, node)| readers[id.0] > 0 || matches!(node.op, Op::Sink(_)))
    }

    /// All nodes, inputs before what reads them.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter().enumerate().map(|(id, node)| (NodeId(id), node))
    }
}

impl Index<NodeId> for Tree {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}
