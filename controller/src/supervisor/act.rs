//! What the two state machines ask for, carried out: through the platform, the workers' sessions, and tasks beside the loop
//! for all that waits for storage.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::sync::mpsc;
use weir_protocol::{
    Term, WorkerId,
    record::{Opening, Record, Slot, encode},
    rpc::{self, to_worker},
};
use weir_runtime::tasks;
use weir_storage::JobStore;

use super::{Done, Input, Outcome, Supervisor, panicked};
use crate::{
    attempt,
    coordinator::{self, Coordinator},
    effects::{self, TakeOver},
    facts::{
        Fact,
        history::History,
        observer::{StatusAnswer, StatusWrite},
        recovery::Breakdown,
        why::Why,
    },
    takeover::{Opened, Refusal, Request, Restore},
};

impl Supervisor {
    // ---- what the attempt machine asks for ----

    pub(super) fn carry_out(&mut self, action: attempt::Action) {
        use attempt::Action;
        match action {
            Action::StartWorker { version } => {
                let Some(wanted) = self.versions.get(&version) else { return };
                let process = self.platform.start(&wanted.job.template);
                self.roster.starting(process, wanted.job.template.hash.clone());
            }
            Action::AbandonStarts { template, count } => {
                for process in self.roster.abandon(&template, count) {
                    self.platform.stop(process);
                }
                self.note_workers();
                self.note_obstacles();
            }
            Action::Plan { worker, version } => self.plan(&worker, version),
            Action::TakeOver { resume, version } => {
                self.use_version(version);
                self.take_over(resume);
            }
            Action::DropCoordinator => {
                self.coordinator = None;
                self.asked.given_up();
                self.takes_last = false;
                self.note_checkpoint(History::given_up);
            }
            Action::Deploy { opening, workers, .. } => self.deploy(&opening, &workers),
            Action::Run { opening, workers, resumed } => self.start_coordinator(&opening, &workers, resumed),
            Action::TakeLast => {
                self.takes_last = true;
                self.inputs.push_back(Input::Coordinator(coordinator::Event::TakeLast));
            }
            Action::CarryOn => {
                self.takes_last = false;
                self.inputs.push_back(Input::Coordinator(coordinator::Event::CarryOn));
            }
            Action::Checkpoint => self.inputs.push_back(Input::Coordinator(coordinator::Event::TriggerNow)),
            Action::StopWorker { worker } => {
                let Some(process) = self.roster.process_of(&worker) else { return };
                if let Some(worker) = self.roster.get_mut(process) {
                    worker.send(to_worker::Message::Stop(rpc::Stop {}));
                    worker.gone = true;
                }
                self.platform.stop(process);
            }
            Action::Note(note) => self.on_attempt_note(note),
            Action::Ended(end) => self.on_end(end),
        }
    }

    pub(super) fn take_over(&mut self, resume: bool) {
        let (store, clock) = (self.store.clone(), self.clock);
        let request = Request { resume, ..self.request.clone() };
        self.probe.takes_over(true);
        self.beside(async move { Done::TakeOver(effects::take_over(&store, &request, || clock.now()).await) });
    }

    pub(super) fn deploy(&mut self, opening: &Arc<Opening>, workers: &[WorkerId]) {
        let told = |record: Option<&Arc<Record>>| match record {
            Some(record) => (record.reference().path(), encode(&Slot::Record((**record).clone()))),
            None => (String::new(), Vec::new()),
        };
        let opened = self.opened.as_deref();
        let (restore_path, restore_record) = told(opened.and_then(|opened| opened.restored.as_ref()));
        let (commits_path, commits_record) = told(opened.and_then(|opened| opened.commits.as_ref()));
        let message = rpc::Deploy {
            attempt: opening.attempt.0,
            plan_request: encode(&self.job.plan).into(),
            fingerprint: opening.fingerprint.clone(),
            parallelism: opening.workers * opening.slots,
            max_parallelism: opening.max_parallelism,
            peers: self.roster.peers(workers, opening.slots),
            restore_path,
            restore_record: restore_record.into(),
            settings: encode(&self.job.settings).into(),
            part_format: self.request.format,
            allow_new_state: self.job.upgrade.allow_new_state,
            allow_dropped_state: self.job.upgrade.allow_dropped_state,
            owner: opening.owner.clone(),
            cluster: opening.cluster.clone(),
            commits_path,
            commits_record: commits_record.into(),
            accept_lost_output: opening.accepts_lost_output,
        };
        self.roster.deploy(workers);
        self.traffic.attempt(opening.attempt.0);
        if let Some(recovery) = &mut self.recovery {
            recovery.deploying(opening.attempt.0);
        }
        for worker in workers {
            self.send(worker, to_worker::Message::Deploy(message.clone()));
        }
    }

