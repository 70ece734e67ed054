//! Freeze, persist, restore, rescale: tables against a model in plain maps, on every kind of backend.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{MAX_PARALLELISM, Machine, files_below, keys};
use proptest::prelude::*;
use weir_protocol::part::KeyedSnapshot;
use weir_state::{
    Keys, RowLayout, SliceTable, Slot, StateErrorKind, SubtaskState, Table, key_group, key_group_range, subtask_of,
};

type Model = BTreeMap<i64, Vec<u8>>;

fn key_of(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes[1..9].try_into().unwrap()) ^ i64::MIN
}

fn content(table: &mut Table) -> Model {
    let mut rows = Model::new();
    table
        .scan_all(&mut |_, key, row| {
            assert!(rows.insert(key_of(key), row.to_vec()).is_none(), "each row is visited once");
        })
        .unwrap();
    rows
}

fn slice_content(table: &mut SliceTable, piece: usize) -> BTreeMap<i64, Model> {
    let ends: Vec<i64> = table.slices().collect();
    let mut all = BTreeMap::new();
    for end in ends {
        let mut rows = Model::new();
        let mut cursor = None;
        loop {
            let mut visited = 0;
            cursor = table
                .read(end, cursor, piece, &mut |key, row| {
                    visited += 1;
                    assert!(rows.insert(key_of(key), row.to_vec()).is_none(), "each row is visited once");
                })
                .unwrap();
            assert!(visited <= piece, "a piece has no more rows than it may");
            if cursor.is_none() {
                break;
            }
        }
        all.insert(end, rows);
    }
    all
}

