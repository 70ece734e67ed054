//! `weir-worker plan`: a plan request on standard input, its plan or its errors on standard output.
//!
//! The answer is one JSON object: the plan's description (`stages`, `warnings`, `fingerprint`) and exit code 0, or
//! `{"errors": [{"line", "column", "message", "remedy"}]}` and exit code 2. A worker that is asked for a plan has such a process
//! make it ([`child`]), which holds itself to [`limits`]: a script that crashes the planner crashes nothing else.

pub mod child;
pub mod limits;

use std::{
    any::Any,
    io::{Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc,
    thread,
};

use serde::Serialize;
use weir_engine::{
    JobGraph, StageHead,
    control::server::{PlanFailure, Planner, PlannerFailed},
};
use weir_protocol::settings::PlanRequest;
use weir_sql::{Catalog, PlanDescription, PlanError, explain};

use crate::PlanOptions;

/// The exit code of a script that cannot be planned.
const REFUSED: u8 = 2;

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Plan {
        #[serde(flatten)]
        plan: PlanDescription,
        /// What the script asks.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        answers: Vec<weir_sql::Answer>,
    },
    Errors {
        errors: Vec<PlanError>,
    },
}

fn answer(catalog: &Catalog, request: &[u8]) -> Answer {
    let refused = |error: PlanError| Answer::Errors { errors: vec![error] };
    match serde_json::from_slice::<PlanRequest>(request) {
        Ok(request) => {
            let planned = match weir_sql::plan(&request, catalog) {
                Ok(graph) => look_at_inputs(&graph).map(|()| graph),
                Err(first) => {
                    let errors = weir_sql::faults(&request, catalog);
                    return Answer::Errors { errors: if errors.is_empty() { vec![first] } else { errors } };
                }
            };
            let answered =
                |graph| Answer::Plan { plan: explain(&graph), answers: weir_sql::answers(&request, catalog) };
            planned.map_or_else(refused, answered)
        }
        Err(error) => refused(PlanError {
            line: None,
            column: None,
            message: format!("the plan request is not readable: {error}"),
            remedy: "send {\"script\", \"baseDir\", \"maxParallelism\"} as JSON on standard input".to_string(),
        }),
    }
}

/// An input that is not there is told before anything is started.
fn look_at_inputs(graph: &JobGraph) -> Result<(), PlanError> {
    for stage in &graph.stages {
        if let StageHead::Source(source) = &stage.head {
            source.source.splits(1).map_err(|error| PlanError {
                line: None,
                column: None,
                message: format!("table {}: {error}", source.name),
                remedy: String::new(),
            })?;
        }
    }
    Ok(())
}

/// Reads, plans, answers: in no more than so many bytes, where that can be held.
pub fn main(options: &PlanOptions, catalog: &Catalog) -> ExitCode {
    limits::hold(options.memory);
    answered(catalog, std::io::stdin().lock(), std::io::stdout().lock())
}

fn answered(catalog: &Catalog, mut input: impl Read, mut output: impl Write) -> ExitCode {
    let mut request = Vec::new();
    let answered = input.read_to_end(&mut request).and_then(|_| {
        let answer = answer(catalog, &request);
        output.write_all(&line(&answer))?;
        output.flush()?;
        Ok(answer)
    });
    match answered {
        Ok(Answer::Plan { .. }) => ExitCode::SUCCESS,
        Ok(Answer::Errors { .. }) => ExitCode::from(REFUSED),
        Err(error) => {
            tracing::error!(%error, "the plan could not be answered");
            ExitCode::FAILURE
        }
    }
}

