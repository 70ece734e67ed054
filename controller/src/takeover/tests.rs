use weir_protocol::record::{self, RECORD_VERSION, Slot};

use super::*;

fn request() -> Request {
    Request {
        job: JobName { namespace: "n".into(), name: "j".into() },
        coordinator: "c2".into(),
        owner: "o".into(),
        cluster: "k".into(),
        adopt: false,
        resume: false,
        release: false,
        restore: Restore::Latest,
        wish: None,
        after: None,
        accept_lost_output: false,
        workers: 2,
        slots: 2,
        max_parallelism: 128,
        fingerprint: "f".into(),
        retain: 2,
        format: RECORD_VERSION,
    }
}

fn opened(term: u64, attempt: u64, restores: Option<RecordRef>) -> Opening {
    Opening {
        coordinator: "c1".into(),
        ..opening(
            &request(),
            Term(term),
            Attempt(attempt),
            RestorePoint { restores: restores.into(), ..RestorePoint::default() },
        )
    }
}

fn reference(term: u64, number: u64, id: u64) -> RecordRef {
    RecordRef { id: CheckpointId(id), term: Term(term), number: RecordNumber(number) }
}

fn record(RecordRef { id, term, number }: RecordRef) -> Record {
    Record {
        version: RECORD_VERSION,
        id,
        term,
        number,
        attempt: Attempt(1),
        job: request().job,
        is_final: false,
        parallelism: 4,
        max_parallelism: 128,
        fingerprint: "f".into(),
        parts: Vec::new(),
        completed_at_ms: 0,
        duration_ms: 0,
        state_bytes: 0,
        uploaded_bytes: 0,
    }
}

fn seal(term: u64, number: u64) -> Seal {
    Seal { version: RECORD_VERSION, term: Term(term), number: RecordNumber(number), by: "c2".into(), at_ms: 5 }
}

/// Storage as a list and bytes, so that every test goes through the code that reads them.
#[derive(Clone, Default)]
struct Storage(std::collections::BTreeMap<String, Vec<u8>>);

impl Storage {
    fn opening(mut self, opening: &Opening) -> Self {
        self.0.insert(paths::opening(opening.term), record::encode(opening));
        self
    }

    fn record(mut self, reference: RecordRef) -> Self {
        self.0.insert(reference.path(), record::encode(&Slot::Record(record(reference))));
        self
    }

    fn seal(mut self, term: u64, number: u64) -> Self {
        let path = paths::slot(Term(term), RecordNumber(number));
        self.0.insert(path, record::encode(&Slot::Seal(seal(term, number))));
        self
    }

    fn bytes(mut self, path: String, bytes: &[u8]) -> Self {
        self.0.insert(path, bytes.to_vec());
        self
    }

    fn facts(&self) -> Facts {
        self.facts_without(&[])
    }

    /// These were deleted between the list and the reads.
    fn facts_without(&self, gone: &[String]) -> Facts {
        let listed = self.0.iter().map(|(path, bytes)| (path.as_str(), bytes.len() as u64));
        let mut read = std::collections::BTreeMap::new();
        for path in reads(listed.clone()).into_iter().filter(|path| !gone.contains(path)) {
            read.insert(path.clone(), self.0[&path].clone());
        }
        Facts::of(listed, &read, None)
    }

    fn decide(&self, request: &Request) -> Decision {
        decide(request, &self.facts(), None, Millis(5))
    }
}

fn opens(term: u64, attempt: u64, restores: Option<RecordRef>) -> Decision {
    let from = RestorePoint { restores: restores.into(), ..RestorePoint::default() };
    Decision::CreateOpening(opening(&request(), Term(term), Attempt(attempt), from))
}

#[test]
fn empty_storage_is_opened_with_the_first_term_and_attempt() {
    assert_eq!(Storage::default().decide(&request()), opens(1, 1, None));
}

