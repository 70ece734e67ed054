//! The worker pod: the user's template with ours above it. Whatever the template says, the pod stays valid under the
//! *restricted* Pod Security profile, and the container `worker` is Weir's own.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
        ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, Probe, ResourceFieldSelector, ResourceRequirements,
        SeccompProfile, SecretKeySelector, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume,
        VolumeMount,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use weir_crds::{PodTemplate, Resources};
use weir_storage::S3Keys;

use super::{
    labels, selector,
    template::{self, FIELD, refuse},
    unique,
};
use crate::cluster::{
    identity::Identity,
    names::{self, WORKER_CONTAINER},
    problem::Problem,
};

/// Nobody in particular, and not root.
const NOBODY: i64 = 65532;
/// A worker works on until it is told to stop; the hand-over takes less than this.
const GRACE_SECONDS: i64 = 30;
/// The memory of a worker whose job says nothing of it.
const DEFAULT_MEMORY: &str = "1Gi";
/// Names of volumes that are ours.
const STATE_VOLUME: &str = "weir-state";
const TMP_VOLUME: &str = "weir-tmp";
const TLS_VOLUME: &str = "weir-tls";
const STATE_DIR: &str = "/var/lib/weir";
const TLS_DIR: &str = "/etc/weir/tls";
const TMP_DIR: &str = "/tmp";
/// Where the worker's container has something mounted already.
pub(super) const OUR_MOUNTS: [&str; 3] = [STATE_DIR, TMP_DIR, TLS_DIR];
/// Names of its ports.
pub(super) const OUR_PORTS: [&str; 3] = ["grpc", "http", "probes"];

/// What the pods of a job are made of. Two equal ones give interchangeable workers; nothing here depends on the controller's
/// own version, so that its upgrade restarts no worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PodInputs {
    /// The image.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: Option<&'static str>,
    /// What a worker may use.
    pub resources: Resources,
    /// What the user adds.
    pub template: PodTemplate,
    /// The Secret with the storage's credentials.
    pub secret: Option<String>,
    /// For connectors that read and write the same storage.
    pub endpoint: Option<String>,
    /// See `endpoint`.
    pub region: Option<String>,
}

/// Checks what the user writes, with the field that is wrong. `classes` are the priority classes that are allowed.
pub fn check(user: &PodTemplate, classes: &[String]) -> Result<(), Problem> {
    for label in user.metadata.labels.keys() {
        let ours = [names::NAME_LABEL, names::MANAGED_BY_LABEL].contains(&label.as_str());
        if ours || label.starts_with("weir.dev/") {
            return Err(Problem::spec(format!(
                "spec.workers.podTemplate.metadata.labels: {label} is Weir's own; leave it out"
            )));
        }
    }
    let spec = parse(&user.spec)?;
    template::check(&user.spec, classes)?;
    unique::check(&spec)?;
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        if [STATE_VOLUME, TMP_VOLUME, TLS_VOLUME].contains(&volume.name.as_str()) {
            return Err(refuse(&format!("volumes[{i}].name"), &format!("{} is Weir's own; take another", volume.name)));
        }
    }
    Ok(())
}

/// Reads the template's spec; a field that Kubernetes does not know is an error, as it would be at `kubectl apply`.
fn parse(template: &Map<String, Value>) -> Result<PodSpec, Problem> {
    let mut value = template.clone();
    value.entry("containers").or_insert_with(|| Value::Array(Vec::new()));
    let value = Value::Object(value);
    let spec: PodSpec =
        serde_json::from_value(value.clone()).map_err(|error| Problem::spec(format!("{FIELD}: {error}")))?;
    let known = serde_json::to_value(&spec).unwrap_or_default();
    match unknown(&value, &known, FIELD) {
        Some(field) => Err(Problem::spec(format!("{field} is no field of a pod; see kubectl explain pod.spec"))),
        None => Ok(spec),
    }
}

