//! What rows do to the table that they describe, carried up from the sources; what of it has to be told, carried down from the sinks.
//!
//! A row before its update (−U) is only needed by what cannot find that row by itself: an aggregation, a sink that writes down every
//! change, and a filter on columns that an update can change. Without it the row that no longer passes such a filter would stand in the
//! result for ever.

use std::fmt;

use datafusion_physical_expr::utils::collect_columns;
use weir_connectors::{Accepts, ChangelogMode};
use weir_operators::Keep;
use weir_operators::TimeSource;

use crate::error::Place;
use crate::parse::dialect::Conflict;
use crate::physical::keys::{Key, UpsertKeys};
use crate::physical::ops::Op;
use crate::physical::traits::Traits;
use crate::physical::tree::{NodeId, Tree};

/// What rows do. There are always inserts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Some replace others.
    pub update: bool,
    /// Some take others away.
    pub delete: bool,
}

impl Kinds {
    /// Inserts and nothing else.
    pub const INSERTS: Self = Self { update: false, delete: false };

    /// There is more than inserts.
    pub fn changes(self) -> bool {
        self.update || self.delete
    }

    fn or(self, other: Self) -> Self {
        Self { update: self.update || other.update, delete: self.delete || other.delete }
    }
}

/// Which rows an operator has to put out of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// There are no updates.
    #[default]
    None,
    /// The row after it.
    After,
    /// The row before it as well.
    BeforeAndAfter,
}

/// What a sink is given of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// As connectors are told.
    pub mode: ChangelogMode,
    /// Of updates.
    pub need: Need,
}

/// Why rows are updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updating {
    /// The operator that does it.
    pub operator: &'static str,
    /// Where it stands in the script.
    pub place: Place,
}

impl fmt::Display for Updating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operator)?;
        if self.place.is_known() { write!(f, " of line {}", self.place.line) } else { Ok(()) }
    }
}

/// Of a node that does this with such rows.
pub fn kinds(op: &Op, below: &[&Traits]) -> Kinds {
    let input = below.iter().fold(Kinds::INSERTS, |all, input| all.or(input.kinds));
    match op {
        Op::Scan(_) | Op::WindowAggregate(_) | Op::SessionAssign(_) | Op::Over(_) | Op::WindowTopN(_) => Kinds::INSERTS,
        // An update of a row that does not pass, or no longer passes, is none any more.
        Op::Calc(calc) => Kinds { delete: input.delete || (input.update && calc.predicate.is_some()), ..input },
        Op::WindowAssign(_)
        | Op::Expand(_)
        | Op::LocalAggregate(_)
        | Op::Lookup(_)
        | Op::Exchange(_)
        | Op::Union
        | Op::Sink(_) => input,
        // Nothing is put out before it is certain.
        Op::Join(join) if join.within.is_some() => Kinds::INSERTS,
        // A row that stands alone is taken back when it finds another. An update may find other partners: it is a delete and an insert.
        Op::Join(join) => Kinds { update: false, delete: input.changes() || join.stand_alone() != (false, false) },
        Op::Aggregate(aggregate) => {
            // DISTINCT alone never changes a row that it has put out. A group goes with its last row, also the one of an aggregation
            // without a key.
            Kinds { update: !aggregate.aggregation.aggregates.is_empty(), delete: input.changes() }
        }
        Op::UpsertMaterialize(_) | Op::Conflict(_) => Kinds { update: true, delete: input.changes() },
        // Without a number rows come and go. Of rows that only come, each number keeps one once it has it.
        Op::TopN(top) => Kinds { update: top.updates(), delete: input.changes() || !top.updates() },
        // The first row that the clock sees is never another; the first or last by event time can be.
        Op::Deduplicate(dedup) => {
            let stays = dedup.spec.keep == Keep::First && dedup.spec.order == TimeSource::Processing;
            Kinds { update: !stays || input.changes(), delete: input.changes() }
        }
    }
}

/// What updates the rows of such a node.
pub fn updating(op: &Op, below: &[&Traits], kinds: Kinds, place: Place) -> Option<Updating> {
    if !kinds.changes() {
        return None;
    }
    match op {
        Op::Aggregate(_) | Op::Deduplicate(_) | Op::TopN(_) => Some(Updating { operator: op.kind(), place }),
        Op::Join(join) if join.stand_alone() != (false, false) => Some(Updating { operator: join.name(), place }),
        _ => below.iter().find_map(|input| input.updating.clone()),
    }
}

