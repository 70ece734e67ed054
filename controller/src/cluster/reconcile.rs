//! One look at a job: observe, validate, plan, build, apply, status. Only observing and applying ask the API server, and a job that
//! has not changed costs no call.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Resource, ResourceExt, core::DeserializeGuard, runtime::controller::Action};
use thiserror::Error;
use weir_crds::{OnDelete, StreamJob, StreamJobStatus};
use weir_protocol::record::Opening;
use weir_storage::S3Keys;

use super::{
    Context,
    apply::refusal,
    build::{policy, secrets, service},
    certs::{self, Authority, CertError},
    delete::{self, Removed},
    jobs::{self, Entry, Kept},
    names, observe,
    plan::{self, Accepted, Begin, Step, Supervisor, There},
    reasons,
    report::Report,
    status::Run,
    validate::{Identity, Problem, ValidJob, validate},
};
use crate::{
    effects::{chain, read_facts},
    platform::kubernetes::facts::{PodState, state_of},
    supervisor::Control,
    takeover::{Request, Restore},
};

/// The guard lets a list with one wrong object in it through.
pub type Guarded = DeserializeGuard<StreamJob>;

/// A job is looked at this often without any cause: certificates end, Secrets change.
const LOOK_AGAIN: Duration = Duration::from_mins(10);
/// What somebody has to mend, and no watch tells of: a Secret that is missing.
const LOOK_SOON: Duration = Duration::from_secs(10);
/// A look at a job is made of calls that take milliseconds; one that takes so long is not going to end.
const PATIENCE: Duration = Duration::from_mins(2);
/// Steps of a deletion.
const LOOK_AT_DELETION: Duration = Duration::from_secs(2);
/// From a failure to the next try; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_mins(1);

/// Why a look at a job did not come to its end.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// The API server did not do what it was asked for.
    #[error("{doing}")]
    Api {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A call was not answered.
    #[error("the API server or the storage has not answered in {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// Certificates could not be made.
    #[error(transparent)]
    Certs(#[from] CertError),
}

fn doing(doing: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api { doing, source: Box::new(source) }
}

/// Looks at one job.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if !context.leads() {
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    // A connection that takes requests and never answers must not hold up the other jobs.
    let result =
        tokio::time::timeout(PATIENCE, look(&guarded, &context)).await.unwrap_or(Err(ReconcileError::NoAnswer));
    context.metrics.reconciled(result.is_ok(), begun.elapsed());
    if result.is_ok()
        && let Some(identity) = Identity::of(guarded.as_ref())
    {
        context.jobs.with(&identity, |entry| entry.failures = 0);
    }
    result
}

/// What follows a failure.
#[allow(clippy::needless_pass_by_value, reason = "the controller hands them over so")]
pub fn error_policy(guarded: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any());
    tracing::warn!(job = name, error = chain(error), "a look at a job failed, and is repeated");
    let failures = Identity::of(guarded.as_ref()).and_then(|identity| {
        context.jobs.with(&identity, |entry| {
            entry.failures += 1;
            entry.failures
        })
    });
    Action::requeue(back_off(failures.unwrap_or(1)))
}

/// Doubles with each failure in a row, up to a bound.
fn back_off(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(MAX_RETRY)
}

