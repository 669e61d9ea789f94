# SPDX-License-Identifier: Apache-2.0
"""An agent that ends, tears, stalls and refuses its answers: said in words, and mail goes on as long as it may.

SPIRE cannot be made to do this at an exact moment, so the issuer of tests/support stands in for it.
"""

import threading
import time

import pytest
from support import workload_messages as messages
from support.mails import send
from support.processes import poll_until
from support.traffic import Traffic
from support.workload_api import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    PERMISSION_DENIED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
)

X509, JWT = "FetchX509SVID", "FetchJWTSVID"

# What passes by itself is tried again soon; the rest once a minute, and an operator is told.
PASSING = [
    (UNAVAILABLE, "the agent is not available"),
    (INTERNAL, "the agent has failed"),
    (UNKNOWN, "the agent has failed"),
    (CANCELLED, "the agent has cut the stream"),
    (DEADLINE_EXCEEDED, "the agent did not answer in time"),
    (PERMISSION_DENIED, "no registration entry matches it"),
]
LASTING = [
    (INVALID_ARGUMENT, "workload.spiffe.io"),
    (UNIMPLEMENTED, "Istio's SDS socket"),
]


def named(rows):
    return [row[0].name.lower() for row in rows]


def no_identity(sidecar) -> str:
    """The text of the refusal of a mail for want of an identity, which comes at MAIL."""
    code, text = send(sidecar)
    assert code == 451 and text.startswith("4.7.0"), (code, text)
    return text


@pytest.mark.parametrize("status, words", PASSING, ids=named(PASSING))
def test_refusal_that_passes_is_told_and_tried_again(issued_world, status, words):
    issuer, _, _, sidecar = issued_world(start=False)
    issuer.fail(X509, status, "because\r\nof \x1b[31mthis")
    sidecar.start()
    waiting = sidecar.wait_for_event("workload_api.waiting", error=lambda error: words in error)
    assert "because" in waiting["error"] and "\x1b" not in waiting["error"]
    assert words in no_identity(sidecar)
    issuer.heal()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


@pytest.mark.parametrize("status, words", LASTING, ids=named(LASTING))
def test_refusal_that_lasts_is_told_to_an_operator_and_tried_once_a_minute(issued_world, status, words):
    issuer, _, _, sidecar = issued_world(start=False)
    issuer.fail(X509, status)
    sidecar.expect_warning("workload_api.broken")
    sidecar.start()
    broken = sidecar.wait_for_event("workload_api.broken")
    assert words in broken["error"] and broken["retry_ms"] == 60000
    assert words in no_identity(sidecar)
    assert len(issuer.calls_of(X509)) == 1


@pytest.mark.parametrize("status, words", [row for row in PASSING + LASTING if row[0] is not PERMISSION_DENIED],
                         ids=lambda value: getattr(value, "name", "").lower())
def test_stream_that_ends_badly_costs_no_mail(issued_world, status, words):
    issuer, aws, _, sidecar = issued_world()
    sidecar.wait_ready()
    if status in (INVALID_ARGUMENT, UNIMPLEMENTED):
        sidecar.expect_warning("workload_api.broken")
    issuer.fail(X509, status, live=True)
    sidecar.wait_for_event(None, error=lambda error: error is not None and words in error)
    for _ in range(3):
        assert send(sidecar)[0] == 250
    assert sidecar.is_ready()
    assert len(aws.mails) == 3


def test_denied_on_a_live_stream_is_a_redaction_at_once_and_cuts_connections(issued_world):
    issuer, aws, gateway, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    assert gateway.connections("api") == 1
    denied_at = time.monotonic()
    issuer.set_identities()
    sidecar.wait_for_event("svid.redacted", timeout=15)
    assert "no registration entry" in no_identity(sidecar)
    assert time.monotonic() - denied_at < 15
    poll_until("the gateway's connections to be cut",
               lambda: gateway.connections("api") + gateway.connections("end_to_end") == 0, 5)
    assert not sidecar.is_ready()
    assert len(aws.mails) == 1
    issuer.set_identities("/ns/shop/sa/checkout/svidmail")
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