/// The first field that was written and is not there any more after reading. Amounts may change their form, so only names
/// are compared; empty lists and maps are left out when written.
fn unknown(written: &Value, read: &Value, path: &str) -> Option<String> {
    match written {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match read.get(name) {
                Some(read) => unknown(value, read, &path),
                None if value.is_null() => None,
                None => Some(path),
            }
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(i, item)| unknown(item, read.get(i).unwrap_or(&Value::Null), &format!("{path}[{i}]"))),
        _ => None,
    }
}

/// Tells two sorts of worker pods apart. Only what the user decides goes in, and the keys to storage, which a container has
/// from its start.
pub fn hash(inputs: &PodInputs, keys: Option<&S3Keys>) -> String {
    let mut hash = Sha256::new_with_prefix(serde_json::to_vec(inputs).unwrap_or_default());
    if let Some(S3Keys { access_key_id, secret_access_key, session_token }) = keys {
        for part in [access_key_id, secret_access_key, session_token.as_deref().unwrap_or_default()] {
            hash.update([0]);
            hash.update(part);
        }
    }
    hash.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// The pod that every worker of the job is made from.
pub fn pod(identity: &Identity, inputs: &PodInputs) -> Pod {
    let job = &identity.name;
    let mut metadata = ObjectMeta {
        generate_name: Some(names::pod_prefix(job)),
        namespace: Some(identity.namespace.clone()),
        labels: Some(inputs.template.metadata.labels.clone()),
        owner_references: Some(vec![identity.owner_reference()]),
        ..ObjectMeta::default()
    };
    metadata.labels.get_or_insert_default().extend(labels(job));
    if !inputs.template.metadata.annotations.is_empty() {
        metadata.annotations = Some(inputs.template.metadata.annotations.clone());
    }
    // It was checked when the job was validated; what could not be read then never comes here.
    let user = parse(&inputs.template.spec).unwrap_or_default();
    Pod { metadata, spec: Some(spec(identity, inputs, user)), status: None }
}

fn spec(identity: &Identity, inputs: &PodInputs, user: PodSpec) -> PodSpec {
    let job = &identity.name;
    let (mine, others): (Vec<_>, Vec<_>) =
        user.containers.into_iter().partition(|container| container.name == WORKER_CONTAINER);
    let worker = worker(job, inputs, mine.into_iter().next().unwrap_or_default());
    let sidecars = others.into_iter().map(restricted);
    let empty_dir = |name: &str| Volume {
        name: name.to_string(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let tls = Volume {
        name: TLS_VOLUME.to_string(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::tls_secret(job)),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![empty_dir(STATE_VOLUME), empty_dir(TMP_VOLUME), tls];
    volumes.extend(user.volumes.unwrap_or_default());
    let spread = TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_string(),
        when_unsatisfiable: "ScheduleAnyway".to_string(),
        label_selector: Some(LabelSelector { match_labels: Some(selector(job)), ..LabelSelector::default() }),
        ..TopologySpreadConstraint::default()
    };
    PodSpec {
        containers: std::iter::once(worker).chain(sidecars).collect(),
        init_containers: user.init_containers.map(|all| all.into_iter().map(restricted).collect()),
        volumes: Some(volumes),
        // One process a pod: a dead container is a failed pod, and is replaced.
        restart_policy: Some("Never".to_string()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        automount_service_account_token: Some(user.automount_service_account_token.unwrap_or(false)),
        service_account_name: Some(user.service_account_name.unwrap_or_else(|| names::service_account(job))),
        enable_service_links: Some(false),
        subdomain: Some(names::service(job)),
        security_context: Some(pod_security(user.security_context.unwrap_or_default())),
        // Where nothing else is said, one lost node should take few workers with it.
        topology_spread_constraints: user.topology_spread_constraints.or_else(|| Some(vec![spread])),
        host_network: None,
        host_pid: None,
        host_ipc: None,
        ..user
    }
}

fn worker(job: &str, inputs: &PodInputs, user: Container) -> Container {
    let probe = |path: &str, period: i32, failures: i32| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_string()),
            port: IntOrString::String("probes".to_string()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_string()),
        container_port: number,
        protocol: Some("TCP".to_string()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_string(),
        mount_path: path.to_string(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount(STATE_VOLUME, STATE_DIR, false),
        mount(TMP_VOLUME, TMP_DIR, false),
        mount(TLS_VOLUME, TLS_DIR, true),
    ];
    mounts.extend(user.volume_mounts.clone().unwrap_or_default());
    let args = [
        "serve",
        &format!("--listen=0.0.0.0:{}", names::GRPC_PORT),
        &format!("--advertise=$(POD_IP):{}", names::GRPC_PORT),
        "--memory=$(WEIR_MEMORY)",
        &format!("--state-dir={STATE_DIR}"),
        &format!("--http=0.0.0.0:{}", names::PROBES_PORT),
        &format!("--tls-dir={TLS_DIR}"),
    ];
    restricted(Container {
        name: WORKER_CONTAINER.to_string(),
        image: Some(inputs.image.clone()),
        image_pull_policy: inputs.pull_policy.map(str::to_string),
        args: Some(args.iter().map(ToString::to_string).collect()),
        env: Some(env(job, inputs, user.env.clone().unwrap_or_default())),
        resources: Some(resources(&inputs.resources)),
        ports: Some(
            [port("grpc", names::GRPC_PORT), port("http", names::HTTP_PORT), port("probes", names::PROBES_PORT)]
                .into_iter()
                .chain(user.ports.clone().unwrap_or_default())
                .collect(),
        ),
        volume_mounts: Some(mounts),
        readiness_probe: Some(probe("/readyz", 1, 3)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        termination_message_policy: Some("FallbackToLogsOnError".to_string()),
        ..user
    })
}

/// Ours first, so that a user's may refer to them; ours win.
fn env(job: &str, inputs: &PodInputs, user: Vec<EnvVar>) -> Vec<EnvVar> {
    let from = |name: &str, source: EnvVarSource| EnvVar {
        name: name.to_string(),
        value_from: Some(source),
        ..EnvVar::default()
    };
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: path.to_string(), ..ObjectFieldSelector::default() }),
        ..EnvVarSource::default()
    };
    let plain = |name: &str, value: &str| EnvVar {
        name: name.to_string(),
        value: Some(value.to_string()),
        ..EnvVar::default()
    };
    let memory = EnvVarSource {
        resource_field_ref: Some(ResourceFieldSelector {
            container_name: Some(WORKER_CONTAINER.to_string()),
            resource: "limits.memory".to_string(),
            ..ResourceFieldSelector::default()
        }),
        ..EnvVarSource::default()
    };
    let mut env = vec![
        from("POD_IP", field("status.podIP")),
        from("POD_NAME", field("metadata.name")),
        from("WEIR_MEMORY", memory),
        plain("WEIR_JOB", job),
        // Not an argument: a worker of an older version, which has its metrics beside its probes, passes over it.
        plain("WEIR_METRICS", &format!("0.0.0.0:{}", names::HTTP_PORT)),
    ];
    if let Some(secret) = &inputs.secret {
        for (key, optional) in
            [("AWS_ACCESS_KEY_ID", false), ("AWS_SECRET_ACCESS_KEY", false), ("AWS_SESSION_TOKEN", true)]
        {
            let source = EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret.clone(),
                    key: key.to_string(),
                    optional: optional.then_some(true),
                }),
                ..EnvVarSource::default()
            };
            env.push(from(key, source));
        }
    }
    // For connectors, which may speak to the same storage; a user's own value for them counts.
    let written: Vec<String> = user.iter().map(|variable| variable.name.clone()).collect();
    for (name, value) in [("AWS_ENDPOINT", &inputs.endpoint), ("AWS_REGION", &inputs.region)] {
        if let Some(value) = value.as_ref().filter(|_| !written.iter().any(|written| written == name)) {
            env.push(plain(name, value));
        }
    }
    let ours: Vec<String> = env.iter().map(|variable| variable.name.clone()).collect();
    env.extend(user.into_iter().filter(|variable| !ours.contains(&variable.name)));
    env
}

