//! A job's objects in storage: one prefix of a folder or bucket, with exactly the operations that the protocol stands on.
//!
//! What storage owes: read-after-write, list-after-write and create-if-absent. What this crate adds to [`object_store`]:
//! a create whose answer was lost is resolved by reading back and comparing bytes, the local filesystem is written
//! durably, and a store that fails on purpose ([`fault::FaultStore`]) for tests. It does not retry beyond what
//! `object_store` does, and where it matters how often something was asked for not even that
//! ([`JobStore::create_once`]): whether to repeat a create in doubt is the coordinator's decision.

#![warn(clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods))]

pub mod conformance;
pub mod durable;
pub mod fault;
mod guard;
mod memory;
pub mod minio;
mod open;
pub mod sim;

pub use memory::{LARGEST_READ, Memory, Room};
pub use open::bucket;

use std::{fmt, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, future, stream::BoxStream};
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart, path::Path as ObjectPath,
};
use thiserror::Error;
use weir_protocol::{JobName, settings::StorageSettings};

/// Files above this are uploaded in pieces of this size, so that a worker holds little of a file in memory.
const PIECE: usize = 8 << 20;
/// Pieces of one file under way at once.
const PIECES_AT_ONCE: usize = 2;

/// Objects of any kind are below this, in bytes. Where the kind is known its own limit counts, see [`JobStore::get_at_most`].
const LARGEST_OBJECT: u64 = 1 << 30;
/// Whoever creates an object and meets another one reads at least so much of it, in bytes: it may be the end of a term.
const READ_BACK: u64 = 64 << 10;

/// What happened to a create-if-absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object did not exist and now holds our bytes.
    New,
    /// It holds our bytes already: an earlier try of ours had gone through.
    Same,
    /// It holds somebody else's bytes.
    Taken(Bytes),
}

/// Something stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its path below the job's prefix.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in milliseconds since the epoch, by the storage's clock.
    pub modified_ms: i64,
}

/// Why an operation on storage did not succeed.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The settings do not name a storage that can be used; nothing was tried.
    #[error("storage {url}: {message}")]
    Settings {
        /// As given.
        url: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// The object does not exist.
    #[error("{path} is not in storage {store}")]
    NotFound {
        /// The object, below the job's prefix.
        path: String,
        /// The storage and prefix.
        store: String,
    },
    /// A create had no clear answer, and the object could not be read back either. It may exist, now or later.
    #[error("whether {path} was created in {store} cannot be told")]
    InDoubt {
        /// The object.
        path: String,
        /// The storage and prefix.
        store: String,
        /// The failure of the create.
        source: object_store::Error,
    },
    /// The object is larger than its kind may be; no more than that was read of it.
    #[error("{path} in storage {store} is larger than the {limit} bytes that an object of its kind may have")]
    TooLarge {
        /// The object.
        path: String,
        /// The storage and prefix.
        store: String,
        /// So much is read, in bytes.
        limit: u64,
    },
    /// There are more objects than are listed at once.
    #[error("there are more objects below {path} in storage {store} than the {} MiB of names that are listed at once", limit >> 20)]
    TooMany {
        /// The folder.
        path: String,
        /// The storage and prefix.
        store: String,
        /// So much is listed, in bytes of memory.
        limit: u64,
    },
    /// It was not read in time.
    #[error("{path} in storage {store} does not come: no whole answer in {} s", limit.as_secs())]
    Slow {
        /// The object or folder.
        path: String,
        /// The storage and prefix.
        store: String,
        /// So long was waited.
        limit: std::time::Duration,
    },
    /// Nothing was tried: others read so much at this moment that there is no room for more.
    #[error("{path} in storage {store} is not read now: too much is being read of all jobs at once")]
    Busy {
        /// The object or folder.
        path: String,
        /// The storage and prefix.
        store: String,
    },
    /// Anything else; nothing was changed.
    #[error("storage {store}: {action} {path} failed")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The object.
        path: String,
        /// The storage and prefix.
        store: String,
        /// The cause.
        source: object_store::Error,
    },
    /// A local file could not be read or written.
    #[error("local file {path}")]
    Local {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// The keys to a bucket. They appear in no log and no error.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`, for keys that are lent.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Keys").finish_non_exhaustive()
    }
}

