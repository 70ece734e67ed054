//! All keyed state of one subtask: one backend, the tables over it, and what they share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::{ControlFlow, Range},
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use weir_protocol::{
    CheckpointId,
    part::{KeyedSnapshot, TableKind},
};
use weir_storage::JobStore;

use crate::{
    backend::{Carriage, KeyedBackend},
    budget::StateMemory,
    describe::TableShape,
    error::StateError,
    frozen::{Frozen, FrozenTable, Gate},
    guard::Guarded,
    layout::{Space, StateId, slice_end_of, successor},
    local::{Folder, KnownFiles},
    log::{self, LogTable},
    map::{self, MapTable},
    persist::{self, Persist, PersistStats},
    registry::BackendRegistry,
    restore,
    slices::SliceTable,
    table::{RowLayout, Table},
    timers::{self, Timers},
    uploads::Uploads,
};

/// The longest that a table waits for a snapshot before it may write rows that it has no more room for. A persist only writes
/// locally before its snapshot is taken; who waits longer waits for one that never comes.
const SPILL_WAIT: Duration = Duration::from_mins(5);

/// All that is needed to open a subtask's state, new or restored.
pub struct OpenState {
    /// The subtask's own local folder, made if absent. It may be the same again after a reset: snapshots in it that are the same
    /// as what is restored are used instead of downloading.
    pub dir: PathBuf,
    /// The backend's registered name.
    pub backend: String,
    /// The backend's options.
    pub options: BTreeMap<String, String>,
    /// The backends there are.
    pub registry: Arc<BackendRegistry>,
    /// The worker's memory for state.
    pub memory: StateMemory,
    /// Which subtask.
    pub subtask: u32,
    /// Of how many.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// The snapshots of all old subtasks whose key groups overlap this one's; none for a start from nothing.
    pub restore: Vec<KeyedSnapshot>,
    /// Where their files are.
    pub store: JobStore,
    /// Downloads run there.
    pub runtime: Handle,
    /// Another folder to look for a local snapshot in, beside `dir`.
    pub local_snapshot: Option<PathBuf>,
    /// Cancelled when nobody waits for the state any more: what is still to be downloaded is left.
    pub stopped: CancellationToken,
}

/// What tables, persist thread and engine share of a subtask's state.
pub(crate) struct Shared {
    /// Before the folder, so that it is closed before its files are removed.
    pub(crate) backend: Arc<Guarded>,
    pub(crate) backend_name: String,
    pub(crate) carriage: Carriage,
    pub(crate) memory: StateMemory,
    pub(crate) max_parallelism: u32,
    pub(crate) groups: Range<u32>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) folder: Arc<Folder>,
    pub(crate) known: Mutex<KnownFiles>,
    pub(crate) uploads: Mutex<Uploads>,
    runtime: Handle,
    /// The backend holds what was restored.
    restored: bool,
    names: Mutex<BTreeMap<StateId, String>>,
    /// What has been opened of each operator: name, kind and layout of rows.
    opened: Mutex<BTreeMap<String, Vec<OpenedTable>>>,
    /// The first write that failed: from then on it is not known what memory and backend hold together.
    broken: OnceLock<StateError>,
}

/// Name, kind and layout of rows of a table that was opened.
type OpenedTable = (String, TableKind, RowLayout);

/// All keyed state of one subtask. Cheap to clone; tables belong to operators.
#[derive(Clone)]
pub struct SubtaskState {
    shared: Arc<Shared>,
}

