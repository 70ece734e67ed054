//! Somebody else's hand in the output folder: what is unfinished or published there is removed, moved away, or written by another
//! run of the same job.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, fs, io::ErrorKind, path::PathBuf};

use weir_e2e_local::{Job, Settings};

const ROWS: u64 = 3_000;

fn sql() -> String {
    format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '1000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '{ROWS}');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out', 'format' = 'csv');
INSERT INTO copies SELECT n FROM numbers;"
    )
}

fn settings() -> Settings {
    let more = "  restart: {initialBackoff: 10ms, maxBackoff: 10ms, maxFailures: 50}\n".to_string();
    Settings { workers: 1, slots: 1, more, ..Settings::default() }
}

/// How often each row is seen.
fn rows(job: &Job) -> BTreeMap<u64, u64> {
    let mut rows = BTreeMap::new();
    for line in job.output() {
        *rows.entry(line.parse().expect("a row is a number")).or_default() += 1;
    }
    rows
}

fn hidden(job: &Job) -> Vec<PathBuf> {
    let entries = fs::read_dir(job.path().join("out")).into_iter().flatten().flatten();
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    entries.map(|entry| entry.path()).filter(is_hidden).collect()
}

/// It ended because output is lost: it says which of which checkpoint, and what to do.
fn assert_says_what_is_lost(code: Option<i32>, said: &str) {
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("output of checkpoint ") && said.contains("/out/part-"), "{said}");
    assert!(said.contains("is lost") && said.contains("--accept-lost-output"), "{said}");
    assert!(!said.contains("all output up to checkpoint"), "{said}");
}

#[test]
fn unfinished_files_that_are_removed_are_written_again_or_named() {
    let job = Job::new("swept", &settings(), &sql());
    let mut weir = job.start(&[]);
    weir.until("two checkpoints and a file that is being written", || job.newest_id() >= 2 && !hidden(&job).is_empty());
    for path in hidden(&job) {
        drop(fs::remove_file(path));
    }
    let (status, said) = weir.wait();
    if status.success() {
        assert!((1..=ROWS).all(|n| rows(&job).get(&n) == Some(&1)), "every row once\n{said}");
        return;
    }
    // What was removed stood between its checkpoint and its publication.
    assert_says_what_is_lost(status.code(), &said);
    job.start(&["--accept-lost-output"]).succeed();
    assert!(rows(&job).values().all(|times| *times == 1), "nothing twice");
}

#[test]
fn a_folder_that_is_removed_ends_the_job_with_what_is_lost() {
    let job = Job::new("gone", &settings(), &sql());
    let mut weir = job.start(&[]);
    weir.until("two checkpoints", || job.newest_id() >= 2);
    // The job writes into it meanwhile.
    while fs::remove_dir_all(job.path().join("out")).is_err_and(|error| error.kind() != ErrorKind::NotFound) {}
    let (status, said) = weir.wait();
    assert_says_what_is_lost(status.code(), &said);
    let (status, said) = job.start(&[]).wait();
    assert_says_what_is_lost(status.code(), &said);
    let restored = job.newest_id();
    let said = job.start(&["--accept-lost-output"]).succeed();
    assert!(said.contains("all output up to checkpoint"), "{said}");
    // What came after the last checkpoint before the removal is there.
    let found = rows(&job);
    let first = *found.keys().next().expect("rows are written after it");
    assert!((first..=ROWS).all(|n| found.get(&n) == Some(&1)), "from {first}, restored from {restored}\n{said}");
}

#[test]
fn a_reader_that_moves_away_what_it_has_read_is_nothing_to_the_job() {
    let job = Job::new("moved", &settings(), &sql());
    let away = job.path().join("away");
    fs::create_dir(&away).unwrap();
    let read = || {
        for path in job.output_files() {
            fs::rename(&path, away.join(path.file_name().unwrap())).expect("a file is there until it is read");
        }
    };
    for stop in ["interrupt", "kill"] {
        let mut weir = job.start(&[]);
        let seen = job.newest_id();
        weir.until("two more checkpoints", || {
            read();
            job.newest_id() >= seen + 2
        });
        if stop == "kill" {
            weir.kill();
        } else {
            weir.interrupt();
            weir.succeed();
        }
        read();
    }
    job.start(&[]).succeed();
    read();
    // The final commit comes once more, and finds nothing to do.
    job.start(&[]).succeed();
    assert!(job.output_files().is_empty());
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&away).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            *found.entry(line.parse::<u64>().unwrap()).or_insert(0) += 1;
        }
    }
    assert!((1..=ROWS).all(|n| found.get(&n) == Some(&1)), "every row once: {found:?}");
}

#[test]
fn two_runs_of_one_job_with_one_output_remove_nothing_of_each_other() {
    let job = Job::new("twins", &settings(), &sql());
    let mut first = job.start(&[]);
    first.until("a checkpoint", || job.newest_id() >= 1);
    let elsewhere = format!("{{url: \"file://{}/elsewhere\"}}", job.path().display());
    job.write(&Settings { storage: Some(elsewhere), ..settings() }, &sql());
    let mut second = job.start_from(&job.path().join("state-elsewhere"), &[]);
    let told = |words: &str| fs::read_to_string(job.path().join("log")).unwrap_or_default().matches(words).count();
    // Each death makes an attempt that cleans up after the one before. The first run has one attempt, and both write one log.
    for attempt in 2..6 {
        let before = if attempt == 2 { 2 } else { 1 };
        second.until("a worker that runs", || told(&format!("attempt {}: 1 workers", attempt - 1)) == before);
        let worker = *second.workers().first().expect("an attempt has a worker");
        second.kill_worker(worker);
        second.until("the next attempt", || told(&format!("attempt {attempt}: 1 workers")) == 1);
    }
    first.succeed();
    second.succeed();
    assert!((1..=ROWS).all(|n| rows(&job).get(&n) == Some(&2)), "every row once of each");
}
