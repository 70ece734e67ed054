#!/bin/sh
# Fetches what job-kubernetes.yaml has put into its bucket, and compares it with answer.sh.
# Needs kubectl, and curl 7.75 or newer, which signs requests as S3 wants them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
forward=
trap '[ -z "$forward" ] || kill "$forward" 2>/dev/null || true; rm -rf "$scratch"' EXIT

secret() { kubectl get secret flights-s3 -o "jsonpath={.data.$1}" | base64 -d; }
printf 'user = "%s:%s"\n' "$(secret AWS_ACCESS_KEY_ID)" "$(secret AWS_SECRET_ACCESS_KEY)" >"$scratch/curl"

kubectl port-forward service/flights-s3 :9000 >"$scratch/forward" &
forward=$!
until port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$scratch/forward") && [ -n "$port" ]; do
    kill -0 "$forward" || exit 3
    sleep 0.1
done
s3() { curl -sSf -K "$scratch/curl" --aws-sigv4 aws:amz:us-east-1:s3 "http://127.0.0.1:$port/flights$1"; }

# Readers of tables pass over names that start with . or _.
s3 '?prefix=output' | grep -o '<Key>[^<]*' | cut -c6- | grep -v '/[._]' >"$scratch/keys"
while read -r key; do s3 "/$key"; done <"$scratch/keys" | "$here/compare.sh" "$scratch"
