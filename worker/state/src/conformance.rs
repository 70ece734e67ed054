//! What every state backend must do. One suite, run on each implementation; a user's own backend runs it in its tests too.
//! It panics with the rule that was broken.

#![allow(clippy::expect_used, clippy::missing_panics_doc)]

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    backend::{BackendFactory, KeyedBackend, LocalFile, OpenBackend, WriteBatch},
    budget::StateMemory,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Runs all rules of [`KeyedBackend`]'s contract on backends of this factory, in folders below `dir`, which must exist.
pub fn conformance(factory: &dyn BackendFactory, dir: &Path) {
    let memory = StateMemory::new(256 << 20);
    let open = |name: &str, restore_dir: Option<PathBuf>| {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).expect("a folder can be made");
        let open = OpenBackend { dir, options: BTreeMap::new(), memory: memory.clone(), restore_dir };
        factory.open(open).expect("a backend opens")
    };
    let backend = open("first", None);
    an_empty_backend_has_nothing(&*backend);
    let mut model = reads_see_writes(&*backend);
    range_deletes_come_first(&*backend, &mut model);
    keys_are_ordered_as_unsigned_bytes(&*backend, &mut model);
    a_large_batch_is_like_a_small_one(&*backend, &mut model);
    reads_run_beside_writes(&backend, &mut model);
    assert!(backend.bytes() > 0, "a backend with rows has some bytes");

    let first = snapshot(&*backend, &dir.join("snapshot-1"));
    let at_first = model.clone();
    assert_content(&*backend, &model, "a snapshot changes nothing");
    put(&*backend, &mut model, &[(b"after the snapshot", Some(b"1")), (b"key-00003", None)]);
    let restored = open("second", Some(first.0.clone()));
    assert_content(&*restored, &at_first, "a restored backend holds what its snapshot holds, and nothing later");

    let second = snapshot(&*backend, &dir.join("snapshot-2"));
    drop(backend);
    let contents: Vec<_> =
        first.1.iter().map(|file| fs::read(first.0.join(&file.name)).expect("its files stay")).collect();
    for (file, content) in first.1.iter().zip(contents) {
        assert_eq!(file.length, content.len() as u64, "files of a snapshot keep their length");
        if let Some(same) = second.1.iter().find(|other| other.name == file.name && file.immutable && other.immutable) {
            let other = fs::read(second.0.join(&same.name)).expect("a listed file is there");
            assert_eq!(content, other, "an immutable file's name never stands for other bytes");
        }
    }
    let again = open("third", Some(second.0));
    assert_content(&*again, &model, "a later snapshot holds what was written since");
    let mut at_first = at_first;
    put(&*restored, &mut at_first, &[(b"a new life", Some(b"2"))]);
    assert_content(&*restored, &at_first, "a restored backend can be written to");
    let third = snapshot(&*restored, &dir.join("snapshot-3"));
    let fourth = open("fourth", Some(third.0));
    assert_content(&*fourth, &at_first, "a restored backend's own snapshot can be restored");
    let untouched = open("fifth", Some(first.0));
    assert!(
        get(&*untouched, b"a new life").is_none(),
        "working on a restored backend leaves the snapshot's files alone"
    );

    let empty = open("sixth", None);
    let nothing = snapshot(&*empty, &dir.join("snapshot-4"));
    assert_content(&*open("seventh", Some(nothing.0)), &Model::new(), "an empty backend can be restored");
}

fn put(backend: &dyn KeyedBackend, model: &mut Model, entries: &[(&[u8], Option<&[u8]>)]) {
    let mut batch = WriteBatch::new();
    for (key, value) in entries {
        match value {
            Some(value) => {
                batch.put(key, value);
                model.insert(key.to_vec(), value.to_vec());
            }
            None => {
                batch.delete(key);
                model.remove(*key);
            }
        }
    }
    backend.write(&batch).expect("a write succeeds");
}

fn get(backend: &dyn KeyedBackend, key: &[u8]) -> Option<Vec<u8>> {
    let mut value = None;
    backend.multi_get(&[key], &mut |_, found| value = Some(found.to_vec())).expect("a read succeeds");
    value
}

