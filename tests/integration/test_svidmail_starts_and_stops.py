# SPDX-License-Identifier: Apache-2.0
"""It ends when it is told to, within 2 s and with a word to everybody, and starts only where it may."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time

import pytest
from support.mails import RECIPIENT, SENDER, raw, send
from support.ports import free_port
from support.processes import poll_until

EXIT_IN_S = 2.0
SANITIZER_S = 2.0  # the leak check at exit, on a busy machine



def test_sigterm_tells_421_to_idle_sessions_and_exits_0_within_2_s(sidecar):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(sidecar.connect()) for _ in range(20)]
        for connection in idle:
            assert connection.recv(200).startswith(b"220 ")
        idle[0].sendall(b"EHLO a\r\nMAIL FROM:<shop@shop.example>\r\n")
        poll_until("MAIL to be answered", lambda: b"2.1.0" in idle[0].recv(1000), 5)
        asked_at = time.monotonic()
        sidecar.process.send_signal(signal.SIGTERM)
        for connection in idle:
            assert connection.recv(200).startswith(b"421 4.3.2")
            assert connection.recv(200) == b""
        assert sidecar.wait_exit(10) == 0
    assert time.monotonic() - asked_at < EXIT_IN_S + SANITIZER_S


class Sender:
    """One mail by an app that reads until the session is over; .replies then."""

    def __init__(self, sidecar):
        self.replies: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(sidecar,))
        self._thread.start()

    def _run(self, sidecar):
        with sidecar.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(f"EHLO a\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
                               + raw(b"x\r\n") + b".\r\n")
            self.replies = connection.makefile("rb").read().decode().splitlines()

    def verdict(self) -> str:
        """What came after 354; "" if nothing did."""
        self._thread.join(20)
        at = next(number for number, reply in enumerate(self.replies) if reply.startswith("354 "))
        return (self.replies[at + 1:] or [""])[0]


@pytest.mark.parametrize("where, words", [("ses", "SES may have taken the mail"),
                                          ("sts", "waited for AWS credentials")])
def test_sigterm_with_a_mail_in_flight_tells_451_and_exits_0_within_2_s(new_sidecar, spire, gateway, aws, where, words):
    aws.inject(hang=True, service=where)
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    sender = Sender(sidecar)
    aws.wait_for_requests(1, service=where)
    poll_until("the mail to be on its way", lambda: sidecar.metric("smtp_reply_total", code="354") == 1, 10)
    asked_at = time.monotonic()
    sidecar.process.send_signal(signal.SIGTERM)
    verdict = sender.verdict()
    assert verdict.startswith("451 4.4.") and "svidmail is stopping" in verdict and words in verdict, verdict
    assert sidecar.wait_exit(10) == 0
    assert time.monotonic() - asked_at < EXIT_IN_S + SANITIZER_S


def test_sigterm_with_a_mail_in_flight_waits_for_a_verdict_that_comes_soon(sidecar, aws):
    assert send(sidecar)[0] == 250
    aws.inject(hang=True, service="ses")
    sender = Sender(sidecar)
    aws.wait_for_requests(2)
    sidecar.process.send_signal(signal.SIGTERM)
    sidecar.wait_for_event("app.stopping", in_flight=1)
    aws.clear_faults()  # lets it go
    verdict = sender.verdict()
    assert sidecar.wait_exit(10) == 0
    assert verdict[:4] in ("250 ", "451 "), verdict
    assert "svidmail is stopping" not in verdict
    assert sender.replies[-1].startswith("421 4.3.2")


def test_sigterm_again_and_again_ends_at_once_and_with_0(sidecar, aws):
    aws.inject(hang=True, service="ses")
    sender = Sender(sidecar)
    aws.wait_for_requests(1)
    sidecar.process.send_signal(signal.SIGTERM)
    sidecar.wait_for_event("app.stopping")
    asked_at = time.monotonic()
    while sidecar.process.is_alive():
        sidecar.process.send_signal(signal.SIGTERM)
    assert time.monotonic() - asked_at < 1 + SANITIZER_S
    assert sidecar.wait_exit(10) == 0
    assert sender.verdict()[:4] in ("", "451 ")


def test_sigterm_before_the_agent_has_answered_exits_0(new_sidecar, spire, gateway, aws):
    config = {"identity": {"endpoint": "unix:///nonexistent/agent.sock"}, "gateway": {"host": "gateway.invalid"}}
    sidecar = new_sidecar(spire, gateway, aws, config)
    asked_at = time.monotonic()
    assert sidecar.stop() == 0
    assert time.monotonic() - asked_at < EXIT_IN_S + SANITIZER_S


def test_sigterm_while_the_body_comes_ends_the_session_within_2_s(sidecar, aws):
    with sidecar.connect() as connection:
        connection.sendall(b"EHLO a\r\nMAIL FROM:<shop@shop.example>\r\nRCPT TO:<user@customer.example>\r\nDATA\r\n")
        poll_until("DATA to be answered", lambda: b"354 " in connection.recv(4000), 5)
        connection.sendall(b"Subject: never ends\r\n\r\n" + b"x\r\n" * 1000)
        asked_at = time.monotonic()
        sidecar.process.send_signal(signal.SIGTERM)
        assert sidecar.wait_exit(10) == 0
        assert time.monotonic() - asked_at < EXIT_IN_S + SANITIZER_S
    assert aws.requests_of("ses") == []


# --- where it may not start


def second(new_sidecar, spire, gateway, aws, config: dict, code: int,
           env: dict | None = None) -> str:
    """What a svidmail says that does not start; it leaks nothing of what it had begun."""
    sidecar = new_sidecar(spire, gateway, aws, config, start=False, env=env)
    if env:
        sidecar.expect_warning("pod.shared")
    if code == 1:
        sidecar.expect_warning("app.cannot_start")
    sidecar.start(wait=False)
    assert sidecar.wait_exit(15) == code, sidecar.last_words
    assert len(sidecar.events("app.cannot_start")) == (1 if code == 1 else 0), sidecar.last_words
    return sidecar.last_words


def test_second_on_the_same_admin_socket_is_refused_and_the_first_serves_on(new_sidecar, spire, gateway, aws, sidecar):
    os.chmod(sidecar.directory, 0o777)
    words = second(new_sidecar, spire, gateway, aws, {"admin": {"socket": sidecar.admin_socket}}, 1)
    assert "another svidmail is running on it" in words and sidecar.admin_socket in words
    assert sidecar.is_ready() and send(sidecar)[0] == 250


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_why_it_cannot_start_is_the_last_line_of_its_log(new_sidecar, spire, gateway, aws, log_format):
    """A collector parses every line; people read it as well."""
    config = {"admin": {"socket": "/proc/svidmail/admin.sock"}, "log": {"format": log_format}}
    sidecar = new_sidecar(spire, gateway, aws, config, start=False)
    sidecar.expect_warning("app.cannot_start")
    sidecar.start(wait=False)
    assert sidecar.wait_exit(15) == 1
    lines = sidecar.last_words.splitlines()
    if log_format == "json":
        line = [json.loads(line) for line in lines][-1]
        assert (line["event"], line["level"]) == ("app.cannot_start", "error"), line
        assert "/proc/svidmail/admin.sock" in line["error"] and line["config"] == sidecar.config_file, line
    else:
        assert re.fullmatch(r'\S+ error app\.cannot_start class="\S+" error="[^"]*/proc/svidmail/admin\.sock[^"]*" '
                            r'config="\S+"', lines[-1]), lines


def test_configuration_that_is_wrong_is_told_as_compilers_do(new_sidecar, spire, gateway, aws):
    """Plainly: how the log is to look stands in the very file."""
    words = second(new_sidecar, spire, gateway, aws, {"nonsense": 1, "log": {"format": "json"}}, 2)
    assert re.match(r"\S+/svidmail\.yaml:\d+:\d+: nonsense: ", words), words


def test_second_on_the_same_port_is_refused_and_the_first_serves_on(new_sidecar, spire, gateway, aws, sidecar):
    words = second(new_sidecar, spire, gateway, aws, {"smtp": {"listen": [f"127.0.0.1:{sidecar.port}"]}}, 1)
    assert f"cannot listen on 127.0.0.1 port {sidecar.port}" in words and "in use" in words, words
    assert send(sidecar)[0] == 250


@pytest.mark.parametrize("address", ["0.0.0.0:2525", "[::]:2525", ":2525", "10.1.2.3:2525", "*:2525"])
def test_address_that_others_can_reach_is_refused(new_sidecar, spire, gateway, aws, address):
    words = second(new_sidecar, spire, gateway, aws, {"smtp": {"listen": [address]}}, 2)
    assert "svidmail.yaml:" in words and "smtp.listen" in words, words
    assert "allow_any_address" in words or "allowed:" in words, words


def test_host_network_is_refused_unless_allowed(new_sidecar, spire, gateway, aws):
    env = {"SVIDMAIL_POD_IP": "10.0.0.7", "SVIDMAIL_HOST_IP": "10.0.0.7"}
    words = second(new_sidecar, spire, gateway, aws, {}, 1, env=env)
    assert "host's network (10.0.0.7)" in words and "allow_host_network" in words, words
    allowed = new_sidecar(spire, gateway, aws, {"smtp": {"allow_host_network": True}}, env=env)
    allowed.expect_warning("pod.shared")  # by the looks of it: here it is no container's first process
    allowed.wait_ready()
    assert send(allowed)[0] == 250


def test_pod_network_is_taken(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, env={"SVIDMAIL_POD_IP": "10.0.0.7", "SVIDMAIL_HOST_IP": "10.0.0.8"})
    sidecar.expect_warning("pod.shared")
    sidecar.wait_ready()


def test_host_network_that_cannot_be_told_is_warned_of(new_sidecar, spire, gateway, aws):
    """As in a pod whose manifest was written by hand: without the two variables there is nothing to go by."""
    in_kubernetes = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    for env in ({}, {"SVIDMAIL_POD_IP": "10.0.0.7"}, {"SVIDMAIL_POD_IP": "10.0.0.7", "SVIDMAIL_HOST_IP": ""}):
        sidecar = new_sidecar(spire, gateway, aws, env=in_kubernetes | env, start=False)
        sidecar.expect_warning("pod.shared")
        sidecar.expect_warning("app.config", key="smtp.allow_host_network")
        sidecar.start()
        warning = sidecar.wait_for_event("app.config")
        assert "host's network" in warning["why"], warning
        for words in ("SVIDMAIL_POD_IP", "status.podIP", "SVIDMAIL_HOST_IP", "status.hostIP", "valueFrom", "fieldRef"):
            assert words in warning["cure"], warning


@pytest.mark.parametrize("env, config", [
    ({}, {}),
    ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "SVIDMAIL_POD_IP": "10.0.0.7", "SVIDMAIL_HOST_IP": "10.0.0.8"}, {}),
    ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, {"smtp": {"allow_host_network": True}}),
], ids=["no pod", "can be told", "is allowed"])
def test_host_network_is_not_warned_of_where(new_sidecar, spire, gateway, aws, env, config):
    sidecar = new_sidecar(spire, gateway, aws, config, env=env)
    if env:
        sidecar.expect_warning("pod.shared")
    assert sidecar.events("app.config") == []


def test_metrics_port_that_is_taken_is_a_warning_and_mail_goes_on(new_sidecar, spire, gateway, aws):
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        sidecar = new_sidecar(spire, gateway, aws, {"admin": {"metrics_listen": f"127.0.0.1:{port}"}}, start=False)
        sidecar.expect_warning("admin.skipped")
        sidecar.start()
        assert str(port) in sidecar.wait_for_event("admin.skipped")["address"]
        sidecar.wait_ready()
        assert send(sidecar)[0] == 250


def test_run_directory_that_is_not_writable_is_told(new_sidecar, spire, gateway, aws):
    words = second(new_sidecar, spire, gateway, aws, {"admin": {"socket": "/proc/svidmail/admin.sock"}}, 1)
    assert "/proc/svidmail/admin.sock" in words
