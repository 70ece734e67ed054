//! The sink into a bucket, on a bucket in memory and on a real server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{MultipartId, ObjectStore, ObjectStoreExt, PutPayload, PutResult};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use weir_engine::api::batch::Batch;
use weir_engine::api::error::FailureKind;
use weir_engine::api::sink::{CommitContext, Committer, Sink, SinkContext, SinkFactory};
use weir_protocol::{Attempt, CheckpointId, JobName};
use weir_storage::minio::Minio;

use super::bucket::{Bucket, Objects, Place};
use super::object_sink::ObjectSinkFactory;
use super::paths::is_hidden;
use crate::formats::decode::{Format, Json};
use crate::testing::{run_of, sink_context};

const MEBIBYTE: usize = 1 << 20;

/// `width` bytes of text in each row.
fn batch(ids: std::ops::Range<i64>, width: usize) -> Batch {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, false)];
    let text = "x".repeat(width);
    let texts = StringArray::from_iter_values(ids.clone().map(|_| &text));
    let columns = vec![Arc::new(Int64Array::from_iter_values(ids)) as _, Arc::new(texts) as _];
    Batch::inserts(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap())
}

fn job() -> JobName {
    JobName { namespace: "default".to_string(), name: "job".to_string() }
}

/// A sink into a bucket, and what readers of the bucket see.
struct Table {
    runtime: Runtime,
    objects: Objects,
    place: Place,
    stopped: CancellationToken,
    roll_at: u64,
}

impl Table {
    fn of(objects: Objects, place: Place) -> Self {
        let runtime = Runtime::new().unwrap();
        Self { runtime, objects, place, stopped: CancellationToken::new(), roll_at: 128 << 20 }
    }

    fn in_memory() -> Self {
        let place = Place { bucket: "data".to_string(), endpoint: None, region: None };
        Self::of(Objects::new(InMemory::new()), place)
    }

    fn on(server: &Minio) -> Self {
        let place = Place {
            bucket: "data".to_string(),
            endpoint: Some(server.endpoint()),
            region: Some("us-east-1".to_string()),
        };
        Self::of(Objects::new((*server.client("data")).clone()), place)
    }

    fn factory(&self) -> ObjectSinkFactory {
        let bucket = Bucket { place: self.place.clone(), objects: self.objects.clone(), path: "out".into() };
        ObjectSinkFactory { bucket, format: Format::Json(Json::default()), changelog: false, roll_at: self.roll_at }
    }

    fn sink(&self) -> Box<dyn Sink> {
        let ctx = SinkContext { stopped: self.stopped.clone(), ..sink_context(&job(), &self.runtime) };
        self.factory().create(&ctx).unwrap()
    }

    fn commit(&self, pending: &[Value]) -> Result<(), weir_engine::SinkError> {
        self.runtime.block_on(self.committer().commit(pending))
    }

    /// Of the next attempt: what is pending is all that it knows.
    fn committer(&self) -> Arc<dyn Committer> {
        self.committer_of("u1")
    }

    /// Of a run of the job from here or from elsewhere.
    fn committer_of(&self, owner: &str) -> Arc<dyn Committer> {
        let (owner, sink) = (run_of(owner), "sink".to_string());
        let ctx = CommitContext { job: job(), owner, attempt: Attempt(2), sink };
        self.factory().committer(&ctx).unwrap()
    }

    fn delete(&self, key: &ObjectPath) {
        self.runtime.block_on(self.objects.store.delete(key)).unwrap();
    }

    /// A reader takes away what it sees.
    fn take_published(&self) {
        self.seen().into_keys().for_each(|key| self.delete(&ObjectPath::from(key)));
    }

    fn marks(&self) -> usize {
        self.keys().iter().filter(|key| is_mark(key)).count()
    }

    /// The keys of all objects, hidden ones too, in order.
    fn keys(&self) -> Vec<ObjectPath> {
        let listed = self.objects.store.list(None).map_ok(|object| object.location);
        let mut keys: Vec<_> = self.runtime.block_on(listed.try_collect()).unwrap();
        keys.sort();
        keys
    }

