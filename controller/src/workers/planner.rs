//! Asks the worker binary for a job's plan: only it has the connectors and functions of a user's own build.

use std::{path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::{io::AsyncWriteExt, process::Command};
use tonic::{Code, Status, transport::Channel};
use weir_protocol::{
    record::{Record, Slot, encode},
    rpc::{PlanCall, worker_client::WorkerClient},
    settings::{JobSettings, Permissions, PlanRequest},
};

use crate::workers::wire::MAX_MESSAGE;

/// Planning takes milliseconds; a source may have to look at its files.
const PLAN_TIMEOUT: Duration = Duration::from_mins(1);

/// Characters of a script's line that an error shows, around its column.
const SHOWN: usize = 160;

/// Where the script of a StreamJob stands.
const FIELD: &str = "spec.sql";

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// A plan that holds.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every worker must arrive at the same.
    pub fingerprint: String,
    /// What the worker tells about it: stages, exchanges, operators, state, warnings.
    pub description: Value,
}

/// One thing that is wrong with a script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ScriptError {
    /// Line of the script, from 1.
    #[serde(default)]
    pub line: Option<u64>,
    /// Column, from 1.
    #[serde(default)]
    pub column: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The script is wrong.
    #[error("{}", in_words(.errors, .script, .file))]
    Script {
        /// What is wrong, never empty.
        errors: Vec<ScriptError>,
        /// The script, to show the lines.
        script: String,
        /// Where it stands.
        file: String,
    },
    /// The script is right, and the job's state does not fit it.
    #[error("{0}")]
    Mismatch(String),
    /// Planning crashed or took too long: the script may be the cause, or the machine.
    #[error("{0}")]
    Crashed(String),
    /// The planning process did not do its work.
    #[error("`{binary} plan` did not work: {reason}")]
    Process {
        /// The worker binary.
        binary: String,
        /// Why, and the end of what it logged.
        reason: String,
    },
}

impl PlanError {
    /// The same, of a script that stands in a file of its own, behind so many lines that were put before it.
    #[must_use]
    pub fn of_script(self, file: &str, above: u64) -> Self {
        match self {
            Self::Script { mut errors, script, .. } => {
                let script: Vec<&str> = script.lines().skip(usize::try_from(above).unwrap_or(usize::MAX)).collect();
                for error in &mut errors {
                    error.line = error.line.map(|line| line.saturating_sub(above).max(1));
                }
                Self::Script { errors, script: script.join("\n"), file: file.to_string() }
            }
            other => other,
        }
    }
}

/// Runs `weir-worker plan`.
pub async fn plan(binary: &Path, request: &PlanRequest) -> Result<Plan, PlanError> {
    let failed = |reason: String| PlanError::Process { binary: binary.display().to_string(), reason };
    let mut child = Command::new(binary)
        .arg("plan")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let input = serde_json::to_vec(request).map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that ends early says why on its output, which is read below.
        let _ = stdin.write_all(&input).await;
    }
    let output = tokio::time::timeout(PLAN_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| failed(format!("no answer in {} s", PLAN_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        let log = String::from_utf8_lossy(&output.stderr);
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        if output.status.code().is_none_or(|code| code == PANICKED) {
            return PlanError::Crashed(format!("planning the script ended with {}: {last}", output.status));
        }
        failed(format!("{}: {last}", output.status))
    })?;
    let plan = understood(answer, request);
    plan.and_then(|plan| if output.status.success() { Ok(plan) } else { Err(None) }).map_err(|error| match error {
        None => failed(format!("{}: an answer without a fingerprint", output.status)),
        Some(error) => error,
    })
}

/// Has a worker of a cluster plan, since it has the job's own image, and hold the plan against the record that it would be restored
/// from.
pub async fn ask(
    channel: Channel,
    request: &PlanRequest,
    restore: Option<(&Record, &JobSettings, Permissions)>,
) -> Result<Plan, PlanError> {
    let allowed = restore.map(|(.., allowed)| allowed).unwrap_or_default();
    let call = PlanCall {
        plan_request: encode(request).into(),
        restore_path: restore.map(|(record, ..)| record.reference().path()).unwrap_or_default(),
        restore_record: restore.map(|(record, ..)| encode(&Slot::Record(record.clone()))).unwrap_or_default().into(),
        settings: restore.map(|(_, settings, _)| encode(settings)).unwrap_or_default().into(),
        allow_new_state: allowed.allow_new_state,
        allow_dropped_state: allowed.allow_dropped_state,
    };
    let mut client =
        WorkerClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let answer = tokio::time::timeout(PLAN_TIMEOUT, client.plan(call))
        .await
        .map_err(|_| PlanError::Crashed(format!("planning took more than {} s", PLAN_TIMEOUT.as_secs())))?
        .map_err(|status| unanswered(&status))?
        .into_inner();
    let odd = |what: &str| PlanError::Crashed(format!("the planner gave an answer that is not understood: {what}"));
    let described: Value = serde_json::from_slice(&answer.answer).map_err(|error| odd(&error.to_string()))?;
    let plan = understood(described, request);
    let plan = plan.map_err(|error| error.unwrap_or_else(|| odd("it has no fingerprint")))?;
    if answer.mismatch.is_empty() { Ok(plan) } else { Err(PlanError::Mismatch(answer.mismatch)) }
}

