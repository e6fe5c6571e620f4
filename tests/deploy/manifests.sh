#!/usr/bin/env bash
# Checks every file of deploy/ that describes a deployment, without starting any of it: Kubernetes (built
# by kustomize, against the schemas of two versions, and for what no schema knows), compose, systemd (the
# unit is verified, and its exposure has a bound). Any finding ends it with 1.
#
#   tests/deploy/manifests.sh
#
# Needs Debian 12 with systemd's programs, Python with venv and PyPI, and kustomize or Go to build it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/containers.sh

readonly KUSTOMIZE=v5.6.0
# The oldest that upstream still supported at the time, and the newest that the schemas know.
readonly KUBERNETES=(1.33.0 1.37.0)
# `systemd-analyze security`: 0 is locked up, 10 is wide open. A tenth above what it is.
readonly EXPOSURE=1.3

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

kustomize() {
    if command kustomize version >/dev/null 2>&1; then
        command kustomize "$@"
        return
    fi
    if [ ! -x "$state/bin/kustomize" ]; then
        command -v go >/dev/null || die "neither kustomize nor Go to build it with (go install sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE)"
        GOBIN=$state/bin GOFLAGS=-mod=mod go install "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE"
    fi
    "$state/bin/kustomize" "$@"
}

title "Kubernetes"
python
for folder in base overlays/kafka; do
    built=$scratch/${folder//\//-}.yaml
    kustomize build "deploy/kubernetes/$folder" > "$built"
    for version in "${KUBERNETES[@]}"; do
        kubernetes-validate --strict -k "$version" "$built" > "$scratch/said" 2>&1 || { cat "$scratch/said"; exit 1; }
        # A resource without a schema is only said: there is one, and manifests.py has its schema.
        grep -v 'passed for resource\|kind ServiceMonitor' "$scratch/said" && exit 1
        echo "ok: $folder: $(grep -c 'passed for resource' "$scratch/said") resources are valid for Kubernetes $version"
    done
done

title "What no schema knows"
python3 tests/deploy/manifests.py "$scratch/base.yaml" "$scratch/overlays-kafka.yaml"

title "systemd"
packages systemd-analyze=systemd
# A root to verify it in: this machine's own units, which it refers to, and something to start.
mkdir -p "$scratch/root/usr/bin" "$scratch/root/etc/systemd/system" "$scratch/root/lib/systemd"
cp -a /lib/systemd/system "$scratch/root/lib/systemd/"
cp /bin/true "$scratch/root/usr/bin/tally"
cp deploy/systemd/tally.service "$scratch/root/etc/systemd/system/"
# A setting that it does not know is only said, too.
said=$(systemd-analyze verify --man=no "--root=$scratch/root" tally.service 2>&1) && [ -z "$said" ] || die "tally.service: $said"
echo "ok: tally.service is verified"
systemd-analyze security --no-pager --offline=true --threshold="$(tr -d . <<< "$EXPOSURE")" deploy/systemd/tally.service > "$scratch/said" ||
    { grep '✗' "$scratch/said"; tail -1 "$scratch/said"; die "tally.service: more exposed than $EXPOSURE"; }
tail -1 "$scratch/said" | sed 's/^[^O]*/ok: /'
mkdir -p "$scratch/root/etc"
systemd-sysusers "--root=$scratch/root" "$PWD/deploy/systemd/tally.sysusers.conf" 2>/dev/null
systemd-tmpfiles "--root=$scratch/root" --create "$PWD/deploy/systemd/tally.tmpfiles.conf"
found=$(stat -c '%A %U' "$scratch/root/etc/tally")
[ "$found" = "drwxr-x--- root" ] || die "/etc/tally is $found"
echo "ok: user and folder are made"