async fn look(guarded: &Guarded, context: &Arc<Context>) -> Result<Action, ReconcileError> {
    let Some(identity) = Identity::of(guarded) else { return Ok(Action::await_change()) };
    if context.gone_first(&identity) {
        // One of the same name is still being let go of.
        return Ok(Action::requeue(LOOK_AT_DELETION));
    }
    let resource = match &guarded.0 {
        Ok(resource) => resource,
        Err(invalid) => return unreadable(context, &identity, guarded, &invalid.error).await,
    };
    let report = report(context, &resource.metadata, &resource.status.clone().unwrap_or_default(), &identity);
    report.seen(resource);
    let generation = resource.metadata.generation.unwrap_or_default();
    let another = context.jobs.with(&identity, |entry| entry.stuck.is_some_and(|(at, _)| at != generation));
    if another == Some(true) {
        // That the one before failed is not said of this one, which a later leader would take for tried.
        report.change(|facts| facts.run.forget_failure());
    }
    let classes = &context.options.priority_classes;
    let valid = validate(resource, &context.options.worker_image, classes);
    if let Some(deleted) = &resource.metadata.deletion_timestamp {
        // Whatever else is wrong with it, its storage is where it is.
        let valid = valid.or_else(|_| validate(&without_pods(resource), &context.options.worker_image, classes));
        return end(context, &identity, resource, valid.ok().as_ref(), deleted, &report).await;
    }
    let (wanted, problem) = match valid {
        Ok(wanted) => (wanted, None),
        Err(problem) => {
            report.problem(generation, Some(problem.clone()));
            match last_good(context, &identity, resource).await? {
                Some(good) => (good, Some(problem)),
                None => return keep_up(context, &identity).await,
            }
        }
    };
    if !wanted.finalized {
        delete::finalize(&context.client, &identity, true).await.map_err(doing("setting the finalizer"))?;
    }
    let kept = kept(context, &identity).await?;
    let keys = match &wanted.pods.secret {
        None => {
            if let Err(problem) = context.storage.allows(&identity.namespace, &wanted.job.settings.storage) {
                report.problem(generation, Some(problem));
                return Ok(Action::requeue(LOOK_AGAIN));
            }
            None
        }
        Some(name) => {
            let read = observe::storage_keys(&context.client, &identity.namespace, name).await;
            match read.map_err(doing("reading the storage's Secret"))? {
                Ok(keys) => Some(keys),
                Err(problem) => {
                    report.problem(generation, Some(problem));
                    return Ok(Action::requeue(LOOK_SOON));
                }
            }
        }
    };
    let (kept, until) = match apply(context, &identity, kept).await {
        Ok(applied) => applied,
        Err(ReconcileError::Api { doing, source }) => {
            let refused = refusal(&source)
                .map(|message| Problem { reason: reasons::OBJECTS_REFUSED, message: format!("{doing}: {message}") });
            report.change(|facts| {
                facts.generation = generation;
                facts.objects = refused;
            });
            return Err(ReconcileError::Api { doing, source });
        }
        Err(error) => return Err(error),
    };
    report.problem(generation, problem);
    report.change(|facts| facts.objects = None);
    let kept = keep_running(context, &wanted, kept).await?;
    carry_out(context, &wanted, kept, keys, &report).await?;
    Ok(Action::requeue(until.min(LOOK_AGAIN)))
}

/// What a running job needs is kept up whatever its newest spec is: its certificates, and the objects that somebody deleted.
async fn keep_up(context: &Arc<Context>, identity: &Identity) -> Result<Action, ReconcileError> {
    if !context.jobs.with(identity, |entry| entry.supervisor.is_some()).unwrap_or_default() {
        return Ok(Action::await_change());
    }
    let kept = kept(context, identity).await?;
    let (_, until) = apply(context, identity, kept).await?;
    Ok(Action::requeue(until.min(LOOK_AGAIN)))
}

fn report(context: &Arc<Context>, meta: &ObjectMeta, status: &StreamJobStatus, identity: &Identity) -> Arc<Report> {
    let mut entries = context.jobs.lock();
    let entry = entries.entry(jobs::key(identity)).or_insert_with(|| {
        let report = Report::start(
            context.client.clone(),
            meta,
            status,
            identity.clone(),
            context.publisher.clone(),
            context.metrics.clone(),
        );
        // What failed under another leader is tried again with another spec, as under that one.
        let failed = matches!(report.facts().run, Run::Failed(_));
        Entry {
            identity: identity.clone(),
            report,
            kept: None,
            supervisor: None,
            stuck: failed.then(|| (meta.generation.unwrap_or_default(), None)),
            pods_unknown: true,
            keys: None,
            failures: 0,
            leaving: delete::Leaving::default(),
        }
    });
    Arc::clone(&entry.report)
}

/// The object is no StreamJob of this version: it can only come from a CRD that is not this one's.
async fn unreadable(
    context: &Arc<Context>,
    identity: &Identity,
    guarded: &Guarded,
    error: &str,
) -> Result<Action, ReconcileError> {
    let meta = guarded.meta();
    if meta.deletion_timestamp.is_some() {
        if meta.finalizers.iter().flatten().any(|name| name == names::FINALIZER) {
            delete::finalize(&context.client, identity, false).await.map_err(doing("letting the resource go"))?;
        }
        return Ok(Action::await_change());
    }
    let report = report(context, meta, &StreamJobStatus::default(), identity);
    let message = format!("the resource cannot be read: {error}; is the CRD the one of this version?");
    report.problem(meta.generation.unwrap_or_default(), Some(Problem::spec(message)));
    Ok(Action::await_change())
}

