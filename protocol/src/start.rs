//! Where a takeover begins to read: an object that says what stands in all terms before one. Openings and seals are never
//! deleted, so that a job that starts anew each minute has a million of them in a year; who takes over looks at the last few.
//!
//! It is a copy of what the terms say, and can be thrown away: then everything is listed. Whoever has opened a term replaces
//! it, and whatever order such writes land in, each says what stays true: terms before an opened one are sealed, so that no
//! record comes to stand there any more, and what is said to stand there may only have gone meanwhile.

use serde::{Deserialize, Serialize};

use crate::{
    ids::Term,
    record::{Opening, RecordRef},
};

/// The version that this build writes, and the only one that it reads. Another one is passed over.
pub const START_VERSION: u32 = 1;

/// `start`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// [`START_VERSION`].
    pub version: u32,
    /// The term that was opened.
    pub term: Term,
    /// Who opened it, with the next two: what is left of a job that was deleted says nothing about its successor.
    pub coordinator: String,
    /// The owner that the opening names.
    pub owner: String,
    /// The cluster that it names.
    pub cluster: String,
    /// All records that stood in earlier terms then.
    pub records: Vec<Standing>,
}

/// A record that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Standing {
    /// Which.
    pub record: RecordRef,
    /// So many bytes it has, until it is emptied.
    pub bytes: u64,
}

impl Start {
    /// What is to be written once `opening` stands, and these records before it.
    pub fn new(opening: &Opening, records: impl IntoIterator<Item = Standing>) -> Self {
        Self {
            version: START_VERSION,
            term: opening.term,
            coordinator: opening.coordinator.clone(),
            owner: opening.owner.clone(),
            cluster: opening.cluster.clone(),
            records: records.into_iter().collect(),
        }
    }

    /// It was written over this opening, and not over another of the same term.
    pub fn is_of(&self, opening: &Opening) -> bool {
        (self.term, &self.coordinator, &self.owner, &self.cluster)
            == (opening.term, &opening.coordinator, &opening.owner, &opening.cluster)
    }
}
