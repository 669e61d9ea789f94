# SPDX-License-Identifier: Apache-2.0
"""A broken or hostile gateway costs its mail alone: a 4xx in its own words, no second request, bounded memory.

Envoy cannot be made to do this, so tests/support/bad_gateway.py stands in for it; what Envoy says when it refuses is
tried in test_gateway_refusals_have_words.py.
"""

import contextlib
import json
import socket
import ssl
import subprocess
import time

import pytest
from support import bad_gateway as bad
from support import certs
from support.bad_gateway import BadGateway
from support.issued_domain import file_identity
from support.mails import raw, send
from support.ports import free_port
from support.processes import poll_until
from support.sidecar import SANITIZERS
from support.world import GATEWAY_PATH, SIDECAR_PATH

# Freed memory shall not be counted as held.
BARE_MEMORY = {"env": {"ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=0"}}
GROWTH_MAX_KB = 30_000

TAKEN = b'{"MessageId":"0107019aa1b2c3d4-stand-in"}'
OK = b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 1\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def with_length(body: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
def world(new_issuer, new_aws, new_sidecar):
    """(domain, aws, gateway, sidecar), which has AWS credentials already: what fails from now on is the mail."""
    gateways = []
    domain = new_issuer()
    aws = new_aws(domain)
    gateways.append(BadGateway(aws, domain.certificates))
    sidecar = new_sidecar(domain, gateways[0], aws, **BARE_MEMORY)
    sidecar.wait_ready()
    sidecar.wait_for_event("credentials.renewed")
    yield domain, aws, gateways[0], sidecar
    for gateway in gateways:
        gateway.stop()


def assert_alive_and_small(sidecar, gateway, before: int):
    """The next mail goes through a good gateway on the same port, and nothing was hoarded."""
    gateway.heal()
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 20)
    assert sidecar.memory_kb()["RssAnon"] - before < GROWTH_MAX_KB


# --- before a request could be sent: told by 454 (or 451), and nothing asked twice

NO_STREAM = {
    "resets on ClientHello": (bad.reset_on_hello, "closed during our ClientHello"),
    "closes on ClientHello": (bad.close_on_hello, "closed during our ClientHello"),
    "plain HTTP": (bad.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "istio-proxy"),
    "SSH": (bad.say(b"SSH-2.0-OpenSSH_9.2\r\n"), "not TLS 1.3"),
    "random bytes": (bad.say(bytes(range(256)) * 200), "not TLS 1.3"),
    "an endless record": (bad.say(b"\x16\x03\x03\xff\xff" + b"\x02" * 100_000), "not TLS 1.3"),
    "TLS 1.2 only": (bad.show(at_most=ssl.TLSVersion.TLSv1_2), "TLS 1.3"),
    "no URI SAN": (bad.show(uri_sans=[], dns=["gateway.test"]), "0 URI names"),
    "two URI SANs": (bad.show(uri_sans=["spiffe://example.org" + GATEWAY_PATH, "spiffe://example.org/x"]),
                     "2 URI names"),
    "no SAN at all": (bad.show(uri_sans=[]), "no subjectAltName"),
    "expired": (bad.show(ttl=-60), "has expired"),
    "not yet valid": (bad.show(not_before=certs.now() + certs.seconds(3600)), "not yet valid"),
    "another's CA": (bad.show(domain=certs.TrustDomain("example.org")), "bundle lacks"),
    "another domain": (bad.show(domain=certs.TrustDomain("other.test")), "no bundle for trust domain other.test"),
    "another ID": (bad.show(uri_sans=["spiffe://example.org/ns/other/sa/intruder"]),
                   "the gateway is spiffe://example.org/ns/other/sa/intruder"),
    "our own ID": (bad.show(uri_sans=["spiffe://example.org" + SIDECAR_PATH]), "expected spiffe://example.org/ns/mail"),
    "CA as leaf": (bad.show(ca=True), "is a CA"),
    "leaf that may sign": (bad.show(key_usage=("digital_signature", "key_cert_sign")), "keyCertSign"),
    "for clients only": (bad.show(extended_key_usage=(certs.CLIENT_AUTH,)), "extendedKeyUsage"),
    "ID with control characters": (bad.show(uri_sans=[b"spiffe://example.org/a\r\n250 ok"]), "SPIFFE"),
}


