#!/usr/bin/env bash
# Starts a Kafka of one node and the service on it, and shows what goes in and what comes out, in the
# words of Kafka's own tools. What is shown is checked, and the exit code is 1 where it is not as it
# must be. Nothing is left behind.
#
# Needs what kafka.sh needs (a JDK, Maven), Rust, curl and kcat. Debian:
#   apt-get install openjdk-17-jdk-headless maven curl kcat
#
#   show.sh           builds the release, then shows it
#   TALLY=… show.sh   shows a binary that is built already
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
root=$(mktemp -d)
prefix=tally
interactions=$prefix.interactions
dead_letters=$prefix.dead-letters
failures=0
server=

kafka() { "$here/kafka.sh" "$@"; }

clean_up() {
    local code=$?
    trap - EXIT
    set +e
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        kill -TERM "$server"
        # A stop ends by itself within shutdown_limit; past it, it is ended.
        timeout 40 tail --pid="$server" -f /dev/null || kill -KILL "$server"
        wait "$server"
    fi
    [ ! -e "$KAFKA_DATA/nodes" ] || kafka down
    rm -rf "$root"
    exit "$code"
}

title() { printf '\n=== %s\n' "$*"; }

# is WHAT WANTED FOUND: says whether they are the same.
is() {
    if [ "$2" = "$3" ]; then
        echo "ok: $1: ${3//$'\n'/, }"
    else
        echo "WRONG: $1: wanted: $2"
        echo "       found: $3"
        failures=$((failures + 1))
    fi
}

