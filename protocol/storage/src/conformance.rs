//! What every storage must do for the protocol to hold. One suite, run on each implementation; it panics with the rule
//! that was broken, so it belongs in tests.

use bytes::Bytes;

use crate::{Created, JobStore, StorageError};

/// Runs all rules on an empty store.
#[allow(clippy::panic, clippy::missing_panics_doc, clippy::expect_used)]
pub async fn conformance(store: &JobStore) {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());

    let first =
        store.create("terms/0000000001/opening", bytes("one")).await.expect("a create on an empty store succeeds");
    assert_eq!(first, Created::New, "the first create of a name is new");
    let read = store.get("terms/0000000001/opening").await.expect("what was created can be read at once");
    assert_eq!(read, bytes("one"), "what is read is what was written");

    let again =
        store.create("terms/0000000001/opening", bytes("one")).await.expect("a repeated create has a clear answer");
    assert_eq!(again, Created::Same, "the same bytes again are recognised");
    let other = store.create("terms/0000000001/opening", bytes("two")).await.expect("a lost race has a clear answer");
    assert_eq!(other, Created::Taken(bytes("one")), "other bytes do not replace what is there");
    let other = store.create_once("terms/0000000001/opening", bytes("two")).await.expect("with one request too");
    assert_eq!(other, Created::Taken(bytes("one")), "other bytes do not replace what is there");

    let mut winners = 0;
    let racing = futures::future::join_all((0..8).map(|n| {
        let store = store.clone();
        async move { store.create_once("terms/0000000001/0000000001", Bytes::from(format!("racer {n}"))).await }
    }))
    .await;
    for result in racing {
        winners += u32::from(result.expect("a race has a clear answer for each") == Created::New);
    }
    assert_eq!(winners, 1, "exactly one of several creates at once wins");

    let listed: Vec<_> = store.list("terms").await.expect("a list succeeds").into_iter().map(|o| o.path).collect();
    assert_eq!(
        listed,
        ["terms/0000000001/0000000001", "terms/0000000001/opening"],
        "a list shows all that was created, sorted"
    );
    assert!(store.list("parts").await.expect("an empty list is no error").is_empty(), "an empty folder lists nothing");

    let later =
        store.list_after("terms", "terms/0000000001/0000000001", u64::MAX).await.expect("a list may begin anywhere");
    assert_eq!(later.len(), 1, "what comes after is listed, and not what it begins at: {later:?}");
    let later = store.list_after("terms", "terms/0000000001", u64::MAX).await.expect("a list may begin at a folder");
    assert_eq!(later.len(), 2, "what is in the folder comes after its name: {later:?}");
    let later = store.list_after("terms", "terms/0000000002", u64::MAX).await.expect("a list may begin after the end");
    assert!(later.is_empty(), "nothing comes after the last: {later:?}");

    let range = store.get_range("terms/0000000001/opening", 1..3).await.expect("a range can be read");
    assert_eq!(range, bytes("ne"), "a range is that range");

    match store.get("parts/nothing").await {
        Err(StorageError::NotFound { path, .. }) => assert_eq!(path, "parts/nothing", "the error names the object"),
        other => panic!("a missing object must be NotFound, not {other:?}"),
    }

    store.delete("terms/0000000001/0000000001").await.expect("a delete succeeds");
    store.delete("terms/0000000001/0000000001").await.expect("a second delete is no error");
    let listed = store.list("terms").await.expect("a list succeeds");
    assert_eq!(listed.len(), 1, "what was deleted is not listed");
}
