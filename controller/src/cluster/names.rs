//! The words by which Weir's objects in a cluster are known: labels, annotations, field managers, names of a job's objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Who applies a job's objects.
pub const MANAGER: &str = "weir";
/// Who applies a job's status.
pub const STATUS_MANAGER: &str = "weir-status";
/// Who applies a job's finalizer.
pub const FINALIZER_MANAGER: &str = "weir-finalizer";

/// Holds a deleted job back until its workers have stopped and its storage is left or emptied; never for long.
pub const FINALIZER: &str = "weir.dev/checkpoints";

/// The longest value of the annotation [`CHECKPOINT`], in bytes.
const LONGEST_ASKED: usize = 253;

/// The annotation of a StreamJob that asks for a checkpoint. Each value acts once.
pub const CHECKPOINT: &str = "weir.dev/checkpoint";

/// The label that names the job on everything that belongs to it.
pub const JOB_LABEL: &str = "weir.dev/job";
/// The label that names the template that a worker pod is made from.
pub const TEMPLATE_LABEL: &str = "weir.dev/template-hash";
/// Labels of the recommended set.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// See [`NAME_LABEL`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`NAME_LABEL`] on everything that belongs to workers.
pub const WORKER: &str = "weir-worker";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "weir";
/// The value of [`NAME_LABEL`] on the controller's own pods.
pub const CONTROLLER: &str = "weir";
/// The label by which Kubernetes itself names a namespace.
pub const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// The container that is Weir's own.
pub const WORKER_CONTAINER: &str = "worker";
/// The gRPC port of a worker.
pub const GRPC_PORT: i32 = 6120;
/// The port of a worker's metrics.
pub const HTTP_PORT: i32 = 9464;
/// The port of a worker's probes, which only the kubelet reaches.
pub const PROBES_PORT: i32 = 9465;

/// The prefix of worker pods' names.
pub fn pod_prefix(job: &str) -> String {
    format!("{job}-worker-")
}

/// The checkpoint that a StreamJob's annotation asks for. What is longer than a name is nobody's wish, and would stand in each status.
pub fn asked_checkpoint(meta: &ObjectMeta) -> Option<&str> {
    let value = meta.annotations.as_ref()?.get(CHECKPOINT)?.trim();
    (!value.is_empty() && value.len() <= LONGEST_ASKED).then_some(value)
}

/// The headless Service.
pub fn service(job: &str) -> String {
    format!("{job}-workers")
}

/// The ServiceAccount of the workers.
pub fn service_account(job: &str) -> String {
    format!("{job}-worker")
}

/// The PodDisruptionBudget and the NetworkPolicy.
pub fn policy(job: &str) -> String {
    format!("{job}-workers")
}

/// The Secret that workers mount. A job's Secrets have `weir` in their names: `<job>-tls` may well be one of the user's own, and what
/// is applied is taken over.
pub fn tls_secret(job: &str) -> String {
    format!("{job}-weir-tls")
}

/// The Secret that only the controller reads: keys of the job's own CA, and the controller's certificate.
pub fn ca_secret(job: &str) -> String {
    format!("{job}-weir-ca")
}

/// The Secret that holds the version of the job that runs: with it a later leader can keep that one running while the newest
/// spec cannot run. A Secret, since a pod template may hold what is nobody else's business.
pub fn running_secret(job: &str) -> String {
    format!("{job}-weir-running")
}

/// Selects a job's worker pods.
pub fn selector(job: &str) -> String {
    format!("{NAME_LABEL}={WORKER},{JOB_LABEL}={job}")
}
