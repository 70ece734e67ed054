//! The controller: checkpoint coordination, recovery, and the platform that runs workers.
//!
//! `coordinator`, `takeover`, `attempt` and `gc` are pure: they are told what happened and say what is to be done, time
//! included. Everything that reads, writes or waits stands around them.
#![warn(clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods))]

pub mod attempt;
pub mod coordinator;
pub mod gc;
pub mod takeover;
pub mod time;

pub mod cli;
pub mod cluster;
pub mod effects;
pub mod facts;
pub mod job;
pub mod platform;
pub mod reasons;
pub mod savepoint;
pub mod state_dir;
pub mod supervisor;
pub mod ui;
pub mod workers;
