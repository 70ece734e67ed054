use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use object_store::memory::InMemory;
use weir_protocol::{JobName, settings::StorageSettings};

use super::{
    fault::{Fault, FaultStore},
    minio::Minio,
    *,
};

fn local(folder: &Path) -> Result<JobStore, StorageError> {
    let settings = StorageSettings { url: format!("file://{}", folder.display()), endpoint: None, region: None };
    JobStore::open(&settings, &JobName { namespace: "default".into(), name: "job".into() })
}

#[tokio::test]
async fn a_local_folder_keeps_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    conformance::conformance(&local(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn the_store_in_memory_keeps_the_rules() {
    conformance::conformance(&JobStore::with_object_store(Arc::new(InMemory::new()), "default/job")).await;
}

#[tokio::test]
async fn a_bucket_of_a_real_server_keeps_the_rules() {
    let Some(server) = Minio::start("a_bucket_of_a_real_server_keeps_the_rules", &["jobs"]) else { return };
    let job = JobName { namespace: "default".into(), name: "job".into() };
    let store = JobStore::open_with(&server.settings("jobs"), &job, server.keys()).unwrap();
    conformance::conformance(&store).await;
    let other = JobName { namespace: "default".into(), name: "job-2".into() };
    let other = JobStore::open_with(&server.settings("jobs"), &other, server.keys()).unwrap();
    assert_eq!(other.list("").await.unwrap(), [], "one job sees nothing of another, though their names begin alike");
    conformance::conformance(&other).await;
}

#[tokio::test]
async fn faults_before_a_real_server_leave_nothing_or_all() {
    let Some(server) = Minio::start("faults_before_a_real_server_leave_nothing_or_all", &["jobs"]) else { return };
    let client = server.client("jobs");
    a_lost_answer(client.clone()).await;
    a_late_create(client.clone()).await;
    every_refused_create(|| client.clone()).await;
}

#[tokio::test]
async fn a_list_longer_than_a_page_of_a_real_server_is_whole_and_sorted() {
    let test = "a_list_longer_than_a_page_of_a_real_server_is_whole_and_sorted";
    let Some(server) = Minio::start(test, &["jobs"]) else { return };
    let store = JobStore::with_object_store(server.client("jobs"), "p");
    let all: Vec<String> = (0..1_050).map(|n| format!("parts/{n:010}")).collect();
    let creating = all.iter().map(|path| store.create(path, Bytes::from_static(b"x")));
    let created: Vec<_> = futures::stream::iter(creating).buffer_unordered(16).try_collect().await.unwrap();
    assert!(created.iter().all(|created| *created == Created::New));
    let listed: Vec<_> = store.list("parts").await.unwrap().into_iter().map(|stored| stored.path).collect();
    assert_eq!(listed, all);
}

#[tokio::test]
async fn wrong_keys_are_refused_and_no_key_is_told() {
    let Some(server) = Minio::start("wrong_keys_are_refused_and_no_key_is_told", &["jobs"]) else { return };
    let job = JobName { namespace: "default".into(), name: "job".into() };
    let wrong = S3Keys { secret_access_key: "hunter2-hunter2".into(), ..server.keys().clone() };
    let store = JobStore::open_with(&server.settings("jobs"), &job, &wrong).unwrap();
    let error = store.list("").await.unwrap_err();
    let told = format!("{error} {error:?} {store:?} {wrong:?}");
    assert!(told.contains("s3://jobs/jobs/default/job"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let nowhere = server.settings("no-such-bucket");
    let store = JobStore::open_with(&nowhere, &job, server.keys()).unwrap();
    assert!(store.create("terms/1/1", Bytes::from_static(b"x")).await.is_err());
    assert!(store.list("").await.is_err(), "a bucket that is not there is no empty one");
}

#[tokio::test]
async fn a_lost_answer_is_resolved_by_reading_back() {
    a_lost_answer(Arc::new(InMemory::new())).await;
}

async fn a_lost_answer(inner: Arc<dyn ObjectStore>) {
    let store = JobStore::with_object_store(Arc::new(FaultStore::new(inner, Fault::LoseAnswer, 1)), "lost");
    assert_eq!(store.create("terms/1/1", Bytes::from_static(b"x")).await.unwrap(), Created::Same);
}

#[tokio::test]
async fn a_create_that_lands_late_is_in_doubt_until_it_can_be_read() {
    a_late_create(Arc::new(InMemory::new())).await;
}

async fn a_late_create(inner: Arc<dyn ObjectStore>) {
    let late = Fault::AnswerLate(Duration::from_millis(50));
    let store = JobStore::with_object_store(Arc::new(FaultStore::new(inner, late, 1)), "late");
    let first = store.create("terms/1/1", Bytes::from_static(b"x")).await;
    assert!(matches!(first, Err(StorageError::InDoubt { .. })), "{first:?}");
    while store.get("terms/1/1").await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.create("terms/1/1", Bytes::from_static(b"x")).await.unwrap(), Created::Same);
}

#[tokio::test]
async fn for_every_n_a_refused_create_leaves_nothing_or_all() {
    every_refused_create(|| Arc::new(InMemory::new())).await;
}

async fn every_refused_create(inner: impl Fn() -> Arc<dyn ObjectStore>) {
    for fault in [Fault::Stop, Fault::Refuse, Fault::LoseAnswer] {
        for at in 1.. {
            let inner = inner();
            let faulty = FaultStore::new(Arc::clone(&inner), fault, at);
            let calls = faulty.calls();
            let prefix = format!("{fault:?}/{at}");
            let store = JobStore::with_object_store(Arc::new(faulty), &prefix);
            for n in 0..4u8 {
                let path = format!("terms/1/{n}");
                let told = store.create(&path, Bytes::from(vec![n; 100])).await;
                let there = JobStore::with_object_store(Arc::clone(&inner), &prefix).get(&path).await;
                if told.is_ok() {
                    assert_eq!(
                        there.unwrap(),
                        Bytes::from(vec![n; 100]),
                        "{fault:?} at {at}: told done, so it is there"
                    );
                }
            }
            if calls.load(std::sync::atomic::Ordering::SeqCst) < at {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_file_uploads_whole_on_a_folder_and_in_pieces_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big");
    let content: Vec<u8> = (0..PIECE * 2 + 17).map(|n| n as u8).collect();
    std::fs::write(&file, &content).unwrap();
    let in_folder = local(folder.path()).unwrap();
    let in_memory = JobStore::with_object_store(Arc::new(InMemory::new()), "p");
    let server = Minio::start("a_file_uploads_whole_on_a_folder_and_in_pieces_elsewhere (on S3)", &["jobs"]);
    let on_server = server.as_ref().map(|server| JobStore::with_object_store(server.client("jobs"), "p"));
    for store in [in_folder, in_memory].into_iter().chain(on_server) {
        assert_eq!(store.create_from_file("state/000001-a/00000001", &file).await.unwrap(), content.len() as u64);
        assert!(store.get("state/000001-a/00000001").await.unwrap() == content, "{}", store.name());
    }
}

#[test]
fn settings_that_name_no_storage_are_refused_with_a_remedy() {
    let job = JobName { namespace: "default".into(), name: "job".into() };
    for (url, remedy) in [
        ("nonsense", "file:///folder"),
        ("ftp://host/x", "s3://bucket/prefix"),
        ("file:///proc/version/x", "cannot be written"),
    ] {
        let settings = StorageSettings { url: url.into(), endpoint: None, region: None };
        let message = JobStore::open(&settings, &job).unwrap_err().to_string();
        assert!(message.contains(remedy) && message.contains(url), "{message}");
    }
    let outside = JobName { namespace: "..".into(), name: "job".into() };
    let settings = StorageSettings { url: "file:///tmp".into(), endpoint: None, region: None };
    assert!(JobStore::open(&settings, &outside).is_err());
}

#[tokio::test]
async fn no_more_is_read_of_an_object_or_a_list_than_it_may_have() {
    let store = JobStore::with_object_store(Arc::new(InMemory::new()), "p");
    store.create("parts/1", Bytes::from(vec![b'x'; 100])).await.unwrap();
    store.create("parts/2", Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(store.get_at_most("parts/1", 100).await.unwrap().len(), 100);
    let error = store.get_at_most("parts/1", 99).await.unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { limit: 99, .. }), "{error}");
    assert!(error.to_string().contains("parts/1") && error.to_string().contains("99 bytes"), "{error}");

    let one = (size_of::<Stored>() + "parts/1".len()) as u64;
    assert_eq!(store.list_at_most("parts", 2 * one).await.unwrap().len(), 2);
    let error = store.list_at_most("parts", 2 * one - 1).await.unwrap_err();
    assert!(matches!(error, StorageError::TooMany { .. }), "{error}");
}

/// An endpoint that answers every request with these bytes, for ever where `endless`.
async fn endpoint(head: &'static str, piece: &'static [u8], endless: bool) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 8192]).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(piece).await.is_ok() && endless {}
            });
        }
    });
    format!("http://{address}")
}

