//! `weir controller`: the jobs of a cluster, each with a supervisor of its own.
//!
//! A look at a job is a visible pipeline: observe ([`observe`]), [`validate`], [`plan`], [`build`], [`apply`], [`status`] (written by
//! [`report`]). Beside it run the election ([`lease`]) and the supervisors ([`jobs`]). Only a leader looks at jobs; losing the lease
//! lets go of all supervisors and stops no worker.

pub mod apply;
pub mod build;
pub mod certs;
pub mod delete;
pub mod events;
pub mod jobs;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod permissions;
pub mod plan;
pub mod publisher;
pub mod reasons;
pub mod reconcile;
pub mod report;
pub mod status;
pub mod storage;
pub mod validate;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Service, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    runtime::{
        Controller, Predicate, WatchStreamExt, predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use weir_pages::{Answers, Scope};
use weir_protocol::ids::random_digits;

use self::{
    apply::Applied,
    build::policy::Peers,
    jobs::{Jobs, key},
    lease::Role,
    metrics::{Call, Metrics},
    publisher::Publisher,
    reconcile::{Guarded, error_policy, reconcile},
    storage::{OwnStorage, Storage},
    validate::Identity,
};
use crate::effects::chain;

/// Jobs that are looked at at once.
const CONCURRENCY: u16 = 16;
/// From one look for jobs that are gone to the next.
const SWEEP: Duration = Duration::from_secs(2);
/// Supervisors let go of their workers in milliseconds; a leader that ends does not wait longer than this for them, which is
/// less than the margin of its lease.
const LEAVING: Duration = Duration::from_millis(1500);
/// An API server that is not there yet is asked again after this.
const START_RETRY: Duration = Duration::from_secs(2);
/// The election takes a turn every two seconds; without one for so long this process hangs.
const HANGS: Duration = Duration::from_mins(1);

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

/// Why the controller could not work.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is no cluster to speak to.
    #[error("the cluster cannot be reached: {0}; inside a pod the ServiceAccount tells how, elsewhere KUBECONFIG")]
    Config(String),
    /// It cannot listen.
    #[error("{address} cannot be listened on: {source}; name another with --http or --metrics")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What everything in the controller shares.
pub struct Context {
    client: Client,
    options: Options,
    /// The cluster's identity.
    cluster: String,
    /// This process, by a name that no other ever has.
    process: String,
    role: watch::Receiver<Role>,
    publisher: Publisher,
    metrics: Metrics,
    applied: Applied,
    jobs: Jobs,
    storage: Storage,
    wake: Mutex<Option<mpsc::UnboundedSender<ObjectRef<Guarded>>>>,
}

impl Context {
    fn leads(&self) -> bool {
        self.role.borrow().leads()
    }

    /// Has a job looked at soon.
    fn wake(&self, identity: &Identity) {
        self.wake_named(&identity.namespace, &identity.name);
    }

    /// The same of the job that has this name now.
    fn wake_named(&self, namespace: &str, name: &str) {
        let wake = self.wake.lock();
        if let Some(wake) = wake.as_ref() {
            // Bounded by what wakes: a job's own rare facts; the scheduler keeps one entry a job.
            let _ = wake.send(ObjectRef::new(name).within(namespace));
        }
    }

    /// A name for one supervisor, that no other ever has.
    fn coordinator_name(&self) -> String {
        format!("{}:{}", self.process, random_digits(8))
    }

    /// A job of the same name that was there before is let go of first. True while it is.
    fn gone_first(&self, identity: &Identity) -> bool {
        let older = {
            let entries = self.jobs.lock();
            let entry = entries.get(&key(identity)).filter(|entry| entry.identity.uid != identity.uid);
            entry.map(|entry| entry.identity.clone())
        };
        older.is_some_and(|older| !self.let_go(&older))
    }

