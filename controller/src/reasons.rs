//! Every reason of a condition and of an event. docs/runbook.md says of each what it means and what to do; a test holds the
//! two against each other.

macro_rules! reasons {
    ($list:ident: $($(#[doc = $doc:literal])+ $name:ident = $value:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $value;)+
        /// All of them.
        pub const $list: &[&str] = &[$($value),+];
    };
}

reasons! { CONDITIONS:
    /// Ready: the newest spec runs as it says.
    RUNNING = "Running";
    /// Reconciling: worker pods are being made, or their image is being pulled.
    STARTING = "Starting";
    /// Reconciling: the workers are told what to run and read their state.
    DEPLOYING = "Deploying";
    /// Reconciling: a worker was lost, and the job is brought back from the newest checkpoint.
    RECOVERING = "Recovering";
    /// Reconciling: a task failed, and the next attempt waits for its back-off.
    BACKING_OFF = "BackingOff";
    /// Reconciling: a new version, size or image is being prepared; the old one runs on meanwhile.
    CHANGING = "Changing";
    /// Reconciling: a last checkpoint is taken before the workers stop.
    SUSPENDING = "Suspending";
    /// Ready False: `spec.suspend` is true, and nothing runs.
    SUSPENDED = "Suspended";
    /// Reconciling: the job is being deleted.
    DELETING = "Deleting";
    /// Succeeded and Ready: all input ended, and all output is published.
    SUCCEEDED = "Succeeded";
    /// Failed: workers were lost or did not come up more often than the restart policy allows.
    GIVEN_UP = "GivenUp";
    /// Failed: input, a function or an operator failed again after each restart that the policy allows.
    TASK_FAILED = "TaskFailed";
    /// Stalled: the spec breaks a rule that only the controller can check.
    INVALID_SPEC = "InvalidSpec";
    /// Stalled: the SQL does not plan; the message has line and column.
    INVALID_SQL = "InvalidSQL";
    /// Stalled: the state of the newest checkpoint does not fit the new version.
    STATE_MISMATCH = "StateMismatch";
    /// Stalled: a change was refused, and the last good version keeps running.
    CHANGE_REFUSED = "ChangeRefused";
    /// Stalled: an object of a checkpoint is missing or damaged.
    CHECKPOINT_CORRUPT = "CheckpointCorrupt";
    /// Stalled: output that a checkpoint has promised was removed before it was published.
    OUTPUT_LOST = "OutputLost";
    /// Stalled: `restoreFrom` names a record that is not there.
    RECORD_NOT_FOUND = "RecordNotFound";
    /// Stalled: `restoreFrom` names a savepoint that is not there, not complete, or not readable.
    SAVEPOINT_UNUSABLE = "SavepointUnusable";
    /// Stalled: another cluster's job, a job that was deleted without its finalizer, or a `weir run` owns this prefix of the storage.
    STORAGE_OWNED_BY_ANOTHER = "StorageOwnedByAnother";
    /// Ready or Checkpointed False: the object storage does not answer.
    STORAGE_UNREACHABLE = "StorageUnreachable";
    /// Stalled: the Secret that `storage.secretRef` names is missing or incomplete.
    STORAGE_SECRET_MISSING = "StorageSecretMissing";
    /// Stalled: the storage's settings name nothing that can be used.
    INVALID_STORAGE = "InvalidStorage";
    /// Ready False: a pod cannot be placed on any node.
    UNSCHEDULABLE = "Unschedulable";
    /// Ready False: an image of a pod cannot be pulled.
    IMAGE_PULL_FAILED = "ImagePullFailed";
    /// Ready False: containers of worker pods end soon after they start.
    WORKERS_CRASH = "WorkersCrash";
    /// Ready False: a pod is there, but does not become ready yet.
    WORKERS_WAITING = "WorkersWaiting";
    /// Stalled: what the pod template puts beside the workers has failed, and will not mend by itself.
    SIDECARS_FAIL = "SidecarsFail";
    /// Stalled: the API server refuses an object of the job, for example by a quota or a policy.
    OBJECTS_REFUSED = "ObjectsRefused";
    /// Stalled: another controller coordinates the job.
    SUPERSEDED = "Superseded";
    /// Stalled: the controller's own code failed over this job, which is taken up again.
    SUPERVISOR_FAILED = "SupervisorFailed";
    /// Checkpointed: the current attempt has a record, and failures stay tolerable.
    COMPLETED = "Completed";
    /// Checkpointed False: the current attempt has no record yet.
    NO_CHECKPOINT_YET = "NoCheckpointYet";
    /// Checkpointed False: more checkpoints failed one after the other than `tolerableFailures` allows.
    CHECKPOINTS_FAIL = "CheckpointsFail";
    /// Checkpointed False: checkpoints complete, and their output cannot be published.
    OUTPUT_UNPUBLISHED = "OutputUnpublished";
    /// Checkpointed False: so much output waits to be published that sources are held back.
    OUTPUT_HELD_BACK = "OutputHeldBack";
    /// Stalled and Failed False, Succeeded False: nothing of the kind.
    FINE = "Fine";
    /// Succeeded and Failed False: the job has not ended.
    NOT_ENDED = "NotEnded";
    /// Reconciling False: nothing is left to do.
    DONE = "Done";
    /// Nothing is known of the job yet.
    UNKNOWN = "Unknown";
}

/// The constant that says the same, for a reason that was read.
pub fn known(reason: &str) -> Option<&'static str> {
    CONDITIONS.iter().copied().find(|known| *known == reason)
}

/// Reasons of events, beside those of conditions.
pub mod events {
    reasons! { EVENTS:
        /// Worker pods were asked for.
        SCHEDULED = "Scheduled";
        /// An attempt runs.
        RUNNING = "Running";
        /// An attempt runs, brought back from a checkpoint.
        RESTORED = "Restored";
        /// The job goes on under another controller, without having stopped.
        RESUMED = "Resumed";
        /// The first checkpoint of an attempt is complete.
        CHECKPOINTED = "Checkpointed";
        /// A checkpoint was aborted.
        CHECKPOINT_FAILED = "CheckpointFailed";
        /// Checkpoints complete again.
        CHECKPOINTS_RECOVERED = "CheckpointsRecovered";
        /// Output of completed checkpoints cannot be published.
        OUTPUT_UNPUBLISHED = "OutputUnpublished";
        /// So much of it waits that sources are held back.
        OUTPUT_HELD_BACK = "OutputHeldBack";
        /// It can again.
        OUTPUT_PUBLISHED = "OutputPublished";
        /// Output that a checkpoint has promised was removed before it was published.
        OUTPUT_LOST = "OutputLost";
        /// A worker was lost.
        WORKER_LOST = "WorkerLost";
        /// A worker was told to go.
        WORKER_LEAVES = "WorkerLeaves";
        /// A worker does not come up.
        WORKER_WAITS = "WorkerWaits";
        /// Something beside a worker has failed.
        SIDECARS_FAIL = "SidecarsFail";
        /// A worker could not be started.
        WORKER_START_FAILED = "WorkerStartFailed";
        /// A task failed.
        TASK_FAILED = "TaskFailed";
        /// The next attempt begins after a while.
        BACKING_OFF = "BackingOff";
        /// Storage did not answer.
        STORAGE_UNREACHABLE = "StorageUnreachable";
        /// The plan has something to be warned of.
        PLAN_WARNING = "PlanWarning";
        /// A change is under way.
        CHANGING = "Changing";
        /// A change holds.
        CHANGED = "Changed";
        /// A change was refused.
        CHANGE_REFUSED = "ChangeRefused";
        /// The job was told to stop.
        STOPPING = "Stopping";
        /// The job stopped as asked.
        SUSPENDED = "Suspended";
        /// The job ended.
        SUCCEEDED = "Succeeded";
        /// The job failed.
        FAILED = "Failed";
        /// The job needs help.
        STALLED = "Stalled";
        /// Somebody has removed the checkpoints that the job was to go on from.
        CHECKPOINTS_GONE = "CheckpointsGone";
        /// The job's checkpoints were removed.
        CHECKPOINTS_DELETED = "CheckpointsDeleted";
        /// The job's checkpoints could not be removed, and were left.
        CHECKPOINTS_LEFT = "CheckpointsLeft";
        /// The job's certificates were made anew.
        CERTIFICATES_ROTATED = "CertificatesRotated";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_runbook_tells_of_every_reason() {
        let runbook = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runbook.md");
        let Ok(runbook) = std::fs::read_to_string(runbook) else { return };
        let reasons = super::CONDITIONS.iter().chain(super::events::EVENTS);
        let missing: BTreeSet<_> = reasons.filter(|reason| !runbook.contains(&format!("`{reason}`"))).collect();
        assert!(missing.is_empty(), "docs/runbook.md says nothing of {missing:?}");
    }
}
