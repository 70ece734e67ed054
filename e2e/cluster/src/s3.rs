//! What stands in storage, read from outside the cluster by MinIO's node port.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, path::Path};

use crate::wait::answered;

/// The only bucket.
pub const BUCKET: &str = "weir";
pub const USER: &str = "weir-e2e";
/// Nothing else may hold this text: a case looks for it in logs, status and arguments.
pub const PASSWORD: &str = "correct-horse-battery-staple";
/// MinIO's node port.
pub const PORT: u16 = 30900;

/// The bucket as the cases see it.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
}

impl Bucket {
    pub fn at(node: &str) -> Self {
        let store = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_endpoint(format!("http://{node}:{PORT}"))
            .with_allow_http(true)
            .with_access_key_id(USER)
            .with_secret_access_key(PASSWORD)
            .build()
            .expect("the client is made");
        Self { store: Arc::new(store) }
    }

    /// Its client.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// All objects below a prefix, in order.
    pub async fn list(&self, prefix: &str) -> Vec<String> {
        answered(&format!("listing {prefix}"), || self.try_list(prefix)).await
    }

    /// The same, where storage may be away.
    pub async fn try_list(&self, prefix: &str) -> object_store::Result<Vec<String>> {
        let found = self.store.list(Some(&Path::from(prefix))).map_ok(|object| object.location.to_string());
        let mut found: Vec<String> = found.try_collect().await?;
        found.sort();
        Ok(found)
    }

    /// An object's bytes; none where there is no such object.
    pub async fn get(&self, path: &str) -> Option<Vec<u8>> {
        let location = Path::from(path);
        answered(&format!("reading {path}"), || async {
            match self.store.get(&location).await {
                Ok(answer) => Ok(Some(answer.bytes().await?.to_vec())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The objects below a prefix that readers of tables see, in order.
    pub async fn published(&self, prefix: &str) -> Vec<String> {
        let mut found = self.list(prefix).await;
        found.retain(|path| !path.split('/').any(|part| part.starts_with(['.', '_'])));
        found
    }

    /// All lines of all output files below a prefix.
    pub async fn lines(&self, prefix: &str) -> Vec<String> {
        self.lines_of(&self.published(prefix).await).await
    }

    /// All lines of these files.
    pub async fn lines_of(&self, paths: &[String]) -> Vec<String> {
        let mut lines = Vec::new();
        for path in paths {
            let text =
                String::from_utf8(self.get(path).await.expect("a listed object is read")).expect("output is text");
            assert!(text.is_empty() || text.ends_with('\n'), "{path} ends within a line");
            lines.extend(text.lines().map(str::to_string));
        }
        lines
    }
}
