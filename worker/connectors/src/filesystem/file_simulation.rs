//! The committer of files as it runs, on a simulated file system that keeps what file systems promise and nothing more: a name is durable
//! once its folder was synced, and of all that was done since, any part may survive a power failure. Calls fail; processes die between any
//! two of them, or are overtaken there by the next attempt and go on with what they were told; a reader takes away what it has read, as
//! soon as some commit of it has said that it is done. Whatever happens, each file that a record names is seen once, whole, and never
//! before its record. That it would be noticed is shown by committers that leave something out.
//!
//! `WEIR_SCHEDULES` of these courses are tried at random; `WEIR_SEED` replays one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::runtime::Runtime;
use weir_engine::api::error::FailureKind;
use weir_engine::api::sink::{Committer, SinkContext};
use weir_protocol::{Attempt, CheckpointId, JobName};

use super::commit::FileCommitter;
use super::folder::FileSystem;
use super::names::{Owner, Pending, Writer};
use super::paths::is_hidden;
use crate::testing::{run_of, sink_context};

/// `make model` asks for more.
const SCHEDULES: u64 = 1_000;
/// What happens in one course while things go wrong.
const STEPS: u64 = 30;
/// Calls of which one fails, of a thousand.
const FAILING: u32 = 30;
/// A commit of some files is made of no more calls than this.
const CALLS: u64 = 16;

const FOLDER: &str = "/out";

/// What a change of a folder's names is until the folder is synced.
#[derive(Clone)]
enum Change {
    Create(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

type Names = BTreeMap<PathBuf, String>;

fn carry_out(names: &mut Names, change: &Change) -> io::Result<()> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it is not there");
    match change {
        Change::Create(path) if names.contains_key(path) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there"));
        }
        Change::Create(path) => _ = names.insert(path.clone(), String::new()),
        Change::Rename(from, to) => {
            let bytes = names.remove(from).ok_or_else(gone)?;
            names.insert(to.clone(), bytes);
        }
        Change::Remove(path) => _ = names.remove(path).ok_or_else(gone)?,
    }
    Ok(())
}

/// Left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    Marks,
    Syncs,
}

/// A pre-commit, as it stands in parts.
#[derive(Clone, PartialEq, Eq)]
struct Cut {
    id: u64,
    to: PathBuf,
    value: Value,
}

/// A machine with one folder, and what is true of it, whatever anybody believes.
struct World {
    random: StdRng,
    left_out: LeftOut,
    failing: u32,
    live: Names,
    durable: Names,
    unsynced: Vec<Change>,
    dead: BTreeSet<u64>,
    /// Any other attempt is over, and can make no record.
    current: u64,
    highest_id: u64,
    files: u64,
    /// What the part of the newest record carries.
    record: Vec<Cut>,
    promised: Names,
    /// Some commit of it has come back well.
    done: BTreeSet<PathBuf>,
    taken: BTreeSet<PathBuf>,
    wrong: Vec<String>,
}

impl World {
    fn do_now(&mut self, change: Change) -> io::Result<()> {
        carry_out(&mut self.live, &change)?;
        if let Change::Rename(_, to) = &change {
            self.seen(to);
        }
        self.unsynced.push(change);
        Ok(())
    }

    fn seen(&mut self, to: &Path) {
        let shown = to.display();
        let said = match self.promised.get(to) {
            None => format!("{shown} is seen before a record names it"),
            Some(promised) if self.live.get(to) != Some(promised) => format!("{shown} holds something else"),
            Some(_) if self.taken.contains(to) => format!("{shown} is published a second time"),
            Some(_) => return,
        };
        self.wrong.push(said);
    }

    fn sync(&mut self) {
        self.durable = self.live.clone();
        self.unsynced.clear();
    }

