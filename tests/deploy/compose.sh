#!/usr/bin/env bash
# Brings deploy/compose.yaml up for real (Kafka, its topics, Tally, load, Prometheus), and shows Prometheus
# answering with Tally's metrics. What is not as it must be ends it with 1. Everything is taken down again.
#
#   tests/deploy/compose.sh                                builds Tally inside the container first
#   tests/deploy/compose.sh --binary target/release/tally  with a binary that is built already
#
# Needs what image.sh needs, a JDK 17 and Maven (for Kafka's jars) and Debian's prometheus, all of which it
# installs. The images are stand-ins under the names that compose.yaml has: Kafka of the jars that
# tests/kafka uses, Prometheus of Debian's package. There is none of Grafana, so that is left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/containers.sh

arguments "$@"

project=tally-compose-$$
scratch=$(mktemp -d)
clean_up() {
    local code=$?
    trap - EXIT
    set +e
    if [ "$code" != 0 ]; then
        podman ps -a --filter "label=io.podman.compose.project=$project" >&2
        for each in kafka topics tally prometheus; do podman logs --tail 15 "${project}_${each}_1" 2>&1 | sed "s/^/$each: /" >&2; done
        tail -20 "$scratch/compose.log" >&2
    fi
    compose --profile load down -v -t 40 > "$scratch/down.log" 2>&1
    # A container that was never started is not known to it.
    podman ps -aq --filter "label=io.podman.compose.project=$project" | xargs -r podman rm -f -t 0 >/dev/null 2>&1
    podman volume ls -q --filter "label=io.podman.compose.project=$project" | xargs -r podman volume rm -f >/dev/null 2>&1
    rm -rf "$scratch"
    exit "$code"
}

compose() { podman-compose --in-pod false -p "$project" -f deploy/compose.yaml "$@"; }

# image NAME: the whole name of a service's image in compose.yaml.
image() { sed -n "s/^ *image: \(.*\/$1:.*\)/\1/p" deploy/compose.yaml; }

# kafka_image: a JVM with what Kafka needs of it, Kafka's jars, and the settings from the environment as
# the public image takes them: KAFKA_NODE_ID is node.id.
kafka_image() {
    local root=$scratch/kafka jars
    tests/kafka/kafka.sh install
    jars=${KAFKA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/tally-kafka}/libs
    base "$root"
    unpack "$root" zlib1g
    shell "$root"
    mkdir -p "$root/opt/kafka" "$root/var/lib/kafka/data"
    "$java_home/bin/jlink" --add-modules java.se,jdk.unsupported,jdk.crypto.ec,jdk.management --no-header-files \
        --no-man-pages --output "$root/opt/java"
    cp -r "$jars" "$root/opt/kafka/libs"
    cat > "$root/opt/kafka/start" <<'END'
#!/bin/sh
set -eu
env | sed -n 's/^KAFKA_//p' | while IFS='=' read -r name value; do
    [ "$name" = HEAP_OPTS ] || echo "$(echo "$name" | tr 'A-Z_' 'a-z.')=$value"
done > /tmp/server.properties
# The star is Java's.
set -f
java="/opt/java/bin/java -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp /opt/kafka/libs/*"
$java -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format --ignore-formatted -t 4L6g3nShT-eMCtK--X86sw -c /tmp/server.properties
exec $java ${KAFKA_HEAP_OPTS:-} kafka.Kafka /tmp/server.properties
END
    chmod 755 "$root/opt/kafka/start"
    chown 1000:1000 "$root/var/lib/kafka/data"
    stand_in "$(image kafka)" "$root" 'USER 1000:1000' 'ENV PATH=/opt/java/bin:/bin' 'ENTRYPOINT ["/opt/kafka/start"]'
}

prometheus_image() {
    local root=$scratch/prometheus
    base "$root"
    mkdir -p "$root/bin" "$root/prometheus"
    cp "$(command -v prometheus)" "$root/bin/prometheus"
    chown 65534:65534 "$root/prometheus"
    stand_in "$(image prometheus)" "$root" 'USER 65534' 'WORKDIR /prometheus' 'ENTRYPOINT ["/bin/prometheus"]'
}

