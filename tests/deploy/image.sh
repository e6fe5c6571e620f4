#!/usr/bin/env bash
# Builds the image by deploy/Containerfile, runs it as it is meant to be run (no root, no capability,
# nothing writable but its volume, 256 MB of memory), sends it the contract's examples and some load, and
# says how large it is and how soon it answers. What is not as it must be ends it with 1. Nothing is left
# behind but what is kept for the next time, in ~/.cache/tally-containers.
#
#   tests/deploy/image.sh                                builds inside the container: a quarter of an hour
#   tests/deploy/image.sh --binary target/release/tally  puts a binary that is built already there
#
# Needs Debian 12 and root; installs podman and what belongs to it. There is no image registry in it: the
# bases are stand-ins made of Debian's packages (see containers.sh).
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/containers.sh

arguments "$@"

name=tally-image-$$
answers=$(mktemp -d)
clean_up() {
    local code=$?
    trap - EXIT
    [ "$code" = 0 ] || podman logs "$name" 2>&1 | tail -20 >&2 || true
    podman rm -f -t 0 "$name" >/dev/null 2>&1 || true
    podman volume rm -f "$name" >/dev/null 2>&1 || true
    rm -rf "$answers"
    exit "$code"
}

# is WHAT WANTED FOUND: ends it where they differ.
is() {
    [ "$2" = "$3" ] || die "$1: wanted $2, found $3"
    echo "ok: $1: $3"
}

# get URL ARG…: the answer in $answers/answer, its status on standard output; 000 where there is none.
get() {
    curl -s --max-time 10 -o "$answers/answer" -w '%{http_code}' "$@" || true
}

# post STATUS BODY WORD [ARG…]: one interaction, its answer, and whether the word is in it.
post() {
    local wanted=$1 body=$2 word=$3 status
    shift 3
    status=$(get "http://$api/api/v1/metrics/interact/" -H 'Content-Type: application/json' "$@" -d "$body")
    echo "$body"
    echo "  $status  $(cat "$answers/answer")"
    [ "$status" = "$wanted" ] || die "the answer should be $wanted"
    grep -qF -- "$word" "$answers/answer" || die "the answer should have $word"
}

ready() { [ "$(get "http://$management/readyz")" = 200 ]; }
known() { [ "$(get "http://$api/api/v1/metrics/resources/quest/42/" "${key[@]}")" = 200 ]; }
status_of() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
metric() { curl -s "http://$management/metrics" | sed -n "s/^$1 //p"; }

# start: the container, and how long it took until it was ready.
start() {
    local from at
    from=$(milliseconds)
    podman start "$name" >/dev/null
    await readiness ready
    at=$(milliseconds)
    pid=$(podman inspect "$name" --format '{{.State.Pid}}')
    echo "ready $((at - from)) ms after podman was asked, $((at - $(date +%s%3N -d "$(podman inspect "$name" --format '{{.State.StartedAt.Format "2006-01-02T15:04:05.999999999Z07:00"}}')"))) ms after the process began"
}

setup
packages objcopy=binutils
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title "The image"
build_image "$binary"
bytes=$(podman image inspect localhost/tally --format '{{.Size}}')
program=$(podman image inspect localhost/tally --format '{{.Config.User}} {{.Config.Entrypoint}} {{.Config.Cmd}}')
echo "$((bytes / 1000000)) MB, of which the base has $(($(podman image inspect "$(images_of deploy/Containerfile | tail -1)" --format '{{.Size}}') / 1000000)); runs as $program"

title "Read-only, no capability, 256 MB"
api=127.0.0.1:$(free_port)
management=127.0.0.1:$(free_port)
podman create --name "$name" --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
    --memory 256m --memory-swap 256m --pids-limit 256 -p "$api:8080" -p "$management:8081" -v "$name:/var/lib/tally" \
    -e TALLY__CATALOGUE__SEED=true localhost/tally >/dev/null
start
is "its user" "65532 65532 65532 65532" "$(status_of Uid | tr '\t' ' ')"
is "its capabilities" "0000000000000000 0000000000000000" "$(status_of CapEff) $(status_of CapBnd)"
is "no new privileges" 1 "$(status_of NoNewPrivs)"
is "writable file systems of a disk" /var/lib/tally \
    "$(awk '$4 !~ /^\/(sys|proc|dev)/ && $5 !~ /^\/(proc|dev|sys|etc|run)/ && $6 ~ /^rw/ { print $5 }' "/proc/$pid/mountinfo" | paste -sd ' ')"
limit=$(cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/memory.max" 2>/dev/null ||
    cat "/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' "/proc/$pid/cgroup")/memory.limit_in_bytes")
is "its memory" $((256 << 20)) "$limit"
podman healthcheck run "$name" || die "it should be healthy"
echo "ok: healthy"
is "tally health" ready "$(podman exec "$name" /usr/bin/tally health)"

title "The contract's examples"
key=(-H "Authorization: Bearer $(podman exec "$name" /usr/bin/tally keys create --user 42 2>/dev/null)")
await "the key" known
post 200 '{"resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark"}' '"bookmarks":1' "${key[@]}"
post 200 '{"resource_type":"ai_expert","resource_id":7,"interaction_type":"view"}' '"views":1' "${key[@]}"
post 200 '{"resource_type":"quest","resource_id":42,"interaction_type":"like"}' '"likes":1' "${key[@]}"
post 200 '{"resource_type":"quest","resource_id":42,"interaction_type":"like"}' '"no_change"' "${key[@]}"
post 400 '{"resource_type":"foo","resource_id":"x","interaction_type":"bookmark"}' '"resource_type"' "${key[@]}"
post 401 '{"resource_type":"quest","resource_id":42,"interaction_type":"like"}' '"detail"'
# The key of one's own machine is none here.
post 401 '{"resource_type":"quest","resource_id":42,"interaction_type":"like"}' 'Invalid API key.' -H 'Authorization: Bearer local-dev-key'
post 404 '{"resource_type":"ai_note","resource_id":16,"interaction_type":"bookmark"}' '"detail"' "${key[@]}"

title "The management listener, from outside"
is "/metrics" 200 "$(get "http://$management/metrics")"
status=$(get "http://$management/admin/rebuild")
case $status in 401 | 403) echo "ok: /admin: $status" ;; *) die "/admin should be refused, and is answered with $status" ;; esac

title "Load"
podman exec "$name" /usr/bin/tally bench --connections 64 --duration 5s --users 100
echo "resident after it: $(($(metric process_resident_memory_bytes | awk '{ printf "%d", $1 }') / 1000000)) MB"
is "killed for its memory" false "$(podman inspect "$name" --format '{{.State.OOMKilled}}')"

title "Stop, and start again on the volume"
from=$(milliseconds)
podman stop -t 40 "$name" >/dev/null
echo "stopped in $(($(milliseconds) - from)) ms"
is "its exit code" 0 "$(podman inspect "$name" --format '{{.State.ExitCode}}')"
start
is "a read" 200 "$(get "http://$api/api/v1/metrics/resources/quest/42/" "${key[@]}")"
grep -qF '"likes":1' "$answers/answer" || die "the like is gone: $(cat "$answers/answer")"
echo "ok: $(cat "$answers/answer")"

printf '\nAll as it must be.\n'
