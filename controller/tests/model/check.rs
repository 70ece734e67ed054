//! The invariants I1 to I7 of the design, over contents.

use std::sync::Arc;

use weir_controller::takeover::Restore;
use weir_protocol::paths::{self, Object};
use weir_protocol::record::{Opening, Record, RecordRef};
use weir_protocol::{Attempt, RecordNumber};

use super::world::{Bounds, Create, Flight, InSlot, Line, Part, Process, Rows, State, Store, Transaction, members};

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
    for needed in [state.end, state.promised].into_iter().flatten() {
        if stands(store, needed).is_none() {
            return violation("I5", format!("{}, the end of the chain, is gone", needed.path()));
        }
    }
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
        {
            let opening = &opened.0.opening;
            for restored in opening.restores.record().into_iter().chain(opening.commits) {
                if stands(store, restored).is_none() {
                    return violation("I5", format!("{}, which is being restored, is gone", restored.path()));
                }
            }
        }
    }
    output(bounds, state)
}

/// I4: what is visible is what is on record, and what is on record is visible, or pending in the newest record and there to be
/// published. I7: what another run of the job has promised is there too.
fn output(bounds: &Bounds, state: &State) -> Result<(), Violation> {
    let promised = state.promised.and_then(|promised| stands(&state.store, promised));
    for slot in 0..bounds.slots {
        let part = promised.and_then(|promised| state.store.part(&promised.parts[slot].path));
        for (line, Line { from, .. }) in state.lines.iter().enumerate() {
            let covered = rows(from[slot], reached(state, line, slot, state.promised));
            let visible = state.sink.rows[line][slot];
            if visible & !covered != 0 {
                let what = format!("rows {visible:b} of source {slot} are visible, on record are {covered:b}");
                return violation("I4", what);
            }
            let pending = part.iter().flat_map(|part| &part.pending);
            let pending = pending.filter(|pending| state.line_of(pending.attempt) == line);
            let pending = pending.filter(|pending| state.sink.unfinished.contains(pending));
            let pending = pending.fold(0, |rows, pending| rows | 1u64 << pending.row);
            if covered & !visible & !pending != 0 {
                let what = format!("rows of source {slot} are lost: {covered:b}, {visible:b}, {pending:b}");
                return violation("I4", what);
            }
        }
    }
    if state.sink.twins.len() != usize::from(bounds.twin) {
        return violation("I7", "what another run of the job has promised is gone");
    }
    Ok(())
}

/// Rows `from..to`, a bit each.
fn rows(from: u8, to: u8) -> u64 {
    ((1u64 << to) - 1) & !((1u64 << from) - 1)
}

/// The position of a source that is on record in a line, where `newest` is the newest record.
fn reached(state: &State, line: usize, slot: usize, newest: Option<RecordRef>) -> u8 {
    if line + 1 < state.lines.len() { state.lines[line].to[slot] } else { recorded(state, line, slot, newest) }
}

/// The position of a source that a record of this line holds; the one that the line began at where it is of another.
fn recorded(state: &State, line: usize, slot: usize, newest: Option<RecordRef>) -> u8 {
    let record = newest.and_then(|newest| stands(&state.store, newest));
    let record = record.filter(|record| state.line_of(record.attempt) == line);
    let part = record.and_then(|record| state.store.part(&record.parts[slot].path));
    part.map_or(state.lines[line].from[slot], |part| part.position)
}

/// All that was promised when this was the newest record of an attempt is visible.
pub fn all_visible(state: &State, attempt: Attempt, newest: Option<RecordRef>) -> Result<(), Violation> {
    let last = state.line_of(attempt);
    for (line, Line { from, .. }) in state.lines.iter().enumerate().take(last + 1) {
        for (slot, &from) in from.iter().enumerate() {
            let to = if line == last { recorded(state, line, slot, newest) } else { state.lines[line].to[slot] };
            let covered = rows(from, to);
            if state.sink.rows[line][slot] & covered != covered {
                return violation("I4", format!("rows of source {slot} never become visible, though on record"));
            }
        }
    }
    Ok(())
}

/// Nothing stands that nobody needs: what may be deleted has been.
pub fn tidy(bounds: &Bounds, state: &State) -> Result<(), Violation> {
    let store = &state.store;
    let standing = store.records().count();
    let Some(newest) = store.openings.values().last() else { return Ok(()) };
    // The newest, and those that the term was opened with.
    if standing > bounds.retain as usize + 1 + usize::from(newest.commits.is_some()) {
        return violation("deletion", format!("{standing} records stand"));
    }
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
    let Transaction { slot, row, .. } = transaction;
    if !state.sink.unfinished.contains(&transaction) {
        return violation("I4", format!("row {row} of source {slot} is to be published and is gone"));
    }
    let line = state.line_of(transaction.attempt);
    if state.sink.rows[line][slot] & (1 << row) != 0 {
        return violation("I4", format!("row {row} of source {slot} is published twice"));
    }
    state.sink.edit(|sink| {
        sink.rows[line][slot] |= 1 << row;
        sink.unfinished.remove(&transaction);
        sink.published.insert(transaction);
    });
    Ok(())
}

/// What an opening restores is what was wished for, else the end of the chain, for ever: nothing may come after it in the term
/// before. A wish begins a line.
fn restores(bounds: &Bounds, state: &mut State, opening: &Opening, wish: &Restore) -> Result<(), Violation> {
    let expected = match wish {
        Restore::Latest => state.end,
        Restore::Record(record) => Some(*record),
        Restore::Nothing | Restore::Savepoint(_) => None,
    };
    if opening.restores.record() != expected {
        let what = format!("term {} restores {:?}, not {expected:?}", opening.term, opening.restores);
        return violation("I3", what);
    }
    if *wish == Restore::Latest {
        return Ok(());
    }
    let last = state.lines.len() - 1;
    let to = (0..bounds.slots).map(|slot| reached(state, last, slot, state.promised)).collect();
    let restored = expected.and_then(|restored| stands(&state.store, restored));
    let position = |slot: usize| {
        let part = restored.and_then(|restored| state.store.part(&restored.parts[slot].path));
        part.map_or(0, |part| part.position)
    };
    let from: Vec<u8> = (0..bounds.slots).map(position).collect();
    state.lines[last].to = to;
    state.lines.push(Line { since: opening.attempt, to: from.clone(), from });
    state.sink.edit(|sink| sink.rows.push(vec![0; bounds.slots]));
    state.end = expected;
    Ok(())
}

/// A create-if-absent lands. True: the object was not there.
pub fn land(bounds: &Bounds, state: &mut State, create: &Create) -> Result<bool, Violation> {
    match create {
        Create::Opening(opening, wish) => {
            if state.store.openings.contains_key(&opening.term) {
                return Ok(false);
            }
            restores(bounds, state, opening, wish)?;
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
            if state.promised.is_some_and(|newest| newest >= reference) {
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
            (state.end, state.promised) = (Some(reference), Some(reference));
            whole(bounds, &state.store, record).or_else(|what| violation("I1", what))?;
            Ok(true)
        }
    }
}
