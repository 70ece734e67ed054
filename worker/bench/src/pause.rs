//! How long processing pauses at a checkpoint, with little and with much changed state, and what is uploaded for it.

use serde_json::{Value, json};

use crate::runner::{BenchError, Job, Running};

pub fn run(scale: f64) -> Result<Value, BenchError> {
    println!("\nThe pause of processing at a checkpoint");
    println!(
        "{:<14} {:>6} {:>13} {:>13} {:>14} {:>13} {:>13}",
        "changed", "ckpts", "p50 pause ms", "max pause ms", "p50 duration", "uploaded MB", "changed MB"
    );
    let mut rows = Vec::new();
    // A row of 200 characters a key; the rate sets how much changes between two checkpoints.
    for (name, rate, seconds, interval, memory) in
        [("10 MB", 25_000_u64, 20_u64, "2s", "4Gi"), ("1 GB", 200_000, 50, "20s", "8Gi")]
    {
        let total = (rate as f64 * seconds as f64 * scale) as u64;
        let sql = format!(
            "CREATE TABLE g (id BIGINT, payload STRING, t AS PROCTIME()) WITH ('connector' = 'datagen',
  'number-of-rows' = '{total}', 'rows-per-second' = '{rate}', 'fields.id.kind' = 'sequence', 'fields.id.start' = '0',
  'fields.id.end' = '{total}', 'fields.payload.length' = '200');
CREATE TABLE s (id BIGINT, payload STRING) WITH ('connector' = 'blackhole');
INSERT INTO s SELECT id, payload FROM
  (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY t DESC) AS n FROM g) WHERE n = 1;"
        );
        let job = Job { name: "pause", sql, workers: 1, slots: 2, memory, interval };
        let run = Running::start(&job)?.finish()?;
        let checkpoints = &run.report.checkpoints;
        let sorted = |value: fn(&crate::runner::Checkpoint) -> u64| {
            let mut all: Vec<u64> = checkpoints.iter().map(value).collect();
            all.sort_unstable();
            all
        };
        let middle = |all: &[u64]| all.get(all.len() / 2).copied().unwrap_or(0);
        let (pauses, durations) = (sorted(|c| c.pause_us.unwrap_or_default()), sorted(|c| c.duration_ms));
        let uploaded: u64 = checkpoints.iter().map(|c| c.uploaded_bytes).sum();
        let changed = total * 220;
        println!(
            "{:<14} {:>6} {:>13.2} {:>13.2} {:>11} ms {:>13.1} {:>13.1}",
            name,
            checkpoints.len(),
            middle(&pauses) as f64 / 1e3,
            pauses.last().copied().unwrap_or(0) as f64 / 1e3,
            middle(&durations),
            uploaded as f64 / 1e6,
            changed as f64 / 1e6
        );
        rows.push(json!({
            "changed": name, "checkpoints": checkpoints.len(), "pausesUs": pauses, "durationsMs": durations,
            "uploadedBytes": uploaded, "changedBytes": changed,
        }));
    }
    Ok(Value::Array(rows))
}