# up SERVICE…: one that fails to start would leave it waiting.
up() {
    timeout 100 podman-compose --in-pod false -p "$project" -f deploy/compose.yaml --profile load up -d --no-build "$@" \
        > "$scratch/compose.log" 2>&1 || die "compose up $*"
}

# Answers of the health check as compose.yaml and the image have it.
healthy() { podman healthcheck run "${project}_$1_1" >/dev/null 2>&1; }

# query EXPRESSION: the result of an instant query, as one line of JSON.
query() {
    curl -s --max-time 10 --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" > "$scratch/answer" &&
        python3 -c 'import json, sys
answer = json.load(open(sys.argv[1]))
result = answer.get("data", {}).get("result", [])
if not result or all(float(each["value"][1]) == 0 for each in result):
    sys.exit(1)
print(json.dumps(result))' "$scratch/answer"
}

shown() {
    await "a result of $1" query "$1" > "$scratch/result"
    printf '%s\n  %.400s\n' "$1" "$(tail -1 "$scratch/result")"
}

ready() { [ "$(curl -s --max-time 5 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$TALLY_MANAGEMENT_PORT/readyz")" = 200 ]; }

interaction() {
    curl -s --max-time 10 "http://127.0.0.1:$TALLY_API_PORT/api/v1/metrics/interact/" -H "Authorization: Bearer $key" \
        -H 'Content-Type: application/json' -d '{"resource_type":"quest","resource_id":42,"interaction_type":"like"}' > "$scratch/answer" &&
        grep -qF '"liked":true' "$scratch/answer"
}

setup
python
packages objcopy=binutils mvn=maven
[ -x /usr/bin/prometheus ] || { packages prometheus=prometheus; systemctl stop prometheus 2>/dev/null || true; }
javac=$(readlink -f "$(command -v javac || true)")
java_home=${javac%/bin/javac}
[ -d "$java_home/jmods" ] || { packages /=openjdk-17-jdk-headless; java_home=$(echo /usr/lib/jvm/java-17-openjdk-*); }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
TALLY_API_PORT=$(free_port)
TALLY_MANAGEMENT_PORT=$(free_port)
PROMETHEUS_PORT=$(free_port)
export TALLY_API_PORT TALLY_MANAGEMENT_PORT PROMETHEUS_PORT

title "The images"
build_image "$binary"
kafka_image
prometheus_image
podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | sort -u

title "compose up"
from=$(milliseconds)
# One after the other, by the conditions that compose.yaml has: Debian's podman (4.3) knows none of
# them, leaves health checks to timers of systemd, and starts nothing that depends on what has ended.
up kafka
await "a healthy Kafka" healthy kafka
up --no-deps topics
[ "$(podman wait "${project}_topics_1")" = 0 ] || die "the topics could not be made"
up --no-deps tally prometheus
await readiness ready
echo "ready $((($(milliseconds) - from) / 1000)) s after compose was asked"
podman logs "${project}_topics_1" 2>&1

title "An interaction, and load"
key=$(compose exec -T tally /usr/bin/tally keys create --user 42 2>/dev/null | tail -1)
await "an answer with the like in it" interaction
cat "$scratch/answer"
await "a healthy Tally" healthy tally
up --no-deps load

title "Prometheus"
shown 'up{job="tally"}'
shown 'sum by (route, status) (tally_http_requests_total{job="tally"})'
shown 'sum(rate(tally_http_requests_total{job="tally"}[1m]))'
shown 'sum(tally_ingest_interactions_total{job="tally"})'
shown 'sum(tally_projector_events_total{job="tally"})'
shown 'tally_kafka_broker_up{job="tally"}'
status=$(podman inspect "${project}_tally_1" --format '{{.State.OOMKilled}} {{.RestartCount}}')
[ "$status" = "false 0" ] || die "Tally was ended: $status"

title "compose stop"
from=$(milliseconds)
compose stop -t 40 tally > "$scratch/compose.log" 2>&1
echo "stopped in $(($(milliseconds) - from)) ms, with exit code $(podman inspect "${project}_tally_1" --format '{{.State.ExitCode}}')"
[ "$(podman inspect "${project}_tally_1" --format '{{.State.ExitCode}}')" = 0 ] || die "a clean stop ends with 0"

printf '\nAll as it must be.\n'
