//! Events on their way to the API server. Those of one cause are one object, whoever tells of it: it says how often, since when and until
//! when, and its text is the newest. Nothing is left out: what is told too often to be written each time is counted, and causes beyond a
//! bound share an object.
//!
//! They are written in the core API, which `kubectl get events --sort-by=.lastTimestamp` and every other tool reads; the newer one has no
//! such times.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use weir_runtime::{clock, tasks};

use super::identity::Identity;
use crate::{effects::chain, facts::told::Told};

/// Causes of one reason that have objects of their own, of one job; all others share one. A job that fails in ever new ways says so, and
/// fills no etcd with it.
const CAUSES: usize = 10;
/// From one write of an object to the next. What is told meanwhile is counted.
const QUIET: Duration = Duration::from_secs(5);
/// So long an object is known after it was told of last; the API server forgets it then, too.
const KNOWN: Duration = Duration::from_hours(1);
/// The API server refuses longer texts.
const MAX_NOTE: usize = 1000;
/// From a write that failed to the next try; it doubles with each up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_mins(1);
/// An API server that has not answered in this time is asked again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Who tells.
const COMPONENT: &str = "weir-controller";

/// Namespace and name of an object.
type Key = (String, String);

/// All events that have been told of late.
#[derive(Debug, Default)]
struct Book {
    entries: BTreeMap<Key, Entry>,
}

/// One object.
#[derive(Clone, Debug)]
struct Entry {
    about: Identity,
    /// The newest of them.
    told: Told,
    first: Timestamp,
    last: Timestamp,
    /// How often it has been told, as the object says; none where it is not known whether there is one.
    written: Option<i32>,
    /// How often since.
    unwritten: i32,
    not_before: Instant,
    tries: u32,
    seen: Instant,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// The object says that it has been told so often.
    Yes(i32),
    /// There is no place for it any more, or it is refused.
    Never,
    /// To be tried again.
    NotYet,
}

/// The object of a cause: the same under every controller.
fn key(about: &Identity, told: &Told, cause: &str) -> Key {
    let mut hash = Sha256::new();
    for part in [about.uid.as_str(), told.reason, if told.warning { "!" } else { "" }, cause] {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hash.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    (about.namespace.clone(), format!("{}.{hash}", about.name))
}

impl Book {
    /// One more is told.
    fn tell(&mut self, about: &Identity, told: Told, now: Instant, at: Timestamp) {
        self.entries.retain(|_, entry| entry.unwritten > 0 || now.duration_since(entry.seen) < KNOWN);
        let mut own = key(about, &told, &told.cause);
        if !self.entries.contains_key(&own) {
            let alike = |entry: &&Entry| entry.about.uid == about.uid && entry.told.reason == told.reason;
            if self.entries.values().filter(alike).count() >= CAUSES {
                own = key(about, &told, "");
            }
        }
        let entry = self.entries.entry(own).or_insert_with(|| Entry {
            about: about.clone(),
            told: told.clone(),
            first: at,
            last: at,
            written: None,
            unwritten: 0,
            not_before: now,
            tries: 0,
            seen: now,
        });
        if told.once && (entry.written.is_some() || entry.unwritten > 0) {
            return;
        }
        entry.unwritten = entry.unwritten.saturating_add(1);
        (entry.told, entry.last, entry.seen) = (told, at, now);
    }

    /// When the next one is to be written.
    fn due(&self) -> Option<Instant> {
        self.unwritten().map(|(_, entry)| entry.not_before).min()
    }

    /// The next one that is to be written.
    fn next(&self, now: Instant) -> Option<(Key, Entry)> {
        let due = self.unwritten().filter(|(_, entry)| entry.not_before <= now);
        due.min_by_key(|(_, entry)| entry.not_before).map(|(key, entry)| (key.clone(), entry.clone()))
    }

    fn unwritten(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.unwritten > 0)
    }

    /// What came of the write of an entry, as it was then.
    fn wrote(&mut self, key: &Key, entry: &Entry, outcome: Written, now: Instant) {
        let Some(current) = self.entries.get_mut(key) else { return };
        match outcome {
            Written::Yes(count) => {
                current.written = Some(count);
                current.unwritten -= entry.unwritten;
                (current.tries, current.not_before) = (0, now + QUIET);
            }
            Written::NotYet if now.duration_since(entry.seen) < KNOWN => {
                current.tries += 1;
                current.not_before = now + FIRST_RETRY.saturating_mul(1 << (current.tries - 1).min(10)).min(MAX_RETRY);
            }
            Written::NotYet | Written::Never => {
                let job = format!("{}/{}", entry.about.namespace, entry.about.name);
                tracing::warn!(job, reason = entry.told.reason, "an event could not be published: {}", entry.told.note);
                self.entries.remove(key);
            }
        }
    }
}

