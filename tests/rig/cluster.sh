# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# What the cluster suite needs of the machine, and what its images are made of.  Sourced by setup.sh.
#
#   cluster_obstacle     says why no cluster can be held here; nothing when one can
#   need_cluster_images  sets CLUSTER_IMAGES: a directory with base.tar (a small Debian) and pause, for the rig's images

CLUSTER_PACKAGES="containernetworking-plugins iproute2 iptables kmod mount util-linux"
# What app, proxy and SPIRE containers find in their image.
CLUSTER_BASE_PACKAGES="ca-certificates curl iproute2 iptables openssl procps python3"

# Tried by doing it: containers, seccomp profiles and security modules forbid these in ways that no file tells.
cluster_obstacle() {
    if ! can_be_root; then
        echo "it needs root or sudo, for namespaces, mounts and cgroups"
        return
    fi
    # shellcheck disable=SC2086
    need_apt_packages $CLUSTER_PACKAGES
    as_root unshare --fork --pid --mount-proc --mount --net --propagation private \
        bash "$SETUP_ROOT/tests/rig/cluster/init.sh" try "${TMPDIR:-/var/tmp}" 2>/dev/null ||
        echo "no pid, mount and network namespaces with bridges, overlay mounts and cgroups can be made here"
}

need_cluster_images() {
    local packages codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    packages=$(echo "$codename $CLUSTER_BASE_PACKAGES" | sha256sum | cut -c1-8)
    CLUSTER_IMAGES=$SVIDMAIL_CACHE/cluster-images-$(uname -m)-$packages-$(pins_hash tests/rig/cluster/pause.c)
    [ -d "$CLUSTER_IMAGES" ] && return 0
    need_apt_packages mmdebstrap gcc libc6-dev
    with_lock cluster-images make_part make_cluster_images "$CLUSTER_IMAGES"
}

make_cluster_images() {
    local out=$1 codename
    gcc -O2 -Wall -Wextra -static -s -o "$out/pause" "$SETUP_ROOT/tests/rig/cluster/pause.c"
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # The release of this machine, for the programs that were linked here run in it.  Read by mmdebstrap's own tar.
    # shellcheck disable=SC2016
    with_progress "the images' Debian" "$out/mmdebstrap.log" as_root mmdebstrap --variant=minbase --mode=root \
        --include="${CLUSTER_BASE_PACKAGES// /,}" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' --skip=output/dev \
        "$codename" "$out/base.tar"
    as_root chown "$(id -u):$(id -g)" "$out/base.tar"
}