fn add(table: &mut Table, keys: &Keys, by: u64) {
    let (mut slots, mut created) = (Vec::new(), Vec::new());
    table.upsert(keys, &mut slots, &mut created).unwrap();
    for slot in slots {
        let row = table.row_mut(slot);
        let count = u64::from_le_bytes(row.try_into().unwrap()) + by;
        row.copy_from_slice(&count.to_le_bytes());
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Add(Vec<i64>),
    Set(i64, Vec<u8>),
    Remove(i64),
    Slice(i64, Vec<i64>),
    DeleteSlice(i64),
    Check,
    Checkpoint,
    AbortedCheckpoint,
    CancelledCheckpoint,
    Restore,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let key = 0..60i64;
    let end = 0..5i64;
    prop::collection::vec(
        prop_oneof![
            4 => prop::collection::vec(key.clone(), 1..40).prop_map(Operation::Add),
            3 => (key.clone(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(key, row)| Operation::Set(key, row)),
            2 => key.clone().prop_map(Operation::Remove),
            4 => (end.clone(), prop::collection::vec(key, 1..30)).prop_map(|(end, keys)| Operation::Slice(end, keys)),
            2 => end.prop_map(Operation::DeleteSlice),
            1 => Just(Operation::Check),
            2 => Just(Operation::Checkpoint),
            1 => Just(Operation::AbortedCheckpoint),
            1 => Just(Operation::CancelledCheckpoint),
            1 => Just(Operation::Restore),
        ],
        1..40,
    )
}

struct Job {
    machine: Machine,
    state: SubtaskState,
    counts: Table,
    texts: Table,
    slices: SliceTable,
    models: (Model, Model, BTreeMap<i64, Model>),
    at_checkpoint: (Model, Model, BTreeMap<i64, Model>),
    snapshot: Option<KeyedSnapshot>,
    id: u64,
    /// Of the snapshot.
    recorded: u64,
    restores: u64,
}

fn tables(state: &SubtaskState) -> (Table, Table, SliceTable) {
    (
        state.table("operator", "counts", RowLayout::Fixed(8)).unwrap(),
        state.table("operator", "texts", RowLayout::Variable).unwrap(),
        state.slices("operator", "slices", RowLayout::Fixed(8)).unwrap(),
    )
}

impl Job {
    fn new(backend: &str) -> Self {
        let machine = Machine::new(backend, 256 << 20);
        let state = machine.open("subtask", 0, 1, &[]);
        let (counts, texts, slices) = tables(&state);
        Self {
            machine,
            state,
            counts,
            texts,
            slices,
            models: Default::default(),
            at_checkpoint: Default::default(),
            snapshot: None,
            id: 0,
            recorded: 0,
            restores: 0,
        }
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Add(values) => {
                add(&mut self.counts, &keys(values.clone()), 1);
                for key in values {
                    let row = self.models.0.entry(key).or_insert_with(|| vec![0; 8]);
                    let count = u64::from_le_bytes(row.as_slice().try_into().unwrap()) + 1;
                    *row = count.to_le_bytes().to_vec();
                }
            }
            Operation::Set(key, row) => {
                let (mut slots, mut created) = (Vec::new(), Vec::new());
                self.texts.upsert(&keys([key, key]), &mut slots, &mut created).unwrap();
                assert_eq!(slots[0], slots[1], "one key has one slot");
                assert_eq!(created.len(), usize::from(!self.models.1.contains_key(&key)), "a new row is reported once");
                self.texts.set(slots[0], &row);
                self.models.1.insert(key, row);
            }
            Operation::Remove(key) => {
                let mut found = Vec::new();
                for (table, model) in [(&mut self.counts, &mut self.models.0), (&mut self.texts, &mut self.models.1)] {
                    table.get(&keys([key, key]), &mut found).unwrap();
                    assert_eq!(found[0].map(|slot| table.row(slot)), model.get(&key).map(Vec::as_slice));
                    assert_eq!(found[0], found[1]);
                    if let Some(slot) = found[0] {
                        table.remove(slot);
                    }
                    model.remove(&key);
                }
            }
            Operation::Slice(end, values) => {
                let keys = keys(values.clone());
                let rows: Vec<u32> = (0..values.len() as u32).filter(|row| row % 2 == 0).collect();
                let (mut slots, mut created) = (Vec::<Slot>::new(), Vec::new());
                self.slices.upsert(end, &keys, Some(&rows), &mut slots, &mut created).unwrap();
                let model = self.models.2.entry(end).or_default();
                let before = model.len();
                for (&row, &slot) in rows.iter().zip(&slots) {
                    let cell = self.slices.row_mut(end, slot);
                    let count = u64::from_le_bytes((&*cell).try_into().unwrap()) + 1;
                    cell.copy_from_slice(&count.to_le_bytes());
                    let expected = model.entry(values[row as usize]).or_insert_with(|| vec![0; 8]);
                    let count = u64::from_le_bytes(expected.as_slice().try_into().unwrap()) + 1;
                    *expected = count.to_le_bytes().to_vec();
                }
                assert_eq!(created.len(), model.len() - before, "each new row is reported once");
            }
            Operation::DeleteSlice(end) => {
                self.slices.delete_slice(end).unwrap();
                self.models.2.remove(&end);
            }
            Operation::Check => self.check(),
            Operation::Checkpoint => {
                let frozen = self.freeze();
                self.at_checkpoint = self.models.clone();
                // What comes after the barrier is not in the snapshot.
                add(&mut self.counts, &keys([1, 2, 3]), 0);
                self.id += 1;
                let (snapshot, _) = self.machine.persist(&self.state, frozen, self.id, self.snapshot.as_ref());
                self.state.drop_local_snapshots_before(weir_protocol::CheckpointId(self.id));
                for key in [1, 2, 3] {
                    self.models.0.entry(key).or_insert_with(|| vec![0; 8]);
                }
                self.snapshot = Some(snapshot);
                self.recorded = self.id;
            }
            Operation::AbortedCheckpoint => {
                // All is uploaded, and no record comes of it.
                let frozen = self.freeze();
                self.id += 1;
                self.machine.persist(&self.state, frozen, self.id, self.snapshot.as_ref());
                let base = self.snapshot.as_ref().map(|_| weir_protocol::CheckpointId(self.recorded));
                self.state.drop_local_snapshots_given_up(weir_protocol::CheckpointId(self.id), base);
            }
            Operation::CancelledCheckpoint => {
                self.id += 1;
                drop(self.freeze());
            }
            Operation::Restore => self.restore(),
        }
    }

    fn freeze(&mut self) -> Vec<weir_state::Frozen> {
        [self.counts.freeze(), self.texts.freeze(), self.slices.freeze()].into_iter().flatten().collect()
    }

    fn restore(&mut self) {
        self.restores += 1;
        let restore: Vec<_> = self.snapshot.iter().cloned().collect();
        // Every other time from local files.
        let dir = if self.restores.is_multiple_of(2) {
            "subtask".to_string()
        } else {
            format!("elsewhere-{}", self.restores)
        };
        self.state = self.machine.open(&dir, 0, 1, &restore);
        (self.counts, self.texts, self.slices) = tables(&self.state);
        self.models = self.at_checkpoint.clone();
        self.check();
    }

    fn check(&mut self) {
        assert_eq!(content(&mut self.counts), self.models.0);
        assert_eq!(content(&mut self.texts), self.models.1);
        self.models.2.retain(|_, rows| !rows.is_empty());
        assert_eq!(slice_content(&mut self.slices, 7), self.models.2);
    }
}

fn run_all(backend: &str, operations: Vec<Operation>) {
    let mut job = Job::new(backend);
    for operation in operations {
        job.run(operation);
    }
    job.check();
    job.restore();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_survive_checkpoints_and_restores_in_memory(operations in operations()) {
        run_all("memory", operations);
    }

    #[test]
    fn random_operations_survive_checkpoints_and_restores_in_the_record(operations in operations()) {
        run_all("jobmanager", operations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_survive_checkpoints_and_restores_in_rocksdb(operations in operations()) {
        run_all("rocksdb", operations);
    }
}

fn all_keys_of(subtask: u32, parallelism: u32, count: i64) -> Vec<i64> {
    let all: Vec<i64> = (0..count).collect();
    let encoded = keys(all.clone());
    let owner = |key: &i64| {
        let group = key_group(encoded.hash(*key as usize), MAX_PARALLELISM);
        subtask_of(group, MAX_PARALLELISM, parallelism) == subtask
    };
    all.into_iter().filter(owner).collect()
}

fn overlapping(snapshots: &[KeyedSnapshot], subtask: u32, parallelism: u32) -> Vec<KeyedSnapshot> {
    let own = key_group_range(subtask, parallelism, MAX_PARALLELISM);
    let overlaps = |snapshot: &&KeyedSnapshot| snapshot.key_group_start < own.end && own.start < snapshot.key_group_end;
    snapshots.iter().filter(overlaps).cloned().collect()
}

fn rescale(backend: &str) {
    const KEYS: i64 = 3000;
    let machine = Machine::new(backend, 256 << 20);
    let mut snapshots: Vec<KeyedSnapshot> = Vec::new();
    for (step, parallelism) in [2u32, 3, 1, 16].into_iter().enumerate() {
        let mut next = Vec::new();
        for subtask in 0..parallelism {
            let restore = overlapping(&snapshots, subtask, parallelism);
            let state = machine.open(&format!("step-{step}-{subtask}"), subtask, parallelism, &restore);
            let (mut counts, _, mut slices) = tables(&state);
            let own = all_keys_of(subtask, parallelism, KEYS);
            let expected: Model = own.iter().map(|&key| (key, (step as u64).to_le_bytes().to_vec())).collect();
            if step > 0 {
                assert_eq!(
                    content(&mut counts),
                    expected,
                    "subtask {subtask} of {parallelism} has its keys and no others"
                );
                let slices = slice_content(&mut slices, 100);
                assert_eq!(slices.keys().copied().collect::<Vec<_>>(), (0..step as i64).collect::<Vec<_>>());
            }
            let keys = keys(own.iter().copied());
            add(&mut counts, &keys, 1);
            let (mut slots, mut created) = (Vec::new(), Vec::new());
            slices.upsert(step as i64, &keys, None, &mut slots, &mut created).unwrap();
            assert_eq!(created.len(), own.len());
            let frozen = [counts.freeze(), slices.freeze()].into_iter().flatten().collect();
            next.push(machine.persist(&state, frozen, step as u64 + 1, None).0);
        }
        snapshots = next;
    }
}

#[test]
fn state_moves_with_its_key_groups_in_memory() {
    rescale("hashmap");
}

#[test]
fn state_moves_with_its_key_groups_in_rocksdb() {
    rescale("rocksdb");
}

#[test]
fn a_restore_with_missing_or_doubled_key_groups_is_refused() {
    let machine = Machine::new("memory", 256 << 20);
    let snapshots: Vec<_> = (0..2)
        .map(|subtask| machine.persist(&machine.open(&format!("{subtask}"), subtask, 2, &[]), Vec::new(), 1, None).0)
        .collect();
    for wrong in [&snapshots[..1], &[snapshots[0].clone(), snapshots[0].clone(), snapshots[1].clone()]] {
        let error = machine.try_open("whole", 0, 1, wrong).unwrap_err();
        assert_eq!(error.kind(), StateErrorKind::Mismatch, "{error}");
    }
    machine.open("whole", 0, 1, &snapshots);
}

#[test]
fn a_snapshot_of_another_backend_is_refused_by_name() {
    let machine = Machine::new("memory", 256 << 20);
    let (mut snapshot, _) = machine.persist(&machine.open("a", 0, 1, &[]), Vec::new(), 1, None);
    snapshot.backend = "rocksdb".into();
    let error = machine.try_open("b", 0, 1, &[snapshot]).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Mismatch);
    assert!(error.to_string().contains("rocksdb"), "{error}");
}

#[test]
fn a_row_of_another_width_is_refused_with_the_state_s_name() {
    let machine = Machine::new("memory", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("agg", "acc", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys([1]), 1);
    let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    let state = machine.open("b", 0, 1, &[snapshot]);
    let mut table = state.table("agg", "acc", RowLayout::Fixed(16)).unwrap();
    let error = table.upsert(&keys([1]), &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Mismatch);
    assert!(error.to_string().contains("agg/acc"), "{error}");
}

fn damaged(backend: &str) {
    let machine = Machine::new(backend, 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..60_000), 1);
    let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    drop((table, state));
    let objects = files_below(&machine.objects());
    assert!(!objects.is_empty());
    for object in &objects {
        let name = object.strip_prefix(machine.objects()).unwrap().to_str().unwrap();
        let bytes = std::fs::read(object).unwrap();
        let refused = |what: &str| {
            let error = machine.try_open("b", 0, 1, std::slice::from_ref(&snapshot)).unwrap_err();
            assert_eq!(error.kind(), StateErrorKind::Corrupt, "{what}: {error}");
            assert!(error.to_string().contains(name), "{what}: {error}");
        };
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(object, &flipped).unwrap();
            refused("a flipped bit");
        }
        std::fs::write(object, &bytes[..bytes.len() - 1]).unwrap();
        refused("a cut-off object");
        std::fs::remove_file(object).unwrap();
        refused("a missing object");
        std::fs::write(object, &bytes).unwrap();
    }
    machine.open("b", 0, 1, &[snapshot]);
}

#[test]
fn damaged_objects_are_never_restored_and_named_in_memory() {
    damaged("filesystem");
}

#[test]
fn damaged_objects_are_never_restored_and_named_in_rocksdb() {
    damaged("rocksdb");
}

#[test]
fn a_snapshot_inside_the_record_that_is_damaged_is_refused() {
    let machine = Machine::new("jobmanager", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..10), 1);
    let (mut snapshot, stats) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    assert_eq!(stats.uploaded_bytes, 0, "nothing goes to storage");
    assert!(!machine.objects().join("state").exists());
    snapshot.files[0].crc32c ^= 1;
    let error = machine.try_open("b", 0, 1, &[snapshot]).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Corrupt);
    assert!(error.to_string().contains("000000.kv"), "{error}");
}

