//! Savepoints on one machine: of a job that runs and of one that is stopped, into the same job and into another.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, path::Path};

use weir_e2e_local::{Job, Settings, weir};

/// Counts per key until all rows are counted.
const COUNTING: &str = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '60000', 'rows-per-second' = '10000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '59999');
CREATE TABLE sums (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/out', 'format' = 'json',
  'changelog' = 'true');
INSERT INTO sums SELECT MOD(n, 100), COUNT(*) FROM numbers GROUP BY MOD(n, 100);";

/// The counts that these changelogs leave together.
fn counts<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> BTreeMap<u64, u64> {
    let mut rows: BTreeMap<(u64, u64), i64> = BTreeMap::new();
    for line in jobs.into_iter().flat_map(Job::output) {
        let row: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
        let key = (row["k"].as_u64().unwrap(), row["c"].as_u64().unwrap());
        *rows.entry(key).or_default() += if row["op"] == "-U" { -1 } else { 1 };
    }
    rows.retain(|_, n| *n != 0);
    assert!(rows.values().all(|n| *n == 1), "a count was reached twice, or taken back and never reached");
    rows.into_keys().collect()
}

/// The highest count of each key that a job has ever shown.
fn reached(job: &Job) -> BTreeMap<u64, u64> {
    let mut reached = BTreeMap::new();
    for line in job.output() {
        let row: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
        let most = reached.entry(row["k"].as_u64().unwrap()).or_insert(0);
        *most = row["c"].as_u64().unwrap().max(*most);
    }
    reached
}

fn take(job: &Job, to: &Path) -> (i32, String) {
    let (yaml, state) = (job.yaml(), job.path().join("state"));
    weir(&["savepoint", yaml.to_str().unwrap(), "--to", to.to_str().unwrap(), "--state-dir", state.to_str().unwrap()])
}

fn inspect(place: &Path) -> (i32, String) {
    weir(&["savepoint", "inspect", place.to_str().unwrap()])
}

fn half_way(job: &Job) {
    let mut weir = job.start(&[]);
    weir.until("some checkpoints", || job.newest_id() >= 3);
    weir.interrupt();
    weir.succeed();
}

#[test]
fn another_job_of_another_size_goes_on_exactly_where_a_stopped_one_was_when_its_checkpoints_are_gone() {
    for backend in ["rocksdb", "jobmanager"] {
        let first = Job::new("first", &Settings { backend, ..Settings::default() }, COUNTING);
        half_way(&first);
        let place = first.path().join("kept");
        let (code, said) = take(&first, &place);
        assert_eq!(code, 0, "{said}");
        std::fs::remove_dir_all(first.storage()).unwrap();

        let (code, said) = inspect(&place);
        assert_eq!(code, 0, "{said}");
        for part in [
            "default/first",
            "native",
            "4, 128 key groups",
            "key (INT)",
            "(COUNT)",
            "GroupAggregate",
            "source, 4 splits",
        ] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }

        let other = Settings { workers: 1, slots: 3, backend, ..Settings::default() };
        let second = Job::new("second", &other, COUNTING);
        second.start(&["--restore", place.to_str().unwrap()]).succeed();
        std::fs::remove_dir_all(&place).unwrap();
        let counts = counts([&first, &second]);
        assert!(counts.len() == 100 && counts.values().all(|count| *count == 600), "{backend}: {counts:?}");
        assert!(reached(&first).values().any(|count| *count < 600), "the first had not counted all");
        // It acted, and is not needed any more.
        second.start(&[]).succeed();
    }
}

