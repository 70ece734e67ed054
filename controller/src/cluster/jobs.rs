//! The jobs that this leader looks after: a supervisor and a report each. Here supervisors are started, told what to do, and let
//! go of; what is to be done is decided in [`super::plan`].

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
use weir_protocol::{record::RecordRef, tls::WORKER_NAME};
use weir_storage::{JobStore, S3Keys};

use super::{
    Context,
    build::pod,
    certs::Authority,
    delete::Leaving,
    events::Told,
    names,
    plan::{Accepted, Begin},
    reasons,
    report::{Report, ReportObserver},
    status::Run,
    storage::Storage,
    validate::{Identity, Problem, ValidJob},
};
use crate::{
    effects::{WishError, chain, find_record, wish_has_acted},
    job::{Job, RestoreWish},
    platform::{WorkerTemplate, kubernetes::Kubernetes},
    supervisor::{self, Change, Control, Fact, Outcome, Parts},
    takeover::Restore,
    workers::wire::SessionTls,
};

/// Events of one job's platform under way to its supervisor.
const PLATFORM_QUEUE: usize = 1024;
/// Words to a supervisor that it has not heard yet. A spec changes far more slowly.
const CONTROL_QUEUE: usize = 16;
/// What a supervisor did not hear is said again after this.
const RETELL: Duration = Duration::from_secs(1);
/// What was ended by another coordinator, or could not start, is tried again after this.
pub const TRY_AGAIN: Duration = Duration::from_secs(30);

/// A record is small; storage that does not hand it out in this time is away.
const FIND_RECORD: Duration = Duration::from_secs(20);

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
    /// The keys with which it reaches storage.
    pub keys: Option<S3Keys>,
}

