//! The committer as it runs, against simulated storage that keeps the three promises of the protocol and nothing more: requests are
//! lost before and after they are done, land late, land twice, and one process is cut off while others are served. Attempts are
//! killed, or only seem to be dead and go on with what they were told; a reader takes away what it has read, as soon as it may: once some
//! commit of it has said that it is done. Whatever happens, each object that a record names is seen once, whole, and never before its
//! record. That it would be noticed is shown by a committer whose marks are never written.
//!
//! `WEIR_SCHEDULES` of these courses are tried at random; `WEIR_SEED` replays one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::executor::{LocalPool, LocalSpawner};
use futures::future::{AbortHandle, abortable};
use futures::task::LocalSpawnExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use serde_json::Value;
use tokio::runtime::Runtime;
use weir_engine::api::error::FailureKind;
use weir_engine::api::sink::{Committer, SinkContext};
use weir_protocol::{Attempt, JobName};
use weir_runtime::tasks::{self, Given};
use weir_storage::sim::{Change, Sim, Weather};

use super::bucket::{Bucket, Objects, Place};
use super::commit::ObjectCommitter;
use super::names::{Owner, PendingObject, Writer};
use super::paths::is_hidden;
use crate::testing::{run_of, sink_context};

/// `make model` asks for more.
const SCHEDULES: u64 = 1_000;
/// How long things go wrong, and how long they then go well, in milliseconds.
const ROUGH: u64 = 20_000;
const CALM: u64 = 20_000;
/// A reader takes away what was seen for so long. It is longer than any request is under way.
const READ_AFTER: u64 = 5_000;

/// A pre-commit, as it stands in parts.
#[derive(Clone)]
struct Cut {
    id: u64,
    key: String,
    mark: String,
    value: Value,
}

/// What is true, whatever anybody believes.
#[derive(Default)]
struct Truth {
    /// Any other attempt is over, and can make no record.
    current: u64,
    /// Of the newest checkpoint, complete or not.
    highest_id: u64,
    /// What the part of the newest record carries.
    record: Vec<Cut>,
    /// All that any record has named: what it holds.
    promised: BTreeMap<String, Bytes>,
    /// Since when it is seen.
    seen: BTreeMap<String, u64>,
    taken: BTreeMap<String, Bytes>,
    /// Some commit of it has come back well.
    done: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Truth {
    fn changed(&mut self, at: u64, change: &Change) {
        let Change::Put(key, bytes) = change else { return };
        if ObjectPath::from(key.as_str()).parts().any(|part| is_hidden(part.as_ref())) {
            return;
        }
        match self.promised.get(key) {
            None => self.wrong.push(format!("{key} is seen before a record names it")),
            Some(promised) if promised != bytes => self.wrong.push(format!("{key} holds something else")),
            Some(_) if self.taken.contains_key(key) => self.wrong.push(format!("{key} is published a second time")),
            Some(_) => _ = self.seen.entry(key.clone()).or_insert(at),
        }
    }
}

#[derive(Clone)]
struct Setting {
    sim: Sim,
    truth: Arc<Mutex<Truth>>,
    spawner: LocalSpawner,
}

impl Setting {
    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committer(&self, attempt: u64, client: u32) -> ObjectCommitter {
        // Multipart uploads are no business of a committer.
        let objects = Objects { store: Arc::new(self.sim.client(client)), uploads: Arc::new(InMemory::new()) };
        let place = Place { bucket: "data".to_string(), endpoint: None, region: None };
        ObjectCommitter {
            bucket: Bucket { place, objects, path: "out".into() },
            owner: Owner::new(&job(), &run_of("u1"), "sink"),
            attempt: Attempt(attempt),
        }
    }
}

fn job() -> JobName {
    JobName { namespace: "default".to_string(), name: "job".to_string() }
}

/// Another attempt has begun.
struct Over;

/// One worker, which is a whole attempt, up to where it finds out that it is over.
struct Worker {
    setting: Setting,
    committer: Arc<ObjectCommitter>,
    attempt: u64,
    writer: Writer,
    written: u64,
    pending: Vec<Cut>,
    /// What is published, and the last checkpoint whose part carries it.
    published: Vec<(u64, Cut)>,
}

impl Worker {
    async fn run(mut self) {
        let keep: Vec<Value> = self.pending.iter().map(|cut| cut.value.clone()).collect();
        drop(self.committer.clean(&keep).await);
        let restored = self.setting.truth().highest_id;
        self.commit(restored, 0).await;
        loop {
            for _ in 0..self.setting.sim.random(0..3) {
                self.write().await;
            }
            let Ok(id) = self.checkpoint() else { return };
            let tries = self.setting.sim.random(0..4);
            if let Some(recorded) = id {
                self.forget(recorded);
                self.commit(recorded, tries).await;
            }
            let pause = self.setting.sim.random(100..1_500);
            self.setting.sim.sleep(pause).await;
        }
    }