#[test]
fn a_savepoint_of_a_running_job_disturbs_nothing_and_the_yaml_takes_it_up() {
    let first = Job::new("first", &Settings::default(), COUNTING);
    let mut run = first.start(&[]);
    run.until("a checkpoint", || first.newest_id() >= 2);
    let (one, two) = (first.path().join("one"), first.path().join("two"));
    let (said, again) = std::thread::scope(|scope| {
        let other = scope.spawn(|| take(&first, &two));
        (take(&first, &one), other.join().unwrap())
    });
    for (code, said) in [said, again] {
        assert_eq!(code, 0, "{said}");
        assert!(!said.contains("note:"), "a later checkpoint says that all is published\n{said}");
    }
    run.succeed();
    assert!(counts([&first]).values().all(|count| *count == 600));

    let more = format!("  restoreFrom: {{savepoint: \"{}\"}}\n", one.display());
    let second = Job::new("second", &Settings { more, ..Settings::default() }, COUNTING);
    let mut run = second.start(&[]);
    run.until("a checkpoint", || second.newest_id() >= 2);
    run.kill();
    // A value acts once: what comes after goes on from the job's own newest checkpoint.
    second.start(&[]).succeed();
    let reached = reached(&second);
    assert!(reached.len() == 100 && reached.values().all(|count| *count == 600), "{reached:?}");
}

#[test]
fn the_same_job_goes_back_to_its_savepoint_and_publishes_first_what_it_has_promised() {
    let job = Job::new("back", &Settings::default(), COUNTING);
    half_way(&job);
    let place = job.path().join("kept");
    assert_eq!(take(&job, &place).0, 0);
    let before = job.output().len();
    let mut run = job.start(&[]);
    let seen = job.newest_id();
    run.until("two more checkpoints", || job.newest_id() >= seen + 2);
    run.kill();
    job.start(&["--restore", place.to_str().unwrap()]).succeed();
    assert!(job.output().len() > before);
    let reached = reached(&job);
    assert!(reached.len() == 100 && reached.values().all(|count| *count == 600), "{reached:?}");
}

#[test]
fn what_cannot_be_is_refused_with_place_reason_and_remedy() {
    let job = Job::new("refused", &Settings::default(), COUNTING);
    let (code, said) = take(&job, &job.path().join("kept"));
    assert!(code == 2 && said.contains("no checkpoint"), "{code}: {said}");
    half_way(&job);
    let (code, said) = take(&job, job.path());
    assert!(code == 2 && said.contains("is not empty"), "{code}: {said}");
    let (code, said) = take(&job, Path::new("/proc/kept"));
    assert!(code == 3 && said.contains("cannot be written"), "{code}: {said}");

    let place = job.path().join("kept");
    assert_eq!(take(&job, &place).0, 0);
    let (status, said) = job.start(&["--restore", job.path().join("out/").to_str().unwrap()]).wait();
    assert!(status.code() == Some(2) && said.contains("holds no savepoint"), "{said}");

    let groups =
        Job::new("groups", &Settings { more: "  maxParallelism: 64\n".into(), ..Settings::default() }, COUNTING);
    let (status, said) = groups.start(&["--restore", place.to_str().unwrap()]).wait();
    assert!(status.code() == Some(2) && said.contains("maxParallelism was 128"), "{said}");

    let script = Job::new("script", &Settings::default(), &COUNTING.replace("COUNT(*)", "SUM(n)"));
    let (status, said) = script.start(&["--restore", place.to_str().unwrap()]).wait();
    assert!(status.code() == Some(2) && said.contains("GroupAggregate"), "{said}");

    let backend = Job::new("backend", &Settings { backend: "memory", ..Settings::default() }, COUNTING);
    let (status, said) = backend.start(&["--restore", place.to_str().unwrap()]).wait();
    assert!(status.code() == Some(2) && said.contains("keep the backend"), "{said}");

    std::fs::remove_file(place.join("savepoint")).unwrap();
    for (code, said) in [inspect(&place), {
        let (status, said) = job.start(&["--restore", place.to_str().unwrap()]).wait();
        (status.code().unwrap(), said)
    }] {
        assert!(code == 2 && said.contains("is not complete"), "{code}: {said}");
    }
}
