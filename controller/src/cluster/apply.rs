//! Server-side apply of a job's objects. One field manager, always forced: what Weir sets is Weir's, what others add stays.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use super::names;

/// Applies objects, and remembers what was applied, so that a look at a job that has not changed asks nothing of the API
/// server.
#[derive(Default)]
pub struct Applied {
    hashes: Mutex<BTreeMap<String, u64>>,
}

impl Applied {
    /// Applies one object of a namespace, unless this very object was applied before. `again`: something has changed it since.
    pub async fn apply<K>(&self, client: &Client, object: &K, again: bool) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let meta = object.meta();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let key = format!("{}/{namespace}/{name}", K::kind(&()));
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(object).unwrap_or_default().hash(&mut hasher);
        let hash = hasher.finish();
        if !again && self.hashes.lock().get(&key) == Some(&hash) {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        api.patch(&name, &PatchParams::apply(names::MANAGER).force(), &Patch::Apply(object)).await?;
        self.hashes.lock().insert(key, hash);
        Ok(())
    }

    /// Forgets a job's objects: they are gone with it.
    pub fn forget(&self, namespace: &str, job: &str) {
        let start = format!("/{namespace}/{job}-");
        let mut hashes = self.hashes.lock();
        hashes.retain(|key, _| !key.contains(&start));
    }
}

/// What the API server said no to, with a reason that somebody can act upon; none where it did not answer or was in trouble
/// itself.
pub fn refusal(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if [400, 403, 422].contains(&status.code) => Some(status.message.clone()),
        _ => None,
    }
}
