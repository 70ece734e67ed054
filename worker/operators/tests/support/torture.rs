//! The torture harness: the same input in any split into batches, with a checkpoint, a restore, another number of subtasks and
//! work that is lost after any step, must come to the same table. Whoever adds an operator puts it under it, against an answer
//! that was found in another way.
//!
//! What it knows of an operator is its factory, how the exchange before it deals rows, and whether it takes a row back before it
//! replaces it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weir_engine::{Batch, MIN_WATERMARK, OperatorFactory, RowKind};

use super::{KEY_GROUPS, Snapshot, Subtask, World, lines, route_batch};

/// How the exchange before an operator deals its rows.
#[derive(Debug, Clone)]
pub enum Deal {
    /// By these columns; none of them: all to the first.
    Hash(Vec<usize>),
    /// To whatever subtask; only rows that are never taken back, since those must come behind the row that they take back.
    Any,
}

/// An operator behind an exchange. The first one of several may have several inputs.
pub struct Stage<'a> {
    pub factory: &'a dyn OperatorFactory,
    /// One an input.
    pub inputs: Vec<Deal>,
}

impl<'a> Stage<'a> {
    /// With one input.
    pub fn new(factory: &'a dyn OperatorFactory, deal: Deal) -> Self {
        Self { factory, inputs: vec![deal] }
    }
}

/// What happens to the first operator.
#[derive(Debug, Clone)]
pub enum Event {
    Rows(usize, Batch),
    /// Event time of all inputs.
    Watermark(i64),
    /// Processing time.
    Clock(i64),
}

/// Rows as text, in the order in which they were put out.
pub type Lines = Vec<(RowKind, Vec<String>)>;

/// Rows, and how often each is there.
pub type Bag = BTreeMap<Vec<String>, i64>;

/// How rows are split into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    Whole,
    Rows,
    Random,
}

/// What comes between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// A checkpoint, and a restore of it with another number of subtasks.
    Restore,
    /// Any of: nothing, a checkpoint, one with a restore, one with a restore after more has been done, which is lost.
    Random,
}

/// One way through the events.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    backend: &'static str,
    pieces: Pieces,
    between: Between,
    seed: u64,
}

/// The ways that every operator has to withstand.
pub fn schedules(seed: u64) -> Vec<Schedule> {
    let schedule = |backend, pieces, between| Schedule { backend, pieces, between, seed };
    vec![
        schedule("memory", Pieces::Whole, Between::Nothing),
        schedule("memory", Pieces::Rows, Between::Nothing),
        schedule("memory", Pieces::Random, Between::Restore),
        schedule("memory", Pieces::Random, Between::Random),
        schedule("hashmap", Pieces::Whole, Between::Random),
    ]
}

/// The same on disk, which takes longer.
pub fn on_disk(seed: u64) -> Vec<Schedule> {
    let schedule = |pieces, between| Schedule { backend: "rocksdb", pieces, between, seed };
    vec![schedule(Pieces::Whole, Between::Restore), schedule(Pieces::Random, Between::Random)]
}

/// Operators that are run, and what they are given.
pub struct Torture<'a> {
    pub stages: Vec<Stage<'a>>,
    pub events: Vec<Event>,
}

/// One attempt.
struct Run<'a> {
    of: &'a Torture<'a>,
    schedule: Schedule,
    world: World,
    random: StdRng,
    parallelism: u32,
    /// By stage.
    subtasks: Vec<Vec<Subtask>>,
    watermark: i64,
    out: Lines,
}

impl Torture<'_> {
    /// One way through, with all that was put out.
    pub fn run(&self, schedule: Schedule) -> Lines {
        let mut run = Run {
            of: self,
            schedule,
            world: World::with_backend(schedule.backend),
            random: StdRng::seed_from_u64(schedule.seed),
            parallelism: 1,
            subtasks: Vec::new(),
            watermark: MIN_WATERMARK,
            out: Vec::new(),
        };
        let none = vec![Vec::new(); self.stages.len()];
        run.start(1, &none);
        let mut steps = run.steps();
        steps.reverse();
        while let Some(step) = steps.pop() {
            run.step(&step);
            run.between(steps.last());
        }
        run.end();
        run.out
    }

    /// All ways come to this table. A row that is taken back must be there.
    pub fn comes_to(&self, expected: &Bag, schedules: &[Schedule]) {
        for &schedule in schedules {
            let out = self.run(schedule);
            assert_eq!(&net(&out, schedule), expected, "{schedule:?} gave {out:?}");
        }
    }

    /// The same for an operator that replaces rows without taking them back: these columns are their key.
    pub fn comes_to_by_key(&self, expected: &Bag, key: &[usize], schedules: &[Schedule]) {
        for &schedule in schedules {
            let out = self.run(schedule);
            let mut table = BTreeMap::new();
            for (kind, cells) in &out {
                let key: Vec<&String> = key.iter().map(|&k| &cells[k]).collect();
                if kind.is_addition() {
                    table.insert(key, cells.clone());
                } else {
                    table.remove(&key);
                }
            }
            let bag: Bag = table.into_values().map(|cells| (cells, 1)).collect();
            assert_eq!(&bag, expected, "{schedule:?} gave {out:?}");
        }
    }
}

/// What a changelog comes to.
pub fn net(out: &Lines, schedule: Schedule) -> Bag {
    let mut bag = Bag::new();
    for (kind, cells) in out {
        let count = bag.entry(cells.clone()).or_default();
        *count += if kind.is_addition() { 1 } else { -1 };
        assert!(*count >= 0, "{} of {cells:?}, which is not there; {schedule:?} gave {out:?}", kind.short());
        if *count == 0 {
            bag.remove(cells);
        }
    }
    bag
}

