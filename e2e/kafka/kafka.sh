#!/usr/bin/env bash
# A real Kafka broker for tests, from its jars on Maven Central; needs a JDK (17 or newer) and, the first time, mvn.
#   kafka.sh setup           gets the jars (about 30 MB) into ~/.cache/weir/tools/kafka, once
#   kafka.sh serve FOLDER    runs the node that FOLDER/server.properties describes, until its standard input ends: then the node is
#                            killed. The first time FOLDER is formatted; FOLDER/users names users for SCRAM, one argument a line.
#                            FOLDER/pid has the node's pid.
# WEIR_KAFKA_HEAP (320m) is what a node may have.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/.*<kafka.version>\(.*\)<\/kafka.version>.*/\1/p' "$here/pom.xml")
home=${WEIR_KAFKA_HOME:-$HOME/.cache/weir/tools/kafka/$version}

setup() {
  [ -e "$home/complete" ] && return
  mkdir -p "$home"
  # Tests that start together wait for the one that fetches.
  exec 9> "$home/lock"
  flock 9
  [ -e "$home/complete" ] && return
  command -v java > /dev/null || { echo "there is no java" >&2; exit 1; }
  command -v mvn > /dev/null || { echo "there is no mvn to fetch Kafka with" >&2; exit 1; }
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/lib" -DincludeScope=runtime >&2
  touch "$home/complete"
}

serve() {
  local folder=$1 heap=${WEIR_KAFKA_HEAP:-320m}
  cat > "$folder/log4j2.properties" <<P
rootLogger.level = WARN
rootLogger.appenderRef.f.ref = F
appender.f.name = F
appender.f.type = File
appender.f.fileName = $folder/server.log
appender.f.layout.type = PatternLayout
appender.f.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
P
  # Tests are many short lives: what costs at the start is left out.
  local java=(java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "-Dlog4j2.configurationFile=$folder/log4j2.properties" "-Dkafka.logs.dir=$folder" -cp "$home/lib/*")
  if ! [ -e "$folder/data/meta.properties" ]; then
    local users=()
    if [ -e "$folder/users" ]; then
      while IFS= read -r user; do users+=(--add-scram "$user"); done < "$folder/users"
    fi
    local standalone=--standalone
    grep -q '^process.roles=broker$' "$folder/server.properties" && standalone=--no-initial-controllers
    "${java[@]}" kafka.tools.StorageTool format "$standalone" -t "$(cat "$folder/cluster")" -c "$folder/server.properties" "${users[@]}" > "$folder/format.log" 2>&1
  fi
  "${java[@]}" -Xms"$heap" -Xmx"$heap" kafka.Kafka "$folder/server.properties" > "$folder/out.log" 2>&1 < /dev/null &
  local node=$!
  echo "$node" > "$folder/pid.new" && mv "$folder/pid.new" "$folder/pid"
  cat > /dev/null || true
  kill -9 "$node" 2> /dev/null || true
}

case ${1:-} in
  setup) setup ;;
  serve) serve "$2" ;;
  *) sed -n '2,8p' "$0"; exit 2 ;;
esac
