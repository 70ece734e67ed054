//! A disk that is full: checkpoints wait for space, the job says so and loses nothing.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use weir_e2e_local::{Job, Settings};

const DISK: u64 = 64 << 20;
const ROWS: u64 = 100_000;

fn sql() -> String {
    format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{ROWS}', 'rows-per-second' = '10000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
CREATE TABLE counts (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out', 'format' = 'json',
  'changelog' = 'true');
INSERT INTO counts SELECT MOD(n, 10000), COUNT(*) FROM numbers GROUP BY MOD(n, 10000);",
        ROWS - 1
    )
}

/// Fills a disk to the last byte, also what has become free since the last time; without the file that is named there is
/// space again.
fn fill(disk: &Path) -> std::io::Result<PathBuf> {
    let ballast = disk.join("ballast");
    let mut file = fs::File::options().create(true).append(true).open(&ballast)?;
    for piece in [1 << 20, 4096, 1] {
        let bytes = vec![0_u8; piece];
        loop {
            match file.write_all(&bytes) {
                Ok(()) => {}
                Err(full) if full.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ballast)
}

/// Each key ends at its count, and is counted once.
fn verify(job: &Job) {
    let reached = |op: &str| -> usize { job.output().iter().filter(|line| line.contains(op)).count() };
    let (made, left) = (reached("\"+I\"") + reached("\"+U\""), reached("\"-U\""));
    assert_eq!(made - left, 10_000, "a value for each key");
    let last = job.output().iter().filter(|line| line.contains("\"c\":10,") || line.contains("\"c\":10}")).count();
    assert_eq!(last, 10_000, "every key is counted ten times, once");
}

#[test]
fn where_checkpoints_go_nothing_fails_but_the_checkpoints() {
    let job = Job::new("full", &Settings::default(), &sql());
    let mut weir = job.start_on_small_disk("checkpoints", DISK);
    weir.until("a checkpoint", || weir_said(&job, "checkpoint 2 in"));
    let ballast = fill(&weir.small_disk(&job.path().join("checkpoints"))).expect("the disk can be filled");
    weir.until("a checkpoint that fails, and why", || weir_said(&job, "No space left"));
    let before = job.unfinished_bytes();
    weir.until("the rows flow on", || job.unfinished_bytes() > before);
    fs::remove_file(ballast).unwrap();
    let said = weir.succeed();
    assert!(!said.contains("attempt 2"), "no restart for a checkpoint that fails\n{said}");
    assert!(said.contains("aborted"), "{said}");
    verify(&job);
}

#[test]
fn where_state_rests_the_job_fails_with_the_cause_and_goes_on_once_there_is_space() {
    let restart = "  restart: {initialBackoff: 10ms, maxBackoff: 10ms, maxFailures: 3}\n".to_string();
    let job = Job::new("full", &Settings { more: restart, ..Settings::default() }, &sql());
    let mut weir = job.start_on_small_disk("state", DISK);
    weir.until("a checkpoint", || job.newest_id() >= 2);
    let disk = weir.small_disk(&job.path().join("state"));
    let mut filled = 0;
    weir.until("the end, since no attempt finds space", || {
        // The disk goes with the last process that sees it.
        filled += u32::from(fill(&disk).is_ok());
        weir_said(&job, "the job failed")
    });
    assert!(filled > 0, "the disk was never full");
    let (status, said) = weir.wait();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    // The small disk is gone with the process: another folder, another owner.
    job.start(&["--restore", "previous"]).succeed();
    verify(&job);
}

fn weir_said(job: &Job, words: &str) -> bool {
    fs::read_to_string(job.path().join("log")).unwrap_or_default().contains(words)
}
