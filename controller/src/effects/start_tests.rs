use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};
use weir_protocol::{
    Attempt, JobName, RecordNumber, Term,
    record::{Seal, Slot},
};

use super::*;
use crate::takeover::Restore;

/// Counts what is asked of storage: requests, and objects in lists. A list may begin anywhere, as on S3.
#[derive(Debug)]
struct Counting {
    inner: InMemory,
    requests: AtomicUsize,
    listed: Arc<AtomicUsize>,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let listed = Arc::clone(&self.listed);
        self.inner.list(prefix).inspect(move |_| _ = listed.fetch_add(1, Ordering::SeqCst)).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let listed = Arc::clone(&self.listed);
        let after = self.inner.list_with_offset(prefix, offset);
        after.inspect(move |_| _ = listed.fetch_add(1, Ordering::SeqCst)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct Storage {
    counting: Arc<Counting>,
    store: JobStore,
}

impl Storage {
    fn new() -> Self {
        let counting =
            Arc::new(Counting { inner: InMemory::new(), requests: AtomicUsize::new(0), listed: Arc::default() });
        Self { store: JobStore::with_object_store(counting.clone(), "n/j"), counting }
    }

    /// Requests and listed objects since the last time.
    fn counted(&self) -> (usize, usize) {
        (self.counting.requests.swap(0, Ordering::SeqCst), self.counting.listed.swap(0, Ordering::SeqCst))
    }

    async fn opens(&self, coordinator: &str) -> Box<Opened> {
        match take_over(&self.store, &request(coordinator), || Millis(5)).await {
            TakeOver::Opened(opened) => {
                write_start(&self.store, &opened).await;
                opened
            }
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) {
        assert_eq!(self.store.create(path, bytes.into()).await.unwrap(), Created::New);
    }

    async fn records(&self, opened: &Opened, number: u64, id: u64) -> RecordRef {
        let reference = RecordRef { id: CheckpointId(id), term: opened.opening.term, number: RecordNumber(number) };
        let record = Record {
            version: opened.opening.version,
            id: reference.id,
            term: reference.term,
            number: reference.number,
            attempt: opened.opening.attempt,
            job: opened.opening.job.clone(),
            is_final: false,
            parallelism: 1,
            max_parallelism: 128,
            fingerprint: "f".into(),
            parts: Vec::new(),
            completed_at_ms: 0,
            duration_ms: 0,
            state_bytes: 0,
            uploaded_bytes: 0,
        };
        self.put(&reference.path(), encode(&Slot::Record(record))).await;
        reference
    }
}

fn request(coordinator: &str) -> Request {
    Request {
        job: JobName { namespace: "n".into(), name: "j".into() },
        coordinator: coordinator.into(),
        owner: "o".into(),
        cluster: "k".into(),
        adopt: false,
        resume: false,
        release: false,
        format: weir_protocol::stored::FORMAT,
        restore: Restore::Latest,
        wish: None,
        after: None,
        accept_lost_output: false,
        workers: 1,
        slots: 1,
        max_parallelism: 128,
        fingerprint: "f".into(),
        retain: 2,
    }
}

#[tokio::test]
async fn a_takeover_after_ten_thousand_terms_asks_for_no_more_than_after_three() {
    let storage = Storage::new();
    let first = storage.opens("c1").await;
    let old = storage.records(&first, 1, 1).await;
    let newest = storage.records(&first, 2, 2).await;
    for _ in 0..2 {
        storage.opens("c1").await;
    }
    storage.counted();
    let opened = storage.opens("c1").await;
    let few = storage.counted();
    assert_eq!(opened.opening.term, Term(4));

    // As they stand where no checkpoint came to be in any of them: an opening and a seal each.
    for term in 4..10_000 {
        let seal = Seal {
            version: opened.opening.version,
            term: Term(term),
            number: RecordNumber(1),
            by: "c1".into(),
            at_ms: 5,
        };
        storage.put(&paths::slot(Term(term), RecordNumber(1)), encode(&Slot::Seal(seal))).await;
        let next = Opening { term: Term(term + 1), attempt: Attempt(term + 1), ..(*opened.opening).clone() };
        storage.put(&paths::opening(next.term), encode(&next)).await;
    }
    let last = Opening { term: Term(10_000), attempt: Attempt(10_000), ..(*opened.opening).clone() };
    let inherited = opened.inherited.clone();
    write_start(&storage.store, &Opened { opening: Arc::new(last), inherited, ..(*opened).clone() }).await;
    storage.counted();
    let opened = storage.opens("c2").await;
    let many = storage.counted();
    assert_eq!(opened.opening.term, Term(10_001));
    assert_eq!(opened.opening.restores.record(), Some(newest));
    assert_eq!(opened.inherited.iter().map(|record| record.reference()).collect::<Vec<_>>(), [old, newest]);
    assert_eq!(many, few, "requests and listed objects");
    assert!(many.0 < 30 && many.1 < 20, "{many:?}");

    // Where to begin is only a copy: without it all is found too.
    storage.store.delete(paths::START).await.unwrap();
    let again = storage.opens("c3").await;
    assert_eq!((again.opening.term, again.opening.restores.record()), (Term(10_002), Some(newest)));
    assert!(storage.counted().1 > 20_000, "it has looked at everything");
}

#[tokio::test]
async fn a_start_of_another_life_does_not_count() {
    let storage = Storage::new();
    let before = storage.opens("c1").await;
    let record = storage.records(&before, 1, 1).await;
    // It was written by a coordinator of a job that was deleted, and landed late.
    let late = Opening { coordinator: "c0".into(), owner: "p".into(), ..(*before.opening).clone() };
    write_start(&storage.store, &Opened { opening: Arc::new(late), inherited: Vec::new(), ..*before }).await;
    let opened = storage.opens("c2").await;
    assert_eq!((opened.opening.term, opened.opening.restores.record()), (Term(2), Some(record)));
    // Nor does one that nobody can read.
    storage.store.replace(paths::START, "{}".into()).await.unwrap();
    assert_eq!(storage.opens("c2").await.opening.restores.record(), Some(record));
}

#[tokio::test]
async fn a_record_that_lands_after_its_job_was_deleted_makes_the_name_no_less_usable() {
    let storage = Storage::new();
    let opened = storage.opens("c1").await;
    let late = storage.records(&opened, 7, 9).await;
    for path in [paths::opening(Term(1)), paths::START.to_string()] {
        storage.store.delete(&path).await.unwrap();
    }
    let opened = storage.opens("c2").await;
    assert_eq!((opened.opening.term, opened.opening.attempt), (Term(2), Attempt(2)));
    assert_eq!((opened.opening.restores.record(), opened.inherited.len()), (None, 0));
    // And so in each term after it.
    let next = storage.records(&opened, 1, 1).await;
    let opened = storage.opens("c3").await;
    assert_eq!(opened.opening.restores.record(), Some(next));
    assert!(storage.store.get(&late.path()).await.is_ok(), "what is nobody's is left alone");
}

#[tokio::test]
async fn the_opening_of_a_term_that_holds_a_checkpoint_is_missed() {
    let storage = Storage::new();
    storage.opens("c1").await;
    let opened = storage.opens("c1").await;
    storage.records(&opened, 1, 1).await;
    storage.store.delete(&paths::opening(opened.opening.term)).await.unwrap();
    let refused = take_over(&storage.store, &request("c2"), || Millis(5)).await;
    assert!(
        matches!(&refused, TakeOver::Refused(Refusal::Unusable { path, .. }) if *path == paths::opening(Term(2))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_is_certainly_not_there_is_told_and_nothing_else() {
    let storage = Storage::new();
    storage.put("terms/1/1", b"x".to_vec()).await;
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_string()).collect();
    assert_eq!(first_missing(&storage.store, paths(&["terms/1/1"])).await, None);
    let missing = first_missing(&storage.store, paths(&["terms/1/1", "terms/1/2"])).await;
    assert_eq!(missing.as_deref(), Some("terms/1/2"));
}
