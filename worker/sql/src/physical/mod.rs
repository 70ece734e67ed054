//! A script as a graph of operators with traits: between the optimised logical plans and the stages of a job.
//!
//! [`build`] makes nodes of logical plans; [`tree`] holds them, the ones that several need once; [`traits`] says of each node what
//! holds of its rows, computed once from its inputs; [`changelog`] carries down what changes each node has to give. What lowers a
//! node to an operator of a stage is in [`crate::lower`].

pub(crate) mod build;
pub(crate) mod changelog;
pub(crate) mod keys;
pub(crate) mod lineage;
pub(crate) mod ops;
pub(crate) mod show;
pub(crate) mod traits;
pub(crate) mod tree;
