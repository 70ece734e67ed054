//! The operators of a job: filter and projection, aggregation (updating and windowed), window assignment,
//! deduplication.
//!
//! A planner describes an operator with a spec of [`spec`] and gets an
//! [`OperatorFactory`](weir_engine::operator::OperatorFactory) from it; what is wrong with a spec is said then, with a
//! [`SpecError`]. Operators are synchronous, see whole batches, and touch their state once a key and batch. Joins,
//! SESSION windows, top-n and retractions in have their place here later.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod assign;
mod column;
mod dedup;
mod fire;
mod index;
mod ingest;
mod keyed;
mod local;
mod plan;
mod progress;
mod project;
mod results;
mod rowcodec;
mod scan;
mod slices;
pub mod spec;
mod staterow;
mod values;
mod window;

pub use assign::WindowAssign;
pub use dedup::Deduplicate;
pub use keyed::KeyedAggregate;
pub use local::LocalAggregate;
pub use project::FilterProject;
pub use spec::{
    AggregateFunction, AggregateInput, AggregateSpec, Aggregation, DeduplicateSpec, Keep, KeyedAggregateSpec,
    LocalAggregateSpec, SpecError, TimeSource, WindowAggregateSpec, WindowAssignSpec, WindowShape,
};
pub use window::WindowAggregate;
