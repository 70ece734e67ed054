//! What one worker says: the answers of a job of one stage that counts numbers up and keeps them to itself.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use weir_protocol::{
    Attempt, BUILD_VERSION, CheckpointId, PROTOCOL_VERSION, SubtaskIndex, WorkerId,
    part::{Item, ItemKind, OperatorPart, PART_VERSION, Part, SubtaskPart},
    paths,
    record::encode,
    rpc::{
        Acked, Committed, Declined, Deploy, Deployed, FromWorker, Hello, Pong, Refused, Stats, TaskFailed, ToWorker,
        TriggerCheckpoint, Welcome, from_worker::Message as Answer, to_worker::Message,
    },
    settings::{FailureKind, JobSettings, PlanRequest},
};
use weir_storage::{Created, JobStore};

use crate::s3::{BUCKET, Bucket};

/// As often as a worker.
const STATS: Duration = Duration::from_millis(250);
/// The state backend whose parts travel in the ack and stand in the record; those of all others are objects.
const INLINE: &str = "jobmanager";
/// The identity of the only stage and of its source.
const STAGE: &str = "numbers";
const MEMORY: u64 = 512 << 20;

type Outbox = mpsc::UnboundedSender<FromWorker>;

/// A worker, from its pod's start to its end.
pub struct Worker {
    /// Its pod's address.
    pub address: Ipv4Addr,
    /// It was told to stop, or its pod to go.
    pub ended: CancellationToken,
    id: WorkerId,
    bucket: Bucket,
    config: OnceLock<Arc<ServerConfig>>,
    memory: Mutex<Memory>,
}

/// What a worker knows.
#[derive(Default)]
struct Memory {
    term: u64,
    /// The newest session; no other is answered.
    session: u64,
    highest_checkpoint: u64,
    deployed: Option<Deployment>,
}

#[derive(Clone)]
struct Deployment {
    attempt: Attempt,
    subtasks: Vec<u32>,
    store: JobStore,
    inline: bool,
    /// The record that it was restored from, whose files are known without reading it.
    restored: String,
    running: Option<Instant>,
}

/// What `weir-worker plan` would print.
pub fn plan(request: &[u8]) -> Result<Vec<u8>, String> {
    let request: PlanRequest = serde_json::from_slice(request).map_err(|error| error.to_string())?;
    let stage = json!({"id": 0, "name": STAGE, "identity": STAGE, "operators": []});
    Ok(encode(&json!({"stages": [stage], "warnings": [], "fingerprint": fingerprint(&request)})))
}

fn fingerprint(request: &PlanRequest) -> String {
    format!("{:08x}", crc32c::crc32c(request.script.as_bytes()))
}

impl Worker {
    pub fn new(address: Ipv4Addr, bucket: Bucket) -> Self {
        Self {
            address,
            ended: CancellationToken::new(),
            id: WorkerId::generate(),
            bucket,
            config: OnceLock::new(),
            memory: Mutex::default(),
        }
    }

