//! How fast tables are: upserts a second and core, the pause of a freeze, and what a persist costs beside.
//!
//! `cargo run --release -p weir-state --example upsert -- [backend] [distinct keys] [rows] [budget in MiB] [checkpoint every]
//! [option=value]…`
//!
//! A batch's time is given with and without what the thread waited for a core, so that a busy machine does not hide what the
//! state itself does.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arrow::array::{ArrayRef, Int64Array};
use weir_protocol::{Attempt, CheckpointId, JobName, WorkerId, part::KeyedSnapshot, settings::StorageSettings};
use weir_state::{BackendRegistry, Keys, OpenState, Persist, RowLayout, StateMemory, SubtaskState, Table, Uploader};
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

/// Nanoseconds that this thread was ready to run and had no core.
fn waited_for_a_core() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// CPU seconds of this process's living threads, by name.
fn threads() -> BTreeMap<String, f64> {
    let mut seconds = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let ran = read("schedstat").split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
        *seconds.entry(read("comm").trim().to_string()).or_default() += ran / 1e9;
    }
    seconds
}

/// How long batches took.
#[derive(Default)]
struct Batches {
    wall: Vec<f64>,
    own: Vec<f64>,
    rows: u64,
    began: Option<(Instant, f64)>,
}

impl Batches {
    fn begin() -> Self {
        Self { began: Some((Instant::now(), cpu_seconds())), ..Self::default() }
    }

    fn add(&mut self, wall: f64, waited: u64) {
        self.rows += BATCH as u64;
        self.wall.push(wall);
        self.own.push((wall - waited as f64 / 1e9).max(0.0));
    }

    fn print(mut self, what: &str) {
        let Some((at, cpu)) = self.began else { return };
        let (seconds, cpu) = (at.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let millions = self.rows as f64 / 1e6;
        println!(
            "{what}: {millions:.1}M rows, {:.3}M/s, {:.3}M a CPU-second ({cpu:.1} s)",
            millions / seconds,
            millions / cpu
        );
        for (what, times) in [("wall", &mut self.wall), ("without waiting for a core", &mut self.own)] {
            times.sort_unstable_by(f64::total_cmp);
            let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part) as usize).copied().unwrap_or(0.0) * 1e3;
            let over = |limit: f64| times.iter().filter(|&&time| time > limit).count();
            println!(
                "  batch, {what}: p50 {:.1} p99 {:.1} p99.9 {:.1} max {:.1} ms; {} over 100 ms, {} over 200 ms",
                at(0.5),
                at(0.99),
                at(0.999),
                at(1.0),
                over(0.1),
                over(0.2)
            );
        }
    }
}