#[test]
fn the_next_slot_of_the_newest_term_is_sealed_first() {
    let first = Storage::default().opening(&opened(1, 1, None));
    assert_eq!(first.decide(&request()), Decision::CreateSeal(seal(1, 1)));
    // Deletion has begun; only the highest number counts.
    let third = first.record(reference(1, 2, 4)).record(reference(1, 3, 6));
    assert_eq!(third.decide(&request()), Decision::CreateSeal(seal(1, 4)));
}

#[test]
fn a_sealed_term_restores_its_last_record_or_else_what_it_restored_itself() {
    let one = Storage::default()
        .opening(&opened(1, 1, None))
        .record(reference(1, 1, 4))
        .record(reference(1, 2, 6))
        .seal(1, 3);
    assert_eq!(one.decide(&request()), opens(2, 2, Some(reference(1, 2, 6))));
    let two = one.opening(&opened(2, 2, Some(reference(1, 2, 6)))).seal(2, 1);
    assert_eq!(two.decide(&request()), opens(3, 3, Some(reference(1, 2, 6))));
    let nothing = Storage::default().opening(&opened(1, 1, None)).seal(1, 1);
    assert_eq!(nothing.decide(&request()), opens(2, 2, None));
}

#[test]
fn a_resumed_attempt_keeps_its_number() {
    let storage = Storage::default().opening(&opened(4, 3, None)).seal(4, 1);
    let Decision::CreateOpening(opening) = storage.decide(&Request { resume: true, ..request() }) else { panic!() };
    assert_eq!((opening.term, opening.attempt), (Term(5), Attempt(3)));
}

#[test]
fn a_seal_in_a_slot_that_deletion_had_given_free_ends_nothing() {
    let storage = Storage::default().opening(&opened(1, 1, None)).seal(1, 1).record(reference(1, 2, 4));
    assert_eq!(storage.decide(&request()), Decision::CreateSeal(seal(1, 3)));
}

#[test]
fn a_record_deleted_between_list_and_read_still_counts_for_the_next_number() {
    let storage = Storage::default().opening(&opened(1, 1, None)).record(reference(1, 1, 4));
    let facts = storage.facts_without(&[reference(1, 1, 4).path()]);
    assert_eq!(decide(&request(), &facts, None, Millis(5)), Decision::CreateSeal(seal(1, 2)));
}

#[test]
fn the_own_opening_is_recognized_and_brings_all_standing_records() {
    let restored = reference(1, 3, 6);
    let from = RestorePoint { restores: Restores::Record(restored), ..RestorePoint::default() };
    let mine = opening(&request(), Term(2), Attempt(2), from);
    let storage = Storage::default()
        .opening(&opened(1, 1, None))
        .bytes(paths::slot(Term(1), RecordNumber(1)), b"")
        .record(reference(1, 2, 4))
        .record(restored)
        .seal(1, 4)
        .opening(&mine);
    let Decision::Opened(opened) = decide(&request(), &storage.facts(), Some(Term(2)), Millis(5)) else { panic!() };
    assert_eq!(*opened.opening, mine);
    assert_eq!(opened.restored.map(|record| record.reference()), Some(restored));
    let inherited: Vec<_> = opened.inherited.iter().map(|record| record.reference()).collect();
    assert_eq!(inherited, [reference(1, 2, 4), restored]);
    assert_eq!(opened.highest_id, CheckpointId(6));
}

#[test]
fn an_opening_of_another_process_ends_the_takeover() {
    let storage = Storage::default().opening(&opened(1, 1, None)).seal(1, 1).opening(&opened(2, 2, None));
    let lost = |asked| matches!(decide(&request(), &storage.facts(), asked, Millis(5)), Decision::Lost { .. });
    assert!(lost(Some(Term(2))));
    assert!(lost(Some(Term(1))));
    assert!(!lost(Some(Term(3))), "the own opening has not landed yet");
    assert!(!lost(None));
}

