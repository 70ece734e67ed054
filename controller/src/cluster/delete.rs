//! The end of a job that is deleted. A finalizer holds the resource for what has to be done in order: the workers stop, with a
//! last checkpoint where checkpoints stay; then, with `Retain`, the storage is left to whoever is applied next under this name,
//! and with `Delete` the prefix is emptied. All of it within a bounded time: storage that is gone must not keep a resource, or a
//! namespace, from going.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, TryStreamExt, future};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};
use weir_crds::StreamJob;
use weir_protocol::{
    paths::{self, Object},
    record::{Slot, encode},
};
use weir_runtime::{clock, tasks};
use weir_storage::JobStore;

use super::{identity::Identity, names};
use crate::{
    effects::{TakeOver, chain, read_facts, take_over},
    takeover::{Facts, Request, is_anothers, last_seal},
    time::Millis,
};

/// So long after the deletion was asked for storage is tried; then what is left is left.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// One call, or some that belong together.
const TRY: Duration = Duration::from_secs(20);
/// Storage in which nothing of a job is known to be is asked once, and so long at most.
const GLANCE: Duration = Duration::from_secs(3);
/// Objects removed at once.
const AT_ONCE: usize = 64;
/// Prefixes that are emptied at once. Each takes a page of names and [`AT_ONCE`] requests.
const PREFIXES: usize = 16;
/// After this a prefix that is not empty yet makes room for the next: storage that answers slowly holds up nobody for longer.
const TURN: Duration = Duration::from_secs(30);
/// So long a prefix is being emptied, if storage answers; that is time for millions of objects. Then what is left is left.
pub const BUDGET: Duration = Duration::from_hours(1);
/// Tries to seal before a deletion is begun anew: a record may come to stand in between, or two.
const SEAL_STEPS: usize = 4;

/// What to do about the storage of a deleted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Workers or the supervisor are still there.
    Wait,
    /// Leave the storage, or empty it.
    Storage,
    /// Let the resource go.
    Release,
}

/// Decides what is next.
pub fn decide(finalized: bool, supervised: bool, pods: usize, deleted: &Time, now: Timestamp) -> Step {
    if !finalized {
        return Step::Release;
    }
    let patient = !out_of_time(deleted, now);
    if (supervised || pods > 0) && patient { Step::Wait } else { Step::Storage }
}

/// The patience with a deletion is over.
pub fn out_of_time(deleted: &Time, now: Timestamp) -> bool {
    let since = now.duration_since(deleted.0);
    since.as_secs() >= PATIENCE.as_secs() as i64
}

/// Whose prefixes are being emptied; all others wait, and are served in the order of their asking.
#[derive(Clone)]
pub struct Turns {
    free: Arc<Semaphore>,
    length: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(PREFIXES)), length: TURN }
    }
}

/// What becomes of a deleted job's storage. That takes the time that it takes, so no look at a job waits for it.
#[derive(Default)]
pub enum Leaving {
    /// Nobody sees to it.
    #[default]
    Idle,
    /// A task does.
    Busy(Task),
    /// It is left, or emptied: the resource may go.
    Left,
}

/// Ends with what holds it.
pub struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Leaving {
    /// Has it seen to, unless it is. To be called where nobody else can, so that the task's own word comes after this one.
    pub fn begin(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if matches!(self, Self::Idle) {
            *self = Self::Busy(Task(tasks::spawn(work).abort_handle()));
        }
    }
}

/// Whether storage answers, within moments.
pub async fn answers(store: &JobStore) -> Result<(), String> {
    match tokio::time::timeout(GLANCE, read_facts(store)).await {
        Ok(facts) => facts.map(drop).map_err(|error| chain(&error)),
        Err(_) => Err(format!("storage does not answer within {} s", GLANCE.as_secs())),
    }
}

/// Removes everything below the job's prefix, in turns with others, while storage answers and there is time.
pub async fn remove(store: &JobStore, request: &Request, turns: &Turns, time: Duration) -> Result<Removed, String> {
    let facts = timely(read_facts(store)).await?.map_err(|error| chain(&error))?;
    if facts.newest_opening().is_some_and(|opened| is_anothers(request, opened)) {
        return Ok(Removed::Anothers);
    }
    let seal = seal(store, request, facts).await?;
    let all = tokio::time::timeout(time, remove_all(store, turns, seal.as_deref())).await;
    all.unwrap_or_else(|_| Err(format!("storage is too slow to be emptied within {} min", BUDGET.as_secs() / 60)))
        .map(Removed::Objects)
}