/// Publishes events of all jobs, one after the other. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    book: Arc<Mutex<Book>>,
    more: Arc<Notify>,
}

impl Publisher {
    /// Starts publishing. `instance` is this controller's name.
    pub fn start(client: Client, instance: String) -> Self {
        let publisher = Self { book: Arc::default(), more: Arc::default() };
        tasks::spawn(publisher.clone().publish_all(client, instance));
        publisher
    }

    /// Publishes one about a job.
    pub fn publish(&self, about: &Identity, told: Told) {
        let job = format!("{}/{}", about.namespace, about.name);
        if told.warning {
            tracing::warn!(job, reason = told.reason, "{}", told.note);
        } else {
            tracing::info!(job, reason = told.reason, "{}", told.note);
        }
        self.book.lock().tell(about, told, clock::now(), Timestamp::now());
        self.more.notify_one();
    }

    async fn publish_all(self, client: Client, instance: String) {
        loop {
            let (due, next) = {
                let book = self.book.lock();
                (book.due(), book.next(clock::now()))
            };
            match (next, due) {
                (Some((key, entry)), _) => {
                    let wrote = tokio::time::timeout(TIMEOUT, write(&client, &instance, &key, &entry)).await;
                    let wrote = wrote.unwrap_or(Written::NotYet);
                    self.book.lock().wrote(&key, &entry, wrote, clock::now());
                }
                (None, Some(due)) => tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = self.more.notified() => {}
                },
                (None, None) => self.more.notified().await,
            }
        }
    }
}

/// Makes the object, or counts up the one that is there.
async fn write(client: &Client, instance: &str, key: &Key, entry: &Entry) -> Written {
    let api: Api<Event> = Api::namespaced(client.clone(), &key.0);
    let outcome = match entry.written {
        Some(count) => match count_up(&api, key, entry, count).await {
            Err(kube::Error::Api(status)) if status.code == 404 => create(&api, instance, key, entry).await,
            outcome => outcome,
        },
        None => match create(&api, instance, key, entry).await {
            // The one before this controller has told of it.
            Err(kube::Error::Api(status)) if status.code == 409 => again(&api, key, entry).await,
            outcome => outcome,
        },
    };
    match outcome {
        Ok(count) => Written::Yes(count),
        Err(error) => {
            tracing::debug!(error = chain(&error), "an event was not published");
            match error {
                // Its namespace is gone or going, or it is no event.
                kube::Error::Api(status) if [400, 403, 404, 422].contains(&status.code) => Written::Never,
                _ => Written::NotYet,
            }
        }
    }
}

async fn create(api: &Api<Event>, instance: &str, key: &Key, entry: &Entry) -> kube::Result<i32> {
    let event = Event {
        metadata: ObjectMeta { namespace: Some(key.0.clone()), name: Some(key.1.clone()), ..ObjectMeta::default() },
        involved_object: entry.about.reference(),
        type_: Some(if entry.told.warning { "Warning" } else { "Normal" }.to_string()),
        reason: Some(entry.told.reason.to_string()),
        message: Some(text(&entry.told)),
        count: Some(entry.unwritten),
        first_timestamp: Some(Time(entry.first)),
        last_timestamp: Some(Time(entry.last)),
        source: Some(EventSource { component: Some(COMPONENT.to_string()), host: None }),
        reporting_component: Some(COMPONENT.to_string()),
        reporting_instance: Some(instance.to_string()),
        ..Event::default()
    };
    api.create(&PostParams::default(), &event).await.map(|_| entry.unwritten)
}

