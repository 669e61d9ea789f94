# SPDX-License-Identifier: Apache-2.0
"""The preStop hook announces and does no more: mail is taken until SIGTERM, and no pod is ever held up by it."""

import signal
import time

import pytest
from support.mails import send

HOOK_S = 1.0  # what a preStop hook may cost a pod; less than half of it is what a sanitizer adds
SANITIZER_S = 1.0


def announce(sidecar) -> float:
    """The hook, as kubelet runs it: it succeeds; how long it took."""
    began = time.monotonic()
    result = sidecar.cli("announce-stop")
    assert result.returncode == 0, result
    announce.said = result.stdout + result.stderr
    return time.monotonic() - began


def test_announced_end_is_noted_and_mail_is_taken_until_sigterm(sidecar):
    assert sidecar.status()["pod"]["ending"] is False
    assert sidecar.metric("pod_ending") == 0
    with sidecar.smtp() as open_before:
        announce(sidecar)
        assert "until SIGTERM" in announce.said
        sidecar.wait_for_event("pod.ending")
        assert open_before.noop()[0] == 250
    assert send(sidecar)[0] == 250, "the app's last mails go through"
    assert sidecar.status()["pod"]["ending"] is True
    assert "is ending, announced" in sidecar.cli("status").stdout
    assert sidecar.metric("pod_ending") == 1
    assert sidecar.is_ready() and sidecar.cli("health").returncode == 0
    assert sidecar.stop() == 0


def test_announcing_again_and_again_is_harmless(sidecar):
    for _ in range(5):
        announce(sidecar)
    assert send(sidecar)[0] == 250
    sidecar.wait_for_event("pod.ending")
    assert sidecar.count_events("pod.ending") == 1


def test_announcing_to_a_svidmail_that_has_gone_is_a_warning(sidecar):
    announce(sidecar)
    sidecar.stop()
    assert announce(sidecar) < HOOK_S + SANITIZER_S
    assert "warning: not announced" in announce.said and "not running here" in announce.said


def test_announcing_to_a_svidmail_that_hangs_is_a_warning_within_a_second(sidecar):
    """The best of some: the rest is what else the machine had to do."""
    took = []
    sidecar.process.send_signal(signal.SIGSTOP)
    while len(took) < 5 and min(took, default=HOOK_S + SANITIZER_S) >= HOOK_S + SANITIZER_S:
        took.append(announce(sidecar))
        assert "warning: not announced" in announce.said and "does not answer" in announce.said
    assert min(took) < HOOK_S + SANITIZER_S, took
    sidecar.process.send_signal(signal.SIGCONT)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


def test_announcing_while_it_stops_is_harmless(sidecar, aws):
    with sidecar.connect() as app:  # somebody in the middle of a mail keeps it from ending at once
        app.sendall(b"EHLO a\r\nMAIL FROM:<shop@shop.example>\r\nRCPT TO:<user@customer.example>\r\nDATA\r\nx")
        while b"354 " not in app.recv(4000):
            pass
        sidecar.process.send_signal(signal.SIGTERM)
        sidecar.wait_for_event("app.stopping")
        announce(sidecar)
    assert sidecar.wait_exit() == 0


@pytest.mark.parametrize("method, status", [("GET", 405), ("PUT", 405), ("POST", 405)])
def test_only_a_post_on_the_socket_announces(sidecar, method, status):
    """Prometheus' port, or a look at the address by GET, ends no pod in the log."""
    ask = sidecar.ask_metrics_port if method == "POST" else sidecar.ask
    assert ask("/announce-stop", method=method)[0] == status
    assert sidecar.status()["pod"]["ending"] is False
    assert sidecar.count_events("pod.ending") == 0
