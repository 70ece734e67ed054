//! A world around the machine, in which things happen in any order: however they have gone, once they go well the job runs as
//! it is wanted, on as many workers as it should have, and nothing is left over.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{POLICY, RECORD, opening};
use super::*;

const TEMPLATES: [&str; 2] = ["t", "u"];

/// What the machine has asked for and not been answered yet.
#[derive(Clone, Debug)]
enum Asked {
    /// A process; one that was found runs an attempt already, or restores it yet.
    Worker(String, Attempt, bool),
    Plan {
        worker: WorkerId,
        version: u64,
    },
    TakeOver {
        resume: bool,
    },
    Deploy {
        worker: WorkerId,
        attempt: Attempt,
    },
    Last,
}

struct World {
    machine: AttemptMachine,
    now: Millis,
    versions: BTreeMap<u64, Version>,
    /// Processes that live: what each is made from and runs.
    alive: BTreeMap<WorkerId, (String, Attempt)>,
    /// What each has restored.
    restored: BTreeMap<WorkerId, Attempt>,
    asked: Vec<Asked>,
    attempt: u64,
    made: u64,
    wanted: u64,
    standby: u32,
    /// Answers about a plan that never came, or came as a crash.
    crashes: u32,
    /// Planning crashed too often for a job that never ran.
    failed: bool,
}

impl World {
    fn new(version: Version) -> Self {
        Self {
            machine: AttemptMachine::new(POLICY, version.clone()),
            now: Millis(1_000_000),
            wanted: version.number,
            standby: version.size.standby,
            versions: BTreeMap::from([(version.number, version)]),
            alive: BTreeMap::new(),
            restored: BTreeMap::new(),
            asked: Vec::new(),
            attempt: 0,
            made: 0,
            crashes: 0,
            failed: false,
        }
    }

    fn opening(&self) -> Arc<Opening> {
        // What is resumed was begun with two workers.
        Arc::new(Opening { slots: 1, ..Arc::unwrap_or_clone(opening(self.attempt)) })
    }

    fn tell(&mut self, event: Event) {
        for action in self.machine.on(self.now, event) {
            match action {
                Action::StartWorker { version } => {
                    let template = self.versions[&version].template.clone();
                    self.asked.push(Asked::Worker(template, Attempt(0), false));
                }
                Action::AbandonStarts { template, count } => {
                    for _ in 0..count {
                        let of = |asked: &Asked| matches!(asked, Asked::Worker(of, ..) if *of == template);
                        let at = self.asked.iter().rposition(of).expect("only what was asked for is called off");
                        self.asked.remove(at);
                    }
                }
                Action::Plan { worker, version } => self.asked.push(Asked::Plan { worker, version }),
                Action::TakeOver { resume, .. } => {
                    self.asked.retain(|asked| !matches!(asked, Asked::Deploy { .. } | Asked::Last));
                    self.asked.push(Asked::TakeOver { resume });
                }
                Action::Deploy { opening, workers, version } => {
                    assert_eq!(workers.len(), self.versions[&version].size.workers as usize);
                    for worker in workers {
                        assert!(self.alive.contains_key(&worker), "nothing is deployed onto the dead");
                        self.asked.push(Asked::Deploy { worker, attempt: opening.attempt });
                    }
                }
                Action::TakeLast => self.asked.push(Asked::Last),
                Action::DropCoordinator => self.asked.retain(|asked| !matches!(asked, Asked::Last)),
                Action::StopWorker { worker } => {
                    let member = self.machine.members().contains(&Some(worker.clone()));
                    assert!(!member || self.machine.phase == Phase::Ended, "a member is stopped");
                    self.alive.remove(&worker);
                }
                Action::Note(Note::ChangeRefused { .. }) => self.wanted = 0,
                Action::Ended(End::Failed { failure: Some(failure), .. }) if failure.kind == FailureKind::Plan => {
                    assert!(self.crashes >= PLAN_CRASHES, "{failure:?}");
                    self.failed = true;
                }
                Action::Ended(end) => panic!("the job ended: {end:?}"),
                Action::Run { opening, workers, .. } => {
                    let restored = |worker: &WorkerId| self.restored.get(worker) == Some(&opening.attempt);
                    assert!(workers.iter().all(restored), "who has not restored it runs");
                }
                Action::CarryOn | Action::Checkpoint | Action::Note(_) => {}
            }
        }
    }

