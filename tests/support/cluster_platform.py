# SPDX-License-Identifier: Apache-2.0
"""A second release of mail-egress, in a namespace of its own.

    release = PlatformRelease(cluster, cluster.helm4, "egress-two", client="shop-two")
    config = release.install()
    release.upgrade(gateway={"replicas": 2})
    release.rollback()
    release.uninstall()
"""

import pathlib
import subprocess
from collections.abc import Callable

import yaml

from .cluster import Cluster
from .cluster_shop import ROOT, SERVICE_ACCOUNT
from .sidecar import merged


class PlatformRelease:
    """Beside the one of all other tests; one namespace may send through it."""

    def __init__(self, cluster: Cluster, helm: Callable[..., subprocess.CompletedProcess], namespace: str,
                 client: str, drain_s: int = 3):
        self.namespace = namespace
        self.client = {"namespace": client, "serviceAccount": SERVICE_ACCOUNT}
        self._cluster = cluster
        self._helm = helm
        self._values = {
            "trustDomain": "example.org", "regions": ["eu-central-1"], "clients": [self.client],
            "gateway": {"replicas": 1, "drainSeconds": drain_s,
                        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}}

    def install(self) -> dict:
        """What its notes tell an app team."""
        self._apply("install", {}, "--create-namespace")
        notes = self._helm("get", "notes", "mail-egress", "--namespace", self.namespace).stdout
        return yaml.safe_load(notes[notes.index("config:"):notes.index("\nNext:")])["config"]

    def upgrade(self, **values) -> None:
        self._apply("upgrade", values)

    def rollback(self) -> None:
        self._helm("rollback", "mail-egress", "--namespace", self.namespace)

    def uninstall(self) -> None:
        self._helm("uninstall", "mail-egress", "--namespace", self.namespace, "--wait")

    def _apply(self, verb: str, values: dict, *options: str) -> None:
        path = pathlib.Path(self._cluster.directory, f"{self.namespace}.yaml")
        path.write_text(yaml.safe_dump(merged(self._values, values)))
        self._helm(verb, "mail-egress", str(ROOT / "helm" / "mail-egress"), "--namespace", self.namespace,
                   "--values", str(path), *options)
        self._cluster.wait_ready("deployment/mail-egress", self.namespace)