    /// The resource is gone. True once nothing of the job is left here.
    fn let_go(&self, identity: &Identity) -> bool {
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
    fn sweep(&self, store: &Store<Guarded>) {
        let there: BTreeSet<String> =
            store.state().iter().filter_map(|resource| Identity::of(resource.as_ref())).map(|job| job.uid).collect();
        let known: Vec<Identity> = self.jobs.lock().values().map(|entry| entry.identity.clone()).collect();
        for identity in known.iter().filter(|identity| !there.contains(&identity.uid)) {
            self.let_go(identity);
        }
        self.metrics.jobs(&self.jobs.counts());
    }
}

/// What `/readyz` and `/healthz` say.
struct Health {
    metrics: Metrics,
    role: watch::Receiver<Role>,
    /// Why jobs cannot be looked after here yet; none once the API server answers and serves StreamJobs.
    complaint: Mutex<Option<String>>,
    /// The leader has listed all jobs.
    listed: AtomicBool,
    turned: Mutex<Instant>,
}

impl Answers for Health {
    fn metrics(&self) -> String {
        self.metrics.encode()
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
        (turned.elapsed() > HANGS).then(|| format!("the election has not moved for {} s", turned.elapsed().as_secs()))
    }
}

/// A client whose calls are counted.
async fn client(metrics: &Metrics) -> Result<Client, RunError> {
    let config = Config::infer().await.map_err(|error| RunError::Config(chain(&error)))?;
    let metrics = metrics.clone();
    let count = tower::util::MapRequestLayer::new(move |request: hyper::Request<kube::client::Body>| {
        let method = match *request.method() {
            hyper::Method::GET => "GET",
            hyper::Method::POST => "POST",
            hyper::Method::PUT => "PUT",
            hyper::Method::PATCH => "PATCH",
            hyper::Method::DELETE => "DELETE",
            _ => "OTHER",
        };
        let resource = metrics::resource(request.uri().path()).to_string();
        metrics.called(&Call { method, resource });
        request
    });
    let builder = ClientBuilder::try_from(config).map_err(|error| RunError::Config(chain(&error)))?;
    Ok(builder.with_layer(&count).build())
}

/// Runs until `shutdown`; then lets go of all jobs and gives the lease back.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let metrics = Metrics::default();
    let client = client(&metrics).await?;
    let (role_sender, role) = watch::channel(Role::default());
    let health = Arc::new(Health {
        metrics: metrics.clone(),
        role: role.clone(),
        complaint: Mutex::new(Some("the API server has not answered yet".to_string())),
        listed: AtomicBool::new(false),
        turned: Mutex::new(Instant::now()),
    });
    let first = if options.metrics.is_some() { Scope::Probes } else { Scope::All };
    for (address, scope) in std::iter::once((options.http, first)).chain(options.metrics.map(|at| (at, Scope::All))) {
        let refused = |source| RunError::Http { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        tracing::info!(%address, ?scope, "pages are served");
        tokio::spawn(weir_pages::serve(listener, scope, Arc::clone(&health) as Arc<dyn Answers>));
    }
    tokio::pin!(shutdown);

    let Some(cluster) = until(&mut shutdown, first_contact(&client, &options, &health)).await else { return Ok(()) };
    let process = format!("{}:{}", options.pod_name, random_digits(8));
    let publisher = Publisher::start(client.clone(), options.pod_name.clone());
    let context = Arc::new(Context {
        client: client.clone(),
        cluster,
        process: process.clone(),
        role: role.clone(),
        publisher,
        metrics: metrics.clone(),
        applied: Applied::default(),
        jobs: Jobs::default(),
        storage: Storage::new(options.own_storage.clone()),
        wake: Mutex::new(None),
        options: options.clone(),
    });
    let (leaving, told_to_leave) = watch::channel(false);
    let election = {
        let (namespace, name) = (options.lease_namespace.clone(), options.lease.clone());
        tokio::spawn(async move {
            lease::run(client, &namespace, &name, process, role_sender, told_to_leave, metrics).await;
        })
    };
    keep_turning(&health, role.clone());

    loop {
        if until(&mut shutdown, becomes(role.clone(), true)).await.is_none() {
            break;
        }
        tracing::info!("this process leads");
        let ended = until(&mut shutdown, lead(&context, &health, role.clone())).await;
        context.wake.lock().take();
        context.jobs.leave_all(LEAVING).await;
        context.metrics.jobs(&BTreeMap::new());
        health.listed.store(false, Ordering::Relaxed);
        if ended.is_none() {
            break;
        }
        tracing::warn!("this process does not lead any more");
    }
    // Only now, when nobody here acts any more, may another lead.
    leaving.send_replace(true);
    if tokio::time::timeout(lease::DURATION, election).await.is_err() {
        tracing::warn!("the lease could not be given back; it runs out by itself");
    }
    Ok(())
}

/// The future's result; none where the end comes first.
async fn until<T>(shutdown: &mut (impl Future<Output = ()> + Unpin), work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = shutdown => None,
        done = work => Some(done),
    }
}

/// Waits until this process leads, or does not lead.
async fn becomes(mut role: watch::Receiver<Role>, leads: bool) {
    loop {
        let current = *role.borrow_and_update();
        if current.leads() == leads {
            return;
        }
        // A leader's time may end without any word from the election.
        let end = current.until.filter(|_| !current.holds_on && current.leads()).map(tokio::time::Instant::from_std);
        let wake = end.unwrap_or_else(|| tokio::time::Instant::now() + HANGS);
        tokio::select! {
            changed = role.changed() => if changed.is_err() && !leads { return },
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Waits until the API server answers and knows StreamJobs.
async fn first_contact(client: &Client, options: &Options, health: &Health) -> String {
    loop {
        // What is missing is missing outside: a new process would not find it either.
        *health.turned.lock() = Instant::now();
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
fn keep_turning(health: &Arc<Health>, mut role: watch::Receiver<Role>) {
    let health = Arc::clone(health);
    tokio::spawn(async move {
        while role.changed().await.is_ok() {
            *health.turned.lock() = Instant::now();
        }
    });
}

/// Looks after all jobs until this process does not lead any more.
async fn lead(context: &Arc<Context>, health: &Arc<Health>, role: watch::Receiver<Role>) {
    let api: Api<Guarded> = match &context.options.watch_namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let (store, writer) = reflector::store();
    let about = Arc::clone(context);
    let jobs = watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .inspect(move |event| {
            // Its pods go with it: there is a last checkpoint to be taken while they still run.
            if let Ok(watcher::Event::Delete(gone)) = event
                && let Some(identity) = Identity::of(gone)
            {
                about.let_go(&identity);
            }
        })
        .reflect(writer)
        .applied_objects()
        // Its own status writes are not looked at.
        .predicate_filter(
            predicates::generation
                .combine(predicates::finalizers)
                .combine(predicates::annotations)
                .combine(watches::asks_for_status),
            kube::runtime::PredicateConfig::default(),
        );
    let (wake, woken) = mpsc::unbounded_channel();
    *context.wake.lock() = Some(wake);
    let controller = Controller::for_stream(jobs, store.clone())
        .with_config(kube::runtime::controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(UnboundedReceiverStream::new(woken))
        .reconcile_on(watches::touched::<Service>(context))
        .reconcile_on(watches::touched::<NetworkPolicy>(context))
        .reconcile_on(watches::touched::<PodDisruptionBudget>(context))
        .run(reconcile, error_policy, Arc::clone(context))
        .for_each(|result| async move {
            if let Err(error) = result
                && !matches!(error, kube::runtime::controller::Error::ObjectNotFound(_))
            {
                tracing::debug!(error = chain(&error), "the controller's stream");
            }
        });
    let sweeping = async {
        if store.wait_until_ready().await.is_ok() {
            health.listed.store(true, Ordering::Relaxed);
        }
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            sweep.tick().await;
            context.sweep(&store);
        }
    };
    tokio::select! {
        () = controller => tracing::error!("the watch of jobs ended"),
        () = sweeping => {}
        () = becomes(role, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