    /// As the sink does it: until it is there.
    async fn write(&mut self) {
        self.written += 1;
        let name = self.writer.object(self.written, "csv");
        let bucket = &self.committer.bucket;
        let pending = PendingObject {
            place: bucket.place.clone(),
            unfinished: self.writer.unfinished_objects(&bucket.path).join(name.as_str()),
            published: bucket.path.clone().join(name.as_str()),
        };
        let bytes = Bytes::from(name);
        while bucket.objects.store.put(&pending.unfinished, bytes.clone().into()).await.is_err() {
            self.setting.sim.sleep(50).await;
        }
        let (key, mark) = (pending.published.to_string(), pending.mark().expect("it is a key").to_string());
        let value = serde_json::to_value(pending).expect("it is JSON");
        self.pending.push(Cut { id: 0, key, mark, value });
    }

    /// The next checkpoint: its id, if it comes to a record.
    fn checkpoint(&mut self) -> Result<Option<u64>, Over> {
        let aborted = self.setting.sim.random(0..4) == 0;
        let mut truth = self.setting.truth();
        if truth.current != self.attempt {
            return Err(Over);
        }
        truth.highest_id += 1;
        let id = truth.highest_id;
        self.pending.iter_mut().filter(|cut| cut.id == 0).for_each(|cut| cut.id = id);
        if aborted {
            // Its part may carry them, and no record names it.
            return Ok(None);
        }
        truth.record = self.pending.clone();
        for Cut { key, .. } in &self.pending {
            let name = key.rsplit('/').next().unwrap_or_default().to_string();
            truth.promised.insert(key.clone(), Bytes::from(name));
        }
        Ok(Some(id))
    }

    /// What the part of this record does not carry any more.
    fn forget(&mut self, recorded: u64) {
        let forgotten = self.published.extract_if(.., |(carried, _)| *carried < recorded);
        let values: Vec<Value> = forgotten.map(|(_, cut)| cut.value).collect();
        let committer = Arc::clone(&self.committer);
        drop(self.setting.spawner.spawn_local(async move { committer.forget(&values).await }));
    }

    /// All up to this record; what fails stays pending.
    async fn commit(&mut self, recorded: u64, tries: u64) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|cut| cut.id != 0 && cut.id <= recorded);
        let values: Vec<Value> = due.iter().map(|cut| cut.value.clone()).collect();
        self.pending = later;
        for _ in 0..=tries {
            match self.committer.commit(&values).await {
                Ok(()) => {
                    self.setting.truth().done.extend(due.iter().map(|cut| cut.key.clone()));
                    self.published.extend(due.into_iter().map(|cut| (recorded, cut)));
                    return;
                }
                Err(error) if error.kind == FailureKind::OutputLost => {
                    let mut truth = self.setting.truth();
                    // One that is over may come late; nobody hears it.
                    if truth.current == self.attempt {
                        truth.wrong.push(format!("what is promised is said to be lost: {error}"));
                    }
                    break;
                }
                Err(_) => self.setting.sim.sleep(200).await,
            }
        }
        self.pending.splice(0..0, due);
    }
}

/// Takes away what was seen for long enough.
async fn read(setting: Setting) {
    loop {
        setting.sim.sleep(500).await;
        let (now, objects) = (setting.sim.now(), setting.sim.objects());
        let ripe: Vec<String> = {
            let truth = setting.truth();
            // A commit that a crash has left between copy and mark copies once more; one that is done never does.
            let settled = |key: &String| {
                let mut named = truth.record.iter().filter(|cut| cut.key == *key);
                truth.done.contains(key) || named.all(|cut| objects.contains_key(&cut.mark))
            };
            let seen = truth.seen.iter().filter(|(key, since)| **since + READ_AFTER < now && settled(key));
            seen.map(|(key, _)| key.clone()).filter(|key| !truth.taken.contains_key(key)).collect()
        };
        for key in ripe {
            if setting.sim.random(0..2) == 0 {
                continue;
            }
            let store = setting.sim.client(u32::MAX);
            let path = ObjectPath::from(key.as_str());
            let Ok(found) = store.get(&path).await else { continue };
            let Ok(bytes) = found.bytes().await else { continue };
            setting.truth().taken.insert(key, bytes);
            while store.delete(&path).await.is_err() {
                setting.sim.sleep(100).await;
            }
        }
    }
}

struct Schedule {
    setting: Setting,
    pool: LocalPool,
    workers: Vec<AbortHandle>,
    runtime: Arc<Runtime>,
    /// What the committer detaches runs in simulated time too.
    _detached: Given,
}

