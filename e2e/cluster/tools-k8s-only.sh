#!/bin/bash
# Builds what the clusters are made of from the Go module proxy, each once for every change of its module or of Go.
#   tools.sh [cluster] [kind]     default: cluster
#   cluster   Kubernetes with etcd (one binary), CoreDNS, helm, MinIO, toxiproxy: what cluster.sh and the cases need
#   kind      what kind needs besides, where its node image cannot be pulled: containerd, runc, the CNI plugins, kind itself
# Versions stand in tools/*/go.mod, and in `version` below where a program wants to be told its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${WEIR_TOOLS:-$HOME/.cache/weir/tools}/bin
# The compiler's own garbage collector may be lazy: memory is there, time is not.
export CGO_ENABLED=0 GOGC=${GOGC:-300} GOFLAGS=-trimpath
command -v go >/dev/null || { echo "The cluster's programs are built with Go: install it from https://go.dev/dl, version 1.26 or newer." >&2; exit 1; }
mkdir -p "$bin/cni" "$bin/.stamps"

version() { # MODULE PATH: the version that the tool's go.mod names
    sed -n "s#^\(require\)\?[[:space:]]*$2 \(v[^ ]*\).*#\2#p" "$here/tools/$1/go.mod" | head -1
}
stamp() { # MODULE WORDS…
    (cd "$here/tools/$1" && { cat go.mod go.sum; cat ./*.go 2>/dev/null || true; go env GOVERSION; echo "$*"; } | sha256sum | cut -c1-16)
}
build() { # MODULE OUT PACKAGE TAGS LDFLAGS
    local stamps=$bin/.stamps/${2//\//-} wanted begun=$SECONDS
    wanted=$(stamp "$@")
    [ -e "$bin/$2" ] && [ "$(cat "$stamps" 2>/dev/null)" = "$wanted" ] && return
    (cd "$here/tools/$1" && go build -tags "$4" -ldflags "-s -w $5" -o "$bin/$2.new" "$3")
    mv "$bin/$2.new" "$bin/$2"
    echo "$wanted" >"$stamps"
    echo "built $2 in $((SECONDS - begun)) s"
}
cluster() {
    local v flags="" package name
    v=$(version kubernetes k8s.io/kubernetes)
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=$v -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$v") -X $package.gitTreeState=clean"
    done
    build kubernetes kubernetes . selinux,notest,grpcnotrace "$flags"
    for name in etcd kubectl kubeadm kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
        ln -sf kubernetes "$bin/$name"
    done
}
kind() {
    local c=github.com/containerd/containerd/v2 plugins=github.com/containernetworking/plugins plugin tags=urfave_cli_no_docs,osusergo,netgo flags
    flags="-X $c/version.Version=$(version containerd $c)"
    build containerd containerd $c/cmd/containerd no_btrfs,no_devmapper,no_zfs,$tags "$flags"
    build containerd containerd-shim-runc-v2 $c/cmd/containerd-shim-runc-v2 no_btrfs,no_grpc,$tags "$flags"
    build containerd ctr $c/cmd/ctr no_btrfs,$tags "$flags"
    # Seccomp profiles are what the restricted pod security level is about: needs libseccomp-dev, which kind.sh installs.
    CGO_ENABLED=1 build runc runc github.com/opencontainers/runc seccomp,urfave_cli_no_docs ""
    for plugin in main/bridge main/loopback ipam/host-local meta/portmap; do
        build cni "cni/${plugin##*/}" $plugins/plugins/$plugin "" ""
    done
    kind_itself
}
kind_itself() { build kind kind sigs.k8s.io/kind "" ""; }
for group in "${@:-cluster}"; do "$group"; done
