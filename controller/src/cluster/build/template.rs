//! What of a pod a user's template may say. Each field that Kubernetes has stands in a table here, with whether it may be written;
//! one that stands in none is refused, so that what a later version of Kubernetes brings is judged before it is let through.
//!
//! The measure is the *restricted* Pod Security profile, and that whoever may only create StreamJobs gets no more by the template than
//! a pod in the job's own namespace: no node of their choice, and nobody else's pods pushed aside. The schema of the resource leaves a
//! template's spec open, since its fields are Kubernetes' own, and a rule in a schema cannot see fields that it leaves open.

use serde_json::{Map, Value, json};

use crate::cluster::{names::WORKER_CONTAINER, problem::Problem};

/// Where the template stands in the resource, for messages.
pub const FIELD: &str = "spec.workers.podTemplate.spec";

/// Whether a field may be written.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// It may; where it can loosen something, it is looked at closer, or what is built does not follow it.
    Free,
    /// Weir sets it.
    Ours,
    /// It may not, for this reason.
    Never(&'static str),
    /// Only what leaves things as they are: this, in JSON.
    Only(&'static str),
}
use Rule::{Free, Never, Only, Ours};

type Table = &'static [(&'static str, Rule)];

const BEYOND: &str = "reaches beyond the pod, which the restricted profile does not allow; leave it out";
const PROFILE: &str = "is not allowed by the restricted profile; leave it out";
const PRIORITY: &str = "goes with a priority class; name one that the administrator allows in priorityClassName";

