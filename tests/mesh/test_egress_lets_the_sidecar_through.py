# SPDX-License-Identifier: Apache-2.0
"""Whom the policy names passes, on every port, with svidmail and with clients that owe it nothing."""

import pytest
import yaml
from support.aws_smtp import PASSWORD, USER
from support.mails import plain, send, without_trace
from support.mesh_clients import EndToEndHttp, GatewayHttp, GatewaySmtp
from support.mesh_mail import RAW, assume_role, post_mail
from support.sidecar import SIDECAR_UID
from support.world import SES_HOST, SIDECAR_PATH, SMTP_HOST, STS_HOST

# A mail that a proxy or an MTA on the way might be tempted to touch.
AWKWARD = (b"From: shop@shop.example\r\nTo: user@customer.example\r\nSubject: =?utf-8?q?=C3=BC?=\r\n\r\n"
           b".a leading dot\r\n..two\r\n\r\n8bit \xc3\xbc and \x7f\r\n" + b"x" * 990 + b"\r\n") + b"line\r\n" * 20000


def test_a_call_to_ses_by_the_api_port(gateway, aws, client_svid):
    mark = gateway.mark()
    with_answer = post_mail(GatewayHttp(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"]), aws)
    status, headers, _ = with_answer
    assert status == 200, with_answer
    # What tells an answer of AWS from one of the gateway.
    assert "x-envoy-upstream-service-time" in headers
    [mail] = aws.wait_for_mails(1)
    assert mail.raw == RAW
    entry = gateway.wait_for_access(after=mark, response_code=200)
    assert entry["requested_server_name"] == entry["authority"] == SES_HOST
    assert entry["upstream_cluster"] == f"outbound|443||{SES_HOST}"


def test_a_whole_mail_by_the_smtp_port(gateway, ses_smtp, client_svid):
    mark = gateway.mark()
    with GatewaySmtp(gateway.smtp_port, SMTP_HOST, client_svid, client_svid["bundle"]) as client:
        client.login(USER, PASSWORD)
        assert client.sendmail("shop@shop.example", ["user@customer.example"], AWKWARD) == {}
    [mail] = ses_smtp.wait_for_mails(1)
    assert mail.raw == AWKWARD
    assert (mail.sender, mail.recipients) == ("shop@shop.example", ["user@customer.example"])
    # The gateway named the server it dialled, as SES's door demands; Istio does so only when told.
    assert ses_smtp.snis == [SMTP_HOST]
    assert gateway.wait_for_access(after=mark, requested_server_name=SMTP_HOST)["bytes_received"] > len(AWKWARD)


def test_a_call_to_ses_end_to_end(gateway, aws, client_svid):
    client = EndToEndHttp(gateway.end_to_end_port, SES_HOST, client_svid, client_svid["bundle"],
                          ca_file=str(aws.ca_file))
    status, headers, _ = post_mail(client, aws)
    assert status == 200
    # No hop between: nobody added a word to the answer.
    assert not [name for name in headers if name.startswith("x-envoy") or name == "server"]
    assert [mail.raw for mail in aws.wait_for_mails(1)] == [RAW]


def test_a_call_to_sts_end_to_end(gateway, aws, spire, client_svid):
    client = EndToEndHttp(gateway.end_to_end_port, STS_HOST, client_svid, client_svid["bundle"],
                          ca_file=str(aws.ca_file))
    status, answer = assume_role(client, spire.fetch_jwt(SIDECAR_UID, "sts.amazonaws.com"))
    assert status == 200, answer
    assert [token.subject for token in aws.tokens] == [spire.id(SIDECAR_PATH)]


@pytest.mark.parametrize("tls", ["gateway", "end-to-end"])
def test_a_mail_by_svidmail(new_sidecar, gateway, spire, aws, tls):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls}})
    sidecar.wait_ready()
    code, text = send(sidecar, plain())
    assert code == 250, text
    [mail] = aws.wait_for_mails(1)
    assert text.split()[-1] == mail.message_id
    assert without_trace(mail.raw).endswith(b"\r\n\r\nA first mail.\r\n")
    assert [token.subject for token in aws.tokens] == [spire.id(SIDECAR_PATH)]


def test_svidmail_with_the_configuration_that_the_notes_print(new_sidecar, gateway, spire, aws, egress_notes):
    _, _, block = egress_notes.partition("\nconfig:\n")
    told = yaml.safe_load(block[:block.index("\n\n")])
    # Entries of this SPIRE carry no hint; those that the chart has made by its ClusterSPIFFEID do.
    assert told["identity"].pop("mesh") == {"hint": "svidmail"}
    sidecar = new_sidecar(spire, gateway, aws, told)
    sidecar.wait_ready()
    code, text = send(sidecar)
    assert code == 250, text
    aws.wait_for_mails(1)
