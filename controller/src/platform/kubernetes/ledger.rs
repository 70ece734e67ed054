//! Which pod is which process, and what has been told of each. Pure: objects in, events out, each event once.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::facts::{PodState, is_outlived, state_of};
use crate::{
    cluster::names::TEMPLATE_LABEL,
    platform::{Obstacle, PlatformEvent, ProcessNumber, Trouble},
};

/// Pods that have failed and are kept, so that somebody can read their logs.
pub const FAILED_KEPT: usize = 3;

/// All pods of one job.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<ProcessNumber, Entry>,
    numbers: BTreeMap<String, ProcessNumber>,
    /// The number of the newest pod that nobody asked for.
    newest: u64,
    /// Names of pods that ended by themselves, the oldest first.
    failed: Vec<String>,
    /// Names of pods that nobody wants and that would stay: their worker has ended and their other containers run on, or they
    /// came after they had been called off.
    strays: Vec<String>,
    /// The pods that were there at first have been told.
    found: bool,
    /// While all pods are listed: those that were there when the list was asked for, and have not been listed yet.
    unlisted: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct Entry {
    pod: String,
    template: String,
    /// It has been seen in the API, or its creation was answered.
    exists: bool,
    started: bool,
    leaving: bool,
    waiting: Option<Obstacle>,
    /// What is wrong beside it.
    trouble: Option<Trouble>,
    /// We have told it to go, or never to come.
    ended_by_us: bool,
    /// Its end has been told.
    over: bool,
}

impl Entry {
    fn new(pod: String, template: String) -> Self {
        Self {
            pod,
            template,
            exists: false,
            started: false,
            leaving: false,
            waiting: None,
            trouble: None,
            ended_by_us: false,
            over: false,
        }
    }
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn template_of(pod: &Pod) -> String {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(TEMPLATE_LABEL)).cloned().unwrap_or_default()
}

impl Ledger {
    /// Nothing is known yet. Pods that nobody asked for get numbers from here on.
    pub fn from(number: u64) -> Self {
        Self { newest: number, ..Self::default() }
    }

    /// The first list is complete.
    pub fn has_listed(&self) -> bool {
        self.found
    }

    /// A pod of this name is to be created.
    pub fn asked(&mut self, process: ProcessNumber, pod: String, template: String) {
        self.numbers.insert(pod.clone(), process);
        self.entries.insert(process, Entry::new(pod, template));
    }

    /// Its creation was answered.
    pub fn created(&mut self, process: ProcessNumber) {
        if let Some(entry) = self.entries.get_mut(&process) {
            entry.exists = true;
        }
    }

    /// Its creation does not succeed, and is tried again.
    pub fn not_created(&mut self, process: ProcessNumber, obstacle: Obstacle) -> Vec<PlatformEvent> {
        let Some(entry) = self.entries.get_mut(&process).filter(|entry| !entry.over) else { return Vec::new() };
        waits(process, entry, Some(obstacle))
    }

    /// It is told to go. The name of its pod, if that is still there.
    pub fn end(&mut self, process: ProcessNumber) -> Option<String> {
        let entry = self.entries.get_mut(&process).filter(|entry| !entry.over)?;
        entry.ended_by_us = true;
        Some(entry.pod.clone())
    }

    /// It was told to go before its pod was created, and there will be none.
    pub fn never_created(&mut self, process: ProcessNumber) -> Vec<PlatformEvent> {
        self.over(process, "it was not needed any more")
    }

    /// Everything that is not over.
    pub fn alive(&self) -> Vec<ProcessNumber> {
        self.entries.iter().filter(|(_, entry)| !entry.over).map(|(process, _)| *process).collect()
    }

    /// A pod is there, or has changed.
    pub fn seen(&mut self, pod: &Pod) -> Vec<PlatformEvent> {
        let name = name_of(pod);
        if let Some(unlisted) = &mut self.unlisted {
            unlisted.remove(&name);
        }
        let state = state_of(pod);
        let Some(&process) = self.numbers.get(&name) else {
            // One that another controller has left.
            if let PodState::Dead { .. } = state {
                self.note_dead(pod, name);
                return Vec::new();
            }
            self.newest += 1;
            let process = ProcessNumber(self.newest);
            self.asked(process, name, template_of(pod));
            self.created(process);
            // Before the first list is complete it is told with the others.
            return if self.found { self.tell(process, &state) } else { Vec::new() };
        };
        if let PodState::Dead { .. } = state {
            self.note_dead(pod, name);
        } else if pod.metadata.deletion_timestamp.is_none()
            && self.entries.get(&process).is_some_and(|entry| entry.over && entry.ended_by_us)
        {
            self.strays.push(name);
        }
        self.created(process);
        self.tell(process, &state)
    }

