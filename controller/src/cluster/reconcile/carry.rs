//! From steps to the API server, to supervisors and to storage. Nothing is decided here: a step is carried out, or fails, and the
//! next look begins anew.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::core::ObjectMeta;
use weir_protocol::record::Opening;
use weir_runtime::clock;
use weir_storage::S3Keys;

use super::{
    decide::{Decision, LOOK_SOON, Step},
    end,
    error::{ReconcileError, doing},
    facts::{Facts, Keys, Subject, as_accepted, kept},
    start,
};
use crate::{
    cluster::{
        apply::refusal,
        build::{policy, secrets, service},
        certs::{self, Authority},
        context::Context,
        delete,
        identity::Identity,
        jobs::{self, Kept, Running},
        plan::{self, Accepted, Begin},
        problem::Problem,
        report::Report,
        status::Run,
        validate::ValidJob,
    },
    effects::read_facts,
    facts::told::Told,
    reasons,
    supervisor::Control,
};

/// Carries a decision out, step by step; gives when the job is looked at again without any cause.
pub async fn carry_out(
    context: &Arc<Context>,
    facts: &Facts,
    decision: Decision,
) -> Result<Option<Duration>, ReconcileError> {
    let identity = &facts.identity;
    let mut again = decision.again;
    for step in decision.steps {
        let Some(report) = context.jobs.with(identity, |entry| Arc::clone(&entry.report)) else {
            // Of an object that cannot be read nothing is held here, and it can be let go of all the same.
            if step == Step::Release {
                release(context, identity).await?;
            }
            continue;
        };
        let carrying = Carrying { context, facts, identity, report: &report };
        if let Some(sooner) = carrying.step(step).await? {
            again = Some(again.map_or(sooner, |again| again.min(sooner)));
        }
    }
    Ok(again)
}

async fn release(context: &Context, identity: &Identity) -> Result<(), ReconcileError> {
    delete::finalize(&context.client, identity, false).await.map_err(doing("letting the resource go"))
}

/// What a step is carried out with.
struct Carrying<'a> {
    context: &'a Arc<Context>,
    facts: &'a Facts,
    identity: &'a Identity,
    report: &'a Arc<Report>,
}

