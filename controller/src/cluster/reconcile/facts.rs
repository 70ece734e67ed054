//! All that is known of a job before anything is decided: the resource, what the API server keeps for it, and what this leader holds
//! of it. Reads, and changes nothing but what is known here.

use std::{sync::Arc, time::Instant};

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::Resource;
use weir_crds::{OnDelete, StreamJob, StreamJobStatus};
use weir_runtime::clock;
use weir_storage::S3Keys;

use super::error::{ReconcileError, doing};
use crate::{
    cluster::{
        context::{Context, Guarded},
        delete,
        identity::Identity,
        jobs::{self, Entry, Kept},
        names, observe,
        plan::Accepted,
        problem::Problem,
        report::Report,
        status::{self, Run},
        validate::{ValidJob, validate},
    },
    job::Job,
    platform::kubernetes::facts::{PodState, state_of},
};

/// What is known of a job.
#[derive(Debug)]
pub struct Facts {
    /// Who it is.
    pub identity: Identity,
    /// The generation of its newest spec.
    pub generation: i64,
    /// It bears Weir's finalizer.
    pub finalized: bool,
    /// What it is about.
    pub subject: Subject,
}

/// What a look at a job is about.
#[derive(Debug)]
pub enum Subject {
    /// The object is no StreamJob of this version: it can only come from a CRD that is not this one's.
    Unreadable {
        /// Why.
        error: String,
        /// It is being deleted.
        deleted: bool,
    },
    /// It is being deleted.
    Deleted(Box<Deleted>),
    /// It is to be as its spec says.
    Wanted(Box<Wanted>),
}

/// Of a job that is being deleted.
#[derive(Debug)]
pub struct Deleted {
    /// The job, as far as its storage goes.
    pub valid: Option<ValidJob>,
    /// Its checkpoints go too.
    pub removes: bool,
    /// Since when.
    pub since: Time,
    /// The wall clock's time.
    pub now: Timestamp,
    /// Somebody looks after it.
    pub supervised: bool,
    /// Pods that nobody looks after.
    pub pods: Vec<Arc<Pod>>,
    /// Its storage has been left, or emptied.
    pub storage_left: bool,
}

/// Of a job that is to be as its spec says.
#[derive(Debug)]
pub struct Wanted {
    /// What is wrong with the newest spec.
    pub problem: Option<Problem>,
    /// The checkpoint that somebody asks for.
    pub asked: Option<String>,
    /// What is to run: the newest spec, or the last good version where that is wrong and nobody looks after the job.
    pub job: Option<ValidJob>,
    /// What reaches its storage.
    pub keys: Keys,
    /// The version that was last taken up, as the cluster keeps it.
    pub accepted: Option<Accepted>,
    /// What this leader holds of it.
    pub held: Held,
    /// Worker pods that live, where nobody looks after them and nobody has looked for them yet.
    pub pods: Option<Vec<Arc<Pod>>>,
    /// The own clock's time.
    pub now: Instant,
}

/// What a job's storage is reached with.
#[derive(Clone, Debug)]
pub enum Keys {
    /// The keys of its Secret; none: the controller's own identity.
    With(Option<S3Keys>),
    /// The controller's own identity, which is not allowed for it.
    NotAllowed(Problem),
    /// The Secret that it names is not there, or lacks something.
    Missing(Problem),
}

/// What this leader holds of a job.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Who looks after it.
    pub supervisor: Option<Supervised>,
    /// Not tried again at this generation, and until when, if it is at all.
    pub stuck: Option<(i64, Option<Instant>)>,
    /// Worker pods may be there that nobody looks after.
    pub pods_unknown: bool,
    /// What has been reported of it.
    pub said: status::Facts,
}

/// A supervisor, as it was last told to be.
#[derive(Clone, Debug)]
pub struct Supervised {
    /// The version that it runs, or is on its way to.
    pub job: Job,
    /// All versions that it was asked to be since the one that is kept.
    pub asked: Vec<Accepted>,
    /// It has been told to end.
    pub ending: bool,
    /// The checkpoint that it was asked for last.
    pub checkpoint: Option<String>,
    /// With what it reaches storage.
    pub keys: Option<S3Keys>,
}

/// Reads all facts; none where the job has been let go of meanwhile.
pub async fn gather(
    context: &Arc<Context>,
    identity: &Identity,
    guarded: &Guarded,
) -> Result<Option<Facts>, ReconcileError> {
    let meta = guarded.meta();
    let generation = meta.generation.unwrap_or_default();
    let subject = match &guarded.0 {
        Err(invalid) => {
            let deleted = meta.deletion_timestamp.is_some();
            if !deleted {
                enter(context, meta, &StreamJobStatus::default(), identity);
            }
            Subject::Unreadable { error: invalid.error.clone(), deleted }
        }
        Ok(resource) => {
            let report = enter(context, meta, &resource.status.clone().unwrap_or_default(), identity);
            report.seen(resource);
            let stuck = context.jobs.with(identity, |entry| entry.stuck).flatten();
            if stuck.is_some_and(|(at, _)| at != generation) {
                // That the one before failed is not said of this one, which a later leader would take for tried.
                report.change(|facts| facts.run.forget_failure());
            }
            let Some(held) = held(context, identity) else { return Ok(None) };
            match &meta.deletion_timestamp {
                Some(since) => Subject::Deleted(Box::new(deleted(context, identity, resource, since, &held).await?)),
                None => Subject::Wanted(Box::new(wanted(context, identity, resource, held).await?)),
            }
        }
    };
    Ok(Some(Facts { identity: identity.clone(), generation, finalized: finalized(meta), subject }))
}

