# SPDX-License-Identifier: Apache-2.0
"""The commands that `svidmail doctor` gives, before an apiserver that has what the ways of installing make."""

import importlib.util
import pathlib
import subprocess

import pytest
from support.charts import ROOT


def read_codes() -> dict[str, dict[str, str]]:
    path = pathlib.Path(ROOT) / "tests/lint/check_doctor_codes.py"
    spec = importlib.util.spec_from_file_location("check_doctor_codes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rows((ROOT / module.TABLE).read_text())


@pytest.mark.parametrize("name", ["svidmail", "shop-svidmail", "svidmail-4g7kt2bm6d", "of-the-annotation"])
def test_the_configmap_is_found_whatever_its_name_is(kube_api, programs, name):
    """In the order: the chart by itself, as a dependency, kustomize, svidmail.io/config."""
    namespace = kube_api.make_namespace(f"cures-{name}")
    kube_api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checkout", "namespace": namespace},
                     "spec": {"containers": [{"name": "app", "image": "app"}], "volumes": [
                         {"name": "other", "configMap": {"name": "other"}},
                         {"name": "svidmail-config", "configMap": {"name": name}}]}})
    cures = {row["cure"].splitlines()[0] for row in read_codes().values() if "edit configmap" in row["cure"]}
    [find] = [cure for cure in cures if "configMap.name" in cure]
    find = find.replace("{NAMESPACE}", namespace).replace("{POD}", "checkout")
    done = subprocess.run(["sh", "-c", find], capture_output=True, text=True, timeout=30, env={
        "PATH": f"{programs.kubernetes_dir}:/usr/bin:/bin", "KUBECONFIG": kube_api.kubeconfig,
        "HOME": kube_api.directory})
    assert (done.returncode, done.stdout.strip()) == (0, name), done
