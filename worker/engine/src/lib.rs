//! The engine: what runs a job's dataflow on one worker.
//!
//! The data plane builds the subtasks of one attempt, one OS thread each, and moves batches, watermarks and barriers between
//! them. The control plane speaks with the coordinator and with the other workers. They meet in [`seam`] and nowhere else.
//!
//! The engine knows no SQL, no connector and no operator: those come in through the traits of [`api::operator`], [`api::source`] and
//! [`api::sink`], put together in a [`JobGraph`].
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::too_many_lines))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod checkpoint;
pub mod control;
pub mod data;
pub mod deploy;
pub(crate) mod event;
pub mod metrics;
pub mod net;
pub mod restore;
pub mod seam;
#[cfg(test)]
mod testing;

pub use api::batch::{Batch, RowKind, RowKinds};
pub use api::clock::{Clock, ManualClock, SystemClock};
pub use api::counters::Counters;
pub use api::error::{OperatorError, SinkError, SourceError};
pub use api::graph::{
    BatchFn, ChangelogNote, Edge, Exchange, JobGraph, Kin, OperatorNode, PlanWarning, SinkNode, SourceNode, Stage,
    StageHead, StageId, StateNote, WatermarkFn,
};
pub use api::operator::{
    Operator, OperatorContext, OperatorFactory, OperatorSnapshot, Output, PIECE_ROWS, Progress, RestoredWatermarks,
};
pub use api::sink::{CommitContext, Committer, OutputOwner, PrepareJob, Sink, SinkContext, SinkFactory};
pub use api::source::{Source, SourceContext, SourceFactory, SourcePoll, Waker};
pub use api::time::{MAX_WATERMARK, MIN_WATERMARK, Timestamp};
/// Where what an operator or a source does beside its thread runs.
pub use tokio::runtime::Handle as Runtime;
pub use weir_protocol::part::{Item, ItemKind};
