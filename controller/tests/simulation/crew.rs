//! The workers of the running attempt: a source that counts, state in files that later checkpoints reuse, and a sink that
//! pre-commits what was counted since the last barrier.

use bytes::Bytes;
use serde_json::json;
use weir_protocol::{
    Attempt, CheckpointId, SubtaskIndex, Term, WorkerId,
    part::{FileRef, Item, ItemKind, KeyedSnapshot, OperatorPart, PART_VERSION, Part, SubtaskPart},
    record::PartRef,
};

use super::audit::Rows;

/// How many files a snapshot keeps of earlier ones: the rest is merged away.
const REUSED: usize = 3;

/// One worker.
#[derive(Clone, Debug)]
pub struct Worker {
    pub id: WorkerId,
    pub slot: u32,
    pub position: u64,
    /// Where the rows begin that are in no transaction yet.
    pub cut: u64,
    /// Transactions whose commit was not told yet.
    pub pending: Vec<(CheckpointId, Rows)>,
    /// The files of the record that is the base of the next checkpoint, and of those that were cut since.
    pub files: Vec<(CheckpointId, Vec<FileRef>)>,
    pub written: u64,
    pub highest: CheckpointId,
}

/// The workers of one attempt, and the highest term that has spoken to them.
#[derive(Default)]
pub struct Crew {
    pub attempt: Option<Attempt>,
    pub term: Option<Term>,
    pub workers: Vec<Worker>,
}

impl Crew {
    /// A worker is lost: the attempt is over.
    pub fn die(&mut self) {
        *self = Self { term: self.term, ..Self::default() };
    }

    /// Whether this term's words count. A lower one's are refused.
    pub fn hears(&mut self, term: Term, attempt: Attempt) -> bool {
        if self.attempt != Some(attempt) || self.term.is_some_and(|highest| highest > term) {
            return false;
        }
        self.term = Some(term);
        true
    }
}

/// What a worker uploads for one checkpoint.
pub struct Snapshot {
    pub file: (String, Bytes),
    pub part: (String, Bytes),
    pub reference: PartRef,
}

impl Worker {
    pub fn new(slot: u32, attempt: Attempt, number: u64) -> Self {
        let id = WorkerId(format!("w{:011}", attempt.0 * 1_000 + u64::from(slot) * 100 + number));
        let files = Vec::new();
        Self { id, slot, position: 0, cut: 0, pending: Vec::new(), files, written: 0, highest: CheckpointId(0) }
    }

    /// Takes up what a part holds.
    pub fn restore(&mut self, id: CheckpointId, part: &SubtaskPart) {
        let of = |kind| {
            part.operators.iter().flat_map(|operator| &operator.items).filter(move |item: &&Item| item.kind == kind)
        };
        for item in of(ItemKind::Split) {
            self.position = item.value.as_u64().expect("a position");
        }
        for item in of(ItemKind::Commit) {
            let [of, from, to] = serde_json::from_value(item.value.clone()).expect("a transaction");
            self.pending.push((CheckpointId(of), (from, to)));
        }
        self.cut = self.position;
        self.files = vec![(id, part.keyed.as_ref().expect("state").files.clone())];
    }

    /// The barrier: what is counted up to here is in the snapshot, and pre-committed.
    pub fn snapshot(&mut self, attempt: Attempt, id: CheckpointId, base: Option<CheckpointId>, rows: u64) -> Snapshot {
        self.highest = self.highest.max(id);
        self.position += rows;
        self.pending.push((id, (self.cut, self.position)));
        self.cut = self.position;
        self.written += 1;
        let content = Bytes::from(format!("{} of {}", self.position, self.id));
        let path = weir_protocol::paths::state_file(attempt, &self.id, self.written);
        let reused =
            base.and_then(|base| self.files.iter().find(|(of, _)| *of == base)).map(|(_, files)| files.clone());
        let mut files = reused.unwrap_or_default();
        let merged = files.len().saturating_sub(REUSED);
        files.drain(..merged);
        files.push(FileRef {
            name: format!("{:06}.sst", self.written),
            path: path.clone(),
            offset: 0,
            length: content.len() as u64,
            crc32c: 0,
            inline: None,
        });
        self.files.retain(|(of, _)| base.is_some_and(|base| *of >= base));
        self.files.push((id, files.clone()));
        let part = self.part(attempt, id, files);
        let bytes = Bytes::from(weir_protocol::record::encode(&part));
        let part_path = weir_protocol::paths::part(id, attempt, &self.id);
        let length = bytes.len() as u64;
        let reference = PartRef { worker: self.id.clone(), path: part_path.clone(), length, crc32c: 0, inline: None };
        Snapshot { file: (path, content), part: (part_path, bytes), reference }
    }

    fn part(&self, attempt: Attempt, id: CheckpointId, files: Vec<FileRef>) -> Part {
        let item = |kind, value| Item { kind, value };
        let mut items = vec![item(ItemKind::Split, json!(self.position))];
        items.extend(self.pending.iter().map(|(of, (from, to))| item(ItemKind::Commit, json!([of.0, from, to]))));
        let keyed = KeyedSnapshot {
            backend: "sim".into(),
            key_group_start: 0,
            key_group_end: 1,
            key_group_watermarks: Vec::new(),
            files,
        };
        let subtask = SubtaskPart {
            stage: "stage".into(),
            subtask: SubtaskIndex(self.slot),
            finished: false,
            watermark_ms: None,
            keyed: Some(keyed),
            operators: vec![OperatorPart { items, ..OperatorPart::new("operator") }],
            channel_state: Vec::new(),
        };
        Part {
            version: PART_VERSION,
            id,
            attempt,
            worker: self.id.clone(),
            script: String::new(),
            keepers: Vec::new(),
            subtasks: vec![subtask],
        }
    }

    /// What may be published now.
    pub fn commit(&mut self, upto: CheckpointId) -> Vec<Rows> {
        let (due, rest): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(|(id, _)| *id <= upto);
        self.pending = rest;
        due.into_iter().map(|(_, rows)| rows).collect()
    }
}
