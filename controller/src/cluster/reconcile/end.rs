//! The storage of a job that is deleted: its checkpoints are removed, or left to whoever comes next. That takes the time that it takes,
//! so it is seen to by a task beside the looks at jobs.

use std::sync::Arc;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use weir_crds::OnDelete;
use weir_storage::{JobStore, S3Keys};

use super::facts::{Facts, Subject, kept};
use crate::{
    cluster::{
        context::Context,
        delete::{self, Leaving, Removed},
        identity::Identity,
        observe,
        report::Report,
        validate::ValidJob,
    },
    effects::chain,
    facts::told::Told,
    reasons,
    takeover::{Request, Restore},
};

/// Has a deleted job's storage left, or emptied, unless that is under way.
pub fn leave_storage(context: &Arc<Context>, facts: &Facts, report: &Arc<Report>) {
    let Subject::Deleted(deleted) = &facts.subject else { return };
    let estate = Estate {
        context: Arc::clone(context),
        identity: facts.identity.clone(),
        report: Arc::clone(report),
        valid: deleted.valid.clone(),
        since: deleted.since.clone(),
        keys: context.jobs.with(&facts.identity, |entry| entry.keys.clone()).flatten(),
    };
    let leaves = async move {
        let left = estate.leave().await;
        let becomes = if left { Leaving::Left } else { Leaving::Idle };
        estate.context.jobs.with(&estate.identity, |entry| entry.leaving = becomes);
        if left {
            estate.context.wake(&estate.identity);
        }
    };
    context.jobs.with(&facts.identity, |entry| entry.leaving.begin(leaves));
}

/// What a job leaves behind, and all that seeing to it takes.
struct Estate {
    context: Arc<Context>,
    identity: Identity,
    report: Arc<Report>,
    valid: Option<ValidJob>,
    /// When the deletion was asked for.
    since: Time,
    /// The keys with which it was last reached.
    keys: Option<S3Keys>,
}

impl Estate {
    /// True where the resource may go.
    async fn leave(&self) -> bool {
        let ran = self.has_run().await;
        let left = match &self.valid {
            // It names no storage that could ever have been used.
            None => Ok(Removed::Objects(0)),
            Some(valid) => self.empty_or_release(valid, ran).await,
        };
        match left {
            Ok(removed) => {
                self.tell_of(removed);
                true
            }
            Err(reason) if !ran => {
                tracing::info!(job = %self.identity.job(), reason, "storage is not waited for: the job has never run");
                true
            }
            Err(reason) if delete::out_of_time(&self.since, Timestamp::now()) => {
                let note = if self.removes() {
                    format!("the checkpoints could not be removed, and are left in storage: {reason}")
                } else {
                    format!(
                        "storage still names this job as its owner, and the next needs restoreFrom: {{previous: true}}: {reason}"
                    )
                };
                self.report.tell(Told::warning(reasons::events::CHECKPOINTS_LEFT, note));
                true
            }
            Err(reason) => {
                let text = format!("storage cannot be left yet, tried again: {reason}");
                self.report.change(|facts| facts.deleting = Some(text));
                false
            }
        }
    }

    fn removes(&self) -> bool {
        self.valid.as_ref().is_some_and(|valid| valid.on_delete == OnDelete::Delete)
    }

    fn tell_of(&self, removed: Removed) {
        match removed {
            Removed::Anothers => {
                let note = "another job owns what is in storage: nothing was removed".to_string();
                self.report.tell(Told::warning(reasons::events::CHECKPOINTS_LEFT, note));
            }
            Removed::Objects(objects) if self.removes() => {
                let note = format!("{objects} objects were removed from storage");
                self.report.tell(Told::normal(reasons::events::CHECKPOINTS_DELETED, note));
            }
            Removed::Objects(_) => {}
        }
    }

    async fn empty_or_release(&self, valid: &ValidJob, ran: bool) -> Result<Removed, String> {
        let store = self.open(valid).await?;
        if !ran {
            // What a controller may have written a moment before it died is looked for, where that takes no time.
            delete::answers(&store).await?;
        }
        let request = self.request(valid);
        if self.removes() {
            return delete::remove(&store, &request, &self.context.storage.removals, delete::BUDGET).await;
        }
        delete::release(&store, request).await.map(|()| Removed::Objects(0))
    }

    async fn open(&self, valid: &ValidJob) -> Result<JobStore, String> {
        let keys = match (&valid.pods.secret, self.keys.clone()) {
            (Some(name), None) => {
                let read = observe::storage_keys(&self.context.client, &self.identity.namespace, name).await;
                Some(read.map_err(|error| chain(&error))?.map_err(|problem| problem.message)?)
            }
            (_, keys) => keys,
        };
        self.context.storage.open(&valid.job, keys.as_ref()).map_err(|problem| problem.message)
    }

    /// Something of the job may be in storage, as far as anybody knows.
    async fn has_run(&self) -> bool {
        let facts = self.report.facts();
        let told = facts.term.is_some() || facts.latest.is_some();
        told || kept(&self.context, &self.identity).await.map_or(true, |kept| kept.accepted.is_some())
    }

    /// As a takeover of what this resource owns.
    fn request(&self, valid: &ValidJob) -> Request {
        Request {
            job: self.identity.job(),
            coordinator: self.context.coordinator_name(),
            owner: self.identity.uid.clone(),
            cluster: self.context.cluster.clone(),
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
            format: self.context.options.state_format,
        }
    }
}
