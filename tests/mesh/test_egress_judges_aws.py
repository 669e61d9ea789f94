# SPDX-License-Identifier: Apache-2.0
"""Whoever is not AWS never gets a mail, however it came to stand where AWS should.

On the API and SMTP ports the gateway judges the server; end to end the client does, for nobody else can.
"""

import smtplib
import socket
import ssl

import pytest
from support import certs
from support.mails import send
from support.mesh_clients import EndToEndHttp, GatewayHttp, GatewaySmtp
from support.mesh_mail import post_mail
from support.mesh_network import SES_ADDRESS
from support.processes import poll_until
from support.world import SES_HOST, SMTP_HOST

UNREACHABLE = b"upstream connect error or disconnect/reset before headers. reset reason: "

IMPOSTORS = {
    "another name": lambda authority, host: authority.issue("ses.example"),
    "an expired certificate": lambda authority, host: authority.issue(host, ttl=-60),
    "an unknown CA": lambda authority, host: certs.HostAuthority("nobody's CA").issue(host),
    "a certificate for a part of the name": lambda authority, host: authority.issue(host.partition(".")[2]),
}


@pytest.fixture(params=list(IMPOSTORS))
def impostor(request, web_authority):
    """impostor(host): what a server shows that only seems to be that host."""
    return lambda host: IMPOSTORS[request.param](web_authority, host)


def api(gateway, files) -> GatewayHttp:
    return GatewayHttp(gateway.api_port, SES_HOST, files, files["bundle"])


def test_the_gateway_gives_an_impostor_no_api_call(gateway, aws, client_svid, impostor):
    aws.serve_certificate(SES_HOST, impostor(SES_HOST))
    mark = gateway.mark()
    status, headers, body = post_mail(api(gateway, client_svid), aws)
    assert (status, headers["content-type"]) == (503, "text/plain")
    assert body.startswith(UNREACHABLE), body
    assert "x-envoy-upstream-service-time" not in headers
    entry = gateway.wait_for_access(after=mark, response_code=503)
    assert "CERTIFICATE_VERIFY_FAILED" in entry["upstream_transport_failure_reason"]
    assert (aws.handshakes, aws.requests) == (0, [])


def test_the_gateway_gives_an_impostor_no_mail(gateway, ses_smtp, client_svid, impostor):
    ses_smtp.serve_certificate(impostor(SMTP_HOST))
    mark = gateway.mark()
    with pytest.raises(smtplib.SMTPServerDisconnected):     # instead of a greeting
        GatewaySmtp(gateway.smtp_port, SMTP_HOST, client_svid, client_svid["bundle"])
    entry = gateway.wait_for_access(after=mark, requested_server_name=SMTP_HOST)
    assert entry["response_flags"] == "UF,URX"
    assert "CERTIFICATE_VERIFY_FAILED" in entry["upstream_transport_failure_reason"]
    assert (ses_smtp.sessions, ses_smtp.mails) == (0, [])


