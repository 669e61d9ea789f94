# SPDX-License-Identifier: Apache-2.0
"""istiod or the SPIRE agent gone: the gateway serves on, for the same clients and for no others."""

import pytest
from support.gateway import ENVOY_UID
from support.mails import send
from support.mesh_clients import GatewayHttp
from support.mesh_mail import post_mail
from support.processes import poll_until
from support.tls_upstream import mtls_client
from support.world import GATEWAY_PATH, INTRUDER_UID, SES_HOST


def status_of(gateway, aws, files) -> int:
    """Of an API call on a connection of its own."""
    return post_mail(GatewayHttp(gateway.api_port, SES_HOST, files, files["bundle"]), aws)[0]


@pytest.fixture
def istiod_gone(istiod, gateway):
    istiod.stop()
    yield
    istiod.start()
    # The next test's changes are to act within seconds: Envoy asks ever more rarely while istiod is away.
    poll_until("the gateway to be connected again", lambda: istiod.gateways() >= 1, 60, interval=0.2)


@pytest.fixture
def agent_gone(spire, gateway):
    spire.kill_agent()
    yield
    spire.start_agent()
    spire.wait_for_svid(ENVOY_UID, GATEWAY_PATH)


def test_istiod_gone(gateway, aws, svid, client_svid, istiod_gone):
    assert status_of(gateway, aws, client_svid) == 200
    assert status_of(gateway, aws, svid(INTRUDER_UID)) == 403
    assert len(aws.wait_for_mails(1)) == 1


def test_a_change_made_without_istiod_acts_when_it_is_back(istiod, kube_api, egress, gateway, aws, client_svid):
    """Nothing of Istio's is written without its webhook, but a deletion needs no judge."""
    istiod.stop()
    try:
        kube_api.delete("authorizationpolicy", "mail-egress-api", "mail-egress")
        assert status_of(gateway, aws, client_svid) == 200
    finally:
        istiod.start()
    # The other ports' policies remain, and what none of them allows is refused.
    poll_until("the API port to be shut", lambda: status_of(gateway, aws, client_svid) == 403, 60)
    egress()
    poll_until("it to be open again", lambda: status_of(gateway, aws, client_svid) == 200, 60)


def test_the_spire_agent_gone(gateway, aws, svid, client_svid, agent_gone):
    """The files of the clients' SVIDs are there already; what the gateway lacks is news."""
    with mtls_client(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"]) as stream:
        assert stream.getpeercert(binary_form=True)
    assert status_of(gateway, aws, client_svid) == 200
    assert len(aws.wait_for_mails(1)) == 1


def test_mail_flows_over_a_restart_of_the_gateway(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    gateway.stop()
    gateway.start()
    gateway.wait_for_listeners(gateway.api_port, gateway.end_to_end_port, gateway.smtp_port)
    code, text = send(sidecar)
    assert code == 250, text
