# Sourced by the scripts here: containers on a machine without a Docker engine or an image registry.
#
# podman and runc run them, in a storage of their own, so that no image of anybody else's is touched. The
# images that deploy/ names are made here from Debian's packages, under the same names: what is built and
# run is the shipped Containerfile and compose.yaml, on bases that are stand-ins.
#
# Needs Debian 12, and root for installing, for the containers' storage and for their networks.

state=${XDG_CACHE_HOME:-$HOME/.cache}/tally-containers

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# arguments ARGUMENT…: those of a script that takes a binary which is built already, or none; sets `binary`.
arguments() {
    binary=
    case ${1:-} in
        '') ;;
        --binary) binary=${2:?a path}; [ -x "$binary" ] || die "no binary: $binary" ;;
        *) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    esac
}

title() { printf '\n=== %s\n' "$*"; }

# milliseconds: since some moment.
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# await WHAT COMMAND…: until it succeeds, for two minutes at most.
await() {
    local what=$1 until=$((SECONDS + 120))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || die "it did not come: $what"
        sleep 0.05
    done
}

# free_port: one below those that the system gives away.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    die "no free port"
}

# packages PROGRAM=PACKAGE…: installs the package of each program that is not there.
packages() {
    local wanted=() each
    for each in "$@"; do
        command -v "${each%%=*}" >/dev/null || wanted+=("${each#*=}")
    done
    [ "${#wanted[@]}" -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "only root can install: apt-get install ${wanted[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${wanted[@]}" > "$state/apt.log" 2>&1 ||
        { tail -5 "$state/apt.log" >&2; die "apt-get install ${wanted[*]}"; }
}

# Without what it says of there being no systemd; what goes wrong it says all the same.
podman() { command podman --log-level=fatal "$@"; }

# setup: podman, and where it keeps things.
setup() {
    mkdir -p "$state"
    packages podman=podman buildah=buildah runc=runc iptables=iptables curl=curl
    # Names of a network's containers, and its addresses, are programs outside the path.
    [ -x /usr/lib/podman/netavark ] && [ -x /usr/lib/podman/aardvark-dns ] || packages /=netavark /=aardvark-dns
    # More open files or processes can't be had inside a container, and asking for them fails; another
    # cgroup manager or event log would need systemd.
    cat > "$state/containers.conf" <<END
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
END
    cat > "$state/storage.conf" <<END
[storage]
driver = "vfs"
runroot = "/run/tally-containers"
graphroot = "$state/storage"
END
    export CONTAINERS_CONF=$state/containers.conf CONTAINERS_STORAGE_CONF=$state/storage.conf
    export BUILDAH_ISOLATION=chroot
}

# python: a venv with requirements.txt, whose programs come first in the path.
python() {
    local here
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    mkdir -p "$state"
    if ! cmp -s "$here/requirements.txt" "$state/venv/ready"; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || packages /=python3 /=python3-venv
        rm -rf "$state/venv"
        python3 -m venv "$state/venv"
        "$state/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$state/venv/ready"
    fi
    PATH=$state/venv/bin:$PATH
}

# unpack FOLDER PACKAGE…: the files of Debian's packages, without what they depend on.
unpack() {
    local root=$1 each
    shift
    mkdir -p "$state/debs"
    for each in "$@"; do
        compgen -G "$state/debs/${each}_*.deb" >/dev/null ||
            (cd "$state/debs" && apt-get download -qq "$each" 2> "$state/apt.log" ||
                { apt-get update -qq && apt-get download -qq "$each"; }) || die "no package $each"
        dpkg-deb --fsys-tarfile "$state/debs/${each}_"*.deb | tar -x -C "$root" \
            --exclude './usr/share/doc/*' --exclude './usr/share/man/*' --exclude './usr/share/locale/*'
    done
}

# stand_in NAME FOLDER CHANGE…: an image of that name with these files.
stand_in() {
    local name=$1 root=$2 changes=() each
    shift 2
    for each in "$@"; do changes+=(--change "$each"); done
    chmod 755 "$root"
    tar -C "$root" -c . | podman import -q ${changes[@]+"${changes[@]}"} - "$name" >/dev/null
}

# base FOLDER: what the packages of distroless "cc" bring, and its users.
base() {
    local root=$1
    mkdir -p "$root"/{etc/ssl/certs,tmp,home/nonroot}
    unpack "$root" base-files netbase tzdata ca-certificates libc6 libgcc-s1 libstdc++6 libgomp1 libssl3
    cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
    printf '%s\n' root:x:0:0:root:/root:/sbin/nologin nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin \
        nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin > "$root/etc/passwd"
    printf '%s\n' root:x:0: nobody:x:65534: nonroot:x:65532: > "$root/etc/group"
    chown 65532:65532 "$root/home/nonroot"
    chmod 1777 "$root/tmp"
}

# shell FOLDER: a shell and the usual small programs.
shell() {
    unpack "$1" busybox-static
    local each
    for each in $("$1/bin/busybox" --list); do
        [ -e "$1/bin/$each" ] || ln -s busybox "$1/bin/$each"
    done
}

# The names of the images that the Containerfile builds on.
images_of() { sed -n 's/^FROM \([^ ]*\).*/\1/p' "$1"; }

# build_image BINARY: localhost/tally, by deploy/Containerfile. Where BINARY is not empty, the stand-in of
# the builder has a `cargo` that puts that binary where it would have built it; else it has this machine's
# toolchain and builds.
build_image() {
    local binary=$1 scratch builder runtime
    { read -r builder; read -r runtime; } < <(images_of deploy/Containerfile)
    scratch=$(mktemp -d)
    base "$scratch/runtime"
    stand_in "$runtime" "$scratch/runtime" "USER 65532" 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    if [ -n "$binary" ]; then
        mkdir -p "$scratch/builder"
        shell "$scratch/builder"
        objcopy --strip-debug "$binary" "$scratch/builder/tally"
        cat > "$scratch/builder/bin/cargo" <<'END'
#!/bin/sh
mkdir -p target/release && exec cp /tally target/release/tally
END
        chmod 755 "$scratch/builder/bin/cargo"
        stand_in "$builder" "$scratch/builder" 'ENV PATH=/bin'
    else
        toolchain "$builder" "$scratch/builder"
    fi
    rm -rf "$scratch"
    buildah bud --quiet --pull-never --format docker --layers=false -t localhost/tally -f deploy/Containerfile . >/dev/null
    podman tag localhost/tally "localhost/tally:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
}

# toolchain NAME FOLDER: a builder with Debian's compiler and this machine's Rust.
toolchain() {
    local root=$2 sysroot
    packages debootstrap=debootstrap
    sysroot=$(rustc --print sysroot)
    debootstrap --variant=minbase --include=gcc,g++,make,perl,libc6-dev,ca-certificates bookworm "$root" \
        > "$state/debootstrap.log" 2>&1 || { tail -5 "$state/debootstrap.log" >&2; die "debootstrap"; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    # A network may have authorities of its own, which this machine trusts.
    cat /etc/ssl/certs/ca-certificates.crt > "$root/etc/ssl/certs/ca-certificates.crt"
    cp -a "$sysroot/bin" "$root/usr/local/"
    mkdir -p "$root/usr/local/lib"
    cp -a "$sysroot"/lib/*.so* "$sysroot/lib/rustlib" "$root/usr/local/lib/"
    stand_in "$1" "$root" 'ENV PATH=/usr/local/bin:/usr/bin:/bin' 'ENV CARGO_HOME=/usr/local/cargo'
}
