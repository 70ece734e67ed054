//! The self-verifying job under `kill -9`, at random moments, again and again: nothing lost, nothing counted twice, in files that
//! are written exactly once.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;
use weir_e2e_local::{Job, Settings, Weir, seeded};

/// `make soak` asks for a hundred.
const KILLS: u32 = 10;
const KEYS: u64 = 500;
/// The job must not end before it was killed often enough: a second and a half of rows a kill.
const ROWS_A_KILL: u64 = 30_000;
const RATE: u64 = 20_000;

/// Rows `0..ROWS`, dealt to `KEYS` keys; each change of a key's count and sum goes to the output as a pair of rows.
fn sql(rows: u64, rate: u64) -> String {
    format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{rows}', 'rows-per-second' = '{rate}',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
CREATE TABLE sums (k BIGINT, c BIGINT, s BIGINT) WITH ('connector' = 'filesystem', 'path' = '{{folder}}/out',
  'format' = 'json', 'changelog' = 'true');
INSERT INTO sums SELECT MOD(n, {KEYS}), COUNT(*), SUM(n) FROM numbers GROUP BY MOD(n, {KEYS});",
        rows - 1
    )
}

/// Follows each key through its changes: the output is a chain from nothing to the whole, without a gap or a repeat.
fn verify(job: &Job, rows: u64) {
    // key -> count after -> (count before, sum before, sum after)
    let mut after: BTreeMap<u64, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
    let mut before: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for line in job.output() {
        let row: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
        let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"));
        let (k, c, s) = (number("k"), number("c"), number("s"));
        match row["op"].as_str() {
            Some("+I" | "+U") => {
                let other = after.entry(k).or_default().insert(c, (s, 0));
                assert!(other.is_none(), "key {k} reached {c} twice: counted twice");
            }
            Some("-U") => {
                let other = before.entry(k).or_default().insert(c, s);
                assert!(other.is_none(), "key {k} left {c} twice: counted twice");
            }
            other => panic!("op {other:?} in {line}"),
        }
    }
    assert_eq!(after.len() as u64, KEYS, "every key is there");
    for (k, reached) in &after {
        let left = before.remove(k).unwrap_or_default();
        let (&last, &(sum, _)) = reached.last_key_value().expect("a key has a change");
        let of_key = (0..rows).skip(*k as usize).step_by(KEYS as usize);
        assert_eq!(last, of_key.clone().count() as u64, "key {k} counts all its rows");
        assert_eq!(sum, of_key.sum::<u64>(), "key {k} sums all its rows");
        assert_eq!(left.len() + 1, reached.len(), "key {k}: what it left is what it reached, but for the last");
        for (count, sum) in left {
            assert_eq!(
                reached.get(&count).map(|(sum, _)| *sum),
                Some(sum),
                "key {k} left {count}, which it had reached"
            );
        }
    }
}

fn start(job: &Job) -> Weir {
    job.start(&[])
}

/// Four subtasks, and a process that waits to take the place of one that is killed.
#[test]
fn kills_lose_nothing_and_count_nothing_twice() {
    let mut random = seeded("kills");
    let kills = std::env::var("WEIR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    // A worker that is lost again soon after the last loss is given the policy's back-off, which here is short.
    let restart = "  restart: {initialBackoff: 10ms, maxBackoff: 200ms}\n".to_string();
    let settings =
        Settings { workers: 2, slots: 2, standby: 1, interval: "150ms", more: restart, ..Settings::default() };
    let rows = u64::from(kills) * ROWS_A_KILL;
    let job = Job::new("kills", &settings, &sql(rows, RATE));
    let mut weir = start(&job);
    let (mut killed, mut whole, mut doubles, mut early) = (0, 0, 0, 0);
    while killed < kills {
        let kind = random.random_range(0..10);
        // Most kills fall between checkpoints and within them; some fall into the restore that the last kill has caused.
        let patience = if kind == 0 { 0 } else { random.random_range(100..900) };
        if kind > 1 {
            let seen = job.newest_id();
            weir.until("a checkpoint after the last kill", || job.newest_id() > seen);
        } else {
            early += 1;
        }
        std::thread::sleep(Duration::from_millis(patience));
        assert!(!weir.has_ended(), "the job ended before it was killed {kills} times\n{}", weir.said());
        if kind == 9 {
            weir.kill();
            weir = start(&job);
            whole += 1;
            killed += 1;
            continue;
        }
        let mut workers = weir.workers();
        let victims = if kind == 8 { 2 } else { 1 };
        doubles += u32::from(victims == 2);
        for _ in 0..victims {
            if !workers.is_empty() {
                let victim = workers.swap_remove(random.random_range(0..workers.len()));
                killed += u32::from(weir.kill_worker(victim));
            }
        }
    }
    let records = job.newest_id();
    weir.succeed();
    println!(
        "{killed} kills: {whole} of weir itself, {doubles} times two workers, {early} without waiting for a checkpoint; checkpoint {records}"
    );
    verify(&job, rows);
}

#[test]
fn without_a_kill_the_output_is_whole() {
    let job = Job::new("whole", &Settings::default(), &sql(50_000, 50_000));
    start(&job).succeed();
    verify(&job, 50_000);
}
