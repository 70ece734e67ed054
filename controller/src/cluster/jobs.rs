//! The jobs that this leader looks after: a supervisor and a report each. Here supervisors are started, told what to do, and let
//! go of; what is to be done is decided in [`super::plan`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use weir_protocol::{record::RecordRef, tls::WORKER_NAME};
use weir_storage::{JobStore, S3Keys, StorageError};

use super::{
    Context,
    build::pod,
    certs::Authority,
    events::Told,
    names,
    plan::{Accepted, Begin},
    reasons,
    report::{Report, ReportObserver},
    status::Run,
    validate::{Identity, Problem, ValidJob},
};
use crate::{
    effects::{WishError, chain, find_record},
    job::Job,
    platform::{WorkerTemplate, kubernetes::Kubernetes},
    supervisor::{self, Change, Control, Fact, Outcome, Parts},
    takeover::Restore,
    workers::wire::SessionTls,
};

/// Events of one job's platform under way to its supervisor.
const PLATFORM_QUEUE: usize = 1024;
/// Words to a supervisor that it has not heard yet. A spec changes far more slowly.
const CONTROL_QUEUE: usize = 16;
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
    /// Tells it something; it hears it soon, or has ended.
    pub fn tell(&self, control: Control) {
        if let Err(error) = self.control.try_send(control) {
            tracing::warn!(%error, "a supervisor does not hear");
        }
    }

    /// Tells it to end, and nothing more is asked of it.
    pub fn end(&mut self, how: Control) {
        self.ending = true;
        self.tell(how);
    }

    /// Stops it for good, if it does not end already.
    pub fn deleted(&mut self, last_checkpoint: bool) {
        if !self.ending {
            self.end(Control::Stop { last_checkpoint, why: "the job is deleted".to_string() });
        }
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
        for entry in self.lock().values_mut() {
            if let Some(running) = &mut entry.supervisor {
                running.end(Control::Leave);
            }
        }
        let until = Instant::now() + patience;
        while Instant::now() < until && self.lock().values().any(|entry| entry.supervisor.is_some()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut entries = self.lock();
        for entry in entries.values() {
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

/// Opens a job's storage with the keys of its Secret.
pub fn open_storage(job: &Job, keys: Option<&S3Keys>) -> Result<JobStore, Problem> {
    let opened = match keys {
        Some(keys) => JobStore::open_with(&job.settings.storage, &job.name, keys),
        None => JobStore::open(&job.settings.storage, &job.name),
    };
    opened.map_err(|error: StorageError| Problem { reason: reasons::INVALID_STORAGE, message: chain(&error) })
}

/// The record that a wish names; none for the newest, whoever owns it.
pub async fn find(job: &Job, keys: Option<&S3Keys>, wish: &str) -> Result<Option<RecordRef>, Problem> {
    if wish == "previous" {
        return Ok(None);
    }
    let store = open_storage(job, keys)?;
    match tokio::time::timeout(FIND_RECORD, find_record(&store, wish)).await {
        Ok(Ok(record)) => Ok(Some(record)),
        Ok(Err(error @ WishError::Unreachable { .. })) => {
            Err(Problem { reason: reasons::STORAGE_UNREACHABLE, message: chain(&error) })
        }
        Ok(Err(error)) => Err(Problem { reason: reasons::RECORD_NOT_FOUND, message: chain(&error) }),
        Err(_) => {
            let message = format!("{wish} cannot be read: storage does not answer; tried again");
            Err(Problem { reason: reasons::STORAGE_UNREACHABLE, message })
        }
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
    let store = open_storage(&job, keys.as_ref())?;
    let (restore, adopt) = match begin {
        Begin::Newest => (Restore::Latest, false),
        Begin::Nothing => (Restore::Nothing, false),
        Begin::Wish(wish) => match find(&job, keys.as_ref(), wish).await? {
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
    let note =
        format!("generation {} is taken up: {} workers with {} slots each", job.generation, job.workers, job.slots);
    report.tell(Told::normal(reasons::events::SCHEDULED, note));
    report.change(|facts| {
        facts.run = Run::Starting;
        // What is resumed is the version that was taken up last.
        if *begin == Begin::Newest {
            facts.running = kept.accepted.as_ref().map(|accepted| accepted.generation);
        }
        facts.wanted = job.workers;
        (facts.refused, facts.waiting, facts.changing, facts.unpublished) = (None, None, None, None);
    });
    let parts = Parts {
        job: job.clone(),
        fingerprint: None,
        coordinator: context.coordinator_name(),
        cluster: context.cluster.clone(),
        owner: identity.uid.clone(),
        restore,
        adopt,
        // Workers that are there have other state than that of a wish.
        resume: restore == Restore::Latest,
        store,
        platform: Box::new(platform),
        platform_events: events,
        control: inbox,
        observer: Box::new(observer(context, identity, &report, wish)),
        tls: kept.authority.as_ref().map(session_tls),
    };
    let stored = context.jobs.with(identity, |entry| {
        entry.keys.clone_from(&keys);
        entry.supervisor = Some(Running { control, job, asked: vec![accepted], ending: false, keys });
        entry.stuck = None;
        entry.pods_unknown = false;
    });
    if stored.is_none() {
        return Ok(());
    }
    report.begins();
    tracing::info!(job = %identity.job(), ?begin, generation = wanted.generation, "a supervisor starts");
    let (context, identity, generation) = (Arc::clone(context), identity.clone(), wanted.generation);
    tokio::spawn(async move {
        let outcome = supervisor::run(parts).await;
        ended(&context, &identity, generation, &outcome);
    });
    Ok(())
}

/// Facts that the reconciler acts upon wake it: the version that runs is kept, a wish that acted is written down.
fn observer(context: &Arc<Context>, identity: &Identity, report: &Arc<Report>, wish: Option<String>) -> ReportObserver {
    let (context, identity, about) = (Arc::clone(context), identity.clone(), Arc::clone(report));
    let mut wish = wish;
    let woken = Mutex::new(move |fact: &Fact| {
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
        entry.pods_unknown |= matches!(outcome, Outcome::Left | Outcome::Superseded(_));
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
    matches!(outcome, Outcome::Superseded(_) | Outcome::NoWorkers(_) | Outcome::Refused(None, _))
}

/// Has a job looked at again after [`TRY_AGAIN`].
pub fn wake_later(context: &Arc<Context>, identity: &Identity) {
    let (context, identity) = (Arc::clone(context), identity.clone());
    tokio::spawn(async move {
        // A little later than that, so that it is over for certain.
        tokio::time::sleep(TRY_AGAIN + Duration::from_millis(100)).await;
        context.wake(&identity);
    });
}

/// Hands a running supervisor another version.
pub fn change(context: &Context, wanted: &ValidJob, image: String, keys: Option<&S3Keys>, empty: bool) {
    let job = with_template(wanted, image.clone(), keys);
    context.jobs.with(&wanted.identity, |entry| {
        let restored_from =
            entry.kept.as_ref().and_then(|kept| kept.accepted.as_ref()).and_then(|a| a.restored_from.clone());
        let Some(running) = &mut entry.supervisor else { return };
        running.tell(Control::Change(Box::new(Change { job: job.clone(), fingerprint: None, empty })));
        running.job = job;
        running.asked.push(Accepted { generation: wanted.generation, spec: wanted.spec.clone(), image, restored_from });
    });
}
