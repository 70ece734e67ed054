//! What the platform and the workers' sessions tell, put into the state machines' words.

use std::time::Duration;

use weir_protocol::{
    Attempt, CheckpointId, Term, WorkerId,
    rpc::{self, from_worker},
};
use weir_runtime::clock;

use super::{Input, LAST_WORD, Outcome, Supervisor};
use crate::{
    attempt, coordinator,
    facts::{Fact, recovery::Breakdown},
    platform::{PlatformEvent, ProcessNumber},
    workers::{
        roster,
        session::{FIRST_PATIENCE, Session, SessionEvent, SessionId},
    },
};

impl Supervisor {
    // ---- what the platform tells ----

    pub(super) fn on_platform(&mut self, event: PlatformEvent) {
        match event {
            PlatformEvent::Found { processes } => self.found(processes),
            PlatformEvent::Waiting { process, obstacle } => {
                self.roster.waits(process, obstacle.clone());
                self.tell(&Fact::WorkerWaits { process, obstacle });
            }
            PlatformEvent::Beside { process, trouble } => {
                if let Some(worker) = self.roster.get_mut(process) {
                    worker.trouble = trouble;
                }
            }
            PlatformEvent::Leaving { process, reason } => self.leaves(process, reason),
            PlatformEvent::Started { process, name, address, pid, template } => {
                self.roster.started(process, name, address, pid, template);
                // A worker that runs an attempt knows a term, which a session must not go below.
                if !self.resuming {
                    self.open_session(process);
                }
                self.note_workers();
            }
            PlatformEvent::StartFailed { process, reason, hopeless } => {
                let template = self.roster.template_of(process).cloned();
                self.roster.remove(process);
                if hopeless {
                    self.ended = Some(Outcome::NoWorkers(reason));
                } else if let Some(template) = template {
                    self.inputs.push_back(Input::Attempt(attempt::Event::StartFailed { template, reason }));
                }
            }
            PlatformEvent::Died { process, how } => {
                let broken = self.roster.get_mut(process).filter(|worker| worker.broken);
                if let Some(name) = broken.map(|worker| worker.name.clone()) {
                    self.tell(&Fact::WorkerEnded { name, how: how.clone() });
                }
                self.lost(process, &how);
                self.roster.remove(process);
                self.note_workers();
            }
            PlatformEvent::Printed { process, line } => self.tell(&Fact::Printed { process, line }),
        }
        self.note_obstacles();
    }

    /// Tells what has changed of what is in the way of workers, or wrong beside them.
    pub(super) fn note_obstacles(&mut self) {
        for (template, by) in self.roster.blocked_anew() {
            self.inputs.push_back(Input::Attempt(attempt::Event::Blocked { template, by }));
        }
        let trouble = self.roster.trouble();
        if trouble != self.trouble {
            self.trouble.clone_from(&trouble);
            self.tell(&Fact::Beside { trouble });
        }
    }

    /// The workers that another controller has left. Where there are any, an attempt may run on them.
    fn found(&mut self, processes: Vec<(ProcessNumber, String)>) {
        if !std::mem::take(&mut self.awaits_found) {
            return;
        }
        if processes.is_empty() {
            self.inputs.push_back(Input::Attempt(attempt::Event::Start));
            return;
        }
        self.resuming = true;
        self.recovery = Some(Breakdown::new("resume"));
        for (process, template) in &processes {
            self.roster.starting(*process, template.clone());
        }
        let found = processes.into_iter().map(|(_, template)| template).collect();
        self.inputs.push_back(Input::Attempt(attempt::Event::Resume { found }));
    }

    fn leaves(&mut self, process: ProcessNumber, reason: String) {
        let Some(worker) = self.roster.get_mut(process).filter(|worker| !worker.leaving && !worker.gone) else {
            return;
        };
        worker.leaving = true;
        let (name, id) = (worker.name.clone(), worker.id.clone().filter(|_| worker.ready));
        self.tell(&Fact::WorkerLeaves { name, reason });
        if let Some(worker) = id {
            self.inputs.push_back(Input::Attempt(attempt::Event::WorkerLeaving { worker }));
        }
    }

    /// Tells the machines, once, that a worker is gone.
    pub(super) fn lost(&mut self, process: ProcessNumber, cause: &str) {
        let Some(worker) = self.roster.get_mut(process) else { return };
        if worker.gone {
            return;
        }
        worker.gone = true;
        worker.session = None;
        match worker.id.clone().filter(|_| worker.ready) {
            Some(id) => {
                if self.recovery.as_ref().is_none_or(Breakdown::is_over) {
                    self.recovery = Some(Breakdown::new("worker"));
                }
                let cause = cause.to_string();
                self.inputs.push_back(Input::Coordinator(coordinator::Event::SessionLost { worker: id.clone() }));
                self.inputs.push_back(Input::Attempt(attempt::Event::WorkerLost { worker: id, cause }));
            }
            None => {
                let reason = format!("{} ended before it was ready: {cause}", worker.name);
                let template = worker.template.clone();
                self.inputs.push_back(Input::Attempt(attempt::Event::StartFailed { template, reason }));
            }
        }
    }

    // ---- what the sessions tell ----

    fn term(&self) -> Term {
        self.opened.as_ref().map_or(Term(0), |opened| opened.opening.term)
    }

    pub(super) fn open_session(&mut self, process: ProcessNumber) {
        let term = self.term();
        let Some(worker) = self.roster.get_mut(process) else { return };
        let (id, tls, events) = (SessionId { process, term }, self.tls.clone(), self.sessions.clone());
        let (job, coordinator) = (&self.job.name, &self.request.coordinator);
        // One that has been spoken to before is known to be reachable, unless it is gone.
        let patience = if worker.ready { Duration::ZERO } else { FIRST_PATIENCE };
        worker.session = Some(Session::open(id, &worker.address, patience, job, coordinator, tls, events));
    }

