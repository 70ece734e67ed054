//! Objects from one place to another: what a savepoint is made of, and what is restored of it.
//!
//! Within a disk a file gets a second name, within a bucket the storage copies; only between two storages bytes go through this
//! process, a few pieces at a time.

use std::sync::Arc;

use futures::StreamExt;
use object_store::{ObjectStoreExt, WriteMultipart};
use tokio::{io::AsyncWriteExt, sync::Semaphore};

use crate::{JobStore, Origin, PIECE, PIECES_AT_ONCE, StorageError, durable, open};

/// Objects that go through this process at once, whatever they are of: each has some pieces in memory, for as long as it takes.
static CARRYING: Semaphore = Semaphore::const_new(2);
/// What S3 copies by itself, in bytes: at most 5 GiB in one request.
const LARGEST_COPY: u64 = 5 << 30;

impl JobStore {
    /// An object's length in bytes.
    pub async fn size(&self, path: &str) -> Result<u64, StorageError> {
        let head = self.store.head(&self.path(path)).await;
        head.map(|there| there.size).map_err(|source| self.failed("looking at", path, source))
    }

    /// Copies the object `from` of another place to `path`, a name that nobody else makes. Neither changes afterwards. Returns its length.
    pub async fn copy_from(&self, path: &str, source: &Self, from: &str) -> Result<u64, StorageError> {
        if let (Some(here), Some(there)) = (&self.folder, &source.folder) {
            let (old, new) = (there.join(from), here.join(path));
            let shared = tokio::task::spawn_blocking(move || durable::share_into_place(&old, &new)).await;
            return match shared.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
                Ok(length) => Ok(length),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Err(StorageError::NotFound { path: from.to_string(), store: source.name.to_string() })
                }
                Err(error) => Err(StorageError::Local { path: format!("{}/{path}", self.name), source: error }),
            };
        }
        let length = source.size(from).await?;
        if self.copies_by_itself(source) && length <= LARGEST_COPY {
            let copied = self.store.copy(&source.path(from), &self.path(path)).await;
            copied.map_err(|error| source.failed("copying", from, error))?;
        } else {
            self.carry_over(path, source, from).await?;
        }
        let there = self.size(path).await?;
        if there == length {
            return Ok(length);
        }
        let error = std::io::Error::other(format!("{there} bytes of {length} have arrived"));
        Err(StorageError::Local { path: format!("{}/{path}", self.name), source: error })
    }

    fn copies_by_itself(&self, source: &Self) -> bool {
        match (&self.origin, &source.origin) {
            (Origin::Given, Origin::Given) => Arc::ptr_eq(&self.store, &source.store),
            (Origin::Opened(here), Origin::Opened(there)) => {
                here.keys == there.keys && open::same_bucket(&here.settings, &there.settings)
            }
            _ => false,
        }
    }

    async fn carry_over(&self, path: &str, source: &Self, from: &str) -> Result<(), StorageError> {
        // It is never closed.
        let _turn = CARRYING.acquire().await;
        let reading = |error| source.failed("reading", from, error);
        let mut pieces = source.store.get(&source.path(from)).await.map_err(reading)?.into_stream();
        if let Some(folder) = &self.folder {
            let to = folder.join(path);
            let local = |error| StorageError::Local { path: to.display().to_string(), source: error };
            durable::create_folders(to.parent().unwrap_or(folder)).map_err(local)?;
            let staged = durable::staged_name(&to);
            let written = async {
                let mut file = tokio::fs::File::create_new(&staged).await.map_err(local)?;
                while let Some(piece) = pieces.next().await {
                    file.write_all(&piece.map_err(reading)?).await.map_err(local)?;
                }
                file.flush().await.map_err(local)
            };
            let written = written.await;
            let (from, place, complete) = (staged.clone(), to.clone(), written.is_ok());
            let moved = tokio::task::spawn_blocking(move || {
                let copied = if complete { durable::copy_into_place(&from, &place).map(drop) } else { Ok(()) };
                let _ = std::fs::remove_file(&from);
                copied
            });
            let moved = moved.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
            return written.and(moved.map_err(local));
        }
        let writing = |error| self.failed("uploading", path, error);
        let upload = self.store.put_multipart(&self.path(path)).await.map_err(writing)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PIECE);
        let carried = async {
            while let Some(piece) = pieces.next().await {
                writer.wait_for_capacity(PIECES_AT_ONCE).await.map_err(writing)?;
                writer.put(piece.map_err(reading)?);
            }
            writer.wait_for_capacity(0).await.map_err(writing)
        };
        if let Err(error) = carried.await {
            let _ = writer.abort().await;
            return Err(error);
        }
        writer.finish().await.map(drop).map_err(writing)
    }
}
