//! From the text of `'path'` to files: local ones by bare path or `file://`, objects by `s3://`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;
use weir_engine::error::SourceError;

/// Folders are followed so deep, and no deeper: a link may lead back up.
const MAX_DEPTH: usize = 32;

/// Where a table's files are.
#[derive(Clone, Debug)]
pub(super) enum Location {
    /// A file or folder of this machine, absolute.
    Local(PathBuf),
    /// An object, or all objects below a prefix.
    Remote(Bucket),
}

/// A place in an object store.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    /// `s3://bucket`, to name objects with.
    pub(super) url: String,
    pub(super) path: ObjectPath,
}

/// What is wrong with a path.
#[derive(Debug)]
pub(super) enum LocationError {
    /// It does not have one of the forms that there are.
    Form,
    /// The store cannot be set up with what the environment says.
    Store(object_store::Error),
}

impl Location {
    /// A bare path is taken from `base_dir`. Nothing is touched yet.
    pub(super) fn parse(text: &str, base_dir: &Path) -> Result<Self, LocationError> {
        if text.is_empty() || text.contains('\0') {
            return Err(LocationError::Form);
        }
        if !text.contains("://") {
            return Ok(Self::Local(absolute(&base_dir.join(text))));
        }
        let url = Url::parse(text).map_err(|_| LocationError::Form)?;
        match url.scheme() {
            "file" => Ok(Self::Local(absolute(&url.to_file_path().map_err(|()| LocationError::Form)?))),
            "s3" | "s3a" => Ok(Self::Remote(Bucket::s3(&url)?)),
            _ => Err(LocationError::Form),
        }
    }

    /// The files at this place in a fixed order: itself if it is one, else all in the folder and below, sorted, without
    /// those that are unfinished by their name.
    pub(super) fn files(&self) -> Result<Vec<String>, SourceError> {
        match self {
            Self::Local(path) => local_files(path),
            Self::Remote(bucket) => bucket.files(),
        }
    }

    /// The location of one of [`Location::files`], as a position names it.
    pub(super) fn file(&self, name: &str) -> Self {
        match self {
            Self::Remote(bucket) => match name.strip_prefix(&bucket.url) {
                Some(key) => {
                    Self::Remote(Bucket { path: ObjectPath::from(key.trim_start_matches('/')), ..bucket.clone() })
                }
                None => Self::Local(PathBuf::from(name)),
            },
            Self::Local(_) => Self::Local(PathBuf::from(name)),
        }
    }
}

/// A name that readers take for unfinished, as Hadoop's and Flink's do.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn local_files(path: &Path) -> Result<Vec<String>, SourceError> {
    let cannot = |what: &str, path: &Path, error: io::Error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("there is no input file or folder {}", path.display()),
            _ => format!("cannot {what} {}", path.display()),
        };
        SourceError::bad_input(message).because(error)
    };
    let mut files = Vec::new();
    let mut folders = vec![(path.to_path_buf(), 0)];
    if !path.metadata().map_err(|error| cannot("read", path, error))?.is_dir() {
        std::fs::File::open(path).map_err(|error| cannot("open", path, error))?;
        folders.clear();
        files.push(path.to_path_buf());
    }
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| cannot("list", &folder, error))? {
            let entry = entry.map_err(|error| cannot("list", &folder, error))?;
            if is_hidden(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            let metadata = path.metadata().map_err(|error| cannot("read", &path, error))?;
            if metadata.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if metadata.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            file.into_os_string().into_string().map_err(|name| {
                SourceError::bad_input(format!("the name of {} is not UTF-8; rename it", name.display()))
            })
        })
        .collect()
}

impl Bucket {
    fn s3(url: &Url) -> Result<Self, LocationError> {
        let bucket = url.host_str().ok_or(LocationError::Form)?;
        let store = object_store::aws::AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .build()
            .map_err(LocationError::Store)?;
        let path = ObjectPath::from_url_path(url.path()).map_err(|_| LocationError::Form)?;
        Ok(Self { store: Arc::new(store), url: format!("s3://{bucket}"), path })
    }

    fn files(&self) -> Result<Vec<String>, SourceError> {
        let mut keys = off_runtime(async {
            if self.store.head(&self.path).await.is_ok() {
                return Ok(vec![self.path.clone()]);
            }
            self.store.list(Some(&self.path)).map_ok(|object| object.location).try_collect().await
        })
        .map_err(|error| SourceError::io(format!("cannot list {}/{}", self.url, self.path)).because(error))?;
        let below = self.path.parts().count();
        let single = keys.as_slice() == std::slice::from_ref(&self.path);
        keys.retain(|key| single || !key.parts().skip(below).any(|part| is_hidden(part.as_ref())));
        if keys.is_empty() {
            return Err(SourceError::bad_input(format!("there is no input object at {}/{}", self.url, self.path)));
        }
        keys.sort();
        Ok(keys.into_iter().map(|key| format!("{}/{key}", self.url)).collect())
    }
}

/// Wait for a future from a thread that may or may not be one of a runtime's own.
fn off_runtime<T: Send>(
    future: impl Future<Output = Result<T, object_store::Error>> + Send,
) -> Result<T, object_store::Error> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "S3", source };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| failed(Box::new(error)))?;
            runtime.block_on(future)
        });
        thread.join().unwrap_or_else(|_| Err(failed("the listing panicked".into())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str, base: &str) -> Option<PathBuf> {
        match Location::parse(text, Path::new(base)) {
            Ok(Location::Local(path)) => Some(path),
            _ => None,
        }
    }

    #[test]
    fn bare_paths_are_taken_from_the_base_and_urls_are_not() {
        assert_eq!(local("in/a.csv", "/base"), Some("/base/in/a.csv".into()));
        assert_eq!(local("/in/a.csv", "/base"), Some("/in/a.csv".into()));
        assert_eq!(local("file:///in/a%20b.csv", "/base"), Some("/in/a b.csv".into()));
        assert!(matches!(Location::parse("ftp://host/file", Path::new("/")), Err(LocationError::Form)));
        assert!(matches!(Location::parse("", Path::new("/")), Err(LocationError::Form)));
    }

    #[test]
    fn a_folder_is_listed_sorted_with_what_is_below_and_without_hidden_names() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/_temporary")).unwrap();
        for name in ["c.csv", "a.csv", ".d.csv", "_e.csv", "b/a.csv", "b/_temporary/x.csv"] {
            std::fs::write(folder.path().join(name), "1\n").unwrap();
        }
        let files = Location::Local(folder.path().to_path_buf()).files().unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.strip_prefix(folder.path().to_str().unwrap()).unwrap()).collect();
        assert_eq!(names, ["/a.csv", "/b/a.csv", "/c.csv"]);
    }

    #[test]
    fn objects_are_listed_like_files() {
        let store = Arc::new(object_store::memory::InMemory::new());
        for key in ["in/b.csv", "in/a.csv", "in/_x/c.csv", "in/.d", "other/e.csv"] {
            off_runtime(async { store.put(&ObjectPath::from(key), "1\n".into()).await.map(|_| ()) }).unwrap();
        }
        let at =
            |path: &str| Bucket { store: Arc::clone(&store) as _, url: "s3://data".to_string(), path: path.into() };
        assert_eq!(at("in").files().unwrap(), ["s3://data/in/a.csv", "s3://data/in/b.csv"]);
        assert_eq!(at("in/.d").files().unwrap(), ["s3://data/in/.d"]);
        let error = at("nothing").files().unwrap_err();
        assert!(error.to_string().contains("s3://data/nothing"), "{error}");
    }
}
