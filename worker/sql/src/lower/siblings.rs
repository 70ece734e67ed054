//! What tells nodes of one statement apart that mean the same, as the two sides of a join of a table with itself: their own filters, and
//! on which side of which join or union they stand.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::fingerprint;
use crate::physical::ops::Op;
use crate::physical::tree::{NodeId, Tree};

/// Ways from a node to the sinks that are written out; a hash stands for more.
const MOST_WAYS: usize = 8;

/// Of each node that has others of its identity beside it in its statements: what tells it from them.
pub fn siblings(tree: &Tree) -> BTreeMap<NodeId, String> {
    let mut families: BTreeMap<(&str, &BTreeSet<usize>), Vec<NodeId>> = BTreeMap::new();
    for (id, node) in
        tree.live().filter(|(_, node)| !node.identity.now.is_empty() && !matches!(node.op, Op::Exchange(_)))
    {
        families.entry((&node.identity.now, &node.statements)).or_default().push(id);
    }
    let several: Vec<NodeId> = families.into_values().filter(|family| family.len() > 1).flatten().collect();
    if several.is_empty() {
        return BTreeMap::new();
    }
    let ways = ways(tree);
    let told = |id: NodeId| format!("{} at {}", tree[id].lineage.filters.join(" AND "), ways[id.0].join(" and "));
    several.into_iter().map(|id| (id, told(id))).collect()
}

/// How the rows of each node get to the sinks: by which inputs of what has several.
fn ways(tree: &Tree) -> Vec<Vec<String>> {
    let mut ways: Vec<Vec<String>> = vec![Vec::new(); tree.nodes().len()];
    for (id, node) in tree.live().rev() {
        if ways[id.0].is_empty() {
            ways[id.0].push(String::new());
        }
        let own = ways[id.0].clone();
        for (place, input) in node.inputs.iter().enumerate() {
            let to_input = &mut ways[input.0];
            to_input.extend(
                own.iter().map(|way| if node.inputs.len() > 1 { format!("{way}/{place}") } else { way.clone() }),
            );
            to_input.sort_unstable();
            to_input.dedup();
            if to_input.len() > MOST_WAYS {
                *to_input = vec![fingerprint(&to_input.join(" "))];
            }
        }
    }
    ways
}
