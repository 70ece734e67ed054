//! What can happen next, and what comes of it. The code that runs decides; this carries its actions out on the world.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use weir_controller::coordinator::{
    Ack, Action, Coordinator, Event, NamesOutcome, Note, Outcome, Policy, Start, StatusOutcome, Taken,
};
use weir_controller::gc::{Names, Removal};
use weir_controller::takeover::{self, Decision, Facts, Refusal, Request, Restore, SlotFact, TermFacts};
use weir_controller::time::Millis;
use weir_protocol::record::{PartRef, RECORD_VERSION, Record, RecordRef, Seal};
use weir_protocol::start;
use weir_protocol::{Attempt, CheckpointId, JobName, RecordNumber, Term, paths};

use super::check::{self, Violation, violation};
use super::world::{
    Bounds, Broken, Cell, Create, FREELY, Flight, InSlot, Leading, Line, Message, OpenedTerm, Part, Process, Rows,
    Sink, State, Status, StatusWrite, Store, Taking, Transaction, Worker, index, members, name, slot_of,
};

/// Whose output is cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Ours,
    Twins,
}

/// The only process of another run of the job.
const TWIN: usize = usize::MAX;

/// Time stands still: every span of the policy is zero, so that a tick is due whenever the search likes.
const NOW: Millis = Millis(0);

/// One thing that happens. Coordinating processes and workers are named by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A process begins to take over.
    TakeOver {
        process: usize,
        resume: bool,
    },
    /// It begins to take over with a user's wish: to restore nothing, or the oldest record that is retained.
    Wish {
        process: usize,
        nothing: bool,
    },
    /// Another run of the same job begins a further attempt, and drops what its earlier ones have left unfinished.
    TwinCleans,
    /// It reads the facts and decides.
    Decide(usize),
    /// What it has asked to be created lands, and it hears of it.
    Create(usize),
    /// It hears nothing; the request may land later, or never.
    CreateInDoubt(usize),
    /// The next worker is deployed; after the last the coordinator starts.
    Deploy(usize),
    /// Trigger, time out, or try again.
    Tick(usize),
    /// A hand-over begins: a last checkpoint is asked for.
    TakeLast(usize),
    WriteStatus(usize),
    WriteStatusInDoubt(usize),
    /// The next objects of a removal go.
    Remove(usize),
    /// A worker takes the next message of a coordinator.
    Deliver {
        process: usize,
        worker: usize,
    },
    /// A worker stores its state file.
    Upload(usize),
    /// A worker stores its part and acks.
    Ack(usize),
    /// A worker deletes what nothing names.
    Discard(usize),
    /// Only [`Broken::CutOffPublishes`].
    Publish(usize),
    /// A request in doubt lands.
    Land(usize),
    /// The job is deleted, and all that it has in storage.
    DeleteJob,
    /// What would happen at once is held up.
    HoldUpStatus(usize),
    HoldUpRemoval(usize),
    HoldUpMessages {
        process: usize,
        worker: usize,
    },
}

/// Why a step has no successor.
#[derive(Debug)]
pub enum Halt {
    /// It leads out of the bounds.
    OutOfBounds,
    Violation(Violation),
}

impl From<Violation> for Halt {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// The rules by which the world goes on.
#[derive(Clone, Debug)]
pub struct World {
    pub bounds: Bounds,
}

impl World {
    fn policy(&self) -> Policy {
        Policy {
            interval: Duration::ZERO,
            min_pause: Duration::ZERO,
            timeout: Duration::ZERO,
            tolerable_failures: 0,
            retain: self.bounds.retain,
            status_interval: Duration::ZERO,
            retry: Duration::ZERO,
        }
    }

    fn request(&self, process: usize, resume: bool, restore: Restore) -> Request {
        Request {
            job: job(),
            coordinator: format!("c{process}"),
            owner: "o".into(),
            cluster: "k".into(),
            adopt: false,
            resume,
            release: false,
            restore,
            wish: None,
            after: None,
            accept_lost_output: false,
            workers: self.bounds.slots as u32,
            slots: 1,
            max_parallelism: 1,
            fingerprint: "f".into(),
            retain: self.bounds.retain,
            format: RECORD_VERSION,
        }
    }

    /// The first process leads the first term; the first attempt is deployed.
    pub fn initial(&self) -> State {
        let Bounds { slots, coordinators, .. } = self.bounds;
        let shared_names = (self.bounds.broken == Broken::SharedNames).then_some(slots);
        let mut state = State {
            store: Cell::new(Store { shared_names, ..Store::default() }),
            sink: Cell::new(Sink { rows: vec![vec![0; slots]], ..Sink::default() }),
            status: Cell::new(Status::default()),
            workers: Vec::new(),
            processes: vec![Cell::new(Process::Idle); coordinators],
            flights: Cell::new(Vec::new()),
            doubts: 0,
            hand_overs: 0,
            wishes: 0,
            delays: 0,
            deleted: 0,
            end: None,
            promised: None,
            lines: vec![Line { since: Attempt(1), from: vec![0; slots], to: vec![0; slots] }],
        };
        if self.bounds.twin {
            // In the names of files it is like one of this run's, but for the owner.
            let promised = Transaction { attempt: Attempt(1), process: TWIN, id: CheckpointId(1), slot: 0, row: 0 };
            state.sink.edit(|sink| sink.twins.insert(promised));
        }
        self.add_workers(&mut state);
        self.take_over(&mut state, 0);
        state
    }

