//! Formats: bytes cut into records, records to rows, rows to bytes. What a text means for a type is Flink's, and held against its
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
pub(crate) mod records;
mod values;
