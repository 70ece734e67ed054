//! Worker processes of this machine: started, told dead at once, stopped, and gone with their parent. A script plays the
//! worker: it says where it listens, and ends when its standard input closes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use weir_controller::{
    platform::{Platform, PlatformEvent, WorkerTemplate, local::Local},
    state_dir::StateDir,
};
use weir_protocol::BUILD_VERSION;

const PATIENCE: Duration = Duration::from_secs(20);

fn script(folder: &Path, serve: &str) -> std::path::PathBuf {
    let worker = folder.join("weir-worker");
    fs::write(&worker, format!("#!/bin/sh\n{serve}\n")).unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    worker
}

fn listening() -> String {
    format!(r#"echo '{{"address":"127.0.0.1:1","worker":"abc","version":"{BUILD_VERSION}"}}'"#)
}

fn platform(folder: &Path, serve: &str) -> (Local, mpsc::Receiver<PlatformEvent>, Arc<StateDir>) {
    let state_dir = Arc::new(StateDir::open(&folder.join("state")).unwrap());
    let (events, received) = mpsc::channel(16);
    (Local::new(script(folder, serve), 1 << 30, state_dir.clone(), events), received, state_dir)
}

async fn next(events: &mut mpsc::Receiver<PlatformEvent>) -> PlatformEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event should come").unwrap()
}

fn alive(pid: u32) -> bool {
    // A process that has ended but is not waited for yet is as good as gone.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until_gone(pid: u32) {
    let gone = async {
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the process should end");
}

#[tokio::test]
async fn a_killed_process_is_told_dead_with_its_signal_and_its_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let serve = format!("{}\necho a row\ncat >/dev/null", listening());
    let (mut platform, mut events, state_dir) = platform(folder.path(), &serve);
    let process = platform.start(&WorkerTemplate::default());
    let PlatformEvent::Started { name, address, pid: Some(pid), .. } = next(&mut events).await else { panic!() };
    assert_eq!((name, address.as_str()), (format!("worker 1 (pid {pid})"), "127.0.0.1:1"));
    assert_eq!(next(&mut events).await, PlatformEvent::Printed { process, line: "a row".into() });
    assert!(state_dir.worker(process.0).is_dir());

    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    assert_eq!(next(&mut events).await, PlatformEvent::Died { process, how: "signal 9".into() });
    platform.finish().await;
    assert!(!state_dir.worker(process.0).exists());
}

#[tokio::test]
async fn a_stopped_process_ends_by_itself_when_its_input_closes_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (mut platform, mut events, _state_dir) = platform(folder.path(), &format!("{}\ncat >/dev/null", listening()));
    let process = platform.start(&WorkerTemplate::default());
    assert!(matches!(next(&mut events).await, PlatformEvent::Started { .. }));
    platform.stop(process);
    assert_eq!(next(&mut events).await, PlatformEvent::Died { process, how: "exit code 0".into() });
}

#[tokio::test]
async fn a_process_that_ignores_its_input_is_ended_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let (mut platform, mut events, _state_dir) = platform(folder.path(), &format!("{}\nexec sleep 100", listening()));
    let process = platform.start(&WorkerTemplate::default());
    assert!(matches!(next(&mut events).await, PlatformEvent::Started { .. }));
    platform.stop(process);
    assert_eq!(next(&mut events).await, PlatformEvent::Died { process, how: "signal 9".into() });
}

#[tokio::test]
async fn a_process_that_ends_before_it_listens_is_told_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let (mut platform, mut events, _state_dir) = platform(folder.path(), "echo no memory left >&2; exit 7");
    let process = platform.start(&WorkerTemplate::default());
    let PlatformEvent::StartFailed { process: failed, reason, hopeless } = next(&mut events).await else { panic!() };
    assert!(failed == process && !hopeless);
    assert!(reason.contains("exit code 7") && reason.contains("no memory left"), "{reason}");
}

#[tokio::test]
async fn workers_end_when_weir_run_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let worker = script(
        folder.path(),
        &format!(
            "case $1 in --version) echo weir-worker {BUILD_VERSION};; plan) cat >/dev/null; echo '{{\"fingerprint\":\"f\"}}';; *) echo $$ >pid; {}; cat >/dev/null;; esac",
            listening()
        ),
    );
    fs::write(
        folder.path().join("job.yaml"),
        "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {name: j}\nspec:\n  sql: SELECT 1\n  checkpoint: {storage: {url: ck}}\n",
    )
    .unwrap();
    let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "job.yaml"])
        .current_dir(folder.path())
        .env("WEIR_WORKER", worker)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = async {
        loop {
            let pid = fs::read_to_string(folder.path().join("pid")).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse::<u32>() {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let pid = tokio::time::timeout(PATIENCE, begun).await.expect("a worker should start");
    weir.kill().unwrap();
    weir.wait().unwrap();
    until_gone(pid).await;
}
