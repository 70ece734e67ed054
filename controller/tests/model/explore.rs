//! The search: breadth first over all states, each visited once, a counterexample with its whole way.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use super::check::{self, Violation};
use super::steps::{Halt, Step, World};
use super::world::{FREELY, InSlot, State};

/// What a search has found.
#[derive(Debug)]
pub struct Found {
    pub states: u64,
    pub steps: u64,
    /// The length of the longest way, in steps.
    pub depth: u32,
    pub counterexample: Option<Counterexample>,
    /// What was done after the way of a counterexample to put things right, if it was found there.
    pub healing: Vec<Step>,
    /// All states within the bounds were seen.
    pub complete: bool,
}

#[derive(Debug)]
pub struct Counterexample {
    pub violation: Violation,
    pub way: Vec<Step>,
}

impl Counterexample {
    pub fn print(&self) {
        println!("{} is broken: {}", self.violation.invariant, self.violation.what);
        for (at, step) in self.way.iter().enumerate() {
            println!("{:4}  {step:?}", at + 1);
        }
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept")
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// A search under way.
struct Search<'a> {
    world: &'a World,
    seen: HashSet<u64, BuildHasherDefault<Identity>>,
    /// How each state was reached: the number of the one before, and which of its steps.
    ways: Vec<(u32, u8)>,
    queue: VecDeque<(u32, u32, State)>,
    found: Found,
}

/// In which order states are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The shortest counterexample; much memory.
    BreadthFirst,
    /// Little memory.
    DepthFirst,
}

/// A long search says now and then how far it is.
const PROGRESS: u64 = 1 << 20;

/// Visits at most `limit` states.
pub fn explore(world: &World, order: Order, limit: u64) -> Found {
    let found = Found { states: 0, steps: 0, depth: 0, counterexample: None, healing: Vec::new(), complete: true };
    let mut search = Search { world, seen: HashSet::default(), ways: Vec::new(), queue: VecDeque::new(), found };
    if let Err((violation, way)) = search.run(order, limit) {
        let mut way = replay(world, &way);
        if !search.found.healing.is_empty() {
            way.push(Step::TakeOver { process: 0, resume: false });
            way.append(&mut search.found.healing);
        }
        search.found.counterexample = Some(Counterexample { violation, way });
    }
    search.found
}

impl Search<'_> {
    fn run(&mut self, order: Order, limit: u64) -> Result<(), (Violation, Vec<u8>)> {
        self.visit(self.world.initial(), 0, 0, 0)?;
        let mut steps = Vec::new();
        loop {
            let next = match order {
                Order::BreadthFirst => self.queue.pop_front(),
                Order::DepthFirst => self.queue.pop_back(),
            };
            let Some((at, depth, state)) = next else { return Ok(()) };
            self.found.depth = self.found.depth.max(depth);
            steps.clear();
            self.world.steps(&state, &mut steps);
            for (i, step) in steps.iter().enumerate() {
                self.found.steps += 1;
                match self.world.apply(&state, *step) {
                    Ok(next) => self.visit(next, at, i as u8, depth + 1)?,
                    Err(Halt::OutOfBounds) => {}
                    Err(Halt::Violation(violation)) => return Err((violation, self.way(at, Some(i as u8)))),
                }
                if self.found.states >= limit {
                    self.found.complete = false;
                    return Ok(());
                }
                if self.found.states.is_multiple_of(PROGRESS) {
                    eprintln!("{} states", self.found.states);
                }
            }
        }
    }

    fn visit(&mut self, state: State, from: u32, step: u8, depth: u32) -> Result<(), (Violation, Vec<u8>)> {
        let fingerprint = state.fingerprint();
        if !self.seen.insert(fingerprint) {
            return Ok(());
        }
        self.found.states += 1;
        let number = self.ways.len() as u32;
        self.ways.push((from, step));
        check::check(&self.world.bounds, &state).map_err(|violation| (violation, self.way(number, None)))?;
        if fingerprint.is_multiple_of(self.world.bounds.healed)
            && let Err((violation, healing)) = heal(self.world, &state)
        {
            self.found.healing = healing;
            return Err((violation, self.way(number, None)));
        }
        self.queue.push_back((number, depth, state));
        Ok(())
    }

    fn way(&self, mut at: u32, last: Option<u8>) -> Vec<u8> {
        let mut way: Vec<u8> = last.into_iter().collect();
        while at != 0 {
            let (before, step) = self.ways[at as usize];
            way.push(step);
            at = before;
        }
        way.reverse();
        way
    }
}

