//! This process as one of several: it takes part in the election, and looks after all jobs while it leads.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Service, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    runtime::{Controller, Predicate, WatchStreamExt, predicates, reflector, watcher},
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
use weir_runtime::{clock, tasks};

use super::{
    apply::Applied,
    context::{Context, Guarded, Options},
    health::{HANGS, Health, first_contact, keep_turning},
    identity::Identity,
    jobs::Jobs,
    lease::{self, Role},
    metrics::{self, Call, Metrics},
    publisher::Publisher,
    reconcile::{error_policy, reconcile},
    storage::Storage,
    watches,
};
use crate::effects::chain;

/// Jobs that are looked at at once.
const CONCURRENCY: u16 = 16;
/// From one look for jobs that are gone to the next.
const SWEEP: Duration = Duration::from_secs(2);
/// Supervisors let go of their workers in milliseconds; a leader that ends does not wait longer than this for them, which is
/// less than the margin of its lease.
const LEAVING: Duration = Duration::from_millis(1500);

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
        turned: Mutex::new(clock::now()),
    });
    let first = if options.metrics.is_some() { Scope::Probes } else { Scope::All };
    for (address, scope) in std::iter::once((options.http, first)).chain(options.metrics.map(|at| (at, Scope::All))) {
        let refused = |source| RunError::Http { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        tracing::info!(%address, ?scope, "pages are served");
        tasks::spawn(weir_pages::serve(listener, scope, Arc::clone(&health) as Arc<dyn Answers>));
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
        tasks::spawn(async move {
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
                .combine(watches::asks),
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
