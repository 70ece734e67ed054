use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use weir_engine::api::batch::{Batch, RowKind};
use weir_engine::api::error::{FailureKind, SinkError};
use weir_engine::api::sink::{CommitContext, Committer, Sink, SinkContext};
use weir_protocol::{Attempt, CheckpointId, JobName};

use super::paths::is_hidden;
use super::*;
use crate::spec::ChangelogMode;
use crate::testing::{run_of, sink_context};

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("text", DataType::Utf8, true)]))
}

fn batch(ids: impl IntoIterator<Item = i64>) -> Batch {
    let ids: Vec<_> = ids.into_iter().collect();
    let texts: Vec<_> = ids.iter().map(|id| (id % 2 == 0).then(|| format!("row, {id}"))).collect();
    let columns = vec![Arc::new(Int64Array::from(ids)) as _, Arc::new(StringArray::from(texts)) as _];
    Batch::inserts(RecordBatch::try_new(schema(), columns).unwrap())
}

fn table(folder: &Path, format: &str) -> TableSpec {
    TableSpec::new("output", schema())
        .with("connector", "filesystem")
        .with("path", folder.to_str().unwrap())
        .with("format", format)
}

fn refused(table: &TableSpec) -> ConnectorError {
    Filesystem.sink(table).map(|_| ()).unwrap_err()
}

/// A job's sink over attempts.
struct Job {
    factory: Arc<dyn SinkFactory>,
    runtime: Runtime,
    name: JobName,
    /// The uid of what runs it.
    owner: &'static str,
    folder: Arc<TempDir>,
}

impl Job {
    fn new(configure: impl FnOnce(TableSpec) -> TableSpec) -> Self {
        Self::of("job", "csv", configure)
    }

    fn of(name: &str, format: &str, configure: impl FnOnce(TableSpec) -> TableSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let factory = Filesystem.sink(&configure(table(&folder.path().join("out"), format))).unwrap();
        let name = JobName { namespace: "default".to_string(), name: name.to_string() };
        Self { factory, runtime: Runtime::new().unwrap(), name, owner: "u1", folder: Arc::new(folder) }
    }

    /// The same manifest with the same output, applied in another cluster or run from another folder.
    fn elsewhere(&self) -> Self {
        let (factory, name, folder) = (Arc::clone(&self.factory), self.name.clone(), Arc::clone(&self.folder));
        Self { factory, runtime: Runtime::new().unwrap(), name, owner: "u2", folder }
    }

    fn sink(&self, attempt: u64, subtask: u32) -> Box<dyn Sink> {
        let only = sink_context(&self.name, &self.runtime);
        let owner = run_of(self.owner);
        let ctx = SinkContext { owner, attempt: Attempt(attempt), subtask, parallelism: 2, ..only };
        self.factory.create(&ctx).unwrap()
    }

    fn committer(&self, attempt: u64) -> Arc<dyn Committer> {
        let (job, owner) = (self.name.clone(), run_of(self.owner));
        let ctx = CommitContext { job, owner, attempt: Attempt(attempt), sink: "sink".to_string() };
        self.factory.committer(&ctx).unwrap()
    }

    fn commit(&self, pending: &[Value]) {
        self.try_commit(pending).unwrap();
    }

    fn try_commit(&self, pending: &[Value]) -> Result<(), SinkError> {
        let committer = self.committer(1);
        self.runtime.block_on(committer.commit(pending))
    }

    fn forget(&self, published: &[Value]) {
        let committer = self.committer(1);
        self.runtime.block_on(committer.forget(published));
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// A reader takes away what it sees.
    fn take_published(&self) {
        self.files(false).into_keys().for_each(|name| fs::remove_file(self.out().join(name)).unwrap());
    }

    /// Somebody removes what is hidden.
    fn sweep(&self) {
        self.all().filter(|name| is_hidden(name)).for_each(|name| fs::remove_file(self.out().join(name)).unwrap());
    }

    fn all(&self) -> impl Iterator<Item = String> {
        fs::read_dir(self.out()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap())
    }

    fn marks(&self) -> usize {
        self.all().filter(|name| is_mark(name)).count()
    }

    fn clean(&self, attempt: u64, keep: &[Value]) {
        let committer = self.committer(attempt);
        self.runtime.block_on(committer.clean(keep)).unwrap();
    }

    /// All but the marks.
    fn files(&self, hidden: bool) -> BTreeMap<String, String> {
        let names = self.all().filter(|name| is_hidden(name) == hidden && !is_mark(name));
        names.map(|name| (name.clone(), fs::read_to_string(self.out().join(name)).unwrap())).collect()
    }

    /// The lines that readers see, sorted.
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.files(false).values().flat_map(|text| text.lines().map(str::to_string)).collect();
        lines.sort();
        lines
    }
}

