//! Brings a savepoint into a job's storage: as the first record of a term that was opened for it, under names of that term's attempt.
//! From there on it is a checkpoint like every other, and nothing names the savepoint any more.

use futures::{StreamExt, TryStreamExt, stream};
use std::{collections::BTreeMap, sync::Arc};
use weir_protocol::{
    RecordNumber, WorkerId, paths,
    record::{PartRef, Record, encode},
    savepoint::{Savepoint, moved},
};
use weir_storage::{Created, JobStore, StorageError};

use super::{COPIES_AT_ONCE, SavepointError, complete, part};
use crate::{effects::PART_LIMIT, takeover::Import, time::Millis};

/// Copies what the savepoint has, and makes the record that is to be created of it.
pub async fn bring(store: &JobStore, import: &Import, now: Millis) -> Result<Arc<Record>, SavepointError> {
    let place = store.beside(&import.location, false)?;
    let savepoint = complete(&place).await?;
    let unreadable = |reason: String| SavepointError::Unreadable { location: import.location.clone(), reason };
    if savepoint.checkpoint.id != import.savepoint {
        return Err(unreadable(format!(
            "another one stands there now: checkpoint {}, not {}",
            savepoint.checkpoint.id, import.savepoint
        )));
    }
    if savepoint.max_parallelism != import.opening.max_parallelism {
        return Err(unreadable(format!("it has {} key groups now", savepoint.max_parallelism)));
    }
    let names = copy_objects(store, &place, &savepoint, import).await?;
    let mut parts = Vec::new();
    for named in &savepoint.parts {
        let _room = store.room(&named.path, named.length.min(PART_LIMIT)).await?;
        let read = part(&place, named).await?;
        let lost = || unreadable(format!("{} names a file that the savepoint does not have", named.path));
        let mut own = moved(read, |path| names.get(path).cloned()).ok_or_else(lost)?;
        let worker = WorkerId::generate();
        (own.id, own.attempt, own.worker) = (import.id, import.opening.attempt, worker.clone());
        let bytes = encode(&own);
        let path = paths::part(own.id, own.attempt, &worker);
        let (length, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        match store.create(&path, bytes.into()).await? {
            Created::New | Created::Same => {}
            Created::Taken(_) => return Err(unreadable(format!("{path} is taken in the job's storage"))),
        }
        parts.push(PartRef { worker, path, length, crc32c, inline: None });
    }
    Ok(Arc::new(Record {
        version: import.opening.version,
        id: import.id,
        term: import.opening.term,
        number: RecordNumber(1),
        attempt: import.opening.attempt,
        job: import.opening.job.clone(),
        is_final: savepoint.is_final,
        parallelism: savepoint.parallelism,
        max_parallelism: savepoint.max_parallelism,
        fingerprint: savepoint.fingerprint,
        parts,
        completed_at_ms: now.0,
        duration_ms: 0,
        state_bytes: savepoint.state_bytes,
        uploaded_bytes: savepoint.state_bytes,
    }))
}

/// The new name of each object of the savepoint, once all are copied.
async fn copy_objects(
    store: &JobStore,
    place: &JobStore,
    savepoint: &Savepoint,
    import: &Import,
) -> Result<BTreeMap<String, String>, SavepointError> {
    let worker = WorkerId::generate();
    let names: BTreeMap<String, String> = savepoint
        .objects
        .iter()
        .zip(1..)
        .map(|(object, n)| (object.path.clone(), paths::state_file(import.opening.attempt, &worker, n)))
        .collect();
    let copies: Vec<_> =
        names.iter().map(|(from, to)| async move { store.copy_from(to, place, from).await.map(drop) }).collect();
    stream::iter(copies).buffer_unordered(COPIES_AT_ONCE).try_collect::<()>().await.map_err(|error| match error {
        StorageError::NotFound { path, .. } => {
            SavepointError::Incomplete { location: import.location.clone(), reason: format!("{path} is missing") }
        }
        error => error.into(),
    })?;
    Ok(names)
}
