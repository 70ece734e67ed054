//! What keeps nothing: filters and projections.

pub(crate) mod expand;
pub(crate) mod oversized;
pub(crate) mod project;
