//! From settings to a store: `file://` and `s3://`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path as ObjectPath,
};
use url::Url;
use weir_protocol::{JobName, settings::StorageSettings};

use crate::{Access, JobStore, Memory, Origin, S3Keys, StorageError, durable::DurableFolder, guard::Guarded};

/// What may say where the S3 endpoint is, where the settings do not: the names that AWS's own tools read.
const ENDPOINT: AmazonS3ConfigKey = AmazonS3ConfigKey::Endpoint;

/// No request is repeated by the client itself.
const NEVER: RetryConfig = RetryConfig { backoff: NO_BACKOFF, max_retries: 0, retry_timeout: Duration::ZERO };
/// Without retries there is nothing to wait for.
const NO_BACKOFF: BackoffConfig =
    BackoffConfig { init_backoff: Duration::ZERO, max_backoff: Duration::ZERO, base: 2.0 };

/// A bucket's client. Without keys the environment is asked for them, and for what the settings leave open; with keys it
/// is not, so that one process can serve many jobs. An endpoint that says `http://` is meant so.
pub fn bucket(
    name: &str,
    endpoint: Option<&str>,
    region: Option<&str>,
    keys: Option<&S3Keys>,
) -> Result<AmazonS3, object_store::Error> {
    builder(name, endpoint, region, keys).build()
}

fn builder(name: &str, endpoint: Option<&str>, region: Option<&str>, keys: Option<&S3Keys>) -> AmazonS3Builder {
    let mut builder = match keys {
        None => AmazonS3Builder::from_env(),
        Some(keys) => {
            let builder = AmazonS3Builder::new()
                .with_access_key_id(&keys.access_key_id)
                .with_secret_access_key(&keys.secret_access_key);
            match &keys.session_token {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
    };
    builder = builder.with_bucket_name(name);
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if builder.get_config_value(&ENDPOINT).is_some_and(|endpoint| endpoint.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    builder.with_http_connector(Guarded)
}

pub fn open(settings: &StorageSettings, job: &JobName, keys: Option<&S3Keys>) -> Result<JobStore, StorageError> {
    for piece in [&job.namespace, &job.name] {
        if piece.is_empty() || piece.contains('/') || piece == "." || piece == ".." {
            let message = format!("{piece:?} cannot be a folder in it");
            return Err(StorageError::Settings { url: settings.url.clone(), message });
        }
    }
    open_below(settings, &[&job.namespace, &job.name], keys, true)
}

/// Exactly the place that the settings name. `create`: a folder that is missing is made, and tried for writing.
pub fn open_place(settings: &StorageSettings, keys: Option<&S3Keys>, create: bool) -> Result<JobStore, StorageError> {
    open_below(settings, &[], keys, create)
}

fn open_below(
    settings: &StorageSettings,
    below: &[&str],
    keys: Option<&S3Keys>,
    create: bool,
) -> Result<JobStore, StorageError> {
    let refuse = |message: String| StorageError::Settings { url: settings.url.clone(), message };
    let url = Url::parse(&settings.url)
        .map_err(|error| refuse(format!("not a URL ({error}); write file:///folder or s3://bucket/prefix")))?;
    let origin = Origin::Opened(Arc::new(Access { settings: settings.clone(), keys: keys.cloned() }));
    match url.scheme() {
        "file" => {
            let root = url.to_file_path().map_err(|()| refuse("a file URL needs an absolute path".into()))?;
            let folder = below.iter().fold(root.clone(), |folder, piece| folder.join(piece));
            if create {
                try_writing(&folder).map_err(|error| {
                    refuse(format!(
                        "{} cannot be written: {error}; choose another folder or mend its permissions",
                        root.display()
                    ))
                })?;
            } else if !folder.is_dir() {
                return Err(refuse(format!("there is no folder {}", folder.display())));
            }
            let store = DurableFolder::new(&folder).map_err(|error| refuse(error.to_string()))?;
            let name = format!("file://{}", folder.display()).into();
            let (store, folder): (Arc<dyn ObjectStore>, _) = (Arc::new(store), Some(Arc::new(folder)));
            let (once, prefix) = (Arc::clone(&store), ObjectPath::default());
            Ok(JobStore { once, store, prefix, name, folder, memory: Memory::default(), origin })
        }
        "s3" => {
            let bucket = url.host_str().ok_or_else(|| refuse("the bucket is missing: s3://bucket/prefix".into()))?;
            let builder = builder(bucket, settings.endpoint.as_deref(), settings.region.as_deref(), keys);
            let client = |builder: AmazonS3Builder| builder.build().map_err(|error| refuse(error.to_string()));
            let store: Arc<dyn ObjectStore> = Arc::new(client(builder.clone())?);
            let once: Arc<dyn ObjectStore> = Arc::new(client(builder.with_retry(NEVER))?);
            let top = ObjectPath::from(url.path().trim_matches('/'));
            let prefix = below.iter().fold(top, |prefix, piece| prefix.join(*piece));
            let name = format!("s3://{bucket}/{prefix}").into();
            Ok(JobStore { store, once, prefix, name, folder: None, memory: Memory::default(), origin })
        }
        other => Err(refuse(format!("{other}:// is not supported; write file:///folder or s3://bucket/prefix"))),
    }
}

/// Both are of one bucket at one endpoint, so that it copies by itself.
pub fn same_bucket(one: &StorageSettings, other: &StorageSettings) -> bool {
    let bucket = |settings: &StorageSettings| {
        let url = Url::parse(&settings.url).ok().filter(|url| url.scheme() == "s3");
        url.and_then(|url| url.host_str().map(str::to_string))
    };
    let (here, there) = (bucket(one), bucket(other));
    here.is_some() && here == there && one.endpoint == other.endpoint && one.region == other.region
}

/// Creates the folder and a file in it, so that a read-only or full disk is told before work starts.
fn try_writing(folder: &PathBuf) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let probe = folder.join(format!(".probe-{}", rand::random::<u64>()));
    std::fs::write(&probe, b"weir")?;
    std::fs::remove_file(&probe)
}
