//! Who leads: one controller of several, by a Lease. kube has no election of its own.
//!
//! [`decide`] is pure: what stands in the Lease, what this process remembers of it, and its own clock. A leader counts its lease
//! from *before* the write that renewed it, and gives itself up a margin before the time is over; another counts from when it
//! *saw* the Lease change, and takes it only when the whole duration has passed without a change. So two never lead at once,
//! whatever their wall clocks say: only the speed of clocks counts. A process that was stopped (SIGSTOP, a sleeping machine)
//! finds on waking that its time is over.
//!
//! One case is different: an API server that answers nobody. Then nobody can take the lease either, and jobs must go on
//! completing checkpoints; so a leader holds on until it is answered again ([`Role::holds_on`]), and another counts a lease's
//! time anew after an outage. Should it be the only one that is not answered, two may supervise a job for a while. That harms
//! nothing, since the terms in storage decide who completes checkpoints, not the Lease.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use weir_runtime::clock;

use super::metrics::Metrics;

/// A leader that is not heard of for so long has lost the lease.
pub const DURATION: Duration = Duration::from_secs(10);
/// From one renewal to the next.
pub const RENEW: Duration = Duration::from_secs(2);
/// A leader gives up so long before others may take over: time to stop what it does.
pub const MARGIN: Duration = Duration::from_secs(2);
/// A leader leads for so long after a renewal was begun.
const LEADS: Duration = DURATION.saturating_sub(MARGIN);
/// A request for the lease is given up after this, so that several fit into one duration.
const REQUEST: Duration = Duration::from_secs(2);

/// What stands in the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// By whom; empty where it was released.
    pub holder: String,
    /// What changes with each write.
    pub version: String,
    /// How long the holder asks for.
    pub duration: Duration,
}

/// What this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Its own name.
    pub me: String,
    /// The Lease as it was last seen, and since when it stands so, by the own clock.
    pub seen: Option<(Held, Instant)>,
    /// It leads until then, by the own clock.
    pub leads_until: Option<Instant>,
    /// It is to end.
    pub leaving: bool,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none: create it.
    Create,
    /// Take it over.
    Take,
    /// Write that it is still held.
    Renew,
    /// Give it back, so that another need not wait.
    Release,
    /// Look again after the interval.
    Wait,
}

/// What to do, after the Lease has been read.
pub fn decide(memory: &mut Memory, found: Option<Held>, now: Instant) -> Step {
    let Some(found) = found else {
        memory.seen = None;
        return if memory.leaving { Step::Wait } else { Step::Create };
    };
    let since = match &memory.seen {
        Some((seen, since)) if *seen == found => *since,
        _ => {
            memory.seen = Some((found.clone(), now));
            now
        }
    };
    let mine = found.holder == memory.me;
    if memory.leaving {
        return if mine { Step::Release } else { Step::Wait };
    }
    if mine {
        // Also where this process has given itself up meanwhile: nobody else has taken it, so a renewal begins anew.
        return Step::Renew;
    }
    memory.leads_until = None;
    let free = found.holder.is_empty() || now >= since + found.duration;
    if free { Step::Take } else { Step::Wait }
}

/// Until when a write that was begun at `begun` and has succeeded lets this process lead.
pub fn until(begun: Instant) -> Instant {
    begun + LEADS
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The Lease was read, and written where that was decided.
    Done,
    /// The API server said no: a conflict, or a right that is missing.
    Denied,
    /// It does not answer, or is in trouble itself.
    Silent,
    /// This process was stopped meanwhile, and can say nothing of the time that has passed.
    Asleep,
}

/// Whether a leader whose lease has run out, or may have, holds on to its jobs.
pub fn holds_on(led: bool, turn: Turn) -> bool {
    led && turn == Turn::Silent
}

/// Something that was to take so long took so much longer that this process must have been stopped.
fn slept(expected: Duration, took: Duration) -> bool {
    took > expected + MARGIN
}