/// One job's objects. Cheap to clone. Paths are relative to the job's prefix, see [`weir_protocol::paths`].
#[derive(Clone, Debug)]
pub struct JobStore {
    store: Arc<dyn ObjectStore>,
    /// The same without any retry below it.
    once: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    name: Arc<str>,
    /// The folder of the prefix, where storage is a local folder: files are then copied within the kernel.
    folder: Option<Arc<std::path::PathBuf>>,
    /// Room for what is read of it.
    memory: Memory,
    /// What opens another place with the same credentials.
    origin: Origin,
}

/// What a store was opened with.
#[derive(Debug)]
struct Access {
    settings: StorageSettings,
    keys: Option<S3Keys>,
}

/// Where a store came from.
#[derive(Clone, Debug)]
enum Origin {
    /// Opened from settings, with these keys or with the environment's.
    Opened(Arc<Access>),
    /// Given as it is: all places are within it.
    Given,
    /// Opened by an identity that others must not use for a place that they name.
    Confined,
}

impl JobStore {
    /// Opens the storage of a job. For `file://` the folder is created and tried for writing. Credentials for `s3://` come
    /// from the environment (`AWS_ACCESS_KEY_ID` and so on).
    pub fn open(settings: &StorageSettings, job: &JobName) -> Result<Self, StorageError> {
        open::open(settings, job, None)
    }

    /// The same with these keys for `s3://`, and with nothing from the environment.
    pub fn open_with(settings: &StorageSettings, job: &JobName, keys: &S3Keys) -> Result<Self, StorageError> {
        open::open(settings, job, Some(keys))
    }

    /// A job's objects below `prefix` of any object store, which must not retry by itself.
    pub fn with_object_store(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let name = format!("{store}/{prefix}").into();
        Self {
            once: Arc::clone(&store),
            store,
            prefix: ObjectPath::from(prefix),
            name,
            folder: None,
            memory: Memory::default(),
            origin: Origin::Given,
        }
    }

    /// A place that belongs to the user, such as a savepoint's: exactly what `url` names, with the endpoint and the credentials of this
    /// store. `create`: a folder that is missing is made, and tried for writing; else nothing is touched.
    pub fn beside(&self, url: &str, create: bool) -> Result<Self, StorageError> {
        let refuse = |message: &str| StorageError::Settings { url: url.to_string(), message: message.to_string() };
        let store = match &self.origin {
            Origin::Confined => {
                return Err(refuse(
                    "the controller's own identity is for checkpoints only; name a Secret with keys in checkpoint.storage.secretRef",
                ));
            }
            // Keys are a bucket's. A folder would be one of whoever does this for the user.
            Origin::Opened(access) if access.keys.is_some() && !url.starts_with("s3://") => {
                return Err(refuse("it is no place in a bucket; write s3://bucket/prefix"));
            }
            Origin::Opened(access) => {
                let settings = StorageSettings { url: url.to_string(), ..access.settings.clone() };
                open::open_place(&settings, access.keys.as_ref(), create)?
            }
            Origin::Given => {
                let prefix = url.split_once("://").map_or(url, |(_, prefix)| prefix);
                Self::with_object_store(Arc::clone(&self.store), prefix)
            }
        };
        Ok(store.sharing(&self.memory))
    }

    /// The same objects, and no place beside them.
    #[must_use]
    pub fn confined(self) -> Self {
        Self { origin: Origin::Confined, ..self }
    }

    /// The place that settings name, without a job's name behind it. See [`Self::beside`].
    pub fn open_place(settings: &StorageSettings, create: bool) -> Result<Self, StorageError> {
        open::open_place(settings, None, create)
    }

    /// The same, in room that it shares with others.
    #[must_use]
    pub fn sharing(self, memory: &Memory) -> Self {
        Self { memory: memory.clone(), ..self }
    }

    /// Room for reading `bytes` of `path`, to be held until what was read is made use of.
    pub async fn room(&self, path: &str, bytes: u64) -> Result<Room, StorageError> {
        let busy = || StorageError::Busy { path: path.to_string(), store: self.name.to_string() };
        self.memory.room(bytes).await.ok_or_else(busy)
    }

