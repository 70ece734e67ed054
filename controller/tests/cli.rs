//! What `weir` says to bad input: a message with place and remedy, the exit code, and nothing half-done. The worker binary is
//! a script here: these refusals come before any dataflow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const VERSION: &str = weir_protocol::BUILD_VERSION;

/// A folder with a job and a worker.
struct Place {
    folder: tempfile::TempDir,
    worker: PathBuf,
}

impl Place {
    /// A worker that plans everything, and serves by `serve`, lines of shell.
    fn new(serve: &str) -> Self {
        Self::with_worker(VERSION, r#"echo '{"fingerprint":"f","stages":[]}'"#, serve)
    }

    fn with_worker(version: &str, plan: &str, serve: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let worker = folder.path().join("weir-worker");
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in\n--version) echo weir-worker {version};;\nplan) cat >/dev/null; {plan};;\nserve) {serve};;\nesac\n"
        );
        fs::write(&worker, script).unwrap();
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { folder, worker };
        place.job("  sql: SELECT 1\n  checkpoint: {storage: {url: checkpoints}}\n");
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn job(&self, spec: &str) {
        let head = "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {name: j}\nspec:\n";
        fs::write(self.path().join("job.yaml"), format!("{head}{spec}")).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(arguments).current_dir(self.path()).env("WEIR_WORKER", &self.worker);
        command
    }

    /// The exit code and what was said on standard error.
    fn weir(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stderr, .. } = self.command(arguments).output().unwrap();
        (status.code().unwrap(), String::from_utf8(stderr).unwrap())
    }

    fn nothing_was_made(&self) {
        assert!(!self.path().join(".weir").exists());
        assert!(!self.path().join("checkpoints").exists());
    }
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn yaml_that_is_no_stream_job_is_refused_with_the_file_and_what_to_write() {
    let place = Place::new("exit 1");
    for (yaml, parts) in [
        ("just a text", &["job.yaml", "is no StreamJob", "apiVersion: weir.dev/v1alpha1"][..]),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
            &["job.yaml: line 1", "write kind: StreamJob"],
        ),
        ("spec: [1, 2\n", &["job.yaml: line", "is not YAML"]),
    ] {
        fs::write(place.path().join("job.yaml"), yaml).unwrap();
        for command in ["run", "validate", "plan", "checkpoints"] {
            let (code, said) = place.weir(&[command, "job.yaml"]);
            assert_eq!(code, 2, "{command}: {said}");
            says(&said, parts);
        }
    }
    place.nothing_was_made();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let (code, said) = Place::new("exit 1").weir(&["run", "jab.yaml"]);
    assert_eq!(code, 2);
    says(&said, &["jab.yaml cannot be read"]);
}

#[test]
fn an_unknown_field_is_refused_with_its_line_and_the_nearest_known_one() {
    let place = Place::new("exit 1");
    place.job("  sql: SELECT 1\n  checkpont: {}\n  checkpoint: {storage: {url: checkpoints}}\n");
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 2, "{said}");
    says(&said, &["job.yaml: line 6, column 3: spec.checkpont: unknown field", "did you mean checkpoint?"]);
    place.nothing_was_made();
}

#[test]
fn a_wrong_duration_is_refused_with_its_line_and_how_to_write_one() {
    let place = Place::new("exit 1");
    for (written, parts) in
        [("10", &["write a unit too: 10s"][..]), ("10 sec", &["\"10 sec\" is no duration", "such as 10s"])]
    {
        place.job(&format!(
            "  sql: SELECT 1\n  checkpoint:\n    storage: {{url: checkpoints}}\n    interval: {written}\n"
        ));
        let (code, said) = place.weir(&["validate", "job.yaml"]);
        assert_eq!(code, 2, "{said}");
        says(&said, &["job.yaml: line 8, column 5: spec.checkpoint.interval"]);
        says(&said, parts);
    }
}

#[test]
fn an_error_of_the_script_shows_its_line_and_starts_nothing() {
    let error = r#"echo '{"line":1,"column":8,"message":"unknown column \"x\"","remedy":"columns: y"}'; exit 2"#;
    let place = Place::with_worker(VERSION, error, "exit 1");
    for command in ["run", "validate", "plan"] {
        let (code, said) = place.weir(&[command, "job.yaml"]);
        assert_eq!(code, 2, "{said}");
        says(&said, &["spec.sql, line 1, column 8: unknown column \"x\"; columns: y", "    SELECT 1\n           ^"]);
    }
    place.nothing_was_made();
}