    fn unfinished(&self) -> usize {
        self.keys().iter().filter(|key| key.as_ref().starts_with("out/_unfinished/") && !is_mark(key)).count()
    }

    /// The lines of all objects that readers see, by key.
    fn seen(&self) -> BTreeMap<String, Vec<String>> {
        let keys = self.keys().into_iter().filter(|key| !key.parts().any(|part| is_hidden(part.as_ref())));
        let lines = |key: ObjectPath| {
            let bytes = self.runtime.block_on(async { self.objects.store.get(&key).await.unwrap().bytes().await });
            let lines = String::from_utf8(bytes.unwrap().to_vec()).unwrap().lines().map(str::to_string).collect();
            (key.to_string(), lines)
        };
        keys.map(lines).collect()
    }

    fn rows(&self) -> usize {
        self.seen().values().map(Vec::len).sum()
    }
}

fn is_mark(key: &ObjectPath) -> bool {
    key.extension() == Some("done")
}

fn prepare(sink: &mut dyn Sink, id: u64) -> Vec<Value> {
    sink.prepare(CheckpointId(id)).unwrap()().unwrap()
}

fn on_both(test: &str, check: impl Fn(Table)) {
    check(Table::in_memory());
    if let Some(server) = Minio::start(test, &["data"]) {
        check(Table::on(&server));
    }
}

#[test]
fn objects_are_seen_when_their_checkpoint_is_committed_and_not_before() {
    on_both("objects_are_seen_when_their_checkpoint_is_committed_and_not_before", |table| {
        let mut sink = table.sink();
        sink.write(batch(0..2, 1)).unwrap();
        let first = prepare(&mut *sink, 1);
        sink.write(batch(2..5, 1)).unwrap();
        assert_eq!(table.rows(), 0);
        table.commit(&first).unwrap();
        assert_eq!(table.rows(), 2);
        assert!(prepare(&mut *table.sink(), 1).is_empty(), "no rows, no object");
        let second = prepare(&mut *sink, 2);
        let both = [first, second].concat();
        table.commit(&both).unwrap();
        let seen = table.seen();
        assert_eq!(table.rows(), 5);
        assert_eq!(seen.len(), 2);
        assert!(
            seen.keys().all(|key| key.starts_with("out/part-") && key.rsplit('.').next() == Some("json")),
            "{seen:?}"
        );
        table.commit(&both).unwrap();
        assert_eq!(table.seen(), seen, "a second commit changes nothing");
        assert_eq!(table.unfinished(), 0);
    });
}

#[test]
fn what_is_never_committed_is_never_seen() {
    on_both("what_is_never_committed_is_never_seen", |table| {
        let mut sink = table.sink();
        sink.write(batch(0..2, 1)).unwrap();
        let dropped = prepare(&mut *sink, 1);
        sink.write(batch(0..9, MEBIBYTE)).unwrap();
        drop(sink);
        // The next attempt is restored from a record that holds none of it.
        let mut sink = table.sink();
        sink.write(batch(10..12, 1)).unwrap();
        let kept = prepare(&mut *sink, 2);
        assert_eq!(table.unfinished(), 2);
        table.runtime.block_on(table.committer().clean(&kept)).unwrap();
        // It is removed beside the attempt.
        let removed = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            table.unfinished() == 1
        });
        assert!(removed, "{:?}", table.keys());
        table.commit(&kept).unwrap();
        assert_eq!((dropped.len(), table.rows(), table.unfinished()), (1, 2, 0));
    });
}

