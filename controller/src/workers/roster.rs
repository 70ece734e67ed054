//! The worker processes of a run: which there are, how they are reached, what they said last.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_protocol::{Attempt, CheckpointId, WorkerId, paths, record::PartRef, rpc, settings::FailureKind};
use weir_runtime::clock;

use crate::{
    attempt::{Blocked, Event, Failure},
    coordinator::Ack,
    platform::{Obstacle, ProcessNumber, Trouble},
    takeover::Opened,
    ui::WorkerView,
    workers::session::Session,
};

/// One process.
#[derive(Debug)]
pub struct Worker {
    /// The id that it made for itself; known from its welcome on.
    pub id: Option<WorkerId>,
    /// How people call it.
    pub name: String,
    /// The hash of the template that it is made from.
    pub template: String,
    /// host:port of its gRPC server.
    pub address: String,
    /// Its process id.
    pub pid: Option<u32>,
    /// The session in the newest term.
    pub session: Option<Session>,
    /// It has welcomed us, and the attempt machine knows it.
    pub ready: bool,
    /// It was told to go, by somebody else.
    pub leaving: bool,
    /// It was told lost because its session broke; how it ended is not known.
    pub broken: bool,
    /// It is told lost, or was told to stop; its process may still be there.
    pub gone: bool,
    /// It has subtasks of the current attempt.
    pub deployed: bool,
    /// The attempt whose input has ended here, as it said last.
    pub finished: Option<Attempt>,
    /// Pre-commits that wait for their commit there, as it said last.
    pub pending_commits: u64,
    /// The highest checkpoint id that it has ever seen.
    pub highest_checkpoint: CheckpointId,
    /// What is wrong with what stands beside it.
    pub trouble: Option<Trouble>,
    /// What it counts.
    pub stats: WorkerStats,
}

/// One that was asked for, or found and not heard yet.
#[derive(Debug)]
struct Starting {
    /// The hash of the template that it is made from.
    template: String,
    /// What is in its way.
    obstacle: Option<Obstacle>,
}

/// A worker's newest counts, and what has changed since the ones before.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// As it said.
    pub newest: rpc::Stats,
    at: Option<Instant>,
    /// Rows a second that its sources read.
    pub rows_in: f64,
    /// Rows a second that its sinks wrote.
    pub rows_out: f64,
    /// Of its subtasks' time, how much was work.
    pub busy: f64,
}

impl WorkerStats {
    /// Takes in what it says now.
    pub fn update(&mut self, stats: &rpc::Stats) {
        let now = clock::now();
        let span = self.at.map(|at| now.duration_since(at)).filter(|span| *span > Duration::from_millis(1));
        if let Some(span) = span.filter(|_| self.newest.attempt == stats.attempt) {
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / span.as_secs_f64();
            self.rows_in = f64::midpoint(self.rows_in, rate(stats.source_rows, self.newest.source_rows));
            self.rows_out = f64::midpoint(self.rows_out, rate(stats.sink_rows, self.newest.sink_rows));
            let busy = stats.busy_us.saturating_sub(self.newest.busy_us);
            let rest = (stats.idle_us + stats.backpressured_us)
                .saturating_sub(self.newest.idle_us + self.newest.backpressured_us);
            self.busy = if busy + rest == 0 { 0.0 } else { busy as f64 / (busy + rest) as f64 };
        }
        self.newest = stats.clone();
        self.at = Some(now);
    }
}

/// All processes of a run.
#[derive(Debug, Default)]
pub struct Roster {
    workers: BTreeMap<ProcessNumber, Worker>,
    /// On their way, or found and not heard yet.
    starting: BTreeMap<ProcessNumber, Starting>,
    /// By template: what was told to be in the way of those.
    blocked: BTreeMap<String, Blocked>,
    /// Processes whose session broke: when that is told, and why, unless the process's own end is told before.
    suspects: BTreeMap<ProcessNumber, (Instant, String)>,
    triggered: CheckpointId,
    /// How people call the workers, also those that are gone: the news of a loss comes after it.
    names: BTreeMap<WorkerId, String>,
}

impl Roster {
    /// A process was asked for, or is there without having been asked for.
    pub fn starting(&mut self, process: ProcessNumber, template: String) {
        self.starting.insert(process, Starting { template, obstacle: None });
    }

