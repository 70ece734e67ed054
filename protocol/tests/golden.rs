//! An object of each kind and version as it stands in storage. Those of old versions are read for ever, and written as they
//! were while this build can write them; those of the newest change only with a new version.
//!
//! `UPDATE=1` writes the files that are missing, and none that is there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;
use weir_protocol::{
    Attempt, CheckpointId, JobName, RecordNumber, SubtaskIndex, Term, WorkerId,
    part::{
        ChannelName, ChannelState, EventTime, FileRef, Item, ItemKind, Keeper, KeyedSnapshot, Layout, OperatorPart,
        Part, Role, SubtaskPart, Table, TableKind,
    },
    record::{Opening, PartRef, Record, RecordRef, Restores, Seal, Slot, encode, read},
    stored::{FORMAT, FORMATS_WRITTEN, FormatError, Stored},
};

fn path(version: u32, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}-{name}.json"))
}

/// The file is the object, in both directions.
#[track_caller]
fn holds<T: Stored + Serialize + PartialEq + std::fmt::Debug>(version: u32, name: &str, object: &T) {
    let path = path(version, name);
    if std::env::var_os("UPDATE").is_some() && !path.exists() {
        std::fs::write(&path, encode(object)).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(&read::<T>(name, &golden).unwrap(), object, "{} reads as something else", path.display());
    if FORMATS_WRITTEN.contains(&version) {
        let (written, golden) = (String::from_utf8(encode(object)).unwrap(), String::from_utf8(golden).unwrap());
        assert_eq!(written, golden.trim_end(), "{} is written otherwise", path.display());
    }
}

/// The manifest of a savepoint has versions of its own.
#[test]
fn savepoints() {
    use weir_protocol::{
        record::decode,
        savepoint::{Begun, Form, Output, SAVEPOINT_VERSION, SavedObject, Savepoint},
    };
    let savepoint = Savepoint {
        version: SAVEPOINT_VERSION,
        build: "0.1.0".into(),
        job: job(),
        owner: "2f1c6c8e-0001-4c1d-9d1e-6f2f00000001".into(),
        cluster: "local".into(),
        checkpoint: reference(),
        form: Form::Native,
        is_final: false,
        parallelism: 4,
        max_parallelism: 128,
        fingerprint: "0123456789abcdef0123456789abcdef".into(),
        completed_at_ms: 1_700_000_000_000,
        state_bytes: 4096,
        output: Output::Published,
        parts: vec![PartRef {
            worker: WorkerId("0123abcd4567".into()),
            path: weir_protocol::paths::saved_part(0),
            length: 900,
            crc32c: 7,
            inline: None,
        }],
        objects: vec![SavedObject { path: weir_protocol::paths::saved_state(0), length: 4096 }],
    };
    let begun =
        Begun { version: SAVEPOINT_VERSION, job: job(), by: "host:17:0a1b2c3d".into(), checkpoint: CheckpointId(41) };
    let golden = |name: &str, written: Vec<u8>| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/savepoint-v1-{name}.json"));
        if std::env::var_os("UPDATE").is_some() && !path.exists() {
            std::fs::write(&path, &written).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(golden.clone()).unwrap().trim_end());
        golden
    };
    let bytes = golden("manifest", encode(&savepoint));
    assert_eq!(decode::<Savepoint>("savepoint", &bytes, SAVEPOINT_VERSION).unwrap(), savepoint);
    let bytes = golden("begun", encode(&begun));
    assert_eq!(decode::<Begun>("begun", &bytes, SAVEPOINT_VERSION).unwrap(), begun);
    let later = String::from_utf8(encode(&savepoint)).unwrap().replace("\"version\": 1", "\"version\": 2");
    let error = decode::<Savepoint>("savepoint", later.as_bytes(), SAVEPOINT_VERSION).unwrap_err();
    assert!(matches!(error, FormatError::Version { found: 2, .. }), "{error}");
}

fn reference() -> RecordRef {
    RecordRef { id: CheckpointId(41), term: Term(8), number: RecordNumber(12) }
}

fn job() -> JobName {
    JobName { namespace: "default".into(), name: "sums".into() }
}

