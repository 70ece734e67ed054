//! From the text of `'path'` to files: local ones by bare path or `file://`, objects by `s3://`.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use object_store::path::Path as ObjectPath;
use url::Url;
use weir_engine::api::error::SourceError;

use super::bucket::Bucket;
use super::closed::{Closed, normal};
use super::input::Input;
use super::paths::{LocationError, is_hidden};

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

impl Location {
    /// A bare path is taken from `base_dir`. Nothing is touched yet.
    pub(super) fn parse(text: &str, base_dir: &Path, s3: S3Options<'_>) -> Result<Self, LocationError> {
        if text.is_empty() || text.contains('\0') {
            return Err(LocationError::Form);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Local(absolute(&base_dir.join(text))));
        };
        match scheme {
            "file" => {
                let url = Url::parse(text).map_err(|_| LocationError::Form)?;
                Ok(Self::Local(absolute(&url.to_file_path().map_err(|()| LocationError::Form)?)))
            }
            // Not as a URL, in which # ? and % mean something: in keys they are characters like others.
            "s3" | "s3a" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Self::Remote(Bucket::open(bucket, prefix, s3.endpoint, s3.region)?))
            }
            _ => Err(LocationError::Form),
        }
    }

    /// The files at this place in a fixed order: itself if it is one, else all in the folder and below, sorted, without
    /// those that are unfinished by their name.
    pub(super) fn files(&self, closed: &Closed) -> Result<Vec<Input>, SourceError> {
        match self {
            Self::Local(path) => local_files(path, closed),
            Self::Remote(bucket) => bucket.files(),
        }
    }

    /// The location of one of [`Location::files`], as a position names it.
    pub(super) fn file(&self, name: &str) -> Result<Self, SourceError> {
        if let Self::Remote(bucket) = self
            && let Some(key) = name.strip_prefix(&bucket.url())
        {
            // A key as it is: what would be encoded here is encoded once more for the request, and names another object.
            let path = ObjectPath::parse(key).map_err(|error| {
                SourceError::bad_input(format!("{name} is no name of an object that can be read; rename it"))
                    .because(error)
            })?;
            return Ok(Self::Remote(Bucket { path, ..bucket.clone() }));
        }
        Ok(Self::Local(PathBuf::from(name)))
    }

    /// Whether the files of a folder that is written are among those that are read here.
    pub(super) fn reads(&self, folder: &Self) -> bool {
        let below: Vec<String> = match (self, folder) {
            (Self::Local(here), Self::Local(folder)) => match normal(folder).strip_prefix(normal(here)) {
                Ok(below) => below.iter().map(|part| part.to_string_lossy().into_owned()).collect(),
                Err(_) => return false,
            },
            (Self::Remote(here), Self::Remote(folder)) if here.place == folder.place => {
                match folder.path.prefix_match(&here.path) {
                    Some(below) => below.map(|part| part.as_ref().to_string()).collect(),
                    None => return false,
                }
            }
            _ => return false,
        };
        !below.iter().any(|part| is_hidden(part))
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn local_files(path: &Path, closed: &Closed) -> Result<Vec<Input>, SourceError> {
    let mut files = Vec::new();
    let mut folders = vec![(path.to_path_buf(), 0)];
    let metadata = closed.open(path)?.metadata().map_err(|error| cannot("read", path, error))?;
    if !metadata.is_dir() {
        let file = File::open(closed.open(path)?).map_err(|error| cannot("open", path, error))?;
        regular(path, &file.metadata().map_err(|error| cannot("read", path, error))?)?;
        folders.clear();
        files.push((path.to_path_buf(), metadata));
    }
    while let Some((folder, depth)) = folders.pop() {
        for entry in closed.open(&folder)?.read_dir().map_err(|error| cannot("list", &folder, error))? {
            let entry = entry.map_err(|error| cannot("list", &folder, error))?;
            if is_hidden(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = folder.join(entry.file_name());
            let metadata = path.metadata().map_err(|error| cannot("read", &path, error))?;
            if metadata.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if metadata.is_file() {
                files.push((path, metadata));
            }
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
        .into_iter()
        .map(|(file, metadata)| match file.into_os_string().into_string() {
            Ok(name) => Ok(Input::local(name, &metadata)),
            Err(name) => Err(SourceError::bad_input(format!("the name of {} is not UTF-8; rename it", name.display()))),
        })
        .collect()
}

fn cannot(what: &str, path: &Path, error: io::Error) -> SourceError {
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no input file or folder {}", path.display()),
        _ => format!("cannot {what} {}", path.display()),
    };
    SourceError::bad_input(message).because(error)
}

/// A pipe or a device gives other bytes when it is read again.
pub(super) fn regular(path: &Path, metadata: &Metadata) -> Result<(), SourceError> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(SourceError::bad_input(format!(
        "{} is no file that can be read again after a failure; put what it gives into one",
        path.display()
    )))
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
        let files = Location::Local(folder.path().to_path_buf()).files(&Closed::default()).unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.name.strip_prefix(folder.path().to_str().unwrap()).unwrap()).collect();
        assert_eq!(names, ["/a.csv", "/b/a.csv", "/c.csv"]);
        assert!(files.iter().all(|file| file.bytes == Some(2)));
    }

    #[test]
    fn a_folder_with_a_link_out_of_bounds_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self", folder.path().join("link")).unwrap();
        let error = Location::Local(folder.path().to_path_buf()).files(&Closed::default()).unwrap_err();
        assert!(error.to_string().contains("is in /proc, which no table reaches"), "{error}");
        let error = Location::Local("/dev/null".into()).files(&Closed::default()).unwrap_err();
        assert!(error.to_string().contains("/dev/null is no file that can be read again"), "{error}");
    }

    #[test]
    fn a_key_is_taken_as_it_is_written() {
        for (text, key) in [
            ("s3://data/in/ts=2024-01-01 00%3A00%3A00/", "in/ts=2024-01-01 00%3A00%3A00"),
            ("s3a://data/a#b?c~[d]{e}^|", "a#b?c~[d]{e}^|"),
            ("s3://data", ""),
        ] {
            let Ok(Location::Remote(bucket)) = Location::parse(text, Path::new("/"), S3Options::default()) else {
                panic!("{text}");
            };
            assert_eq!((bucket.place.bucket.as_str(), bucket.path.as_ref()), ("data", key), "{text}");
            let below = format!("{key}/100%.csv");
            let below = below.trim_start_matches('/');
            let file = Location::Remote(bucket).file(&format!("s3://data/{below}")).unwrap();
            let Location::Remote(file) = file else { panic!("{text}") };
            assert_eq!(file.path.as_ref(), below);
        }
    }

    #[test]
    fn a_folder_reads_what_is_written_below_it_and_under_no_hidden_name() {
        let reads = |source: &str, sink: &str| {
            let at = |text: &str| Location::parse(text, Path::new("/base"), S3Options::default()).unwrap();
            at(source).reads(&at(sink))
        };
        for (source, sink) in [("in", "in"), ("in/", "./in/x/../y"), ("s3://b/in", "s3://b/in"), ("s3://b", "s3://b/x")]
        {
            assert!(reads(source, sink), "{source} {sink}");
        }
        for (source, sink) in [
            ("in", "out"),
            ("in/more", "in"),
            ("in/a.csv", "in"),
            ("in", "input"),
            ("in", "in/_work/out"),
            ("s3://b/in", "s3://c/in"),
            ("s3://b/in", "s3://b/input"),
        ] {
            assert!(!reads(source, sink), "{source} {sink}");
        }
    }
}