    /// All processes that any attempt within the bounds has.
    pub fn add_workers(&self, state: &mut State) {
        let Bounds { slots, coordinators, attempts, .. } = self.bounds;
        for process in state.workers.len()..slots + attempts as usize - 1 {
            state.workers.push(Cell::new(Worker {
                slot: slot_of(slots, process),
                highest_term: Term(0),
                highest_id: CheckpointId(0),
                attempt: Attempt(0),
                position: 0,
                pending: Vec::new(),
                taking: None,
                uploaded: Vec::new(),
                begun: BTreeSet::new(),
                acked: BTreeSet::new(),
                garbage: Vec::new(),
                files: 0,
                inbox: vec![VecDeque::new(); coordinators],
                held_up: 0,
            }));
        }
    }

    /// Takes over without anything going wrong, up to a coordinator that leads.
    pub fn take_over(&self, state: &mut State, process: usize) {
        let mut steps = vec![Step::TakeOver { process, resume: false }];
        for _ in 0..20 + 2 * self.bounds.slots {
            let Some(step) = steps.pop() else { break };
            *state = self.apply(state, step).expect("a takeover in peace succeeds");
            steps.extend(match &*state.processes[process] {
                Process::TakingOver { intent: None, .. } => Some(Step::Decide(process)),
                Process::TakingOver { .. } => Some(Step::Create(process)),
                Process::Deploying { .. } => Some(Step::Deploy(process)),
                _ => None,
            });
        }
        assert!(matches!(&*state.processes[process], Process::Leading(_)), "a takeover in peace comes to its end");
    }

    /// What happens at once unless it is held up, and how it is held up.
    fn prompt(&self, state: &State) -> Option<(Step, Step)> {
        for (process, at) in state.processes.iter().enumerate() {
            if let Process::Leading(leading) = &**at {
                if leading.status.is_some() && !leading.status_held_up {
                    return Some((Step::WriteStatus(process), Step::HoldUpStatus(process)));
                }
                if !leading.removing.is_empty() && !leading.removing_held_up {
                    return Some((Step::Remove(process), Step::HoldUpRemoval(process)));
                }
            }
        }
        for (worker, at) in state.workers.iter().enumerate() {
            for (process, queue) in at.inbox.iter().enumerate() {
                if !queue.is_empty() && at.held_up & (1 << process) == 0 {
                    return Some((Step::Deliver { process, worker }, Step::HoldUpMessages { process, worker }));
                }
            }
        }
        None
    }

    /// All that may happen next.
    pub fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        if self.bounds.delays != FREELY
            && let Some((prompt, held_up)) = self.prompt(state)
        {
            steps.push(prompt);
            if state.delays < self.bounds.delays {
                steps.push(held_up);
            }
            if let Step::WriteStatus(process) = prompt
                && state.doubts < self.bounds.doubts
            {
                steps.push(Step::WriteStatusInDoubt(process));
            }
            return;
        }
        let newest = state.store.openings.last_key_value();
        let (term, attempt) = newest.map_or((0, 0), |(term, opening)| (term.0, opening.attempt.0));
        let doubts = state.doubts < self.bounds.doubts;
        for (process, at) in state.processes.iter().enumerate() {
            if term < self.bounds.terms && matches!(**at, Process::Idle | Process::Leading(_)) {
                if attempt < self.bounds.attempts {
                    steps.push(Step::TakeOver { process, resume: false });
                }
                if matches!(**at, Process::Idle) && self.all_run(state, Attempt(attempt)) {
                    steps.push(Step::TakeOver { process, resume: true });
                }
                if attempt < self.bounds.attempts && state.wishes < self.bounds.wishes {
                    steps.extend([true, false].map(|nothing| Step::Wish { process, nothing }));
                }
            }
            match &**at {
                Process::Idle => {}
                Process::TakingOver { intent, .. } => {
                    steps.push(if intent.is_some() { Step::Create(process) } else { Step::Decide(process) });
                    if intent.is_some() && doubts {
                        steps.push(Step::CreateInDoubt(process));
                    }
                }
                Process::Deploying { .. } => steps.push(Step::Deploy(process)),
                Process::Leading(leading) => {
                    let pending = [
                        (leading.create.is_some(), Step::Create(process)),
                        (leading.create.is_some() && doubts, Step::CreateInDoubt(process)),
                        (leading.status.is_some(), Step::WriteStatus(process)),
                        (leading.status.is_some() && doubts, Step::WriteStatusInDoubt(process)),
                        (!leading.removing.is_empty(), Step::Remove(process)),
                        (state.hand_overs < self.bounds.hand_overs, Step::TakeLast(process)),
                        (leading.create.is_none() && leading.coordinator.next_wake().is_some(), Step::Tick(process)),
                    ];
                    steps.extend(pending.into_iter().filter(|(enabled, _)| *enabled).map(|(_, step)| step));
                }
            }
        }
        for (worker, at) in state.workers.iter().enumerate() {
            let queues = at.inbox.iter().enumerate().filter(|(_, queue)| !queue.is_empty());
            steps.extend(queues.map(|(process, _)| Step::Deliver { process, worker }));
            if let Some(taking) = &at.taking {
                if !taking.stored {
                    steps.push(Step::Upload(worker));
                }
                if taking.stored || self.bounds.broken == Broken::AckBeforeUpload {
                    steps.push(Step::Ack(worker));
                }
            }
            if !at.garbage.is_empty() {
                steps.push(Step::Discard(worker));
            }
            let cut_off = !members(self.bounds.slots, Attempt(attempt)).contains(&worker);
            if self.bounds.broken == Broken::CutOffPublishes && cut_off && !at.pending.is_empty() {
                steps.push(Step::Publish(worker));
            }
        }
        if self.bounds.twin {
            steps.push(Step::TwinCleans);
        }
        steps.extend((0..state.flights.len()).map(Step::Land));
        let rests = |process: &Cell<Process>| matches!(**process, Process::Idle | Process::Leading(_));
        if state.deleted < self.bounds.deletions && state.processes.iter().all(rests) {
            steps.push(Step::DeleteJob);
        }
    }

