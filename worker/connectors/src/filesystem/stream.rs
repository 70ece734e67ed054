//! The bytes of one file from an offset on, unzipped by name. Local files are read where they are wanted; an object is
//! fetched and unzipped beside, a few pieces ahead, and its reader is woken. It is asked for range by range: a request that is
//! answered as slowly as rows are wanted would be out of time before its end.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TryRecvError};
use weir_engine::api::error::SourceError;
use weir_engine::api::source::Waker;

use super::bucket::Bucket;
use super::location::Location;

/// One read.
const PIECE: usize = 256 << 10;
/// Pieces of an object fetched ahead: with [`PIECE`] and [`RANGE`] this bounds its memory.
const PIECES_AHEAD: usize = 8;
/// Bytes of an object that are asked for at once.
const RANGE: u64 = 4 << 20;

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
    /// For messages.
    name: String,
    bytes: Bytes,
    /// Bytes still to be thrown away before the offset is reached.
    skip: u64,
}

enum Bytes {
    Here(Box<dyn Read + Send>),
    Ahead(Receiver<io::Result<Vec<u8>>>),
}

impl Stream {
    /// Opens a file at an offset of its unzipped bytes.
    pub(super) fn open(
        file: &Location,
        name: &str,
        offset: u64,
        runtime: &Handle,
        waker: &Waker,
    ) -> Result<Self, SourceError> {
        let zipped = is_zipped(name);
        let start = if zipped { 0 } else { offset };
        let bytes = match file {
            Location::Local(path) => Bytes::Here(open_local(path, zipped, start)?),
            Location::Remote(bucket) => Bytes::Ahead(fetch(bucket, zipped, start, runtime, waker)),
        };
        Ok(Self { name: name.to_string(), bytes, skip: offset - start })
    }

    /// Appends the next bytes to `buffer`.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Got, SourceError> {
        let old = buffer.len();
        let got = match &mut self.bytes {
            Bytes::Here(reader) => {
                buffer.resize(old + PIECE, 0);
                let read = read_some(&mut **reader, &mut buffer[old..]).map_err(|error| broken(&self.name, error))?;
                buffer.truncate(old + read);
                read
            }
            Bytes::Ahead(pieces) => match pieces.try_recv() {
                Ok(piece) => {
                    let piece = piece.map_err(|error| broken(&self.name, error))?;
                    buffer.extend_from_slice(&piece);
                    piece.len()
                }
                Err(TryRecvError::Empty) => return Ok(Got::Nothing),
                Err(TryRecvError::Disconnected) => 0,
            },
        };
        if got == 0 {
            if self.skip > 0 {
                return Err(changed(&self.name, self.skip));
            }
            return Ok(Got::End);
        }
        let skipped = self.skip.min(got as u64);
        self.skip -= skipped;
        buffer.drain(old..old + skipped as usize);
        if buffer.len() == old { Ok(Got::Nothing) } else { Ok(Got::Bytes(buffer.len() - old)) }
    }

    /// Still on the way to its offset: a read may give nothing although there is more, and nobody will wake.
    pub(super) fn is_skipping(&self) -> bool {
        self.skip > 0
    }
}

