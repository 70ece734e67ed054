//! Streams between workers, and who is at their other end.

pub mod network;
pub mod tls;