/// It is there, and what it says is not known here.
async fn again(api: &Api<Event>, key: &Key, entry: &Entry) -> kube::Result<i32> {
    if entry.told.once {
        return Ok(entry.unwritten);
    }
    let there = api.get_opt(&key.1).await?.and_then(|event| event.count).unwrap_or_default();
    count_up(api, key, entry, there).await
}

async fn count_up(api: &Api<Event>, key: &Key, entry: &Entry, before: i32) -> kube::Result<i32> {
    let count = before.saturating_add(entry.unwritten);
    let patch = json!({"count": count, "lastTimestamp": Time(entry.last), "message": text(&entry.told)});
    api.patch(&key.1, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| count)
}

fn text(told: &Told) -> String {
    told.note.chars().take(MAX_NOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Identity {
        Identity { namespace: "air".to_string(), name: "flights".to_string(), uid: "u-1".to_string() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn told(cause: &str, note: &str) -> Told {
        Told::warning("WorkerWaits", note).about(cause)
    }

    #[test]
    fn one_cause_is_one_object_with_the_newest_text() {
        let (mut book, begun) = (Book::default(), Instant::now());
        book.tell(&job(), told("no image", "try 1"), begun, at(0));
        let (key, entry) = book.next(begun).unwrap();
        book.tell(&job(), told("no image", "try 2"), begun, at(1));
        book.wrote(&key, &entry, Written::Yes(1), begun);
        assert!(book.next(begun).is_none(), "it was written just now");
        book.tell(&job(), told("no image", "try 3"), begun, at(2));
        assert_eq!(book.due(), Some(begun + QUIET));
        let (again, entry) = book.next(begun + QUIET).unwrap();
        assert_eq!((&again, entry.unwritten, entry.told.note.as_str()), (&key, 2, "try 3"), "none is lost");
        assert_eq!((entry.first, entry.last), (at(0), at(2)));
        book.wrote(&again, &entry, Written::Yes(3), begun + QUIET);
        assert!(book.due().is_none());
        assert_ne!(super::key(&job(), &told("a", ""), "a"), super::key(&job(), &told("b", ""), "b"));
    }

    #[test]
    fn a_flood_is_counted_and_never_dropped() {
        let (mut book, begun) = (Book::default(), Instant::now());
        for n in 0..1000 {
            book.tell(&job(), told(&format!("cause {n}"), &format!("note {n}")), begun, at(n));
        }
        book.tell(&job(), Told::normal("Running", "runs"), begun, at(0));
        assert_eq!(book.entries.len(), CAUSES + 2, "the others share one");
        let all: i32 = book.entries.values().map(|entry| entry.unwritten).sum();
        assert_eq!(all, 1001);
        assert!(book.entries.values().any(|entry| entry.told.note == "note 999"), "the newest is read");
    }

    #[test]
    fn what_is_said_once_is_said_once() {
        let (mut book, begun) = (Book::default(), Instant::now());
        let warning = || Told { once: true, ..told("generation 3", "state grows") };
        book.tell(&job(), warning(), begun, at(0));
        book.tell(&job(), warning(), begun, at(1));
        let (key, entry) = book.next(begun).unwrap();
        assert_eq!(entry.unwritten, 1);
        book.wrote(&key, &entry, Written::Yes(1), begun);
        book.tell(&job(), warning(), begun, at(2));
        assert!(book.due().is_none());
    }

    #[test]
    fn what_cannot_be_written_is_tried_again_for_a_while() {
        let (mut book, begun) = (Book::default(), Instant::now());
        book.tell(&job(), told("a", "a"), begun, at(0));
        let mut now = begun;
        for wait in [1, 2, 4] {
            let (key, entry) = book.next(now).unwrap();
            book.wrote(&key, &entry, Written::NotYet, now);
            assert_eq!(book.due(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        let (key, entry) = book.next(now).unwrap();
        book.wrote(&key, &entry, Written::NotYet, begun + KNOWN);
        assert!(book.entries.is_empty());
        book.tell(&job(), told("a", "a"), begun, at(0));
        let (key, entry) = book.next(begun).unwrap();
        book.wrote(&key, &entry, Written::Never, begun);
        assert!(book.entries.is_empty());
    }
}