/// What each node puts out of updates.
pub struct Needs {
    needed: Vec<Need>,
    before: Vec<bool>,
}

impl Needs {
    /// Carried down from the sinks.
    pub fn of(tree: &Tree) -> Self {
        let mut needed = vec![Need::None; tree.nodes().len()];
        for (id, node) in tree.live().rev() {
            for input in &node.inputs {
                let required = required(&node.op, needed[id.0], &tree[*input].traits);
                needed[input.0] = needed[input.0].max(required);
            }
        }
        let mut before: Vec<bool> = Vec::with_capacity(needed.len());
        for (id, node) in tree.nodes() {
            let makes = matches!(
                node.op,
                Op::Aggregate(_)
                    | Op::Deduplicate(_)
                    | Op::TopN(_)
                    | Op::UpsertMaterialize(_)
                    | Op::Conflict(_)
                    | Op::Join(_)
            );
            let passes = node.inputs.iter().any(|input| before[input.0]);
            // Where nobody asks for either, it is as it was before anybody could.
            before.push(if makes { needed[id.0] != Need::After } else { passes });
        }
        Self { needed, before }
    }

    /// What this node has to put out.
    pub fn at(&self, node: NodeId) -> Need {
        self.needed[node.0]
    }

    /// Whether this node puts out a row before each update: what makes updates if it has to, and all others what they are given.
    pub fn before(&self, node: NodeId) -> bool {
        self.before[node.0]
    }
}

/// What a node of which so much is needed needs of an input.
fn required(op: &Op, needed: Need, input: &Traits) -> Need {
    if !input.kinds.changes() {
        return Need::None;
    }
    match op {
        Op::Calc(calc) => {
            let read: Key = calc.predicate.iter().flat_map(collect_columns).map(|column| column.index()).collect();
            if read.is_empty() || input.keys.covers(&read) { needed } else { Need::BeforeAndAfter }
        }
        Op::WindowAssign(_) | Op::Expand(_) | Op::Exchange(_) | Op::Union | Op::Scan(_) => needed,
        Op::LocalAggregate(_)
        | Op::SessionAssign(_)
        | Op::Over(_)
        | Op::Aggregate(_)
        | Op::WindowAggregate(_)
        | Op::Deduplicate(_)
        | Op::TopN(_)
        | Op::WindowTopN(_)
        | Op::UpsertMaterialize(_)
        | Op::Conflict(_)
        | Op::Lookup(_)
        | Op::Join(_) => Need::BeforeAndAfter,
        Op::Sink(sink) => sink.given.need,
    }
}

/// Why a sink does not take a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It only takes inserts.
    InsertsOnly {
        /// What to do about that.
        remedy: String,
    },
    /// Rows of several upsert keys can have one primary key, and nothing keeps them apart.
    OtherKey,
    /// A statement says what is to be done with such rows, to a sink that knows no conflicts.
    NoConflicts,
}

