//! `weir controller`.

use std::net::SocketAddr;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure};
use crate::cluster::{self, Options};

/// What the operator is told on its command line. Nothing secret is: credentials stand in Secrets.
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// Where the Lease of the election is.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace_of_lease: String,
    /// Its name.
    #[arg(long, default_value = "weir-controller")]
    lease: String,
    /// The worker image of jobs that name none.
    #[arg(long)]
    worker_image: String,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Look after jobs of this namespace only, instead of all.
    #[arg(long)]
    watch_namespace: Option<String>,
    /// This pod's name, in the Lease and in events.
    #[arg(long, env = "POD_NAME", default_value = "weir-controller")]
    pod_name: String,
    /// This pod's namespace: workers let in controllers from there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pod_namespace: String,
}

/// Runs until it is told to end.
pub(super) async fn run(args: ControllerArgs) -> Result<(), Failure> {
    let options = Options {
        lease_namespace: args.namespace_of_lease,
        lease: args.lease,
        worker_image: args.worker_image,
        http: args.http,
        watch_namespace: args.watch_namespace,
        pod_name: args.pod_name,
        pod_namespace: args.pod_namespace,
    };
    let failed =
        |error: std::io::Error| Failure::new(Exit::Environment, format!("signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end: the jobs are let go of, and run on");
    };
    cluster::run(options, Box::pin(shutdown)).await.map_err(|error| Failure::new(Exit::Environment, error))
}
