# SPDX-License-Identifier: Apache-2.0
"""SES's and STS's refusals reach the app as the right reply with AWS's own words, and nothing hostile breaks it."""

import json
import re

import pytest
from support.mails import RECIPIENT, SENDER, send
from support.world import SES_HOST

# AWS's error (aws_faults.py): code, enhanced status, words that must be in the reply.
VERDICTS = [
    ("sender-not-verified", 550, "5.7.1", "shop@shop.example"),
    ("rejected-content", 554, "5.6.0", "Message contents were rejected"),
    ("virus", 554, "5.7.0", "virus"),
    ("duplicate-header", 554, "5.6.0", "Duplicate header 'Subject'"),
    ("bad-address", 553, "5.1.3", "Domain contains illegal character"),
    ("sending-rate", 451, "4.7.1", "Maximum sending rate exceeded"),
    ("daily-quota", 452, "4.3.1", "Daily message quota exceeded"),
    ("throttling", 451, "4.7.1", "Rate exceeded"),
    ("throttling-503", 451, "4.7.1", "Reduce your request rate"),
    ("sending-paused", 451, "4.7.1", "Sending is paused"),
    ("account-suspended", 550, "5.7.1", "suspended"),
    ("mail-from", 451, "4.4.3", "Mail-From domain is not verified"),
    ("limit-exceeded", 452, "4.3.1", "Limit exceeded"),
    ("configuration-set-missing", 451, "4.3.5", "Configuration set"),
    ("bad-configuration-set", 451, "4.3.5", "Configuration set"),
    ("internal", 451, "4.3.0", "Internal service error"),
    ("unavailable", 451, "4.4.1", "Service is unavailable"),
    ("access-denied", 451, "4.7.0", "ses:SendRawEmail"),
    ("too-large", 552, "5.3.4", ""),
    ("unknown-operation", 451, "4.3.5", ""),
    ("unknown-error", 451, "", "nobody has heard of"),
    ("html", 451, "4.4.1", ""),
]

# Those that no other mail will pass either until somebody has put the set-up right.
OPERATORS = {"sending-paused", "account-suspended", "mail-from", "configuration-set-missing", "bad-configuration-set",
             "access-denied", "unknown-operation"}


@pytest.mark.parametrize("fault, code, enhanced, words", VERDICTS, ids=[row[0] for row in VERDICTS])
def test_refusal_is_answered_with_its_own_words(sidecar, aws, fault, code, enhanced, words):
    aws.inject(fault)
    answer, text = send(sidecar)
    assert answer == code, text
    assert text.startswith(enhanced) and words in text, text
    assert len(text) <= 420 and re.fullmatch(r"[ -~]*", text)
    assert len(aws.requests_of("ses")) == 1
    assert aws.mails == []
    done = sidecar.wait_for_event("mail.done")
    assert done["code"] == code and done["operator_fault"] == (fault in OPERATORS), done
    assert send(sidecar)[0] == 250  # the next one is none the worse


def test_addresses_in_refusals_stay_out_of_log_and_status(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"policy": {"senders": [SENDER]}})
    sidecar.wait_ready()
    aws.inject("sender-not-verified")
    assert SENDER in send(sidecar)[1], "the app itself is told"
    assert "@shop.example; verify this sender" in sidecar.wait_for_event("mail.done")["reply"]
    assert "boss@shop.example" in send(sidecar, sender="boss@shop.example")[1]
    sidecar.wait_for_event("smtp.tx.refused")
    kept = json.dumps(sidecar.events()) + sidecar.admin("/status") + sidecar.cli("status").stdout
    for address in (SENDER, "boss@shop.example", RECIPIENT):
        assert address not in kept


def test_text_with_control_characters_is_made_harmless(sidecar, aws):
    aws.inject(status=400, error="MessageRejected", message="bad\r\n250 2.0.0 Ok forged\x00\x1b[31m\u00e9")
    code, text = send(sidecar)
    assert code == 554
    assert "\r" not in text and "\n" not in text and "\x1b" not in text and "\x00" not in text
    assert sidecar.wait_for_event("mail.done")["outcome"] == "rejected"
    assert send(sidecar)[0] == 250


def test_text_of_1_mb_ends_in_a_short_reply(sidecar, aws):
    aws.inject(status=400, error="MessageRejected", message="long " * 200_000)
    code, text = send(sidecar)
    assert code in (451, 554) and len(text) <= 420
    assert send(sidecar)[0] == 250


