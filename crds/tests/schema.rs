//! The committed CRD is the generated one, and its rules explain themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use weir_crds::{Duration, JobError, StreamJob, crd_yaml, load_job, openapi_schema};

const JOB: &str = "
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: flight-delays}
spec:
  sql: SELECT 1
  checkpoint:
    storage: {url: checkpoints}
";

fn replaced(from: &str, to: &str) -> String {
    assert!(JOB.contains(from));
    JOB.replace(from, to)
}

#[test]
fn the_committed_crds_are_the_generated_one() {
    let generated = crd_yaml().unwrap();
    for path in ["streamjobs.weir.dev.yaml", "../charts/weir-crds/files/streamjobs.weir.dev.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &generated).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(committed, generated, "{} has drifted; `make generate` writes it anew", path.display());
    }
}

/// Every field below this one that `kubectl explain` would say nothing of, or that would make `kubectl apply` warn.
fn ill_explained(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = below["description"].as_str().unwrap_or_default();
        if text.is_empty() || text.contains('\n') {
            found.push(format!("{path} is described as {text:?}"));
        }
        if below["format"].as_str().is_some_and(|format| !["int64", "date-time"].contains(&format)) {
            found.push(format!("{path} has the format {}", below["format"]));
        }
        ill_explained(below, &path, found);
    }
    if schema["items"].is_object() {
        ill_explained(&schema["items"], path, found);
    }
}

