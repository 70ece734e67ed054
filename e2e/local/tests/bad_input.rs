//! Bad input: a message with place and remedy, an exit code, and nothing half-done.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{fs, io::Write as _};

use weir_e2e_local::{Job, Settings, weir};

/// The job is wrong; nothing was started.
const BAD_INPUT: i32 = 2;
/// The job was right, and failed.
const JOB_FAILED: i32 = 1;
/// Storage, disk or a program that is not there.
const ENVIRONMENT: i32 = 3;

const INPUT: &str = "CREATE TABLE input (k STRING, v BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/in.csv', 'format' = 'csv');\n";
const OUTPUT: &str = "CREATE TABLE result (k STRING, v BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/out', 'format' = 'csv');\n";

fn run(sql: &str) -> (Job, i32, String) {
    let job = Job::new("bad", &Settings::default(), sql);
    fs::write(job.path().join("in.csv"), "a,1\nb,2\n").unwrap();
    let (code, said) = finish(&job);
    (job, code, said)
}

fn finish(job: &Job) -> (i32, String) {
    let (status, said) = job.start(&[]).wait();
    (status.code().unwrap_or(-1), said)
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "a panic is no message:\n{said}");
}

#[test]
fn wrong_sql_is_refused_with_line_column_and_remedy_before_anything_starts() {
    let script = |select: &str| format!("{INPUT}{OUTPUT}{select}");
    let cases: &[(&str, String, &[&str])] = &[
        ("does not parse", script("INSERT INTO result SELEC k, v FROM input;"), &["line 3"]),
        ("unknown table", script("INSERT INTO result SELECT k, v FROM inputs;"), &["line 3", "inputs", "input"]),
        ("unknown column", script("INSERT INTO result SELECT k, w FROM input;"), &["line 3", "w"]),
        ("unknown function", script("INSERT INTO result SELECT UPER(k), v FROM input;"), &["line 3", "UPER"]),
        ("unknown sink", script("INSERT INTO results SELECT k, v FROM input;"), &["line 3", "results"]),
        ("types do not match", script("INSERT INTO result SELECT v, k FROM input;"), &["line 3", "k"]),
        ("too few columns", script("INSERT INTO result SELECT k FROM input;"), &["line 3"]),
        (
            "a join by a list of keys that is not there",
            script("INSERT INTO result SELECT a.k, b.v FROM input a JOIN input b USING (w);"),
            &["line 3", "w"],
        ),
        (
            "unknown connector",
            format!(
                "CREATE TABLE input (k STRING) WITH ('connector' = 'filesytem');\n{OUTPUT}INSERT INTO result SELECT k, 1 FROM input;"
            ),
            &["line 1", "filesytem", "filesystem"],
        ),
        (
            "unknown option",
            format!(
                "CREATE TABLE input (k STRING) WITH ('connector' = 'filesystem', 'pth' = 'x', 'format' = 'csv');\n{OUTPUT}INSERT INTO result SELECT k, 1 FROM input;"
            ),
            &["pth", "path"],
        ),
        (
            "an updating result into an append-only file",
            script("INSERT INTO result SELECT k, COUNT(*) FROM input GROUP BY k;"),
            &["changelog"],
        ),
    ];
    for (name, sql, words) in cases {
        let (job, code, said) = run(sql);
        assert_eq!(code, BAD_INPUT, "{name}\n{said}");
        says(&said, words);
        assert!(job.output_files().is_empty(), "{name}: nothing is written");
        assert!(job.slots().is_empty(), "{name}: no record is made");
        let (code, said) = weir(&["validate", job.yaml().to_str().unwrap()]);
        assert_eq!(code, BAD_INPUT, "{name}: validate says the same\n{said}");
        says(&said, words);
    }
}

#[test]
fn a_missing_input_file_is_named() {
    let job =
        Job::new("bad", &Settings::default(), &format!("{INPUT}{OUTPUT}INSERT INTO result SELECT k, v FROM input;"));
    let (code, said) = finish(&job);
    assert_eq!(code, BAD_INPUT, "{said}");
    says(&said, &["in.csv"]);
    assert!(job.output_files().is_empty());
}

