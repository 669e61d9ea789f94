# SPDX-License-Identifier: Apache-2.0
"""What a running container of a pod costs, and its processes, seen from the node: the kernel's own account.

    sidecar = Container(cluster, "shop", "checkout", "svidmail")
    sidecar.kill(signal.SIGKILL)
    sidecar.cpu_seconds(), sidecar.memory_kb()["RssAnon"], sidecar.peak_kb(), sidecar.held_kb(),
    sidecar.oom_kills()
"""

import os
import pathlib

from . import processes
from .cluster import Cluster
from .cluster_node import CGROUPS
from .processes import Failure


def status_of(cluster: Cluster, namespace: str, pod: str, container: str) -> dict:
    """What the kubelet says of a container, whichever list of the pod it stands in; {} before it says anything."""
    status = cluster.get("pod", pod, namespace)["status"]
    everything = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    return next((each for each in everything if each["name"] == container), {})


class Container:
    """As it runs now: after a restart it is another one."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str, container: str):
        self.status = status_of(cluster, namespace, pod, container)
        identity = self.status["containerID"].removeprefix("containerd://")
        # Others come and go meanwhile, which os.walk does not mind.
        found = [pathlib.Path(path) for path, _, _ in os.walk(CGROUPS) if os.path.basename(path) == identity]
        # Version 1 has one for each controller, version 2 has one.
        self._groups = {path.relative_to(CGROUPS).parts[0]: path for path in found}
        if not found:
            raise Failure(f"no cgroup of {container} in {namespace}/{pod}: {self.status}")
        self.pid = int((found[0] / "cgroup.procs").read_text().split()[0])

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def memory_kb(self) -> dict[str, int]:
        return processes.memory_kb(self.pid)

    def cpu_seconds(self) -> float:
        """Of all its processes so far, those of its probes included."""
        if "cpuacct" in self._groups:
            return int(self._read("cpuacct", "cpuacct.usage", "")) / 1e9
        fields = dict(line.split() for line in self._read("", "", "cpu.stat").splitlines())
        return int(fields["usage_usec"]) / 1e6

    def peak_kb(self) -> int:
        """The most that was charged to it, which is what the limit is held to; page cache of what it wrote included."""
        return int(self._read("memory", "memory.max_usage_in_bytes", "memory.peak")) // 1024

    def usage_kb(self) -> int:
        """What is charged to it now."""
        return int(self._read("memory", "memory.usage_in_bytes", "memory.current")) // 1024

    def held_kb(self) -> int:
        """What the kernel could not take back now: memory of its processes, and what the kernel keeps for them."""
        fields = dict(line.split() for line in self._read("memory", "memory.stat", "memory.stat").splitlines())
        if "total_rss" in fields:
            kept = int(self._read("memory", "memory.kmem.usage_in_bytes", ""))
            return (int(fields["total_rss"]) + kept) // 1024
        return (int(fields["anon"]) + int(fields["kernel"])) // 1024

    def oom_kills(self) -> int:
        fields = dict(line.split() for line in self._read("memory", "memory.oom_control", "memory.events").splitlines())
        return int(fields["oom_kill"])

    def _read(self, controller: str, version_1: str, version_2: str) -> str:
        if controller in self._groups:
            return (self._groups[controller] / version_1).read_text()
        [group] = set(self._groups.values())
        return pathlib.Path(group, version_2).read_text()
