# SPDX-License-Identifier: Apache-2.0
"""A mail reaches SES byte for byte, but for the headers svidmail says it adds and removes."""

import os

import pytest
from support.mails import RECIPIENT, SENDER, plain, raw, send, sha256, without_trace
from support.sidecar import SANITIZERS
from support.world import GATEWAY_PATH, SIDECAR_PATH


@pytest.fixture(params=["gateway", "end-to-end"])
def tls_mode(request) -> str:
    return request.param


def test_first_mail(sidecar, aws, gateway, spire):
    message = plain()
    code, text = send(sidecar, message)
    [mail] = aws.wait_for_mails(1)
    assert (code, text) == (250, f"2.0.0 Ok {mail.message_id}")
    assert without_trace(mail.raw) == message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
    assert mail.recipients == [RECIPIENT]
    assert mail.violations == []
    line = sidecar.wait_for_event("mail.done")
    assert line["outcome"] == "delivered"
    assert line["message_id"] == "<first@shop.example>"
    assert line["ses_message_id"] == mail.message_id
    assert line["aws_request_id"]
    assert line["gateway"] == spire.id(GATEWAY_PATH)
    seen = gateway.wait_for_access(log="api")
    assert seen["peer"] == spire.id(SIDECAR_PATH)


def test_body_is_byte_identical_in_both_tls_modes(new_sidecar, spire, gateway, aws, tls_mode):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls_mode}})
    sidecar.wait_ready()
    bodies = [b"", b"\r\n", b".\r\n", b"..\r\n.x\r\n", b"no line end", bytes(range(32, 127)) + b"\r\n",
              b"8-bit: \xc3\xa9\xff\xfe\x80\r\n", b"x" * 998 + b"\r\n", b"a\r\n" * 5000, os.urandom(3).hex().encode()]
    for body in bodies:
        sent = raw(body)
        code, text = send(sidecar, sent)
        assert code == 250, text
    for number, (body, mail) in enumerate(zip(bodies, aws.wait_for_mails(len(bodies)), strict=True)):
        # A client ends the last line: DATA cannot carry a mail that has no line end.
        expected = raw(body) if raw(body).endswith(b"\r\n") else raw(body) + b"\r\n"
        assert sha256(without_trace(mail.raw)) == sha256(expected), (number, body[:40])


