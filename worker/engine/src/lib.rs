//! The engine: what runs a job's dataflow on one worker.
//!
//! The data plane builds the subtasks of one attempt, one OS thread each, and moves batches, watermarks and barriers between
//! them. The control plane speaks with the coordinator and with the other workers. They meet in [`seam`] and nowhere else.
//!
//! The engine knows no SQL, no connector and no operator: those come in through the traits of [`operator`], [`source`] and
//! [`sink`], put together in a [`graph::JobGraph`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod alignment;
pub mod batch;
mod chain;
pub mod channel;
pub mod clock;
pub mod counters;
pub mod dataflow;
pub mod error;
pub mod exchange;
pub mod gate;
pub mod gather;
pub mod graph;
pub mod operator;
pub mod seam;
pub mod sink;
pub mod source;
pub mod splits;
mod subtask;
pub mod watermark;

// The control plane.
pub mod checkpoint;
pub mod commits;
mod control;
pub mod deploy;
pub mod failure;
pub mod inputs;
mod local;
pub mod metrics;
pub mod network;
pub mod persist;
pub mod restore;
pub mod server;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod wire;

pub use batch::{Batch, RowKind, RowKinds};
pub use clock::{Clock, ManualClock, SystemClock};
pub use counters::Counters;
pub use error::{OperatorError, SinkError, SourceError};
pub use graph::{
    BatchFn, Edge, Exchange, JobGraph, OperatorNode, PlanWarning, SinkNode, SourceNode, Stage, StageHead, StageId,
    StateNote, WatermarkFn,
};
pub use operator::{
    MAX_WATERMARK, MIN_WATERMARK, Operator, OperatorContext, OperatorFactory, OperatorSnapshot, Output, Progress,
    RestoredWatermarks, Timestamp,
};
pub use sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
pub use source::{Source, SourceContext, SourceFactory, SourcePoll, Waker};
pub use weir_protocol::part::{Item, ItemKind};