@pytest.mark.parametrize("kind", NO_STREAM)
def test_stream_that_cannot_be_had_is_told_in_its_own_words(world, kind):
    _, aws, gateway, sidecar = world
    behaviour, words = NO_STREAM[kind]
    before = sidecar.memory_kb()["RssAnon"]
    gateway.behave(behaviour)
    code, text = send(sidecar)
    assert (code, text[:6]) == (454, "4.7.0 ") and words in text, text
    assert len(text) <= 420 and text.isprintable() and text.isascii()
    assert gateway.accepted == 1 and gateway.requests == [] and aws.requests_of("ses") == []
    assert sidecar.metric("ambiguous_total") == 0
    assert sidecar.wait_for_event("mail.done")["outcome"] == "retry"
    assert_alive_and_small(sidecar, gateway, before)


@pytest.mark.slow
def test_gateway_that_accepts_and_says_nothing_is_told_after_10_s(world):
    _, _, gateway, sidecar = world
    gateway.behave(bad.say_nothing)
    asked_at = time.monotonic()
    code, text = send(sidecar)
    assert 9 < time.monotonic() - asked_at < 16
    assert code == 454 and "accepted, then said nothing" in text, text
    assert gateway.accepted == 1
    gateway.heal()
    assert send(sidecar)[0] == 250


def test_gateway_that_asks_for_no_certificate_is_used_for_it_is_the_right_one(world):
    _, _, gateway, sidecar = world
    asked = []

    def behaviour(self, connection):
        stream = self.handshake(connection, self.context(asks=False))
        asked.append(stream.getpeercert(binary_form=True))
        self.read_request(stream)
        stream.sendall(with_length(TAKEN))

    gateway.behave(behaviour)
    assert send(sidecar)[0] == 250
    assert asked == [None]


def test_alert_46_is_told_as_the_gateway_not_trusting_our_ca(new_issuer, new_aws, new_gateway, new_sidecar):
    domain = new_issuer()
    aws = new_aws(domain)
    stranger = certs.TrustDomain("example.org")
    gateway = new_gateway(domain, aws, identity=file_identity(domain.certificates, stranger))
    sidecar = new_sidecar(domain, gateway, aws)
    sidecar.wait_for_event("credentials.failed")
    code, text = send(sidecar)
    assert code in (451, 454) and "sent TLS alert" in text, text
    assert "certificate_unknown" in text or "unknown_ca" in text, text
    assert "does not trust our certificate's CA" in text or "not in the gateway's bundle" in text, text


def test_ca_that_the_gateway_ceases_to_trust_is_a_refusal_and_no_lost_answer(
        new_issuer, new_aws, new_gateway, new_sidecar):
    domain = new_issuer()
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws, identity=domain.gateway_identity())
    sidecar = new_sidecar(domain, gateway, aws)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    gateway.stop()
    gateway.identity = file_identity(domain.certificates, certs.TrustDomain("example.org"))
    gateway.start()
    code, text = send(sidecar)
    assert code == 454 and "sent TLS alert" in text, text
    assert sidecar.metric("ambiguous_total") == 0


def test_alert_116_is_told_as_a_certificate_that_did_not_arrive(world, tmp_path):
    domain, _, gateway, sidecar = world
    cert, key = domain.certificates.issue(GATEWAY_PATH).write(tmp_path)
    port = free_port()
    # It asks for an RSA signature, so that our EC certificate cannot be shown.
    server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key,
                               "-Verify", "5", "-client_sigalgs", "rsa_pss_rsae_sha256", "-tls1_3", "-quiet"],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def behaviour(_self, connection):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as far:
            bad._pump(connection, far)

    try:
        poll_until("openssl to listen", lambda: listens(port), 10)
        gateway.behave(behaviour)
        code, text = send(sidecar)
    finally:
        server.kill()
        server.wait(10)
    assert code == 454 and "alert 116 certificate_required" in text, text
    assert "got no certificate from us" in text, text
    assert sidecar.metric("ambiguous_total") == 0  # no request is read before our certificate
    gateway.heal()
    assert send(sidecar)[0] == 250


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), open("/proc/net/tcp") as table:
        return any(f":{port:04X} 00000000:0000 0A" in line for line in table)
    return False