#[test]
fn another_owners_storage_is_refused_and_not_sealed_unless_it_is_adopted() {
    let storage = Storage::default().opening(&opened(1, 1, None));
    for other in [Request { owner: "p".into(), ..request() }, Request { cluster: "l".into(), ..request() }] {
        let refusal = Refusal::OwnedByAnother { owner: "o".into(), cluster: "k".into() };
        assert_eq!(storage.decide(&other), Decision::Refuse(refusal));
        assert_eq!(storage.decide(&Request { adopt: true, ..other }), Decision::CreateSeal(seal(1, 1)));
    }
}

#[test]
fn a_job_that_was_let_go_of_is_anybodys_of_its_name() {
    let last = reference(1, 1, 4);
    let storage = Storage::default().opening(&opened(1, 1, None)).record(last).seal(1, 2);
    let release = Request { release: true, resume: true, ..request() };
    let Decision::CreateOpening(released) = storage.decide(&release) else { panic!() };
    assert_eq!((released.owner.as_str(), released.attempt, released.restores.record()), ("", Attempt(1), Some(last)));
    let again = Request { owner: "p".into(), cluster: "l".into(), ..request() };
    let Decision::CreateOpening(next) = storage.opening(&released).seal(2, 1).decide(&again) else { panic!() };
    assert_eq!((next.owner.as_str(), next.attempt, next.restores.record()), ("p", Attempt(2), Some(last)));
}

#[test]
fn state_that_is_left_behind_is_not_found_again() {
    let storage = Storage::default().opening(&opened(1, 1, None)).record(reference(1, 1, 4)).seal(1, 2);
    let anew = Request { restore: Restore::Nothing, max_parallelism: 64, ..request() };
    let Decision::CreateOpening(opening) = storage.decide(&anew) else { panic!() };
    assert_eq!((opening.restores.record(), opening.attempt), (None, Attempt(2)));
    let later = storage.opening(&opening).seal(2, 1);
    let Decision::CreateOpening(next) = later.decide(&Request { max_parallelism: 64, ..request() }) else { panic!() };
    assert_eq!(next.restores, Restores::Nothing);
}

/// A leader opens a term for a wish and dies before it can write down that the wish has acted; its successor has the same.
#[test]
fn a_wish_acts_once_because_its_opening_says_so() {
    let (old, newer, newest) = (reference(1, 1, 1), reference(1, 2, 2), reference(2, 1, 3));
    let storage = Storage::default().opening(&opened(1, 1, None)).record(old).record(newer).seal(1, 3);
    let wish = |text: &str, restore| Request { wish: Some(text.into()), restore, ..request() };
    let first = wish(&old.path(), Restore::Record(old));
    let Decision::CreateOpening(opening) = storage.decide(&first) else { panic!() };
    assert_eq!((opening.restores.record(), opening.wish.clone()), (Some(old), Some(old.path())));

    // Nothing is rewound a second time, though a record has come since, and though the one that was wished for is gone.
    let later = storage.opening(&opening).record(newest).seal(2, 2);
    let Decision::CreateOpening(next) = later.decide(&first) else { panic!() };
    assert_eq!((next.restores.record(), next.wish.clone()), (Some(newest), Some(old.path())));
    let mut retired = later.clone();
    retired.0.insert(old.path(), Vec::new());
    let Decision::CreateOpening(next) = retired.decide(&first) else { panic!() };
    assert_eq!(next.restores.record(), Some(newest));
    // An opening without a wish of its own keeps in mind which has acted.
    let Decision::CreateOpening(next) = later.decide(&request()) else { panic!() };
    assert_eq!(next.wish, Some(old.path()));
    let resumed = later.opening(&next).seal(3, 1);
    let Decision::CreateOpening(next) = resumed.decide(&Request { resume: true, ..request() }) else { panic!() };
    assert_eq!(next.wish, Some(old.path()));

    // Another wish acts, and then the first one would again.
    let second = wish(&newest.path(), Restore::Record(newest));
    let Decision::CreateOpening(next) = resumed.decide(&second) else { panic!() };
    assert_eq!((next.restores.record(), next.wish), (Some(newest), Some(newest.path())));
    // A wish of another owner, or of a job that was let go of, has not acted for this one.
    let other = Request { owner: "p".into(), adopt: true, retain: 3, ..wish(&old.path(), Restore::Record(old)) };
    let Decision::CreateOpening(next) = resumed.decide(&other) else { panic!() };
    assert_eq!(next.restores.record(), Some(old));
    assert!(!has_acted(&old.path(), "o", "k", &Opening { owner: String::new(), ..opening.clone() }));
    assert!(has_acted(&old.path(), "o", "k", &opening));
}

