//! Savepoints of a job that is no more than its objects: whatever fails, no record names what is not there.

use std::sync::Arc;

use object_store::{ObjectStore, memory::InMemory};
use serde_json::json;
use weir_protocol::{
    Attempt, CheckpointId, JobName, RecordNumber, SubtaskIndex, Term, WorkerId,
    part::{FileRef, Item, ItemKind, KeyedSnapshot, OperatorPart, PART_VERSION, Part, SubtaskPart},
    paths,
    record::{PartRef, RECORD_VERSION, Record, Restores, Slot, encode},
    savepoint::{Output, Savepoint},
};
use weir_storage::{
    JobStore,
    fault::{Fault, FaultStore},
};

use super::{
    SavepointError, complete, part,
    take::{Order, take},
    wanted,
};
use crate::{
    effects::{TakeOver, read_facts, take_over},
    takeover::{Opened, Refusal, Request, Restore},
    time::Millis,
};

const ALONE: Order<'static> = Order { by: "somebody", waits: None };

fn request(name: &str, coordinator: &str, restore: Restore) -> Request {
    Request {
        job: JobName { namespace: "n".into(), name: name.into() },
        coordinator: coordinator.into(),
        owner: name.into(),
        cluster: "local".into(),
        adopt: false,
        resume: false,
        release: false,
        restore,
        wish: None,
        after: None,
        accept_lost_output: false,
        workers: 1,
        slots: 1,
        max_parallelism: 128,
        fingerprint: "f".into(),
        retain: 3,
        format: RECORD_VERSION,
    }
}

async fn open(store: &JobStore, name: &str, coordinator: &str, restore: Restore) -> TakeOver {
    take_over(store, &request(name, coordinator, restore), || Millis(7)).await
}

fn opened(answer: TakeOver) -> Opened {
    match answer {
        TakeOver::Opened(opened) => *opened,
        other => panic!("{other:?}"),
    }
}

/// A checkpoint of the term, with two files in one object and one in another, a split, and so many pending commits.
async fn checkpoint(store: &JobStore, opened: &Opened, id: u64, commits: &[u64]) -> Record {
    let (worker, attempt) = (WorkerId::generate(), opened.opening.attempt);
    let mut files = Vec::new();
    for (n, bytes) in [(1, b"aaabbbb".as_slice()), (2, b"cc".as_slice())] {
        let path = paths::state_file(attempt, &worker, n);
        store.create(&path, bytes.to_vec().into()).await.unwrap();
        let ranges = if n == 1 { vec![(0, 3), (3, 7)] } else { vec![(0, 2)] };
        files.extend(ranges.into_iter().map(|(from, to)| FileRef {
            name: format!("{n}-{from}.sst"),
            path: path.clone(),
            offset: from as u64,
            length: (to - from) as u64,
            crc32c: crc32c::crc32c(&bytes[from..to]),
            inline: None,
        }));
    }
    let item = |kind, value| Item { kind, value };
    let mut items = vec![item(ItemKind::Split, json!("split"))];
    items.extend(commits.iter().map(|cut| item(ItemKind::Commit, json!({"checkpoint": cut, "value": "a file"}))));
    let content = Part {
        version: PART_VERSION,
        id: CheckpointId(id),
        attempt,
        worker: worker.clone(),
        script: String::new(),
        keepers: Vec::new(),
        subtasks: vec![SubtaskPart {
            stage: "s".into(),
            subtask: SubtaskIndex(0),
            finished: false,
            watermark_ms: None,
            keyed: Some(KeyedSnapshot {
                backend: "rocksdb".into(),
                key_group_start: 0,
                key_group_end: 128,
                key_group_watermarks: Vec::new(),
                files,
            }),
            operators: vec![OperatorPart { items, ..OperatorPart::new("o") }],
            channel_state: Vec::new(),
        }],
    };
    let (bytes, path) = (encode(&content), paths::part(CheckpointId(id), attempt, &worker));
    let named = PartRef { worker, path, length: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes), inline: None };
    store.create(&named.path, bytes.into()).await.unwrap();
    let facts = read_facts(store).await.unwrap();
    let own = facts.records().filter(|record| record.term == opened.opening.term).count() as u64;
    let record = Record {
        version: RECORD_VERSION,
        id: CheckpointId(id),
        term: opened.opening.term,
        number: RecordNumber(own + 1),
        attempt,
        job: opened.opening.job.clone(),
        is_final: false,
        parallelism: 1,
        max_parallelism: 128,
        fingerprint: "f".into(),
        parts: vec![named],
        completed_at_ms: 5,
        duration_ms: 1,
        state_bytes: 9,
        uploaded_bytes: 9,
    };
    store.create(&record.reference().path(), encode(&Slot::Record(record.clone())).into()).await.unwrap();
    record
}

