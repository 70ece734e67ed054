//! One running job: a loop that reads events from the platform, the workers' sessions, storage and the clock, gives them to
//! the two pure state machines (`attempt`, `coordinator`), and carries out what they ask for. It decides nothing itself.
//!
//! It is the same on a laptop and in a cluster: [`Parts`] says where workers come from, where objects are, who is told; it is
//! told what to do by [`Control`], tells what happens as [`Fact`]s to an [`Observer`], and ends with an [`Outcome`].

mod act;
mod asked;
mod hear;
mod notes;
mod parts;
mod probe;
mod versions;

pub use parts::{Change, Control, Outcome, Parts};

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio::sync::mpsc;
use weir_protocol::{Term, rpc::to_worker};
use weir_runtime::clock;
use weir_storage::JobStore;

use self::{asked::Asked, probe::Probe, versions::Wanted};
use crate::{
    attempt::{self, AttemptMachine, End},
    coordinator::{self, Coordinator},
    effects::TakeOver,
    facts::{Fact, history::History, observer::Observer, recovery::Breakdown},
    job::Job,
    platform::{Platform, PlatformEvent, Trouble},
    takeover::{Opened, Refusal, Request},
    time::Millis,
    workers::{
        planner::{Plan, PlanError},
        roster::{Roster, Worker},
        session::{SessionEvent, SessionId},
        traffic::Traffic,
        wire::SessionTls,
    },
};

/// Events of one kind on their way to the loop. It reads them much faster than they come; a full queue holds the senders.
const QUEUE: usize = 1024;
/// From one redraw to the next.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);
/// A broken session is nearly always a dead process, whose end says more than the connection's: so long is waited for it.
const LAST_WORD: Duration = Duration::from_millis(15);

/// What the loop is told by tasks of its own.
enum Done {
    TakeOver(TakeOver),
    Planned(u64, Result<Plan, PlanError>),
    Coordinator(Term, coordinator::Event),
    /// Storage was asked whether it answers; why it does not.
    Probed(Option<String>),
    /// One of them did not come to its end, and its answer will never come.
    Panicked(String),
}

/// What waits to be given to a state machine.
enum Input {
    Attempt(attempt::Event),
    Coordinator(coordinator::Event),
}

/// Milliseconds that never go backwards, anchored once at the wall clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    wall: u64,
    begun: Instant,
}

impl Clock {
    fn start() -> Self {
        let wall = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { wall: u64::try_from(wall.as_millis()).unwrap_or_default(), begun: clock::now() }
    }

    fn now(self) -> Millis {
        Millis(self.wall) + clock::since(self.begun)
    }

    fn instant(self, at: Millis) -> Instant {
        self.begun + Duration::from_millis(at.0.saturating_sub(self.wall))
    }
}

/// The loop's state.
pub struct Supervisor {
    /// What the current attempt is made of, or, where it was resumed, what is wanted.
    job: Job,
    /// All that have been wanted of late, by number.
    versions: BTreeMap<u64, Wanted>,
    /// The newest version, if it was refused: asking for it again is a new wish.
    refused: Option<u64>,
    /// It was told that output waits to be published.
    unpublished: bool,
    /// What was told to be wrong beside a worker.
    trouble: Option<Trouble>,
    probe: Probe,
    /// Checkpoints that somebody waits for.
    asked: Asked,
    history: History,
    /// The next checkpoint is the attempt's last.
    takes_last: bool,
    request: Request,
    store: JobStore,
    platform: Box<dyn Platform>,
    observer: Box<dyn Observer>,
    clock: Clock,
    attempt: AttemptMachine,
    coordinator: Option<(Term, Coordinator)>,
    /// The newest term that was ours.
    opened: Option<Box<Opened>>,
    roster: Roster,
    traffic: Traffic,
    recovery: Option<Breakdown>,
    refusal: Option<Refusal>,
    inputs: VecDeque<Input>,
    ended: Option<Outcome>,
    stopping: bool,
    /// The platform is to tell first which workers there are.
    awaits_found: bool,
    /// What is wanted, held back until it is known what runs.
    held: Option<Box<Change>>,
    /// The term over the attempt that is to be resumed is not open yet.
    resuming: bool,
    tls: Option<SessionTls>,
    sessions: mpsc::Sender<(SessionId, SessionEvent)>,
    done: mpsc::Sender<Done>,
}

