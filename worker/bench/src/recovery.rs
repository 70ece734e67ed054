//! From `kill -9` of one of two workers to the first output of the new attempt, with a gibibyte of state.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::runner::{BenchError, Job, Running};

const KILLS: usize = 5;
/// Of 5 s each. A worker that is lost again within 10 s of running makes the job wait for the restart policy's back-off, which
/// is not what is measured.
const CHECKPOINTS_BETWEEN: usize = 4;

pub fn run(scale: f64) -> Result<Value, BenchError> {
    let wanted = (1024.0 * 1024.0 * 1024.0 * scale) as u64;
    // A row of 400 characters for each key: when all keys are there the state stays as large as it is.
    let keys = wanted / 400;
    let sql = format!(
        "CREATE TABLE g (id BIGINT, payload STRING, t AS PROCTIME()) WITH ('connector' = 'datagen',
  'rows-per-second' = '100000', 'fields.id.kind' = 'random', 'fields.id.min' = '0', 'fields.id.max' = '{keys}',
  'fields.payload.length' = '400');
CREATE TABLE s (id BIGINT, payload STRING) WITH ('connector' = 'blackhole');
INSERT INTO s SELECT id, payload FROM
  (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY t DESC) AS n FROM g) WHERE n = 1;"
    );
    let job = Job { name: "recovery", sql, workers: 2, slots: 1, memory: "2Gi", interval: "5s" };
    let mut running = Running::start(&job)?;
    running.until(|report| {
        report.checkpoints.last().is_some_and(|checkpoint| checkpoint.state_bytes >= wanted * 9 / 10)
    })?;
    println!("\nFrom kill -9 of one of two workers to the first output, from when the death was seen");
    println!(
        "{:>10} {:>12} {:>10} {:>11} {:>12} {:>12} {:>10}",
        "worker ms", "running ms", "output ms", "local MB", "download MB", "restore ms", "stop ms"
    );
    let mut rows = Vec::new();
    for _ in 0..KILLS {
        let before = running.report().recoveries.len();
        let complete = running.report().checkpoints.len();
        running.until(|report| report.checkpoints.len() >= complete + CHECKPOINTS_BETWEEN)?;
        if let Some(victim) = running.workers().into_iter().next_back().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(victim, Signal::KILL)
                .map_err(|source| BenchError::Io { what: "kill".into(), source: source.into() })?;
        }
        let mut last = None;
        running.until(|report| {
            last = report.recoveries.last().cloned();
            report.recoveries.len() > before && last.as_ref().is_some_and(|recovery| recovery.first_output_ms.is_some())
        })?;
        let Some(recovery) = last else { continue };
        let ms = |value: Option<f64>| value.unwrap_or_default();
        println!(
            "{:>10.0} {:>12.0} {:>10.0} {:>11.0} {:>12.0} {:>12.0} {:>10.0}",
            ms(recovery.worker_ready_ms),
            ms(recovery.running_ms),
            ms(recovery.first_output_ms),
            recovery.local_bytes as f64 / 1e6,
            recovery.downloaded_bytes as f64 / 1e6,
            recovery.restore_ms,
            recovery.stop_ms
        );
        rows.push(json!({
            "attempt": recovery.number, "workerReadyMs": recovery.worker_ready_ms, "runningMs": recovery.running_ms,
            "firstOutputMs": recovery.first_output_ms, "restoreMs": recovery.restore_ms, "stopMs": recovery.stop_ms,
            "localBytes": recovery.local_bytes, "downloadedBytes": recovery.downloaded_bytes,
        }));
    }
    running.kill();
    Ok(Value::Array(rows))
}
