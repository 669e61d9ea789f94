#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Pid 1 of the cluster's namespaces (pid, mount, network): makes them a node, then reaps whatever is left to it.
# Its end is the end of every process, mount and network device in there.
#
#   init.sh run DIRECTORY CGROUP    says "ready" on stdout; DIRECTORY takes all that is written
#   init.sh try DIRECTORY           only tries whether it could
set -euo pipefail

NODE_ADDRESS=192.168.199.1
AWS_ADDRESSES="192.168.199.11 192.168.199.12 192.168.199.13"
CONTROLLERS="cpu cpuacct cpuset memory devices freezer blkio pids"

# In a bare root, or where somebody has mounted it read-only, the cgroups are mounted anew, here alone.
mount_cgroups() {
    local controller
    if [ -f /sys/fs/cgroup/cgroup.controllers ] || [ -d /sys/fs/cgroup/memory ]; then
        return
    fi
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for controller in $CONTROLLERS; do
        if grep -q "^${controller}[[:space:]].*1\$" /proc/cgroups; then
            mkdir -p "/sys/fs/cgroup/$controller"
            mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
        fi
    done
}

# The kubelet keeps pods below a cgroup that it does not make itself.
make_cgroup() {
    local name=$1 controller directory
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir "/sys/fs/cgroup/$name"
        for controller in cpu cpuset memory pids; do
            echo "+$controller" >>/sys/fs/cgroup/cgroup.subtree_control
            echo "+$controller" >>"/sys/fs/cgroup/$name/cgroup.subtree_control"
        done
        return
    fi
    for controller in $CONTROLLERS systemd unified; do
        directory=/sys/fs/cgroup/$controller
        [ -d "$directory" ] || continue
        mkdir "$directory/$name"
        if [ "$controller" = cpuset ]; then
            cat "$directory/cpuset.cpus" >"$directory/$name/cpuset.cpus"
            cat "$directory/cpuset.mems" >"$directory/$name/cpuset.mems"
        fi
    done
}

remove_cgroup() { find /sys/fs/cgroup -depth -type d -path "*/$1*" -exec rmdir {} + 2>/dev/null || true; }

# Fixed paths of kubelet, containerd and CNI, out of sight of the machine and of other clusters on it.
make_mounts() {
    local directory=$1 path
    mount --make-rprivate /
    mount -t tmpfs tmpfs /run
    # Images and etcd: to delete them from a disk would take longer than all the rest.  Not the kubelet's volumes: what
    # pods write there would count as their memory.
    mkdir "$directory/memory"
    mount -t tmpfs -o size=4g,mode=0755 tmpfs "$directory/memory"
    for path in /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers; do
        mkdir -p "$path" "$directory$path"
        mount --bind "$directory$path" "$path"
    done
    mkdir -p /run/netns /run/containerd /run/spire
    # A CSI driver's mounts have to reach the kubelet and other pods.
    mount --make-rshared /
}

make_network() {
    local address
    ip link set lo up
    # The node's own address; no dummy device, for not every kernel has them.
    ip link add node0 type veth peer name node1
    ip address add "$NODE_ADDRESS/24" dev node0
    for address in $AWS_ADDRESSES; do
        ip address add "$address/32" dev node0
    done
    ip link set node0 up
    ip link set node1 up
    # Nobody is there: what has no other way ends, and never on the machine's own network.
    ip route add default via 192.168.199.254 dev node0
    echo 1 >/proc/sys/net/ipv4/ip_forward
}

try() {
    local directory name=svidmail-try-$BASHPID
    directory=$(mktemp -d "$1/svidmail-try-XXXXXX")
    # shellcheck disable=SC2064
    trap "remove_cgroup $name; rm -rf $directory" EXIT
    mount --make-rprivate /
    mount_cgroups
    make_cgroup "$name"
    make_network
    ip link add try0 type bridge
    iptables -t nat -A PREROUTING -p tcp --dport 1 -j RETURN
    mkdir "$directory"/{lower,upper,work,merged}
    mount -t overlay overlay -o "lowerdir=$directory/lower,upperdir=$directory/upper,workdir=$directory/work" \
        "$directory/merged"
    umount "$directory/merged"
}

run() {
    local directory=$1 cgroup=$2
    make_mounts "$directory"
    mount_cgroups
    make_cgroup "$cgroup"
    make_network
    echo ready
    # bash reaps the children it never had while it waits for one that never ends.
    trap 'exit 0' TERM
    sleep infinity &
    wait $!
}

"$@"
