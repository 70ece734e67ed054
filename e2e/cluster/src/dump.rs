//! All that can be known of a case that failed, in files.

use std::path::{Path, PathBuf};

use kube::ResourceExt;

use crate::{cluster::Cluster, install::NAMESPACE, space::Space};

/// Where the files go: a folder beside the build's output.
fn folder(space: &Space) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    target.join("weir-e2e").join(&space.name)
}

/// Writes resources, events and logs of the case's namespace, the controllers' logs and the objects in storage; returns where.
pub async fn dump(space: &Space, why: &str) -> PathBuf {
    let folder = folder(space);
    let _ = std::fs::create_dir_all(&folder);
    let write = |name: &str, text: &str| {
        let _ = std::fs::write(folder.join(name), text);
    };
    write("why.txt", why);
    let namespace = space.name.as_str();
    for (file, arguments) in [
        ("streamjobs.yaml", vec!["-n", namespace, "get", "streamjobs", "-o", "yaml"]),
        ("describe.txt", vec!["-n", namespace, "describe", "streamjobs"]),
        ("pods.txt", vec!["-n", namespace, "get", "pods", "-o", "wide"]),
        ("pods.yaml", vec!["-n", namespace, "get", "pods", "-o", "yaml"]),
        ("events.txt", vec!["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]),
        (
            "objects.txt",
            vec!["-n", namespace, "get", "services,serviceaccounts,poddisruptionbudgets,networkpolicies", "-o", "wide"],
        ),
        ("controllers.txt", vec!["-n", NAMESPACE, "get", "pods,leases", "-o", "yaml"]),
    ] {
        let said = space.cluster.kubectl(&arguments).await.unwrap_or_else(|error| error);
        write(file, &said);
    }
    logs(space, namespace, &folder).await;
    logs(space, NAMESPACE, &folder).await;
    let stored = space.bucket.try_list(namespace).await;
    write("storage.txt", &stored.map_or_else(|error| error.to_string(), |paths| paths.join("\n")));
    folder
}

async fn logs(space: &Space, namespace: &str, folder: &Path) {
    for pod in space.cluster.try_labelled(namespace, "").await.unwrap_or_default() {
        for (suffix, previous) in [("log", "--previous=false"), ("previous.log", "--previous=true")] {
            let arguments = ["-n", namespace, "logs", &pod.name_any(), "--all-containers", previous];
            if let Ok(text) = Cluster::command("kubectl", &arguments).await {
                let _ = std::fs::write(folder.join(format!("{}.{suffix}", pod.name_any())), text);
            }
        }
    }
}
