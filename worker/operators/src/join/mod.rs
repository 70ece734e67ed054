//! Joins.

mod emission;
pub mod not_in;
pub mod regular;
mod side;
