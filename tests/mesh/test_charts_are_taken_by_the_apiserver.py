# SPDX-License-Identifier: Apache-2.0
"""Every object of every chart, for every values file in its ci/: the apiserver takes it, and so does istiod."""

import os

import pytest
import yaml
from support.charts import CI_CASES, Chart, helm_path


@pytest.fixture(scope="session")
def render(kube_api, istiod, programs):
    """render(chart, case): (namespace, objects); by names of their own, so that no live gateway takes them for its."""
    kube_api.add_definitions(os.path.join(programs.prometheus_crds, "monitoring.coreos.com_podmonitors.yaml"))
    rendered = {}

    def once(name: str, case: str) -> tuple[str, list[dict]]:
        if (name, case) not in rendered:
            namespace = kube_api.make_namespace(f"ci-{name}-{case}")
            chart = Chart(name, helm_path("4"), release=f"ci-{case}-{name}", namespace=namespace)
            rendered[name, case] = namespace, chart.render(chart.ci[case]).objects
        return rendered[name, case]

    return once


@pytest.fixture(params=CI_CASES, ids=lambda case: "-".join(case))
def case(request, render):
    return render(*request.param)


def names(objects) -> list[tuple[str, str]]:
    return sorted((entry["kind"], entry["metadata"]["name"]) for entry in objects)


def test_charts_have_cases():
    assert {name for name, _ in CI_CASES} >= {"mail-egress", "svidmail"}


def test_a_dry_run_and_an_installation_are_taken(kube_api, case):
    namespace, objects = case
    dry = kube_api.apply(objects, dry_run=True, namespace=namespace)
    assert names(dry) == names(objects)
    assert unexpected(kube_api.warnings) == []
    try:
        taken = kube_api.apply(objects, namespace=namespace)
        assert unexpected(kube_api.warnings) == []
        assert names(taken) == names(objects)
        for told, kept in zip(objects, taken, strict=True):
            assert lost(told.get("spec"), kept.get("spec")) == [], told["metadata"]["name"]
    finally:
        kube_api.kubectl("delete", "--filename", "-", "--namespace", namespace, "--ignore-not-found", "--wait=false",
                         stdin=yaml.safe_dump_all(objects))


def unexpected(warnings: list[str]) -> list[str]:
    """istiod says the same of every EnvoyFilter; the chart has one, for a reason that it tells."""
    return [warning for warning in warnings
            if not warning.startswith("EnvoyFilter exposes internal implementation details")]


def lost(told, kept, path: str = "") -> list[str]:
    """What was told and is not there any more: a field that a definition prunes, a value that it changes."""
    if isinstance(told, dict) and isinstance(kept, dict):
        return [found for key, value in told.items() for found in lost(value, kept.get(key), f"{path}.{key}")]
    if isinstance(told, list) and isinstance(kept, list) and len(told) == len(kept):
        return [found for number, value in enumerate(told) for found in lost(value, kept[number], f"{path}[{number}]")]
    # The apiserver writes a quantity as text.
    return [] if told == kept or str(told) == kept or told in ({}, [], None) else [f"{path}: {told!r} is {kept!r}"]
