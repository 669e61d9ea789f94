# SPDX-License-Identifier: Apache-2.0
"""The rig's own apiserver judges, stores and refuses as a cluster's does, with nobody behind it."""

import pytest
from support.kubectl import Refused

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "svidmail"}, "data": {"a": "b"}}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"},
       "spec": {"containers": [{"name": "app", "image": "registry.rig/app:dev"}]}}


def test_what_is_applied_is_stored(kube_api):
    namespace = kube_api.make_namespace("rig-stored")
    [stored] = kube_api.apply(CONFIG_MAP, namespace=namespace)
    assert stored["metadata"]["uid"]
    assert kube_api.get("configmap", "svidmail", namespace)["data"] == {"a": "b"}


def test_a_dry_run_answers_and_stores_nothing(kube_api):
    namespace = kube_api.make_namespace("rig-dry")
    several = kube_api.apply([CONFIG_MAP, POD], dry_run=True, namespace=namespace)
    assert [one["kind"] for one in several] == ["ConfigMap", "Pod"]
    assert several[1]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"     # a default of the apiserver
    assert kube_api.get("pod", namespace=namespace)["items"] == []


def test_an_unknown_field_is_refused(kube_api):
    pod = POD | {"spec": POD["spec"] | {"conteiners": []}}
    with pytest.raises(Refused, match="conteiners"):
        kube_api.apply(pod, dry_run=True, namespace="default")


def test_a_namespace_of_restricted_pods_refuses_others(kube_api):
    namespace = kube_api.make_namespace("rig-restricted", **{"pod-security.kubernetes.io/enforce": "restricted"})
    with pytest.raises(Refused, match='violates PodSecurity "restricted'):
        kube_api.create(POD, namespace=namespace)


def test_a_warning_of_the_apiserver_is_kept(kube_api):
    namespace = kube_api.make_namespace("rig-warned", **{"pod-security.kubernetes.io/warn": "restricted"})
    kube_api.apply(POD, dry_run=True, namespace=namespace)
    assert any("would violate PodSecurity" in warning for warning in kube_api.warnings)
    kube_api.apply(CONFIG_MAP, namespace=namespace)
    assert kube_api.warnings == []
