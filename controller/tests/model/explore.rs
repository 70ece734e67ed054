//! The search: breadth first over all states, each visited once, a counterexample with its whole way.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use super::check::{self, Violation};
use super::steps::{Halt, Step, World};
use super::world::{Process, State};

/// What a search has found.
#[derive(Debug)]
pub struct Found {
    pub states: u64,
    pub steps: u64,
    /// The length of the longest way, in steps.
    pub depth: u32,
    pub counterexample: Option<Counterexample>,
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

/// One state in this many is healed, to see that all on record becomes visible from there.
const HEALED: u64 = 16;

/// Visits at most `limit` states.
pub fn explore(world: &World, limit: u64) -> Found {
    let mut seen: HashSet<u64, BuildHasherDefault<Identity>> = HashSet::default();
    // How each state was reached: the one before, and the step.
    let mut ways: Vec<(u32, Step)> = Vec::new();
    let mut queue: VecDeque<(u32, u32, State)> = VecDeque::new();
    let initial = world.initial();
    seen.insert(initial.fingerprint());
    ways.push((0, Step::Decide(0)));
    queue.push_back((0, 0, initial));
    let mut found = Found { states: 1, steps: 0, depth: 0, counterexample: None, complete: true };
    let mut steps = Vec::new();

    let way = |ways: &[(u32, Step)], mut at: u32, last: Option<Step>| {
        let mut way: Vec<Step> = last.into_iter().collect();
        while at != 0 {
            let (before, step) = ways[at as usize];
            way.push(step);
            at = before;
        }
        way.reverse();
        way
    };
    while let Some((at, depth, state)) = queue.pop_front() {
        found.depth = depth;
        steps.clear();
        world.steps(&state, &mut steps);
        for step in &steps {
            found.steps += 1;
            match world.apply(&state, *step) {
                Ok(next) => {
                    let fingerprint = next.fingerprint();
                    if !seen.insert(fingerprint) {
                        continue;
                    }
                    let number = ways.len() as u32;
                    ways.push((at, *step));
                    if fingerprint % HEALED == 0
                        && let Err(violation) = heal(world, &next)
                    {
                        let way = way(&ways, number, None);
                        found.counterexample = Some(Counterexample { violation, way });
                        return found;
                    }
                    found.states += 1;
                    if found.states < limit {
                        queue.push_back((number, depth + 1, next));
                    } else {
                        found.complete = false;
                    }
                }
                Err(Halt::OutOfBounds) => {}
                Err(Halt::Violation(violation)) => {
                    let way = way(&ways, at, Some(*step));
                    found.counterexample = Some(Counterexample { violation, way });
                    return found;
                }
            }
        }
        if !found.complete {
            return found;
        }
    }
    found
}

/// "Eventually": once nothing goes wrong any more, all that is on record becomes visible, and a further checkpoint comes to
/// stand. One process takes over with a new attempt, and all others are silent.
pub fn heal(world: &World, sick: &State) -> Result<(), Violation> {
    let mut healed = world.clone();
    healed.bounds.terms = u64::MAX;
    let attempt = sick.store.openings.values().last().map_or(1, |opening| opening.attempt.0 + 1);
    healed.bounds.attempts = attempt;
    healed.bounds.ids = u64::MAX;
    let mut state = sick.clone();
    healed.add_workers(&mut state);
    let leader = 0;
    healed.take_over(&mut state, leader);
    let ours = |step: &Step, state: &State| match step {
        Step::Tick(process) => {
            matches!(&*state.processes[*process], Process::Leading(leading) if leading.coordinator.collecting().is_none()
                && leading.coordinator.creating().is_none())
        }
        Step::Create(process) | Step::WriteStatus(process) | Step::Remove(process) => *process == leader,
        Step::Deliver { process, .. } => *process == leader,
        Step::Upload(_) | Step::Ack(_) => true,
        _ => false,
    };
    let end = state.end;
    let mut ticked = false;
    let mut steps = Vec::new();
    for _ in 0..100 * world.bounds.slots {
        steps.clear();
        healed.steps(&state, &mut steps);
        let idle = |step: &Step| matches!(step, Step::Tick(_));
        let next = steps.iter().find(|step| ours(step, &state) && !idle(step)).copied();
        let next = match next {
            Some(next) => next,
            None if !ticked => {
                check::all_visible(&healed.bounds, &state, state.end.and_then(|end| check::stands(&state.store, end).cloned()))?;
                ticked = true;
                Step::Tick(leader)
            }
            None => break,
        };
        state = match healed.apply(&state, next) {
            Ok(state) => state,
            Err(Halt::Violation(violation)) => return Err(violation),
            Err(Halt::OutOfBounds) => return check::violation("I4", "no checkpoint can be taken"),
        };
    }
    if state.end == end {
        return check::violation("I4", "no further checkpoint comes to stand");
    }
    check::all_visible(&healed.bounds, &state, state.end.and_then(|end| check::stands(&state.store, end).cloned()))
}
