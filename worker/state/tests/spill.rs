//! Tables that do not fit into memory: rows go to the backend and come back, beside checkpoints that run on another thread.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use common::{Machine, keys};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use weir_protocol::CheckpointId;
use weir_state::{Persist, RowLayout, Shares, SliceTable, StateMemory, Table};

const CACHES: usize = 1 << 20;

fn small(backend: &str) -> Machine {
    let mut machine = Machine::new(backend, 256 << 20);
    let shares = Shares { caches: CACHES, ..Shares::of(256 << 20) };
    machine.memory = StateMemory::with_shares(shares);
    machine
}

fn read(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn key_of(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes[1..9].try_into().unwrap()) ^ i64::MIN
}

fn count(table: &mut Table, model: &mut BTreeMap<i64, u64>, values: &[i64]) {
    let (mut slots, mut created) = (Vec::new(), Vec::new());
    let before = model.len();
    table.upsert(&keys(values.iter().copied()), &mut slots, &mut created).unwrap();
    for (&slot, &key) in slots.iter().zip(values) {
        let row = table.row_mut(slot);
        let count = read(row) + 1;
        row.copy_from_slice(&count.to_le_bytes());
        *model.entry(key).or_default() += 1;
        assert_eq!(count, model[&key], "key {key}");
    }
    assert_eq!(created.len(), model.len() - before, "each new row is reported once");
}

fn all(table: &mut Table) -> BTreeMap<i64, u64> {
    let mut rows = BTreeMap::new();
    table.scan_all(&mut |_, key, row| assert!(rows.insert(key_of(key), read(row)).is_none())).unwrap();
    rows
}

/// What is still being written beside is given back when it is written.
fn all_is_given_back(machine: &Machine) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while machine.memory.row_bytes() > 0 {
        assert!(Instant::now() < deadline, "{} bytes were not given back", machine.memory.row_bytes());
        std::thread::yield_now();
    }
}

fn tables_beyond_memory(backend: &str, seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let machine = small(backend);
    let mut state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    let mut texts = state.table("operator", "texts", RowLayout::Variable).unwrap();
    let (mut model, mut text_model) = (BTreeMap::new(), BTreeMap::<i64, Vec<u8>>::new());
    let mut base = None;
    let mut peak = 0;
    for id in 1..=12u64 {
        for _ in 0..6 {
            let values: Vec<i64> = (0..4000).map(|_| random.random_range(0..60_000)).collect();
            count(&mut table, &mut model, &values);
            let distinct: BTreeSet<i64> = values.iter().copied().take(500).collect();
            let encoded = keys(distinct.iter().copied());
            let (mut slots, mut created, mut found) = (Vec::new(), Vec::new(), Vec::new());
            texts.get(&encoded, &mut found).unwrap();
            for (key, slot) in distinct.iter().zip(&found) {
                assert_eq!(slot.map(|slot| texts.row(slot)), text_model.get(key).map(Vec::as_slice));
            }
            texts.upsert(&encoded, &mut slots, &mut created).unwrap();
            for (&key, &slot) in distinct.iter().zip(&slots) {
                if random.random_ratio(1, 4) {
                    texts.remove(slot);
                    text_model.remove(&key);
                } else {
                    let text = vec![key as u8; random.random_range(0..120)];
                    texts.set(slot, &text);
                    text_model.insert(key, text);
                }
            }
            peak = peak.max(machine.memory.row_bytes());
        }
        let frozen = [table.freeze(), texts.freeze()].into_iter().flatten().collect::<Vec<_>>();
        let (at_barrier, texts_at_barrier) = (model.clone(), text_model.clone());
        if random.random_ratio(1, 5) {
            continue;
        }
        let persist = Persist { id: CheckpointId(id), base: base.clone(), uploader: machine.uploader.clone() };
        let beside = state.clone();
        let persisting = std::thread::spawn(move || beside.persist(frozen, &persist).unwrap());
        // Processing goes on meanwhile, and has to wait for the snapshot where memory is full.
        for _ in 0..6 {
            let values: Vec<i64> = (0..4000).map(|_| random.random_range(0..60_000)).collect();
            count(&mut table, &mut model, &values);
            peak = peak.max(machine.memory.row_bytes());
        }
        let (snapshot, _) = persisting.join().unwrap();
        base = Some(snapshot);
        if random.random_ratio(1, 3) {
            drop((table, texts));
            state = machine.open("a", 0, 1, base.as_slice());
            table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
            texts = state.table("operator", "texts", RowLayout::Variable).unwrap();
            (model, text_model) = (at_barrier, texts_at_barrier);
        }
    }
    assert_eq!(all(&mut table), model);
    let mut rows = BTreeMap::new();
    texts.scan_all(&mut |_, key, row| assert!(rows.insert(key_of(key), row.to_vec()).is_none())).unwrap();
    assert_eq!(rows, text_model);
    assert!(peak > CACHES, "the test is to fill memory");
    assert!(peak < CACHES * 2, "rows took {peak} bytes where {CACHES} are the limit");
    drop((table, texts, state));
    all_is_given_back(&machine);
}

