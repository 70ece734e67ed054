#!/bin/bash
# run.sh cluster|kind ARGUMENTS…: brings a cluster up, puts the images of this checkout's binaries into it, runs `weir-e2e ARGUMENTS…`
# and takes the cluster down again. With WEIR_E2E_KEEP=1 a cluster that is up is used, and left up. WEIR_E2E_PROFILE says which
# binaries: debug, or release.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$HOME/.cache/weir/target}/${WEIR_E2E_PROFILE:-debug}
script=$here/$1.sh
shift
# Within the cluster's network no registry can be reached: what the test is made of is fetched and compiled before.
[ -z "${WEIR_E2E_PLATFORM:-}" ] || cargo test --workspace --quiet --test kubernetes_platform --no-run
if ! { [ -n "${WEIR_E2E_KEEP:-}" ] && "$script" in true 2>/dev/null; }; then
    [ -n "${WEIR_E2E_KEEP:-}" ] || trap '"$script" down' EXIT
    "$script" up
fi
"$here/images.sh" weir "$target/images"
"$script" load "$target"/images/*.tar
# How pods are started, told of and ended, with the kubelet's part played by the test.
[ -z "${WEIR_E2E_PLATFORM:-}" ] ||
    "$script" in cargo test --offline --workspace --quiet --test kubernetes_platform -- --ignored
"$script" in "$target/weir-e2e" "$@"