/// Ends the newest term: what its coordinator still has on its way must not come to stand in what is being emptied. The path of
/// the seal.
async fn seal(store: &JobStore, request: &Request, mut facts: Facts) -> Result<Option<String>, String> {
    for _ in 0..SEAL_STEPS {
        let Some(seal) = last_seal(&facts, request, now()) else { return Ok(facts.last_slot()) };
        let path = paths::slot(seal.term, seal.number);
        // Whatever the answer is, what stands there then says more.
        if let Err(error) = timely(store.create_once(&path, encode(&Slot::Seal(seal)).into())).await? {
            tracing::debug!(error = chain(&error), "a seal may not stand");
        }
        facts = timely(read_facts(store)).await?.map_err(|error| chain(&error))?;
    }
    Err("its last term could not be sealed".to_string())
}

/// What storage answers, in bounded time.
async fn timely<T>(answer: impl Future<Output = T>) -> Result<T, String> {
    let answered = tokio::time::timeout(TRY, answer).await;
    answered.map_err(|_| format!("storage does not answer within {} s", TRY.as_secs()))
}

/// What was removed of a job's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// So many objects: all.
    Objects(usize),
    /// Nothing: another job's checkpoints are there.
    Anothers,
}

async fn remove_all(store: &JobStore, turns: &Turns, seal: Option<&str>) -> Result<usize, String> {
    let mut count = 0;
    for (group, folder) in [
        (Group::Slots, paths::TERMS),
        (Group::Others, ""),
        (Group::LastSeal, paths::TERMS),
        (Group::Openings, paths::TERMS),
    ] {
        let goes = |path: &str| Group::of(path, seal) == group;
        loop {
            let _turn = turns.free.acquire().await.map_err(|error| error.to_string())?;
            let until = Instant::now() + turns.length;
            let (removed, all) = remove_until(store, folder, goes, until).await?;
            count += removed;
            if all {
                break;
            }
        }
    }
    Ok(count)
}

/// When an object goes. All of one group are gone before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// Records first, so that a deletion that stops half-way leaves no checkpoint that names what is gone.
    Slots,
    /// All that records name, and what nothing names.
    Others,
    /// As long as it stands, no record that is on its way comes to stand in its place.
    LastSeal,
    /// Last, so that no slot is there without an opening.
    Openings,
}

impl Group {
    fn of(path: &str, seal: Option<&str>) -> Self {
        match paths::parse(path) {
            Some(Object::Opening(_)) => Self::Openings,
            Some(Object::Slot(..)) if Some(path) == seal => Self::LastSeal,
            Some(Object::Slot(..)) => Self::Slots,
            _ => Self::Others,
        }
    }
}

/// Removes what goes below a folder until then. How many objects it were, and whether it were all.
async fn remove_until(
    store: &JobStore,
    folder: &str,
    goes: impl Fn(&str) -> bool,
    until: Instant,
) -> Result<(usize, bool), String> {
    let (mut removed, mut all) = (0, true);
    let mut removals = store
        .listing(folder)
        .map_err(|error| chain(&error))
        .take_while(|_| {
            all = Instant::now() < until;
            future::ready(all)
        })
        .try_filter(|stored| future::ready(goes(&stored.path)))
        .map_ok(|stored| async move { timely(store.delete(&stored.path)).await?.map_err(|error| chain(&error)) })
        .try_buffer_unordered(AT_ONCE);
    while let Some(()) = timely(removals.try_next()).await?? {
        removed += 1;
    }
    drop(removals);
    Ok((removed, all))
}

