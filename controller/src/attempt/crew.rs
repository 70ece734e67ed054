//! Who is there: the workers that are ready, those on their way, and who holds which slots.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_protocol::{Attempt, WorkerId};

use super::restart::Failures;
use super::{Blocked, RestartPolicy, Version};
use crate::time::Millis;

/// All workers of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Crew {
    /// Who holds which slots, by position. All of them are ready.
    pub members: Vec<Option<WorkerId>>,
    /// Everyone with a session: members, standbys, and the workers of a version that is to come.
    pub ready: BTreeMap<WorkerId, Ready>,
    /// By template.
    starts: BTreeMap<String, Starts>,
}

/// A worker with a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ready {
    /// What it says it runs.
    pub attempt: Attempt,
    /// It has not restored that yet.
    pub deploying: bool,
    /// What it is made from.
    pub template: String,
    /// It was told to go, by somebody else.
    pub leaving: bool,
}

/// The processes on their way that are made from one template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Starts {
    starting: u32,
    failures: Failures,
    again_at: Option<Millis>,
    /// What is in their way, and since when there is room, or is not.
    blocked: Option<(Blocked, Millis)>,
}

impl Crew {
    /// It stays, and is made from this template.
    pub fn is_eligible(&self, worker: &WorkerId, template: &str) -> bool {
        self.ready.get(worker).is_some_and(|ready| !ready.leaving && ready.template == template)
    }

    /// All that stay and are made from this template, members first.
    pub fn eligible(&self, template: &str) -> Vec<&WorkerId> {
        let members = self.members.iter().flatten();
        let others = self.ready.keys().filter(|worker| self.position(worker).is_none());
        members.chain(others).filter(|worker| self.is_eligible(worker, template)).collect()
    }

    /// There are enough for an attempt of this version.
    pub fn suffices(&self, version: &Version) -> bool {
        self.eligible(&version.template).len() >= version.size.workers as usize
    }

    /// The slot position that it holds.
    pub fn position(&self, worker: &WorkerId) -> Option<usize> {
        self.members.iter().position(|member| member.as_ref() == Some(worker))
    }

    /// The members, if every position has one.
    pub fn complete(&self) -> Option<Vec<WorkerId>> {
        self.members.iter().cloned().collect()
    }

    /// Every member stays, and is made from this template.
    pub fn is_settled(&self, template: &str) -> bool {
        self.members.iter().flatten().all(|member| self.is_eligible(member, template))
    }

    /// Deals out the positions of a version: who can stay where it is stays, since its local files are of those slots.
    pub fn lay_out(&mut self, version: &Version) {
        let places = version.size.workers as usize;
        let mut members = std::mem::take(&mut self.members);
        for member in &mut members {
            *member = member.take().filter(|worker| self.is_eligible(worker, &version.template));
        }
        let beyond = members.split_off(places.min(members.len()));
        members.resize(places, None);
        self.members = members;
        let mut homeless = beyond.into_iter().flatten();
        for member in self.members.iter_mut().filter(|member| member.is_none()) {
            *member = homeless.next();
        }
        self.fill(&version.template);
    }

    /// Gives free positions to workers that hold none.
    pub fn fill(&mut self, template: &str) {
        let holds_none = |worker: &&WorkerId| self.position(worker).is_none() && self.is_eligible(worker, template);
        let free: Vec<WorkerId> = self.ready.keys().filter(holds_none).cloned().collect();
        let mut free = free.into_iter();
        for member in self.members.iter_mut().filter(|member| member.is_none()) {
            *member = free.next();
        }
    }

    /// How many more of a template are to be started now, so that there are this many. They count as starting from here on.
    pub fn start(&mut self, template: &str, wanted: u32) -> u32 {
        let there = self.eligible(template).len() as u32;
        let starts = self.starts.entry(template.to_string()).or_default();
        if starts.again_at.is_some() {
            return 0;
        }
        let missing = wanted.saturating_sub(there.saturating_add(starts.starting));
        starts.starting += missing;
        missing
    }

    /// Something is in the way of those that were asked for, or nothing any more.
    pub fn is_blocked(&mut self, now: Millis, template: &str, by: Option<Blocked>) {
        let Some(starts) = self.starts.get_mut(template) else { return };
        let before = starts.blocked.take();
        starts.blocked = by.map(|by| {
            let since = before.filter(|(before, _)| before.room == by.room).map_or(now, |(_, since)| since);
            (by, since)
        });
    }

    /// What is in the way of the next one of these, and since when.
    pub fn blocked(&self, template: &str) -> Option<(&Blocked, Millis)> {
        let starts = self.starts.get(template).filter(|starts| starts.starting > 0)?;
        starts.blocked.as_ref().map(|(by, since)| (by, *since))
    }

