//! Storage that fails at the n-th call, for every n, while a snapshot is uploaded and while it is restored.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc, sync::atomic::Ordering, time::Duration};

use common::{Machine, keys};
use weir_protocol::{Attempt, CheckpointId, WorkerId};
use weir_state::{
    BackendFactory, BackendRegistry, KeyedBackend, LocalFile, OpenBackend, Persist, RowLayout, StateError,
    StateErrorKind, Table, Uploader, VisitEntry, WriteBatch,
};
use weir_storage::{
    JobStore,
    durable::DurableFolder,
    fault::{Fault, FaultStore},
};

const KEYS: i64 = 30_000;

fn fill(table: &mut Table) {
    let (mut slots, mut created) = (Vec::new(), Vec::new());
    table.upsert(&keys(0..KEYS), &mut slots, &mut created).unwrap();
    for (key, &slot) in slots.iter().enumerate() {
        table.set(slot, &(key as u64).to_le_bytes().repeat(16));
    }
}

fn check(table: &mut Table) {
    let mut rows = BTreeMap::new();
    table.scan_all(&mut |_, key, row| drop(rows.insert(key.to_vec(), row.to_vec()))).unwrap();
    assert_eq!(rows.len(), KEYS as usize);
    for (key, row) in (0u64..).zip(rows.values()) {
        assert_eq!(*row, key.to_le_bytes().repeat(16));
    }
}

fn faults_at_every_call(backend: &str, fault: Fault) {
    for at in 1.. {
        let machine = Machine::new(backend, 256 << 20);
        let state = machine.open("a", 0, 1, &[]);
        let mut table = state.table("operator", "texts", RowLayout::Variable).unwrap();
        fill(&mut table);
        let folder = machine.dir.path().join("faulty");
        std::fs::create_dir_all(&folder).unwrap();
        let faulty = FaultStore::new(Arc::new(DurableFolder::new(&folder).unwrap()), fault, at);
        let calls = faulty.calls();
        let store = JobStore::with_object_store(Arc::new(faulty), "job");
        let uploader = Uploader::new(store, machine.runtime.handle().clone(), Attempt(1), WorkerId("faulty".into()));
        let persist = Persist { id: CheckpointId(1), base: None, uploader: Arc::new(uploader) };
        let first = state.persist(table.freeze().into_iter().collect(), &persist);
        let reached = calls.load(Ordering::SeqCst) >= at;
        if let Err(error) = &first {
            assert!(reached);
            assert_eq!(error.kind(), StateErrorKind::Io, "{error}");
        }
        // Whatever came of it, the state is whole, and the next checkpoint too.
        check(&mut table);
        let (second, _) = machine.persist(&state, table.freeze().into_iter().collect(), 2, None);
        let restored = machine.open("b", 0, 1, &[second]);
        check(&mut restored.table("operator", "texts", RowLayout::Variable).unwrap());
        // What was reported as uploaded is there, or is seen not to be what was written.
        if let Ok((snapshot, _)) = first {
            let mut elsewhere = Machine::new(backend, 256 << 20);
            elsewhere.store = JobStore::with_object_store(Arc::new(DurableFolder::new(&folder).unwrap()), "job");
            match elsewhere.try_open("c", 0, 1, &[snapshot]) {
                Ok(restored) => check(&mut restored.table("operator", "texts", RowLayout::Variable).unwrap()),
                Err(error) => {
                    assert_eq!(fault, Fault::Corrupt, "{error}");
                    assert_eq!(error.kind(), StateErrorKind::Corrupt, "{error}");
                }
            }
        }
        if !reached {
            assert!(at > 1);
            break;
        }
    }
}

#[test]
fn uploads_that_are_refused_or_unanswered_fail_the_checkpoint_and_nothing_else() {
    for backend in ["memory", "rocksdb"] {
        faults_at_every_call(backend, Fault::Refuse);
        faults_at_every_call(backend, Fault::Stop);
        faults_at_every_call(backend, Fault::LoseAnswer);
        faults_at_every_call(backend, Fault::AnswerLate(Duration::from_millis(50)));
    }
}

#[test]
fn uploads_that_are_corrupted_are_never_restored() {
    faults_at_every_call("memory", Fault::Corrupt);
    faults_at_every_call("rocksdb", Fault::Corrupt);
}

