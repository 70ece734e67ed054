//! Files as input: how many subtasks share them changes no answer.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use weir_e2e_local::{Job, Settings};

/// The example's job over the example's files, without its limit of rows a second.
fn flights() -> String {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/flights/data");
    let job = include_str!("../../../examples/flights/job.yaml");
    let (_, rest) = job.split_once("  sql: |\n").expect("the example has a script");
    let (sql, _) = rest.split_once("  workers:").expect("and workers");
    let sql: String = sql.lines().map(|line| format!("{}\n", line.trim_start())).collect();
    sql.replace("'path' = 'data'", &format!("'path' = '{data}'"))
        .replace("'path' = 'output'", "'path' = '{folder}/out'")
        .replace("'csv.null-literal' = 'NA',\n'scan.rate-limit' = '1500'", "'csv.null-literal' = 'NA'")
}

/// Each line's windows, and how many flights they have together.
fn counted(workers: u32, slots: u32) -> (Vec<String>, u64) {
    let settings = Settings { workers, slots, ..Settings::default() };
    let job = Job::new("flights", &settings, &flights());
    job.start(&[]).succeed();
    let mut lines = job.output();
    lines.sort();
    let flights = lines.iter().map(|line| line.split(',').nth(3).unwrap().parse::<u64>().unwrap()).sum();
    (lines, flights)
}

#[test]
fn one_subtask_counts_every_flight_that_four_count() {
    let (alone, flights) = counted(1, 1);
    assert_eq!(flights, 27_004, "a row was late for one subtask");
    let (shared, flights) = counted(2, 2);
    assert_eq!(flights, 27_004);
    assert!(alone == shared, "the answers differ");
}