def test_25_mb_in_both_tls_modes_with_flat_memory(new_sidecar, spire, gateway, aws, tls_mode):
    # Without a quarantine: the sanitizer keeps freed memory, which would be counted here.
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls_mode}},
                          env={"ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=0"})
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    before = sidecar.memory_kb()["RssAnon"]
    line = b"0123456789abcdef" * 4 + b"\r\n"
    sent = raw(line * (25_000_000 // len(line)))
    code, text = send(sidecar, sent)
    assert code == 250, text
    mail = aws.wait_for_mails(2)[1]
    assert sha256(without_trace(mail.raw)) == sha256(sent)
    # The budget of 8 MB is the benchmark's business, without sanitizers; here: it is not held as a whole.
    assert sidecar.memory_kb()["RssAnon"] - before < 20_000


def test_bare_line_feeds_become_crlf(sidecar, aws):
    with sidecar.connect() as connection:
        file = connection.makefile("rb")

        def say(data: bytes) -> bytes:
            connection.sendall(data)
            return file.readline()

        assert file.readline().startswith(b"220 ")
        assert say(b"HELO app\r\n").startswith(b"250 ")
        assert say(b"MAIL FROM:<shop@shop.example>\r\n").startswith(b"250 ")
        assert say(b"RCPT TO:<user@customer.example>\r\n").startswith(b"250 ")
        assert say(b"DATA\r\n").startswith(b"354 ")
        assert say(b"From: shop@shop.example\nTo: user@customer.example\nSubject: lf\n\none\ntwo\n\r\n.\r\n"
                   ).startswith(b"250 ")
    [mail] = aws.wait_for_mails(1)
    assert mail.violations == []
    assert mail.body.startswith(b"one\r\ntwo\r\n")


def test_pipelined_session_of_three_mails(sidecar, aws):
    one = b"MAIL FROM:<shop@shop.example>\r\nRCPT TO:<user@customer.example>\r\nDATA\r\n" + raw(b"pipelined\r\n.\r\n")
    with sidecar.connect() as connection:
        connection.sendall(b"EHLO app\r\n" + one * 3 + b"QUIT\r\n")
        replies = connection.makefile("rb").read().decode().splitlines()
    assert [reply for reply in replies if reply.startswith("250 2.0.0 Ok 0107")] != []
    assert sum(reply.startswith("250 2.0.0 Ok 0107") for reply in replies) == 3
    assert replies[-1].startswith("221 2.0.0")
    assert len(aws.wait_for_mails(3)) == 3


def test_bcc_is_removed_and_its_recipient_served(sidecar, aws):
    sent = raw(b"blind\r\n", b"Bcc: hidden@customer.example,\r\n folded@customer.example")
    assert send(sidecar, sent, [RECIPIENT, "hidden@customer.example"])[0] == 250
    [mail] = aws.wait_for_mails(1)
    assert sorted(mail.recipients) == ["hidden@customer.example", RECIPIENT]
    assert b"hidden" not in mail.raw and b"folded" not in mail.raw
    assert without_trace(mail.raw) == raw(b"blind\r\n")


def test_the_apps_ses_headers_are_removed_unless_allowed(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"ses": {"allow_headers": ["X-SES-MESSAGE-TAGS"]}})
    sidecar.wait_ready()
    sent = raw(b"x\r\n", b"X-SES-CONFIGURATION-SET: stolen", b"X-SES-Message-Tags: a=b", b"X-Ses-Source-Arn: arn")
    assert send(sidecar, sent)[0] == 250
    [mail] = aws.wait_for_mails(1)
    assert without_trace(mail.raw) == raw(b"x\r\n", b"X-SES-Message-Tags: a=b")


def test_missing_date_and_message_id_are_added(sidecar, aws):
    code, text = send(sidecar, b"From: shop@shop.example\r\nTo: user@customer.example\r\nSubject: bare\r\n\r\nx\r\n")
    assert code == 250, text
    [mail] = aws.wait_for_mails(1)
    headers = mail.parsed
    assert headers["Date"] and headers["Message-ID"] == f"<{headers['X-Svidmail-Id']}@" + headers[
        "Message-ID"].split("@", 1)[1]


def test_repeated_recipients_are_sent_once(sidecar, aws):
    assert send(sidecar, plain(), [RECIPIENT, RECIPIENT, "USER@customer.example", "user@CUSTOMER.example"])[0] == 250
    [mail] = aws.wait_for_mails(1)
    assert sorted(mail.recipients) == ["USER@customer.example", RECIPIENT]


def test_null_sender_is_refused_with_the_reason(sidecar, aws):
    code, text = send(sidecar, sender="")
    assert code == 550 and text.startswith("5.7.1") and "null sender" in text
    assert aws.mails == []


def test_the_51st_recipient_is_452(sidecar, aws):
    with sidecar.smtp() as client:
        client.ehlo()
        client.mail(SENDER)
        codes = [client.rcpt(f"r{number}@customer.example")[0] for number in range(51)]
        assert codes == [250] * 50 + [452]
        assert client.data(raw(b"x\r\n"))[0] == 250
    [mail] = aws.wait_for_mails(1)
    assert len(mail.recipients) == 50


def test_sts_is_asked_end_to_end_and_never_in_the_gateways_sight(sidecar, aws, gateway):
    assert send(sidecar)[0] == 250
    assert [request for request in aws.requests if request.service == "sts"]
    gateway.wait_for_access(log="api", code=200)
    assert {entry["sni"] for entry in gateway.access_log(log="api")} == {aws.ses_host}