#[test]
fn a_takeover_of_storage_that_was_emptied_meanwhile_is_refused_by_name() {
    let after = Request { after: Some(Term(3)), ..request() };
    let refusal = Refusal::Gone { path: paths::opening(Term(3)) };
    assert_eq!(Storage::default().decide(&after), Decision::Refuse(refusal.clone()));
    let older = Storage::default().opening(&opened(2, 1, None));
    assert_eq!(older.decide(&after), Decision::Refuse(refusal));
    let there = older.opening(&opened(3, 1, None));
    assert_eq!(there.decide(&after), Decision::CreateSeal(seal(3, 1)));
}

#[test]
fn max_parallelism_cannot_change_once_there_is_state() {
    let changed = Request { max_parallelism: 64, ..request() };
    let empty = Storage::default().opening(&opened(1, 1, None));
    assert_eq!(empty.decide(&changed), Decision::CreateSeal(seal(1, 1)));
    let refusal = Refusal::MaxParallelismChanged { was: 128, wanted: 64 };
    assert_eq!(empty.record(reference(1, 1, 4)).decide(&changed), Decision::Refuse(refusal));
}

#[test]
fn a_damaged_newest_record_is_refused_by_name_before_anything_is_sealed_and_an_older_one_can_be_chosen() {
    let damaged = paths::slot(Term(1), RecordNumber(2));
    let storage =
        Storage::default().opening(&opened(1, 1, None)).record(reference(1, 1, 4)).bytes(damaged.clone(), b"{\"vers");
    let Decision::Refuse(Refusal::Unusable { path, .. }) = storage.decide(&request()) else { panic!() };
    assert_eq!(path, damaged);
    let older = Request { restore: Restore::Record(reference(1, 1, 4)), ..request() };
    // Nobody can tell which output it has promised.
    let Decision::Refuse(Refusal::OutputUnknown { path, .. }) = storage.decide(&older) else { panic!() };
    assert_eq!(path, damaged);
    let older = Request { accept_lost_output: true, ..older };
    assert_eq!(storage.decide(&older), Decision::CreateSeal(seal(1, 3)));
    let Decision::CreateOpening(opening) = storage.seal(1, 3).decide(&older) else { panic!() };
    assert_eq!((opening.restores.record(), opening.commits), (Some(reference(1, 1, 4)), None));
}

#[test]
fn what_the_end_of_the_chain_has_promised_is_published_whatever_is_restored() {
    let (older, newest) = (reference(1, 1, 4), reference(1, 2, 5));
    let storage = || Storage::default().opening(&opened(1, 1, None)).record(older).record(newest).seal(1, 3);
    let opens = |storage: Storage, restore: Restore| {
        let Decision::CreateOpening(opening) = storage.decide(&Request { restore, ..request() }) else { panic!() };
        (opening.restores.record(), opening.commits, opening)
    };
    for (restore, restores, commits) in [
        (Restore::Latest, Some(newest), None),
        (Restore::Record(newest), Some(newest), None),
        (Restore::Record(older), Some(older), Some(newest)),
        (Restore::Nothing, None, Some(newest)),
    ] {
        let (restored, promised, opening) = opens(storage(), restore.clone());
        assert_eq!((restored, promised), (restores, commits), "{restore:?}");
        // Where no record comes to stand, the next attempt begins the same, and a further wish takes nothing away.
        let end = commits.or(restores);
        let later = || storage().opening(&opening).seal(2, 1);
        assert_eq!(opens(later(), Restore::Latest).1, commits, "{restore:?}");
        assert_eq!(opens(later(), Restore::Nothing).1, end, "{restore:?}");
        assert_eq!(opens(later(), Restore::Record(older)).1, end.filter(|end| *end != older), "{restore:?}");
        // A record carries what is not published yet.
        let next = reference(2, 1, 9);
        let further = storage().opening(&opening).record(next).seal(2, 2);
        let (restored, promised, _) = opens(further, Restore::Latest);
        assert_eq!((restored, promised), (Some(next), None));
    }
}