    /// How connections to it are taken from now on.
    pub fn serve_with(&self, config: Arc<ServerConfig>) {
        let _ = self.config.set(config);
    }

    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.get().cloned()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no holder panics")
    }

    /// One session, until it ends.
    pub async fn talk(self: Arc<Self>, mut said: Streaming<ToWorker>, outbox: Outbox) {
        let session = {
            let mut memory = self.memory();
            memory.session += 1;
            memory.session
        };
        let mut stats = interval(STATS);
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.ended.cancelled() => return,
                message = said.message() => {
                    let Ok(Some(message)) = message else { return };
                    if !self.hear(session, message, &outbox) {
                        return;
                    }
                }
                _ = stats.tick() => if let Some(stats) = self.stats(session) {
                    tell(&outbox, Answer::Stats(stats));
                },
            }
        }
    }

    /// False where the session is over.
    fn hear(self: &Arc<Self>, session: u64, said: ToWorker, outbox: &Outbox) -> bool {
        {
            let mut memory = self.memory();
            if said.term < memory.term || session < memory.session {
                let reason = format!("term {} is over", said.term);
                tell(outbox, Answer::Refused(Refused { reason, highest_term: memory.term }));
                return false;
            }
            memory.term = said.term;
        }
        match said.message {
            Some(Message::Hello(hello)) => return self.welcome(&hello, outbox),
            Some(Message::Deploy(deploy)) => tell(outbox, self.deploy(&deploy)),
            Some(Message::Run(run)) => {
                let mut memory = self.memory();
                if let Some(deployed) = memory.deployed.as_mut().filter(|deployed| deployed.attempt.0 == run.attempt) {
                    deployed.running.get_or_insert_with(Instant::now);
                }
            }
            Some(Message::Trigger(trigger)) => {
                // As with a worker, storage is waited for beside what else is said.
                let (worker, outbox) = (Arc::clone(self), outbox.clone());
                tokio::spawn(async move { tell(&outbox, worker.checkpoint(trigger).await) });
            }
            Some(Message::Commit(commit)) => {
                tell(outbox, Answer::Committed(Committed { attempt: commit.attempt, id: commit.id }));
            }
            Some(Message::Ping(ping)) => tell(outbox, Answer::Pong(Pong { sequence: ping.sequence })),
            Some(Message::Stop(_)) => {
                self.ended.cancel();
                return false;
            }
            // It has no sources that could be held.
            Some(Message::Cancel(_) | Message::Configure(_) | Message::Hold(_)) | None => {}
        }
        true
    }

    fn welcome(&self, hello: &Hello, outbox: &Outbox) -> bool {
        let memory = self.memory();
        if hello.protocol_version != PROTOCOL_VERSION {
            let reason =
                format!("version {} is spoken to a stub of version {PROTOCOL_VERSION}", hello.protocol_version);
            tell(outbox, Answer::Refused(Refused { reason, highest_term: memory.term }));
            return false;
        }
        tell(
            outbox,
            Answer::Welcome(Welcome {
                protocol_version: PROTOCOL_VERSION,
                build_version: BUILD_VERSION.to_string(),
                worker: self.id.0.clone(),
                attempt: memory.deployed.as_ref().map_or(0, |deployed| deployed.attempt.0),
                highest_checkpoint: memory.highest_checkpoint,
                memory_budget: MEMORY,
                deploying: false,
            }),
        );
        true
    }

    fn deploy(&self, deploy: &Deploy) -> Answer {
        match self.deployment(deploy) {
            Ok(deployment) => {
                self.memory().deployed = Some(deployment);
                Answer::Deployed(Deployed {
                    attempt: deploy.attempt,
                    fingerprint: deploy.fingerprint.clone(),
                    commits_path: deploy.commits_path.clone(),
                    ..Deployed::default()
                })
            }
            Err(message) => Answer::TaskFailed(TaskFailed {
                attempt: deploy.attempt,
                message,
                fatal: true,
                kind: FailureKind::Plan.as_str().to_string(),
                ..TaskFailed::default()
            }),
        }
    }

    fn deployment(&self, deploy: &Deploy) -> Result<Deployment, String> {
        let request: PlanRequest = serde_json::from_slice(&deploy.plan_request).map_err(|error| error.to_string())?;
        let ours = fingerprint(&request);
        if ours != deploy.fingerprint {
            return Err(format!("this worker's plan is {ours} and the job's is {}", deploy.fingerprint));
        }
        let settings: JobSettings = serde_json::from_slice(&deploy.settings).map_err(|error| error.to_string())?;
        let url = &settings.storage.url;
        let prefix = url.strip_prefix(&format!("s3://{BUCKET}/")).ok_or_else(|| format!("{url} is another bucket"))?;
        let prefix = format!("{prefix}/{}/{}", settings.job.namespace, settings.job.name);
        let mine = deploy.peers.iter().find(|peer| peer.worker == self.id.0).ok_or("this worker is not among them")?;
        Ok(Deployment {
            attempt: Attempt(deploy.attempt),
            subtasks: mine.subtasks.clone(),
            store: JobStore::with_object_store(self.bucket.store(), &prefix),
            inline: settings.state_backend == INLINE,
            restored: deploy.restore_path.clone(),
            running: None,
        })
    }

    /// The worker's side of a checkpoint, with the same calls to storage: the base is read, the part created, then acked.
    async fn checkpoint(&self, trigger: TriggerCheckpoint) -> Answer {
        let declined = |reason: String| Answer::Declined(Declined { attempt: trigger.attempt, id: trigger.id, reason });
        let deployed = {
            let mut memory = self.memory();
            memory.highest_checkpoint = memory.highest_checkpoint.max(trigger.id);
            memory.deployed.clone().filter(|deployed| deployed.attempt.0 == trigger.attempt)
        };
        let Some((since, deployed)) = deployed.and_then(|deployed| Some((deployed.running?, deployed))) else {
            return declined(format!("attempt {} does not run here", trigger.attempt));
        };
        let part = self.part(CheckpointId(trigger.id), &deployed, since);
        let bytes = encode(&part);
        let mut ack = Acked {
            part_format: PART_VERSION,
            attempt: trigger.attempt,
            id: trigger.id,
            part_path: paths::part(part.id, part.attempt, &self.id),
            part_length: bytes.len() as u64,
            part_crc32c: crc32c::crc32c(&bytes),
            ..Acked::default()
        };
        if deployed.inline {
            ack.inline_part = bytes.into();
            return Answer::Acked(ack);
        }
        if !trigger.base_path.is_empty()
            && trigger.base_path != deployed.restored
            && let Err(error) = deployed.store.get(&trigger.base_path).await
        {
            return declined(error.to_string());
        }
        match deployed.store.create(&ack.part_path, bytes.into()).await {
            Ok(Created::New | Created::Same) => Answer::Acked(ack),
            Ok(Created::Taken(_)) => declined(format!("{} holds other bytes already", ack.part_path)),
            Err(error) => declined(error.to_string()),
        }
    }

    fn part(&self, id: CheckpointId, deployed: &Deployment, since: Instant) -> Part {
        let position = Item { kind: ItemKind::Split, value: json!({"next": since.elapsed().as_millis() as u64}) };
        let subtask = |subtask: &u32| SubtaskPart {
            stage: STAGE.to_string(),
            subtask: SubtaskIndex(*subtask),
            finished: false,
            watermark_ms: None,
            keyed: None,
            operators: vec![OperatorPart { items: vec![position.clone()], ..OperatorPart::new(STAGE) }],
            channel_state: Vec::new(),
        };
        Part {
            version: PART_VERSION,
            id,
            attempt: deployed.attempt,
            worker: self.id.clone(),
            script: String::new(),
            keepers: Vec::new(),
            subtasks: deployed.subtasks.iter().map(subtask).collect(),
        }
    }

    /// What a worker counts; none where nothing is deployed, or another session is spoken in.
    fn stats(&self, session: u64) -> Option<Stats> {
        let memory = self.memory();
        let deployed = memory.deployed.as_ref().filter(|_| session == memory.session)?;
        let ran = deployed.running.map(|since| since.elapsed()).unwrap_or_default();
        Some(Stats {
            attempt: deployed.attempt.0,
            source_rows: ran.as_millis() as u64,
            sink_rows: ran.as_millis() as u64,
            watermark_ms: i64::MIN,
            first_output_us: u64::from(deployed.running.is_some()),
            subtasks: deployed.subtasks.len() as u32,
            idle_us: ran.as_micros() as u64,
            ..Stats::default()
        })
    }
}

fn tell(outbox: &Outbox, answer: Answer) {
    // A session that has just broken needs no answers.
    let _ = outbox.send(FromWorker { message: Some(answer) });
}
