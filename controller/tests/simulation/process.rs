//! One process that coordinates: takes over, restores workers or finds them, and carries out what the coordinator asks for.

use std::time::Duration;

use futures::{
    StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
    future::{Either, select},
    pin_mut,
    task::LocalSpawnExt,
};
use weir_controller::{
    coordinator::{Ack, Action, Coordinator, Event, Policy, Start, StatusOutcome},
    effects::{self, TakeOver},
    takeover::{Opened, Request, Restore},
    time::Millis,
};
use weir_protocol::{Attempt, CheckpointId, Term, part::Part, record::RECORD_VERSION};
use weir_storage::{JobStore, StorageError};

use super::{Setting, crew::Worker, job};

const INTERVAL: Duration = Duration::from_millis(400);
/// From one look at what is to be done to the next, at most.
const PATIENCE: u64 = 200;

/// How a process begins.
#[derive(Clone, Copy)]
pub struct Begin {
    pub client: u32,
    pub resume: bool,
    pub retain: u32,
    pub workers: u32,
    /// It is the leader: overtaken by what dead processes have left on its way, it tries again.
    pub leads: bool,
}

fn policy(begin: Begin) -> Policy {
    Policy {
        interval: INTERVAL,
        min_pause: Duration::ZERO,
        timeout: Duration::from_secs(3),
        tolerable_failures: 3,
        retain: begin.retain,
        status_interval: Duration::from_secs(1),
        retry: Duration::from_millis(500),
    }
}

fn request(begin: Begin, resume: bool) -> Request {
    Request {
        job: job(),
        coordinator: format!("process-{}-{resume}", begin.client),
        owner: "owner".into(),
        cluster: "cluster".into(),
        adopt: false,
        accept_lost_output: false,
        resume,
        release: false,
        restore: Restore::Latest,
        wish: None,
        after: None,
        workers: begin.workers,
        slots: 1,
        max_parallelism: 1,
        fingerprint: "plan".into(),
        retain: begin.retain,
        format: RECORD_VERSION,
    }
}

/// Coordinates until another does.
pub async fn coordinate(setting: Setting, begin: Begin) {
    let store = setting.store(begin.client);
    let mut resume = begin.resume && setting.crew.borrow().attempt.is_some();
    loop {
        let clock = setting.sim.clone();
        match effects::take_over(&store, &request(begin, resume), move || Millis(clock.now())).await {
            TakeOver::Opened(opened) => {
                let attempt = opened.opening.attempt;
                let (writing, began) = (store.clone(), opened.clone());
                let written = async move { effects::write_start(&writing, &began).await };
                setting.spawner.spawn_local(written).expect("the pool takes it");
                if resume && !setting.crew.borrow_mut().hears(opened.opening.term, attempt) {
                    // Its workers are gone meanwhile; the next term begins another attempt.
                    resume = false;
                    continue;
                }
                if !resume && !deploy(&setting, &store, &opened, begin.workers).await {
                    continue;
                }
                if run(&setting, &store, begin, *opened).await && !begin.leads {
                    return;
                }
                resume = false;
            }
            TakeOver::Failed(_) => setting.sim.sleep(300).await,
            TakeOver::Lost(_) if begin.leads => setting.sim.sleep(300).await,
            TakeOver::Lost(_) => return,
            TakeOver::Refused(refusal) => panic!("a takeover is refused: {refusal}"),
        }
    }
}