fn main() {
    let (options, arguments): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|argument| argument.contains('='));
    let options =
        options.iter().filter_map(|option| option.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect();
    let mut arguments = arguments.into_iter();
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
    let opening = Opening { dir: dir.path().to_path_buf(), backend, options, store, runtime: runtime.handle().clone() };
    let state = opening.open("state", &memory, &[]);
    let mut table = state.table("upsert", "counts", RowLayout::Fixed(16)).unwrap();

    let (mut keys, mut slots, mut created) = (Keys::new(), Vec::new(), Vec::new());
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let (mut done, mut next, mut id) = (0u64, every, 0);
    let (mut in_keys, mut in_table, mut new) = (0.0, 0.0, 0u64);
    let mut batches = Batches::begin();
    let mut base: Option<KeyedSnapshot> = None;
    let mut persisting: Option<std::thread::JoinHandle<KeyedSnapshot>> = None;
    let begin = Instant::now();
    while done < rows {
        let column = batch(&mut random, distinct);
        let at = Instant::now();
        keys.encode(&[column], BATCH).unwrap();
        in_keys += at.elapsed().as_secs_f64();
        let (at, waited) = (Instant::now(), waited_for_a_core());
        table.upsert(&keys, &mut slots, &mut created).unwrap();
        for &slot in &slots {
            let row = table.row_mut(slot);
            let count = u64::from_le_bytes(row[..8].try_into().unwrap()) + 1;
            row[..8].copy_from_slice(&count.to_le_bytes());
        }
        new += created.len() as u64;
        let took = at.elapsed().as_secs_f64();
        in_table += took;
        batches.add(took, waited_for_a_core() - waited);
        if done < distinct && done + BATCH as u64 >= distinct {
            std::mem::replace(&mut batches, Batches::begin()).print("as many rows as keys");
        }
        done += BATCH as u64;
        if done >= next {
            next += every;
            if let Some(persist) = persisting.take() {
                base = Some(persist.join().unwrap());
                state.drop_local_snapshots_before(CheckpointId(id));
            }
            id += 1;
            let persist = Persist { id: CheckpointId(id), base: base.clone(), uploader: uploader.clone() };
            persisting = Some(checkpoint(&state, &mut table, persist));
        }
    }
    batches.print("after that");
    println!("CPU seconds by thread: {:.1?}", threads());
    if let Some(persist) = persisting.take() {
        base = Some(persist.join().unwrap());
    }
    let total = begin.elapsed().as_secs_f64();
    let million = |seconds: f64| done as f64 / 1e6 / seconds;
    println!("{done} rows, {new} new, {total:.2} s, {:.2} s of CPU", cpu_seconds());
    println!("keys {:.1} M/s, table {:.1} M/s", million(in_keys), million(in_table));
    println!(
        "rows in memory {} MiB, RocksDB {} MiB, {}",
        memory.row_bytes() >> 20,
        memory.rocksdb_bytes() >> 20,
        vm_hwm()
    );
    drop((table, state));
    let Some(snapshot) = base else { return };
    for (what, folder) in [("local files", "state"), ("a download", "elsewhere")] {
        opening.restore(what, folder, &memory, &snapshot, &keys);
    }
    println!("{}", vm_hwm());
}

/// Freezes the table, and writes what was frozen beside what goes on.
fn checkpoint(state: &SubtaskState, table: &mut Table, persist: Persist) -> std::thread::JoinHandle<KeyedSnapshot> {
    let at = Instant::now();
    let frozen = table.freeze().into_iter().collect();
    let pause = at.elapsed();
    let state = state.clone();
    std::thread::spawn(move || {
        let (snapshot, stats) = state.persist(frozen, &persist).unwrap();
        println!("checkpoint {}: pause {pause:?}, {stats:?}", persist.id.0);
        snapshot
    })
}

/// Keys of one batch, each as likely as any other.
fn batch(random: &mut u64, distinct: u64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values((0..BATCH).map(|_| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        (*random % distinct) as i64
    })))
}

/// What is the same for each opening of the state.
struct Opening {
    dir: std::path::PathBuf,
    backend: String,
    options: BTreeMap<String, String>,
    store: JobStore,
    runtime: tokio::runtime::Handle,
}

impl Opening {
    /// How long it takes until a restored state has taken its first batch.
    fn restore(&self, what: &str, folder: &str, memory: &StateMemory, snapshot: &KeyedSnapshot, keys: &Keys) {
        let (at, cpu) = (Instant::now(), cpu_seconds());
        let state = self.open(folder, memory, std::slice::from_ref(snapshot));
        let mut table = state.table("upsert", "counts", RowLayout::Fixed(16)).unwrap();
        let opened = at.elapsed();
        table.upsert(keys, &mut Vec::new(), &mut Vec::new()).unwrap();
        println!(
            "{} MiB from {what}: open after {opened:.1?}, first batch after {:.1?}, {:.2} s of CPU",
            snapshot.files.iter().map(|file| file.length).sum::<u64>() >> 20,
            at.elapsed(),
            cpu_seconds() - cpu
        );
    }

    fn open(&self, folder: &str, memory: &StateMemory, restore: &[KeyedSnapshot]) -> SubtaskState {
        SubtaskState::open(OpenState {
            dir: self.dir.join(folder),
            backend: self.backend.clone(),
            options: self.options.clone(),
            registry: Arc::new(BackendRegistry::with_builtin()),
            memory: memory.clone(),
            subtask: 0,
            parallelism: 1,
            max_parallelism: 128,
            restore: restore.to_vec(),
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            local_snapshot: None,
            stopped: tokio_util::sync::CancellationToken::new(),
        })
        .unwrap()
    }
}