    /// Takes out so many that are made from this template and are not ready, the newest first.
    pub fn abandon(&mut self, template: &str, count: u32) -> Vec<ProcessNumber> {
        let starting = self.starting.iter().filter(|(_, of)| of.template == template).map(|(process, _)| *process);
        let silent = self.workers.iter().filter(|(_, worker)| !worker.ready && worker.template == template);
        let mut abandoned: Vec<ProcessNumber> = starting.chain(silent.map(|(process, _)| *process)).collect();
        abandoned.sort_unstable();
        abandoned = abandoned.into_iter().rev().take(count as usize).collect();
        for process in &abandoned {
            self.remove(*process);
        }
        abandoned
    }

    /// What a process that has not come is made from.
    pub fn template_of(&self, process: ProcessNumber) -> Option<&String> {
        self.starting.get(&process).map(|starting| &starting.template)
    }

    /// What is in the way of one that was asked for.
    pub fn waits(&mut self, process: ProcessNumber, obstacle: Option<Obstacle>) {
        if let Some(starting) = self.starting.get_mut(&process) {
            starting.obstacle = obstacle;
        }
    }

    /// The templates whose workers have something else in their way than before, each with what it is.
    pub fn blocked_anew(&mut self) -> Vec<(String, Option<Blocked>)> {
        let mut blocked: BTreeMap<String, Blocked> = BTreeMap::new();
        for Starting { template, obstacle } in self.starting.values() {
            let Some(obstacle) = obstacle.as_ref().filter(|obstacle| obstacle.kind.is_in_the_way()) else { continue };
            let by = Blocked { room: obstacle.kind.is_room(), reason: obstacle.reason.clone() };
            // Room can be made, so that is what counts where there is more than one reason.
            match blocked.get_mut(template) {
                Some(there) if !there.room && by.room => *there = by,
                Some(_) => {}
                None => drop(blocked.insert(template.clone(), by)),
            }
        }
        let before = std::mem::replace(&mut self.blocked, blocked);
        let templates: std::collections::BTreeSet<&String> = before.keys().chain(self.blocked.keys()).collect();
        let changed = templates.into_iter().filter(|template| before.get(*template) != self.blocked.get(*template));
        changed.map(|template| (template.clone(), self.blocked.get(template).cloned())).collect()
    }

    /// What is wrong beside one of them; what will not mend by itself first.
    pub fn trouble(&self) -> Option<Trouble> {
        let named = |worker: &Worker| {
            let trouble = worker.trouble.as_ref().filter(|_| !worker.gone && !worker.leaving)?;
            Some(Trouble { reason: format!("{}: {}", worker.name, trouble.reason), ..trouble.clone() })
        };
        self.workers.values().filter_map(named).min_by_key(|trouble| !trouble.lasting)
    }

    /// It listens.
    pub fn started(
        &mut self,
        process: ProcessNumber,
        name: String,
        address: String,
        pid: Option<u32>,
        template: String,
    ) {
        self.starting.remove(&process);
        let worker = Worker {
            id: None,
            name,
            template,
            address,
            pid,
            session: None,
            ready: false,
            leaving: false,
            broken: false,
            gone: false,
            deployed: false,
            finished: None,
            pending_commits: 0,
            highest_checkpoint: CheckpointId(0),
            trouble: None,
            stats: WorkerStats::default(),
        };
        self.workers.insert(process, worker);
    }

    /// It has said which id it made for itself. False: it has said another before, so that it is another process.
    pub fn identified(&mut self, process: ProcessNumber, id: &WorkerId) -> bool {
        let Some(worker) = self.workers.get_mut(&process) else { return false };
        if worker.id.is_none() {
            worker.id = Some(id.clone());
            self.names.insert(id.clone(), worker.name.clone());
        }
        worker.id.as_ref() == Some(id)
    }

    /// It is no more.
    pub fn remove(&mut self, process: ProcessNumber) {
        self.starting.remove(&process);
        self.workers.remove(&process);
        self.suspects.remove(&process);
    }

    /// One of them.
    pub fn get_mut(&mut self, process: ProcessNumber) -> Option<&mut Worker> {
        self.workers.get_mut(&process)
    }

    /// By the id that it made for itself.
    pub fn process_of(&self, id: &WorkerId) -> Option<ProcessNumber> {
        self.workers.iter().find(|(_, worker)| worker.id.as_ref() == Some(id)).map(|(process, _)| *process)
    }

    /// By the id that it made for itself.
    pub fn by_id(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.values().find(|worker| worker.id.as_ref() == Some(id))
    }