#[test]
fn an_object_that_a_reader_took_is_not_published_again_and_one_that_is_lost_is_named() {
    on_both("an_object_that_a_reader_took_is_not_published_again_and_one_that_is_lost_is_named", |table| {
        let mut sink = table.sink();
        sink.write(batch(0..2, 1)).unwrap();
        let taken = prepare(&mut *sink, 1);
        table.commit(&taken).unwrap();
        table.take_published();
        sink.write(batch(2..5, 1)).unwrap();
        let swept = prepare(&mut *sink, 2);
        let key = swept[0]["unfinished"].as_str().unwrap();
        table.delete(&ObjectPath::parse(key).unwrap());
        sink.write(batch(5..9, 1)).unwrap();
        let whole = prepare(&mut *sink, 3);
        let error = table.commit(&[taken.clone(), swept.clone(), whole.clone()].concat()).unwrap_err();
        assert_eq!(error.kind, FailureKind::OutputLost, "{error}");
        let published = format!("s3://data/{}", swept[0]["published"].as_str().unwrap());
        assert!(error.message.contains(&published) && error.message.contains(key), "{error}");
        assert_eq!((table.rows(), table.marks()), (4, 2), "all else is published");
        // What no record names any more needs no mark.
        table.runtime.block_on(table.committer().forget(&[taken, whole].concat()));
        assert_eq!(table.marks(), 0);
    });
}

#[test]
fn an_object_whose_mark_stands_is_not_copied_again() {
    let table = Table::in_memory();
    let mut sink = table.sink();
    sink.write(batch(0..2, 1)).unwrap();
    let pending = prepare(&mut *sink, 1);
    // Whoever published it died before the deletion, and a reader was there.
    let mark = format!("{}.done", pending[0]["unfinished"].as_str().unwrap());
    let mark = ObjectPath::parse(mark).unwrap();
    table.runtime.block_on(table.objects.store.put(&mark, PutPayload::new())).unwrap();
    table.commit(&pending).unwrap();
    assert_eq!((table.rows(), table.unfinished(), table.marks()), (0, 0, 1));
}

#[test]
fn a_run_of_the_same_job_elsewhere_removes_nothing_of_this_one() {
    let table = Table::in_memory();
    let mut sink = table.sink();
    sink.write(batch(0..2, 1)).unwrap();
    let pending = prepare(&mut *sink, 1);
    let ctx = SinkContext { owner: run_of("u2"), ..sink_context(&job(), &table.runtime) };
    let mut theirs = table.factory().create(&ctx).unwrap();
    theirs.write(batch(2..9, 1)).unwrap();
    assert_eq!((prepare(&mut *theirs, 1).len(), table.unfinished()), (1, 2));
    table.runtime.block_on(table.committer_of("u2").clean(&[])).unwrap();
    // It is removed beside the attempt; what goes is the other's own.
    let removed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        table.unfinished() == 1
    });
    assert!(removed, "{:?}", table.keys());
    table.commit(&pending).unwrap();
    assert_eq!(table.rows(), 2);
}

#[test]
fn large_objects_go_in_parts_and_are_closed_at_their_size() {
    on_both("large_objects_go_in_parts_and_are_closed_at_their_size", |mut table| {
        table.roll_at = 12 << 20;
        let mut sink = table.sink();
        for row in 0..20 {
            sink.write(batch(row..row + 1, MEBIBYTE)).unwrap();
        }
        let pending = prepare(&mut *sink, 1);
        assert_eq!((pending.len(), table.unfinished()), (2, 2));
        assert_eq!(table.rows(), 0);
        table.commit(&pending).unwrap();
        let rows: Vec<usize> = table.seen().values().map(Vec::len).collect();
        assert_eq!((rows.iter().sum::<usize>(), rows.len()), (20, 2));
        let ids: std::collections::BTreeSet<i64> = table
            .seen()
            .values()
            .flatten()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap())
            .collect();
        assert_eq!(ids, (0..20).collect());
    });
}

#[test]
fn a_commit_after_a_reader_took_the_object_changes_nothing_and_one_into_no_bucket_fails() {
    let test = "a_commit_after_a_reader_took_the_object_changes_nothing_and_one_into_no_bucket_fails";
    let Some(server) = Minio::start(test, &["data"]) else { return };
    let table = Table::on(&server);
    let mut sink = table.sink();
    sink.write(batch(0..2, 1)).unwrap();
    let pending = prepare(&mut *sink, 1);
    table.commit(&pending).unwrap();
    let key = table.seen().into_keys().next().unwrap();
    table.runtime.block_on(table.objects.store.delete(&ObjectPath::from(key))).unwrap();
    table.commit(&pending).unwrap();
    assert_eq!(table.rows(), 0);

    let mut elsewhere = pending[0].clone();
    elsewhere["place"]["bucket"] = json!("no-such-bucket");
    let error = table.commit(&[elsewhere]).unwrap_err();
    assert!(error.to_string().contains("s3://no-such-bucket/out/part-"), "{error}");
}

