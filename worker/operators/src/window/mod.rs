//! Windows: which rows are in which, the slices that they share, and when they fire.

pub(crate) mod aggregate;
pub(crate) mod assign;
pub(crate) mod cumulate;
pub(crate) mod fire;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod scan;
pub(crate) mod session;
pub(crate) mod slices;
