#!/bin/bash
# A one-node Kubernetes of plain processes, without a registry, Docker or systemd: etcd, the control plane, containerd, kubelet,
# kube-proxy and CoreDNS in network, mount and process namespaces of their own. There is no route out of it, nothing of the
# machine around it is changed, and when its first process ends all of it is gone. Usable in some seconds.
#   cluster.sh up                 starts it (needs root; installs what is missing on Debian)
#   cluster.sh in COMMAND…        runs a command in its network, with KUBECONFIG, PATH and what the cases want to know
#   cluster.sh node COMMAND…      runs a command on the node, with its processes, mounts and network in view
#   cluster.sh load IMAGE.tar…    imports images
#   cluster.sh audit              prints what Weir's controllers have asked of the API server, a line of JSON each
#   cluster.sh apiserver stop     ends the API server at once;  apiserver start  starts it again
#   cluster.sh down
# WEIR_E2E_INSTANCE names one of several that run side by side.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
instance=${WEIR_E2E_INSTANCE:-weir}
tools=${WEIR_TOOLS:-$HOME/.cache/weir/tools}
bin=$tools/bin
S=/tmp/weir-e2e-$instance # all that it writes
cgroot=/weir-e2e-$instance
pods=10.244.0.0/24 services=10.96.0.0/16 dns=10.96.0.10 node=node-1
# The node's address stands on a bridge without ports: kubelet refuses a loopback address, and not every kernel has dummy devices.
bridge=node0 address=10.245.0.1
socket=$S/run/containerd.sock
export PATH=$bin:/usr/sbin:/sbin:$PATH
begun=${EPOCHREALTIME/./}

step() { printf '%6d ms  %s\n' $(((${EPOCHREALTIME/./} - begun) / 1000)) "$*"; }
start() { # NAME COMMAND…: in the background, in a session of its own; its pid and log are kept
    local name=$1
    shift
    setsid "$@" >>"$S/log/$name.log" 2>&1 </dev/null &
    echo $! >"$S/run/$name.pid"
}
await() { # SECONDS WHAT COMMAND…
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "waited in vain for: $what; see $S/log" >&2; return 1; }
        sleep 0.1
    done
    step "$what"
}
admin() { kubectl --kubeconfig "$S/kube/super-admin.conf" "$@"; }

prerequisites() {
    [ "$(id -u)" = 0 ] || { echo "cluster.sh makes namespaces and starts containers: run it as root" >&2; exit 1; }
    local missing="" command
    for command in containerd:containerd runc:runc iptables:iptables conntrack:conntrack socat:socat ip:iproute2 modprobe:kmod gcc:gcc \
        nsenter:util-linux /usr/lib/cni/bridge:containernetworking-plugins; do
        command -v "${command%%:*}" >/dev/null || missing+=" ${command##*:}"
    done
    if [ -n "$missing" ]; then
        command -v apt-get >/dev/null || { echo "Please install$missing, then run this again." >&2; exit 1; }
        echo "Installing with apt:$missing"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing libc6-dev >/dev/null
    fi
    "$here/tools.sh" cluster
    "$here/images.sh" base
}

configure() {
    mkdir -p "$S"/{log,run,pki,kube,etcd,containerd,kubelet,net.d,pods,conf}
    cat >"$S/conf/kubeadm.yaml" <<Y
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $(kubelet --version | cut -d' ' -f2)
certificatesDir: $S/pki
encryptionAlgorithm: ECDSA-P256
controlPlaneEndpoint: $address:6443
networking: {serviceSubnet: $services, podSubnet: $pods, dnsDomain: cluster.local}
apiServer: {certSANs: [localhost, 127.0.0.1, $address]}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: $address, bindPort: 6443}
nodeRegistration: {name: $node, criSocket: "unix://$socket"}
Y
    # No resource of a shared machine may evict a test's pods, and oom scores can only be raised where CAP_SYS_RESOURCE is missing.
    cat >"$S/conf/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: $cgroot
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
address: $address
healthzBindAddress: 127.0.0.1
containerRuntimeEndpoint: unix://$socket
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $S/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $S/conf/resolv.conf
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
podLogsDir: $S/pods
serializeImagePulls: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {imagefs.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.inodesFree: 0%, memory.available: 100Mi}
nodeStatusReportFrequency: 10s
nodeStatusUpdateFrequency: 5s
Y
    : >"$S/conf/resolv.conf"
    cat >"$S/conf/containerd.toml" <<T
