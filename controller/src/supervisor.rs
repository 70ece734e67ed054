//! One running job: a loop that reads events from the platform, the workers' sessions, storage and the clock, gives them to
//! the two pure state machines (`attempt`, `coordinator`), and carries out what they ask for. It decides nothing itself.

mod act;
mod hear;
mod recovery;
mod roster;
mod status;
mod traffic;

pub use status::in_words;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{signal::unix, sync::mpsc};
use weir_protocol::{Term, rpc::to_worker};
use weir_storage::JobStore;

use self::{
    recovery::Recovery,
    roster::{Roster, Worker},
    traffic::Traffic,
};
use crate::{
    attempt::{self, AttemptMachine, End},
    coordinator::{self, Coordinator},
    effects::TakeOver,
    job::LocalJob,
    platform::{Platform, PlatformEvent},
    session::{SessionEvent, SessionId},
    state_dir::StateDir,
    takeover::{Opened, Refusal, Request, Restore},
    time::Millis,
    ui::{Ui, Weight},
};

/// Events of one kind on their way to the loop. It reads them much faster than they come; a full queue holds the senders.
const QUEUE: usize = 1024;
/// From one redraw to the next.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);
/// A broken session is nearly always a dead process, whose end says more than the connection's: so long is waited for it.
const LAST_WORD: Duration = Duration::from_millis(15);

/// How a run ended, for the process's exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All input was read, and all output is published.
    Succeeded,
    /// Stopped as asked; the next run goes on from the newest checkpoint.
    Stopped,
    /// Stopped as asked, but the last checkpoint could not be taken: the next run goes on from the one before.
    StoppedWithoutCheckpoint(String),
    /// Stopped at once.
    Killed,
    /// The job failed.
    Failed(attempt::Failure),
    /// The job was given up.
    GivenUp(String),
    /// The storage must not be taken over.
    Refused(Option<Refusal>, String),
    /// Another coordinates the job now.
    Superseded(Option<String>),
    /// No worker can be started here.
    NoWorkers(String),
}

/// What the loop is told by tasks of its own.
enum Done {
    TakeOver(TakeOver),
    Coordinator(Term, coordinator::Event),
}

/// What waits to be given to a state machine.
enum Input {
    Attempt(attempt::Event),
    Coordinator(coordinator::Event),
}

/// What a supervisor is made of.
pub struct Parts {
    /// The job.
    pub job: LocalJob,
    /// Its plan's fingerprint.
    pub fingerprint: String,
    /// A name for this process that no other ever has.
    pub coordinator: String,
    /// What the first attempt restores.
    pub restore: Restore,
    /// Take over even where another owner's opening stands.
    pub adopt: bool,
    /// Its objects.
    pub store: JobStore,
    /// Where it works.
    pub state_dir: Arc<StateDir>,
    /// Where workers come from, and what is told of them.
    pub platform: Box<dyn Platform>,
    /// See `platform`.
    pub platform_events: mpsc::Receiver<PlatformEvent>,
    /// Shows the run.
    pub ui: Box<dyn Ui>,
    /// The YAML's wish to restore, written down once it has been acted upon.
    pub restore_wish: Option<String>,
}

/// Milliseconds that never go backwards, anchored once at the wall clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    wall: u64,
    begun: Instant,
}

impl Clock {
    fn start() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { wall: u64::try_from(wall.as_millis()).unwrap_or_default(), begun: Instant::now() }
    }

    fn now(self) -> Millis {
        Millis(self.wall) + self.begun.elapsed()
    }

    fn instant(self, at: Millis) -> Instant {
        self.begun + Duration::from_millis(at.0.saturating_sub(self.wall))
    }
}

/// The loop's state.
pub struct Supervisor {
    job: LocalJob,
    request: Request,
    store: JobStore,
    state_dir: Arc<StateDir>,
    platform: Box<dyn Platform>,
    ui: Box<dyn Ui>,
    restore_wish: Option<String>,
    clock: Clock,
    attempt: AttemptMachine,
    coordinator: Option<(Term, Coordinator)>,
    /// The newest term that was ours.
    opened: Option<Box<Opened>>,
    roster: Roster,
    traffic: Traffic,
    recovery: Option<Recovery>,
    refusal: Option<Refusal>,
    inputs: VecDeque<Input>,
    ended: Option<Outcome>,
    stopping: bool,
    sessions: mpsc::Sender<(SessionId, SessionEvent)>,
    done: mpsc::Sender<Done>,
}