/// Puts the attempt on new workers. False where storage did not answer.
async fn deploy(setting: &Setting, store: &JobStore, opened: &Opened, count: u32) -> bool {
    let attempt = opened.opening.attempt;
    let mut workers: Vec<Worker> =
        (0..count).map(|slot| Worker::new(slot, attempt, setting.sim.random(0..100))).collect();
    if let Some(record) = &opened.restored {
        for reference in &record.parts {
            let part = match read(setting, store, &reference.path).await {
                Some(bytes) => serde_json::from_slice::<Part>(&bytes).expect("a part can be read"),
                None => return false,
            };
            for subtask in &part.subtasks {
                for file in subtask.keyed.iter().flat_map(|keyed| &keyed.files) {
                    let Some(bytes) = read(setting, store, &file.path).await else { return false };
                    assert_eq!(bytes.len() as u64, file.length, "{} is what the part says", file.path);
                }
                workers[subtask.subtask.0 as usize].restore(record.id, subtask);
            }
        }
    }
    let mut crew = setting.crew.borrow_mut();
    if crew.term.is_some_and(|highest| highest > opened.opening.term) {
        return true;
    }
    crew.attempt = Some(attempt);
    crew.term = Some(opened.opening.term);
    crew.workers = workers;
    true
}

/// An object that a restore needs. It is there; only storage may not answer.
async fn read(setting: &Setting, store: &JobStore, path: &str) -> Option<bytes::Bytes> {
    for _ in 0..20 {
        match store.get(path).await {
            Ok(bytes) => return Some(bytes),
            // A process that was overtaken meanwhile may find that its successor has deleted what it wants to read.
            Err(StorageError::NotFound { .. }) => return None,
            Err(_) => setting.sim.sleep(100).await,
        }
    }
    None
}

/// One term. True where another has taken over; false where the attempt is over.
async fn run(setting: &Setting, store: &JobStore, begin: Begin, opened: Opened) -> bool {
    let (term, attempt) = (opened.opening.term, opened.opening.attempt);
    let (workers, highest): (Vec<_>, Vec<_>) = {
        let crew = setting.crew.borrow();
        if crew.attempt != Some(attempt) {
            return false;
        }
        crew.workers.iter().map(|worker| (worker.id.clone(), worker.highest)).unzip()
    };
    let highest_id = highest.into_iter().max().unwrap_or_default().max(opened.highest_id);
    let Opened { opening, restored, inherited, .. } = opened;
    let start = Start { opening, workers, restored, inherited, highest_id, failed: 0 };
    let (tell, mut told) = unbounded();
    let (mut coordinator, mut actions) = Coordinator::new(now(setting), policy(begin), start);
    let term = Run { setting, store, term, attempt, tell };
    loop {
        for action in actions.drain(..) {
            if matches!(action, Action::Superseded { .. }) {
                return true;
            }
            term.carry_out(action);
        }
        if setting.crew.borrow().attempt != Some(attempt) {
            return setting.crew.borrow().attempt.is_some();
        }
        let due =
            coordinator.next_wake().map_or(PATIENCE, |at| at.0.saturating_sub(setting.sim.now()).clamp(1, PATIENCE));
        let sleep = setting.sim.sleep(due);
        pin_mut!(sleep);
        let event = match select(told.next(), sleep).await {
            Either::Left((event, _)) => event.expect("the sender is held"),
            Either::Right(_) => Event::Tick,
        };
        actions = coordinator.on(now(setting), event);
    }
}

fn now(setting: &Setting) -> Millis {
    Millis(setting.sim.now())
}

struct Run<'a> {
    setting: &'a Setting,
    store: &'a JobStore,
    term: Term,
    attempt: Attempt,
    tell: UnboundedSender<Event>,
}