#[test]
fn the_deepest_expressions_that_are_planned_are_deployed_and_computed_too() {
    let sum = " + v".repeat(1_400);
    let any = " OR v = 1 OR v = 2".repeat(200);
    let text = " || k".repeat(400);
    let (job, code, said) = run(&format!(
        "{INPUT}{OUTPUT}INSERT INTO result SELECT SUBSTRING(k{text}, 1, 3), v{sum} FROM input WHERE v = 0{any};"
    ));
    assert_eq!(code, 0, "{said}");
    let mut output = job.output();
    output.sort();
    assert_eq!(output, ["aaa,1401", "bbb,2802"]);
}

#[test]
fn a_chain_that_is_too_long_is_refused_before_anything_starts() {
    let (job, code, said) =
        run(&format!("{INPUT}{OUTPUT}INSERT INTO result\nSELECT k, v{} FROM input;", " + v".repeat(50_000)));
    assert_eq!(code, BAD_INPUT, "{}", &said[..said.len().min(2_000)]);
    says(&said, &["line 4", "levels deep"]);
    assert!(job.output_files().is_empty());
}

#[test]
fn a_value_that_is_too_large_fails_the_job_with_function_and_row() {
    let sql = format!("{INPUT}{OUTPUT}INSERT INTO result SELECT REPEAT(k, CAST(v AS INT)), v FROM input;");
    let job = Job::new("bad", &Settings { more: "  restart: {maxFailures: 0}\n".into(), ..Settings::default() }, &sql);
    fs::write(job.path().join("in.csv"), "a,1\nb,2\nc,2147483647\n").unwrap();
    let (code, said) = finish(&job);
    assert_eq!(code, JOB_FAILED, "{said}");
    says(&said, &["REPEAT(c, 2147483647) in row 3 of 3", "are the most"]);
}

#[test]
fn a_corrupt_line_fails_the_job_with_file_and_line() {
    let sql = format!("{INPUT}{OUTPUT}INSERT INTO result SELECT k, v FROM input;");
    let job = Job::new("bad", &Settings { more: "  restart: {maxFailures: 0}\n".into(), ..Settings::default() }, &sql);
    fs::write(job.path().join("in.csv"), "a,1\nb,2\nc,three\nd,4\n").unwrap();
    let (code, said) = finish(&job);
    assert_eq!(code, JOB_FAILED, "{said}");
    says(&said, &["in.csv:3", "csv.ignore-parse-errors"]);
    assert!(job.output_files().is_empty(), "nothing half-done shows");
}

#[test]
fn a_corrupt_line_is_skipped_and_counted_where_the_option_says_so() {
    let input = INPUT.replace("'format' = 'csv'", "'format' = 'csv', 'csv.ignore-parse-errors' = 'true'");
    let job =
        Job::new("bad", &Settings::default(), &format!("{input}{OUTPUT}INSERT INTO result SELECT k, v FROM input;"));
    fs::write(job.path().join("in.csv"), "a,1\nb,2\nc,three\nd,4\n").unwrap();
    let (code, said) = finish(&job);
    assert_eq!(code, 0, "{said}");
    let mut output = job.output();
    output.sort();
    assert_eq!(output, ["a,1", "b,2", "d,4"]);
    says(&said, &["skipped"]);
}

#[test]
fn a_truncated_gzip_fails_the_job_and_is_named() {
    let sql = format!("{INPUT}{OUTPUT}INSERT INTO result SELECT k, v FROM input;").replace("in.csv", "in.csv.gz");
    // No checkpoint publishes what stands before the fault.
    let more = "  restart: {maxFailures: 0}\n".to_string();
    let job = Job::new("bad", &Settings { interval: "1m", more, ..Settings::default() }, &sql);
    let whole = std::process::Command::new("sh")
        .arg("-c")
        .arg("seq 1 100000 | sed 's/.*/k,&/' | gzip -c")
        .output()
        .unwrap()
        .stdout;
    let mut file = fs::File::create(job.path().join("in.csv.gz")).unwrap();
    file.write_all(&whole[..whole.len() / 2]).unwrap();
    let (code, said) = finish(&job);
    assert_eq!(code, JOB_FAILED, "{said}");
    says(&said, &["in.csv.gz", "truncated"]);
    assert!(job.output_files().is_empty(), "nothing half-done shows: {said}");
}

