//! Streams between workers, and who is at their other end.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod listener;
pub mod network;
pub mod tls;
