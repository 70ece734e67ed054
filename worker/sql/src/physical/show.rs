//! A plan's nodes as text, with all that is known of their rows: for the log, and for tests.

use std::fmt;
use std::fmt::Write;

use arrow::datatypes::Schema;

use crate::logical::columns::Time;
use crate::physical::changelog::{Kinds, Needs};
use crate::physical::keys::{Key, UpsertKeys};
use crate::physical::traits::{ColumnTime, Distribution, Traits};
use crate::physical::tree::{NodeId, Tree};

/// A tree, and what its nodes have to put out.
pub struct Shown<'t>(pub &'t Tree, pub &'t Needs);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tree, needs) = self;
        for (id, node) in tree.nodes() {
            let inputs: Vec<String> = node.inputs.iter().map(|NodeId(input)| input.to_string()).collect();
            let name = if node.name.is_empty() { node.op.kind() } else { &node.name };
            let rows = kinds(node.traits.kinds, needs.before(id));
            write!(f, "{} {name} <- [{}] {rows}, needed {:?}", id.0, inputs.join(", "), needs.at(id))?;
            write!(f, "{}", Known(&node.traits))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A node and below it its inputs, each further in, as Flink's users know it from EXPLAIN.
pub fn indented(tree: &Tree, needs: &Needs, id: NodeId, depth: usize, to: &mut String) {
    let node = &tree[id];
    let NodeId(number) = id;
    let kind = node.op.kind();
    let name = if node.name.is_empty() || node.name == kind { String::new() } else { format!(" {}", node.name) };
    let fields: Vec<&str> = node.schema().fields().iter().map(|field| field.name().as_str()).collect();
    let changes = kinds(node.traits.kinds, needs.before(id));
    let changes = [("+I", "I"), ("-U", "UB"), ("+U", "UA"), ("-D", "D"), (" ", ",")]
        .iter()
        .fold(changes.to_string(), |text, (ours, flinks)| text.replace(ours, flinks));
    // Writing to a text does not fail.
    let _ = writeln!(
        to,
        "{}+- {kind}{name}(fields=[{}], changelogMode=[{changes}]) #{number}",
        "   ".repeat(depth),
        fields.join(", ")
    );
    for input in &node.inputs {
        indented(tree, needs, *input, depth + 1, to);
    }
}

/// `+I`, `+I -U +U` and so on: what rows of these kinds are, with or without the row before an update.
pub fn kinds(kinds: Kinds, before: bool) -> &'static str {
    match (kinds.update, kinds.delete, before) {
        (false, false, _) => "+I",
        (true, false, false) => "+I +U",
        (true, false, true) => "+I -U +U",
        (true, true, false) => "+I +U -D",
        (true, true, true) => "+I -U +U -D",
        (false, true, _) => "+I -D",
    }
}

/// The first upsert key by the names of its columns.
pub fn key_names(keys: &UpsertKeys, schema: &Schema) -> Option<Vec<String>> {
    let name = |column: &usize| schema.field(*column).name().clone();
    keys.first().map(|key: &Key| key.iter().map(name).collect())
}

struct Known<'t>(&'t Traits);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traits { schema, keys, times, bounded, distribution, .. } = self.0;
        let name = |column: &usize| schema.field(*column).name().as_str();
        if let Some(key) = key_names(keys, schema) {
            write!(f, ", key ({})", key.join(", "))?;
        }
        for (at, time) in times.iter().enumerate() {
            let ColumnTime { attribute, behind } = time;
            match attribute {
                Some(Time::Event) => write!(f, ", event time {}", name(&at))?,
                Some(Time::Processing) => write!(f, ", processing time {}", name(&at))?,
                None => {}
            }
            if let Some(behind) = behind {
                write!(f, ", {} > watermark - {behind}", name(&at))?;
            }
        }
        match distribution {
            Distribution::Any => {}
            Distribution::Single => f.write_str(", in one place")?,
            Distribution::Hash(keys) => {
                let names: Vec<&str> = keys.iter().map(name).collect();
                write!(f, ", by ({})", names.join(", "))?;
            }
        }
        f.write_str(if *bounded { ", ends" } else { "" })
    }
}