# await WHAT COMMAND…: until it is so, for half a minute at most.
await() {
    local what=$1 until=$((SECONDS + 30))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "WRONG: it did not come: $what" >&2
            [ ! -e "$root/serve.log" ] || tail -20 "$root/serve.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

# free_port: one below those that the system gives away, with none of a node's ports taken.
free_port() {
    local port try i
    for try in $(seq 100); do
        port=$((15000 + RANDOM % 1500 * 10))
        for i in 10 11; do
            ! (: < "/dev/tcp/127.0.0.1/$((port + i))") 2>/dev/null || continue 2
        done
        echo "$port"
        return
    done
    echo "no free port" >&2
    return 1
}

lines() { grep -c . "$1" || true; }

# ids FILE: the ids of its events, sorted.
ids() { grep -o '"id":"[^"]*"' "$1" | cut -d'"' -f4 | sort; }

# of_server NAME: an address from the server's own description of itself.
of_server() { grep -o "\"$1\": *\"[^\"]*\"" "$TALLY__DATA_DIR/server.json" | cut -d'"' -f4; }

# post STATUS BODY ARG…: one request, its answer, and whether that is the one that is wanted.
post() {
    local wanted=$1 body=$2 status arg
    shift 2
    echo
    echo "POST /api/v1/metrics/interact/ $body"
    for arg in "$@"; do [ "$arg" = -H ] || echo "     $arg"; done
    status=$(curl -sS --max-time 15 -o "$root/answer" -w '%{http_code}' "http://$api/api/v1/metrics/interact/" \
        -H 'Content-Type: application/json' "$@" -d "$body")
    echo "$status  $(cat "$root/answer")"
    [ "$status" = "$wanted" ] || is "the answer's status" "$wanted" "$status"
    [ "$status" != 200 ] || grep -o '"event_id":"[^"]*"' "$root/answer" | cut -d'"' -f4 >> "$root/acknowledged"
}

ready() { [ "$(curl -s --max-time 5 -o "$root/ready" -w '%{http_code}' "http://$management/readyz")" = 200 ]; }

described() {
    kafka cli consumer.group.ConsumerGroupCommand --describe --group "$prefix-projector" > "$root/lag" 2>/dev/null
}

# The columns are GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
lag() {
    awk -v topic="$interactions" '$2 == topic { sum += $6; seen += $4 } END { print sum + 0, "of", seen + 0 }' "$root/lag"
}

# caught_up N: the group has lag 0 and has come to as many records.
caught_up() { described && [ "$(lag)" = "0 of $1" ]; }

# read_with_kcat TOPIC FILE FORMAT
read_with_kcat() {
    timeout 30 kcat -C -e -q -b "$servers" -t "$1" -o beginning -f "$3" | sort -V > "$2"
}

exported() {
    read_with_kcat "$dead_letters" "$root/exported" 'partition %p offset %o key %k headers %h\n  %s\n'
    [ "$(lines "$root/exported")" -ge 2 ]
}

dead_letter_listed() {
    "$tally" dead-letters list > "$root/listed"
    [ "$(lines "$root/listed")" -ge 1 ]
}

for needed in java mvn curl kcat; do
    command -v "$needed" > /dev/null || { echo "$needed is missing" >&2; exit 1; }
done
KAFKA_DATA=$root/kafka
KAFKA_PORT=$(free_port)
# Should this be killed, the cluster goes too.
KAFKA_UNTIL=$$
export KAFKA_DATA KAFKA_PORT KAFKA_UNTIL
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -z "${TALLY:-}" ]; then
    title "cargo build --release"
    (cd "$repository" && cargo build --locked --release)
    TALLY=${CARGO_TARGET_DIR:-$repository/target}/release/tally
fi
tally=$TALLY

title "A Kafka of one node, and topics on it"
servers=$(kafka start 1)
echo "Kafka answers at $servers"
export TALLY__LOG__KIND=kafka TALLY__KAFKA__BOOTSTRAP_SERVERS=$servers TALLY__KAFKA__TOPIC_PREFIX=$prefix
export TALLY__DATA_DIR=$root/data TALLY__API__LISTEN=127.0.0.1:0 TALLY__MANAGEMENT__LISTEN=127.0.0.1:0
"$tally" topics create

title "tally serve"
"$tally" serve > "$root/serve.out" 2> "$root/serve.log" < /dev/null &
server=$!
await "the server's addresses" test -s "$TALLY__DATA_DIR/server.json"
cat "$TALLY__DATA_DIR/server.json"
api=$(of_server api)
management=$(of_server management)
await "readiness" ready
echo
echo "GET /readyz: $(cat "$root/ready")"

title "The contract's examples: 200"
key=(-H 'Authorization: Bearer local-dev-key')
trace=4bf92f3577b34da6a3ce929d0e0e4736
post 200 '{"resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark"}' "${key[@]}" \
    -H "traceparent: 00-$trace-00f067aa0ba902b7-01"
post 200 '{"resource_type":"ai_expert","resource_id":7,"interaction_type":"view"}' "${key[@]}"
post 200 '{"resource_type":"quest","resource_id":42,"interaction_type":"like"}' "${key[@]}"
post 200 '{"resource_type":"quest","resource_id":42,"interaction_type":"share"}' "${key[@]}" -H 'Idempotency-Key: k-1'
post 200 '{"resource_type":"quest","resource_id":42,"interaction_type":"share"}' "${key[@]}" -H 'Idempotency-Key: k-1'

title "Its error cases: 400, 401, 404"
post 400 '{"resource_type":"foo","resource_id":"x","interaction_type":"bookmark"}' "${key[@]}"
post 400 'no JSON' "${key[@]}"
post 401 '{"resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark"}'
post 404 '{"resource_type":"ai_note","resource_id":16,"interaction_type":"bookmark"}' "${key[@]}"
sort -o "$root/acknowledged" "$root/acknowledged"
count=$(lines "$root/acknowledged")
is "acknowledged interactions" 5 "$count"

title "The records, as kafka-console-consumer sees them"
kafka cli consumer.ConsoleConsumer --topic "$interactions" --from-beginning --timeout-ms 30000 --max-messages "$count" \
    --formatter-property print.partition=true --formatter-property print.offset=true \
    --formatter-property print.timestamp=true --formatter-property print.headers=true \
    --formatter-property print.key=true 2> "$root/consumer.err" > "$root/consumed" ||
    { cat "$root/consumer.err" >&2; exit 1; }
cat "$root/consumed"
is "they are those that were acknowledged" "$(cat "$root/acknowledged")" "$(ids "$root/consumed")"
is "records of the trace that was given" 1 "$(grep -c "traceparent:00-$trace-" "$root/consumed")"
is "records with a trace" "$count" "$(grep -c 'traceparent:00-' "$root/consumed")"

title "As kcat reads them"
read_with_kcat "$interactions" "$root/kcat" '%p:%o  %T  %k  %h  %s\n'
cat "$root/kcat"
is "they are the same" "$(cat "$root/acknowledged")" "$(ids "$root/kcat")"

title "As tally log cat shows them"
"$tally" log cat > "$root/log"
cat "$root/log"
is "they are the same" "$(cat "$root/acknowledged")" "$(ids "$root/log")"

title "What they fold to: tally state cat"
"$tally" state cat > "$root/state"
cat "$root/state"
counted() { grep "\"resource_type\":\"$1\",\"resource_id\":$2," "$root/state" | grep -o '{"views":[^}]*}'; }
is "quest 42" '{"views":0,"likes":1,"shares":1,"bookmarks":0,"comments":0}' "$(counted quest 42)"
is "ai_note 15" '{"views":0,"likes":0,"shares":0,"bookmarks":1,"comments":0}' "$(counted ai_note 15)"
is "ai_expert 7" '{"views":1,"likes":0,"shares":0,"bookmarks":0,"comments":0}' "$(counted ai_expert 7)"

title "The lag of the group $prefix-projector, as Kafka's own tool sees it"
await "lag 0 of $count" caught_up "$count"
cat "$root/lag"
is "lag, of as many records" "0 of $count" "$(lag)"

title "A record of another producer that is no event"
printf 'quest:42\t%s\n' '{no event' | kafka cli ConsoleProducer --topic "$interactions" \
    --reader-property parse.key=true
await "the dead letter" dead_letter_listed
echo "tally dead-letters list:"
cat "$root/listed"
is "dead letters" 1 "$(lines "$root/listed")"
place=$(sed -E 's/.*"partition":([0-9]+),"offset":([0-9]+).*/\1 \2/' "$root/listed")
echo "tally dead-letters show $place:"
# shellcheck disable=SC2086
"$tally" dead-letters show $place | tee "$root/shown"
is "its value, in base64" "$(printf '{no event' | base64)" "$(grep -o '"value_base64": *"[^"]*"' "$root/shown" | cut -d'"' -f4)"
await "its copy" exported
echo "The copy in $dead_letters:"
cat "$root/exported"
is "copies" 1 "$(grep -c '"reason":"undecodable"' "$root/exported")"

title "The partition goes on"
post 200 '{"resource_type":"quest","resource_id":42,"interaction_type":"view"}' "${key[@]}"
is "its own event is visible" 1 "$(grep -c '"visible":true,"counters":{"views":1,' "$root/answer")"
await "lag 0 of $((count + 2))" caught_up "$((count + 2))"
is "lag, of as many records" "0 of $((count + 2))" "$(lag)"
await "readiness" ready
echo "GET /readyz: $(cat "$root/ready")"

title "SIGTERM"
kill -TERM "$server"
code=0
timeout 40 tail --pid="$server" -f /dev/null || { echo "WRONG: it does not stop"; exit 1; }
wait "$server" || code=$?
server=
is "the server's exit code" 0 "$code"

echo
if [ "$failures" -gt 0 ]; then
    echo "$failures WRONG"
    exit 1
fi
echo "All as it must be."