/// Where events come in.
struct Inlets {
    platform: mpsc::Receiver<PlatformEvent>,
    sessions: mpsc::Receiver<(SessionId, SessionEvent)>,
    done: mpsc::Receiver<Done>,
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

/// Runs a job to its end.
pub async fn run(parts: Parts) -> std::io::Result<Outcome> {
    let (sessions, session_events) = mpsc::channel(QUEUE);
    let (done, done_events) = mpsc::channel(QUEUE);
    let inlets = Inlets {
        platform: parts.platform_events,
        sessions: session_events,
        done: done_events,
        interrupt: unix::signal(unix::SignalKind::interrupt())?,
        terminate: unix::signal(unix::SignalKind::terminate())?,
    };
    let job = parts.job;
    let supervisor = Supervisor {
        request: Request {
            job: job.name.clone(),
            coordinator: parts.coordinator,
            owner: parts.state_dir.owner().to_string(),
            cluster: "local".to_string(),
            adopt: parts.adopt,
            resume: false,
            restore: parts.restore,
            workers: job.workers,
            slots: job.slots,
            max_parallelism: job.plan.max_parallelism,
            fingerprint: parts.fingerprint,
            retain: job.policy.retain,
        },
        attempt: AttemptMachine::new(job.restart, job.size()),
        traffic: Traffic::new(job.name.to_string()),
        job,
        store: parts.store,
        state_dir: parts.state_dir,
        platform: parts.platform,
        ui: parts.ui,
        restore_wish: parts.restore_wish,
        clock: Clock::start(),
        coordinator: None,
        opened: None,
        roster: Roster::default(),
        recovery: Some(Recovery::new("start")),
        refusal: None,
        inputs: VecDeque::new(),
        ended: None,
        stopping: false,
        sessions,
        done,
    };
    Ok(supervisor.run(inlets).await)
}

impl Supervisor {
    async fn run(mut self, mut inlets: Inlets) -> Outcome {
        self.inputs.push_back(Input::Attempt(attempt::Event::Start));
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
                _ = inlets.interrupt.recv() => self.on_signal("Ctrl-C"),
                _ = inlets.terminate.recv() => self.on_signal("a signal to end"),
                () = tokio::time::sleep_until(wake.into()) => self.on_wake(),
                _ = shown.tick() => {
                    let view = self.traffic.view(&self.roster);
                    self.ui.show(&view);
                }
            }
        };
        self.finish(&mut inlets, matches!(outcome, Outcome::Killed)).await;
        outcome
    }

    /// Gives the machines what waits for them, until nothing does.
    fn settle(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let now = self.clock.now();
            match input {
                Input::Attempt(event) => {
                    for action in self.attempt.on(now, event) {
                        self.carry_out(action);
                    }
                }
                Input::Coordinator(event) => {
                    let Some((term, coordinator)) = &mut self.coordinator else { continue };
                    let term = *term;
                    for action in coordinator.on(now, event) {
                        self.coordinate(term, action);
                    }
                }
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let machines = [self.attempt.next_wake(), self.coordinator.as_ref().and_then(|(_, c)| c.next_wake())];
        let machines = machines.into_iter().flatten().map(|at| self.clock.instant(at));
        let far = Instant::now() + Duration::from_secs(1);
        machines.chain(self.roster.next_suspicion()).min().unwrap_or(far).min(far)
    }

    fn on_wake(&mut self) {
        for (process, reason) in self.roster.suspicions_due() {
            self.platform.kill(process);
            self.lost(process, &reason);
        }
        self.inputs.push_back(Input::Attempt(attempt::Event::Tick));
        self.inputs.push_back(Input::Coordinator(coordinator::Event::Tick));
    }

    fn on_signal(&mut self, what: &str) {
        if self.stopping {
            self.tell(Weight::Bad, "stopping at once; the next run goes on from the newest checkpoint");
            self.traffic.state("stopped");
            self.ended = Some(Outcome::Killed);
            return;
        }
        self.stopping = true;
        self.traffic.state("stopping");
        self.tell(Weight::Change, &format!("{what}: a last checkpoint, then an end; once more stops at once"));
        self.inputs.push_back(Input::Attempt(attempt::Event::Stop { last_checkpoint: true }));
    }

    // ---- the end ----

    fn on_end(&mut self, end: End) {
        match &end {
            End::Succeeded(record) => {
                let line =
                    format!("finished: all input is read, all output up to checkpoint {} is published", record.id);
                self.tell(Weight::Good, &line);
            }
            End::Stopped(Some(coordinator::Last::Taken { record, .. })) => {
                self.tell(Weight::Good, &format!("stopped; running again goes on from checkpoint {}", record.id));
            }
            _ => {}
        }
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

    /// Ends the processes. What they still print is shown.
    async fn finish(mut self, inlets: &mut Inlets, at_once: bool) {
        if at_once {
            for process in self.roster.all() {
                self.platform.kill(process);
            }
        }
        let view = self.traffic.view(&self.roster);
        let finished = self.platform.finish();
        tokio::pin!(finished);
        loop {
            tokio::select! {
                () = &mut finished => break,
                Some(event) = inlets.platform.recv() => {
                    if let PlatformEvent::Printed { line, .. } = event {
                        self.ui.printed(&line);
                    }
                }
                _ = inlets.interrupt.recv() => break,
            }
        }
        self.ui.finish(&view);
    }
}

impl Worker {
    fn send(&self, message: to_worker::Message) {
        if let Some(session) = &self.session {
            session.send(message);
        }
    }
}