#[test]
fn a_snapshot_too_large_for_the_record_fails_with_the_remedy_and_the_state_goes_on() {
    let machine = Machine::new("jobmanager", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "texts", RowLayout::Variable).unwrap();
    let (mut slots, mut created) = (Vec::new(), Vec::new());
    table.upsert(&keys(0..6), &mut slots, &mut created).unwrap();
    for &slot in &slots {
        table.set(slot, &vec![7; 1 << 20]);
    }
    let persist =
        weir_state::Persist { id: weir_protocol::CheckpointId(1), base: None, uploader: machine.uploader.clone() };
    let error = state.persist(table.freeze().into_iter().collect(), &persist).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::TooLarge);
    assert!(error.to_string().contains("rocksdb"), "{error}");
    table.upsert(&keys(0..6), &mut slots, &mut created).unwrap();
    assert!(created.is_empty());
    slots.iter().skip(1).for_each(|&slot| table.set(slot, &[1]));
    machine.persist(&state, table.freeze().into_iter().collect(), 2, None);
}

#[test]
fn an_incremental_checkpoint_uploads_what_changed() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..400_000), 1);
    let (first, stats) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    assert!(stats.uploaded_bytes > 2 << 20, "{stats:?}");
    assert_eq!(stats.uploaded_bytes, stats.state_bytes);
    add(&mut table, &keys(0..100), 1);
    let (second, stats) = machine.persist(&state, table.freeze().into_iter().collect(), 2, Some(&first));
    assert!(stats.uploaded_bytes < 64 << 10, "{stats:?}");
    assert!(stats.state_bytes > 2 << 20);
    let (_, stats) = machine.persist(&state, table.freeze().into_iter().collect(), 3, Some(&second));
    assert!(stats.uploaded_bytes < 64 << 10, "{stats:?}");
    assert_eq!(stats.changed_bytes, 0);
    // Files are reused after a restore too, as the record restored says; and with no base everything is uploaded.
    drop((table, state));
    let state = machine.open("b", 0, 1, std::slice::from_ref(&second));
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..100), 1);
    let (third, stats) = machine.persist(&state, table.freeze().into_iter().collect(), 4, Some(&second));
    assert!(stats.uploaded_bytes < 64 << 10, "{stats:?}");
    // What was restored is not ours where no base says so; what this opening has uploaded is.
    let (_, stats) = machine.persist(&state, table.freeze().into_iter().collect(), 5, Some(&third));
    assert!(stats.uploaded_bytes < 64 << 10, "{stats:?}");
    let other = machine.open("e", 0, 1, std::slice::from_ref(&second));
    let (_, stats) = machine.persist(&other, Vec::new(), 6, None);
    assert_eq!(stats.uploaded_bytes, stats.state_bytes);
    let mut restored = machine.open("c", 0, 1, &[third]);
    let mut table = restored.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    assert_eq!(content(&mut table).len(), 400_000);
    restored = machine.open("d", 0, 1, &[second]);
    assert!(restored.bytes() > 1 << 20);
}

