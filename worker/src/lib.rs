//! The worker: the engine, the connectors and the SQL planner of this build, wired together behind a command line.
//!
//! The `weir-worker` binary is `Worker::new().main()`. A build with a user's own code is a binary of three lines:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     weir_worker::Worker::new()
//!         // .function(scalar_udf).connector("name", factory).state_backend("name", factory)
//!         .main()
//! }
//! ```
//!
//! Wiring only: nothing is decided here about checkpoints, plans or data.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod http;
mod plan;
mod serve;

use std::{net::Ipv6Addr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, Parser, Subcommand};
pub use datafusion_expr::ScalarUDF;
use tikv_jemallocator::Jemalloc;
use tracing_subscriber::EnvFilter;
use weir_connectors::{ConnectorFactory, ConnectorRegistry};
use weir_protocol::BUILD_VERSION;
use weir_sql::Catalog;
use weir_state::{BackendFactory, BackendRegistry};

/// One allocator for Rust and for RocksDB, so that what one gives back the other can use.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What may be logged, in the syntax of `RUST_LOG`.
const LOG_ENV: &str = "WEIR_LOG";

/// `json` for one JSON object a line, for whoever gathers the logs of many pods; anything else is for people.
const LOG_FORMAT_ENV: &str = "WEIR_LOG_FORMAT";

/// What a worker binary is made of.
pub struct Worker {
    catalog: Catalog,
    backends: BackendRegistry,
}

impl Default for Worker {
    fn default() -> Self {
        Self::new()
    }
}

impl Worker {
    /// The functions, connectors and state backends of Weir.
    pub fn new() -> Self {
        Self { catalog: Catalog::new(ConnectorRegistry::with_builtin()), backends: BackendRegistry::with_builtin() }
    }

    /// Adds a scalar function, which scripts call by its name.
    #[must_use]
    pub fn function(mut self, function: ScalarUDF) -> Self {
        self.catalog.add_function(function);
        self
    }

    /// Adds a connector, which tables name in `'connector' = '…'`.
    #[must_use]
    pub fn connector(mut self, name: &str, factory: Arc<dyn ConnectorFactory>) -> Self {
        self.catalog.connectors.register(name, factory);
        self
    }

    /// Adds a state backend, which jobs name in `state.backend`.
    #[must_use]
    pub fn state_backend(mut self, name: &str, factory: Arc<dyn BackendFactory>) -> Self {
        self.backends.register(name, factory);
        self
    }

    /// Does what the command line says.
    pub fn main(self) -> ExitCode {
        let cli = Cli::parse();
        log_to_stderr();
        match cli.command {
            Command::Plan(options) => plan::main(&options, &self.catalog),
            Command::Serve(options) => serve::main(options, self.catalog, self.backends),
        }
    }
}

/// Runs the subtasks that a coordinator deploys on it.
#[derive(Parser)]
#[command(name = "weir-worker", version = BUILD_VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Waits for a coordinator and runs what it deploys
    Serve(ServeOptions),
    /// Reads a plan request (JSON) on standard input, writes the plan or its errors (JSON) on standard output
    Plan(PlanOptions),
}

#[derive(Args)]
struct PlanOptions {
    /// The memory that planning may take beyond what the process has at its start
    #[arg(long, value_name = "BYTES", default_value_t = plan::limits::DEFAULT_MEMORY)]
    memory: u64,
}

#[derive(Args)]
struct ServeOptions {
    /// The folder below which this worker has a folder of its own for local state
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// The address to listen on, or `unix:` and the path of a socket, which is for this user on this machine; the one that was got is
    /// printed on standard output. By default a socket in the state folder
    #[arg(long, value_name = "HOST:PORT|unix:PATH")]
    listen: Option<String>,
    /// The address that others reach this worker at, where it is not the one that it listens on
    #[arg(long, value_name = "HOST:PORT", value_parser = dialable)]
    advertise: Option<String>,
    /// The address to serve /healthz and /readyz on, and /metrics too unless that has an address of its own; without it they are
    /// not served
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// The address to serve /metrics on, apart from the probes, so that whoever may read metrics cannot keep the kubelet out
    #[arg(long, value_name = "HOST:PORT", env = METRICS_ENV)]
    metrics: Option<String>,
    /// The folder with ca.crt, tls.crt and tls.key, which are read anew for each connection; needed for an address, at which anybody
    /// could connect
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// The memory that this worker may use
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MEMORY)]
    memory: u64,
    /// End when standard input closes; so it is in any case where standard input is a pipe
    #[arg(long)]
    parent_stdin: bool,
}

/// An address with a port, in the form that can be dialled: a platform that puts a pod's IPv6 address in front of a port
/// writes no brackets.
fn dialable(text: &str) -> Result<String, String> {
    let form = || format!("'{text}' is no address with a port; write it as 10.0.0.7:6120 or [fd00::7]:6120");
    let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_| form())?;
    match host.parse::<Ipv6Addr>() {
        Ok(host) => Ok(format!("[{host}]:{port}")),
        Err(_) if host.is_empty() || (host.contains(':') && !host.starts_with('[')) => Err(form()),
        Err(_) => Ok(format!("{host}:{port}")),
    }
}

/// Says the same as `--metrics`: a platform that starts workers of several versions names it so, which those pass over that do not
/// know it.
const METRICS_ENV: &str = "WEIR_METRICS";
/// What a worker may use where nobody says so.
const DEFAULT_MEMORY: u64 = 1 << 30;

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let json = std::env::var(LOG_FORMAT_ENV).is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    // A user's own binary may have set up logging already; then that holds.
    if if json { logging.json().flatten_event(true).try_init() } else { logging.try_init() }.is_err() {
        tracing::debug!("logging was set up before");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_needs_a_folder_and_planning_none() {
        let cli = Cli::try_parse_from(["weir-worker", "plan"]);
        assert!(matches!(cli.map(|cli| cli.command), Ok(Command::Plan(_))));
        let cli = Cli::try_parse_from(["weir-worker", "serve", "--memory", "1000", "--state-dir", "/tmp/x"]).unwrap();
        assert!(matches!(cli.command, Command::Serve(options) if options.memory == 1000 && options.listen.is_none()));
        assert!(Cli::try_parse_from(["weir-worker", "serve"]).is_err());
    }

    #[test]
    fn a_worker_in_a_pod_says_where_it_is_reached() {
        for (given, told) in [
            ("10.0.0.7:6120", Some("10.0.0.7:6120")),
            ("fd00::7:6120", Some("[fd00::7]:6120")),
            ("[fd00::7]:6120", Some("[fd00::7]:6120")),
            ("worker-1:6120", Some("worker-1:6120")),
            (":6120", None),
            ("10.0.0.7", None),
            ("10.0.0.7:port", None),
        ] {
            assert_eq!(dialable(given).ok().as_deref(), told, "{given}");
        }
        let arguments = ["weir-worker", "serve", "--state-dir", "/var/lib/weir", "--listen", "0.0.0.0:6120"];
        let more = ["--advertise", "10.0.0.7:6120", "--http", "0.0.0.0:9464", "--tls-dir", "/etc/weir/tls"];
        let cli = Cli::try_parse_from(arguments.into_iter().chain(more)).unwrap();
        let Command::Serve(options) = cli.command else { panic!("it serves") };
        assert_eq!(options.advertise.as_deref(), Some("10.0.0.7:6120"));
        assert_eq!(options.tls_dir, Some("/etc/weir/tls".into()));
    }
}