/// Builds and applies the job's objects; gives what is kept, and how long that holds.
async fn apply(
    context: &Arc<Context>,
    identity: &Identity,
    mut kept: Kept,
) -> Result<(Kept, Duration), ReconcileError> {
    let now = certs::seconds(SystemTime::now());
    let renewal = certs::decide(kept.authority.as_ref(), now);
    if let Some(made) = certs::renew(kept.authority.as_ref(), &identity.job().to_string(), renewal, now)? {
        // What signs is kept before anything that it signed is used.
        keep_authority(context, identity, &made).await?;
        if kept.authority.is_some() {
            tracing::info!(job = %identity.job(), ?renewal, "certificates were made anew");
            let told = super::events::Told::normal(
                reasons::events::CERTIFICATES_ROTATED,
                format!("certificates were made anew: {renewal:?}"),
            );
            context.jobs.with(identity, |entry| entry.report.tell(told));
        }
        kept.authority = Some(made);
        let authority = kept.authority.clone();
        context.jobs.with(identity, |entry| {
            if let Some(running) = &mut entry.supervisor
                && let Some(authority) = &authority
            {
                running.certificates(jobs::session_tls(authority));
            }
            entry.kept.get_or_insert_default().authority = authority;
        });
    }
    let heard = context.jobs.with(identity, |entry| entry.supervisor.as_mut().is_none_or(jobs::Running::retell));
    if heard == Some(false) {
        jobs::wake_to_retell(context, identity);
    }
    let until = match certs::decide(kept.authority.as_ref(), now) {
        certs::Renewal::None { until } => Duration::from_secs(until.saturating_sub(now).max(1)),
        _ => LOOK_SOON,
    };
    if let Some(authority) = &kept.authority {
        keep_authority(context, identity, authority).await?;
        apply_objects(context, identity, authority).await?;
    }
    Ok((kept, until))
}

async fn keep_authority(
    context: &Arc<Context>,
    identity: &Identity,
    authority: &Authority,
) -> Result<(), ReconcileError> {
    let secret = secrets::ca(identity, authority);
    context.applied.apply(&context.client, &secret, false).await.map_err(doing("keeping the job's CA"))
}

async fn apply_objects(
    context: &Arc<Context>,
    identity: &Identity,
    authority: &Authority,
) -> Result<(), ReconcileError> {
    let (client, applied) = (&context.client, &context.applied);
    let stands_still = context.jobs.with(identity, |entry| entry.report.facts().stands_still()).unwrap_or_default();
    let namespace = &context.options.pod_namespace;
    applied.apply(client, &secrets::tls(identity, authority), false).await.map_err(doing("applying certificates"))?;
    applied
        .apply(client, &service::service_account(identity), false)
        .await
        .map_err(doing("applying the ServiceAccount"))?;
    applied.apply(client, &service::service(identity), false).await.map_err(doing("applying the Service"))?;
    applied
        .apply(client, &policy::network_policy(identity, namespace, &context.options.metrics_from.0), false)
        .await
        .map_err(doing("applying the NetworkPolicy"))?;
    applied
        .apply(client, &policy::disruption_budget(identity, stands_still), false)
        .await
        .map_err(doing("applying the PodDisruptionBudget"))
}