fn is_mark(name: &str) -> bool {
    name.rsplit('.').next() == Some("done")
}

/// What is lost, by the name that it was to have.
fn lost(error: &SinkError) -> &str {
    assert_eq!(error.kind, FailureKind::OutputLost, "{error}");
    &error.message
}

fn prepare(sink: &mut dyn Sink, id: u64) -> Vec<Value> {
    sink.prepare(CheckpointId(id)).unwrap()().unwrap()
}

#[test]
fn rows_are_seen_when_their_checkpoint_is_committed_and_not_before() {
    let job = Job::new(|table| table.with("csv.header", "true"));
    let mut sink = job.sink(1, 0);
    sink.write(batch([1, 2])).unwrap();
    let first = prepare(&mut *sink, 1);
    sink.write(batch([3])).unwrap();
    assert!(job.lines().is_empty());
    job.commit(&first);
    assert_eq!(job.lines(), ["1,", "2,\"row, 2\"", "id,text"]);
    let second = prepare(&mut *sink, 2);
    job.commit(&second);
    assert_eq!(job.lines(), ["1,", "2,\"row, 2\"", "3,", "id,text", "id,text"]);
    assert!(job.files(true).is_empty());
    assert!(job.files(false).keys().all(|name| name.starts_with("part-1-") && name.contains(".csv")));
}

#[test]
fn a_second_commit_and_one_after_a_reader_took_the_file_change_nothing() {
    let job = Job::new(|table| table);
    let mut sink = job.sink(1, 0);
    sink.write(batch([2])).unwrap();
    let pending = prepare(&mut *sink, 1);
    job.commit(&pending);
    job.commit(&pending);
    assert_eq!(job.lines(), ["2,\"row, 2\""]);
    let name = job.files(false).into_keys().next().unwrap();
    fs::remove_file(job.folder.path().join("out").join(name)).unwrap();
    job.commit(&pending);
    assert!(job.lines().is_empty());
}

#[test]
fn a_commit_that_another_attempt_repeats_finds_the_mark_of_the_first() {
    let job = Job::new(|table| table);
    let mut sink = job.sink(1, 0);
    sink.write(batch([2])).unwrap();
    let pending = prepare(&mut *sink, 1);
    job.commit(&pending);
    job.take_published();
    // The attempt after the next one is restored from the same record, and what it keeps is marked still.
    for attempt in [2, 3] {
        job.clean(attempt, &pending);
        job.runtime.block_on(job.committer(attempt).commit(&pending)).unwrap();
    }
    assert_eq!((job.lines().len(), job.marks()), (0, 1));
    // A record stands that does not name it any more.
    job.forget(&pending);
    assert_eq!(job.all().count(), 0);
}

#[test]
fn marks_of_what_the_record_does_not_name_are_cleaned() {
    let job = Job::new(|table| table);
    let mut sink = job.sink(1, 0);
    sink.write(batch([2])).unwrap();
    job.commit(&prepare(&mut *sink, 1));
    assert_eq!(job.marks(), 1);
    job.elsewhere().clean(2, &[]);
    assert_eq!(job.marks(), 1, "another run's");
    job.clean(2, &[]);
    assert_eq!(job.marks(), 0);
}

