//! What Helm makes of the charts: linted, decoded as the API's own types with no field left over, fit for the restricted profile,
//! and as it was when somebody last looked at it.
//!
//! Needs `helm`: in `HELM`, in the PATH, or where `make tools` puts it. Where there is none the tests say so and pass, unless
//! `WEIR_REQUIRE_HELM` is set.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, PodSpec, Service, ServiceAccount},
        flowcontrol::v1::FlowSchema,
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Values that the chart brings along.
const HA: &str = "weir/values-ha.yaml";
/// The values files that are rendered, and `default` for none.
const CASES: [&str; 3] = ["default", "one-namespace", "ha"];

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The `helm` to test with.
fn helm() -> Option<PathBuf> {
    let works = |path: &Path| Command::new(path).arg("version").output().is_ok_and(|output| output.status.success());
    let named = env::var_os("HELM").map(PathBuf::from);
    let tools = env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let tools = tools.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/weir/tools")));
    let kept = tools.map(|tools| tools.join("bin/helm"));
    let found = [named, Some(PathBuf::from("helm")), kept].into_iter().flatten().find(|path| works(path));
    if found.is_none() {
        assert!(env::var_os("WEIR_REQUIRE_HELM").is_none(), "WEIR_REQUIRE_HELM is set, and helm is not there");
        // Not by a macro: those are captured where a test passes.
        let _ = writeln!(io::stderr(), "SKIPPED: helm is not there; put it into the PATH, or its path into HELM");
    }
    found
}

