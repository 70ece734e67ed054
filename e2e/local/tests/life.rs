//! A job's life on one machine: stop and go on, a second `weir run`, a takeover from elsewhere, the coordinator gone.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use weir_e2e_local::{Job, Settings, binary, weir};

/// Counts per key, forever or until all rows are counted.
fn counting(rows: Option<u64>) -> String {
    let bound = rows.map(|rows| format!("'number-of-rows' = '{rows}', ")).unwrap_or_default();
    let end = rows.unwrap_or(1_000_000_000) - 1;
    format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', {bound}'rows-per-second' = '20000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{end}');
CREATE TABLE sums (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out', 'format' = 'json',
  'changelog' = 'true');
INSERT INTO sums SELECT MOD(n, 100), COUNT(*) FROM numbers GROUP BY MOD(n, 100);"
    )
}

/// The counts that the changelog leaves; fails where it is not a changelog of counts.
fn counts(job: &Job) -> BTreeMap<u64, u64> {
    let mut rows: BTreeMap<(u64, u64), i64> = BTreeMap::new();
    for line in job.output() {
        let row: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
        let key = (row["k"].as_u64().unwrap(), row["c"].as_u64().unwrap());
        *rows.entry(key).or_default() += if row["op"] == "-U" { -1 } else { 1 };
    }
    rows.retain(|_, n| *n != 0);
    assert!(rows.values().all(|n| *n == 1), "a count was reached twice");
    let left: BTreeMap<u64, u64> = rows.into_keys().collect();
    left
}

#[test]
fn a_stopped_job_goes_on_where_it_was() {
    let job = Job::new("again", &Settings::default(), &counting(Some(60_000)));
    for round in 1..3 {
        let mut weir = job.start(&[]);
        let seen = job.newest_id();
        weir.until("two more checkpoints", || job.newest_id() >= seen + 2);
        weir.interrupt();
        weir.succeed();
        let total: u64 = counts(&job).values().sum();
        assert!(
            total > 0 && total < 60_000,
            "round {round}: {total} rows are counted and shown after a last checkpoint"
        );
    }
    job.start(&[]).succeed();
    assert!(counts(&job).values().all(|count| *count == 600));
    let said = job.start(&[]).succeed();
    assert!(said.contains("finished"), "a finished job only says so\n{said}");
    assert!(counts(&job).values().all(|count| *count == 600), "and changes nothing");
}

#[test]
fn a_second_interrupt_stops_at_once_and_loses_nothing() {
    let job = Job::new("twice", &Settings::default(), &counting(Some(60_000)));
    let mut weir = job.start(&[]);
    weir.until("a checkpoint", || job.newest_id() >= 1);
    weir.interrupt();
    weir.interrupt();
    let (status, said) = weir.wait();
    assert!(matches!(status.code(), Some(0 | 130)), "{status}\n{said}");
    job.start(&[]).succeed();
    assert!(counts(&job).values().all(|count| *count == 600));
}

#[test]
fn a_job_whose_checkpoints_are_deleted_ends_with_an_error_and_the_next_run_does_not_begin_anew_in_silence() {
    let job = Job::new("deleted", &Settings::default(), &counting(Some(2_000_000)));
    let mut weir = job.start(&[]);
    weir.until("two checkpoints", || job.newest_id() >= 2);
    // Files come while they are deleted.
    while std::fs::remove_dir_all(job.storage()).is_err() {}
    let (status, said) = weir.wait();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("/terms/0000000001/") && said.contains("is gone"), "{said}");
    let _ = std::fs::remove_dir_all(job.storage());
    let mut again = job.start(&[]);
    again.until("a checkpoint", || job.newest_id() >= 1);
    let said = again.said();
    assert!(said.contains("the checkpoints of this job are gone"), "{said}");
    again.kill();
}

#[test]
fn a_second_run_on_the_same_state_folder_is_refused() {
    let job = Job::new("locked", &Settings::default(), &counting(None));
    let mut weir = job.start(&[]);
    weir.until("a checkpoint", || job.newest_id() >= 1);
    let (status, said) = job.start(&[]).wait();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("another `weir run`"), "{said}");
    let seen = job.newest_id();
    weir.until("the first goes on", || job.newest_id() > seen);
}

#[test]
fn a_run_from_elsewhere_takes_over_and_the_first_stops_and_says_by_whom() {
    let job = Job::new("taken", &Settings::default(), &counting(Some(100_000)));
    let mut first = job.start(&[]);
    first.until("a checkpoint", || job.newest_id() >= 1);
    let elsewhere = job.path().join("elsewhere");
    let second = job.start_from(&elsewhere, &["--restore", "previous"]);
    let (status, said) = first.wait();
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains("taken over by"), "{said}");
    second.succeed();
    assert!(counts(&job).values().all(|count| *count == 1_000));
}

#[test]
fn every_worker_ends_when_weir_is_killed() {
    let job = Job::new("orphans", &Settings::default(), &counting(None));
    let mut weir = job.start(&[]);
    weir.until("a checkpoint", || job.newest_id() >= 1);
    assert_eq!(weir.workers().len(), 2, "a process a worker");
    // Waits until all of them are gone.
    weir.kill();
}

