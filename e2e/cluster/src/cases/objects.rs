//! What a job has beside its pods: made again where somebody deletes it, and made anew in time.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::controller::interrupted;
use crate::{
    job::{Job, Settings},
    space::Space,
    wait::until,
};

/// Those that are watched, as kubectl names them.
const WATCHED: [&str; 3] = ["service/sums-workers", "networkpolicy/sums-workers", "poddisruptionbudget/sums-workers"];
/// Those that are only needed when a worker starts, or another controller leads.
const NEEDED: [&str; 4] =
    ["serviceaccount/sums-worker", "secret/sums-weir-tls", "secret/sums-weir-ca", "secret/sums-weir-running"];
/// Less than the time that a certificate is made anew before its end.
const A_DAY: u64 = 24 * 60 * 60;

/// One worker is lost with its pod; its successor needs what the job has.
async fn recovers_exact(job: &Job) {
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    let pods = job.space.cluster.pods(&job.space.name);
    pods.delete(&workers[0], &DeleteParams::default().grace_period(0)).await.expect("the worker's pod is there");
    job.until_recovered_from(attempt).await;
    job.finishes_exact().await;
}

pub async fn deleted_objects_come_back(space: Space) {
    let job = Job::running(&space, &Settings::seconds(60)).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    let uid = async |object: &str| {
        let get = ["-n", &space.name, "get", object, "-o", "jsonpath={.metadata.uid}"];
        space.cluster.kubectl(&get).await.ok().filter(|uid| !uid.is_empty())
    };
    let delete = async |object: &str| {
        let before = uid(object).await.unwrap_or_else(|| panic!("the job has no {object}"));
        let delete = ["-n", &space.name, "delete", object];
        space.cluster.kubectl(&delete).await.unwrap_or_else(|error| panic!("{error}"));
        before
    };
    for object in WATCHED {
        let before = delete(object).await;
        until(&format!("{object} is back"), || async { uid(object).await.filter(|now| *now != before) }).await;
    }
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "no worker has noticed");
    for object in NEEDED {
        delete(object).await;
    }
    recovers_exact(&job).await;
    for object in NEEDED {
        assert!(uid(object).await.is_some(), "{object} is not back");
    }
}

/// Certificates that end tomorrow are made anew under the running workers, whoever leads by then.
pub async fn certificates_are_made_anew(space: Space) {
    let job = Job::running(&space, &Settings::seconds(90)).await;
    let (attempt, workers) = (job.attempt().await, job.until_workers(2).await);
    let secrets: Api<Secret> = Api::namespaced(space.cluster.client.clone(), &space.name);
    let entry = async |name: &str, key: &str| -> Vec<u8> {
        let secret = secrets.get(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        secret.data.and_then(|mut data| data.remove(key)).unwrap_or_else(|| panic!("{name} has no {key}")).0
    };
    let before = entry("sums-weir-tls", "tls.crt").await;
    let mut authority: Value =
        serde_json::from_slice(&entry("sums-weir-ca", "authority.json").await).expect("the authority is JSON");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    authority["worker"]["notAfter"] = json!(now + A_DAY);
    let aged = json!({"data": {"authority.json": ByteString(authority.to_string().into_bytes())}});
    // Only a new leader reads what its predecessor has kept.
    interrupted(&space, async {
        let patch = Patch::Merge(&aged);
        secrets.patch("sums-weir-ca", &PatchParams::default(), &patch).await.expect("the Secret is there");
    })
    .await;
    until("new certificates", || async { (entry("sums-weir-tls", "tls.crt").await != before).then_some(()) }).await;
    until("the event CertificatesRotated", || async {
        space.events(&job.name).await.into_iter().find(|(reason, _)| reason == "CertificatesRotated")
    })
    .await;
    job.until_more_checkpoints(2).await;
    assert_eq!((job.attempt().await, job.workers().await), (attempt, workers), "no worker has noticed");
    recovers_exact(&job).await;
}