/// Keeps the version that runs, once it does: a later leader goes on with it even where the newest spec cannot run.
async fn keep_running(context: &Arc<Context>, wanted: &ValidJob, mut kept: Kept) -> Result<Kept, ReconcileError> {
    let identity = &wanted.identity;
    let accepted = context.jobs.with(identity, |entry| {
        let running = entry.report.facts().running?;
        let asked = &entry.supervisor.as_ref()?.asked;
        asked.iter().rev().find(|asked| asked.generation == running).cloned()
    });
    let Some(accepted) = accepted.flatten() else { return Ok(kept) };
    let json = serde_json::to_vec(&accepted).unwrap_or_default();
    let secret = secrets::running(identity, json);
    context.applied.apply(&context.client, &secret, false).await.map_err(doing("keeping the version that runs"))?;
    if kept.accepted.as_ref() == Some(&accepted) {
        return Ok(kept);
    }
    kept.accepted = Some(accepted);
    let accepted = kept.accepted.clone();
    context.jobs.with(identity, |entry| {
        entry.kept.get_or_insert_default().accepted = accepted;
        if let Some(running) = &mut entry.supervisor {
            // What came before it is never run again.
            if let Some(at) = running
                .asked
                .iter()
                .rposition(|asked| Some(asked) == entry.kept.as_ref().and_then(|kept| kept.accepted.as_ref()))
            {
                running.asked.drain(..at);
            }
        }
    });
    Ok(kept)
}

async fn carry_out(
    context: &Arc<Context>,
    wanted: &ValidJob,
    kept: Kept,
    keys: Option<S3Keys>,
    report: &Arc<Report>,
) -> Result<(), ReconcileError> {
    let identity = &wanted.identity;
    let facts = report.facts();
    let (supervised, pods_unknown) =
        context.jobs.with(identity, |entry| (entry.supervisor.is_some(), entry.pods_unknown)).unwrap_or_default();
    let pods = if !supervised && pods_unknown {
        let mut pods = observe::pods(&context.client, identity).await.map_err(doing("looking for pods"))?;
        // Failed ones are kept for their logs.
        pods.retain(|pod| !matches!(state_of(pod), PodState::Dead { .. }));
        if pods.is_empty() {
            report.change(|facts| (facts.workers, facts.standby) = (0, 0));
        }
        pods
    } else {
        Vec::new()
    };
    let image = plan::settled_image(wanted, kept.accepted.as_ref());
    let templated = ValidJob { job: jobs::with_template(wanted, image.clone(), keys.as_ref()), ..wanted.clone() };
    let now = Instant::now();
    let step = context.jobs.with(identity, |entry| {
        if let Some(running) = &mut entry.supervisor
            && running.keys != keys
            && !running.ending
        {
            // The workers run on; a supervisor with the new keys takes them up, and hands over to pods that have them too.
            if !running.end(Control::Leave) {
                jobs::wake_to_retell(context, identity);
            }
            return (Step::Rest, None);
        }
        let supervisor = match &entry.supervisor {
            None => Supervisor::None,
            Some(running) if running.ending => Supervisor::Ending,
            Some(running) => Supervisor::Runs { job: &running.job, generation: running.job.generation },
        };
        let there = There {
            supervisor,
            accepted: kept.accepted.as_ref(),
            pods: !pods.is_empty(),
            // A job that failed is tried again when its spec changes; one that succeeded, when another is wanted.
            ended: match facts.run {
                Run::Failed(_) => entry.stuck.is_none_or(|(at, _)| at == wanted.generation),
                _ => facts.ended(),
            },
            refused: facts.refused.as_ref().is_some_and(|(generation, _)| *generation == wanted.generation),
            unfit: matches!(&facts.run, Run::Stalled(problem) if problem.reason == reasons::STATE_MISMATCH),
            stuck: entry.stuck.filter(|(_, until)| until.is_none_or(|until| now < until)).map(|(at, _)| at),
            restored_from: facts.restored_from.as_ref().map(|wish| wish.value.as_str()),
        };
        (plan::decide(&templated, &there), plan::unfulfilled(&templated, &there))
    });
    let Some((step, wish)) = step else { return Ok(()) };
    if step != Step::Rest {
        tracing::info!(job = %identity.job(), generation = wanted.generation, ?step, "the next step");
    }
    match step {
        Step::Rest => rest(context, &templated, keys.as_ref(), report).await,
        Step::Clear => {
            let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
            delete::remove_pods(&context.client, &pods).await.map_err(doing("removing pods"))?;
            context.jobs.with(identity, |entry| entry.pods_unknown = false);
            context.wake(identity);
        }
        Step::Start(begin) => begin_with(context, wanted, image, &begin, keys, &kept).await,
        Step::StartAccepted => {
            let Some(accepted) = &kept.accepted else { return Ok(()) };
            let meta = ObjectMeta {
                namespace: Some(identity.namespace.clone()),
                uid: Some(identity.uid.clone()),
                ..ObjectMeta::default()
            };
            match as_accepted(context, accepted, &identity.name, meta) {
                Ok(before) => {
                    begin_with(context, &before, accepted.image.clone(), &Begin::Newest, keys, &kept).await;
                    // What is wanted follows at the next look, which the start of this one causes.
                    context.wake(identity);
                }
                // A rule that is new since: then the newest spec counts alone.
                Err(_) => begin_with(context, wanted, image, &Begin::Newest, keys, &kept).await,
            }
        }
        Step::Configure => jobs::change(context, wanted, image, keys.as_ref(), false),
        Step::Change { empty } => jobs::change(context, wanted, image, keys.as_ref(), empty),
        Step::Stop { last_checkpoint, why } => {
            // A wish that cannot come true stops nothing.
            if let Some(wish) = wish.filter(|_| !wanted.suspend)
                && let Err(problem) = jobs::find(&context.storage, &templated.job, keys.as_ref(), &wish).await
            {
                if problem.reason == reasons::STORAGE_UNREACHABLE {
                    jobs::wake_later(context, identity);
                }
                report.change(|facts| facts.refused = Some((wanted.generation, problem)));
                return Ok(());
            }
            let heard = context.jobs.with(identity, |entry| {
                let stop = Control::Stop { last_checkpoint, why: why.to_string() };
                entry.supervisor.as_mut().is_none_or(|running| running.end(stop))
            });
            if heard == Some(false) {
                jobs::wake_to_retell(context, identity);
            }
        }
    }
    Ok(())
}

