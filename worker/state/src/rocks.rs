//! State in RocksDB: one database a subtask, without a write-ahead log, since checkpoints are what survives.
//!
//! All databases of a worker share one block cache and one manager of write buffers, which is charged to the cache; index and
//! filter blocks are in it too. A large batch is sorted already, so it becomes a file that is ingested, without passing through a
//! write buffer. Runs of such files are merged by size, not by level: keys come in any order, so that each level would be
//! rewritten for every piece that reaches it. A snapshot is a flush and a folder of hard links.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, ErrorKind,
    IngestExternalFileOptions, LogLevel, Options, ReadOptions, SstFileWriter, UniversalCompactOptions,
    checkpoint::Checkpoint,
};

use crate::{
    backend::{BackendFactory, KeyedBackend, LocalFile, OpenBackend, VisitEntry, WriteBatch},
    error::StateError,
    local::link_or_copy,
};

/// Batches with so many bytes become files of their own.
const INGEST_BYTES: usize = 256 << 10;
/// Keys that are looked up at once; their values are pinned meanwhile.
const GET_AT_ONCE: usize = 1024;
const FILTER_BITS_A_KEY: f64 = 10.0;
/// Small, since most reads are of single rows from anywhere, and each unpacks a block.
const BLOCK_BYTES: usize = 4 << 10;
const WRITE_BUFFER_BYTES: usize = 8 << 20;
const FILE_BYTES: u64 = 32 << 20;
/// Sorted runs that there may be before some are merged. Each costs a look into its filter for every key that is looked up.
const RUNS: i32 = 4;
/// Runs are merged with the next older one while together they are this much larger than it, or less.
const RUN_RATIO_PERCENT: i32 = 10;
/// All is merged into one run when the others have this part of the oldest one's bytes: what is replaced or deleted takes no
/// more room than what is not, and a key is rewritten about half as often as with levels.
const RUNS_PERCENT: i32 = 100;
/// The manifest is uploaded with each checkpoint, so a new one is begun early.
const MANIFEST_BYTES: usize = 256 << 10;
const BACKGROUND_JOBS: i32 = 2;
const FAMILY: &str = "default";

/// The backend `rocksdb`. Options: `compression` (`lz4`, `none`), `block-size` (bytes), `background-jobs`.
#[derive(Clone, Copy, Debug)]
pub struct RocksFactory;

struct Settings {
    compression: DBCompressionType,
    block_bytes: usize,
    background_jobs: i32,
}

impl Settings {
    fn of(open: &OpenBackend) -> Result<Self, StateError> {
        fn number<T: FromStr>(name: &str, value: &str) -> Result<T, StateError> {
            value
                .parse()
                .map_err(|_| StateError::mismatch(format!("option {name:?} of rocksdb: {value:?} is no such number")))
        }
        let mut settings =
            Self { compression: DBCompressionType::Lz4, block_bytes: BLOCK_BYTES, background_jobs: BACKGROUND_JOBS };
        for (name, value) in &open.options {
            match (name.as_str(), value.as_str()) {
                ("compression", "lz4") => settings.compression = DBCompressionType::Lz4,
                ("compression", "none") => settings.compression = DBCompressionType::None,
                ("compression", _) => {
                    return Err(StateError::mismatch(format!(
                        "option \"compression\" of rocksdb is lz4 or none, not {value:?}"
                    )));
                }
                ("block-size", value) => settings.block_bytes = number(name, value)?,
                ("background-jobs", value) => settings.background_jobs = number(name, value)?,
                _ => {
                    return Err(StateError::mismatch(format!(
                        "state backend rocksdb has no option {name:?}; it has compression, block-size and background-jobs"
                    )));
                }
            }
        }
        Ok(settings)
    }

    fn options(&self, open: &OpenBackend) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(open.memory.block_cache());
        table.set_block_size(self.block_bytes);
        table.set_bloom_filter(FILTER_BITS_A_KEY, false);
        table.set_optimize_filters_for_memory(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(6);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_manager(open.memory.write_buffers());
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_compression_type(self.compression);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_max_background_jobs(self.background_jobs);
        let mut runs = UniversalCompactOptions::default();
        runs.set_max_size_amplification_percent(RUNS_PERCENT);
        runs.set_size_ratio(RUN_RATIO_PERCENT);
        runs.set_min_merge_width(2);
        options.set_compaction_style(DBCompactionStyle::Universal);
        options.set_universal_compaction_options(&runs);
        options.set_level_zero_file_num_compaction_trigger(RUNS);
        options.set_max_manifest_file_size(MANIFEST_BYTES);
        options.set_stats_dump_period_sec(0);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(1);
        options.set_max_log_file_size(1 << 20);
        options
    }
}

impl BackendFactory for RocksFactory {
    fn open(&self, open: OpenBackend) -> Result<Arc<dyn KeyedBackend>, StateError> {
        let options = Settings::of(&open)?.options(&open);
        let dir = open.dir.join("db");
        fs::create_dir_all(&dir).map_err(StateError::file("making the folder", &dir))?;
        if let Some(from) = &open.restore_dir {
            link_files(from, &dir)?;
        }
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let db = DB::open_cf_descriptors(&options, &dir, [family]).map_err(|error| failed("opening", &dir, error))?;
        Ok(Arc::new(RocksBackend { db, dir, ingest_dir: open.dir, options, next: AtomicU64::new(0) }))
    }

