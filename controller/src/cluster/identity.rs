//! Who a job is, as the API server knows it.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::Resource;
use weir_crds::StreamJob;
use weir_protocol::JobName;

/// Who a job is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Where it lives.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of all that ever had this name.
    pub uid: String,
}

impl Identity {
    /// Of a resource that the API server has stored.
    pub fn of<K: Resource>(resource: &K) -> Option<Self> {
        let meta = resource.meta();
        Some(Self { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid: meta.uid.clone()? })
    }

    /// As storage knows it.
    pub fn job(&self) -> JobName {
        JobName { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Makes the job the owner of one of its objects.
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: StreamJob::api_version(&()).into_owned(),
            kind: StreamJob::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// To speak of the job in events.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(StreamJob::api_version(&()).into_owned()),
            kind: Some(StreamJob::kind(&()).into_owned()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: Some(self.uid.clone()),
            ..Default::default()
        }
    }
}
