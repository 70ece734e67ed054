//! Workers as child processes. Each is named `weir-worker`, has a folder for local files and a log of its own, and holds the
//! read end of a pipe on its standard input: it ends when the pipe closes, so no worker outlives `weir run`, however that ends.
//! They are spoken to, and speak to each other, by sockets in a folder that only this user can enter: whoever else works on this
//! machine can tell them nothing.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use weir_protocol::BUILD_VERSION;

use super::{Platform, PlatformEvent, ProcessNumber, WorkerTemplate};
use crate::state_dir::StateDir;

/// A worker says where it listens within this time, or it is taken for hung. Starting takes some ten milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A worker told to stop is ended by force after this time. It has nothing left to do then that a restart would not repeat.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long the next line of a process that is gone may take.
const LAST_LINE: Duration = Duration::from_secs(1);
/// Names another worker binary than the one beside `weir`.
pub const WORKER_ENV: &str = "WEIR_WORKER";

/// Why there is no worker binary to start.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WorkerBinaryError {
    /// There is none.
    #[error(
        "the worker binary {path} is missing; build it with `cargo build -p weir-worker`, or name another with {WORKER_ENV}"
    )]
    Missing {
        /// Where it was looked for.
        path: String,
    },
    /// It does not run, or is no worker.
    #[error("the worker binary {path} does not run: {reason}; name another with {WORKER_ENV}")]
    Broken {
        /// It.
        path: String,
        /// Why.
        reason: String,
    },
    /// It was built from another version.
    #[error(
        "the worker binary {path} has version {found}, this is weir {BUILD_VERSION}; build both from the same source, or name another with {WORKER_ENV}"
    )]
    OtherVersion {
        /// It.
        path: String,
        /// What it says.
        found: String,
    },
}

/// The worker binary: named by the environment, or beside this one.
pub fn worker_binary() -> Result<PathBuf, WorkerBinaryError> {
    let path = match env::var_os(WORKER_ENV) {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => env::current_exe().unwrap_or_default().with_file_name("weir-worker"),
    };
    if path.is_file() { Ok(path) } else { Err(WorkerBinaryError::Missing { path: path.display().to_string() }) }
}

