# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# svidmail's container image, built by its Dockerfile without an engine or a registry.  Sourced by setup.sh.
#
#   need_image           sets SVIDMAIL_IMAGE and SVIDMAIL_DEBUG_IMAGE: OCI archives of registry.rig/svidmail:dev and
#                        :dev-debug
#   rebuild_image FILE   the archive SVIDMAIL_IMAGE once more, compiled anew from a copy of what it was made of
#
# Debian 13 comes from the machine's own mirror through mmdebstrap, buildah does the rest.  The toolchain and the debug
# tools are built once and stay in a container storage of our own; a changed source file costs one compilation.  Newer
# packages come in when $SVIDMAIL_CACHE/containers is removed, or when their scripts in deploy/image change.

IMAGE_REFERENCE=registry.rig/svidmail:dev
IMAGE_SUITE=trixie
IMAGE_INPUTS="CMakeLists.txt CMakePresets.json Dockerfile .dockerignore LICENSE cmake deploy/image proto sidecar"
IMAGE_PACKAGES="buildah mmdebstrap debian-archive-keyring git podman runc"

need_image() {
    local context key
    # shellcheck disable=SC2086
    need_apt_packages $IMAGE_PACKAGES
    # What is built is a copy, so that an edit meanwhile is the next image's.
    context=$(mktemp -d)
    copy_image_context "$context"
    key=$(image_key "$context")
    IMAGE_DIR=$SVIDMAIL_CACHE/image-$(uname -m)-$key
    if [ ! -d "$IMAGE_DIR" ]; then
        IMAGE_CONTEXT=$context with_lock image make_part make_image "$IMAGE_DIR"
    fi
    rm -rf "$context"
    SVIDMAIL_IMAGE=$IMAGE_DIR/svidmail.tar
    SVIDMAIL_DEBUG_IMAGE=$IMAGE_DIR/svidmail-debug.tar
}

# copy_image_context DIR: what git knows or would add, and beside it in .revision and .epoch what it is called.
copy_image_context() {
    # shellcheck disable=SC2086
    (
        cd "$SETUP_ROOT" || exit
        git ls-files -z --cached --others --exclude-standard --deduplicate -- $IMAGE_INPUTS |
            while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
            tar -c --null -T - | tar -x -C "$1"
        {
            git log -1 --abbrev=12 --format=%h -- $IMAGE_INPUTS
            [ -z "$(git status --porcelain -- $IMAGE_INPUTS)" ] || echo -dirty
        } | tr -d '\n' >"$1/.revision"
        git log -1 --format=%ct -- $IMAGE_INPUTS >"$1/.epoch"
    )
    chmod -R go-w "$1"
}

