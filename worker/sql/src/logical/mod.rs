//! A query as a logical plan: its expressions, its windows, and the plan that can be lowered.

pub(crate) mod columns;
pub(crate) mod exprs;
pub(crate) mod grouping;
pub(crate) mod intervals;
pub(crate) mod nodes;
pub(crate) mod numbers;
pub(crate) mod operators;
pub(crate) mod optimize;
pub(crate) mod print;
pub(crate) mod size;
pub(crate) mod subqueries;
pub(crate) mod topn;
pub(crate) mod tvf;
pub(crate) mod unions;
pub(crate) mod values;
pub(crate) mod windows;
