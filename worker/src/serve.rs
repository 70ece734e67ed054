//! `weir-worker serve`: listens, says where on standard output, and runs what a coordinator deploys.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::FileTypeExt,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use weir_engine::{
    control::server::{ServeError, WorkerOptions, WorkerServer},
    net::{
        listener::{Listener, UNIX},
        tls::{self, Tls, TlsError},
    },
};
use weir_pages::Scope;
use weir_protocol::BUILD_VERSION;
use weir_runtime::tasks;
use weir_sql::Catalog;
use weir_state::BackendRegistry;

use crate::{ServeOptions, http::Pages, plan::SqlPlanner};

/// Threads for the network, connectors and transfers. Subtasks have threads of their own, and need the cores more.
const RUNTIME_THREADS: usize = 2;
/// A plan may be dropped on any of them, and its expressions are dropped level by level: as deep as the planner lets through.
const STACK: usize = 8 << 20;
/// More than any state has; a limit of none would be refused by some kernels.
const MANY_FILES: u64 = 1 << 20;
/// The end takes some milliseconds; a process that is told to go is gone after this in any case.
const END_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
enum Failed {
    #[error("the runtime could not start")]
    Runtime(#[source] io::Error),
    #[error("cannot listen on {address}; name another address with --listen")]
    Listen { address: String, source: io::Error },
    #[error(
        "{address} is an address at which anybody could tell this worker what to run: name the folder of certificates in --tls-dir, or \
         a socket in --listen unix:PATH"
    )]
    Open { address: String },
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("standard output could not be written")]
    Announce(#[source] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// The line on standard output.
#[derive(Serialize)]
struct Listening<'a> {
    address: String,
    worker: &'a str,
    version: &'a str,
    pid: u32,
}

/// Serves until it is told to stop.
pub fn main(options: ServeOptions, catalog: Catalog, backends: BackendRegistry) -> ExitCode {
    open_many_files();
    let served = runtime().and_then(|runtime| {
        let served = runtime.block_on(serve(options, catalog, backends));
        // What still waits for a disk or a peer does so for nobody.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::error!("{error}{cause}");
            ExitCode::FAILURE
        }
    }
}

/// State is many files that stay open, and the soft limit that a process begins with is meant for others.
fn open_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.map_or(MANY_FILES, |maximum| maximum.min(MANY_FILES)));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

fn runtime() -> Result<Runtime, Failed> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(RUNTIME_THREADS).thread_name("io").thread_stack_size(STACK);
    builder.enable_all().build().map_err(Failed::Runtime)
}

async fn serve(options: ServeOptions, mut catalog: Catalog, backends: BackendRegistry) -> Result<(), Failed> {
    catalog.connectors.close(options.tls_dir.iter().chain([&options.state_dir]).cloned());
    tls::install_crypto_provider();
    let refused = |address: &str| {
        let address = address.to_string();
        move |source| Failed::Listen { address, source }
    };
    let listen = match options.listen {
        Some(listen) => listen,
        None => format!("{UNIX}{}", options.state_dir.join("socket").display()),
    };
    if options.tls_dir.is_none() && !listen.starts_with(UNIX) {
        return Err(Failed::Open { address: listen });
    }
    let listener = Listener::bind(&listen).await.map_err(refused(&listen))?;
    let bound = listener.address().map_err(refused(&listen))?;
    let address = options.advertise.unwrap_or(bound);
    let alone = options.metrics.is_none();
    let mut pages = Vec::new();
    for (address, scope) in
        [(&options.http, if alone { Scope::All } else { Scope::Probes }), (&options.metrics, Scope::All)]
    {
        if let Some(address) = address {
            pages.push((TcpListener::bind(address).await.map_err(refused(address))?, scope));
        }
    }
    let shutdown = CancellationToken::new();
    if options.parent_stdin || stdin_is_a_pipe() {
        end_with_stdin(shutdown.clone()).map_err(Failed::Runtime)?;
    }
    let planner = Arc::new(SqlPlanner::new(catalog).with_processes(options.memory));
    let mut worker = WorkerOptions::new(options.state_dir, options.memory, backends, planner);
    worker.tls = options.tls_dir.as_deref().map(Tls::new).transpose()?;
    leave_when_told(worker.leave.clone()).map_err(Failed::Signals)?;
    let listening = Listening { address, worker: &worker.worker.0, version: BUILD_VERSION, pid: std::process::id() };
    announce(&listening).map_err(Failed::Announce)?;
    tracing::info!(address = listening.address, worker = listening.worker, memory = worker.memory, "listening");
    let worker = WorkerServer::new(worker);
    for (listener, scope) in pages {
        tasks::detach(weir_pages::serve(listener, scope, Arc::new(Pages(worker.metrics()))));
    }
    Ok(worker.serve(listener, shutdown).await?)
}

/// A pod that is drained, preempted or deleted is sent SIGTERM first.
fn leave_when_told(leave: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tasks::detach(async move {
        if terminate.recv().await.is_some() {
            leave.cancel();
        }
    });
    Ok(())
}

fn announce(listening: &Listening<'_>) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, listening)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// Whoever starts a worker with a pipe holds its other end: a service manager and a container give no pipe.
fn stdin_is_a_pipe() -> bool {
    fs::metadata("/dev/stdin").is_ok_and(|stdin| stdin.file_type().is_fifo())
}

/// Standard input closes when the process that started this one is gone, however it ended.
fn end_with_stdin(shutdown: CancellationToken) -> io::Result<()> {
    let watch = move || {
        // What comes is of no interest. An error means the same as the end.
        while matches!(io::stdin().read(&mut [0; 256]), Ok(read) if read > 0) {}
        tracing::info!("standard input has closed, and the worker ends");
        shutdown.cancel();
        thread::sleep(END_DEADLINE);
        tracing::warn!("the worker did not end in time");
        std::process::exit(0);
    };
    thread::Builder::new().name("stdin".to_string()).spawn(watch).map(drop)
}
