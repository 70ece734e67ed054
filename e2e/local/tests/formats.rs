//! State that outlives the script and the build that wrote it: read as what it is, refused by name, or found again.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use weir_e2e_local::{Job, Settings, Weir};

const ROWS: u64 = 60_000;
/// Each count is reached by each key.
const EACH: u64 = ROWS / 100;

const TABLES: &str = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '60000',
  'rows-per-second' = '20000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '59999');
CREATE TABLE again (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '60000',
  'rows-per-second' = '20000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '59999');
CREATE TABLE sums (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/out', 'format' = 'json',
  'changelog' = 'true');
CREATE TABLE more (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/out/more', 'format' = 'json',
  'changelog' = 'true');
";

const EVEN: &str =
    "INSERT INTO sums SELECT MOD(n, 100), COUNT(*) FROM numbers WHERE MOD(n, 2) = 0 GROUP BY MOD(n, 100);\n";
const ODD: &str =
    "INSERT INTO sums SELECT MOD(n, 100), COUNT(*) FROM numbers WHERE MOD(n, 2) = 1 GROUP BY MOD(n, 100);\n";

fn job(name: &str, statements: &[&str]) -> Job {
    Job::new(name, &Settings { slots: 1, ..Settings::default() }, &script(statements))
}

fn script(statements: &[&str]) -> String {
    format!("{TABLES}{}", statements.concat())
}

/// Stops with a last checkpoint about half-way.
fn stop_half_way(job: &Job, mut weir: Weir) {
    weir.until("some checkpoints", || job.newest_id() >= 3);
    weir.interrupt();
    weir.succeed();
}

/// What a changelog leaves: each row's fields but its kind, with how often it stands there.
fn left(lines: &[String]) -> BTreeMap<String, i64> {
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    for line in lines {
        let mut row: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        let kind = row.as_object_mut().unwrap().remove("op").map_or_else(String::new, |kind| kind.to_string());
        *rows.entry(row.to_string()).or_default() += if kind.contains('-') { -1 } else { 1 };
    }
    rows.retain(|_, count| *count != 0);
    rows
}

/// Every key of 0..100 has come so often, and nothing was counted twice.
fn assert_exact(job: &Job) {
    let expected: BTreeMap<String, i64> =
        (0..100).map(|key| (serde_json::json!({"k": key, "c": EACH}).to_string(), 1)).collect();
    assert_eq!(left(&job.output()), expected);
}

#[test]
fn two_statements_that_change_places_keep_their_own_state() {
    let job = job("exchanged", &[EVEN, ODD]);
    stop_half_way(&job, job.start(&[]));
    job.write(&Settings { slots: 1, ..Settings::default() }, &script(&[ODD, EVEN]));
    job.start(&[]).succeed();
    assert_exact(&job);
}

/// Adds a statement that writes `more` to a job that stands half-way, and gives what is left of its output.
fn with_one_more(job: &Job, more: &str) -> BTreeMap<String, i64> {
    let allowed = Settings { slots: 1, more: "  upgrade: {allowNewState: true}\n".to_string(), ..Settings::default() };
    job.write(&allowed, &script(&[more, EVEN, ODD]));
    job.start(&[]).succeed();
    let (more, sums): (Vec<PathBuf>, Vec<PathBuf>) =
        job.output_files().into_iter().partition(|path| path.components().any(|part| part.as_os_str() == "more"));
    let lines = |paths: Vec<PathBuf>| -> Vec<String> {
        paths
            .iter()
            .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_string).collect::<Vec<_>>())
            .collect()
    };
    let sums = left(&lines(sums));
    let exact = |row: &String| serde_json::from_str::<serde_json::Value>(row).unwrap()["c"] == EACH;
    assert!(sums.len() == 100 && sums.keys().all(exact), "the others go on: {sums:?}");
    left(&lines(more))
}

#[test]
fn a_statement_more_is_refused_by_name_until_it_is_allowed_and_starts_at_the_beginning() {
    let more = "INSERT INTO more SELECT MOD(n, 10), COUNT(*) FROM again GROUP BY MOD(n, 10);\n";
    let job = job("more", &[EVEN, ODD]);
    stop_half_way(&job, job.start(&[]));
    job.write(&Settings { slots: 1, ..Settings::default() }, &script(&[more, EVEN, ODD]));
    let (status, said) = job.start(&[]).wait();
    assert_eq!(status.code(), Some(2), "{said}");
    for part in ["`GroupAggregate(by ", "(line 9)", "no state in the checkpoint", "spec.upgrade.allowNewState: true"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let expected: BTreeMap<String, i64> =
        (0..10).map(|key| (serde_json::json!({"k": key, "c": ROWS / 10}).to_string(), 1)).collect();
    assert_eq!(with_one_more(&job, more), expected, "it has read all that was before it");
}

#[test]
fn a_statement_more_over_a_table_that_others_read_counts_from_where_they_are() {
    let more = "INSERT INTO more SELECT MOD(n, 10), COUNT(*) FROM numbers GROUP BY MOD(n, 10);\n";
    let job = job("shared", &[EVEN, ODD]);
    stop_half_way(&job, job.start(&[]));
    let rows = with_one_more(&job, more);
    assert_eq!(rows.len(), 10, "{rows:?}");
    // Two subtasks have every other number each, and are at places of their own.
    for parity in 0..2 {
        let counts: Vec<u64> = rows
            .keys()
            .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap())
            .filter(|row| row["k"].as_u64().unwrap() % 2 == parity)
            .map(|row| row["c"].as_u64().unwrap())
            .collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "each row from there on, once: {rows:?}");
        assert!(*least > 0 && *most < ROWS / 10, "and none from before: {rows:?}");
    }
}