/// The answer as one line of JSON.
fn line(answer: &Answer) -> Vec<u8> {
    // Only maps with keys that are no strings cannot be written, and the answer has none.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The SQL planner as the engine asks for it.
pub struct SqlPlanner {
    catalog: Catalog,
    /// Plans what is only to be described, and in how much memory.
    child: Option<(PathBuf, u64)>,
}

impl SqlPlanner {
    /// Plans in this process only.
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, child: None }
    }

    /// Describes by processes of this worker's own binary, beside a worker with so much memory.
    #[must_use]
    pub fn with_processes(mut self, worker: u64) -> Self {
        self.child = own_binary().map(|binary| (binary, limits::beside(worker)));
        self
    }

    /// In a thread, which cannot be ended: where it takes too long nobody waits for it.
    fn describe_here(&self, request: &[u8]) -> Result<Vec<u8>, PlannerFailed> {
        let failed = |message: String| PlannerFailed { message };
        let (catalog, request) = (self.catalog.clone(), request.to_vec());
        let (done, answered) = mpsc::channel();
        let describe = move || {
            let answer = catch_unwind(AssertUnwindSafe(|| line(&answer(&catalog, &request))));
            let _ = done.send(answer.map_err(|panic| failed(format!("planning panicked: {}", words(panic.as_ref())))));
        };
        let thread = thread::Builder::new().name("describe".to_string()).spawn(describe);
        thread.map_err(|error| failed(format!("the planner's thread could not be started: {error}")))?;
        let patience = child::PATIENCE;
        answered
            .recv_timeout(patience)
            .unwrap_or_else(|_| Err(failed(format!("planning took more than {} s", patience.as_secs()))))
    }
}

/// The program that this process runs, also where its file has been replaced since.
fn own_binary() -> Option<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Some(running) } else { std::env::current_exe().ok() }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_string())
}

impl Planner for SqlPlanner {
    fn plan(&self, request: &PlanRequest) -> Result<JobGraph, PlanFailure> {
        weir_sql::plan(request, &self.catalog).map_err(|error| PlanFailure { message: in_words(&error) })
    }

    fn describe(&self, request: &[u8]) -> Result<Vec<u8>, PlannerFailed> {
        let Some((binary, memory)) = &self.child else { return self.describe_here(request) };
        match child::describe(binary, *memory, request) {
            Ok(answer) => Ok(answer),
            Err(child::Trouble::Failed(failed)) => Err(failed),
            Err(child::Trouble::NotStarted(error)) => {
                tracing::warn!(%error, "no process could be started to plan in, and the worker plans itself");
                self.describe_here(request)
            }
        }
    }
}

fn in_words(error: &PlanError) -> String {
    let mut text = String::new();
    if let Some(line) = error.line {
        text = format!("line {line}, column {}: ", error.column.unwrap_or(1));
    }
    text.push_str(&error.message);
    if !error.remedy.is_empty() {
        text.push_str("; ");
        text.push_str(&error.remedy);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(request: &str) -> (Value, bool) {
        let mut output = Vec::new();
        let code = answered(&Catalog::default(), request.as_bytes(), &mut output);
        (serde_json::from_slice(&output).unwrap(), code == ExitCode::SUCCESS)
    }

    #[test]
    fn a_request_that_is_no_json_is_answered_with_an_error_and_a_remedy() {
        let (answer, success) = planned("SELECT 1");
        assert!(!success);
        assert!(answer["errors"][0]["message"].as_str().unwrap().starts_with("the plan request is not readable"));
        assert!(answer["errors"][0]["remedy"].as_str().unwrap().contains("maxParallelism"));
    }

    #[test]
    fn a_script_that_does_not_parse_is_answered_with_its_place() {
        let request = json!({"script": "CREATE TABLE t (a INT)\n  WITHOUT ('connector' = 'print');", "baseDir": "/", "maxParallelism": 8});
        let (answer, success) = planned(&request.to_string());
        assert!(!success);
        assert_eq!(answer["errors"][0]["line"], json!(2), "{answer}");
    }

    #[test]
    fn a_script_is_answered_with_its_plan() {
        let script = "CREATE TABLE bids (auction BIGINT, bidder BIGINT, price BIGINT) WITH ('connector' = 'datagen');\n\
                      CREATE TABLE out (bidder BIGINT, n BIGINT) WITH ('connector' = 'blackhole');\n\
                      INSERT INTO out SELECT bidder, COUNT(*) FROM bids GROUP BY bidder;";
        let request = json!({"script": script, "baseDir": "/", "maxParallelism": 8}).to_string();
        let (answer, success) = planned(&request);
        assert!(success, "{answer}");
        assert!(answer["stages"].as_array().unwrap().len() >= 2, "{answer}");
        assert_eq!(planned(&request).0["fingerprint"], answer["fingerprint"]);
        let described = SqlPlanner::new(Catalog::default()).describe(request.as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&described).unwrap(), answer);
    }
}