/// All bytes of state that a record names, and its pending commits, read as a worker reads them.
async fn read_back(store: &JobStore, record: &Record) -> (Vec<u8>, usize) {
    let (mut bytes, mut commits) = (Vec::new(), 0);
    for named in &record.parts {
        let content = part(store, named).await.unwrap();
        assert_eq!((content.id, content.attempt), (record.id, record.attempt));
        for subtask in &content.subtasks {
            for file in &subtask.keyed.as_ref().unwrap().files {
                let piece = store.get_range(&file.path, file.offset..file.offset + file.length).await.unwrap();
                assert_eq!(crc32c::crc32c(&piece), file.crc32c, "{}", file.path);
                bytes.extend_from_slice(&piece);
            }
            let items = subtask.operators.iter().flat_map(|operator| &operator.items);
            commits += items.filter(|item| item.kind == ItemKind::Commit).count();
        }
    }
    (bytes, commits)
}

/// Jobs and places in one store.
struct World(Arc<dyn ObjectStore>);

impl World {
    fn new() -> Self {
        Self(Arc::new(InMemory::new()))
    }

    fn job(&self, name: &str) -> JobStore {
        JobStore::with_object_store(Arc::clone(&self.0), &format!("jobs/n/{name}"))
    }

    /// A job with a checkpoint that has promised something.
    async fn with_job() -> Self {
        let world = Self::new();
        let store = world.job("first");
        let term = opened(open(&store, "first", "c1", Restore::Latest).await);
        checkpoint(&store, &term, 1, &[1]).await;
        world
    }
}

const PLACE: &str = "memory://kept/one";

async fn savepoint(world: &World) -> Savepoint {
    let store = world.job("first");
    take(&store, &store.beside(PLACE, true).unwrap(), ALONE).await.unwrap()
}

async fn restore(store: &JobStore) -> Restore {
    Restore::Savepoint(Arc::new(wanted(store, PLACE).await.unwrap()))
}

#[tokio::test]
async fn a_savepoint_begins_another_job_when_nothing_of_the_first_is_left_and_promises_nothing() {
    let world = World::with_job().await;
    let taken = savepoint(&world).await;
    assert_eq!((taken.output, taken.objects.len(), taken.parts.len()), (Output::Unknown, 2, 1));
    let first = world.job("first");
    for object in first.list("").await.unwrap() {
        first.delete(&object.path).await.unwrap();
    }
    let second = world.job("second");
    let wish = restore(&second).await;
    let term = opened(open(&second, "second", "c2", wish).await);
    let record = term.restored.unwrap();
    assert_eq!(read_back(&second, &record).await, (b"aaabbbbcc".to_vec(), 0));
    assert_eq!((term.opening.commits, &record.job), (None, &request("second", "", Restore::Latest).job));
    // The savepoint may go: nothing names it any more.
    let place = second.beside(PLACE, false).unwrap();
    for object in place.list("").await.unwrap() {
        place.delete(&object.path).await.unwrap();
    }
    let next = opened(open(&second, "second", "c3", Restore::Latest).await);
    assert_eq!(next.opening.restores, Restores::Record(record.reference()));
    assert_eq!(read_back(&second, &record).await.0, b"aaabbbbcc");
}

#[tokio::test]
async fn in_the_same_job_what_the_newest_checkpoint_has_promised_is_published_first() {
    let world = World::with_job().await;
    savepoint(&world).await;
    let store = world.job("first");
    let term = opened(open(&store, "first", "c2", Restore::Latest).await);
    let newer = checkpoint(&store, &term, 8, &[8]).await;
    let wish = restore(&store).await;
    let term = opened(open(&store, "first", "c3", wish).await);
    assert_eq!(term.opening.commits, Some(newer.reference()));
    assert_eq!(read_back(&store, &term.restored.unwrap()).await, (b"aaabbbbcc".to_vec(), 0));
}

