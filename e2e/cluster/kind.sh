#!/bin/bash
# A kind cluster: with kind's own node image where a registry is reached, else with one made here (kind/node-image.sh), in a Docker
# daemon of its own that has no route out.
#   kind.sh up                 starts it (installs what is missing on Debian)
#   kind.sh in COMMAND…        runs a command in its network, with KUBECONFIG, PATH and what the cases want to know
#   kind.sh node COMMAND…      runs a command on the node, with its processes, mounts and network in view
#   kind.sh load IMAGE.tar…    imports images
#   kind.sh audit              prints what Weir's controllers have asked of the API server, a line of JSON each
#   kind.sh apiserver stop     ends the API server;  apiserver start  lets the kubelet start it again
#   kind.sh down
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
instance=${WEIR_E2E_INSTANCE:-weir}
tools=${WEIR_TOOLS:-$HOME/.cache/weir/tools}
name=weir-e2e-$instance
S=/tmp/weir-e2e-kind-$instance
own=$S/docker.sock # of the daemon of our own, if there is one
export PATH=$tools/bin:/usr/sbin:/sbin:$PATH KIND_EXPERIMENTAL_DOCKER_NETWORK=$name
[ ! -S "$own" ] || export DOCKER_HOST=unix://$own
begun=${EPOCHREALTIME/./}
step() { printf '%6d ms  %s\n' $(((${EPOCHREALTIME/./} - begun) / 1000)) "$*"; }

install() { # PROGRAM:PACKAGE…
    local missing="" pair sudo=""
    for pair; do command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=" ${pair##*:}"; done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || { echo "Please install$missing, then run this again." >&2; exit 1; }
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "Installing with apt:$missing"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
outside() { # runs a command in the network where the node's address is reached
    if [ -S "$own" ]; then nsenter --net="/run/netns/$name" "$@"; else "$@"; fi
}
daemon() { # a Docker daemon in a network namespace of its own
    [ "$(id -u)" = 0 ] || { echo "kind.sh needs a Docker daemon that you may use, or root to start one" >&2; exit 1; }
    install dockerd:docker.io
    mkdir -p "$S"
    ip netns add "$name"
    nsenter --net="/run/netns/$name" sh -c 'ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1'
    DOCKER_HOST="" setsid nsenter --net="/run/netns/$name" dockerd --data-root "$S/data" --exec-root "$S/exec" --pidfile "$S/dockerd.pid" \
        -H "unix://$own" --storage-driver overlay2 --ipv6=false --dns 127.0.0.1 --add-runtime lesser="$here/kind/runc" \
        --default-runtime lesser >"$S/dockerd.log" 2>&1 </dev/null &
    export DOCKER_HOST=unix://$own
    for _ in $(seq 300); do docker version >/dev/null 2>&1 && return; sleep 0.1; done
    tail -5 "$S/dockerd.log" >&2
    exit 1
}
node_image() { # prints the name of the image to use: kind's own if it can be pulled, else one named by all that it is made of
    local stock
    stock=$(sed -n 's/.*const Image = "\(.*\)"/\1/p' "$(cd "$here/tools/kind" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/pkg/apis/config/defaults/image.go")
    if [ ! -S "$own" ] && { docker image inspect "$stock" || timeout 600 docker pull -q "$stock"; } >/dev/null 2>&1; then
        echo "$stock"
        return
    fi
    install /usr/include/seccomp.h:libseccomp-dev gcc:gcc /usr/include/stdlib.h:libc6-dev pkg-config:pkg-config >&2
    "$here/tools.sh" kind >&2
    echo "weir.local/kind-node:$(cat "$here"/kind/*.* "$here/image/image.sh" "$here/images.sh" "$tools"/bin/.stamps/* | sha256sum | cut -c1-16)"
}
own_node_image() { # IMAGE
    local tar=$S/node.tar
    install debootstrap:debootstrap jq:jq
    "$here/kind/node-image.sh" "$tar"
    docker import --change 'ENV container=docker' --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' "$tar" "$1" >/dev/null
    rm "$tar"
    step "node image imported"
}
up() {
    local image
    install docker:docker.io gcc:gcc ip:iproute2 iptables:iptables
    "$here/tools.sh" cluster
    "$here/tools.sh" kind_itself
    "$here/images.sh" base
    [ ! -e "$S/kubeconfig" ] || down
    docker info >/dev/null 2>&1 || daemon
    mkdir -p "$S"
    image=$(node_image)
    step "Docker; node image $image"
    case $image in weir.local/*) docker image inspect "$image" >/dev/null 2>&1 || own_node_image "$image" ;; esac
    kind delete cluster --name "$name" --kubeconfig "$S/kubeconfig" -q # of an earlier Docker daemon here, whose storage is kept
    kind create cluster --name "$name" --wait 180s --image "$image" --config <(sed "s#AUDIT#$here/audit.yaml#" "$here/kind/config.yaml") --kubeconfig "$S/kubeconfig" -q
    step "cluster ready"
    case $image in weir.local/*) ;; *) "$here/kind.sh" load "$tools"/images/*.tar ;; esac
    outside kubectl --kubeconfig "$S/kubeconfig" label namespace kube-system "weir.dev/e2e=$instance" >/dev/null
    docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$name-control-plane" >"$S/node"
}
down() {
    local pid
    kind delete cluster --name "$name" --kubeconfig "$S/kubeconfig" -q || true
    if [ -S "$own" ]; then
        pid=$(cat "$S/dockerd.pid")
        # It may have ended without a word, and the number be another's by now.
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
            kill "$pid"
            while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
        fi
        ip netns del "$name" || true
        findmnt -rno TARGET | { grep "^$S/" || true; } | sort -r | xargs -r umount
        rm -rf "$S/exec" "$own" # what Docker has stored is kept: the node image is in it
    fi
    rm -f "$S/kubeconfig" "$S/node"
    step "all of it is gone"
}
case ${1:-} in
up) up ;;
down) down ;;
in)
    shift
    export KUBECONFIG=$S/kubeconfig WEIR_E2E_CLUSTER=$here/kind.sh WEIR_E2E_INSTANCE=$instance
    WEIR_E2E_NODE=$(cat "$S/node")
    export WEIR_E2E_NODE
    outside "$@"
    ;;
node) shift && docker exec -i "$name-control-plane" "$@" ;;
load) shift && for image; do docker exec -i "$name-control-plane" ctr -n k8s.io images import - <"$image"; done ;;
audit) docker exec "$name-control-plane" cat /var/log/kubernetes/audit.json ;;
apiserver)
    case ${2:-} in
    stop) docker exec "$name-control-plane" sh -c 'mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/ && pkill -KILL -x kube-apiserver' ;;
    start) docker exec "$name-control-plane" mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/ ;;
    *) exit 2 ;;
    esac
    ;;
*) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac
