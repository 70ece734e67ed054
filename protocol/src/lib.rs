//! What the controller, the workers and object storage say to each other: gRPC definitions, records, parts, openings and
//! seals with their versions, and every object path. No I/O happens here.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod ids;
pub mod part;
pub mod paths;
pub mod record;
pub mod savepoint;
pub mod script;
pub mod settings;
pub mod start;
pub mod stored;
pub mod tls;

/// The gRPC messages and services of `proto/weir.proto`.
#[allow(clippy::all, clippy::pedantic, rust_2018_idioms, missing_docs)]
pub mod rpc {
    tonic::include_proto!("weir.v1");
}

pub use ids::{Attempt, CheckpointId, JobName, RecordNumber, SubtaskIndex, Term, WorkerId};

/// The version of the gRPC protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The version of this build. A worker of another version is refused before anything is deployed on it.
pub const BUILD_VERSION: &str = env!("CARGO_PKG_VERSION");