fn somebodys(endpoint: String) -> JobStore {
    let settings = StorageSettings { url: "s3://jobs".into(), endpoint: Some(endpoint), region: Some("eu".into()) };
    let keys = S3Keys { access_key_id: "a".into(), secret_access_key: "b".into(), session_token: None };
    JobStore::open_with(&settings, &JobName { namespace: "default".into(), name: "job".into() }, &keys).unwrap()
}

/// What an endpoint goes on with that never ends its answer.
static BLANKS: [u8; 65_536] = [b' '; 65_536];

#[tokio::test]
async fn an_endpoint_that_never_ends_its_list_is_not_listened_to() {
    let xml = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n\r\n<ListBucketResult>";
    let store = somebodys(endpoint(xml, &BLANKS, true).await);
    let error = store.list_at_most("terms", 1 << 20).await.unwrap_err();
    let causes = format!("{error:?}");
    assert!(causes.contains("TooLong"), "{causes}");
}

#[tokio::test]
async fn what_else_listens_at_an_endpoint_is_not_shown() {
    let other = "HTTP/1.1 400 Bad Request\r\nContent-Length: 6\r\n\r\n";
    let store = somebodys(endpoint(other, b"secret", false).await);
    let error = format!("{:?}", store.get_at_most("terms/1", 10).await.unwrap_err());
    assert!(
        error.contains("400") && error.contains("not in the form of storage") && !error.contains("secret"),
        "{error}"
    );
}

