//! What all looks at jobs share: how the controller was started, who leads, the jobs that are looked after, and how a job comes to
//! be looked at again.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use kube::{
    Client,
    core::DeserializeGuard,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use weir_crds::StreamJob;
use weir_protocol::ids::random_digits;
use weir_runtime::tasks;

use super::{
    apply::Applied,
    build::policy::Peers,
    identity::Identity,
    jobs::{Jobs, TRY_AGAIN, key},
    lease::Role,
    metrics::Metrics,
    publisher::Publisher,
    storage::{OwnStorage, Storage},
};

/// What a supervisor did not hear is said again after this.
const RETELL: Duration = Duration::from_secs(1);

/// The guard lets a list with one wrong object in it through.
pub type Guarded = DeserializeGuard<StreamJob>;

/// How the controller is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the Lease is.
    pub lease_namespace: String,
    /// Its name.
    pub lease: String,
    /// The image of jobs that name none.
    pub worker_image: String,
    /// The version in which openings, records and parts of jobs are written.
    pub state_format: u32,
    /// Where health is served, and metrics where they have no address of their own.
    pub http: SocketAddr,
    /// Where metrics are served apart from the probes.
    pub metrics: Option<SocketAddr>,
    /// Who may read the workers' metrics.
    pub metrics_from: Peers,
    /// Priority classes that a job's pods may have.
    pub priority_classes: Vec<String>,
    /// The only namespace that is looked after; all of them if none.
    pub watch_namespace: Option<String>,
    /// Where jobs without keys of their own are reached with this controller's identity.
    pub own_storage: Vec<OwnStorage>,
    /// The cluster's identity; read from the cluster if none.
    pub cluster_id: Option<String>,
    /// This pod's name.
    pub pod_name: String,
    /// This pod's namespace.
    pub pod_namespace: String,
}

/// What everything in the controller shares.
pub struct Context {
    pub(super) client: Client,
    pub(super) options: Options,
    /// The cluster's identity.
    pub(super) cluster: String,
    /// This process, by a name that no other ever has.
    pub(super) process: String,
    pub(super) role: watch::Receiver<Role>,
    pub(super) publisher: Publisher,
    pub(super) metrics: Metrics,
    pub(super) applied: Applied,
    pub(super) jobs: Jobs,
    pub(super) storage: Storage,
    pub(super) wake: Mutex<Option<mpsc::UnboundedSender<ObjectRef<Guarded>>>>,
}

impl Context {
    pub(super) fn leads(&self) -> bool {
        self.role.borrow().leads()
    }

    /// Has a job looked at soon.
    pub(super) fn wake(&self, identity: &Identity) {
        self.wake_named(&identity.namespace, &identity.name);
    }

    /// The same of the job that has this name now.
    pub(super) fn wake_named(&self, namespace: &str, name: &str) {
        let wake = self.wake.lock();
        if let Some(wake) = wake.as_ref() {
            // Bounded by what wakes: a job's own rare facts; the scheduler keeps one entry a job.
            let _ = wake.send(ObjectRef::new(name).within(namespace));
        }
    }

    /// A name for one supervisor, that no other ever has.
    pub(super) fn coordinator_name(&self) -> String {
        format!("{}:{}", self.process, random_digits(8))
    }

    /// A job of the same name that was there before is let go of first. True while it is.
    pub(super) fn gone_first(&self, identity: &Identity) -> bool {
        let older = {
            let entries = self.jobs.lock();
            let entry = entries.get(&key(identity)).filter(|entry| entry.identity.uid != identity.uid);
            entry.map(|entry| entry.identity.clone())
        };
        older.is_some_and(|older| !self.let_go(&older))
    }

    /// The resource is gone. True once nothing of the job is left here.
    pub(super) fn let_go(&self, identity: &Identity) -> bool {
        let mut entries = self.jobs.lock();
        let Some(entry) = entries.get_mut(&key(identity)) else { return true };
        if let Some(running) = &mut entry.supervisor {
            running.deleted(true);
            return false;
        }
        entry.report.stop();
        entries.remove(&key(identity));
        self.applied.forget(&identity.namespace, &identity.name);
        true
    }

    /// Lets go of jobs whose resource is not there any more, and counts the others.
    pub(super) fn sweep(&self, store: &Store<Guarded>) {
        let there: BTreeSet<String> =
            store.state().iter().filter_map(|resource| Identity::of(resource.as_ref())).map(|job| job.uid).collect();
        let known: Vec<Identity> = self.jobs.lock().values().map(|entry| entry.identity.clone()).collect();
        for identity in known.iter().filter(|identity| !there.contains(&identity.uid)) {
            self.let_go(identity);
        }
        self.metrics.jobs(&self.jobs.counts());
    }

    /// Has a job looked at again after [`TRY_AGAIN`].
    pub(super) fn wake_later(self: &Arc<Self>, identity: &Identity) {
        // A little later than that, so that it is over for certain.
        self.wake_after(identity, TRY_AGAIN + Duration::from_millis(100));
    }

    /// Has a job looked at again soon: its supervisor has not heard something.
    pub(super) fn wake_to_retell(self: &Arc<Self>, identity: &Identity) {
        self.wake_after(identity, RETELL);
    }

    fn wake_after(self: &Arc<Self>, identity: &Identity, after: Duration) {
        let (context, identity) = (Arc::clone(self), identity.clone());
        tasks::spawn(async move {
            tokio::time::sleep(after).await;
            context.wake(&identity);
        });
    }
}