    fn member(&self, choice: usize) -> Option<WorkerId> {
        self.alive.keys().nth(choice % self.alive.len().max(1)).cloned()
    }

    /// One thing that was asked for is answered.
    fn answer(&mut self, choice: usize, well: bool) {
        if self.asked.is_empty() {
            return;
        }
        let asked = self.asked.remove(choice % self.asked.len());
        match asked {
            Asked::Worker(template, attempt, deploying) if well => {
                self.made += 1;
                let worker = WorkerId(format!("w{:04}", self.made));
                self.alive.insert(worker.clone(), (template.clone(), attempt));
                if deploying {
                    self.asked.push(Asked::Deploy { worker: worker.clone(), attempt });
                } else if attempt.0 > 0 {
                    self.restored.insert(worker.clone(), attempt);
                }
                self.tell(Event::WorkerReady { worker, attempt, deploying, template });
            }
            Asked::Worker(template, ..) => self.tell(Event::StartFailed { template, reason: "no room".into() }),
            Asked::Plan { worker, version } => {
                let planned = if well && self.alive.contains_key(&worker) {
                    if let Some(version) = self.versions.get_mut(&version) {
                        version.planned = true;
                    }
                    Planned::Fits { same: false }
                } else if self.alive.contains_key(&worker) && choice.is_multiple_of(2) {
                    self.crashes += 1;
                    Planned::Crashed { reason: "it took too long".into() }
                } else {
                    Planned::Unreachable
                };
                self.tell(Event::Planned { version, planned });
            }
            Asked::TakeOver { resume } if well => {
                if !resume {
                    self.attempt += 1;
                }
                let opening = self.opening();
                self.tell(Event::TakenOver { opening, order: Vec::new() });
            }
            Asked::TakeOver { .. } => self.tell(Event::TakeOverFailed { reason: "no answer".into() }),
            Asked::Deploy { worker, attempt } if !self.alive.contains_key(&worker) => drop((worker, attempt)),
            Asked::Deploy { worker, attempt } if well => {
                if let Some((_, runs)) = self.alive.get_mut(&worker) {
                    *runs = attempt;
                }
                let restored = self.restored.entry(worker.clone()).or_insert(attempt);
                *restored = (*restored).max(attempt);
                self.tell(Event::Deployed { worker, attempt });
            }
            Asked::Deploy { worker, attempt } => self.fail(worker, attempt, FailureKind::Io),
            Asked::Last if well => self.tell(Event::LastTaken(Last::Taken { record: RECORD, committed: true })),
            Asked::Last => self.tell(Event::LastTaken(Last::Failed { reason: "declined".into() })),
        }
    }

    fn fail(&mut self, worker: WorkerId, attempt: Attempt, kind: FailureKind) {
        let (operator, message) = ("sum".to_string(), "no".to_string());
        self.tell(Event::TaskFailed(Failure { worker, attempt, operator, subtask: 0, kind, message }));
    }

