#!/bin/sh
# The question of job.yaml answered without Weir: prints the rows it must give, sorted.
set -eu
cd "$(dirname "$0")"
for file in data/*.csv.gz; do gzip -dc "$file" | tail -n +2; done | awk -F, '
{
    sub("T", " ", $19)
    key = $13 "," $10 "," $19
    flights[key]++
    if ($4 == "NA") cancelled[key]++
    if ($6 != "NA") {
        minutes[key] += $6
        if (!(key in worst) || $6 + 0 > worst[key]) worst[key] = $6 + 0
    }
}
END {
    for (key in flights)
        print key "," flights[key] "," cancelled[key] + 0 "," ((key in worst) ? minutes[key] "," worst[key] : ",")
}' | LC_ALL=C sort
