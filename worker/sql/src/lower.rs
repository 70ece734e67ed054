//! From nodes to stages: a stage begins at a source, behind an exchange, where several queries' rows meet, and where several read the
//! same; all else goes on in the stage of its input. What an operator is told, and what is said of its state, stands in a file for each kind of node.

mod aggregate;
mod calc;
pub(crate) mod constant;
mod dedup;
mod join;
pub(crate) mod lookup;
mod materialize;
mod over;
pub(crate) mod scan;
mod siblings;
mod sink;
mod topn;
mod union;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_engine::{
    ChangelogNote, Edge, Exchange, Kin, OperatorNode, PlanWarning, SinkNode, Stage, StageHead, StageId, StateNote,
};

use crate::error::PlanError;
use crate::identity::{Identity, list, statement};
use crate::physical::build::internal;
use crate::physical::changelog::Needs;
use crate::physical::ops::{Made, Op, expand};
use crate::physical::show::{key_names, kinds};
use crate::physical::tree::{Node, NodeId, Tree};

/// What a tree is lowered to.
pub struct Lowered {
    /// In topological order.
    pub stages: Vec<Stage>,
    /// What a user should know.
    pub warnings: Vec<PlanWarning>,
}

/// Lowers the plan of a script.
pub fn lower(tree: &Tree, needs: &Needs) -> Result<Lowered, PlanError> {
    let statements = Statements::of(tree);
    let mut lowering = Lowering {
        tree,
        needs,
        statements,
        readers: tree.readers(),
        into_joins: into_joins(tree),
        siblings: siblings::siblings(tree),
        open: Vec::new(),
        seats: BTreeMap::new(),
        at: NodeId(0),
        warnings: Vec::new(),
    };
    for (id, node) in tree.live() {
        lowering.at = id;
        let seat = lowering.node(id, node)?;
        lowering.seats.insert(id, seat);
        if matches!(node.op, Op::Exchange(_) | Op::Union | Op::Sink(_)) {
            node.inputs.iter().for_each(|input| lowering.leaves(*input));
        }
    }
    let stages = lowering.open.into_iter().enumerate().map(|(id, open)| open.close(StageId(id as u32))).collect();
    Ok(Lowered { stages, warnings: lowering.warnings })
}

struct Lowering<'t> {
    tree: &'t Tree,
    needs: &'t Needs,
    statements: Statements,
    /// How many nodes read each.
    readers: Vec<usize>,
    /// What brings rows to a join.
    into_joins: BTreeSet<NodeId>,
    /// What tells nodes of one identity and statement apart.
    siblings: BTreeMap<NodeId, String>,
    open: Vec<Open>,
    /// The stage of each node.
    seats: BTreeMap<NodeId, StageId>,
    /// The node that is lowered.
    at: NodeId,
    warnings: Vec<PlanWarning>,
}

/// A stage that is not closed yet.
struct Open {
    head: StageHead,
    identity: Identity,
    operators: Vec<OperatorNode>,
    sink: Option<SinkNode>,
    /// What leaves it.
    changelog: Vec<ChangelogNote>,
}