impl Carrying<'_> {
    /// Carries one step out; gives by when the job has to be looked at again for it.
    async fn step(&self, step: Step) -> Result<Option<Duration>, ReconcileError> {
        let (context, identity, report) = (self.context, self.identity, self.report);
        match step {
            Step::Say(problem) => report.problem(self.facts.generation, problem),
            Step::Hold => {
                delete::finalize(&context.client, identity, true).await.map_err(doing("setting the finalizer"))?;
            }
            Step::Release => release(context, identity).await?,
            Step::KeepUp => return self.keep_up().await.map(Some),
            Step::Apply => return self.apply().await.map(Some),
            Step::KeepRunning(accepted) => self.keep_running(*accepted).await?,
            Step::NoWorkers => report.change(|facts| (facts.workers, facts.standby) = (0, 0)),
            // One that ends already is not to be told anything else.
            Step::LetGo => self.tell(|running| running.ending || running.end(Control::Leave)),
            Step::SaySuspended => report.change(|facts| facts.run = Run::Suspended(None)),
            Step::ReadBack(job) => self.read_back(&job).await,
            Step::Next { step, job, image, wish } => self.next(step, &job, image, wish).await?,
            Step::Checkpoint(value) => self.tell(|running| running.checkpoint(&value)),
            // What has come in the way since is not written over.
            Step::SayDeleting(what) => report.change(|facts| {
                facts.deleting.get_or_insert_with(|| format!("the job is being deleted; {what}"));
            }),
            Step::StopForGood { kill, last_checkpoint } => self.stop_for_good(kill, last_checkpoint),
            Step::RemovePods => self.remove_pods().await?,
            Step::LeaveStorage => end::leave_storage(context, self.facts, report),
        }
        Ok(None)
    }

    /// Tells the supervisor something that has to be heard: where it is not, the job is looked at again soon.
    fn tell(&self, tell: impl FnOnce(&mut Running) -> bool) {
        let heard = self.context.jobs.with(self.identity, |entry| entry.supervisor.as_mut().is_none_or(tell));
        if heard == Some(false) {
            self.context.wake_to_retell(self.identity);
        }
    }

    fn keys(&self) -> Option<S3Keys> {
        match &self.facts.subject {
            Subject::Wanted(wanted) => match &wanted.keys {
                Keys::With(keys) => keys.clone(),
                Keys::NotAllowed(_) | Keys::Missing(_) => None,
            },
            Subject::Unreadable { .. } | Subject::Deleted(_) => None,
        }
    }

    fn pods(&self) -> &[Arc<Pod>] {
        match &self.facts.subject {
            Subject::Wanted(wanted) => wanted.pods.as_deref().unwrap_or_default(),
            Subject::Deleted(deleted) => &deleted.pods,
            Subject::Unreadable { .. } => &[],
        }
    }

    async fn apply(&self) -> Result<Duration, ReconcileError> {
        let kept_up = self.keep_up().await;
        match &kept_up {
            Ok(_) => self.report.change(|facts| facts.objects = None),
            Err(ReconcileError::Api { doing, source }) => {
                let refused = refusal(source).map(|message| Problem {
                    reason: reasons::OBJECTS_REFUSED,
                    message: format!("{doing}: {message}"),
                });
                self.report.change(|facts| {
                    facts.generation = self.facts.generation;
                    facts.objects = refused;
                });
            }
            Err(ReconcileError::NoAnswer | ReconcileError::Certs(_)) => {}
        }
        kept_up
    }

    /// Builds and applies the job's objects; gives how long its certificates hold.
    async fn keep_up(&self) -> Result<Duration, ReconcileError> {
        let kept = kept(self.context, self.identity).await?;
        let now = certs::seconds(clock::wall());
        let authority = self.certificates(kept.authority, now).await?;
        self.tell(Running::retell);
        let until = match certs::decide(authority.as_ref(), now) {
            certs::Renewal::None { until } => Duration::from_secs(until.saturating_sub(now).max(1)),
            _ => LOOK_SOON,
        };
        if let Some(authority) = &authority {
            self.keep_authority(authority).await?;
            self.objects(authority).await?;
        }
        Ok(until)
    }

    /// Makes certificates anew where it is time to; gives those that hold from now on.
    async fn certificates(
        &self,
        before: Option<Authority>,
        now: certs::Seconds,
    ) -> Result<Option<Authority>, ReconcileError> {
        let (context, identity) = (self.context, self.identity);
        let renewal = certs::decide(before.as_ref(), now);
        let Some(made) = certs::renew(before.as_ref(), &identity.job().to_string(), renewal, now)? else {
            return Ok(before);
        };
        // What signs is kept before anything that it signed is used.
        self.keep_authority(&made).await?;
        if before.is_some() {
            tracing::info!(job = %identity.job(), ?renewal, "certificates were made anew");
            let note = format!("certificates were made anew: {renewal:?}");
            self.report.tell(Told::normal(reasons::events::CERTIFICATES_ROTATED, note));
        }
        context.jobs.with(identity, |entry| {
            if let Some(running) = &mut entry.supervisor {
                running.certificates(start::session_tls(&made));
            }
            entry.kept.get_or_insert_default().authority = Some(made.clone());
        });
        Ok(Some(made))
    }

    async fn keep_authority(&self, authority: &Authority) -> Result<(), ReconcileError> {
        let secret = secrets::ca(self.identity, authority);
        let kept = self.context.applied.apply(&self.context.client, &secret, false).await;
        kept.map_err(doing("keeping the job's CA"))
    }

    async fn objects(&self, authority: &Authority) -> Result<(), ReconcileError> {
        let (identity, options) = (self.identity, &self.context.options);
        let (client, applied) = (&self.context.client, &self.context.applied);
        let stands_still = self.report.facts().stands_still();
        let tls = secrets::tls(identity, authority);
        applied.apply(client, &tls, false).await.map_err(doing("applying certificates"))?;
        let account = service::service_account(identity);
        applied.apply(client, &account, false).await.map_err(doing("applying the ServiceAccount"))?;
        let service = service::service(identity);
        applied.apply(client, &service, false).await.map_err(doing("applying the Service"))?;
        let policy = policy::network_policy(identity, &options.pod_namespace, &options.metrics_from.0);
        applied.apply(client, &policy, false).await.map_err(doing("applying the NetworkPolicy"))?;
        let budget = policy::disruption_budget(identity, stands_still);
        applied.apply(client, &budget, false).await.map_err(doing("applying the PodDisruptionBudget"))
    }

    async fn keep_running(&self, accepted: Accepted) -> Result<(), ReconcileError> {
        let (context, identity) = (self.context, self.identity);
        let json = serde_json::to_vec(&accepted).unwrap_or_default();
        let secret = secrets::running(identity, json);
        let kept = context.applied.apply(&context.client, &secret, false).await;
        kept.map_err(doing("keeping the version that runs"))?;
        context.jobs.with(identity, |entry| {
            let kept = entry.kept.get_or_insert_default();
            if kept.accepted.as_ref() == Some(&accepted) {
                return;
            }
            if let Some(running) = &mut entry.supervisor {
                // What came before it is never run again.
                if let Some(at) = running.asked.iter().rposition(|asked| *asked == accepted) {
                    running.asked.drain(..at);
                }
            }
            kept.accepted = Some(accepted);
        });
        Ok(())
    }

    async fn next(
        &self,
        step: plan::Step,
        job: &ValidJob,
        image: String,
        wish: Option<String>,
    ) -> Result<(), ReconcileError> {
        let (context, identity) = (self.context, self.identity);
        tracing::info!(job = %identity.job(), generation = job.generation, ?step, "the next step");
        match step {
            plan::Step::Rest => {}
            plan::Step::Clear => {
                self.remove_pods().await?;
                context.jobs.with(identity, |entry| entry.pods_unknown = false);
                context.wake(identity);
            }
            plan::Step::Start(begin) => self.begin(job, image, &begin, &kept(context, identity).await?).await,
            plan::Step::StartAccepted => self.begin_accepted(job, image).await?,
            plan::Step::Configure => start::change(context, job, image, self.keys().as_ref(), false),
            plan::Step::Change { empty } => start::change(context, job, image, self.keys().as_ref(), empty),
            plan::Step::Stop { last_checkpoint, why } => {
                if self.can_come_true(job, wish.filter(|_| !job.suspend)).await {
                    self.tell(|running| running.end(Control::Stop { last_checkpoint, why: why.to_string() }));
                }
            }
        }
        Ok(())
    }

    /// A wish that cannot come true stops nothing.
    async fn can_come_true(&self, job: &ValidJob, wish: Option<String>) -> bool {
        let Some(wish) = wish else { return true };
        let found = start::find(&self.context.storage, &job.job, self.keys().as_ref(), &wish).await;
        let Err(problem) = found else { return true };
        if problem.reason == reasons::STORAGE_UNREACHABLE {
            self.context.wake_later(self.identity);
        }
        self.report.change(|facts| facts.refused = Some((job.generation, problem)));
        false
    }

    /// Takes up what runs as it is.
    async fn begin_accepted(&self, job: &ValidJob, image: String) -> Result<(), ReconcileError> {
        let (context, identity) = (self.context, self.identity);
        let kept = kept(context, identity).await?;
        let Some(accepted) = &kept.accepted else { return Ok(()) };
        let meta = ObjectMeta {
            namespace: Some(identity.namespace.clone()),
            uid: Some(identity.uid.clone()),
            ..ObjectMeta::default()
        };
        match as_accepted(context, accepted, &identity.name, meta) {
            Ok(before) => {
                self.begin(&before, accepted.image.clone(), &Begin::Newest, &kept).await;
                // What is wanted follows at the next look, which the start of this one causes.
                context.wake(identity);
            }
            // A rule that is new since: then the newest spec counts alone.
            Err(_) => self.begin(job, image, &Begin::Newest, &kept).await,
        }
        Ok(())
    }

    async fn begin(&self, job: &ValidJob, image: String, begin: &Begin, kept: &Kept) {
        let begun = start::start(self.context, job, image, begin, self.keys(), kept).await;
        let Err(problem) = begun else { return };
        let passes = problem.reason == reasons::STORAGE_UNREACHABLE;
        if passes {
            self.context.wake_later(self.identity);
        }
        self.context.jobs.with(self.identity, |entry| {
            entry.stuck = Some((job.generation, passes.then(|| clock::now() + jobs::TRY_AGAIN)));
            entry.report.tell(Told::warning(reasons::events::STALLED, problem.message.clone()));
            entry.report.change(|facts| facts.run = Run::Stalled(problem));
        });
    }

    async fn read_back(&self, job: &ValidJob) {
        let context = self.context;
        let Ok(store) = context.storage.open(&job.job, self.keys().as_ref()) else { return };
        let Some(Ok(found)) = context.storage.look(LOOK_SOON, read_facts(&store)).await else { return };
        let ours = |opening: &&Arc<Opening>| opening.owner == self.identity.uid && opening.cluster == context.cluster;
        if let Some(opening) = found.newest_opening().filter(ours) {
            let newest = found.records().next_back();
            let url = newest.map(|record| format!("{}/{}", store.name(), record.reference().path()));
            self.report.change(|facts| facts.found(opening, newest.map(Arc::as_ref).zip(url.as_deref())));
        }
    }

    async fn remove_pods(&self) -> Result<(), ReconcileError> {
        delete::remove_pods(&self.context.client, self.pods()).await.map_err(doing("removing pods"))
    }

    fn stop_for_good(&self, kill: bool, last_checkpoint: bool) {
        self.context.jobs.with(self.identity, |entry| {
            if let Some(running) = &mut entry.supervisor {
                if kill {
                    // Deletions are looked at again and again.
                    let _ = running.tell(Control::Kill);
                }
                running.deleted(last_checkpoint);
            }
        });
    }
}