#[test]
fn what_is_neither_unfinished_nor_published_nor_marked_is_lost_and_all_else_is_published() {
    let job = Job::new(|table| table.with("sink.rolling-policy.file-size", "1"));
    let mut sink = job.sink(1, 0);
    for row in [2, 4, 6] {
        sink.write(batch([row])).unwrap();
    }
    let pending = prepare(&mut *sink, 1);
    let unfinished = pending[1]["unfinished"].as_str().unwrap();
    fs::remove_file(job.out().join(unfinished)).unwrap();
    for _ in 0..2 {
        let error = job.try_commit(&pending).unwrap_err();
        let published = job.out().join(pending[1]["published"].as_str().unwrap());
        assert!(lost(&error).contains(published.to_str().unwrap()), "{error}");
        assert!(lost(&error).contains(unfinished) && !lost(&error).contains(';'), "{error}");
        assert_eq!(job.lines(), ["2,\"row, 2\"", "6,\"row, 6\""]);
    }
    // What is brought back is published.
    fs::write(job.out().join(unfinished), "4,\n").unwrap();
    job.commit(&pending);
    assert_eq!(job.lines(), ["2,\"row, 2\"", "4,", "6,\"row, 6\""]);
}

#[test]
fn of_many_that_are_lost_a_few_are_named() {
    let job = Job::new(|table| table.with("sink.rolling-policy.file-size", "1"));
    let mut sink = job.sink(1, 0);
    for row in 0..20 {
        sink.write(batch([row])).unwrap();
    }
    let pending = prepare(&mut *sink, 1);
    job.sweep();
    let error = job.try_commit(&pending).unwrap_err();
    assert!(lost(&error).ends_with("; and 17 more"), "{error}");
}

#[test]
fn a_crash_before_and_after_the_rename_loses_and_repeats_nothing() {
    for (renamed, taken) in [(false, false), (true, false), (true, true)] {
        let job = Job::new(|table| table);
        let mut sink = job.sink(1, 0);
        sink.write(batch([2])).unwrap();
        let pending = prepare(&mut *sink, 1);
        let [from, to] = ["unfinished", "published"].map(|name| job.out().join(pending[0][name].as_str().unwrap()));
        fs::write(format!("{}.done", from.display()), "").unwrap();
        if renamed {
            fs::rename(&from, &to).unwrap();
        }
        if taken {
            fs::remove_file(&to).unwrap();
        }
        job.clean(2, &pending);
        job.commit(&pending);
        assert_eq!(job.lines().len(), usize::from(!taken), "{renamed} {taken}");
        assert_eq!(job.files(true).len(), 0);
    }
}

#[test]
fn a_run_of_the_same_job_elsewhere_removes_nothing_of_this_one() {
    let job = Job::new(|table| table);
    let other = job.elsewhere();
    let mut sink = job.sink(1, 0);
    sink.write(batch([2])).unwrap();
    let pending = prepare(&mut *sink, 1);
    other.sink(1, 0).write(batch([4])).unwrap();
    assert_eq!(job.files(true).len(), 2);
    // The other has lost a worker; what it has written is its own to drop.
    other.clean(2, &[]);
    assert_eq!(job.files(true).len(), 1);
    job.commit(&pending);
    assert_eq!(job.lines(), ["2,\"row, 2\""]);
}

#[test]
fn what_a_build_without_owners_in_names_has_left_pending_is_committed() {
    let job = Job::new(|table| table);
    fs::create_dir(job.out()).unwrap();
    let name = ".default_job_4e2e8418e6525c72_3_0123abcd4567_0_17.csv";
    fs::write(job.out().join(name), "2,\n").unwrap();
    let pending = serde_json::json!({
        "folder": job.out(), "unfinished": name, "published": "part-3-0123abcd4567-0-9-17.csv",
    });
    // Also where that build has published it: it has left no mark, and nobody has moved it away.
    for _ in 0..2 {
        job.clean(4, std::slice::from_ref(&pending));
        job.commit(std::slice::from_ref(&pending));
        assert_eq!(
            job.files(false).into_iter().collect::<Vec<_>>(),
            [("part-3-0123abcd4567-0-9-17.csv".to_string(), "2,\n".to_string())]
        );
        job.sweep();
    }
}

