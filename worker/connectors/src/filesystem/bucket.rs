//! Buckets: where one is, how its objects are listed, and how they are published.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use weir_engine::api::error::SourceError;

use super::input::Input;
use super::paths::{LocationError, is_hidden};

/// Which bucket, and how it is reached where the environment does not say so. Part of pending commits; no keys are in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    pub(super) bucket: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) region: Option<String>,
}

impl Place {
    /// Keys come from the environment. Nothing is asked of the server yet.
    pub(super) fn open(&self) -> Result<Objects, object_store::Error> {
        let client = weir_storage::bucket(&self.bucket, self.endpoint.as_deref(), self.region.as_deref(), None)?;
        Ok(Objects::new(client))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)
    }
}

/// The objects of a bucket, and uploads that are none yet. Clones are the same.
#[derive(Clone)]
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) uploads: Arc<dyn MultipartStore>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.store, f)
    }
}

/// What has become of an object that was to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It is there, by this call or an earlier one.
    There,
    /// It is under neither name.
    Gone,
}

impl Objects {
    pub(super) fn new(client: impl ObjectStore + MultipartStore) -> Self {
        let client = Arc::new(client);
        Self { store: Arc::clone(&client) as _, uploads: client }
    }

    /// Gives an object the name that readers see, by a copy, then an empty object as the mark that this was done, then a
    /// deletion. Each is done wholly or not at all, whoever hangs up or dies meanwhile, and a second time changes nothing: the
    /// mark is there. What has one is published, also where readers have taken it away since.
    pub(super) async fn publish(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        mark: &ObjectPath,
    ) -> Result<Published, object_store::Error> {
        match self.store.head(mark).await {
            Ok(_) => return self.remove(from).await,
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.store.copy(from, to).await {
            Ok(()) => {
                self.store.put(mark, PutPayload::new()).await?;
                self.remove(from).await
            }
            Err(error @ object_store::Error::NotFound { .. }) => match self.store.head(to).await {
                Ok(_) => Ok(Published::There),
                // The same is answered where there is no bucket; that is no state in which anything has been done.
                Err(object_store::Error::NotFound { .. }) => match self.store.list(Some(to)).try_next().await {
                    Ok(_) => Ok(Published::Gone),
                    Err(_) => Err(error),
                },
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, published: &ObjectPath) -> Result<Published, object_store::Error> {
        match self.store.delete(published).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(Published::There),
            Err(error) => Err(error),
        }
    }
}

/// A place in a bucket: an object, or all objects below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) place: Place,
    pub(super) objects: Objects,
    pub(super) path: ObjectPath,
}

impl Bucket {
    /// Where a path and a table's options point to. Nothing is asked of the server yet.
    pub(super) fn open(
        bucket: &str,
        prefix: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
    ) -> Result<Self, LocationError> {
        if bucket.is_empty() {
            return Err(LocationError::Form);
        }
        let bucket = bucket.to_string();
        let path = ObjectPath::parse(prefix).map_err(|_| LocationError::Form)?;
        let owned = |text: Option<&str>| text.map(str::to_string);
        let place = Place { bucket, endpoint: owned(endpoint), region: owned(region) };
        let objects = place.open().map_err(LocationError::Store)?;
        Ok(Self { place, objects, path })
    }

    /// What names of objects in it begin with.
    pub(super) fn url(&self) -> String {
        self.place.to_string()
    }

    /// The objects here, in a fixed order, as URLs: one of this very name, else all below it that are neither hidden nor empty. What
    /// consoles make for folders is an empty object, whose name ends in a slash and cannot be asked for.
    pub(super) fn files(&self) -> Result<Vec<Input>, SourceError> {
        let store = &self.objects.store;
        let found = off_runtime(async {
            if !self.path.as_ref().is_empty()
                && let Ok(object) = store.head(&self.path).await
            {
                return Ok(Found::One(object));
            }
            store.list(Some(&self.path)).try_collect().await.map(Found::Below)
        })
        .map_err(|error| SourceError::io(format!("cannot list {}/{}", self.url(), self.path)).because(error))?;
        let depth = self.path.parts().count();
        let is_input = |object: &ObjectMeta| {
            object.size > 0 && !object.location.parts().skip(depth).any(|part| is_hidden(part.as_ref()))
        };
        let mut objects: Vec<ObjectMeta> = match found {
            Found::One(object) => vec![object],
            Found::Below(objects) if objects.is_empty() => {
                return Err(SourceError::bad_input(format!("there is no object at {}/{}", self.url(), self.path)));
            }
            Found::Below(objects) => objects.into_iter().filter(is_input).collect(),
        };
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        let input = |object: ObjectMeta| {
            Input::object(format!("{}/{}", self.url(), object.location), object.size, object.e_tag)
        };
        Ok(objects.into_iter().map(input).collect())
    }
}

/// What stands at a path.
enum Found {
    /// An object of this very name.
    One(ObjectMeta),
    /// All that are below it.
    Below(Vec<ObjectMeta>),
}

/// Waits for a future from a thread that may or may not be one of a runtime's own.
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

    #[test]
    fn objects_are_listed_like_files() {
        let store = object_store::memory::InMemory::new();
        for key in ["in/b.csv", "in/a.csv", "in/_x/c.csv", "in/.d", "other/e.csv"] {
            off_runtime(async { store.put(&ObjectPath::from(key), "1\n".into()).await.map(|_| ()) }).unwrap();
        }
        for folder in ["in/folder", "empty/a"] {
            off_runtime(async { store.put(&ObjectPath::from(folder), "".into()).await.map(|_| ()) }).unwrap();
        }
        let objects = Objects::new(store);
        let place = Place { bucket: "data".to_string(), endpoint: None, region: None };
        let at = |path: &str| Bucket { place: place.clone(), objects: objects.clone(), path: path.into() };
        let names = |path: &str| -> Vec<String> {
            let files = at(path).files().unwrap().into_iter();
            files.inspect(|file| assert!(file.bytes == Some(2) && file.etag.is_some())).map(|file| file.name).collect()
        };
        assert_eq!(names("in"), ["s3://data/in/a.csv", "s3://data/in/b.csv"]);
        assert_eq!(names("in/.d"), ["s3://data/in/.d"]);
        assert_eq!(names("empty"), Vec::<String>::new(), "an input of no rows");
        let error = at("nothing").files().unwrap_err();
        assert!(error.to_string().contains("s3://data/nothing"), "{error}");
    }
}