image_key() {
    (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16
}

make_image() {
    local out=$1 toolchain debug_tools
    find "$SVIDMAIL_CACHE" -maxdepth 1 -name "image-$(uname -m)-*" -mmin +1440 -exec rm -rf {} +
    cp -a "$IMAGE_CONTEXT" "$out/context"
    toolchain=$(image_stage toolchain build-toolchain) || exit 1
    debug_tools=$(image_stage debug-tools install-debug-tools) || exit 1
    with_progress "image" "$out/build.log" build_image "$out/svidmail.tar" "$IMAGE_REFERENCE" svidmail \
        BASE="$toolchain" TOOLCHAIN="$toolchain"
    with_progress "debug image" "$out/build-debug.log" build_image "$out/svidmail-debug.tar" "$IMAGE_REFERENCE-debug" \
        debug BASE="$toolchain" SVIDMAIL="$IMAGE_REFERENCE" DEBUG_TOOLS="$debug_tools"
    image_buildah rmi "$IMAGE_REFERENCE" "$IMAGE_REFERENCE-debug" >/dev/null
    image_buildah rmi --prune >/dev/null
}

rebuild_image() {
    local IMAGE_CONTEXT toolchain
    IMAGE_CONTEXT=$(mktemp -d)
    cp -r "$(dirname "$SVIDMAIL_IMAGE")/context/." "$IMAGE_CONTEXT"
    toolchain=$(image_stage toolchain build-toolchain) || exit 1
    build_image "$1" "$IMAGE_REFERENCE-again" svidmail BASE="$toolchain" TOOLCHAIN="$toolchain"
    rm -rf "$IMAGE_CONTEXT"
    image_buildah rmi "$IMAGE_REFERENCE-again" >/dev/null
}

# build_image ARCHIVE REFERENCE TARGET ARGUMENT=VALUE...
build_image() {
    local archive=$1 reference=$2 target=$3 version epoch
    shift 3
    version=$(sed -n 's/^project(svidmail VERSION \([0-9.]*\).*/\1/p' "$IMAGE_CONTEXT/CMakeLists.txt")
    epoch=$(cat "$IMAGE_CONTEXT/.epoch")
    set -- "$@" COMMIT="$(cat "$IMAGE_CONTEXT/.revision")" VERSION="$version" SOURCE_DATE_EPOCH="$epoch"
    image_bud --target "$target" --tag "$reference" --timestamp "$epoch" "${@/#/--build-arg=}" || return
    write_archive "$reference" "$archive"
}

# write_archive REFERENCE ARCHIVE: for podman (which reads ref.name) and for containerd (image.name).
write_archive() {
    local layout=$2.layout
    rm -rf "$layout"
    image_buildah push -q "$1" "oci:$layout:$1" || return
    as_root chown -R "$(id -u):$(id -g)" "$layout"
    sed -i 's|"org.opencontainers.image.ref.name":"\([^"]*\)"|&,"io.containerd.image.name":"\1"|' "$layout/index.json"
    tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$layout" -f "$2" . || return
    rm -rf "$layout"
}

# image_stage TARGET SCRIPT: the name of a stage that no source file changes, built unless it is there.
image_stage() {
    local base name
    name=localhost/svidmail-$1:$(image_stage_key "$@")
    if ! image_buildah inspect --type image "$name" >/dev/null 2>&1; then
        write_host_settings
        base=$(image_base) || exit 1
        with_progress "image stage $1" "$SVIDMAIL_CACHE/image-$1.log" \
            image_bud --target "$1" --tag "$name" --timestamp 0 --build-arg BASE="$base"
    fi
    echo "$name"
}

image_stage_key() {
    {
        sed -n "/^FROM .* AS $1\$/,/^\$/p" "$IMAGE_CONTEXT/Dockerfile"
        cat "$IMAGE_CONTEXT/deploy/image/$2"
        image_sources
    } | sha256sum | cut -c1-16
}

# image_base: a Debian from the mirrors that this machine uses for its own.
image_base() {
    local name
    name=localhost/svidmail-base:$(image_sources | sha256sum | cut -c1-16)
    if ! image_buildah inspect --type image "$name" >/dev/null 2>&1; then
        image_sources >"$SVIDMAIL_CACHE/image-base.sources"
        with_progress "Debian 13 for the image" "$SVIDMAIL_CACHE/image-base.log" make_image_base "$name"
    fi
    echo "$name"
}

make_image_base() {
    local container root=$SVIDMAIL_CACHE/image-base.tar
    as_root mmdebstrap --variant=apt --mode=root --include=ca-certificates --skip=output/dev \
        "$IMAGE_SUITE" "$root" "$SVIDMAIL_CACHE/image-base.sources" || return
    container=$(image_buildah from scratch) || return
    image_buildah add -q "$container" "$root" / || return
    image_buildah commit -q --rm "$container" "$1" || return
    as_root rm -f "$root"
}

# image_sources: apt sources of the image's suite, at the mirrors of this machine's own release.
image_sources() {
    local codename debian security
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debian=$(image_mirror "$codename")
    security=$(image_mirror "$codename-security")
    cat <<END
Types: deb
URIs: ${debian:-http://deb.debian.org/debian}
Suites: $IMAGE_SUITE $IMAGE_SUITE-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: ${security:-http://deb.debian.org/debian-security}
Suites: $IMAGE_SUITE-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
}

image_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' | sed -n "s/^$1 //p" | head -n 1
}

# What apt needs on this machine to reach its mirror, the build's apt needs too: proxies, and the CA of a mirror or of a
# proxy that looks inside.  Mounted into the build, never part of a layer.
write_host_settings() {
    local dir=$SVIDMAIL_CACHE/image-host
    mkdir -p "$dir"
    apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-Date|Check-Valid-Until|ForceIPv4|ForceIPv6)\b' \
        >"$dir/apt.conf" || true
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
        cp /etc/ssl/certs/ca-certificates.crt "$dir/ca-certificates.crt"
        echo 'Acquire::https::CaInfo "/run/host-settings/ca-certificates.crt";' >>"$dir/apt.conf"
    fi
}

# image_bud OPTION...: no layer is taken from an earlier build.
image_bud() {
    mkdir -p "$SVIDMAIL_CACHE/image-host"
    # A session that may not raise its limits cannot give what buildah has as defaults.
    image_buildah bud --isolation chroot --format oci --layers=false --force-rm \
        --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 \
        --volume "$SVIDMAIL_CACHE/image-host:/run/host-settings:ro" \
        --build-arg APT_CONFIG=/run/host-settings/apt.conf "$@" "$IMAGE_CONTEXT"
}

# A storage of our own, so that nothing else on the machine is touched.
image_buildah() {
    as_root nice buildah --root "$SVIDMAIL_CACHE/containers" --runroot "$SVIDMAIL_CACHE/containers-run" \
        --storage-driver "$(image_storage_driver)" "$@"
}

# Where the cache itself lies on an overlay, as in a container, another cannot be stacked on it: vfs copies instead.
image_storage_driver() {
    case $(stat -f -c %T "$SVIDMAIL_CACHE") in
    overlayfs) echo vfs ;;
    *) echo overlay ;;
    esac
}
