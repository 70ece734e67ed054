//! The names of a sink's files, and the pending commits that carry them. All names are made and read here.
//!
//! ```text
//! .<namespace>_<job>_<owner>_<attempt>_<worker>_<subtask>_<n>.csv        unfinished: readers pass over names with . or _ in front
//! .<namespace>_<job>_<owner>_<attempt>_<worker>_<subtask>_<n>.csv.done   the mark that its commit was begun, see `commit.rs`
//! part-<attempt>-<worker>-<subtask>-<checkpoint>-<n>.csv                 published
//!
//! _unfinished/<owner>/part-<owner>-<attempt>-<worker>-<subtask>-<n>.csv   an object in a bucket that is unfinished
//! _unfinished/<owner>/part-<owner>-<attempt>-<worker>-<subtask>-<n>.csv.done   the mark that it was published
//! part-<owner>-<attempt>-<worker>-<subtask>-<n>.csv                       and the same, published
//! ```
//!
//! `<owner>` is a hash of the sink's identity, since two sinks of a job may write to one folder, and of the run that it is a sink of: the uid
//! of the StreamJob or of the state folder, the cluster, and where the checkpoints are. One manifest may be applied in two clusters and name
//! one output; what each has left unfinished is the other's to leave alone. What a pending commit names is published whatever it is
//! called: builds before this one had no more than the sink's identity in names.
//!
//! A worker's id is never another's, and `n` is counted up in the whole process, so no two files share a name. Neither namespaces nor
//! names of jobs have underscores; where a name comes from elsewhere they are replaced.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::{CommitContext, OutputOwner, SinkContext};
use weir_protocol::{Attempt, CheckpointId, JobName};

use super::bucket::Place;
use super::paths::is_hidden;

/// Whose file it is: everything but its number.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    owner: Owner,
    attempt: Attempt,
    worker: String,
    subtask: u32,
}

impl Writer {
    pub(super) fn of(ctx: &SinkContext) -> Self {
        Self {
            owner: Owner::new(&ctx.job, &ctx.owner, &ctx.sink),
            attempt: ctx.attempt,
            worker: plain(&ctx.worker.0),
            subtask: ctx.subtask,
        }
    }

    pub(super) fn unfinished(&self, number: u64, extension: &str) -> String {
        format!("{}{}_{}_{}_{number}.{extension}", self.owner.prefix, self.attempt, self.worker, self.subtask)
    }

    /// The name of an object, unfinished or published. It is fixed when its upload begins, so no checkpoint is in it.
    pub(super) fn object(&self, number: u64, extension: &str) -> String {
        let Self { owner, attempt, worker, subtask } = self;
        format!("part-{:016x}-{attempt}-{worker}-{subtask}-{number}.{extension}", owner.hash)
    }

    /// Where this sink's unfinished objects are, in a table's folder.
    pub(super) fn unfinished_objects(&self, folder: &ObjectPath) -> ObjectPath {
        self.owner.unfinished_objects(folder)
    }

    pub(super) fn published(&self, checkpoint: CheckpointId, number: u64, extension: &str) -> String {
        format!("part-{}-{}-{}-{checkpoint}-{number}.{extension}", self.attempt, self.worker, self.subtask)
    }
}

/// One sink of one run of a job, over all its attempts.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// What the names of its unfinished files start with.
    prefix: String,
    /// Of all that it is.
    hash: u64,
    /// Whose it is was said. Else other runs have the same names, and none of them can be told to be this one's.
    known: bool,
}

impl Owner {
    pub(super) fn new(job: &JobName, owner: &OutputOwner, sink: &str) -> Self {
        let OutputOwner { uid, cluster, storage } = owner;
        // No text has a NUL in it, so no two owners make the same of these.
        let whose = fnv(&format!("{uid}\0{cluster}\0{storage}\0{sink}"));
        let prefix = format!(".{}_{}_{whose:016x}_", plain(&job.namespace), plain(&job.name));
        Self { hash: fnv(&prefix), prefix, known: !uid.is_empty() }
    }