fn opening(version: u32, restores: Restores) -> Opening {
    Opening {
        version,
        term: Term(9),
        attempt: Attempt(7),
        job: job(),
        coordinator: "host-17-1700000000".into(),
        owner: "2f1c6c8e-0001-4c1d-9d1e-6f2f00000001".into(),
        cluster: "local".into(),
        restores,
        commits: None,
        accepts_lost_output: false,
        workers: 2,
        slots: 2,
        max_parallelism: 128,
        fingerprint: "0123456789abcdef0123456789abcdef".into(),
        wish: None,
    }
}

fn record(version: u32) -> Slot {
    Slot::Record(Record {
        version,
        id: CheckpointId(42),
        term: Term(9),
        number: RecordNumber(1),
        attempt: Attempt(7),
        job: job(),
        is_final: false,
        parallelism: 4,
        max_parallelism: 128,
        fingerprint: "0123456789abcdef0123456789abcdef".into(),
        parts: vec![
            PartRef {
                worker: WorkerId("0a1b2c3d4e5f".into()),
                path: "parts/0000000042-0000000007-0a1b2c3d4e5f".into(),
                length: 1234,
                crc32c: 0xdead_beef,
                inline: None,
            },
            PartRef {
                worker: WorkerId("1a1b2c3d4e5f".into()),
                path: "parts/0000000042-0000000007-1a1b2c3d4e5f".into(),
                length: 2,
                crc32c: 7,
                inline: Some("{}".into()),
            },
        ],
        completed_at_ms: 1_700_000_000_000,
        duration_ms: 180,
        state_bytes: 4096,
        uploaded_bytes: 1024,
    })
}

fn seal(version: u32) -> Slot {
    Slot::Seal(Seal {
        version,
        term: Term(9),
        number: RecordNumber(2),
        by: "host-18-1700000001".into(),
        at_ms: 1_700_000_001_000,
    })
}

fn file(name: &str, inline: Option<&str>) -> FileRef {
    FileRef {
        name: name.into(),
        path: if inline.is_some() { String::new() } else { "state/0000000007-0a1b2c3d4e5f/0000000003".into() },
        offset: 17,
        length: 4,
        crc32c: 99,
        inline: inline.map(str::to_string),
    }
}

fn part(version: u32) -> Part {
    let operator = "aggregate-0123456789abcdef";
    let subtasks = vec![
        SubtaskPart {
            stage: "stage-00000000000000aa".into(),
            subtask: SubtaskIndex(0),
            finished: true,
            watermark_ms: Some(1_700_000_000_000),
            keyed: None,
            operators: vec![OperatorPart {
                operator: "source-0123456789abcdef".into(),
                items: vec![Item {
                    kind: ItemKind::Split,
                    value: serde_json::json!({"split": {"of": 1, "files": ["in.csv"], "offset": 100, "line": 9}}),
                }],
                event_time: None,
            }],
            channel_state: Vec::new(),
        },
        SubtaskPart {
            stage: "stage-00000000000000bb".into(),
            subtask: SubtaskIndex(1),
            finished: false,
            watermark_ms: None,
            keyed: Some(KeyedSnapshot {
                backend: "rocksdb".into(),
                key_group_start: 64,
                key_group_end: 66,
                key_group_watermarks: vec![5, 6],
                files: vec![file("000012.sst", None), file("CURRENT", Some("AAECAw=="))],
            }),
            operators: vec![
                OperatorPart::new(operator),
                OperatorPart {
                    operator: "sink-0123456789abcdef".into(),
                    items: vec![
                        Item { kind: ItemKind::Commit, value: serde_json::json!({"checkpoint": 42, "value": "f"}) },
                        Item { kind: ItemKind::Other, value: serde_json::Value::Null },
                    ],
                    event_time: None,
                },
            ],
            channel_state: Vec::new(),
        },
    ];
    Part {
        version,
        id: CheckpointId(42),
        attempt: Attempt(7),
        worker: WorkerId("0a1b2c3d4e5f".into()),
        script: String::new(),
        keepers: Vec::new(),
        subtasks,
    }
}