    /// Of what was not synced each change may have survived or not. No process does.
    fn power_fails(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            if self.random.random_range(0..2) == 0 && carry_out(&mut self.durable, &change).is_ok() {
                tracing::trace!("it survives");
            }
        }
        self.live = self.durable.clone();
        let back: Vec<PathBuf> = self.taken.iter().filter(|to| self.live.contains_key(*to)).cloned().collect();
        for to in back {
            self.seen(&to);
        }
        self.dead.extend(0..=self.current);
    }

    /// A reader keeps what it has taken, and what it has taken away stays away.
    fn read(&mut self) {
        let ripe: Vec<PathBuf> = self.done.iter().filter(|to| self.live.contains_key(*to)).cloned().collect();
        for to in ripe {
            if self.random.random_range(0..2) == 0 {
                self.live.remove(&to);
                self.durable.remove(&to);
                self.taken.insert(to);
            }
        }
    }
}

#[derive(Clone)]
struct Machine(Arc<Mutex<World>>);

impl Machine {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes between two calls of a process.
type Between = Mutex<Option<(u64, Box<dyn FnOnce() + Send>)>>;

/// One process's way to the machine's file system.
struct SimDisk {
    machine: Machine,
    process: u64,
    between: Between,
}

impl SimDisk {
    /// One call: what comes before it, whether it fails, and what it does.
    fn call<T>(&self, does: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let due = {
            let mut between = self.between.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *between {
                Some((0, _)) => between.take(),
                Some((calls, _)) => {
                    *calls -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, happens)) = due {
            happens();
        }
        let mut world = self.machine.world();
        if world.dead.contains(&self.process) {
            return Err(io::Error::other("the process is dead"));
        }
        let failing = world.failing;
        if world.random.random_range(0..1000) < failing {
            return Err(io::Error::other("the disk is in trouble"));
        }
        does(&mut world)
    }
}

impl FileSystem for SimDisk {
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call(|world| Ok(world.live.contains_key(path)))
    }

    fn is_folder(&self, path: &Path) -> bool {
        path == Path::new(FOLDER)
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        self.call(|world| match world.left_out {
            LeftOut::Marks => Ok(()),
            LeftOut::Nothing | LeftOut::Syncs => world.do_now(Change::Create(path.to_path_buf())),
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|world| world.do_now(Change::Rename(from.to_path_buf(), to.to_path_buf())))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(|world| world.do_now(Change::Remove(path.to_path_buf())))
    }

    fn names(&self, _: &Path) -> io::Result<Vec<OsString>> {
        self.call(|world| Ok(world.live.keys().filter_map(|path| path.file_name()).map(OsString::from).collect()))
    }

    fn sync(&self, _: &Path) -> io::Result<()> {
        self.call(|world| {
            if world.left_out != LeftOut::Syncs {
                world.sync();
            }
            Ok(())
        })
    }
}

fn job() -> JobName {
    JobName { namespace: "default".to_string(), name: "job".to_string() }
}

/// One worker, which is a whole attempt.
struct Process {
    attempt: u64,
    writer: Writer,
    pending: Vec<Cut>,
    /// What is published, and the last checkpoint whose part carries it.
    published: Vec<(u64, Cut)>,
    /// Up to where it was told to commit.
    told: u64,
}

#[derive(Clone)]
struct Course {
    machine: Machine,
    runtime: Arc<Runtime>,
    /// The current attempt, and those that only seem to be dead.
    processes: Arc<Mutex<BTreeMap<u64, Process>>>,
}

impl Course {
    fn new(seed: u64, left_out: LeftOut, runtime: &Arc<Runtime>) -> Self {
        let world = World {
            random: StdRng::seed_from_u64(seed),
            left_out,
            failing: FAILING,
            live: Names::new(),
            durable: Names::new(),
            unsynced: Vec::new(),
            dead: BTreeSet::new(),
            current: 0,
            highest_id: 0,
            files: 0,
            record: Vec::new(),
            promised: Names::new(),
            done: BTreeSet::new(),
            taken: BTreeSet::new(),
            wrong: Vec::new(),
        };
        let machine = Machine(Arc::new(Mutex::new(world)));
        Self { machine, runtime: Arc::clone(runtime), processes: Arc::default() }
    }

    fn random(&self, below: u64) -> u64 {
        self.machine.world().random.random_range(0..below)
    }

