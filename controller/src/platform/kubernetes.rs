//! Workers as pods: one process in each, never restarted in place. A pod that has ended is replaced by another, with another
//! name, so that nothing ever waits for a node that does not answer.
//!
//! One watch tells of the job's pods, found by their labels. What an object says is decided in [`facts`], what is told of it
//! in [`ledger`]; here stand the calls to the API server. Each is repeated until it is answered: an API server that is away
//! disturbs no running job, and what was asked for meanwhile follows when it is back.

pub mod facts;
pub mod ledger;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::JoinSet,
};
use weir_protocol::ids::random_digits;
use weir_runtime::tasks;

use self::ledger::Ledger;
use super::{Obstacle, ObstacleKind, Platform, PlatformEvent, ProcessNumber, WorkerTemplate};
use crate::cluster::names::TEMPLATE_LABEL;

/// From a call that failed to the next try; it doubles with each up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait between two tries. A quota that is raised, or an API server that is back, is noticed in this time.
const MAX_RETRY: Duration = Duration::from_secs(15);
/// Creations of one job's pods under way at once, among them those that were refused and wait: a quota that lets no pod in is asked some
/// times in [`MAX_RETRY`], however many are wanted, and one that lets all in holds nobody up for long.
const CREATES: usize = 16;
/// Calls about pods of all jobs that the API server is asked at once. Its own bounds are wider, and others need it too.
static CALLS: Semaphore = Semaphore::const_new(64);
/// An API server that has not answered a call in this time is asked again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// So long an end waits for the pods to be gone: the grace period of a pod, and some. What is left then goes on its own, or
/// with the job's resource, which owns it.
const FINISH_PATIENCE: Duration = Duration::from_secs(40);
/// A worker whose connection broke has mostly ended by itself, which the kubelet reports in about a second, and later where it is
/// busy: out of memory, a signal. So long it is waited for, and the pod is kept for its logs; only one that is cut off is ended by force. Its work is
/// taken over meanwhile.
const LAST_REPORT: Duration = Duration::from_secs(6);
/// Characters of a pod's name that are drawn at random.
const SUFFIX: usize = 8;

/// Pods of one job.
pub struct Kubernetes {
    commands: mpsc::UnboundedSender<Command>,
    newest: u64,
}

enum Command {
    Start(ProcessNumber, Box<WorkerTemplate>),
    End { process: ProcessNumber, at_once: bool },
    Finish(oneshot::Sender<()>),
    Release,
}

/// What came of a call.
enum Called {
    Created(ProcessNumber),
    /// To be tried again after a while.
    NotCreated {
        process: ProcessNumber,
        obstacle: Obstacle,
        again: Box<Create>,
    },
    Deleted,
    /// [`LAST_REPORT`] is over.
    Unreported(ProcessNumber),
}

#[derive(Clone)]
struct Create {
    process: ProcessNumber,
    pod: Arc<Pod>,
    tries: u32,
}

/// Numbers of found pods begin here, so that they are never those of started ones, which the caller is told at once.
const FOUND_FROM: u64 = 1 << 32;

impl Kubernetes {
    /// Begins to watch the pods with these labels. What there is already is told first, as [`PlatformEvent::Found`].
    /// `selector` is a label selector, such as `weir.dev/job=flights,app.kubernetes.io/name=weir-worker`; every template's pod
    /// has to carry these labels.
    pub fn new(client: Client, namespace: &str, selector: &str, events: mpsc::Sender<PlatformEvent>) -> Self {
        // Unbounded since `start` cannot wait; the supervisor asks for as many as the job has workers.
        let (commands, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper {
            api: Api::namespaced(client, namespace),
            events,
            ledger: Ledger::from(FOUND_FROM),
            calls: JoinSet::new(),
            freed: Arc::default(),
            creating: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(CREATES)),
            failures: Arc::default(),
            finishing: Vec::new(),
        };
        tasks::spawn(keeper.keep(selector.to_string(), inbox));
        Self { commands, newest: 0 }
    }

    fn tell(&self, command: Command) {
        // The keeper ends only after `finish` or `release`.
        let _ = self.commands.send(command);
    }
}

#[async_trait]
impl Platform for Kubernetes {
    fn start(&mut self, template: &WorkerTemplate) -> ProcessNumber {
        self.newest += 1;
        let process = ProcessNumber(self.newest);
        self.tell(Command::Start(process, Box::new(template.clone())));
        process
    }

    fn stop(&mut self, process: ProcessNumber) {
        self.tell(Command::End { process, at_once: false });
    }

    fn kill(&mut self, process: ProcessNumber) {
        self.tell(Command::End { process, at_once: true });
    }