    /// Every process, also those that are starting or going.
    pub fn all(&self) -> Vec<ProcessNumber> {
        self.workers.keys().chain(self.starting.keys()).copied().collect()
    }

    /// Those that are not gone.
    pub fn alive(&self) -> Vec<ProcessNumber> {
        self.workers.iter().filter(|(_, worker)| !worker.gone).map(|(process, _)| *process).collect()
    }

    /// Those with subtasks of the current attempt.
    pub fn deployed(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| worker.deployed && !worker.gone)
    }

    /// The attempt is theirs now, and not the others'.
    pub fn deploy(&mut self, ids: &[WorkerId]) {
        for worker in self.workers.values_mut() {
            worker.deployed = worker.id.as_ref().is_some_and(|id| ids.contains(id));
            worker.stats = WorkerStats::default();
        }
    }

    /// The attempt's workers in slot order, as they are told of each other.
    pub fn peers(&self, ids: &[WorkerId], slots: u32) -> Vec<rpc::Peer> {
        let peer = |(i, id): (u32, &WorkerId)| rpc::Peer {
            worker: id.0.clone(),
            address: self.by_id(id).map(|worker| worker.address.clone()).unwrap_or_default(),
            subtasks: (i * slots..(i + 1) * slots).collect(),
        };
        (0..).zip(ids).map(peer).collect()
    }

    /// A session broke: unless the process is told dead before `at`, the session's reason is told then.
    pub fn suspect(&mut self, process: ProcessNumber, reason: String, at: Instant) {
        self.suspects.entry(process).or_insert((at, reason));
    }

    /// When the next suspicion is to be told.
    pub fn next_suspicion(&self) -> Option<Instant> {
        self.suspects.values().map(|(at, _)| *at).min()
    }

    /// Takes out the suspicions whose time has come.
    pub fn suspicions_due(&mut self) -> Vec<(ProcessNumber, String)> {
        let now = clock::now();
        self.suspects.extract_if(.., |_, (at, _)| *at <= now).map(|(process, (_, reason))| (process, reason)).collect()
    }

    /// A checkpoint was triggered.
    pub fn triggered(&mut self, id: CheckpointId) {
        self.triggered = self.triggered.max(id);
    }

    /// The highest id that any worker may have seen.
    pub fn highest_checkpoint(&self) -> CheckpointId {
        self.workers.values().map(|worker| worker.highest_checkpoint).fold(self.triggered, Ord::max)
    }

    /// Why one of them cannot publish output; none if all can.
    pub fn unpublished(&self) -> Option<String> {
        let failures = self.stats().map(|(_, stats)| &stats.newest.commit_failure);
        failures.filter(|failure| !failure.is_empty()).min().cloned()
    }

    /// All counts of the deployed.
    pub fn stats(&self) -> impl Iterator<Item = (&WorkerId, &WorkerStats)> {
        self.deployed().filter_map(|worker| Some((worker.id.as_ref()?, &worker.stats)))
    }

    /// As a person sees them.
    pub fn views(&self) -> Vec<WorkerView> {
        let mut views: Vec<WorkerView> = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.gone)
            .map(|(process, worker)| WorkerView {
                number: process.0,
                pid: worker.pid,
                state: if worker.deployed {
                    "running"
                } else if worker.ready {
                    "ready"
                } else {
                    "starting"
                },
                rate: worker.stats.rows_in,
                busy: worker.stats.busy,
                state_bytes: worker.stats.newest.state_bytes,
            })
            .collect();
        views.extend(self.starting.keys().map(|process| WorkerView {
            number: process.0,
            pid: None,
            state: "starting",
            rate: 0.0,
            busy: 0.0,
            state_bytes: 0,
        }));
        views.sort_by_key(|view| view.number);
        views
    }

    /// How people call a worker: by its number in this run and its process id.
    pub fn name(&self, id: &WorkerId) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| format!("worker {id}"))
    }
}

/// A worker's ack, in the coordinator's words.
pub fn ack(worker: WorkerId, acked: rpc::Acked) -> Ack {
    let inline = (!acked.inline_part.is_empty()).then(|| String::from_utf8_lossy(&acked.inline_part).into_owned());
    let (attempt, id) = (Attempt(acked.attempt), CheckpointId(acked.id));
    let path = if acked.part_path.is_empty() { paths::part(id, attempt, &worker) } else { acked.part_path };
    Ack {
        part: PartRef { worker: worker.clone(), path, length: acked.part_length, crc32c: acked.part_crc32c, inline },
        worker,
        attempt,
        id,
        finished: acked.finished,
        state_bytes: acked.state_bytes,
        uploaded_bytes: acked.uploaded_bytes,
        format: acked.part_format.max(1),
    }
}

