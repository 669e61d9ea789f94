# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# The parts of the mesh and cluster suites, all of them real: a Kubernetes, an Istio, and what runs containers.
# Sourced by setup.sh, whose rules hold here too.
#
#   need_kubernetes               sets KUBERNETES_BIN: a directory with etcd, kube-apiserver, kube-controller-manager,
#                                 kube-scheduler, kube-proxy, kubelet, kubectl, csi-registrar
#   need_istio                    sets ISTIO_BIN: a directory with pilot-discovery, pilot-agent, istioctl; and
#                                 ISTIO_SOURCE: Istio's manifests/ and tools/packaging/common/, and gateway-api/ with
#                                 the CRDs of the Gateway API that it was made for
#   need_helm                     sets HELM3 and HELM4
#   need_kubeconform              sets KUBECONFORM
#   need_coredns                  sets COREDNS
#   need_container_runtime        sets RUNTIME_BIN: a directory with containerd, containerd-shim-runc-v2, ctr, runc,
#                                 spiffe-csi-driver
#   need_spire_controller_manager sets SPIRE_CONTROLLER_MANAGER, and SPIRE_CRDS: a directory with its CRDs
#   need_prometheus_crds          sets PROMETHEUS_CRDS: a directory with the CRDs of the Prometheus operator
#
# All are built from the Go module proxy, by modules of our own under tests/rig: their go.sum says what they are made
# of, byte by byte.

