# SPDX-License-Identifier: Apache-2.0
"""The SMTP port under what an app, or somebody posing as one, may do to it: it answers, stays small and serves on."""

import contextlib
import os
import resource
import select
import socket
import subprocess
import threading
import time

import pytest
from support.mails import RECIPIENT, SENDER, raw, send, without_trace
from support.ports import free_port
from support.processes import poll_until
from support.sidecar import SANITIZERS

BARE_MEMORY = {"env": {"ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=0"}}
START = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()


def talk(sidecar, data: bytes, timeout: float = 20) -> list[str]:
    """All replies to these bytes and a QUIT, the greeting first; as far as they came if the session is cut."""
    with sidecar.connect(timeout) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data + b"QUIT\r\n")
        return read_rest(connection)


def read_rest(connection) -> list[str]:
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65536):
            data += more
    return data.decode().splitlines()


def say(connection, data: bytes) -> str:
    """One reply's last line."""
    if data:
        connection.sendall(data)
    reply = b""
    while not reply.endswith(b"\r\n") or reply.split(b"\r\n")[-2][3:4] == b"-":
        more = connection.recv(4096)
        if not more:
            break
        reply += more
    return reply.decode()


# --- many, slow, and greedy clients


@pytest.fixture
def descriptors():
    """Enough of them for this process; svidmail sees to its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_1000_idle_connections_are_held_and_one_more_gets_421(new_sidecar, spire, gateway, aws, descriptors):
    sidecar = new_sidecar(spire, gateway, aws, {"smtp": {"max_connections": 1001}}, **BARE_MEMORY)
    sidecar.wait_ready()
    before = sidecar.memory_kb()["RssAnon"]
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(sidecar.connect()) for _ in range(1000)]
        assert all(say(connection, b"").startswith("220 ") for connection in held)
        assert send(sidecar)[0] == 250  # the 1001st
        poll_until("it to have ended", lambda: sidecar.metric("smtp_sessions") == 1000, 10)
        last = stack.enter_context(sidecar.connect())
        assert say(last, b"").startswith("220 ")
        [refusal] = read_rest(stack.enter_context(sidecar.connect()))
        assert refusal.startswith("421 4.3.2") and "too many connections" in refusal
        assert sidecar.metric("smtp_sessions") == 1001
        assert sidecar.memory_kb()["RssAnon"] - before < 60_000
        assert say(held[0], b"NOOP\r\n").startswith("250 ")
    poll_until("the sessions to end", lambda: sidecar.metric("smtp_sessions") == 0, 10)
    assert send(sidecar)[0] == 250


def test_client_of_one_byte_each_20_ms_is_served(sidecar, aws):
    data = b"HELO a\r\n" + START + raw(b"..\r\n") + b".\r\nQUIT\r\n"
    with sidecar.connect() as connection:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        replies = read_rest(connection)
    assert [reply[:3] for reply in replies] == ["220", "250", "250", "250", "354", "250", "221"]
    assert len(aws.mails) == 1


def test_10_mb_of_noops_whose_replies_nobody_reads_have_bounded_memory(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, **BARE_MEMORY)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    before = sidecar.memory_kb()["RssAnon"]
    with sidecar.connect() as connection:
        connection.setblocking(False)
        left = memoryview(b"NOOP\r\n" * 1_700_000)
        writable = select.poll()  # select() knows 1,024 descriptors, and a test before may have had as many
        writable.register(connection, select.POLLOUT)
        while left and writable.poll(2000):
            try:
                left = left[connection.send(left[:65536]):]
            except ConnectionError:
                break  # cut
        assert sidecar.memory_kb()["RssAnon"] - before < 20_000
        assert send(sidecar)[0] == 250
    assert send(sidecar)[0] == 250


def test_10_mb_of_noops_are_answered_one_by_one_to_who_reads(sidecar):
    count = 1_700_000
    with sidecar.connect(60) as connection:
        writer = threading.Thread(target=lambda: connection.sendall(b"NOOP\r\n" * count + b"QUIT\r\n"))
        writer.start()
        replies = read_rest(connection)
        writer.join(10)
    assert len(replies) == count + 2 and replies[-1].startswith("221 ")


# --- clients that leave


def test_app_that_left_before_the_verdict_is_named_in_the_mails_line(sidecar, aws):
    aws.inject(delay=1)
    with sidecar.connect() as connection:
        connection.sendall(b"EHLO a\r\n" + START + raw(b"x\r\n") + b".\r\n")
        aws.wait_for_requests(1)
    assert sidecar.wait_for_event("mail.done")["app_left"] is True
    assert send(sidecar)[0] == 250
    assert sidecar.wait_for_event("mail.done", app_left=False)["outcome"] == "delivered"


def test_app_that_left_inside_its_mail_is_told_of(sidecar, aws):
    with sidecar.connect() as connection:
        connection.sendall(b"EHLO a\r\n" + START + raw(b"half a ma"))
        poll_until("it to be read", lambda: sidecar.metric("smtp_reply_total", code="354") == 1, 10)
    aborted = sidecar.wait_for_event("smtp.tx.aborted", state="body")
    assert aborted["from_domain"] == "shop.example" and aborted["recipients"] == 1
    assert sidecar.wait_for_event("smtp.session.closed", session=aborted["session"])["state"] == "body"
    assert sidecar.metric("smtp_transactions_total", result="aborted") == 1
    assert aws.requests_of("ses") == []


# --- what is no mail, or tries to be two

ENDINGS = [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n\x00.\r\n", b"\n.\n\n",
           b"\r\r\n.\r\r\n"]


@pytest.mark.parametrize("ending", ENDINGS, ids=[ascii(ending) for ending in ENDINGS])
def test_smuggled_second_mail_never_becomes_one(sidecar, aws, ending):
    smuggled = b"MAIL FROM:<root@shop.example>\r\nRCPT TO:<victim@customer.example>\r\nDATA\r\n" + raw(b"forged\r\n")
    replies = talk(sidecar, b"EHLO a\r\n" + START + raw(b"first") + ending + smuggled + b"\r\n.\r\n")
    verdicts = [reply for reply in replies if reply.startswith(("250 2.0.0 Ok 0107", "55"))]
    assert len(verdicts) == 1, replies  # one mail, taken or refused
    assert len(aws.mails) <= 1
    for mail in aws.mails:
        assert mail.recipients == [RECIPIENT] and mail.violations == []
        assert b"forged" in without_trace(mail.raw)  # it is text of the first
    assert send(sidecar)[0] == 250


def test_bytes_behind_starttls_are_no_commands_of_an_encrypted_session(sidecar, aws):
    replies = talk(sidecar, b"EHLO a\r\nSTARTTLS\r\n" + START + raw(b"x\r\n") + b".\r\n")
    assert not any("STARTTLS" in reply and reply.startswith("250") for reply in replies)
    assert any(reply.startswith(("502 ", "500 ")) for reply in replies), replies
    assert len(aws.mails) <= 1


def test_bdat_is_not_offered_and_its_bytes_become_no_mail(sidecar, aws):
    body = b"MAIL FROM:<evil@shop.example>\r\n"
    replies = talk(sidecar, b"EHLO a\r\nMAIL FROM:<shop@shop.example>\r\nRCPT TO:<user@customer.example>\r\n"
                            b"BDAT %d LAST\r\n" % len(body) + body)
    assert not any("CHUNKING" in reply for reply in replies)
    assert any(reply.startswith("50") for reply in replies), replies
    assert aws.requests_of("ses") == []


@pytest.mark.parametrize("verb", [b"", b"MAIL FROM:<", b"RCPT TO:<", b"EHLO ", b"NOOP ", b"AUTH PLAIN "])
def test_command_of_1_mb_is_refused_and_the_session_goes_on(sidecar, verb):
    replies = talk(sidecar, b"EHLO a\r\n" + verb + b"x" * 1_000_000 + b"\r\nNOOP\r\n")
    assert sum(reply.startswith("500 5.5.2") for reply in replies) == 1, replies[-5:]
    assert replies[-2].startswith("250 ") and replies[-1].startswith("221 ")


@pytest.mark.parametrize("hello", [
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x01" * 12,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 300\r\n\r\n" + b"EHLO a\r\n" + START,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 1000 + b"\r\n", b"\xff\xfe" * 500 + b"\r\n"], ids=lambda hello: ascii(hello[:12]))
def test_another_protocol_sends_no_mail_and_is_not_served_for_ever(sidecar, aws, hello):
    replies = talk(sidecar, hello + b"\r\n")
    assert replies[0].startswith("220 ")
    assert all(reply[:1] in "245" for reply in replies)
    assert aws.requests_of("ses") == []
    assert send(sidecar)[0] == 250


@pytest.mark.parametrize("address", ["[::1]:{port}", "unix:{directory}/smtp.sock"])
def test_other_addresses_serve_as_well(new_sidecar, spire, gateway, aws, workdir, address):
    port = free_port()
    listen = address.format(port=port, directory=workdir())
    if listen.startswith("unix:"):
        os.chmod(os.path.dirname(listen[5:]), 0o777)
    sidecar = new_sidecar(spire, gateway, aws, {"smtp": {"listen": [listen]}})
    sidecar.wait_ready()
    kind = socket.AF_UNIX if listen.startswith("unix:") else socket.AF_INET6
    with socket.socket(kind) as connection:
        connection.settimeout(20)
        connection.connect(listen[5:] if kind == socket.AF_UNIX else ("::1", port))
        connection.sendall(b"EHLO a\r\n" + START + raw(b"x\r\n") + b".\r\nQUIT\r\n")
        replies = read_rest(connection)
    assert replies[-2].startswith("250 2.0.0 Ok"), replies
    assert len(aws.mails) == 1


# --- what the process lacks


def test_descriptors_used_up_cost_new_connections_and_nothing_else(new_sidecar, spire, gateway, aws, workdir):
    sidecar = new_sidecar(spire, gateway, aws, start=False)
    limited = os.path.join(workdir(), "svidmail")
    with open(limited, "w") as script:
        script.write(f'#!/bin/sh\nulimit -n 48\nexec {sidecar.program} "$@"\n')
    os.chmod(limited, 0o755)
    sidecar.program = limited
    sidecar.expect_warning("app.config", key="smtp.max_connections")
    sidecar.start().wait_ready()
    assert send(sidecar)[0] == 250
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(sidecar.connect()) for _ in range(60)]
        served = [connection for connection in crowd if is_greeted(connection)]
        assert 5 <= len(served) <= 40
        served[0].settimeout(30)
        served[0].sendall(b"EHLO a\r\n" + START + raw(b"x\r\n") + b".\r\nQUIT\r\n")
        replies = read_rest(served[0])
        # With a pooled file and a kept connection it goes; else it is deferred, never refused for good.
        assert replies[-2][:3] in ("250", "451", "452", "454") or replies[-1][:3] == "503", replies
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 20)


def is_greeted(connection) -> bool:
    connection.settimeout(1)
    try:
        return connection.recv(100).startswith(b"220 ")
    except OSError:
        return False


@pytest.fixture
def small_disk(workdir):
    """A file system of 1 MB."""
    directory = workdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "none", directory],
                      capture_output=True).returncode != 0:
        pytest.skip("no right to mount")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


def test_full_disk_is_452_and_the_next_small_mail_goes(new_sidecar, spire, gateway, aws, small_disk):
    sidecar = new_sidecar(spire, gateway, aws, env={"TMPDIR": small_disk})
    sidecar.wait_ready()
    code, text = send(sidecar, raw(b"0123456789abcdef\r\n" * 200_000))
    assert (code, text[:5]) == (452, "4.3.1"), text
    assert aws.requests_of("ses") == []
    assert send(sidecar)[0] == 250


def test_spool_directory_that_goes_away_is_4xx_until_it_is_back(new_sidecar, spire, gateway, aws, workdir):
    spool = os.path.join(workdir(), "spool")
    os.mkdir(spool)
    os.chmod(spool, 0o777)
    sidecar = new_sidecar(spire, gateway, aws, env={"TMPDIR": spool})
    sidecar.wait_ready()
    os.rmdir(spool)
    replies = talk(sidecar, b"EHLO a\r\n" + START)
    assert replies[-2].startswith("451 4.3.0 No place for the mail"), replies
    os.mkdir(spool)
    os.chmod(spool, 0o777)
    assert send(sidecar)[0] == 250