#[test]
fn a_missing_worker_binary_is_named_with_how_to_get_one() {
    let place = Place::new("exit 1");
    fs::remove_file(&place.worker).unwrap();
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 3);
    says(&said, &["the worker binary", "weir-worker is missing", "WEIR_WORKER"]);
    place.nothing_was_made();
}

#[test]
fn a_worker_binary_of_another_version_is_refused_before_anything_is_planned() {
    let place = Place::with_worker("0.0.1", "exit 9", "exit 9");
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 3);
    says(&said, &["has version 0.0.1", "this is weir"]);
    place.nothing_was_made();
}

#[test]
fn a_worker_process_of_another_version_ends_the_run() {
    let place = Place::new(r#"echo '{"address":"127.0.0.1:1","worker":"a","version":"0.0.1"}'; cat >/dev/null"#);
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 3, "{said}");
    says(&said, &["the worker has version 0.0.1"]);
}

#[test]
fn storage_that_cannot_be_written_is_named() {
    let place = Place::new("exit 1");
    fs::write(place.path().join("file"), "not a folder").unwrap();
    place.job("  sql: SELECT 1\n  checkpoint: {storage: {url: file/checkpoints}}\n");
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 3, "{said}");
    says(&said, &["file/checkpoints cannot be written", "choose another folder"]);
}

#[test]
fn storage_that_another_job_owns_is_refused_with_how_to_take_it_over() {
    let place = Place::new("cat >/dev/null");
    let opening = weir_protocol::record::encode(&weir_protocol::record::Opening {
        version: 1,
        term: weir_protocol::Term(1),
        attempt: weir_protocol::Attempt(1),
        job: weir_protocol::JobName { namespace: "default".into(), name: "j".into() },
        coordinator: "elsewhere:1".into(),
        owner: "somebody".into(),
        cluster: "local".into(),
        restores: weir_protocol::record::Restores::Nothing,
        commits: None,
        accepts_lost_output: false,
        workers: 1,
        slots: 1,
        max_parallelism: 128,
        fingerprint: "f".into(),
        wish: None,
    });
    let term = place.path().join("checkpoints/default/j/terms/0000000001");
    fs::create_dir_all(&term).unwrap();
    fs::write(term.join("opening"), opening).unwrap();
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 3, "{said}");
    says(&said, &["belongs to another job", "owner somebody", "--restore previous"]);
    let left: Vec<_> = fs::read_dir(&term).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["opening"], "the other's term was touched");
}

#[test]
fn a_record_that_is_not_there_cannot_be_restored() {
    let place = Place::new("exit 1");
    for (wish, part) in [("the-old-one", "names no record"), ("terms/0000000001/0000000007", "cannot be restored")] {
        let (code, said) = place.weir(&["run", "job.yaml", "--restore", wish]);
        assert_eq!(code, 2, "{said}");
        says(&said, &[part, "`weir checkpoints`"]);
    }
}

#[test]
fn a_second_run_on_the_same_state_folder_is_refused_with_the_pid_of_the_first() {
    // The worker never listens, so that the first run waits.
    let place = Place::new("cat >/dev/null");
    let mut first = place.command(&["run", "job.yaml"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    says(&line, &["default/j: checkpoints in file://"]);

    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 3, "{said}");
    says(&said, &[&format!("another `weir run` (pid {})", first.id()), "--state-dir"]);

    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_suspended_job_does_not_run() {
    let place = Place::new("exit 1");
    place.job("  sql: SELECT 1\n  suspend: true\n  checkpoint: {storage: {url: checkpoints}}\n");
    let (code, said) = place.weir(&["run", "job.yaml"]);
    assert_eq!(code, 2);
    says(&said, &["spec.suspend is true"]);
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let place = Place::new("exit 1");
    let help = place.command(&["run", "--help"]).output().unwrap();
    says(
        &String::from_utf8(help.stdout).unwrap(),
        &["Exit codes", "4    another coordinator took the job over", "130"],
    );
}
