//! Quotas and limits that stand in the way of workers: of a change, of more, of a lost one's successor.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{LimitRange, ResourceQuota},
    serde::{Serialize, de::DeserializeOwned},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, PostParams},
    core::NamespaceResourceScope,
};
use serde_json::{Value, json};

use crate::{
    job::{Job, Settings},
    space::Space,
    wait::until_within,
};

/// Within seconds.
const SECONDS: Duration = Duration::from_secs(20);
/// A minute for room, the hand-over, the old pods' ends, and a retry of the new ones.
const MADE: Duration = Duration::from_mins(3);
const NAME: &str = "tight";

/// An object that stands in the way.
struct InTheWay<K>(Api<K>);

impl<K> InTheWay<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    async fn put(space: &Space, spec: Value) -> Self {
        let api: Api<K> = Api::namespaced(space.cluster.client.clone(), &space.name);
        let object = serde_json::from_value(json!({"metadata": {"name": NAME}, "spec": spec})).expect("it is one");
        api.create(&PostParams::default(), &object).await.expect("it is made");
        Self(api)
    }

    async fn away(self) {
        self.0.delete(NAME, &DeleteParams::default()).await.expect("it is there");
    }
}

/// A quota, once it counts what is there.
async fn quota(space: &Space, pods: u32) -> InTheWay<ResourceQuota> {
    let quota = InTheWay::<ResourceQuota>::put(space, json!({"hard": {"pods": pods.to_string()}})).await;
    until_within(SECONDS, "the quota counts the pods", || async {
        let used = quota.0.get(NAME).await.ok()?.status?.used?;
        used.get("pods").map(drop)
    })
    .await;
    quota
}

/// Stalled for this reason within seconds, in words that say what it is; and Ready is not.
async fn says(job: &Job, words: &str) {
    let message = until_within(SECONDS, &format!("Stalled=True, ObjectsRefused, {words}"), || async {
        let (status, reason, message) = job.condition("Stalled").await?;
        (status == "True" && reason == "ObjectsRefused" && message.contains(words)).then_some(message)
    })
    .await;
    println!("        {}: {message}", job.space.name);
    assert_ne!(job.condition("Ready").await.map(|(status, ..)| status).as_deref(), Some("True"), "it is not Ready");
}

/// Another pod, with the same image and plan.
fn other_pods() -> Value {
    json!({"workers": {"resources": {"requests": {"cpu": "60m"}}}})
}

/// There is no room for a single new pod beside the old ones: it is said at once, and after a minute the old ones go first.
pub async fn quota_without_room_for_a_change(space: Space) {
    let job = Job::running(&space, &Settings::seconds(180)).await;
    let (attempt, before) = (job.attempt().await, job.until_workers(2).await);
    let quota = quota(&space, 2).await;
    job.change(other_pods()).await;
    says(&job, "exceeded quota").await;
    job.until_more_checkpoints(2).await;
    assert_eq!(job.attempt().await, attempt, "what runs is left alone");
    until_within(MADE, "the change is made", || async {
        let pods = job.workers().await;
        let current = job.condition("Ready").await.is_some_and(|(status, ..)| status == "True");
        (current && pods.len() == 2 && !pods.iter().any(|pod| before.contains(pod))).then_some(())
    })
    .await;
    job.until_condition("Stalled", "False").await;
    job.finishes_exact().await;
    quota.away().await;
}

/// There is no room for more: what runs goes on, and ends being Stalled when no more is asked for.
pub async fn quota_without_room_for_more(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    let (attempt, before) = (job.attempt().await, job.until_workers(2).await);
    let quota = quota(&space, 3).await;
    job.scale(4).await;
    says(&job, "exceeded quota").await;
    job.until_more_checkpoints(2).await;
    job.scale(2).await;
    job.until_condition("Stalled", "False").await;
    job.until_condition("Ready", "True").await;
    assert_eq!((job.attempt().await, job.until_workers(2).await), (attempt, before), "nothing was to be done");
    quota.away().await;
    job.finishes_exact().await;
}

/// A limit that no room mends: it is said, nobody goes for it, and the change is made by itself when the limit is gone. A lost worker
/// is not replaced meanwhile, and is afterwards.
pub async fn limit_range_below_the_workers(space: Space) {
    let job = Job::running(&space, &Settings::seconds(180)).await;
    let (attempt, before) = (job.attempt().await, job.until_workers(2).await);
    let limit = json!({"limits": [{"type": "Container", "max": {"memory": "256Mi"}}]});
    let range = InTheWay::<LimitRange>::put(&space, limit.clone()).await;
    job.change(other_pods()).await;
    says(&job, "maximum memory usage").await;
    job.until_more_checkpoints(2).await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, before), "what runs is left alone");
    range.away().await;
    job.until_attempt_after(attempt).await;

    let attempt = job.attempt().await;
    let range = InTheWay::<LimitRange>::put(&space, limit).await;
    let victim = job.until_workers(2).await.remove(0);
    space.cluster.signal("weir-worker", &victim, "KILL").await.expect("a worker is killed");
    says(&job, "maximum memory usage").await;
    range.away().await;
    job.until_recovered_from(attempt).await;
    job.finishes_exact().await;
}
