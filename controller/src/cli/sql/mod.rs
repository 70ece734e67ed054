//! `weir sql`: a script without YAML, on this machine. `weir sql -f script.sql` runs one; `weir sql` alone is a prompt.
//!
//! All INSERTs of a script are one job, and so are the queries that stand alone, whose rows are shown. State is in memory, and
//! checkpoints are in a folder that is gone afterwards: each run starts from the beginning. A job that is to go on is written as a
//! StreamJob with `--to`, for `weir run` and for a cluster.

mod prompt;
mod result;
mod show;
mod yaml;

use std::{
    env, fs,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use clap::Args;
use serde_json::Value;
use weir_protocol::script;
use weir_storage::JobStore;

use self::{
    show::{Form, Results},
    yaml::{Wanted, name_of},
};
use super::{Exit, Failure, run};
use crate::{
    job::{Job, Overrides},
    platform::local::{check_version, worker_binary},
    state_dir::StateDir,
    ui::{self, Ui},
    workers::planner::{self, Plan},
};

/// How many subtasks a stage has at most, if the script does not say: more share no more cores.
const MOST_SLOTS: usize = 16;

/// What a job's checkpoints are put below in the YAML that is written.
const STORAGE: &str = "./checkpoints";

/// How a script is run without YAML.
#[derive(Debug, Args)]
pub(super) struct SqlArgs {
    /// Run this script; `-` is standard input. Without it: a prompt.
    #[arg(short, long, value_name = "SCRIPT")]
    file: Option<PathBuf>,
    /// Run this text.
    #[arg(short, long, conflicts_with = "file", value_name = "SQL")]
    execute: Option<String>,
    /// How the rows of a query are written. [default: table in a terminal, else changelog]
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// Write the script as a StreamJob into this file (`-` is standard output) instead of running it.
    #[arg(long, value_name = "YAML")]
    to: Option<PathBuf>,
    /// Only check the script; nothing is started.
    #[arg(long, conflicts_with = "to")]
    check: bool,
}

/// A script and where it comes from.
struct Source {
    text: String,
    /// For errors.
    shown: String,
    /// A job's name is made of it.
    stem: String,
    /// Relative paths are taken from here.
    base: PathBuf,
}

/// Does what the arguments say.
pub(super) async fn run(args: SqlArgs) -> Result<(), Failure> {
    let Some(source) = source(&args)? else {
        if args.to.is_some() || args.check {
            return Err(Failure::new(Exit::BadInput, "there is no script: name one with --file"));
        }
        return prompt::run(form(args.format)).await;
    };
    if let Some(to) = &args.to {
        return write(&source, to).await;
    }
    if args.check {
        return check(&source).await;
    }
    execute(&source, form(args.format)).await
}

/// Checks a script.
pub(super) async fn validate(file: &Path) -> Result<(), Failure> {
    check(&read(file)?).await
}

async fn check(source: &Source) -> Result<(), Failure> {
    let planned = Planned::of(source).await?;
    tell(&planned, 0);
    println!("{} holds", source.shown);
    Ok(())
}

fn form(asked: Option<Form>) -> Form {
    let terminal = std::io::stdout().is_terminal();
    asked.unwrap_or(if terminal { Form::Table } else { Form::Changelog })
}

/// The script that the arguments name, if they name one. What is piped into the program is one too.
fn source(args: &SqlArgs) -> Result<Option<Source>, Failure> {
    let here = || env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let given =
        |text: String, shown: &str| Source { text, shown: shown.to_string(), stem: "sql".to_string(), base: here() };
    if let Some(text) = &args.execute {
        return Ok(Some(given(text.clone(), "--execute")));
    }
    let piped = args.file.is_none() && !std::io::stdin().is_terminal();
    if piped || args.file.as_deref() == Some(Path::new("-")) {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::new(Exit::Environment, format!("standard input cannot be read: {error}")))?;
        return Ok(Some(given(text, "standard input")));
    }
    args.file.as_deref().map(read).transpose()
}

fn read(file: &Path) -> Result<Source, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::BadInput, format!("{}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(failed)?;
    let whole = fs::canonicalize(file).map_err(failed)?;
    Ok(Source {
        text,
        shown: file.display().to_string(),
        stem: file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        base: whole.parent().unwrap_or(Path::new("/")).to_path_buf(),
    })
}

/// A script that can be run.
struct Planned {
    job: Job,
    binary: PathBuf,
    plan: Plan,
    /// Where it works and checkpoints; gone when this is dropped.
    folder: Folder,
}