impl Lowering<'_> {
    fn node(&mut self, id: NodeId, node: &Node) -> Result<StageId, PlanError> {
        match &node.op {
            Op::Scan(scan) => Ok(self.scan(node, scan)),
            Op::Calc(calc) => self.calc(node, calc),
            Op::Expand(spec) => {
                let made = expand(spec).map_err(|error| internal(&error))?;
                self.operator(node, made, None)
            }
            Op::Over(spec) => self.over(node, spec),
            Op::WindowAssign(spec) => self.window_assign(node, spec),
            Op::SessionAssign(spec) => self.session_assign(node, spec),
            Op::LocalAggregate(spec) => self.local_aggregate(node, spec),
            Op::Aggregate(aggregate) => self.aggregate(id, node, aggregate),
            Op::WindowAggregate(spec) => self.window_aggregate(node, spec),
            Op::Deduplicate(dedup) => self.deduplicate(id, node, dedup),
            Op::Join(join) => self.join(node, join),
            Op::Lookup(lookup) => self.lookup(node, lookup),
            // The rows of a join's sides meet where they are joined.
            Op::Exchange(_) if self.into_joins.contains(&id) => self.seat_of(node),
            Op::TopN(top) => self.top_n(id, node, top),
            Op::WindowTopN(top) => self.window_top_n(node, top),
            Op::UpsertMaterialize(spec) => self.upsert_materialize(node, spec),
            Op::Conflict(spec) => self.conflict(node, spec),
            Op::Exchange(exchange) => Ok(self.meet(node, exchange)),
            Op::Union => Ok(self.union(node)),
            Op::Sink(sink) => self.sink(node, sink),
        }
    }

    /// Begins a stage.
    fn begin(&mut self, head: StageHead, identity: &Identity) -> StageId {
        let id = StageId(self.open.len() as u32);
        self.open.push(Open {
            head,
            identity: identity.clone(),
            operators: Vec::new(),
            sink: None,
            changelog: Vec::new(),
        });
        id
    }

    /// Begins a stage with the rows of all of a node's inputs.
    fn meet(&mut self, node: &Node, exchange: &Exchange) -> StageId {
        let edges = node.inputs.iter().map(|input| self.edge(*input, exchange)).collect();
        self.begin(StageHead::Inputs(edges), &node.identity)
    }

    fn edge(&self, input: NodeId, exchange: &Exchange) -> Edge {
        let schema = Arc::clone(self.tree[input].schema());
        Edge { from: self.seats[&input], exchange: exchange.clone(), schema }
    }

    /// Says what the rows do that a node sends out of its stage.
    fn leaves(&mut self, id: NodeId) {
        let traits = &self.tree[id].traits;
        let key = key_names(&traits.keys, &traits.schema).filter(|_| traits.kinds.changes());
        let note = ChangelogNote { rows: kinds(traits.kinds, self.needs.before(id)).to_string(), key };
        let notes = &mut self.open[self.seats[&id].0 as usize].changelog;
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// The stage that a node belongs to: that of what it reads. Where several read the same, each goes on in a stage of its own, and
    /// every subtask of it with what the same subtask before it puts out.
    fn seat(&mut self, node: &Node) -> Result<StageId, PlanError> {
        let [input] = node.inputs.as_slice() else { return Err(not_one_input(node)) };
        if self.readers[input.0] == 1 {
            return Ok(self.seats[input]);
        }
        let identity = match &node.op {
            Op::Calc(_) => Identity::of("branch", "", &[&node.lineage.rows, &list(&node.lineage.columns)]),
            _ => node.identity.within("branch", &[]),
        };
        let edge = self.edge(*input, &Exchange::Forward);
        self.leaves(*input);
        Ok(self.begin(StageHead::Inputs(vec![edge]), &identity))
    }

    /// The stage of a node's only input.
    fn seat_of(&self, node: &Node) -> Result<StageId, PlanError> {
        let [input] = node.inputs.as_slice() else { return Err(not_one_input(node)) };
        Ok(self.seats[input])
    }

    /// Puts an operator into the stage of its input.
    fn operator(&mut self, node: &Node, made: Made, state: Option<StateNote>) -> Result<StageId, PlanError> {
        let seat = self.seat(node)?;
        Ok(self.put(seat, node, made, state))
    }

    fn put(&mut self, seat: StageId, node: &Node, made: Made, state: Option<StateNote>) -> StageId {
        let kin = self.kin(node);
        let Open { identity, operators, .. } = &mut self.open[seat.0 as usize];
        let (identity, kin) = if node.identity == Identity::default() {
            // It keeps nothing and is called by where it stands.
            (
                identity.within("project", &[&operators.len().to_string()]).now,
                Kin { aliases: Vec::new(), line: None, ..kin },
            )
        } else {
            (node.identity.now.clone(), kin)
        };
        let Made { factory, output } = made;
        operators.push(OperatorNode { identity, kin, name: node.name.clone(), factory, state, output });
        seat
    }

    /// What tells a node from others of the same meaning. The rest is said when the script is whole.
    fn kin(&self, node: &Node) -> Kin {
        let (statement, mut discriminator) = self.statements.serving(node);
        if let Some(told) = self.siblings.get(&self.at) {
            discriminator = format!("{discriminator}; {told}");
        }
        let mut aliases = node.aliases.clone();
        aliases.push(node.identity.before.clone());
        let line = node.place.is_known().then_some(node.place.line);
        Kin { line, aliases, statement, discriminator, ..Kin::default() }
    }

    /// What bounds a state of this size; a warning where nothing does.
    fn note(&mut self, node: &Node, keeps: &str) -> StateNote {
        if node.traits.bounded {
            return StateNote { bounded_by: Some(format!("{keeps} of an input that ends")) };
        }
        self.warn(
            node,
            format!(
                "keeps {keeps} for ever: its state grows without bound unless the keys are few; a window would bound it"
            ),
        );
        StateNote { bounded_by: None }
    }

    fn warn(&mut self, node: &Node, message: impl Into<String>) {
        self.warnings.push(PlanWarning { operator: node.name.clone(), message: message.into() });
    }
}