#[test]
fn the_build_before_does_not_read_an_opening_that_says_more_than_it_knows() {
    let (older, newest) = (reference(1, 1, 4), reference(1, 2, 5));
    let storage = Storage::default().opening(&opened(1, 1, None)).record(older).record(newest).seal(1, 3);
    let version = |request: Request| {
        let Decision::CreateOpening(opening) = storage.decide(&Request { format: 1, ..request }) else { panic!() };
        opening.version
    };
    assert_eq!(version(request()), 1);
    assert_eq!(version(Request { restore: Restore::Record(newest), ..request() }), 1);
    assert_eq!(version(Request { restore: Restore::Record(older), ..request() }), 2);
    assert_eq!(version(Request { restore: Restore::Nothing, ..request() }), 2);
    assert_eq!(version(Request { accept_lost_output: true, ..request() }), 2);
}

#[test]
fn lost_output_that_was_given_up_is_given_up_until_a_record_stands() {
    let last = reference(1, 1, 4);
    let storage = || Storage::default().opening(&opened(1, 1, None)).record(last).seal(1, 2);
    let accepting = Request { accept_lost_output: true, ..request() };
    let Decision::CreateOpening(opening) = storage().decide(&accepting) else { panic!() };
    assert!(opening.accepts_lost_output);
    let accepts = |storage: Storage| match storage.decide(&request()) {
        Decision::CreateOpening(opening) => opening.accepts_lost_output,
        other => panic!("{other:?}"),
    };
    assert!(accepts(storage().opening(&opening).seal(2, 1)), "the attempt failed before it had a record");
    assert!(!accepts(storage().opening(&opening).record(reference(2, 1, 9)).seal(2, 2)));
    assert!(!accepts(storage()), "nobody asked for it");
}

#[test]
fn a_manual_restore_chooses_among_the_retained_records_only() {
    let mut storage = Storage::default().opening(&opened(1, 1, None));
    for number in 1..=3 {
        storage = storage.record(reference(1, number, number));
    }
    let storage = storage.seal(1, 4);
    let choose =
        |number| storage.decide(&Request { restore: Restore::Record(reference(1, number, number)), ..request() });
    assert!(matches!(choose(1), Decision::Refuse(Refusal::NotRetained { .. })));
    let Decision::CreateOpening(second) = choose(2) else { panic!() };
    assert_eq!((second.restores.record(), second.attempt), (Some(reference(1, 2, 2)), Attempt(2)));
    assert_eq!(choose(3), opens(2, 2, Some(reference(1, 3, 3))));
    assert!(matches!(choose(9), Decision::Refuse(Refusal::NotRetained { .. })));
}

#[test]
fn an_opening_that_cannot_be_read_is_refused_by_name() {
    let storage = Storage::default().bytes(paths::opening(Term(1)), b"{\"version\": 9}");
    let Decision::Refuse(refusal) = storage.decide(&request()) else { panic!() };
    let expected = "terms/0000000001/opening cannot be used: terms/0000000001/opening has format version 9, this build reads 1 to 3: use the build that wrote it, or a newer one";
    assert_eq!(refusal.to_string(), expected);
}

