//! `weir controller`.

use std::net::SocketAddr;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use weir_protocol::stored::FORMAT_VARIABLE;

use super::{Exit, Failure, format_of};
use crate::cluster::{self, Options, build::policy::Peers, storage::OwnStorage};

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
    /// The version in which checkpoints are written: 2 while the build before is to be able to read them. [default: 3]
    #[arg(long, env = FORMAT_VARIABLE, value_parser = format_of, default_value = "", hide_default_value = true)]
    state_format: u32,
    /// Where /healthz and /readyz are served, and /metrics too unless that has an address of its own.
    #[arg(long, default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Where /metrics is served apart from the probes, so that whoever may read metrics cannot keep the kubelet out.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Who may read the workers' metrics: a NetworkPolicy's `from` in JSON. Nobody beside the kubelet's node if empty.
    #[arg(long, default_value = "[]", value_name = "JSON")]
    metrics_from: Peers,
    /// A priority class that podTemplate may name. Repeat it for more; any other is refused.
    #[arg(long, value_name = "NAME")]
    allow_priority_class: Vec<String>,
    /// Look after jobs of this namespace only, instead of all.
    #[arg(long)]
    watch_namespace: Option<String>,
    /// Where the checkpoints of jobs without secretRef may be reached with this controller's own identity: `s3://bucket/prefix`,
    /// and after commas endpoint=https://… and namespace=… where it is for these only. Repeat it for more places; elsewhere such
    /// jobs are refused.
    #[arg(long, value_name = "PLACE")]
    own_identity_for: Vec<OwnStorage>,
    /// The cluster's identity, if the controller may not read that of the namespace kube-system, which it is else.
    #[arg(long)]
    cluster_id: Option<String>,
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
        state_format: args.state_format,
        http: args.http,
        metrics: args.metrics,
        metrics_from: args.metrics_from,
        priority_classes: args.allow_priority_class,
        watch_namespace: args.watch_namespace,
        own_storage: args.own_identity_for,
        cluster_id: args.cluster_id,
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
