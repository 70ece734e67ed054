//! The controller's role is the least that works: after the other cases every one of its permissions was needed, and nothing was refused.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    install::NAMESPACE,
    job::{Job, Settings},
    space::Space,
};

/// Needed only where the API server guards owner references, which by default it does not.
const NOT_SEEN_HERE: [(&str, &str, &str); 1] = [("weir.dev", "streamjobs/finalizers", "update")];

/// API group, resource with its subresource, verb.
type Permission = (String, String, String);

/// What roles allow.
fn allowed(roles: &[Value]) -> BTreeSet<Permission> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect()
    };
    let mut found = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().into_iter().flatten()) {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                found.extend(texts(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    found
}

/// What was asked, by the API server's audit log, and which of it was refused.
fn asked(log: &str) -> (BTreeSet<Permission>, BTreeSet<Permission>) {
    let (mut all, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for entry in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let of = &entry["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        if of["resource"].is_null() {
            continue;
        }
        let mut resource = text(&of["resource"]);
        if let Some(below) = of["subresource"].as_str() {
            resource = format!("{resource}/{below}");
        }
        let permission = (text(&of["apiGroup"]), resource, text(&entry["verb"]));
        if entry["responseStatus"]["code"] == 403 && entry["annotations"]["authorization.k8s.io/decision"] != "allow" {
            refused.insert(permission.clone());
        }
        // An apply that finds nothing creates, and needs the permission to; the log has it as the patch that it was asked as.
        if permission.2 == "patch" && entry["responseStatus"]["code"] == 201 {
            all.insert((permission.0.clone(), permission.1.clone(), "create".to_string()));
        }
        all.insert(permission);
    }
    (all, refused)
}

pub async fn role_is_minimal(space: Space) {
    // Of what only a job's end asks for.
    let job =
        Job::start_with(&space, &Settings::seconds(20), |job| job["spec"]["checkpoint"]["onDelete"] = "Delete".into())
            .await;
    job.finishes_exact().await;
    job.delete().await;
    job.until_gone().await;
    let mut roles = Vec::new();
    for arguments in [
        vec!["get", "clusterrole", "weir-system-weir", "-o", "json"],
        vec!["-n", NAMESPACE, "get", "role", "weir-lease", "-o", "json"],
    ] {
        let text = space.cluster.kubectl(&arguments).await.unwrap_or_else(|error| panic!("{error}"));
        roles.push(serde_json::from_str(&text).expect("a role is JSON"));
    }
    let (asked, refused) = asked(&space.cluster.audit().await);
    let mut unused = allowed(&roles);
    // What the role allows is refused while Weir is being taken away: its role goes before it does.
    let refused: Vec<_> = refused.difference(&unused).collect();
    assert!(refused.is_empty(), "the controller asked for what its role does not allow: {refused:?}");
    unused.retain(|(group, resource, verb)| {
        !asked.contains(&(group.clone(), resource.clone(), verb.clone()))
            && !NOT_SEEN_HERE.contains(&(group.as_str(), resource.as_str(), verb.as_str()))
    });
    assert!(unused.is_empty(), "the role allows what nothing has needed: {unused:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_read_from_roles_and_from_the_log() {
        let role = serde_json::json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
        assert_eq!(allowed(&[role]).len(), 2);
        let log = r#"{"verb":"get","objectRef":{"resource":"pods"},"responseStatus":{"code":200}}
{"verb":"patch","objectRef":{"resource":"services"},"responseStatus":{"code":201}}
{"verb":"patch","objectRef":{"apiGroup":"weir.dev","resource":"streamjobs","subresource":"status"},"responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"forbid"}}"#;
        let (all, refused) = asked(log);
        assert!(all.contains(&(String::new(), "pods".into(), "get".into())));
        assert!(all.contains(&(String::new(), "services".into(), "create".into())), "an apply has created it");
        assert_eq!(refused, [("weir.dev".to_string(), "streamjobs/status".to_string(), "patch".to_string())].into());
    }
}
