#!/bin/sh
# Runs job.yaml, kills one of its workers with signal 9 half-way, and compares the output with answer.sh.
# Needs `weir` and `weir-worker` in the PATH; `make demo` sees to that.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=/tmp/weir-flights
rm -rf "$scratch" "$here/output"
mkdir -p "$scratch"

# A worker is killed between the ninth checkpoint and the tenth.
kill_one() {
    until [ "$(grep -c '"event":"checkpoint"' "$scratch/local/events.jsonl" 2>/dev/null)" = 9 ]; do sleep 0.1; done
    sleep 0.5
    victim=$(pgrep -n -P "$1" weir-worker) && kill -9 "$victim"
}

weir run "$here/job.yaml" --state-dir "$scratch/local" &
run=$!
trap 'kill -INT $run 2>/dev/null || true' INT TERM
kill_one "$run" &
killer=$!
code=0
wait "$run" || code=$?
kill "$killer" 2>/dev/null || true
[ "$code" = 0 ] || exit "$code"

echo
echo "The same question answered without Weir, by awk:"
cat "$here"/output/*.csv | "$here/compare.sh" "$scratch"
