//! What a takeover knows of storage, and how that is made of a list and of bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_protocol::paths::{self, Object};
use weir_protocol::record::{self, Opening, Record, RecordRef, Seal, Slot};
use weir_protocol::{RecordNumber, Term};

use super::Refusal;

/// What stands in storage, read anew for every decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every term that has any object.
    pub terms: BTreeMap<Term, TermFacts>,
}

/// One term's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermFacts {
    /// Its opening; read only of the newest term.
    pub opening: Option<Arc<Opening>>,
    /// Why the opening could not be understood.
    pub damage: Option<String>,
    /// Its slots that the list showed.
    pub slots: BTreeMap<RecordNumber, SlotFact>,
}

/// What stands in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotFact {
    /// A record.
    Record(Arc<Record>),
    /// The term's end.
    Seal(Seal),
    /// An empty object: a record that is retired, see [`crate::gc::Removal::Empty`].
    Retired,
    /// Bytes that cannot be understood.
    Unreadable {
        /// Why, for people.
        reason: String,
    },
    /// Listed, but gone when it was to be read: deleted meanwhile, so that there is a newer one. Its number stays taken.
    Gone,
    /// Listed but not read, since no decision needs it.
    Unread,
}

/// What to read of what a list of `terms/` shows, as pairs of path and size: the newest term's opening and slots, and of the
/// earlier terms every slot but the last, which is the seal. An empty object needs no reading.
pub fn reads<'a>(listed: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<String> {
    let mut terms: BTreeMap<Term, BTreeMap<RecordNumber, u64>> = BTreeMap::new();
    for (path, size) in listed {
        match paths::parse(path) {
            Some(Object::Opening(term)) => {
                terms.entry(term).or_default();
            }
            Some(Object::Slot(term, number)) => {
                terms.entry(term).or_default().insert(number, size);
            }
            _ => {}
        }
    }
    let Some(newest) = terms.keys().last().copied() else { return Vec::new() };
    let mut wanted = vec![paths::opening(newest)];
    for (term, slots) in &terms {
        let last = slots.keys().last().copied();
        let needed = slots.iter().filter(|(number, size)| **size > 0 && (*term == newest || Some(**number) != last));
        wanted.extend(needed.map(|(number, _)| paths::slot(*term, *number)));
    }
    wanted
}

impl Facts {
    /// Of a list of `terms/`, as pairs of path and size, and of the bytes of those that [`reads`] names. What was gone when
    /// it was to be read is missing in `bytes`.
    pub fn of<'a, B: AsRef<[u8]>>(
        listed: impl IntoIterator<Item = (&'a str, u64)> + Clone,
        bytes: &BTreeMap<String, B>,
    ) -> Self {
        let mut facts = Self::default();
        let wanted: BTreeSet<String> = reads(listed.clone()).into_iter().collect();
        for (path, size) in listed {
            let read = bytes.get(path).map(AsRef::as_ref);
            match paths::parse(path) {
                Some(Object::Opening(term)) => {
                    let facts = facts.terms.entry(term).or_default();
                    match read.map(|read| record::read::<Opening>(path, read)) {
                        Some(Ok(opening)) => facts.opening = Some(Arc::new(opening)),
                        Some(Err(error)) => facts.damage = Some(error.to_string()),
                        None => {}
                    }
                }
                Some(Object::Slot(term, number)) => {
                    let fact = match read {
                        _ if size == 0 => SlotFact::Retired,
                        Some(read) => SlotFact::of(path, read),
                        None if wanted.contains(path) => SlotFact::Gone,
                        None => SlotFact::Unread,
                    };
                    facts.terms.entry(term).or_default().slots.insert(number, fact);
                }
                _ => {}
            }
        }
        facts
    }

    /// An object that stands there and cannot be understood, though it was not read.
    pub fn damaged(&mut self, path: &str, reason: &str) {
        match paths::parse(path) {
            Some(Object::Opening(term)) => {
                self.terms.entry(term).or_default().damage = Some(reason.to_string());
            }
            Some(Object::Slot(term, number)) => {
                let fact = SlotFact::Unreadable { reason: reason.to_string() };
                self.terms.entry(term).or_default().slots.insert(number, fact);
            }
            _ => {}
        }
    }

    /// All records that stand, in the order of terms and slots.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.terms.values().flat_map(|term| term.slots.values()).filter_map(|fact| match fact {
            SlotFact::Record(record) => Some(record),
            _ => None,
        })
    }

    /// Of the term that was opened last, if it can be read.
    pub fn newest_opening(&self) -> Option<&Arc<Opening>> {
        self.terms.values().next_back()?.opening.as_ref()
    }

    /// The record that `reference` points at, if it stands there and can be read.
    pub(super) fn record(&self, reference: RecordRef) -> Result<Arc<Record>, Refusal> {
        let fact = self.terms.get(&reference.term).and_then(|term| term.slots.get(&reference.number));
        let path = reference.path();
        let Some(fact) = fact else { return Err(Refusal::Unusable { path, reason: "it is missing".to_string() }) };
        fact.record_at(&path).cloned()
    }
}

impl TermFacts {
    /// The last slot before the seal, or the last one of all.
    pub(super) fn end(&self) -> Option<(RecordNumber, &SlotFact)> {
        let mut slots = self.slots.iter().rev().filter(|(_, fact)| !matches!(fact, SlotFact::Seal(_)));
        let (number, fact) = slots.next()?;
        Some((*number, fact))
    }
}

impl SlotFact {
    /// What these bytes of a slot are.
    pub fn of(path: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Retired;
        }
        match record::read::<Slot>(path, bytes) {
            Ok(Slot::Record(record)) => Self::Record(Arc::new(record)),
            Ok(Slot::Seal(seal)) => Self::Seal(seal),
            Err(error) => Self::Unreadable { reason: error.to_string() },
        }
    }

    /// The record, or why there is none.
    pub(super) fn record_at(&self, path: &str) -> Result<&Arc<Record>, Refusal> {
        let reason = match self {
            Self::Record(record) => return Ok(record),
            Self::Seal(_) => "it is a seal, not a checkpoint".to_string(),
            Self::Retired => "it is retired".to_string(),
            Self::Unreadable { reason } => reason.clone(),
            Self::Gone => "it is missing".to_string(),
            Self::Unread => "it was not read".to_string(),
        };
        Err(Refusal::Unusable { path: path.to_string(), reason })
    }
}
