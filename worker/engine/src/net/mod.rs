//! Streams between workers, and who is at their other end.

pub mod listener;
pub mod network;
pub mod tls;
