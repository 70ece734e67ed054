//! Where a worker listens: at an address, for others in a cluster; or at a socket in a file, for its own user on one machine.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use tokio::net::{TcpListener, UnixListener};

/// Begins the address of a socket in a file: `unix:/run/user/1000/worker`.
pub const UNIX: &str = "unix:";

/// What takes connections.
pub enum Listener {
    /// Of whoever reaches an address. Who they are is for TLS to say.
    Tcp(TcpListener),
    /// Of this machine's processes.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// The user whose it is, and the only one who may connect.
        owner: u32,
    },
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Listens at an address with a port, or at `unix:` and a path.
    pub async fn bind(address: &str) -> io::Result<Self> {
        match address.strip_prefix(UNIX) {
            None => TcpListener::bind(address).await.map(Self::Tcp),
            Some(path) => Self::unix(Path::new(path)),
        }
    }

    /// Listens at the socket of this path. Its folder is made, for its user alone; one that is there has the rights that somebody has
    /// given it, and who connects is looked at in any case.
    pub fn unix(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let listener = UnixListener::bind(path)?;
        Ok(Self::Unix { listener, owner: fs::metadata(path)?.uid() })
    }

    /// The address that was got.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix { listener, .. } => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().ok_or_else(|| io::Error::other("the socket has no path"))?;
                Ok(format!("{UNIX}{}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_in_a_folder_that_only_its_user_enters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/socket");
        let address = format!("{UNIX}{}", path.display());
        let listener = Listener::bind(&address).await.unwrap();
        assert_eq!(listener.address().unwrap(), address);
        let mode = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(Listener::bind(&address).await.is_err(), "somebody listens there");
        let tcp = Listener::bind("127.0.0.1:0").await.unwrap();
        assert!(tcp.address().unwrap().starts_with("127.0.0.1:"));
    }
}