/// The steps of a way, from the choices that were made.
fn replay(world: &World, way: &[u8]) -> Vec<Step> {
    let mut state = world.initial();
    let mut taken = Vec::new();
    for choice in way {
        let mut steps = Vec::new();
        world.steps(&state, &mut steps);
        taken.push(steps[usize::from(*choice)]);
        match world.apply(&state, steps[usize::from(*choice)]) {
            Ok(next) => state = next,
            Err(_) => break,
        }
    }
    taken
}

/// "Eventually": once nothing goes wrong any more, all that is on record becomes visible, a further checkpoint comes to stand,
/// and what nobody needs is deleted. One process takes over with a new attempt, and all others are silent. Also says which
/// steps were taken.
pub fn heal(world: &World, sick: &State) -> Result<(), (Violation, Vec<Step>)> {
    let mut healed = world.clone();
    healed.bounds.terms = u64::MAX;
    let opened = sick.store.openings.values().map(|opening| opening.attempt.0).max();
    let stray = sick.store.slots.values().filter_map(|slot| match slot {
        InSlot::Record(record) => Some(record.attempt.0),
        _ => None,
    });
    healed.bounds.attempts = opened.max(stray.max()).map_or(1, |highest| highest + 1);
    healed.bounds.ids = u64::MAX;
    healed.bounds.delays = FREELY;
    let mut state = sick.clone();
    healed.add_workers(&mut state);
    for worker in &mut state.workers {
        worker.edit(|worker| {
            worker.inbox.iter_mut().for_each(VecDeque::clear);
            worker.taking = None;
        });
    }
    let mut taken = Vec::new();
    let result = healing(&healed, &mut state, &mut taken);
    result.map_err(|violation| (violation, taken))
}

fn healing(world: &World, state: &mut State, taken: &mut Vec<Step>) -> Result<(), Violation> {
    const LEADER: usize = 0;
    let before = state.promised;
    world.take_over(state, LEADER);
    settle(world, state, LEADER, taken)?;
    visible(state)?;
    for _ in 0..2 {
        take(world, state, Step::Tick(LEADER), taken)?;
        settle(world, state, LEADER, taken)?;
        visible(state)?;
    }
    if state.promised == before {
        return check::violation("I4", "no further checkpoint comes to stand");
    }
    check::tidy(&world.bounds, state)
}

fn visible(state: &State) -> Result<(), Violation> {
    let attempt = state.store.openings.values().last().map(|opening| opening.attempt).unwrap_or_default();
    check::all_visible(state, attempt, state.promised)
}

/// All that the leader and the workers have begun comes to its end.
fn settle(world: &World, state: &mut State, leader: usize, taken: &mut Vec<Step>) -> Result<(), Violation> {
    let mut steps = Vec::new();
    loop {
        steps.clear();
        world.steps(state, &mut steps);
        let next = steps.iter().find(|step| match **step {
            Step::Create(process) | Step::WriteStatus(process) | Step::Remove(process) => process == leader,
            Step::Deliver { process, .. } => process == leader,
            Step::Upload(_) | Step::Ack(_) | Step::Discard(_) => true,
            _ => false,
        });
        let Some(next) = next else { return Ok(()) };
        if taken.len() > 200 * world.bounds.slots {
            return check::violation("I4", "it never comes to rest");
        }
        take(world, state, *next, taken)?;
    }
}

fn take(world: &World, state: &mut State, step: Step, taken: &mut Vec<Step>) -> Result<(), Violation> {
    taken.push(step);
    *state = match world.apply(state, step) {
        Ok(state) => state,
        Err(Halt::Violation(violation)) => return Err(violation),
        Err(Halt::OutOfBounds) => return check::violation("I4", "no checkpoint can be taken"),
    };
    check::check(&world.bounds, state)
}
