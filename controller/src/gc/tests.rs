use weir_protocol::{CheckpointId, JobName, RecordNumber, WorkerId};

use super::*;

fn part(id: u64) -> String {
    paths::part(CheckpointId(id), Attempt(2), &WorkerId("w".into()))
}

fn file(n: u64) -> String {
    paths::state_file(Attempt(2), &WorkerId("w".into()), n)
}

fn standing(term: u64, id: u64, files: &[u64]) -> Standing {
    let part = PartRef { worker: WorkerId("w".into()), path: part(id), length: 1, crc32c: 1, inline: None };
    let names = Names { parts: [part.path.clone()].into(), files: files.iter().map(|n| file(*n)).collect() };
    let record = Record {
        version: 1,
        id: CheckpointId(id),
        term: Term(term),
        number: RecordNumber(id),
        attempt: Attempt(2),
        job: JobName { namespace: "n".into(), name: "j".into() },
        is_final: false,
        parallelism: 1,
        max_parallelism: 1,
        fingerprint: String::new(),
        parts: vec![part],
        completed_at_ms: 0,
        duration_ms: 0,
        state_bytes: 0,
        uploaded_bytes: 0,
    };
    Standing { record: Arc::new(record), clear: true, names: Known::Yes(Arc::new(names)) }
}

fn records(standing: impl IntoIterator<Item = Standing>) -> Records {
    standing.into_iter().map(|standing| (standing.record.reference(), standing)).collect()
}

fn delete(path: String) -> Removal {
    Removal::Delete(path)
}

#[test]
fn the_oldest_record_beyond_those_retained_goes_first_unless_it_is_held() {
    let all = records((1..=5).map(|id| standing(1, id, &[])));
    let reference = |id| standing(1, id, &[]).record.reference();
    for (retain, held, next) in [
        (5, &[][..], None),
        (9, &[], None),
        (3, &[], Some(1)),
        (3, &[1], Some(2)),
        (3, &[1, 2], None),
        (1, &[1, 2, 4], Some(3)),
        // At least the newest stays, whatever is asked for.
        (0, &[1, 2, 3, 4], None),
    ] {
        let held: Vec<_> = held.iter().map(|id| reference(*id)).collect();
        assert_eq!(next_retired(&all, retain, &held), next.map(reference), "retain {retain}, held {held:?}");
    }
}

#[test]
fn a_record_goes_before_its_parts_and_those_before_the_files_that_no_other_names() {
    let others = records([standing(3, 2, &[1, 2])]);
    let retired = standing(3, 1, &[0, 1]);
    let path = retired.record.reference().path();
    assert_eq!(removal(Term(3), &retired, &others), [delete(path), delete(part(1)), delete(file(0))]);
}

#[test]
fn a_slot_is_given_free_only_where_no_create_of_it_can_be_on_its_way() {
    let path = standing(3, 1, &[]).record.reference().path();
    let first =
        |term, clear| removal(Term(term), &Standing { clear, ..standing(3, 1, &[]) }, &Records::new()).remove(0);
    assert_eq!(first(3, true), Removal::Delete(path.clone()));
    assert_eq!(first(3, false), Removal::Empty(path.clone()));
    assert_eq!(first(4, true), Removal::Empty(path.clone()));
    assert_eq!(first(4, false), Removal::Empty(path));
}

#[test]
fn files_stay_while_it_is_not_known_what_another_record_names() {
    for names in [Known::Never, Known::No] {
        let others = records([Standing { names, ..standing(3, 2, &[]) }]);
        let retired = standing(3, 1, &[0]);
        let path = retired.record.reference().path();
        assert_eq!(removal(Term(3), &retired, &others), [delete(path), delete(part(1))]);
    }
}

#[test]
fn parts_that_stand_inside_the_record_are_no_objects() {
    let mut retired = standing(3, 1, &[]);
    Arc::make_mut(&mut retired.record).parts[0].inline = Some("{}".into());
    let path = retired.record.reference().path();
    assert_eq!(removal(Term(3), &retired, &Records::new()), [delete(path)]);
}

#[test]
fn leftovers_go_only_under_older_attempts_and_only_if_no_record_names_them() {
    let all = records([standing(3, 2, &[1])]);
    let current = paths::part(CheckpointId(9), Attempt(3), &WorkerId("w".into()));
    let current_file = paths::state_file(Attempt(3), &WorkerId("w".into()), 0);
    let (file_0, file_1, part_1, part_2) = (file(0), file(1), part(1), part(2));
    let foreign = "state/readme".to_string();
    let [inputs, current_inputs] = [2, 3].map(|attempt| paths::inputs(Attempt(attempt), &WorkerId("w".into())));
    let listed = [&current_file, &file_0, &file_1, &current, &part_1, &part_2, &foreign, &inputs, &current_inputs];
    let listed = listed.map(String::as_str);
    assert_eq!(leftovers(listed, Attempt(3), &all), [delete(part(1)), delete(file(0)), delete(inputs.clone())]);
    assert_eq!(leftovers(listed, Attempt(2), &all), []);
    let kept = leftovers([inputs.as_str()], Attempt(3), &Records::new());
    assert_eq!(kept, [], "no record has positions: the next attempt begins where this one did");
    let unknown = records([Standing { names: Known::Never, ..standing(3, 2, &[1]) }]);
    assert_eq!(leftovers(listed, Attempt(3), &unknown), [], "nobody knows what that record names");
}