impl Schedule {
    fn new(seed: u64, runtime: Arc<Runtime>) -> Self {
        let (sim, pool) = (Sim::new(seed, Weather::ROUGH), LocalPool::new());
        let truth = Arc::<Mutex<Truth>>::default();
        let told = Arc::clone(&truth);
        sim.observe(move |at, change| told.lock().unwrap_or_else(PoisonError::into_inner).changed(at, change));
        let setting = Setting { sim, truth, spawner: pool.spawner() };
        setting.spawner.spawn_local(read(setting.clone())).expect("the pool takes it");
        let spawner = pool.spawner();
        let detached = tasks::given_to(Rc::new(move |work| drop(spawner.spawn_local(work))));
        Self { setting, pool, workers: Vec::new(), runtime, _detached: detached }
    }

    /// The next attempt begins from the newest record.
    fn begin(&mut self) {
        let attempt = self.workers.len() as u64 + 1;
        let pending = {
            let mut truth = self.setting.truth();
            truth.current = attempt;
            truth.record.clone()
        };
        let context = SinkContext { attempt: Attempt(attempt), ..sink_context(&job(), &self.runtime) };
        let worker = Worker {
            committer: Arc::new(self.setting.committer(attempt, attempt as u32)),
            setting: self.setting.clone(),
            attempt,
            writer: Writer::of(&context),
            written: 0,
            pending,
            published: Vec::new(),
        };
        let (running, stop) = abortable(worker.run());
        self.setting.spawner.spawn_local(async move { _ = running.await }).expect("the pool takes it");
        self.workers.push(stop);
    }

    /// An attempt ends, dead or not, or only storage is bad.
    fn blow(&mut self) {
        let last = self.workers.len() as u32;
        match self.setting.sim.random(0..4) {
            0 => {
                self.workers.iter().for_each(AbortHandle::abort);
                self.begin();
            }
            1 => self.begin(),
            2 => {
                let sim = self.setting.sim.clone();
                sim.cut_off(last);
                let back = async move {
                    sim.sleep(2_000).await;
                    sim.let_in(last);
                };
                self.setting.spawner.spawn_local(back).expect("the pool takes it");
                self.begin();
            }
            _ => {}
        }
    }

    fn run(mut self) {
        self.takes_its_course();
        self.audit();
    }

    fn takes_its_course(&mut self) {
        self.begin();
        let mut until = 0;
        while until < ROUGH {
            until += self.setting.sim.random(200..4_000);
            self.setting.sim.run(&mut self.pool, until);
            self.blow();
        }
        self.setting.sim.turn(Weather::CALM);
        self.workers.iter().for_each(AbortHandle::abort);
        self.begin();
        let calm = self.setting.sim.now().max(until);
        self.setting.sim.run(&mut self.pool, calm + CALM);
        self.workers.iter().for_each(AbortHandle::abort);
        self.setting.sim.run(&mut self.pool, calm + 2 * CALM);
    }

    fn audit(&self) {
        let objects = self.setting.sim.objects();
        let truth = self.setting.truth();
        assert_eq!(truth.wrong, Vec::<String>::new());
        let pending = |key: &String| truth.record.iter().any(|cut| cut.key == *key);
        for (key, bytes) in truth.promised.iter().filter(|(key, _)| !pending(key)) {
            let found = truth.taken.get(key).or_else(|| objects.get(key));
            assert_eq!(found, Some(bytes), "{key} is lost");
        }
        assert!(truth.promised.len() > 5, "something is written");
    }
}

#[test]
fn nothing_is_lost_and_nothing_published_twice_whatever_storage_does() {
    // Sinks are told of one, and nothing here asks anything of it.
    let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().build().unwrap());
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = given("WEIR_SEED") {
        return Schedule::new(seed, runtime).run();
    }
    // A change is judged by the same courses every time; who asks for more gets others.
    let first = given("WEIR_SCHEDULES").map_or(0, |_| u64::from(std::process::id()) << 24);
    for seed in first..first + given("WEIR_SCHEDULES").unwrap_or(SCHEDULES) {
        let runtime = Arc::clone(&runtime);
        let run = std::panic::catch_unwind(AssertUnwindSafe(move || Schedule::new(seed, runtime).run()));
        assert!(run.is_ok(), "WEIR_SEED={seed} replays it");
    }
}

#[test]
fn a_committer_that_leaves_no_marks_is_found_out() {
    let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().build().unwrap());
    let said: Vec<String> = (0..50)
        .flat_map(|seed| {
            let mut schedule = Schedule::new(seed, Arc::clone(&runtime));
            schedule.setting.sim.swallow(|path| path.rsplit('.').next() == Some("done"));
            schedule.takes_its_course();
            std::mem::take(&mut schedule.setting.truth().wrong)
        })
        .collect();
    assert!(said.iter().any(|wrong| wrong.contains("is said to be lost")), "{said:?}");
}
