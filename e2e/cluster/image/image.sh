#!/bin/bash
# image.sh OUT.tar NAME:TAG FOLDER [ENTRYPOINT [USER]]: makes a container image of a folder, with tar and sha256sum alone.
# The archive is an OCI layout with docker's manifest beside it, so that ctr, docker and kind load it. Owners and times are
# fixed, so the same folder gives the same digest. One layer: the folder's whole content.
set -euo pipefail
out=$1 name=$2 folder=$3 entrypoint=${4:-} user=${5:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/blobs/sha256
mkdir -p "$blobs"

blob() { # FILE: moves it among the blobs and prints its digest
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$blobs/$digest"
    echo "$digest"
}
size() { stat -c %s "$blobs/$1"; }

tar -C "$folder" --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer" .
layer=$(blob "$work/layer")
printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]%s%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')" "${entrypoint:+,\"Entrypoint\":[\"$entrypoint\"]}" "${user:+,\"User\":\"$user\"}" "$layer" >"$work/config"
config=$(blob "$work/config")
type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    $type $type "$config" "$(size "$config")" $type "$layer" "$(size "$layer")" >"$work/manifest"
manifest=$(blob "$work/manifest")
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    $type $type "$manifest" "$(size "$manifest")" "$name" "${name##*:}" >"$work/index.json"
printf '[{"Config":"blobs/sha256/%s","RepoTags":["%s"],"Layers":["blobs/sha256/%s"]}]' "$config" "$name" "$layer" >"$work/manifest.json"
tar -C "$work" --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$out.new" blobs index.json manifest.json oci-layout
mv "$out.new" "$out"