    /// Works on a process that is there. Nobody else sees it meanwhile.
    fn with<T>(&self, attempt: u64, work: impl FnOnce(&mut Process) -> T) -> Option<T> {
        let taken = self.processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
        let mut process = taken?;
        let result = work(&mut process);
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt, process);
        Some(result)
    }

    fn committer(&self, attempt: u64, between: Option<(u64, Box<dyn FnOnce() + Send>)>) -> FileCommitter {
        FileCommitter {
            folder: PathBuf::from(FOLDER),
            owner: Owner::new(&job(), &run_of("u1"), "sink"),
            attempt: Attempt(attempt),
            disk: Arc::new(SimDisk { machine: self.machine.clone(), process: attempt, between: Mutex::new(between) }),
        }
    }

    /// The next attempt begins from the newest record: what is not named is cleaned away, what is named is published.
    fn begin(&self) {
        let (attempt, pending, restored) = {
            let mut world = self.machine.world();
            world.current += 1;
            (world.current, world.record.clone(), world.highest_id)
        };
        let context = SinkContext { attempt: Attempt(attempt), ..sink_context(&job(), &self.runtime) };
        let process = Process { attempt, writer: Writer::of(&context), pending, published: Vec::new(), told: restored };
        let keep: Vec<Value> = process.pending.iter().map(|cut| cut.value.clone()).collect();
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt, process);
        drop(self.runtime.block_on(self.committer(attempt, None).clean(&keep)));
        self.with(attempt, |process| self.commit(process, restored, None));
    }

    /// Files that are complete and durable, then the next checkpoint: its id, if it comes to a record.
    fn checkpoint(&self, process: &mut Process) -> Option<u64> {
        let mut world = self.machine.world();
        world.highest_id += 1;
        let id = world.highest_id;
        for _ in 0..world.random.random_range(0..3) {
            world.files += 1;
            let number = world.files;
            let pending = Pending {
                folder: PathBuf::from(FOLDER),
                unfinished: process.writer.unfinished(number, "csv"),
                published: process.writer.published(CheckpointId(id), number, "csv"),
            };
            let (from, to) = (pending.from(), pending.to());
            assert!(is_hidden(&pending.unfinished) && !is_hidden(&pending.published));
            for names in [true, false] {
                let names = if names { &mut world.live } else { &mut world.durable };
                names.insert(from.clone(), number.to_string());
            }
            process.pending.push(Cut { id, to, value: serde_json::to_value(pending).expect("it is JSON") });
        }
        if world.random.random_range(0..4) == 0 {
            // Its part may carry them, and no record names it.
            return None;
        }
        world.record.clone_from(&process.pending);
        for cut in &process.pending {
            let number = cut.to.to_string_lossy().rsplit(['-', '.']).nth(1).unwrap_or_default().to_string();
            world.promised.insert(cut.to.clone(), number);
        }
        Some(id)
    }

    /// What the part of this record does not carry any more.
    fn forget(&self, process: &mut Process, recorded: u64) {
        let forgotten = process.published.extract_if(.., |(carried, _)| *carried < recorded);
        let values: Vec<Value> = forgotten.map(|(_, cut)| cut.value).collect();
        self.runtime.block_on(self.committer(process.attempt, None).forget(&values));
    }

