//! What the platform and the workers' sessions tell, put into the state machines' words.

use std::time::{Duration, Instant};

use weir_protocol::{
    Attempt, CheckpointId, Term, WorkerId,
    rpc::{self, from_worker},
};

use super::{Input, LAST_WORD, Outcome, Supervisor, observer::Fact, recovery::Breakdown, roster};
use crate::{
    attempt, coordinator,
    platform::{PlatformEvent, ProcessNumber},
    session::{Session, SessionEvent, SessionId},
};

impl Supervisor {
    // ---- what the platform tells ----

    pub(super) fn on_platform(&mut self, event: PlatformEvent) {
        match event {
            // Nothing was there before on this machine; who adopts is told before.
            PlatformEvent::Found { .. } => {}
            PlatformEvent::Waiting { process, reason } => self.tell(&Fact::WorkerWaits { process, reason }),
            PlatformEvent::Leaving { .. } => {}
            PlatformEvent::Started { process, name, address, pid, template } => {
                self.roster.started(process, name, address, pid, template);
                self.open_session(process);
                self.note_workers();
            }
            PlatformEvent::StartFailed { process, reason, hopeless } => {
                self.roster.remove(process);
                if hopeless {
                    self.ended = Some(Outcome::NoWorkers(reason));
                } else {
                    self.inputs.push_back(Input::Attempt(attempt::Event::StartFailed { reason }));
                }
            }
            PlatformEvent::Died { process, how } => {
                self.lost(process, &how);
                self.roster.remove(process);
                self.note_workers();
            }
            PlatformEvent::Printed { process, line } => self.tell(&Fact::Printed { process, line }),
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
                self.inputs.push_back(Input::Attempt(attempt::Event::StartFailed { reason }));
            }
        }
    }

    // ---- what the sessions tell ----

    pub(super) fn open_session(&mut self, process: ProcessNumber) {
        let term = self.opened.as_ref().map_or(Term(0), |opened| opened.opening.term);
        let Some(worker) = self.roster.get_mut(process) else { return };
        let id = SessionId { process, term };
        worker.session =
            Some(Session::open(id, &worker.address, &self.job.name, &self.request.coordinator, self.sessions.clone()));
    }

    pub(super) fn on_session(&mut self, id: SessionId, event: SessionEvent) {
        let Some(worker) = self.roster.get_mut(id.process) else { return };
        if worker.session.as_ref().map(Session::term) != Some(id.term) {
            return;
        }
        match event {
            SessionEvent::Lost { reason } => self.roster.suspect(id.process, reason, Instant::now() + LAST_WORD),
            SessionEvent::Said(message) => self.on_message(id.process, *message),
        }
    }

    pub(super) fn on_message(&mut self, process: ProcessNumber, message: from_worker::Message) {
        use from_worker::Message;
        if let Message::Welcome(welcome) = &message
            && !self.roster.identified(process, &WorkerId(welcome.worker.clone()))
        {
            let reason = format!("another process answers at its address: {}", welcome.worker);
            self.roster.suspect(process, reason, Instant::now());
            return;
        }
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
                    let attempt = Attempt(welcome.attempt);
                    if let Some(recovery) = &mut self.recovery {
                        recovery.worker_ready();
                    }
                    self.inputs.push_back(Input::Attempt(attempt::Event::WorkerReady { worker: id, attempt }));
                }
            }
            Message::Refused(refused) => {
                let reason = format!("it refused the session: {}", refused.reason);
                self.roster.suspect(process, reason, Instant::now());
            }
            Message::Deployed(deployed) => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.deployed(&deployed);
                }
                let attempt = Attempt(deployed.attempt);
                self.inputs.push_back(Input::Attempt(attempt::Event::Deployed { worker: id, attempt }));
            }
            Message::Acked(acked) => {
                self.traffic.acked(&acked);
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
                self.inputs.push_back(Input::Coordinator(coordinator::Event::Finished { worker: id, attempt }));
            }
            Message::TaskFailed(failed) => {
                let failure = roster::failure(id, failed);
                self.inputs.push_back(Input::Attempt(attempt::Event::TaskFailed(failure)));
            }
            Message::Stats(stats) => self.on_stats(process, &stats),
            Message::Pong(_) => {}
        }
    }

    pub(super) fn on_stats(&mut self, process: ProcessNumber, stats: &rpc::Stats) {
        let Some(worker) = self.roster.get_mut(process) else { return };
        worker.stats.update(stats);
        self.traffic.update(&self.roster);
        if stats.first_output_us > 0
            && let Some(recovery) = &mut self.recovery
            && recovery.first_output(stats.attempt, Duration::from_micros(stats.first_output_us))
        {
            let fact = Fact::FirstOutput(recovery.clone());
            self.tell(&fact);
        }
    }
}
