#!/bin/sh
# compare.sh FOLDER: compares the rows on standard input, in whatever order, with answer.sh. Both are left in the folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
LC_ALL=C sort >"$1/actual"
"$here/answer.sh" >"$1/expected"
if cmp -s "$1/expected" "$1/actual"; then
    echo "all $(wc -l <"$1/actual" | tr -d ' ') rows are equal: none lost, none counted twice"
else
    echo "the rows differ; the first differences:"
    diff "$1/expected" "$1/actual" | head -20
    exit 1
fi
