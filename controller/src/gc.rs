//! Which objects may be deleted, and in which order. Facts in, removals out; who carries them out is not decided here.
//!
//! A record is retired when it is none of these: the newest `retain` records, the base in use, the one that the term was
//! opened with, the one whose commits it carries out, and those that the status may name. A retired record goes first, then its
//! parts, then the files that no other record names, so that stopping anywhere leaves garbage and never a hole.
//!
//! A slot is given free again only where nothing can bring its record back: see [`Removal::Empty`]. Openings and seals are
//! no business of this module, and nothing here makes a path of one.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_protocol::paths::{self, Object};
use weir_protocol::record::{PartRef, Record, RecordRef};
use weir_protocol::{Attempt, Term};

/// Every object that the parts of one record name, and the parts themselves: paths below the job's prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names {
    /// The parts. Parts that stand inside the record are not among them.
    pub parts: BTreeSet<String>,
    /// State files and channel state. Files that stand inside a part are not among them.
    pub files: BTreeSet<String>,
}

/// One step of a deletion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// Delete the object. That it is absent already is no failure.
    Delete(String),
    /// Replace the record's bytes by none (an unconditional put of an empty object). The record is gone by that, but a
    /// create of it that is still on its way, or repeated by a coordinator that does not know yet that it has been sealed
    /// off, finds its place taken and cannot bring it back.
    Empty(String),
}

/// A record that stands in storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// It.
    pub record: Arc<Record>,
    /// This term created it, and the only request ever sent for it was answered clearly. Then no create of it can be on its
    /// way any more.
    pub clear: bool,
    /// What its parts name.
    pub names: Known,
}

/// What is known of a record's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// Its parts have not been read yet.
    No,
    /// They have.
    Yes(Arc<Names>),
    /// They cannot be: one is missing or damaged.
    Never,
}

/// All records that stand, by reference: the order of terms, and of slots within a term.
pub type Records = BTreeMap<RecordRef, Standing>;

/// The record that may go next, the oldest first. `held` are the records that stay whatever their age: the base in use, the
/// one restored from, the one whose commits are carried out, and those that the status may name.
pub fn next_retired(records: &Records, retain: u32, held: &[RecordRef]) -> Option<RecordRef> {
    let kept = retain.max(1) as usize;
    let old = records.len().saturating_sub(kept);
    records.keys().take(old).find(|reference| !held.contains(reference)).copied()
}

/// How to remove `retired`, in order. `others` are all other records that stand, retired or not; every one's names are
/// [`Known::Yes`] or [`Known::Never`]. Where one is [`Known::Never`] the files stay: nobody can tell which it names.
pub fn removal(term: Term, retired: &Standing, others: &Records) -> Vec<Removal> {
    let record = &retired.record;
    let reference = record.reference();
    let path = reference.path();
    // A slot of another term is never given free: its coordinator may not have been told yet what came of its create.
    let free = retired.clear && reference.term == term;
    let mut removals = vec![if free { Removal::Delete(path) } else { Removal::Empty(path) }];

    let needed = names_of(others.iter().filter(|(other, _)| **other != reference).map(|(_, other)| other));
    let parts = record.parts.iter().filter(|part| part.inline.is_none()).map(|part: &PartRef| &part.path);
    removals.extend(
        parts
            .filter(|part| needed.as_ref().is_none_or(|needed| !needed.contains(part.as_str())))
            .map(|part| Removal::Delete(part.clone())),
    );
    if let (Known::Yes(names), Some(needed)) = (&retired.names, &needed) {
        let files = names.files.iter().filter(|file| !needed.contains(file.as_str()));
        removals.extend(files.map(|file| Removal::Delete(file.clone())));
    }
    removals
}

/// What attempts before `current` have left behind in aborted checkpoints, parts first, and at their start. `listed` are the
/// paths below `parts/`, `state/` and `inputs/`. Nothing of the current attempt is touched: it may be part of a checkpoint that is not complete
/// yet. Nothing at all goes while a record's names are not known.
pub fn leftovers<'a>(listed: impl IntoIterator<Item = &'a str>, current: Attempt, records: &Records) -> Vec<Removal> {
    let Some(needed) = names_of(records.values()) else { return Vec::new() };
    let has_record_since = |attempt| records.values().any(|standing| standing.record.attempt >= attempt);
    let (mut parts, mut files) = (Vec::new(), Vec::new());
    for path in listed.into_iter().filter(|path| !needed.contains(path)) {
        match paths::parse(path) {
            Some(Object::Part(_, attempt, _)) if attempt < current => parts.push(Removal::Delete(path.to_string())),
            Some(Object::State(attempt, _, _)) if attempt < current => files.push(Removal::Delete(path.to_string())),
            // As long as no record has positions, the next attempt begins where this one did.
            Some(Object::Inputs(attempt, _)) if attempt < current && has_record_since(attempt) => {
                files.push(Removal::Delete(path.to_string()));
            }
            _ => {}
        }
    }
    parts.extend(files);
    parts
}

/// Everything that these records name; `None` where that is not known of one of them.
fn names_of<'a>(records: impl IntoIterator<Item = &'a Standing>) -> Option<BTreeSet<&'a str>> {
    let mut all = BTreeSet::new();
    for record in records {
        let Known::Yes(names) = &record.names else { return None };
        all.extend(names.parts.iter().chain(&names.files).map(String::as_str));
    }
    Some(all)
}