fn finalized(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|name| name == names::FINALIZER)
}

/// The job is one of this leader's from now on, and is reported on.
fn enter(context: &Context, meta: &ObjectMeta, status: &StreamJobStatus, identity: &Identity) -> Arc<Report> {
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

fn held(context: &Context, identity: &Identity) -> Option<Held> {
    context.jobs.with(identity, |entry| Held {
        supervisor: entry.supervisor.as_ref().map(|running| Supervised {
            job: running.job.clone(),
            asked: running.asked.clone(),
            ending: running.ending,
            checkpoint: running.checkpoint.clone(),
            keys: running.keys.clone(),
        }),
        stuck: entry.stuck,
        pods_unknown: entry.pods_unknown,
        said: entry.report.facts(),
    })
}

async fn deleted(
    context: &Context,
    identity: &Identity,
    resource: &StreamJob,
    since: &Time,
    held: &Held,
) -> Result<Deleted, ReconcileError> {
    let (image, classes) = (&context.options.worker_image, &context.options.priority_classes);
    // Whatever else is wrong with it, its storage is where it is.
    let valid = validate(resource, image, classes).or_else(|_| validate(&without_pods(resource), image, classes));
    let supervised = held.supervisor.is_some();
    let pods = if finalized(&resource.metadata) && !supervised {
        observe::pods(&context.client, identity).await.map_err(doing("looking for pods"))?
    } else {
        Vec::new()
    };
    let left = context.jobs.with(identity, |entry| matches!(entry.leaving, delete::Leaving::Left));
    Ok(Deleted {
        valid: valid.ok(),
        removes: resource.spec.checkpoint.on_delete == OnDelete::Delete,
        since: since.clone(),
        now: Timestamp::now(),
        supervised,
        pods: pods.into_iter().map(Arc::new).collect(),
        storage_left: left.unwrap_or_default(),
    })
}

fn without_pods(resource: &StreamJob) -> StreamJob {
    let mut resource = resource.clone();
    resource.spec.workers.pod_template = None;
    resource
}

async fn wanted(
    context: &Arc<Context>,
    identity: &Identity,
    resource: &StreamJob,
    held: Held,
) -> Result<Wanted, ReconcileError> {
    let now = clock::now();
    let asked = names::asked_checkpoint(&resource.metadata).map(str::to_string);
    let (job, problem) = match validate(resource, &context.options.worker_image, &context.options.priority_classes) {
        Ok(job) => (Some(job), None),
        Err(problem) => (last_good(context, identity, resource, held.supervisor.is_some()).await?, Some(problem)),
    };
    let nothing = Keys::With(None);
    let Some(job) = job else {
        return Ok(Wanted { problem, asked, job: None, keys: nothing, accepted: None, held, pods: None, now });
    };
    let accepted = kept(context, identity).await?.accepted;
    let keys = keys(context, &job).await?;
    let pods = match &keys {
        Keys::With(_) if held.supervisor.is_none() && held.pods_unknown => {
            let mut pods = observe::pods(&context.client, identity).await.map_err(doing("looking for pods"))?;
            // Failed ones are kept for their logs.
            pods.retain(|pod| !matches!(state_of(pod), PodState::Dead { .. }));
            Some(pods.into_iter().map(Arc::new).collect())
        }
        _ => None,
    };
    Ok(Wanted { problem, asked, job: Some(job), keys, accepted, held, pods, now })
}

/// The version that keeps running while the newest spec is wrong: a new leader takes it up, and it is suspended if that is wanted.
async fn last_good(
    context: &Arc<Context>,
    identity: &Identity,
    resource: &StreamJob,
    supervised: bool,
) -> Result<Option<ValidJob>, ReconcileError> {
    let suspend = resource.spec.suspend;
    if supervised && !suspend {
        return Ok(None);
    }
    let accepted = kept(context, identity).await?.accepted;
    let good =
        accepted.and_then(|accepted| as_accepted(context, &accepted, &identity.name, resource.metadata.clone()).ok());
    Ok(good.map(|good| ValidJob { suspend, ..good }))
}

/// The version that was last taken up, as a job.
pub fn as_accepted(context: &Context, accepted: &Accepted, name: &str, meta: ObjectMeta) -> Result<ValidJob, Problem> {
    let mut before = StreamJob::new(name, accepted.spec.clone());
    let name = Some(name.to_string());
    before.metadata = ObjectMeta { name, generation: Some(accepted.generation), ..meta };
    validate(&before, &accepted.image, &context.options.priority_classes)
}

async fn keys(context: &Context, job: &ValidJob) -> Result<Keys, ReconcileError> {
    let namespace = &job.identity.namespace;
    let Some(name) = &job.pods.secret else {
        return Ok(match context.storage.allows(namespace, &job.job.settings.storage) {
            Ok(()) => Keys::With(None),
            Err(problem) => Keys::NotAllowed(problem),
        });
    };
    let read = observe::storage_keys(&context.client, namespace, name).await;
    Ok(match read.map_err(doing("reading the storage's Secret"))? {
        Ok(keys) => Keys::With(Some(keys)),
        Err(problem) => Keys::Missing(problem),
    })
}

/// What is kept of a job, read once.
pub async fn kept(context: &Arc<Context>, identity: &Identity) -> Result<Kept, ReconcileError> {
    if let Some(kept) = context.jobs.with(identity, |entry| entry.kept.clone()).flatten() {
        return Ok(kept);
    }
    let kept = observe::kept(&context.client, identity).await.map_err(doing("reading what is kept"))?;
    context.jobs.with(identity, |entry| entry.kept = Some(kept.clone()));
    Ok(kept)
}
