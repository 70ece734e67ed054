//! The folder that one `weir run` works in: a lock, the owner's uid, logs, the workers' local files, the last status.
//!
//! Nothing in here is needed to go on: checkpoints stand in the job's storage. Losing the folder loses only the uid, and with
//! it the right to take the job up without `--restore previous`.

mod asking;
mod observer;

pub use asking::Asking;
pub use observer::{HISTORY_FILE, LocalObserver, RESTORED_FILE, STATUS_FILE};

use std::{
    env,
    fs::{self, DirBuilder, File, TryLockError},
    io::{Read, Seek, Write},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why the state folder cannot be worked in.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// The lock is held.
    #[error(
        "another `weir run` (pid {pid}) works in {path}; stop it first, or give this one a folder of its own with --state-dir"
    )]
    Locked {
        /// The folder.
        path: String,
        /// Who holds it.
        pid: String,
    },
    /// It cannot be written.
    #[error("the state folder {path} cannot be used: {source}; mend its permissions, or name another with --state-dir")]
    Io {
        /// The folder or file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The longest path that the address of a socket has room for, with the zero at its end.
const SOCKET_PATH: usize = 108;

/// Where a job works when nothing else is said.
pub fn default_state_dir(namespace: &str, name: &str) -> PathBuf {
    Path::new(".weir").join(format!("{namespace}-{name}"))
}

/// The folder, locked until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    owner: String,
    /// Where the sockets of workers are, where their own folders have too long names.
    sockets: Option<PathBuf>,
    /// The kernel frees the lock with the file. Children do not inherit it.
    _lock: File,
}

impl StateDir {
    /// Creates the folder where needed, and locks it.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let failed = |source| StateDirError::Io { path: path.display().to_string(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let lock = lock(&path)?;
        let owner = owner(&path).map_err(failed)?;
        let workers = path.join("workers");
        // Left over from processes that are gone: local state is only a copy, and each process has a folder of its own.
        if workers.exists() {
            fs::remove_dir_all(&workers).map_err(failed)?;
        }
        // For nobody else: whoever reaches a worker's socket could tell it what to run.
        DirBuilder::new().mode(0o700).create(&workers).map_err(failed)?;
        fs::create_dir_all(path.join("logs")).map_err(failed)?;
        let mut state_dir = Self { path, owner, sockets: None, _lock: lock };
        state_dir.open_for_asking().map_err(failed)?;
        if state_dir.socket(u64::MAX).as_os_str().as_bytes().len() >= SOCKET_PATH {
            let sockets = env::temp_dir().join(format!("weir-{}", uuid::Uuid::new_v4().simple()));
            let failed = |source| StateDirError::Io { path: sockets.display().to_string(), source };
            DirBuilder::new().mode(0o700).create(&sockets).map_err(failed)?;
            state_dir.sockets = Some(sockets);
        }
        Ok(state_dir)
    }

    /// Some process works in this folder. Touches nothing.
    pub fn is_worked_in(path: &Path) -> bool {
        let Ok(lock) = File::open(path.join("lock")) else { return false };
        matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The uid that this folder gives its jobs, made once.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Where the n-th worker process keeps its local files.
    pub fn worker(&self, number: u64) -> PathBuf {
        self.path.join("workers").join(number.to_string())
    }

    /// Where the n-th worker process listens, in a folder that only this user can enter.
    pub fn socket(&self, number: u64) -> PathBuf {
        match &self.sockets {
            Some(sockets) => sockets.join(number.to_string()),
            None => self.worker(number).join("socket"),
        }
    }

    /// Where the n-th worker process logs.
    pub fn log(&self, number: u64) -> PathBuf {
        self.path.join("logs").join(format!("worker-{number}.log"))
    }

    /// Replaces a small file as a whole, so that a reader sees the old or the new one.
    pub fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let staged = self.path.join(format!(".{name}"));
        fs::write(&staged, bytes)?;
        fs::rename(staged, self.path.join(name))
    }

    /// Reads a small file; `None` if there is none.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name)).ok()
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Some(sockets) = &self.sockets {
            // It is empty of all but names; what cannot be removed is for whoever tidies the folder of temporary files.
            let _ = fs::remove_dir_all(sockets);
        }
    }
}

fn lock(path: &Path) -> Result<File, StateDirError> {
    let name = path.join("lock");
    let failed = |source| StateDirError::Io { path: name.display().to_string(), source };
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_string() } else { pid.trim().to_string() };
            return Err(StateDirError::Locked { path: path.display().to_string(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
    Ok(file)
}

fn owner(path: &Path) -> std::io::Result<String> {
    let name = path.join("owner");
    match fs::read_to_string(&name) {
        Ok(uid) if !uid.trim().is_empty() => return Ok(uid.trim().to_string()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let staged = path.join(".owner");
    let mut file = File::create(&staged)?;
    file.write_all(uid.as_bytes())?;
    file.sync_all()?;
    fs::rename(staged, name)?;
    File::open(path)?.sync_all()?;
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_told_the_pid_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!StateDir::is_worked_in(folder.path()));
        let first = StateDir::open(folder.path()).unwrap();
        assert!(StateDir::is_worked_in(folder.path()));
        let message = StateDir::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
        drop(first);
        assert!(!StateDir::is_worked_in(folder.path()));
        StateDir::open(folder.path()).unwrap();
    }

    #[test]
    fn sockets_are_where_only_their_user_comes_and_their_paths_fit() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(60)).join("y".repeat(60));
        let mut kept = Vec::new();
        for path in [folder.path(), deep.as_path()] {
            let state_dir = StateDir::open(path).unwrap();
            let socket = state_dir.socket(3);
            fs::create_dir_all(state_dir.worker(3)).unwrap();
            std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let closed = |folder: &Path| fs::metadata(folder).unwrap().permissions().mode() & 0o777 == 0o700;
            assert!(socket.ancestors().skip(1).take(2).any(closed), "{}", socket.display());
            kept.push(socket);
        }
        assert!(
            kept[0].starts_with(fs::canonicalize(folder.path()).unwrap()),
            "beside the worker's files where that fits"
        );
        assert!(!kept[1].exists() && !kept[1].parent().unwrap().exists(), "it goes with the run");
    }

    #[test]
    fn the_uid_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let uid = StateDir::open(folder.path()).unwrap().owner().to_string();
        assert_eq!(StateDir::open(folder.path()).unwrap().owner(), uid);
    }
}