impl Running {
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
    fn change(&mut self, job: Job, empty: bool, asked: Accepted) -> bool {
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
        let until = Instant::now() + patience;
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
            if left || Instant::now() >= until {
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

/// The job with its pods' template, whose image is settled.
pub fn with_template(wanted: &ValidJob, image: String, keys: Option<&S3Keys>) -> Job {
    let inputs = super::validate::PodInputs { image, ..wanted.pods.clone() };
    let mut job = wanted.job.clone();
    job.standby = wanted.spec.workers.standby;
    job.template =
        WorkerTemplate { hash: pod::hash(&inputs, keys), pod: Some(Arc::new(pod::pod(&wanted.identity, &inputs))) };
    job
}

/// What workers' gRPC is reached with.
pub fn session_tls(authority: &Authority) -> SessionTls {
    SessionTls {
        ca: authority.bundle().into_bytes().into(),
        cert: authority.controller.cert.clone().into_bytes().into(),
        key: authority.controller.key.clone().into_bytes().into(),
        server_name: WORKER_NAME.to_string(),
    }
}

/// The record that a wish names; none for the newest, whoever owns it.
pub async fn find(
    storage: &Storage,
    job: &Job,
    keys: Option<&S3Keys>,
    wish: &str,
) -> Result<Option<RecordRef>, Problem> {
    let Some(wish) = RestoreWish::parse(wish).record else { return Ok(None) };
    let store = storage.open(job, keys)?;
    match storage.look(FIND_RECORD, find_record(&store, &wish)).await {
        Some(Ok(record)) => Ok(Some(record)),
        Some(Err(error @ WishError::Unreachable { .. })) => {
            Err(Problem { reason: reasons::STORAGE_UNREACHABLE, message: chain(&error) })
        }
        Some(Err(error)) => Err(Problem { reason: reasons::RECORD_NOT_FOUND, message: chain(&error) }),
        None => {
            let message = format!("{wish} cannot be read: storage does not answer; tried again");
            Err(Problem { reason: reasons::STORAGE_UNREACHABLE, message })
        }
    }
}

/// A wish has acted already, though its leader could not say so in the status any more.
async fn acted(context: &Context, store: &JobStore, wish: &str, owner: &str) -> Result<bool, Problem> {
    let away = |reason: String| Problem {
        reason: reasons::STORAGE_UNREACHABLE,
        message: format!("whether restoreFrom has acted cannot be read, tried again: {reason}"),
    };
    match context.storage.look(FIND_RECORD, wish_has_acted(store, wish, owner, &context.cluster)).await {
        Some(acted) => acted.map_err(|error| away(chain(&error))),
        None => Err(away("storage does not answer".to_string())),
    }
}

/// Starts a supervisor over a version of the job.
pub async fn start(
    context: &Arc<Context>,
    wanted: &ValidJob,
    image: String,
    begin: &Begin,
    keys: Option<S3Keys>,
    kept: &Kept,
) -> Result<(), Problem> {
    let identity = &wanted.identity;
    let job = with_template(wanted, image.clone(), keys.as_ref());
    let store = context.storage.open(&job, keys.as_ref())?;
    let (restore, adopt) = match begin {
        Begin::Newest => (Restore::Latest, false),
        Begin::Nothing => (Restore::Nothing, false),
        Begin::Wish(wish) if acted(context, &store, wish, &identity.uid).await? => (Restore::Latest, false),
        Begin::Wish(wish) => match find(&context.storage, &job, keys.as_ref(), wish).await? {
            Some(record) => (Restore::Record(record), false),
            None => (Restore::Latest, true),
        },
    };
    let Some(report) = context.jobs.with(identity, |entry| Arc::clone(&entry.report)) else { return Ok(()) };
    let (platform_events, events) = mpsc::channel(PLATFORM_QUEUE);
    let platform =
        Kubernetes::new(context.client.clone(), &identity.namespace, &names::selector(&identity.name), platform_events);
    let (control, inbox) = mpsc::channel(CONTROL_QUEUE);
    let wish = match begin {
        Begin::Wish(wish) => Some(wish.clone()),
        _ => None,
    };
    let accepted = Accepted {
        generation: wanted.generation,
        spec: wanted.spec.clone(),
        image,
        restored_from: wish
            .clone()
            .or_else(|| kept.accepted.as_ref().and_then(|accepted| accepted.restored_from.clone())),
    };
    // Where workers run already they go on, which is told when they do.
    if report.facts().workers == 0 {
        let (generation, workers, slots) = (job.generation, job.workers, job.slots);
        let note = format!("generation {generation} is taken up: {workers} workers with {slots} slots each");
        report.tell(Told::normal(reasons::events::SCHEDULED, note).about(generation));
    }
    // What the status says was put on record in this storage. Only where nothing is left behind on purpose.
    let known = report.facts().latest.map(|latest| latest.record);
    let known = known.filter(|record| *begin == Begin::Newest && record.starts_with(store.name()));
    report.change(|facts| {
        facts.run = Run::Starting;
        // What is resumed is the version that was taken up last.
        if *begin == Begin::Newest {
            facts.running = kept.accepted.as_ref().map(|accepted| accepted.generation);
        }
        facts.wanted = job.workers;
        facts.refused = None;
        facts.forget_doings();
    });
    let parts = Parts {
        job: job.clone(),
        fingerprint: None,
        coordinator: context.coordinator_name(),
        cluster: context.cluster.clone(),
        owner: identity.uid.clone(),
        restore,
        adopt,
        wish: wish.clone(),
        accept_lost_output: wish.as_deref().is_some_and(|wish| RestoreWish::parse(wish).accept_lost_output),
        // Workers that are there have other state than that of a wish.
        resume: restore == Restore::Latest,
        failed: report.facts().failed,
        format: context.options.state_format,
        store,
        platform: Box::new(platform),
        platform_events: events,
        control: inbox,
        observer: Box::new(observer(context, identity, &report, wish, known)),
        tls: kept.authority.as_ref().map(session_tls),
    };
    let stored = context.jobs.with(identity, |entry| {
        entry.keys.clone_from(&keys);
        let (certificates, task) = (None, None);
        entry.supervisor =
            Some(Running { control, certificates, task, job, asked: vec![accepted], ending: false, keys });
        entry.stuck = None;
        entry.pods_unknown = false;
    });
    if stored.is_none() {
        return Ok(());
    }
    report.begins();
    tracing::info!(job = %identity.job(), ?begin, generation = wanted.generation, "a supervisor starts");
    let (about, job, generation) = (Arc::clone(context), identity.clone(), wanted.generation);
    let task = tokio::spawn(async move {
        let outcome = supervisor::run(parts).await;
        ended(&about, &job, generation, &outcome);
    });
    context.jobs.with(identity, |entry| {
        // It may have ended already.
        if let Some(running) = &mut entry.supervisor {
            running.task = Some(task.abort_handle());
        }
    });
    Ok(())
}

/// Facts that the reconciler acts upon wake it: the version that runs is kept, a wish that acted is written down.
/// `known` is the record that the first term is to begin from, or a later one.
fn observer(
    context: &Arc<Context>,
    identity: &Identity,
    report: &Arc<Report>,
    mut wish: Option<String>,
    mut known: Option<String>,
) -> ReportObserver {
    let (context, identity, about) = (Arc::clone(context), identity.clone(), Arc::clone(report));
    let woken = Mutex::new(move |fact: &Fact| {
        if let Fact::TermOpened { restored, .. } = fact
            && let Some(record) = known.take().filter(|_| restored.is_none())
        {
            let note = format!(
                "the checkpoints of this job are gone: {record} was the newest, and nothing of them is there. It begins from \
                 nothing, and what it has written since its start is written again"
            );
            about.tell(Told::warning(reasons::events::CHECKPOINTS_GONE, note));
        }
        if matches!(fact, Fact::TermOpened { .. })
            && let Some(wish) = wish.take()
        {
            about.restored_from(wish);
        }
        // Its successor needs all that pods need, which somebody may have deleted.
        if matches!(fact, Fact::WorkerLost { .. } | Fact::StartFailed { .. }) {
            context.applied.forget(&identity.namespace, &identity.name);
            context.wake(&identity);
        }
        // Who may be evicted hangs on whether the job can run at all.
        let stands_still = |fact: &Fact| matches!(fact, Fact::WorkerWaits { .. } | Fact::HandedOver);
        if stands_still(fact) && about.facts().stands_still() {
            context.wake(&identity);
        }
        if matches!(
            fact,
            Fact::TermOpened { .. } | Fact::Running { .. } | Fact::ChangeApplied { .. } | Fact::ChangeRefused { .. }
        ) {
            context.wake(&identity);
        }
    });
    ReportObserver { report: Arc::clone(report), woken: Box::new(move |fact| (woken.lock())(fact)) }
}

fn ended(context: &Arc<Context>, identity: &Identity, generation: i64, outcome: &Outcome) {
    tracing::info!(job = %identity.job(), ?outcome, "a supervisor has ended");
    let gone = context.jobs.with(identity, |entry| {
        let newest = entry.supervisor.take().and_then(|running| running.asked.last().map(|asked| asked.generation));
        let generation = newest.unwrap_or(generation);
        entry.stuck = match outcome {
            _ if passes(outcome) => Some((generation, Some(Instant::now() + TRY_AGAIN))),
            Outcome::Failed(_) | Outcome::GivenUp(_) | Outcome::Refused(..) => Some((generation, None)),
            _ => None,
        };
        // What it left runs on.
        entry.pods_unknown |= matches!(outcome, Outcome::Left | Outcome::Superseded(_) | Outcome::Panicked(_));
        entry.report.ended(outcome);
    });
    if gone.is_some() {
        context.wake(identity);
    }
    if passes(outcome) {
        wake_later(context, identity);
    }
}

/// What may pass by itself, and is tried again after a while.
fn passes(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Superseded(_) | Outcome::NoWorkers(_) | Outcome::Refused(None, _) | Outcome::Panicked(_))
}

/// Has a job looked at again after [`TRY_AGAIN`].
pub fn wake_later(context: &Arc<Context>, identity: &Identity) {
    // A little later than that, so that it is over for certain.
    wake_after(context, identity, TRY_AGAIN + Duration::from_millis(100));
}

/// Has a job looked at again soon: its supervisor has not heard something.
pub fn wake_to_retell(context: &Arc<Context>, identity: &Identity) {
    wake_after(context, identity, RETELL);
}

fn wake_after(context: &Arc<Context>, identity: &Identity, after: Duration) {
    let (context, identity) = (Arc::clone(context), identity.clone());
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        context.wake(&identity);
    });
}

