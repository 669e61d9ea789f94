# SPDX-License-Identifier: Apache-2.0
"""The gateway's SVID is replaced while connections are in use: none is cut, and new ones see the new one."""

import pytest
from support.aws_smtp import PASSWORD, USER
from support.gateway import ENVOY_UID
from support.mesh_clients import GatewayHttp, GatewaySmtp
from support.mesh_mail import RAW, post_mail
from support.processes import poll_until
from support.tls_upstream import mtls_client
from support.traffic import Traffic
from support.world import GATEWAY_PATH, SES_HOST, SMTP_HOST

TTL_S = 8       # SPIRE renews at half of it


@pytest.fixture
def short_lived(spire):
    """short_lived(): from now on the gateway's SVID lives for seconds."""
    entry = next(entry for entry in spire.entries() if entry["spiffe_id"]["path"] == GATEWAY_PATH)

    yield lambda: spire.update_entry(entry["id"], GATEWAY_PATH, ENVOY_UID, x509_svid_ttl=TTL_S)
    spire.update_entry(entry["id"], GATEWAY_PATH, ENVOY_UID)


def certificate(gateway, files) -> bytes:
    """What a new client is shown."""
    with mtls_client(gateway.api_port, SES_HOST, files, files["bundle"]) as stream:
        return stream.getpeercert(binary_form=True)


def test_connections_in_use_outlive_two_rotations(gateway, aws, ses_smtp, client_svid, short_lived):
    http = GatewayHttp(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"])
    smtp = GatewaySmtp(gateway.smtp_port, SMTP_HOST, client_svid, client_svid["bundle"])
    smtp.login(USER, PASSWORD)
    assert post_mail(http, aws)[0] == 200
    stream = http.sock
    seen = [certificate(gateway, client_svid)]
    requests = 1
    short_lived()

    def use_and_look() -> bool:
        nonlocal requests
        status, headers, _ = post_mail(http, aws)
        assert (status, headers.get("connection")) == (200, None)
        requests += 1
        assert smtp.noop()[0] == 250
        shown = certificate(gateway, client_svid)
        if shown != seen[-1]:
            seen.append(shown)
        return len(seen) > 3

    # The first change is to the short-lived one, then come two renewals.
    poll_until("the gateway to show its fourth certificate", use_and_look, timeout=40, interval=0.1)
    assert http.sock is stream
    assert smtp.sendmail("shop@shop.example", ["user@customer.example"], RAW) == {}
    assert len(ses_smtp.mails) == 1
    assert len(aws.mails) == requests


def test_svidmail_loses_no_mail_and_no_connection(new_sidecar, gateway, spire, aws, client_svid, short_lived):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    before = certificate(gateway, client_svid)
    with Traffic(sidecar) as traffic:
        traffic.wait_for_more(5)
        handshakes = sidecar.metric("gateway_handshakes_total", result="ok")
        short_lived()
        poll_until("a new certificate", lambda: certificate(gateway, client_svid) != before, 20)
        traffic.wait_for_more(20)
    assert traffic.failures == []
    assert sidecar.metric("gateway_handshakes_total", result="ok") == handshakes