    pub(super) fn on_session(&mut self, id: SessionId, event: SessionEvent) {
        let Some(worker) = self.roster.get_mut(id.process) else { return };
        if worker.session.as_ref().map(Session::term) != Some(id.term) {
            return;
        }
        match event {
            SessionEvent::Lost { reason } => self.roster.suspect(id.process, reason, clock::now() + LAST_WORD),
            SessionEvent::Said(message, _room) => self.on_message(id.process, *message),
        }
    }

    pub(super) fn on_message(&mut self, process: ProcessNumber, message: from_worker::Message) {
        use from_worker::Message;
        if let Message::Welcome(welcome) = &message
            && !self.roster.identified(process, &WorkerId(welcome.worker.clone()))
        {
            let reason = format!("another process answers at its address: {}", welcome.worker);
            self.roster.suspect(process, reason, clock::now());
            return;
        }
        let opened = self.opened.as_ref().map(|opened| opened.opening.term);
        let Some(worker) = self.roster.get_mut(process) else { return };
        let id = match (&worker.id, &message) {
            (Some(id), _) => id.clone(),
            (None, Message::Refused(_)) => WorkerId(String::new()),
            // Who has not said who it is has nothing to say.
            (None, _) => return,
        };
        match message {
            Message::Welcome(welcome) => {
                worker.highest_checkpoint = worker.highest_checkpoint.max(CheckpointId(welcome.highest_checkpoint));
                if !worker.ready {
                    worker.ready = true;
                    let (attempt, template, leaving) =
                        (Attempt(welcome.attempt), worker.template.clone(), worker.leaving);
                    if let Some(recovery) = &mut self.recovery {
                        recovery.worker_ready();
                    }
                    let deploying = welcome.deploying;
                    let ready = attempt::Event::WorkerReady { worker: id.clone(), attempt, deploying, template };
                    self.inputs.push_back(Input::Attempt(ready));
                    if leaving {
                        self.inputs.push_back(Input::Attempt(attempt::Event::WorkerLeaving { worker: id }));
                    }
                    // Whoever stands by is there from now on.
                    self.note_workers();
                }
            }
            // Only who has opened a later term can have told it of one: the job is another's now, and so are its workers.
            Message::Refused(refused) if opened.is_some_and(|term| refused.highest_term > term.0) => {
                self.inputs.push_back(Input::Attempt(attempt::Event::Superseded { by: None }));
            }
            Message::Refused(refused) => {
                let reason = format!("it refused the session: {}", refused.reason);
                self.roster.suspect(process, reason, clock::now());
            }
            Message::Deployed(deployed) => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.deployed(&deployed);
                }
                let opened = self.opened.as_deref().filter(|opened| opened.opening.attempt.0 == deployed.attempt);
                self.inputs.push_back(Input::Attempt(roster::deployed(id, &deployed, opened)));
            }
            Message::Acked(acked) => {
                self.traffic.acked(&acked);
                let name = worker.name.clone();
                self.history.acked(self.clock.now(), &name, &acked);
                self.inputs.push_back(Input::Coordinator(coordinator::Event::Acked(roster::ack(id, acked))));
            }
            Message::Declined(declined) => {
                self.inputs.push_back(Input::Coordinator(coordinator::Event::Declined {
                    worker: id,
                    attempt: Attempt(declined.attempt),
                    id: CheckpointId(declined.id),
                    reason: declined.reason,
                }));
            }
            Message::Committed(committed) => {
                self.inputs.push_back(Input::Coordinator(coordinator::Event::Committed {
                    worker: id,
                    attempt: Attempt(committed.attempt),
                    id: CheckpointId(committed.id),
                }));
            }
            Message::Finished(finished) => {
                let attempt = Attempt(finished.attempt);
                worker.finished = Some(attempt);
                self.inputs.push_back(Input::Coordinator(coordinator::Event::Finished { worker: id, attempt }));
            }
            Message::TaskFailed(failed) => {
                let failure = roster::failure(id, failed);
                self.inputs.push_back(Input::Attempt(attempt::Event::TaskFailed(failure)));
            }
            Message::Stats(stats) => self.on_stats(process, &stats),
            // Its node shuts down, or is short of something: nobody deletes the pod then, and its object says nothing in time.
            Message::Leaving(_) => self.leaves(process, "it was told to end".to_string()),
            Message::Pong(_) => {}
        }
    }

    pub(super) fn on_stats(&mut self, process: ProcessNumber, stats: &rpc::Stats) {
        let Some(worker) = self.roster.get_mut(process) else { return };
        let before = std::mem::replace(&mut worker.pending_commits, stats.pending_commits);
        // Also where it stays the same: a coordinator may have come since.
        if before.max(stats.pending_commits) > 0
            && let Some(worker) = worker.id.clone()
        {
            let (attempt, commits) = (Attempt(stats.attempt), stats.pending_commits);
            self.inputs.push_back(Input::Coordinator(coordinator::Event::Pending { worker, attempt, commits }));
        }
        let Some(worker) = self.roster.get_mut(process) else { return };
        worker.stats.update(stats);
        self.traffic.update(&self.roster);
        let failure = self.roster.unpublished();
        if failure.is_some() != self.unpublished {
            self.unpublished = failure.is_some();
            self.tell(&Fact::Publishing { failure });
        }
        if stats.first_output_us > 0
            && let Some(recovery) = &mut self.recovery
            && recovery.first_output(stats.attempt, Duration::from_micros(stats.first_output_us))
        {
            let fact = Fact::FirstOutput(recovery.clone());
            self.tell(&fact);
        }
    }
}
