//! The bytes of one file from an offset on, unzipped by name. Local files are read where they are wanted; an object is
//! fetched and unzipped beside, a few pieces ahead, and its reader is woken. It is asked for range by range: a request that is
//! answered as slowly as rows are wanted would be out of time before its end.
//!
//! **Invariant:** what cannot be read is a fault and never the end of the file. A fault that comes behind good bytes is kept
//! until they have been given, and then given each time: decoders tell theirs once, and end afterwards. An object has ended
//! only when its thread has said so: one that panicked says nothing.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use object_store::{GetOptions, GetRange, ObjectMeta};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TryRecvError};
use weir_engine::api::error::SourceError;
use weir_engine::api::source::Waker;

use super::bucket::Bucket;
use super::closed::Closed;
use super::gzip::Members;
use super::input::Input;
use super::location::{Location, regular};

/// One read.
const PIECE: usize = 256 << 10;
/// What one object is asked for at once, at most.
const LARGEST_RANGE: u64 = 4 << 20;
/// And at least: the time that a request takes should be spent on bytes.
const LEAST_RANGE: u64 = 256 << 10;
/// Bytes of objects that a subtask holds ahead of what is read, all its splits together: half as ranges, half as pieces.
const AHEAD: u64 = 12 << 20;
/// The stack of a thread that fetches; it holds nothing.
const STACK: usize = 512 << 10;

/// How far objects are read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    range: u64,
    pieces: usize,
}

impl Ahead {
    /// Of each of so many objects that one subtask reads beside each other.
    pub(super) fn of_each(objects: usize) -> Self {
        let share = AHEAD / 2 / objects.max(1) as u64;
        let pieces = (share / PIECE as u64).clamp(1, LARGEST_RANGE / PIECE as u64);
        Self { range: share.clamp(LEAST_RANGE, LARGEST_RANGE), pieces: pieces as usize }
    }
}

/// What all files of a subtask are opened with.
pub(super) struct Opening {
    pub(super) closed: Closed,
    pub(super) ahead: Ahead,
    pub(super) runtime: Handle,
    pub(super) waker: Waker,
}

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet; the waker will be called.
    Nothing,
    /// The end.
    End,
}

/// See the module.
pub(super) struct Stream {
    input: Input,
    bytes: Bytes,
    /// Bytes still to be thrown away before the offset is reached.
    skip: u64,
}

enum Bytes {
    /// The file is kept so that it can be looked at again at its end.
    Here(Kept<Box<dyn Read + Send>>, Arc<File>),
    Ahead(Receiver<io::Result<Piece>>),
    /// A fault has been given.
    Broken,
    Ended,
}

/// What a fetching thread sends.
enum Piece {
    /// At least one.
    Bytes(Vec<u8>),
    End,
}

impl Stream {
    /// Opens a file at an offset of its unzipped bytes.
    pub(super) fn open(file: &Location, input: &Input, offset: u64, with: &Opening) -> Result<Self, SourceError> {
        let zipped = is_zipped(&input.name);
        let start = if zipped { 0 } else { offset };
        let bytes = match file {
            Location::Local(path) => {
                let file = Arc::new(open_local(path, input, start, &with.closed)?);
                let reader: Box<dyn Read + Send> = if zipped {
                    Box::new(Members::new(BufReader::with_capacity(PIECE, Arc::clone(&file))))
                } else {
                    Box::new(Arc::clone(&file))
                };
                Bytes::Here(Kept::new(reader), file)
            }
            Location::Remote(bucket) => Bytes::Ahead(fetch(bucket, input, zipped, start, with)?),
        };
        Ok(Self { input: input.clone(), bytes, skip: offset - start })
    }

