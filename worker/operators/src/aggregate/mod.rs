//! Aggregates: what a state row holds, how rows fold into it, and what comes out.

pub(crate) mod counted;
pub(crate) mod ingest;
pub(crate) mod keyed;
pub(crate) mod local;
pub(crate) mod plan;
pub(crate) mod results;
pub(crate) mod staterow;
pub(crate) mod tables;
pub(crate) mod values;