fn without_pods(resource: &StreamJob) -> StreamJob {
    let mut resource = resource.clone();
    resource.spec.workers.pod_template = None;
    resource
}

/// The version that was last taken up, as a job.
fn as_accepted(context: &Context, accepted: &Accepted, name: &str, meta: ObjectMeta) -> Result<ValidJob, Problem> {
    let mut before = StreamJob::new(name, accepted.spec.clone());
    let name = Some(name.to_string());
    before.metadata = ObjectMeta { name, generation: Some(accepted.generation), ..meta };
    validate(&before, &accepted.image, &context.options.priority_classes)
}

/// What is kept of a job, read once.
async fn kept(context: &Arc<Context>, identity: &Identity) -> Result<Kept, ReconcileError> {
    if let Some(kept) = context.jobs.with(identity, |entry| entry.kept.clone()).flatten() {
        return Ok(kept);
    }
    let kept = observe::kept(&context.client, identity).await.map_err(doing("reading what is kept"))?;
    context.jobs.with(identity, |entry| entry.kept = Some(kept.clone()));
    Ok(kept)
}

/// The version that keeps running while the newest spec is wrong: a new leader takes it up, and it is suspended if that is wanted.
async fn last_good(
    context: &Arc<Context>,
    identity: &Identity,
    resource: &StreamJob,
) -> Result<Option<ValidJob>, ReconcileError> {
    let suspend = resource.spec.suspend;
    if context.jobs.with(identity, |entry| entry.supervisor.is_some()).unwrap_or(true) && !suspend {
        return Ok(None);
    }
    let accepted = kept(context, identity).await?.accepted;
    let good =
        accepted.and_then(|accepted| as_accepted(context, &accepted, &identity.name, resource.metadata.clone()).ok());
    Ok(good.map(|good| ValidJob { suspend, ..good }))
}

async fn begin_with(
    context: &Arc<Context>,
    wanted: &ValidJob,
    image: String,
    begin: &Begin,
    keys: Option<S3Keys>,
    kept: &Kept,
) {
    if let Err(problem) = jobs::start(context, wanted, image, begin, keys, kept).await {
        let passes = problem.reason == reasons::STORAGE_UNREACHABLE;
        if passes {
            jobs::wake_later(context, &wanted.identity);
        }
        context.jobs.with(&wanted.identity, |entry| {
            entry.stuck = Some((wanted.generation, passes.then(|| Instant::now() + jobs::TRY_AGAIN)));
            let told = super::events::Told::warning(reasons::events::STALLED, problem.message.clone());
            entry.report.tell(told);
            entry.report.change(|facts| facts.run = Run::Stalled(problem));
        });
    }
}