    /// Appends the next bytes to `buffer`.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Got, SourceError> {
        let old = buffer.len();
        match self.next(buffer) {
            Ok(Some(0)) => {
                self.bytes = Bytes::Ended;
                Ok(Got::End)
            }
            Ok(Some(got)) => {
                let skipped = self.skip.min(got as u64);
                self.skip -= skipped;
                buffer.drain(old..old + skipped as usize);
                Ok(if buffer.len() == old { Got::Nothing } else { Got::Bytes(buffer.len() - old) })
            }
            Ok(None) => Ok(Got::Nothing),
            Err(error) => {
                buffer.truncate(old);
                self.bytes = Bytes::Broken;
                Err(error)
            }
        }
    }

    /// So many more bytes, 0 at the end; none where there is nothing yet.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>, SourceError> {
        let read = match &mut self.bytes {
            Bytes::Here(reader, file) => {
                let old = buffer.len();
                buffer.resize(old + PIECE, 0);
                let read = reader.fill(&mut buffer[old..]).map_err(|error| broken(&self.input, error))?;
                buffer.truncate(old + read);
                if read == 0 {
                    let metadata = file.metadata().map_err(|error| broken(&self.input, error))?;
                    self.input.check(&metadata)?;
                }
                read
            }
            Bytes::Ahead(pieces) => match pieces.try_recv() {
                Ok(Ok(Piece::Bytes(piece))) => {
                    buffer.extend_from_slice(&piece);
                    piece.len()
                }
                Ok(Ok(Piece::End)) => 0,
                Ok(Err(error)) => return Err(broken(&self.input, error)),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => {
                    let message =
                        format!("what fetched {} ended without a word; the worker's log says why", self.input.name);
                    return Err(SourceError::io(message));
                }
            },
            Bytes::Broken => return Err(SourceError::io(format!("{} could not be read before", self.input.name))),
            Bytes::Ended => 0,
        };
        if read == 0 && self.skip > 0 {
            return Err(shorter(&self.input.name, self.skip));
        }
        Ok(Some(read))
    }

    /// Still on the way to its offset: a read may give nothing although there is more, and nobody will wake.
    pub(super) fn is_skipping(&self) -> bool {
        self.skip > 0
    }
}

pub(super) fn is_zipped(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

fn shorter(name: &str, missing: u64) -> SourceError {
    SourceError::bad_input(format!(
        "{name} ends {missing} bytes before the position of the checkpoint: it has changed since; put the old file back, or start without the checkpoint"
    ))
}

/// An object ends so many bytes before it is to be read.
#[derive(Debug, thiserror::Error)]
#[error("it ends {0} bytes earlier")]
struct Shorter(u64);

/// An object is not as long as it was.
#[derive(Debug, thiserror::Error)]
#[error("it has {0} bytes now")]
struct OtherLength(u64);

fn broken(input: &Input, error: io::Error) -> SourceError {
    let name = &input.name;
    if let Some(OtherLength(now)) = error.get_ref().and_then(|error| error.downcast_ref())
        && let Err(changed) = input.check_length(*now)
    {
        return changed;
    }
    if let Some(Shorter(missing)) = error.get_ref().and_then(|error| error.downcast_ref()) {
        return shorter(name, *missing);
    }
    let refused = error.get_ref().and_then(|error| error.downcast_ref::<object_store::Error>());
    if let Some(object_store::Error::Precondition { .. }) = refused {
        return input.changed("its ETag is another one");
    }
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof if is_zipped(name) => {
            format!("{name} is truncated: its gzip stream ends in the middle; get the whole file")
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if is_zipped(name) => {
            format!("{name} is not valid gzip; check the file, or take .gz off its name if it is not zipped")
        }
        _ => return SourceError::io(format!("cannot read {name}")).because(error),
    };
    SourceError::bad_input(message).because(error)
}

/// A reader that fills what it is given, and keeps a fault until what came before it was given.
struct Kept<R> {
    reader: R,
    fault: Option<io::Error>,
}

impl<R: Read> Kept<R> {
    const fn new(reader: R) -> Self {
        Self { reader, fault: None }
    }

    /// Fewer bytes than there is room for only before a fault or the end; none at the end.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.fault.is_none() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.fault = Some(error),
            }
        }
        match self.fault.take_if(|_| filled == 0) {
            Some(fault) => Err(fault),
            None => Ok(filled),
        }
    }
}

fn open_local(path: &Path, input: &Input, start: u64, closed: &Closed) -> Result<File, SourceError> {
    let cannot = |error: io::Error| SourceError::bad_input(format!("cannot open {}", path.display())).because(error);
    let mut file = File::open(closed.open(path)?).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    regular(path, &metadata)?;
    input.check(&metadata)?;
    if metadata.len() < start {
        return Err(shorter(&input.name, start - metadata.len()));
    }
    if start > 0 {
        file.seek(SeekFrom::Start(start)).map_err(cannot)?;
    }
    Ok(file)
}