/// Where events come in.
struct Inlets {
    platform: mpsc::Receiver<PlatformEvent>,
    sessions: mpsc::Receiver<(SessionId, SessionEvent)>,
    done: mpsc::Receiver<Done>,
    control: mpsc::Receiver<Control>,
}

/// Runs a job to its end.
pub async fn run(parts: Parts) -> Outcome {
    let (sessions, session_events) = mpsc::channel(QUEUE);
    let (done, done_events) = mpsc::channel(QUEUE);
    let inlets =
        Inlets { platform: parts.platform_events, sessions: session_events, done: done_events, control: parts.control };
    let job = parts.job;
    let wanted = Wanted { job: job.clone(), fingerprint: parts.fingerprint.clone(), empty: false };
    let supervisor = Supervisor {
        request: Request {
            job: job.name.clone(),
            coordinator: parts.coordinator,
            owner: parts.owner,
            cluster: parts.cluster,
            adopt: parts.adopt,
            resume: false,
            release: false,
            restore: parts.restore,
            wish: parts.wish,
            after: None,
            accept_lost_output: parts.accept_lost_output,
            workers: job.workers,
            slots: job.slots,
            max_parallelism: job.plan.max_parallelism,
            fingerprint: parts.fingerprint.unwrap_or_default(),
            retain: job.policy.retain,
            format: parts.format,
        },
        attempt: AttemptMachine::new(job.restart, wanted.version(1)),
        versions: BTreeMap::from([(1, wanted)]),
        refused: None,
        unpublished: false,
        trouble: None,
        probe: Probe::default(),
        asked: Asked::default(),
        history: History::default(),
        takes_last: false,
        traffic: Traffic::new(job.name.to_string(), parts.failed),
        job,
        store: parts.store,
        platform: parts.platform,
        observer: parts.observer,
        clock: Clock::start(),
        coordinator: None,
        opened: None,
        roster: Roster::default(),
        recovery: Some(Breakdown::new("start")),
        refusal: None,
        inputs: VecDeque::new(),
        ended: None,
        stopping: false,
        awaits_found: parts.resume,
        held: None,
        resuming: false,
        tls: parts.tls,
        sessions,
        done,
    };
    // What it held in its hands is lost with it; the workers run on, and whoever supervises the job next finds all in storage.
    let ended = AssertUnwindSafe(Box::pin(supervisor.run(inlets))).catch_unwind().await;
    ended.unwrap_or_else(|panic| Outcome::Panicked(panicked(panic.as_ref())))
}

/// What a panic says.
fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_string())
}

impl Supervisor {
    async fn run(mut self, mut inlets: Inlets) -> Outcome {
        if !self.awaits_found {
            self.inputs.push_back(Input::Attempt(attempt::Event::Start));
        }
        let mut shown = tokio::time::interval(SHOW_INTERVAL);
        let outcome = loop {
            self.settle();
            if let Some(outcome) = self.ended.take() {
                break outcome;
            }
            let wake = self.next_wake();
            tokio::select! {
                Some(event) = inlets.platform.recv() => self.on_platform(event),
                Some((id, event)) = inlets.sessions.recv() => self.on_session(id, event),
                Some(done) = inlets.done.recv() => self.on_done(done),
                Some(control) = inlets.control.recv() => self.on_control(control),
                () = tokio::time::sleep_until(wake.into()) => self.on_wake(),
                _ = shown.tick() => {
                    let view = self.traffic.view(&self.roster);
                    self.observer.view(&view);
                }
            }
        };
        self.finish(&mut inlets, &outcome).await;
        outcome
    }

    /// Gives the machines what waits for them, until nothing does.
    fn settle(&mut self) {
        loop {
            while let Some(input) = self.inputs.pop_front() {
                self.on_input(input);
            }
            match self.held.take_if(|_| !self.attempt.is_unsure(self.clock.now())) {
                Some(change) => self.change(*change),
                None => return,
            }
        }
    }