#[tokio::test]
async fn of_a_running_job_it_says_published_once_a_later_checkpoint_names_it_no_more() {
    let world = World::new();
    let store = world.job("first");
    let term = opened(open(&store, "first", "c1", Restore::Latest).await);
    checkpoint(&store, &term, 1, &[1]).await;
    let place = store.beside(PLACE, true).unwrap();
    let waits = Order { by: "somebody", waits: Some(std::time::Duration::from_mins(1)) };
    let takes = take(&store, &place, waits);
    let runs = async {
        // One that waits for its commit, and one that does not any more.
        checkpoint(&store, &term, 2, &[1, 2]).await;
        tokio::time::sleep(super::take::LOOK * 2).await;
        assert!(matches!(complete(&place).await, Err(SavepointError::Incomplete { .. })));
        checkpoint(&store, &term, 3, &[3]).await;
    };
    let (taken, ()) = tokio::join!(takes, runs);
    let taken = taken.unwrap();
    assert_eq!((taken.output, taken.checkpoint.id), (Output::Published, CheckpointId(1)));
    // One that promises nothing needs no other.
    checkpoint(&store, &term, 4, &[]).await;
    let place = store.beside("memory://kept/two", true).unwrap();
    assert_eq!(take(&store, &place, ALONE).await.unwrap().output, Output::Published);
}

#[tokio::test]
async fn a_place_where_something_is_is_refused_and_left_as_it_is() {
    let world = World::with_job().await;
    savepoint(&world).await;
    let store = world.job("first");
    for (location, found) in [(PLACE, "a savepoint is there"), ("memory://jobs/n/first", "is there")] {
        let place = store.beside(location, true).unwrap();
        let before = place.list("").await.unwrap();
        let error = take(&store, &place, ALONE).await.unwrap_err().to_string();
        assert!(error.contains("is not empty") && error.contains(found), "{error}");
        assert_eq!(place.list("").await.unwrap(), before);
    }
}

#[tokio::test]
async fn of_two_at_once_in_one_place_one_is_refused() {
    let world = World::with_job().await;
    let store = world.job("first");
    let place = store.beside(PLACE, true).unwrap();
    let other = Order { by: "somebody else", waits: None };
    let (one, two) = tokio::join!(take(&store, &place, ALONE), take(&store, &place, other));
    let (done, refused) = if one.is_ok() { (one, two) } else { (two, one) };
    done.unwrap();
    assert!(matches!(refused, Err(SavepointError::NotEmpty { .. })), "{refused:?}");
    complete(&place).await.unwrap();
}

