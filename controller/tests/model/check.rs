//! The invariants I1 to I7 of the design, over contents.

use std::sync::Arc;

use weir_protocol::RecordNumber;
use weir_protocol::paths::{self, Object};
use weir_protocol::record::{Record, RecordRef};

use super::world::{Bounds, Create, Flight, InSlot, Part, Process, Rows, State, Store, Transaction, members};

/// A broken invariant: which, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

pub fn violation<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { invariant, what: what.into() })
}

/// What must hold in every state.
pub fn check(bounds: &Bounds, state: &State) -> Result<(), Violation> {
    let store = &state.store;
    for record in store.records() {
        whole(bounds, store, record).or_else(|what| violation("I1", what))?;
    }
    let end = state.end.map(|end| stands(store, end).ok_or(end));
    let end = match end {
        Some(Ok(record)) => Some(record),
        Some(Err(end)) => return violation("I5", format!("{}, the end of the chain, is gone", end.path())),
        None => None,
    };
    if let Some(named) = state.status.names
        && stands(store, named).is_none()
    {
        return violation("I6", format!("the status names {}, which does not stand", named.path()));
    }
    let waiting = state.processes.iter().filter_map(|process| match &**process {
        Process::Leading(leading) => leading.create.as_ref(),
        _ => None,
    });
    let flying = state.flights.iter().filter_map(|flight| match flight {
        Flight::Create(Create::Record(record)) => Some(record),
        _ => None,
    });
    for record in waiting.chain(flying).filter(|record| store.is_free(record.reference())) {
        whole(bounds, store, record).or_else(|what| violation("I5", format!("a create in doubt: {what}")))?;
    }
    for process in &state.processes {
        if let Process::Deploying { opened, .. } = &**process
            && opened.0.opening.term == newest_term(store)
            && let Some(restored) = opened.0.opening.restores.record()
            && stands(store, restored).is_none()
        {
            return violation("I5", format!("{}, which is being restored, is gone", restored.path()));
        }
    }
    output(bounds, state, end)
}

/// I4: what is visible is what the end of the chain covers, and what it covers is visible or still pending there.
fn output(bounds: &Bounds, state: &State, end: Option<&Arc<Record>>) -> Result<(), Violation> {
    for slot in 0..bounds.slots {
        let part = end.and_then(|end| state.store.part(&end.parts[slot].path));
        let covered = part.map_or(0, |part| (1u64 << part.position) - 1);
        let visible = state.sink.rows[slot];
        if visible & !covered != 0 {
            return violation(
                "I4",
                format!("rows {visible:b} of source {slot} are visible, on record are {covered:b}"),
            );
        }
        let pending =
            part.map_or(0, |part| part.pending.iter().fold(0, |rows, transaction| rows | 1u64 << transaction.row));
        if covered & !visible & !pending != 0 {
            return violation("I4", format!("rows of source {slot} are lost: {covered:b}, {visible:b}, {pending:b}"));
        }
    }
    Ok(())
}

/// Everything up to this record is visible.
pub fn all_visible(bounds: &Bounds, state: &State, end: Option<Arc<Record>>) -> Result<(), Violation> {
    let Some(end) = end else { return Ok(()) };
    for slot in 0..bounds.slots {
        let part = state.store.part(&end.parts[slot].path).expect("checked before");
        let covered = (1u64 << part.position) - 1;
        if state.sink.rows[slot] & covered != covered {
            return violation("I4", format!("rows of source {slot} never become visible, though on record"));
        }
    }
    Ok(())
}

/// Nothing stands that nobody needs: what may be deleted has been.
pub fn tidy(bounds: &Bounds, state: &State) -> Result<(), Violation> {
    let store = &state.store;
    let standing = store.records().count();
    // The newest, and the one that the term was opened with.
    if standing > bounds.retain as usize + 1 {
        return violation("deletion", format!("{standing} records stand"));
    }
    let Some(newest) = store.openings.values().last() else { return Ok(()) };
    let parts: Vec<_> = store.records().flat_map(|record| &record.parts).collect();
    for (path, part) in store.parts.iter().filter(|(_, part)| part.attempt < newest.attempt) {
        if !parts.iter().any(|reference| reference.path == *path) {
            return violation("deletion", format!("{path} of attempt {} is left over", part.attempt));
        }
    }
    let named: Vec<_> =
        parts.iter().filter_map(|reference| store.part(&reference.path)).flat_map(|part| &part.files).collect();
    for path in store.files.keys() {
        let old = matches!(paths::parse(path), Some(Object::State(attempt, _, _)) if attempt < newest.attempt);
        if old && !named.contains(&path) {
            return violation("deletion", format!("{path} is left over"));
        }
    }
    Ok(())
}

