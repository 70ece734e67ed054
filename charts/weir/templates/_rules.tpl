{{- /* What the controller may do where it manages jobs. Plain YAML, so that a test can hold it against the table in
controller/src/cluster/permissions.rs: neither may have more than the other. */ -}}
{{- define "weir.rules" -}}
- apiGroups: [weir.dev]
  resources: [streamjobs]
  verbs: [get, list, watch, patch]
- apiGroups: [weir.dev]
  resources: [streamjobs/status]
  verbs: [patch]
# Where the API server guards owner references, pods and the rest cannot be owned by a job without it.
- apiGroups: [weir.dev]
  resources: [streamjobs/finalizers]
  verbs: [update]
# A job's pods are never changed: a worker that should be another one is replaced.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
# Applied, and applied again where somebody changes or removes them. They go with the job that owns them, so nothing here is deleted.
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch]
# Only by name: the credentials that a job names, its own certificates, and the version that runs. Never listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# Read by name, to go on with what another controller has told of.
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
{{- end -}}

{{- /* What it may do in its own namespace: hold the lease, and nobody else's. */ -}}
{{- define "weir.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: ['{{ include "weir.lease" . }}']
  verbs: [get, update]
# What is not there yet cannot be granted by name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end -}}

{{- /* Objects outside of namespaces. The identity of kube-system is the cluster's: it stands in what a job writes to storage, so
that another cluster's job of the same name is not taken for it. */ -}}
{{- define "weir.clusterRules" -}}
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- end -}}