    /// The step aborts a checkpoint.
    pub fn times_out(&self, state: &State, step: Step) -> bool {
        let Step::Tick(process) = step else { return false };
        matches!(&*state.processes[process], Process::Leading(leading) if leading.coordinator.collecting().is_some())
    }

    fn all_run(&self, state: &State, attempt: Attempt) -> bool {
        members(self.bounds.slots, attempt).iter().all(|worker| state.workers[*worker].attempt == attempt)
    }

    /// What comes of a step. Whether the invariants hold there is for the caller to check.
    pub fn apply(&self, before: &State, step: Step) -> Result<State, Halt> {
        let mut after = before.clone();
        let state = &mut after;
        match step {
            Step::TakeOver { process, resume } => {
                abandon(state, process);
                let wish = Restore::Latest;
                set(state, process, Process::TakingOver { resume, wish, asked: None, intent: None });
                self.decide_at_once(state, process)?;
            }
            Step::Wish { process, nothing } => self.wish(state, process, nothing)?,
            Step::TwinCleans => {
                let keep = state.sink.twins.clone();
                self.clean(state, Run::Twins, Attempt(self.bounds.attempts + 1), &keep);
            }
            Step::Decide(process) => self.decide(state, process)?,
            Step::Create(process) => self.create(state, process)?,
            Step::CreateInDoubt(process) => self.create_in_doubt(state, process)?,
            Step::Deploy(process) => self.deploy(state, process)?,
            Step::Tick(process) => self.tell(state, process, Event::Tick)?,
            Step::TakeLast(process) => {
                state.hand_overs += 1;
                self.tell(state, process, Event::TakeLast)?;
            }
            Step::WriteStatus(process) => self.write_status(state, process)?,
            Step::WriteStatusInDoubt(process) => self.write_status_in_doubt(state, process)?,
            Step::Remove(process) => self.remove(state, process)?,
            Step::Deliver { process, worker } => self.deliver(state, process, worker)?,
            Step::Upload(worker) => self.upload(state, worker),
            Step::Ack(worker) => self.ack(state, worker)?,
            Step::Discard(worker) => discard(state, worker),
            Step::Publish(worker) => {
                let pending = state.workers[worker].edit(|worker| std::mem::take(&mut worker.pending));
                for transaction in pending {
                    check::publish(state, transaction)?;
                }
            }
            Step::DeleteJob => self.delete_job(state),
            Step::HoldUpStatus(process) => {
                state.delays += 1;
                edit_leading(state, process, |leading| leading.status_held_up = true);
            }
            Step::HoldUpRemoval(process) => {
                state.delays += 1;
                edit_leading(state, process, |leading| leading.removing_held_up = true);
            }
            Step::HoldUpMessages { process, worker } => {
                state.delays += 1;
                state.workers[worker].edit(|worker| worker.held_up |= 1 << process);
            }
            Step::Land(at) => match state.flights.edit(|flights| flights.remove(at)) {
                Flight::Create(create) => drop(check::land(&self.bounds, state, &create)?),
                Flight::Stray(record) => self.stray(state, record)?,
                Flight::Start(start) => state.store.edit(|store| store.start = Some(start)),
                Flight::Status(write) => drop(self.land_status(state, &write)?),
            },
        }
        Ok(after)
    }

    /// A user wishes for the oldest record that is retained, or for nothing.
    fn wish(&self, state: &mut State, process: usize, nothing: bool) -> Result<(), Halt> {
        let retained = state.store.records().rev().take(self.bounds.retain as usize).last();
        let wish = match retained {
            _ if nothing => Restore::Nothing,
            Some(oldest) => Restore::Record(oldest.reference()),
            None => return Err(Halt::OutOfBounds),
        };
        state.wishes += 1;
        abandon(state, process);
        set(state, process, Process::TakingOver { resume: false, wish, asked: None, intent: None });
        self.decide_at_once(state, process)
    }

    fn write_status_in_doubt(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        state.doubts += 1;
        let Some(write) = take_status(state, process) else { return Ok(()) };
        let outcome = if self.bounds.broken == Broken::StatusLost {
            StatusOutcome::Written
        } else {
            state.flights.edit(|flights| flights.push(Flight::Status(write.clone())));
            StatusOutcome::InDoubt
        };
        self.tell(state, process, Event::StatusWritten { record: write.record, outcome })
    }

    /// A group of removals is carried out.
    fn remove(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        let (group, last) = edit_leading(state, process, |leading| {
            let group = leading.removing.remove(0);
            leading.removing_held_up &= !leading.removing.is_empty();
            (group, leading.removing.is_empty())
        });
        state.store.edit(|store| {
            for removal in &group {
                match removal {
                    Removal::Delete(path) => store.delete(path),
                    Removal::Empty(path) => {
                        if let Some(paths::Object::Slot(term, number)) = paths::parse(path) {
                            store.slots.insert((term, number), InSlot::Empty);
                        }
                    }
                }
            }
        });
        if last {
            self.tell(state, process, Event::Removed { complete: true })?;
        }
        Ok(())
    }

