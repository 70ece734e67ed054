//! Joins.

mod emission;
pub mod interval;
pub mod lookup;
pub mod not_in;
pub mod regular;
mod side;