#[test]
fn small_files_share_one_object() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..100), 1);
    let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    assert!(snapshot.files.len() >= 3, "{snapshot:?}");
    assert_eq!(files_below(&machine.objects()).len(), 1);
}

#[test]
fn local_files_are_used_only_while_they_are_the_record_s() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..100), 1);
    let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    drop((table, state));
    // Storage is gone: the local files do.
    let away = machine.dir.path().join("away");
    std::fs::rename(machine.objects(), &away).unwrap();
    let state = machine.open("a", 0, 1, std::slice::from_ref(&snapshot));
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    assert_eq!(content(&mut table).len(), 100);
    // A list that is not the record's does not.
    let mut other = snapshot.clone();
    other.files[0].crc32c ^= 1;
    let error = machine.try_open("a", 0, 1, &[other]).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Corrupt, "{error}");
    // Nor does anything once it is dropped.
    state.drop_local_snapshots_before(weir_protocol::CheckpointId(2));
    machine.try_open("a", 0, 1, std::slice::from_ref(&snapshot)).unwrap_err();
    std::fs::rename(&away, machine.objects()).unwrap();
    machine.open("a", 0, 1, &[snapshot]);
}

#[test]
fn the_folder_holds_only_what_is_live_or_kept() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let mut base = None;
    for opening in 0..3 {
        let state = machine.open("a", 0, 1, &base.iter().cloned().collect::<Vec<_>>());
        let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
        for id in 1..4 {
            add(&mut table, &keys(0..100), 1);
            let id = opening * 10 + id;
            base = Some(machine.persist(&state, table.freeze().into_iter().collect(), id, base.as_ref()).0);
            state.drop_local_snapshots_before(weir_protocol::CheckpointId(id));
            assert!(state.local_snapshot(weir_protocol::CheckpointId(id)).is_some());
            assert!(state.local_snapshot(weir_protocol::CheckpointId(id - 1)).is_none());
        }
    }
    let entries = |dir: &str| std::fs::read_dir(machine.dir.path().join(dir)).unwrap().count();
    assert_eq!(entries("a"), 1, "no live folder is left");
    assert_eq!(entries("a/snapshots"), 1);
}