    /// The job is deleted, and all that it has in storage: its processes end, its workers are gone, and what they had asked for
    /// may still happen. The next job of its name begins with workers of its own.
    fn delete_job(&self, state: &mut State) {
        for process in 0..state.processes.len() {
            abandon(state, process);
            set(state, process, Process::Idle);
        }
        state.flights.edit(|flights| {
            let strays = std::mem::take(flights).into_iter().filter_map(|flight| match flight {
                Flight::Create(Create::Record(record)) => Some(Flight::Stray(record)),
                // Who deletes has sealed the last term, by which all takeovers are over; the resource is another.
                _ => None,
            });
            flights.extend(strays);
        });
        state.deleted += 1;
        let slots = self.bounds.slots;
        (state.end, state.promised) = (None, None);
        state.lines = vec![Line { since: Attempt(1), from: vec![0; slots], to: vec![0; slots] }];
        state.store = Cell::new(Store { shared_names: state.store.shared_names, ..Store::default() });
        state.status = Cell::new(Status::default());
        let twins = state.sink.twins.clone();
        state.sink = Cell::new(Sink { rows: vec![vec![0; slots]], twins, ..Sink::default() });
        state.workers.clear();
        self.add_workers(state);
    }

    /// A record of a job that was deleted comes to stand. That it does so once the next job of its name is there is out of what is
    /// looked at: its request would have outlived a whole deletion, and two who take over at the same time would choose two terms.
    fn stray(&self, state: &mut State, record: Arc<Record>) -> Result<(), Halt> {
        let begun = state.processes.iter().any(|process| !matches!(**process, Process::Idle));
        if begun || !state.store.openings.is_empty() {
            return Err(Halt::OutOfBounds);
        }
        state.store.edit(|store| {
            store.slots.entry((record.term, record.number)).or_insert(InSlot::Record(record));
        });
        Ok(())
    }

    fn decide_at_once(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        if self.bounds.fine { Ok(()) } else { self.decide(state, process) }
    }

    fn decide(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        let Process::TakingOver { resume, wish, asked, .. } = &*state.processes[process] else { return Ok(()) };
        let (resume, wish, mut asked) = (*resume, wish.clone(), *asked);
        let mut facts = facts(&state.store);
        if self.bounds.broken == Broken::NoSeal
            && let Some((term, newest)) = facts.terms.iter_mut().next_back()
        {
            let number = newest.slots.keys().last().map_or(RecordNumber(1), |number| number.next());
            let seal = Seal { version: 1, term: *term, number, by: String::new(), at_ms: 0 };
            newest.slots.insert(number, SlotFact::Seal(seal));
        }
        let intent = match takeover::decide(&self.request(process, resume, wish.clone()), &facts, asked, NOW) {
            Decision::CreateSeal(seal) => Create::Seal(seal),
            Decision::CreateOpening(mut opening) => {
                if self.bounds.broken == Broken::RestoreOlder {
                    let newest = state.store.openings.values().last();
                    opening.restores = newest.map(|newest| newest.restores.clone()).unwrap_or_default();
                }
                if self.bounds.broken == Broken::WishForgetsPromises {
                    opening.commits = None;
                }
                asked = Some(opening.term);
                Create::Opening(Arc::new(opening), wish.clone())
            }
            Decision::Opened(opened) => {
                self.write_start(state, &opened);
                set(state, process, Process::Deploying { opened: Arc::new(OpenedTerm(*opened)), next: 0 });
                return Ok(());
            }
            Decision::Import(_) => return Ok(violation("I3", "nobody wishes for a savepoint".to_string())?),
            Decision::Lost { .. } => {
                set(state, process, Process::Idle);
                return Ok(());
            }
            // It has been retired since somebody chose it.
            Decision::Refuse(Refusal::NotRetained { .. }) if wish != Restore::Latest => {
                set(state, process, Process::Idle);
                return Ok(());
            }
            Decision::Refuse(refusal) => return Ok(violation("I1", format!("a takeover is refused: {refusal}"))?),
        };
        if let Create::Opening(opening, _) = &intent
            && (opening.term.0 > self.bounds.terms || opening.attempt.0 > self.bounds.attempts)
        {
            return Err(Halt::OutOfBounds);
        }
        set(state, process, Process::TakingOver { resume, wish, asked, intent: Some(intent) });
        Ok(())
    }

    /// Where the next takeover begins to read. Where starts are late, the same is written once more, or for the first time,
    /// whenever it likes.
    fn write_start(&self, state: &mut State, opened: &takeover::Opened) {
        let standing = |record: &Arc<Record>| start::Standing { record: record.reference(), bytes: 1 };
        let records = opened.inherited.iter().map(standing);
        let records = records.filter(|_| self.bounds.broken != Broken::StartNamesNothing);
        let start = start::Start::new(&opened.opening, records);
        if self.bounds.late_starts {
            state.flights.edit(|flights| flights.push(Flight::Start(start)));
        } else {
            state.store.edit(|store| store.start = Some(start));
        }
    }

    fn create(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        if let Process::TakingOver { resume, wish, asked, intent } = &*state.processes[process] {
            let (resume, wish, asked, intent) = (*resume, wish.clone(), *asked, intent.clone());
            check::land(&self.bounds, state, &intent.expect("enabled"))?;
            set(state, process, Process::TakingOver { resume, wish, asked, intent: None });
            return self.decide_at_once(state, process);
        }
        let record = edit_leading(state, process, |leading| leading.create.take()).expect("enabled");
        let outcome = if check::land(&self.bounds, state, &Create::Record(Arc::clone(&record)))? {
            Outcome::New
        } else {
            match &state.store.slots[&(record.term, record.number)] {
                InSlot::Record(there) if *there == record => Outcome::Same,
                InSlot::Seal(seal) => Outcome::Taken(Taken::Seal(seal.clone())),
                _ => Outcome::Taken(Taken::Other),
            }
        };
        self.tell(state, process, Event::Created { number: record.number, outcome })
    }

