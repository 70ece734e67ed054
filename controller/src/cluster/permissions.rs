//! What the controller asks the API server for, and nothing else. charts/weir/templates/_rules.tpl grants exactly this; a test
//! there holds the two against each other.

/// Verbs on a resource of an API group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Empty for the core group.
    pub group: &'static str,
    /// The plural, with a subresource after a slash.
    pub resource: &'static str,
    /// In the order of the table.
    pub verbs: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// Where it looks after jobs.
pub const JOBS: &[Permission] = &[
    Permission {
        group: "weir.dev",
        resource: "streamjobs",
        verbs: &["get", "list", "watch", "patch"],
        why: "the jobs; patched only for the finalizer",
    },
    Permission { group: "weir.dev", resource: "streamjobs/status", verbs: &["patch"], why: "what they report" },
    Permission {
        group: "weir.dev",
        resource: "streamjobs/finalizers",
        verbs: &["update"],
        why: "owner references that block deletion",
    },
    Permission {
        group: "",
        resource: "pods",
        verbs: &["list", "watch", "create", "delete"],
        why: "workers; a job's pods are never changed",
    },
    Permission {
        group: "",
        resource: "services",
        verbs: &["list", "watch", "create", "patch"],
        why: "the headless Service; applied, and applied again where somebody removes it",
    },
    Permission { group: "", resource: "serviceaccounts", verbs: &["create", "patch"], why: "the workers' identity" },
    Permission {
        group: "",
        resource: "secrets",
        verbs: &["get", "create", "patch"],
        why: "by name only: credentials that a job names, its certificates, the version that runs. Never listed",
    },
    Permission {
        group: "policy",
        resource: "poddisruptionbudgets",
        verbs: &["list", "watch", "create", "patch"],
        why: "one eviction at a time",
    },
    Permission {
        group: "networking.k8s.io",
        resource: "networkpolicies",
        verbs: &["list", "watch", "create", "patch"],
        why: "who may reach workers",
    },
    Permission {
        group: "",
        resource: "events",
        verbs: &["get", "create", "patch"],
        why: "the story; read by name, to go on with what another controller has told of",
    },
];

/// In its own namespace.
pub const LEASE: &[Permission] = &[
    Permission {
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["get", "update"],
        why: "the election; of the controllers' own lease alone",
    },
    Permission {
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["create"],
        why: "that lease, where it is not there yet; a role cannot name what is not there",
    },
];

/// Objects outside all namespaces; none where `--cluster-id` is given.
pub const CLUSTER: &[Permission] = &[Permission {
    group: "",
    resource: "namespaces",
    verbs: &["get"],
    why: "kube-system alone: its uid is the cluster's identity",
}];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Verbs by group and resource; a resource may be in several rules.
    type Rules = BTreeMap<(String, String), BTreeSet<String>>;

    /// What a block of the chart's templates grants. The blocks are plain YAML.
    fn granted(templates: &str, block: &str) -> Rules {
        let begin = format!("{{{{- define \"{block}\" -}}}}");
        let text = templates.split(&begin).nth(1).unwrap().split("{{- end -}}").next().unwrap();
        let rules: Vec<serde_json::Value> = serde_saphyr::from_str(text).unwrap();
        let mut granted = Rules::new();
        for rule in rules {
            let list = |field: &str| -> Vec<String> {
                rule[field].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_string()).collect()
            };
            for resource in list("resources") {
                granted.entry((list("apiGroups")[0].clone(), resource)).or_default().extend(list("verbs"));
            }
        }
        granted
    }

    fn asked(permissions: &[Permission]) -> Rules {
        let mut asked = Rules::new();
        for Permission { group, resource, verbs, .. } in permissions {
            let of = asked.entry(((*group).to_string(), (*resource).to_string())).or_default();
            of.extend(verbs.iter().map(ToString::to_string));
        }
        asked
    }

    #[test]
    fn the_chart_grants_what_is_asked_for_and_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/weir/templates/_rules.tpl");
        let templates = std::fs::read_to_string(path).unwrap();
        for (block, permissions) in [("weir.rules", JOBS), ("weir.leaseRules", LEASE), ("weir.clusterRules", CLUSTER)] {
            assert_eq!(granted(&templates, block), asked(permissions), "{block}");
        }
    }
}
