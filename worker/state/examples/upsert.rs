//! How fast tables are: upserts a second and core, the pause of a freeze, and what a persist costs beside.
//!
//! `cargo run --release -p weir-state --example upsert -- [backend] [distinct keys] [rows] [budget in MiB] [checkpoint every]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arrow::array::{ArrayRef, Int64Array};
use weir_protocol::{Attempt, CheckpointId, JobName, WorkerId, part::KeyedSnapshot, settings::StorageSettings};
use weir_state::{BackendRegistry, Keys, OpenState, Persist, RowLayout, StateMemory, SubtaskState, Uploader};
use weir_storage::JobStore;

const BATCH: usize = 8192;

fn vm_hwm() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_string();
    format!("{} {}", line("VmHWM"), line("VmRSS")).replace('\t', " ")
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap_or(0.0)).sum::<f64>() / 100.0
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let backend = arguments.next().unwrap_or_else(|| "rocksdb".into());
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (distinct, rows, budget, every) = (number(1_000_000), number(20_000_000), number(1024), number(4_000_000));

    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let url = format!("file://{}", dir.path().join("storage").display());
    let settings = StorageSettings { url, endpoint: None, region: None };
    let job = JobName { namespace: "default".into(), name: "upsert".into() };
    let store = runtime.block_on(async { JobStore::open(&settings, &job) }).unwrap();
    let uploader = Arc::new(Uploader::new(store.clone(), runtime.handle().clone(), Attempt(1), WorkerId::generate()));
    let memory = StateMemory::new(budget << 20);
    let state = SubtaskState::open(OpenState {
        dir: dir.path().join("state"),
        backend,
        options: BTreeMap::new(),
        registry: Arc::new(BackendRegistry::with_builtin()),
        memory: memory.clone(),
        subtask: 0,
        parallelism: 1,
        max_parallelism: 128,
        restore: Vec::new(),
        store,
        runtime: runtime.handle().clone(),
        local_snapshot: None,
    })
    .unwrap();
    let mut table = state.table("upsert", "counts", RowLayout::Fixed(16)).unwrap();

    let (mut keys, mut slots, mut created) = (Keys::new(), Vec::new(), Vec::new());
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let (mut done, mut next, mut id) = (0u64, every, 0);
    let (mut in_keys, mut in_table, mut longest, mut new) = (0.0, 0.0, 0.0f64, 0u64);
    let mut base: Option<KeyedSnapshot> = None;
    let mut persisting: Option<std::thread::JoinHandle<KeyedSnapshot>> = None;
    let begin = Instant::now();
    while done < rows {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values((0..BATCH).map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % distinct) as i64
        })));
        let at = Instant::now();
        keys.encode(&[column], BATCH).unwrap();
        in_keys += at.elapsed().as_secs_f64();
        let at = Instant::now();
        table.upsert(&keys, &mut slots, &mut created).unwrap();
        for &slot in &slots {
            let row = table.row_mut(slot);
            let count = u64::from_le_bytes(row[..8].try_into().unwrap()) + 1;
            row[..8].copy_from_slice(&count.to_le_bytes());
        }
        new += created.len() as u64;
        let took = at.elapsed().as_secs_f64();
        in_table += took;
        longest = longest.max(took);
        done += BATCH as u64;
        if done >= next {
            next += every;
            if let Some(persist) = persisting.take() {
                base = Some(persist.join().unwrap());
                state.drop_local_snapshots_before(CheckpointId(id));
            }
            id += 1;
            let at = Instant::now();
            let frozen = table.freeze().into_iter().collect();
            let pause = at.elapsed();
            let persist = Persist { id: CheckpointId(id), base: base.clone(), uploader: uploader.clone() };
            let state = state.clone();
            persisting = Some(std::thread::spawn(move || {
                let (snapshot, stats) = state.persist(frozen, &persist).unwrap();
                println!("checkpoint {id}: pause {pause:?}, {stats:?}");
                snapshot
            }));
        }
    }
    if let Some(persist) = persisting.take() {
        persist.join().unwrap();
    }
    let total = begin.elapsed().as_secs_f64();
    let million = |seconds: f64| done as f64 / 1e6 / seconds;
    println!("{done} rows, {new} new, {total:.2} s, {:.2} s of CPU", cpu_seconds());
    println!(
        "keys {:.1} M/s, table {:.1} M/s, longest batch {:.1} ms",
        million(in_keys),
        million(in_table),
        longest * 1e3
    );
    println!(
        "rows in memory {} MiB, RocksDB {} MiB, {}",
        memory.row_bytes() >> 20,
        memory.rocksdb_bytes() >> 20,
        vm_hwm()
    );
}