    fn create_in_doubt(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        state.doubts += 1;
        if let Process::TakingOver { resume, wish, asked, intent } = &*state.processes[process] {
            let (resume, wish, asked, intent) = (*resume, wish.clone(), *asked, intent.clone());
            state.flights.edit(|flights| flights.extend(intent.map(Flight::Create)));
            set(state, process, Process::TakingOver { resume, wish, asked, intent: None });
            return Ok(());
        }
        let record = edit_leading(state, process, |leading| leading.create.take()).expect("enabled");
        let number = record.number;
        state.flights.edit(|flights| flights.push(Flight::Create(Create::Record(record))));
        self.tell(state, process, Event::Created { number, outcome: Outcome::InDoubt { reason: String::new() } })
    }

    fn deploy(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        let Process::Deploying { opened, next } = &*state.processes[process] else { return Ok(()) };
        let (opened, next) = (Arc::clone(opened), *next);
        let (opening, restored) = (&opened.0.opening, &opened.0.restored);
        let workers = members(self.bounds.slots, opening.attempt);
        let fenced = |worker: &usize| state.workers[*worker].highest_term > opening.term;
        if next < workers.len() && self.all_run(state, opening.attempt) {
            // The attempt goes on: only sessions are opened.
            if workers.iter().any(fenced) {
                set(state, process, Process::Idle);
                return Ok(());
            }
            for at in &workers {
                state.workers[*at].edit(|worker| greet(worker, opening.term));
                if self.bounds.broken == Broken::DiscardUndecided {
                    state.workers[*at].edit(|worker| {
                        worker.garbage.extend(std::mem::take(&mut worker.begun));
                        worker.uploaded.clear();
                    });
                    discard(state, *at);
                }
            }
            return self.lead(state, process, &opened.0, &workers);
        }
        let worker = workers[next];
        if fenced(&worker) {
            set(state, process, Process::Idle);
            return Ok(());
        }
        let part = match restored {
            Some(record) => {
                check::whole(&self.bounds, &state.store, record)
                    .or_else(|what| violation("I1", format!("restored: {what}")))?;
                state.store.part(&record.parts[next].path).cloned()
            }
            None => None,
        };
        // Of what the record that is restored has promised, one that is left behind carries all that is not published yet.
        let promising = opened.0.commits.as_ref().or(restored.as_ref());
        let pending = |slot: usize| {
            let part = promising.and_then(|record| state.store.part(&record.parts[slot].path));
            part.map_or(Vec::new(), |part| part.pending.clone())
        };
        let (pending, keep) = (pending(next), (0..workers.len()).flat_map(pending).collect());
        if next == 0 {
            self.clean(state, Run::Ours, opening.attempt, &keep);
        }
        state.workers[worker].edit(|worker| {
            greet(worker, opening.term);
            let kept: Vec<_> = std::mem::take(&mut worker.pending);
            worker.attempt = opening.attempt;
            worker.taking = None;
            worker.files = 0;
            worker.position = part.as_ref().map_or(0, |part| part.position);
            worker.pending = pending;
            worker.uploaded = part.iter().map(|part| (part.id, part.position, part.files.clone())).collect();
            worker.begun.clear();
            worker.acked.clear();
            worker.garbage.clear();
            if self.bounds.broken == Broken::RestoreKeepsNewer {
                let newer: Vec<_> =
                    kept.into_iter().filter(|transaction| !worker.pending.contains(transaction)).collect();
                worker.pending.extend(newer);
            }
        });
        if next + 1 == workers.len() {
            return self.lead(state, process, &opened.0, &workers);
        }
        set(state, process, Process::Deploying { opened, next: next + 1 });
        if self.bounds.fine { Ok(()) } else { self.deploy(state, process) }
    }

    /// The first worker of an attempt drops what attempts before it have left unfinished. Whose that is, is in the names.
    fn clean(&self, state: &mut State, run: Run, attempt: Attempt, keep: &BTreeSet<Transaction>) {
        let all = self.bounds.broken == Broken::NamesWithoutOwner;
        let dropped = |left: &Transaction| left.attempt < attempt && !keep.contains(left);
        state.sink.edit(|sink| {
            if all || run == Run::Ours {
                sink.unfinished.retain(|left| !dropped(left));
            }
            if all || run == Run::Twins {
                sink.twins.retain(|left| !dropped(left));
            }
        });
    }

    fn lead(
        &self,
        state: &mut State,
        process: usize,
        opened: &takeover::Opened,
        workers: &[usize],
    ) -> Result<(), Halt> {
        let seen = workers.iter().map(|worker| state.workers[*worker].highest_id).max().unwrap_or_default();
        let start = Start {
            opening: Arc::clone(&opened.opening),
            workers: workers.iter().map(|worker| name(*worker)).collect(),
            restored: opened.restored.clone(),
            inherited: opened.inherited.clone(),
            highest_id: opened.highest_id.max(seen),
            failed: 0,
        };
        let (coordinator, mut actions) = Coordinator::new(NOW, self.policy(), start);
        let leading = Leading {
            coordinator,
            create: None,
            status: None,
            removing: Vec::new(),
            status_held_up: false,
            removing_held_up: false,
        };
        set(state, process, Process::Leading(leading));
        if self.bounds.broken == Broken::NoCommitAfterRestore {
            actions.retain(|action| !matches!(action, Action::Commit { .. }));
        }
        self.carry_out(state, process, actions)
    }

    /// A coordinator is told something, if the process has one, and what it asks for is done or begun.
    fn tell(&self, state: &mut State, process: usize, event: Event) -> Result<(), Halt> {
        if !matches!(&*state.processes[process], Process::Leading(_)) {
            return Ok(());
        }
        let actions = edit_leading(state, process, |leading| leading.coordinator.on(NOW, event));
        self.carry_out(state, process, actions)
    }