    /// The storage and prefix, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, relative: &str) -> ObjectPath {
        relative.split('/').filter(|piece| !piece.is_empty()).fold(self.prefix.clone(), object_store::path::Path::join)
    }

    fn failed(&self, action: &'static str, path: &str, source: object_store::Error) -> StorageError {
        let (path, store) = (path.to_string(), self.name.to_string());
        match source {
            object_store::Error::NotFound { .. } => StorageError::NotFound { path, store },
            source => StorageError::Failed { action, path, store, source },
        }
    }

    /// Creates an object if there is none. `Ok` says for certain what stands there now.
    ///
    /// Stores may answer "already exists" or a timeout after having done it, so both are resolved by reading back. A
    /// missing object after a timeout stays in doubt: the create may still land.
    ///
    /// The request may be repeated below this call. For names that no other process makes, where what becomes of one of
    /// several requests is all the same.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created, StorageError> {
        self.create_by(&self.store, path, bytes).await
    }

    /// The same with one request: [`Created::New`] then says that none of this create is on its way any more, and an error
    /// that at most one is. For what several processes want to create, and for slots that may be given free.
    pub async fn create_once(&self, path: &str, bytes: Bytes) -> Result<Created, StorageError> {
        self.create_by(&self.once, path, bytes).await
    }

    async fn create_by(&self, store: &Arc<dyn ObjectStore>, path: &str, bytes: Bytes) -> Result<Created, StorageError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = store.put_opts(&self.path(path), PutPayload::from_bytes(bytes.clone()), options).await;
        let Err(error) = put else { return Ok(Created::New) };
        match self.get_by(store, path, READ_BACK.max(bytes.len() as u64)).await {
            Ok(there) if there == bytes => Ok(Created::Same),
            Ok(there) => Ok(Created::Taken(there)),
            // What stands there is another's: ours is not so large.
            Err(error @ StorageError::TooLarge { .. }) => Err(error),
            Err(_) => {
                Err(StorageError::InDoubt { path: path.to_string(), store: self.name.to_string(), source: error })
            }
        }
    }

    /// Reads a whole object, of any kind. For a process that serves this job alone.
    pub async fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.get_at_most(path, LARGEST_OBJECT).await
    }

    /// Reads a whole object, unless it has more than `limit` bytes, whatever the storage says of its size.
    pub async fn get_at_most(&self, path: &str, limit: u64) -> Result<Bytes, StorageError> {
        self.get_by(&self.store, path, limit).await
    }

    async fn get_by(&self, store: &Arc<dyn ObjectStore>, path: &str, limit: u64) -> Result<Bytes, StorageError> {
        let failed = |source| self.failed("reading", path, source);
        let too_large = || StorageError::TooLarge { path: path.to_string(), store: self.name.to_string(), limit };
        let result = store.get(&self.path(path)).await.map_err(failed)?;
        let size = result.meta.size;
        if size > limit {
            return Err(too_large());
        }
        let mut pieces = result.into_stream();
        let mut read = Vec::with_capacity(size as usize);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed)?;
            if (read.len() + piece.len()) as u64 > limit {
                return Err(too_large());
            }
            read.extend_from_slice(&piece);
        }
        Ok(read.into())
    }

    /// Reads bytes `range` of an object.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.store.get_range(&self.path(path), range).await.map_err(|source| self.failed("reading", path, source))
    }

    /// All objects below `prefix` (a folder), sorted by path. For a process that serves this job alone.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StorageError> {
        self.list_at_most(prefix, u64::MAX).await
    }

    /// All objects below `prefix` (a folder), sorted by path, unless their names take more than `limit` bytes of memory.
    pub async fn list_at_most(&self, prefix: &str, limit: u64) -> Result<Vec<Stored>, StorageError> {
        self.collected(prefix, self.listing(prefix), limit).await
    }

    /// Those whose paths come after `after`, which need not be one. Storage that can begin a list there does.
    pub async fn list_after(&self, prefix: &str, after: &str, limit: u64) -> Result<Vec<Stored>, StorageError> {
        let objects = self.store.list_with_offset(Some(&self.path(prefix)), &self.path(after));
        self.collected(prefix, self.stored(prefix, objects), limit).await
    }

    async fn collected(
        &self,
        prefix: &str,
        listed: impl Stream<Item = Result<Stored, StorageError>>,
        limit: u64,
    ) -> Result<Vec<Stored>, StorageError> {
        let mut taken = 0;
        let listed = listed.and_then(|stored| {
            taken += (size_of::<Stored>() + stored.path.len()) as u64;
            future::ready(if taken <= limit {
                Ok(stored)
            } else {
                Err(StorageError::TooMany { path: prefix.to_string(), store: self.name.to_string(), limit })
            })
        });
        let mut stored: Vec<_> = listed.try_collect().await?;
        stored.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(stored)
    }

    /// All objects below `prefix` (a folder), as storage hands them out, a page at a time.
    pub fn listing(&self, prefix: &str) -> impl Stream<Item = Result<Stored, StorageError>> + Send + '_ {
        self.stored(prefix, self.store.list(Some(&self.path(prefix))))
    }

    fn stored(
        &self,
        prefix: &str,
        objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> impl Stream<Item = Result<Stored, StorageError>> + Send + '_ {
        let cut = if self.prefix.as_ref().is_empty() { 0 } else { self.prefix.as_ref().len() + 1 };
        let folder = prefix.to_string();
        objects.map(move |object| match object {
            Ok(object) => Ok(Stored {
                path: object.location.as_ref().get(cut..).unwrap_or_default().to_string(),
                size: object.size,
                modified_ms: object.last_modified.timestamp_millis(),
            }),
            Err(source) => Err(self.failed("listing", &folder, source)),
        })
    }

    /// Replaces an object's bytes, whatever stands there. Only for emptying a record that is retired: everything else is
    /// created once and never changed.
    pub async fn replace(&self, path: &str, bytes: Bytes) -> Result<(), StorageError> {
        let put = self.store.put(&self.path(path), PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(|source| self.failed("replacing", path, source))
    }

    /// Deletes an object; that it is absent already is fine.
    pub async fn delete(&self, path: &str) -> Result<(), StorageError> {
        match self.store.delete(&self.path(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("deleting", path, source)),
        }
    }

    /// Replaces an object's bytes by none, so that its name stays taken: a create of it that is still on its way cannot
    /// bring it back.
    pub async fn empty(&self, path: &str) -> Result<(), StorageError> {
        match self.store.put(&self.path(path), PutPayload::new()).await {
            Ok(_) => Ok(()),
            Err(source) => Err(self.failed("emptying", path, source)),
        }
    }

    /// Uploads a local file under a name that no other process makes. Returns its length in bytes.
    pub async fn create_from_file(&self, path: &str, local: &Path) -> Result<u64, StorageError> {
        let unreadable = |source| StorageError::Local { path: local.display().to_string(), source };
        if let Some(folder) = &self.folder {
            let (from, to) = (local.to_path_buf(), folder.join(path));
            let copied = tokio::task::spawn_blocking(move || durable::copy_into_place(&from, &to)).await;
            return match copied {
                Ok(done) => done.map_err(unreadable),
                Err(stopped) => Err(unreadable(std::io::Error::other(stopped))),
            };
        }
        let length = tokio::fs::metadata(local).await.map_err(unreadable)?.len();
        if length <= PIECE as u64 {
            let bytes = tokio::fs::read(local).await.map_err(unreadable)?;
            return match self.create(path, bytes.into()).await? {
                Created::New | Created::Same => Ok(length),
                Created::Taken(_) => Err(unreadable(std::io::Error::other(format!("{path} is taken by other bytes")))),
            };
        }
        self.upload_in_pieces(path, local, length).await?;
        Ok(length)
    }

    async fn upload_in_pieces(&self, path: &str, local: &Path, length: u64) -> Result<(), StorageError> {
        use tokio::io::AsyncReadExt;
        let unreadable = |source| StorageError::Local { path: local.display().to_string(), source };
        let mut file = tokio::fs::File::open(local).await.map_err(unreadable)?;
        let upload = self
            .store
            .put_multipart(&self.path(path))
            .await
            .map_err(|source| self.failed("uploading", path, source))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PIECE);
        let pieces = async {
            loop {
                let room = writer.wait_for_capacity(PIECES_AT_ONCE).await;
                room.map_err(|source| self.failed("uploading", path, source))?;
                let mut piece = Vec::with_capacity(PIECE);
                let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await.map_err(unreadable)?;
                if read == 0 {
                    return writer.wait_for_capacity(0).await.map_err(|source| self.failed("uploading", path, source));
                }
                writer.put(piece.into());
            }
        };
        if let Err(error) = pieces.await {
            // Pieces that nobody completes would be kept, and paid for, until somebody tidies the bucket.
            if let Err(left) = writer.abort().await {
                tracing::debug!(path, error = %left, "an upload could not be aborted");
            }
            return Err(error);
        }
        let Err(source) = writer.finish().await else { return Ok(()) };
        // Its answer may have been lost. The name is nobody else's, so an object of this size is this file.
        match self.store.head(&self.path(path)).await {
            Ok(there) if there.size == length => Ok(()),
            _ => Err(self.failed("uploading", path, source)),
        }
    }
}

mod copy;
#[cfg(test)]
mod tests;
