use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::memory::InMemory;
use weir_protocol::{JobName, settings::StorageSettings};

use super::{
    fault::{Fault, FaultStore},
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
async fn a_lost_answer_is_resolved_by_reading_back() {
    let store =
        JobStore::with_object_store(Arc::new(FaultStore::new(Arc::new(InMemory::new()), Fault::LoseAnswer, 1)), "p");
    assert_eq!(store.create("terms/1/1", Bytes::from_static(b"x")).await.unwrap(), Created::Same);
}

#[tokio::test]
async fn a_create_that_lands_late_is_in_doubt_until_it_can_be_read() {
    let late = Fault::AnswerLate(Duration::from_millis(1));
    let inner = Arc::new(InMemory::new());
    let store = JobStore::with_object_store(Arc::new(FaultStore::new(inner, late, 1)), "p");
    let first = store.create("terms/1/1", Bytes::from_static(b"x")).await;
    assert!(matches!(first, Err(StorageError::InDoubt { .. })), "{first:?}");
    while store.get("terms/1/1").await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.create("terms/1/1", Bytes::from_static(b"x")).await.unwrap(), Created::Same);
}

#[tokio::test]
async fn for_every_n_a_refused_create_leaves_nothing_or_all() {
    for fault in [Fault::Stop, Fault::Refuse, Fault::LoseAnswer] {
        for at in 1.. {
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faulty = FaultStore::new(Arc::clone(&inner), fault, at);
            let calls = faulty.calls();
            let store = JobStore::with_object_store(Arc::new(faulty), "p");
            for n in 0..4u8 {
                let path = format!("terms/1/{n}");
                let told = store.create(&path, Bytes::from(vec![n; 100])).await;
                let there = JobStore::with_object_store(Arc::clone(&inner), "p").get(&path).await;
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
    for store in [in_folder, in_memory] {
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
