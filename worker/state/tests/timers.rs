//! Timers against a model, with checkpoints, restores and other numbers of subtasks in between.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{MAX_PARALLELISM, Machine, keys};
use proptest::prelude::*;
use weir_protocol::part::KeyedSnapshot;
use weir_state::{Keys, SubtaskState, Timers, key_group, key_group_range, subtask_of};

const BUCKET: i64 = 100;

#[derive(Clone, Debug)]
enum Step {
    /// Keys are wanted at a time after now; a later wish replaces an earlier one.
    Wish(Vec<(i64, i64)>),
    Advance(i64),
    Checkpoint,
    Restore(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec((0..40i64, 1..600i64), 1..20).prop_map(Step::Wish),
        5 => prop_oneof![1..40i64, 1..400i64].prop_map(Step::Advance),
        2 => Just(Step::Checkpoint),
        1 => (1..4u32).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..40)
}

/// What an operator knows: when each key is to be looked at, and what time it is.
#[derive(Clone, Debug, Default)]
struct Known {
    wanted: BTreeMap<i64, i64>,
    now: i64,
}

struct Job {
    machine: Machine,
    parallelism: u32,
    subtasks: Vec<(SubtaskState, Timers)>,
    known: Known,
    saved: (Vec<KeyedSnapshot>, Known),
    folders: u64,
    id: u64,
}

impl Job {
    fn new(backend: &str) -> Self {
        let machine = Machine::new(backend, 256 << 20);
        let (known, saved) = (Known::default(), (Vec::new(), Known::default()));
        let mut job = Self { machine, parallelism: 1, subtasks: Vec::new(), known, saved, folders: 0, id: 0 };
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
            let mut timers = state.timers("operator", "timers", BUCKET).unwrap();
            timers.hold_at_most(5);
            self.subtasks.push((state, timers));
        }
        self.known = self.saved.1.clone();
        self.advance(0);
    }

    fn register(&mut self, wishes: &[(i64, i64)]) {
        let parallelism = self.parallelism;
        for (subtask, (_, timers)) in self.subtasks.iter_mut().enumerate() {
            let keys = keys(wishes.iter().map(|(key, _)| *key));
            let own = |row: &u32| {
                let group = key_group(keys.hash(*row as usize), MAX_PARALLELISM);
                subtask_of(group, MAX_PARALLELISM, parallelism) as usize == subtask
            };
            let rows: Vec<u32> = (0..wishes.len() as u32).filter(own).collect();
            let times: Vec<i64> = rows.iter().map(|&row| wishes[row as usize].1).collect();
            timers.register(&keys, &rows, &times).unwrap();
        }
    }

    /// Everything that is due is found, and nothing before; what is not due any more is put off.
    fn advance(&mut self, by: i64) {
        self.known.now += by;
        let now = self.known.now;
        for subtask in 0..self.subtasks.len() {
            loop {
                let mut due = Keys::new();
                due.clear();
                let timers = &mut self.subtasks[subtask].1;
                let next = timers.next();
                let more = timers.due(now, 3, &mut due).unwrap();
                if !due.is_empty() {
                    assert!(next.is_some_and(|next| next <= now), "{next:?}");
                }
                let mut later = Vec::new();
                for i in 0..due.len() {
                    let key = i64::from_be_bytes(due.key(i)[1..].try_into().unwrap()) ^ i64::MIN;
                    match self.known.wanted.get(&key) {
                        Some(&at) if at <= now => drop(self.known.wanted.remove(&key)),
                        Some(&at) => later.push((key, at)),
                        None => {}
                    }
                }
                self.register(&later);
                if !more && later.is_empty() {
                    break;
                }
            }
        }
        let missed: Vec<_> = self.known.wanted.iter().filter(|(_, at)| **at <= now).collect();
        assert!(missed.is_empty(), "at {now} nothing was said of {missed:?}");
        let next = self.subtasks.iter().filter_map(|(_, timers)| timers.next()).min();
        let wanted = self.known.wanted.values().min();
        assert!(wanted.is_none_or(|wanted| next.is_some_and(|next| next <= *wanted)), "{next:?} {wanted:?}");
        assert!(next.is_none_or(|next| next > now), "{next:?} is not after {now}, and all that is due was taken");
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Wish(wishes) => {
                let wishes: Vec<(i64, i64)> =
                    wishes.into_iter().map(|(key, ahead)| (key, self.known.now + ahead)).collect();
                // A key whose time only moves on is registered once.
                let mut new: BTreeMap<i64, i64> = BTreeMap::new();
                for (key, at) in wishes {
                    let old = self.known.wanted.insert(key, at);
                    if old.is_none_or(|old| at < old) {
                        new.insert(key, at);
                    }
                }
                self.register(&new.into_iter().collect::<Vec<_>>());
            }
            Step::Advance(by) => self.advance(by),
            Step::Checkpoint => {
                self.id += 1;
                let mut snapshots = Vec::new();
                for (state, timers) in &mut self.subtasks {
                    let frozen = timers.freeze().into_iter().collect();
                    snapshots.push(self.machine.persist(state, frozen, self.id, None).0);
                }
                self.saved = (snapshots, self.known.clone());
            }
            Step::Restore(parallelism) => self.start(parallelism),
        }
    }
}

fn run_all(backend: &str, steps: Vec<Step>) {
    let mut job = Job::new(backend);
    for step in steps {
        job.run(step);
    }
    job.advance(10_000);
    assert!(job.known.wanted.is_empty());
    assert!(job.subtasks.iter().all(|(_, timers)| timers.next().is_none()), "buckets that are over are gone");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_due_when_they_are_wanted_in_memory(steps in steps()) {
        run_all("memory", steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_due_when_they_are_wanted_in_rocksdb(steps in steps()) {
        run_all("rocksdb", steps);
    }
}

#[test]
fn buckets_are_as_long_as_the_horizon_asks_for() {
    for (horizon, bucket) in [(0, 1_000), (10_000, 1_000), (640_000, 10_000), (86_400_000, 1_350_000)] {
        assert_eq!(Timers::bucket_for(horizon), bucket);
    }
}

#[test]
fn times_at_the_ends_of_the_range_are_due_too() {
    let machine = Machine::new("memory", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut timers = state.timers("operator", "timers", BUCKET).unwrap();
    timers.register(&keys([1, 2, 3]), &[0, 1, 2], &[i64::MIN, -1, i64::MAX]).unwrap();
    let mut due = Keys::new();
    for (time, expected) in [(i64::MIN, 1), (-2, 1), (-1, 2), (i64::MAX, 3)] {
        assert!(!timers.due(time, 10, &mut due).unwrap());
        assert_eq!(due.len(), expected, "at {time}");
    }
}
