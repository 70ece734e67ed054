//! The sink into a bucket: a multipart upload is the hidden file, and completing it the rename.
//!
//! Parts are uploaded beside processing while rows come; one waits while the one before it is under way, which bounds the
//! memory of a subtask to two parts. Where storage fails for a while, parts are tried again until the attempt is stopped:
//! the data plane waits, and goes on. What storage refuses for good ends the attempt.
//!
//! An upload that is left behind is seen by nobody. A sink that is dropped aborts the one that it was writing; others stay
//! until the bucket's own rule for unfinished uploads takes them away. Such a rule must leave them alone for longer than a
//! job may stand still between a checkpoint and its commit.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use object_store::MultipartId;
use object_store::path::Path as ObjectPath;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_engine::batch::Batch;
use weir_engine::error::SinkError;
use weir_engine::sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
use weir_protocol::CheckpointId;

use super::bucket::{Bucket, Objects, Place};
use super::commit::ObjectCommitter;
use super::encode::{encode, rows_of};
use super::format::Format;
use super::names::{PendingObject, Writer};

/// A part is uploaded at this size. S3 wants 5 MiB at least, of all but the last.
const PART: usize = 8 << 20;
/// The largest part, which a subtask holds twice in memory.
const LARGEST_PART: usize = 64 << 20;
/// S3 takes 10,000 parts an upload; objects that are to grow larger get larger parts, and are closed where those do not do.
const MOST_PARTS: u64 = 9_000;
/// The first wait after a try that failed. It doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Numbers every object that this process begins.
static NEXT_OBJECT: AtomicU64 = AtomicU64::new(0);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct ObjectSinkFactory {
    pub(super) bucket: Bucket,
    pub(super) format: Format,
    /// Write what each row does in a first column.
    pub(super) changelog: bool,
    /// An object is closed when it has so many bytes.
    pub(super) roll_at: u64,
}

impl SinkFactory for ObjectSinkFactory {
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let (part, roll_at) = sizes(self.roll_at);
        Ok(Box::new(ObjectSink {
            options: Self { roll_at, ..self.clone() },
            part,
            writer: Writer::of(ctx),
            io: Io { runtime: ctx.runtime.clone(), stopped: ctx.stopped.clone() },
            open: None,
            closed: Vec::new(),
        }))
    }

    fn committer(&self, _ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(ObjectCommitter::new(self.bucket.clone())))
    }
}

/// The size of parts, and that at which an object is closed, for the one that was asked for.
fn sizes(roll_at: u64) -> (usize, u64) {
    let part = (roll_at / MOST_PARTS).clamp(PART as u64, LARGEST_PART as u64);
    (part as usize, roll_at.min(part * MOST_PARTS))
}

/// Where a sink's futures run, and when they are of no use any more.
#[derive(Clone)]
struct Io {
    runtime: Handle,
    stopped: CancellationToken,
}

impl Io {
    /// From a thread that may block.
    fn wait<T>(&self, future: impl Future<Output = Result<T, SinkError>>) -> Result<T, SinkError> {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.stopped.cancelled() => Err(stopping()),
                result = future => result,
            }
        })
    }
}

/// An object on its way: what has been uploaded of it, and what has not.
struct Upload {
    objects: Objects,
    place: Place,
    key: ObjectPath,
    /// Set with the first part.
    id: Arc<OnceLock<MultipartId>>,
    /// The tags of the parts that have been taken, in order.
    parts: Vec<String>,
    /// The part that is under way.
    sending: Option<JoinHandle<Result<String, SinkError>>>,
    /// What has been gathered since.
    bytes: Vec<u8>,
    /// Bytes that were sent.
    length: u64,
}

impl Upload {
    fn new(bucket: &Bucket, name: &str) -> Self {
        Self {
            objects: bucket.objects.clone(),
            place: bucket.place.clone(),
            key: bucket.path.clone().join(name),
            id: Arc::default(),
            parts: Vec::new(),
            sending: None,
            bytes: Vec::new(),
            length: 0,
        }
    }

