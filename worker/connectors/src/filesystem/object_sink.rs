//! The sink into a bucket: objects under hidden names, which a commit copies to those that readers see.
//!
//! An object appears wholly or not at all, so what is under its hidden name at a checkpoint is whole. One of more than a part
//! is a multipart upload, completed before the checkpoint is. It would be the hidden file itself, and completing it the commit,
//! if every server completed uploads wholly or not at all; but some lose one when whoever completes it dies meanwhile.
//!
//! Parts are uploaded beside processing while rows come. What a subtask holds of rows that are not in
//! storage is bounded, in however many objects they are and however small these are: also what earlier checkpoints have cut and
//! could not finish. Whoever writes more waits. Where storage fails for a while, requests are tried again until the attempt is stopped:
//! the data plane waits, and goes on. What storage refuses for good ends the attempt.
//!
//! What is left behind is seen by nobody. A sink that is dropped aborts the uploads that it was making; objects under hidden
//! names are removed by the next attempt.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::path::Path as ObjectPath;
use object_store::{MultipartId, ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_engine::api::batch::Batch;
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
use weir_protocol::CheckpointId;

use super::bucket::{Bucket, Objects, Place};
use super::commit::ObjectCommitter;
use super::names::{Owner, PendingObject, Writer};
use crate::formats::decode::Format;
use crate::formats::encode::{encode, rows_of};

/// A part is uploaded at this size. S3 wants 5 MiB at least, of all but the last, and at most 10,000 parts.
const PART: usize = 8 << 20;
/// Bytes that a subtask holds which are not in storage: a part that is gathered, one under way, and one that a checkpoint has cut.
const ROOM: usize = 3 * PART;
/// What an object counts for at least: it has a task, buffers and a connection, however few bytes it has.
const LEAST_COUNTED: usize = 256 << 10;
/// Objects are closed at this size, whatever was asked for: to copy one takes storage well under the 30 s that it has to answer.
const LARGEST: u64 = 1 << 30;
/// A completion that storage refused so often is not going to succeed: the attempt ends, and what it wrote is written again.
const MOST_REFUSALS: u32 = 3;
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
        Ok(Box::new(ObjectSink {
            options: self.clone(),
            unfinished: Writer::of(ctx).unfinished_objects(&self.bucket.path),
            writer: Writer::of(ctx),
            io: Io { runtime: ctx.runtime.clone(), stopped: ctx.stopped.clone(), room: Arc::new(Semaphore::new(ROOM)) },
            open: None,
            closed: Vec::new(),
        }))
    }

    fn committer(&self, ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(ObjectCommitter { bucket: self.bucket.clone(), owner: Owner::of(ctx), attempt: ctx.attempt }))
    }
}

/// Where a sink's futures run, and when they are of no use any more.
#[derive(Clone)]
struct Io {
    runtime: Handle,
    stopped: CancellationToken,
    /// [`ROOM`], less what is held.
    room: Arc<Semaphore>,
}

impl Io {
    /// Waits until so many more bytes may be held. What is being gathered is under a part, so the rest is there once what is
    /// under way has arrived; one batch that is larger than that has it all.
    fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, SinkError> {
        let counted = bytes.min(ROOM - PART) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(counted);
        self.wait(async { room.await.map_err(|_| stopping()) })
    }

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
    /// Its hidden name.
    key: ObjectPath,
    /// The name that it is to have.
    published: ObjectPath,
    /// Set with the first part.
    id: Arc<OnceLock<MultipartId>>,
    /// Those that have been taken, in order.
    parts: Vec<PartId>,
    /// The part that is under way.
    sending: Option<JoinHandle<Result<PartId, SinkError>>>,
    /// What has been gathered since.
    bytes: Vec<u8>,
    /// The room that this takes.
    room: Option<OwnedSemaphorePermit>,
    /// Bytes that were sent.
    length: u64,
}

impl Upload {
    fn new(bucket: &Bucket, unfinished: &ObjectPath, name: &str) -> Self {
        Self {
            objects: bucket.objects.clone(),
            place: bucket.place.clone(),
            key: unfinished.clone().join(name),
            published: bucket.path.clone().join(name),
            id: Arc::default(),
            parts: Vec::new(),
            sending: None,
            bytes: Vec::new(),
            room: None,
            length: 0,
        }
    }

