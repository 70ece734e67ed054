//! Supervisors of jobs: how one is started, what its facts cause here, how it is handed another version, and what its end means.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use weir_protocol::tls::WORKER_NAME;
use weir_runtime::{clock, tasks};
use weir_storage::{JobStore, S3Keys};

use crate::{
    cluster::{
        certs::Authority,
        context::Context,
        identity::Identity,
        jobs::{Kept, Running, TRY_AGAIN},
        names,
        plan::{Accepted, Begin, with_template},
        problem::Problem,
        report::{Report, ReportObserver},
        status::Run,
        storage::Storage,
        validate::ValidJob,
    },
    effects::{WishError, chain, find_restore, wish_has_acted},
    facts::{Fact, told::Told},
    job::{Job, RestoreWish},
    platform::kubernetes::Kubernetes,
    reasons,
    supervisor::{self, Outcome, Parts},
    takeover::Restore,
    workers::wire::SessionTls,
};

/// Events of one job's platform under way to its supervisor.
const PLATFORM_QUEUE: usize = 1024;
/// A record is small; storage that does not hand it out in this time is away.
const FIND_RECORD: Duration = Duration::from_secs(20);

/// What workers' gRPC is reached with.
pub fn session_tls(authority: &Authority) -> SessionTls {
    SessionTls {
        ca: authority.bundle().into_bytes().into(),
        cert: authority.controller.cert.clone().into_bytes().into(),
        key: authority.controller.key.clone().into_bytes().into(),
        server_name: WORKER_NAME.to_string(),
    }
}

/// What a wish names; none for the newest record, whoever owns it.
pub async fn find(storage: &Storage, job: &Job, keys: Option<&S3Keys>, wish: &str) -> Result<Option<Restore>, Problem> {
    let Some(wish) = RestoreWish::parse(wish).named else { return Ok(None) };
    let store = storage.open(job, keys)?;
    match storage.look(FIND_RECORD, find_restore(&store, &wish)).await {
        Some(Ok(found)) => Ok(Some(found)),
        Some(Err(error @ WishError::Unreachable { .. })) => {
            Err(Problem { reason: reasons::STORAGE_UNREACHABLE, message: chain(&error) })
        }
        Some(Err(error @ WishError::Savepoint(_))) => {
            Err(Problem { reason: reasons::SAVEPOINT_UNUSABLE, message: chain(&error) })
        }
        Some(Err(error)) => Err(Problem { reason: reasons::RECORD_NOT_FOUND, message: chain(&error) }),
        None => {
            let message = format!("{} cannot be read: storage does not answer; tried again", wish.text());
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
    let (restore, adopt) = begins_from(context, &store, &job, begin, &identity.uid, keys.as_ref()).await?;
    let Some(report) = context.jobs.with(identity, |entry| Arc::clone(&entry.report)) else { return Ok(()) };
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
    // What the status says was put on record in this storage. Only where nothing is left behind on purpose.
    let known = report.facts().latest.map(|latest| latest.record);
    let known = known.filter(|record| *begin == Begin::Newest && record.starts_with(store.name()));
    say_that_it_starts(&report, &job, begin, kept);
    let (platform_events, events) = mpsc::channel(PLATFORM_QUEUE);
    let selector = names::selector(&identity.name);
    let platform = Kubernetes::new(context.client.clone(), &identity.namespace, &selector, platform_events);
    let (running, inbox) = Running::over(job.clone(), accepted, keys.clone());
    let parts = Parts {
        job,
        fingerprint: None,
        coordinator: context.coordinator_name(),
        cluster: context.cluster.clone(),
        owner: identity.uid.clone(),
        // Workers that are there have other state than that of a wish.
        resume: restore == Restore::Latest,
        restore,
        adopt,
        wish: wish.clone(),
        accept_lost_output: wish.as_deref().is_some_and(|wish| RestoreWish::parse(wish).accept_lost_output),
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
        entry.keys = keys;
        entry.supervisor = Some(running);
        entry.stuck = None;
        entry.pods_unknown = false;
    });
    if stored.is_some() {
        report.begins();
        tracing::info!(job = %identity.job(), ?begin, generation = wanted.generation, "a supervisor starts");
        run(context, identity, wanted.generation, parts);
    }
    Ok(())
}

/// What the first attempt restores, and whether it takes the storage over from another owner.
async fn begins_from(
    context: &Context,
    store: &JobStore,
    job: &Job,
    begin: &Begin,
    owner: &str,
    keys: Option<&S3Keys>,
) -> Result<(Restore, bool), Problem> {
    Ok(match begin {
        Begin::Newest => (Restore::Latest, false),
        Begin::Nothing => (Restore::Nothing, false),
        Begin::Wish(wish) if acted(context, store, wish, owner).await? => (Restore::Latest, false),
        Begin::Wish(wish) => match find(&context.storage, job, keys, wish).await? {
            Some(restore) => (restore, false),
            None => (Restore::Latest, true),
        },
    })
}

fn say_that_it_starts(report: &Report, job: &Job, begin: &Begin, kept: &Kept) {
    // Where workers run already they go on, which is told when they do.
    if report.facts().workers == 0 {
        let (generation, workers, slots) = (job.generation, job.workers, job.slots);
        let note = format!("generation {generation} is taken up: {workers} workers with {slots} slots each");
        report.tell(Told::normal(reasons::events::SCHEDULED, note).about(generation));
    }
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
}

/// Runs a supervisor in a task of its own.
fn run(context: &Arc<Context>, identity: &Identity, generation: i64, parts: Parts) {
    let (about, job) = (Arc::clone(context), identity.clone());
    let task = tasks::spawn(async move {
        let outcome = supervisor::run(parts).await;
        ended(&about, &job, generation, &outcome);
    });
    context.jobs.with(identity, |entry| {
        // It may have ended already.
        if let Some(running) = &mut entry.supervisor {
            running.runs_in(task.abort_handle());
        }
    });
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
            _ if passes(outcome) => Some((generation, Some(clock::now() + TRY_AGAIN))),
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
        context.wake_later(identity);
    }
}

/// What may pass by itself, and is tried again after a while.
fn passes(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Superseded(_) | Outcome::NoWorkers(_) | Outcome::Refused(None, _) | Outcome::Panicked(_))
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
        context.wake_to_retell(&wanted.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
