//! The headless Service, by which people and monitors find a job's workers, and the ServiceAccount that they run as.

use k8s_openapi::{
    api::core::v1::{Service, ServiceAccount, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{meta, selector};
use crate::cluster::{identity::Identity, names};

/// Workers meet by the addresses that the controller sends; this is for everybody else.
pub fn service(identity: &Identity) -> Service {
    let port = |name: &str, number: i32| ServicePort {
        name: Some(name.to_string()),
        port: number,
        target_port: Some(IntOrString::String(name.to_string())),
        protocol: Some("TCP".to_string()),
        ..ServicePort::default()
    };
    Service {
        metadata: meta(identity, names::service(&identity.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_string()),
            selector: Some(selector(&identity.name)),
            // A worker that is to go is not ready any more, and is reached until its work is handed over.
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![port("grpc", names::GRPC_PORT), port("http", names::HTTP_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Workers never speak to the API server.
pub fn service_account(identity: &Identity) -> ServiceAccount {
    ServiceAccount {
        metadata: meta(identity, names::service_account(&identity.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
