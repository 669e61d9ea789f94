# SPDX-License-Identifier: Apache-2.0
"""istio-proxy lends the pod's identity to every process of the pod: plain text in, the mesh's mutual TLS out.

The worst case: a pod whose owner has istio-proxy dial the gateway as svidmail does, by a DestinationRule of his own
namespace, and excludes no port.  So the gateway's policy names the sidecar's own identity and never the pod's.
"""

import pytest
from support.cluster_shop import GATEWAY_HOST
from support.processes import poll_until
from support.world import SES_HOST

BY_ISTIO_PROXY = {
    "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "borrowed"},
    "spec": {"host": GATEWAY_HOST, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL", "sni": SES_HOST}}}}


def usual_identity(namespace: str) -> dict:
    """What SPIRE's own charts register for every pod; ours do for those with the sidecar's label alone."""
    return {"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterSPIFFEID",
            "metadata": {"name": f"{namespace}-usual"},
            "spec": {"spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}"
                                         "/sa/{{ .PodSpec.ServiceAccountName }}",
                     "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}}


@pytest.fixture
def borrower(mesh_shop, cluster):
    """The shop; its pod `checkout` has an istio-proxy and no sidecar."""
    registration = usual_identity(mesh_shop.namespace)
    mesh_shop.apply(BY_ISTIO_PROXY, registration)
    try:
        mesh_shop.start_pod("idle", mesh=True, labelled=False)
        yield mesh_shop
    finally:
        cluster.kubectl("delete", "clusterspiffeid", registration["metadata"]["name"])


def test_plain_http_of_the_app_is_refused_and_would_pass_if_the_policy_named_the_pods_identity(
        borrower, cluster, changed_platform):
    before = len(cluster.aws.requests_of("ses"))
    assert borrower.intrude("checkout", "app", "plain") == {"status": 403, "body": "RBAC: access denied"}
    assert len(cluster.aws.requests_of("ses")) == before

    with changed_platform(f"extraPrincipals={{{borrower.pod_id.removeprefix('spiffe://')}}}"):
        poll_until("the request to reach SES", lambda: (
            borrower.intrude("checkout", "app", "plain"), len(cluster.aws.requests_of("ses")) > before)[1], 20, 0.3)
