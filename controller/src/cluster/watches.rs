//! What is watched, and which of it is worth a look at a job.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::ObjectRef,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use weir_runtime::{clock, tasks};

use super::{
    context::{Context, Guarded},
    names,
};

/// Changes where somebody has removed a job's status, or much of it, so that it is written again, or has asked for a checkpoint. What
/// Weir itself writes does not change it.
#[allow(clippy::unnecessary_wraps, reason = "a predicate says so whether it applies")]
pub fn asks(resource: &Guarded) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let status = resource.0.as_ref().ok().and_then(|job| job.status.as_ref());
    status.is_none_or(|status| status.conditions.is_empty()).hash(&mut hasher);
    resource.0.is_ok().hash(&mut hasher);
    resource.meta().deletion_timestamp.is_some().hash(&mut hasher);
    names::asked_checkpoint(resource.meta()).hash(&mut hasher);
    Some(hasher.finish())
}

/// Changes of a job's objects that are answered at once. Somebody who tries something out makes fewer.
const AT_ONCE: u32 = 6;
/// Somebody who changes them again and again, such as another controller, is answered after this, and twice as late each time.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// But not later than this.
const MAX_DELAY: Duration = Duration::from_mins(5);
/// After so long without a change the next one is answered at once again.
const CALM: Duration = Duration::from_mins(15);

/// Jobs one of whose objects of this kind was changed or removed by somebody. What was applied is forgotten, so that it is
/// applied again; where that changes nothing, nothing more happens. Who changes it again and again is answered ever more rarely.
pub fn touched<K>(context: &Arc<Context>) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    // Of these only the metadata is asked for.
    let api: Api<PartialObjectMeta<K>> = match &context.options.watch_namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let config = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::MANAGED_BY));
    let (mut seen, mut quarrels) = (Seen::default(), Quarrels::default());
    let context = Arc::clone(context);
    watcher::watcher(api, config).default_backoff().filter_map(move |event| {
        let job = event.ok().and_then(|event| seen.event(&event)).and_then(|meta| owner(&meta));
        let answered = job.and_then(|job| {
            let wait = quarrels.touched(&job, clock::now())?;
            if wait.is_zero() {
                context.applied.forget(&job.0, &job.1);
                return Some(job);
            }
            tracing::warn!(job = format!("{}/{}", job.0, job.1), ?wait, "somebody changes its objects again and again");
            let context = Arc::clone(&context);
            tasks::spawn(async move {
                tokio::time::sleep(wait).await;
                context.applied.forget(&job.0, &job.1);
                context.wake_named(&job.0, &job.1);
            });
            None
        });
        future::ready(answered.map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)))
    })
}

/// How often the objects of each job were changed lately.
#[derive(Default)]
struct Quarrels(HashMap<(String, String), Quarrel>);

struct Quarrel {
    changes: u32,
    last: Instant,
    /// They are applied again then.
    due: Instant,
}

impl Quarrels {
    /// After which time a change is answered; none where an answer that is still to come will do.
    fn touched(&mut self, job: &(String, String), now: Instant) -> Option<Duration> {
        self.0.retain(|_, quarrel| now.saturating_duration_since(quarrel.last) < CALM + MAX_DELAY);
        let quarrel = self.0.entry(job.clone()).or_insert(Quarrel { changes: 0, last: now, due: now });
        if now < quarrel.due {
            return None;
        }
        if now.saturating_duration_since(quarrel.last) >= CALM {
            quarrel.changes = 0;
        }
        (quarrel.changes, quarrel.last) = (quarrel.changes + 1, now);
        let wait = match quarrel.changes.checked_sub(AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(more) => FIRST_DELAY.saturating_mul(2u32.saturating_pow((more - 1).min(16))).min(MAX_DELAY),
        };
        quarrel.due = now + wait;
        Some(wait)
    }
}

/// The versions that were seen last, by namespace and name.
#[derive(Default)]
struct Seen(HashMap<(String, String), String>);

impl Seen {
    /// The object, where it was changed beyond its status, or removed.
    fn event<K: Resource<DynamicType = ()>>(
        &mut self,
        event: &Event<PartialObjectMeta<K>>,
    ) -> Option<kube::core::ObjectMeta> {
        let (object, first, gone) = match event {
            Event::Init => {
                self.0.clear();
                return None;
            }
            Event::InitDone => return None,
            Event::InitApply(object) => (object, true, false),
            Event::Apply(object) => (object, false, false),
            Event::Delete(object) => (object, false, true),
        };
        let meta = &object.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        if gone {
            self.0.remove(&key);
            return Some(meta.clone());
        }
        // A generation counts changes of the spec; where a kind has none, every change counts.
        let version = match meta.generation {
            Some(generation) => generation.to_string(),
            None => meta.resource_version.clone().unwrap_or_default(),
        };
        let before = self.0.insert(key, version.clone());
        (!first && before.is_some_and(|before| before != version)).then(|| meta.clone())
    }
}

/// The job that an object belongs to.
fn owner(meta: &kube::core::ObjectMeta) -> Option<(String, String)> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    (owner.kind == "StreamJob").then(|| (meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(generation: Option<i64>, version: &str) -> PartialObjectMeta<Service> {
        let json = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "a-workers", "namespace": "n", "generation": generation, "resourceVersion": version},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn who_changes_objects_again_and_again_is_answered_ever_more_rarely() {
        let job = ("air".to_string(), "flights".to_string());
        let (mut quarrels, mut now) = (Quarrels::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..AT_ONCE + 10 {
            let wait = quarrels.touched(&job, now).unwrap();
            waits.push(wait.as_secs());
            if !wait.is_zero() {
                assert_eq!(quarrels.touched(&job, now), None, "one answer will do");
            }
            now += wait;
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        let other = ("air".to_string(), "trains".to_string());
        assert_eq!(quarrels.touched(&other, now), Some(Duration::ZERO));
        assert_eq!(quarrels.touched(&job, now + CALM), Some(Duration::ZERO), "it has been calm");
    }

    #[test]
    fn only_what_somebody_changed_or_removed_is_looked_at() {
        let mut seen = Seen::default();
        assert!(seen.event(&Event::InitApply(service(Some(1), "1"))).is_none());
        assert!(seen.event(&Event::Apply(service(Some(1), "2"))).is_none(), "its status");
        assert!(seen.event(&Event::Apply(service(Some(2), "3"))).is_some());
        assert!(seen.event(&Event::Delete(service(Some(2), "4"))).is_some());
        assert!(seen.event(&Event::Apply(service(None, "5"))).is_none(), "applied again by Weir");
        assert!(seen.event(&Event::Apply(service(None, "6"))).is_some());
    }
}