def test_429_is_451_and_counted(sidecar, aws):
    aws.inject("sending-rate")
    assert send(sidecar)[0] == 451
    assert sidecar.metric("attempts_total", route="ses-api", outcome="retry") == 1


@pytest.mark.parametrize("tls", ["gateway", "end-to-end"])
def test_aws_cuts_after_the_full_body_is_unknown_and_sent_once(new_sidecar, spire, gateway, aws, tls):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls}})
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250  # so that the connection is a kept one: the case in which libcurl resends
    aws.inject(cut="before-answer")
    code, text = send(sidecar)
    assert code == 451 and text.startswith("4.4.2") and "X-Svidmail-Id" in text, text
    assert len(aws.requests_of("ses")) == 2
    assert sidecar.wait_for_event("relay.unknown")
    assert sidecar.metric("ambiguous_total") == 1
    assert sidecar.metric("attempts_total", outcome="unknown") == 1
    assert send(sidecar)[0] == 250


@pytest.mark.parametrize("tls", ["gateway", "end-to-end"])
def test_answer_cut_in_the_middle_is_unknown(new_sidecar, spire, gateway, aws, tls):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls}})
    sidecar.wait_ready()
    aws.inject(cut="mid-answer")
    code, text = send(sidecar)
    assert code == 451 and text.startswith("4.4.2"), text
    assert len(aws.requests_of("ses")) == 1
    assert sidecar.metric("ambiguous_total") == 1


def test_gateway_gives_up_waiting_is_unknown(new_sidecar, new_gateway, spire, aws):
    gateway = new_gateway(spire, aws, timeout="4s")
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    aws.inject(hang=True, service="ses")
    code, text = send(sidecar)
    assert code == 451 and text.startswith("4.4.2"), text
    assert sidecar.metric("ambiguous_total") == 1
    assert len(aws.requests_of("ses")) == 1


def test_kept_connection_that_aws_has_closed_meanwhile_costs_no_mail(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": "end-to-end"}})
    sidecar.wait_ready()
    aws.inject(cut="after-answer")
    assert send(sidecar)[0] == 250
    # A mail that is written into a connection which ends amid it has an unknown fate, rightly.
    sidecar.wait_for_event("gateway.closed", sni=SES_HOST)
    assert send(sidecar)[0] == 250
    assert len(aws.mails) == 2


def test_expired_token_is_renewed_and_the_app_does_not_notice(sidecar, aws):
    assert send(sidecar)[0] == 250
    aws.inject("expired-token")
    assert send(sidecar)[0] == 250
    assert len(aws.requests_of("sts")) == 2
    assert len(aws.requests_of("ses")) == 3


def test_credentials_expire_under_way_and_are_renewed(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    aws.sts.keys.clear()  # AWS has forgotten them: UnrecognizedClientException
    assert send(sidecar)[0] == 250
    assert len(aws.requests_of("sts")) == 2


def test_jwt_that_sts_calls_expired_is_fetched_anew(new_sidecar, spire, gateway, aws):
    """An agent may hand out a token with little life left: the second one is not taken from the cache."""
    aws.inject("sts-expired-token")
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_for_event("credentials.renewed")
    assert send(sidecar)[0] == 250
    assert len(aws.requests_of("sts")) == 2
    assert sidecar.events("credentials.failed", **{"class": "expired"}) == []
    assert sidecar.count_events("jwt.fetched") == 2


STS_REFUSALS = [
    ("sts-access-denied", "trust policy"),
    ("sts-invalid-token", "audience"),
    ("sts-idp-communication", "IDPCommunicationError"),
    ("sts-unavailable", "Service is unavailable"),
    ("sts-no-xml", ""),
    ("sts-half-xml", ""),
    ("sts-no-credentials", ""),
]


@pytest.mark.parametrize("fault, words", STS_REFUSALS, ids=[row[0] for row in STS_REFUSALS])
def test_sts_says_no(new_sidecar, spire, gateway, aws, fault, words):
    aws.inject(fault, times=50)
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_for_event("credentials.failed")
    code, text = send(sidecar)
    assert code in (451, 454) and text.startswith("4."), text
    assert words in text, text
    assert aws.requests_of("ses") == []
    assert len(aws.requests_of("sts")) < 10  # no storm
