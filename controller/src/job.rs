//! From a StreamJob to a job that can be run: names, plan request, settings, policies. On this machine it comes from a file and
//! the command line ([`Job::local`]), in a cluster from the API server ([`Job::of`]).

mod settings;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use url::Url;
use weir_crds::{CheckpointMode as ApiMode, JobError, RestoreFrom, StreamJob, StreamJobSpec, load_job};
use weir_protocol::{
    JobName,
    settings::{CheckpointMode, JobSettings, Permissions, PlanRequest, StorageSettings},
};

use crate::{
    attempt::{RestartPolicy, Size},
    coordinator::{Policy, RETRY, STATUS_INTERVAL},
    platform::WorkerTemplate,
    state_dir::default_state_dir,
};

/// The namespace of a job that names none.
const DEFAULT_NAMESPACE: &str = "default";
/// Where relative paths in a script are taken from in a cluster. There is no folder that a user could mean.
const CLUSTER_BASE_DIR: &str = "/";

/// Why a file is no job that can be run here.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no StreamJob, or a wrong one.
    #[error("{}", prefixed(.path, .error))]
    Job {
        /// The file.
        path: String,
        /// What is wrong.
        error: JobError,
    },
    /// It holds, but not for a run on this machine.
    #[error("{path}: {message}")]
    NotHere {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

fn prefixed(path: &str, error: &JobError) -> String {
    error.problems.iter().map(|problem| format!("{path}: {problem}")).collect::<Vec<_>>().join("\n")
}

/// What the command line says over the YAML.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Worker processes.
    pub workers: Option<u32>,
    /// Slots a worker.
    pub slots: Option<u32>,
}

/// What to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreWish {
    /// What is named; none for the newest record, whoever owns it.
    pub named: Option<Named>,
    /// What a pending commit does not find any more is given up.
    pub accept_lost_output: bool,
}

/// What a wish names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A retained record, by path or URL.
    Record(String),
    /// A savepoint, by the URL of its location.
    Savepoint(String),
}

impl Named {
    /// For people.
    pub fn text(&self) -> &str {
        match self {
            Self::Record(text) | Self::Savepoint(text) => text,
        }
    }
}

/// How the text of a wish ends that gives up lost output.
const ACCEPTING: &str = ", accepting lost output";
/// How the text of a wish begins that names a savepoint.
const SAVEPOINT: &str = "savepoint ";

impl RestoreWish {
    /// As [`Self::as_text`] has it.
    pub fn parse(text: &str) -> Self {
        let (text, accept_lost_output) = match text.strip_suffix(ACCEPTING) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let named = match text.strip_prefix(SAVEPOINT) {
            Some(location) => Some(Named::Savepoint(location.to_string())),
            None if text == "previous" => None,
            None => Some(Named::Record(text.to_string())),
        };
        Self { named, accept_lost_output }
    }

    /// As it stands on the command line: `previous`, a record, which has `terms/` in it, or the folder or URL of a savepoint.
    pub fn argument(text: &str, folder: &Path) -> Result<Self, String> {
        // It is a record's path everywhere where records are shown.
        let place = !text.contains("terms/") && (text.contains('/') || folder.join(text).is_dir());
        if text == "previous" || !place {
            return Ok(Self::parse(text));
        }
        let named = Some(Named::Savepoint(place_url(text, folder)?));
        Ok(Self { named, accept_lost_output: false })
    }

    /// To tell one value from another: a wish in the YAML acts once.
    pub fn as_text(&self) -> String {
        let accepting = if self.accept_lost_output { ACCEPTING } else { "" };
        match &self.named {
            None => format!("previous{accepting}"),
            Some(Named::Record(record)) => format!("{record}{accepting}"),
            Some(Named::Savepoint(location)) => format!("{SAVEPOINT}{location}{accepting}"),
        }
    }
}

impl From<RestoreFrom> for RestoreWish {
    fn from(wish: RestoreFrom) -> Self {
        let savepoint = wish.savepoint.map(Named::Savepoint);
        Self {
            named: wish.record.map(Named::Record).or(savepoint),
            accept_lost_output: wish.accept_lost_output.unwrap_or_default(),
        }
    }
}

/// What of a job changes live, without a new attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// When checkpoints are taken.
    pub policy: Policy,
    /// What happens after failures.
    pub restart: RestartPolicy,
    /// The longest an alignment may take, in milliseconds; 0 is no limit.
    pub alignment_timeout_ms: u64,
}

