#!/usr/bin/env bash
# schemathesis against the real binary: every answer to what it makes up of /openapi.json is a documented
# one. Needs Python 3.10 with venv, and PyPI.
#   tests/openapi/schemathesis.sh                    the bounded run of `.ci/run`
#   tests/openapi/schemathesis.sh -n 5000 --seed 7   arguments go to `schemathesis run`
# TALLY_BIN names a binary; without it the debug one is built.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly HERE=$PWD/tests/openapi

if [ -z "${TALLY_BIN:-}" ]; then
    cargo build --locked
    TALLY_BIN=target/debug/tally
fi
TALLY_BIN=$(realpath "$TALLY_BIN")
[ $# -gt 0 ] || set -- --max-examples 200 --generation-deterministic

scratch=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check -r "$HERE/requirements.txt"

# In open mode, so that made-up resources exist.
TALLY__DATA_DIR=$scratch/data TALLY__API__LISTEN=127.0.0.1:0 TALLY__MANAGEMENT__LISTEN=127.0.0.1:0 \
    TALLY__CATALOGUE__MODE=open TALLY__LOGGING__FORMAT=json "$TALLY_BIN" serve >"$scratch/log" 2>&1 &
server=$!
api=
for _ in $(seq 300); do
    kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
    api=$(sed -n 's/.*"api":"\([^"]*\)".*/\1/p' "$scratch/data/server.json" 2>/dev/null || true)
    [ -z "$api" ] || break
    sleep 0.1
done
[ -n "$api" ] || { echo "the server does not start" >&2; cat "$scratch/log" >&2; exit 1; }

result=0
# It leaves what it remembers where it is run.
cd "$scratch"
# Both forms of errors.
for accept in application/json application/problem+json; do
    "$scratch/venv/bin/schemathesis" --config-file "$HERE/schemathesis.toml" run "http://$api/openapi.json" \
        --header "Authorization: Bearer local-dev-key" --header "Accept: $accept" "$@" || result=1
done
if said=$(grep '"level":"ERROR"\|panicked' "$scratch/log"); then
    printf 'the server said:\n%s\n' "$said" >&2
    result=1
fi
kill -0 "$server" || result=1
exit "$result"
