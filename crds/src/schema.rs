//! The CRD, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::streamjob::StreamJob;

/// Stands above the generated YAML.
const HEADER: &str = "# Generated from crds/src by `make generate`; a test fails when it drifts.\n";

/// The custom resource definition.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = StreamJob::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            for_kubernetes(schema);
        }
    }
    crd
}

/// What Kubernetes does not know of a schema made from Rust: its formats of integers have a sign, or `kubectl apply` warns; and
/// `kubectl explain` wraps lines itself and shows no defaults, so descriptions are one line a paragraph and end in them.
fn for_kubernetes(schema: &mut JSONSchemaProps) {
    if schema.format.as_ref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = Some("int64".to_string());
    }
    // The API server takes no `null` for an enum, whatever the schema says; without `nullable` it reads one as absent.
    if schema.enum_.is_some() {
        schema.nullable = None;
        schema.enum_.iter_mut().for_each(|values| values.retain(|value| !value.0.is_null()));
    }
    if let Some(description) = &mut schema.description {
        *description = description.split("\n\n").map(|text| text.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
        let default = match schema.default.as_ref().map(|default| &default.0) {
            Some(Value::String(text)) => format!(" Default: {text}."),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => format!(" Default: {value}."),
            _ => String::new(),
        };
        description.push_str(&default);
    }
    schema.properties.iter_mut().flat_map(|below| below.values_mut()).for_each(for_kubernetes);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(below)) => for_kubernetes(below),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(for_kubernetes),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(below)) = &mut schema.additional_properties {
        for_kubernetes(below);
    }
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
