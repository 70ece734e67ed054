//! From the text of `'path'` to files: local ones by bare path or `file://`, objects by `s3://`.

use std::io;
use std::path::{Path, PathBuf};

use object_store::path::Path as ObjectPath;
use url::Url;
use weir_engine::api::error::SourceError;

use super::bucket::Bucket;

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

/// How a bucket is reached, where the environment does not say so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct S3Options<'a> {
    pub(super) endpoint: Option<&'a str>,
    pub(super) region: Option<&'a str>,
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
    pub(super) fn parse(text: &str, base_dir: &Path, s3: S3Options<'_>) -> Result<Self, LocationError> {
        if text.is_empty() || text.contains('\0') {
            return Err(LocationError::Form);
        }
        if !text.contains("://") {
            return Ok(Self::Local(absolute(&base_dir.join(text))));
        }
        let url = Url::parse(text).map_err(|_| LocationError::Form)?;
        match url.scheme() {
            "file" => Ok(Self::Local(absolute(&url.to_file_path().map_err(|()| LocationError::Form)?))),
            "s3" | "s3a" => Ok(Self::Remote(Bucket::open(&url, s3.endpoint, s3.region)?)),
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
        if let Self::Remote(bucket) = self
            && let Some(key) = name.strip_prefix(&bucket.url())
        {
            let path = ObjectPath::from(key.trim_start_matches('/'));
            return Self::Remote(Bucket { path, ..bucket.clone() });
        }
        Self::Local(PathBuf::from(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str, base: &str) -> Option<PathBuf> {
        match Location::parse(text, Path::new(base), S3Options::default()) {
            Ok(Location::Local(path)) => Some(path),
            _ => None,
        }
    }

    #[test]
    fn bare_paths_are_taken_from_the_base_and_urls_are_not() {
        assert_eq!(local("in/a.csv", "/base"), Some("/base/in/a.csv".into()));
        assert_eq!(local("/in/a.csv", "/base"), Some("/in/a.csv".into()));
        assert_eq!(local("file:///in/a%20b.csv", "/base"), Some("/in/a b.csv".into()));
        for text in ["ftp://host/file", "s3:///key", ""] {
            let parsed = Location::parse(text, Path::new("/"), S3Options::default());
            assert!(matches!(parsed, Err(LocationError::Form)), "{text}");
        }
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
}