# --- the stream ends before the request was taken: asked once more by a new one, and that is all

BROKEN_STREAM = {
    "closed in order": (bad.after_handshake(bad.close_at_once), ["close_notify", "reset the stream"]),
    "cut": (bad.after_handshake(bad.cut_at_once), ["without close_notify", "reset the stream"]),
    "reset": (bad.after_handshake(bad.reset_at_once), ["reset the stream"]),
}


@pytest.mark.parametrize("kind", BROKEN_STREAM)
def test_stream_that_ends_before_the_request_is_tried_at_most_twice(world, kind):
    _, aws, gateway, sidecar = world
    behaviour, words = BROKEN_STREAM[kind]
    before = sidecar.memory_kb()["RssAnon"]
    gateway.behave(behaviour)
    code, text = send(sidecar, raw(b"0123456789abcdef\r\n" * 300_000))  # more than fits on the way
    assert code == 451 and text.startswith("4.4.2 mail not sent to SES") and any(w in text for w in words), text
    assert 1 <= gateway.accepted <= 2 and aws.requests_of("ses") == []
    assert sidecar.metric("ambiguous_total") == 0
    assert_alive_and_small(sidecar, gateway, before)


# --- the whole request was taken: whatever comes then, it is not sent again

FOREVER = b"x-filler: " + b"y" * 1000 + b"\r\n"
UNKNOWN = {
    "cut before the answer": bad.answer(keep=False),
    "cut in the head": bad.answer(OK, keep=False),
    "cut in the body": bad.answer(OK + b"Content-Length: 100\r\n\r\n" + TAKEN, keep=False),
    "cut in a chunk": bad.answer(CHUNKED + b"20\r\n" + TAKEN[:10], keep=False),
    "garbage": bad.answer(b"\x00\xff\x80garbage\r\n" * 1000, keep=False),
    "HTTP/0.9": bad.answer(TAKEN, keep=False),
    "HTTP/2": bad.answer(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18, keep=False),
    "HTTP/7.7": bad.answer(b"HTTP/7.7 200 OK\r\n\r\n", keep=False),
    "status without a number": bad.answer(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n", keep=False),
    "header of 1 MB": bad.answer(OK + b"x-long: " + b"z" * 1_000_000 + b"\r\n", with_length(TAKEN, b"")),
    "endless header": bad.answer_endlessly(OK, FOREVER),
    "endless header line": bad.answer_endlessly(OK + b"x-long: ", b"z" * 10_000),
    "endless body": bad.answer_endlessly(CHUNKED, b"1000\r\n" + b"b" * 4096 + b"\r\n"),
    "endless trailer": bad.answer_endlessly(CHUNKED + b"0\r\n", FOREVER),
    "100-continue storm": bad.answer_endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "103 storm": bad.answer_endlessly(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100),
    "too short a length": bad.answer(OK + b"Content-Length: 5\r\n\r\n" + TAKEN),
    "negative length": bad.answer(OK + b"Content-Length: -1\r\n\r\n" + TAKEN, keep=False),
    "bad chunk size": bad.answer(CHUNKED + b"ZZ\r\n" + TAKEN + b"\r\n0\r\n\r\n", keep=False),
    "chunk size beyond any number": bad.answer(CHUNKED + b"f" * 40 + b"\r\n",
                                               keep=False),
    "unknown coding": bad.answer(with_length(TAKEN, OK + b"Transfer-Encoding: brotli9\r\n"), keep=False),
    "no content": bad.answer(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "switching protocols": bad.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", keep=False),
    "200 without an ID": bad.answer(with_length(b"{}")),
    "200 with nested JSON": bad.answer(with_length(b"[" * 60_000)),
    "502": bad.answer(with_length(b"bad gateway", b"HTTP/1.1 502 Bad Gateway\r\n")),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_answer_that_is_none_is_unknown_and_the_request_is_not_sent_again(world, kind):
    _, aws, gateway, sidecar = world
    before = sidecar.memory_kb()["RssAnon"]
    gateway.behave(UNKNOWN[kind])
    code, text = send(sidecar)
    assert (code, text[:5]) == (451, "4.4.2"), text
    assert "X-Svidmail-Id" in text and len(text) <= 420 and text.isprintable() and text.isascii(), text
    assert len(gateway.requests) == 1 and aws.requests_of("ses") == []
    assert sidecar.metric("ambiguous_total") == 1
    assert_alive_and_small(sidecar, gateway, before)
    assert len(gateway.requests) == 1


@pytest.mark.slow
def test_answer_that_trickles_ends_at_the_time_limit(world):
    _, _, gateway, sidecar = world
    gateway.behave(bad.answer_endlessly(b"HTTP/1.1 200 OK\r\n", b"x", lambda: time.sleep(1)))
    asked_at = time.monotonic()
    code, text = send(sidecar)
    assert (code, text[:5]) == (451, "4.4.2") and "X-Svidmail-Id" in text, text
    assert time.monotonic() - asked_at < 32
    assert len(gateway.requests) == 1
    gateway.heal()
    assert send(sidecar)[0] == 250


# --- odd, but an answer

TAKEN_ODDLY = {
    "chunked": bad.answer(CHUNKED + b"5\r\n" + TAKEN[:5] + b"\r\n"
                          + b"%x;ext=1\r\n" % (len(TAKEN) - 5) + TAKEN[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n"),
    "byte by byte": bad.answer(*(bytes([byte]) for byte in with_length(TAKEN))),
    "after 100 Continue": bad.answer(b"HTTP/1.1 100 Continue\r\n\r\n", with_length(TAKEN)),
    "with a flood behind it": bad.answer(with_length(TAKEN), b"flood " * 1_000_000),
    "with a second answer behind it": bad.answer(with_length(TAKEN) + with_length(b'{"MessageId":"forged"}')),
    "two lengths alike": bad.answer(OK + b"Content-Length: 41\r\nContent-Length: 41\r\n\r\n" + TAKEN, keep=False),
    "a length beyond any number": bad.answer(OK + b"Content-Length: 999999999999999999999\r\n\r\n" + TAKEN,
                                             keep=False),
    "then cut": bad.answer(with_length(TAKEN), keep=False),
}


CUT_BEHIND = ("two lengths alike", "a length beyond any number", "then cut")


@pytest.mark.parametrize("kind", TAKEN_ODDLY)
def test_good_answer_is_understood_however_it_comes(world, kind):
    _, _, gateway, sidecar = world
    before = sidecar.memory_kb()["RssAnon"]
    gateway.behave(TAKEN_ODDLY[kind])
    code, text = send(sidecar)
    assert code == 250 and json.loads(TAKEN)["MessageId"] in text, text
    if kind in CUT_BEHIND:  # else the next one may go whole into what is cut then, and be called unknown
        poll_until("the stream to be cut", lambda: gateway.closed == 1, 10)
    code, text = send(sidecar)  # the next one is not answered by what was left over
    assert "forged" not in text and (code == 250 or text.startswith("4.4.")), text
    assert len(gateway.requests) == 2
    assert_alive_and_small(sidecar, gateway, before)


def test_refusal_before_the_body_was_read_is_told(world):
    _, _, gateway, sidecar = world
    gateway.behave(bad.answer_unread(with_length(b"RBAC: access denied", b"HTTP/1.1 403 Forbidden\r\n"
                                                                       b"Connection: close\r\n")))
    code, text = send(sidecar, raw(b"0123456789abcdef\r\n" * 300_000))
    assert code == 451 and ("AuthorizationPolicy" in text or "rbac_access_denied" in text), text
    assert sidecar.metric("ambiguous_total") == 0
    assert gateway.accepted <= 2
    gateway.heal()
    assert send(sidecar)[0] == 250