#[test]
fn tables_larger_than_memory_are_exact_in_memory() {
    tables_beyond_memory("memory", 1);
    tables_beyond_memory("memory", 2);
}

#[test]
fn tables_larger_than_memory_are_exact_in_rocksdb() {
    tables_beyond_memory("rocksdb", 3);
    tables_beyond_memory("rocksdb", 4);
}

fn read_slice(slices: &mut SliceTable, end: i64, mut between: impl FnMut(&mut SliceTable)) -> BTreeMap<i64, u64> {
    let mut rows = BTreeMap::new();
    let mut cursor = None;
    loop {
        cursor = slices
            .read(end, cursor, 1000, &mut |key, row| {
                assert!(rows.insert(key_of(key), read(row)).is_none(), "visited twice");
            })
            .unwrap();
        if cursor.is_none() {
            return rows;
        }
        between(slices);
    }
}

fn slices_beyond_memory(backend: &str) {
    let mut random = StdRng::seed_from_u64(5);
    let machine = small(backend);
    let state = machine.open("a", 0, 1, &[]);
    let mut slices = state.slices("window", "counts", RowLayout::Fixed(8)).unwrap();
    let mut model = BTreeMap::<i64, BTreeMap<i64, u64>>::new();
    let mut add = |slices: &mut SliceTable, model: &mut BTreeMap<i64, BTreeMap<i64, u64>>, end: i64| {
        let values: Vec<i64> = (0..3000).map(|_| random.random_range(0..20_000)).collect();
        let (mut slots, mut created) = (Vec::new(), Vec::new());
        slices.upsert(end, &keys(values.iter().copied()), None, &mut slots, &mut created).unwrap();
        for (&slot, &key) in slots.iter().zip(&values) {
            let row = slices.row_mut(end, slot);
            let count = read(row) + 1;
            row.copy_from_slice(&count.to_le_bytes());
            *model.entry(end).or_default().entry(key).or_default() += 1;
            assert_eq!(count, model[&end][&key]);
        }
    };
    let mut base = None;
    for now in 0..40i64 {
        for end in now..now + 4 {
            add(&mut slices, &mut model, end * 1000);
        }
        if now % 3 == 0 {
            let frozen = slices.freeze().into_iter().collect();
            base = Some(machine.persist(&state, frozen, now as u64 + 1, base.as_ref()).0);
        }
        // The oldest slice fires while a later one is filled and a checkpoint passes, and is deleted.
        let end = now * 1000;
        let mut pieces = 0;
        let expected = model[&end].clone();
        let rows = read_slice(&mut slices, end, |slices| {
            add(slices, &mut model, end + 9000);
            pieces += 1;
            if pieces == 3 {
                drop(slices.freeze());
            }
        });
        assert_eq!(rows, expected);
        slices.delete_slice(end).unwrap();
        model.remove(&end);
        if now % 7 == 0 {
            // A late row makes a deleted slice anew, without what it had.
            add(&mut slices, &mut model, end);
        }
        assert_eq!(slices.slices().collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
    }
    let frozen = slices.freeze().into_iter().collect();
    let (snapshot, _) = machine.persist(&state, frozen, 100, base.as_ref());
    drop((slices, state));
    let state = machine.open("b", 0, 1, &[snapshot]);
    let mut slices = state.slices("window", "counts", RowLayout::Fixed(8)).unwrap();
    assert_eq!(slices.slices().collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
    for (end, expected) in model {
        assert_eq!(read_slice(&mut slices, end, |_| {}), expected, "slice {end} after the restore");
    }
    drop((slices, state));
    all_is_given_back(&machine);
}

#[test]
fn slices_larger_than_memory_are_exact_in_memory() {
    slices_beyond_memory("memory");
}

#[test]
fn slices_larger_than_memory_are_exact_in_rocksdb() {
    slices_beyond_memory("rocksdb");
}

#[test]
fn nothing_written_after_a_freeze_reaches_the_snapshot_though_memory_is_full() {
    let machine = small("rocksdb");
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    let mut model = BTreeMap::new();
    let count_all = |table: &mut Table, model: &mut BTreeMap<i64, u64>| {
        for start in 0..22 {
            count(table, model, &(start * 1000..start * 1000 + 1000).collect::<Vec<_>>());
        }
    };
    count_all(&mut table, &mut model);
    let frozen: Vec<_> = table.freeze().into_iter().collect();
    let at_barrier = model.clone();
    // So many rows are live now that some would be written to make room, but not so many more than fit that writing has to
    // wait for a snapshot that nobody takes yet. Several rounds, so that whoever wrote beside would be done.
    for _ in 0..10 {
        count_all(&mut table, &mut model);
    }
    assert!(machine.memory.row_bytes() > CACHES - CACHES / 8, "{} bytes", machine.memory.row_bytes());
    let (snapshot, _) = machine.persist(&state, frozen, 1, None);
    let restored = machine.open("b", 0, 1, &[snapshot]);
    let mut restored = restored.table("operator", "counts", RowLayout::Fixed(8)).unwrap();
    assert_eq!(all(&mut restored), at_barrier);
    assert_eq!(all(&mut table), model);
}
