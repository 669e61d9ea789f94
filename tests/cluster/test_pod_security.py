# SPDX-License-Identifier: Apache-2.0
"""Pods under Kubernetes' restricted profile, and what a pod's author may not, or should not, ask for."""

import pytest
from support.app_chart import POD, AppChart
from support.cluster_shop import CA_VOLUMES, IMAGE, RESTRICTED
from support.kubectl import Refused
from support.sidecar import merged


@pytest.fixture(scope="module")
def shop(shared_shop):
    return shared_shop


def enforced_profile(cluster, namespace: str) -> dict:
    labels = cluster.get("namespace", namespace)["metadata"]["labels"]
    return {key: labels.get(key) for key in RESTRICTED}


def test_the_labels_pod_mails_under_the_restricted_profile(shop, cluster):
    assert enforced_profile(cluster, shop.namespace) == RESTRICTED
    shop.start_pod("serve")
    assert cluster.warnings == []
    shop.wait_for_mail("checkout")


def test_the_library_charts_pod_mails_under_the_restricted_profile(shop, cluster, tmp_path):
    assert enforced_profile(cluster, shop.namespace) == RESTRICTED
    pod = merged(POD, shop.pod_template("serve", labelled=False))
    pod["metadata"]["name"] = "library"
    chart = AppChart(cluster.parts.helm4, tmp_path / "shop", pod, dependency="svidmail-lib")
    values = {"svidmail": {"image": IMAGE, "config": shop.config(), **CA_VOLUMES}}
    shop.apply(chart.workload(values))
    assert cluster.warnings == []
    shop.wait_for_mail("library")


def test_the_sidecar_makes_no_pod_unfit_and_an_unfit_pod_is_refused_for_its_own_container(shop):
    with pytest.raises(Refused, match="violates PodSecurity") as refusal:
        shop.start_pod("idle", name="unfit", securityContext={})
    assert "svidmail" not in str(refusal.value).split("violates PodSecurity")[1]


def test_a_pod_on_the_nodes_network_is_refused_with_the_reason(mesh_shop):
    with pytest.raises(Refused, match="svidmail: hostNetwork is true, so every process of the node could send mail"):
        mesh_shop.start_pod("idle", hostNetwork=True)


def test_a_shared_process_namespace_is_warned_of_by_the_apiserver_and_in_the_log(shop, cluster):
    shop.start_pod("idle", name="sharing", shareProcessNamespace=True)
    [warning] = cluster.warnings
    assert "svidmail: shareProcessNamespace is true" in warning
    [event] = [event for event in shop.sidecar_log("sharing") if event["event"] == "pod.shared"]
    assert event["level"] == "warn"


def test_the_gateways_pod_as_istio_has_injected_it_fits_the_restricted_profile(platform, cluster):
    """The apiserver names each pod that is there and does not, when it is asked to enforce a profile."""
    def said_of(namespace: str) -> str:
        return cluster.kubectl("label", "namespace", namespace, "--dry-run=server", "--overwrite",
                               *(f"{key}={value}" for key, value in RESTRICTED.items())).stderr

    assert [each["name"] for each in cluster.pods("mail-egress")[0]["spec"]["containers"]] == ["istio-proxy"]
    assert said_of("mail-egress") == ""
    # SPIRE's agent needs the node's paths: that it would be said.
    assert "violate the new PodSecurity" in said_of("spire-system")