    pub(super) fn start_coordinator(&mut self, opening: &Arc<Opening>, workers: &[WorkerId], resumed: bool) {
        if resumed {
            self.roster.deploy(workers);
            self.traffic.attempt(opening.attempt.0);
        }
        let Some(opened) = &self.opened else { return };
        let start = coordinator::Start {
            opening: opening.clone(),
            workers: workers.to_vec(),
            restored: opened.restored.clone(),
            inherited: opened.inherited.clone(),
            highest_id: opened.highest_id.max(self.roster.highest_checkpoint()),
            failed: self.traffic.failed_checkpoints(),
        };
        let (coordinator, actions) = Coordinator::new(self.clock.now(), self.job.policy, start);
        self.coordinator = Some((opening.term, coordinator));
        for action in actions {
            self.coordinate(opening.term, action);
        }
        if resumed {
            // They have said so at the begin of their sessions, before there was a coordinator to hear it.
            let attempt = opening.attempt;
            for worker in self.roster.deployed().filter(|worker| worker.finished == Some(attempt)) {
                let worker = worker.id.clone();
                let finished = worker.map(|worker| coordinator::Event::Finished { worker, attempt });
                self.inputs.extend(finished.map(Input::Coordinator));
            }
        }
        if self.asked.waits() {
            self.inputs.push_back(Input::Coordinator(coordinator::Event::TriggerNow));
        }
        // Also where it was resumed: the one before may have died before it could say so. Who runs already goes on.
        for worker in workers {
            self.send(worker, to_worker::Message::Run(rpc::Run { attempt: opening.attempt.0 }));
        }
    }

    // ---- what the coordinator asks for ----

    pub(super) fn coordinate(&mut self, term: Term, action: coordinator::Action) {
        use coordinator::{Action, Event};
        let attempt = self.opened.as_ref().map_or(0, |opened| opened.opening.attempt.0);
        match action {
            Action::Trigger { id, base } => {
                let base_path = base.map(|base| base.path()).unwrap_or_default();
                self.roster.triggered(id);
                self.broadcast(&to_worker::Message::Trigger(rpc::TriggerCheckpoint { attempt, id: id.0, base_path }));
            }
            Action::Cancel { id } => {
                self.broadcast(&to_worker::Message::Cancel(rpc::CancelCheckpoint { attempt, id: id.0 }));
            }
            Action::Commit { worker, id } => {
                self.send(&worker, to_worker::Message::Commit(rpc::Commit { attempt, id: id.0 }));
            }
            Action::Hold(hold) => self.broadcast(&to_worker::Message::Hold(rpc::Hold { attempt, hold })),
            Action::CreateRecord(record) => self.work(term, move |store| async move {
                let outcome = effects::create_record(&store, &record).await;
                Event::Created { number: record.number, outcome }
            }),
            Action::WriteStatus(pointer) => self.write_status(term, pointer),
            Action::ReadNames(record) => self.work(term, move |store| async move {
                let names = effects::read_names(&store, &record).await;
                Event::NamesRead { record: record.reference(), names }
            }),
            Action::ListLeftovers => {
                self.work(term, |store| async move { Event::Leftovers(effects::list_leftovers(&store).await) });
            }
            Action::Remove(removals) => self.work(term, move |store| async move {
                Event::Removed { complete: effects::remove(&store, &removals).await }
            }),
            Action::Look { paths } => self.work(term, |store| async move {
                Event::Looked { missing: effects::first_missing(&store, paths).await }
            }),
            Action::Gone { path } => {
                let refusal = Refusal::Gone { path: format!("{}/{path}", self.store.name()) };
                self.inputs.push_back(Input::Attempt(attempt::Event::StorageGone { reason: refusal.to_string() }));
                self.refusal = Some(refusal);
            }
            Action::Note(note) => self.on_coordinator_note(note),
            Action::Succeeded(record) => {
                self.inputs.push_back(Input::Attempt(attempt::Event::Succeeded(record)));
            }
            Action::LastTaken(last) => self.inputs.push_back(Input::Attempt(attempt::Event::LastTaken(last))),
            Action::Superseded { by } => {
                self.inputs.push_back(Input::Attempt(attempt::Event::Superseded { by }));
            }
        }
    }

