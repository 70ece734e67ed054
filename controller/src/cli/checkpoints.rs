//! `weir checkpoints`: what can be restored, and what the last checkpoints were spent on.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::json;
use weir_protocol::record::Record;
use weir_storage::JobStore;

use super::{Exit, Failure};
use crate::{
    effects::read_slots,
    facts::history::{self, Entry, History, Kind},
    job::Job,
    state_dir::HISTORY_FILE,
    takeover::SlotFact,
    ui::text,
};

/// Lists the records that stand in storage, the newest first.
pub async fn list(job: &Job, as_json: bool) -> Result<(), Failure> {
    let store = JobStore::open(&job.settings.storage, &job.name)?;
    let mut records: Vec<Arc<Record>> = Vec::new();
    for (place, slot) in read_slots(&store).await? {
        match slot {
            SlotFact::Record(record) => records.push(record),
            SlotFact::Unreadable { reason } => eprintln!("warning: {} cannot be read: {reason}", place.path()),
            SlotFact::Seal(_) | SlotFact::Retired | SlotFact::Gone | SlotFact::Unread => {}
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse((record.term, record.number)));
    if as_json {
        let list: Vec<_> = records
            .iter()
            .map(|record| {
                json!({
                    "record": record.reference().path(),
                    "term": record.term,
                    "number": record.number,
                    "id": record.id,
                    "completedAtMs": record.completed_at_ms,
                    "stateBytes": record.state_bytes,
                    "attempt": record.attempt,
                    "final": record.is_final,
                })
            })
            .collect();
        println!("{:#}", serde_json::Value::Array(list));
        return Ok(());
    }
    if records.is_empty() {
        println!("{} has no checkpoints in {}", job.name, store.name());
        return Ok(());
    }
    println!("{:<35} {:>6} {:>4} {:>7}  {:<19} {:>10}", "record", "term", "no.", "id", "completed (UTC)", "state");
    for record in records {
        println!(
            "{:<35} {:>6} {:>4} {:>7}  {:<19} {:>10}{}",
            record.reference().path(),
            record.term,
            record.number,
            record.id,
            text::instant(i64::try_from(record.completed_at_ms).unwrap_or_default()),
            text::bytes(record.state_bytes),
            if record.is_final { "  final" } else { "" },
        );
    }
    Ok(())
}

/// Shows the history that a run has written into its state folder.
pub fn history(state_dir: &Path, as_json: bool) -> Result<(), Failure> {
    let path = state_dir.join(HISTORY_FILE);
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!(
            "{} cannot be read: {error}; no run here has taken a checkpoint, or it works in another --state-dir",
            path.display()
        );
        Failure::new(Exit::BadInput, message)
    };
    let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
    let history: History = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    if as_json {
        println!("{:#}", json!(history));
        return Ok(());
    }
    print!("{}", table(&history));
    Ok(())
}

fn table(history: &History) -> String {
    let mut rows = vec![format!(
        "{:>7} {:<9} {:<19} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}  {}",
        "id",
        "kind",
        "triggered (UTC)",
        "took",
        "align",
        "freeze",
        "persist",
        "upload",
        "record",
        "commit",
        "state",
        "uploaded",
        "slowest"
    )];
    rows.extend(history.entries().map(row));
    rows.join("\n") + "\n"
}

fn row(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Regular => "regular",
        Kind::Requested => "requested",
        Kind::Last => "last",
        Kind::Final => "final",
    };
    let span = |us: u64| text::span(Duration::from_micros(us));
    let at = text::instant(i64::try_from(entry.triggered_at_ms).unwrap_or_default());
    let took = text::span(Duration::from_millis(entry.duration_ms));
    let begins = format!("{:>7} {kind:<9} {at:<19} {took:>9}", entry.id);
    let phases = &entry.phases;
    match &entry.result {
        history::Result::Failed(why) => format!("{begins} failed: {why}"),
        history::Result::UnderWay => format!("{begins} under way"),
        history::Result::Complete => {
            let slowest = entry.slowest.as_ref().map(|slowest| {
                format!(
                    "{}, subtask {} on {}: {}",
                    slowest.stage,
                    slowest.subtask,
                    slowest.worker,
                    span(slowest.took_us)
                )
            });
            format!(
                "{begins} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}  {}",
                span(phases.align_us),
                span(phases.freeze_us),
                span(phases.persist_us),
                span(phases.upload_us),
                span(phases.record_us),
                phases.commit_us.map_or("-".to_string(), span),
                text::bytes(entry.state_bytes),
                text::bytes(entry.uploaded_bytes),
                slowest.unwrap_or_default()
            )
        }
    }
}