/// A task's failure, in the attempt machine's words.
pub fn failure(worker: WorkerId, failed: rpc::TaskFailed) -> Failure {
    let kind = failed.kind.parse().unwrap_or(if failed.fatal { FailureKind::Plan } else { FailureKind::Operator });
    Failure {
        worker,
        attempt: Attempt(failed.attempt),
        operator: failed.operator,
        subtask: failed.subtask,
        kind,
        message: failed.message,
    }
}

/// An attempt stands on a worker: whether it can run there. A worker of a build that knows nothing of pending commits beside those of
/// what is restored would drop them, and say that nothing is left to publish.
pub fn deployed(worker: WorkerId, deployed: &rpc::Deployed, opened: Option<&Opened>) -> Event {
    let attempt = Attempt(deployed.attempt);
    let due = opened.and_then(|opened| opened.commits.as_ref()).map(|record| record.reference().path());
    match due.filter(|due| *due != deployed.commits_path) {
        None => Event::Deployed { worker, attempt },
        Some(due) => Event::TaskFailed(Failure {
            worker,
            attempt,
            operator: String::new(),
            subtask: 0,
            kind: FailureKind::Plan,
            message: format!(
                "the worker is of a build that cannot publish what {due} has promised, which is not what is restored: use workers of \
                 this build"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::ObstacleKind;

    fn obstacle(kind: ObstacleKind, reason: &str) -> Obstacle {
        Obstacle { kind, reason: reason.to_string() }
    }

    #[test]
    fn what_is_in_the_way_is_told_by_template_when_it_changes() {
        let mut roster = Roster::default();
        for (n, template) in [(1, "t"), (2, "t"), (3, "u")] {
            roster.starting(ProcessNumber(n), template.to_string());
        }
        let told = |template: &str, by: Option<(bool, &str)>| {
            (template.to_string(), by.map(|(room, reason)| Blocked { room, reason: reason.to_string() }))
        };
        assert_eq!(roster.blocked_anew(), []);
        roster.waits(ProcessNumber(1), Some(obstacle(ObstacleKind::Initializing, "prepares")));
        assert_eq!(roster.blocked_anew(), [], "nothing is wrong");
        roster.waits(ProcessNumber(1), Some(obstacle(ObstacleKind::Image, "no image")));
        assert_eq!(roster.blocked_anew(), [told("t", Some((false, "no image")))]);
        assert_eq!(roster.blocked_anew(), []);
        roster.waits(ProcessNumber(2), Some(obstacle(ObstacleKind::Quota, "quota")));
        assert_eq!(roster.blocked_anew(), [told("t", Some((true, "quota")))], "room can be made");
        roster.waits(ProcessNumber(3), Some(obstacle(ObstacleKind::NoPlace, "tainted")));
        roster.remove(ProcessNumber(2));
        let both = [told("t", Some((false, "no image"))), told("u", Some((false, "tainted")))];
        assert_eq!(roster.blocked_anew(), both);
        roster.started(ProcessNumber(1), "w".into(), "a".into(), None, "t".into());
        roster.waits(ProcessNumber(3), None);
        assert_eq!(roster.blocked_anew(), [told("t", None), told("u", None)]);
    }

    #[test]
    fn trouble_is_that_of_a_worker_that_stays_and_the_worst_comes_first() {
        let mut roster = Roster::default();
        for n in [1, 2] {
            let process = ProcessNumber(n);
            roster.started(process, format!("w{n}"), String::new(), None, "t".to_string());
            let reason = format!("trouble {n}");
            roster.get_mut(process).unwrap().trouble = Some(Trouble { lasting: n == 2, reason });
        }
        assert_eq!(roster.trouble().unwrap().reason, "w2: trouble 2");
        roster.get_mut(ProcessNumber(2)).unwrap().gone = true;
        assert_eq!(roster.trouble().unwrap().reason, "w1: trouble 1");
        roster.get_mut(ProcessNumber(1)).unwrap().leaving = true;
        assert_eq!(roster.trouble(), None);
    }
}