    async fn finish(&mut self) {
        let (done, waits) = oneshot::channel();
        self.tell(Command::Finish(done));
        // The keeper goes on beyond this time, until the API server has taken the last call.
        let _ = tokio::time::timeout(FINISH_PATIENCE, waits).await;
    }

    /// The pods run on.
    async fn release(&mut self) {
        self.tell(Command::Release);
    }
}

/// Holds the watch and makes the calls.
struct Keeper {
    api: Api<Pod>,
    events: mpsc::Sender<PlatformEvent>,
    ledger: Ledger,
    calls: JoinSet<Called>,
    /// Told when a pod is gone: what it has asked for is free.
    freed: Arc<Notify>,
    /// Pods whose creation has not been answered; false: they are not wanted any more.
    creating: BTreeMap<ProcessNumber, bool>,
    /// See [`CREATES`].
    turns: Arc<Semaphore>,
    /// Creations that failed since the last one that did not.
    failures: Arc<AtomicU32>,
    finishing: Vec<oneshot::Sender<()>>,
}

impl Keeper {
    async fn keep(mut self, selector: String, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let watch = watcher::watcher(self.api.clone(), watcher::Config::default().labels(&selector)).default_backoff();
        tokio::pin!(watch);
        let mut first_list = Vec::new();
        let mut told = true;
        loop {
            let events = tokio::select! {
                command = inbox.recv(), if told => match command {
                    Some(Command::Release) => return,
                    Some(command) => self.on_command(command),
                    // The supervisor is gone without a word, such as by a panic: the pods are another's to find.
                    None if self.finishing.is_empty() => return,
                    None => {
                        told = false;
                        Vec::new()
                    }
                },
                seen = watch.next() => match seen {
                    Some(Ok(event)) => self.on_watch(event, &mut first_list),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the watch of the worker pods broke; it is taken up again");
                        Vec::new()
                    }
                    None => return,
                },
                Some(called) = self.calls.join_next() => match called {
                    Ok(called) => self.on_called(called),
                    Err(error) => {
                        tracing::error!(%error, "a call about a worker pod was not finished");
                        Vec::new()
                    }
                },
            };
            for event in events {
                // Nobody listens any more when the run is over.
                let _ = self.events.send(event).await;
            }
            for pod in self.ledger.unwanted() {
                self.delete(pod, false);
            }
            if !self.finishing.is_empty() && self.ledger.alive().is_empty() && self.calls.is_empty() {
                for done in self.finishing.drain(..) {
                    let _ = done.send(());
                }
                return;
            }
        }
    }

    fn on_command(&mut self, command: Command) -> Vec<PlatformEvent> {
        match command {
            Command::Start(process, template) => {
                let name = Self::pod_name(&template);
                let pod = pod_of(&template, &name);
                self.ledger.asked(process, name, template.hash.clone());
                self.creating.insert(process, true);
                self.create(Create { process, pod: Arc::new(pod), tries: 0 });
            }
            Command::End { process, at_once: true } => {
                self.calls.spawn(async move {
                    tokio::time::sleep(LAST_REPORT).await;
                    Called::Unreported(process)
                });
            }
            Command::End { process, at_once: false } => self.end(process, false),
            Command::Finish(done) => {
                for process in self.ledger.alive() {
                    self.end(process, false);
                }
                self.finishing.push(done);
            }
            Command::Release => {}
        }
        Vec::new()
    }

    fn on_watch(&mut self, event: Event<Pod>, first_list: &mut Vec<Pod>) -> Vec<PlatformEvent> {
        match event {
            Event::Init => {
                self.ledger.list_begins();
                first_list.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                let events = self.ledger.seen(&pod);
                if !self.ledger.has_listed() {
                    first_list.push(pod);
                }
                events
            }
            Event::InitDone => self.ledger.list_ends(&std::mem::take(first_list)),
            Event::Apply(pod) => self.ledger.seen(&pod),
            Event::Delete(pod) => {
                self.freed.notify_waiters();
                self.ledger.gone(&pod)
            }
        }
    }

    fn on_called(&mut self, called: Called) -> Vec<PlatformEvent> {
        match called {
            Called::Created(process) => {
                self.ledger.created(process);
                // It was told to go while it was being made.
                if self.creating.remove(&process) == Some(false) {
                    self.end(process, false);
                }
                Vec::new()
            }
            Called::NotCreated { process, obstacle, again } => {
                if self.creating.get(&process) == Some(&true) {
                    self.create(*again);
                    return self.ledger.not_created(process, obstacle);
                }
                // The request may still come through; what it makes is deleted when it is seen.
                self.creating.remove(&process);
                if let Some(pod) = self.ledger.end(process) {
                    self.delete(pod, true);
                }
                self.ledger.never_created(process)
            }
            Called::Deleted => Vec::new(),
            Called::Unreported(process) => {
                self.end(process, true);
                Vec::new()
            }
        }
    }

    fn end(&mut self, process: ProcessNumber, at_once: bool) {
        let Some(pod) = self.ledger.end(process) else { return };
        if let Some(wanted) = self.creating.get_mut(&process) {
            *wanted = false;
            return;
        }
        self.delete(pod, at_once);
    }

    /// Two pods never share a name, also not those of two controllers.
    fn pod_name(template: &WorkerTemplate) -> String {
        let prefix = template.pod.as_ref().and_then(|pod| pod.metadata.generate_name.clone());
        format!("{}{}", prefix.unwrap_or_else(|| "weir-worker-".to_string()), random_digits(SUFFIX))
    }

    fn create(&mut self, mut create: Create) {
        let (api, turns, failures) = (self.api.clone(), Arc::clone(&self.turns), Arc::clone(&self.failures));
        let freed = Arc::clone(&self.freed);
        self.calls.spawn(async move {
            let process = create.process;
            let _turn = turns.acquire_owned().await;
            // What was refused to so many is refused to the next as well: also one that has not been tried waits then.
            let rounds = failures.load(Ordering::Relaxed) / CREATES as u32;
            let tries = create.tries.max(rounds);
            if tries > 0 {
                tokio::select! {
                    () = tokio::time::sleep(retry_after(tries)) => {}
                    // A quota may have room now. It is counted anew a moment later.
                    () = freed.notified() => {
                        create.tries = create.tries.min(1);
                        failures.store(0, Ordering::Relaxed);
                        tokio::time::sleep(FIRST_RETRY).await;
                    }
                }
            }
            let call = CALLS.acquire().await;
            let created = tokio::time::timeout(CALL_TIMEOUT, api.create(&PostParams::default(), &create.pod)).await;
            drop(call);
            let obstacle = match created {
                Ok(Ok(_)) => {
                    failures.store(0, Ordering::Relaxed);
                    return Called::Created(process);
                }
                // An earlier try came through, though its answer did not.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 && create.tries > 0 => {
                    return Called::Created(process);
                }
                Ok(Err(error)) => not_created(&error),
                Err(_) => Obstacle {
                    kind: ObstacleKind::Other,
                    reason: format!(
                        "its pod cannot be created: the API server has not answered in {} s",
                        CALL_TIMEOUT.as_secs()
                    ),
                },
            };
            failures.fetch_add(1, Ordering::Relaxed);
            let again = Box::new(Create { tries: create.tries + 1, ..create });
            Called::NotCreated { process, obstacle, again }
        });
    }

    fn delete(&mut self, pod: String, at_once: bool) {
        let api = self.api.clone();
        let how = if at_once { DeleteParams::default().grace_period(0) } else { DeleteParams::default() };
        self.calls.spawn(async move {
            for tries in 1.. {
                let call = CALLS.acquire().await;
                let deleted = tokio::time::timeout(CALL_TIMEOUT, api.delete(&pod, &how)).await;
                drop(call);
                match deleted {
                    Ok(Ok(_)) => break,
                    Ok(Err(kube::Error::Api(status))) if status.code == 404 => break,
                    Ok(Err(error)) => tracing::warn!(pod, %error, "a worker pod is not deleted yet; tried again"),
                    Err(_) => tracing::warn!(pod, "the API server does not answer; the pod is deleted later"),
                }
                tokio::time::sleep(retry_after(tries)).await;
            }
            Called::Deleted
        });
    }
}

/// What is in the way of a pod that the API server did not make. That it is a quota is said in words only: one that is used up has
/// room again when another pod goes, one that asks for more of a pod's spec never.
fn not_created(error: &kube::Error) -> Obstacle {
    match error {
        kube::Error::Api(status) => {
            let kind = match status.code {
                403 if status.message.contains("exceeded quota") => ObstacleKind::Quota,
                400 | 403 | 422 => ObstacleKind::Refused,
                _ => ObstacleKind::Other,
            };
            Obstacle { kind, reason: format!("{}: its pod cannot be created: {}", status.reason, status.message) }
        }
        error => Obstacle { kind: ObstacleKind::Other, reason: format!("its pod cannot be created: {error}") },
    }
}

fn retry_after(tries: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << (tries - 1).min(16)).min(MAX_RETRY)
}

/// The pod itself: the template's, with a name of its own and the label that names the template.
fn pod_of(template: &WorkerTemplate, name: &str) -> Pod {
    let mut pod = template.pod.as_deref().cloned().unwrap_or_default();
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.to_string());
    pod.metadata.labels.get_or_insert_default().insert(TEMPLATE_LABEL.to_string(), template.hash.clone());
    pod
}
