# SPDX-License-Identifier: Apache-2.0
"""A chart of an app that takes its sidecar from ours, as an app team would write it.

    app = AppChart(helm, directory, DEPLOYMENT, dependency="svidmail")
    app.render(SIDECAR_VALUES).one("Deployment")
"""

import pathlib

import yaml

from .charts import ROOT, Chart, Values

# What an app team says under the key svidmail; the chart svidmail takes `config` of it by itself.
CONFIG = {
    "gateway": {"host": "mail-egress.mail-egress.svc.cluster.local",
                "spiffe_ids": ["spiffe://example.org/ns/mail-egress/sa/mail-egress"]},
    "ses": {"region": "eu-central-1"},
    "aws": {"role_arn": "arn:aws:iam::123456789012:role/shop-mail"},
}
IMAGE = {"registry": "registry.rig", "tag": "dev"}
SIDECAR_VALUES = {"svidmail": {"image": IMAGE, "config": CONFIG}}

POD_SPEC = {"containers": [{"name": "shop", "image": "registry.rig/shop:1"}]}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"}, "spec": POD_SPEC}
POD_TEMPLATE = {"metadata": {"labels": {"app": "shop"}}, "spec": POD_SPEC}
SELECTOR = {"matchLabels": {"app": "shop"}}
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"},
              "spec": {"selector": SELECTOR, "template": POD_TEMPLATE}}
STATEFULSET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "shop"},
               "spec": {"selector": SELECTOR, "serviceName": "shop", "template": POD_TEMPLATE}}
DAEMONSET = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "shop"},
             "spec": {"selector": SELECTOR, "template": POD_TEMPLATE}}
JOB_SPEC = {"template": {"spec": POD_SPEC | {"restartPolicy": "Never"}}}
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "shop"}, "spec": JOB_SPEC}
CRONJOB = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "shop"},
           "spec": {"schedule": "0 4 * * *", "jobTemplate": {"spec": JOB_SPEC}}}
WORKLOADS = {entry["kind"]: entry for entry in (POD, DEPLOYMENT, STATEFULSET, DAEMONSET, JOB, CRONJOB)}


class AppChart(Chart):
    """The chart shop, whose one workload goes through svidmail.inject."""

    def __init__(self, helm: str, directory: pathlib.Path, workload: dict | str, *, dependency: str = "svidmail",
                 release: str = "shop", name: str = "shop"):
        super().__init__(name, helm, release, "shop")
        self.directory = directory
        text = workload if isinstance(workload, str) else yaml.safe_dump(workload)
        self.write("templates/workload.yaml",
                   '{{- define "shop.workload" }}\n' + text + '\n{{- end }}\n'
                   '{{- include "svidmail.inject" (list . "shop.workload") }}\n')
        self.write("Chart.yaml", yaml.safe_dump({
            "apiVersion": "v2", "name": name, "version": "0.1.0",
            "dependencies": [{"name": dependency, "version": "0.1.0",
                              "repository": (ROOT / "helm" / dependency).as_uri()}]}))
        self._run("dependency", "build", str(directory))

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def workload(self, *values: Values) -> dict:
        """What became of the app's workload."""
        [entry] = [entry for entry in self.render(*(values or (SIDECAR_VALUES,))).objects
                   if entry["kind"] in WORKLOADS]
        return entry


def pod_of(workload: dict) -> dict:
    """The pod template of a workload; a Pod is its own."""
    match workload["kind"]:
        case "Pod":
            return workload
        case "CronJob":
            return workload["spec"]["jobTemplate"]["spec"]["template"]
        case _:
            return workload["spec"]["template"]


def sidecar_of(workload: dict) -> dict:
    """The sidecar in a workload's pods."""
    [container] = [entry for entry in pod_of(workload)["spec"]["initContainers"] if entry["name"] == "svidmail"]
    return container


def with_config(*path: str, value) -> dict:
    """The chart's values with this key of svidmail.yaml."""
    values = value
    for name in reversed(("config", *path)):
        values = {name: values}
    return values