/// What becomes of a PUT, and what is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    /// Done, and said so.
    Done,
    /// Not done: 503.
    Unavailable,
    /// Done, and the answer is a gateway's: 504.
    LostAnswer,
    /// The answer is a gateway's, and it is done when the test says so.
    Late,
}

/// Speaks as much of S3 as a create and a read need. The first PUTs fare as they are told, all later ones are done.
struct Server {
    address: std::net::SocketAddr,
    shared: Arc<std::sync::Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    puts: usize,
    fates: Vec<Put>,
    objects: std::collections::BTreeMap<String, Vec<u8>>,
    late: Vec<(String, Vec<u8>)>,
}

impl Server {
    async fn start(fates: &[Put]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(std::sync::Mutex::new(Shared { fates: fates.to_vec(), ..Shared::default() }));
        let served = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        Self { address, shared }
    }

    fn store(&self) -> JobStore {
        let settings = StorageSettings {
            url: "s3://jobs/checkpoints".into(),
            endpoint: Some(format!("http://{}", self.address)),
            region: Some("here".into()),
        };
        let keys = S3Keys { access_key_id: "a".into(), secret_access_key: "b".into(), session_token: None };
        JobStore::open_with(&settings, &JobName { namespace: "default".into(), name: "job".into() }, &keys).unwrap()
    }