    /// Takes room for what has been gathered, which had so many bytes before.
    fn count(&mut self, before: usize, io: &Io) -> Result<(), SinkError> {
        let more = self.bytes.len() - before;
        match &mut self.room {
            Some(room) => room.merge(io.room_for(more)?),
            none @ None => *none = Some(io.room_for(more.max(LEAST_COUNTED))?),
        }
        Ok(())
    }

    /// Sends what has been gathered as one part, once the one before it has been taken.
    fn send(&mut self, io: &Io) -> Result<(), SinkError> {
        io.wait(self.sent())?;
        let room = self.room.take();
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        self.length += bytes.len() as u64;
        let (objects, key, id) = (self.objects.clone(), self.key.clone(), Arc::clone(&self.id));
        let (number, stopped) = (self.parts.len(), io.stopped.clone());
        self.sending = Some(io.runtime.spawn(async move {
            let sent = tokio::select! {
                () = stopped.cancelled() => Err(stopping()),
                sent = send_part(&objects, &key, &id, number, bytes) => sent,
            };
            drop(room);
            sent
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

    /// All of it is an object, under its hidden name.
    fn finish(mut self, io: &Io) -> Result<PendingObject, SinkError> {
        match self.finished(io) {
            Ok(()) => Ok(PendingObject { place: self.place, unfinished: self.key, published: self.published }),
            Err(error) => {
                self.abandon(&io.runtime);
                Err(error)
            }
        }
    }

    fn finished(&mut self, io: &Io) -> Result<(), SinkError> {
        if self.length == 0 {
            let payload = PutPayload::from(std::mem::take(&mut self.bytes));
            return io.wait(async {
                tried(&self.key, || self.objects.store.put(&self.key, payload.clone())).await.map(drop)
            });
        }
        if !self.bytes.is_empty() {
            self.send(io)?;
        }
        io.wait(async {
            self.sent().await?;
            complete(&self.objects, &self.key, &self.id, &self.parts, self.length).await
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
                && let Err(error) = self.objects.uploads.abort_multipart(&self.key, id).await
            {
                tracing::debug!(key = %self.key, %error, "an upload is left behind");
            }
        });
    }
}

fn stopping() -> SinkError {
    SinkError::io("the attempt is being stopped")
}

/// All parts but the last have 5 MiB at least.
async fn send_part(
    objects: &Objects,
    key: &ObjectPath,
    id: &OnceLock<MultipartId>,
    number: usize,
    bytes: Bytes,
) -> Result<PartId, SinkError> {
    if id.get().is_none() {
        // One part is under way at a time, so nobody else sets it.
        drop(id.set(tried(key, || objects.uploads.create_multipart(key)).await?));
    }
    let id = begun(key, id)?;
    tried(key, || objects.uploads.put_part(key, id, number, bytes.clone().into())).await
}

/// Makes an object of an upload. It may be there after an answer that was lost.
async fn complete(
    objects: &Objects,
    key: &ObjectPath,
    id: &OnceLock<MultipartId>,
    parts: &[PartId],
    length: u64,
) -> Result<(), SinkError> {
    let id = begun(key, id)?;
    let mut refusals = 0;
    loop {
        let Err(error) = objects.uploads.complete_multipart(key, id, parts.to_vec()).await else { return Ok(()) };
        match tried(key, async || match objects.store.head(key).await {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            found => found.map(Some),
        })
        .await?
        {
            Some(there) if there.size == length => return Ok(()),
            // Storage answers, and knows of no object.
            _ => refusals += 1,
        }
        if refusals == MOST_REFUSALS {
            return Err(SinkError::io(format!("cannot complete the upload of {key}")).because(error));
        }
    }
}

fn begun<'a>(key: &ObjectPath, id: &'a OnceLock<MultipartId>) -> Result<&'a MultipartId, SinkError> {
    id.get().ok_or_else(|| SinkError::io(format!("{key} has no upload")))
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
    /// Where objects are until they are published.
    unfinished: ObjectPath,
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
            Upload::new(bucket, &self.unfinished, &self.writer.object(number, format.name()))
        });
        let before = upload.bytes.len();
        encode(format, &rows, upload.length == 0 && before == 0, &mut upload.bytes)?;
        upload.count(before, &self.io)?;
        let full = upload.length + upload.bytes.len() as u64 >= LARGEST.min(*roll_at);
        if full || upload.bytes.len() >= PART {
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
