//! The CRD, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::streamjob::StreamJob;

/// Stands above the generated YAML.
const HEADER: &str = "# Generated from crds/src by `make generate`; a test fails when it drifts.\n";

/// The custom resource definition.
pub fn crd() -> CustomResourceDefinition {
    StreamJob::crd()
}

/// The CRD as the YAML that is committed at `crds/streamjobs.weir.dev.yaml`.
pub fn crd_yaml() -> Result<String, serde_saphyr::ser::Error> {
    Ok(format!("{HEADER}{}", serde_saphyr::to_string(&crd())?))
}

/// The `openAPIV3Schema` of the one version, which holds defaults and rules.
pub fn openapi_schema() -> Value {
    crd()
        .spec
        .versions
        .first()
        .and_then(|version| version.schema.as_ref())
        .and_then(|schema| serde_json::to_value(&schema.open_api_v3_schema).ok())
        .unwrap_or_default()
}