    /// Sends what has been gathered as one part, once the one before it has been taken.
    fn send(&mut self, io: &Io) -> Result<(), SinkError> {
        io.wait(self.sent())?;
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        self.length += bytes.len() as u64;
        let (objects, key, id) = (self.objects.clone(), self.key.clone(), Arc::clone(&self.id));
        let (number, stopped) = (self.parts.len(), io.stopped.clone());
        self.sending = Some(io.runtime.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => Err(stopping()),
                sent = send_part(&objects, &key, &id, number, bytes) => sent,
            }
        }));
        Ok(())
    }

    /// Waits for the part that is under way.
    async fn sent(&mut self) -> Result<(), SinkError> {
        if let Some(sending) = &mut self.sending {
            let sent = sending.await;
            self.sending = None;
            self.parts.push(sent.map_err(|error| SinkError::io("an upload was stopped").because(error))??);
        }
        Ok(())
    }

    /// All of it is durable, under its name, and seen by nobody.
    fn finish(mut self, io: &Io) -> Result<PendingObject, SinkError> {
        if !self.bytes.is_empty() {
            self.send(io)?;
        }
        io.wait(self.sent())?;
        let upload = self.id.get().cloned().unwrap_or_default();
        Ok(PendingObject {
            place: self.place,
            key: self.key.to_string(),
            upload,
            parts: self.parts,
            length: self.length,
        })
    }

    /// Nothing will come of it. Not waited for: nobody sees what is left.
    fn abandon(self, runtime: &Handle) {
        runtime.spawn(async move {
            if let Some(sending) = self.sending {
                // It ends first, or it would begin what nobody aborts.
                drop(sending.await);
            }
            if let Some(id) = self.id.get()
                && let Err(error) = self.objects.abort(&self.key, id).await
            {
                tracing::debug!(key = %self.key, %error, "an upload is left behind");
            }
        });
    }
}

fn stopping() -> SinkError {
    SinkError::io("the attempt is being stopped")
}

async fn send_part(
    objects: &Objects,
    key: &ObjectPath,
    id: &OnceLock<MultipartId>,
    number: usize,
    bytes: Bytes,
) -> Result<String, SinkError> {
    if id.get().is_none() {
        // One part is under way at a time, so nobody else sets it.
        drop(id.set(tried(key, || objects.begin(key)).await?));
    }
    let Some(id) = id.get() else { return Err(SinkError::io(format!("{key} has no upload"))) };
    tried(key, || objects.part(key, id, number, bytes.clone())).await
}

/// Tries again what may succeed later.
async fn tried<T, F: Future<Output = Result<T, object_store::Error>>>(
    key: &ObjectPath,
    mut call: impl FnMut() -> F,
) -> Result<T, SinkError> {
    let mut wait = FIRST_WAIT;
    loop {
        match call().await {
            Ok(done) => return Ok(done),
            Err(error) if is_final(&error) => return Err(SinkError::io(format!("cannot upload {key}")).because(error)),
            Err(error) => {
                tracing::warn!(%key, %error, "an upload failed and is repeated");
                tokio::time::sleep(wait).await;
                wait = (2 * wait).min(LONGEST_WAIT);
            }
        }
    }
}

/// Storage has understood, and will not.
fn is_final(error: &object_store::Error) -> bool {
    use object_store::Error;
    matches!(
        error,
        Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

struct ObjectSink {
    options: ObjectSinkFactory,
    /// Bytes of a part.
    part: usize,
    writer: Writer,
    io: Io,
    /// Begun with the first row after a cut: where there are no rows there is no object.
    open: Option<Upload>,
    /// Those that have reached their size since the last cut. All their parts are under way.
    closed: Vec<Upload>,
}

impl Sink for ObjectSink {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let rows = rows_of(batch, self.options.changelog)?;
        let ObjectSinkFactory { bucket, format, roll_at, .. } = &self.options;
        let upload = self.open.get_or_insert_with(|| {
            let number = NEXT_OBJECT.fetch_add(1, Ordering::Relaxed);
            Upload::new(bucket, &self.writer.object(number, format.extension()))
        });
        let first = upload.length == 0 && upload.bytes.is_empty();
        encode(format, &rows, first, &mut upload.bytes)?;
        let full = upload.length + upload.bytes.len() as u64 >= *roll_at;
        if full || upload.bytes.len() >= self.part {
            upload.send(&self.io)?;
        }
        if full {
            self.closed.extend(self.open.take());
        }
        Ok(())
    }

    fn prepare(&mut self, _id: CheckpointId) -> Result<PrepareJob, SinkError> {
        let mut uploads = std::mem::take(&mut self.closed);
        uploads.extend(self.open.take());
        let io = self.io.clone();
        Ok(Box::new(move || {
            let finish = |upload: Upload| Ok(serde_json::to_value(upload.finish(&io)?)?);
            uploads.into_iter().map(finish).collect()
        }))
    }
}

impl Drop for ObjectSink {
    fn drop(&mut self) {
        for upload in self.closed.drain(..).chain(self.open.take()) {
            upload.abandon(&self.io.runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_large_as_the_object_needs_and_memory_allows() {
        assert_eq!(sizes(1), (PART, 1));
        assert_eq!(sizes(128 << 20), (PART, 128 << 20));
        assert_eq!(sizes(MOST_PARTS << 24), (16 << 20, MOST_PARTS << 24));
        assert_eq!(sizes(u64::MAX), (LARGEST_PART, MOST_PARTS << 26));
    }
}
