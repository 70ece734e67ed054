//! The trait behind which keyed state rests, and what it is asked with.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{budget::StateMemory, error::StateError};

/// The largest snapshot that is carried inside the ack and the record.
pub const INLINE_LIMIT: u64 = 5 << 20;

/// Called with an entry's key and value; says whether to go on.
pub type VisitEntry<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Where keyed state of one subtask rests: an ordered map from bytes to bytes.
///
/// # Contract
///
/// - **Order.** Keys are ordered as unsigned bytes. [`scan`](Self::scan) visits them in that order.
/// - **Reads see writes.** When [`write`](Self::write) has returned, every later `multi_get` and `scan` on any thread sees all
///   of the batch. Within a batch range deletes come first, then puts and deletes; a key occurs at most once among those.
///   The caller never runs two writes at once, but reads run beside a write and see, per key, the old or the new value.
/// - **Snapshots are cuts.** [`snapshot`](Self::snapshot) contains exactly the writes that returned before it was called; the
///   caller runs no write beside it, but reads. Its files are complete in the given folder when it returns, and are never
///   changed afterwards by the backend: hard links and fresh files are fine, files that are appended to are not.
///   A file that is the same as in an earlier snapshot keeps its name there; that is what makes checkpoints incremental.
/// - **Restore is exact.** A backend opened with `restore_dir` holding the files of one snapshot, under the same names, holds
///   exactly the content of that snapshot. Options may have changed in between.
/// - **Durability is the caller's.** Nothing but a snapshot's files needs to survive the process.
/// - A failed `write` leaves the backend unusable: the caller stops the subtask.
pub trait KeyedBackend: Send + Sync {
    /// The name it was registered under, or its kind.
    fn name(&self) -> &str;

    /// Looks all keys up; calls `found` with the index and the value of each that is there. Keys are distinct and ascending.
    fn multi_get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), StateError>;

    /// Applies a batch.
    fn write(&self, batch: &WriteBatch) -> Result<(), StateError>;

    /// Visits the entries with `from <= key < to`, ascending, until `visit` breaks.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError>;

    /// Puts all content into files below `dir`, which exists and is empty.
    fn snapshot(&self, dir: &Path) -> Result<Vec<LocalFile>, StateError>;

    /// About how many bytes it holds, on disk and in memory.
    fn bytes(&self) -> u64;
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalFile {
    /// Its name in the snapshot's folder; no separators.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// The backend never uses this name for other bytes while it is open, so that its checksum needs to be read only once.
    pub immutable: bool,
}

/// What is written at once: range deletes, then puts and deletes in ascending order of keys.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: usize,
    value: usize,
    end: usize,
    delete: bool,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key. Keys come in ascending order.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.push(key, Some(value));
    }

    /// Removes a key. Keys come in ascending order.
    pub fn delete(&mut self, key: &[u8]) {
        self.push(key, None);
    }

    /// Removes all keys with `from <= key < to`, before any put of this batch.
    pub fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.ranges.push((from, to));
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let split = self.bytes.len();
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.entries.push(Entry { key: at, value: split, end: self.bytes.len(), delete: value.is_none() });
    }

    /// Puts (`Some`) and deletes (`None`), ascending.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], Option<&[u8]>)> {
        self.entries.iter().map(|entry| {
            let value = (!entry.delete).then(|| &self.bytes[entry.value..entry.end]);
            (&self.bytes[entry.key..entry.value], value)
        })
    }

    /// Range deletes.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.ranges.iter().map(|(from, to)| (from.as_slice(), to.as_slice()))
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Puts and deletes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.ranges.is_empty()
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.ranges.clear();
    }
}

/// What a factory opens a backend with.
#[derive(Clone, Debug)]
pub struct OpenBackend {
    /// A folder of its own, empty.
    pub dir: PathBuf,
    /// `state.options` of the job.
    pub options: BTreeMap<String, String>,
    /// The worker's memory for state.
    pub memory: StateMemory,
    /// A folder with the files of one snapshot; `None` for an empty backend. The files may be hard-linked but not changed.
    pub restore_dir: Option<PathBuf>,
}

/// How a backend's snapshots travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// As objects in storage.
    Storage,
    /// Inside the ack and the record; [`INLINE_LIMIT`] bytes at most.
    Inline,
}

/// Makes backends of one kind.
pub trait BackendFactory: Send + Sync {
    /// Opens an empty backend, or one with a snapshot's content. Unknown options are refused, naming them.
    fn open(&self, open: OpenBackend) -> Result<Arc<dyn KeyedBackend>, StateError>;

    /// How its snapshots travel.
    fn carriage(&self) -> Carriage {
        Carriage::Storage
    }

    /// The name of the snapshot format. A snapshot can be restored by every backend with the same one.
    fn format(&self) -> &'static str;
}
