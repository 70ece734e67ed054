#!/usr/bin/env bash
# Asks Apache Flink for the tables of answers: answers.jsonl, nested.jsonl, changes.jsonl, topn.jsonl and joins.jsonl of ../data, and
# worker/operators/tests/data/aggregates.jsonl. Needs JDK 17 and Maven, and takes some minutes.
#
#   worker/sql/tests/answers/generate.sh                 all expressions of Expressions.java, and all of Aggregates.java
#   worker/sql/tests/answers/generate.sh WORD            only those whose text contains WORD, to standard output, to look at
#   worker/sql/tests/answers/generate.sh --nested        only the expressions of nested.txt, into nested.jsonl
#   worker/sql/tests/answers/generate.sh --aggregates    only aggregates, to standard output
#   worker/sql/tests/answers/generate.sh --changes [topn] only the queries of ../data/changes.sql, topn.sql and joins.sql, or of one of them, into
#                                                        their tables of answers
#
# To add a function, add its lines to Expressions.java, or to nested.txt where values hold others, and run this. `cargo test -p weir-sql --lib answers`,
# `cargo test -p weir-sql --test it flink` and `cargo test -p weir-operators --test aggregates` hold Weir against the tables.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${ANSWERS_BUILD:-${XDG_CACHE_HOME:-$HOME/.cache}/weir/answers}
mkdir -p "$build"
cp "$here/pom.xml" "$build/"
rm -rf "$build/src" "$build/target/classes"
cp -r "$here/src" "$build/src"
(cd "$build" && mvn -q -B package >&2)
opens=()
for package in lang lang.reflect net io nio text time util util.concurrent util.concurrent.atomic util.concurrent.locks; do
  opens+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
done
ask() { java -Xmx1500m "${opens[@]}" -Duser.timezone=UTC -cp "$build/target/answers.jar:$build/target/lib/*" answers.Answers "$@"; }
changes() {
  for name in "$@"; do
    ask --changes "$here/../data/$name.sql" > "$build/$name.jsonl"
    mv "$build/$name.jsonl" "$here/../data/$name.jsonl"
  done
}
nested() {
  ask --expressions "$here/nested.txt" > "$build/nested.jsonl"
  mv "$build/nested.jsonl" "$here/../data/nested.jsonl"
}
if [ "${1:-}" = --nested ]; then
  nested
elif [ "${1:-}" = --changes ]; then
  shift
  if [ $# -gt 0 ]; then changes "$@"; else changes changes topn joins; fi
elif [ $# -gt 0 ]; then
  ask "$1"
else
  ask > "$build/answers.jsonl"
  ask --aggregates > "$build/aggregates.jsonl"
  changes changes topn joins
  nested
  mv "$build/answers.jsonl" "$here/../data/answers.jsonl"
  mv "$build/aggregates.jsonl" "$here/../../../operators/tests/data/aggregates.jsonl"
fi
