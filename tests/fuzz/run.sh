#!/usr/bin/env bash
# The fuzz targets on an optimised build, each for a time or a number of executions, and their closing
# lines together at the end. Fails where there is a finding.
#   tests/fuzz/run.sh                         8 seconds each
#   tests/fuzz/run.sh --seconds 3600          an hour each
#   tests/fuzz/run.sh --runs 1000000 --seed 7 redo segments
#   tests/fuzz/run.sh --debug                 not optimised: the build of `cargo test`, with its assertions
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
    echo "usage: $0 [--debug] [--seconds N | --runs N] [--seed N] [TARGET…]; targets are the folders of tests/fuzz/corpus" >&2
    exit 2
}

targets=()
profile=--release
unset FUZZ_SECONDS FUZZ_RUNS
while [ $# -gt 0 ]; do
    case $1 in
        --debug) profile=--profile=dev && shift ;;
        --seconds) export FUZZ_SECONDS=${2:?} && shift 2 ;;
        --runs) export FUZZ_RUNS=${2:?} && shift 2 ;;
        --seed) export FUZZ_SEED=${2:?} && shift 2 ;;
        -*) usage ;;
        *) targets+=("$1") && shift ;;
    esac
done
[ -n "${FUZZ_SECONDS:-}${FUZZ_RUNS:-}" ] || export FUZZ_SECONDS=8
if [ ${#targets[@]} = 0 ]; then
    for corpus in tests/fuzz/corpus/*/; do
        # The one of the loop's own test.
        [ "$(basename "$corpus")" = self-test ] || targets+=("$(basename "$corpus")")
    done
fi

# A target is the test `fuzz_<name>`.
filters=()
for target in "${targets[@]}"; do
    [ -d "tests/fuzz/corpus/$target" ] || usage
    filters+=("fuzz_${target//-/_}")
done

# All of the workspace, so that what its parts share is built in one way; these have the targets.
command=(cargo test --locked "$profile" --workspace --lib --bins --test promises --test embedded)
"${command[@]}" --no-run
said=$(mktemp)
trap 'rm -f "$said"' EXIT
result=0
# What asks for memory without bound ends here, and not the machine.
(ulimit -v $((8 << 20)) && "${command[@]}" --no-fail-fast -- --nocapture "${filters[@]}") 2>&1 | tee "$said" || result=1

printf '\n'
for target in "${targets[@]}"; do
    # Other output may stand before it on its line.
    grep -o "fuzz $target: [0-9]* executions .*" "$said" || { echo "fuzz $target: did not end"; result=1; }
done
exit "$result"
