//! The commands that a person types, and what their exit codes mean.

mod checkpoint;
mod checkpoints;
mod controller;
mod probe;
mod run;
mod savepoint;
mod show_plan;
mod sql;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use url::Url;
use weir_protocol::stored::{FORMAT_VARIABLE, format_from};

use crate::{
    effects::chain,
    job::{Job, Overrides, ReadError},
    platform::local::{WorkerBinaryError, check_version, worker_binary},
    state_dir::StateDirError,
    workers::planner::{self, Plan, PlanError},
};

const EXIT_CODES: &str = "\
Exit codes:
  0    it worked: the job finished, or was stopped with a last checkpoint
  1    the job failed
  2    bad input: the YAML, the SQL, an option, or a restore that does not fit the job
  3    the environment: storage, the state folder, the worker binary
  4    another coordinator took the job over
  130  stopped at once, by a second Ctrl-C";

/// Checkpointed streaming jobs.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// There is one of these in a process.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum Command {
    /// Run a job on this machine. Ctrl-C takes a last checkpoint and stops; running again goes on from it.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Run a script of Flink SQL on this machine, without YAML; without a script: a prompt.
    #[command(after_help = EXIT_CODES)]
    Sql(sql::SqlArgs),
    /// Check a job's YAML and SQL, or a script (`….sql`) alone; nothing is started.
    Validate(JobArgs),
    /// Show what would run: stages, exchanges, operators, where state is kept and what bounds it.
    Plan {
        #[command(flatten)]
        job: JobArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look after the StreamJobs of a cluster. This is what the operator's pod runs.
    Controller(controller::ControllerArgs),
    /// Have a running `weir run` take a checkpoint now, and wait until it is complete.
    Checkpoint {
        /// The StreamJob's YAML, its name, or the state folder of the run.
        #[arg(value_name = "FILE|NAME|FOLDER")]
        target: String,
    },
    /// List the checkpoints in the job's storage that can be restored, the newest first.
    Checkpoints {
        #[command(flatten)]
        job: JobArgs,
        /// Instead, the last 32 of the job's newest run on this machine: what each was spent on, who held it up, and why one failed.
        #[arg(long)]
        history: bool,
        /// Where that run works, or has worked. [default: .weir/<namespace>-<name>]
        #[arg(long, requires = "history")]
        state_dir: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy the newest checkpoint of a job, with all that it names, to a place of its own; or show what such a place holds.
    #[command(after_help = EXIT_CODES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Savepoint(savepoint::SavepointArgs),
    /// Ask a controller or a worker over HTTP how it is; for tests of an installation.
    #[command(hide = true)]
    Probe {
        /// Such as `http://weir-metrics:8080/readyz`
        url: Url,
        /// How long to wait for a 200.
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
        within: Duration,
    },
}

#[derive(Debug, Args)]
struct JobArgs {
    /// The StreamJob's YAML.
    file: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Worker processes, instead of spec.workers.replicas.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Slots a worker, instead of spec.workers.slots.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,
    /// Where logs, local state and the lock are. [default: .weir/<namespace>-<name>]
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Go back to a record that `weir checkpoints` lists, or begin from a savepoint, by its folder or URL; or `previous`: the newest
    /// record, also one of another owner.
    #[arg(long, value_name = "RECORD|SAVEPOINT|previous")]
    restore: Option<String>,
    /// The version in which checkpoints are written: 2 while the build before is to be able to read them. [default: 3]
    #[arg(long, env = FORMAT_VARIABLE, value_parser = format_of, default_value = "", hide_default_value = true)]
    state_format: u32,
    /// Give up output that checkpoints have promised and that somebody has removed before it was published; all else of it is
    /// published. Only for this run.
    #[arg(long)]
    accept_lost_output: bool,
    /// Plain lines, also in a terminal.
    #[arg(long)]
    plain: bool,
}

/// For clap. Nothing is the newest: an environment variable may be there and empty.
fn format_of(setting: &str) -> Result<u32, String> {
    format_from(Some(setting))
}

/// What an exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It worked.
    Ok = 0,
    /// The job failed.
    JobFailed = 1,
    /// The input cannot work.
    BadInput = 2,
    /// The surroundings do not let it work.
    Environment = 3,
    /// Another coordinates the job.
    Superseded = 4,
    /// A second Ctrl-C.
    Killed = 130,
}

/// Why a command did not work.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::new(Exit::BadInput, error)
    }
}

impl From<WorkerBinaryError> for Failure {
    fn from(error: WorkerBinaryError) -> Self {
        Self::new(Exit::Environment, error)
    }
}

impl From<StateDirError> for Failure {
    fn from(error: StateDirError) -> Self {
        Self::new(Exit::Environment, error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let exit = match error {
            PlanError::Script { .. } | PlanError::Mismatch(_) | PlanError::Crashed(_) => Exit::BadInput,
            PlanError::Process { .. } => Exit::Environment,
        };
        Self::new(exit, error)
    }
}

impl From<weir_storage::StorageError> for Failure {
    fn from(error: weir_storage::StorageError) -> Self {
        Self::new(Exit::Environment, chain(&error))
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weir: no threads can be started: {error}");
            return ExitCode::from(Exit::Environment as u8);
        }
    };
    let result = runtime.block_on(execute(cli.command));
    // What is still under way at storage may be abandoned: nothing depends on it any more.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("weir: {}", failure.message);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// To standard error: for people, or, in a cluster, for whatever collects logs.
fn log(command: &Command) {
    let in_cluster = matches!(command, Command::Controller(_));
    let default = if in_cluster { "info" } else { "error" };
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if in_cluster {
        subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        subscriber.init();
    }
}

async fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => Box::pin(run::run(args)).await,
        Command::Controller(args) => controller::run(args).await,
        Command::Sql(args) => Box::pin(sql::run(args)).await,
        Command::Validate(args) if args.file.extension().is_some_and(|end| end.eq_ignore_ascii_case("sql")) => {
            sql::validate(&args.file).await
        }
        Command::Validate(args) => {
            let (job, plan) = read_and_plan(&args.file, &Overrides::default()).await?;
            for warning in job.warnings.iter().cloned().chain(planner::warnings(&plan.description)) {
                println!("warning: {warning}");
            }
            println!("{} holds: {} can run", args.file.display(), job.name);
            Ok(())
        }
        Command::Plan { job: args, json } => {
            let (job, plan) = read_and_plan(&args.file, &Overrides::default()).await?;
            if json {
                println!("{:#}", plan.description);
            } else {
                print!("{}", show_plan::render(&job, &plan));
            }
            Ok(())
        }
        Command::Checkpoint { target } => checkpoint::take(&target).await,
        Command::Checkpoints { job, history, state_dir, json } => {
            let job = Job::local(&job.file, &Overrides::default())?;
            if history {
                return checkpoints::history(&state_dir.unwrap_or_else(|| job.default_state_dir()), json);
            }
            checkpoints::list(&job, json).await
        }
        Command::Savepoint(args) => savepoint::run(args).await,
        Command::Probe { url, within } => probe::probe(&url, within).await,
    }
}

/// Reads the job, finds the worker binary, and has it plan the script.
async fn read_and_plan(file: &Path, overrides: &Overrides) -> Result<(Job, Plan), Failure> {
    let job = Job::local(file, overrides)?;
    let binary = worker_binary()?;
    check_version(&binary).await?;
    let plan = planner::plan(&binary, &job.plan).await?;
    Ok((job, plan))
}
