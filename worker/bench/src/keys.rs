//! Ten million distinct keys in a keyed count, with a budget of 512 MiB a worker.

use serde_json::{Value, json};

use crate::runner::{BenchError, Job, Running};

const BUDGET: f64 = 512.0 * 1024.0 * 1024.0;

pub fn run(scale: f64) -> Result<Value, BenchError> {
    let rows = (20e6 * scale) as u64;
    let keys = rows / 2;
    let sql = format!(
        "CREATE TABLE g (id BIGINT, v BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{rows}',
  'rows-per-second' = '1000000000',
  'fields.id.kind' = 'random', 'fields.id.min' = '0', 'fields.id.max' = '{}', 'fields.v.kind' = 'random', 'fields.v.min' = '0',
  'fields.v.max' = '100');
CREATE TABLE s (id BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO s SELECT id, COUNT(*) FROM g GROUP BY id;",
        keys * 3 / 2
    );
    let job = Job { name: "keys", sql, workers: 2, slots: 1, memory: "512Mi", interval: "5s" };
    let run = Running::start(&job)?.finish()?;
    println!("\nMore than {keys} distinct keys in a keyed count, 512 MiB a worker");
    let mut peaks = Vec::new();
    for (worker, peak) in &run.peaks {
        println!("  worker {worker}: peak {:.0} MB, {:.2} times the budget", *peak as f64 / 1e6, *peak as f64 / BUDGET);
        peaks.push(*peak);
    }
    let state = run.report.checkpoints.iter().map(|checkpoint| checkpoint.state_bytes).max().unwrap_or(0);
    println!(
        "  {rows} rows in {:.1} s, {:.1} CPU-seconds, {} checkpoints, {:.0} MB of state",
        run.report.elapsed_ms as f64 / 1e3,
        run.cpu.as_secs_f64(),
        run.report.checkpoints.len(),
        state as f64 / 1e6
    );
    Ok(json!({
        "rows": rows, "peakBytes": peaks, "budgetBytes": BUDGET, "cpuSeconds": run.cpu.as_secs_f64(),
        "seconds": run.report.elapsed_ms as f64 / 1e3, "stateBytes": state,
    }))
}
