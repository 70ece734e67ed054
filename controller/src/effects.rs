//! What the state machines ask of storage, carried out: takeovers, records, names, deletions. Each answer is one of their
//! events; what an answer means is theirs to decide.

use std::{collections::BTreeMap, error::Error, io, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream};
use thiserror::Error as ThisError;
use weir_protocol::{
    CheckpointId,
    part::{PART_VERSION, Part},
    paths,
    record::{Opening, RECORD_VERSION, Record, RecordRef, Slot, decode, encode},
};
use weir_storage::{Created, JobStore, StorageError};

use crate::{
    coordinator::{NamesOutcome, Outcome, Taken},
    gc::{Names, Removal},
    takeover::{Decision, Facts, Opened, Refusal, Request, SlotFact, decide, reads},
    time::Millis,
};

/// Objects read at once. Reading is latency, not work, and a takeover waits for it.
const READS_AT_ONCE: usize = 16;
/// Steps of one takeover. It needs two or three; more means that others take over at the same time, again and again.
const TAKEOVER_STEPS: usize = 32;
/// Creates without a clear answer in one takeover before it is given back to be tried again later.
const TAKEOVER_DOUBTS: usize = 3;

/// How a takeover went.
#[derive(Clone, Debug)]
pub enum TakeOver {
    /// The term is ours.
    Opened(Box<Opened>),
    /// Storage did not answer, or not clearly.
    Failed(String),
    /// It must not be taken over.
    Refused(Refusal),
    /// Another took over.
    Lost(Arc<Opening>),
}

/// Seals the newest term and opens the next.
pub async fn take_over(store: &JobStore, request: &Request, now: impl Fn() -> Millis) -> TakeOver {
    let (mut asked, mut doubts) = (None, 0);
    for _ in 0..TAKEOVER_STEPS {
        let facts = match read_facts(store).await {
            Ok(facts) => facts,
            Err(error) => return TakeOver::Failed(chain(&error)),
        };
        let created = match decide(request, &facts, asked, now()) {
            Decision::CreateSeal(seal) => {
                let path = paths::slot(seal.term, seal.number);
                store.create(&path, encode(&Slot::Seal(seal)).into()).await
            }
            Decision::CreateOpening(opening) => {
                asked = Some(opening.term);
                store.create(&paths::opening(opening.term), encode(&opening).into()).await
            }
            Decision::Opened(opened) => return TakeOver::Opened(opened),
            Decision::Lost { to } => return TakeOver::Lost(to),
            Decision::Refuse(refusal) => return TakeOver::Refused(refusal),
        };
        // Whatever the answer was, the facts are read anew. Only one thing is counted: storage that never answers.
        if let Err(error) = created {
            doubts += 1;
            if doubts >= TAKEOVER_DOUBTS {
                return TakeOver::Failed(chain(&error));
            }
        }
    }
    TakeOver::Failed("others open terms of this job faster than this process can".to_string())
}

/// Lists the terms and reads what a takeover needs of them.
pub async fn read_facts(store: &JobStore) -> Result<Facts, StorageError> {
    let listed = list_terms(store).await?;
    let wanted = reads(listed.iter().map(|(path, size)| (path.as_str(), *size)));
    let bytes = read_objects(store, wanted).await?;
    Ok(Facts::of(listed.iter().map(|(path, size)| (path.as_str(), *size)), &bytes))
}

/// Every slot of every term, for people.
pub async fn read_slots(store: &JobStore) -> Result<Vec<(RecordRef, SlotFact)>, StorageError> {
    let slots = list_terms(store).await?.into_iter().filter(|(_, size)| *size > 0).map(|(path, _)| path);
    let slots = slots.filter(|path| matches!(paths::parse(path), Some(paths::Object::Slot(..)))).collect();
    let bytes = read_objects(store, slots).await?;
    let fact = |(path, bytes): (&String, &Bytes)| match paths::parse(path) {
        // The id is the record's own; the place is all that is asked for here.
        Some(paths::Object::Slot(term, number)) => {
            Some((RecordRef { id: CheckpointId(0), term, number }, SlotFact::of(path, bytes)))
        }
        _ => None,
    };
    Ok(bytes.iter().filter_map(fact).collect())
}

async fn list_terms(store: &JobStore) -> Result<Vec<(String, u64)>, StorageError> {
    Ok(store.list(paths::TERMS).await?.into_iter().map(|object| (object.path, object.size)).collect())
}