/// Flips one bit in the middle of each sorted file below a folder, once where it has several names.
fn rot(folder: &std::path::Path) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    let sorted = files_below(folder).into_iter().filter(|path| path.extension().is_some_and(|it| it == "sst"));
    sorted
        .filter(|path| seen.insert(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|path| {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        })
        .count()
}

/// A state with rows in RocksDB and a checkpoint of them.
fn stored(machine: &Machine) -> (SubtaskState, KeyedSnapshot) {
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..60_000), 1);
    let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    (state, snapshot)
}

/// Reads all rows; the error, if one is met.
fn read(state: &SubtaskState) -> Result<usize, weir_state::StateError> {
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8))?;
    let mut found = Vec::new();
    table.get(&keys(0..60_000), &mut found)?;
    Ok(found.iter().flatten().count())
}

#[test]
fn local_files_that_have_rotted_are_downloaded_instead_and_never_tried_again() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let (state, snapshot) = stored(&machine);
    drop(state);
    assert!(rot(&machine.dir.path().join("a/snapshots")) > 0);
    let state = machine.open("a", 0, 1, std::slice::from_ref(&snapshot));
    assert_eq!(read(&state).unwrap(), 60_000);
    drop(state);
    assert!(!machine.dir.path().join("a/snapshots/1-1/weir-files.json").exists(), "it is retired");
}