#[test]
fn slots_of_terms_that_were_never_opened_are_of_no_chain_and_their_numbers_are_passed_over() {
    let stray = Storage::default().record(reference(5, 3, 8));
    assert_eq!(stray.decide(&request()), opens(6, 2, None));
    let seal_only = Storage::default().seal(5, 3);
    assert_eq!(seal_only.decide(&request()), opens(6, 1, None));
    // Above what was opened since, and below it.
    let mut facts = stray.clone().opening(&opened(2, 1, None)).record(reference(2, 1, 1)).seal(2, 2).facts();
    facts.start = Some(Term(2));
    assert_eq!(decide(&request(), &facts, None, Millis(5)), opens(6, 2, Some(reference(2, 1, 1))));
    let later = stray.opening(&opened(6, 2, None)).seal(6, 1);
    assert_eq!(later.decide(&request()), opens(7, 3, None));
}

#[test]
fn a_term_that_holds_a_checkpoint_and_was_opened_is_not_passed_over() {
    let storage = Storage::default().opening(&opened(1, 1, None)).seal(1, 1).record(reference(2, 1, 4));
    let refusal = Refusal::Unusable { path: paths::opening(Term(2)), reason: "it is missing".into() };
    for start in [None, Some(Term(2)), Some(Term(3))] {
        let facts = Facts { start, ..storage.facts() };
        assert_eq!(decide(&request(), &facts, None, Millis(5)), Decision::Refuse(refusal.clone()), "{start:?}");
    }
}

#[test]
fn the_last_term_of_a_job_that_is_deleted_is_sealed_once() {
    assert_eq!(last_seal(&Facts::default(), &request(), Millis(5)), None);
    let storage = Storage::default().opening(&opened(1, 1, None)).record(reference(1, 1, 4));
    assert_eq!(last_seal(&storage.facts(), &request(), Millis(5)), Some(seal(1, 2)));
    assert_eq!(last_seal(&storage.seal(1, 2).facts(), &request(), Millis(5)), None);
}

#[test]
fn of_old_terms_only_standing_records_are_read() {
    let storage = Storage::default()
        .opening(&opened(1, 1, None))
        .bytes(paths::slot(Term(1), RecordNumber(1)), b"")
        .record(reference(1, 2, 2))
        .seal(1, 3)
        .opening(&opened(2, 2, Some(reference(1, 2, 2))))
        .seal(2, 1);
    let listed = storage.0.iter().map(|(path, bytes)| (path.as_str(), bytes.len() as u64));
    let expected = [paths::opening(Term(2)), reference(1, 2, 2).path(), paths::slot(Term(2), RecordNumber(1))];
    assert_eq!(reads(listed), expected);
}

fn savepoint() -> Restores {
    Restores::Savepoint { location: "file:///kept".into(), id: CheckpointId(9) }
}

fn wants_it() -> Request {
    let wanted = Wanted { location: "file:///kept".into(), id: CheckpointId(9), max_parallelism: 128 };
    Request { restore: Restore::Savepoint(Arc::new(wanted)), ..request() }
}

/// Goes on until nothing is left to be done; a record is made of a savepoint where that is asked for. So many steps before the end
/// the process dies.
fn course(request: &Request, facts: &mut Facts, mut left: usize) -> Option<Opened> {
    let mut asked = None;
    loop {
        let decision = decide(request, facts, asked, Millis(5));
        if let Decision::Opened(opened) = decision {
            return Some(*opened);
        }
        left = left.checked_sub(1)?;
        let (term, number, fact) = match decision {
            Decision::CreateSeal(seal) => (seal.term, seal.number, SlotFact::Seal(seal)),
            Decision::CreateOpening(opening) => {
                asked = Some(opening.term);
                let term = facts.terms.entry(opening.term).or_default();
                (term.opened, term.opening) = (true, Some(Arc::new(opening)));
                continue;
            }
            Decision::Import(import) => {
                let reference = RecordRef { id: import.id, term: import.opening.term, number: RecordNumber(1) };
                let made = Record { attempt: import.opening.attempt, ..record(reference) };
                (reference.term, reference.number, SlotFact::Record(Arc::new(made)))
            }
            other => panic!("{other:?}"),
        };
        facts.terms.get_mut(&term).unwrap().slots.insert(number, fact);
    }
}