    /// All up to this record; what fails stays pending.
    fn commit(&self, process: &mut Process, recorded: u64, between: Option<(u64, Box<dyn FnOnce() + Send>)>) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut process.pending).into_iter().partition(|cut| cut.id <= recorded);
        process.pending = later;
        let values: Vec<Value> = due.iter().map(|cut| cut.value.clone()).collect();
        let committed = self.runtime.block_on(self.committer(process.attempt, between).commit(&values));
        let mut world = self.machine.world();
        match committed {
            Ok(()) => {
                world.done.extend(due.iter().map(|cut| cut.to.clone()));
                process.published.extend(due.into_iter().map(|cut| (recorded, cut)));
                return;
            }
            // One that is over may come late; nobody hears it.
            Err(error) if error.kind == FailureKind::OutputLost && world.current == process.attempt => {
                world.wrong.push(format!("what is promised is said to be lost: {error}"));
            }
            Err(_) => {}
        }
        process.pending.splice(0..0, due);
    }

    /// What may come between any two calls of a commit.
    fn happening(&self) -> Option<(u64, Box<dyn FnOnce() + Send>)> {
        let (calls, course) = (self.random(CALLS), self.clone());
        let happens: Box<dyn FnOnce() + Send> = match self.random(10) {
            0 => Box::new(move || {
                let mut world = course.machine.world();
                let current = world.current;
                world.dead.insert(current);
            }),
            1 => Box::new(move || course.machine.world().power_fails()),
            2 => Box::new(move || course.begin()),
            3 => Box::new(move || course.machine.world().read()),
            // Overtaken, and what was published meanwhile is gone again.
            4 | 5 => Box::new(move || {
                course.begin();
                course.machine.world().read();
            }),
            _ => return None,
        };
        Some((calls, happens))
    }

    /// The current attempt takes a checkpoint, or commits once more; or an older one that is not dead does what it was told.
    fn step(&self) {
        let current = self.machine.world().current;
        let alive = !self.machine.world().dead.contains(&current);
        if !alive || self.random(10) == 0 {
            return self.begin();
        }
        if self.random(4) == 0 {
            self.machine.world().read();
        }
        let older = current.saturating_sub(1 + self.random(2));
        if self.random(5) == 0 && !self.machine.world().dead.contains(&older) {
            self.with(older, |process| self.commit(process, process.told, None));
        }
        let between = self.happening();
        self.with(current, |process| {
            if let Some(recorded) = self.checkpoint(process) {
                process.told = recorded;
                self.forget(process, recorded);
                self.commit(process, recorded, between);
            }
        });
    }

    fn takes_its_course(&self) {
        self.begin();
        for _ in 0..STEPS {
            self.step();
        }
        // All is well from here on.
        self.machine.world().failing = 0;
        self.machine.world().power_fails();
        self.begin();
    }

    fn audit(&self) {
        let world = self.machine.world();
        assert_eq!(world.wrong, Vec::<String>::new());
        for (to, bytes) in &world.promised {
            let found = world.live.get(to) == Some(bytes) || world.taken.contains(to);
            assert!(found, "{} is lost", to.display());
        }
    }
}

fn runtime() -> Arc<Runtime> {
    Arc::new(tokio::runtime::Builder::new_current_thread().build().expect("a runtime"))
}

#[test]
fn no_file_is_lost_and_none_published_twice_whatever_the_disk_does() {
    let runtime = runtime();
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let run = |seed: u64| {
        let course = Course::new(seed, LeftOut::Nothing, &runtime);
        course.takes_its_course();
        course.audit();
        course.machine.world().promised.len()
    };
    if let Some(seed) = given("WEIR_SEED") {
        run(seed);
        return;
    }
    // A change is judged by the same courses every time; who asks for more gets others.
    let first = given("WEIR_SCHEDULES").map_or(0, |_| u64::from(std::process::id()) << 24);
    let count = given("WEIR_SCHEDULES").unwrap_or(SCHEDULES);
    let mut files = 0;
    for seed in first..first + count {
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed)));
        files += ran.unwrap_or_else(|_| panic!("WEIR_SEED={seed} replays it"));
    }
    assert!(files as u64 > 5 * count, "something is written: {files} files");
}

#[test]
fn a_committer_that_leaves_something_out_is_found_out() {
    let runtime = runtime();
    for (left_out, what) in [(LeftOut::Marks, "marks"), (LeftOut::Syncs, "syncs")] {
        let said: Vec<String> = (0..200)
            .flat_map(|seed| {
                let course = Course::new(seed, left_out, &runtime);
                course.takes_its_course();
                std::mem::take(&mut course.machine.world().wrong)
            })
            .collect();
        let found = said.iter().any(|wrong| wrong.contains("said to be lost") || wrong.contains("a second time"));
        assert!(found, "without its {what}: {said:?}");
    }
}
