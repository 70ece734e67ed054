//! From `kill -9` of one of two workers to the first output of the new attempt, with a gibibyte of state.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::runner::{BenchError, Job, Running};

const KILLS: usize = 5;

pub fn run(scale: f64) -> Result<Value, BenchError> {
    let wanted = (1024.0 * 1024.0 * 1024.0 * scale) as u64;
    let sql = "CREATE TABLE g (id BIGINT, payload STRING, t AS PROCTIME()) WITH ('connector' = 'datagen',
  'rows-per-second' = '100000', 'fields.id.kind' = 'random', 'fields.id.min' = '0', 'fields.id.max' = '100000000',
  'fields.payload.length' = '400');
CREATE TABLE s (id BIGINT, payload STRING) WITH ('connector' = 'blackhole');
INSERT INTO s SELECT id, payload FROM
  (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY t DESC) AS n FROM g) WHERE n = 1;";
    let job = Job { name: "recovery", sql: sql.into(), workers: 2, slots: 1, memory: "2Gi", interval: "5s" };
    let mut running = Running::start(&job)?;
    running.until(|report| report.checkpoints.last().is_some_and(|checkpoint| checkpoint.state_bytes >= wanted))?;
    println!("\nFrom kill -9 of one of two workers to the first output, with a gibibyte of state or more");
    println!(
        "{:>8} {:>10} {:>12} {:>9} {:>11} {:>12} {:>15}",
        "seen ms", "worker ms", "running ms", "output ms", "local MB", "download MB", "restore ms"
    );
    let mut rows = Vec::new();
    for _ in 0..KILLS {
        let before = running.report().map_or(0, |report| report.attempts.len());
        let complete = running.report().map_or(0, |report| report.checkpoints.len());
        running.until(|report| report.checkpoints.len() > complete)?;
        let killed_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        if let Some(victim) = running.workers().into_iter().next_back().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(victim, Signal::KILL)
                .map_err(|source| BenchError::Io { what: "kill".into(), source: source.into() })?;
        }
        let mut last = None;
        running.until(|report| {
            last = report.attempts.last().cloned();
            report.attempts.len() > before && last.as_ref().is_some_and(|attempt| attempt.first_output_ms.is_some())
        })?;
        let Some(attempt) = last else { continue };
        let seen = attempt.lost_at_ms.unwrap_or(killed_at).saturating_sub(killed_at);
        let after = |value: Option<u64>| value.map_or(0, |value| value + seen);
        println!(
            "{:>8} {:>10} {:>12} {:>9} {:>11.0} {:>12.0} {:>15}",
            seen,
            after(attempt.worker_ready_ms),
            after(attempt.running_ms),
            after(attempt.first_output_ms),
            attempt.local_bytes as f64 / 1e6,
            attempt.downloaded_bytes as f64 / 1e6,
            attempt.restore_ms
        );
        rows.push(json!({
            "seenMs": seen, "workerMs": after(attempt.worker_ready_ms), "runningMs": after(attempt.running_ms),
            "firstOutputMs": after(attempt.first_output_ms), "restoreMs": attempt.restore_ms, "stopMs": attempt.stop_ms,
            "localBytes": attempt.local_bytes, "downloadedBytes": attempt.downloaded_bytes, "attempt": attempt.attempt,
        }));
    }
    running.kill();
    Ok(Value::Array(rows))
}
