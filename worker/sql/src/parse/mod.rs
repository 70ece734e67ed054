//! From text to statements with their places: the dialect, what a query may not have, and data types as they are written.

pub(crate) mod bounds;
pub(crate) mod check;
pub mod dialect;
mod joins;
pub(crate) mod like;
pub(crate) mod locate;
pub(crate) mod loose;
pub mod statements;
mod subqueries;
pub mod types;