#[test]
fn files_that_rot_while_they_are_open_fail_the_attempt_and_the_next_downloads() {
    // Opened from local files, then from a download: what was verified then has changed since.
    for (dir, place) in [("a", "a/snapshots"), ("b", "b")] {
        // Blocks that were read before would be read from a shared cache.
        let machine = Machine::new("rocksdb", 256 << 20);
        let (state, snapshot) = stored(&machine);
        drop(state);
        let state = machine.open(dir, 0, 1, std::slice::from_ref(&snapshot));
        assert!(rot(&machine.dir.path().join(place)) > 0);
        let error = read(&state).unwrap_err();
        assert_eq!(error.kind(), StateErrorKind::Io, "{dir}: {error}");
        assert!(error.to_string().contains("a restart downloads"), "{error}");
        let later = state.persist(
            Vec::new(),
            &weir_state::Persist { id: weir_protocol::CheckpointId(2), base: None, uploader: machine.uploader.clone() },
        );
        assert_eq!(later.unwrap_err().kind(), StateErrorKind::Io);
        drop(state);
        let state = machine.open(dir, 0, 1, std::slice::from_ref(&snapshot));
        assert_eq!(read(&state).unwrap(), 60_000, "{dir}");
    }
}

#[test]
fn a_snapshot_of_damaged_files_is_not_kept() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let (state, snapshot) = stored(&machine);
    drop(state);
    let state = machine.open("b", 0, 1, std::slice::from_ref(&snapshot));
    let (second, _) = machine.persist(&state, Vec::new(), 2, Some(&snapshot));
    rot(&machine.dir.path().join("b"));
    read(&state).unwrap_err();
    assert_eq!(state.local_snapshot(weir_protocol::CheckpointId(2)), None);
    drop(state);
    assert_eq!(read(&machine.open("b", 0, 1, &[second])).unwrap(), 60_000);
}

