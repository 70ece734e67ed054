//! Runs the real `weir` with its real worker processes, kills them, and reads what they leave behind. The tests beside this
//! harness use nothing of the code under test but its command line, its storage folder and its output files.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};

/// A condition that does not come true in this time fails the test, with everything that the job has said.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A random generator from `WEIR_SEED`; without it from the name, so that a change is judged by the same course every time, or, where
/// `WEIR_KILLS` asks for a long one, from the clock. The seed is printed and replays.
pub fn seeded(test: &str) -> StdRng {
    let given = std::env::var("WEIR_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| match std::env::var_os("WEIR_KILLS") {
        Some(_) => rand::random(),
        None => test.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(257).wrapping_add(byte.into())),
    });
    println!("{test}: WEIR_SEED={seed} replays this run");
    StdRng::seed_from_u64(seed)
}

/// A binary of this workspace. `make test` builds them before the tests.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("tests stand in <target>/debug/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; run: cargo build --workspace --bins", path.display());
    path
}

/// A job in a folder of its own: `job.yaml`, input files, `out/`, `checkpoints/`, `state/`.
pub struct Job {
    folder: tempfile::TempDir,
    name: String,
    /// What `weir` is given beside the environment of the test.
    pub environment: Vec<(&'static str, String)>,
}

/// What a job's YAML says beside its SQL.
#[derive(Clone, Debug)]
pub struct Settings {
    pub workers: u32,
    pub slots: u32,
    /// Workers beyond those, which wait for one to die.
    pub standby: u32,
    pub interval: &'static str,
    pub backend: &'static str,
    /// Further lines below `spec`, indented by two blanks.
    pub more: String,
    /// Where checkpoints go, as YAML; `None` is a folder of the job's own.
    pub storage: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 2,
            slots: 2,
            standby: 0,
            interval: "200ms",
            backend: "rocksdb",
            more: String::new(),
            storage: None,
        }
    }
}

impl Job {
    /// Writes the job's YAML into a new folder. In the SQL, `{folder}` stands for that folder.
    pub fn new(name: &str, settings: &Settings, sql: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("weir-e2e-").tempdir().expect("a temporary folder");
        let job = Self { folder, name: name.to_string(), environment: Vec::new() };
        job.write(settings, sql);
        job
    }

    /// Writes the YAML anew.
    pub fn write(&self, settings: &Settings, sql: &str) {
        let folder = self.path().display().to_string();
        let sql: String = sql.replace("{folder}", &folder).lines().map(|line| format!("    {line}\n")).collect();
        let Settings { workers, slots, standby, interval, backend, more, storage } = settings;
        let storage = storage.clone().unwrap_or_else(|| format!("{{url: \"file://{folder}/checkpoints\"}}"));
        let yaml = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {{name: {}}}\nspec:\n  sql: |\n{sql}  workers: {{replicas: \
             {workers}, slots: {slots}, standby: {standby}}}\n  state: {{backend: {backend}}}\n{more}  checkpoint:\n    storage: \
             {storage}\n    interval: {interval}\n",
            self.name
        );
        fs::write(self.yaml(), yaml).expect("job.yaml is written");
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn yaml(&self) -> PathBuf {
        self.path().join("job.yaml")
    }

    /// The job's prefix in its storage.
    pub fn storage(&self) -> PathBuf {
        self.path().join("checkpoints/default").join(&self.name)
    }

    /// Paths of all records and seals, in order.
    pub fn slots(&self) -> Vec<PathBuf> {
        let mut found = files_below(&self.storage().join("terms"));
        found.retain(|path| {
            path.file_name().is_some_and(|name| name != "opening" && !name.to_string_lossy().contains('#'))
        });
        found.sort();
        found
    }

    /// The newest record that stands in storage.
    pub fn newest_record(&self) -> Option<serde_json::Value> {
        self.slots().iter().rev().find_map(|path| {
            let value: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            (value.get("type")? == "record").then_some(value)
        })
    }

    /// The id of the newest record, 0 if there is none.
    pub fn newest_id(&self) -> u64 {
        self.newest_record().and_then(|record| record.get("id")?.as_u64()).unwrap_or(0)
    }