impl Run<'_> {
    fn beside(&self, work: impl Future<Output = Event> + 'static) {
        let tell = self.tell.clone();
        let answer = async move {
            let event = work.await;
            drop(tell.unbounded_send(event));
        };
        self.setting.spawner.spawn_local(answer).expect("the pool takes it");
    }

    fn carry_out(&self, action: Action) {
        let store = self.store.clone();
        match action {
            Action::Trigger { id, base } => self.trigger(id, base.map(|base| base.id)),
            Action::Commit { worker, id } => {
                let (setting, term, attempt, tell) = (self.setting.clone(), self.term, self.attempt, self.tell.clone());
                let commit = async move {
                    setting.sim.sleep(setting.sim.random(1..80)).await;
                    let mut crew = setting.crew.borrow_mut();
                    if !crew.hears(term, attempt) {
                        return;
                    }
                    let Some(found) = crew.workers.iter_mut().find(|there| there.id == worker) else { return };
                    for rows in found.commit(id) {
                        setting.audit.publish(found.slot, rows);
                    }
                    drop(tell.unbounded_send(Event::Committed { worker, attempt, id }));
                };
                self.setting.spawner.spawn_local(commit).expect("the pool takes it");
            }
            Action::CreateRecord(record) => self.beside(async move {
                let number = record.number;
                Event::Created { number, outcome: effects::create_record(&store, &record).await }
            }),
            Action::WriteStatus(pointer) => {
                let setting = self.setting.clone();
                self.beside(async move {
                    let read = setting.audit.status_term();
                    setting.sim.sleep(setting.sim.random(1..100)).await;
                    let record = pointer.record.reference();
                    let outcome = if read > pointer.term.0 {
                        StatusOutcome::Superseded
                    } else if read != setting.audit.status_term() || setting.sim.random(0..20) == 0 {
                        StatusOutcome::InDoubt
                    } else {
                        // The version of the resource was read and is compared, so that only the newest can write.
                        setting.audit.status(record.term.0, record.number.0, &record.path());
                        StatusOutcome::Written
                    };
                    Event::StatusWritten { record, outcome }
                });
            }
            Action::ReadNames(record) => self.beside(async move {
                let names = effects::read_names(&store, &record).await;
                Event::NamesRead { record: record.reference(), names }
            }),
            Action::ListLeftovers => {
                self.beside(async move { Event::Leftovers(effects::list_leftovers(&store).await) });
            }
            Action::Remove(removals) => {
                self.beside(async move { Event::Removed { complete: effects::remove(&store, &removals).await } });
            }
            Action::Look { paths } => {
                self.beside(async move { Event::Looked { missing: effects::first_missing(&store, paths).await } });
            }
            Action::Gone { path } => panic!("{path}, which a coordinator stands on, is gone"),
            Action::Cancel { .. }
            | Action::Hold(_)
            | Action::Note(_)
            | Action::Succeeded(_)
            | Action::LastTaken(_)
            | Action::Superseded { .. } => {}
        }
    }

    /// Each worker takes its snapshot, uploads it, and acks.
    fn trigger(&self, id: CheckpointId, base: Option<CheckpointId>) {
        let workers: Vec<_> = self.setting.crew.borrow().workers.iter().map(|worker| worker.id.clone()).collect();
        for worker in workers {
            let (setting, store) = (self.setting.clone(), self.store.clone());
            let (term, attempt, tell) = (self.term, self.attempt, self.tell.clone());
            let taken = async move {
                setting.sim.sleep(setting.sim.random(1..100)).await;
                let snapshot = {
                    let mut crew = setting.crew.borrow_mut();
                    if !crew.hears(term, attempt) {
                        return;
                    }
                    let rows = setting.sim.random(1..10);
                    let Some(found) = crew.workers.iter_mut().find(|there| there.id == worker) else { return };
                    if found.highest >= id {
                        return;
                    }
                    found.snapshot(attempt, id, base, rows)
                };
                for (path, bytes) in [snapshot.file, snapshot.part] {
                    let mut tries = 0;
                    while store.create(&path, bytes.clone()).await.is_err() {
                        tries += 1;
                        if tries > 3 {
                            drop(tell.unbounded_send(Event::Declined {
                                worker,
                                attempt,
                                id,
                                reason: "storage".into(),
                            }));
                            return;
                        }
                        setting.sim.sleep(50).await;
                    }
                }
                let (part, state_bytes, uploaded_bytes) = (snapshot.reference, 1, 1);
                let ack = Ack {
                    worker,
                    attempt,
                    id,
                    part,
                    finished: false,
                    state_bytes,
                    uploaded_bytes,
                    format: RECORD_VERSION,
                };
                drop(tell.unbounded_send(Event::Acked(ack)));
            };
            self.setting.spawner.spawn_local(taken).expect("the pool takes it");
        }
    }
}