/// What is wrong with it, and whether that is seen before anything is touched.
#[tokio::test]
async fn what_is_no_whole_savepoint_is_refused_with_what_is_wrong() {
    let world = World::with_job().await;
    let second = world.job("second");
    let no_place = wanted(&second, "memory://nowhere").await.unwrap_err().to_string();
    assert!(no_place.contains("holds no savepoint"), "{no_place}");
    let later = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace("\"version\": 1", "\"version\": 2");
    let outside =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace("state/00000000", "state/../../jobs");
    for (what, path, said) in [
        ("gone", "state/00000001", "is missing"),
        ("cut", "state/00000000", "has 1 bytes instead of 7"),
        ("gone", "parts/000000", "is missing"),
        ("gone", paths::SAVEPOINT, "has not ended it"),
        ("cut", paths::SAVEPOINT, "cannot be read"),
        ("later", paths::SAVEPOINT, "format version 2"),
        ("outside", paths::SAVEPOINT, "which no savepoint has"),
    ] {
        let world = World::with_job().await;
        savepoint(&world).await;
        let place = world.job("first").beside(PLACE, false).unwrap();
        let bytes = place.get(path).await.unwrap();
        match what {
            "gone" => place.delete(path).await.unwrap(),
            "cut" => place.replace(path, bytes.slice(..1)).await.unwrap(),
            "later" => place.replace(path, later(&bytes).into()).await.unwrap(),
            _ => place.replace(path, outside(&bytes).into()).await.unwrap(),
        }
        let error = wanted(&world.job("second"), PLACE).await.unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains(said), "{what} {path}: {error}");
        assert!(world.job("second").list("").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_part_that_is_not_what_was_written_is_restored_nowhere() {
    let world = World::with_job().await;
    savepoint(&world).await;
    let second = world.job("second");
    let wish = restore(&second).await;
    let place = second.beside(PLACE, false).unwrap();
    let mut bytes = place.get("parts/000000").await.unwrap().to_vec();
    bytes[20] ^= 1;
    place.replace("parts/000000", bytes.into()).await.unwrap();
    let TakeOver::Refused(Refusal::SavepointUnusable { reason, .. }) = open(&second, "second", "c2", wish).await else {
        panic!("it must be refused")
    };
    assert!(reason.contains("CRC-32C"), "{reason}");
    assert!(read_facts(&second).await.unwrap().records().next().is_none());
}

/// At every request storage fails once, in every way: then the place can be used again, or says that it is none; and the next try in
/// another place makes a whole one.
#[tokio::test]
async fn whatever_request_fails_there_is_a_whole_savepoint_or_none() {
    for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::Stop] {
        let mut at = 1;
        loop {
            let world = World::with_job().await;
            let faulty = FaultStore::new(Arc::clone(&world.0), fault, at);
            let calls = faulty.calls();
            let store = JobStore::with_object_store(Arc::new(faulty), "jobs/n/first");
            let answer = take(&store, &store.beside(PLACE, true).unwrap(), ALONE).await;
            let healthy = world.job("first");
            let seen = complete(&healthy.beside(PLACE, false).unwrap()).await;
            match (&answer, &seen) {
                // Its manifest may have come to stand without an answer: then all of it does.
                (Ok(_), Ok(_)) | (Err(_), _) => {}
                (Ok(_), Err(error)) => panic!("{fault:?} at {at}: said to be taken, and {error}"),
            }
            let again = healthy.beside("memory://kept/again", true).unwrap();
            take(&healthy, &again, ALONE).await.unwrap();
            if calls.load(std::sync::atomic::Ordering::Relaxed) < at {
                assert!(at > 8, "nothing was asked of storage");
                break;
            }
            at += 1;
        }
    }
}

/// The same of a restore, by a process that dies of it; its successor has the same wish.
#[tokio::test]
async fn whatever_request_fails_the_next_takeover_begins_from_the_whole_savepoint() {
    for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::Stop] {
        let mut at = 1;
        loop {
            let world = World::with_job().await;
            savepoint(&world).await;
            let faulty = FaultStore::new(Arc::clone(&world.0), fault, at);
            let calls = faulty.calls();
            let store = JobStore::with_object_store(Arc::new(faulty), "jobs/n/second");
            let healthy = world.job("second");
            let wish = Request { wish: Some("w".into()), ..request("second", "c2", restore(&healthy).await) };
            let mut answer = take_over(&store, &wish, || Millis(7)).await;
            if !matches!(answer, TakeOver::Opened(_)) {
                let next = Request { coordinator: "c3".into(), ..wish };
                answer = take_over(&healthy, &next, || Millis(8)).await;
            }
            let TakeOver::Opened(term) = answer else { panic!("{fault:?} at {at}: {answer:?}") };
            let restored = term.restored.unwrap();
            assert_eq!(read_back(&healthy, &restored).await, (b"aaabbbbcc".to_vec(), 0), "{fault:?} at {at}");
            assert!(restored.attempt < term.opening.attempt && term.opening.attempt > Attempt(1));
            assert!(term.opening.term > Term(1));
            if calls.load(std::sync::atomic::Ordering::Relaxed) < at {
                assert!(at > 12, "nothing was asked of storage");
                break;
            }
            at += 1;
        }
    }
}

#[tokio::test]
async fn on_a_disk_a_savepoint_has_files_of_its_own() {
    let disk = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("file://{}/{name}", disk.path().display());
    let settings = |url: String| weir_protocol::settings::StorageSettings { url, endpoint: None, region: None };
    let job = |name: &str| JobName { namespace: "n".into(), name: name.into() };
    let first = JobStore::open(&settings(url("ck")), &job("first")).unwrap();
    let term = opened(open(&first, "first", "c1", Restore::Latest).await);
    checkpoint(&first, &term, 1, &[]).await;
    assert!(first.beside(&url("kept"), false).is_err(), "what only reads makes no folder");
    take(&first, &first.beside(&url("kept"), true).unwrap(), ALONE).await.unwrap();
    std::fs::remove_dir_all(disk.path().join("ck")).unwrap();
    let second = JobStore::open(&settings(url("other")), &job("second")).unwrap();
    let wish = Restore::Savepoint(Arc::new(wanted(&second, &url("kept")).await.unwrap()));
    let term = opened(open(&second, "second", "c2", wish).await);
    std::fs::remove_dir_all(disk.path().join("kept")).unwrap();
    assert_eq!(read_back(&second, &term.restored.unwrap()).await, (b"aaabbbbcc".to_vec(), 0));
}
