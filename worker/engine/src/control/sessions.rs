//! Sessions: which one counts, what is refused, and what of a coordinator that is gone is given up.

use weir_protocol::{
    BUILD_VERSION, PROTOCOL_VERSION,
    rpc::{FromWorker, Hello, Leaving, Refused, ToWorker, Welcome, from_worker::Message as Answer, to_worker::Message},
};
use weir_runtime::clock;

use super::{Control, ORPHANED, Session};
use crate::deploy::Deployment;

impl Control {
    /// The session that counts: of the newest term, and of those the newest.
    pub(super) fn current(&self) -> Option<&Session> {
        let current = self.sessions.iter().filter(|session| session.term == Some(self.highest_term));
        current.max_by_key(|session| session.id)
    }

    /// Says something in the session that counts. Where there is none, the next one is told what it has to know.
    pub(super) fn tell(&self, answer: Answer) {
        match &answer {
            Answer::Acked(_) => self.host.metrics.acked(),
            Answer::Declined(_) => self.host.metrics.declined(),
            _ => {}
        }
        if let Some(session) = self.current() {
            // A session that has just broken ends with its own event.
            drop(session.outbox.send(FromWorker { message: Some(answer) }));
        }
    }

    pub(super) fn on_session_ended(&mut self, session: u64, reason: &str) {
        let counted = self.current().is_some_and(|current| current.id == session);
        self.sessions.retain(|known| known.id != session);
        if !counted || self.ended {
            return;
        }
        tracing::info!(term = self.highest_term, reason, "the coordinator's session ended");
        self.cancel_orphans();
    }

    /// Gives up what a coordinator that is gone has begun, here or by a peer's barrier: nobody is left to end a checkpoint that
    /// waits for somebody, and it must not hold the data back.
    pub(super) fn cancel_orphans(&mut self) {
        let Some(standing) = &mut self.standing else { return };
        let Deployment { checkpoints, network, running, .. } = &mut standing.deployment;
        let id = checkpoints.under_way().max(Some(network.highest_barrier())).unwrap_or_default();
        if !checkpoints.is_cancelled(id) {
            running.cancel(id);
            checkpoints.cancel(id);
        }
    }

    /// A peer has sent a barrier of a checkpoint that nobody triggers here.
    pub(super) fn is_orphaned(&mut self) -> bool {
        let Some(standing) = &mut self.standing else { return false };
        let barrier = standing.deployment.network.highest_barrier();
        if barrier <= standing.triggered {
            standing.early = None;
            return false;
        }
        match standing.early {
            Some((noticed, since)) if noticed == barrier => clock::since(since) >= ORPHANED,
            _ => {
                standing.early = Some((barrier, clock::now()));
                false
            }
        }
    }

    /// Refuses a session and ends it.
    fn refuse(&mut self, session: u64, reason: String) {
        tracing::warn!(reason, "a session is refused");
        if let Some(place) = self.sessions.iter().position(|known| known.id == session) {
            let refused = self.sessions.swap_remove(place);
            let answer = Refused { reason, highest_term: self.highest_term };
            drop(refused.outbox.send(FromWorker { message: Some(Answer::Refused(answer)) }));
        }
    }

    pub(super) fn on_said(&mut self, session: u64, said: ToWorker) {
        let Some(known) = self.sessions.iter().find(|known| known.id == session) else { return };
        let Some(message) = said.message else { return };
        if said.term < self.highest_term {
            let reason = format!("term {} is over: a coordinator has opened term {}", said.term, self.highest_term);
            return self.refuse(session, reason);
        }
        match (known.term, message) {
            (None, Message::Hello(hello)) => self.on_hello(session, said.term, hello),
            (None, _) => self.refuse(session, "a session begins with Hello".to_string()),
            (Some(_), Message::Hello(_)) => self.refuse(session, "a session says Hello once".to_string()),
            (Some(_), message) => {
                self.set_term(session, said.term);
                self.on_message(message);
            }
        }
    }

    fn set_term(&mut self, session: u64, term: u64) {
        self.highest_term = self.highest_term.max(term);
        if let Some(known) = self.sessions.iter_mut().find(|known| known.id == session) {
            known.term = Some(term);
        }
    }

    fn on_hello(&mut self, session: u64, term: u64, hello: Hello) {
        if hello.protocol_version != PROTOCOL_VERSION {
            let reason = format!(
                "protocol version {} is spoken to a worker of version {PROTOCOL_VERSION} (build {BUILD_VERSION}): \
                 coordinator and workers must be of one version",
                hello.protocol_version
            );
            return self.refuse(session, reason);
        }
        let job = (hello.namespace, hello.job);
        let ours = self.job.get_or_insert_with(|| job.clone());
        if *ours != job {
            let reason = format!("this worker belongs to job {}/{} and not {}/{}", ours.0, ours.1, job.0, job.1);
            return self.refuse(session, reason);
        }
        self.host.metrics.of_job(&ours.1);
        self.set_term(session, term);
        // Whether too much output waits the new coordinator sees by itself.
        if let Some(standing) = &self.standing {
            standing.deployment.running.hold(false);
        }
        // Ids of the new term are above all that were seen, and nobody waits for those of the old one.
        self.cancel_orphans();
        // Whoever spoke before has been followed.
        let outdated: Vec<u64> = self
            .sessions
            .iter()
            .filter(|known| known.id != session && known.term.is_some())
            .map(|known| known.id)
            .collect();
        for old in outdated {
            self.refuse(old, format!("coordinator {} has opened term {term}", hello.coordinator));
        }
        let barriers = self.standing.as_ref().map(|standing| standing.deployment.network.highest_barrier().0);
        self.highest_checkpoint = self.highest_checkpoint.max(barriers.unwrap_or_default());
        let attempt = if self.standing.is_some() || self.deploying.is_some() { self.attempt.0 } else { 0 };
        self.tell(Answer::Welcome(Welcome {
            protocol_version: PROTOCOL_VERSION,
            build_version: BUILD_VERSION.to_string(),
            worker: self.host.worker.0.clone(),
            attempt,
            highest_checkpoint: self.highest_checkpoint,
            memory_budget: self.host.memory,
            deploying: self.deploying.is_some(),
        }));
        if self.leaves_at.is_some() {
            self.tell(Answer::Leaving(Leaving {}));
        }
        if let Some(failure) = &self.failure {
            self.tell(Answer::TaskFailed(failure.to_message(self.attempt)));
        }
        self.tell_if_finished();
    }
}