    /// Something happens that nobody has asked for.
    fn step(&mut self, kind: u8, choice: usize) {
        match kind {
            0..=9 => self.answer(choice, true),
            10 | 11 => self.answer(choice, false),
            12 => {
                if let Some(worker) = self.member(choice) {
                    self.alive.remove(&worker);
                    self.crashes += 1;
                    self.tell(Event::WorkerLost { worker, cause: "killed".into() });
                }
            }
            13 => {
                if let Some(worker) = self.member(choice) {
                    self.tell(Event::WorkerLeaving { worker });
                }
            }
            14 => {
                let number = self.versions.keys().next_back().map_or(1, |newest| newest + 1);
                self.standby = (choice / 8 % 2) as u32;
                let size = Size { workers: 1 + (choice % 3) as u32, standby: self.standby };
                let template = TEMPLATES[choice / 3 % 2].to_string();
                let version = Version { number, size, template, planned: choice.is_multiple_of(2) };
                self.versions.insert(number, version.clone());
                self.wanted = number;
                self.tell(Event::Change { version, same: false });
            }
            15 => {
                if let Some(worker) = self.member(choice) {
                    let kinds = [FailureKind::Operator, FailureKind::PeerLost, FailureKind::BadInput];
                    self.fail(worker, Attempt(self.attempt), kinds[choice % 3]);
                }
            }
            16 => {
                let by = Blocked { room: (choice / 4).is_multiple_of(2), reason: "full".to_string() };
                let by = (choice / 2).is_multiple_of(2).then_some(by);
                self.tell(Event::Blocked { template: TEMPLATES[choice % 2].to_string(), by });
            }
            _ => {
                self.now = self.now + Duration::from_millis((choice * 7) as u64);
                self.tell(Event::Tick);
            }
        }
    }

    /// From here on all goes well.
    fn settles(&mut self) {
        for _ in 0..2_000 {
            if self.failed {
                return;
            }
            if self.asked.is_empty() {
                let Some(wake) = self.machine.next_wake() else { break };
                self.now = self.now.max(wake);
                self.tell(Event::Tick);
            } else {
                self.answer(0, true);
            }
        }
        assert!(self.asked.is_empty(), "it asks without end: {:?}, {:?}", self.asked, self.machine);
        assert!(self.machine.is_running(), "it does not run: {:?}", self.machine);
        let members: Vec<_> = self.machine.members().iter().flatten().cloned().collect();
        assert_eq!(members.len(), self.machine.members().len(), "a place is empty: {:?}", self.machine);
        if self.wanted == 0 {
            return;
        }
        let wanted = &self.versions[&self.wanted];
        assert_eq!(self.machine.version(), self.wanted, "{:?}", self.machine);
        assert_eq!(members.len(), wanted.size.workers as usize);
        assert!(members.iter().all(|member| self.alive[member].0 == wanted.template));
        assert_eq!(self.alive.len(), (wanted.size.workers + self.standby) as usize, "{:?}", self.machine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn however_it_went_once_all_goes_well_the_job_runs_as_it_is_wanted(
        planned in any::<bool>(),
        steps in proptest::collection::vec((0u8..18, 0usize..10_000), 0..120),
    ) {
        let size = Size { workers: 2, standby: 1 };
        let mut world = World::new(Version { number: 1, size, template: "t".into(), planned });
        world.tell(Event::Start);
        for (kind, choice) in steps {
            world.step(kind, choice);
        }
        world.settles();
    }

    #[test]
    fn a_job_that_another_controller_takes_up_runs_as_it_is_wanted(
        found in 0usize..4,
        runs in 0u64..3,
        deploying in any::<bool>(),
        steps in proptest::collection::vec((0u8..18, 0usize..10_000), 0..60),
    ) {
        let size = Size { workers: 2, standby: 0 };
        let mut world = World::new(Version { number: 1, size, template: "t".into(), planned: false });
        world.attempt = 2;
        world.tell(Event::Resume { found: vec!["t".to_string(); found] });
        // What was found answers in the term that is opened.
        world.answer(0, true);
        // Some of them restore yet what they are to run.
        let found = (0..found).map(|n| Asked::Worker("t".into(), Attempt(runs), deploying && runs > 0 && n % 2 == 0));
        world.asked.extend(found);
        for (kind, choice) in steps {
            world.step(kind, choice);
        }
        world.settles();
    }
}
