//! How another process asks a run on this machine for something: by a file in the state folder, which the run takes away. What has come
//! of it stands in the events' file. Whoever may write into the folder may ask.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{StateDir, observer::EVENTS_FILE};

/// The folder of what is asked.
const ASKED: &str = "asked";
/// How names of files begin that ask for a checkpoint; the rest of the name is the value that the answer bears.
const CHECKPOINT: &str = "checkpoint-";

impl StateDir {
    /// Nothing is asked of a run that has just begun: whoever asked one before has seen its end.
    pub(super) fn open_for_asking(&self) -> io::Result<()> {
        let folder = self.path.join(ASKED);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        DirBuilder::new().mode(0o700).create(folder)
    }

    /// The checkpoints that are asked for. Each is given once.
    pub fn asked_checkpoints(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path.join(ASKED)) else { return Vec::new() };
        let value = |entry: fs::DirEntry| {
            let value = entry.file_name().to_str()?.strip_prefix(CHECKPOINT)?.to_string();
            fs::remove_file(entry.path()).ok()?;
            Some(value)
        };
        entries.flatten().filter_map(value).collect()
    }
}

/// One question to a run, and where its answer will stand.
#[derive(Debug)]
pub struct Asking {
    folder: PathBuf,
    value: String,
    /// The events' file up to here is read, or of before.
    read: u64,
}

impl Asking {
    /// Asks the run in this folder for a checkpoint; none where nobody runs there.
    pub fn checkpoint(folder: &Path) -> io::Result<Option<Self>> {
        if !is_locked(folder)? {
            return Ok(None);
        }
        let read = match fs::metadata(folder.join(EVENTS_FILE)) {
            Ok(events) => events.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let value = uuid::Uuid::new_v4().to_string();
        File::create(folder.join(ASKED).join(format!("{CHECKPOINT}{value}")))?;
        Ok(Some(Self { folder: folder.to_path_buf(), value, read }))
    }

    /// What the answer bears.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Somebody runs there still.
    pub fn is_heard(&self) -> io::Result<bool> {
        is_locked(&self.folder)
    }

    /// What the run has said since it was last looked: the names of events, and their facts.
    pub fn said(&mut self) -> io::Result<Vec<(String, Value)>> {
        let mut file = match File::open(self.folder.join(EVENTS_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A line may be half written yet.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.read += bytes.len() as u64;
        let event = |line: &[u8]| {
            let mut line: Value = serde_json::from_slice(line).ok()?;
            Some((line["event"].as_str()?.to_string(), line["facts"].take()))
        };
        Ok(bytes.split(|byte| *byte == b'\n').filter_map(event).collect())
    }
}

/// Somebody works in the folder.
fn is_locked(folder: &Path) -> io::Result<bool> {
    let file = match File::open(folder.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_asked_is_given_once_and_answered_by_its_value() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Asking::checkpoint(folder.path()).unwrap().is_none(), "nobody was ever here");
        let run = StateDir::open(folder.path()).unwrap();
        let events = folder.path().join(EVENTS_FILE);
        fs::write(&events, "{\"event\":\"requested\",\"facts\":{\"value\":\"old\"}}\n").unwrap();
        let mut asking = Asking::checkpoint(folder.path()).unwrap().unwrap();
        assert_eq!(run.asked_checkpoints(), [asking.value()]);
        assert!(run.asked_checkpoints().is_empty());
        assert!(asking.said().unwrap().is_empty(), "what was said before is not for it");
        let mut file = File::options().append(true).open(&events).unwrap();
        file.write_all(b"{\"event\":\"requested\",\"facts\":{\"va").unwrap();
        assert!(asking.said().unwrap().is_empty(), "half a line");
        file.write_all(b"lue\":1}}\n").unwrap();
        let said = asking.said().unwrap();
        assert_eq!(said, [("requested".to_string(), serde_json::json!({"value": 1}))]);
        assert!(asking.said().unwrap().is_empty() && asking.is_heard().unwrap());
        drop(run);
        assert!(!asking.is_heard().unwrap() && Asking::checkpoint(folder.path()).unwrap().is_none());
    }

    #[test]
    fn a_run_hears_nothing_of_what_was_asked_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();
        Asking::checkpoint(folder.path()).unwrap().unwrap();
        drop(first);
        assert!(StateDir::open(folder.path()).unwrap().asked_checkpoints().is_empty());
    }
}