/// Hands a running supervisor another version.
pub fn change(context: &Arc<Context>, wanted: &ValidJob, image: String, keys: Option<&S3Keys>, empty: bool) {
    let job = with_template(wanted, image.clone(), keys);
    let heard = context.jobs.with(&wanted.identity, |entry| {
        let restored_from =
            entry.kept.as_ref().and_then(|kept| kept.accepted.as_ref()).and_then(|a| a.restored_from.clone());
        let Some(running) = &mut entry.supervisor else { return true };
        let asked = Accepted { generation: wanted.generation, spec: wanted.spec.clone(), image, restored_from };
        running.change(job, empty, asked)
    });
    if heard == Some(false) {
        wake_to_retell(context, &wanted.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::validate::{tests::resource, validate};

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
        let (control, inbox) = mpsc::channel(CONTROL_QUEUE);
        let first = wanted(1);
        let (job, asked) = (first.job.clone(), vec![accepted(&first)]);
        (Running { control, certificates: None, task: None, job, asked, ending: false, keys: None }, inbox)
    }

    #[test]
    fn a_change_that_was_not_heard_is_asked_for_again() {
        let (mut running, mut inbox) = deaf();
        for _ in 0..CONTROL_QUEUE {
            assert!(running.tell(Control::Checkpoint));
        }
        let second = wanted(2);
        assert!(!running.change(second.job.clone(), false, accepted(&second)));
        assert_eq!((running.job.generation, running.asked.len()), (1, 1), "it is what it was");
        assert!(!running.end(Control::Leave) && !running.ending);
        let tls =
            SessionTls { ca: vec![1].into(), cert: vec![2].into(), key: vec![3].into(), server_name: "w".to_string() };
        assert!(!running.certificates(tls));

        assert!(matches!(inbox.try_recv(), Ok(Control::Checkpoint)));
        assert!(running.change(second.job.clone(), false, accepted(&second)));
        assert_eq!((running.job.generation, running.asked.len()), (2, 2));
        assert!(!running.retell(), "the queue is full again");
        while inbox.try_recv().is_ok() {}
        assert!(running.retell() && matches!(inbox.try_recv(), Ok(Control::Tls(_))));
        assert!(running.retell() && inbox.try_recv().is_err(), "once");
        assert!(running.end(Control::Leave) && running.ending);
    }

    #[test]
    fn what_a_supervisor_could_not_help_is_tried_again_and_what_the_job_is_to_blame_for_is_not() {
        let again = [
            Outcome::Superseded(None),
            Outcome::NoWorkers("no binary".to_string()),
            Outcome::Refused(None, "storage".to_string()),
            Outcome::Panicked("injected".to_string()),
        ];
        assert!(again.iter().all(passes), "{again:?}");
        let over = [Outcome::Succeeded, Outcome::Stopped, Outcome::GivenUp("too often".to_string())];
        assert!(!over.iter().any(passes), "{over:?}");
    }
}
