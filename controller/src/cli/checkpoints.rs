//! `weir checkpoints`: what can be restored.

use std::sync::Arc;

use serde_json::json;
use weir_protocol::record::Record;
use weir_storage::JobStore;

use super::Failure;
use crate::{effects::read_slots, job::Job, takeover::SlotFact, ui::text};

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
