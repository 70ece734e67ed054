//! From a resource to a job that can be run in a cluster, or to what is wrong with it. After this the resource is out of
//! scope: the validated type owns identity, and builds owner references.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use weir_crds::{OnDelete, RestoreFrom, StreamJob, StreamJobSpec, UpgradeMode, Workers};

use super::{
    build::pod::{self, PodInputs},
    identity::Identity,
    problem::Problem,
};
use crate::job::{Job, RestoreWish};

/// A job that can be run in a cluster, as far as can be told without asking anybody.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidJob {
    /// Who it is.
    pub identity: Identity,
    /// The generation of its spec.
    pub generation: i64,
    /// What runs. Its template is empty until the image is settled.
    pub job: Job,
    /// What its pods are made of.
    pub pods: PodInputs,
    /// The spec's own image, where it names one.
    pub own_image: bool,
    /// What a new version starts from.
    pub upgrade: UpgradeMode,
    /// Which record is wished for.
    pub restore_from: Option<RestoreFrom>,
    /// Whether it is to stand still.
    pub suspend: bool,
    /// What becomes of its checkpoints.
    pub on_delete: OnDelete,
    /// It is being deleted since then.
    pub deleted: Option<Time>,
    /// It bears Weir's finalizer.
    pub finalized: bool,
    /// The spec itself, to be kept as the version that runs.
    pub spec: StreamJobSpec,
}

/// Checks what the schema cannot. `classes` are the priority classes that the administrator allows.
pub fn validate(resource: &StreamJob, default_image: &str, classes: &[String]) -> Result<ValidJob, Problem> {
    let identity = Identity::of(resource).ok_or_else(|| Problem::spec("metadata has no namespace, name or uid"))?;
    let job = Job::of(resource).map_err(Problem::spec)?;
    let StreamJobSpec { workers, checkpoint, upgrade, restore_from, suspend, .. } = &resource.spec;
    let storage = &checkpoint.storage;
    if !storage.url.starts_with("s3://") {
        return Err(Problem::spec(format!(
            "spec.checkpoint.storage.url: {:?} is a folder of one machine, and pods come and go; write s3://bucket/prefix",
            storage.url
        )));
    }
    let pods = pod_inputs(workers, storage, default_image);
    pod::check(&pods.template, classes)?;
    Ok(ValidJob {
        generation: resource.metadata.generation.unwrap_or_default(),
        job,
        own_image: workers.image.is_some(),
        pods,
        upgrade: upgrade.mode,
        restore_from: restore_from.clone(),
        suspend: *suspend,
        on_delete: checkpoint.on_delete,
        deleted: resource.metadata.deletion_timestamp.clone(),
        finalized: resource.finalizers().iter().any(|name| name == super::names::FINALIZER),
        identity,
        spec: resource.spec.clone(),
    })
}

fn pod_inputs(workers: &Workers, storage: &weir_crds::Storage, default_image: &str) -> PodInputs {
    PodInputs {
        image: workers.image.clone().unwrap_or_else(|| default_image.to_string()),
        pull_policy: workers.image_pull_policy.map(weir_crds::ImagePullPolicy::as_str),
        resources: workers.resources.clone(),
        template: workers.pod_template.clone().unwrap_or_default(),
        secret: storage.secret_ref.as_ref().map(|secret| secret.name.clone()),
        endpoint: storage.endpoint.clone(),
        region: storage.region.clone(),
    }
}

/// A wish to restore, as one text by which two are told apart.
pub fn wish(restore_from: &RestoreFrom) -> String {
    RestoreWish::from(restore_from.clone()).as_text()
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use weir_crds::PodTemplate;

    use super::*;
    use crate::reasons;

    /// A job as the API server would hand it out.
    pub fn resource(extra: &str) -> StreamJob {
        let yaml = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {{name: flights, namespace: air}}\nspec:\n  sql: SELECT 1\n  checkpoint:\n    storage: {{url: s3://bucket/prefix, endpoint: http://minio:9000, region: eu, secretRef: {{name: s3}}}}\n{extra}"
        );
        let mut job = weir_crds::load_job(&yaml).unwrap();
        job.metadata.uid = Some("u-1".to_string());
        job.metadata.generation = Some(1);
        job
    }

    #[test]
    fn identity_and_pods_come_from_the_resource_alone() {
        let job =
            validate(&resource("  workers: {replicas: 2, imagePullPolicy: Never}\n"), "weir/worker:1", &[]).unwrap();
        assert_eq!(job.identity.job().to_string(), "air/flights");
        assert_eq!(job.pods.image, "weir/worker:1");
        assert_eq!(job.pods.pull_policy, Some("Never"));
        assert_eq!(job.pods.secret.as_deref(), Some("s3"));
        assert_eq!(job.identity.owner_reference().uid, "u-1");
    }

    #[test]
    fn what_only_the_controller_can_check_is_said_with_its_field() {
        let mut folder = resource("");
        folder.spec.checkpoint.storage.url = "file:///tmp/x".to_string();
        let template = |spec: serde_json::Value| {
            let mut job = resource("");
            let spec = spec.as_object().unwrap().clone();
            job.spec.workers.pod_template = Some(PodTemplate { spec, ..PodTemplate::default() });
            job
        };
        let cases = vec![
            (folder, "spec.checkpoint.storage.url"),
            (template(json!({"hostNetwork": true})), "hostNetwork"),
            (template(json!({"tolerationz": []})), "spec.workers.podTemplate.spec.tolerationz"),
            (template(json!({"containers": [{"name": "worker", "imagge": "x"}]})), "containers[0].imagge"),
            (template(json!({"nodeSelector": "x"})), "spec.workers.podTemplate.spec"),
            (template(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})), "volumes[0].hostPath"),
            (template(json!({"volumes": [{"name": "weir-tls", "emptyDir": {}}]})), "weir-tls"),
            (
                template(json!({"containers": [{"name": "side", "securityContext": {"privileged": true}}]})),
                "privileged",
            ),
            (template(json!({"containers": [{"name": "worker", "command": ["sh"]}]})), "command"),
            (template(json!({"restartPolicy": "Always"})), "spec.workers.podTemplate.spec.restartPolicy is Weir's own"),
            (template(json!({"terminationGracePeriodSeconds": 300})), "spec.terminationGracePeriodSeconds is Weir's"),
            (template(json!({"subdomain": "mine"})), "spec.subdomain is Weir's own"),
            (template(json!({"enableServiceLinks": true})), "spec.enableServiceLinks is Weir's own"),
        ];
        for (job, part) in cases {
            let problem = validate(&job, "i", &[]).unwrap_err();
            assert_eq!(problem.reason, reasons::INVALID_SPEC);
            assert!(problem.message.contains(part), "{part}: {}", problem.message);
        }
    }
}
