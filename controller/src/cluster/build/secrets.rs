//! The Secrets of a job: certificates that workers mount, keys that only the controller reads, the version that runs.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use weir_protocol::tls::{CA_FILE, CERT_FILE, KEY_FILE};

use super::meta;
use crate::cluster::{certs::Authority, identity::Identity, names};

/// Names within the Secrets that only the controller reads.
pub mod keys {
    /// All that is known of the job's CA, as JSON.
    pub const AUTHORITY: &str = "authority.json";
    /// The version of the job that runs, as JSON.
    pub const RUNNING: &str = "running.json";
}

fn secret(identity: &Identity, name: String, data: Vec<(&str, Vec<u8>)>) -> Secret {
    let data: BTreeMap<_, _> = data.into_iter().map(|(key, bytes)| (key.to_string(), ByteString(bytes))).collect();
    Secret { metadata: meta(identity, name), type_: Some("Opaque".to_string()), data: Some(data), ..Secret::default() }
}

/// What workers mount: everybody who is trusted, and their own certificate with its key.
pub fn tls(identity: &Identity, authority: &Authority) -> Secret {
    let leaf = &authority.worker;
    let data = vec![
        (CA_FILE, authority.bundle().into_bytes()),
        (CERT_FILE, leaf.cert.clone().into_bytes()),
        (KEY_FILE, leaf.key.clone().into_bytes()),
    ];
    secret(identity, names::tls_secret(&identity.name), data)
}

/// What only the controller reads.
pub fn ca(identity: &Identity, authority: &Authority) -> Secret {
    let json = serde_json::to_vec(authority).unwrap_or_default();
    secret(identity, names::ca_secret(&identity.name), vec![(keys::AUTHORITY, json)])
}

/// The version that runs.
pub fn running(identity: &Identity, json: Vec<u8>) -> Secret {
    secret(identity, names::running_secret(&identity.name), vec![(keys::RUNNING, json)])
}

/// One entry of a Secret that was read.
pub fn entry<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice())
}