/// How often each of these rows is there.
pub fn bag(rows: impl IntoIterator<Item = Vec<String>>) -> Bag {
    let mut bag = Bag::new();
    for row in rows {
        *bag.entry(row).or_default() += 1;
    }
    bag
}

impl Run<'_> {
    fn steps(&mut self) -> Vec<Event> {
        let mut steps = Vec::new();
        for event in &self.of.events {
            let Event::Rows(input, batch) = event else {
                steps.push(event.clone());
                continue;
            };
            let mut start = 0;
            while start < batch.len() {
                let left = batch.len() - start;
                let length = match self.schedule.pieces {
                    Pieces::Whole => left,
                    Pieces::Rows => 1,
                    Pieces::Random => self.random.random_range(1..=left),
                };
                steps.push(Event::Rows(*input, batch.slice(start, length)));
                start += length;
            }
        }
        steps
    }

    fn start(&mut self, parallelism: u32, restore: &[Vec<Snapshot>]) {
        self.parallelism = parallelism;
        self.subtasks.clear();
        for (stage, restore) in self.of.stages.iter().zip(restore) {
            self.subtasks.push(self.world.start(stage.factory, parallelism, restore));
        }
        self.deliver();
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Rows(input, batch) => self.give(0, *input, batch),
            Event::Watermark(watermark) => self.advance(*watermark),
            Event::Clock(now) => {
                self.world.clock.set(*now);
                for stage in 0..self.subtasks.len() {
                    for subtask in &mut self.subtasks[stage] {
                        subtask.timers(*now);
                    }
                    self.deliver();
                }
            }
        }
    }

    /// Event time goes on, stage by stage; a firing may be interrupted between any two calls.
    fn advance(&mut self, watermark: i64) {
        self.watermark = watermark;
        for stage in 0..self.subtasks.len() {
            let mut busy = true;
            while busy {
                busy = false;
                for subtask in &mut self.subtasks[stage] {
                    busy |= subtask.watermark_once(watermark);
                }
                self.deliver();
                if busy && self.schedule.between != Between::Nothing {
                    self.restore_now();
                }
            }
        }
    }

    fn give(&mut self, stage: usize, input: usize, batch: &Batch) {
        let parts = match &self.of.stages[stage].inputs[input] {
            Deal::Hash(keys) if keys.is_empty() => vec![batch.clone()],
            Deal::Hash(keys) => route_batch(batch, keys, self.parallelism),
            Deal::Any => {
                let to = self.random.random_range(0..self.parallelism);
                (0..=to).map(|i| if i == to { batch.clone() } else { batch.slice(0, 0) }).collect()
            }
        };
        for (subtask, part) in self.subtasks[stage].iter_mut().zip(parts) {
            if !part.is_empty() {
                subtask.try_input(input, part).unwrap();
            }
        }
        self.deliver();
    }

    /// Hands on what was put out, until nothing is on its way.
    fn deliver(&mut self) {
        for stage in 0..self.subtasks.len() {
            let batches: Vec<Batch> = self.subtasks[stage].iter_mut().flat_map(Subtask::take).collect();
            for batch in batches {
                if stage + 1 < self.of.stages.len() {
                    self.give(stage + 1, 0, &batch);
                } else {
                    self.out.extend(lines(&batch));
                }
            }
        }
    }

    fn checkpoint(&mut self) -> Vec<Vec<Snapshot>> {
        let mut all = Vec::new();
        for stage in 0..self.subtasks.len() {
            all.push(self.world.checkpoint(&mut self.subtasks[stage]));
            // What was put out before the barrier comes before it in the next stage, too.
            self.deliver();
        }
        all
    }

    fn restore_now(&mut self) {
        let snapshots = self.checkpoint();
        let parallelism = self.random.random_range(1..=3);
        self.start(parallelism, &snapshots);
    }

    fn between(&mut self, next: Option<&Event>) {
        let what = match self.schedule.between {
            Between::Nothing => 0,
            Between::Restore => 2,
            Between::Random => self.random.random_range(0..4),
        };
        match what {
            0 => {}
            1 => drop(self.checkpoint()),
            2 => self.restore_now(),
            _ => {
                let snapshots = self.checkpoint();
                let (out, watermark) = (self.out.clone(), self.watermark);
                // Time does not go on in what is lost: the clock of the machine would not go back.
                if let Some(next) = next.filter(|next| !matches!(next, Event::Clock(_))) {
                    self.step(next);
                }
                (self.out, self.watermark) = (out, watermark);
                let parallelism = self.random.random_range(1..=3);
                self.start(parallelism, &snapshots);
            }
        }
    }

    fn end(&mut self) {
        for stage in 0..self.subtasks.len() {
            for subtask in &mut self.subtasks[stage] {
                subtask.end();
            }
            self.deliver();
        }
    }
}

/// A seed for a schedule, and whether it is one of the few that go to disk.
pub fn seeds() -> impl Strategy<Value = (u64, bool)> {
    (any::<u64>(), prop::bool::weighted(0.1))
}

/// The ways of a seed.
pub fn ways((seed, disk): (u64, bool)) -> Vec<Schedule> {
    let mut ways = schedules(seed);
    if disk {
        ways.extend(on_disk(seed));
    }
    ways
}

const _: () = assert!(KEY_GROUPS >= 3);