version = 2
root = "$S/containerd/root"
state = "$S/containerd/state"
[grpc]
  address = "$socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "weir.local/pause:1"
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$S/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
T
    cat >"$S/net.d/10-bridge.conflist" <<J
{"cniVersion": "1.0.0", "name": "weir-e2e", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$S/ipam", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
    cat >"$S/conf/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clusterCIDR: $pods
hostnameOverride: $node
oomScoreAdj: 0
nodePortAddresses: ["$address/32"]
conntrack: {maxPerCore: 0}
clientConnection: {kubeconfig: $S/kube/super-admin.conf}
iptables: {minSyncPeriod: 0s}
Y
    cp "$here/audit.yaml" "$S/conf/audit.yaml"
    cat >"$S/conf/Corefile" <<C
.:53 {
    bind $address
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $S/kube/super-admin.conf
        pods insecure
    }
    cache 5
}
C
}
network() {
    ip link set lo up
    ip link add "$bridge" type bridge
    ip address add "$address/24" dev "$bridge"
    ip link set "$bridge" up
    ip route add "$services" dev "$bridge"
    sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
}
cgroups() { # kubelet's own branch; on the first version of cgroups in every hierarchy
    local folder file
    for folder in /sys/fs/cgroup/ /sys/fs/cgroup/*/; do
        [ -e "$folder/cgroup.procs" ] || continue
        mkdir -p "$folder$cgroot"
        case $folder in */cpuset/)
            for file in cpuset.cpus cpuset.mems; do cat "$folder/$file" >"$folder$cgroot/$file"; done ;;
        esac
        # All pods together stand against every single thread of the control plane, and of whatever else runs on the machine.
        if [ -e "$folder$cgroot/cpu.shares" ]; then echo 4096 >"$folder$cgroot/cpu.shares"; fi
        if [ -e "$folder$cgroot/cpu.weight" ]; then echo 400 >"$folder$cgroot/cpu.weight"; fi
    done
}
apiserver() {
    start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address="$address" --advertise-address="$address" \
        --secure-port=6443 --service-cluster-ip-range="$services" --allow-privileged=true --authorization-mode=Node,RBAC \
        --enable-admission-plugins=NodeRestriction --profiling=false --kubelet-preferred-address-types=InternalIP \
        --client-ca-file="$S/pki/ca.crt" --tls-cert-file="$S/pki/apiserver.crt" --tls-private-key-file="$S/pki/apiserver.key" \
        --kubelet-client-certificate="$S/pki/apiserver-kubelet-client.crt" --kubelet-client-key="$S/pki/apiserver-kubelet-client.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$S/pki/sa.pub" \
        --service-account-signing-key-file="$S/pki/sa.key" --requestheader-client-ca-file="$S/pki/front-proxy-ca.crt" \
        --audit-policy-file="$S/conf/audit.yaml" --audit-log-path="$S/log/audit.json" \
        --requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User \
        --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$S/pki/front-proxy-client.crt" --proxy-client-key-file="$S/pki/front-proxy-client.key"
}
component() { # PROGRAM NAME FLAGS…: one that has a kubeconfig of its name
    local program=$1 name=$2 conf=$S/kube/$2.conf
    shift 2
    start "$name" "$program" --kubeconfig="$conf" --authentication-kubeconfig="$conf" --authorization-kubeconfig="$conf" \
        --bind-address=127.0.0.1 --leader-elect=false "$@"
}
bring_up() {
    local image
    configure
    network
    cgroups
    start containerd containerd -c "$S/conf/containerd.toml"
    start etcd etcd --data-dir "$S/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
    kubeadm init phase certs all --config "$S/conf/kubeadm.yaml" >"$S/log/kubeadm.log" 2>&1
    kubeadm init phase kubeconfig all --config "$S/conf/kubeadm.yaml" --kubeconfig-dir "$S/kube" >>"$S/log/kubeadm.log" 2>&1
    step "certificates"
    apiserver
    await 60 "containerd answers" ctr -a "$socket" version
    for image in "$tools"/images/*.tar; do ctr -a "$socket" -n k8s.io images import "$image" >>"$S/log/import.log" 2>&1; done
    step "images imported"
    component kube-scheduler scheduler
    start kubelet kubelet --config="$S/conf/kubelet.yaml" --kubeconfig="$S/kube/kubelet.conf" --root-dir="$S/kubelet" \
        --cert-dir="$S/kubelet/pki" --hostname-override="$node" --node-ip="$address"
    await 120 "API server ready" admin get --raw /readyz
    # Not sooner: before the first roles are there it gives up at once.
    component kube-controller-manager controller-manager --kube-api-qps=500 --kube-api-burst=1000 --use-service-account-credentials=true \
        --root-ca-file="$S/pki/ca.crt" --service-account-private-key-file="$S/pki/sa.key" --cluster-signing-cert-file="$S/pki/ca.crt" \
        --cluster-signing-key-file="$S/pki/ca.key" --cluster-cidr="$pods" --service-cluster-ip-range="$services"
    # What a later phase of kubeadm would do: the API server may ask the kubelet for logs.
    admin create clusterrolebinding weir-e2e:kubelet-client --clusterrole=system:kubelet-api-admin --user=kube-apiserver-kubelet-client >/dev/null
    start proxy kube-proxy --config="$S/conf/proxy.yaml"
    start coredns coredns -conf "$S/conf/Corefile"
    admin apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $dns
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["$address"], conditions: {ready: true}}]
Y
    await 120 "node registered" admin get node "$node"
    await 120 "node ready" admin wait --for=condition=Ready "node/$node" --timeout=60s
    await 60 "pods can be made" admin -n default get serviceaccount default
    admin label namespace kube-system "weir.dev/e2e=$instance" >/dev/null
}
first() { # the first process of the cluster's namespaces
    local folder
    for folder in /run /var/lib/cni /var/log/containers; do mkdir -p $folder && mount -t tmpfs tmpfs $folder; done
    mkdir -p /run/netns
    mount --make-rshared /
    # A shell of its own, since in a condition this one would go on after an error.
    if "$here/cluster.sh" bring-up; then touch "$S/run/up"; else touch "$S/run/failed"; fi
    trap : CHLD
    while :; do sleep 3600 & wait $! || true; done
}
up() {
    prerequisites
    [ ! -e "$S/run/first.pid" ] || down
    mkdir -p "$S/run"
    setsid unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private "$here/cluster.sh" first >"$S/up.log" 2>&1 </dev/null &
    echo $! >"$S/run/unshare.pid"
    until [ -e "$S/run/up" ] || [ -e "$S/run/failed" ] || ! kill -0 "$(cat "$S/run/unshare.pid")" 2>/dev/null; do sleep 0.1; done
    cat "$S/up.log"
    pgrep -P "$(cat "$S/run/unshare.pid")" >"$S/run/first.pid"
    [ -e "$S/run/up" ] || { tail -n 5 "$S"/log/*.log >&2; exit 1; }
}
down() {
    local file pid
    for file in first unshare; do
        pid=$(cat "$S/run/$file.pid" 2>/dev/null) || continue
        # It may have ended without a word, and the number be another's by now.
        case $(cat "/proc/$pid/comm" 2>/dev/null) in unshare | cluster.sh) ;; *) continue ;; esac
        kill -KILL "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    done
    for _ in $(seq 50); do
        find /sys/fs/cgroup/*"$cgroot" /sys/fs/cgroup"$cgroot" -depth -type d -exec rmdir {} + 2>/dev/null || true
        ls -d /sys/fs/cgroup/*"$cgroot" >/dev/null 2>&1 || break
        sleep 0.1
    done
    rm -rf "$S"
    step "all of it is gone"
}
within() { nsenter -t "$(cat "$S/run/first.pid")" "$@"; }
case ${1:-} in
up) up ;;
down) down ;;
first) first ;;
bring-up) bring_up ;;
in)
    shift
    export KUBECONFIG=$S/kube/super-admin.conf WEIR_E2E_CLUSTER=$here/cluster.sh WEIR_E2E_NODE=$address WEIR_E2E_INSTANCE=$instance
    exec nsenter -t "$(cat "$S/run/first.pid")" -n "$@"
    ;;
node) shift && within -n -m -p "$@" ;;
load) shift && for image; do within -n -m ctr -a "$socket" -n k8s.io images import "$image"; done ;;
audit) cat "$S/log/audit.json" ;;
apiserver)
    case ${2:-} in
    stop) within -p -m kill -KILL "$(cat "$S/run/apiserver.pid")" ;;
    start) within -n -p -m "$here/cluster.sh" apiserver-again ;;
    *) exit 2 ;;
    esac
    ;;
apiserver-again) apiserver ;;
*) sed -n '2,13p' "$0" >&2; exit 2 ;;
esac