#[test]
fn storage_that_cannot_be_written_is_refused_before_work_starts() {
    let sql = format!("{INPUT}{OUTPUT}INSERT INTO result SELECT k, v FROM input;");
    let job = Job::new("bad", &Settings::default(), &sql);
    fs::write(job.path().join("in.csv"), "a,1\n").unwrap();
    fs::write(job.path().join("checkpoints"), "a file, not a folder").unwrap();
    let (code, said) = finish(&job);
    assert_eq!(code, ENVIRONMENT, "{said}");
    says(&said, &["checkpoints", "cannot be written"]);
    assert!(job.output_files().is_empty());
}

/// Takes some checkpoints, stops, and hands the job over to be damaged.
fn stopped_job() -> Job {
    let job = Job::new("damaged", &Settings::default(), &counting_sql("COUNT(*)"));
    let mut weir = job.start(&[]);
    weir.until("three checkpoints", || job.newest_id() >= 3);
    weir.interrupt();
    weir.succeed();
    job
}

fn counting_sql(aggregate: &str) -> String {
    format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '20000', 'fields.n.kind' = 'sequence',
  'fields.n.start' = '0', 'fields.n.end' = '1000000000');
CREATE TABLE sums (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out', 'format' = 'json',
  'changelog' = 'true');
INSERT INTO sums SELECT MOD(n, 1000), {aggregate} FROM numbers GROUP BY MOD(n, 1000);"
    )
}

/// The newest state file that the newest record names, and all its like.
fn state_files(job: &Job) -> Vec<std::path::PathBuf> {
    let record = job.newest_record().expect("there is a record");
    let mut files = Vec::new();
    for part in record["parts"].as_array().unwrap() {
        let part: serde_json::Value =
            serde_json::from_slice(&fs::read(job.storage().join(part["path"].as_str().unwrap())).unwrap()).unwrap();
        for subtask in part["subtasks"].as_array().unwrap() {
            for file in subtask["keyed"]["files"].as_array().into_iter().flatten() {
                files.push(job.storage().join(file["path"].as_str().unwrap()));
            }
        }
    }
    assert!(!files.is_empty(), "the newest checkpoint has files");
    files
}

#[test]
fn a_checkpoint_with_a_flipped_byte_is_never_restored_and_an_older_one_can_be_chosen() {
    let job = stopped_job();
    let victim = state_files(&job).pop().unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&victim, bytes).unwrap();
    let output = job.output();
    let (code, said) = finish(&job);
    assert_eq!(code, ENVIRONMENT, "{said}");
    says(&said, &[victim.file_name().unwrap().to_str().unwrap(), "--restore"]);
    assert_eq!(job.output(), output, "nothing was written");
}

#[test]
fn a_checkpoint_with_a_missing_object_is_never_restored() {
    let job = stopped_job();
    let victim = state_files(&job).pop().unwrap();
    fs::remove_file(&victim).unwrap();
    let (code, said) = finish(&job);
    assert_eq!(code, ENVIRONMENT, "{said}");
    says(&said, &[victim.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn a_restore_with_other_sql_says_which_operator_differs() {
    let job = stopped_job();
    let records = job.slots();
    job.write(&Settings::default(), &counting_sql("SUM(n)"));
    let (code, said) = finish(&job);
    assert!(code == JOB_FAILED || code == BAD_INPUT, "{code}\n{said}");
    says(&said, &["GroupAggregate", "COUNT(*)", "SUM(n)", "line 5"]);
    assert!(job.slots().len() <= records.len() + 2, "no record is made of the other query");
}

#[test]
fn another_max_parallelism_is_refused_once_there_is_state() {
    let job = stopped_job();
    let other = Settings { more: "  maxParallelism: 64\n".into(), ..Settings::default() };
    job.write(&other, &counting_sql("COUNT(*)"));
    let (code, said) = finish(&job);
    assert!(code == JOB_FAILED || code == BAD_INPUT, "{code}\n{said}");
    says(&said, &["maxParallelism", "128", "64"]);
}
