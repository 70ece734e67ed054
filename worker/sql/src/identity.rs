//! Names that survive edits elsewhere in a script, and the fingerprint of a whole plan.
//!
//! State is found by its operator's identity: a hash of what the operator means (its keys and aggregates in terms of the
//! source's columns, its window, the table that its rows come from). White space, aliases, views put between, other statements, WHERE and
//! the table that the results go to do not enter it: with another filter the state goes on. Types do not either: a restore
//! that does not fit is to say so, and not that it knows of no such operator.
//!
//! Builds of state format 1 made identities out of DataFusion's own texts, and of the table that the results go to. Those are made
//! beside ours, as aliases, so that what they stored is found.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Separates the parts that are hashed; it occurs in no SQL text.
const SEPARATOR: char = '\u{1f}';

/// `kind-0123456789abcdef`, from these parts.
pub fn identity(kind: &str, parts: &[&str]) -> String {
    format!("{kind}-{}", hashed(kind, parts))
}

fn hashed(kind: &str, parts: &[&str]) -> String {
    let mut text = String::from(kind);
    for part in parts {
        text.push(SEPARATOR);
        text.push_str(part);
    }
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// What tells statements apart: 16 hexadecimal digits over the identities of all that keeps something in them.
pub fn statement(keepers: &[&str]) -> String {
    hashed("statement", keepers)
}

/// 32 hexadecimal digits over a canonical text.
pub fn fingerprint(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// What a column is, or which rows these are, in terms of the sources' columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// In our own words.
    pub text: String,
    /// As builds of state format 1 wrote it.
    pub before: String,
}

impl Meaning {
    /// Of what has always been written like this.
    pub fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { before: text.clone(), text }
    }

    /// Of two texts that are made alike.
    pub fn of(make: impl Fn(&dyn Fn(&Self) -> &str) -> String) -> Self {
        Self { text: make(&Self::now), before: make(&Self::then) }
    }

    fn now(&self) -> &str {
        &self.text
    }

    fn then(&self) -> &str {
        &self.before
    }
}

/// Meanings one after the other, with commas between.
pub fn list<'m>(meanings: impl IntoIterator<Item = &'m Meaning>) -> Meaning {
    let (texts, before): (Vec<&str>, Vec<&str>) =
        meanings.into_iter().map(|meaning| (meaning.text.as_str(), meaning.before.as_str())).unzip();
    Meaning { text: texts.join(", "), before: before.join(", ") }
}

/// An identity, and what it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Ours.
    pub now: String,
    /// That of builds of state format 1.
    pub before: String,
}

impl Identity {
    /// Of what these mean, with results that go to `owner`.
    pub fn of(kind: &str, owner: &str, meanings: &[&Meaning]) -> Self {
        let now: Vec<&str> = meanings.iter().map(|meaning| meaning.text.as_str()).collect();
        let before = std::iter::once(owner).chain(meanings.iter().map(|meaning| meaning.before.as_str()));
        Self { now: identity(kind, &now), before: identity(kind, &before.collect::<Vec<_>>()) }
    }

    /// Of something that belongs to this one.
    #[must_use]
    pub fn within(&self, kind: &str, more: &[&str]) -> Self {
        let of = |own: &str| {
            let parts: Vec<&str> = std::iter::once(own).chain(more.iter().copied()).collect();
            identity(kind, &parts)
        };
        Self { now: of(&self.now), before: of(&self.before) }
    }
}
