//! A job's state on one machine, for tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{ArrayRef, Int64Array};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use weir_protocol::{Attempt, CheckpointId, JobName, WorkerId, part::KeyedSnapshot, settings::StorageSettings};
use weir_state::{
    BackendRegistry, Frozen, Keys, OpenState, Persist, PersistStats, StateError, StateMemory, SubtaskState, Uploader,
};
use weir_storage::JobStore;

pub const MAX_PARALLELISM: u32 = 16;

pub struct Machine {
    pub dir: tempfile::TempDir,
    pub runtime: Runtime,
    pub store: JobStore,
    pub uploader: Arc<Uploader>,
    pub memory: StateMemory,
    pub backend: String,
    pub registry: Arc<BackendRegistry>,
    /// Of the states that it opens.
    pub stopped: CancellationToken,
}

impl Machine {
    pub fn new(backend: &str, budget: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let url = format!("file://{}", dir.path().join("storage").display());
        let settings = StorageSettings { url, endpoint: None, region: None };
        let job = JobName { namespace: "default".into(), name: "job".into() };
        let store = runtime.block_on(async { JobStore::open(&settings, &job) }).unwrap();
        let uploader =
            Arc::new(Uploader::new(store.clone(), runtime.handle().clone(), Attempt(1), WorkerId("abc".into())));
        let registry = Arc::new(BackendRegistry::with_builtin());
        Self {
            dir,
            runtime,
            store,
            uploader,
            memory: StateMemory::new(budget),
            backend: backend.into(),
            registry,
            stopped: CancellationToken::new(),
        }
    }

    /// The folder that holds the job's objects.
    pub fn objects(&self) -> PathBuf {
        self.dir.path().join("storage/default/job")
    }

    pub fn try_open(
        &self,
        dir: &str,
        subtask: u32,
        parallelism: u32,
        restore: &[KeyedSnapshot],
    ) -> Result<SubtaskState, StateError> {
        SubtaskState::open(OpenState {
            dir: self.dir.path().join(dir),
            backend: self.backend.clone(),
            options: BTreeMap::new(),
            registry: Arc::clone(&self.registry),
            memory: self.memory.clone(),
            subtask,
            parallelism,
            max_parallelism: MAX_PARALLELISM,
            restore: restore.to_vec(),
            store: self.store.clone(),
            runtime: self.runtime.handle().clone(),
            local_snapshot: None,
            stopped: self.stopped.clone(),
        })
    }

    pub fn open(&self, dir: &str, subtask: u32, parallelism: u32, restore: &[KeyedSnapshot]) -> SubtaskState {
        self.try_open(dir, subtask, parallelism, restore).unwrap()
    }

    pub fn persist(
        &self,
        state: &SubtaskState,
        frozen: Vec<Frozen>,
        id: u64,
        base: Option<&KeyedSnapshot>,
    ) -> (KeyedSnapshot, PersistStats) {
        let persist = Persist { id: CheckpointId(id), base: base.cloned(), uploader: self.uploader.clone() };
        state.persist(frozen, &persist).unwrap()
    }
}

pub fn keys(values: impl IntoIterator<Item = i64>) -> Keys {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let rows = column.len();
    let mut keys = Keys::new();
    keys.encode(&[column], rows).unwrap();
    keys
}

/// All files below a folder.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