/// Reads an object on a thread of its own, which waits for the pieces and for room in the channel. The runtime's blocking threads
/// are few, and others need them: one that waits for a reader would keep a plan or a checkpoint waiting.
fn fetch(
    bucket: &Bucket,
    input: &Input,
    zipped: bool,
    start: u64,
    with: &Opening,
) -> Result<Receiver<io::Result<Piece>>, SourceError> {
    let (sender, receiver) = channel(with.ahead.pieces);
    let ranges = Ranges {
        bucket: bucket.clone(),
        handle: with.runtime.clone(),
        version: input.etag.clone(),
        size: input.bytes,
        range: with.ahead.range,
        at: start,
        left: bytes::Bytes::new(),
    };
    let to = Reader { sender: Some(sender), waker: with.waker.clone() };
    let fetching = move || match ranges.open() {
        Ok(ranges) if zipped => pump(Members::new(BufReader::with_capacity(PIECE, ranges)), &to),
        Ok(ranges) => pump(ranges, &to),
        Err(error) => drop(to.give(Err(error))),
    };
    let thread = std::thread::Builder::new().name("fetch".to_string()).stack_size(STACK).spawn(fetching);
    thread.map_err(|error| SourceError::io(format!("no thread to fetch {}", input.name)).because(error))?;
    Ok(receiver)
}

/// Where pieces go. However the thread ends, the reader is woken when there is no more to come.
struct Reader {
    sender: Option<Sender<io::Result<Piece>>>,
    waker: Waker,
}

impl Reader {
    /// False where nobody listens any more.
    fn give(&self, piece: io::Result<Piece>) -> bool {
        let given = self.sender.as_ref().is_some_and(|sender| sender.blocking_send(piece).is_ok());
        self.waker.wake();
        given
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.sender = None;
        self.waker.wake();
    }
}

/// Until the end, a fault, or nobody listens.
fn pump(reader: impl Read, to: &Reader) {
    let mut reader = Kept::new(reader);
    loop {
        let mut piece = vec![0; PIECE];
        let read = reader.fill(&mut piece);
        let last = !matches!(read, Ok(read) if read > 0);
        let piece = read.map(|read| {
            piece.truncate(read);
            if last { Piece::End } else { Piece::Bytes(piece) }
        });
        if !to.give(piece) || last {
            return;
        }
    }
}

/// An object as a reader, for a thread that may block.
struct Ranges {
    bucket: Bucket,
    handle: Handle,
    /// The object as the job first saw it, or else as it was when it was opened.
    version: Option<String>,
    /// Where that is known.
    size: Option<u64>,
    /// What is asked for at once.
    range: u64,
    at: u64,
    left: bytes::Bytes,
}

impl Ranges {
    /// Asks for the first range; the answer says how much there is. From the end on there is no range to ask for.
    fn open(mut self) -> io::Result<Self> {
        if self.size.is_some_and(|size| size <= self.at) {
            return self.open_at_end();
        }
        match self.next() {
            Ok((object, bytes)) => {
                self.is(&object)?;
                self.came(bytes)?;
            }
            Err(refused @ object_store::Error::Precondition { .. }) => return Err(io::Error::other(refused)),
            Err(refused) => {
                self = self.open_at_end()?;
                if self.size > Some(self.at) {
                    return Err(io::Error::other(refused));
                }
            }
        }
        Ok(self)
    }

    /// Asks for no bytes, only whether the object is the one.
    fn open_at_end(mut self) -> io::Result<Self> {
        let options = GetOptions { head: true, if_match: self.version.clone(), ..GetOptions::default() };
        let object = self.bucket.objects.store.get_opts(&self.bucket.path, options);
        let object = self.handle.block_on(object).map_err(io::Error::other)?.meta;
        if object.size < self.at {
            return Err(io::Error::other(Shorter(self.at - object.size)));
        }
        self.is(&object)?;
        Ok(self)
    }

    /// Takes an object for the one that is to be read.
    fn is(&mut self, object: &ObjectMeta) -> io::Result<()> {
        if self.size.is_some_and(|size| size != object.size) {
            return Err(io::Error::other(OtherLength(object.size)));
        }
        self.size = Some(object.size);
        if self.version.is_none() {
            self.version.clone_from(&object.e_tag);
        }
        Ok(())
    }

    fn next(&self) -> object_store::Result<(ObjectMeta, bytes::Bytes)> {
        let end = self.at + self.range;
        let range = self.at..self.size.map_or(end, |size| end.min(size));
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.version.clone(),
            ..GetOptions::default()
        };
        let object = self.bucket.objects.store.get_opts(&self.bucket.path, options);
        self.handle.block_on(async {
            let object = object.await?;
            Ok((object.meta.clone(), object.bytes().await?))
        })
    }

    fn came(&mut self, bytes: bytes::Bytes) -> io::Result<()> {
        if bytes.is_empty() && Some(self.at) < self.size {
            return Err(io::Error::other("an answer had no bytes"));
        }
        self.at += bytes.len() as u64;
        self.left = bytes;
        Ok(())
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() && Some(self.at) < self.size {
            let (_, bytes) = self.next().map_err(io::Error::other)?;
            self.came(bytes)?;
        }
        let read = self.left.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.left.split_to(read));
        Ok(read)
    }
}
