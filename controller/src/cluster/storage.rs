//! The storage of jobs, as this one process uses it for all of them: with whose identity, in how much memory, and how many at once.
//! What an endpoint serves, and how slowly, is up to whoever has the job; the other jobs must not feel it.

use std::{str::FromStr, time::Duration};

use tokio::{sync::Semaphore, time::timeout};
use url::Url;
use weir_protocol::settings::StorageSettings;
use weir_storage::{JobStore, Memory, S3Keys, StorageError};

use super::{delete::Turns, problem::Problem, reasons};
use crate::{effects::chain, job::Job};

/// Looks at jobs that wait for storage. Half of all looks that there are at once: the other half is for who needs none.
const LOOKS: usize = 8;
/// So long a look waits for its turn at storage.
const TURN_WAIT: Duration = Duration::from_secs(2);

/// What all jobs share.
pub struct Storage {
    memory: Memory,
    own: Vec<OwnStorage>,
    looks: Semaphore,
    turn_wait: Duration,
    /// Prefixes that are being emptied.
    pub removals: Turns,
}

impl Storage {
    /// `own`: where the controller's own identity may be used.
    pub fn new(own: Vec<OwnStorage>) -> Self {
        let (memory, looks, removals) = (Memory::default(), Semaphore::new(LOOKS), Turns::default());
        Self { memory, own, looks, turn_wait: TURN_WAIT, removals }
    }

    /// Opens a job's storage with the keys of its Secret, or with the controller's own identity where that is allowed.
    pub fn open(&self, job: &Job, keys: Option<&S3Keys>) -> Result<JobStore, Problem> {
        let settings = &job.settings.storage;
        let opened = match keys {
            Some(keys) => JobStore::open_with(settings, &job.name, keys),
            None => {
                self.allows(&job.name.namespace, settings)?;
                // What is allowed is this place, and none that a savepoint's URL names.
                JobStore::open(settings, &job.name).map(JobStore::confined)
            }
        };
        let opened = opened.map(|store| store.sharing(&self.memory));
        opened.map_err(|error: StorageError| Problem { reason: reasons::INVALID_STORAGE, message: chain(&error) })
    }

    /// Whether a job without keys of its own may have its storage reached with the controller's.
    pub fn allows(&self, namespace: &str, settings: &StorageSettings) -> Result<(), Problem> {
        if self.own.iter().any(|own| own.covers(namespace, settings)) {
            return Ok(());
        }
        let at = settings.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        let message = format!(
            "spec.checkpoint.storage: {}{at} would be reached with the controller's own identity, which the administrator has not allowed \
             for it; name a Secret with keys in secretRef, or have the place listed in the chart's value controllerIdentity.storage",
            settings.url
        );
        Err(Problem { reason: reasons::INVALID_STORAGE, message })
    }

    /// What a look asks of storage: so many at once, and each for so long at most. None where it was not its turn, or too slow.
    pub async fn look<T>(&self, patience: Duration, asks: impl Future<Output = T>) -> Option<T> {
        let _turn = timeout(self.turn_wait, self.looks.acquire()).await.ok()?.ok()?;
        timeout(patience, asks).await.ok()
    }
}

/// A place that the controller may reach with its own identity: `s3://bucket/prefix`, and after commas
/// `endpoint=https://…` where it is not AWS's own, and `namespace=…` where it is for the jobs of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnStorage {
    bucket: String,
    prefix: Vec<String>,
    endpoint: Option<String>,
    namespace: Option<String>,
}

/// The bucket, and the folders below it.
fn place(url: &str) -> Option<(String, Vec<String>)> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "s3")?;
    let folders = url.path().split('/').filter(|folder| !folder.is_empty()).map(str::to_string).collect();
    Some((url.host_str()?.to_string(), folders))
}

fn same_endpoint(a: Option<&str>, b: Option<&str>) -> bool {
    let plain = |endpoint: &str| Url::parse(endpoint).map_or_else(|_| endpoint.to_string(), String::from);
    a.map(plain) == b.map(plain)
}

impl FromStr for OwnStorage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces = text.split(',');
        let url = pieces.next().unwrap_or_default();
        let (bucket, prefix) = place(url).ok_or_else(|| format!("{url:?} is no s3://bucket or s3://bucket/prefix"))?;
        let mut own = Self { bucket, prefix, endpoint: None, namespace: None };
        for piece in pieces {
            let to = match piece.split_once('=') {
                Some(("endpoint", endpoint)) if Url::parse(endpoint).is_ok() => &mut own.endpoint,
                Some(("namespace", namespace)) if !namespace.is_empty() => &mut own.namespace,
                _ => return Err(format!("{piece:?} is neither endpoint=https://… nor namespace=…")),
            };
            *to = piece.split_once('=').map(|(_, value)| value.to_string());
        }
        Ok(own)
    }
}