    fn format(&self) -> &'static str {
        "rocksdb"
    }
}

/// Sorted files never change and are linked; all others are the database's to change.
fn link_files(from: &Path, to: &Path) -> Result<(), StateError> {
    for name in names(from)? {
        if is_backend_file(&name) {
            link_or_copy(&from.join(&name), &to.join(&name), is_sorted_file(&name))?;
        }
    }
    Ok(())
}

fn is_sorted_file(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "sst")
}

fn is_backend_file(name: &str) -> bool {
    is_sorted_file(name) || name == "CURRENT" || name.starts_with("MANIFEST-") || name.starts_with("OPTIONS-")
}

fn names(dir: &Path) -> Result<Vec<String>, StateError> {
    let read = || {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<Vec<_>>>()
    };
    let mut names = read().map_err(StateError::file("listing", dir))?;
    names.sort();
    Ok(names)
}

fn failed(action: &str, dir: &Path, error: rocksdb::Error) -> StateError {
    let message = format!("{action} the RocksDB in {} failed", dir.display());
    let error_of = if error.kind() == ErrorKind::Corruption { StateError::corrupt } else { StateError::io };
    error_of(message).because(error)
}

struct RocksBackend {
    db: DB,
    dir: PathBuf,
    /// Files to be ingested are written here, on the database's filesystem.
    ingest_dir: PathBuf,
    options: Options,
    next: AtomicU64,
}

impl RocksBackend {
    fn write_buffered(&self, batch: &WriteBatch) -> Result<(), rocksdb::Error> {
        let mut write = rocksdb::WriteBatch::default();
        for (from, to) in batch.ranges() {
            write.delete_range(from, to);
        }
        for (key, value) in batch.entries() {
            match value {
                Some(value) => write.put(key, value),
                None => write.delete(key),
            }
        }
        self.db.write_without_wal(write)
    }

    fn ingest(&self, batch: &WriteBatch) -> Result<(), rocksdb::Error> {
        let path = self.ingest_dir.join(format!("ingest-{}.sst", self.next.fetch_add(1, Ordering::Relaxed)));
        let mut writer = SstFileWriter::create(&self.options);
        writer.open(&path)?;
        for (from, to) in batch.ranges() {
            writer.delete_range(from, to)?;
        }
        for (key, value) in batch.entries() {
            match value {
                Some(value) => writer.put(key, value)?,
                None => writer.delete(key)?,
            }
        }
        writer.finish()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_opts(&options, vec![&path])
    }
}

impl KeyedBackend for RocksBackend {
    fn name(&self) -> &'static str {
        "rocksdb"
    }

    fn multi_get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), StateError> {
        let Some(family) = self.db.cf_handle(FAMILY) else {
            return Err(StateError::io(format!("the RocksDB in {} has no default column family", self.dir.display())));
        };
        for (chunk, keys) in keys.chunks(GET_AT_ONCE).enumerate() {
            let values = self.db.batched_multi_get_cf(&family, keys.iter().copied(), true);
            for (at, value) in values.into_iter().enumerate() {
                if let Some(value) = value.map_err(|error| failed("reading", &self.dir, error))? {
                    found(chunk * GET_AT_ONCE + at, &value);
                }
            }
        }
        Ok(())
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), StateError> {
        // Within one file a range delete would hide the file's own puts, so a batch with both is buffered.
        let ingest = batch.bytes() >= INGEST_BYTES && batch.ranges().len() == 0;
        let written = if ingest { self.ingest(batch) } else { self.write_buffered(batch) };
        written.map_err(|error| failed("writing to", &self.dir, error))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.fill_cache(false);
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|error| failed("scanning", &self.dir, error))
    }

    fn snapshot(&self, dir: &Path) -> Result<Vec<LocalFile>, StateError> {
        let error = |error| failed("taking a snapshot of", &self.dir, error);
        self.db.flush().map_err(error)?;
        // RocksDB wants to make the folder by itself.
        fs::remove_dir(dir).map_err(StateError::file("removing", dir))?;
        Checkpoint::new(&self.db).map_err(error)?.create_checkpoint(dir).map_err(error)?;
        let mut files = Vec::new();
        for name in names(dir)? {
            let path = dir.join(&name);
            let length = fs::metadata(&path).map_err(StateError::file("reading", &path))?.len();
            if is_backend_file(&name) {
                files.push(LocalFile { immutable: is_sorted_file(&name), name, length });
            } else if length == 0 {
                // A write-ahead log that nothing was written to.
                fs::remove_file(&path).map_err(StateError::file("removing", &path))?;
            } else {
                return Err(StateError::io(format!("RocksDB put {name} into a snapshot, which cannot be restored")));
            }
        }
        Ok(files)
    }

    fn bytes(&self) -> u64 {
        let property = |name| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property(rocksdb::properties::LIVE_SST_FILES_SIZE) + property(rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES)
    }
}

impl Drop for RocksBackend {
    fn drop(&mut self) {
        self.db.cancel_all_background_work(true);
    }
}