/// A validated job, ready to be planned and run. The resource itself is out of scope from here on.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its identity.
    pub name: JobName,
    /// The generation of the resource that it is made from; 0 where there is none. What runs is told with it.
    pub generation: i64,
    /// What is planned.
    pub plan: PlanRequest,
    /// What workers are told.
    pub settings: JobSettings,
    /// What a restore may leave out. It says nothing of what runs, and changes no attempt.
    pub upgrade: Permissions,
    /// Worker processes.
    pub workers: u32,
    /// Slots a worker.
    pub slots: u32,
    /// Worker processes that wait to take a lost one's place.
    pub standby: u32,
    /// What a worker process is made from. On this machine they are all the same, and it is empty; in a cluster the
    /// reconciler fills it in.
    pub template: WorkerTemplate,
    /// When checkpoints are taken.
    pub policy: Policy,
    /// What happens after failures.
    pub restart: RestartPolicy,
    /// The resource's `restoreFrom`.
    pub restore_from: Option<RestoreWish>,
    /// The resource's `suspend`.
    pub suspend: bool,
    /// What the script sets and the resource has otherwise.
    pub warnings: Vec<String>,
}

impl Job {
    /// A job of this machine: reads and validates a file.
    pub fn local(path: &Path, overrides: &Overrides) -> Result<Self, ReadError> {
        let shown = path.display().to_string();
        let unreadable = |source| ReadError::File { path: shown.clone(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let base = std::fs::canonicalize(path).map_err(unreadable)?;
        Self::of_text(&text, &shown, base.parent().unwrap_or(Path::new("/")), overrides)
    }

    /// A job of this machine, out of its YAML; relative paths are taken from `base`.
    pub fn of_text(text: &str, shown: &str, base: &Path, overrides: &Overrides) -> Result<Self, ReadError> {
        let path = || shown.to_string();
        let mut job = load_job(text).map_err(|error| ReadError::Job { path: path(), error })?;
        if let Some(savepoint) = job.spec.restore_from.as_mut().and_then(|wish| wish.savepoint.as_mut()) {
            let message = |message| ReadError::NotHere {
                path: path(),
                message: format!("spec.restoreFrom.savepoint: {message}"),
            };
            *savepoint = place_url(savepoint, base).map_err(message)?;
        }
        let url = storage_url(&job.spec.checkpoint.storage.url, base);
        url.and_then(|url| Self::new(job, url, base.display().to_string(), overrides))
            .map_err(|message| ReadError::NotHere { path: path(), message })
    }

    /// A job of a cluster, as the API server has it. What is wrong is said with the field's path.
    pub fn of(job: &StreamJob) -> Result<Self, String> {
        let url = &job.spec.checkpoint.storage.url;
        if !url.contains("://") {
            return Err(format!(
                "spec.checkpoint.storage.url: {url:?} is a folder of one machine; write s3://bucket/prefix"
            ));
        }
        let savepoint = job.spec.restore_from.as_ref().and_then(|wish| wish.savepoint.as_ref());
        if let Some(place) = savepoint.filter(|place| !place.starts_with("s3://")) {
            return Err(format!(
                "spec.restoreFrom.savepoint: {place:?} is no place in a bucket; write s3://bucket/prefix"
            ));
        }
        let url = url.trim_end_matches('/').to_string();
        Self::new(job.clone(), url, CLUSTER_BASE_DIR.to_string(), &Overrides::default())
    }

    fn new(job: StreamJob, storage_url: String, base_dir: String, overrides: &Overrides) -> Result<Self, String> {
        let generation = job.metadata.generation.unwrap_or_default();
        let settled = settings::settle(&job.spec)?;
        let name = JobName {
            namespace: job.metadata.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_string()),
            name: job.metadata.name.unwrap_or_default(),
        };
        let StreamJobSpec {
            sql,
            workers,
            max_parallelism,
            state,
            checkpoint,
            restart,
            upgrade,
            restore_from,
            suspend,
            ..
        } = job.spec;
        let (replicas, slots) =
            (overrides.workers.unwrap_or(workers.replicas), overrides.slots.unwrap_or(settled.slots));
        if u64::from(replicas) * u64::from(slots) > u64::from(max_parallelism) {
            return Err(format!(
                "{replicas} workers × {slots} slots are more than maxParallelism {max_parallelism}: ask for fewer"
            ));
        }
        Ok(Self {
            name: name.clone(),
            generation,
            plan: PlanRequest { script: sql, base_dir, max_parallelism },
            settings: JobSettings {
                job: name,
                storage: StorageSettings {
                    url: storage_url,
                    endpoint: checkpoint.storage.endpoint,
                    region: checkpoint.storage.region,
                },
                state_backend: settled.backend,
                state_options: state.options,
                mode: match settled.mode {
                    ApiMode::ExactlyOnce => CheckpointMode::ExactlyOnce,
                    ApiMode::AtLeastOnce => CheckpointMode::AtLeastOnce,
                },
                // A worker that has lost its coordinator gives up an alignment when the coordinator would have.
                alignment_timeout_ms: u64::try_from(settled.timeout.as_millis()).unwrap_or(u64::MAX),
                memory_budget: workers.memory_budget(),
            },
            upgrade: Permissions {
                allow_new_state: upgrade.allow_new_state,
                allow_dropped_state: upgrade.allow_dropped_state,
            },
            workers: replicas,
            slots,
            standby: workers.standby,
            template: WorkerTemplate::default(),
            policy: Policy {
                interval: settled.interval,
                min_pause: settled.min_pause,
                timeout: settled.timeout,
                tolerable_failures: settled.tolerable_failures,
                retain: checkpoint.retain,
                status_interval: STATUS_INTERVAL,
                retry: RETRY,
            },
            restart: RestartPolicy {
                initial_backoff: restart.initial_backoff.0,
                max_backoff: restart.max_backoff.0,
                reset_after: restart.reset_after.0.max(Duration::from_secs(1)),
                max_failures: restart.max_failures,
            },
            restore_from: restore_from
                .filter(|wish| wish.record.is_some() || wish.savepoint.is_some() || wish.previous.unwrap_or_default())
                .map(RestoreWish::from),
            suspend,
            warnings: settled.warnings,
        })
    }

    /// Workers of an attempt.
    pub fn size(&self) -> Size {
        Size { workers: self.workers, standby: self.standby }
    }

    /// An attempt of this job is also one of the other: they differ in nothing but what changes live.
    pub fn same_attempt(&self, other: &Self) -> bool {
        (self.workers, self.slots, &self.template.hash) == (other.workers, other.slots, &other.template.hash)
            && self.plan == other.plan
            && self.same_settings(other)
    }

    /// Workers are told the same, but for what changes live.
    pub fn same_settings(&self, other: &Self) -> bool {
        let settings = |job: &Self| JobSettings { alignment_timeout_ms: 0, ..job.settings.clone() };
        settings(self) == settings(other)
    }

    /// What of it changes live.
    pub fn live(&self) -> Live {
        let alignment_timeout_ms = self.settings.alignment_timeout_ms;
        Live { policy: self.policy, restart: self.restart, alignment_timeout_ms }
    }

    /// Changes what can be changed live.
    pub fn configure(&mut self, live: Live) {
        self.policy = live.policy;
        self.restart = live.restart;
        self.settings.alignment_timeout_ms = live.alignment_timeout_ms;
    }

    /// Where it works when nothing else is said.
    pub fn default_state_dir(&self) -> PathBuf {
        default_state_dir(&self.name.namespace, &self.name.name)
    }
}

/// A place of its own, such as a savepoint's. A bare path is a folder, relative to `base`.
pub fn place_url(text: &str, base: &Path) -> Result<String, String> {
    if text.contains("://") {
        return Ok(text.trim_end_matches('/').to_string());
    }
    let folder = base.join(text.strip_prefix("./").unwrap_or(text));
    let url = Url::from_directory_path(&folder).map(|url| url.to_string().trim_end_matches('/').to_string());
    url.map_err(|()| format!("{text:?} is no folder; write s3://bucket/prefix or file:///folder"))
}

/// A bare path is a folder, relative to the job's file.
fn storage_url(url: &str, base: &Path) -> Result<String, String> {
    if url.contains("://") {
        return Ok(url.trim_end_matches('/').to_string());
    }
    let folder = base.join(url.strip_prefix("./").unwrap_or(url));
    Url::from_directory_path(&folder).map(|url| url.to_string().trim_end_matches('/').to_string()).map_err(|()| {
        format!("spec.checkpoint.storage.url: {url:?} is no folder; write s3://bucket/prefix or file:///folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(extra: &str, overrides: &Overrides) -> Result<Job, ReadError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.yaml");
        let yaml = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {{name: j}}\nspec:\n  sql: SELECT 1\n{extra}"
        );
        std::fs::write(&file, yaml).unwrap();
        Job::local(&file, overrides)
    }

    const STORAGE: &str = "  checkpoint: {storage: {url: ./ck}}\n";

    #[test]
    fn a_bare_folder_is_taken_from_beside_the_file() {
        let job = read(STORAGE, &Overrides::default()).unwrap();
        assert!(job.settings.storage.url.starts_with("file:///"), "{}", job.settings.storage.url);
        assert!(job.settings.storage.url.ends_with("/ck"), "{}", job.settings.storage.url);
        assert_eq!(job.name.to_string(), "default/j");
    }

    #[test]
    fn the_command_line_overrides_the_yaml_within_the_same_bounds() {
        let job = read(STORAGE, &Overrides { workers: Some(3), slots: Some(2) }).unwrap();
        assert_eq!((job.workers, job.slots), (3, 2));
        let error = read(STORAGE, &Overrides { workers: Some(100), slots: Some(2) }).unwrap_err().to_string();
        assert!(error.contains("more than maxParallelism 128"), "{error}");
    }

    #[test]
    fn the_file_is_named_with_each_problem() {
        let error =
            read("  checkpoint: {storage: {url: a}, interval: 1, timeout: x}\n", &Overrides::default()).unwrap_err();
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("job.yaml: line 6"), "{text}");
    }
}