impl SubtaskState {
    /// Opens new state, or what is restored. Blocking: downloads, verifies and opens files; not to be called on the runtime's own
    /// threads.
    pub fn open(open: OpenState) -> Result<Self, StateError> {
        let opened = restore::open(&open)?;
        let shared = Shared {
            backend: Arc::new(opened.backend),
            carriage: open.registry.get(&open.backend)?.carriage(),
            backend_name: open.backend,
            memory: open.memory,
            max_parallelism: open.max_parallelism,
            groups: opened.groups,
            gate: Arc::default(),
            folder: opened.folder,
            known: Mutex::new(opened.known),
            uploads: Mutex::default(),
            runtime: open.runtime,
            restored: !open.restore.is_empty(),
            names: Mutex::default(),
            opened: Mutex::default(),
            broken: OnceLock::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn register(&self, operator: &str, name: &str) -> Result<StateId, StateError> {
        let id = StateId::of(operator, name);
        let full = format!("{operator}/{name}");
        let mut names = self.shared.names.lock();
        if let Some(other) = names.get(&id) {
            let what =
                if *other == full { "is opened twice" } else { "has the same id as another; rename one of them" };
            return Err(StateError::mismatch(format!("state {full} {what} ({other}, id {:08x})", id.0)));
        }
        names.insert(id, full);
        Ok(id)
    }

    /// The table of one state of an operator. Each can be opened once.
    pub fn table(&self, operator: &str, name: &str, layout: RowLayout) -> Result<Table, StateError> {
        let space = Space { state: self.register(operator, name)?, slice: None };
        self.opened(operator, name, TableKind::Table, layout);
        let in_backend = self.shared.restored && self.any(space)?;
        Ok(Table::new(self.shared.clone(), space, layout, in_backend))
    }

    /// The slices of one state of an operator. Each can be opened once.
    pub fn slices(&self, operator: &str, name: &str, layout: RowLayout) -> Result<SliceTable, StateError> {
        let state = self.register(operator, name)?;
        self.opened(operator, name, TableKind::Slices, layout);
        let ends = if self.shared.restored { self.slice_ends(state)? } else { BTreeSet::new() };
        Ok(SliceTable::new(self.shared.clone(), state, layout, &ends))
    }

    /// The ordered maps of one state of an operator, see [`MapTable::shapes`]. They can be opened once.
    pub fn map(&self, operator: &str, name: &str) -> Result<MapTable, StateError> {
        let nodes = self.table(operator, &map::nodes_name(name), RowLayout::Variable)?;
        Ok(MapTable::new(self.table(operator, name, RowLayout::Variable)?, nodes))
    }

    /// The logs of one state of an operator, see [`LogTable::shapes`]. They can be opened once.
    pub fn log(&self, operator: &str, name: &str) -> Result<LogTable, StateError> {
        let chunks = self.table(operator, &log::chunks_name(name), RowLayout::Variable)?;
        Ok(LogTable::new(self.table(operator, name, RowLayout::Variable)?, chunks))
    }

    /// The timers of one state of an operator in buckets of so many milliseconds, see [`Timers::shape`]. They can be opened once.
    pub fn timers(&self, operator: &str, name: &str, bucket_ms: i64) -> Result<Timers, StateError> {
        Ok(Timers::new(self.slices(operator, name, timers::LAYOUT)?, bucket_ms))
    }

    fn opened(&self, operator: &str, name: &str, kind: TableKind, layout: RowLayout) {
        let mut opened = self.shared.opened.lock();
        opened.entry(operator.to_string()).or_default().push((name.to_string(), kind, layout));
    }

    /// What an operator has opened under this name is what it says that it opens: a part describes the one, and holds the other.
    pub fn check_opened(&self, operator: &str, said: &[TableShape]) -> Result<(), StateError> {
        let in_words = |tables: &mut Vec<OpenedTable>| {
            tables.sort_by(|(a, ..), (b, ..)| a.cmp(b));
            tables
                .iter()
                .map(|(name, kind, layout)| format!("{name} ({kind:?}, {layout:?})"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut said: Vec<OpenedTable> =
            said.iter().map(|table| (table.name.clone(), table.kind, table.layout)).collect();
        let mut opened = self.shared.opened.lock().get(operator).cloned().unwrap_or_default();
        let (said, opened) = (in_words(&mut said), in_words(&mut opened));
        if said == opened {
            return Ok(());
        }
        Err(StateError::mismatch(format!(
            "{operator} has opened the tables [{opened}] and describes [{said}]: its checkpoints could not be read; report this"
        )))
    }

    fn first_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let mut first = None;
        self.shared.backend.scan(from, to, &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    fn any(&self, space: Space) -> Result<bool, StateError> {
        for group in self.shared.groups.clone() {
            let (from, to) = space.range(group as u16);
            if self.first_key(&from, &to)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One seek a slice and key group.
    fn slice_ends(&self, state: StateId) -> Result<BTreeSet<i64>, StateError> {
        let mut ends = BTreeSet::new();
        for group in self.shared.groups.clone() {
            let (mut from, to) = Space { state, slice: None }.range(group as u16);
            let prefix = from.len();
            while let Some(key) = self.first_key(&from, &to)? {
                let Some(bytes) = key.get(prefix..prefix + 8).and_then(|bytes| bytes.try_into().ok()) else {
                    let name = self.shared.describe(state);
                    return Err(StateError::mismatch(format!("{name} was restored, but is no sliced state")));
                };
                ends.insert(slice_end_of(bytes));
                from = successor(&key[..prefix + 8]);
            }
        }
        Ok(ends)
    }

    /// Key groups of the job.
    pub fn max_parallelism(&self) -> u32 {
        self.shared.max_parallelism
    }

    /// Key groups of this subtask.
    pub fn key_groups(&self) -> Range<u32> {
        self.shared.groups.clone()
    }

    /// About how many bytes the backend holds.
    pub fn bytes(&self) -> u64 {
        self.shared.backend.bytes()
    }

    /// Writes what was frozen, makes the backend's snapshot, and uploads what `base` does not have. Blocking; runs beside
    /// processing, on a thread that is none of the runtime's. `frozen` is what all tables of this subtask gave at the barrier.
    ///
    /// When it fails after the snapshot (uploads), the state is as good as before and the next persist makes up for it. When
    /// writing fails, all tables fail from then on.
    pub fn persist(&self, frozen: Vec<Frozen>, persist: &Persist) -> Result<(KeyedSnapshot, PersistStats), StateError> {
        persist::persist(&self.shared, frozen, persist)
    }

    /// Where the local files of checkpoint `id` stand, while they are kept.
    pub fn local_snapshot(&self, id: CheckpointId) -> Option<PathBuf> {
        self.shared.folder.snapshot_of(id)
    }

    /// Drops the local snapshots of the checkpoints before `id` that were given up: of all but `base`, the newest on record.
    pub fn drop_local_snapshots_given_up(&self, id: CheckpointId, base: Option<CheckpointId>) {
        self.shared.folder.drop_given_up(id, base);
    }

    /// Drops the local snapshots of all checkpoints before `id`: the record of `id` exists.
    pub fn drop_local_snapshots_before(&self, id: CheckpointId) {
        self.shared.folder.drop_before(id);
    }
}

impl fmt::Debug for SubtaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.shared;
        f.debug_struct("SubtaskState")
            .field("backend", &shared.backend_name)
            .field("groups", &shared.groups)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn describe(&self, state: StateId) -> String {
        self.names.lock().get(&state).cloned().unwrap_or_else(|| format!("state {:08x}", state.0))
    }

    /// Refuses work after a failed write, or after files were found damaged.
    pub(crate) fn usable(&self) -> Result<(), StateError> {
        match self.broken.get().or_else(|| self.backend.damage()) {
            None => Ok(()),
            Some(first) => {
                let what = "the state backend has failed before; the subtask has to be restored";
                Err(StateError::new(first.kind(), what).because(first.clone()))
            }
        }
    }

    /// Writes frozen tables in their order. The caller holds [`Gate::writer`].
    pub(crate) fn write(&self, tables: &[Arc<FrozenTable>]) -> Result<u64, StateError> {
        let mut bytes = 0;
        for table in tables {
            bytes += table
                .write(&*self.backend, self.groups.clone(), self.memory.rows().batch_bytes())
                .inspect_err(|error| drop(self.broken.set(error.clone())))?;
        }
        Ok(bytes)
    }

    /// Writes a table's rows to the backend on another thread. When what is returned has no strong reference any more, they are
    /// written; at the latest with the next persist.
    pub(crate) fn write_beside(self: &Arc<Self>, table: FrozenTable) -> Weak<FrozenTable> {
        let table = Arc::new(table);
        let written = Arc::downgrade(&table);
        self.gate.add(table);
        self.write_left_over();
        written
    }

    /// Writes on another thread what was frozen without a snapshot being waited for.
    pub(crate) fn write_left_over(self: &Arc<Self>) {
        let shared = self.clone();
        self.runtime.spawn_blocking(move || {
            let _writer = shared.gate.writer.lock();
            // If a snapshot is waited for by now, its persist writes these rows first.
            if let Some(tables) = shared.gate.open(None)
                && let Err(error) = shared.write(&tables)
            {
                tracing::error!(%error, "rows could not be written to the state backend");
            }
        });
    }

    /// Writes a table's rows to the backend to make room, unless a snapshot is waited for; then, when there is no more room at
    /// all, waits until it is taken.
    pub(crate) fn spill(&self, freeze: impl FnOnce() -> FrozenTable) -> Result<(), StateError> {
        let wait = self.memory.rows().exhausted().then_some(SPILL_WAIT);
        let Some(mut tables) = self.gate.open(wait) else {
            return match wait {
                None => Ok(()),
                Some(_) => Err(StateError::io("rows have to be written, but the snapshot before them was never taken")),
            };
        };
        let _writer = self.gate.writer.lock();
        tables.push(Arc::new(freeze()));
        self.write(&tables)?;
        Ok(())
    }
}