    fn on_input(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Attempt(event) => {
                for action in self.attempt.on(now, event) {
                    self.carry_out(action);
                }
            }
            Input::Coordinator(event) => {
                let Some((term, coordinator)) = &mut self.coordinator else { return };
                let term = *term;
                for action in coordinator.on(now, event) {
                    self.coordinate(term, action);
                }
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let machines = [self.attempt.next_wake(), self.coordinator.as_ref().and_then(|(_, c)| c.next_wake())];
        let machines = machines.into_iter().flatten().map(|at| self.clock.instant(at));
        let far = clock::now() + Duration::from_secs(1);
        machines.chain(self.roster.next_suspicion()).min().unwrap_or(far).min(far)
    }

    fn on_wake(&mut self) {
        for (process, reason) in self.roster.suspicions_due() {
            self.platform.kill(process);
            // Of who was told to stop nothing is to be said.
            if let Some(worker) = self.roster.get_mut(process).filter(|worker| !worker.gone) {
                worker.broken = true;
            }
            self.lost(process, &reason);
        }
        self.probe();
        self.inputs.push_back(Input::Attempt(attempt::Event::Tick));
        self.inputs.push_back(Input::Coordinator(coordinator::Event::Tick));
    }

    // ---- what it is told to do ----

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Stop { last_checkpoint, why } => {
                self.stopping = true;
                self.traffic.state("stopping");
                self.tell(&Fact::Stopping { why, last_checkpoint });
                self.inputs.push_back(Input::Attempt(attempt::Event::Stop { last_checkpoint }));
            }
            Control::Kill => {
                self.tell(&Fact::Killed);
                self.traffic.state("stopped");
                self.ended = Some(Outcome::Killed);
            }
            Control::Leave => self.ended = Some(Outcome::Left),
            Control::Checkpoint(value) => {
                self.asked.ask(value);
                self.inputs.push_back(Input::Coordinator(coordinator::Event::TriggerNow));
            }
            Control::Configure(live) => self.configure(live),
            Control::Change(mut change) => {
                self.configure(change.job.live());
                let held = self.held.take().filter(|held| held.empty && held.job.same_attempt(&change.job));
                change.empty |= held.is_some();
                self.held = Some(change);
            }
            Control::Tls(tls) => self.tls = Some(tls),
        }
    }

    // ---- the end ----

    fn on_end(&mut self, end: End) {
        self.tell(&Fact::Ended(end.clone()));
        let outcome = match end {
            End::Succeeded(_) => Outcome::Succeeded,
            End::Stopped(Some(coordinator::Last::Failed { reason })) => Outcome::StoppedWithoutCheckpoint(reason),
            End::Stopped(_) => Outcome::Stopped,
            End::Failed { failure: Some(failure), .. } => Outcome::Failed(failure),
            End::Failed { failure: None, reason } => Outcome::GivenUp(reason),
            End::Refused { reason } => Outcome::Refused(self.refusal.take(), reason),
            End::Superseded { by } => Outcome::Superseded(by),
        };
        self.traffic.state(match outcome {
            Outcome::Succeeded => "finished",
            Outcome::Stopped | Outcome::StoppedWithoutCheckpoint(_) => "stopped",
            _ => "failed",
        });
        self.ended = Some(outcome);
    }

    /// Ends the processes, or lets go of them where they are another's now. What they still print is told.
    async fn finish(mut self, inlets: &mut Inlets, outcome: &Outcome) {
        if *outcome == Outcome::Killed {
            for process in self.roster.all() {
                self.platform.kill(process);
            }
        }
        let view = self.traffic.view(&self.roster);
        let theirs = matches!(outcome, Outcome::Left | Outcome::Superseded(_) | Outcome::Panicked(_));
        let finished = if theirs { self.platform.release() } else { self.platform.finish() };
        tokio::pin!(finished);
        loop {
            tokio::select! {
                () = &mut finished => break,
                Some(event) = inlets.platform.recv() => tell_printed(&mut *self.observer, self.clock.now(), event),
                Some(Control::Stop { .. } | Control::Kill | Control::Leave) = inlets.control.recv() => break,
            }
        }
        // The processes are gone; what they have said may still stand in the queue.
        while let Ok(event) = inlets.platform.try_recv() {
            tell_printed(&mut *self.observer, self.clock.now(), event);
        }
        self.observer.finish(&view);
    }
}

fn tell_printed(observer: &mut dyn Observer, now: Millis, event: PlatformEvent) {
    if let PlatformEvent::Printed { process, line } = event {
        observer.fact(now, &Fact::Printed { process, line });
    }
}

impl Worker {
    fn send(&self, message: to_worker::Message) {
        if let Some(session) = &self.session {
            session.send(message);
        }
    }
}