    pub(super) fn of(ctx: &CommitContext) -> Self {
        Self::new(&ctx.job, &ctx.owner, &ctx.sink)
    }

    /// The attempt that wrote an unfinished file or a mark; none if the file is somebody else's.
    pub(super) fn attempt_of(&self, name: &str) -> Option<Attempt> {
        self.known.then_some(())?;
        let (attempt, rest) = name.strip_prefix(&self.prefix)?.split_once('_')?;
        (rest.split('_').count() == 3).then_some(())?;
        attempt.parse().ok().map(Attempt)
    }

    /// Where its unfinished objects are, in a table's folder. Nobody else's are there.
    pub(super) fn unfinished_objects(&self, folder: &ObjectPath) -> ObjectPath {
        folder.clone().join(UNFINISHED).join(format!("{:016x}", self.hash))
    }

    /// The attempt that wrote an object or a mark; none if it is somebody else's.
    pub(super) fn attempt_of_object(&self, key: &ObjectPath) -> Option<Attempt> {
        self.known.then_some(())?;
        let name = key.filename()?.strip_prefix(&format!("part-{:016x}-", self.hash))?;
        name.split('-').next()?.parse().ok().map(Attempt)
    }
}

/// The folder of unfinished objects. Readers pass over it, since it begins with an underscore.
const UNFINISHED: &str = "_unfinished";

/// What the name of a mark adds to that of the file or object whose commit it tells of.
const DONE: &str = ".done";

/// FNV-1a: short, and the same in every build.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
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

    /// Stands from just before the file is published until no record names it any more.
    pub(super) fn mark(&self) -> PathBuf {
        self.folder.join(format!("{}{DONE}", self.unfinished))
    }
}

/// An object that is complete under a hidden name, and the name that it will have. It holds all that publishing takes, but
/// for the keys to the bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PendingObject {
    pub(super) place: Place,
    #[serde(with = "key")]
    pub(super) unfinished: ObjectPath,
    #[serde(with = "key")]
    pub(super) published: ObjectPath,
}

impl PendingObject {
    /// Stands from when the object is published until no record names it any more.
    pub(super) fn mark(&self) -> Result<ObjectPath, SinkError> {
        let key = format!("{}{DONE}", self.unfinished);
        ObjectPath::parse(&key).map_err(|error| SinkError::bad_input(format!("{key} is no key")).because(error))
    }
}