    fn carry_out(&self, state: &mut State, process: usize, actions: Vec<Action>) -> Result<(), Halt> {
        for action in actions {
            match action {
                Action::Trigger { id, base } => {
                    if id.0 > self.bounds.ids {
                        return Err(Halt::OutOfBounds);
                    }
                    let (term, attempt) = led(state, process);
                    let message = Message::Trigger { term, attempt, id, base: base.map(|base| base.id) };
                    for worker in members(self.bounds.slots, attempt) {
                        state.workers[worker].edit(|worker| worker.inbox[process].push_back(message.clone()));
                    }
                }
                Action::Commit { worker, id } => {
                    let (term, attempt) = led(state, process);
                    let message = Message::Commit { term, attempt, id };
                    state.workers[index(&worker)].edit(|worker| worker.inbox[process].push_back(message));
                }
                Action::CreateRecord(record) => self.create_record(state, process, record),
                Action::WriteStatus(pointer) => {
                    if state.status.term > pointer.term {
                        let (record, outcome) = (pointer.record.reference(), StatusOutcome::Superseded);
                        self.tell(state, process, Event::StatusWritten { record, outcome })?;
                    } else {
                        let expects = state.status.version;
                        let write = StatusWrite { expects, term: pointer.term, record: pointer.record.reference() };
                        edit_leading(state, process, |leading| leading.status = Some(write));
                    }
                }
                Action::ReadNames(record) => {
                    let outcome = names(&state.store, &record);
                    let (record, names) = (record.reference(), outcome);
                    self.tell(state, process, Event::NamesRead { record, names })?;
                }
                Action::ListLeftovers => self.list_leftovers(state, process)?,
                Action::Remove(removals) => {
                    let groups = self.groups(&state.store, removals);
                    edit_leading(state, process, |leading| leading.removing = groups);
                }
                Action::Note(Note::Committed { .. }) => {
                    check::all_visible(state, led(state, process).1, led_newest(state, process))?;
                }
                Action::Superseded { .. } => {
                    abandon(state, process);
                    set(state, process, Process::Idle);
                    return Ok(());
                }
                // Whatever came of it: a takeover may follow at any time, and this is what follows where none does.
                Action::LastTaken(_) => self.tell(state, process, Event::CarryOn)?,
                Action::Look { paths } => {
                    let missing = paths.into_iter().find(|path| !state.store.holds(path));
                    self.tell(state, process, Event::Looked { missing })?;
                }
                Action::Gone { path } => {
                    return Ok(violation("I5", format!("{path}, which a coordinator stands on, is gone"))?);
                }
                // Of a cancel workers learn by the next trigger too; that it gets lost is the harder case.
                Action::Cancel { .. } | Action::Hold(_) | Action::Note(_) | Action::Succeeded(_) => {}
            }
        }
        Ok(())
    }

    fn create_record(&self, state: &mut State, process: usize, record: Arc<Record>) {
        let (term, attempt) = led(state, process);
        if self.bounds.broken == Broken::CommitBeforeRecord {
            for worker in members(self.bounds.slots, attempt) {
                let message = Message::Commit { term, attempt, id: record.id };
                state.workers[worker].edit(|worker| worker.inbox[process].push_back(message));
            }
        }
        let status = (self.bounds.broken == Broken::StatusBeforeRecord).then(|| StatusWrite {
            expects: state.status.version,
            term,
            record: record.reference(),
        });
        edit_leading(state, process, |leading| {
            leading.create = Some(record);
            leading.status = status.or(leading.status.take());
        });
    }

    fn list_leftovers(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        let listed = state.store.listed();
        if self.bounds.broken == Broken::SweepCurrentAttempt {
            let named: Vec<String> = state.store.records().flat_map(|record| all_names(&state.store, record)).collect();
            state
                .store
                .edit(|store| listed.iter().filter(|path| !named.contains(path)).for_each(|path| store.delete(path)));
            return self.tell(state, process, Event::Leftovers(Some(Vec::new())));
        }
        self.tell(state, process, Event::Leftovers(Some(listed)))
    }

    /// Steps of one kind one after the other are done at once.
    fn groups(&self, store: &Store, mut removals: Vec<Removal>) -> Vec<Vec<Removal>> {
        match (self.bounds.broken, removals.first().cloned()) {
            (Broken::FilesBeforeRecord, _) => removals.reverse(),
            (Broken::FreeDoubtfulSlot, Some(Removal::Empty(path))) => removals[0] = Removal::Delete(path),
            (Broken::DeleteSharedFiles, Some(Removal::Empty(path) | Removal::Delete(path))) => {
                if let Some(paths::Object::Slot(term, number)) = paths::parse(&path)
                    && let Some(InSlot::Record(record)) = store.slots.get(&(term, number))
                {
                    removals.extend(all_names(store, record).into_iter().map(Removal::Delete));
                }
            }
            _ => {}
        }
        let kind = |removal: &Removal| match removal {
            Removal::Empty(_) => 0,
            Removal::Delete(path) if path.starts_with(paths::TERMS) => 0,
            Removal::Delete(path) if self.bounds.fine && path.starts_with(paths::PARTS) => 1,
            Removal::Delete(_) => 2,
        };
        let mut groups: Vec<Vec<Removal>> = Vec::new();
        for removal in removals {
            match groups.last_mut() {
                Some(group) if kind(&group[0]) == kind(&removal) => group.push(removal),
                _ => groups.push(vec![removal]),
            }
        }
        groups
    }

    fn write_status(&self, state: &mut State, process: usize) -> Result<(), Halt> {
        let write = take_status(state, process).expect("enabled");
        // On a conflict the writer reads anew and tries again; it does not take the conflict for an answer.
        let outcome = if self.land_status(state, &write)? { StatusOutcome::Written } else { StatusOutcome::InDoubt };
        self.tell(state, process, Event::StatusWritten { record: write.record, outcome })
    }