fn described_part(version: u32) -> Part {
    let keeper = |role, operator: &str, stage: &str, name: &str| Keeper {
        operator: operator.into(),
        role,
        stage: stage.into(),
        name: name.into(),
        line: Some(5),
        family: operator.into(),
        ordinal: 0,
        statement: "00000000000000ff".into(),
        discriminator: "(t.v > 1)".into(),
        rows_under: operator.into(),
        tables: Vec::new(),
    };
    let table = |name: &str, id, kind, layout| Table {
        name: name.into(),
        id,
        kind,
        key: vec!["INT".into()],
        row: vec!["SUM BIGINT".into()],
        layout,
        codec: "accumulators/1".into(),
        schema: "89abcdef01234567".into(),
    };
    let mut part = part(version);
    part.script = "fedcba9876543210fedcba9876543210".into();
    part.keepers = vec![
        keeper(Role::Source, "source-0123456789abcdef", "stage-00000000000000aa", "s"),
        Keeper {
            ordinal: 1,
            operator: "aggregate-0123456789abcdef-2".into(),
            tables: vec![
                table("groups", 1, TableKind::Table, Layout::Fixed(9)),
                table("slices", 2, TableKind::Slices, Layout::Variable),
            ],
            ..keeper(
                Role::Operator,
                "aggregate-0123456789abcdef",
                "stage-00000000000000bb",
                "GroupAggregate(by k: SUM(v))",
            )
        },
        Keeper { line: None, ..keeper(Role::Sink, "sink-0123456789abcdef", "stage-00000000000000bb", "o") },
    ];
    part.subtasks[1].channel_state = vec![ChannelState {
        channel: ChannelName {
            consumer: "aggregate-0123456789abcdef".into(),
            input: 0,
            from: SubtaskIndex(0),
            to: SubtaskIndex(1),
        },
        file: file("channel", None),
    }];
    part
}

#[test]
fn version_1_is_read_and_written_as_it_always_was() {
    holds(1, "opening-nothing", &opening(1, Restores::Nothing));
    holds(1, "opening-record", &opening(1, Restores::Record(reference())));
    holds(1, "record", &record(1));
    holds(1, "seal", &seal(1));
    holds(1, "part", &part(1));
}

#[test]
fn version_2_is_read_and_written_as_it_stands() {
    term_holds(2);
    holds(2, "part", &described_part(2));
}

fn term_holds(version: u32) {
    holds(version, "opening-nothing", &opening(version, Restores::Nothing));
    holds(version, "opening-record", &opening(version, Restores::Record(reference())));
    let savepoint = Restores::Savepoint { location: "s3://bucket/savepoints/sums/1".into(), id: CheckpointId(41) };
    holds(version, "opening-savepoint", &opening(version, savepoint));
    let older = RecordRef { id: CheckpointId(40), term: Term(8), number: RecordNumber(11) };
    let left =
        Opening { commits: Some(reference()), accepts_lost_output: true, ..opening(version, Restores::Record(older)) };
    holds(version, "opening-commits", &left);
    holds(version, "record", &record(version));
    holds(version, "seal", &seal(version));
}

/// The second stage's aggregation has been told less than its stage.
fn part_with_event_times() -> Part {
    let mut part = described_part(3);
    part.subtasks[1].operators[0].event_time =
        Some(EventTime { watermark_ms: Some(4), key_group_watermarks: vec![4, 6] });
    part
}

#[test]
fn version_3_is_read_and_written_as_it_stands() {
    term_holds(3);
    holds(3, "part", &part_with_event_times());
}

#[test]
fn a_part_is_written_as_older_builds_read_it_without_what_they_do_not_know() {
    assert_eq!(part_with_event_times().into_version_2(), described_part(2));
    assert_eq!(part_with_event_times().into_version_1(&BTreeMap::new()).subtasks[1].operators[0].event_time, None);
    let mut wrong = part_with_event_times();
    wrong.version = 2;
    assert!(read::<Part>("part", &encode(&wrong)).is_err());
}

#[test]
fn an_object_of_a_newer_build_is_refused_with_what_is_read_here() {
    let newer = encode(&seal(FORMAT + 1));
    let error = read::<Slot>("terms/0000000009/0000000002", &newer).unwrap_err();
    assert!(matches!(error, FormatError::Version { found: 4, oldest: 1, newest: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("terms/0000000009/0000000002 has format version 4"), "{error}");
}

#[test]
fn what_version_1_does_not_know_is_not_read_as_version_1() {
    let mut described = described_part(2);
    described.version = 1;
    assert!(read::<Part>("part", &encode(&described)).is_err());
    let two = String::from_utf8(encode(&opening(2, Restores::Record(reference())))).unwrap();
    assert!(read::<Opening>("opening", two.replacen("\"version\": 2", "\"version\": 1", 1).as_bytes()).is_err());
}
