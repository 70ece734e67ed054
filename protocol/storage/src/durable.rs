//! A local folder as an object store that keeps its word after a power cut: bytes are on the disk before a name shows
//! them, and the name is on the disk before the write is answered.
//!
//! Reading, listing and deleting are `object_store`'s own local filesystem.

use std::{
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path as ObjectPath,
};

/// A durable local folder.
#[derive(Debug)]
pub struct DurableFolder {
    inner: LocalFileSystem,
    root: PathBuf,
}

impl DurableFolder {
    /// The folder must exist.
    pub fn new(root: &Path) -> Result<Self> {
        Ok(Self { inner: LocalFileSystem::new_with_prefix(root)?, root: root.to_path_buf() })
    }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.root.display())
    }
}

/// Writes to a new file beside `to`, syncs it, links it to `to` unless that exists, and syncs the folder.
fn link_into_place(to: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<u64>) -> io::Result<u64> {
    let folder = to.parent().ok_or_else(|| io::Error::other("an object needs a folder"))?;
    create_folders(folder)?;
    let staged = staged_name(to);
    let result: io::Result<u64> = (|| {
        let mut file = fs::File::create_new(&staged)?;
        let length = write(&mut file)?;
        file.sync_all()?;
        fs::hard_link(&staged, to)?;
        Ok(length)
    })();
    let _ = fs::remove_file(&staged);
    let length = result?;
    fs::File::open(folder)?.sync_all()?;
    Ok(length)
}

/// Copies a local file to a new name in the store, durably. An equal length under the name counts as done already.
pub fn copy_into_place(from: &Path, to: &Path) -> io::Result<u64> {
    let copied = link_into_place(to, |file| io::copy(&mut fs::File::open(from)?, file));
    match copied {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let (wanted, there) = (fs::metadata(from)?.len(), fs::metadata(to)?.len());
            if wanted == there { Ok(there) } else { Err(error) }
        }
        other => other,
    }
}

/// Gives a file that never changes a second name, durably: a link where the file system has that, else a copy.
pub fn share_into_place(from: &Path, to: &Path) -> io::Result<u64> {
    let folder = to.parent().ok_or_else(|| io::Error::other("an object needs a folder"))?;
    create_folders(folder)?;
    match fs::hard_link(from, to) {
        Ok(()) => {
            fs::File::open(folder)?.sync_all()?;
            Ok(fs::metadata(to)?.len())
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => Err(error),
        // Another file system, or one without links.
        Err(_) => link_into_place(to, |file| io::copy(&mut fs::File::open(from)?, file)),
    }
}

/// Creates the folders that are missing and makes each new name durable in its parent.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folders(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// `LocalFileSystem` hides names that end in `#<digits>` from listings; staged files use that.
pub fn staged_name(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_os_string();
    name.push(format!("#{}", rand::random::<u64>()));
    PathBuf::from(name)
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !matches!(options.mode, PutMode::Create) {
            return self.inner.put_opts(location, payload, options).await;
        }
        let to = self.inner.path_to_filesystem(location)?;
        let path = location.to_string();
        let written = tokio::task::spawn_blocking(move || {
            link_into_place(&to, |file| {
                let mut length = 0;
                for piece in &payload {
                    file.write_all(piece)?;
                    length += piece.len() as u64;
                }
                Ok(length)
            })
        })
        .await
        .map_err(|source| object_store::Error::JoinError { source })?;
        match written {
            Ok(_) => Ok(PutResult { e_tag: None, version: None }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(object_store::Error::AlreadyExists { path, source: error.into() })
            }
            Err(error) => Err(object_store::Error::Generic { store: "local folder", source: error.into() }),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