/// Nothing runs and nothing is to. A status that was lost, or that a controller did not come to write, is made again from storage.
async fn rest(context: &Arc<Context>, wanted: &ValidJob, keys: Option<&S3Keys>, report: &Arc<Report>) {
    let supervised = context.jobs.with(&wanted.identity, |entry| entry.supervisor.is_some()).unwrap_or(true);
    if supervised {
        return;
    }
    let facts = report.facts();
    if wanted.suspend && !facts.ended() && !matches!(facts.run, Run::Suspended(_)) {
        report.change(|facts| facts.run = Run::Suspended(None));
    }
    if facts.term.is_some() && facts.run != Run::Unknown {
        return;
    }
    let Ok(store) = context.storage.open(&wanted.job, keys) else { return };
    let Some(Ok(found)) = context.storage.look(LOOK_SOON, read_facts(&store)).await else { return };
    let ours = |opening: &&Arc<Opening>| opening.owner == wanted.identity.uid && opening.cluster == context.cluster;
    if let Some(opening) = found.newest_opening().filter(ours) {
        let newest = found.records().next_back();
        let url = newest.map(|record| format!("{}/{}", store.name(), record.reference().path()));
        report.change(|facts| facts.found(opening, newest.map(Arc::as_ref).zip(url.as_deref())));
    }
}

/// The job is being deleted.
async fn end(
    context: &Arc<Context>,
    identity: &Identity,
    resource: &StreamJob,
    valid: Option<&ValidJob>,
    deleted: &Time,
    report: &Arc<Report>,
) -> Result<Action, ReconcileError> {
    let removes = resource.spec.checkpoint.on_delete == OnDelete::Delete;
    let what = if removes { "its checkpoints are removed" } else { "its checkpoints stay" };
    // What has come in the way since is not written over.
    report.change(|facts| {
        facts.deleting.get_or_insert_with(|| format!("the job is being deleted; {what}"));
    });
    let finalized = resource.finalizers().iter().any(|name| name == names::FINALIZER);
    let keys = context
        .jobs
        .with(identity, |entry| {
            if let Some(running) = &mut entry.supervisor {
                if delete::out_of_time(deleted, Timestamp::now()) {
                    // Deletions are looked at again and again.
                    let _ = running.tell(Control::Kill);
                }
                // Nobody goes on from a checkpoint that is removed at once.
                running.deleted(!removes);
            }
            entry.keys.clone()
        })
        .flatten();
    let supervised = context.jobs.with(identity, |entry| entry.supervisor.is_some()).unwrap_or_default();
    let pods = if finalized && !supervised {
        observe::pods(&context.client, identity).await.map_err(doing("looking for pods"))?
    } else {
        Vec::new()
    };
    match delete::decide(finalized, supervised, pods.len(), deleted, Timestamp::now()) {
        delete::Step::Wait => {
            let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
            delete::remove_pods(&context.client, &pods).await.map_err(doing("removing pods"))?;
            return Ok(Action::requeue(LOOK_AT_DELETION));
        }
        delete::Step::Storage => {
            if !storage_left(context, identity, valid, keys, deleted, report) {
                return Ok(Action::requeue(LOOK_AT_DELETION));
            }
            delete::finalize(&context.client, identity, false).await.map_err(doing("letting the resource go"))?;
        }
        delete::Step::Release => {}
    }
    Ok(Action::await_change())
}

/// True where the job's storage has been left, or emptied. Else that is under way, beside the looks at jobs.
fn storage_left(
    context: &Arc<Context>,
    identity: &Identity,
    valid: Option<&ValidJob>,
    keys: Option<S3Keys>,
    deleted: &Time,
    report: &Arc<Report>,
) -> bool {
    let (about, job, report) = (Arc::clone(context), identity.clone(), Arc::clone(report));
    let (valid, deleted) = (valid.cloned(), deleted.clone());
    let leaves = async move {
        let left = leave_storage(&about, &job, valid.as_ref(), keys, &deleted, &report).await;
        let becomes = if left { delete::Leaving::Left } else { delete::Leaving::Idle };
        about.jobs.with(&job, |entry| entry.leaving = becomes);
        if left {
            about.wake(&job);
        }
    };
    let left = context.jobs.with(identity, |entry| {
        entry.leaving.begin(leaves);
        matches!(entry.leaving, delete::Leaving::Left)
    });
    left.unwrap_or_default()
}

