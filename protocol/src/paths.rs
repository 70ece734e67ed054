//! Every object path, made and read in one place. Paths are relative to the job's prefix `<storage>/<namespace>/<name>/`.

use crate::ids::{Attempt, CheckpointId, RecordNumber, Term, WorkerId};

/// Below this stand the terms, one folder each.
pub const TERMS: &str = "terms";
/// Below this stand the workers' parts.
pub const PARTS: &str = "parts";
/// Below this stand the immutable state files.
pub const STATE: &str = "state";
/// Below this stand the lists of what attempts that started from nothing have to read.
pub const INPUTS: &str = "inputs";

/// Says where a takeover begins to read.
pub const START: &str = "start";

/// `terms/<term>/opening`: the object that opens a term.
pub fn opening(term: Term) -> String {
    format!("{TERMS}/{:010}/opening", term.0)
}

/// `terms/<term>/<number>`: a record, or the seal.
pub fn slot(term: Term, number: RecordNumber) -> String {
    format!("{TERMS}/{:010}/{:010}", term.0, number.0)
}

/// The folder of a term's opening and slots.
pub fn term(term: Term) -> String {
    format!("{TERMS}/{:010}", term.0)
}

/// `parts/<id>-<attempt>-<worker>`: one worker's manifest of one checkpoint.
pub fn part(id: CheckpointId, attempt: Attempt, worker: &WorkerId) -> String {
    format!("{PARTS}/{:010}-{:06}-{worker}", id.0, attempt.0)
}

/// `state/<attempt>-<worker>/<n>`: one immutable state file. `n` is counted by the worker within the attempt.
pub fn state_file(attempt: Attempt, worker: &WorkerId, n: u64) -> String {
    format!("{STATE}/{:06}-{worker}/{n:08}", attempt.0)
}

/// `inputs/<attempt>-<worker>`: what this attempt, which starts from nothing, has to read. `worker` is the first of its workers.
pub fn inputs(attempt: Attempt, worker: &WorkerId) -> String {
    format!("{INPUTS}/{:06}-{worker}", attempt.0)
}

/// `savepoint`, below a savepoint's own location: its manifest, which makes it complete.
pub const SAVEPOINT: &str = "savepoint";
/// `begun`, below a savepoint's own location: somebody takes one there.
pub const SAVEPOINT_BEGUN: &str = "begun";

/// `state/<n>`, below a savepoint's own location.
pub fn saved_state(n: usize) -> String {
    format!("{STATE}/{n:08}")
}

/// `parts/<n>`, below a savepoint's own location.
pub fn saved_part(n: usize) -> String {
    format!("{PARTS}/{n:06}")
}

/// What an object below a job's prefix is, read back from its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The opening of a term.
    Opening(Term),
    /// A record or seal.
    Slot(Term, RecordNumber),
    /// A worker's part.
    Part(CheckpointId, Attempt, WorkerId),
    /// A state file.
    State(Attempt, WorkerId, u64),
    /// What an attempt has to read.
    Inputs(Attempt, WorkerId),
}

/// Reads a path made by this module; `None` for any other, which is then no object of ours.
pub fn parse(path: &str) -> Option<Object> {
    let mut pieces = path.split('/');
    let (folder, second, third) = (pieces.next()?, pieces.next()?, pieces.next());
    if pieces.next().is_some() {
        return None;
    }
    match (folder, third) {
        (TERMS, Some("opening")) => Some(Object::Opening(Term(second.parse().ok()?))),
        (TERMS, Some(number)) => Some(Object::Slot(Term(second.parse().ok()?), RecordNumber(number.parse().ok()?))),
        (PARTS, None) => {
            let mut fields = second.splitn(3, '-');
            let id = CheckpointId(fields.next()?.parse().ok()?);
            let attempt = Attempt(fields.next()?.parse().ok()?);
            Some(Object::Part(id, attempt, WorkerId(fields.next()?.to_string())))
        }
        (STATE, Some(n)) => {
            let (attempt, worker) = second.split_once('-')?;
            Some(Object::State(Attempt(attempt.parse().ok()?), WorkerId(worker.to_string()), n.parse().ok()?))
        }
        (INPUTS, None) => {
            let (attempt, worker) = second.split_once('-')?;
            Some(Object::Inputs(Attempt(attempt.parse().ok()?), WorkerId(worker.to_string())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_reads_back_as_what_it_was_made_of(id in 0u64..10_000_000_000, attempt in 0u64..1_000_000, n in 0u64..100_000_000) {
            let worker = WorkerId("0123abcd4567".into());
            prop_assert_eq!(parse(&opening(Term(id))), Some(Object::Opening(Term(id))));
            prop_assert_eq!(parse(&slot(Term(id), RecordNumber(n))), Some(Object::Slot(Term(id), RecordNumber(n))));
            prop_assert_eq!(
                parse(&part(CheckpointId(id), Attempt(attempt), &worker)),
                Some(Object::Part(CheckpointId(id), Attempt(attempt), worker.clone()))
            );
            prop_assert_eq!(
                parse(&state_file(Attempt(attempt), &worker, n)),
                Some(Object::State(Attempt(attempt), worker.clone(), n))
            );
            prop_assert_eq!(
                parse(&inputs(Attempt(attempt), &worker)),
                Some(Object::Inputs(Attempt(attempt), worker.clone()))
            );
        }
    }

    #[test]
    fn a_foreign_path_is_no_object_of_ours() {
        for path in [
            "",
            "terms",
            "terms/x/opening",
            "terms/1/2/3",
            "elsewhere/1",
            "parts/1",
            "state/1/2",
            "inputs/1",
            "inputs/x-w",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
