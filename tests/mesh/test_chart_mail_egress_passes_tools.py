# SPDX-License-Identifier: Apache-2.0
"""What the field's own tools say of the platform chart: helm lint, istioctl analyze.

kubeconform, over all charts, is test_kubeconform_finds_nothing.py's.
"""

import json
import os
import pathlib
import subprocess

import pytest
import yaml
from support.charts import HELM_VERSIONS, ROOT, Chart, Rendered, helm_path

CHART = Chart("mail-egress", "")


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart("mail-egress", helm_path("4"))


@pytest.fixture(params=sorted(CHART.ci))
def ci(request, chart) -> Rendered:
    """Each values file of ci/, rendered."""
    return chart.feature(request.param)


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_helm_lint_is_content(version):
    chart = Chart("mail-egress", helm_path(version))
    assert "0 chart(s) failed" in chart.lint(chart.ci["full"])


def analyze(programs, text: str, directory: pathlib.Path) -> list[dict]:
    (directory / "rendered.yaml").write_text(text)
    done = subprocess.run([f"{programs.istio_dir}/istioctl", "analyze", "-A", "--use-kube=false", "--output", "json",
                           str(directory / "rendered.yaml")], capture_output=True, text=True, timeout=60,
                          env={"PATH": os.environ["PATH"], "HOME": str(directory), "KUBECONFIG": os.devnull})
    return json.loads(done.stdout)


def test_istioctl_analyze_has_no_finding(ci, programs, tmp_path):
    assert analyze(programs, ci.text, tmp_path) == []


def test_istioctl_analyze_would_find_a_rule_without_roots_and_a_host_without_a_server(chart, programs, tmp_path):
    broken = (chart.feature("default").text.replace("caCertificates: system", "")
              .replace("hosts: [./sts.eu-central-1.amazonaws.com]", "hosts: [./other.example.com]"))
    codes = {finding["code"] for finding in analyze(programs, broken, tmp_path)}
    assert {"IST0129", "IST0132"} <= codes


def test_what_analyze_says_of_every_envoyfilter_is_the_only_thing_silenced(chart, programs, tmp_path):
    marked = [entry for entry in chart.feature("full").objects
              if "galley.istio.io/analyze-suppress" in (entry["metadata"].get("annotations") or {})]
    assert [entry["kind"] for entry in marked] == ["EnvoyFilter"]
    heard = chart.feature("full").text.replace("galley.istio.io/analyze-suppress", "example.org/not-suppressed")
    assert {finding["code"] for finding in analyze(programs, heard, tmp_path)} == {"IST0133"}


def test_the_chart_stands_in_the_repository_as_a_whole():
    """What the chart depends on is beside it, so that a checkout installs as it is."""
    lock = yaml.safe_load((CHART.directory / "Chart.yaml").read_text())
    for dependency in lock.get("dependencies", []):
        assert (CHART.directory / "charts" / dependency["name"]).resolve() == ROOT / "helm" / dependency["name"]
