# SPDX-License-Identifier: Apache-2.0
"""The chart of an app (tests/cluster/charts/shop) as its team installs it: with ours as a dependency.

    app = AppRelease(shop, cluster.helm4, tmp_path)
    app.install({"job": False})
    app.upgrade({"job": False}, log={"level": "debug"})     # keywords: changes of svidmail.yaml
    app.rollback()
    app.uninstall()
"""

import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import yaml

from .cluster_shop import CA_VOLUMES, IMAGE, ROOT, Shop
from .sidecar import merged

CHART = "tests/cluster/charts/shop"
NAME = "shop"


class AppRelease:
    """Of one namespace.  `helm`: cluster.helm3 or helm4; `directory`: for the chart with its dependency in it."""

    def __init__(self, shop: Shop, helm: Callable[..., subprocess.CompletedProcess], directory: pathlib.Path):
        self._shop = shop
        self._helm = helm
        # Where it lies in the repository, for the dependency is named by a path.
        shutil.copytree(ROOT / CHART, directory / CHART)
        shutil.copytree(ROOT / "helm", directory / "helm", symlinks=True)
        self._chart = str(directory / CHART)
        self._values = directory / "values.yaml"
        helm("dependency", "build", self._chart)

    def install(self, values: dict | None = None, **config: Any) -> None:
        self._apply("install", values, config)

    def upgrade(self, values: dict | None = None, **config: Any) -> None:
        self._apply("upgrade", values, config)

    def rollback(self) -> None:
        """To the revision before."""
        self._helm("rollback", NAME, "--namespace", self._shop.namespace)

    def uninstall(self) -> None:
        self._helm("uninstall", NAME, "--namespace", self._shop.namespace, "--wait")

    def _apply(self, verb: str, values: dict | None, config: dict) -> None:
        svidmail = {"image": IMAGE, "config": self._shop.config(**config), **CA_VOLUMES}
        self._values.write_text(yaml.safe_dump(merged({"svidmail": svidmail}, values or {})))
        self._helm(verb, NAME, self._chart, "--namespace", self._shop.namespace, "--values", str(self._values))