fn scan(backend: &dyn KeyedBackend, from: &[u8], to: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    backend
        .scan(from, to, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            if rows.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("a scan succeeds");
    rows
}

fn snapshot(backend: &dyn KeyedBackend, dir: &Path) -> (PathBuf, Vec<LocalFile>) {
    fs::create_dir_all(dir).expect("a folder can be made");
    let files = backend.snapshot(dir).expect("a snapshot succeeds");
    for file in &files {
        let length = fs::metadata(dir.join(&file.name)).expect("every listed file is there").len();
        assert_eq!(length, file.length, "every listed file has its length");
    }
    let present = fs::read_dir(dir).expect("the folder can be listed").count();
    assert_eq!(present, files.len(), "every file of a snapshot is listed");
    (dir.to_path_buf(), files)
}

fn assert_content(backend: &dyn KeyedBackend, model: &Model, rule: &str) {
    let rows: Model = scan(backend, &[], &[0xff; 8], usize::MAX).into_iter().collect();
    assert!(rows == *model, "{rule}: a scan gives {} rows where {} were written", rows.len(), model.len());
    let keys: Vec<&[u8]> = model.keys().map(Vec::as_slice).collect();
    let mut found = 0;
    backend
        .multi_get(&keys, &mut |at, value| {
            assert_eq!(model[keys[at]], value, "{rule}");
            found += 1;
        })
        .expect("a read succeeds");
    assert_eq!(found, model.len(), "{rule}: all keys are found at once");
}

fn an_empty_backend_has_nothing(backend: &dyn KeyedBackend) {
    assert_eq!(get(backend, b"key"), None, "an empty backend finds nothing");
    assert!(scan(backend, &[], &[0xff], usize::MAX).is_empty(), "an empty backend has no rows");
    backend.multi_get(&[], &mut |_, _| {}).expect("asking for nothing is fine");
    backend.write(&WriteBatch::new()).expect("writing nothing is fine");
}

fn reads_see_writes(backend: &dyn KeyedBackend) -> Model {
    let mut model = Model::new();
    let key = |n: usize| format!("key-{n:05}").into_bytes();
    let rows: Vec<_> = (0..100).map(|n| (key(n), vec![n as u8; n])).collect();
    let entries: Vec<_> = rows.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice()))).collect();
    put(backend, &mut model, &entries);
    assert_content(backend, &model, "a written batch is read at once, empty values included");
    put(backend, &mut model, &[(b"key-00001", Some(b"other")), (b"key-00002", None), (b"never there", None)]);
    assert_content(backend, &model, "a put replaces, a delete removes");
    let mut asked = Vec::new();
    backend
        .multi_get(&[b"key-00000", b"key-00002", b"key-00004", b"nothing"], &mut |at, _| asked.push(at))
        .expect("a read succeeds");
    asked.sort_unstable();
    assert_eq!(asked, [0, 2], "found keys are named by their place, missing ones are left out");
    model
}

fn range_deletes_come_first(backend: &dyn KeyedBackend, model: &mut Model) {
    let mut batch = WriteBatch::new();
    batch.delete_range(b"key-00010".to_vec(), b"key-00020".to_vec());
    batch.put(b"key-00015", b"anew");
    backend.write(&batch).expect("a write succeeds");
    model.retain(|key, _| !(b"key-00010".as_slice()..b"key-00020".as_slice()).contains(&key.as_slice()));
    model.insert(b"key-00015".to_vec(), b"anew".to_vec());
    assert_content(
        backend,
        model,
        "a range delete takes its start and not its end, and comes before the puts of its batch",
    );
}

fn keys_are_ordered_as_unsigned_bytes(backend: &dyn KeyedBackend, model: &mut Model) {
    put(
        backend,
        model,
        &[(&[1], Some(b"c")), (&[1, 0], Some(b"d")), (&[0x7f], Some(b"e")), (&[0x80, 0xff], Some(b"f"))],
    );
    let rows = scan(backend, &[], &[0xff], usize::MAX);
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "a scan ascends by unsigned bytes");
    let rows = scan(backend, &[1, 0], &[0x80], usize::MAX);
    assert_eq!(rows.first().map(|row| row.0.as_slice()), Some(&[1, 0][..]), "a scan begins at its start");
    assert_eq!(rows.last().map(|row| row.0.as_slice()), Some(&[0x7f][..]), "a scan ends before its end");
    assert_eq!(scan(backend, &[], &[0xff], 3).len(), 3, "a scan stops when it is told to");
    assert!(scan(backend, &[5], &[5], usize::MAX).is_empty(), "an empty range has no rows");
}

fn a_large_batch_is_like_a_small_one(backend: &dyn KeyedBackend, model: &mut Model) {
    let rows: Vec<_> =
        (0..20_000u32).map(|n| (format!("large-{n:08}").into_bytes(), n.to_be_bytes().repeat(10))).collect();
    let entries: Vec<_> = rows.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice()))).collect();
    put(backend, model, &entries);
    let half: Vec<_> =
        entries.iter().enumerate().map(|(n, &(key, value))| (key, if n % 2 == 0 { None } else { value })).collect();
    put(backend, model, &half);
    assert_content(backend, model, "a batch of a megabyte replaces and deletes as a small one does");
}

fn reads_run_beside_writes(backend: &Arc<dyn KeyedBackend>, model: &mut Model) {
    put(&**backend, model, &[(b"moving", Some(&[0, 0]))]);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while last < 200 {
                let value = get(&**backend, b"moving").expect("a key that is replaced is always there");
                assert_eq!(value[0], value[1], "a value is the old or the new one, whole");
                assert!(value[0] >= last, "values do not go back");
                last = value[0];
            }
        });
        for n in 1..=200u8 {
            put(&**backend, model, &[(b"moving", Some(&[n, n]))]);
        }
        reader.join().expect("the reader ends");
    });
}
