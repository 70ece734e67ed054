//! `weir savepoint`: takes one on this machine, and shows what one holds.

use std::{fmt::Write, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;
use weir_protocol::{
    part::{Keeper, Part, Role},
    savepoint::{Output, Savepoint},
    settings::StorageSettings,
};
use weir_storage::JobStore;

use super::{Exit, Failure, run};
use crate::{
    job::{Job, Overrides, place_url},
    savepoint::{
        SavepointError, complete, part,
        take::{Order, take},
    },
    state_dir::StateDir,
    ui::text,
};

/// Beside three intervals so long is waited for the next checkpoint of a job that runs.
const SOME_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct SavepointArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// The StreamJob's YAML. Its newest checkpoint is copied, whether it runs on this machine or is stopped.
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// An empty or new folder, or a prefix of a bucket (`s3://…`), with the endpoint and the credentials of the job's storage.
    #[arg(long, value_name = "FOLDER|URL", required = true)]
    to: Option<String>,
    /// The state folder of its `weir run`. [default: .weir/<namespace>-<name>]
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show operators, tables, sizes and key types of a savepoint, and that it is complete.
    Inspect {
        /// Its folder, or its URL.
        location: String,
        /// The endpoint of an s3:// URL, where it is not the environment's.
        #[arg(long)]
        endpoint: Option<String>,
        /// Its region.
        #[arg(long)]
        region: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

impl From<SavepointError> for Failure {
    fn from(error: SavepointError) -> Self {
        let exit = match &error {
            SavepointError::Storage(_) => Exit::Environment,
            _ => Exit::BadInput,
        };
        Self::new(exit, error)
    }
}

pub async fn run(args: SavepointArgs) -> Result<(), Failure> {
    match args {
        SavepointArgs { what: Some(What::Inspect { location, endpoint, region, json }), .. } => {
            let url = place(&location)?;
            let place = JobStore::open_place(&StorageSettings { url, endpoint, region }, false)?;
            inspect(&place, json).await
        }
        SavepointArgs { file: Some(file), to: Some(to), state_dir, .. } => {
            let job = Job::local(&file, &Overrides::default())?;
            let state_dir = state_dir.unwrap_or_else(|| job.default_state_dir());
            let runs = StateDir::is_worked_in(&state_dir);
            let store = JobStore::open(&job.settings.storage, &job.name)?;
            let place = store.beside(&place(&to)?, true)?;
            let waits = runs.then_some(SOME_TIME + 3 * job.policy.interval);
            let by = run::coordinator_name();
            let savepoint = take(&store, &place, Order { by: &by, waits }).await?;
            println!("{}", taken(&savepoint, place.name()));
            if savepoint.output == Output::Unknown {
                println!("{}", waiting(runs, store.name()));
            }
            Ok(())
        }
        _ => Err(Failure::new(Exit::BadInput, "name the job's file and --to, or `inspect`")),
    }
}

fn place(text: &str) -> Result<String, Failure> {
    place_url(text, &run::here()?).map_err(|error| Failure::new(Exit::BadInput, error))
}

fn taken(savepoint: &Savepoint, location: &str) -> String {
    format!(
        "savepoint of {}, checkpoint {}, {} of state: {location}",
        savepoint.job,
        savepoint.checkpoint.id,
        text::bytes(savepoint.state_bytes)
    )
}

/// What a user has to know of a job whose output may not all be published.
fn waiting(runs: bool, store: &str) -> String {
    let remedy = if runs {
        "it has completed no checkpoint since that says so; it goes on to publish"
    } else {
        "it does not run; run it again once before you delete that, unless it was stopped with a last checkpoint"
    };
    format!("note: output of the job up to here may wait in {store} to be published: {remedy}")
}

async fn inspect(place: &JobStore, as_json: bool) -> Result<(), Failure> {
    let savepoint = complete(place).await?;
    let mut parts = Vec::new();
    for named in &savepoint.parts {
        parts.push(part(place, named).await?);
    }
    if as_json {
        let keepers: Vec<_> = keepers(&parts).into_iter().map(|keeper| described(keeper, &parts)).collect();
        println!("{:#}", json!({"savepoint": savepoint, "operators": keepers}));
    } else {
        print!("{}", shown(&savepoint, &parts, place.name()));
    }
    Ok(())
}

/// Each part has all of them.
fn keepers(parts: &[Part]) -> Vec<&Keeper> {
    parts.first().map(|part| part.keepers.iter().collect()).unwrap_or_default()
}

/// Bytes of all tables of a stage: a backend keeps them together.
fn bytes_of(stage: &str, parts: &[Part]) -> u64 {
    let subtasks = parts.iter().flat_map(|part| &part.subtasks).filter(|subtask| subtask.stage == stage);
    subtasks.flat_map(|subtask| &subtask.keyed).flat_map(|keyed| &keyed.files).map(|file| file.length).sum()
}

/// Splits of a source, and other things that are kept without a key.
fn items_of(operator: &str, parts: &[Part]) -> usize {
    let operators = parts.iter().flat_map(|part| &part.subtasks).flat_map(|subtask| &subtask.operators);
    operators.filter(|part| part.operator == operator).map(|part| part.items.len()).sum()
}

fn backends(parts: &[Part]) -> String {
    let subtasks = parts.iter().flat_map(|part| &part.subtasks);
    let mut found: Vec<&str> =
        subtasks.flat_map(|subtask| &subtask.keyed).map(|keyed| keyed.backend.as_str()).collect();
    found.sort_unstable();
    found.dedup();
    found.join(", ")
}

fn described(keeper: &Keeper, parts: &[Part]) -> serde_json::Value {
    json!({
        "name": keeper.name,
        "identity": keeper.operator,
        "role": keeper.role,
        "line": keeper.line,
        "stage": keeper.stage,
        "stageStateBytes": bytes_of(&keeper.stage, parts),
        "items": items_of(&keeper.operator, parts),
        "tables": keeper.tables,
    })
}

fn shown(savepoint: &Savepoint, parts: &[Part], location: &str) -> String {
    let mut text = String::new();
    let completed = text::instant(i64::try_from(savepoint.completed_at_ms).unwrap_or_default());
    let output = match savepoint.output {
        Output::Published => "all published when it was taken",
        Output::Unknown => "may wait to be published, by that job",
    };
    let backends = backends(parts);
    let lines = [
        ("savepoint", location.to_string()),
        ("job", format!("{}, checkpoint {}, completed {completed} (UTC)", savepoint.job, savepoint.checkpoint.id)),
        ("form", format!("native{}", if backends.is_empty() { String::new() } else { format!(", {backends}") })),
        ("parallelism", format!("{}, {} key groups", savepoint.parallelism, savepoint.max_parallelism)),
        ("state", format!("{} in {} objects", text::bytes(savepoint.state_bytes), savepoint.objects.len())),
        ("output", output.to_string()),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<12} {value}");
    }
    if savepoint.is_final {
        let _ = writeln!(text, "{:<12} all input had ended", "");
    }
    for keeper in keepers(parts) {
        let what = match keeper.role {
            Role::Source => format!("source, {} splits", items_of(&keeper.operator, parts)),
            Role::Operator => format!("{} in its stage", text::bytes(bytes_of(&keeper.stage, parts))),
            Role::Sink => "sink".to_string(),
        };
        let _ = writeln!(text, "\n{}: {what}", keeper.in_words());
        for table in &keeper.tables {
            let _ = writeln!(
                text,
                "  table {}: {}, key ({}), {}: ({})",
                table.name,
                table.kind,
                table.key.join(", "),
                table.layout,
                table.row.join(", ")
            );
        }
    }
    text
}
