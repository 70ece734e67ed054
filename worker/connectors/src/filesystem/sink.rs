//! The first phase: rows into unfinished files, cut and made durable at each checkpoint.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_engine::api::batch::Batch;
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
use weir_protocol::CheckpointId;

use super::closed::Closed;
use super::commit::FileCommitter;
use super::folder::{Disk, cannot, create_folder, sync_folder};
use super::names::{Owner, Pending, Writer};
use crate::formats::decode::Format;
use crate::formats::encode::{encode, rows_of};

/// Encoded rows are written to the file in pieces of about this size.
const PIECE: usize = 256 << 10;

/// Numbers every file that this process opens.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct FileSinkFactory {
    pub(super) folder: PathBuf,
    pub(super) closed: Closed,
    pub(super) format: Format,
    /// Write what each row does in a first column.
    pub(super) changelog: bool,
    /// A file is closed when it has so many bytes.
    pub(super) roll_at: u64,
}

impl SinkFactory for FileSinkFactory {
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        self.closed.open(&self.folder).map_err(|reached| SinkError::bad_input(reached.to_string()))?;
        create_folder(&self.folder).map_err(|error| cannot("create the folder", &self.folder, error))?;
        Ok(Box::new(FileSink { options: self.clone(), writer: Writer::of(ctx), open: None, closed: Vec::new() }))
    }

    fn committer(&self, ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(FileCommitter {
            folder: self.folder.clone(),
            owner: Owner::of(ctx),
            attempt: ctx.attempt,
            disk: Arc::new(Disk),
        }))
    }
}

/// A file that is being written, or waits for its checkpoint.
struct OpenFile {
    file: File,
    name: String,
    number: u64,
    /// Encoded and not yet written.
    bytes: Vec<u8>,
    written: u64,
}

impl OpenFile {
    fn create(folder: &Path, writer: &Writer, extension: &str) -> Result<Self, SinkError> {
        let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let name = writer.unfinished(number, extension);
        let path = folder.join(&name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| cannot("create", &path, error))?;
        Ok(Self { file, name, number, bytes: Vec::new(), written: 0 })
    }

    fn flush(&mut self, folder: &Path) -> Result<(), SinkError> {
        self.file.write_all(&self.bytes).map_err(|error| cannot("write", &folder.join(&self.name), error))?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Makes it durable. Bytes can be written to a file that somebody has removed, and go with it: the attempt has to end before a
    /// record names it, and its rows are written again.
    fn sync(&self, folder: &Path) -> Result<(), SinkError> {
        let path = folder.join(&self.name);
        self.file.sync_all().map_err(|error| cannot("sync", &path, error))?;
        let ours = self.file.metadata().map_err(|error| cannot("look at", &path, error))?;
        let named = std::fs::metadata(&path).map_err(|error| cannot("find", &path, error))?;
        if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            return Err(SinkError::io(format!("{} was replaced while it was written", path.display())));
        }
        Ok(())
    }
}

struct FileSink {
    options: FileSinkFactory,
    writer: Writer,
    /// Opened with the first row after a cut: where there are no rows there is no file.
    open: Option<OpenFile>,
    /// Files that have reached their size since the last cut.
    closed: Vec<OpenFile>,
}

impl Sink for FileSink {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let rows = rows_of(batch, self.options.changelog)?;
        let FileSinkFactory { folder, format, roll_at, .. } = &self.options;
        let file = match &mut self.open {
            Some(file) => file,
            closed @ None => closed.insert(OpenFile::create(folder, &self.writer, format.name())?),
        };
        let first = file.written == 0 && file.bytes.is_empty();
        encode(format, &rows, first, &mut file.bytes)?;
        let full = file.written + file.bytes.len() as u64 >= *roll_at;
        if full || file.bytes.len() >= PIECE {
            file.flush(folder)?;
        }
        if full {
            self.closed.extend(self.open.take());
        }
        Ok(())
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<PrepareJob, SinkError> {
        let mut files = std::mem::take(&mut self.closed);
        files.extend(self.open.take());
        let folder = self.options.folder.clone();
        let extension = self.options.format.name();
        let writer = self.writer.clone();
        Ok(Box::new(move || {
            let mut pending = Vec::with_capacity(files.len());
            for mut file in files {
                file.flush(&folder)?;
                file.sync(&folder)?;
                pending.push(serde_json::to_value(Pending {
                    folder: folder.clone(),
                    published: writer.published(id, file.number, extension),
                    unfinished: file.name,
                })?);
            }
            if !pending.is_empty() {
                sync_folder(&folder).map_err(|error| cannot("sync the folder", &folder, error))?;
            }
            Ok(pending)
        }))
    }
}