pub fn newest_term(store: &Store) -> weir_protocol::Term {
    store.openings.keys().last().copied().unwrap_or_default()
}

pub fn stands(store: &Store, reference: RecordRef) -> Option<&Arc<Record>> {
    match store.slots.get(&(reference.term, reference.number)) {
        Some(InSlot::Record(record)) => Some(record),
        _ => None,
    }
}

/// Every byte that a record names is there and matches.
pub fn whole(bounds: &Bounds, store: &Store, record: &Record) -> Result<(), String> {
    let path = record.reference().path();
    let expected = members(bounds.slots, record.attempt);
    if record.parts.len() != bounds.slots {
        return Err(format!("{path} has {} parts", record.parts.len()));
    }
    for (slot, reference) in record.parts.iter().enumerate() {
        let Some(part) = store.part(&reference.path) else {
            return Err(format!("{path} names {}, which is not there", reference.path));
        };
        if (part.id, part.attempt, part.process, part.slot) != (record.id, record.attempt, expected[slot], slot) {
            return Err(format!("{path} names {}, which holds another's part", reference.path));
        }
        whole_state(store, part).map_err(|what| format!("{path}: {what}"))?;
    }
    Ok(())
}

/// The files of a part hold exactly the rows up to its position.
fn whole_state(store: &Store, part: &Part) -> Result<(), String> {
    let mut reached = 0;
    for file in &part.files {
        let Some(Rows { slot, from, to }) = store.file(file) else {
            return Err(format!("the file {file} is not there"));
        };
        if slot != part.slot || from != reached {
            return Err(format!("the file {file} holds other rows"));
        }
        reached = to;
    }
    if reached == part.position { Ok(()) } else { Err(format!("the state ends at {reached}, not {}", part.position)) }
}

/// A worker publishes a transaction. Naming it a second time changes nothing; a row that comes a second time is a repeat.
pub fn publish(state: &mut State, transaction: Transaction) -> Result<(), Violation> {
    if state.sink.published.contains(&transaction) {
        return Ok(());
    }
    if state.sink.rows[transaction.slot] & (1 << transaction.row) != 0 {
        return violation("I4", format!("row {} of source {} is published twice", transaction.row, transaction.slot));
    }
    state.sink.edit(|sink| {
        sink.rows[transaction.slot] |= 1 << transaction.row;
        sink.published.insert(transaction);
    });
    Ok(())
}

/// A create-if-absent lands. True: the object was not there.
pub fn land(bounds: &Bounds, state: &mut State, create: &Create) -> Result<bool, Violation> {
    match create {
        Create::Opening(opening) => {
            if state.store.openings.contains_key(&opening.term) {
                return Ok(false);
            }
            // What is restored must be the end of the chain, for ever: nothing may come after it in the term before.
            if opening.restores.record() != state.end {
                return violation(
                    "I3",
                    format!("term {} restores {:?}, not {:?}", opening.term, opening.restores, state.end),
                );
            }
            state.store.edit(|store| store.openings.insert(opening.term, Arc::clone(opening)));
            Ok(true)
        }
        Create::Seal(seal) => {
            if state.store.slots.contains_key(&(seal.term, seal.number)) {
                return Ok(false);
            }
            state.store.edit(|store| store.slots.insert((seal.term, seal.number), InSlot::Seal(seal.clone())));
            Ok(true)
        }
        Create::Record(record) => {
            let reference = record.reference();
            if !state.store.is_free(reference) {
                return Ok(false);
            }
            if state.end.is_some_and(|end| end >= reference) {
                return violation("I2", format!("{} comes to stand a second time, or late", reference.path()));
            }
            if newest_term(&state.store) != record.term {
                return violation("I2", format!("{} comes to stand in a term that is over", reference.path()));
            }
            // A seal that lands late in a slot below the last one, which a deletion has given free, ends nothing.
            let last = state.store.slots.range(..=(record.term, RecordNumber(u64::MAX))).next_back();
            if last.is_some_and(|(key, slot)| key.0 == record.term && matches!(slot, InSlot::Seal(_))) {
                return violation("I2", format!("{} comes to stand after the seal", reference.path()));
            }
            state.store.edit(|store| {
                store.slots.insert((record.term, record.number), InSlot::Record(Arc::clone(record)));
            });
            state.end = Some(reference);
            whole(bounds, &state.store, record).or_else(|what| violation("I1", what))?;
            Ok(true)
        }
    }
}
