//! Runs one job with `weir run` and gathers its report, its CPU time and its workers' peak memory.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use thiserror::Error;

/// How often the workers' memory and the report are looked at.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Error)]
pub enum BenchError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("the report is not readable: {0}")]
    Report(serde_json::Error),
    #[error("{job} ended with {status}; its log:\n{log}")]
    Failed { job: String, status: String, log: String },
    #[error("no bench query is named {0}")]
    NoSuchQuery(String),
}

/// What `weir run` has written to `events.jsonl` in its state folder so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub checkpoints: Vec<Checkpoint>,
    /// One an attempt whose subtasks run, as far as it has come.
    pub recoveries: Vec<Recovery>,
    /// From the first attempt's running to the last checkpoint's commit.
    pub elapsed_ms: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    pub duration_ms: u64,
    #[serde(default)]
    pub pause_us: Option<u64>,
    pub state_bytes: u64,
    pub uploaded_bytes: u64,
}

/// From the moment that a failure was seen.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    #[serde(rename = "attempt")]
    pub number: u64,
    #[serde(default)]
    pub worker_ready_ms: Option<f64>,
    #[serde(default)]
    pub running_ms: Option<f64>,
    #[serde(default)]
    pub first_output_ms: Option<f64>,
    #[serde(default)]
    pub restore_ms: f64,
    #[serde(default)]
    pub stop_ms: f64,
    #[serde(default)]
    pub downloaded_bytes: u64,
    #[serde(default)]
    pub local_bytes: u64,
}

#[derive(Deserialize)]
struct Line {
    at: u64,
    event: String,
    facts: serde_json::Value,
}

impl Report {
    fn read(path: &Path) -> Self {
        let mut report = Self::default();
        let mut began = None;
        // The last line may be half-written.
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            match line.event.as_str() {
                "checkpoint" => report.checkpoints.extend(serde_json::from_value(line.facts)),
                "running" => {
                    began.get_or_insert(line.at);
                    report.recoveries.extend(serde_json::from_value(line.facts["recovery"].clone()));
                }
                "firstOutput" => {
                    if let (Some(last), Ok(now)) = (report.recoveries.last_mut(), serde_json::from_value(line.facts)) {
                        *last = now;
                    }
                }
                "committed" => report.elapsed_ms = line.at.saturating_sub(began.unwrap_or(line.at)),
                _ => {}
            }
        }
        report
    }
}

/// A finished run.
pub struct Run {
    pub report: Report,
    pub wall: Duration,
    pub cpu: Duration,
    /// Peak resident bytes (`VmHWM`) of each worker process, by process id.
    pub peaks: BTreeMap<u32, u64>,
}

pub fn binary_folder() -> PathBuf {
    std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)).unwrap_or_default()
}

/// A job under way.
pub struct Running {
    child: Child,
    folder: tempfile::TempDir,
    name: String,
    started: Instant,
    cpu_before: Duration,
    peaks: BTreeMap<u32, u64>,
}

/// How a job is to be run.
pub struct Job<'a> {
    pub name: &'a str,
    pub sql: String,
    pub workers: u32,
    pub slots: u32,
    pub memory: &'a str,
    pub interval: &'a str,
}

impl Running {
    pub fn start(job: &Job<'_>) -> Result<Self, BenchError> {
        let io = |what: &str| {
            let what = what.to_string();
            move |source| BenchError::Io { what, source }
        };
        let folder = tempfile::Builder::new().prefix("weir-bench-").tempdir().map_err(io("a temporary folder"))?;
        let yaml = job_yaml(job, folder.path());
        let path = folder.path().join("job.yaml");
        fs::write(&path, yaml).map_err(io("job.yaml"))?;
        let log = fs::File::create(folder.path().join("log")).map_err(io("the log"))?;
        let errors = log.try_clone().map_err(io("the log"))?;
        let cpu_before = children_cpu();
        let child = Command::new(binary_folder().join("weir"))
            .arg("run")
            .arg(&path)
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(io("starting weir"))?;
        Ok(Self { child, folder, name: job.name.into(), started: Instant::now(), cpu_before, peaks: BTreeMap::new() })
    }

    /// What has happened so far.
    pub fn report(&self) -> Report {
        Report::read(&self.folder.path().join("state/events.jsonl"))
    }

    /// Ids of the worker processes that are alive.
    pub fn workers(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut all: Vec<u32> = children.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // A child belongs to the thread that started it.
        if let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) {
            for thread in threads.flatten() {
                let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                all.extend(list.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn look(&mut self) {
        for worker in self.workers() {
            if let Some(peak) = peak_memory(worker) {
                let entry = self.peaks.entry(worker).or_default();
                *entry = (*entry).max(peak);
            }
        }
    }

    /// Waits until `done` says so of the report, or the job ends. True when `done` said so.
    pub fn until(&mut self, mut done: impl FnMut(&Report) -> bool) -> Result<bool, BenchError> {
        loop {
            self.look();
            if done(&self.report()) {
                return Ok(true);
            }
            if self.child.try_wait().map_err(|source| BenchError::Io { what: self.name.clone(), source })?.is_some() {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for the end of the job.
    pub fn finish(mut self) -> Result<Run, BenchError> {
        self.until(|_| false)?;
        let wall = self.started.elapsed();
        let status = self.child.wait().map_err(|source| BenchError::Io { what: self.name.clone(), source })?;
        if !status.success() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            return Err(BenchError::Failed { job: self.name, status: status.to_string(), log });
        }
        let report = self.report();
        Ok(Run { report, wall, cpu: children_cpu().saturating_sub(self.cpu_before), peaks: self.peaks.clone() })
    }

    /// Ends the job at once.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job_yaml(job: &Job<'_>, folder: &Path) -> String {
    let sql = job.sql.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {{name: {}}}\nspec:\n  sql: |\n{sql}  workers:\n    \
         replicas: {}\n    slots: {}\n    resources: {{limits: {{memory: {}}}}}\n  state: {{backend: rocksdb}}\n  checkpoint:\n    \
         storage: {{url: \"file://{}/checkpoints\"}}\n    interval: {}\n",
        job.name,
        job.workers,
        job.slots,
        job.memory,
        folder.display(),
        job.interval
    )
}

/// CPU time of all processes that this one and its children have waited for.
fn children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 16 and 17, counted after the name in parentheses: cutime and cstime in ticks of 10 ms.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(13).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Of a process that serves; those that plan or tell their version are not counted.
fn peak_memory(pid: u32) -> Option<u64> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    if !command.split(|byte| *byte == 0).any(|word| word == b"serve") {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    if !status.starts_with("Name:\tweir-worker") {
        return None;
    }
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