/// Reads these; what is gone meanwhile is left out.
async fn read_objects(store: &JobStore, wanted: Vec<String>) -> Result<BTreeMap<String, Bytes>, StorageError> {
    let mut contents = stream::iter(wanted)
        .map(|path| async move {
            let bytes = store.get(&path).await;
            (path, bytes)
        })
        .buffer_unordered(READS_AT_ONCE);
    let mut read = BTreeMap::new();
    while let Some((path, bytes)) = contents.next().await {
        match bytes {
            Ok(bytes) => {
                read.insert(path, bytes);
            }
            Err(StorageError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Creates a record, once.
pub async fn create_record(store: &JobStore, record: &Arc<Record>) -> Outcome {
    let path = record.reference().path();
    match store.create(&path, encode(&Slot::Record((**record).clone())).into()).await {
        Ok(Created::New) => Outcome::New,
        Ok(Created::Same) => Outcome::Same,
        Ok(Created::Taken(there)) => Outcome::Taken(match decode::<Slot>(&path, &there, RECORD_VERSION) {
            Ok(Slot::Seal(seal)) => Taken::Seal(seal),
            _ => Taken::Other,
        }),
        Err(error) if nothing_was_written(&error) => Outcome::Refused { reason: chain(&error) },
        Err(error) => Outcome::InDoubt { reason: chain(&error) },
    }
}

/// The operating system refused to write, so that the object is certainly not there, nor on its way.
fn nothing_was_written(error: &StorageError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::QuotaExceeded
            );
        }
        cause = error.source();
    }
    false
}

/// What the parts of a record name.
pub async fn read_names(store: &JobStore, record: &Record) -> NamesOutcome {
    let mut names = Names::default();
    for part in &record.parts {
        let bytes = match &part.inline {
            Some(inline) => inline.clone().into_bytes().into(),
            None => {
                names.parts.insert(part.path.clone());
                match store.get(&part.path).await {
                    Ok(bytes) => bytes,
                    Err(StorageError::NotFound { .. }) => return NamesOutcome::Broken,
                    Err(_) => return NamesOutcome::Failed,
                }
            }
        };
        let Ok(content) = decode::<Part>(&part.path, &bytes, PART_VERSION) else { return NamesOutcome::Broken };
        for subtask in &content.subtasks {
            let files = subtask.keyed.iter().flat_map(|keyed| &keyed.files);
            let channels = subtask.channel_state.iter().map(|channel| &channel.file);
            let outside = files.chain(channels).filter(|file| file.inline.is_none());
            names.files.extend(outside.map(|file| file.path.clone()));
        }
    }
    NamesOutcome::Read(Arc::new(names))
}

/// All objects below `parts/`, `state/` and `inputs/`.
pub async fn list_leftovers(store: &JobStore) -> Option<Vec<String>> {
    let listed = tokio::try_join!(store.list(paths::PARTS), store.list(paths::STATE), store.list(paths::INPUTS));
    let (parts, state, inputs) = listed.ok()?;
    Some(parts.into_iter().chain(state).chain(inputs).map(|object| object.path).collect())
}

/// Removes these in order, up to the first that fails.
pub async fn remove(store: &JobStore, removals: &[Removal]) -> bool {
    for removal in removals {
        let removed = match removal {
            Removal::Delete(path) => store.delete(path).await,
            Removal::Empty(path) => store.empty(path).await,
        };
        if let Err(error) = removed {
            tracing::warn!(error = chain(&error), "an object could not be removed; tried again later");
            return false;
        }
    }
    true
}

/// Why a record that a user names cannot be restored.
#[derive(Debug, ThisError)]
pub enum WishError {
    /// Not a record's path.
    #[error("{wish:?} names no record: write terms/<term>/<number> as `weir checkpoints` lists them, or `previous`")]
    NoRecord {
        /// As given.
        wish: String,
    },
    /// Storage does not hand it out now; it may later.
    #[error("{path} cannot be read, tried again: {reason}")]
    Unreachable {
        /// The object.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is no checkpoint that can be restored.
    #[error("{path} cannot be restored: {reason}; `weir checkpoints` lists what can")]
    Unusable {
        /// The object.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Finds the record that a user names by path or URL.
pub async fn find_record(store: &JobStore, wish: &str) -> Result<RecordRef, WishError> {
    let no_record = || WishError::NoRecord { wish: wish.to_string() };
    let path = wish.rfind("terms/").map(|at| wish[at..].trim_end_matches('/').to_string()).ok_or_else(no_record)?;
    let Some(paths::Object::Slot(term, number)) = paths::parse(&path) else { return Err(no_record()) };
    let path = paths::slot(term, number);
    let unusable = |reason: String| WishError::Unusable { path: path.clone(), reason };
    let bytes = store.get(&path).await.map_err(|error| match error {
        StorageError::NotFound { .. } => unusable(chain(&error)),
        error => WishError::Unreachable { path: path.clone(), reason: chain(&error) },
    })?;
    if bytes.is_empty() {
        return Err(unusable("it has been retired".to_string()));
    }
    match decode::<Slot>(&path, &bytes, RECORD_VERSION).map_err(|error| unusable(chain(&error)))? {
        Slot::Record(record) => Ok(record.reference()),
        Slot::Seal(_) => Err(unusable("it is the end of a term, not a checkpoint".to_string())),
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let more = deeper.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = deeper.source();
    }
    text
}