/// Sums by key of a file, with these types.
fn typed(key: &str, value: &str, sum: &str) -> String {
    format!(
        "CREATE TABLE s (k {key}, v {value}) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/in.csv', 'format' = 'csv',
  'scan.rate-limit' = '500');
CREATE TABLE o (k {key}, t {sum}, d BIGINT) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out', 'format' = 'json',
  'changelog' = 'true');
INSERT INTO o SELECT k, SUM(v), COUNT(DISTINCT v) FROM s GROUP BY k;"
    )
}

#[test]
fn a_column_of_another_type_is_refused_with_operator_table_and_both_types_and_nothing_is_touched() {
    let settings = Settings { slots: 1, ..Settings::default() };
    let job = Job::new("typed", &settings, &typed("INT", "INT", "INT"));
    let rows: String = (1..=1000).map(|i| format!("{},{}\n", i % 7, i % 11)).collect();
    fs::write(job.path().join("in.csv"), rows).unwrap();
    stop_half_way(&job, job.start(&[]));
    let cases = [
        (typed("BIGINT", "INT", "INT"), "the key (INT) in the checkpoint and (BIGINT) in the plan"),
        (typed("STRING", "INT", "INT"), "the key (INT) in the checkpoint and (STRING) in the plan"),
        (typed("INT", "BIGINT", "BIGINT"), "SUM INT"),
        (typed("INT", "DOUBLE", "DOUBLE"), "SUM DOUBLE"),
        (typed("INT", "DECIMAL(10, 2)", "DECIMAL(38, 2)"), "SUM DECIMAL(10, 2)"),
    ];
    for (sql, expected) in cases {
        job.write(&settings, &sql);
        let (status, said) = job.start(&[]).wait();
        assert_eq!(status.code(), Some(2), "{said}");
        for part in ["`GroupAggregate(by k: SUM(v), COUNT(DISTINCT v))` (line 5)", "its table `groups`", expected] {
            assert!(said.contains(part), "{part}\n{said}");
        }
    }
    job.write(&settings, &typed("INT", "INT", "INT"));
    job.start(&[]).succeed();
    let mut expected: BTreeMap<u64, (u64, std::collections::BTreeSet<u64>)> = BTreeMap::new();
    for i in 1..=1000 {
        let of = expected.entry(i % 7).or_default();
        of.0 += i % 11;
        of.1.insert(i % 11);
    }
    let expected: BTreeMap<String, i64> = expected
        .into_iter()
        .map(|(k, (t, seen))| (serde_json::json!({"k": k, "t": t, "d": seen.len()}).to_string(), 1))
        .collect();
    assert_eq!(left(&job.output()), expected);
}

/// The version of every opening, record, seal and part of a job.
fn versions(job: &Job) -> Vec<u64> {
    let mut folders = vec![job.storage().join("terms"), job.storage().join("parts")];
    let mut versions = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if let Ok(object) = serde_json::from_slice::<serde_json::Value>(&fs::read(entry.path()).unwrap()) {
                versions.push(object["version"].as_u64().unwrap());
            }
        }
    }
    versions
}

#[test]
fn a_job_writes_the_version_before_until_it_is_told_otherwise_and_goes_on_in_the_new_one() {
    let job = job("before", &[EVEN, ODD]);
    stop_half_way(&job, job.start(&["--state-format", "1"]));
    assert!(versions(&job).iter().all(|version| *version == 1), "{:?}", versions(&job));
    job.start(&[]).succeed();
    assert!(versions(&job).contains(&3));
    assert_exact(&job);
}

/// Where the stored fixtures were made: their pending commits name files below it.
const FIXTURE_FOLDER: &str = "/tmp/weir-fixture-of-format-1";

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a stored job into this one's folder. Parts name files by the folder that they were written in; with another one in it a
/// part has other bytes, and its record another length and checksum.
fn moved_in(job: &Job, fixture: &Path) {
    copied(fixture, job.path());
    let folder = job.path().display().to_string();
    let mut written = BTreeMap::new();
    for entry in fs::read_dir(job.storage().join("parts")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap().replace(FIXTURE_FOLDER, &folder);
        written.insert(format!("parts/{}", entry.file_name().display()), (text.len(), crc32c::crc32c(text.as_bytes())));
        fs::write(entry.path(), text).unwrap();
    }
    for path in job.slots() {
        let mut slot: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for part in slot.get_mut("parts").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
            let Some((length, crc32c)) = written.get(part["path"].as_str().unwrap()) else { continue };
            (part["length"], part["crc32c"]) = ((*length).into(), (*crc32c).into());
        }
        fs::write(path, serde_json::to_vec_pretty(&slot).unwrap()).unwrap();
    }
}

#[test]
fn state_that_the_last_release_wrote_is_restored() {
    for backend in ["rocksdb", "filesystem"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1").join(backend);
        let sql = fs::read_to_string(fixture.join("script.sql")).unwrap();
        let settings = Settings { slots: 2, workers: 1, backend, ..Settings::default() };
        let job = Job::new("stored", &settings, &sql);
        moved_in(&job, &fixture);
        assert!(versions(&job).iter().all(|version| *version == 1), "the fixtures are of version 1");
        let seen = job.newest_id();
        assert!(seen > 0);
        let said = job.start(&["--restore", "previous"]).succeed();
        assert!(said.contains(&format!("checkpoint {seen}")), "it goes on from the stored one\n{said}");
        let expected = fs::read_to_string(fixture.join("expected.txt")).unwrap();
        let left: String = left(&job.output()).into_iter().map(|(row, count)| format!("{count} {row}\n")).collect();
        assert_eq!(left, expected, "{backend}");
        assert!(versions(&job).contains(&3), "it goes on in the version of this build");
    }
}