/// Asks the binary for its version, so that another one is refused before anything is done.
pub async fn check_version(path: &Path) -> Result<(), WorkerBinaryError> {
    let name = path.display().to_string();
    let broken = |reason: String| WorkerBinaryError::Broken { path: name.clone(), reason };
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(START_TIMEOUT, output)
        .await
        .map_err(|_| broken(format!("it has not said its version in {} s", START_TIMEOUT.as_secs())))?
        .map_err(|error| broken(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.split_whitespace().last() {
        Some(version) if output.status.success() && version == BUILD_VERSION => Ok(()),
        Some(version) if output.status.success() => {
            Err(WorkerBinaryError::OtherVersion { path: name.clone(), found: version.to_string() })
        }
        _ => Err(broken(ended(output.status))),
    }
}

/// What a worker prints first.
#[derive(Deserialize)]
struct Listening {
    address: String,
    version: String,
}

/// Child processes of this one.
pub struct Local {
    binary: PathBuf,
    arguments: Vec<OsString>,
    state_dir: Arc<StateDir>,
    events: mpsc::Sender<PlatformEvent>,
    started: u64,
    running: BTreeMap<ProcessNumber, oneshot::Sender<Ending>>,
    tasks: JoinSet<()>,
}

enum Ending {
    Stop,
    Kill,
}

impl Local {
    /// Nothing is started yet. `memory` is what each worker may use, in bytes.
    pub fn new(binary: PathBuf, memory: u64, state_dir: Arc<StateDir>, events: mpsc::Sender<PlatformEvent>) -> Self {
        let arguments = vec!["serve".into(), "--memory".into(), memory.to_string().into()];
        Self { binary, arguments, state_dir, events, started: 0, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    fn command(&self, process: ProcessNumber) -> std::io::Result<Command> {
        let folder = self.state_dir.worker(process.0);
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new(&self.binary);
        let mut listen = OsString::from("unix:");
        listen.push(self.state_dir.socket(process.0));
        command
            .args(&self.arguments)
            .arg("--listen")
            .arg(listen)
            .arg("--state-dir")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(self.state_dir.log(process.0))?)
            // Ctrl-C goes to the terminal's process group; workers are told by `weir run` what to do.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    fn end(&mut self, process: ProcessNumber, ending: Ending) {
        if let Some(running) = self.running.remove(&process) {
            // The process may be gone already; then its end is being told.
            let _ = running.send(ending);
        }
    }
}

#[async_trait]
impl Platform for Local {
    fn start(&mut self, template: &WorkerTemplate) -> ProcessNumber {
        self.started += 1;
        let process = ProcessNumber(self.started);
        let (end, ending) = oneshot::channel();
        self.running.insert(process, end);
        let life = Life {
            process,
            events: self.events.clone(),
            folder: self.state_dir.worker(process.0),
            log: self.state_dir.log(process.0),
            template: template.hash.clone(),
        };
        match self.command(process).and_then(|mut command| command.spawn()) {
            Ok(child) => self.tasks.spawn(life.live(child, ending)),
            Err(error) => {
                let reason = format!("{} cannot be started: {error}", self.binary.display());
                self.tasks.spawn(async move { life.start_failed(reason, true).await })
            }
        };
        process
    }

    fn stop(&mut self, process: ProcessNumber) {
        self.end(process, Ending::Stop);
    }

    fn kill(&mut self, process: ProcessNumber) {
        self.end(process, Ending::Kill);
    }

    async fn finish(&mut self) {
        let running: Vec<_> = self.running.keys().copied().collect();
        for process in running {
            self.stop(process);
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Children end with their parent, so that nobody could take them over.
    async fn release(&mut self) {
        self.finish().await;
    }
}

/// One process from its start to its end.
struct Life {
    process: ProcessNumber,
    events: mpsc::Sender<PlatformEvent>,
    folder: PathBuf,
    log: PathBuf,
    template: String,
}

impl Life {
    async fn tell(&self, event: PlatformEvent) {
        // Nobody listens when the run is over.
        let _ = self.events.send(event).await;
    }

    async fn start_failed(&self, reason: String, hopeless: bool) {
        self.tell(PlatformEvent::StartFailed { process: self.process, reason, hopeless }).await;
    }

    async fn live(self, mut child: Child, mut ending: oneshot::Receiver<Ending>) {
        let pid = child.id();
        // Held apart, since waiting for a child closes the pipe that it still has.
        let stdin = child.stdin.take();
        let Some(stdout) = child.stdout.take() else { return };
        let mut lines = BufReader::new(stdout).lines();

        let first = tokio::select! {
            line = lines.next_line() => line.ok().flatten(),
            () = tokio::time::sleep(START_TIMEOUT) => None,
            _ = &mut ending => None,
        };
        let listening = match first.as_deref().map(serde_json::from_str::<Listening>) {
            Some(Ok(listening)) if listening.version == BUILD_VERSION => listening,
            other => {
                let _ = child.start_kill();
                let how = child.wait().await.map_or_else(|error| error.to_string(), ended);
                let (reason, hopeless) = match other {
                    Some(Ok(said)) => {
                        (format!("the worker has version {}, this is weir {BUILD_VERSION}", said.version), true)
                    }
                    Some(Err(error)) => (format!("the worker did not say where it listens: {error}"), true),
                    None => (format!("the worker ended before it listened ({how}); {}", self.last_words()), false),
                };
                self.start_failed(reason, hopeless).await;
                return;
            }
        };
        self.tell(PlatformEvent::Started {
            process: self.process,
            name: match pid {
                Some(pid) => format!("worker {} (pid {pid})", self.process),
                None => format!("worker {}", self.process),
            },
            address: listening.address,
            pid,
            template: self.template.clone(),
        })
        .await;

        // Who prints much waits for a reader, also when it has been told to go.
        let how = {
            let ended = end_of(&mut child, stdin, &mut ending);
            tokio::pin!(ended);
            let mut printing = true;
            loop {
                tokio::select! {
                    how = &mut ended => break how,
                    line = lines.next_line(), if printing => match line {
                        Ok(Some(line)) => self.printed(line).await,
                        _ => printing = false,
                    },
                }
            }
        };
        // What it has printed is in the pipe, which another process may hold open.
        while let Ok(Ok(Some(line))) = tokio::time::timeout(LAST_LINE, lines.next_line()).await {
            self.printed(line).await;
        }
        self.tell(PlatformEvent::Died { process: self.process, how }).await;
        let _ = tokio::fs::remove_dir_all(&self.folder).await;
    }

    async fn printed(&self, line: String) {
        self.tell(PlatformEvent::Printed { process: self.process, line }).await;
    }

    /// The end of the log, which is where a worker that could not start says why.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        match log.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => format!("its log {} ends in: {line}", self.log.display()),
            None => format!("its log {} is empty", self.log.display()),
        }
    }
}

/// Waits until a process ends, by itself or because it is asked to. The end of its input is what tells it to go.
async fn end_of(child: &mut Child, stdin: Option<ChildStdin>, ending: &mut oneshot::Receiver<Ending>) -> String {
    tokio::select! {
        status = child.wait() => status.map_or_else(|error| error.to_string(), ended),
        asked = ending => {
            drop(stdin);
            finish(child, matches!(asked, Ok(Ending::Stop))).await
        }
    }
}

/// Waits for a process that has been told to go, and forces it after a while.
async fn finish(child: &mut Child, gently: bool) -> String {
    if gently && let Ok(status) = tokio::time::timeout(STOP_GRACE, child.wait()).await {
        return status.map_or_else(|error| error.to_string(), ended);
    }
    let _ = child.start_kill();
    child.wait().await.map_or_else(|error| error.to_string(), ended)
}

fn ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "for an unknown reason".to_string(),
    }
}
