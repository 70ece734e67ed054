//! Takes a savepoint: copies the newest record of a job with all that it names to where nothing is.
//!
//! The manifest is written last. What fails before it is tidied away; what a lost process leaves says by `begun` that it is none. While
//! the job runs its retired checkpoints are deleted: a copy that meets that begins anew, with the newest record then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use weir_protocol::{
    BUILD_VERSION,
    part::{ItemKind, Part},
    paths,
    record::{Opening, PartRef, Record, encode},
    savepoint::{Begun, Form, Output, SAVEPOINT_VERSION, SavedObject, Savepoint, moved},
};
use weir_runtime::clock;
use weir_storage::{Created, JobStore, StorageError};

use super::{COPIES_AT_ONCE, SavepointError, part};
use crate::{
    effects::{PART_LIMIT, read_facts},
    takeover::Facts,
};

/// The newest record may be retired while it is copied; the one after it is not as long as it is the newest.
const TRIES: usize = 5;
/// From one look at the records of a running job to the next.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// What is to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Who takes it, by a name that no other process has.
    pub by: &'a str,
    /// The job runs: so long is waited until its next checkpoint says that this one's output is published.
    pub waits: Option<Duration>,
}

/// Takes one.
pub async fn take(store: &JobStore, place: &JobStore, order: Order<'_>) -> Result<Savepoint, SavepointError> {
    let mut tries = 0;
    loop {
        let facts = read_facts(store).await?;
        let (record, opening) = newest(store, &facts)?;
        begin(place, &record, order).await?;
        tries += 1;
        match copied(store, place, &record, &opening, order).await {
            Ok(savepoint) => return Ok(savepoint),
            Err(error) => {
                tidy(place).await;
                let retired = matches!(&error, SavepointError::Storage(StorageError::NotFound { .. }));
                if !retired || tries >= TRIES || newest(store, &read_facts(store).await?)?.0.id == record.id {
                    return Err(error);
                }
            }
        }
    }
}

/// The end of the chain, and the opening that says whose it is.
fn newest(store: &JobStore, facts: &Facts) -> Result<(Arc<Record>, Arc<Opening>), SavepointError> {
    let none = |reason: &str| SavepointError::NoCheckpoint {
        job: facts.newest_opening().map_or_else(|| "the job".to_string(), |opening| opening.job.to_string()),
        store: store.name().to_string(),
        reason: reason.to_string(),
    };
    let Some(opening) = facts.newest_opening() else { return Err(none("nothing of it is there")) };
    let own = facts.records().rfind(|record| record.term == opening.term);
    let restored = || {
        let restored = opening.restores.record()?;
        facts.records().find(|record| record.reference() == restored)
    };
    let record = own.or_else(restored).ok_or_else(|| none("it has completed none yet"))?;
    Ok((Arc::clone(record), Arc::clone(opening)))
}

/// Takes the place, where nothing is.
async fn begin(place: &JobStore, record: &Record, order: Order<'_>) -> Result<(), SavepointError> {
    let not_empty = |found: String| SavepointError::NotEmpty { location: place.name().to_string(), found };
    let mut there = Box::pin(place.listing(""));
    if let Some(object) = there.try_next().await? {
        let found = match object.path.trim_start_matches('/') {
            paths::SAVEPOINT | paths::SAVEPOINT_BEGUN => "a savepoint is there, or was begun".to_string(),
            other => format!("{other} is there"),
        };
        return Err(not_empty(found));
    }
    let begun =
        Begun { version: SAVEPOINT_VERSION, job: record.job.clone(), by: order.by.to_string(), checkpoint: record.id };
    match place.create_once(paths::SAVEPOINT_BEGUN, encode(&begun).into()).await? {
        Created::New | Created::Same => Ok(()),
        Created::Taken(_) => Err(not_empty("another savepoint is being taken there".to_string())),
    }
}

/// Removes what a savepoint that came to nothing has left, so that its place can be used again.
async fn tidy(place: &JobStore) {
    for folder in [paths::STATE, paths::PARTS] {
        let Ok(listed) = place.list(folder).await else { return };
        for object in listed {
            if place.delete(&object.path).await.is_err() {
                return;
            }
        }
    }
    if let Err(error) = place.delete(paths::SAVEPOINT_BEGUN).await {
        tracing::debug!(%error, "what a savepoint has left is not tidied away");
    }
}