/// Whether this process leads, for everybody in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Until then, by the own clock; none for a standby.
    pub until: Option<Instant>,
    /// It has led, and the API server answers nobody.
    pub holds_on: bool,
    /// The Lease could be read lately, so that a takeover would work.
    pub in_touch: bool,
}

impl Role {
    /// Whether it leads now.
    pub fn leads(self) -> bool {
        self.holds_on || self.until.is_some_and(|until| clock::now() < until)
    }
}

/// Takes part in the election until `leaving` turns true; then gives the lease back and ends.
pub async fn run(
    client: Client,
    namespace: &str,
    name: &str,
    me: String,
    role: watch::Sender<Role>,
    mut leaving: watch::Receiver<bool>,
    metrics: Metrics,
) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut memory = Memory { me, seen: None, leads_until: None, leaving: false };
    let mut held_on = false;
    let mut due = clock::now();
    loop {
        memory.leaving = *leaving.borrow();
        let begun = clock::now();
        let led = held_on || memory.leads_until.is_some();
        let result = tokio::time::timeout(REQUEST, turn(&api, name, &mut memory)).await;
        let asleep = slept(Duration::ZERO, begun - due) || slept(REQUEST, clock::since(begun));
        let outcome = match result {
            Ok(Ok(())) => Turn::Done,
            _ if asleep => Turn::Asleep,
            Ok(Err(error)) => said_no(&error),
            Err(_) => {
                tracing::warn!("the lease cannot be read or written: the API server does not answer");
                Turn::Silent
            }
        };
        if matches!(outcome, Turn::Silent | Turn::Asleep) {
            // Whatever was seen before says nothing about the time in which nothing could be seen.
            memory.seen = None;
        }
        let now = clock::now();
        memory.leads_until = memory.leads_until.filter(|until| now < *until);
        held_on = holds_on(led, outcome) && !memory.leaving;
        let leads = held_on || memory.leads_until.is_some();
        metrics.leader(leads);
        let in_touch = matches!(outcome, Turn::Done | Turn::Denied);
        role.send_replace(Role { until: memory.leads_until, holds_on: held_on, in_touch });
        if memory.leaving && !leads {
            return;
        }
        due = match memory.leads_until {
            Some(until) => (begun + RENEW).min(until),
            None => begun + RENEW,
        }
        .max(now);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            changed = leaving.changed() => {
                due = clock::now();
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

fn said_no(error: &kube::Error) -> Turn {
    let (turn, tell) = match error {
        // Another's write between ours; the next turn sees it.
        kube::Error::Api(status) if status.code == 409 => (Turn::Denied, false),
        kube::Error::Api(status) if status.code == 429 || status.code >= 500 => (Turn::Silent, true),
        kube::Error::Api(_) => (Turn::Denied, true),
        _ => (Turn::Silent, true),
    };
    if tell {
        tracing::warn!(error = crate::effects::chain(error), "the lease cannot be read or written");
    }
    turn
}

async fn turn(api: &Api<Lease>, name: &str, memory: &mut Memory) -> Result<(), kube::Error> {
    let lease = api.get_opt(name).await?;
    let held = lease.as_ref().map(held);
    let begun = clock::now();
    let (holder, transitions) = match decide(memory, held, begun) {
        Step::Wait => {
            if memory.leaving {
                memory.leads_until = None;
            }
            return Ok(());
        }
        Step::Create | Step::Take => (memory.me.clone(), 1),
        Step::Renew => (memory.me.clone(), 0),
        Step::Release => (String::new(), 0),
    };
    let now = MicroTime(Timestamp::now());
    let mut lease = lease.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.to_string()), ..ObjectMeta::default() },
        spec: None,
    });
    let exists = lease.metadata.resource_version.is_some();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if transitions > 0 {
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + i32::from(exists));
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
    spec.holder_identity = (!holder.is_empty()).then_some(holder);
    let released = spec.holder_identity.is_none();
    // The version that was read goes with it: whoever has written meanwhile makes this a conflict.
    if exists {
        api.replace(name, &PostParams::default(), &lease).await?;
    } else {
        api.create(&PostParams::default(), &lease).await?;
    }
    memory.leads_until = (!released).then(|| until(begun));
    Ok(())
}

