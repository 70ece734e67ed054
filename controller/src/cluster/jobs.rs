//! The jobs that this leader looks after: a supervisor and a report each. Here supervisors are told things, and let go of; they are
//! started by [`super::reconcile`], and what is to be done is decided in [`super::plan`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::AbortHandle,
};
use weir_runtime::clock;
use weir_storage::S3Keys;

use super::{certs::Authority, delete::Leaving, identity::Identity, plan::Accepted, report::Report};
use crate::{
    job::Job,
    supervisor::{Change, Control},
    workers::wire::SessionTls,
};

/// Words to a supervisor that it has not heard yet. A spec changes far more slowly.
const CONTROL_QUEUE: usize = 16;
/// What was ended by another coordinator, or could not start, is tried again after this.
pub const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Namespace and name.
pub type Key = (String, String);

/// All of them.
#[derive(Default)]
pub struct Jobs {
    entries: Mutex<BTreeMap<Key, Entry>>,
}

/// One job.
pub struct Entry {
    /// Which of all that had this name.
    pub identity: Identity,
    /// What it reports.
    pub report: Arc<Report>,
    /// What is kept of it in the cluster, once it has been read.
    pub kept: Option<Kept>,
    /// Who looks after it.
    pub supervisor: Option<Running>,
    /// Not tried again at this generation, and until when, if it is at all.
    pub stuck: Option<(i64, Option<Instant>)>,
    /// Worker pods may be there that nobody looks after: this leader has not looked yet.
    pub pods_unknown: bool,
    /// The keys with which its storage was last reached. A namespace that goes takes the Secret before the job.
    pub keys: Option<S3Keys>,
    /// Reconciliations that failed in a row.
    pub failures: u32,
    /// What becomes of its storage, once it is deleted.
    pub leaving: Leaving,
}

/// What is kept of a job in Secrets.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The version that was last taken up.
    pub accepted: Option<Accepted>,
    /// Its certificates.
    pub authority: Option<Authority>,
}

/// A supervisor.
pub struct Running {
    control: mpsc::Sender<Control>,
    /// New certificates that it has not heard of yet.
    certificates: Option<SessionTls>,
    /// Its task.
    task: Option<AbortHandle>,
    /// As it was last asked to be.
    pub job: Job,
    /// All versions that it was asked to be, to be kept when one of them runs.
    pub asked: Vec<Accepted>,
    /// It has been told to end.
    pub ending: bool,
    /// The checkpoint that it was asked for last.
    pub checkpoint: Option<String>,
    /// The keys with which it reaches storage.
    pub keys: Option<S3Keys>,
}

impl Running {
    /// One that was just started over a version of the job, and what it hears.
    pub fn over(job: Job, accepted: Accepted, keys: Option<S3Keys>) -> (Self, mpsc::Receiver<Control>) {
        let (control, inbox) = mpsc::channel(CONTROL_QUEUE);
        let (certificates, task, checkpoint) = (None, None, None);
        (Self { control, certificates, task, job, asked: vec![accepted], ending: false, checkpoint, keys }, inbox)
    }

    /// It runs in this task, and ends with it.
    pub fn runs_in(&mut self, task: AbortHandle) {
        self.task = Some(task);
    }

    /// Tells it something; false where it has so much to hear already that this has to be said again. One that has ended hears
    /// everything.
    #[must_use = "what was not heard has to be said again"]
    pub fn tell(&self, control: Control) -> bool {
        match self.control.try_send(control) {
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) => {
                tracing::warn!(job = %self.job.name, "a supervisor does not hear; it is told again");
                false
            }
        }
    }

    /// Asks it for a checkpoint. False where it has to be asked again.
    #[must_use = "what was not heard has to be said again"]
    pub fn checkpoint(&mut self, value: &str) -> bool {
        let heard = self.tell(Control::Checkpoint(value.to_string()));
        if heard {
            self.checkpoint = Some(value.to_string());
        }
        heard
    }

    /// Tells it to end, and nothing more is asked of it. False where it has to be told again.
    #[must_use = "what was not heard has to be said again"]
    pub fn end(&mut self, how: Control) -> bool {
        self.ending = self.tell(how);
        self.ending
    }

    /// Stops it for good, if it does not end already. A deletion is looked at again and again, so it hears it in the end.
    pub fn deleted(&mut self, last_checkpoint: bool) {
        if !self.ending {
            let _ = self.end(Control::Stop { last_checkpoint, why: "the job is deleted".to_string() });
        }
    }

    /// Tells it what workers are reached with from now on.
    pub fn certificates(&mut self, tls: SessionTls) -> bool {
        self.certificates = Some(tls);
        self.retell()
    }

    /// Says again what was not heard. False where it is still not.
    pub fn retell(&mut self) -> bool {
        let Some(tls) = self.certificates.clone() else { return true };
        if self.tell(Control::Tls(tls)) {
            self.certificates = None;
        }
        self.certificates.is_none()
    }

    /// Hands it another version. What it was asked to be changes only if it has heard it: else the next look finds the difference, and
    /// asks again.
    #[must_use = "what was not heard has to be said again"]
    pub fn change(&mut self, job: Job, empty: bool, asked: Accepted) -> bool {
        let heard = self.tell(Control::Change(Box::new(Change { job: job.clone(), fingerprint: None, empty })));
        if heard {
            self.job = job;
            self.asked.push(asked);
        }
        heard
    }
}