#[test]
fn output_goes_on_while_the_coordinator_is_stopped_between_two_triggers() {
    // Enough rows that what a sink holds back before it writes is reached in no time.
    let sql = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '1000000', 'rows-per-second' = '100000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '999999');
CREATE TABLE sums (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/out', 'format' = 'json',
  'changelog' = 'true');
INSERT INTO sums SELECT MOD(n, 5000), COUNT(*) FROM numbers GROUP BY MOD(n, 5000);";
    let job = Job::new("frozen", &Settings::default(), sql);
    let mut weir = job.start(&[]);
    weir.until("a checkpoint", || job.newest_id() >= 2);
    weir.freeze();
    // A checkpoint that was under way is carried on or given up by the workers themselves: the rows flow on either way.
    let before = job.unfinished_bytes();
    weir.until("the sinks write on without a coordinator", || job.unfinished_bytes() > before + (2 << 20));
    let seen = job.newest_id();
    weir.thaw();
    weir.until("checkpoints go on", || job.newest_id() > seen);
    weir.succeed();
    assert!(counts(&job).values().all(|count| *count == 200));
}

#[test]
fn a_query_shows_every_row_also_to_who_reads_late() {
    const ROWS: usize = 60_000;
    let script = format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{ROWS}', \
         'rows-per-second' = '10000000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '{ROWS}');
         SELECT n, CAST(n AS DECIMAL(38, 3)) + 90071992547409929007199254.125 AS d, REPEAT('x', 100) AS x FROM numbers;"
    );
    for late in [false, true] {
        let mut weir = Command::new(binary("weir"))
            .args(["sql", "--format", "json", "-e", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if late {
            // Longer than a worker that has been told to go is given.
            std::thread::sleep(Duration::from_secs(4));
        }
        let mut text = String::new();
        weir.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let ended = weir.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable_by_key(|line| (line.len(), *line));
        assert_eq!(lines.len(), ROWS, "late: {late}");
        let last = format!(r#"{{"n":{ROWS},"d":90071992547409929007259254.125,"x":"{}"}}"#, "x".repeat(100));
        assert_eq!(lines.last(), Some(&last.as_str()));
    }
}

#[test]
fn a_checkpoint_is_taken_when_somebody_asks_for_it() {
    let settings = Settings { interval: "1h", ..Settings::default() };
    let job = Job::new("asked", &settings, &counting(None));
    let folder = job.path().join("state");
    let (folder, yaml) = (folder.display().to_string(), job.yaml().display().to_string());
    let (code, said) = weir(&["checkpoint", &folder]);
    assert_eq!(code, 2, "there is no such folder yet\n{said}");
    let mut run = job.start(&[]);
    run.until("it runs", || run_is_heard(&folder));
    for id in 1..3 {
        let (code, said) = weir(&["checkpoint", &folder]);
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with(&format!("checkpoint {id} in ")) && said.contains("state "), "{said}");
        assert_eq!(job.newest_id(), id, "it stands in storage when that is said");
    }
    let history = || weir(&["checkpoints", &yaml, "--history", "--state-dir", &folder]).1;
    run.until("both are told of", || history().matches(" requested ").count() == 2);
    let told = history();
    assert!(told.contains("slowest") && told.contains(", subtask ") && told.contains(" on worker "), "{told}");
    let (code, as_json) = weir(&["checkpoints", &yaml, "--history", "--state-dir", &folder, "--json"]);
    let as_json: serde_json::Value = serde_json::from_str(&as_json).expect("a list");
    assert!(code == 0 && as_json[0]["id"] == 2 && as_json[0]["result"] == "complete", "{as_json}");
    run.kill();
    let (code, said) = weir(&["checkpoint", &folder]);
    assert!(code == 3 && said.contains("no `weir run` works in"), "{code}: {said}");
    let (code, said) = weir(&["checkpoint", "nobody"]);
    assert!(code == 2 && said.contains("no job that was run here"), "{code}: {said}");
    let (code, said) = weir(&["checkpoint", &yaml]);
    assert!(code == 3 && said.contains(".weir/default-asked"), "{code}: {said}");
}

/// It has opened its folder.
fn run_is_heard(folder: &str) -> bool {
    std::path::Path::new(folder).join("asked").is_dir()
}

#[test]
fn a_script_says_at_which_pace_checkpoints_are_taken() {
    let settings = Settings { interval: "10ms", ..Settings::default() };
    let paced =
        |pause: &str| format!("SET 'execution.checkpointing.min-pause' = '{pause}';\n{}", counting(Some(200_000)));
    let job = Job::new("paced", &settings, &paced("1 h"));
    let folder = job.path().join("state").display().to_string();
    let mut run = job.start(&[]);
    run.until("it runs", || run_is_heard(&folder));
    for id in 1..3 {
        let (code, said) = weir(&["checkpoint", &folder]);
        assert!(code == 0 && said.starts_with(&format!("checkpoint {id} in ")), "none but those asked for: {said}");
    }
    run.interrupt();
    run.succeed();
    job.write(&settings, &paced("0 s"));
    let mut run = job.start(&[]);
    let seen = job.newest_id();
    run.until("many checkpoints", || job.newest_id() >= seen + 5);
    run.succeed();
    assert!(counts(&job).values().all(|count| *count == 2_000));
}
