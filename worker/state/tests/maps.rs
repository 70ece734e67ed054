//! Maps and logs against models, with checkpoints, restores, other numbers of subtasks and too little memory in between.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
};

use common::{MAX_PARALLELISM, Machine, keys};
use proptest::prelude::*;
use weir_protocol::part::KeyedSnapshot;
use weir_state::{
    Appends, Changes, LogPlace, LogTable, MapRange, MapTable, Shares, StateMemory, SubtaskState, key_group,
    key_group_range, subtask_of,
};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    maps: BTreeMap<i64, (Vec<u8>, Map)>,
    logs: BTreeMap<i64, Vec<Vec<u8>>>,
}

/// A change to the map of a key: many entries at once, so that trees grow and shrink by levels.
#[derive(Clone, Debug)]
enum Edit {
    Put { from: u16, count: u16, step: u16, value: u8, length: u8 },
    Remove { from: u16, count: u16, step: u16 },
    Beside(Vec<u8>),
    Append { count: u8, length: u16 },
    ClearLog,
}

#[derive(Clone, Debug)]
enum Step {
    Edit(Vec<(i64, Edit)>),
    Read { key: i64, from: u16, to: u16, backwards: bool, limit: usize },
    Check,
    Checkpoint,
    Restore(u32),
}

fn edit() -> impl Strategy<Value = Edit> {
    let range = || (0..700u16, prop_oneof![3 => 1..5u16, 2 => 1..400u16], 1..4u16);
    prop_oneof![
        6 => (range(), any::<u8>(), 0..40u8)
            .prop_map(|((from, count, step), value, length)| Edit::Put { from, count, step, value, length }),
        4 => range().prop_map(|(from, count, step)| Edit::Remove { from, count, step }),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Edit::Beside),
        2 => (1..60u8, 0..200u16).prop_map(|(count, length)| Edit::Append { count, length }),
        1 => Just(Edit::ClearLog),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec((0..5i64, edit()), 1..5).prop_map(Step::Edit),
        4 => (0..5i64, 0..900u16, 0..900u16, any::<bool>(), prop_oneof![Just(usize::MAX), 0..200usize])
            .prop_map(|(key, from, to, backwards, limit)| Step::Read { key, from, to, backwards, limit }),
        1 => Just(Step::Check),
        2 => Just(Step::Checkpoint),
        1 => (1..4u32).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..30)
}

/// Long sub-keys, so that few children fit into a node and trees are high.
fn sub(number: u16) -> Vec<u8> {
    [format!("{number:05}").into_bytes(), vec![b'.'; if number.is_multiple_of(3) { 250 } else { 90 }]].concat()
}

struct Subtask {
    state: SubtaskState,
    maps: MapTable,
    logs: LogTable,
}

struct Job {
    machine: Machine,
    parallelism: u32,
    subtasks: Vec<Subtask>,
    model: Model,
    saved: (Vec<KeyedSnapshot>, Model),
    folders: u64,
    id: u64,
}

impl Job {
    fn new(backend: &str, caches: usize) -> Self {
        let mut machine = Machine::new(backend, 256 << 20);
        machine.memory = StateMemory::with_shares(Shares { caches, ..Shares::of(256 << 20) });
        let mut job = Self {
            machine,
            parallelism: 1,
            subtasks: Vec::new(),
            model: Model::default(),
            saved: (Vec::new(), Model::default()),
            folders: 0,
            id: 0,
        };
        job.start(1);
        job
    }

    fn start(&mut self, parallelism: u32) {
        self.parallelism = parallelism;
        self.subtasks.clear();
        for subtask in 0..parallelism {
            let own = key_group_range(subtask, parallelism, MAX_PARALLELISM);
            let meets = |of: &&KeyedSnapshot| of.key_group_start < own.end && own.start < of.key_group_end;
            let restore: Vec<KeyedSnapshot> = self.saved.0.iter().filter(meets).cloned().collect();
            self.folders += 1;
            let state = self.machine.open(&self.folders.to_string(), subtask, parallelism, &restore);
            let maps = state.map("operator", "maps").unwrap();
            let logs = state.log("operator", "logs").unwrap();
            self.subtasks.push(Subtask { state, maps, logs });
        }
        self.model = self.saved.1.clone();
    }