/// A folder that is gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = env::temp_dir().join(format!("weir-sql-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&path)
            .map_err(|error| Failure::new(Exit::Environment, format!("{} cannot be made: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Planned {
    /// Plans a script, whose queries have their results shown.
    async fn of(source: &Source) -> Result<Self, Failure> {
        Self::behind(source, "").await
    }

    /// Plans a script behind statements that hold.
    async fn behind(source: &Source, before: &str) -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let storage = url::Url::from_directory_path(&folder.0).map(|url| url.to_string()).unwrap_or_default();
        // On a line of its own, behind all others: places in the script stay as they are.
        let text = format!("{before}{}\n;SET 'weir.query-results' = '$results';", source.text);
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_SLOTS));
        let set = script::settings(&text);
        let sets = |key: &str| set.iter().any(|(set, _)| set == key);
        let slots =
            if sets("parallelism.default") { String::new() } else { format!("  workers: {{slots: {cores}}}\n") };
        let backend =
            if sets("state.backend.type") || sets("state.backend") { "" } else { "  state: {backend: memory}\n" };
        let more = format!("{slots}{backend}  restart: {{maxFailures: 0}}\n");
        let yaml = yaml::of(&Wanted { name: &name_of(&source.stem), script: &text, storage: &storage, more: &more })?;
        let job = Job::of_text(&yaml, &source.shown, &source.base, &Overrides::default())?;
        let binary = worker_binary()?;
        check_version(&binary).await?;
        let above = before.lines().count() as u64;
        let plan = planner::plan(&binary, &job.plan).await.map_err(|error| error.of_script(&source.shown, above))?;
        Ok(Self { job, binary, plan, folder })
    }

    /// Whether there is anything to run.
    fn is_empty(&self) -> bool {
        self.plan.description.get("stages").and_then(Value::as_array).is_none_or(Vec::is_empty)
    }
}

/// What the planner says beside the plan: warnings, and answers to what the script asks.
///
/// Answers to what stands in the first lines have been told before.
fn tell(planned: &Planned, above: u64) {
    for warning in planned.job.warnings.iter().cloned().chain(planner::warnings(&planned.plan.description)) {
        eprintln!("warning: {warning}");
    }
    let answers = planned.plan.description.get("answers").and_then(Value::as_array);
    let is_new = |answer: &&Value| answer.get("line").and_then(Value::as_u64).is_none_or(|line| line > above);
    for answer in answers.into_iter().flatten().filter(is_new) {
        println!("{}", show::answer(answer));
    }
}

async fn execute(source: &Source, form: Form) -> Result<(), Failure> {
    let planned = Planned::of(source).await?;
    tell(&planned, 0);
    if planned.is_empty() {
        return Ok(());
    }
    start(planned, form).await
}

/// Runs what has been planned, until it ends or is ended.
async fn start(planned: Planned, form: Form) -> Result<(), Failure> {
    let Planned { job, binary, plan, folder } = planned;
    let state_dir = Arc::new(StateDir::open(&folder.0.join("state"))?);
    let store = JobStore::open(&job.settings.storage, &job.name)?;
    let (control, told) = run::signals(false)
        .map_err(|error| Failure::new(Exit::Environment, format!("signals cannot be received: {error}")))?;
    let shows = has_results(&plan);
    let ui: Box<dyn Ui> = if shows { Box::new(Results::new(form, control)) } else { ui::choose(false) };
    let outcome =
        Box::pin(run::supervise(run::Start::anew(job, binary, plan.fingerprint, state_dir, store, ui, told))).await;
    drop(folder);
    run::ended(outcome)
}

/// Whether rows of queries are to be shown.
fn has_results(plan: &Plan) -> bool {
    let stages = plan.description.get("stages").and_then(Value::as_array);
    let of_result = |stage: &Value| stage.pointer("/sink/table").and_then(Value::as_str).is_some_and(is_result);
    stages.into_iter().flatten().any(of_result)
}

/// What the planner calls results.
fn is_result(table: &str) -> bool {
    table.strip_prefix("result").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Writes the script as a StreamJob.
async fn write(source: &Source, to: &Path) -> Result<(), Failure> {
    let planned = Planned::of(source).await?;
    // The YAML may go where answers would be printed.
    tell(&planned, u64::MAX);
    let mut text = source.text.trim_end().to_string();
    if has_results(&planned.plan) {
        text.push_str("\n;\n-- Rows of a query that stands alone go where the workers print.\nSET 'weir.query-results' = 'print';");
    }
    let name = name_of(&source.stem);
    let yaml = yaml::of(&Wanted { name: &name, script: &text, storage: STORAGE, more: "" })?;
    if to == Path::new("-") {
        print!("{yaml}");
        return Ok(());
    }
    fs::write(to, yaml).map_err(|error| Failure::new(Exit::Environment, format!("{}: {error}", to.display())))?;
    println!(
        "{} is written: `weir run {}` runs it here; in a cluster checkpoint.storage.url must be on s3://",
        to.display(),
        to.display()
    );
    Ok(())
}