    fn land_status(&self, state: &mut State, write: &StatusWrite) -> Result<bool, Halt> {
        if state.status.version != write.expects && self.bounds.broken != Broken::StatusUnconditional {
            return Ok(false);
        }
        // A wish goes back, and says so by a new line.
        let line = |term: Term| state.store.openings.get(&term).map(|opening| state.line_of(opening.attempt));
        let same_line = line(state.status.term) == line(write.term);
        if same_line && state.status.names.is_some_and(|named| named > write.record) {
            return Ok(violation("I6", format!("the status goes back to {}", write.record.path()))?);
        }
        state.status.edit(|status| {
            status.version += 1;
            status.term = write.term;
            status.names = Some(write.record);
        });
        Ok(true)
    }

    fn deliver(&self, state: &mut State, process: usize, at: usize) -> Result<(), Halt> {
        let message = state.workers[at].edit(|worker| {
            let message = worker.inbox[process].pop_front();
            if worker.inbox[process].is_empty() {
                worker.held_up &= !(1 << process);
            }
            message.expect("enabled")
        });
        match message {
            Message::Trigger { term, attempt, id, base } => {
                let worker = &state.workers[at];
                if term < worker.highest_term || attempt != worker.attempt || id <= worker.highest_id {
                    return Ok(());
                }
                let cut = state.workers[at].edit(|worker| self.freeze(worker, at, process, id, base));
                state.sink.edit(|sink| sink.unfinished.insert(cut));
                if !self.bounds.fine {
                    discard(state, at);
                    if self.bounds.broken != Broken::AckBeforeUpload {
                        self.upload(state, at);
                    }
                    return self.ack(state, at);
                }
            }
            Message::Commit { term, attempt, id } => {
                let worker = &state.workers[at];
                if term < worker.highest_term || attempt != worker.attempt {
                    return Ok(());
                }
                let published: Vec<_> =
                    worker.pending.iter().filter(|transaction| transaction.id <= id).copied().collect();
                if !published.is_empty() {
                    state.workers[at].edit(|worker| worker.pending.retain(|transaction| transaction.id > id));
                }
                for transaction in published {
                    check::publish(state, transaction)?;
                }
                self.tell(state, process, Event::Committed { worker: name(at), attempt, id })?;
            }
        }
        Ok(())
    }

    /// One row is read, and the barrier comes: position, transaction and state are as they are now.
    fn freeze(
        &self,
        worker: &mut Worker,
        at: usize,
        by: usize,
        id: CheckpointId,
        base: Option<CheckpointId>,
    ) -> Transaction {
        worker.taking = None;
        if self.bounds.broken == Broken::AbortDropsTransaction {
            worker.pending.retain(|transaction| Some(transaction.id) <= base);
        }
        worker.highest_id = id;
        let (attempt, slot, row) = (worker.attempt, worker.slot, worker.position);
        worker.position += 1;
        let cut = Transaction { attempt, process: at, id, slot, row };
        worker.pending.push(cut);
        // Two of three are incremental, over the newest that was uploaded, whatever became of its checkpoint; the third rewrites
        // everything, as a compaction does.
        let newest = worker.uploaded.last().filter(|_| !id.0.is_multiple_of(3)).cloned();
        let (from, mut files) = newest.map_or((0, Vec::new()), |(_, position, files)| (position, files));
        let file = paths::state_file(attempt, &name(at), worker.files);
        worker.files += 1;
        files.push(file.clone());
        self.settle(worker, at, id, base, &files);
        worker.begun.insert(file.clone());
        let rows = Rows { slot, from, to: worker.position };
        let pending = worker.pending.clone();
        let part = Part { id, attempt, process: at, slot, position: worker.position, pending, files };
        worker.taking = Some(Taking { by, part: Arc::new(part), file: (file, rows), stored: false });
        cut
    }

    /// All earlier checkpoints are decided: the base is on record, older ones on record were a base before, all others are
    /// given up. What only those name goes, but for what is named again.
    fn settle(&self, worker: &mut Worker, at: usize, id: CheckpointId, base: Option<CheckpointId>, named: &[String]) {
        if let Some(base) = base.filter(|_| self.bounds.broken != Broken::DiscardOnRecord) {
            let on_record = worker.uploaded.iter().filter(|(known, _, _)| *known == base);
            for file in on_record.flat_map(|(_, _, files)| files) {
                worker.begun.remove(file);
            }
        }
        worker.acked.retain(|acked| Some(*acked) != base);
        let parts = std::mem::take(&mut worker.acked);
        debug_assert!(parts.iter().all(|part| *part < id), "ids only rise");
        worker.garbage.extend(parts.iter().map(|part| paths::part(*part, worker.attempt, &name(at))));
        let begun = std::mem::take(&mut worker.begun);
        let (kept, garbage): (BTreeSet<_>, BTreeSet<_>) = begun.into_iter().partition(|file| named.contains(file));
        worker.begun = kept;
        worker.garbage.extend(garbage);
        // What was merged away is not named again, unless by a record.
        worker
            .uploaded
            .retain(|(known, _, files)| Some(*known) == base || files.iter().all(|file| named.contains(file)));
    }

    fn upload(&self, state: &mut State, at: usize) {
        let file = state.workers[at].edit(|worker| {
            let taking = worker.taking.as_mut().expect("enabled");
            taking.stored = true;
            taking.file.clone()
        });
        state.store.edit(|store| store.put_file(&file.0, file.1));
    }

