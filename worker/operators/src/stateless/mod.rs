//! What keeps nothing: filters and projections.

pub(crate) mod project;