    fn puts(&self) -> usize {
        self.shared.lock().unwrap().puts
    }

    /// What was held back is done.
    fn land(&self) {
        let mut shared = self.shared.lock().unwrap();
        for (path, body) in std::mem::take(&mut shared.late) {
            shared.objects.entry(path).or_insert(body);
        }
    }
}

async fn serve(mut stream: tokio::net::TcpStream, shared: Arc<std::sync::Mutex<Shared>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        while buffer.len() < length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let mut line = head.split_whitespace();
        let (method, path) = (line.next().unwrap().to_string(), line.next().unwrap().to_string());
        let (status, body) = shared.lock().unwrap().answer(&method, path, body);
        let head = format!(
            "HTTP/1.1 {status} x\r\nETag: \"1\"\r\nLast-Modified: Tue, 01 Dec 2026 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(&[head.into_bytes(), body].concat()).await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn answer(&mut self, method: &str, path: String, body: Vec<u8>) -> (u16, Vec<u8>) {
        if method != "PUT" {
            return self.objects.get(&path).map_or((404, Vec::new()), |body| (200, body.clone()));
        }
        self.puts += 1;
        let fate = if self.fates.is_empty() { Put::Done } else { self.fates.remove(0) };
        match fate {
            Put::Unavailable => (503, Vec::new()),
            Put::Late => {
                self.late.push((path, body));
                (504, Vec::new())
            }
            Put::Done if self.objects.contains_key(&path) => (412, Vec::new()),
            Put::Done | Put::LostAnswer => {
                self.objects.insert(path, body);
                (if fate == Put::Done { 200 } else { 504 }, Vec::new())
            }
        }
    }
}

#[tokio::test]
async fn one_create_is_one_request_whatever_a_server_answers() {
    let bytes = Bytes::from_static(b"record");
    let server = Server::start(&[Put::Unavailable]).await;
    let created = server.store().create_once("terms/1/1", bytes.clone()).await;
    assert!(matches!(created, Err(StorageError::InDoubt { .. })), "{created:?}");
    assert_eq!(server.puts(), 1, "503");

    let server = Server::start(&[Put::LostAnswer]).await;
    assert_eq!(server.store().create_once("terms/1/1", bytes.clone()).await.unwrap(), Created::Same);
    assert_eq!(server.puts(), 1, "504 after the effect");

    let server = Server::start(&[Put::Late]).await;
    let created = server.store().create_once("terms/1/1", bytes.clone()).await;
    assert!(matches!(created, Err(StorageError::InDoubt { .. })), "{created:?}");
    assert_eq!(server.puts(), 1, "504 before the effect");
    server.land();
    assert_eq!(server.store().create_once("terms/1/1", bytes.clone()).await.unwrap(), Created::Same);
    assert_eq!(server.puts(), 2);

    // Under a name of one's own it is repeated, and nobody has to be asked again.
    let server = Server::start(&[Put::Unavailable]).await;
    assert_eq!(server.store().create("parts/1-1-w", bytes).await.unwrap(), Created::New);
    assert_eq!(server.puts(), 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_once() {
    let server = Server::start(&[]).await;
    let store = server.store();
    // Nobody listens there any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = Server { address: nobody, shared: Arc::clone(&server.shared) };
    let began = std::time::Instant::now();
    let created = away.store().create_once("terms/1/1", Bytes::from_static(b"record")).await;
    assert!(matches!(created, Err(StorageError::InDoubt { .. })), "{created:?}");
    assert!(began.elapsed() < Duration::from_mins(1), "nothing is waited for");
    assert_eq!(store.create_once("terms/1/1", Bytes::from_static(b"record")).await.unwrap(), Created::New);
}