def test_redaction_ends_a_mail_under_way_and_tells_its_sender(issued_world):
    issuer, aws, _, sidecar = issued_world()
    sidecar.wait_ready()
    aws.inject(hang=True, service="ses")
    answers = []
    sender = threading.Thread(target=lambda: answers.append(send(sidecar)))
    sender.start()
    [request] = aws.wait_for_requests(1)
    poll_until("the whole body to have left", lambda: request.complete, 10)
    issuer.set_identities()
    sender.join(10)
    assert [code for code, _ in answers] in ([451], [454]), answers
    assert "X-Svidmail-Id" in answers[0][1], answers  # SES may have it
    assert sidecar.metric("ambiguous_total") == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_denied_after_a_lost_connection_is_a_redaction_only_after_the_grace(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250  # with credentials that outlive the agent
    issuer.stop()
    sidecar.wait_for_event("workload_api.waiting")
    issuer.set_identities(push=False)
    issuer.start()  # as an agent that does not know its entries yet
    sidecar.wait_for_event("workload_api.waiting", error=lambda error: "no registration entry" in error, timeout=30)
    denied_at = time.monotonic()
    with Traffic(sidecar, pause_s=0.5) as traffic:
        while time.monotonic() - denied_at < 45:
            traffic.wait_for_more(1)
        assert traffic.failures == [] and sidecar.count_events("svid.redacted") == 0
        sidecar.wait_for_event("svid.redacted", timeout=40)
        assert 55 < time.monotonic() - denied_at < 80
    assert "no registration entry" in no_identity(sidecar)


def test_stream_that_always_ends_well_is_not_hammered(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    opened = len(issuer.calls_of(X509))
    done = threading.Event()

    def end_each_stream():
        while not done.wait(0.02):
            issuer.end_streams(OK, rpc=X509)

    ender = threading.Thread(target=end_each_stream)
    began = time.monotonic()
    ender.start()
    try:
        with Traffic(sidecar) as traffic:
            while time.monotonic() - began < 8:
                traffic.wait_for_more(5)
    finally:
        done.set()
        ender.join()
    assert traffic.failures == []
    assert 2 <= len(issuer.calls_of(X509)) - opened <= 16
    issuer.wait_for_streams(1, timeout=20)


def test_stream_torn_in_the_middle_of_a_message_is_opened_again(issued_world):
    issuer, _, _, sidecar = issued_world(torn=True)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250  # no JWT call is under way that could be cut instead
    issuer.relay.cut_after(300)
    issuer.rotate()
    sidecar.wait_for_event("workload_api.connected", after=1, timeout=30)
    sidecar.wait_for_event("svid.rotated", generation=2)
    assert send(sidecar)[0] == 250
    issuer.relay.cut()
    sidecar.wait_for_event("workload_api.connected", after=2, timeout=30)
    assert send(sidecar)[0] == 250


def test_stream_torn_in_each_of_its_first_bytes_ends_in_an_identity(issued_world):
    issuer, _, _, sidecar = issued_world(torn=True, start=False)
    issuer.relay.cut_each_after(1, 9, 40, 90, 200, 600)
    sidecar.start()
    issuer.relay.wait_for_connections(7, timeout=90)
    sidecar.wait_ready(60)
    assert send(sidecar)[0] == 250


def test_agent_that_accepts_and_says_nothing_is_told_so(issued_world):
    issuer, _, _, sidecar = issued_world(torn=True, start=False)
    issuer.relay.stall()
    sidecar.start()
    sidecar.wait_for_event("workload_api.waiting", error=lambda error: "does not answer: it hangs" in error)
    assert "it hangs" in no_identity(sidecar)
    issuer.relay.resume()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


def test_agent_that_takes_the_call_and_is_silent_is_told_so(issued_world):
    issuer, _, _, sidecar = issued_world(start=False)
    issuer.stall(X509)
    sidecar.start()
    sidecar.wait_for_event("workload_api.waiting", error=lambda error: "taken the call and is silent" in error)
    assert "silent" in no_identity(sidecar)
    issuer.heal()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


@pytest.mark.slow
def test_mail_does_not_wait_for_ever_for_a_jwt_call_that_hangs(issued_world):
    issuer, aws, _, sidecar = issued_world(start=False)
    issuer.stall(JWT)
    sidecar.start()
    sidecar.wait_ready()
    asked_at = time.monotonic()
    code, text = send(sidecar)
    assert code == 451 and "waited for AWS credentials" in text, text
    assert sidecar.metric("ambiguous_total") == 0
    assert time.monotonic() - asked_at < 35
    assert aws.requests == []
    issuer.heal()
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 40)


def test_jwt_call_that_fails_is_told_with_the_agents_words(issued_world):
    issuer, aws, _, sidecar = issued_world(start=False)
    issuer.fail(JWT, UNAVAILABLE, "upstream server is down")
    sidecar.start()
    sidecar.wait_for_event("jwt.fetch.failed")
    code, text = send(sidecar)
    assert code == 451 and "upstream server is down" in text, text
    assert aws.requests == []
    issuer.heal()
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 40)


def jwts(issuer, token: str, spiffe_id: str | None = None):
    response = messages.JWTSVIDResponse()
    response.svids.add(spiffe_id=spiffe_id or issuer.svids[0].spiffe_id, svid=token)
    return response


BAD_JWTS = {
    "no SVID": (lambda issuer: messages.JWTSVIDResponse(), "holds no JWT-SVID"),
    "empty": (lambda issuer: jwts(issuer, ""), "holds no JWT-SVID"),
    "for another ID": (lambda issuer: jwts(issuer, "a.b.c", "spiffe://example.org/x"), "holds no JWT-SVID"),
    "garbage": (lambda issuer: jwts(issuer, "not a token"), "no readable exp"),
    "garbage with dots": (lambda issuer: jwts(issuer, "a.!!.c"), "no readable exp"),
    "without exp": (lambda issuer: jwts(issuer, "e30.e30.AAAA"), "no readable exp"),
    "exp beyond any number": (lambda issuer: jwts(issuer, "e30.eyJleHAiOjFlOTk5fQ.AAAA"), "no readable exp"),
    "a megabyte": (lambda issuer: jwts(issuer, "x" * 1_000_000), "no readable exp"),
    "no message": (lambda issuer: b"\xff" * 1000, "cannot be decoded"),
    "expired": (lambda issuer: jwts(issuer, issuer.jwt.sign(issuer.svids[0].spiffe_id, "sts", ttl=-600)),
                "expired 6"),
}


@pytest.mark.parametrize("kind", BAD_JWTS)
def test_unusable_jwt_is_told_and_never_sent_to_aws(issued_world, kind):
    issuer, aws, _, sidecar = issued_world(start=False)
    make, words = BAD_JWTS[kind]
    issuer.set_response(JWT, make(issuer))
    sidecar.start()
    failed = sidecar.wait_for_event("jwt.fetch.failed")
    assert words in failed["error"], failed
    code, text = send(sidecar)
    assert code == 451 and words in text, text
    assert aws.requests == []
    assert len(issuer.calls_of(JWT)) < 10
    issuer.set_response(JWT, None)
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 40)