/// Runs helm on a chart of this folder. Its output, or what it complains of.
fn run(helm: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(helm).args(args).current_dir(here("")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

fn template(helm: &Path, chart: &str, more: &[&str]) -> Result<Vec<Value>, String> {
    let args = [&["template", "weir", chart, "--namespace", "weir-system"], more].concat();
    let text = run(helm, &args)?;
    let documents = text.split("\n---\n").map(|part| part.strip_prefix("---\n").unwrap_or(part));
    let mut objects: Vec<Value> = documents
        .filter(|part| part.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')))
        .map(|part| serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{error} in\n{part}")))
        .collect();
    objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
    Ok(objects)
}

fn rendered(helm: &Path, case: &str) -> Vec<Value> {
    let file = format!("weir/ci/{case}-values.yaml");
    let more: &[&str] = if case == "default" { &[] } else { &["--values", &file] };
    template(helm, "weir", more).unwrap_or_else(|error| panic!("{case}: {error}"))
}

#[test]
fn lint_finds_nothing() {
    let Some(helm) = helm() else { return };
    run(&helm, &["lint", "--strict", "weir-crds"]).unwrap_or_else(|error| panic!("{error}"));
    run(&helm, &["lint", "--strict", "weir"]).unwrap_or_else(|error| panic!("{error}"));
    run(&helm, &["lint", "--strict", "weir", "--values", HA]).unwrap_or_else(|error| panic!("{error}"));
    for case in &CASES[1..] {
        run(&helm, &["lint", "--strict", "weir", "--values", &format!("weir/ci/{case}-values.yaml")])
            .unwrap_or_else(|error| panic!("{case}: {error}"));
    }
}

/// Reads an object as its type and writes it again: what is not there afterwards is a field that the API server does not know.
fn decode<T: DeserializeOwned + Serialize>(object: &Value) {
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    same(object, &serde_json::to_value(typed).unwrap(), &name);
}

fn same(written: &Value, read: &Value, path: &str) {
    match (written, read) {
        (Value::Object(fields), _) => {
            for (key, value) in fields {
                let empty = value.is_null() || value == &serde_json::json!({}) || value == &serde_json::json!([]);
                match read.get(key) {
                    Some(read) => same(value, read, &format!("{path}.{key}")),
                    None => assert!(empty, "{path}.{key} is no field"),
                }
            }
        }
        (Value::Array(items), Value::Array(read)) => {
            assert_eq!(items.len(), read.len(), "{path}");
            for (i, (item, read)) in items.iter().zip(read).enumerate() {
                same(item, read, &format!("{path}[{i}]"));
            }
        }
        (Value::Number(written), Value::Number(read)) => assert_eq!(written.as_f64(), read.as_f64(), "{path}"),
        _ => assert_eq!(written, read, "{path}"),
    }
}

#[test]
fn every_object_is_one_that_the_api_server_takes() {
    let Some(helm) = helm() else { return };
    let mut seen = BTreeMap::<String, usize>::new();
    let ha = template(&helm, "weir", &["--values", HA]).unwrap();
    let controllers = ha.iter().find(|object| object["kind"] == "Deployment").unwrap();
    assert_eq!(controllers["spec"]["replicas"], 3);
    let objects = CASES.iter().flat_map(|case| rendered(&helm, case)).chain(ha);
    let objects = objects.chain(template(&helm, "weir-crds", &[]).unwrap());
    for object in objects {
        let kind = format!("{}/{}", object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        match kind.as_str() {
            "flowcontrol.apiserver.k8s.io/v1/FlowSchema" => decode::<FlowSchema>(&object),
            "apps/v1/Deployment" => decode::<Deployment>(&object),
            "v1/Pod" => decode::<Pod>(&object),
            "v1/Service" => decode::<Service>(&object),
            "v1/ServiceAccount" => decode::<ServiceAccount>(&object),
            "networking.k8s.io/v1/NetworkPolicy" => decode::<NetworkPolicy>(&object),
            "policy/v1/PodDisruptionBudget" => decode::<PodDisruptionBudget>(&object),
            "rbac.authorization.k8s.io/v1/ClusterRole" => decode::<ClusterRole>(&object),
            "rbac.authorization.k8s.io/v1/ClusterRoleBinding" => decode::<ClusterRoleBinding>(&object),
            "rbac.authorization.k8s.io/v1/Role" => decode::<Role>(&object),
            "rbac.authorization.k8s.io/v1/RoleBinding" => decode::<RoleBinding>(&object),
            "apiextensions.k8s.io/v1/CustomResourceDefinition" => decode::<CustomResourceDefinition>(&object),
            // The Prometheus operator's; there are no types of them here, and the snapshots show them.
            "monitoring.coreos.com/v1/ServiceMonitor"
            | "monitoring.coreos.com/v1/PodMonitor"
            | "monitoring.coreos.com/v1/PrometheusRule" => {}
            other => panic!("{other} has no decoder here"),
        }
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(seen.len(), 15, "{seen:?}");
}

#[test]
fn the_resource_is_kept_when_its_chart_goes_and_is_the_generated_one() {
    let Some(helm) = helm() else { return };
    let crd = template(&helm, "weir-crds", &[]).unwrap().remove(0);
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let typed: CustomResourceDefinition = serde_json::from_value(crd).unwrap();
    assert_eq!(typed.spec, weir_crds::crd().spec);
    let given_up = template(&helm, "weir-crds", &["--set", "keep=false"]).unwrap().remove(0);
    assert_eq!(given_up["metadata"]["annotations"], Value::Null);
}

/// What the restricted profile asks for, by the rules of the Pod Security Standards.
fn assert_restricted(name: &str, pod: &PodSpec) {
    let of_pod = pod.security_context.clone().unwrap_or_default();
    assert_eq!(of_pod.run_as_non_root, Some(true), "{name}");
    assert_ne!(of_pod.run_as_user, Some(0), "{name}");
    assert_eq!(of_pod.seccomp_profile.map(|profile| profile.type_).as_deref(), Some("RuntimeDefault"), "{name}");
    assert!(pod.host_network != Some(true) && pod.host_pid != Some(true) && pod.host_ipc != Some(true), "{name}");
    assert!(pod.volumes.iter().flatten().all(|volume| volume.host_path.is_none()), "{name}");
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        let context = container.security_context.clone().unwrap_or_default();
        let dropped = context.capabilities.and_then(|capabilities| capabilities.drop).unwrap_or_default();
        assert_eq!(context.allow_privilege_escalation, Some(false), "{name}");
        assert_eq!(dropped, ["ALL"], "{name}");
        assert_eq!(context.read_only_root_filesystem, Some(true), "{name}: not of the profile, but ours");
        assert!(context.privileged != Some(true), "{name}");
        assert!(container.ports.iter().flatten().all(|port| port.host_port.is_none()), "{name}");
    }
}

fn pods(objects: &[Value]) -> Vec<(String, PodSpec)> {
    let spec_of = |object: &Value| match object["kind"].as_str() {
        Some("Deployment") => Some(object["spec"]["template"]["spec"].clone()),
        Some("Pod") => Some(object["spec"].clone()),
        _ => None,
    };
    objects
        .iter()
        .filter_map(|object| {
            Some((object["metadata"]["name"].to_string(), serde_json::from_value(spec_of(object)?).unwrap()))
        })
        .collect()
}

#[test]
fn every_pod_fits_the_restricted_profile() {
    let Some(helm) = helm() else { return };
    for case in CASES {
        let pods = pods(&rendered(&helm, case));
        assert_eq!(pods.len(), 2, "the controller's and the test's");
        for (name, pod) in &pods {
            assert_restricted(&format!("{case}: {name}"), pod);
        }
    }
}

#[test]
fn the_service_and_the_policies_select_the_controllers_and_nothing_else() {
    let Some(helm) = helm() else { return };
    for case in CASES {
        let objects = rendered(&helm, case);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
        let test = objects.iter().find(|object| object["kind"] == "Pod").unwrap();
        let pointer = |kind: &str| match kind {
            "Service" => "/spec/selector",
            "NetworkPolicy" => "/spec/podSelector/matchLabels",
            _ => "/spec/selector/matchLabels",
        };
        for object in &objects {
            let kind = object["kind"].as_str().unwrap();
            if !["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"].contains(&kind) {
                continue;
            }
            let selector = object.pointer(pointer(kind)).and_then(Value::as_object).unwrap();
            let selects = |labels: &serde_json::Map<String, Value>| {
                selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            };
            assert!(selects(labels), "{case}: {kind} misses the controllers");
            assert!(
                !selects(test["metadata"]["labels"].as_object().unwrap()),
                "{case}: {kind} takes the test's pod too"
            );
        }
    }
}

#[test]
fn common_labels_are_on_all_objects_and_pods_and_select_nothing() {
    let Some(helm) = helm() else { return };
    for object in rendered(&helm, "ha") {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert_eq!(object["metadata"]["labels"]["team"], "data", "{name}");
        if object["kind"] == "Deployment" {
            assert_eq!(object["spec"]["template"]["metadata"]["labels"]["team"], "data", "{name}");
        }
        for selector in ["/spec/selector", "/spec/selector/matchLabels", "/spec/podSelector/matchLabels"] {
            assert_eq!(object.pointer(&format!("{selector}/team")), None, "{name}");
        }
    }
}

#[test]
fn the_lease_that_may_be_written_is_the_one_that_is_held() {
    let Some(helm) = helm() else { return };
    for case in CASES {
        let objects = rendered(&helm, case);
        let controllers = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let args = controllers["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        let about_leases = |rule: &&Value| rule["resources"] == serde_json::json!(["leases"]);
        let roles = objects.iter().filter(|object| object["kind"] == "Role");
        let rules: Vec<_> = roles.flat_map(|role| role["rules"].as_array().unwrap()).filter(about_leases).collect();
        assert_eq!(rules.len(), 2, "{case}: one by name, and one to create");
        for rule in rules {
            match rule["resourceNames"][0].as_str() {
                Some(name) => assert!(args.contains(&Value::from(format!("--lease={name}"))), "{case}: {args:?}"),
                None => assert_eq!(rule["verbs"], serde_json::json!(["create"]), "{case}"),
            }
        }
    }
}

#[test]
fn the_tests_pod_reaches_a_metrics_port_that_is_not_for_everybody() {
    let Some(helm) = helm() else { return };
    let objects = rendered(&helm, "ha");
    let one = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let (test, policy) = (&one("Pod")["metadata"], one("NetworkPolicy"));
    // A peer without a namespace is one of the policy's own.
    assert_eq!(test["namespace"], policy["metadata"]["namespace"]);
    let lets_it_in = |peer: &Value| {
        let selector = peer["podSelector"]["matchLabels"].as_object();
        peer["namespaceSelector"].is_null()
            && selector
                .is_some_and(|selector| selector.iter().all(|(key, value)| test["labels"].get(key) == Some(value)))
    };
    let peers = policy["spec"]["ingress"][0]["from"].as_array().unwrap();
    assert!(peers.iter().any(lets_it_in), "{peers:?}");
}

#[test]
fn probes_have_a_port_of_their_own_that_no_policy_opens() {
    let Some(helm) = helm() else { return };
    for case in CASES {
        let objects = rendered(&helm, case);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "probes", "{case}: {probe}");
        }
        for policy in objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            for rule in policy["spec"]["ingress"].as_array().unwrap() {
                let ports: Vec<_> = rule["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
                assert_eq!(ports, ["http"], "{case}");
                assert!(
                    rule["from"].as_array().is_some_and(|from| !from.is_empty()),
                    "{case}: it would be for everybody"
                );
            }
        }
    }
}

#[test]
fn what_the_administrator_allows_is_told_to_the_controller() {
    let Some(helm) = helm() else { return };
    let arguments = |case: &str| -> Vec<String> {
        let objects = rendered(&helm, case);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().iter();
        args.map(|arg| arg.as_str().unwrap().to_string()).collect()
    };
    let ha = arguments("ha");
    for expected in [
        "--own-identity-for=s3://streams/prod",
        "--own-identity-for=s3://streams,endpoint=https://minio.example:9000,namespace=team-a",
        "--allow-priority-class=batch",
        r#"--metrics-from=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"prometheus"}}}]"#,
    ] {
        assert!(ha.iter().any(|arg| arg == expected), "{expected}: {ha:?}");
    }
    let nothing = |arg: &&String| arg.starts_with("--own-identity-for") || arg.starts_with("--allow-priority-class");
    assert_eq!(arguments("default").iter().find(nothing), None, "nothing unless it is asked for");
}

#[test]
fn a_single_replica_has_no_disruption_budget_that_would_hold_up_a_drain() {
    let Some(helm) = helm() else { return };
    let budgets = |more: &[&str]| {
        template(&helm, "weir", more).unwrap().iter().filter(|object| object["kind"] == "PodDisruptionBudget").count()
    };
    assert_eq!(budgets(&["--set", "replicas=2"]), 1);
    assert_eq!(budgets(&["--set", "replicas=1"]), 0);
}

#[test]
fn one_namespace_gives_no_rights_in_others() {
    let Some(helm) = helm() else { return };
    let objects = rendered(&helm, "one-namespace");
    for object in objects.iter().filter(|object| object["kind"] == "ClusterRole") {
        let role: ClusterRole = serde_json::from_value(object.clone()).unwrap();
        for rule in role.rules.unwrap_or_default() {
            assert_eq!(rule.resource_names, Some(vec!["kube-system".to_string()]), "{rule:?}");
            assert_eq!(rule.verbs, ["get"], "{rule:?}");
        }
    }
    let role = objects.iter().find(|object| object["kind"] == "Role" && object["metadata"]["namespace"] == "team-a");
    assert!(role.is_some());
}

#[test]
fn with_one_namespace_and_the_clusters_identity_nothing_stands_outside_of_namespaces() {
    let Some(helm) = helm() else { return };
    let values = ["--set", "watchNamespace=team-a,clusterId=0b6f4dc2-3a,rbac.aggregate=false"];
    let objects = template(&helm, "weir", &values).unwrap();
    for object in &objects {
        assert!(object["metadata"]["namespace"].is_string(), "{}: {}", object["kind"], object["metadata"]["name"]);
    }
    let roles: Vec<_> = objects.iter().filter(|object| object["kind"] == "Role").collect();
    assert_eq!(roles.len(), 2, "over the jobs, and over the lease");
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    assert!(args.contains(&Value::from("--cluster-id=0b6f4dc2-3a")), "{args:?}");
}

#[test]
fn values_that_cannot_work_are_refused_and_the_message_names_them() {
    let Some(helm) = helm() else { return };
    for (set, expected) in [
        ("replicas=0", "replicas"),
        ("replica=2", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("watchNamespace=Team_A", "watchNamespace"),
        ("metrics.serviceMonitor.interval=often", "interval"),
        ("metrics.prometheusRule.workersLost=-1", "workersLost"),
        ("extraVolumeMounts[0].name=authorities", "mountPath"),
        ("serviceAccount.create=false", "serviceAccount.name"),
        ("controllerIdentity.storage[0].url=https://minio/bucket", "url"),
        ("controllerIdentity.storage[0].bucket=streams", "url"),
        ("jobs.priorityClass=high", "priorityClass"),
    ] {
        let error = template(&helm, "weir", &["--set", set]).err().unwrap_or_else(|| panic!("{set} is taken"));
        assert!(error.contains(expected), "{set}: {error}");
    }
}

#[test]
fn the_rendered_charts_are_as_they_were_last_looked_at() {
    let Some(helm) = helm() else { return };
    for case in CASES {
        let parts: Vec<String> =
            rendered(&helm, case).iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
        let text = format!("# Written by `make generate`; look at what has changed.\n{}", parts.join("---\n"));
        let path = here("tests/rendered").join(format!("{case}.yaml"));
        if env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{case}: the chart renders differently; `make generate`, and look at the difference"
        );
    }
}
