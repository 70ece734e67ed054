#!/bin/bash
# node-image.sh OUT.tar: a node image for kind with nothing pulled from a registry: Debian by debootstrap with systemd, the files of
# kind's own module, the programs that tools.sh built, and every image that kubeadm asks for, made of the same programs and
# preloaded. `docker import` takes it. Needs root, debootstrap, jq.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
tools=${WEIR_TOOLS:-$HOME/.cache/weir/tools}
bin=$tools/bin
base=$tools/debian # kept: it takes a minute
work=$(mktemp -d)
root=$work/root
runtime=""
trap '[ -z "$runtime" ] || kill "$runtime" 2>/dev/null; rm -rf "$work"' EXIT
begun=$SECONDS
step() { printf '%4d s  node image: %s\n' $((SECONDS - begun)) "$*"; }

kubernetes=$("$bin/kubelet" --version | cut -d' ' -f2)
files=$(cd "$here/../tools/kind" && go mod download sigs.k8s.io/kind && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/images/base/files
if [ ! -e "$base/.done" ]; then
    rm -rf "$base"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,bash,ca-certificates,curl,jq,procps,hostname,busybox \
        bookworm "$base" >"$work/debootstrap.log" || { tail "$work/debootstrap.log" >&2; exit 1; }
    touch "$base/.done"
fi
cp -a --reflink=auto "$base" "$root"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
step "Debian"

# What kind's own Dockerfile does: its files, and hardly a unit of systemd's left.
mkdir -p "$root"/kind/{bin,manifests} "$root"/etc/{containerd,default,sysctl.d,kubernetes/manifests,cni/net.d,systemd/system/kubelet.service.d} "$root/opt/cni/bin"
install -m 755 "$files"/usr/local/bin/* "$root/usr/local/bin/"
install -m 755 "$files"/kind/bin/* "$root/kind/bin/"
(cd "$files/etc" && find . -type f -exec install -D -m 644 {} "$root/etc/{}" \;)
find "$root/lib/systemd/system/sysinit.target.wants/" -name systemd-tmpfiles-setup.service -delete
rm -f "$root"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* "$root"/etc/systemd/system/*.wants/* \
    "$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}*
echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
ln -sf /usr/lib/systemd/systemd "$root/sbin/init"
for unit in kubelet containerd undo-mount-hacks; do chroot "$root" systemctl enable $unit.service >/dev/null 2>&1; done
chroot "$root" systemctl mask systemd-binfmt.service >/dev/null 2>&1

install -m 755 "$bin"/{containerd,containerd-shim-runc-v2,ctr} "$root/usr/local/bin/"
install -m 755 "$bin/runc" "$root/usr/local/sbin/"
install -m 755 "$bin/kubernetes" "$root/usr/bin/"
for name in kubelet kubeadm kubectl; do ln -sf kubernetes "$root/usr/bin/$name"; done
install -m 755 "$bin"/cni/* "$root/opt/cni/bin/"
printf %s "$kubernetes" >"$root/kind/version"
"$bin/ctr" oci spec | jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/; s#sandbox_image = .*#sandbox_image = "weir.local/pause:1"#' "$root/etc/containerd/config.toml"
install -m 644 "$here/network.yaml" "$root/kind/manifests/default-cni.yaml"
install -m 644 "$here/storage.yaml" "$root/kind/manifests/default-storage.yaml"

# One image for everything that kubeadm runs, tagged with each of its names: the binary of all programs, and from Debian's tree what
# kube-proxy and the network call: iptables, nft, conntrack, ip, and a shell.
asked() { "$bin/kubeadm" config images list --kubernetes-version "$kubernetes" 2>/dev/null | grep "/$1:"; }
all=$work/all
mkdir -p "$all"/{usr/sbin,usr/bin,usr/local/bin,usr/lib/x86_64-linux-gnu,usr/lib64,tmp,etc,run,var/lib,proc,sys,dev,root} "$work/images"
for folder in bin sbin lib lib64; do ln -s usr/$folder "$all/$folder"; done
chmod 1777 "$all/tmp"
cp -a "$root"/usr/sbin/{xtables-nft-multi,xtables-legacy-multi,iptables*,ip6tables*,nft,conntrack,ethtool} "$all/usr/sbin/"
cp -a "$root"/bin/{ip,busybox} "$all/usr/bin/"
cp -a "$root/etc/alternatives" "$root"/etc/{protocols,services} "$all/etc/" 2>/dev/null || true
cp -a "$root"/usr/lib/*-linux-gnu/xtables "$all"/usr/lib/x86_64-linux-gnu/
for program in /usr/sbin/{xtables-nft-multi,xtables-legacy-multi,nft,conntrack,ethtool} /bin/ip /bin/busybox; do
    chroot "$root" ldd $program
done | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$all$(dirname "$library")"
    cp -L "$root$library" "$all$library"
done
for applet in $(chroot "$root" busybox --list); do
    [ -e "$all/usr/bin/$applet" ] || [ -e "$all/usr/sbin/$applet" ] || ln -s busybox "$all/usr/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$all/etc/passwd"
printf 'hosts: files dns\n' >"$all/etc/nsswitch.conf"
install -m 755 "$bin/kubernetes" "$here/routes.sh" "$all/usr/local/bin/"
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl etcd; do ln -s kubernetes "$all/usr/local/bin/$name"; done
"$here/../image/image.sh" "$work/images/kubernetes.tar" weir.local/kubernetes:1 "$all"
mkdir -p "$work/coredns"
install -m 755 "$bin/coredns" "$work/coredns/"
"$here/../image/image.sh" "$work/images/coredns.tar" "$(asked coredns)" "$work/coredns" /coredns
cp "$tools"/images/*.tar "$work/images/"
step "images"

# Preloaded by a containerd of this machine whose root is inside the tree.
mkdir -p "$root/var/lib/containerd"
printf 'version = 3\nroot = "%s"\nstate = "%s"\n[grpc]\naddress = "%s"\n' "$root/var/lib/containerd" "$work/state" "$work/socket" >"$work/containerd.toml"
PATH=$bin:$PATH containerd -c "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
runtime=$!
ctr() { "$bin/ctr" -a "$work/socket" "$@"; }
for _ in $(seq 300); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
for image in "$work"/images/*.tar; do
    ctr -n k8s.io images import --local --discard-unpacked-layers --label io.cri-containerd.image=managed "$image" >/dev/null
done
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd; do
    ctr -n k8s.io images tag weir.local/kubernetes:1 "$(asked $name)" >/dev/null
done
kill "$runtime"
wait "$runtime" 2>/dev/null || true
runtime=""
tar -C "$root" --numeric-owner --xattrs --one-file-system -cf "$out.new" .
mv "$out.new" "$out"
step "made: $(du -sm "$out" | cut -f1) MB"