#[test]
fn what_the_checkpoint_itself_holds_wrong_is_said_to_be_so() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let (state, mut snapshot) = stored(&machine);
    drop(state);
    // Damaged before it was read for its checksum: record and object agree.
    for file in snapshot
        .files
        .iter_mut()
        .filter(|file| std::path::Path::new(&file.name).extension().is_some_and(|extension| extension == "sst"))
    {
        let path = machine.objects().join(&file.path);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[(file.offset + file.length / 2) as usize] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        file.crc32c = crc32c::crc32c(&bytes[file.offset as usize..(file.offset + file.length) as usize]);
    }
    let restored = machine.try_open("b", 0, 1, &[snapshot]).and_then(|state| read(&state));
    assert_eq!(restored.unwrap_err().kind(), StateErrorKind::Corrupt);
}

#[test]
fn a_local_file_that_has_rotted_is_noticed_where_key_groups_move() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let (state, snapshot) = stored(&machine);
    drop(state);
    rot(&machine.dir.path().join("a/snapshots"));
    let halves: usize =
        (0..2).map(|half| read(&machine.open("a", half, 2, std::slice::from_ref(&snapshot))).unwrap()).sum();
    assert_eq!(halves, 60_000);
}

#[test]
fn checkpoints_that_fail_for_long_leave_little_in_storage_and_on_disk() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    add(&mut table, &keys(0..200_000), 1);
    let (recorded, first) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    let mut uploaded = 0;
    let mut newest = None;
    for id in 2..200 {
        add(&mut table, &keys((id as i64 * 1_000)..(id as i64 * 1_000 + 500)), 1);
        state.drop_local_snapshots_given_up(weir_protocol::CheckpointId(id), Some(weir_protocol::CheckpointId(1)));
        let (snapshot, stats) = machine.persist(&state, table.freeze().into_iter().collect(), id, Some(&recorded));
        uploaded += stats.uploaded_bytes;
        newest = Some(snapshot);
    }
    // Each change is uploaded once, and again when it is merged: not with each of 198 checkpoints.
    assert!(uploaded < 12 * first.state_bytes, "{uploaded} bytes for a state of {}", first.state_bytes);
    let (newest, mut left) = (newest.unwrap(), usize::MAX);
    let named: std::collections::BTreeSet<_> =
        recorded.files.iter().chain(&newest.files).map(|file| machine.objects().join(&file.path)).collect();
    for _ in 0..2_000 {
        left = files_below(&machine.objects()).iter().filter(|path| !named.contains(*path)).count();
        if left == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(left, 0, "objects that nothing names stay");
    let snapshots = std::fs::read_dir(machine.dir.path().join("a/snapshots")).unwrap().count();
    assert_eq!(snapshots, 2, "that of the record, and the newest");
    for snapshot in [recorded, newest] {
        machine.open("b", 0, 1, &[snapshot]);
    }
}
