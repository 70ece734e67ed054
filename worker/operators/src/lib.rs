//! The operators of a job: filter and projection, aggregation (updating and windowed), window assignment,
//! deduplication, the first rows of each partition, what is to stand under each primary key, the regular join and NOT IN.
//!
//! A planner describes an operator with a spec of [`spec`] and gets an
//! [`OperatorFactory`](weir_engine::api::operator::OperatorFactory) from it; what is wrong with a spec is said then, with a
//! [`SpecError`]. Operators are synchronous, see whole batches, and touch their state once a key and batch. Joins by time and
//! SESSION windows have their place here later.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod aggregate;
mod join;
mod rows;
pub mod spec;
mod stateless;
mod window;

pub use aggregate::keyed::KeyedAggregate;
pub use aggregate::local::LocalAggregate;
pub use join::interval::IntervalJoin;
pub use join::lookup::LookupJoin;
pub use join::not_in::NotIn;
pub use join::regular::RegularJoin;
pub use rows::conflict::Conflict;
pub use rows::dedup::Deduplicate;
pub use rows::materialize::UpsertMaterialize;
pub use rows::over::Over;
pub use rows::topn::TopN;
pub use rows::windowtopn::WindowTopN;
pub use spec::{
    AggregateFunction, AggregateInput, AggregateSpec, Aggregation, ConflictSpec, DeduplicateSpec, ExpandSpec,
    IntervalJoinSpec, JoinInput, JoinKind, Keep, KeyedAggregateSpec, LocalAggregateSpec, LookupJoinSpec, NotInSpec,
    OnConflict, OverCall, OverFrame, OverSpec, RankFunction, RegularJoinSpec, SessionSpec, SpecError, TimeColumn,
    TimeSource, TopNSpec, UpsertMaterializeSpec, WindowAggregateSpec, WindowAssignSpec, WindowKind, WindowShape,
    WindowTopNSpec,
};
pub use stateless::expand::Expand;
pub use stateless::oversized::{MAX_VALUE, Oversized};
pub use stateless::project::FilterProject;
pub use window::assign::WindowAssign;
pub use window::plan::WindowAggregate;
pub use window::session::SessionAssign;