impl OwnStorage {
    fn covers(&self, namespace: &str, settings: &StorageSettings) -> bool {
        let Some((bucket, folders)) = place(&settings.url) else { return false };
        self.namespace.as_deref().is_none_or(|only| only == namespace)
            && same_endpoint(self.endpoint.as_deref(), settings.endpoint.as_deref())
            && self.bucket == bucket
            && folders.starts_with(&self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn settings(url: &str, endpoint: Option<&str>) -> StorageSettings {
        StorageSettings { url: url.to_string(), endpoint: endpoint.map(str::to_string), region: None }
    }

    #[test]
    fn the_controllers_identity_is_for_the_places_that_are_listed() {
        let storage = |own: &[&str]| Storage::new(own.iter().map(|own| own.parse().unwrap()).collect());
        let minio = Some("http://minio:9000");
        for (own, namespace, url, endpoint, allowed) in [
            (&[][..], "air", "s3://jobs/a", None, false),
            (&["s3://jobs"], "air", "s3://jobs", None, true),
            (&["s3://jobs"], "air", "s3://jobs/any/where", None, true),
            (&["s3://jobs"], "air", "s3://jobs-2/a", None, false),
            (&["s3://jobs"], "air", "s3://jobs/a", Some("http://169.254.169.254"), false),
            (&["s3://jobs/a"], "air", "s3://jobs/a/b", None, true),
            (&["s3://jobs/a"], "air", "s3://jobs/ab", None, false),
            (&["s3://jobs/a"], "air", "s3://jobs/a/../b", None, false),
            (&["s3://jobs,endpoint=http://minio:9000/"], "air", "s3://jobs/a", minio, true),
            (&["s3://jobs,endpoint=http://minio:9000"], "air", "s3://jobs/a", None, false),
            (&["s3://jobs,endpoint=http://minio:9000"], "air", "s3://jobs/a", Some("http://minio:9001"), false),
            (&["s3://jobs,namespace=air"], "air", "s3://jobs/a", None, true),
            (&["s3://jobs,namespace=air"], "sea", "s3://jobs/a", None, false),
            (&["s3://jobs,namespace=air", "s3://jobs/b"], "sea", "s3://jobs/b", None, true),
        ] {
            let answer = storage(own).allows(namespace, &settings(url, endpoint));
            assert_eq!(answer.is_ok(), allowed, "{own:?} {namespace} {url} {endpoint:?}");
        }
        let refused = storage(&[]).allows("air", &settings("s3://jobs/a", minio)).unwrap_err();
        assert_eq!(refused.reason, reasons::INVALID_STORAGE);
        for part in ["s3://jobs/a", "http://minio:9000", "secretRef", "controllerIdentity.storage"] {
            assert!(refused.message.contains(part), "{part}: {}", refused.message);
        }
    }

    #[test]
    fn a_place_that_is_written_wrongly_is_refused_at_the_start() {
        for (text, part) in [
            ("jobs", "jobs"),
            ("https://jobs/a", "no s3://"),
            ("s3://jobs,endpoint=minio", "endpoint=minio"),
            ("s3://jobs,namespace=", "namespace="),
            ("s3://jobs,region=eu", "region=eu"),
        ] {
            let error = text.parse::<OwnStorage>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn looks_that_wait_for_slow_storage_leave_turns_to_the_others() {
        let storage = Arc::new(Storage { turn_wait: Duration::from_millis(20), ..Storage::new(Vec::new()) });
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let storage = Arc::clone(&storage);
            slow.spawn(async move { storage.look(Duration::from_hours(1), std::future::pending::<()>()).await });
        }
        // Half of them go away at once, and leave their looks to others.
        for _ in 0..16 - LOOKS {
            assert_eq!(slow.join_next().await.unwrap().unwrap(), None);
        }
        assert_eq!(storage.look(Duration::from_secs(1), async { 1 }).await, None, "the turns at storage are taken");
        slow.shutdown().await;
        assert_eq!(storage.look(Duration::from_secs(1), async { 1 }).await, Some(1));
    }
}