# module_pins MODULE...: the files under tests/rig that say what a part is made of.
module_pins() {
    local name file
    for name in "$@"; do
        for file in "$SETUP_ROOT/tests/rig/$name"/{go.mod,go.sum,*.go,*/*.go}; do
            [ ! -e "$file" ] || printf '%s\n' "${file#"$SETUP_ROOT"/}"
        done
    done
}

# need_part NAME MODULE...: sets PART, where it is.  What is not there yet, make_NAME builds in the directory it is given.
need_part() {
    local name=$1
    shift
    # shellcheck disable=SC2046
    PART=$SVIDMAIL_CACHE/$name-$(uname -m)-$(pins_hash $(module_pins "$@"))
    [ -d "$PART" ] && return 0
    need_apt_packages gcc libc6-dev ca-certificates
    need_go
    with_lock "$name" make_part "make_${name//-/_}" "$PART"
}

make_part() {
    local make=$1 dir=$2 building=$2.building
    [ ! -d "$dir" ] || return 0
    rm -rf "$building"
    mkdir -p "$building"
    "$make" "$building"
    mv "$building" "$dir"
}

# static_go WHAT MODULE OUT_DIR PACKAGE...: a program that needs no C library.
static_go() {
    local what=$1 module=$2 out=$3
    shift 3
    GO_CGO=0 with_progress "$what" "$out/$what.log" go_build "tests/rig/$module" "$out" "$@"
}

# module_source MODULE PATH: where the source of one of a module's requirements lies.
module_source() {
    (cd "$SETUP_ROOT/tests/rig/$1" &&
        export GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off &&
        "$GO" mod download "$2" && "$GO" list -m -f '{{.Dir}}' "$2")
}

# copy_source FROM TO: the module cache is read-only, a copy is not.
copy_source() {
    mkdir -p "$(dirname "$2")"
    cp -r --no-preserve=mode "$1" "$2"
}

make_kubernetes() {
    local out=$1 name version=v1.36.3 kit=k8s.io/component-base/version
    say "Kubernetes $version is built from source once: some 5 minutes on 2 cores"
    # Without these it would call itself v0.0.0, and charts and kubectl go by what it calls itself.
    local GO_LDFLAGS="-X $kit.gitVersion=$version -X $kit.gitMajor=1 -X $kit.gitMinor=36"
    GO_LDFLAGS+=" -X k8s.io/client-go/pkg/version.gitVersion=$version"
    for name in kubectl kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
        static_go "$name" kubernetes "$out" "k8s.io/kubernetes/cmd/$name"
    done
    GO_LDFLAGS=
    static_go csi-registrar kubernetes "$out" ./csi-registrar
    static_go etcd kubernetes "$out" go.etcd.io/etcd/server/v3
    mv "$out/server" "$out/etcd"
}

need_kubernetes() {
    need_part kubernetes kubernetes
    KUBERNETES_BIN=$PART
}

make_istio() {
    local out=$1 source name
    say "Istio is built from source once: some 5 minutes on 2 cores"
    for name in pilot-agent pilot-discovery; do
        static_go "$name" istio "$out" "istio.io/istio/pilot/cmd/$name"
    done
    static_go istioctl istio "$out" istio.io/istio/istioctl/cmd/istioctl
    source=$(module_source istio istio.io/istio)
    copy_source "$source/manifests" "$out/source/manifests"
    copy_source "$source/tools/packaging/common" "$out/source/tools/packaging/common"
    copy_source "$(module_source istio sigs.k8s.io/gateway-api)/config/crd/standard" "$out/source/gateway-api"
}

need_istio() {
    need_part istio istio
    ISTIO_BIN=$PART
    ISTIO_SOURCE=$PART/source
}

make_helm() {
    local out=$1 major version
    for major in 3 4; do
        version=$(sed -n "s|.*helm.sh/helm/v$major \(v[0-9.]*\).*|\1|p" "$SETUP_ROOT/tests/rig/helm$major/go.mod")
        local GO_LDFLAGS="-X helm.sh/helm/v$major/internal/version.version=$version"
        # Without a cluster helm 3 believes in the Kubernetes it was linked for, as its own Makefile says it; helm 4 knows.
        [ "$major" = 4 ] || GO_LDFLAGS+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36"
        static_go "helm$major" "helm$major" "$out" "helm.sh/helm/v$major/cmd/helm"
        mv "$out/helm" "$out/helm$major"
    done
}

need_helm() {
    need_part helm helm3 helm4
    HELM3=$PART/helm3
    HELM4=$PART/helm4
}

make_kubeconform() { static_go kubeconform kubeconform "$1" github.com/yannh/kubeconform/cmd/kubeconform; }

need_kubeconform() {
    need_part kubeconform kubeconform
    KUBECONFORM=$PART/kubeconform
}

make_coredns() { static_go coredns coredns "$1" .; }

need_coredns() {
    need_part coredns coredns
    COREDNS=$PART/coredns
}

make_container_runtime() {
    local out=$1 containerd=github.com/containerd/containerd/v2
    # runc is the one that needs C: it enters namespaces before Go has started.
    need_apt_packages pkg-config libseccomp-dev
    GO_TAGS=seccomp GO_LDFLAGS="-X main.version=$(version_of runc github.com/opencontainers/runc)" \
        with_progress runc "$out/runc.log" go_build tests/rig/runc "$out" github.com/opencontainers/runc
    local GO_LDFLAGS
    GO_LDFLAGS="-X $containerd/version.Version=$(version_of containerd $containerd)"
    static_go containerd containerd "$out" $containerd/cmd/{containerd,containerd-shim-runc-v2,ctr}
    GO_LDFLAGS=
    static_go spiffe-csi-driver spiffe-csi "$out" github.com/spiffe/spiffe-csi/cmd/spiffe-csi-driver
}

# version_of MODULE PATH: the version that go.mod requires, without its v.
version_of() { sed -n "s|^\(require\)\?[[:space:]]*$2 v\([^ ]*\).*|\2|p" "$SETUP_ROOT/tests/rig/$1/go.mod"; }

need_container_runtime() {
    need_part container-runtime runc containerd spiffe-csi
    RUNTIME_BIN=$PART
}

make_spire_controller_manager() {
    local out=$1 module=github.com/spiffe/spire-controller-manager
    static_go spire-controller-manager spire-controller-manager "$out" $module/cmd
    mv "$out/cmd" "$out/spire-controller-manager"
    copy_source "$(module_source spire-controller-manager $module)/config/crd/bases" "$out/crds"
}

need_spire_controller_manager() {
    need_part spire-controller-manager spire-controller-manager
    SPIRE_CONTROLLER_MANAGER=$PART/spire-controller-manager
    SPIRE_CRDS=$PART/crds
}

make_prometheus_crds() {
    local module=github.com/prometheus-operator/prometheus-operator
    copy_source "$(module_source prometheus-operator $module)/example/prometheus-operator-crd" "$1/crds"
}

need_prometheus_crds() {
    need_part prometheus-crds prometheus-operator
    PROMETHEUS_CRDS=$PART/crds
}