    fn owner(&self, key: i64) -> usize {
        subtask_of(key_group(keys([key]).hash(0), MAX_PARALLELISM), MAX_PARALLELISM, self.parallelism) as usize
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Edit(edits) => self.edit(&edits),
            Step::Read { key, from, to, backwards, limit } => self.read(key, from, to, backwards, limit),
            Step::Check => self.check(),
            Step::Checkpoint => self.checkpoint(),
            Step::Restore(parallelism) => {
                self.start(parallelism);
                self.check();
            }
        }
    }

    fn edit(&mut self, edits: &[(i64, Edit)]) {
        for subtask in 0..self.subtasks.len() {
            let own: BTreeSet<i64> =
                edits.iter().map(|(key, _)| *key).filter(|key| self.owner(*key) == subtask).collect();
            let own: Vec<i64> = own.into_iter().collect();
            let rows: Vec<u32> = (0..own.len() as u32).collect();
            let (mut changes, mut appends) = (Changes::new(), Appends::new());
            let Subtask { maps, logs, .. } = &mut self.subtasks[subtask];
            maps.open(&keys(own.iter().copied()), &rows).unwrap();
            logs.open(&keys(own.iter().copied()), &rows).unwrap();
            for (key, edit) in edits {
                let Some(map) = own.iter().position(|of| of == key) else { continue };
                let (beside, model) = self.model.maps.entry(*key).or_default();
                let numbers = |from: u16, count: u16, step: u16| (0..count).map(move |i| from + i * step);
                match edit {
                    Edit::Put { from, count, step, value, length } => {
                        for number in numbers(*from, *count, *step) {
                            let value = vec![*value; usize::from(*length)];
                            changes.put(map, &sub(number), &value);
                            model.insert(sub(number), value);
                        }
                    }
                    Edit::Remove { from, count, step } => {
                        for number in numbers(*from, *count, *step) {
                            changes.remove(map, &sub(number));
                            model.remove(&sub(number));
                        }
                    }
                    Edit::Beside(bytes) => {
                        changes.set_beside(map, bytes);
                        beside.clone_from(bytes);
                    }
                    Edit::Append { count, length } => {
                        let log = self.model.logs.entry(*key).or_default();
                        for i in 0..*count {
                            let entry = vec![i; usize::from(*length)];
                            appends.push(map, &entry);
                            log.push(entry);
                        }
                    }
                    Edit::ClearLog => {
                        logs.append(&appends).unwrap();
                        appends.clear();
                        logs.remove(&[map as u32]).unwrap();
                        self.model.logs.remove(key);
                    }
                }
            }
            maps.apply(&changes).unwrap();
            logs.append(&appends).unwrap();
            // What was opened stays open.
            for (map, key) in own.iter().enumerate() {
                let (beside, model) = self.model.maps.get(key).cloned().unwrap_or_default();
                assert_eq!(maps.len(map).unwrap(), model.len() as u64, "key {key}");
                assert_eq!(maps.beside(map).unwrap(), beside, "key {key}");
                assert_eq!(logs.len(map).unwrap(), self.model.logs.get(key).map_or(0, Vec::len) as u64, "key {key}");
            }
        }
    }

    fn read(&mut self, key: i64, from: u16, to: u16, backwards: bool, limit: usize) {
        let owner = self.owner(key);
        let maps = &mut self.subtasks[owner].maps;
        maps.open(&keys([key]), &[0]).unwrap();
        let model = self.model.maps.get(&key).map(|(_, map)| map.clone()).unwrap_or_default();
        let (from, to) = (sub(from), sub(to));
        let bounds = [
            (Bound::Unbounded, Bound::Unbounded),
            (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice())),
            (Bound::Excluded(from.as_slice()), Bound::Included(to.as_slice())),
        ];
        let ranges: Vec<MapRange<'_>> =
            bounds.iter().map(|&(from, to)| MapRange { map: 0, from, to, backwards, limit }).collect();
        let mut found = vec![Vec::new(); ranges.len()];
        maps.range(&ranges, &mut |i, sub, value| {
            found[i].push((sub.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        for ((from, to), found) in bounds.into_iter().zip(found) {
            let inside = |sub: &&[u8]| {
                (match from {
                    Bound::Included(from) => *sub >= from,
                    Bound::Excluded(from) => *sub > from,
                    Bound::Unbounded => true,
                }) && (match to {
                    Bound::Included(to) => *sub <= to,
                    Bound::Excluded(to) => *sub < to,
                    Bound::Unbounded => true,
                })
            };
            let all = model.iter().filter(|(sub, _)| inside(&sub.as_slice()));
            let mut all: Vec<_> = all.map(|(sub, value)| (sub.clone(), value.clone())).collect();
            if backwards {
                all.reverse();
            }
            all.truncate(limit);
            assert_eq!(found, all);
        }
        let probes: Vec<Vec<u8>> = (0..800).step_by(37).map(sub).collect();
        let probes: Vec<(u32, &[u8])> = probes.iter().map(|sub| (0, sub.as_slice())).collect();
        let mut answers = 0;
        maps.find(&probes, &mut |i, value| {
            assert_eq!(value, model.get(probes[i].1).map(Vec::as_slice));
            answers += 1;
        })
        .unwrap();
        assert_eq!(answers, probes.len());
    }

    fn checkpoint(&mut self) {
        self.id += 1;
        let mut snapshots = Vec::new();
        for subtask in &mut self.subtasks {
            let frozen = subtask.maps.freeze().chain(subtask.logs.freeze()).collect();
            snapshots.push(self.machine.persist(&subtask.state, frozen, self.id, None).0);
        }
        self.saved = (snapshots, self.model.clone());
    }

    fn check(&mut self) {
        for key in 0..5 {
            let owner = self.owner(key);
            let maps = &mut self.subtasks[owner].maps;
            let (beside, model) = self.model.maps.get(&key).cloned().unwrap_or_default();
            maps.open(&keys([key]), &[0]).unwrap();
            let mut content = Map::new();
            maps.range(&[MapRange::all(0)], &mut |_, sub, value| {
                assert!(content.insert(sub.to_vec(), value.to_vec()).is_none());
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(content, model, "key {key}");
            assert_eq!(maps.beside(0).unwrap(), beside);
            self.check_log(key);
        }
    }

    /// In one go, and a few at a time.
    fn check_log(&mut self, key: i64) {
        let owner = self.owner(key);
        let logs = &mut self.subtasks[owner].logs;
        let model = self.model.logs.get(&key).cloned().unwrap_or_default();
        logs.open(&keys([key]), &[0]).unwrap();
        for piece in [usize::MAX, 7] {
            let (mut content, mut place) = (Vec::new(), LogPlace::default());
            loop {
                let mut left = piece;
                logs.read(&[(0, place)], &mut |_, at, entry| {
                    content.push(entry.to_vec());
                    place = at;
                    left -= 1;
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
                if left > 0 {
                    break;
                }
            }
            assert_eq!(content, model, "key {key}");
        }
    }
}

fn run_all(backend: &str, caches: usize, steps: Vec<Step>) {
    let mut job = Job::new(backend, caches);
    for step in steps {
        job.run(step);
    }
    job.check();
    job.checkpoint();
    job.start(3);
    job.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn maps_and_logs_are_those_of_a_model_in_memory(steps in steps()) {
        run_all("memory", 64 << 20, steps);
    }

    #[test]
    fn maps_and_logs_are_those_of_a_model_where_memory_holds_little_of_them(steps in steps()) {
        run_all("hashmap", 64 << 10, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn maps_and_logs_are_those_of_a_model_in_rocksdb(steps in steps()) {
        run_all("rocksdb", 128 << 10, steps);
    }
}

/// 100,000 entries of one key: several levels, filled and emptied in batches.
#[test]
fn a_large_map_grows_and_shrinks_and_leaves_nothing_behind() {
    let machine = Machine::new("memory", 256 << 20);
    let state = machine.open("subtask", 0, 1, &[]);
    let mut maps = state.map("operator", "maps").unwrap();
    maps.open(&keys([1]), &[0]).unwrap();
    let sub = |n: u32| n.wrapping_mul(0x9e37_79b1).to_be_bytes().repeat(8);
    let (mut changes, all) = (Changes::new(), 100_000u32);
    for batch in 0..100 {
        changes.clear();
        for n in (0..all).skip(batch).step_by(100) {
            changes.put(0, &sub(n), &n.to_be_bytes());
        }
        maps.apply(&changes).unwrap();
    }
    assert_eq!(maps.len(0).unwrap(), u64::from(all));
    let mut sorted: Vec<Vec<u8>> = (0..all).map(sub).collect();
    sorted.sort();
    let mut found = Vec::new();
    maps.range(&[MapRange::last(0, 300)], &mut |_, sub, _| {
        found.push(sub.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(sorted.iter().rev().take(300).eq(found.iter()));
    for batch in 0..100 {
        changes.clear();
        for n in (0..all).skip(batch * 1000).take(1000) {
            changes.remove(0, &sub(n));
        }
        maps.apply(&changes).unwrap();
    }
    assert!(maps.is_empty(0).unwrap());
    let frozen = maps.freeze().collect();
    let (snapshot, _) = machine.persist(&state, frozen, 1, None);
    let state = machine.open("again", 0, 1, &[snapshot]);
    let mut rows = 0;
    for name in ["maps", "maps.nodes"] {
        let mut table = state.table("operator", name, weir_state::RowLayout::Variable).unwrap();
        table.scan_all(&mut |_, _, _| rows += 1).unwrap();
    }
    assert_eq!(rows, 0, "rows are left of an empty map");
}
