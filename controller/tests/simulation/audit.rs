//! What must hold at every moment, held against every change of storage and everything that is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use weir_protocol::{
    part::Part,
    paths::{self, Object},
    record::{Record, Slot},
};
use weir_storage::sim::{Change, Sim};

/// The rows of one worker slot from the first on up to, but without, the second.
pub type Rows = (u64, u64);

#[derive(Default)]
struct Seen {
    /// Every record that stands, and what it names.
    standing: BTreeMap<String, BTreeSet<String>>,
    /// Slots whose record was deleted. A request that lands a second time can bring its bytes back, but nothing it names.
    deleted: BTreeSet<String>,
    records: u64,
    /// What each worker slot has published, as pieces that must join.
    published: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// The highest record that the status has named.
    status: Option<(u64, u64)>,
}

/// The auditor of one schedule.
pub struct Audit {
    prefix: String,
    seen: Mutex<Seen>,
}

impl Audit {
    pub fn new(prefix: String) -> Self {
        Self { prefix, seen: Mutex::default() }
    }

    /// An object has changed.
    pub fn changed(&self, change: &Change, sim: &Sim) {
        let mut seen = self.seen.lock().unwrap();
        match change {
            Change::Put(path, bytes) => {
                let path = path.strip_prefix(&self.prefix).expect("no name leaves the prefix").trim_start_matches('/');
                let Some(Object::Slot(..)) = paths::parse(path) else { return };
                if bytes.is_empty() {
                    seen.standing.remove(path);
                } else if let Slot::Record(record) = serde_json::from_slice(bytes).expect("a slot can be read")
                    && !seen.deleted.contains(path)
                {
                    let named = self.names(&record, sim);
                    seen.standing.insert(path.to_string(), named);
                    seen.records += 1;
                }
            }
            Change::Deleted(path) => {
                let path = path.strip_prefix(&self.prefix).expect("no name leaves the prefix").trim_start_matches('/');
                if seen.standing.remove(path).is_some() || matches!(paths::parse(path), Some(Object::Slot(..))) {
                    seen.deleted.insert(path.to_string());
                }
                let named_by = seen.standing.iter().find(|(_, names)| names.contains(path));
                assert!(named_by.is_none(), "{path} was deleted, but {named_by:?} names it");
            }
        }
    }

    /// Every byte that a record names is there when it is created.
    fn names(&self, record: &Record, sim: &Sim) -> BTreeSet<String> {
        let objects = sim.objects();
        let mut names = BTreeSet::new();
        for part in &record.parts {
            let bytes = objects.get(&format!("{}/{}", self.prefix, part.path));
            let bytes = bytes.unwrap_or_else(|| panic!("record {} names {}, which is not there", record.id, part.path));
            let content: Part = serde_json::from_slice(bytes).expect("a part can be read");
            names.insert(part.path.clone());
            for file in content.subtasks.iter().flat_map(|subtask| &subtask.keyed).flat_map(|keyed| &keyed.files) {
                let there = objects.contains_key(&format!("{}/{}", self.prefix, file.path));
                assert!(there, "record {} names {}, which is not there", record.id, file.path);
                names.insert(file.path.clone());
            }
        }
        names
    }

    /// Rows become visible. `record` is the newest checkpoint that allows it.
    pub fn publish(&self, slot: u32, (from, to): Rows) {
        let mut seen = self.seen.lock().unwrap();
        let of_slot = seen.published.entry(slot).or_default();
        if of_slot.get(&from) == Some(&to) {
            // The same file under the same name: a commit may come twice.
            return;
        }
        let before = of_slot.range(..to).next_back().map_or(0, |(_, end)| *end);
        assert!(before <= from, "slot {slot} publishes rows {from}..{to}, but rows up to {before} are out");
        if to > from {
            of_slot.insert(from, to);
        }
    }

    /// The status names a record.
    pub fn status(&self, term: u64, number: u64, path: &str) {
        let mut seen = self.seen.lock().unwrap();
        assert!(seen.standing.contains_key(path), "the status names {path}, which does not stand");
        assert!(seen.status <= Some((term, number)), "the status goes back to {path} from {:?}", seen.status);
        seen.status = Some((term, number));
    }

    /// Of the status as it stands.
    pub fn status_term(&self) -> u64 {
        self.seen.lock().unwrap().status.map_or(0, |(term, _)| term)
    }

    /// Records that were ever created.
    pub fn records(&self) -> u64 {
        self.seen.lock().unwrap().records
    }

    /// All that was published is whole, and what is not needed any more has been deleted.
    pub fn ended_well(&self) {
        let seen = self.seen.lock().unwrap();
        for (slot, pieces) in &seen.published {
            let mut end = 0;
            for (from, to) in pieces {
                assert_eq!(end, *from, "slot {slot} misses rows {end}..{from}: {pieces:?}");
                end = *to;
            }
        }
        assert!(!seen.published.is_empty(), "something was published");
        assert!(seen.standing.len() <= 8, "records are deleted in time: {:?}", seen.standing.keys());
    }
}
