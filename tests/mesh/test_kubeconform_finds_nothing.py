# SPDX-License-Identifier: Apache-2.0
"""kubeconform -strict, by schemas made of the real apiserver's own and of the CRDs: what the charts render, and what
the library chart makes of an app's workloads.

The label makes the same of them (test_injection.py).
"""

import copy
import json
import os
import pathlib

import pytest
import yaml
from support.app_chart import POD, SIDECAR_VALUES, WORKLOADS, AppChart, pod_of
from support.charts import CI_CASES, Chart, helm_path
from support.kube_schemas import KubeSchemas


@pytest.fixture(scope="session")
def schemas(kube_api, programs, tmp_path_factory) -> KubeSchemas:
    schemas = KubeSchemas(os.environ["KUBECONFORM"], str(tmp_path_factory.mktemp("schemas")))
    schemas.add_openapi(json.loads(kube_api.kubectl("get", "--raw", "/openapi/v2").stdout))
    schemas.add_definitions(f"{programs.istio_source}/manifests/charts/base/files/crd-all.gen.yaml")
    schemas.add_definitions(f"{programs.prometheus_crds}/monitoring.coreos.com_podmonitors.yaml")
    for path in pathlib.Path(programs.spire_crds).glob("*.yaml"):
        schemas.add_definitions(path)
    return schemas


@pytest.mark.parametrize(("chart", "case"), CI_CASES)
def test_every_object_of_a_chart_is_valid(schemas, chart, case):
    chart = Chart(chart, helm_path("4"))
    assert schemas.findings(chart.feature(case).text) == []


@pytest.mark.parametrize("dependency", ["svidmail", "svidmail-lib"])
@pytest.mark.parametrize("kind", WORKLOADS)
def test_a_workload_with_the_sidecar_of_the_library_chart_is_valid(schemas, tmp_path, kind, dependency):
    chart = AppChart(helm_path("4"), tmp_path / "shop", WORKLOADS[kind], dependency=dependency)
    assert "svidmail" in str(pod_of(chart.workload())["spec"]["initContainers"])
    assert schemas.findings(chart.render(SIDECAR_VALUES).text) == []


@pytest.mark.parametrize(("kind", "path"), [
    ("Deployment", ["spec", "template", "spec", "containers", 0, "readinessProbe", "httpGet"]),
    ("DestinationRule", ["spec", "trafficPolicy", "portLevelSettings", 0, "tls"]),
    ("AuthorizationPolicy", ["spec", "rules", 0, "to", 0, "operation"]),
    ("ClusterSPIFFEID", ["spec"]),
])
def test_a_misspelt_field_of_mail_egress_is_seen(schemas, kind, path):
    entry = copy.deepcopy(Chart("mail-egress", helm_path("4")).feature("default").of(kind)[0])
    assert "sinMask" in misspelt(schemas, entry, path)


def test_a_misspelt_field_of_the_podmonitor_is_seen(schemas):
    entry = copy.deepcopy(Chart("svidmail", helm_path("4")).feature("full").one("PodMonitor"))
    assert "sinMask" in misspelt(schemas, entry, ["spec", "podMetricsEndpoints", 0])


def test_a_misspelt_field_of_the_sidecar_is_seen(schemas, tmp_path):
    entry = AppChart(helm_path("4"), tmp_path / "shop", POD).workload()
    assert "sinMask" in misspelt(schemas, entry, ["spec", "initContainers", 0, "securityContext"])


def misspelt(schemas: KubeSchemas, entry: dict, path: list) -> str:
    """What is found of this object with one field at this place that nobody knows."""
    place = entry
    for key in path:
        place = place[key]
    place["sinMask"] = "x"
    [finding] = schemas.findings(yaml.safe_dump(entry))
    return finding