fn held(lease: &Lease) -> Held {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Held {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: seconds.map_or(DURATION, Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, version: &str) -> Held {
        Held { holder: holder.to_string(), version: version.to_string(), duration: DURATION }
    }

    fn memory() -> Memory {
        Memory { me: "a".to_string(), seen: None, leads_until: None, leaving: false }
    }

    #[test]
    fn what_is_done_hangs_on_who_holds_it_and_how_long_it_has_stood_so() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let b = |version: &str| Some(held_by("b", version));
        #[allow(clippy::type_complexity, reason = "a table: what it is called, what is seen and when, what follows")]
        let cases: &[(&str, Vec<(Option<Held>, Instant)>, Step)] = &[
            ("there is none", vec![(None, start)], Step::Create),
            ("it is another's", vec![(b("1"), start)], Step::Wait),
            ("it is another's, and not renewed for long", vec![(b("1"), start), (b("1"), after(10))], Step::Take),
            ("not yet for long enough", vec![(b("1"), start), (b("1"), after(9))], Step::Wait),
            ("it is renewed in between", vec![(b("1"), start), (b("2"), after(9)), (b("2"), after(18))], Step::Wait),
            ("it was released", vec![(b("1"), start), (Some(held_by("", "2")), after(1))], Step::Take),
            ("it is mine", vec![(Some(held_by("a", "1")), start)], Step::Renew),
        ];
        for (name, readings, expected) in cases {
            let mut memory = memory();
            let steps: Vec<_> = readings.iter().map(|(held, now)| decide(&mut memory, held.clone(), *now)).collect();
            assert_eq!(steps.last(), Some(expected), "{name}");
        }
    }

    #[test]
    fn who_leaves_gives_back_what_is_its_own_and_takes_nothing() {
        let now = Instant::now();
        let mut leaving = Memory { leaving: true, ..memory() };
        assert_eq!(decide(&mut leaving, Some(held_by("a", "1")), now), Step::Release);
        assert_eq!(decide(&mut leaving, Some(held_by("", "2")), now), Step::Wait);
        assert_eq!(decide(&mut leaving, None, now), Step::Wait);
    }

    #[test]
    fn a_leader_that_sees_another_s_name_leads_no_more() {
        let now = Instant::now();
        let mut memory = Memory { leads_until: Some(until(now)), ..memory() };
        assert_eq!(decide(&mut memory, Some(held_by("b", "7")), now), Step::Wait);
        assert_eq!(memory.leads_until, None);
    }

    #[test]
    fn who_led_holds_on_only_while_nobody_is_answered() {
        for (led, turn, expected) in [
            (true, Turn::Silent, true),
            (true, Turn::Done, false),
            (true, Turn::Denied, false),
            (true, Turn::Asleep, false),
            (false, Turn::Silent, false),
        ] {
            assert_eq!(holds_on(led, turn), expected, "{led} {turn:?}");
        }
        assert!(slept(REQUEST, REQUEST + MARGIN * 2) && !slept(REQUEST, REQUEST));
    }

    /// Whatever happens to renewals: the own end comes before another may take over.
    #[test]
    fn a_leader_s_own_time_ends_before_another_s_patience() {
        let begun = Instant::now();
        let written = begun + Duration::from_millis(300);
        let mut other = Memory { me: "b".to_string(), ..memory() };
        // The other sees the write at the earliest when it is made, which is after it was begun.
        assert_eq!(decide(&mut other, Some(held_by("a", "5")), written), Step::Wait);
        let mut now = written;
        while decide(&mut other, Some(held_by("a", "5")), now) != Step::Take {
            now += Duration::from_millis(100);
        }
        assert!(until(begun) + MARGIN <= now);
    }
}