/// Keys as text.
mod key {
    use object_store::path::Path;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(key: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(key.as_ref())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Path, D::Error> {
        Path::parse(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// What stands in a part for a table of this connector. A table may have moved between a folder and a bucket since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AnyPending {
    File(Pending),
    Object(PendingObject),
}

impl AnyPending {
    /// Reads one back. What would publish a hidden name, or one that was seen before, is none of ours.
    pub(super) fn read(value: &serde_json::Value) -> Result<Self, SinkError> {
        if value.get("place").is_none() {
            return Pending::read(value).map(Self::File);
        }
        let pending = PendingObject::deserialize(value)?;
        let hidden = |key: &ObjectPath| key.parts().any(|part| is_hidden(part.as_ref()));
        let named = pending.published.filename().is_some_and(|name| !is_hidden(name));
        if !named || !hidden(&pending.unfinished) {
            return Err(SinkError::bad_input(format!("{value} is no pending commit of the filesystem connector")));
        }
        Ok(Self::Object(pending))
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
    use crate::testing::run_of;

    fn owner_in(run: &OutputOwner) -> Owner {
        Owner::new(&JobName { namespace: "default".to_string(), name: "delays".to_string() }, run, "sink")
    }

    fn owner(job: &str, sink: &str) -> Owner {
        Owner::new(&JobName { namespace: "default".to_string(), name: job.to_string() }, &run_of("u1"), sink)
    }

    fn writer(job: &str) -> Writer {
        Writer { owner: owner(job, "sink"), attempt: Attempt(7), worker: plain("ab12"), subtask: 3 }
    }

    #[test]
    fn unfinished_files_are_hidden_and_belong_to_one_sink_of_one_job() {
        let name = writer("delays").unfinished(5, "csv");
        assert_eq!(name, ".default_delays_c25191efd9c7fab1_7_ab12_3_5.csv");
        assert_eq!(owner("delays", "sink").attempt_of(&name), Some(Attempt(7)));
        assert_eq!(owner("delays", "sink").attempt_of(&format!("{name}{DONE}")), Some(Attempt(7)), "its mark too");
        for other in [owner("delays", "other"), owner("delay", "sink"), owner("delays_7", "sink")] {
            assert_eq!(other.attempt_of(&name), None);
        }
        assert_eq!(owner("a", "sink").attempt_of(&writer("a_7").unfinished(5, "csv")), None);
        assert_eq!(owner("delays", "sink").attempt_of("part-7-ab12-3-9-5.csv"), None);
    }

    #[test]
    fn of_the_same_job_another_run_owns_nothing_and_a_run_that_is_not_known_neither() {
        let ours = run_of("u1");
        let name = writer("delays").unfinished(5, "csv");
        let key = writer("delays").unfinished_objects(&"out".into()).join(writer("delays").object(5, "csv"));
        assert_eq!(owner_in(&ours).attempt_of(&name), Some(Attempt(7)));
        assert_eq!(owner_in(&ours).attempt_of_object(&key), Some(Attempt(7)));
        let others = [
            run_of("u2"),
            OutputOwner { cluster: "c2".to_string(), ..ours.clone() },
            OutputOwner { storage: "file:///elsewhere".to_string(), ..ours.clone() },
            run_of(""),
        ];
        for other in others {
            let names = owner_in(&other);
            assert_eq!((names.attempt_of(&name), names.attempt_of_object(&key)), (None, None), "{other:?}");
            assert_ne!(names.unfinished_objects(&"out".into()), owner_in(&ours).unfinished_objects(&"out".into()));
        }
        let unknown = Writer { owner: owner_in(&run_of("")), ..writer("delays") };
        assert_eq!(unknown.owner.attempt_of(&unknown.unfinished(5, "csv")), None, "it may be anybody's");
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

    #[test]
    fn unfinished_objects_are_hidden_and_belong_to_one_sink_of_one_job() {
        let writer = writer("delays");
        let folder = writer.unfinished_objects(&"out".into());
        assert_eq!(folder.as_ref(), format!("out/_unfinished/{:016x}", writer.owner.hash));
        let key = folder.join(writer.object(5, "csv"));
        assert_eq!(owner("delays", "sink").attempt_of_object(&key), Some(Attempt(7)));
        for other in [owner("delays", "other"), owner("delay", "sink")] {
            assert_eq!(other.attempt_of_object(&key), None);
        }
    }

    #[test]
    fn a_pending_object_reads_back_and_one_that_publishes_a_hidden_key_is_refused() {
        let pending = PendingObject {
            place: Place { bucket: "b".to_string(), endpoint: Some("http://here:9000".to_string()), region: None },
            unfinished: "out/_unfinished/1/part-1.csv".into(),
            published: "out/part-1.csv".into(),
        };
        let value = serde_json::to_value(&pending).unwrap();
        assert_eq!(
            value,
            json!({
                "place": {"bucket": "b", "endpoint": "http://here:9000"},
                "unfinished": "out/_unfinished/1/part-1.csv",
                "published": "out/part-1.csv",
            })
        );
        assert_eq!(AnyPending::read(&value).unwrap(), AnyPending::Object(pending));
        for (name, key) in ["", "out/_a", "out/.a", "out/../a", "out//a"]
            .map(|key| ("published", key))
            .into_iter()
            .chain([("unfinished", "out/part-1.csv"), ("unfinished", "")])
        {
            let mut value = value.clone();
            value[name] = json!(key);
            assert!(AnyPending::read(&value).is_err(), "{name} {key}");
        }
    }
}
