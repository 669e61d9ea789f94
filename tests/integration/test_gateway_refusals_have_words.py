# SPDX-License-Identifier: Apache-2.0
"""Every way in which the gateway says no is told apart and told in words that name the cause and where to look."""

import pytest
from support.gateway import Upstream
from support.mails import send
from support.processes import poll_until
from support.world import SES_HOST, STS_HOST


def failed_mail(sidecar) -> str:
    """The text of a 4xx."""
    code, text = send(sidecar)
    assert code in (451, 454), (code, text)
    assert text.startswith("4.")
    assert len(text) <= 420
    return text


def test_identity_not_allowed_on_the_api(new_sidecar, new_gateway, spire, aws):
    # STS is reached (the policy is asked per listener), so that the mail's own refusal is seen.
    gateway = new_gateway(spire, aws, allowed=[])
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_for_event("credentials.failed")
    text = failed_mail(sidecar)
    assert "our SPIFFE ID is not allowed" in text and "rbac_access_denied" in text, text
    assert aws.requests == []


def test_gateway_absent(new_sidecar, new_gateway, spire, aws):
    gateway = new_gateway(spire, aws, start=False)
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_for_event("credentials.failed")
    text = failed_mail(sidecar)
    assert "refused" in text.lower() and f"127.0.0.1:{gateway.end_to_end_port}" in text, text
    gateway.start()
    poll_until("mail to flow once the gateway is there", lambda: send(sidecar)[0] == 250, 30)


def test_gateway_name_that_does_not_resolve(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"host": "gateway.invalid"}})
    sidecar.wait_for_event("credentials.failed", timeout=30)
    text = failed_mail(sidecar)
    assert "gateway.invalid" in text and "resolve" in text, text


def test_gateway_has_no_chain_for_this_sni(new_sidecar, new_gateway, spire, aws):
    other = Upstream("other.example", "127.0.0.1", aws.port)
    gateway = new_gateway(spire, aws, api=[other], end_to_end=[other])
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_for_event("credentials.failed")
    text = failed_mail(sidecar)
    assert STS_HOST in text and "filter_chain_not_found" in text, text


def test_aws_unreachable_behind_the_gateway(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    aws.stop()
    text = failed_mail(sidecar)
    assert "gateway" in text and "cannot connect to AWS" in text and "upstream_transport_failure_reason" in text, text
    aws.start()
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 30)


def test_aws_with_a_wrong_certificate_behind_the_gateway(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    aws.serve_certificate(SES_HOST, aws.authority.issue("wrong.example"))
    text = failed_mail(sidecar)
    assert "gateway" in text, text
    assert aws.mails == []


def test_aws_with_a_wrong_certificate_end_to_end(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": "end-to-end"}})
    sidecar.wait_ready()
    aws.serve_certificate(SES_HOST, aws.authority.issue("wrong.example"))
    text = failed_mail(sidecar)
    assert SES_HOST in text and "certificate" in text, text
    assert aws.mails == []


def test_gateway_restarted_between_mails(sidecar, gateway, aws):
    assert send(sidecar)[0] == 250
    gateway.restart()
    code, text = send(sidecar)
    assert code == 250, text
    gateway.kill()
    gateway.start()
    code, text = send(sidecar)
    assert code == 250, text
    assert len(aws.mails) == 3


@pytest.mark.parametrize("tls", ["gateway", "end-to-end"])
def test_connections_are_kept(new_sidecar, spire, gateway, aws, tls):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls}})
    sidecar.wait_ready()
    for _ in range(20):
        assert send(sidecar)[0] == 250
    # one for STS, one for the mails
    assert sidecar.metric("gateway_handshakes_total", result="ok") == 2
