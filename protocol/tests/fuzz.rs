//! Openings, records, seals and parts with bytes changed: each is refused, or read as something that is written and read as itself.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Debug;

use serde::Serialize;
use weir_fuzz::cases;
use weir_protocol::{
    part::Part,
    paths::{self, Object},
    record::{Opening, Slot, encode, read},
    stored::Stored,
};

/// Names and values that stand in such objects, and some that stand in none.
const WORDS: [&str; 14] = [
    "\"version\":1",
    "\"version\":2",
    "\"version\":4294967296",
    "null",
    "{}",
    "[]",
    "-1",
    "18446744073709551616",
    "1e400",
    "\"\\ud800\"",
    "\"..\"",
    "\"kind\"",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "\u{1F600}",
];

fn is_read_as_itself<T: Stored + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(object) = read::<T>("an object", bytes) {
        let written = encode(&object);
        assert_eq!(read::<T>("an object", &written).unwrap(), object, "{}", String::from_utf8_lossy(&written));
    }
}

#[test]
fn whatever_stands_in_storage_is_read_as_what_it_is_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let objects: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(objects.len() >= 11);
    cases(20_000, |random| {
        let object = random.below(objects.len());
        let bytes = random.changed(&objects[object], &WORDS);
        is_read_as_itself::<Opening>(&bytes);
        is_read_as_itself::<Slot>(&bytes);
        is_read_as_itself::<Part>(&bytes);
    });
}

/// The path that this build gives to an object.
fn path_of(object: &Object) -> String {
    match object {
        Object::Opening(term) => paths::opening(*term),
        Object::Slot(term, number) => paths::slot(*term, *number),
        Object::Part(id, attempt, worker) => paths::part(*id, *attempt, worker),
        Object::State(attempt, worker, n) => paths::state_file(*attempt, worker, *n),
        Object::Inputs(attempt, worker) => paths::inputs(*attempt, worker),
    }
}

#[test]
fn any_path_is_of_one_object_or_of_none() {
    let known = [
        "terms/0000000001/opening",
        "terms/0000000001/0000000002",
        "parts/0000000005-000003-0123abcd4567",
        "state/000003-0123abcd4567/00000007",
        "inputs/000003-0123abcd4567",
    ];
    for path in known {
        assert_eq!(paths::parse(path).map(|object| path_of(&object)).as_deref(), Some(path));
    }
    cases(20_000, |random| {
        let path = random.pick(&known);
        let bytes = random.changed(path.as_bytes(), &["/", "-", "..", "0", "18446744073709551616"]);
        let path = String::from_utf8_lossy(&bytes);
        if let Some(object) = paths::parse(&path) {
            assert_eq!(paths::parse(&path_of(&object)).as_ref(), Some(&object), "{path}");
        }
    });
}