fn resources(wanted: &Resources) -> ResourceRequirements {
    let quantities = |from: &BTreeMap<String, weir_crds::Quantity>| -> BTreeMap<String, Quantity> {
        from.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string()))).collect()
    };
    let mut limits = quantities(&wanted.limits);
    limits.entry("memory".to_string()).or_insert_with(|| Quantity(DEFAULT_MEMORY.to_string()));
    let requests = quantities(&wanted.requests);
    ResourceRequirements {
        limits: Some(limits),
        requests: (!requests.is_empty()).then_some(requests),
        ..ResourceRequirements::default()
    }
}

fn pod_security(user: PodSecurityContext) -> PodSecurityContext {
    let run_as_user = user.run_as_user.filter(|id| *id != 0).unwrap_or(NOBODY);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(run_as_user),
        run_as_group: Some(user.run_as_group.unwrap_or(run_as_user)),
        fs_group: Some(user.fs_group.unwrap_or(run_as_user)),
        seccomp_profile: Some(runtime_default()),
        sysctls: None,
        ..user
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_string(), ..SeccompProfile::default() }
}

/// What the restricted profile asks of a container; Weir's own also cannot write to its image.
fn restricted(container: Container) -> Container {
    let user = container.security_context.unwrap_or_default();
    let add = user.capabilities.as_ref().and_then(|capabilities| capabilities.add.clone());
    let read_only = if container.name == WORKER_CONTAINER { Some(true) } else { user.read_only_root_filesystem };
    Container {
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_string()]) }),
            privileged: None,
            read_only_root_filesystem: read_only,
            run_as_non_root: Some(true),
            seccomp_profile: Some(runtime_default()),
            ..user
        }),
        ..container
    }
}