/// Leaves the storage to whoever comes next under the job's name: the newest opening names no owner any more.
pub async fn release(store: &JobStore, request: Request) -> Result<(), String> {
    let released = async {
        let facts = read_facts(store).await.map_err(|error| chain(&error))?;
        if facts.terms.is_empty() {
            return Ok(());
        }
        let request = Request { resume: true, release: true, ..request };
        match take_over(store, &request, now).await {
            // What is another's is not let go of here.
            TakeOver::Opened(_) | TakeOver::Refused(_) | TakeOver::Lost(_) => Ok(()),
            TakeOver::Failed(reason) => Err(reason),
        }
    };
    timely(released).await?
}

fn now() -> Millis {
    let since = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or_default())
}

/// Adds or takes away the finalizer. It has a field manager of its own, so that nothing else of the resource is touched.
pub async fn finalize(client: &Client, identity: &Identity, hold: bool) -> Result<(), kube::Error> {
    let api: Api<StreamJob> = Api::namespaced(client.clone(), &identity.namespace);
    let finalizers: &[&str] = if hold { &[names::FINALIZER] } else { &[] };
    let patch = json!({
        "apiVersion": StreamJob::api_version(&()),
        "kind": StreamJob::kind(&()),
        "metadata": {"name": identity.name, "uid": identity.uid, "finalizers": finalizers},
    });
    let params = PatchParams::apply(names::FINALIZER_MANAGER).force();
    // Only the metadata comes back: a job that cannot be understood can still be let go of.
    match api.patch_metadata(&identity.name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        // It is gone, or another of this name is there.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes worker pods that nobody looks after.
pub async fn remove_pods(client: &Client, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
    for pod in pods {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let name = pod.metadata.name.clone().unwrap_or_default();
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use weir_protocol::{RecordNumber, Term};

    use super::*;

    #[test]
    fn a_deletion_waits_for_workers_and_never_for_ever() {
        let deleted = Time(Timestamp::from_second(1_800_000_000).unwrap());
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        for (finalized, supervised, pods, seconds, expected) in [
            (false, true, 2, 0, Step::Release),
            (true, true, 2, 1, Step::Wait),
            (true, false, 1, 1, Step::Wait),
            (true, false, 0, 1, Step::Storage),
            (true, true, 2, 61, Step::Storage),
        ] {
            assert_eq!(decide(finalized, supervised, pods, &deleted, at(seconds)), expected);
        }
        assert!(!out_of_time(&deleted, at(59)));
        assert!(out_of_time(&deleted, at(60)));
    }

    #[tokio::test]
    async fn the_prefix_of_one_job_is_emptied_and_no_other() {
        let store = std::sync::Arc::new(weir_storage_memory());
        let mine = JobStore::with_object_store(store.clone(), "air/flights");
        let other = JobStore::with_object_store(store, "air/flights-2");
        for path in ["terms/0000000001/opening", "state/000001-w/1"] {
            mine.create(path, "x".into()).await.unwrap();
            other.create(path, "x".into()).await.unwrap();
        }
        // With the seal that ends its term first.
        assert_eq!(remove(&mine, &request("mine"), &Turns::default(), BUDGET).await.unwrap(), Removed::Objects(3));
        assert!(mine.list("").await.unwrap().is_empty());
        assert_eq!(other.list("").await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_another_owns_is_not_removed() {
        let store = JobStore::with_object_store(std::sync::Arc::new(weir_storage_memory()), "air/flights");
        assert!(matches!(take_over(&store, &request("theirs"), now).await, TakeOver::Opened(_)));
        assert_eq!(remove(&store, &request("mine"), &Turns::default(), BUDGET).await, Ok(Removed::Anothers));
        assert_eq!(store.list("").await.unwrap().len(), 1);
        assert_eq!(remove(&store, &request("theirs"), &Turns::default(), BUDGET).await, Ok(Removed::Objects(2)));
    }

    /// Storage that answers each removal after so long.
    async fn tarpit(objects: usize, after: Duration) -> JobStore {
        let store = std::sync::Arc::new(weir_storage_memory());
        let fill = JobStore::with_object_store(store.clone(), "air/flights");
        for i in 0..objects {
            fill.create(&format!("state/000001-w/{i}"), "x".into()).await.unwrap();
        }
        let config = ThrottleConfig { wait_delete_per_call: after, ..ThrottleConfig::default() };
        JobStore::with_object_store(std::sync::Arc::new(ThrottledStore::new(store, config)), "air/flights")
    }

    #[tokio::test]
    async fn sixteen_jobs_whose_storage_removes_slowly_hold_nobody_up() {
        // As in earnest, a thousand times faster: each would take far more than its turn, and all of them have one.
        let turns = Turns { length: Duration::from_millis(30), ..Turns::default() };
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..PREFIXES {
            let (store, turns) = (tarpit(2_000, Duration::from_millis(200)).await, turns.clone());
            slow.spawn(async move { remove(&store, &request("mine"), &turns, BUDGET).await });
        }
        while turns.free.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let quick = tarpit(100, Duration::ZERO).await;
        assert_eq!(remove(&quick, &request("mine"), &turns, BUDGET).await, Ok(Removed::Objects(100)));
        assert!(slow.try_join_next().is_none(), "it waited for none of them to be done");
    }

    #[tokio::test]
    async fn storage_that_is_slow_is_emptied_in_turns_and_left_when_its_time_is_over() {
        let turns = Turns { length: Duration::from_millis(10), ..Turns::default() };
        let slow = tarpit(1000, Duration::from_millis(10)).await;
        assert_eq!(remove(&slow, &request("mine"), &turns, BUDGET).await, Ok(Removed::Objects(1000)));
        let never = tarpit(1000, Duration::from_hours(1)).await;
        let left = remove(&never, &request("mine"), &turns, Duration::from_millis(50)).await;
        assert_eq!(left, Err("storage is too slow to be emptied within 60 min".to_string()));
    }

    #[tokio::test]
    async fn leaving_storage_is_begun_once_and_ends_with_the_job() {
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let mut leaving = Leaving::default();
        for _ in 0..2 {
            let begun = begun.clone();
            leaving.begin(async move {
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
            });
        }
        drop(begun);
        assert_eq!(begins.recv().await, Some(()));
        drop(leaving);
        assert_eq!(begins.recv().await, None, "one task, which is gone");
    }

    #[test]
    fn records_go_first_and_openings_last_with_the_last_seal_before_them() {
        let worker = weir_protocol::WorkerId("w".to_string());
        let slot = |term, number| paths::slot(Term(term), RecordNumber(number));
        let part = paths::part(weir_protocol::CheckpointId(1), weir_protocol::Attempt(1), &worker);
        let seal = slot(2, 2);
        let opening = paths::opening(Term(2));
        let mut all =
            [opening.clone(), seal.clone(), part.clone(), paths::START.to_string(), slot(1, 1), slot(1, 2), slot(2, 1)];
        all.sort_by_key(|path| Group::of(path, Some(&seal)));
        assert_eq!(all, [slot(1, 1), slot(1, 2), slot(2, 1), part, paths::START.to_string(), seal, opening]);
    }

    #[tokio::test]
    async fn a_record_that_is_on_its_way_finds_its_place_taken_while_anything_stands() {
        let store = JobStore::with_object_store(std::sync::Arc::new(weir_storage_memory()), "air/flights");
        assert!(matches!(take_over(&store, &request("mine"), now).await, TakeOver::Opened(_)));
        let facts = read_facts(&store).await.unwrap();
        seal(&store, &request("mine"), facts).await.unwrap();
        let late = store.create_once(&paths::slot(Term(1), RecordNumber(1)), "a record".into()).await.unwrap();
        assert!(matches!(late, weir_storage::Created::Taken(_)), "{late:?}");
    }

    fn request(owner: &str) -> Request {
        Request {
            job: weir_protocol::JobName { namespace: "air".to_string(), name: "flights".to_string() },
            coordinator: "here".to_string(),
            owner: owner.to_string(),
            cluster: "cluster".to_string(),
            adopt: false,
            accept_lost_output: false,
            resume: false,
            release: false,
            restore: crate::takeover::Restore::Latest,
            wish: None,
            after: None,
            workers: 1,
            slots: 1,
            max_parallelism: 128,
            fingerprint: String::new(),
            retain: 3,
            format: weir_protocol::stored::FORMAT,
        }
    }

    fn weir_storage_memory() -> object_store::memory::InMemory {
        object_store::memory::InMemory::new()
    }
}