fn not_one_input(node: &Node) -> PlanError {
    internal(&std::io::Error::other(format!("{} has not one input", node.op.kind())))
}

fn into_joins(tree: &Tree) -> BTreeSet<NodeId> {
    let joins = tree.nodes().map(|(_, node)| node).filter(|node| matches!(node.op, Op::Join(_)));
    joins.flat_map(|node| node.inputs.iter().copied()).collect()
}

impl Open {
    fn close(self, id: StageId) -> Stage {
        let mut names: Vec<&str> = Vec::new();
        if let StageHead::Source(source) = &self.head {
            names.push(&source.name);
        }
        names.extend(self.operators.iter().map(|operator| operator.name.split('(').next().unwrap_or_default()));
        names.extend(self.sink.as_ref().map(|sink| sink.name.as_str()));
        let name = names.join(" -> ");
        let stateful = self.operators.iter().any(|operator| operator.state.is_some());
        let Identity { now, before } = self.identity.within("stage", &[]);
        let Self { head, operators, sink, changelog, .. } = self;
        Stage { id, identity: now, aliases: vec![before], name, head, operators, changelog, sink, stateful }
    }
}

/// What tells statements apart: what keeps something in each, and its filters.
struct Statements(Vec<(String, String)>);

impl Statements {
    fn of(tree: &Tree) -> Self {
        let count = tree.nodes().flat_map(|(_, node)| &node.statements).max().map_or(0, |last| last + 1);
        let each = (0..count).map(|number| {
            let nodes = || tree.nodes().map(|(_, node)| node).filter(|node| node.statements.contains(&number));
            let keepers: Vec<&str> =
                nodes().filter(|node| keeps(&node.op)).map(|node| node.identity.now.as_str()).collect();
            let filters = nodes().next_back().map_or_else(String::new, |sink| sink.lineage.filters.join(" AND "));
            (statement(&keepers), filters)
        });
        Self(each.collect())
    }

    /// Of the statements that a node serves.
    fn serving(&self, node: &Node) -> (String, String) {
        let all: Vec<&(String, String)> = node.statements.iter().filter_map(|number| self.0.get(*number)).collect();
        match all.as_slice() {
            [(hash, filters)] => (hash.clone(), filters.clone()),
            several => {
                let hashes: Vec<&str> = several.iter().map(|(hash, _)| hash.as_str()).collect();
                let filters: Vec<&str> = several.iter().map(|(_, filters)| filters.as_str()).collect();
                (statement(&hashes), filters.join("; "))
            }
        }
    }
}

/// Whether a node has something in a checkpoint.
fn keeps(op: &Op) -> bool {
    match op {
        Op::Scan(_)
        | Op::SessionAssign(_)
        | Op::Over(_)
        | Op::Aggregate(_)
        | Op::WindowAggregate(_)
        | Op::Deduplicate(_)
        | Op::TopN(_)
        | Op::WindowTopN(_)
        | Op::UpsertMaterialize(_)
        | Op::Conflict(_)
        | Op::Join(_)
        | Op::Sink(_) => true,
        Op::Calc(_)
        | Op::Expand(_)
        | Op::WindowAssign(_)
        | Op::LocalAggregate(_)
        | Op::Lookup(_)
        | Op::Exchange(_)
        | Op::Union => false,
    }
}
