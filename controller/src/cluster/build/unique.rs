//! What must be there once in a pod. The API server refuses a pod that names something twice, and would do so for each worker
//! anew; here the template is refused before anything is made.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{
    pod::{OUR_MOUNTS, OUR_PORTS},
    template::refuse,
};
use crate::cluster::{names::WORKER_CONTAINER, problem::Problem};

/// Checks a template's spec.
pub fn check(spec: &PodSpec) -> Result<(), Problem> {
    containers(spec)?;
    let volumes = spec.volumes.iter().flatten().map(|volume| volume.name.as_str());
    once("volumes", "name", volumes, &[])?;
    let all = [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())];
    for (list, containers) in all {
        for (i, container) in containers.into_iter().flatten().enumerate() {
            within(&format!("{list}[{i}]"), container)?;
        }
    }
    Ok(())
}

/// Containers of both lists share their names.
fn containers(spec: &PodSpec) -> Result<(), Problem> {
    let name = |container: &'_ Container| container.name.clone();
    let first: Vec<String> = spec.containers.iter().map(name).collect();
    let init: Vec<String> = spec.init_containers.iter().flatten().map(name).collect();
    once("containers", "name", first.iter().map(String::as_str), &[])?;
    if let Some(i) = init.iter().position(|name| name == WORKER_CONTAINER) {
        let why = format!("is {WORKER_CONTAINER}, which is Weir's own and stands among containers; take another name");
        return Err(refuse(&format!("initContainers[{i}].name"), &why));
    }
    let taken: Vec<&str> = first.iter().map(String::as_str).collect();
    once("initContainers", "name", init.iter().map(String::as_str), &taken)
}

/// What a container names by itself; Weir's own has something already.
fn within(place: &str, container: &Container) -> Result<(), Problem> {
    let ours = container.name == WORKER_CONTAINER;
    let (mounts, ports): (&[&str], &[&str]) = if ours { (&OUR_MOUNTS, &OUR_PORTS) } else { (&[], &[]) };
    let paths = container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str());
    once(&format!("{place}.volumeMounts"), "mountPath", paths, mounts)?;
    // A port without a name is one of many.
    let named = container.ports.iter().flatten().map(|port| port.name.as_deref().unwrap_or_default());
    let mut seen: BTreeSet<&str> = ports.iter().copied().collect();
    for (i, name) in named.enumerate().filter(|(_, name)| !name.is_empty()) {
        if !seen.insert(name) {
            return Err(twice(&format!("{place}.ports[{i}].name"), name));
        }
    }
    Ok(())
}

/// Each is there, and none twice or among those that are taken.
fn once<'a>(list: &str, field: &str, names: impl Iterator<Item = &'a str>, taken: &[&'a str]) -> Result<(), Problem> {
    let mut seen: BTreeSet<&str> = taken.iter().copied().collect();
    for (i, name) in names.enumerate() {
        let place = format!("{list}[{i}].{field}");
        if name.is_empty() {
            return Err(refuse(&place, "is missing"));
        }
        if !seen.insert(name) {
            return Err(twice(&place, name));
        }
    }
    Ok(())
}

fn twice(place: &str, name: &str) -> Problem {
    refuse(place, &format!("is {name:?}, which is there already; take another"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_there_twice_is_refused_by_its_place() {
        let x = json!({"name": "x", "image": "i"});
        let with = |name: &str, more: Value| {
            let mut container = json!({"name": name, "image": "i"});
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            container
        };
        let mount = |path: &str| json!({"name": "v", "mountPath": path});
        let cases = [
            (json!({"containers": [x, x]}), "containers[1].name is \"x\""),
            (json!({"containers": [x], "initContainers": [x]}), "initContainers[0].name is \"x\""),
            (json!({"containers": [], "initContainers": [{"name": "worker"}]}), "initContainers[0].name is worker"),
            (json!({"containers": [{"image": "i"}]}), "containers[0].name is missing"),
            (
                json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}),
                "volumes[1].name is \"v\"",
            ),
            (
                json!({"containers": [with("x", json!({"volumeMounts": [mount("/a"), mount("/a")]}))]}),
                "containers[0].volumeMounts[1].mountPath is \"/a\"",
            ),
            (
                json!({"containers": [with("worker", json!({"volumeMounts": [mount("/tmp")]}))]}),
                "containers[0].volumeMounts[0].mountPath is \"/tmp\"",
            ),
            (
                json!({"containers": [with("worker", json!({"ports": [{"name": "http", "containerPort": 80}]}))]}),
                "containers[0].ports[0].name is \"http\"",
            ),
        ];
        for (spec, said) in cases {
            let problem = check(&serde_json::from_value(spec.clone()).unwrap()).unwrap_err();
            assert!(problem.message.contains(said), "{spec}: {}", problem.message);
        }
        let fine = json!({
            "containers": [with("x", json!({"ports": [{"containerPort": 80}, {"containerPort": 81}]})), with("worker",
                json!({"volumeMounts": [mount("/models")]}))],
            "initContainers": [with("y", json!({"volumeMounts": [mount("/tmp")]}))],
            "volumes": [{"name": "v", "emptyDir": {}}],
        });
        assert_eq!(check(&serde_json::from_value(fine).unwrap()), Ok(()));
    }
}
