//! A namespace for each case, under the restricted pod security level, with the credentials of its storage in it.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU16, Ordering},
};

use k8s_openapi::api::core::v1::{Event, Namespace, Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    install::{Controllers, SYSTEM},
    s3::{self, Bucket},
    toxiproxy::{self, Proxy},
    wait::{answered, until},
};

/// The Secret that jobs name.
pub const SECRET: &str = "storage";
static LISTENERS: AtomicU16 = AtomicU16::new(toxiproxy::FIRST_LISTENER);

/// What a case works in.
#[derive(Clone)]
pub struct Space {
    pub cluster: Cluster,
    pub controllers: Arc<Controllers>,
    pub name: String,
    pub bucket: Bucket,
}

impl Space {
    /// A new namespace for a case.
    pub async fn new(cluster: &Cluster, controllers: &Arc<Controllers>, case: &str) -> Self {
        let mut name = format!("{}-{:04x}", case.replace('_', "-"), rand::random::<u16>());
        if name.len() > 45 {
            name = format!("{}-{:04x}", name[..40].trim_end_matches('-'), rand::random::<u16>());
        }
        let space = Self {
            cluster: cluster.clone(),
            controllers: controllers.clone(),
            bucket: Bucket::at(&cluster.node),
            name,
        };
        space.create().await;
        space
    }

    /// Makes the namespace, again if it was deleted, and the Secret in it.
    pub async fn create(&self) {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": self.name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted", "weir.dev/e2e": "case",
        }}}))
        .expect("a namespace");
        Api::all(self.cluster.client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .expect("the namespace is made");
        self.secret(s3::PASSWORD).await;
    }

    async fn secret(&self, password: &str) {
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": SECRET}, "stringData": {
            "AWS_ACCESS_KEY_ID": s3::USER, "AWS_SECRET_ACCESS_KEY": password,
        }}))
        .expect("a secret");
        Api::namespaced(self.cluster.client.clone(), &self.name)
            .create(&PostParams::default(), &secret)
            .await
            .expect("the secret is made");
    }

    /// Deletes the namespace, and waits until it is gone.
    pub async fn delete(&self) {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        let _ = namespaces.delete(&self.name, &DeleteParams::default()).await;
        until("the namespace is gone", || async {
            matches!(namespaces.get_opt(&self.name).await, Ok(None)).then_some(())
        })
        .await;
    }

    /// Deletes the namespace without waiting for it.
    pub async fn tidy(&self) {
        let _ = Api::<Namespace>::all(self.cluster.client.clone()).delete(&self.name, &DeleteParams::default()).await;
    }

    /// A proxy of this case's own before the storage, and the endpoint that leads through it.
    pub async fn proxy(&self) -> (Proxy, String) {
        let listener = LISTENERS.fetch_add(1, Ordering::Relaxed);
        let proxy = Proxy::open(&self.cluster.node, &self.name, listener).await;
        (proxy, format!("http://toxiproxy.{SYSTEM}.svc.cluster.local:{listener}"))
    }

    /// The reasons and messages of all events about an object, the oldest first.
    pub async fn events(&self, about: &str) -> Vec<(String, String)> {
        let mut found = self.event_objects(about).await;
        found.sort_by_key(|event| event.metadata.creation_timestamp.clone().map(|time| time.0));
        found.into_iter().map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default())).collect()
    }

    /// All events about an object.
    pub async fn event_objects(&self, about: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.cluster.client.clone(), &self.name);
        let parameters = ListParams::default().fields(&format!("involvedObject.name={about}"));
        answered("listing events", || events.list(&parameters)).await.items
    }
}
