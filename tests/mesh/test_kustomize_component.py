# SPDX-License-Identifier: Apache-2.0
"""deploy/kustomize: the sidecar of the library chart, for those who use kustomize."""

import copy
import os
import subprocess

import pytest
import yaml
from support.app_chart import (
    CONFIG,
    CRONJOB,
    DEPLOYMENT,
    IMAGE,
    JOB,
    WORKLOADS,
    AppChart,
    pod_of,
)
from support.charts import ROOT, check_snapshot, helm_path, parse
from support.sidecar import merged

COMPONENT = ROOT / "deploy/kustomize"
MADE = """\
# SPDX-License-Identifier: Apache-2.0
# Made from helm/svidmail-lib by tests/mesh/test_kustomize_component.py; not for editing.
"""
MIGRATE = {"name": "migrate", "image": "registry.rig/shop:1"}
DATA = {"name": "data", "emptyDir": {}}


@pytest.fixture
def library(tmp_path):
    """library(WORKLOAD, VALUES): the workload as the library chart gives it back."""

    def give_back(workload: dict, values: dict) -> dict:
        chart = AppChart(helm_path("4"), tmp_path / workload["kind"], workload, dependency="svidmail-lib")
        return chart.workload({"svidmail": values})

    return give_back


@pytest.fixture
def build(programs, tmp_path):
    """build(WORKLOADS): what `kubectl kustomize` makes of an app's kustomization with the component in it."""
    kubectl = os.path.join(programs.kubernetes_dir, "kubectl")

    def make(workloads: list[dict], config: dict = CONFIG) -> list[dict]:
        app = tmp_path / "app"
        app.mkdir(exist_ok=True)
        (app / "workloads.yaml").write_text(yaml.safe_dump_all(workloads))
        (app / "svidmail.yaml").write_text(yaml.safe_dump(config))
        (app / "kustomization.yaml").write_text(yaml.safe_dump({
            "resources": ["workloads.yaml"], "components": [os.path.relpath(COMPONENT, app)],
            "images": [{"name": "svidmail", "newName": f"{IMAGE['registry']}/svidmail", "newTag": IMAGE["tag"]}],
            "configMapGenerator": [{"name": "svidmail", "files": ["svidmail.yaml"]}]}))
        done = subprocess.run([kubectl, "kustomize", str(app)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return parse(done.stdout)

    return make


def test_patches_are_made_from_the_library(library):
    for workload, name in ((DEPLOYMENT, "pod-template"), (CRONJOB, "cronjob")):
        pod = pod_of(library(workload, {"image": {"registry": "REGISTRY", "tag": "0.1.0"}}))
        template = {"metadata": {"annotations": pod["metadata"]["annotations"],
                                 "labels": {"svidmail.io/inject": "true"}},
                    "spec": {"initContainers": pod["spec"]["initContainers"], "volumes": pod["spec"]["volumes"]}}
        spec = {"template": template} if workload is DEPLOYMENT else {"jobTemplate": {"spec": {"template": template}}}
        patch = {key: workload[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "any"}, "spec": spec}
        text = yaml.safe_dump(patch, sort_keys=False).replace("REGISTRY/svidmail", "svidmail")
        check_snapshot(COMPONENT / f"{name}.yaml", MADE + text)


def test_every_workload_gets_what_the_library_gives(build, library):
    workloads = [merged(copy.deepcopy(entry), {"metadata": {"name": f"shop-{kind.lower()}"}})
                 for kind, entry in WORKLOADS.items() if kind != "Pod"]
    for workload in workloads:
        pod_of(workload)["spec"] |= {"initContainers": [MIGRATE], "volumes": [DATA]}
    built = {entry["kind"]: entry for entry in build(workloads)}
    config_map = built["ConfigMap"]["metadata"]["name"]
    for workload in workloads:
        by_library = pod_of(library(workload, {"image": IMAGE}))
        by_component = pod_of(built[workload["kind"]])
        assert by_component["spec"]["initContainers"][0]["name"] == "svidmail"
        for pod in (by_library, by_component):
            pod["spec"]["volumes"].sort(key=lambda volume: volume["name"])
        [volume] = [entry for entry in by_component["spec"]["volumes"] if entry["name"] == "svidmail-config"]
        assert volume["configMap"]["name"] == config_map
        volume["configMap"]["name"] = "svidmail"
        assert by_component == by_library


def test_a_change_of_configuration_rolls_the_pods(build):
    def pods(config):
        return [pod_of(entry) for entry in build([JOB], config) if entry["kind"] == "Job"]

    assert pods(CONFIG) == pods(CONFIG) != pods(merged(CONFIG, {"log": {"level": "debug"}}))