pub(super) fn is_zipped(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

fn changed(name: &str, missing: u64) -> SourceError {
    SourceError::bad_input(format!(
        "{name} ends {missing} bytes before the position of the checkpoint: it has changed since; put the old file back, or start without the checkpoint"
    ))
}

/// An object ends so many bytes before it is to be read.
#[derive(Debug, thiserror::Error)]
#[error("it ends {0} bytes earlier")]
struct Shorter(u64);

fn broken(name: &str, error: io::Error) -> SourceError {
    if let Some(Shorter(missing)) = error.get_ref().and_then(|error| error.downcast_ref()) {
        return changed(name, *missing);
    }
    let refused = error.get_ref().and_then(|error| error.downcast_ref::<object_store::Error>());
    if let Some(object_store::Error::Precondition { .. }) = refused {
        return SourceError::bad_input(format!(
            "{name} has changed while it was read; what is read may not be written again"
        ));
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

fn read_some(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What came before the fault is good, and the fault will come again.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn open_local(path: &Path, zipped: bool, start: u64) -> Result<Box<dyn Read + Send>, SourceError> {
    let cannot = |error: io::Error| SourceError::bad_input(format!("cannot open {}", path.display())).because(error);
    let mut file = File::open(path).map_err(cannot)?;
    if start > 0 {
        let length = file.metadata().map_err(cannot)?.len();
        if length < start {
            return Err(changed(&path.display().to_string(), start - length));
        }
        file.seek(SeekFrom::Start(start)).map_err(cannot)?;
    }
    Ok(if zipped { Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE, file))) } else { Box::new(file) })
}

/// Reads an object on a blocking thread of the runtime, which waits for the pieces and for room in the channel.
fn fetch(bucket: &Bucket, zipped: bool, start: u64, runtime: &Handle, waker: &Waker) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel(PIECES_AHEAD);
    let (bucket, waker, handle) = (bucket.clone(), waker.clone(), runtime.clone());
    runtime.spawn_blocking(move || {
        match Ranges::open(bucket, start, handle) {
            Ok(ranges) if zipped => pump(MultiGzDecoder::new(ranges), &sender, &waker),
            Ok(ranges) => pump(ranges, &sender, &waker),
            Err(error) => drop(sender.blocking_send(Err(error))),
        }
        drop(sender);
        waker.wake();
    });
    receiver
}

/// Until the end, a fault, or nobody listens.
fn pump(mut reader: impl Read, sender: &Sender<io::Result<Vec<u8>>>, waker: &Waker) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = read_some(&mut reader, &mut piece);
        let last = !matches!(read, Ok(read) if read > 0);
        if let Ok(0) = read {
            return;
        }
        let piece = read.map(|read| {
            piece.truncate(read);
            piece
        });
        if sender.blocking_send(piece).is_err() || last {
            return;
        }
        waker.wake();
    }
}

/// An object as a reader, for a thread that may block.
struct Ranges {
    bucket: Bucket,
    handle: Handle,
    /// The object as it was when it was opened.
    version: Option<String>,
    size: u64,
    at: u64,
    left: bytes::Bytes,
}

impl Ranges {
    /// Asks for the first range; the answer says how much there is. From the end on there is no range to ask for.
    fn open(bucket: Bucket, start: u64, handle: Handle) -> io::Result<Self> {
        let mut ranges = Self { bucket, handle, version: None, size: u64::MAX, at: start, left: bytes::Bytes::new() };
        match ranges.next() {
            Ok((object, bytes)) => {
                (ranges.version, ranges.size) = (object.e_tag, object.size);
                ranges.came(bytes)?;
            }
            Err(refused) => {
                let object = ranges.handle.block_on(ranges.bucket.objects.store.head(&ranges.bucket.path));
                ranges.size = object.map_err(io::Error::other)?.size;
                if ranges.size < start {
                    return Err(io::Error::other(Shorter(start - ranges.size)));
                }
                if ranges.size > start {
                    return Err(io::Error::other(refused));
                }
            }
        }
        Ok(ranges)
    }

    fn next(&self) -> object_store::Result<(ObjectMeta, bytes::Bytes)> {
        let range = self.at..self.size.min(self.at + RANGE);
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
        if bytes.is_empty() && self.at < self.size {
            return Err(io::Error::other("an answer had no bytes"));
        }
        self.at += bytes.len() as u64;
        self.left = bytes;
        Ok(())
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() && self.at < self.size {
            let (_, bytes) = self.next().map_err(io::Error::other)?;
            self.came(bytes)?;
        }
        let read = self.left.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.left.split_to(read));
        Ok(read)
    }
}