    /// A pod is gone.
    pub fn gone(&mut self, pod: &Pod) -> Vec<PlatformEvent> {
        let name = name_of(pod);
        self.failed.retain(|failed| *failed != name);
        let Some(process) = self.numbers.remove(&name) else { return Vec::new() };
        let how = match state_of(pod) {
            PodState::Dead { how } => how,
            PodState::Leaving { reason, .. } => reason,
            _ => "its pod was deleted".to_string(),
        };
        let events = self.over(process, &how);
        self.entries.remove(&process);
        events
    }

    /// All pods are about to be listed.
    pub fn list_begins(&mut self) {
        let exists = |process: &ProcessNumber| self.entries.get(process).is_some_and(|entry| entry.exists);
        let there = self.numbers.iter().filter(|(_, process)| exists(process)).map(|(name, _)| name.clone()).collect();
        self.unlisted = Some(there);
    }

    /// All pods have been listed: what was not is gone. `pods` are the objects of the first list, to be told of at once.
    pub fn list_ends(&mut self, pods: &[Pod]) -> Vec<PlatformEvent> {
        let Some(unlisted) = self.unlisted.take() else { return Vec::new() };
        let missing: Vec<(String, ProcessNumber)> =
            unlisted.into_iter().filter_map(|name| self.numbers.get(&name).map(|process| (name, *process))).collect();
        let mut events = Vec::new();
        for (name, process) in missing {
            self.numbers.remove(&name);
            events.extend(self.over(process, "its pod is gone"));
            self.entries.remove(&process);
        }
        if !self.found {
            self.found = true;
            let found = |(process, entry): (&ProcessNumber, &Entry)| (*process, entry.template.clone());
            let processes = self.entries.iter().filter(|(_, entry)| entry.exists).map(found).collect();
            events.insert(0, PlatformEvent::Found { processes });
            for pod in pods {
                if let Some(&process) = self.numbers.get(&name_of(pod)) {
                    events.extend(self.tell(process, &state_of(pod)));
                }
            }
        }
        events
    }

    /// Pods to be deleted: failed ones beyond those that are kept, and strays.
    pub fn unwanted(&mut self) -> Vec<String> {
        let beyond = self.failed.len().saturating_sub(FAILED_KEPT);
        self.failed.drain(..beyond).chain(self.strays.drain(..)).collect()
    }

    fn note_dead(&mut self, pod: &Pod, name: String) {
        if pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        if is_outlived(pod) {
            self.strays.push(name);
        } else if !self.failed.contains(&name) {
            self.failed.push(name);
        }
    }

    fn tell(&mut self, process: ProcessNumber, state: &PodState) -> Vec<PlatformEvent> {
        let Some(entry) = self.entries.get_mut(&process).filter(|entry| !entry.over) else { return Vec::new() };
        match state {
            PodState::Waiting { .. } if entry.started => Vec::new(),
            PodState::Waiting { obstacle } => waits(process, entry, obstacle.clone()),
            PodState::Runs { address, trouble } => {
                let starts = (!entry.started).then(|| starts(process, entry, address));
                starts.into_iter().chain(beside(process, entry, trouble.as_ref())).collect()
            }
            PodState::Leaving { .. } if entry.leaving || entry.ended_by_us => Vec::new(),
            PodState::Leaving { reason, address } => {
                // One that another controller has left may run an attempt.
                let started =
                    address.as_ref().filter(|_| !entry.started).map(|address| starts(process, entry, address));
                if !entry.started {
                    return self.over(process, reason);
                }
                entry.leaving = true;
                started.into_iter().chain([PlatformEvent::Leaving { process, reason: reason.clone() }]).collect()
            }
            PodState::Dead { how } => self.over(process, how),
        }
    }

    fn over(&mut self, process: ProcessNumber, how: &str) -> Vec<PlatformEvent> {
        let Some(entry) = self.entries.get_mut(&process).filter(|entry| !entry.over) else { return Vec::new() };
        entry.over = true;
        let how = how.to_string();
        vec![if entry.started {
            PlatformEvent::Died { process, how }
        } else {
            let reason = format!("pod {} ended before it served: {how}", entry.pod);
            PlatformEvent::StartFailed { process, reason, hopeless: false }
        }]
    }
}

fn starts(process: ProcessNumber, entry: &mut Entry, address: &str) -> PlatformEvent {
    entry.started = true;
    PlatformEvent::Started {
        process,
        name: entry.pod.clone(),
        address: address.to_string(),
        pid: None,
        template: entry.template.clone(),
    }
}

fn waits(process: ProcessNumber, entry: &mut Entry, obstacle: Option<Obstacle>) -> Vec<PlatformEvent> {
    if entry.waiting == obstacle {
        return Vec::new();
    }
    entry.waiting.clone_from(&obstacle);
    vec![PlatformEvent::Waiting { process, obstacle }]
}

fn beside(process: ProcessNumber, entry: &mut Entry, trouble: Option<&Trouble>) -> Option<PlatformEvent> {
    if entry.trouble.as_ref() == trouble || entry.ended_by_us {
        return None;
    }
    entry.trouble = trouble.cloned();
    Some(PlatformEvent::Beside { process, trouble: trouble.cloned() })
}
