//! The names of a sink's files, and the pending commits that carry them. All names are made and read here.
//!
//! ```text
//! .<namespace>_<job>_<attempt>_<worker>_<subtask>_<n>.csv     unfinished: readers pass over names that start with . or _
//! part-<attempt>-<worker>-<subtask>-<checkpoint>-<n>.csv      published
//! ```
//!
//! A worker's id is never another's, and `n` is counted up in the whole process, so no two files share a name. Neither
//! namespaces nor names of jobs have underscores; where a name comes from elsewhere they are replaced.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir_engine::error::SinkError;
use weir_engine::sink::SinkContext;
use weir_protocol::{Attempt, CheckpointId, JobName};

use super::location::is_hidden;

/// Whose file it is: everything but its number.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    job: String,
    attempt: Attempt,
    worker: String,
    subtask: u32,
}

impl Writer {
    pub(super) fn of(ctx: &SinkContext) -> Self {
        Self { job: job_prefix(&ctx.job), attempt: ctx.attempt, worker: plain(&ctx.worker.0), subtask: ctx.subtask }
    }

    pub(super) fn unfinished(&self, number: u64, extension: &str) -> String {
        format!("{}{}_{}_{}_{number}.{extension}", self.job, self.attempt, self.worker, self.subtask)
    }

    pub(super) fn published(&self, checkpoint: CheckpointId, number: u64, extension: &str) -> String {
        format!("part-{}-{}-{}-{checkpoint}-{number}.{extension}", self.attempt, self.worker, self.subtask)
    }
}

/// What the names of a job's unfinished files start with.
fn job_prefix(job: &JobName) -> String {
    format!(".{}_{}_", plain(&job.namespace), plain(&job.name))
}

/// Without what separates the parts of a name, and what a path gives a meaning to; every text has one of its own.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => plain.push(char::from(byte)),
            _ => {
                let _ = write!(plain, "%{byte:02x}");
            }
        }
    }
    plain
}

/// The attempt that wrote an unfinished file of this job; none if the file is something else.
pub(super) fn attempt_of(name: &str, job: &JobName) -> Option<Attempt> {
    let (attempt, rest) = name.strip_prefix(&job_prefix(job))?.split_once('_')?;
    (rest.split('_').count() == 3).then_some(())?;
    attempt.parse().ok().map(Attempt)
}

/// A file that is complete and durable under its unfinished name, and the name that it will have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pending {
    pub(super) folder: PathBuf,
    pub(super) unfinished: String,
    pub(super) published: String,
}

impl Pending {
    /// Reads one back. Names that would lead out of the folder, publish a hidden file or publish over an unfinished one are
    /// none of ours.
    pub(super) fn read(value: &serde_json::Value) -> Result<Self, SinkError> {
        let pending = Self::deserialize(value)?;
        let in_folder = |name: &str| !name.is_empty() && !name.contains(['/', '\\', '\0']);
        if !pending.folder.is_absolute()
            || !in_folder(&pending.unfinished)
            || !in_folder(&pending.published)
            || !is_hidden(&pending.unfinished)
            || is_hidden(&pending.published)
        {
            return Err(SinkError::bad_input(format!("{value} is no pending commit of the filesystem connector")));
        }
        Ok(pending)
    }

    pub(super) fn from(&self) -> PathBuf {
        self.folder.join(&self.unfinished)
    }

    pub(super) fn to(&self) -> PathBuf {
        self.folder.join(&self.published)
    }
}

/// The last part of a path, if it would be hidden from readers.
pub(super) fn hidden_end(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|name| is_hidden(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(name: &str) -> JobName {
        JobName { namespace: "default".to_string(), name: name.to_string() }
    }

    fn writer(name: &str) -> Writer {
        Writer { job: job_prefix(&job(name)), attempt: Attempt(7), worker: plain("ab12"), subtask: 3 }
    }

    #[test]
    fn unfinished_files_are_hidden_and_belong_to_one_job() {
        let name = writer("delays").unfinished(5, "csv");
        assert_eq!(name, ".default_delays_7_ab12_3_5.csv");
        assert_eq!(attempt_of(&name, &job("delays")), Some(Attempt(7)));
        assert_eq!(attempt_of(&name, &job("delays_7")), None);
        assert_eq!(attempt_of(&name, &job("delay")), None);
        assert_eq!(attempt_of(&writer("a_7").unfinished(5, "csv"), &job("a")), None);
        assert_eq!(attempt_of("part-7-ab12-3-9-5.csv", &job("delays")), None);
    }

    #[test]
    fn published_files_are_seen_whatever_the_job_is_called() {
        assert_eq!(writer("x").published(CheckpointId(9), 5, "json"), "part-7-ab12-3-9-5.json");
        assert_eq!(plain("../_a"), "..%2f%5fa");
    }

    #[test]
    fn a_pending_commit_cannot_lead_out_of_its_folder_or_publish_a_hidden_name() {
        let read = |unfinished: &str, published: &str| {
            Pending::read(&json!({"folder": "/out", "unfinished": unfinished, "published": published}))
        };
        assert!(read(".a", "part-1").is_ok());
        for (unfinished, published) in
            [("../.a", "b"), (".a", "../b"), (".a", ".b"), (".a", "_b"), ("a", "b"), (".a", "")]
        {
            assert!(read(unfinished, published).is_err(), "{unfinished} {published}");
        }
    }
}
