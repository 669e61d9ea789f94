# SPDX-License-Identifier: Apache-2.0
"""Who is beside the sidecar, or is called as it is, is not the sidecar: neither to SPIRE nor to the gateway."""

import pytest
from support.cluster_shop import Shop
from support.processes import poll_until

DENIED = {"status": 403, "body": "RBAC: access denied"}


@pytest.fixture
def no_call_reaches_ses(cluster):
    """Of what the test does, once it is asked for."""
    before = len(cluster.aws.requests_of("ses"))
    yield
    assert len(cluster.aws.requests_of("ses")) == before


@pytest.fixture(scope="module")
def shop(shared_shop):
    """Its pod `checkout` has the sidecar, and the agent's socket in its container `app` too."""
    shared_shop.start_pod("idle", agent=True)
    shared_shop.wait_ready_to_relay("checkout")
    return shared_shop


def test_the_app_has_the_pods_identity_and_not_the_sidecars(shop):
    assert shop.intrude("checkout", "app", "identities") == {"identities": [shop.pod_id]}


def test_the_app_is_refused_with_the_pods_identity(shop, no_call_reaches_ses):
    assert shop.intrude("checkout", "app", "call", shop.pod_id) == DENIED


def test_the_app_is_refused_without_a_certificate(shop, no_call_reaches_ses):
    assert "CERTIFICATE_REQUIRED" in shop.intrude("checkout", "app", "call", "none")["error"]


def test_the_app_has_no_identity_where_pods_are_given_none(shop, changed_platform):
    with changed_platform("spire.clusterSPIFFEIDs.keepPodIdentity=false"):
        said = poll_until("the app to lose the pod's identity", lambda: shop.intrude(
            "checkout", "app", "identities").get("error"), timeout=20, interval=0.3)
        assert "PermissionDenied desc = no identity issued" in said
        assert shop.send("checkout", "all the same")[0] == 250


def test_kubectl_exec_into_the_sidecar_sees_the_sidecars_identity(shop):
    assert shop.spiffe_id in shop.svidmail("checkout", "identity")


def test_the_sidecars_name_and_service_account_together_pass_the_gateway(shop, cluster):
    """What the refusals here are compared to: the same call, by the one who may."""
    shop.start_pod("idle", name="double", labelled=False, container="svidmail", agent=True)
    assert shop.spiffe_id in shop.intrude("double", "svidmail", "identities")["identities"]
    said = shop.intrude("double", "svidmail", "call", shop.spiffe_id)
    [request] = cluster.aws.requests_of("ses")[-1:]
    assert said["status"] == request.status == 403
    assert said["body"] != DENIED["body"]
    assert request.body == b"{}"


def test_the_sidecars_name_under_another_service_account_is_refused(shop, no_call_reaches_ses):
    shop.add_service_account("other")
    shop.start_pod("idle", name="other", labelled=False, container="svidmail", agent=True, serviceAccountName="other")
    identity = shop.spiffe_id.replace("/sa/checkout/", "/sa/other/")
    assert shop.spiffe_id not in shop.intrude("other", "svidmail", "identities")["identities"]
    assert shop.intrude("other", "svidmail", "call", identity) == DENIED


def test_the_sidecars_name_in_a_namespace_that_is_no_client_has_no_identity(cluster, platform):
    shop = Shop(cluster, "no-client", platform)
    shop.start_pod("idle", labelled=False, container="svidmail", agent=True)
    assert "PermissionDenied desc = no identity issued" in shop.intrude("checkout", "svidmail", "identities")["error"]
    shop.remove()