/// Removes the checkpoints, or leaves them to whoever comes next; true where the resource may go.
async fn leave_storage(
    context: &Arc<Context>,
    identity: &Identity,
    valid: Option<&ValidJob>,
    keys: Option<S3Keys>,
    deleted: &Time,
    report: &Arc<Report>,
) -> bool {
    let removes = valid.is_some_and(|valid| valid.on_delete == OnDelete::Delete);
    let ran = has_run(context, identity, report).await;
    let left = match valid {
        // It names no storage that could ever have been used.
        None => Ok(Removed::Objects(0)),
        Some(valid) => {
            let keys = match (&valid.pods.secret, keys) {
                (Some(name), None) => match observe::storage_keys(&context.client, &identity.namespace, name).await {
                    Ok(Ok(keys)) => Ok(Some(keys)),
                    Ok(Err(problem)) => Err(problem.message),
                    Err(error) => Err(chain(&error)),
                },
                (_, keys) => Ok(keys),
            };
            let store = keys.and_then(|keys| context.storage.open(&valid.job, keys.as_ref()).map_err(|p| p.message));
            let store = match store {
                // What a controller may have written a moment before it died is looked for, where that takes no time.
                Ok(store) if !ran => delete::answers(&store).await.map(|()| store),
                store => store,
            };
            match store {
                Ok(store) if removes => {
                    delete::remove(
                        &store,
                        &request(context, identity, valid),
                        &context.storage.removals,
                        delete::BUDGET,
                    )
                    .await
                }
                Ok(store) => {
                    let released = delete::release(&store, request(context, identity, valid)).await;
                    released.map(|()| Removed::Objects(0))
                }
                Err(reason) => Err(reason),
            }
        }
    };
    match left {
        Ok(Removed::Anothers) => {
            let note = "another job owns what is in storage: nothing was removed".to_string();
            report.tell(super::events::Told::warning(reasons::events::CHECKPOINTS_LEFT, note));
            true
        }
        Ok(Removed::Objects(objects)) => {
            if removes {
                let note = format!("{objects} objects were removed from storage");
                report.tell(super::events::Told::normal(reasons::events::CHECKPOINTS_DELETED, note));
            }
            true
        }
        Err(reason) if !ran => {
            tracing::info!(job = %identity.job(), reason, "storage is not waited for: the job has never run");
            true
        }
        Err(reason) if delete::out_of_time(deleted, Timestamp::now()) => {
            let note = if removes {
                format!("the checkpoints could not be removed, and are left in storage: {reason}")
            } else {
                format!(
                    "storage still names this job as its owner, and the next needs restoreFrom: {{previous: true}}: {reason}"
                )
            };
            report.tell(super::events::Told::warning(reasons::events::CHECKPOINTS_LEFT, note));
            true
        }
        Err(reason) => {
            let text = format!("storage cannot be left yet, tried again: {reason}");
            report.change(|facts| facts.deleting = Some(text));
            false
        }
    }
}

/// Something of the job may be in storage, as far as anybody knows.
async fn has_run(context: &Arc<Context>, identity: &Identity, report: &Arc<Report>) -> bool {
    let facts = report.facts();
    let told = facts.term.is_some() || facts.latest.is_some();
    told || kept(context, identity).await.map_or(true, |kept| kept.accepted.is_some())
}

/// As a takeover of what this resource owns.
fn request(context: &Context, identity: &Identity, valid: &ValidJob) -> Request {
    Request {
        job: identity.job(),
        coordinator: context.coordinator_name(),
        owner: identity.uid.clone(),
        cluster: context.cluster.clone(),
        adopt: false,
        accept_lost_output: false,
        resume: true,
        release: true,
        restore: Restore::Latest,
        wish: None,
        after: None,
        workers: valid.job.workers,
        slots: valid.job.slots,
        max_parallelism: valid.job.plan.max_parallelism,
        fingerprint: String::new(),
        retain: valid.job.policy.retain,
        format: context.options.state_format,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_ever_more_rarely() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 7, 50].map(|failures| back_off(failures).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 8, 60, 60]);
    }
}
