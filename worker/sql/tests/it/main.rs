//! Plans of whole scripts: one binary, since linking is what takes the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod changelog;
mod conflict;
mod errors;
mod flink;
mod identities;
mod joins;
mod lookups;
mod nested;
mod nexmark;
#[path = "../../../operators/tests/support/mod.rs"]
mod operators;
mod plans;
mod reference;
mod run;
mod sharing;
mod statements;
mod support;
mod unions;
