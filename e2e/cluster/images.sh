#!/bin/bash
# Makes the images that a cluster needs, without a registry and without a container tool: an image is a program, the libraries
# that it is linked with, and nothing else.
#   images.sh base            pause, MinIO and toxiproxy into ~/.cache/weir/tools/images, which every new cluster imports
#   images.sh weir FOLDER     the controller and a worker from the workspace's binaries into FOLDER, by the names that the chart gives them;
#                             and again as `next`, so that an upgrade can be tried. They are those of $CARGO_TARGET_DIR/debug, or of
#                             the profile that WEIR_E2E_PROFILE names
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=${WEIR_TOOLS:-$HOME/.cache/weir/tools}
target=${CARGO_TARGET_DIR:-$HOME/.cache/weir/target}/${WEIR_E2E_PROFILE:-debug}

image() { # OUT NAME PROGRAM [USER]: skipped if it is newer than the program
    local out=$1 name=$2 program=$3 user=${4:-65532:65532} root library
    [ ! "$out" -nt "$program" ] || [ ! "$out" -nt "$here/images.sh" ] || return 0
    root=$(mktemp -d)
    mkdir -p "$root/usr/local/bin" "$root/tmp" "$root/etc/ssl/certs"
    chmod 1777 "$root/tmp"
    install -m 755 "$program" "$root/usr/local/bin/"
    # As the Dockerfile has it: no symbols in what is released.
    case $program in */release/*) strip "$root/usr/local/bin/$(basename "$program")" ;; esac
    # A static program has none.
    { ldd "$program" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' || true; } | while read -r library; do
        install -D -m 755 "$(readlink -f "$library")" "$root$library"
    done
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    printf 'weir:x:65532:65532::/tmp:/sbin/nologin\n' >"$root/etc/passwd"
    # The tag stands in the image too, so that another tag is another image.
    echo "$name" >"$root/etc/image-name"
    "$here/image/image.sh" "$out" "$name" "$root" "/usr/local/bin/$(basename "$program")" "$user"
    rm -rf "$root"
}
base() {
    mkdir -p "$tools/images"
    [ "$tools/bin/pause" -nt "$here/image/pause.c" ] || gcc -Os -static -s -o "$tools/bin/pause" "$here/image/pause.c"
    image "$tools/images/pause.tar" weir.local/pause:1 "$tools/bin/pause" 65535:65535
    # By the name that the example gives it, so that the example runs here as it stands.
    image "$tools/images/minio.tar" "$(sed -n 's/.*image: &minio //p' "$here/../../examples/flights/minio.yaml")" "$tools/bin/minio"
    image "$tools/images/toxiproxy.tar" weir.local/toxiproxy:1 "$tools/bin/toxiproxy"
}
weir() {
    local tag version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -1)
    mkdir -p "$1"
    for tag in "$version" next; do
        image "$1/controller-$tag.tar" "docker.io/weir/controller:$tag" "$target/weir"
        image "$1/worker-$tag.tar" "docker.io/weir/worker:$tag" "$target/weir-worker"
    done
}
case ${1:-} in
base) base ;;
weir) weir "${2:?a folder}" ;;
*) sed -n '2,8p' "$0" >&2; exit 2 ;;
esac