const POD: Table = &[
    ("activeDeadlineSeconds", Free),
    ("affinity", Free),
    ("automountServiceAccountToken", Free),
    ("containers", Free),
    ("dnsConfig", Free),
    ("dnsPolicy", Free),
    ("enableServiceLinks", Ours),
    ("ephemeralContainers", Never(BEYOND)),
    ("hostAliases", Free),
    ("hostIPC", Only("false")),
    ("hostNetwork", Only("false")),
    ("hostPID", Only("false")),
    ("hostUsers", Only("false")),
    ("hostname", Free),
    ("hostnameOverride", Free),
    ("imagePullSecrets", Free),
    ("initContainers", Free),
    ("nodeName", Never("goes past the scheduler and its rules; write a nodeSelector")),
    ("nodeSelector", Free),
    ("os", Only(r#"{"name":"linux"}"#)),
    ("overhead", Never("is set by the RuntimeClass; leave it out")),
    ("preemptionPolicy", Only(r#""Never""#)),
    ("priority", Never(PRIORITY)),
    ("priorityClassName", Free),
    ("readinessGates", Free),
    ("resourceClaims", Free),
    ("resources", Free),
    ("restartPolicy", Ours),
    ("runtimeClassName", Free),
    ("schedulerName", Free),
    ("schedulingGates", Free),
    ("securityContext", Free),
    ("serviceAccount", Never("is the old name of serviceAccountName; write that")),
    ("serviceAccountName", Free),
    ("setHostnameAsFQDN", Free),
    ("shareProcessNamespace", Free),
    ("subdomain", Ours),
    ("terminationGracePeriodSeconds", Ours),
    ("tolerations", Free),
    ("topologySpreadConstraints", Free),
    ("volumes", Free),
    ("workloadRef", Free),
];

const POD_SECURITY: Table = &[
    ("appArmorProfile", Only(r#"{"type":"RuntimeDefault"}"#)),
    ("fsGroup", Free),
    ("fsGroupChangePolicy", Free),
    ("runAsGroup", Free),
    ("runAsNonRoot", Free),
    ("runAsUser", Free),
    ("seLinuxChangePolicy", Free),
    ("seLinuxOptions", Never(PROFILE)),
    ("seccompProfile", Only(r#"{"type":"RuntimeDefault"}"#)),
    ("supplementalGroups", Free),
    ("supplementalGroupsPolicy", Free),
    ("sysctls", Only("[]")),
    ("windowsOptions", Never(PROFILE)),
];

const SECURITY: Table = &[
    ("allowPrivilegeEscalation", Free),
    ("appArmorProfile", Only(r#"{"type":"RuntimeDefault"}"#)),
    ("capabilities", Free),
    ("privileged", Only("false")),
    ("procMount", Only(r#""Default""#)),
    ("readOnlyRootFilesystem", Free),
    ("runAsGroup", Free),
    ("runAsNonRoot", Free),
    ("runAsUser", Free),
    ("seLinuxOptions", Never(PROFILE)),
    ("seccompProfile", Only(r#"{"type":"RuntimeDefault"}"#)),
    ("windowsOptions", Never(PROFILE)),
];

const CAPABILITIES: Table = &[("add", Only(r#"["NET_BIND_SERVICE"]"#)), ("drop", Free)];

/// Of a container of the user's own.
const CONTAINER: Table = &[
    ("args", Free),
    ("command", Free),
    ("env", Free),
    ("envFrom", Free),
    ("image", Free),
    ("imagePullPolicy", Free),
    ("lifecycle", Free),
    ("livenessProbe", Free),
    ("name", Free),
    ("ports", Free),
    ("readinessProbe", Free),
    ("resizePolicy", Free),
    ("resources", Free),
    ("restartPolicy", Free),
    ("restartPolicyRules", Free),
    ("securityContext", Free),
    ("startupProbe", Free),
    ("stdin", Free),
    ("stdinOnce", Free),
    ("terminationMessagePath", Free),
    ("terminationMessagePolicy", Free),
    ("tty", Free),
    ("volumeDevices", Free),
    ("volumeMounts", Free),
    ("workingDir", Free),
];

/// What of the container `worker` is not for the template.
const WORKER: Table = &[
    ("args", Ours),
    ("command", Ours),
    ("image", Never("is written at spec.workers.image")),
    ("lifecycle", Ours),
    ("livenessProbe", Ours),
    ("readinessProbe", Ours),
    ("resources", Never("is written at spec.workers.resources")),
    ("restartPolicy", Ours),
    ("restartPolicyRules", Ours),
    ("startupProbe", Ours),
];

/// Kinds of volumes. What reaches into a node, or past the cluster's storage classes, is for those who may make such volumes.
const VOLUME: Table = &[
    ("awsElasticBlockStore", Never(PROFILE)),
    ("azureDisk", Never(PROFILE)),
    ("azureFile", Never(PROFILE)),
    ("cephfs", Never(PROFILE)),
    ("cinder", Never(PROFILE)),
    ("configMap", Free),
    ("csi", Free),
    ("downwardAPI", Free),
    ("emptyDir", Free),
    ("ephemeral", Free),
    ("fc", Never(PROFILE)),
    ("flexVolume", Never(PROFILE)),
    ("flocker", Never(PROFILE)),
    ("gcePersistentDisk", Never(PROFILE)),
    ("gitRepo", Never(PROFILE)),
    ("glusterfs", Never(PROFILE)),
    ("hostPath", Never(PROFILE)),
    ("image", Never(PROFILE)),
    ("iscsi", Never(PROFILE)),
    ("name", Free),
    ("nfs", Never(PROFILE)),
    ("persistentVolumeClaim", Free),
    ("photonPersistentDisk", Never(PROFILE)),
    ("portworxVolume", Never(PROFILE)),
    ("projected", Free),
    ("quobyte", Never(PROFILE)),
    ("rbd", Never(PROFILE)),
    ("scaleIO", Never(PROFILE)),
    ("secret", Free),
    ("storageos", Never(PROFILE)),
    ("vsphereVolume", Never(PROFILE)),
];

/// Names of actions by which the kubelet calls a container; such a call may name another host.
const CALLS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

pub fn refuse(field: &str, why: &str) -> Problem {
    Problem::spec(format!("{FIELD}.{field} {why}"))
}

/// Checks what a template says of the pod and its containers. `classes` are the priority classes that are allowed.
pub fn check(spec: &Map<String, Value>, classes: &[String]) -> Result<(), Problem> {
    fields("", spec, POD)?;
    if let Some(class) = spec.get("priorityClassName").and_then(Value::as_str).filter(|class| !class.is_empty())
        && !classes.iter().any(|allowed| allowed == class)
    {
        let allowed =
            if classes.is_empty() { "none is".to_string() } else { format!("allowed are {}", classes.join(", ")) };
        let why = format!(
            "is {class}, which the administrator has not allowed ({allowed}): such pods may push others aside; leave it out, or have it \
             listed in the chart's value jobs.priorityClasses"
        );
        return Err(refuse("priorityClassName", &why));
    }
    let preempts = spec.get("preemptionPolicy").is_some_and(|policy| *policy != json!("Never"));
    if preempts {
        return Err(refuse("preemptionPolicy", PRIORITY));
    }
    if let Some(context) = spec.get("securityContext").and_then(Value::as_object) {
        fields("securityContext.", context, POD_SECURITY)?;
        no_root("securityContext.", context)?;
    }
    for (i, volume) in objects(spec, "volumes") {
        fields(&format!("volumes[{i}]."), volume, VOLUME)?;
    }
    for list in ["containers", "initContainers"] {
        for (i, container) in objects(spec, list) {
            check_container(&format!("{list}[{i}]."), container)?;
        }
    }
    Ok(())
}

fn check_container(place: &str, container: &Map<String, Value>) -> Result<(), Problem> {
    fields(place, container, CONTAINER)?;
    if container.get("name").is_some_and(|name| name == WORKER_CONTAINER) {
        fields(place, &only(container, WORKER), WORKER)?;
    }
    if let Some(context) = container.get("securityContext").and_then(Value::as_object) {
        let place = format!("{place}securityContext.");
        fields(&place, context, SECURITY)?;
        no_root(&place, context)?;
        if let Some(capabilities) = context.get("capabilities").and_then(Value::as_object) {
            fields(&format!("{place}capabilities."), capabilities, CAPABILITIES)?;
        }
    }
    for (i, port) in objects(container, "ports") {
        if port.get("hostPort").is_some_and(|port| !port.is_null() && *port != json!(0)) {
            return Err(refuse(&format!("{place}ports[{i}].hostPort"), PROFILE));
        }
    }
    for called in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if let Some(place) = container.get(called).and_then(|value| other_host(value, &format!("{place}{called}"))) {
            return Err(refuse(&place, PROFILE));
        }
    }
    Ok(())
}

/// The fields of it that this table speaks of.
fn only(object: &Map<String, Value>, table: Table) -> Map<String, Value> {
    let spoken_of = |(name, _): &(&String, &Value)| table.iter().any(|(known, _)| *known == name.as_str());
    object.iter().filter(spoken_of).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn objects<'a>(of: &'a Map<String, Value>, list: &str) -> impl Iterator<Item = (usize, &'a Map<String, Value>)> {
    let items = of.get(list).and_then(Value::as_array).into_iter().flatten().enumerate();
    items.filter_map(|(i, item)| Some((i, item.as_object()?)))
}

/// Whether the value is what the table shows as text.
fn is_written(value: &Value, allowed: &str) -> bool {
    let text = value.to_string();
    text == allowed
}

fn fields(place: &str, object: &Map<String, Value>, table: Table) -> Result<(), Problem> {
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let field = format!("{place}{name}");
        match table.iter().find(|(known, _)| *known == name.as_str()) {
            Some((_, Free)) => {}
            Some((_, Ours)) => return Err(refuse(&field, "is Weir's own; leave it out")),
            Some((_, Never(why))) => return Err(refuse(&field, why)),
            Some((_, Only(allowed))) if is_written(value, allowed) => {}
            Some((_, Only(allowed))) => {
                return Err(refuse(
                    &field,
                    &format!("may only be {allowed}: anything else is beyond the restricted profile; leave it out"),
                ));
            }
            None => {
                return Err(refuse(
                    &field,
                    "is no field of a pod that this version of Weir knows; see kubectl explain pod.spec",
                ));
            }
        }
    }
    Ok(())
}

fn no_root(place: &str, context: &Map<String, Value>) -> Result<(), Problem> {
    if context.get("runAsUser").is_some_and(|user| *user == json!(0)) {
        return Err(refuse(&format!("{place}runAsUser"), "is root; name another user"));
    }
    Ok(())
}

/// Where a call names a host that is not the pod itself.
fn other_host(value: &Value, place: &str) -> Option<String> {
    value.as_object()?.iter().find_map(|(name, value)| {
        let place = format!("{place}.{name}");
        let named = CALLS.contains(&name.as_str())
            && value.get("host").is_some_and(|host| !host.is_null() && *host != json!(""));
        if named { Some(format!("{place}.host")) } else { other_host(value, &place) }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1 as core;
    use serde::de::{self, Deserialize, Deserializer, Visitor};

    use super::*;

    /// Takes the names of a type's fields from how it asks to be read.
    struct Names<'a>(&'a mut BTreeSet<&'static str>);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.extend(fields);
            Err(de::Error::custom("only the names"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
            tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn fields_of<T: for<'de> Deserialize<'de>>() -> BTreeSet<&'static str> {
        let mut names = BTreeSet::new();
        let _ = T::deserialize(Names(&mut names));
        names
    }

    fn judged(table: Table) -> BTreeSet<&'static str> {
        table.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn every_field_that_kubernetes_has_is_judged() {
        assert_eq!(fields_of::<core::PodSpec>(), judged(POD));
        assert_eq!(fields_of::<core::PodSecurityContext>(), judged(POD_SECURITY));
        assert_eq!(fields_of::<core::SecurityContext>(), judged(SECURITY));
        assert_eq!(fields_of::<core::Capabilities>(), judged(CAPABILITIES));
        assert_eq!(fields_of::<core::Container>(), judged(CONTAINER));
        assert_eq!(fields_of::<core::Volume>(), judged(VOLUME));
        assert!(judged(WORKER).is_subset(&judged(CONTAINER)));
    }

    fn complaint(spec: &Value, classes: &[&str]) -> Option<String> {
        let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
        check(spec.as_object().unwrap(), &classes).err().map(|problem| problem.message)
    }

    #[test]
    fn what_would_loosen_the_profile_is_refused_by_its_name() {
        let context = |context: Value| json!({"containers": [{"name": "side", "securityContext": context}]});
        let init = |context: Value| json!({"initContainers": [{"name": "init", "securityContext": context}]});
        for (spec, field) in [
            (json!({"hostNetwork": true}), "hostNetwork"),
            (json!({"hostPID": true}), "hostPID"),
            (json!({"hostIPC": true}), "hostIPC"),
            (json!({"hostUsers": true}), "hostUsers"),
            (json!({"ephemeralContainers": []}), "ephemeralContainers"),
            (json!({"nodeName": "node-1"}), "nodeName"),
            (json!({"os": {"name": "windows"}}), "os"),
            (json!({"overhead": {"cpu": "1"}}), "overhead"),
            (json!({"priority": 1000}), "priority"),
            (json!({"priorityClassName": "system-node-critical"}), "priorityClassName"),
            (json!({"preemptionPolicy": "PreemptLowerPriority"}), "preemptionPolicy"),
            (json!({"serviceAccount": "admin"}), "serviceAccount "),
            (json!({"newField": 1}), "newField"),
            (json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}), "securityContext.seLinuxOptions"),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
                "securityContext.appArmorProfile",
            ),
            (json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), "securityContext.seccompProfile"),
            (json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}), "securityContext.windowsOptions"),
            (json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}), "securityContext.sysctls"),
            (json!({"securityContext": {"runAsUser": 0}}), "securityContext.runAsUser"),
            (context(json!({"privileged": true})), "containers[0].securityContext.privileged"),
            (context(json!({"procMount": "Unmasked"})), "containers[0].securityContext.procMount"),
            (context(json!({"seLinuxOptions": {"level": "s0"}})), "containers[0].securityContext.seLinuxOptions"),
            (context(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})), "appArmorProfile"),
            (context(json!({"seccompProfile": {"type": "Unconfined"}})), "seccompProfile"),
            (context(json!({"windowsOptions": {}})), "windowsOptions"),
            (context(json!({"capabilities": {"add": ["SYS_ADMIN"]}})), "securityContext.capabilities.add"),
            (context(json!({"runAsUser": 0})), "runAsUser"),
            (init(json!({"procMount": "Unmasked"})), "initContainers[0].securityContext.procMount"),
            (json!({"containers": [{"name": "side", "ports": [{"hostPort": 80}]}]}), "containers[0].ports[0].hostPort"),
            (json!({"containers": [{"name": "side", "newField": 1}]}), "containers[0].newField"),
            (
                json!({"containers": [{"name": "side", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}}]}),
                "containers[0].livenessProbe.httpGet.host",
            ),
            (
                json!({"containers": [{"name": "s", "lifecycle": {"postStart": {"tcpSocket": {"host": "a", "port": 1}}}}]}),
                "containers[0].lifecycle.postStart.tcpSocket.host",
            ),
            (json!({"containers": [{"name": "worker", "restartPolicy": "Always"}]}), "containers[0].restartPolicy"),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "volumes[0].hostPath"),
            (json!({"volumes": [{"name": "v", "nfs": {"server": "a", "path": "/"}}]}), "volumes[0].nfs"),
        ] {
            let said = complaint(&spec.clone(), &["batch"]).unwrap_or_else(|| panic!("{spec} is taken"));
            assert!(said.starts_with(FIELD) && said.contains(field), "{spec}: {said}");
        }
    }

    #[test]
    fn what_leaves_the_profile_as_it_is_may_be_written() {
        for spec in [
            json!({"hostNetwork": false, "hostUsers": false, "os": {"name": "linux"}, "nodeName": null}),
            json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 1000, "fsGroup": 0}}),
            json!({"containers": [{"name": "side", "securityContext": {
                "privileged": false, "procMount": "Default", "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            }, "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}}}]}),
            json!({"containers": [{"name": "worker", "env": [], "volumeMounts": []}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "a"}}, {"name": "w", "ephemeral": {}}]}),
            json!({"priorityClassName": "batch", "preemptionPolicy": "Never"}),
        ] {
            assert_eq!(complaint(&spec, &["batch"]), None);
        }
        let said = complaint(&json!({"priorityClassName": "batch"}), &[]).unwrap();
        assert!(said.contains("batch") && said.contains("jobs.priorityClasses"), "{said}");
    }
}