def test_end_to_end_the_client_gives_an_impostor_nothing(gateway, aws, client_svid, impostor):
    aws.serve_certificate(SES_HOST, impostor(SES_HOST))
    client = EndToEndHttp(gateway.end_to_end_port, SES_HOST, client_svid, client_svid["bundle"],
                          ca_file=str(aws.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError):
        post_mail(client, aws)
    assert (aws.handshakes, aws.requests) == (0, [])


def test_end_to_end_svidmail_gives_an_impostor_nothing(new_sidecar, gateway, spire, aws, impostor):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": "end-to-end"}})
    sidecar.wait_ready()
    aws.serve_certificate(SES_HOST, impostor(SES_HOST))
    code, text = send(sidecar)
    assert code == 454, text
    assert SES_HOST in text and "certificate" in text, text
    assert (aws.mails, aws.requests_of("ses")) == ([], [])


def test_the_gateway_asks_for_the_name_it_checks(gateway, aws, client_svid):
    assert post_mail(api(gateway, client_svid), aws)[0] == 200
    assert [connection.sni for connection in aws.connections] == [SES_HOST]


def test_aws_that_does_not_listen_is_told_apart_from_its_own_answers(gateway, aws, client_svid):
    aws.stop()
    try:
        mark = gateway.mark()
        status, headers, body = post_mail(api(gateway, client_svid), aws)
        assert status == 503 and body.startswith(UNREACHABLE)
        assert "x-envoy-upstream-service-time" not in headers
        entry = gateway.wait_for_access(after=mark, response_code=503)
        assert entry["response_flags"].split(",")[0] == "UF"
        assert "delayed_connect_error" in entry["upstream_transport_failure_reason"]
    finally:
        aws.start()


def test_a_request_that_may_have_been_taken_is_sent_once(gateway, aws, client_svid):
    """Istio's own default is two more attempts."""
    aws.inject("cut-before-answer", times=10)
    mark = gateway.mark()
    status, _, body = post_mail(api(gateway, client_svid), aws)
    assert status == 503 and body.startswith(UNREACHABLE + b"connection termination")
    assert gateway.wait_for_access(after=mark, response_code=503)["response_flags"] == "UC"
    assert [request.body_length > 0 for request in aws.requests] == [True]
    assert len(aws.mails) == 1      # ambiguous: this one was taken


def test_a_refusal_of_ses_is_passed_on_once(gateway, aws, client_svid):
    aws.inject("unavailable", times=10)
    status, headers, _ = post_mail(api(gateway, client_svid), aws)
    assert status == 503
    assert "x-envoy-upstream-service-time" in headers and "x-amzn-requestid" in headers
    assert len(aws.requests) == 1


@pytest.fixture
def impatient(egress, gateway):
    """Other timeouts than the chart's usual ones until the next test: short for an answer, not for a connection.

    One to the stand-in may take a while on a busy machine.
    """

    def connect_timeouts(dump: dict) -> set[str]:
        """Of AWS's clusters; the bootstrap's have their own."""
        clusters = [entry["cluster"] for entry in dump["ClustersConfigDump"]["dynamic_active_clusters"]]
        return {cluster["connect_timeout"] for cluster in clusters if SES_HOST in cluster["name"]}

    def wait_for_timeouts(timeout: str, connect_timeout: str) -> None:
        def has_them() -> bool:
            dump = gateway.config_dump()
            return f"'timeout': '{timeout}'" in str(dump["RoutesConfigDump"]) and connect_timeouts(dump) == {
                connect_timeout}

        poll_until(f"timeouts of {timeout} and {connect_timeout}", has_them, 10)

    try:
        egress({"upstream": {"timeout": "8s", "connectTimeout": "6s"}})
        wait_for_timeouts("8s", "6s")
        yield
    finally:
        egress()
        wait_for_timeouts("30s", "5s")


def test_an_answer_that_does_not_come_in_time_is_not_asked_for_again(impatient, gateway, aws, client_svid):
    aws.inject("hang", times=10)
    mark = gateway.mark()
    status, headers, body = post_mail(api(gateway, client_svid), aws)
    assert (status, body) == (504, b"upstream request timeout")
    assert "x-envoy-upstream-service-time" not in headers
    assert gateway.wait_for_access(after=mark, response_code=504)["response_flags"] == "UT"
    assert len(aws.requests) == 1


def test_a_server_that_says_nothing_is_given_up(impatient, gateway, aws, client_svid):
    """Its kernel takes the connection, nobody answers the ClientHello: the limit is for both together."""
    aws.stop()
    try:
        with socket.create_server((SES_ADDRESS, 443)):
            mark = gateway.mark()
            status, _, body = post_mail(api(gateway, client_svid), aws)
            assert status == 503 and body.startswith(UNREACHABLE + b"connection timeout"), body
            entry = gateway.wait_for_access(after=mark, response_code=503)
            assert entry["response_flags"] == "UF"
    finally:
        aws.start()
