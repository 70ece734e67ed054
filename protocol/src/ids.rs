//! Newtypes for what is numbered or named. Each says where its values come from.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number that follows this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One deployment of a job's dataflow, from 1, never reused.
    Attempt
}
number! {
    /// One coordinator's time over one attempt, from 1.
    Term
}
number! {
    /// The place of a record or seal in its term, from 1 without gaps.
    RecordNumber
}
number! {
    /// A checkpoint's id, from 1, never reused, also not after an abort.
    CheckpointId
}

/// The index of a slot: the i-th subtask of every stage, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubtaskIndex(pub u32);

/// The id that a worker process makes for itself at its start. No two processes ever share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl WorkerId {
    /// A new id: 12 hexadecimal digits of a random UUID.
    pub fn generate() -> Self {
        Self(random_digits(12))
    }
}

/// So many random hexadecimal digits, for a name that is to be nobody else's. At most the 12 that stand before a UUID's version.
pub fn random_digits(count: usize) -> String {
    let mut digits = uuid::Uuid::new_v4().simple().to_string();
    digits.truncate(count.min(12));
    digits
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A job's identity: namespace and name. It is the prefix of all that the job stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobName {
    /// The Kubernetes namespace; `default` where none is given.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
