//! What a takeover knows of storage, and how that is made of a list and of bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_protocol::paths::{self, Object};
use weir_protocol::record::{self, Opening, Record, RecordRef, Seal, Slot};
use weir_protocol::start::Start;
use weir_protocol::{Attempt, RecordNumber, Term};

use super::Refusal;

/// What stands in storage, read anew for every decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every term that was opened, or those since [`Start`] and the records that it names.
    pub terms: BTreeMap<Term, TermFacts>,
    /// Slots of terms that have no opening. No term of this job's life was without one, so these are of no chain: a create that
    /// was on its way when the job of this name before was deleted.
    pub strays: BTreeMap<Term, TermFacts>,
    /// The term that [`Start`] was written for, whether it counts or not.
    pub start: Option<Term>,
}

/// One term's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermFacts {
    /// Its opening; read only of the newest term.
    pub opening: Option<Arc<Opening>>,
    /// Why the opening could not be understood.
    pub damage: Option<String>,
    /// The opening was listed, or is known to stand.
    pub opened: bool,
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

/// What to read of what a list of `terms/` shows, as pairs of path and size: the newest opening, its term's slots and those of
/// later terms, and of the earlier terms every slot but the last, which is the seal. An empty object needs no reading.
pub fn reads<'a>(listed: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<String> {
    let mut terms: BTreeMap<Term, BTreeMap<RecordNumber, u64>> = BTreeMap::new();
    let mut newest = None;
    for (path, size) in listed {
        match paths::parse(path) {
            Some(Object::Opening(term)) => newest = newest.max(Some(term)),
            Some(Object::Slot(term, number)) => {
                terms.entry(term).or_default().insert(number, size);
            }
            _ => {}
        }
    }
    let mut wanted: Vec<String> = newest.map(paths::opening).into_iter().collect();
    for (term, slots) in &terms {
        let last = slots.keys().last().copied();
        let whole = newest.is_none_or(|newest| *term >= newest);
        let needed = slots.iter().filter(|(number, size)| **size > 0 && (whole || Some(**number) != last));
        wanted.extend(needed.map(|(number, _)| paths::slot(*term, *number)));
    }
    wanted
}

impl Facts {
    /// Of a list of `terms/`, as pairs of path and size, and of the bytes of those that [`reads`] names. What was gone when
    /// it was to be read is missing in `bytes`. With a `start` that counts the list begins at its term, and holds before that
    /// the records that it names.
    pub fn of<'a, B: AsRef<[u8]>>(
        listed: impl IntoIterator<Item = (&'a str, u64)> + Clone,
        bytes: &BTreeMap<String, B>,
        start: Option<&Start>,
    ) -> Self {
        let mut facts = Self { start: start.map(|start| start.term), ..Self::default() };
        let wanted: BTreeSet<String> = reads(listed.clone()).into_iter().collect();
        for (path, size) in listed {
            let read = bytes.get(path).map(AsRef::as_ref);
            match paths::parse(path) {
                Some(Object::Opening(term)) => {
                    let facts = facts.terms.entry(term).or_default();
                    facts.opened = true;
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
                    let facts = facts.terms.entry(term).or_default();
                    facts.opened |= start.is_some_and(|start| term < start.term);
                    facts.slots.insert(number, fact);
                }
                _ => {}
            }
        }
        facts.sorted()
    }

    /// With the terms that have no opening set apart.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.strays.extend(self.terms.extract_if(.., |_, term| !term.opened));
        self
    }

    /// The next term: above all that have any object, so that no create of whatever life lands in it.
    pub(super) fn free_term(&self) -> Term {
        let highest = self.terms.keys().last().max(self.strays.keys().last());
        highest.map_or(Term(1), |highest| highest.next())
    }

    /// The attempt to begin with where nothing was opened: above all that left something behind.
    pub(super) fn free_attempt(&self) -> Attempt {
        let records = self.strays.values().flat_map(|term| term.slots.values()).filter_map(|fact| match fact {
            SlotFact::Record(record) => Some(record.attempt),
            _ => None,
        });
        records.max().map_or(Attempt(1), Attempt::next)
    }

    /// A term after `newest` that was opened by all that is known, and whose opening is missing: it holds a checkpoint, and a
    /// start was written for it, or none at all.
    pub(super) fn lost(&self, newest: Term) -> Option<Term> {
        let mut later = self.strays.range(newest.next()..);
        let (term, _) = later.find(|(term, stray)| {
            let holds = stray.slots.values().any(|fact| matches!(fact, SlotFact::Record(_)));
            holds && self.start.is_none_or(|start| start >= **term)
        })?;
        Some(*term)
    }

    /// An object that stands there and cannot be understood, though it was not read.
    pub fn damaged(&mut self, path: &str, reason: &str) {
        match paths::parse(path) {
            Some(Object::Opening(term)) => {
                let facts = self.terms.entry(term).or_default();
                (facts.opened, facts.damage) = (true, Some(reason.to_string()));
            }
            Some(Object::Slot(term, number)) => {
                let fact = SlotFact::Unreadable { reason: reason.to_string() };
                let opened = self.terms.contains_key(&term);
                let terms = if opened { &mut self.terms } else { &mut self.strays };
                terms.entry(term).or_default().slots.insert(number, fact);
            }
            _ => {}
        }
    }

    /// The path of the newest term's last slot.
    pub fn last_slot(&self) -> Option<String> {
        let (term, facts) = self.terms.last_key_value()?;
        let (number, _) = facts.slots.last_key_value()?;
        Some(paths::slot(*term, *number))
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