async fn copied(
    store: &JobStore,
    place: &JobStore,
    record: &Record,
    opening: &Opening,
    order: Order<'_>,
) -> Result<Savepoint, SavepointError> {
    let mut saved = Saved::default();
    for (n, named) in record.parts.iter().enumerate() {
        let new = saved.part(store, place, n, named).await?;
        saved.copy(store, place, new).await?;
    }
    let Saved { parts, objects, promises, .. } = saved;
    let output = match (promises, order.waits) {
        (false, _) => Output::Published,
        (true, Some(wait)) => published(store, record, wait).await?,
        (true, None) => Output::Unknown,
    };
    let savepoint = Savepoint {
        version: SAVEPOINT_VERSION,
        build: BUILD_VERSION.to_string(),
        job: record.job.clone(),
        owner: opening.owner.clone(),
        cluster: opening.cluster.clone(),
        checkpoint: record.reference(),
        form: Form::Native,
        is_final: record.is_final,
        parallelism: record.parallelism,
        max_parallelism: record.max_parallelism,
        fingerprint: record.fingerprint.clone(),
        completed_at_ms: record.completed_at_ms,
        state_bytes: record.state_bytes,
        output,
        parts,
        objects,
    };
    write(place, paths::SAVEPOINT, encode(&savepoint)).await?;
    Ok(savepoint)
}

/// What of a savepoint stands already.
#[derive(Default)]
struct Saved {
    /// The new name of each object of the job.
    names: BTreeMap<String, String>,
    parts: Vec<PartRef>,
    objects: Vec<SavedObject>,
    /// Some part names a pending commit.
    promises: bool,
}

impl Saved {
    /// Writes a part with the new names of what it names. Says which of these are to be copied. One part is in memory at a time.
    async fn part(
        &mut self,
        store: &JobStore,
        place: &JobStore,
        n: usize,
        named: &PartRef,
    ) -> Result<Vec<(String, String)>, SavepointError> {
        let _room = store.room(&named.path, named.length.min(PART_LIMIT)).await?;
        let content = part(store, named).await?;
        self.promises |= pending(&content).next().is_some();
        let mut new = Vec::new();
        let names = &mut self.names;
        let content = moved(content, |path| {
            let count = names.len();
            let name = names.entry(path.to_string()).or_insert_with(|| {
                let name = paths::saved_state(count);
                new.push((path.to_string(), name.clone()));
                name
            });
            Some(name.clone())
        });
        let bytes = content.map(|content| encode(&content)).unwrap_or_default();
        let (path, length, crc32c) = (paths::saved_part(n), bytes.len() as u64, crc32c::crc32c(&bytes));
        write(place, &path, bytes).await?;
        self.parts.push(PartRef { worker: named.worker.clone(), path, length, crc32c, inline: None });
        Ok(new)
    }

    async fn copy(
        &mut self,
        store: &JobStore,
        place: &JobStore,
        new: Vec<(String, String)>,
    ) -> Result<(), SavepointError> {
        let copies = new.into_iter().map(|(from, path)| async move {
            let length = place.copy_from(&path, store, &from).await?;
            Ok::<_, StorageError>(SavedObject { path, length })
        });
        let copies: Vec<_> = copies.collect();
        let copied: Vec<SavedObject> = stream::iter(copies).buffer_unordered(COPIES_AT_ONCE).try_collect().await?;
        self.objects.extend(copied);
        self.objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }
}

async fn write(place: &JobStore, path: &str, bytes: Vec<u8>) -> Result<(), SavepointError> {
    match place.create(path, bytes.into()).await? {
        Created::New | Created::Same => Ok(()),
        Created::Taken(_) => {
            let found = format!("{path} was written by another meanwhile");
            Err(SavepointError::NotEmpty { location: place.name().to_string(), found })
        }
    }
}

fn pending(part: &Part) -> impl Iterator<Item = u64> + '_ {
    let items = part.subtasks.iter().flat_map(|subtask| &subtask.operators).flat_map(|operator| &operator.items);
    // What cannot be read may be anything.
    items
        .filter(|item| item.kind == ItemKind::Commit)
        .map(|item| item.value.get("checkpoint").and_then(serde_json::Value::as_u64).unwrap_or_default())
}

/// Waits for a record that is newer and promises nothing any more that this one does: what a worker was told to have published is not
/// named again.
async fn published(store: &JobStore, record: &Record, wait: Duration) -> Result<Output, SavepointError> {
    let (began, mut looked_at) = (clock::now(), record.id);
    while clock::since(began) < wait {
        let facts = read_facts(store).await?;
        let (newer, _) = newest(store, &facts)?;
        if newer.id > looked_at {
            looked_at = newer.id;
            let mut waits = false;
            for named in &newer.parts {
                let _room = store.room(&named.path, named.length.min(PART_LIMIT)).await?;
                match part(store, named).await {
                    Ok(part) => waits |= pending(&part).any(|id| id <= record.id.0),
                    // It is retired already: the next one says it as well.
                    Err(SavepointError::Storage(StorageError::NotFound { .. })) => waits = true,
                    Err(error) => return Err(error),
                }
            }
            if !waits {
                return Ok(Output::Published);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(Output::Unknown)
}