    /// All finished lines of all output files, which are those whose names begin with neither `.` nor `_`.
    pub fn output(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for path in self.output_files() {
            let text = fs::read_to_string(&path).expect("an output file is text");
            assert!(text.is_empty() || text.ends_with('\n'), "{} ends within a line", path.display());
            lines.extend(text.lines().map(str::to_string));
        }
        lines
    }

    /// The finished output files.
    pub fn output_files(&self) -> Vec<PathBuf> {
        let mut found = files_below(&self.path().join("out"));
        found.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with(['.', '_'])));
        found.sort();
        found
    }

    /// Bytes of the output files that are not finished yet.
    pub fn unfinished_bytes(&self) -> u64 {
        let mut found = files_below(&self.path().join("out"));
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_'])));
        found.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
    }

    /// Starts `weir run` on this job.
    pub fn start(&self, arguments: &[&str]) -> Weir {
        self.start_from(&self.path().join("state"), arguments)
    }

    /// Starts `weir run` on this job with a state folder of its own, as from another machine.
    pub fn start_from(&self, state: &Path, arguments: &[&str]) -> Weir {
        let mut command = Command::new(binary("weir"));
        command.arg("run").arg(self.yaml()).arg("--state-dir").arg(state).args(arguments);
        self.spawn(command)
    }

    /// Starts `weir run` with a disk of its own, of so many bytes, under one of the job's folders. Only this process and its
    /// workers see the disk; [`Weir::small_disk`] shows it to the test.
    pub fn start_on_small_disk(&self, folder: &str, bytes: u64) -> Weir {
        let disk = self.path().join(folder);
        fs::create_dir_all(&disk).expect("the mount point is made");
        // Of util-linux.
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = format!(
            "mount -t tmpfs -o size={bytes} tmpfs {} && exec {} run {} --state-dir {}",
            disk.display(),
            binary("weir").display(),
            self.yaml().display(),
            self.path().join("state").display()
        );
        command.args(["--mount", "sh", "-c", &script]);
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> Weir {
        let log = self.path().join("log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log opens");
        command
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log opens twice"))
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Weir { child, log }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

/// A `weir run` under way.
pub struct Weir {
    child: Child,
    log: PathBuf,
}

impl Weir {
    /// Process ids of its workers that are alive.
    pub fn workers(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let pid = self.child.id();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
        found.retain(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.starts_with("Name:\tweir-worker") && !status.contains("State:\tZ")
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Sends signal 9 to a worker. False if it was gone already.
    pub fn kill_worker(&self, pid: u32) -> bool {
        signal(pid, Signal::KILL)
    }

    /// Sends signal 9 to `weir` itself and waits until it and its workers are gone.
    pub fn kill(mut self) {
        let workers = self.workers();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let begun = Instant::now();
        while workers.iter().any(|pid| alive(*pid)) {
            assert!(begun.elapsed() < PATIENCE, "workers outlive their weir: {workers:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        signal(self.child.id(), Signal::INT);
    }

    /// Stops `weir` itself with SIGSTOP, as a machine does that hangs. Its workers run on.
    pub fn freeze(&self) {
        signal(self.child.id(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal(self.child.id(), Signal::CONT);
    }

    /// A folder as this process sees it.
    pub fn small_disk(&self, folder: &Path) -> PathBuf {
        let inside = folder.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.child.id())).join(inside)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for a condition. Fails if the job ends before it.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(!self.has_ended() || condition(), "weir ended before: {what}\n{}", self.said());
            assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}\n{}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for the end and returns the exit status with everything that was printed.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return (status, self.said());
            }
            assert!(begun.elapsed() < PATIENCE, "weir does not end\n{}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for a successful end.
    pub fn succeed(self) -> String {
        let (status, said) = self.wait();
        assert!(status.success(), "weir ended with {status}\n{said}");
        said
    }

    /// All it has printed, in all its runs on this job.
    pub fn said(&self) -> String {
        let mut text = String::new();
        let _ = fs::File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        text
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) -> bool {
    Pid::from_raw(pid as i32).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

/// Runs a `weir` command to its end.
pub fn weir(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(binary("weir")).args(arguments).stdin(Stdio::null()).output().expect("weir starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}
