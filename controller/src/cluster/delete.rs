//! The end of a job that is deleted. With `Retain` nothing is held back: the supervisor takes a last checkpoint while the
//! cluster removes the pods. With `Delete` a finalizer holds the resource until its prefix is empty, for a bounded time: storage
//! that is gone must not keep a resource, or a namespace, from going.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use weir_crds::StreamJob;
use weir_storage::{JobStore, StorageError};

use super::{names, validate::Identity};

/// So long after the deletion was asked for storage is tried; then what is left is left.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// One try.
const TRY: Duration = Duration::from_secs(20);
/// Objects removed at once.
const AT_ONCE: usize = 16;

/// What to do about the storage of a deleted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Workers or the supervisor are still there.
    Wait,
    /// Remove the prefix.
    Remove,
    /// Let the resource go.
    Release,
}

/// Decides what is next.
pub fn decide(finalized: bool, supervised: bool, pods: usize, deleted: &Time, now: Timestamp) -> Step {
    if !finalized {
        return Step::Release;
    }
    let patient = !out_of_time(deleted, now);
    if (supervised || pods > 0) && patient { Step::Wait } else { Step::Remove }
}

/// The patience with a deletion is over.
pub fn out_of_time(deleted: &Time, now: Timestamp) -> bool {
    let since = now.duration_since(deleted.0);
    since.as_secs() >= PATIENCE.as_secs() as i64
}

/// Removes everything below the job's prefix.
pub async fn remove(store: &JobStore) -> Result<usize, String> {
    let removed = tokio::time::timeout(TRY, remove_all(store)).await;
    match removed {
        Ok(removed) => removed.map_err(|error| crate::effects::chain(&error)),
        Err(_) => Err(format!("storage does not answer within {} s", TRY.as_secs())),
    }
}

async fn remove_all(store: &JobStore) -> Result<usize, StorageError> {
    // Records first, so that a deletion that stops half-way leaves no checkpoint that names what is gone.
    let mut objects: Vec<String> = store.list("").await?.into_iter().map(|object| object.path).collect();
    objects.sort_by_key(|path| !path.starts_with(weir_protocol::paths::TERMS));
    let count = objects.len();
    let removals = stream::iter(objects).map(|path| async move { store.delete(&path).await }).buffered(AT_ONCE);
    futures::pin_mut!(removals);
    while let Some(removed) = removals.next().await {
        removed?;
    }
    Ok(count)
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
    use super::*;

    #[test]
    fn a_deletion_waits_for_workers_and_never_for_ever() {
        let deleted = Time(Timestamp::from_second(1_800_000_000).unwrap());
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        for (finalized, supervised, pods, seconds, expected) in [
            (false, true, 2, 0, Step::Release),
            (true, true, 2, 1, Step::Wait),
            (true, false, 1, 1, Step::Wait),
            (true, false, 0, 1, Step::Remove),
            (true, true, 2, 61, Step::Remove),
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
        assert_eq!(remove(&mine).await.unwrap(), 2);
        assert!(mine.list("").await.unwrap().is_empty());
        assert_eq!(other.list("").await.unwrap().len(), 2);
    }

    fn weir_storage_memory() -> object_store::memory::InMemory {
        object_store::memory::InMemory::new()
    }
}
