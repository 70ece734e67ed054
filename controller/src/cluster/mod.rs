//! `weir controller`: the jobs of a cluster, each with a supervisor of its own.
//!
//! A look at a job is a visible pipeline, [`reconcile`]: its facts are read ([`observe`], [`validate`]), what is to be done is decided,
//! and that is carried out ([`build`], [`apply`]); the [`status`] is written by [`report`]. Beside it run the election ([`lease`]) and
//! the supervisors ([`jobs`]). Only a leader looks at jobs ([`leader`]); losing the lease lets go of all supervisors and stops no worker.

pub mod apply;
pub mod build;
pub mod certs;
pub mod context;
pub mod delete;
pub mod events;
mod health;
pub mod identity;
pub mod jobs;
pub mod leader;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod permissions;
pub mod plan;
pub mod problem;
pub mod publisher;
pub mod reconcile;
pub mod report;
pub mod status;
pub mod storage;
pub mod validate;
mod watches;

pub use context::Options;
pub use leader::{RunError, run};

use crate::reasons;
