# SPDX-License-Identifier: Apache-2.0
"""Who is beside the sidecar, or is called as it is, is not the sidecar: neither to SPIRE nor to the gateway."""

import pytest
from support.cluster_shop import Shop
from support.processes import poll_until

DENIED = {"status": 403, "body": "RBAC: access denied"}


# An impostor has the label and its container's name; the policy adds no sidecar where that name is.


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
    shared_shop.wait_for_identities("checkout", "app", shared_shop.pod_id)
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
    shop.start_pod("idle", name="double", container="svidmail", agent=True)
    shop.wait_for_identities("double", "svidmail", shop.pod_id, shop.spiffe_id)
    before = len(cluster.aws.requests_of("ses"))
    said = shop.intrude("double", "svidmail", "call", shop.spiffe_id)
    [request] = cluster.aws.requests_of("ses")[before:]
    assert said["status"] == request.status == 403
    assert said["body"] != DENIED["body"]
    assert request.body == b"{}"


def test_the_sidecars_name_under_another_service_account_has_no_sidecars_identity(shop, no_call_reaches_ses):
    shop.add_service_account("other")
    shop.start_pod("idle", name="other", container="svidmail", agent=True, serviceAccountName="other")
    # A pod of the client's that was made later has got its own: it is not that nobody has looked yet.
    shop.start_pod("idle", name="after-other", container="svidmail", agent=True)
    shop.wait_for_identities("after-other", "svidmail", shop.pod_id, shop.spiffe_id)
    pod_id = shop.pod_id.replace("/sa/checkout", "/sa/other")
    assert shop.intrude("other", "svidmail", "identities") == {"identities": [pod_id]}
    assert shop.intrude("other", "svidmail", "call", pod_id) == DENIED


def test_the_sidecars_name_in_a_namespace_that_is_no_client_has_no_identity(shop, cluster, platform):
    stranger = Shop(cluster, "no-client", platform)
    try:
        stranger.start_pod("idle", container="svidmail", agent=True)
        # A client's pod that was made later has got its own: it is not that nobody has looked yet.
        shop.start_pod("idle", name="later", container="svidmail", agent=True)
        shop.wait_for_identities("later", "svidmail", shop.pod_id, shop.spiffe_id)
        assert "PermissionDenied desc = no identity issued" in stranger.intrude(
            "checkout", "svidmail", "identities")["error"]
    finally:
        stranger.remove()