/// Bytes of a Secret as text.
pub fn text(bytes: &ByteString) -> Option<String> {
    String::from_utf8(bytes.0.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::validate::{tests::resource, validate};

    fn built(extra: &str) -> Pod {
        let job = validate(&resource(extra), "weir/worker:1", &[]).unwrap();
        pod(&job.identity, &job.pods)
    }

    #[test]
    fn a_plain_job_gives_this_pod() {
        insta::assert_yaml_snapshot!(built(""));
    }

    #[test]
    fn a_template_completes_the_pod_and_never_loosens_it() {
        let extra = r"
  workers:
    image: acme/worker:2
    imagePullPolicy: Always
    resources: {limits: {memory: 2Gi, cpu: 2}, requests: {cpu: 500m}}
    podTemplate:
      metadata: {labels: {team: a}, annotations: {note: b}}
      spec:
        nodeSelector: {disk: ssd}
        serviceAccountName: cloud
        tolerations: [{key: spot, operator: Exists}]
        securityContext: {runAsUser: 1000, fsGroup: 2000}
        volumes: [{name: models, configMap: {name: models}}]
        initContainers: [{name: prepare, image: busybox}]
        containers:
          - name: worker
            env: [{name: A, value: $(POD_NAME)}, {name: POD_IP, value: wrong}, {name: AWS_REGION, value: mine}]
            volumeMounts: [{name: models, mountPath: /models}]
            securityContext: {allowPrivilegeEscalation: true, readOnlyRootFilesystem: false}
          - {name: logs, image: fluent, securityContext: {runAsNonRoot: false}}
";
        insta::assert_yaml_snapshot!(built(extra));
    }

    #[test]
    fn only_what_the_user_decides_makes_another_pod() {
        let of = |extra: &str, image: &str| hash(&validate(&resource(extra), image, &[]).unwrap().pods, None);
        let keys = |secret: &str| S3Keys {
            access_key_id: "a".to_string(),
            secret_access_key: secret.to_string(),
            session_token: None,
        };
        let with = |secret: &str| hash(&validate(&resource(""), "a", &[]).unwrap().pods, Some(&keys(secret)));
        assert_eq!(with("b"), with("b"));
        assert_ne!(with("b"), with("c"), "a container has its keys from its start");
        let plain = of("", "a");
        assert_eq!(plain, of("  workers: {replicas: 5, slots: 2}\n", "a"));
        assert_ne!(plain, of("", "b"));
        assert_ne!(plain, of("  workers: {resources: {limits: {memory: 2Gi}}}\n", "a"));
        assert_ne!(plain, of("  workers: {podTemplate: {metadata: {labels: {x: y}}}}\n", "a"));
    }
}
