//! Formats: bytes cut into records, records to rows, rows to bytes.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod records;
