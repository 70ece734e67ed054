//! Names that survive edits elsewhere in a script, and the fingerprint of a whole plan.
//!
//! State is found by its operator's identity: a hash of what the operator means (its keys and aggregates in terms of the
//! source's columns, its window, the table that its rows come from) and of the table that its results go to. White space,
//! aliases, views put between, other statements and WHERE do not enter it: with another filter the state goes on.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Separates the parts that are hashed; it occurs in no SQL text.
const SEPARATOR: char = '\u{1f}';

/// `kind-0123456789abcdef`, from these parts.
pub fn identity(kind: &str, parts: &[&str]) -> String {
    let mut text = String::from(kind);
    for part in parts {
        text.push(SEPARATOR);
        text.push_str(part);
    }
    format!("{kind}-{:016x}", xxh3_64(text.as_bytes()))
}

/// 32 hexadecimal digits over a canonical text.
pub fn fingerprint(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}
