//! What the state machines ask of storage, carried out: takeovers, records, names, deletions. Each answer is one of their
//! events; what an answer means is theirs to decide.

use std::{collections::BTreeMap, error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use thiserror::Error as ThisError;
use weir_protocol::{
    CheckpointId,
    part::Part,
    paths,
    record::{Opening, PartRef, Record, RecordRef, Slot, decode, encode, read},
    start::{START_VERSION, Standing, Start},
};
use weir_storage::{Created, JobStore, LARGEST_READ, StorageError};

use crate::{
    coordinator::{NamesOutcome, Outcome, Taken},
    gc::{Names, Removal},
    job::Named,
    savepoint::{SavepointError, bring::bring, wanted},
    takeover::{Decision, Facts, Import, Opened, Refusal, Request, Restore, SlotFact, decide, has_acted, reads},
    time::Millis,
};

/// Objects read at once. Reading is latency, not work, and a takeover waits for it.
const READS_AT_ONCE: usize = 16;
/// An opening says who coordinates what, in some hundred bytes.
pub const OPENING_LIMIT: u64 = 64 << 10;
/// A record names a part a worker, and carries what a state backend keeps in it; a seal is as small as an opening.
pub const SLOT_LIMIT: u64 = 32 << 20;
/// A part names all files and splits of a worker's subtasks.
pub const PART_LIMIT: u64 = 64 << 20;
/// All that one takeover reads: the retained records, which are small unless they carry state.
pub const TAKEOVER_LIMIT: u64 = LARGEST_READ;
/// Names that are held at once, in bytes: some 300,000 of usual length.
pub const LIST_LIMIT: u64 = 32 << 20;
/// What is read holds room that others wait for; storage that takes longer is tried again later.
const READ_TIME: Duration = Duration::from_secs(20);
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
            Err(error) => return unread(&error),
        };
        let created = match decide(request, &facts, asked, now()) {
            Decision::CreateSeal(seal) => {
                let path = paths::slot(seal.term, seal.number);
                store.create_once(&path, encode(&Slot::Seal(seal)).into()).await
            }
            Decision::CreateOpening(opening) => {
                asked = Some(opening.term);
                store.create_once(&paths::opening(opening.term), encode(&opening).into()).await
            }
            Decision::Import(import) => match bring_in(store, &import, now()).await {
                Ok(created) => created,
                Err(error) => return error,
            },
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

/// Makes a savepoint the first record of the term that was opened for it.
async fn bring_in(store: &JobStore, import: &Import, now: Millis) -> Result<Result<Created, StorageError>, TakeOver> {
    match bring(store, import, now).await {
        Ok(record) => {
            let bytes = encode(&Slot::Record((*record).clone()));
            Ok(store.create_once(&record.reference().path(), bytes.into()).await)
        }
        Err(error) if error.may_pass() => Err(TakeOver::Failed(chain(&error))),
        Err(error) => Err(TakeOver::Refused(Refusal::SavepointUnusable {
            location: import.location.clone(),
            reason: chain(&error),
        })),
    }
}

/// What is too large stays so until somebody removes it; all else may be read the next time.
fn unread(error: &StorageError) -> TakeOver {
    match error {
        StorageError::TooLarge { path, .. } | StorageError::TooMany { path, .. } => {
            TakeOver::Refused(Refusal::Unusable { path: path.clone(), reason: chain(error) })
        }
        _ => TakeOver::Failed(chain(error)),
    }
}

/// Lists the terms, from where that is enough, and reads what a takeover needs of them. An object that is too large is as good as damaged.
pub async fn read_facts(store: &JobStore) -> Result<Facts, StorageError> {
    let start = read_start(store).await?;
    if let Some(start) = &start
        && let Some(facts) = read_since(store, start).await?
    {
        return Ok(facts);
    }
    let listed = list_terms(store).await?;
    let facts = facts_of(store, listed, Vec::new(), None).await?;
    Ok(Facts { start: start.map(|start| start.term), ..facts })
}

/// Of a list, and of what is read of it and of these older objects, with the bytes that they have.
async fn facts_of(
    store: &JobStore,
    mut listed: Vec<(String, u64)>,
    older: Vec<(String, u64)>,
    start: Option<&Start>,
) -> Result<Facts, StorageError> {
    let count = listed.len();
    let mut wanted = reads(listed.iter().map(|(path, size)| (path.as_str(), *size)));
    wanted.extend(older.iter().map(|(path, _)| path.clone()));
    listed.extend(older);
    let read = |(bytes, too_large): (BTreeMap<String, Bytes>, Vec<StorageError>)| {
        // What was said to stand before the list may have gone since.
        let stands = listed.iter().enumerate().filter(|(at, (path, _))| *at < count || bytes.contains_key(path));
        let pairs: Vec<(&str, u64)> = stands.map(|(_, (path, size))| (path.as_str(), *size)).collect();
        let mut facts = Facts::of(pairs, &bytes, start);
        for error in too_large {
            if let StorageError::TooLarge { path, .. } = &error {
                facts.damaged(path, &chain(&error));
            }
        }
        facts
    };
    read_objects(store, &listed, wanted, read).await
}

/// Where a takeover begins to read, if that was written down. What cannot be understood is as good as nothing.
async fn read_start(store: &JobStore) -> Result<Option<Start>, StorageError> {
    let bytes = small(store, paths::START).await?;
    Ok(bytes.and_then(|bytes| decode(paths::START, &bytes, START_VERSION).ok()))
}

/// A small object, if it is there and small.
async fn small(store: &JobStore, path: &str) -> Result<Option<Bytes>, StorageError> {
    match timely(store, path, store.get_at_most(path, OPENING_LIMIT)).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StorageError::NotFound { .. } | StorageError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands since this start; none where it does not count.
async fn read_since(store: &JobStore, start: &Start) -> Result<Option<Facts>, StorageError> {
    let path = paths::opening(start.term);
    let opening = small(store, &path).await?.and_then(|bytes| read(&path, &bytes).ok());
    if !opening.is_some_and(|opening: Opening| start.is_of(&opening)) {
        return Ok(None);
    }
    let term = paths::term(start.term);
    let listed = timely(store, paths::TERMS, store.list_after(paths::TERMS, &term, LIST_LIMIT)).await?;
    let listed = listed.into_iter().map(|object| (object.path, object.size)).collect();
    let older = start.records.iter().filter(|standing| standing.record.term < start.term);
    let older = older.map(|standing| (standing.record.path(), standing.bytes)).collect();
    facts_of(store, listed, older, Some(start)).await.map(Some)
}

/// Writes down where the next takeover begins to read: at this term, which is ours. If that fails the next one reads more.
pub async fn write_start(store: &JobStore, opened: &Opened) {
    let standing = |record: &Arc<Record>| Standing {
        record: record.reference(),
        bytes: encode(&Slot::Record((**record).clone())).len() as u64,
    };
    let start = Start::new(&opened.opening, opened.inherited.iter().map(standing));
    if let Err(error) = store.replace(paths::START, encode(&start).into()).await {
        tracing::debug!(error = chain(&error), "where to begin to read could not be written down");
    }
}

/// Every slot of every term, for people.
pub async fn read_slots(store: &JobStore) -> Result<Vec<(RecordRef, SlotFact)>, StorageError> {
    let listed = list_terms(store).await?;
    let slots = listed.iter().filter(|(_, size)| *size > 0).map(|(path, _)| path.clone());
    let slots = slots.filter(|path| matches!(paths::parse(path), Some(paths::Object::Slot(..)))).collect();
    let fact = |path: &str, fact: SlotFact| match paths::parse(path) {
        // The id is the record's own; the place is all that is asked for here.
        Some(paths::Object::Slot(term, number)) => Some((RecordRef { id: CheckpointId(0), term, number }, fact)),
        _ => None,
    };
    let read = |(bytes, too_large): (BTreeMap<String, Bytes>, Vec<StorageError>)| {
        let of_bytes = bytes.iter().filter_map(|(path, bytes)| fact(path, SlotFact::of(path, bytes)));
        let of_errors = too_large.iter().filter_map(|error| match error {
            StorageError::TooLarge { path, .. } => fact(path, SlotFact::Unreadable { reason: chain(error) }),
            _ => None,
        });
        let mut facts: Vec<_> = of_bytes.chain(of_errors).collect();
        facts.sort_by_key(|(place, _)| (place.term, place.number));
        facts
    };
    read_objects(store, &listed, slots, read).await
}

async fn list_terms(store: &JobStore) -> Result<Vec<(String, u64)>, StorageError> {
    let listed = timely(store, paths::TERMS, store.list_at_most(paths::TERMS, LIST_LIMIT)).await?;
    Ok(listed.into_iter().map(|object| (object.path, object.size)).collect())
}

/// Storage's answer, unless it takes too long.
async fn timely<T>(
    store: &JobStore,
    path: &str,
    answer: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    let slow = || StorageError::Slow { path: path.to_string(), store: store.name().to_string(), limit: READ_TIME };
    tokio::time::timeout(READ_TIME, answer).await.unwrap_or_else(|_| Err(slow()))
}

/// What an object below `terms/` may have.
fn limit_of(path: &str) -> u64 {
    match paths::parse(path) {
        Some(paths::Object::Opening(_)) => OPENING_LIMIT,
        _ => SLOT_LIMIT,
    }
}

/// Reads these and makes something of them, in room for all of them together. What is gone meanwhile is left out; what is larger
/// than its kind may be is told apart.
async fn read_objects<T>(
    store: &JobStore,
    listed: &[(String, u64)],
    wanted: Vec<String>,
    make: impl FnOnce((BTreeMap<String, Bytes>, Vec<StorageError>)) -> T + Send,
) -> Result<T, StorageError> {
    let sizes: BTreeMap<&str, u64> = listed.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    // What stands below `terms/` never grows, so that no more can come than the list says, unless the storage lies.
    let limits: Vec<(String, u64)> = wanted
        .into_iter()
        .map(|path| {
            let size = sizes.get(path.as_str()).copied().unwrap_or_default();
            let limit = limit_of(&path);
            (path, size.min(limit))
        })
        .collect();
    let readable = |(path, limit): &&(String, u64)| sizes.get(path.as_str()).is_some_and(|size| size <= limit);
    let all: u64 = limits.iter().filter(readable).map(|(_, limit)| limit).sum();
    if all > TAKEOVER_LIMIT {
        let (path, store) = (paths::TERMS.to_string(), store.name().to_string());
        return Err(StorageError::TooLarge { path, store, limit: TAKEOVER_LIMIT });
    }
    let _room = store.room(paths::TERMS, all).await?;
    let reading = async {
        let mut contents = stream::iter(limits)
            .map(|(path, limit)| async move {
                let bytes = store.get_at_most(&path, limit).await;
                (path, bytes)
            })
            .buffer_unordered(READS_AT_ONCE);
        let (mut read, mut too_large) = (BTreeMap::new(), Vec::new());
        while let Some((path, bytes)) = contents.next().await {
            match bytes {
                Ok(bytes) => {
                    read.insert(path, bytes);
                }
                Err(StorageError::NotFound { .. }) => {}
                Err(error @ StorageError::TooLarge { .. }) => too_large.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok((read, too_large))
    };
    Ok(make(timely(store, paths::TERMS, reading).await?))
}

/// Creates a record, once.
pub async fn create_record(store: &JobStore, record: &Arc<Record>) -> Outcome {
    let path = record.reference().path();
    let bytes: Bytes = encode(&Slot::Record((**record).clone())).into();
    if bytes.len() as u64 > SLOT_LIMIT {
        let reason = format!(
            "the record {path} would have {} MiB, and none above {} MiB is read again: state that is carried in the record is too \
             large; use another state backend, such as rocksdb",
            bytes.len() >> 20,
            SLOT_LIMIT >> 20
        );
        return Outcome::Refused { reason };
    }
    match store.create_once(&path, bytes).await {
        Ok(Created::New) => Outcome::New,
        Ok(Created::Same) => Outcome::Same,
        Ok(Created::Taken(there)) => Outcome::Taken(match read::<Slot>(&path, &there) {
            Ok(Slot::Seal(seal)) => Taken::Seal(seal),
            _ => Taken::Other,
        }),
        // Ours is smaller than that.
        Err(StorageError::TooLarge { .. }) => Outcome::Taken(Taken::Other),
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
        let readable = match &part.inline {
            Some(inline) => add_names(&mut names, &part.path, inline.as_bytes()),
            None => {
                names.parts.insert(part.path.clone());
                match read_part(store, part, &mut names).await {
                    Ok(readable) => readable,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "what a checkpoint names cannot be read");
                        // It stays as large as it is: what it names is never known, and never removed.
                        if !matches!(error, StorageError::TooLarge { .. }) {
                            return NamesOutcome::Failed;
                        }
                        false
                    }
                }
            }
        };
        if !readable {
            return NamesOutcome::Broken;
        }
    }
    NamesOutcome::Read(Arc::new(names))
}

/// Adds what a part in storage names. False where it is not there, or is no part.
async fn read_part(store: &JobStore, part: &PartRef, names: &mut Names) -> Result<bool, StorageError> {
    let limit = part.length.min(PART_LIMIT);
    let _room = store.room(&part.path, limit).await?;
    match timely(store, &part.path, store.get_at_most(&part.path, limit)).await {
        Ok(bytes) => Ok(add_names(names, &part.path, &bytes)),
        Err(StorageError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn add_names(names: &mut Names, path: &str, bytes: &[u8]) -> bool {
    let Ok(content) = read::<Part>(path, bytes) else { return false };
    for subtask in &content.subtasks {
        let files = subtask.keyed.iter().flat_map(|keyed| &keyed.files);
        let channels = subtask.channel_state.iter().map(|channel| &channel.file);
        let outside = files.chain(channels).filter(|file| file.inline.is_none());
        names.files.extend(outside.map(|file| file.path.clone()));
    }
    true
}

/// All objects below `parts/`, `state/` and `inputs/`.
pub async fn list_leftovers(store: &JobStore) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for folder in [paths::PARTS, paths::STATE, paths::INPUTS] {
        match store.list_at_most(folder, LIST_LIMIT).await {
            Ok(listed) => all.extend(listed.into_iter().map(|object| object.path)),
            Err(error) => {
                tracing::warn!(error = chain(&error), "what aborted checkpoints left behind is not cleared away");
                return None;
            }
        }
    }
    Some(all)
}

/// The first of these that certainly is not there. What cannot be told is there.
pub async fn first_missing(store: &JobStore, paths: Vec<String>) -> Option<String> {
    for path in paths {
        if let Err(StorageError::NotFound { .. }) = store.get_at_most(&path, SLOT_LIMIT).await {
            return Some(path);
        }
    }
    None
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
    /// There is no savepoint that can be restored.
    #[error("{0}; `weir savepoint inspect` shows what is there")]
    Savepoint(#[source] SavepointError),
    /// It is no checkpoint that can be restored.
    #[error("{path} cannot be restored: {reason}; `weir checkpoints` lists what can")]
    Unusable {
        /// The object.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Finds what a user names: a record of the job by its path or URL, or a savepoint by its location.
pub async fn find_restore(store: &JobStore, wish: &Named) -> Result<Restore, WishError> {
    match wish {
        Named::Record(record) => find_record(store, record).await.map(Restore::Record),
        Named::Savepoint(location) => match wanted(store, location).await {
            Ok(wanted) => Ok(Restore::Savepoint(Arc::new(wanted))),
            Err(error) if error.may_pass() => {
                Err(WishError::Unreachable { path: location.clone(), reason: chain(&error) })
            }
            Err(error) => Err(WishError::Savepoint(error)),
        },
    }
}

/// Finds the record that a user names by path or URL.
pub async fn find_record(store: &JobStore, wish: &str) -> Result<RecordRef, WishError> {
    let no_record = || WishError::NoRecord { wish: wish.to_string() };
    let path = wish.rfind("terms/").map(|at| wish[at..].trim_end_matches('/').to_string()).ok_or_else(no_record)?;
    let Some(paths::Object::Slot(term, number)) = paths::parse(&path) else { return Err(no_record()) };
    let path = paths::slot(term, number);
    let unusable = |reason: String| WishError::Unusable { path: path.clone(), reason };
    // How large it is is not known: room is asked for as for the largest.
    let unreachable = |error: StorageError| WishError::Unreachable { path: path.clone(), reason: chain(&error) };
    let _room = store.room(&path, SLOT_LIMIT).await.map_err(unreachable)?;
    let bytes = timely(store, &path, store.get_at_most(&path, SLOT_LIMIT)).await.map_err(|error| match error {
        StorageError::NotFound { .. } | StorageError::TooLarge { .. } => unusable(chain(&error)),
        error => WishError::Unreachable { path: path.clone(), reason: chain(&error) },
    })?;
    if bytes.is_empty() {
        return Err(unusable("it has been retired".to_string()));
    }
    match read::<Slot>(&path, &bytes).map_err(|error| unusable(chain(&error)))? {
        Slot::Record(record) => Ok(record.reference()),
        Slot::Seal(_) => Err(unusable("it is the end of a term, not a checkpoint".to_string())),
    }
}

/// A wish to restore has acted already, whether that could be written down elsewhere or not.
pub async fn wish_has_acted(store: &JobStore, wish: &str, owner: &str, cluster: &str) -> Result<bool, StorageError> {
    let facts = read_facts(store).await?;
    Ok(facts.newest_opening().is_some_and(|opened| has_acted(wish, owner, cluster, opened)))
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

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use weir_protocol::{Attempt, JobName, RecordNumber, Term, WorkerId, part::PART_VERSION, record::RECORD_VERSION};

    use super::*;
    use crate::takeover::Restore;

    fn store() -> JobStore {
        JobStore::with_object_store(Arc::new(InMemory::new()), "air/flights")
    }

    fn request() -> Request {
        Request {
            job: JobName { namespace: "air".to_string(), name: "flights".to_string() },
            coordinator: "here".to_string(),
            owner: "owner".to_string(),
            cluster: "cluster".to_string(),
            adopt: false,
            accept_lost_output: false,
            resume: false,
            release: false,
            restore: Restore::Latest,
            wish: None,
            after: None,
            workers: 1,
            slots: 1,
            max_parallelism: 128,
            fingerprint: String::new(),
            retain: 3,
            format: RECORD_VERSION,
        }
    }

    fn record(parts: Vec<PartRef>) -> Arc<Record> {
        Arc::new(Record {
            version: RECORD_VERSION,
            id: CheckpointId(1),
            term: Term(1),
            number: RecordNumber(1),
            attempt: Attempt(1),
            job: request().job,
            is_final: false,
            parallelism: 1,
            max_parallelism: 128,
            fingerprint: String::new(),
            parts,
            completed_at_ms: 1,
            duration_ms: 1,
            state_bytes: 1,
            uploaded_bytes: 1,
        })
    }

    async fn huge(store: &JobStore, path: &str, bytes: u64) {
        store.create(path, vec![b' '; bytes as usize].into()).await.unwrap();
    }

    #[tokio::test]
    async fn an_object_that_is_too_large_is_refused_by_its_name_and_limit() {
        let store = store();
        huge(&store, &paths::opening(Term(1)), OPENING_LIMIT + 1).await;
        let TakeOver::Refused(refusal) = take_over(&store, &request(), || Millis(1)).await else { panic!() };
        let said = refusal.to_string();
        for part in ["terms/0000000001/opening", "larger than the 65536 bytes"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(matches!(refusal, Refusal::Unusable { .. }));
    }

    #[tokio::test]
    async fn one_takeover_does_not_read_more_than_it_may_in_all() {
        let store = store();
        assert!(matches!(take_over(&store, &request(), || Millis(1)).await, TakeOver::Opened(_)));
        for number in 1..=5 {
            huge(&store, &paths::slot(Term(1), RecordNumber(number)), SLOT_LIMIT - 1).await;
        }
        let TakeOver::Refused(refusal) = take_over(&store, &request(), || Millis(1)).await else { panic!() };
        assert!(refusal.to_string().contains(&TAKEOVER_LIMIT.to_string()), "{refusal}");
    }

    #[tokio::test]
    async fn a_part_larger_than_its_record_says_names_nothing_that_may_be_removed() {
        let store = store();
        let worker = WorkerId("w".to_string());
        let content = Part {
            version: PART_VERSION,
            id: CheckpointId(1),
            attempt: Attempt(1),
            worker,
            script: String::new(),
            keepers: Vec::new(),
            subtasks: Vec::new(),
        };
        let bytes = encode(&content);
        let length = bytes.len() as u64;
        store.create("parts/a", bytes.into()).await.unwrap();
        let part = |length| PartRef {
            worker: WorkerId("w".to_string()),
            path: "parts/a".to_string(),
            length,
            crc32c: 0,
            inline: None,
        };
        let names = read_names(&store, &record(vec![part(length)])).await;
        assert!(matches!(names, NamesOutcome::Read(_)), "{names:?}");
        let names = read_names(&store, &record(vec![part(length - 1)])).await;
        assert!(matches!(names, NamesOutcome::Broken), "{names:?}");
    }

    #[tokio::test]
    async fn a_record_that_nobody_would_read_is_not_created() {
        let store = store();
        let part = PartRef {
            worker: WorkerId("w".to_string()),
            path: "parts/a".to_string(),
            length: 1,
            crc32c: 0,
            inline: Some("x".repeat(SLOT_LIMIT as usize)),
        };
        let Outcome::Refused { reason } = create_record(&store, &record(vec![part])).await else { panic!() };
        assert!(reason.contains("32 MiB") && reason.contains("another state backend"), "{reason}");
        assert!(store.list("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn jobs_whose_reads_hang_do_not_keep_others_from_reading() {
        let memory = weir_storage::Memory::default();
        let config = object_store::throttle::ThrottleConfig {
            // What is not there is answered at once: no start is written down.
            wait_get_per_byte: Duration::from_mins(1),
            ..object_store::throttle::ThrottleConfig::default()
        };
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let inner = Arc::new(InMemory::new());
            let fill = JobStore::with_object_store(inner.clone(), "a");
            assert!(matches!(take_over(&fill, &request(), || Millis(1)).await, TakeOver::Opened(_)));
            huge(&fill, &paths::slot(Term(1), RecordNumber(1)), SLOT_LIMIT).await;
            let hanging = object_store::throttle::ThrottledStore::new(inner, config);
            let store = JobStore::with_object_store(Arc::new(hanging), "a").sharing(&memory);
            slow.spawn(async move { read_facts(&store).await.map(drop) });
        }
        // They have all the room that there is for large reads.
        while tokio::time::timeout(Duration::ZERO, memory.room(LARGEST_READ)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let honest = store().sharing(&memory);
        let opened = tokio::time::timeout(READ_TIME / 2, take_over(&honest, &request(), || Millis(1))).await;
        assert!(matches!(opened, Ok(TakeOver::Opened(_))), "small reads wait for no large ones");
        assert!(slow.try_join_next().is_none(), "they still hang");
    }
}

#[cfg(test)]
mod start_tests;
