//! The API: the `StreamJob` resource as Rust types, its CEL rules and defaults, and the CRD generated from them.
//!
//! [`load_job`] reads a job from YAML and holds it against the very schema that a cluster's API server is given: the same
//! defaults, the same rules. There is no client here, and nothing of what is done with a job.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod duration;
mod load;
mod quantity;
mod schema;
mod status;
mod streamjob;
mod yaml;

pub use duration::{Duration, DurationError};
pub use load::{JobError, Problem, load_job, nearest};
pub use quantity::{Quantity, QuantityError};
pub use schema::{crd, crd_yaml, openapi_schema};
pub use status::{
    CheckpointStatus, LatestCheckpoint, RequestedCheckpoint, RestoredCheckpoint, RestoredFrom, StreamJobStatus,
    conditions,
};
pub use streamjob::{
    Alignment, AlignmentType, Checkpoint, CheckpointMode, ImagePullPolicy, OnDelete, PodTemplate, PodTemplateMetadata,
    Resources, Restart, RestoreFrom, SecretRef, State, Storage, StreamJob, StreamJobSpec, Upgrade, UpgradeMode,
    Workers,
};
