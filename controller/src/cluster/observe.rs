//! What is read from the cluster about a job. Beside [`super::apply`] the only place of the pipeline that asks the API server.

use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{Api, Client, api::ListParams};
use weir_crds::StreamJob;
use weir_storage::S3Keys;

use super::{
    build::secrets::{entry, keys},
    identity::Identity,
    jobs::Kept,
    names,
    problem::Problem,
    reasons,
};

/// What is kept of a job in its Secrets. What cannot be understood counts as missing, and is made anew.
pub async fn kept(client: &Client, identity: &Identity) -> Result<Kept, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &identity.namespace);
    // Secrets of a job that had this name before say nothing about this one; they go with their owner.
    let mine = |secret: &Secret| {
        let owners = secret.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.uid == identity.uid)
    };
    let (ca, running) = (names::ca_secret(&identity.name), names::running_secret(&identity.name));
    let (ca, running) = tokio::try_join!(api.get_opt(&ca), api.get_opt(&running))?;
    let authority = ca.filter(mine).and_then(|secret| serde_json::from_slice(entry(&secret, keys::AUTHORITY)?).ok());
    let accepted = running.filter(mine).and_then(|secret| serde_json::from_slice(entry(&secret, keys::RUNNING)?).ok());
    Ok(Kept { accepted, authority })
}

/// The keys to a job's storage, from the Secret that it names.
pub async fn storage_keys(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Result<S3Keys, Problem>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let missing = |what: &str| Problem {
        reason: reasons::STORAGE_SECRET_MISSING,
        message: format!(
            "spec.checkpoint.storage.secretRef: the Secret {name} {what}; it needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ),
    };
    let Some(secret) = api.get_opt(name).await? else { return Ok(Err(missing("is not there"))) };
    let text = |key: &str| entry(&secret, key).and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_string);
    Ok(match (text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Ok(S3Keys { access_key_id, secret_access_key, session_token: text("AWS_SESSION_TOKEN") })
        }
        _ => Err(missing("lacks an entry")),
    })
}

/// Whether there are worker pods of the job.
pub async fn pods(client: &Client, identity: &Identity) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &identity.namespace);
    Ok(api.list(&ListParams::default().labels(&names::selector(&identity.name))).await?.items)
}

/// The cluster's own identity: there is one kube-system in each, and it is never made anew.
pub async fn cluster(client: &Client) -> Result<String, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(api.get("kube-system").await?.metadata.uid.unwrap_or_default())
}

/// Whether StreamJobs are served here.
pub async fn served(client: &Client, namespace: Option<&str>) -> Result<(), kube::Error> {
    let api: Api<StreamJob> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    api.list_metadata(&ListParams::default().limit(1)).await.map(drop)
}
