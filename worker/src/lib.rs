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
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod plan;
mod serve;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

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
            Command::Plan => plan::main(&self.catalog, std::io::stdin().lock(), std::io::stdout().lock()),
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
    Plan,
}

#[derive(Args)]
struct ServeOptions {
    /// The folder below which this worker has a folder of its own for local state
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// The address to listen on; the one that was got is printed on standard output
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: String,
    /// The memory that this worker may use
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MEMORY)]
    memory: u64,
    /// End when standard input closes; so it is in any case where standard input is a pipe
    #[arg(long)]
    parent_stdin: bool,
}

/// What a worker may use where nobody says so.
const DEFAULT_MEMORY: u64 = 1 << 30;

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A user's own binary may have set up logging already; then that holds.
    if logging.try_init().is_err() {
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
        assert!(matches!(cli.map(|cli| cli.command), Ok(Command::Plan)));
        let cli = Cli::try_parse_from(["weir-worker", "serve", "--memory", "1000", "--state-dir", "/tmp/x"]).unwrap();
        assert!(matches!(cli.command, Command::Serve(options) if options.memory == 1000));
        assert!(Cli::try_parse_from(["weir-worker", "serve"]).is_err());
    }
}