    /// How many of each template are on their way beyond what there should be; they do not count as starting from here on.
    pub fn abandon(&mut self, wanted: &BTreeMap<String, u32>) -> Vec<(String, u32)> {
        let there = |crew: &Self, template: &str| crew.eligible(template).len() as u32;
        let counts: Vec<(String, u32)> =
            self.starts.keys().map(|template| (template.clone(), there(self, template))).collect();
        let mut abandoned = Vec::new();
        for (template, there) in counts {
            let room = wanted.get(&template).copied().unwrap_or(0).saturating_sub(there);
            if let Some(starts) = self.starts.get_mut(&template).filter(|starts| starts.starting > room) {
                abandoned.push((template, starts.starting - room));
                starts.starting = room;
                if room == 0 {
                    starts.blocked = None;
                }
            }
        }
        abandoned
    }

    /// Processes that another controller has started, and that have not been heard yet.
    pub fn found(&mut self, template: String) {
        self.starts.entry(template).or_default().starting += 1;
    }

    /// Processes on their way, or found and not heard yet.
    pub fn unheard(&self) -> usize {
        self.starts.values().map(|starts| starts.starting as usize).sum()
    }

    /// It is ready. What it runs is known anew with each session.
    pub fn welcome(&mut self, worker: WorkerId, attempt: Attempt, deploying: bool, template: String) {
        if let Some(ready) = self.ready.get_mut(&worker) {
            (ready.attempt, ready.deploying) = (attempt, deploying);
            return;
        }
        let starts = self.starts.entry(template.clone()).or_default();
        starts.starting = starts.starting.saturating_sub(1);
        starts.failures.forget();
        self.ready.insert(worker, Ready { attempt, deploying, template, leaving: false });
    }

    /// One on its way will not come; nothing follows from that.
    pub fn given_up(&mut self, template: &str) {
        if let Some(starts) = self.starts.get_mut(template) {
            starts.starting = starts.starting.saturating_sub(1);
        }
    }

    /// One could not be started. True: it is tried again after a back-off; false: that was one time too many. Those that fail
    /// together are one try.
    pub fn start_failed(&mut self, now: Millis, template: &str, policy: &RestartPolicy) -> bool {
        self.given_up(template);
        let starts = self.starts.entry(template.to_string()).or_default();
        if starts.again_at.is_some() {
            return true;
        }
        let after = starts.failures.next(policy, Duration::ZERO);
        starts.again_at = Some(now + after.unwrap_or(policy.max_backoff));
        after.is_some()
    }

    /// When a start that failed is tried again.
    pub fn next_start(&self) -> Option<Millis> {
        self.starts.values().filter_map(|starts| starts.again_at).min()
    }

    /// Back-offs end.
    pub fn tick(&mut self, now: Millis) {
        for starts in self.starts.values_mut() {
            starts.again_at = starts.again_at.filter(|at| now < *at);
        }
    }

    /// Those that are to go; they are out of the crew from here on, and others have their positions, as far as there are others.
    pub fn dismiss_leaving(&mut self, template: &str) -> Vec<WorkerId> {
        let leaving: Vec<WorkerId> =
            self.ready.extract_if(.., |_, ready| ready.leaving).map(|(worker, _)| worker).collect();
        if !leaving.is_empty() {
            for member in &mut self.members {
                *member = member.take().filter(|worker| !leaving.contains(worker));
            }
            self.fill(template);
        }
        leaving
    }

    /// A member was told to go.
    pub fn is_leaving(&self) -> bool {
        self.members.iter().flatten().any(|member| self.ready.get(member).is_some_and(|ready| ready.leaving))
    }

    /// All that are made from something else; they are out of the crew from here on.
    pub fn dismiss_others(&mut self, template: &str) -> Vec<WorkerId> {
        self.ready.extract_if(.., |_, ready| ready.template != template).map(|(worker, _)| worker).collect()
    }

    /// Those that neither hold slots nor are wanted for anything; they are out of the crew from here on. `wanted` says how
    /// many of each template there should be.
    pub fn dismiss(&mut self, wanted: &BTreeMap<String, u32>) -> Vec<WorkerId> {
        let mut room = wanted.clone();
        for member in self.members.iter().flatten() {
            // A member that is to go holds no room: its successor does.
            let stays = self.ready.get(member).filter(|ready| !ready.leaving);
            if let Some(room) = stays.and_then(|ready| room.get_mut(&ready.template)) {
                *room = room.saturating_sub(1);
            }
        }
        let mut surplus = Vec::new();
        for (worker, ready) in &self.ready {
            if self.position(worker).is_some() {
                continue;
            }
            match room.get_mut(&ready.template) {
                Some(room) if *room > 0 && !ready.leaving => *room -= 1,
                _ => surplus.push(worker.clone()),
            }
        }
        for worker in &surplus {
            self.ready.remove(worker);
        }
        surplus
    }
}