#[test]
fn a_table_that_has_moved_into_a_bucket_still_publishes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".a"), "1\n").unwrap();
    let pending = json!({"folder": folder.path(), "unfinished": ".a", "published": "part-1"});
    let table = Table::in_memory();
    table.commit(std::slice::from_ref(&pending)).unwrap();
    assert!(folder.path().join("part-1").exists());
    assert!(table.commit(&[json!({"bucket": "data"})]).is_err());
}

#[test]
fn a_committer_that_dies_at_any_moment_loses_and_repeats_nothing() {
    let test = "a_committer_that_dies_at_any_moment_loses_and_repeats_nothing";
    let Some(server) = Minio::start(test, &["data"]) else { return };
    let table = Table::on(&server);
    let mut sink = table.sink();
    let committer = table.committer();
    for moment in 0..100 {
        sink.write(batch(moment..moment + 1, 1)).unwrap();
        let pending = prepare(&mut *sink, moment as u64);
        // Its connections are closed in the middle of what it asks for, as those of a process that is killed.
        let dies = Duration::from_micros(100 * moment as u64);
        drop(table.runtime.block_on(async { tokio::time::timeout(dies, committer.commit(&pending)).await }));
        table.commit(&pending).unwrap();
    }
    let lines: Vec<_> = table.seen().into_values().flatten().collect();
    let ids: std::collections::BTreeSet<_> = lines.iter().collect();
    assert_eq!((lines.len(), ids.len(), table.unfinished()), (100, 100, 0));
}

/// Passes requests on to a bucket in memory; fails the first parts, or loses the answers of what makes objects.
struct Flaky {
    inner: InMemory,
    failing: AtomicUsize,
    /// What is done and not answered, still so many times.
    losing: AtomicUsize,
    /// No upload is ever completed.
    refusing: bool,
}

impl Flaky {
    fn table(failing: usize, losing: usize, refusing: bool) -> Table {
        let (failing, losing) = (AtomicUsize::new(failing), AtomicUsize::new(losing));
        // Forks share nothing, so the reader reads through the same one.
        let flaky = Arc::new(Self { inner: InMemory::new(), failing, losing, refusing });
        let store: Arc<dyn ObjectStore> = Arc::new(Reading(Arc::clone(&flaky)));
        let place = Place { bucket: "data".to_string(), endpoint: None, region: None };
        Table::of(Objects { store, uploads: flaky }, place)
    }

    fn fails(&self) -> object_store::Result<()> {
        Self::once_less(&self.failing, "not now")
    }

    fn loses(&self) -> object_store::Result<()> {
        Self::once_less(&self.losing, "no answer")
    }

    fn once_less(times: &AtomicUsize, source: &str) -> object_store::Result<()> {
        match times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(object_store::Error::Generic { store: "flaky", source: source.into() }),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl MultipartStore for Flaky {
    async fn create_multipart(&self, path: &ObjectPath) -> object_store::Result<MultipartId> {
        self.fails()?;
        self.inner.create_multipart(path).await
    }

    async fn put_part(
        &self,
        path: &ObjectPath,
        id: &MultipartId,
        part_idx: usize,
        data: PutPayload,
    ) -> object_store::Result<PartId> {
        self.fails()?;
        self.inner.put_part(path, id, part_idx, data).await
    }

    async fn complete_multipart(
        &self,
        path: &ObjectPath,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        if self.refusing {
            return Err(object_store::Error::Generic { store: "flaky", source: "InvalidPart".into() });
        }
        let done = self.inner.complete_multipart(path, id, parts).await?;
        self.loses()?;
        Ok(done)
    }

    async fn abort_multipart(&self, path: &ObjectPath, id: &MultipartId) -> object_store::Result<()> {
        self.inner.abort_multipart(path, id).await
    }
}

/// The objects of a flaky bucket.
#[derive(Clone)]
struct Reading(Arc<Flaky>);

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reading")
    }
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reading")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Reading {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<PutResult> {
        self.0.fails()?;
        self.0.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &ObjectPath,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<ObjectPath>> {
        self.0.inner.delete_stream(locations)
    }

