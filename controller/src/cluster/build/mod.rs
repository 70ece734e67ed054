//! From a validated job to the objects that it has in a cluster. Pure functions; nothing here is read or sent.

pub mod pod;
pub mod policy;
pub mod secrets;
pub mod service;
pub mod template;
pub mod unique;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{identity::Identity, names};

/// Labels of everything that belongs to a job.
pub fn labels(job: &str) -> BTreeMap<String, String> {
    [(names::NAME_LABEL, names::WORKER), (names::MANAGED_BY_LABEL, names::MANAGED_BY), (names::JOB_LABEL, job)]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// What selects the job's pods, and never anything else.
pub fn selector(job: &str) -> BTreeMap<String, String> {
    [(names::NAME_LABEL, names::WORKER), (names::JOB_LABEL, job)]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// Metadata of one of a job's objects.
pub fn meta(identity: &Identity, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(identity.namespace.clone()),
        labels: Some(labels(&identity.name)),
        owner_references: Some(vec![identity.owner_reference()]),
        ..ObjectMeta::default()
    }
}