/// Why a worker has not answered: it tells a crash of its planner with a code of its own; with any other it is the worker, or the
/// way to it, that failed.
fn unanswered(status: &Status) -> PlanError {
    let reason = status.message().to_string();
    match status.code() {
        Code::Internal => PlanError::Crashed(reason),
        _ => PlanError::Process { binary: "weir-worker".to_string(), reason },
    }
}

/// A plan, or what is wrong with the script; an error without content is an answer that says neither.
fn understood(answer: Value, request: &PlanRequest) -> Result<Plan, Option<PlanError>> {
    if let Some(errors) = script_errors(&answer) {
        return Err(Some(PlanError::Script { errors, script: request.script.clone(), file: FIELD.to_string() }));
    }
    match answer.get("fingerprint").and_then(Value::as_str) {
        Some(fingerprint) => Ok(Plan { fingerprint: fingerprint.to_string(), description: answer }),
        None => Err(None),
    }
}

/// What the planner wants said of a plan that holds: a state that would grow without bound.
pub fn warnings(description: &Value) -> Vec<String> {
    description.get("warnings").and_then(Value::as_array).into_iter().flatten().map(warning).collect()
}

/// One of them: a sentence, or one with the operator that it is about.
fn warning(warning: &Value) -> String {
    let text = |name: &str| warning.get(name).and_then(Value::as_str);
    let message = text("message").or_else(|| warning.as_str()).map_or_else(|| warning.to_string(), ToString::to_string);
    match text("operator") {
        Some(operator) if !message.contains(operator) => format!("{operator}: {message}"),
        _ => message,
    }
}

/// Errors come alone, as a list, or as a list under `errors`.
fn script_errors(answer: &Value) -> Option<Vec<ScriptError>> {
    let errors = answer.get("errors").unwrap_or(answer);
    let errors: Vec<ScriptError> = if errors.is_array() {
        serde_json::from_value(errors.clone()).ok()?
    } else {
        vec![serde_json::from_value(errors.clone()).ok()?]
    };
    (!errors.is_empty()).then_some(errors)
}

/// Each error with its line of the script and a caret below the column.
fn in_words(errors: &[ScriptError], script: &str, file: &str) -> String {
    errors.iter().map(|error| error.in_words(script, file)).collect::<Vec<_>>().join("\n")
}

impl ScriptError {
    fn in_words(&self, script: &str, file: &str) -> String {
        let place = match (self.line, self.column) {
            (Some(line), Some(column)) => format!(", line {line}, column {column}"),
            (Some(line), None) => format!(", line {line}"),
            (None, _) => String::new(),
        };
        let remedy = self.remedy.as_deref().filter(|remedy| !remedy.is_empty());
        let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
        let index = |from_one: u64| usize::try_from(from_one).ok()?.checked_sub(1);
        let shown = self.line.and_then(index).and_then(|line| script.lines().nth(line));
        let shown = shown.map_or_else(String::new, |shown| {
            let column = self.column.and_then(index).map(|column| column.min(shown.chars().count()));
            // A line that a program wrote may have a megabyte; a condition's message has some KiB.
            let from = column.unwrap_or_default().saturating_sub(SHOWN / 2);
            let part: String = shown.chars().skip(from).take(SHOWN).collect();
            let caret = column.map_or_else(String::new, |column| format!("\n    {}^", " ".repeat(column - from)));
            format!("\n    {part}{caret}")
        });
        format!("{file}{place}: {}{remedy}{shown}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_error_shows_its_line_and_a_caret() {
        let error = PlanError::Script {
            errors: vec![ScriptError {
                line: Some(2),
                column: Some(8),
                message: "unknown column \"kex\"".into(),
                remedy: Some("did you mean key?".into()),
            }],
            script: "INSERT INTO o\nSELECT kex FROM t".into(),
            file: FIELD.into(),
        };
        assert_eq!(
            error.to_string(),
            "spec.sql, line 2, column 8: unknown column \"kex\"; did you mean key?\n    SELECT kex FROM t\n           ^"
        );
    }

    #[test]
    fn lines_that_were_put_before_a_script_are_not_counted() {
        let script = "SET 'a' = 'b';\nSELECT kex FROM t".to_string();
        let errors = vec![ScriptError { line: Some(2), column: Some(8), message: "no".into(), remedy: None }];
        let error = PlanError::Script { errors, script, file: FIELD.into() }.of_script("a.sql", 1);
        assert_eq!(error.to_string(), "a.sql, line 1, column 8: no\n    SELECT kex FROM t\n           ^");
    }

    #[test]
    fn of_a_long_line_only_what_is_around_the_column_is_shown() {
        let error = ScriptError { line: Some(1), column: Some(5_001), message: "no".into(), remedy: None };
        let told = error.in_words(&format!("{}x{}", " ".repeat(5_000), "y".repeat(50_000)), FIELD);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 3, "{told}");
        assert_eq!(lines[1].find('x'), lines[2].find('^'));
        assert!(lines[1].len() <= SHOWN + 4, "{told}");
    }

    #[test]
    fn errors_are_understood_alone_and_in_lists() {
        for answer in [r#"{"message":"x"}"#, r#"[{"message":"x"}]"#, r#"{"errors":[{"message":"x","line":1}]}"#] {
            let errors = script_errors(&serde_json::from_str(answer).unwrap()).unwrap();
            assert_eq!(errors[0].message, "x");
        }
        assert_eq!(script_errors(&serde_json::json!({"fingerprint": "f"})), None);
    }
}