    fn write_status(&mut self, term: Term, pointer: coordinator::StatusPointer) {
        let record = pointer.record.reference();
        let write = StatusWrite {
            record: format!("{}/{}", self.store.name(), record.path()),
            pointer,
            failed_since_latest: self.traffic.failed_checkpoints(),
        };
        let (answer, answered) = StatusAnswer::new();
        self.observer.write_status(write, answer);
        self.work(term, move |_| async move {
            // No answer is an answer in doubt.
            let outcome = answered.await.unwrap_or(coordinator::StatusOutcome::InDoubt);
            coordinator::Event::StatusWritten { record, outcome }
        });
    }

    /// Does something beside the loop, and brings the answer back to the coordinator of the same term.
    pub(super) fn work<F>(&self, term: Term, work: impl FnOnce(JobStore) -> F)
    where
        F: Future<Output = coordinator::Event> + Send + 'static,
    {
        let work = work(self.store.clone());
        self.beside(async move { Done::Coordinator(term, work.await) });
    }

    /// Does something beside the loop.
    pub(super) fn beside(&self, work: impl Future<Output = Done> + Send + 'static) {
        tasks::spawn(answer(work, self.done.clone()));
    }

    pub(super) fn on_done(&mut self, done: Done) {
        if let Done::TakeOver(_) = done {
            self.probe.takes_over(false);
        }
        match done {
            Done::Coordinator(term, event) => {
                if self.coordinator.as_ref().is_some_and(|(current, _)| *current == term) {
                    self.inputs.push_back(Input::Coordinator(event));
                }
            }
            Done::Planned(version, result) => self.on_planned(version, result),
            Done::Probed(failure) => self.on_probed(failure),
            Done::Panicked(cause) => self.ended = Some(Outcome::Panicked(cause)),
            Done::TakeOver(TakeOver::Opened(opened)) => self.on_opened(opened),
            Done::TakeOver(TakeOver::Failed(reason)) => {
                self.inputs.push_back(Input::Attempt(attempt::Event::TakeOverFailed { reason }));
            }
            Done::TakeOver(TakeOver::Refused(refusal)) => {
                let reason = refusal.to_string();
                self.refusal = Some(refusal);
                self.inputs.push_back(Input::Attempt(attempt::Event::TakeOverRefused { reason }));
            }
            Done::TakeOver(TakeOver::Lost(to)) => {
                let by = Some(to.coordinator.clone());
                self.inputs.push_back(Input::Attempt(attempt::Event::Superseded { by }));
            }
        }
    }

    pub(super) fn on_opened(&mut self, opened: Box<Opened>) {
        // A wish acts once: whatever comes after goes on from the end of the chain.
        self.request.restore = Restore::Latest;
        self.request.adopt = false;
        self.request.wish = None;
        self.request.after = Some(opened.opening.term);
        self.request.accept_lost_output = false;
        self.version_began();
        if let Some(recovery) = &mut self.recovery {
            recovery.term_opened();
        }
        let why = self.recovery.as_ref().map_or(Why::Failure, Breakdown::why);
        let (opening, restored) = (opened.opening.clone(), opened.restored.clone());
        self.tell(&Fact::TermOpened { opening, restored, why });
        // Nobody waits for it: it is for the next takeover.
        let (store, began) = (self.store.clone(), opened.clone());
        tasks::spawn(async move { effects::write_start(&store, &began).await });
        let opening = opened.opening.clone();
        // The parts of a record stand in slot order.
        let order = opened.restored.iter().filter(|record| record.attempt == opening.attempt);
        let order = order.flat_map(|record| &record.parts).map(|part| part.worker.clone()).collect();
        self.opened = Some(opened);
        self.resuming = false;
        for process in self.roster.alive() {
            self.open_session(process);
        }
        self.inputs.push_back(Input::Attempt(attempt::Event::TakenOver { opening, order }));
    }

    // ---- sending ----

    pub(super) fn send(&self, worker: &WorkerId, message: to_worker::Message) {
        if let Some(worker) = self.roster.by_id(worker) {
            worker.send(message);
        }
    }

    pub(super) fn broadcast(&self, message: &to_worker::Message) {
        for worker in self.roster.deployed() {
            worker.send(message.clone());
        }
    }
}

/// The loop waits for an answer: also where that is only that there is none.
async fn answer(work: impl Future<Output = Done> + Send, done: mpsc::Sender<Done>) {
    let answer = AssertUnwindSafe(work).catch_unwind().await;
    let answer = answer.unwrap_or_else(|panic| Done::Panicked(panicked(panic.as_ref())));
    let _ = done.send(answer).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_beside_the_loop_is_told_to_it() {
        let (done, mut answers) = mpsc::channel(1);
        answer(async { panic!("injected") }, done).await;
        assert!(matches!(answers.recv().await, Some(Done::Panicked(cause)) if cause == "injected"));
    }
}