impl Jobs {
    /// Locks them all, shortly.
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock()
    }

    /// Works on one.
    pub fn with<T>(&self, identity: &Identity, work: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut entries = self.lock();
        entries.get_mut(&key(identity)).filter(|entry| entry.identity.uid == identity.uid).map(work)
    }

    /// So many are in each state.
    pub fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts = BTreeMap::new();
        for entry in self.lock().values() {
            *counts.entry(entry.report.word()).or_default() += 1;
        }
        counts
    }

    /// Lets go of all jobs: another leader takes them over, and their workers run on.
    pub async fn leave_all(&self, patience: Duration) {
        let mut told: BTreeSet<Key> = BTreeSet::new();
        let until = clock::now() + patience;
        loop {
            let mut left = true;
            for (key, entry) in self.lock().iter_mut() {
                if let Some(running) = &mut entry.supervisor {
                    left = false;
                    // Once each: one that is ending for another reason is told this too.
                    if !told.contains(key) && running.end(Control::Leave) {
                        told.insert(key.clone());
                    }
                }
            }
            if left || clock::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut entries = self.lock();
        for entry in entries.values() {
            // Who has not heard it, or does not come to an end, must not go on beside another leader's. Workers are not touched by it.
            if let Some(task) = entry.supervisor.as_ref().and_then(|running| running.task.as_ref()) {
                tracing::warn!(job = %entry.identity.job(), "its supervisor has not let go of it in time, and is ended");
                task.abort();
            }
            entry.report.stop();
        }
        entries.clear();
    }
}

/// Of a job.
pub fn key(identity: &Identity) -> Key {
    (identity.namespace.clone(), identity.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::validate::{ValidJob, tests::resource, validate};

    fn wanted(generation: i64) -> ValidJob {
        let mut resource = resource("");
        resource.metadata.generation = Some(generation);
        validate(&resource, "weir/worker:1", &[]).unwrap()
    }

    fn accepted(of: &ValidJob) -> Accepted {
        let image = "weir/worker:1".to_string();
        Accepted { generation: of.generation, spec: of.spec.clone(), image, restored_from: None }
    }

    /// A supervisor that hears nothing until its queue is read.
    fn deaf() -> (Running, mpsc::Receiver<Control>) {
        let first = wanted(1);
        Running::over(first.job.clone(), accepted(&first), None)
    }

    #[test]
    fn a_change_that_was_not_heard_is_asked_for_again() {
        let (mut running, mut inbox) = deaf();
        for _ in 0..CONTROL_QUEUE {
            assert!(running.checkpoint("a"));
        }
        let second = wanted(2);
        assert!(!running.change(second.job.clone(), false, accepted(&second)));
        assert_eq!((running.job.generation, running.asked.len()), (1, 1), "it is what it was");
        assert!(!running.end(Control::Leave) && !running.ending);
        let tls =
            SessionTls { ca: vec![1].into(), cert: vec![2].into(), key: vec![3].into(), server_name: "w".to_string() };
        assert!(!running.certificates(tls));

        assert!(!running.checkpoint("b") && running.checkpoint.as_deref() == Some("a"));

        assert!(matches!(inbox.try_recv(), Ok(Control::Checkpoint(asked)) if asked == "a"));
        assert!(running.change(second.job.clone(), false, accepted(&second)));
        assert_eq!((running.job.generation, running.asked.len()), (2, 2));
        assert!(!running.retell(), "the queue is full again");
        while inbox.try_recv().is_ok() {}
        assert!(running.retell() && matches!(inbox.try_recv(), Ok(Control::Tls(_))));
        assert!(running.retell() && inbox.try_recv().is_err(), "once");
        assert!(running.end(Control::Leave) && running.ending);
    }
}