    fn ack(&self, state: &mut State, at: usize) -> Result<(), Halt> {
        let taking = state.workers[at].edit(|worker| {
            let taking =
                if self.bounds.broken == Broken::AckBeforeUpload && !worker.taking.as_ref().is_some_and(|t| t.stored) {
                    worker.taking.clone()
                } else {
                    worker.taking.take()
                };
            let taking = taking.expect("enabled");
            let Part { id, position, files, .. } = &*taking.part;
            worker.uploaded.retain(|(known, _, _)| known != id);
            worker.uploaded.push((*id, *position, files.clone()));
            worker.acked.insert(*id);
            taking
        });
        let Part { id, attempt, .. } = *taking.part;
        let path = paths::part(id, attempt, &name(at));
        state.store.edit(|store| store.put_part(&path, Arc::clone(&taking.part)));
        let ack = |worker: usize| {
            let path = paths::part(id, attempt, &name(worker));
            let part = PartRef { worker: name(worker), path, length: 0, crc32c: 0, inline: None };
            Ack {
                worker: name(worker),
                attempt,
                id,
                part,
                finished: false,
                state_bytes: 0,
                uploaded_bytes: 0,
                format: RECORD_VERSION,
            }
        };
        if self.bounds.broken == Broken::RecordWithoutAllAcks {
            for worker in members(self.bounds.slots, attempt).into_iter().filter(|worker| *worker != at) {
                self.tell(state, taking.by, Event::Acked(ack(worker)))?;
            }
        }
        self.tell(state, taking.by, Event::Acked(ack(at)))
    }
}

/// A worker deletes what nothing names.
fn discard(state: &mut State, at: usize) {
    let garbage = state.workers[at].edit(|worker| std::mem::take(&mut worker.garbage));
    if !garbage.is_empty() {
        state.store.edit(|store| garbage.iter().for_each(|path| store.delete(path)));
    }
}

fn job() -> JobName {
    JobName { namespace: "n".into(), name: "j".into() }
}

fn set(state: &mut State, process: usize, to: Process) {
    state.processes[process] = Cell::new(to);
}

fn edit_leading<R>(state: &mut State, process: usize, change: impl FnOnce(&mut Leading) -> R) -> R {
    state.processes[process].edit(|process| match process {
        Process::Leading(leading) => change(leading),
        _ => unreachable!("only a process that leads is asked"),
    })
}

fn take_status(state: &mut State, process: usize) -> Option<StatusWrite> {
    edit_leading(state, process, |leading| {
        leading.status_held_up = false;
        leading.status.take()
    })
}

/// The term and attempt that a process leads.
fn led(state: &State, process: usize) -> (Term, Attempt) {
    match &*state.processes[process] {
        Process::Leading(leading) => (leading.coordinator.term(), leading.coordinator.attempt()),
        _ => (Term(0), Attempt(0)),
    }
}

fn led_newest(state: &State, process: usize) -> Option<RecordRef> {
    match &*state.processes[process] {
        Process::Leading(leading) => leading.coordinator.newest().map(|record| record.reference()),
        _ => None,
    }
}

/// What a process had under way at storage may still happen.
fn abandon(state: &mut State, process: usize) {
    if let Process::Leading(leading) = &*state.processes[process] {
        let (create, status) = (leading.create.clone(), leading.status.clone());
        let create = create.map(|record| Flight::Create(Create::Record(record)));
        if create.is_some() || status.is_some() {
            state.flights.edit(|flights| flights.extend(create.into_iter().chain(status.map(Flight::Status))));
        }
    }
}

/// A session of a new term: what older ones have sent is refused from now on.
fn greet(worker: &mut Worker, term: Term) {
    worker.highest_term = term;
    for (process, queue) in worker.inbox.iter_mut().enumerate() {
        queue.retain(|message| match message {
            Message::Trigger { term: sent, .. } | Message::Commit { term: sent, .. } => *sent >= term,
        });
        if queue.is_empty() {
            worker.held_up &= !(1 << process);
        }
    }
}

/// What a takeover reads: since the start that was written down, if that counts, and the records that it names.
fn facts(store: &Store) -> Facts {
    let start = store.start.as_ref();
    let counts = start.filter(|start| store.openings.get(&start.term).is_some_and(|opening| start.is_of(opening)));
    let since = counts.map_or(Term(0), |start| start.term);
    let named = |term: Term, number: RecordNumber| {
        counts.is_some_and(|start| {
            start.records.iter().any(|standing| (standing.record.term, standing.record.number) == (term, number))
        })
    };
    let mut facts = Facts { start: start.map(|start| start.term), ..Facts::default() };
    for (term, opening) in store.openings.range(since..) {
        facts
            .terms
            .insert(*term, TermFacts { opening: Some(Arc::clone(opening)), opened: true, ..TermFacts::default() });
    }
    for ((term, number), slot) in &store.slots {
        if *term < since && !named(*term, *number) {
            continue;
        }
        let fact = match slot {
            InSlot::Record(record) => SlotFact::Record(Arc::clone(record)),
            InSlot::Seal(seal) => SlotFact::Seal(seal.clone()),
            InSlot::Empty => SlotFact::Retired,
        };
        let of_term = facts.terms.entry(*term).or_default();
        of_term.opened |= *term < since;
        of_term.slots.insert(*number, fact);
    }
    facts.sorted()
}

fn names(store: &Store, record: &Record) -> NamesOutcome {
    let mut names = Names::default();
    for reference in &record.parts {
        let Some(part) = store.part(&reference.path) else { return NamesOutcome::Broken };
        names.parts.insert(reference.path.clone());
        names.files.extend(part.files.iter().cloned());
    }
    NamesOutcome::Read(Arc::new(names))
}

fn all_names(store: &Store, record: &Record) -> Vec<String> {
    match names(store, record) {
        NamesOutcome::Read(names) => names.parts.iter().chain(&names.files).cloned().collect(),
        _ => Vec::new(),
    }
}
