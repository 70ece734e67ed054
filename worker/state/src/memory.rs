//! State in memory: an ordered map under a lock. A snapshot writes all of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{
    backend::{BackendFactory, Carriage, KeyedBackend, LocalFile, OpenBackend, VisitEntry, WriteBatch},
    error::StateError,
};

/// What every file of a snapshot begins with: a name and the format's version.
pub const MAGIC: [u8; 8] = *b"WEIRKV\x00\x01";
/// A snapshot's content is cut into files of about this size, so that transfers run in parallel.
const FILE_BYTES: u64 = 32 << 20;

/// The backends `memory`, `hashmap`, `filesystem` and `jobmanager`, which differ in how snapshots travel.
#[derive(Clone, Copy, Debug)]
pub struct MemoryFactory {
    carriage: Carriage,
}

impl MemoryFactory {
    /// Snapshots travel like this.
    pub const fn new(carriage: Carriage) -> Self {
        Self { carriage }
    }
}

impl BackendFactory for MemoryFactory {
    fn open(&self, open: OpenBackend) -> Result<Arc<dyn KeyedBackend>, StateError> {
        if let Some(option) = open.options.keys().next() {
            return Err(StateError::mismatch(format!("state backends in memory have no option {option:?}; remove it")));
        }
        let backend = MemoryBackend::default();
        if let Some(dir) = open.restore_dir {
            backend.restore(&dir)?;
        }
        Ok(Arc::new(backend))
    }

    fn carriage(&self) -> Carriage {
        self.carriage
    }

    fn format(&self) -> &'static str {
        "memory"
    }
}

type Entries = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Debug, Default)]
struct MemoryBackend {
    entries: RwLock<Entries>,
    bytes: AtomicU64,
}

impl MemoryBackend {
    fn restore(&self, dir: &Path) -> Result<(), StateError> {
        let mut entries = self.entries.write();
        for name in (0..).map(file_name) {
            let path = dir.join(name);
            if !path.exists() {
                break;
            }
            let mut input = BufReader::new(File::open(&path).map_err(StateError::file("opening", &path))?);
            let corrupt = |error| {
                StateError::corrupt(format!("{} is no snapshot in memory's format", path.display())).because(error)
            };
            let mut magic = [0; 8];
            input.read_exact(&mut magic).map_err(corrupt)?;
            if magic != MAGIC {
                return Err(StateError::corrupt(format!("{} does not begin as a snapshot does", path.display())));
            }
            while let Some(key) = read_piece(&mut input).map_err(corrupt)? {
                let value = read_piece(&mut input)
                    .map_err(corrupt)?
                    .ok_or_else(|| corrupt(std::io::ErrorKind::UnexpectedEof.into()))?;
                self.bytes.fetch_add((key.len() + value.len()) as u64, Ordering::Relaxed);
                entries.insert(key, value);
            }
        }
        Ok(())
    }
}

fn file_name(n: u32) -> String {
    format!("{n:06}.kv")
}

fn read_piece(input: &mut impl Read) -> std::io::Result<Option<Box<[u8]>>> {
    let mut length = [0; 4];
    match input.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => input.read_exact(&mut length[1..])?,
    }
    let length = u64::from(u32::from_le_bytes(length));
    let mut piece = Vec::new();
    if input.take(length).read_to_end(&mut piece)? as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(piece.into()))
}

fn write_piece(out: &mut impl Write, piece: &[u8]) -> std::io::Result<u64> {
    let length = u32::try_from(piece.len()).map_err(|_| std::io::Error::other("a row has more than 4 GiB"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(piece)?;
    Ok(4 + u64::from(length))
}

impl KeyedBackend for MemoryBackend {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn multi_get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), StateError> {
        let entries = self.entries.read();
        for (at, key) in keys.iter().enumerate() {
            if let Some(value) = entries.get(*key) {
                found(at, value);
            }
        }
        Ok(())
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), StateError> {
        let mut entries = self.entries.write();
        let forget =
            |key: &[u8], value: &[u8]| self.bytes.fetch_sub((key.len() + value.len()) as u64, Ordering::Relaxed);
        for (from, to) in batch.ranges() {
            let within = entries.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
            let keys: Vec<Box<[u8]>> = within.map(|(key, _)| key.clone()).collect();
            for key in keys {
                if let Some(value) = entries.remove(&key) {
                    forget(&key, &value);
                }
            }
        }
        for (key, value) in batch.entries() {
            let old = match value {
                Some(value) => {
                    self.bytes.fetch_add((key.len() + value.len()) as u64, Ordering::Relaxed);
                    entries.insert(key.into(), value.into())
                }
                None => entries.remove(key),
            };
            if let Some(old) = old {
                forget(key, &old);
            }
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self.entries.read().range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn snapshot(&self, dir: &Path) -> Result<Vec<LocalFile>, StateError> {
        let entries = self.entries.read();
        let mut rest = entries.iter().peekable();
        let mut files = Vec::new();
        while rest.peek().is_some() {
            let name = file_name(files.len() as u32);
            let path = dir.join(&name);
            let mut write = || {
                let mut out = BufWriter::with_capacity(1 << 16, File::create(&path)?);
                out.write_all(&MAGIC)?;
                let mut length = MAGIC.len() as u64;
                while length < FILE_BYTES
                    && let Some((key, value)) = rest.next()
                {
                    length += write_piece(&mut out, key)? + write_piece(&mut out, value)?;
                }
                out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
                Ok(length)
            };
            let length = write().map_err(StateError::file("writing", &path))?;
            files.push(LocalFile { name, length, immutable: false });
        }
        Ok(files)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_s_bytes_are_those_of_the_format() {
        let backend = MemoryBackend::default();
        let mut batch = WriteBatch::new();
        batch.put(b"a", b"one");
        batch.put(b"b", b"");
        backend.write(&batch).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = backend.snapshot(dir.path()).unwrap();
        assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["000000.kv"]);
        let bytes = std::fs::read(dir.path().join("000000.kv")).unwrap();
        let line = format!("| `a` → `one`, `b` → nothing | `{}` |", crate::layout::hex(&bytes));
        assert!(include_str!("../FORMAT.md").contains(&line), "FORMAT.md lacks the line\n{line}");
    }

    #[test]
    fn a_file_that_is_cut_off_or_no_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000000.kv");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0, 0, 0, b'a', 5, 0, 0, 0, b'x']);
        for wrong in [&bytes[..], &bytes[..9], &bytes[..13], b"something else"] {
            std::fs::write(&path, wrong).unwrap();
            let error = MemoryBackend::default().restore(dir.path()).unwrap_err();
            assert_eq!(error.kind(), crate::StateErrorKind::Corrupt, "{error}");
        }
    }
}
