//! Whether this process could look after jobs, as its probes are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kube::Client;
use parking_lot::Mutex;
use tokio::sync::watch;
use weir_pages::Answers;
use weir_runtime::{clock, tasks};

use super::{context::Options, lease::Role, metrics::Metrics, observe};
use crate::effects::chain;

/// An API server that is not there yet is asked again after this.
const START_RETRY: Duration = Duration::from_secs(2);
/// The election takes a turn every two seconds; without one for so long this process hangs.
pub const HANGS: Duration = Duration::from_mins(1);

/// What `/readyz` and `/healthz` say.
pub(super) struct Health {
    pub(super) metrics: Metrics,
    pub(super) role: watch::Receiver<Role>,
    /// Why jobs cannot be looked after here yet; none once the API server answers and serves StreamJobs.
    pub(super) complaint: Mutex<Option<String>>,
    /// The leader has listed all jobs.
    pub(super) listed: AtomicBool,
    pub(super) turned: Mutex<Instant>,
}

impl Answers for Health {
    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn page(&self, path: &str) -> Option<String> {
        self.metrics.page(path)
    }

    fn not_ready(&self) -> Option<String> {
        if let Some(complaint) = self.complaint.lock().clone() {
            return Some(complaint);
        }
        let role = *self.role.borrow();
        if role.leads() {
            return (!self.listed.load(Ordering::Relaxed)).then(|| "the jobs have not been listed yet".to_string());
        }
        (!role.in_touch).then(|| "the lease cannot be read".to_string())
    }

    fn not_well(&self) -> Option<String> {
        let turned = *self.turned.lock();
        (clock::since(turned) > HANGS)
            .then(|| format!("the election has not moved for {} s", clock::since(turned).as_secs()))
    }
}

/// Waits until the API server answers and knows StreamJobs.
pub(super) async fn first_contact(client: &Client, options: &Options, health: &Health) -> String {
    loop {
        // What is missing is missing outside: a new process would not find it either.
        *health.turned.lock() = clock::now();
        let cluster = async {
            observe::served(client, options.watch_namespace.as_deref()).await?;
            match &options.cluster_id {
                Some(given) => Ok(given.clone()),
                None => observe::cluster(client).await,
            }
        };
        match cluster.await {
            Ok(cluster) => {
                health.complaint.lock().take();
                return cluster;
            }
            Err(error) => {
                let complaint = unserved(&error);
                let before = health.complaint.lock().replace(complaint.clone());
                if before.as_ref() != Some(&complaint) {
                    tracing::error!(complaint, "jobs cannot be looked after yet; tried again");
                }
            }
        }
        tokio::time::sleep(START_RETRY).await;
    }
}

/// Why jobs cannot be looked after yet. Only a resource that is not there is one for the charts.
fn unserved(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            "StreamJobs are not served here yet: install charts/weir-crds".to_string()
        }
        kube::Error::Api(status) => format!("StreamJobs cannot be listed yet: {status}"),
        _ => format!("StreamJobs cannot be listed yet: {}", chain(error)),
    }
}

/// Notes that the election moves.
pub(super) fn keep_turning(health: &Arc<Health>, mut role: watch::Receiver<Role>) {
    let health = Arc::clone(health);
    tasks::spawn(async move {
        while role.changed().await.is_ok() {
            *health.turned.lock() = clock::now();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{context::Guarded, identity::Identity};

    #[test]
    fn ready_is_who_could_do_the_work() {
        let leads = Role { until: Some(Instant::now() + Duration::from_mins(1)), in_touch: true, ..Role::default() };
        let stands_by = Role { in_touch: true, ..Role::default() };
        let cut_off = Role::default();
        for (role, unserved, listed, complaint) in [
            (stands_by, None, false, None),
            (leads, None, true, None),
            (leads, None, false, Some("not been listed")),
            (cut_off, None, false, Some("the lease")),
            (stands_by, Some("Unauthorized"), false, Some("Unauthorized")),
            (leads, Some("Unauthorized"), true, Some("Unauthorized")),
        ] {
            let (_role, watched) = watch::channel(role);
            let health = Health {
                metrics: Metrics::default(),
                role: watched,
                complaint: Mutex::new(unserved.map(str::to_string)),
                listed: listed.into(),
                turned: Mutex::new(Instant::now()),
            };
            let said = health.not_ready();
            match complaint {
                None => assert_eq!(said, None),
                Some(complaint) => assert!(said.is_some_and(|said| said.contains(complaint)), "{complaint}"),
            }
            assert_eq!(health.not_well(), None);
        }
    }

    #[test]
    fn the_charts_are_named_only_where_the_resource_is_missing() {
        let refused = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.to_string(), ..kube::core::Status::default() };
            unserved(&kube::Error::Api(status.boxed()))
        };
        assert!(refused(404, "page not found").contains("install charts/weir-crds"));
        let forbidden = refused(403, "streamjobs.weir.dev is forbidden");
        assert!(forbidden.contains("is forbidden") && !forbidden.contains("install"), "{forbidden}");
    }

    #[test]
    fn an_object_that_cannot_be_read_hides_no_other() {
        let read = |spec: serde_json::Value| {
            let object = serde_json::json!({"apiVersion": "weir.dev/v1alpha1", "kind": "StreamJob",
                "metadata": {"name": "a", "namespace": "n", "uid": "1"}, "spec": spec});
            serde_json::from_value::<Guarded>(object).unwrap()
        };
        let bad = read(serde_json::json!({"sql": 1}));
        assert!(bad.0.is_err(), "its SQL is a number");
        assert_eq!(Identity::of(&bad).unwrap().name, "a", "it is told so by its name");
    }
}