fn with_a_chain() -> Facts {
    let mut facts = Facts::default();
    let first = facts.terms.entry(Term(1)).or_default();
    (first.opened, first.opening) = (true, Some(Arc::new(opened(1, 1, None))));
    first.slots.insert(RecordNumber(1), SlotFact::Record(Arc::new(record(reference(1, 1, 40)))));
    facts
}

/// Whoever dies at whatever step, with the wish or without it the next one begins from the savepoint, once, and what the chain that was
/// left has promised is due until an attempt has begun.
#[test]
fn a_savepoint_is_restored_whoever_dies_at_which_step() {
    for wish in [None, Some("file:///kept".to_string())] {
        for dies_after in 0..7 {
            let mut facts = with_a_chain();
            let request = Request { wish: wish.clone(), ..wants_it() };
            let opened = match course(&request, &mut facts, dies_after) {
                Some(opened) => opened,
                None => {
                    let begun = facts.newest_opening().is_some_and(|opening| opening.restores == savepoint());
                    // The YAML says it still; from the command line it is said once more, unless the chain has it already.
                    let again = if wish.is_some() || !begun { request } else { super::tests::request() };
                    let again = Request { coordinator: "c3".into(), ..again };
                    course(&again, &mut facts, 20).unwrap()
                }
            };
            let what = format!("{wish:?}, dies after {dies_after}");
            let restored = opened.restored.expect(&what);
            assert!(restored.id > CheckpointId(40), "{what}: ids are never used again");
            assert_eq!(opened.opening.restores, Restores::Record(restored.reference()), "{what}");
            assert_eq!(opened.opening.commits, Some(reference(1, 1, 40)), "{what}: what was promised is published");
            assert!(opened.opening.attempt > restored.attempt, "{what}");
            assert_eq!(opened.opening.wish, wish, "{what}");
            // It acts once: the next attempt goes on from the end of the chain, and no savepoint is looked at.
            let later = Request { coordinator: "c4".into(), wish: wish.clone(), ..super::tests::request() };
            let next = course(&later, &mut facts, 20);
            assert_eq!(next.unwrap().opening.restores, Restores::Record(restored.reference()), "{what}");
        }
    }
}

#[test]
fn a_new_job_begins_from_a_savepoint_and_owes_nobody_anything() {
    let mut facts = Facts::default();
    let opened = course(&wants_it(), &mut facts, 20).unwrap();
    assert_eq!(opened.opening.commits, None);
    assert_eq!(opened.restored.unwrap().id, CheckpointId(1));
    let import = facts.terms.values().next().unwrap().opening.as_ref().unwrap();
    assert_eq!(import.restores, savepoint());
}

#[test]
fn a_savepoint_of_other_key_groups_is_refused_before_anything_is_touched() {
    for facts in [Facts::default(), with_a_chain()] {
        let request = Request { max_parallelism: 64, ..wants_it() };
        let decision = decide(&request, &facts, None, Millis(5));
        let refused = Decision::Refuse(Refusal::MaxParallelismChanged { was: 128, wanted: 64 });
        assert_eq!(decision, refused);
    }
}

#[test]
fn workers_that_run_are_not_resumed_over_a_savepoint_that_was_not_brought_in() {
    let mut facts = with_a_chain();
    assert!(course(&wants_it(), &mut facts, 3).is_none());
    let resuming = Request { resume: true, coordinator: "c3".into(), ..request() };
    let opened = course(&resuming, &mut facts, 20).unwrap();
    assert!(opened.opening.attempt > Attempt(2), "{:?}", opened.opening);
    // Whoever lets go of the job brings nothing in.
    let mut facts = with_a_chain();
    assert!(course(&wants_it(), &mut facts, 2).is_none());
    let release = Request { resume: true, release: true, coordinator: "c3".into(), ..request() };
    let left = course(&release, &mut facts, 20).unwrap();
    assert_eq!((left.opening.owner.as_str(), &left.opening.restores), ("", &savepoint()));
}