    fn list(
        &self,
        prefix: Option<&ObjectPath>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<object_store::ListResult> {
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.0.inner.copy_opts(from, to, options).await?;
        self.0.loses()
    }
}

#[test]
fn uploads_are_tried_again_and_lost_answers_are_found_out() {
    for (rows, width) in [(1, 1), (9, MEBIBYTE)] {
        let table = Flaky::table(3, 2, false);
        let mut sink = table.sink();
        sink.write(batch(0..rows, width)).unwrap();
        let pending = prepare(&mut *sink, 1);
        // The answer of the copy is lost, once or, where there was no upload whose answer was, twice.
        let tries = (0..9).take_while(|_| table.commit(&pending).is_err()).count();
        assert_eq!(tries, if rows == 1 { 2 } else { 1 });
        table.commit(&pending).unwrap();
        assert_eq!((table.rows() as i64, table.unfinished()), (rows, 0));
    }
}

#[test]
fn an_upload_that_the_server_has_lost_ends_the_attempt() {
    let table = Flaky::table(0, 0, true);
    let mut sink = table.sink();
    sink.write(batch(0..9, MEBIBYTE)).unwrap();
    let error = sink.prepare(CheckpointId(1)).unwrap()().unwrap_err();
    assert!(error.to_string().contains("cannot complete the upload of out/_unfinished/"), "{error}");
    assert!(table.keys().is_empty());
}

/// Writes from a thread of its own until nothing goes on any more; says how many bytes were taken, and ends with the attempt.
fn taken_while_storage_is_away(roll_at: u64, mut between: impl FnMut(&mut dyn Sink, i64) + Send) -> usize {
    let mut table = Flaky::table(usize::MAX, 0, false);
    table.roll_at = roll_at;
    let taken = AtomicUsize::new(0);
    let mut sink = table.sink();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            (0..1_000).try_for_each(|row| {
                sink.write(batch(row..row + 1, MEBIBYTE)).map(|()| taken.fetch_add(MEBIBYTE, Ordering::SeqCst))?;
                between(&mut *sink, row);
                Ok::<(), weir_engine::SinkError>(())
            })
        });
        // It stands still when a long look sees no more: longer than a thousand batches would take.
        let mut before = usize::MAX;
        while before != taken.load(Ordering::SeqCst) && !writing.is_finished() {
            before = taken.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(1));
        }
        let all = taken.load(Ordering::SeqCst);
        table.stopped.cancel();
        assert!(writing.join().unwrap().is_err(), "it waits, and ends with the attempt");
        all
    })
}

#[test]
fn memory_is_bounded_while_storage_is_away_at_every_roll_size() {
    for roll_at in [1, 4 << 20, 8 << 20, 9 << 20, 128 << 20] {
        let taken = taken_while_storage_is_away(roll_at, |_, _| ());
        assert!((8 * MEBIBYTE..=25 * MEBIBYTE).contains(&taken), "{taken} at {roll_at}");
    }
}

#[test]
fn what_aborted_checkpoints_have_cut_counts_too() {
    let mut preparing = Vec::new();
    let taken = taken_while_storage_is_away(128 << 20, |sink, row| {
        preparing.push(sink.prepare(CheckpointId(row as u64)).unwrap());
    });
    assert!(taken <= 25 * MEBIBYTE, "{taken}");
}

#[test]
fn a_stopped_attempt_waits_for_no_storage() {
    let table = Flaky::table(usize::MAX, 0, false);
    let mut sink = table.sink();
    sink.write(batch(0..9, MEBIBYTE)).unwrap();
    let job = sink.prepare(CheckpointId(1)).unwrap();
    std::thread::scope(|scope| {
        let preparing = scope.spawn(job);
        table.stopped.cancel();
        assert!(preparing.join().unwrap().is_err());
    });
    assert!(sink.write(batch(0..9, MEBIBYTE)).and_then(|()| sink.write(batch(0..9, MEBIBYTE))).is_err());
}
