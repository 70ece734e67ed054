//! Formats: bytes cut into records, records and messages to rows, rows to bytes. `registry.rs` has them by name. What a text means for a type is Flink's, and held against its
//! answers (`flink_tests.rs`); where it is not, docs/sql.md says so.

mod columns;
mod csv;
pub(crate) mod decode;
pub(crate) mod encode;
#[cfg(test)]
mod flink_tests;
#[cfg(test)]
mod fuzz_tests;
mod json;
#[cfg(test)]
mod message_tests;
mod raw;
pub(crate) mod records;
pub(crate) mod registry;
mod values;
