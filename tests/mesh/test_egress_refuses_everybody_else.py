# SPDX-License-Identifier: Apache-2.0
"""Whom the policy does not name is refused on every port, AWS hears nothing of it, and the gateway says why."""

import datetime
import pathlib
import ssl

import pytest
from cryptography import x509
from support import certs
from support.mesh_clients import GatewayHttp
from support.mesh_mail import post_mail
from support.mesh_refusals import BAD_CERTIFICATE, DENIED, ENDED, NO_CERTIFICATE, REFUSALS, RESET, tables
from support.processes import poll_until
from support.sidecar import SIDECAR_UID
from support.tls_upstream import mtls_client
from support.world import INTRUDER_UID, SES_HOST, SIDECAR_PATH, SMTP_HOST, STS_HOST

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Workloads with entries of this file's own.
NEAR_MISSES = {
    21011: "/ns/shop/sa/checkout",
    21012: f"{SIDECAR_PATH}/more",
    21013: f"{SIDECAR_PATH}2",
}
EXPIRING_UID, EXPIRING_TTL_S = 21014, 5

ALERTS = {"TLSV13_ALERT_CERTIFICATE_REQUIRED": NO_CERTIFICATE, "SSLV3_ALERT_CERTIFICATE_UNKNOWN": BAD_CERTIFICATE}


@pytest.fixture(scope="session")
def files_of(spire, svid, session_dir):
    """files_of(who): an SVID's files, as their bearer in mesh_refusals has them; None: no certificate."""
    for uid, path in NEAR_MISSES.items():
        spire.create_entry(path, uid, wait=False)
    spire.create_entry(SIDECAR_PATH, EXPIRING_UID, x509_svid_ttl=EXPIRING_TTL_S)
    expired = svid(EXPIRING_UID)
    for uid, path in NEAR_MISSES.items():
        spire.wait_for_svid(uid, path)
    bundle = expired["bundle"]

    def forged(trust_domain: str) -> dict[str, str]:
        cert, key = certs.TrustDomain(trust_domain).issue(SIDECAR_PATH).write(session_dir())
        return {"cert": str(cert), "key": str(key), "bundle": bundle}

    shallower, deeper, longer = map(svid, NEAR_MISSES)
    known = {
        "another workload's SPIFFE ID": svid(INTRUDER_UID),
        "an ID one step shallower than the policy's (the pod's own)": shallower,
        "an ID one step deeper than the policy's": deeper,
        "an ID of which the policy's is a prefix": longer,
        "no client certificate": None,
        "the policy's own ID, certified by a CA of somebody else": forged("example.org"),
        "the policy's path in another trust domain": forged("other.example"),
        "an SVID that has expired": expired,
    }

    def files(who: str) -> dict[str, str] | None:
        if known.get(who) is expired:
            leaf = x509.load_pem_x509_certificate(pathlib.Path(expired["cert"]).read_bytes())
            poll_until("the SVID to expire", lambda: datetime.datetime.now(datetime.UTC) > leaf.not_valid_after_utc, 60)
        return known.get(who, svid(SIDECAR_UID))

    return files


# What a client asks for that is let through otherwise.
ASKED = {
    "STS, on the API port": {"sni": STS_HOST},
    "an SNI that the port does not serve": {"sni": "ses.example"},
    "no SNI": {"sni": None},
    "another Host than the SNI": {"host": STS_HOST},
    "another path": {"path": "/v2/email/identities"},
    "a path below the allowed one": {"path": "/v2/email/outbound-emails/more"},
    "another method": {"method": "PUT"},
}


def what_is_seen(refusal, gateway, aws, files, bundle) -> str:
    """One of the words of mesh_refusals; anything else is told as it came."""
    asked = dict(ASKED.get(refusal.who, {}))
    port = {"api": gateway.api_port, "end_to_end": gateway.end_to_end_port, "smtp": gateway.smtp_port}[refusal.port]
    sni = asked.pop("sni", SMTP_HOST if refusal.port == "smtp" else SES_HOST)
    try:
        stream = mtls_client(port, sni, files, bundle)
    except ConnectionResetError:
        return RESET
    with stream:
        try:
            if refusal.sees == DENIED:
                return http_answer(stream, aws, asked)
            if refusal.sees == ENDED:
                stream.sendall(b"\x16\x03\x01")     # a ClientHello begins so
            data = stream.recv(1)
        except ssl.SSLError as error:
            return ALERTS.get(error.reason, str(error))
        return ENDED if data == b"" else f"the byte {data!r}"


def http_answer(stream, aws, asked: dict) -> str:
    connection = GatewayHttp(0, SES_HOST, None, "")
    connection.sock = stream
    status, headers, body = post_mail(connection, aws, **asked)
    is_the_gateways = (status == 403 and body == b"RBAC: access denied" and headers["content-type"] == "text/plain"
                       and headers["connection"] == "close" and "x-envoy-upstream-service-time" not in headers)
    return DENIED if is_the_gateways else f"{status} {headers} {body!r}"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_refused(refusal, gateway, aws, ses_smtp, files_of, client_svid):
    files = files_of(refusal.who)
    mark = gateway.mark()
    port = {"api": 9443, "end_to_end": 9444, "smtp": 9465}[refusal.port]
    stat = f"listener.0.0.0.0_{port}.ssl.{refusal.stat}"
    before = gateway.stats(stat).get(stat, 0)

    assert what_is_seen(refusal, gateway, aws, files, client_svid["bundle"]) == refusal.sees

    # The gateway says why, and once it has said so nothing more comes of this connection.
    if refusal.log is not None:
        gateway.wait_for_access(after=mark, **refusal.log)
    else:
        poll_until(f"{stat} to grow", lambda: gateway.stats(stat)[stat] == before + 1, 10)
    # Not even dialled: neither as a result, nor in the hope of one.
    assert (aws.dialled, aws.failed_handshakes, aws.requests) == (0, [], [])
    assert (ses_smtp.dialled, ses_smtp.mails) == (0, [])


def test_the_documentation_tells_them_as_they_are():
    assert tables() in (ROOT / "docs" / "gateway-refusals.md").read_text(), f"it should hold:\n\n{tables()}"


def test_every_refusal_is_tried_with_something_that_passes_otherwise(gateway, aws, client_svid):
    """The clients above are refused for what is said of them, and not for being clumsy."""
    connection = GatewayHttp(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"])
    assert post_mail(connection, aws)[0] == 200
    assert len(aws.wait_for_mails(1)) == 1