#[test]
fn kubectl_explain_tells_of_every_field_and_its_default() {
    let schema = openapi_schema();
    let mut found = Vec::new();
    ill_explained(&schema, "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
    let retain = &schema["properties"]["spec"]["properties"]["checkpoint"]["properties"]["retain"];
    assert!(retain["description"].as_str().unwrap().ends_with("Default: 3."), "{retain}");
}

#[test]
fn every_rule_of_the_schema_compiles() {
    let schema = kube_cel::compile_schema(&openapi_schema());
    let mut open = vec![&schema];
    let mut rules = 0;
    while let Some(node) = open.pop() {
        assert!(!node.has_errors(), "{:?}", node.compilation_errors());
        rules += node.validations.len();
        open.extend(node.properties.values());
        open.extend(node.additional_properties.as_deref());
    }
    assert!(rules >= 10, "only {rules} rules found");
}

#[test]
fn a_short_job_gets_the_defaults_of_the_schema() {
    let job: StreamJob = load_job(JOB).unwrap();
    let spec = job.spec;
    assert_eq!((spec.workers.replicas, spec.max_parallelism), (1, 128));
    assert_eq!(spec.workers.memory_budget(), 1 << 30);
    // The script may say these.
    assert_eq!((spec.workers.slots, spec.state.backend), (None, None));
    assert_eq!((spec.checkpoint.interval, spec.checkpoint.mode), (None, None));
    let pace = &spec.checkpoint;
    assert_eq!((&pace.timeout, &pace.min_pause, pace.tolerable_failures, pace.retain), (&None, &None, None, 3));
    assert_eq!(spec.restart.max_backoff, Duration::from_secs(60));
    assert!(!spec.suspend && spec.restore_from.is_none());
}

#[test]
fn the_whole_example_of_the_design_is_a_job() {
    let job = load_job(
        "
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: flight-delays, namespace: air, labels: {team: a}}
spec:
  sql: |
    SELECT 1
  workers:
    replicas: 2
    slots: 2
    standby: 1
    image: weir/worker:1
    imagePullPolicy: IfNotPresent
    resources: {limits: {memory: 512Mi, cpu: 1}}
    podTemplate:
      metadata: {labels: {team: a}}
      spec: {nodeSelector: {disk: ssd}, containers: [{name: worker, env: [{name: A, value: b}]}]}
  maxParallelism: 128
  state: {backend: rocksdb, options: {a: b}}
  checkpoint:
    storage: {url: s3://bucket/prefix, endpoint: https://s3, region: eu, secretRef: {name: s3}}
    interval: 1m30s
    timeout: 10m
    minPause: 0s
    mode: AtLeastOnce
    alignment: {type: Aligned}
    tolerableFailures: 3
    retain: 3
    onDelete: Retain
  restart: {initialBackoff: 1s, maxBackoff: 1m, resetAfter: 10m, maxFailures: null}
  upgrade: {mode: LastState}
  restoreFrom: null
  suspend: false
",
    )
    .unwrap();
    assert_eq!(job.spec.workers.memory_budget(), 512 << 20);
    let template = job.spec.workers.pod_template.unwrap();
    assert_eq!(template.spec["nodeSelector"]["disk"], "ssd");
    assert_eq!(job.spec.checkpoint.interval, Some(Duration::from_secs(90)));
}

/// Rules that hold an update against what was there.
#[test]
fn what_state_hangs_on_cannot_change() {
    let schema = openapi_schema();
    let stored = |extra: &str| {
        let job = load_job(&format!("{}{extra}", replaced("url: checkpoints", "url: s3://b/p"))).unwrap();
        serde_json::to_value(job).unwrap()
    };
    let mut old = stored("");
    old["spec"]["state"]["backend"] = "rocksdb".into();
    old["spec"]["checkpoint"]["interval"] = "10s".into();
    let update = |new: &serde_json::Value| {
        let errors = kube_cel::Validator::new().validate(&schema, new, Some(&old)).err();
        errors.map(|errors| errors.into_vec().iter().map(|error| error.message.clone()).collect::<String>())
    };
    let with = |path: &str, value: serde_json::Value| {
        let mut new = old.clone();
        *new.pointer_mut(path).unwrap() = value;
        new
    };
    assert_eq!(update(&old), None);
    assert!(update(&with("/spec/maxParallelism", 64.into())).unwrap().contains("cannot change"));
    assert!(update(&with("/spec/checkpoint/storage/url", "s3://b/q".into())).unwrap().contains("cannot change"));
    assert!(update(&with("/spec/state/backend", "memory".into())).unwrap().contains("Stateless"));
    let mut stateless = with("/spec/state/backend", "memory".into());
    stateless["spec"]["upgrade"]["mode"] = "Stateless".into();
    assert_eq!(update(&stateless), None);
    assert_eq!(update(&with("/spec/checkpoint/interval", "3s".into())), None);
}

/// Each of these is refused, and the refusal has these parts.
fn refused(cases: &[(&str, String, &[&str])]) {
    let mut wrong = Vec::new();
    for (name, yaml, parts) in cases {
        let text = load_job(yaml).err().map(|error: JobError| error.to_string()).unwrap_or_default();
        for part in parts.iter().filter(|part| !text.contains(**part)) {
            wrong.push(format!("{name}: {part:?} is not in: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_job_is_refused_with_field_place_and_remedy() {
    refused(&[
        ("no YAML", "a: [1, 2".into(), &["is not YAML", "line"]),
        ("a text", "hello".into(), &["is no StreamJob", "apiVersion: weir.dev/v1alpha1"]),
        ("nothing", String::new(), &["is no StreamJob"]),
        (
            "another kind",
            replaced("kind: StreamJob", "kind: Deployment"),
            &["line 3, column 1: kind: is \"Deployment\"", "write kind: StreamJob"],
        ),
        ("no name", replaced("{name: flight-delays}", "{}"), &["metadata.name: is missing"]),
        ("a name that leaves its folder", replaced("flight-delays", "../x"), &["metadata.name: \"../x\" is no name"]),
        (
            "an unknown field",
            replaced("sql:", "sqll: x\n  sql:"),
            &["line 6, column 3: spec.sqll: unknown field \"sqll\": did you mean sql?"],
        ),
        (
            "a near field",
            replaced("storage:", "intervall: 1s\n    storage:"),
            &["spec.checkpoint.intervall", "did you mean interval?"],
        ),
        (
            "a far field",
            replaced("storage:", "zebra: 1s\n    storage:"),
            &["line 8", "known here: alignment, interval"],
        ),
        ("unknown metadata", replaced("{name:", "{nome: 1, name:"), &["metadata.nome", "did you mean name?"]),
        ("twice", replaced("sql: SELECT 1", "sql: a\n  sql: b"), &["duplicate"]),
    ]);
}

#[test]
fn bad_values_are_refused_with_field_place_and_remedy() {
    refused(&[
        (
            "a duration without unit",
            replaced("storage:", "interval: 10\n    storage:"),
            &["line 8", "spec.checkpoint.interval: is 10, a number: write a unit too: 10s"],
        ),
        (
            "a wrong unit",
            replaced("storage:", "interval: 10 days\n    storage:"),
            &["line 8, column 5: spec.checkpoint.interval: \"10 days\" is no duration", "such as 10s"],
        ),
        (
            "too short",
            replaced("storage:", "interval: 1ms\n    storage:"),
            &["spec.checkpoint.interval: \"1ms\" is too short"],
        ),
        (
            "an unknown mode",
            replaced("storage:", "mode: ExactlyTwice\n    storage:"),
            &["\"ExactlyTwice\" is not known here: did you mean ExactlyOnce?"],
        ),
        (
            "retain nothing",
            replaced("storage:", "retain: 0\n    storage:"),
            &["spec.checkpoint.retain: 0 is too small"],
        ),
        (
            "too many slots",
            replaced("sql:", "workers: {replicas: 10, slots: 20}\n  sql:"),
            &["spec: more slots than key groups"],
        ),
        (
            "no workers",
            replaced("sql:", "workers: {replicas: 0}\n  sql:"),
            &["spec.workers.replicas: must be 1 at least", "set spec.suspend to true"],
        ),
        (
            "both restores",
            replaced("sql:", "restoreFrom: {record: a, previous: true}\n  sql:"),
            &["spec.restoreFrom: name one"],
        ),
        (
            "a record and a savepoint",
            replaced("sql:", "restoreFrom: {record: a, savepoint: s3://b/c}\n  sql:"),
            &["spec.restoreFrom: name one"],
        ),
        ("no restore", replaced("sql:", "restoreFrom: {previous: false}\n  sql:"), &["spec.restoreFrom: name one"]),
    ]);
}

#[test]
fn bad_amounts_are_refused_with_field_place_and_remedy() {
    refused(&[
        (
            "little memory",
            replaced("sql:", "workers: {resources: {limits: {memory: 127Mi}}}\n  sql:"),
            &["spec.workers.resources: limits.memory is too little: a worker needs 128Mi at least"],
        ),
        (
            "no quantity",
            replaced("sql:", "workers: {resources: {limits: {memory: 1GB}}}\n  sql:"),
            &["limits.memory: \"1GB\" is no quantity"],
        ),
        (
            "two points",
            replaced("sql:", "workers: {resources: {limits: {cpu: 1.2.3}}}\n  sql:"),
            &["limits.cpu: \"1.2.3\" is no quantity"],
        ),
        (
            "less than nothing",
            replaced("sql:", "workers: {resources: {requests: {cpu: -1}}}\n  sql:"),
            &["spec.workers.resources.requests.cpu: is -1, a number; write a quantity"],
        ),
        (
            "too many failures",
            replaced("sql:", "restart: {maxFailures: 4294967296}\n  sql:"),
            &["spec.restart.maxFailures: 4294967296 is too large: 4294967295 at most"],
        ),
        (
            "too many failed checkpoints",
            replaced("storage:", "tolerableFailures: 4294967296\n    storage:"),
            &["spec.checkpoint.tolerableFailures: 4294967296 is too large"],
        ),
        (
            "an unknown upgrade",
            replaced("sql:", "upgrade: {mode: Savepoint}\n  sql:"),
            &["\"Savepoint\" is not known here", "LastState, Stateless"],
        ),
        (
            "a name that no Service can have",
            replaced("flight-delays", "7-delays"),
            &["metadata.name must begin with a letter"],
        ),
        ("no SQL", replaced("SELECT 1", "' '"), &["spec.sql: \" \" is empty"]),
    ]);
}

#[test]
fn bad_storage_is_refused_with_field_place_and_remedy() {
    refused(&[
        ("no storage", replaced("storage: {url: checkpoints}", "retain: 2"), &["spec.checkpoint.storage: is missing"]),
        (
            "a foreign storage",
            replaced("url: checkpoints", "url: hdfs://x"),
            &["spec.checkpoint.storage.url", "hdfs://x", "s3://bucket/prefix or file:///folder"],
        ),
        (
            "no bucket",
            replaced("url: checkpoints", "url: s3:///x"),
            &["spec.checkpoint.storage.url", "names no bucket: write s3://bucket/prefix"],
        ),
        (
            "a url that climbs",
            replaced("url: checkpoints", "url: s3://b/../x"),
            &["spec.checkpoint.storage.url", "leaves its prefix"],
        ),
        (
            "an endpoint for a folder",
            replaced("url: checkpoints", "url: checkpoints, endpoint: http://s3"),
            &["spec.checkpoint.storage: endpoint, region and secretRef are for s3:// only"],
        ),
        (
            "no endpoint",
            replaced("url: checkpoints", "url: s3://b, endpoint: minio"),
            &["spec.checkpoint.storage.endpoint", "write https://host"],
        ),
    ]);
}
