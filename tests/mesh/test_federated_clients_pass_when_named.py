# SPDX-License-Identifier: Apache-2.0
"""A workload of another trust domain passes when the policy names it and the gateway's SPIRE vouches for its domain.

By default SPIRE's agent gives Envoy the bundle of its own domain alone, whatever the entry federates with: its setting
`sds.default_all_bundles_name = "ROOTCA"` changes that for all of Istio's proxies on the node.
"""

import pytest
from support.gateway import ENVOY_UID
from support.mesh_clients import GatewayHttp, GatewaySmtp
from support.mesh_istio import MeshGateway
from support.mesh_mail import post_mail
from support.tls_upstream import mtls_client, peer_uri
from support.world import GATEWAY_PATH, SES_HOST, SMTP_HOST

PARTNER = "partner.example"
NAMED_UID, NAMED_PATH = 21017, "/ns/ops/sa/alerts/svidmail"
OTHER_UID, OTHER_PATH = 21018, "/ns/ops/sa/other/svidmail"


@pytest.fixture
def partner(new_spire):
    domain = new_spire(PARTNER, entries=False)
    domain.create_entry(NAMED_PATH, NAMED_UID)
    domain.create_entry(OTHER_PATH, OTHER_UID)
    return domain


@pytest.fixture
def federated_gateway(programs, workdir, kube_api, new_spire, partner, egress, gateway):
    """In the usual one's place, with a SPIRE of its own that trusts the partner's."""
    home = new_spire(entries=False, is_istio_federated=True)
    home.trust(partner)
    home.create_entry(GATEWAY_PATH, ENVOY_UID, federates_with=(PARTNER,))
    federated = None
    try:
        egress({"extraPrincipals": [PARTNER + NAMED_PATH], "federatedTrustDomains": [PARTNER]})
        gateway.stop()
        pod = kube_api.get("deployment", "mail-egress", "mail-egress")["spec"]["template"]
        federated = MeshGateway(programs, programs.istio_source, workdir(), spire_socket=home.socket_path, pod=pod)
        federated.home = home
        federated.start()
        federated.wait_for_listeners(federated.api_port, federated.end_to_end_port, federated.smtp_port)
        yield federated
    finally:
        if federated is not None:
            federated.stop()
        gateway.stop()
        egress()
        gateway.start()
        gateway.wait_for_listeners(gateway.api_port, gateway.end_to_end_port, gateway.smtp_port)


def test_the_named_one_passes_and_its_neighbour_does_not(federated_gateway, aws, ses_smtp, partner, workdir):
    bundle = f"{workdir()}/home.pem"
    with open(bundle, "w") as file:
        file.write(federated_gateway.home.bundle_pem())
    named, other = (partner.write_svid(uid, f"{workdir()}/svid") for uid in (NAMED_UID, OTHER_UID))

    with mtls_client(federated_gateway.api_port, SES_HOST, named, bundle) as stream:
        assert peer_uri(stream) == [f"spiffe://example.org{GATEWAY_PATH}"]
    assert post_mail(GatewayHttp(federated_gateway.api_port, SES_HOST, named, bundle), aws)[0] == 200
    with GatewaySmtp(federated_gateway.smtp_port, SMTP_HOST, named, bundle) as client:
        assert client.noop()[0] == 250

    assert post_mail(GatewayHttp(federated_gateway.api_port, SES_HOST, other, bundle), aws)[0] == 403
    assert len(aws.wait_for_mails(1)) == 1