#[test]
fn a_restore_from_failing_storage_fails_with_its_kind_and_succeeds_when_repeated() {
    for backend in ["memory", "rocksdb"] {
        let machine = Machine::new(backend, 256 << 20);
        let state = machine.open("a", 0, 1, &[]);
        let mut table = state.table("operator", "texts", RowLayout::Variable).unwrap();
        fill(&mut table);
        let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
        for (fault, kind) in [(Fault::Refuse, StateErrorKind::Io), (Fault::Corrupt, StateErrorKind::Corrupt)] {
            for at in 1.. {
                let faulty = FaultStore::new(Arc::new(DurableFolder::new(&machine.objects()).unwrap()), fault, at);
                let calls = faulty.calls();
                let mut elsewhere = Machine::new(backend, 256 << 20);
                elsewhere.store = JobStore::with_object_store(Arc::new(faulty), "");
                let restored = elsewhere.try_open("b", 0, 1, std::slice::from_ref(&snapshot));
                if calls.load(Ordering::SeqCst) < at {
                    check(&mut restored.unwrap().table("operator", "texts", RowLayout::Variable).unwrap());
                    break;
                }
                let error = restored.unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
                let again = elsewhere.open("b", 0, 1, std::slice::from_ref(&snapshot));
                check(&mut again.table("operator", "texts", RowLayout::Variable).unwrap());
            }
        }
    }
}

#[test]
fn a_restore_that_nobody_waits_for_any_more_does_not_wait_for_storage() {
    let machine = Machine::new("rocksdb", 256 << 20);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "texts", RowLayout::Variable).unwrap();
    fill(&mut table);
    let (snapshot, _) = machine.persist(&state, table.freeze().into_iter().collect(), 1, None);
    let late = Fault::AnswerLate(Duration::from_hours(1));
    let faulty = FaultStore::new(Arc::new(DurableFolder::new(&machine.objects()).unwrap()), late, 1);
    let calls = faulty.calls();
    let mut elsewhere = Machine::new("rocksdb", 256 << 20);
    elsewhere.store = JobStore::with_object_store(Arc::new(faulty), "");
    let stopped = elsewhere.stopped.clone();
    let stop = std::thread::spawn(move || {
        while calls.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        stopped.cancel();
    });
    let error = elsewhere.try_open("b", 0, 1, &[snapshot]).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Io, "{error}");
    stop.join().unwrap();
}

/// A backend that takes no write.
struct Full;

impl BackendFactory for Full {
    fn open(&self, _open: OpenBackend) -> Result<Arc<dyn KeyedBackend>, StateError> {
        Ok(Arc::new(Self))
    }

    fn format(&self) -> &'static str {
        "full"
    }
}

impl KeyedBackend for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn multi_get(&self, _keys: &[&[u8]], _found: &mut dyn FnMut(usize, &[u8])) -> Result<(), StateError> {
        Ok(())
    }

    fn write(&self, _batch: &WriteBatch) -> Result<(), StateError> {
        Err(StateError::io("rows could not be written").because("no space left on device"))
    }

    fn scan(&self, _from: &[u8], _to: &[u8], _visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn snapshot(&self, _dir: &Path) -> Result<Vec<LocalFile>, StateError> {
        Ok(Vec::new())
    }

    fn bytes(&self) -> u64 {
        0
    }
}

#[test]
fn after_a_write_that_failed_all_is_refused_and_the_first_cause_is_said() {
    let mut machine = Machine::new("full", 256 << 20);
    let mut registry = BackendRegistry::with_builtin();
    registry.register("full", Arc::new(Full));
    machine.registry = Arc::new(registry);
    let state = machine.open("a", 0, 1, &[]);
    let mut table = state.table("operator", "texts", RowLayout::Variable).unwrap();
    fill(&mut table);
    let persist = |id| Persist { id: CheckpointId(id), base: None, uploader: Arc::clone(&machine.uploader) };
    let first = state.persist(table.freeze().into_iter().collect(), &persist(1)).unwrap_err();
    let later = state.persist(Vec::new(), &persist(2)).unwrap_err();
    let cause = later.source().unwrap();
    assert_eq!(cause.to_string(), first.to_string());
    assert_eq!(cause.source().unwrap().to_string(), "no space left on device");
}
