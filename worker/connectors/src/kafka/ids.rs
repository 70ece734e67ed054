//! Names of transactions, and when one may be used again.
//!
//! ```text
//! <prefix>-<owner uid>-<hash of cluster, storage and sink>-<attempt>-<worker>-<subtask>-<n>
//! ```
//!
//! All up to the hash is one sink's of one run of a job. A name belongs to one subtask of one process, so that no two ever begin
//! with the same. It is used again only once a record stands that does not name its last transaction any more: who begins with a name aborts
//! what is open under it, and a commit that comes late would end another transaction than its own.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use weir_engine::api::sink::OutputOwner;
use weir_protocol::Attempt;

/// So many names rest before one of them is used again: brokers remember how the last transaction of a name ended, and older
/// records that are kept name these.
const RESTING: usize = 8;

/// One sink of one run of a job, over all its attempts.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// What its names begin with.
    pub(super) prefix: String,
    /// Whose it is was said. Else nobody can tell what is this run's own.
    pub(super) known: bool,
}

impl Owner {
    pub(super) fn new(prefix: &str, owner: &OutputOwner, sink: &str) -> Self {
        let OutputOwner { uid, cluster, storage } = owner;
        // No text has a NUL in it, so no two owners make the same of these.
        let hash = fnv(&format!("{cluster}\0{storage}\0{sink}"));
        Self { prefix: format!("{prefix}-{uid}-{hash:016x}-"), known: !uid.is_empty() }
    }

    /// What the names of an attempt begin with.
    pub(super) fn attempt(&self, attempt: Attempt) -> String {
        format!("{}{attempt}-", self.prefix)
    }

    /// What the names of one subtask of one process begin with.
    pub(super) fn writer(&self, attempt: Attempt, worker: &str, subtask: u32) -> String {
        format!("{}{worker}-{subtask}-", self.attempt(attempt))
    }

    /// The attempt that began with a name; none if it is somebody else's.
    pub(super) fn attempt_of(&self, id: &str) -> Option<Attempt> {
        self.known.then_some(())?;
        let rest = id.strip_prefix(&self.prefix)?;
        (rest.split('-').count() >= 4).then_some(())?;
        rest.split('-').next()?.parse().ok().map(Attempt)
    }
}

/// FNV-1a: short, and the same in every build.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// The names of all subtasks of this process, by what each one's begin with.
#[derive(Debug, Default)]
pub(super) struct Pools(Mutex<BTreeMap<String, Pool>>);

#[derive(Debug, Default)]
struct Pool {
    /// Numbers from here on were never used.
    next: u64,
    /// Those whose last transaction no record names, the one that has rested longest first.
    resting: VecDeque<u64>,
}

impl Pools {
    /// A name to begin with.
    pub(super) fn take(&self, writer: &str) -> String {
        let mut pools = self.0.lock();
        let pool = pools.entry(writer.to_string()).or_default();
        let number = if pool.resting.len() > RESTING { pool.resting.pop_front() } else { None };
        let number = number.unwrap_or_else(|| {
            pool.next += 1;
            pool.next - 1
        });
        format!("{writer}{number}")
    }

    /// No record names this any more. One of another process, or of an attempt before, is not used again.
    pub(super) fn release(&self, id: &str) {
        let Some((writer, number)) = id.rfind('-').map(|at| id.split_at(at + 1)) else { return };
        let mut pools = self.0.lock();
        let (Some(pool), Ok(number)) = (pools.get_mut(writer), number.parse()) else { return };
        if number < pool.next && !pool.resting.contains(&number) {
            pool.resting.push_back(number);
        }
    }

    /// Names that begin otherwise are not used again: the subtasks of other attempts are gone.
    pub(super) fn keep_only(&self, attempt: &str) {
        self.0.lock().retain(|writer, _| writer.starts_with(attempt));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn owner(uid: &str, sink: &str) -> Owner {
        let (cluster, storage) = ("c".to_string(), "s3://b/p".to_string());
        Owner::new("weir", &OutputOwner { uid: uid.to_string(), cluster, storage }, sink)
    }

    #[test]
    fn a_name_tells_its_attempt_to_its_owner_and_to_nobody_else() {
        let ours = owner("u-1", "sink-a");
        let id = format!("{}17", ours.writer(Attempt(12), "ab12cd", 3));
        assert_eq!(ours.attempt_of(&id), Some(Attempt(12)));
        for other in [owner("u-1", "sink-b"), owner("u-2", "sink-a"), owner("u", "sink-a")] {
            assert_eq!(other.attempt_of(&id), None, "{}", other.prefix);
        }
        let nobody = owner("", "sink-a");
        assert_eq!(nobody.attempt_of(&format!("{}0", nobody.writer(Attempt(1), "w", 0))), None);
        assert_eq!(ours.attempt_of(&ours.prefix), None);
    }

    proptest! {
        /// In any course of beginnings, commits, and records: what a record may name is never begun with again, and the names
        /// are no more than what is under way and what rests.
        #[test]
        fn no_name_is_used_again_before_it_is_released(steps in proptest::collection::vec(any::<bool>(), 1..200)) {
            let pools = Pools::default();
            let mut named: VecDeque<String> = VecDeque::new();
            let (mut all, mut most) = (BTreeSet::new(), 0);
            for begins in steps {
                if begins {
                    let id = pools.take("w-0-");
                    prop_assert!(!named.contains(&id), "{id} is still named");
                    all.insert(id.clone());
                    named.push_back(id);
                } else if let Some(id) = named.pop_front() {
                    pools.release(&id);
                    pools.release(&id);
                }
                most = most.max(named.len());
            }
            prop_assert!(all.len() <= most + RESTING + 1, "{} names for {most} at once", all.len());
            pools.release("of-another-7");
            prop_assert_ne!(pools.take("w-1-"), "of-another-7");
        }
    }
}
