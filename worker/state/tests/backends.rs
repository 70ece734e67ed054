//! The conformance suite on every backend that is registered.
#![allow(clippy::unwrap_used)]

use weir_state::{BackendRegistry, conformance};

fn run(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    conformance(BackendRegistry::with_builtin().get(name).unwrap().as_ref(), dir.path());
}

#[test]
fn memory_does_what_every_backend_must() {
    run("memory");
}

#[test]
fn hashmap_does_what_every_backend_must() {
    run("hashmap");
}

#[test]
fn filesystem_does_what_every_backend_must() {
    run("filesystem");
}

#[test]
fn jobmanager_does_what_every_backend_must() {
    run("jobmanager");
}

#[test]
fn rocksdb_does_what_every_backend_must() {
    run("rocksdb");
}

#[test]
fn every_registered_name_is_run_above() {
    let registry = BackendRegistry::with_builtin();
    assert_eq!(registry.names().collect::<Vec<_>>(), ["filesystem", "hashmap", "jobmanager", "memory", "rocksdb"]);
    let error = registry.get("rocks").err().unwrap().to_string();
    assert!(error.contains("rocks") && error.contains("filesystem, hashmap"), "{error}");
}