#[test]
fn a_file_that_was_removed_or_replaced_while_it_was_written_fails_the_checkpoint() {
    for replaced in [false, true] {
        let job = Job::new(|table| table);
        let mut sink = job.sink(1, 0);
        sink.write(batch([2])).unwrap();
        let name = job.files(true).into_keys().next().unwrap();
        job.sweep();
        if replaced {
            fs::write(job.out().join(&name), "").unwrap();
        }
        let error = sink.prepare(CheckpointId(1)).unwrap()().unwrap_err();
        assert_eq!(error.kind, FailureKind::Io, "it is written again: {error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

#[test]
fn a_commit_into_a_folder_that_is_gone_fails() {
    let job = Job::new(|table| table);
    let mut sink = job.sink(1, 0);
    sink.write(batch([2])).unwrap();
    let pending = prepare(&mut *sink, 1);
    fs::remove_dir_all(job.folder.path().join("out")).unwrap();
    let committer = job.committer(1);
    let error = job.runtime.block_on(committer.commit(&pending)).unwrap_err();
    assert!(error.to_string().starts_with("cannot publish "), "{error}");
}

#[test]
fn a_checkpoint_without_rows_makes_no_file() {
    let job = Job::new(|table| table.with("csv.header", "true"));
    let mut sink = job.sink(1, 0);
    sink.write(batch([])).unwrap();
    assert!(prepare(&mut *sink, 1).is_empty());
    assert!(job.files(true).is_empty());
}

#[test]
fn an_attempt_that_dies_anywhere_leaves_nothing_that_is_seen_and_nothing_that_stays() {
    // How far the attempt gets after its committed checkpoint before it is killed.
    for reached in 0..5 {
        let job = Job::new(|table| table);
        let mut sink = job.sink(1, 0);
        sink.write(batch([2])).unwrap();
        let committed = prepare(&mut *sink, 1);
        job.commit(&committed);
        let mut uncommitted = Vec::new();
        if reached >= 1 {
            sink.write(batch([4])).unwrap();
        }
        if reached >= 2 {
            let persist = sink.prepare(CheckpointId(2)).unwrap();
            if reached >= 3 {
                uncommitted = persist().unwrap();
            }
        }
        if reached >= 4 {
            sink.write(batch([6])).unwrap();
        }
        drop(sink);
        // The record of checkpoint 2 was never written: the restore is from 1.
        job.clean(2, &committed);
        assert_eq!(job.lines(), ["2,\"row, 2\""], "{reached}");
        assert!(job.files(true).is_empty(), "{reached}");
        // The old attempt's commit comes late, which it only could by a mistake; it brings nothing back.
        let late = job.try_commit(&uncommitted);
        assert_eq!(late.is_err(), reached >= 3, "{reached}");
        assert_eq!(job.lines(), ["2,\"row, 2\""], "{reached}");
    }
}

#[test]
fn what_a_record_names_survives_the_restore_and_is_committed_by_another_subtask() {
    let job = Job::new(|table| table);
    let mut sink = job.sink(1, 1);
    sink.write(batch([2])).unwrap();
    let mut pending = prepare(&mut *sink, 1);
    sink.write(batch([4])).unwrap();
    pending.extend(prepare(&mut *sink, 2));
    sink.write(batch([6])).unwrap();
    drop(sink);
    // Both are pending in the record of checkpoint 2; it was the last act of the attempt.
    job.clean(2, &pending);
    assert_eq!(job.files(true).len(), 2);
    job.commit(&pending[1..]);
    job.commit(&pending);
    assert_eq!(job.lines(), ["2,\"row, 2\"", "4,\"row, 4\""]);
}

#[test]
fn a_crash_between_two_renames_is_finished_by_the_next_commit() {
    let job = Job::new(|table| table.with("sink.rolling-policy.file-size", "1"));
    let mut sink = job.sink(1, 0);
    sink.write(batch([2])).unwrap();
    sink.write(batch([4])).unwrap();
    let pending = prepare(&mut *sink, 1);
    assert_eq!(pending.len(), 2);
    job.commit(&pending[..1]);
    drop(sink);
    job.clean(2, &pending);
    job.commit(&pending);
    assert_eq!(job.lines(), ["2,\"row, 2\"", "4,\"row, 4\""]);
}

#[test]
fn cleaning_leaves_other_jobs_and_sinks_the_current_attempt_and_other_files_alone() {
    let job = Job::new(|table| table);
    job.sink(2, 0).write(batch([2])).unwrap();
    let mut current = job.sink(3, 0);
    current.write(batch([4])).unwrap();
    let out = job.folder.path().join("out");
    let others = [
        ".default_other_1_ab_0_0.csv",
        ".default_job_0000000000000001_1_ab_0_0.csv",
        "_SUCCESS",
        ".hidden",
        "part-0.csv",
    ];
    for name in others {
        fs::write(out.join(name), "").unwrap();
    }
    job.clean(3, &[]);
    let hidden: Vec<_> = job.files(true).into_keys().collect();
    assert_eq!(hidden.len(), 5, "{hidden:?}");
    assert!(hidden.iter().any(|name| name.starts_with(".default_job_") && name.contains("_3_")), "{hidden:?}");
    assert!(others.iter().all(|name| out.join(name).exists()));
    // The current attempt can go on.
    job.commit(&prepare(&mut *current, 1));
    assert_eq!(job.lines(), ["4,\"row, 4\""]);
}

#[test]
fn a_file_is_closed_at_its_size() {
    let job = Job::of("job", "json", |table| table.with("sink.rolling-policy.file-size", "1kb"));
    let mut sink = job.sink(1, 0);
    for i in 0..100 {
        sink.write(batch([i])).unwrap();
    }
    let pending = prepare(&mut *sink, 1);
    job.commit(&pending);
    let files = job.files(false);
    assert!(files.len() > 2 && files.values().all(|text| text.len() < 1200), "{files:?}");
    assert_eq!(job.lines().len(), 100);
    assert!(job.lines().contains(&r#"{"id":1,"text":null}"#.to_string()));
}

#[test]
fn updates_are_written_with_what_they_do_if_an_option_says_so_and_refused_otherwise() {
    let out = Path::new("/out");
    let table = table(out, "csv");
    let Accepts::Inserts { remedy } = Filesystem.accepts(&table).unwrap() else { panic!("files take inserts") };
    assert!(remedy.contains("'changelog' = 'true'"));
    let changing = table.with("changelog", "true");
    assert_eq!(Filesystem.accepts(&changing).unwrap(), Accepts::Changes);
    let op = Arc::new(Schema::new(vec![Field::new("op", DataType::Utf8, true)]));
    let error = refused(&TableSpec { schema: op, ..changing });
    assert_eq!(error.column(), Some("op"));

    let changes = || Batch::with_kinds(batch([1, 2]).rows, vec![RowKind::UpdateBefore, RowKind::UpdateAfter]);
    for (format, expected) in [
        ("csv", ["+I,3,", "+U,2,\"row, 2\"", "-U,1,"]),
        (
            "json",
            [
                r#"{"op":"+I","id":3,"text":null}"#,
                r#"{"op":"+U","id":2,"text":"row, 2"}"#,
                r#"{"op":"-U","id":1,"text":null}"#,
            ],
        ),
    ] {
        let job = Job::of("job", format, |table| TableSpec {
            changelog: ChangelogMode::Retract,
            ..table.with("changelog", "true")
        });
        let mut sink = job.sink(1, 0);
        sink.write(changes()).unwrap();
        sink.write(batch([3])).unwrap();
        job.commit(&prepare(&mut *sink, 1));
        assert_eq!(job.lines(), expected);
    }
    let job = Job::new(|table| table);
    assert!(job.sink(1, 0).write(changes()).unwrap_err().to_string().contains("'changelog' = 'true'"));
}

#[test]
fn times_are_written_in_sqls_form() {
    let schema = Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, None), true)]);
    let rows = RecordBatch::try_new(
        Arc::new(schema.clone()),
        vec![Arc::new(TimestampMillisecondArray::from(vec![1000, 1500]))],
    );
    for (format, expected) in [
        ("csv", ["1970-01-01 00:00:01", "1970-01-01 00:00:01.5"]),
        ("json", [r#"{"t":"1970-01-01 00:00:01"}"#, r#"{"t":"1970-01-01 00:00:01.5"}"#]),
    ] {
        let job = Job::of("job", format, |table| TableSpec { schema: Arc::new(schema.clone()), ..table });
        let mut sink = job.sink(1, 0);
        sink.write(Batch::inserts(rows.as_ref().unwrap().clone())).unwrap();
        job.commit(&prepare(&mut *sink, 1));
        assert_eq!(job.lines(), expected);
    }
}

#[test]
fn a_path_cannot_hide_its_files_or_be_a_file() {
    for name in ["/data/.out", "/data/_out", "/data/x/../_out/"] {
        let error = refused(&table(Path::new(name), "csv"));
        assert!(
            error.to_string().contains("take '_out' for unfinished") || error.to_string().contains("take '.out' for"),
            "{error}"
        );
    }
    let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let named = file.path().with_file_name("weir-connectors-a-file");
    fs::copy(file.path(), &named).unwrap();
    let error = refused(&table(&named, "csv"));
    fs::remove_file(&named).unwrap();
    assert!(error.to_string().contains("is not a folder"), "{error}");
    let on = |path: &str| table(Path::new(path), "csv");
    assert!(refused(&on("s3://bucket/_out")).to_string().contains("_out"));
    assert!(
        refused(&on("s3://bucket/out").with("s3.endpoint", "minio:9000")).to_string().contains("http://minio:9000")
    );
    assert!(refused(&on("/out").with("s3.region", "eu-central-1")).to_string().contains("s3://"));
    Filesystem.sink(&on("s3://bucket/out").with("s3.endpoint", "http://minio:9000")).map(drop).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let factory = Filesystem.sink(&table(&folder.path().join("file/out"), "csv")).unwrap();
    let job = JobName { namespace: "default".to_string(), name: "job".to_string() };
    let error = factory.create(&sink_context(&job, &Runtime::new().unwrap())).err().unwrap();
    assert!(error.to_string().contains("file/out"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Two subtasks write numbered rows; the job is killed at random steps and restored from the last record, which is the
    /// last checkpoint whose pending commits were all gathered. Commits come late, twice, or only after the restore.
    #[test]
    fn whatever_is_killed_when_every_row_of_a_record_is_seen_exactly_once(
        steps in proptest::collection::vec((0_u8..6, 0_usize..2), 1..60),
    ) {
        let job = Job::new(|table| table.with("sink.rolling-policy.file-size", "64"));
        let mut attempt = 1;
        let mut sinks = [job.sink(1, 0), job.sink(1, 1)];
        // What the sinks have been given, and what the record says of it.
        let mut next = [0_i64, 1];
        let mut record: ([i64; 2], Vec<Value>) = (next, Vec::new());
        let mut pending: Vec<Value> = Vec::new();
        let mut id = 0;
        for (step, subtask) in steps {
            match step {
                0 | 1 => {
                    sinks[subtask].write(batch([next[subtask], next[subtask] + 2])).unwrap();
                    next[subtask] += 4;
                }
                // A checkpoint that completes.
                2 => {
                    id += 1;
                    for sink in &mut sinks {
                        pending.extend(prepare(&mut **sink, id));
                    }
                    record = (next, pending.clone());
                }
                // One that is aborted after one subtask has cut: what it cut stays pending.
                3 => {
                    id += 1;
                    pending.extend(prepare(&mut *sinks[subtask], id));
                }
                4 => {
                    job.commit(&record.1);
                    pending.retain(|commit| !record.1.contains(commit));
                    record.1.clear();
                }
                _ => {
                    attempt += 1;
                    job.clean(attempt, &record.1);
                    sinks = [job.sink(attempt, 0), job.sink(attempt, 1)];
                    next = record.0;
                    pending.clone_from(&record.1);
                }
            }
        }
        drop(sinks);
        job.clean(attempt + 1, &record.1);
        job.commit(&record.1);
        job.commit(&record.1);
        let mut expected: Vec<_> = (0..record.0[0]).step_by(2).chain((1..record.0[1]).step_by(2)).collect();
        expected.sort_unstable();
        let mut found: Vec<i64> =
            job.lines().iter().map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
        prop_assert!(job.files(true).is_empty());
    }
}