/// What a sink that accepts so much is given of rows that do this, or why it takes none of them.
pub fn given(
    accepts: &Accepts,
    primary_key: &Key,
    kinds: Kinds,
    keys: &UpsertKeys,
    conflict: Option<Conflict>,
) -> Result<Given, Refusal> {
    let by_key = matches!(accepts, Accepts::Upserts);
    match conflict {
        None => {}
        Some(_) if !by_key => return Err(Refusal::NoConflicts),
        // Rows come in one order, and the last stays: without deletes and updates that is all there is to it.
        Some(Conflict::Deduplicate) if !kinds.changes() => {}
        Some(_) if keys.is_within(primary_key) => {}
        // What is asked for has to be done before the table.
        Some(Conflict::Deduplicate | Conflict::Nothing | Conflict::Error) => return Err(Refusal::OtherKey),
    }
    match accepts {
        _ if !kinds.changes() => Ok(Given { mode: ChangelogMode::Append, need: Need::None }),
        Accepts::Inserts { remedy } => Err(Refusal::InsertsOnly { remedy: remedy.clone() }),
        Accepts::Changes => Ok(Given { mode: ChangelogMode::Retract, need: Need::BeforeAndAfter }),
        Accepts::Upserts if keys.is_key(primary_key) => Ok(Given { mode: ChangelogMode::Upsert, need: Need::After }),
        // An update may change the rest of the primary key: the row under the old one has to go.
        Accepts::Upserts if keys.is_within(primary_key) => {
            Ok(Given { mode: ChangelogMode::Upsert, need: Need::BeforeAndAfter })
        }
        Accepts::Upserts => Err(Refusal::OtherKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGES: Kinds = Kinds { update: true, delete: false };

    type Keys = &'static [&'static [usize]];
    type Answer = Result<(ChangelogMode, Need), Refusal>;

    fn inserts() -> Accepts {
        Accepts::Inserts { remedy: "give it a changelog".to_string() }
    }

    #[test]
    fn a_sink_is_given_what_it_accepts_of_what_the_rows_do() {
        use ChangelogMode::{Append, Retract, Upsert};
        use Need::{After, BeforeAndAfter};
        let refused = Refusal::InsertsOnly { remedy: "give it a changelog".to_string() };
        let cases: [(Accepts, &[usize], Kinds, Keys, Answer); 10] = [
            (inserts(), &[], Kinds::INSERTS, &[], Ok((Append, Need::None))),
            (inserts(), &[], CHANGES, &[&[0]], Err(refused)),
            (Accepts::Changes, &[], CHANGES, &[], Ok((Retract, BeforeAndAfter))),
            (Accepts::Changes, &[1], CHANGES, &[&[0]], Ok((Retract, BeforeAndAfter))),
            (Accepts::Upserts, &[0], Kinds::INSERTS, &[], Ok((Append, Need::None))),
            (Accepts::Upserts, &[0], CHANGES, &[&[0]], Ok((Upsert, After))),
            (Accepts::Upserts, &[0, 1], CHANGES, &[&[0]], Ok((Upsert, BeforeAndAfter))),
            (Accepts::Upserts, &[0], CHANGES, &[&[]], Ok((Upsert, BeforeAndAfter))),
            (Accepts::Upserts, &[1], CHANGES, &[&[0]], Err(Refusal::OtherKey)),
            (Accepts::Upserts, &[0], CHANGES, &[&[0, 1]], Err(Refusal::OtherKey)),
        ];
        for (accepts, primary_key, kinds, keys, expected) in cases {
            let key: Key = primary_key.iter().copied().collect();
            let found = given(&accepts, &key, kinds, &keys.into(), None).map(|given| (given.mode, given.need));
            assert_eq!(found, expected, "{accepts:?} by {primary_key:?} of {kinds:?} by {keys:?}");
        }
    }

    #[test]
    fn on_conflict_is_for_upserts_and_asks_for_nothing_where_the_keys_are_the_same() {
        use Conflict::{Deduplicate, Error, Nothing};
        let cases: [(Accepts, Kinds, Keys, Conflict, Option<Refusal>); 9] = [
            (inserts(), Kinds::INSERTS, &[], Nothing, Some(Refusal::NoConflicts)),
            (Accepts::Changes, CHANGES, &[&[0]], Deduplicate, Some(Refusal::NoConflicts)),
            (Accepts::Upserts, CHANGES, &[&[0]], Deduplicate, None),
            (Accepts::Upserts, CHANGES, &[&[0]], Nothing, None),
            (Accepts::Upserts, CHANGES, &[&[0]], Error, None),
            (Accepts::Upserts, Kinds::INSERTS, &[], Deduplicate, None),
            (Accepts::Upserts, Kinds::INSERTS, &[], Nothing, Some(Refusal::OtherKey)),
            (Accepts::Upserts, CHANGES, &[&[1]], Error, Some(Refusal::OtherKey)),
            (Accepts::Upserts, CHANGES, &[&[1]], Deduplicate, Some(Refusal::OtherKey)),
        ];
        for (accepts, kinds, keys, conflict, expected) in cases {
            let found = given(&accepts, &Key::from([0]), kinds, &keys.into(), Some(conflict)).err();
            assert_eq!(found, expected, "{accepts:?} of {kinds:?} by {keys:?}, {conflict:?}");
        }
    }
}
