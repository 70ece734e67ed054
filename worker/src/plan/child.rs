//! Planning in a process of its own: whatever a script does to the planner, the worker beside it runs on.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use weir_engine::control::server::PlannerFailed;
use weir_runtime::clock;

use super::{REFUSED, limits::CPU_SECONDS};

/// How long a plan may take by the clock; a controller waits a little longer for it.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// Bytes of an answer. A description is some times as long as its script, which has a MiB at most.
const MAX_ANSWER: u64 = 64 << 20;

/// Bytes kept of what the process says on standard error.
const MAX_WORDS: u64 = 64 << 10;

/// Characters of it that are told.
const TOLD: usize = 300;

/// Why there is no answer of a process.
#[derive(Debug)]
pub enum Trouble {
    /// There is no process.
    NotStarted(io::Error),
    /// It did not do its work.
    Failed(PlannerFailed),
}

/// Asks `program plan` for the answer to a request.
pub fn describe(program: &Path, memory: u64, request: &[u8]) -> Result<Vec<u8>, Trouble> {
    run(program, [OsStr::new("plan"), OsStr::new("--memory"), OsStr::new(&memory.to_string())], request, PATIENCE)
}

fn run<'a>(
    program: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, Trouble> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Trouble::NotStarted)?;
    let heard = hear(&mut child, request, patience);
    if heard.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| failed(format!("it is not known how planning ended: {error}")))?;
    let (answer, words) = heard?;
    match status.code() {
        Some(code) if (code == 0 || code == i32::from(REFUSED)) && !answer.is_empty() => Ok(answer),
        _ => Err(failed(ending(status, &words))),
    }
}

/// What it says until it closes its outputs, in threads that read beside each other: a pipe that nobody reads holds it up.
fn hear(child: &mut Child, request: &[u8], patience: Duration) -> Result<(Vec<u8>, Vec<u8>), Trouble> {
    let (told, hearing) = mpsc::channel();
    let listen = |from: Option<Box<dyn Read + Send>>, most: u64, is_answer: bool| {
        let Some(mut from) = from else { return Ok(()) };
        let told = told.clone();
        let read = move || {
            let mut bytes = Vec::new();
            let _ = (&mut from).take(most).read_to_end(&mut bytes);
            let _ = io::copy(&mut from, &mut io::sink());
            let _ = told.send((is_answer, bytes));
        };
        let thread = thread::Builder::new().name("planning".to_string()).spawn(read);
        thread.map(drop).map_err(Trouble::NotStarted)
    };
    listen(child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>), MAX_ANSWER, true)?;
    listen(child.stderr.take().map(|err| Box::new(err) as Box<dyn Read + Send>), MAX_WORDS, false)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why on its outputs.
        let _ = stdin.write_all(request);
    }
    let (mut answer, mut words) = (Vec::new(), Vec::new());
    let begun = clock::now();
    for _ in 0..2 {
        match hearing.recv_timeout(patience.saturating_sub(clock::since(begun))) {
            Ok((true, bytes)) => answer = bytes,
            Ok((false, bytes)) => words = bytes,
            Err(RecvTimeoutError::Timeout) => {
                return Err(failed(format!("planning took more than {} s", patience.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok((answer, words))
}

fn failed(message: String) -> Trouble {
    Trouble::Failed(PlannerFailed { message })
}

/// How it ended, for people.
fn ending(status: ExitStatus, words: &[u8]) -> String {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(Signal::XCPU) {
        return format!("planning took more than {CPU_SECONDS} s of processor time");
    }
    let words = String::from_utf8_lossy(words);
    let lines: Vec<&str> =
        words.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("note:")).collect();
    let last = lines[lines.len().saturating_sub(2)..].join(" ");
    let last: String = last.chars().take(TOLD).collect();
    let said = if last.is_empty() { String::new() } else { format!(": {last}") };
    format!("planning ended with {status}{said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, request: &[u8], patience: Duration) -> Result<Vec<u8>, String> {
        let arguments = [OsStr::new("-c"), OsStr::new(script)];
        run(Path::new("/bin/sh"), arguments, request, patience).map_err(|trouble| match trouble {
            Trouble::NotStarted(error) => panic!("{error}"),
            Trouble::Failed(failed) => failed.message,
        })
    }

    #[test]
    fn an_answer_is_what_a_process_says_that_plans_or_refuses() {
        assert_eq!(shell("cat", b"the request", PATIENCE), Ok(b"the request".to_vec()));
        assert_eq!(shell("cat; exit 2", b"refused", PATIENCE), Ok(b"refused".to_vec()));
    }

    #[test]
    fn whatever_else_it_does_is_a_failure_with_a_cause() {
        let crash = shell("echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$", b"", PATIENCE).unwrap_err();
        assert!(crash.contains("signal: 6") && crash.contains("memory allocation of 9 bytes failed"), "{crash}");
        let panic = "printf 'x\\nthread planner panicked at a.rs:1:\\nno such thing\\nnote: run with\\n' >&2; exit 101";
        let panic = shell(panic, b"", PATIENCE).unwrap_err();
        assert!(panic.contains("101: thread planner panicked at a.rs:1: no such thing"), "{panic}");
        let slow = shell("kill -XCPU $$", b"", PATIENCE).unwrap_err();
        assert!(slow.contains("30 s of processor time"), "{slow}");
        assert!(shell("exit 0", b"", PATIENCE).is_err(), "no answer is none");
        assert!(shell("exit 3", &vec![b'x'; 1 << 20], PATIENCE).is_err(), "it does not read what is asked");
        assert!(matches!(describe(Path::new("/nowhere"), 0, b""), Err(Trouble::NotStarted(_))));
    }

    #[test]
    fn one_that_does_not_end_is_ended() {
        let begun = clock::now();
        let error = shell("exec sleep 600", b"", Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("planning took more than"), "{error}");
        assert!(clock::since(begun) < Duration::from_mins(1));
    }
}
