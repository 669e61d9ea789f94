# SPDX-License-Identifier: Apache-2.0
"""The probe's answer comes in time whatever svidmail is busy with, and does not wait for ever where none comes."""

import contextlib
import resource
import select
import selectors
import signal
import socket
import statistics
import threading
import time

import pytest
from support.mails import RECIPIENT, SENDER, raw, send
from support.processes import poll_until

PROBE_S = 5.0  # what the charts give a probe at the least
SESSIONS = 1000
BIG_MAILS = 8
BIG_BYTES = 28_000_000
ENVELOPE = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
LINES = (b"x" * 70 + b"\r\n") * 40
NEIGHBOURS = 4
REQUEST_S = 10  # what a request at the metrics port may take
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
FLOODS = {  # what a connection begins with, and goes on with
    "a body without end": (SCRAPE + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536),
    "requests without a pause": (b"", (SCRAPE + b"\r\n") * 100),
}


@pytest.fixture
def descriptors():
    """Enough of them for this process; svidmail sees to its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * SESSIONS:
        pytest.skip(f"only {hard} descriptors may be had here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * SESSIONS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Writers:
    """Sessions inside their bodies, each written to as fast as it is read."""

    def __init__(self, sidecar, count: int):
        self.sockets = [sidecar.connect() for _ in range(count)]
        self.written = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writers":
        for connection in self.sockets:
            connection.sendall(b"EHLO app\r\n" + ENVELOPE)
        for connection in self.sockets:
            heard = b""
            while b"354 " not in heard:
                piece = connection.recv(4096)
                assert piece, heard
                heard += piece
            connection.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        for connection in self.sockets:
            connection.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self.sockets:
                selector.register(connection, selectors.EVENT_WRITE)
            while not self._stop.is_set():
                for key, _ in selector.select(0.1):
                    with contextlib.suppress(BlockingIOError):
                        self.written += key.fileobj.send(LINES)
                self._stop.wait(0.02)  # the machine has other things to do too


class Flood:
    """Neighbours of the pod at its metrics port, each as fast as it can; one that is cut comes again."""

    def __init__(self, sidecar, begin: bytes, more: bytes):
        self._moved = [0] * NEIGHBOURS
        self._address = ("127.0.0.1", sidecar.metrics_port)
        self._begin, self._more = begin, more
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(NEIGHBOURS)]

    @property
    def moved(self) -> int:
        """Bytes, both ways: what fills the kernel's buffers is sent at once, and keeps svidmail busy for long."""
        return sum(self._moved)

    def __enter__(self) -> "Flood":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(self._address, timeout=1) as connection:
                connection.setblocking(False)
                self._pour(connection, number)

    def _pour(self, connection, number: int) -> None:
        left = self._begin or self._more
        while not self._stop.is_set():
            readable, writable, _ = select.select([connection], [connection], [], 0.1)
            if readable:
                answers = connection.recv(1 << 20)
                if not answers:
                    return
                self._moved[number] += len(answers)
            if writable:
                sent = connection.send(left)
                self._moved[number] += sent
                left = left[sent:] or self._more


def probed(sidecar, times: int) -> list[float]:
    """`svidmail health`, as kubelet runs it; how long each took."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        result = sidecar.cli("health")
        took.append(time.monotonic() - began)
        assert result.returncode == 0 and result.stdout == "ok\n", result
    return took


@pytest.mark.slow
def test_health_with_1000_busy_sessions_and_big_mails_in_flight(new_sidecar, spire, gateway, aws, descriptors):
    sidecar = new_sidecar(spire, gateway, aws, {"smtp": {"max_connections": SESSIONS + 100}})
    sidecar.wait_ready()
    at_rest = probed(sidecar, 5)
    aws.inject(read_rate=1, times=1000)
    big = raw(LINES * (BIG_BYTES // len(LINES)))
    senders = [threading.Thread(target=send, args=(sidecar, big)) for _ in range(BIG_MAILS)]
    with Writers(sidecar, SESSIONS) as writers:
        for sender in senders:
            sender.start()
        poll_until("the big mails to be under way", lambda: len(aws.requests_of("ses")) >= BIG_MAILS, 60)
        assert sidecar.metric("smtp_sessions") == SESSIONS + BIG_MAILS
        before = writers.written
        busy = probed(sidecar, 10)
        assert writers.written > before, "they wrote meanwhile"
        assert all(sender.is_alive() for sender in senders), "the big mails were under way meanwhile"
        assert aws.mails == []
        in_ms = [round(1000 * took) for took in (statistics.median(at_rest), statistics.median(busy), max(busy))]
        print(f"health: {in_ms} ms at rest, busy, at most; {writers.written >> 20} MB were written meanwhile")
    aws.clear_faults()
    for sender in senders:
        sender.join()
    assert max(busy) < PROBE_S / 2


@pytest.mark.parametrize("flood", FLOODS)
def test_neighbours_busy_at_the_metrics_port_hold_nothing_up(sidecar, flood):
    sidecar.wait_ready()
    with Flood(sidecar, *FLOODS[flood]) as neighbours:
        poll_until("the flood to have risen", lambda: neighbours.moved > 1 << 20, 20)
        before = neighbours.moved
        assert send(sidecar)[0] == 250
        assert max(probed(sidecar, 3)) < PROBE_S / 2
        assert neighbours.moved > before, "it lasted"
        asked_at = time.monotonic()
        assert sidecar.stop() == 0
        assert time.monotonic() - asked_at < PROBE_S


def test_neighbours_that_drip_into_the_metrics_port_do_not_keep_prometheus_out(sidecar):
    """Four of them hold all its connections, for the time that one request may take."""
    with contextlib.ExitStack() as stack:
        drips = []
        for neighbour in [f"127.0.0.{number}" for number in range(2, 2 + NEIGHBOURS)] * 4:
            drips.append(stack.enter_context(socket.create_connection(
                ("127.0.0.1", sidecar.metrics_port), source_address=(neighbour, 0))))
            drips[-1].sendall(SCRAPE + b"X: ")
        stop = threading.Event()

        def drip():
            while not stop.wait(1):
                for connection in drips:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        stack.callback(dripping.join)
        stack.callback(stop.set)
        with socket.create_connection(("127.0.0.1", sidecar.metrics_port), timeout=REQUEST_S * 1.5) as scrape:
            scrape.sendall(SCRAPE + b"Connection: close\r\n\r\n")
            assert scrape.recv(100).startswith(b"HTTP/1.1 200 ")


def test_health_gives_up_before_kubelet_does_and_says_so(sidecar):
    """The best of some: the rest is what else the machine had to do."""
    took = []
    sidecar.process.send_signal(signal.SIGSTOP)
    while len(took) < 4 and min(took, default=PROBE_S) >= PROBE_S:
        began = time.monotonic()
        result = sidecar.cli("health")
        took.append(time.monotonic() - began)
        assert result.returncode == 1 and "does not answer" in result.stderr
    sidecar.process.send_signal(signal.SIGCONT)
    assert min(took) < PROBE_S, took


def test_more_sessions_than_the_usual_limit_of_descriptors_are_served(new_sidecar, spire, gateway, aws, descriptors):
    """A container mostly starts with a soft limit of 1024, and each mail under way takes two."""
    sidecar = new_sidecar(spire, gateway, aws, {"smtp": {"max_connections": SESSIONS + 1}}, wrapper=(
        "sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh"))
    sidecar.wait_ready()
    with contextlib.ExitStack() as stack:
        for _ in range(SESSIONS):
            connection = stack.enter_context(sidecar.connect())
            assert connection.recv(200).startswith(b"220 ")
        assert send(sidecar)[0] == 250
        poll_until("its session to be gone", lambda: sidecar.metric("smtp_sessions") == SESSIONS, 5)
        one_more = stack.enter_context(sidecar.connect())
        assert one_more.recv(200).startswith(b"220 ")
        too_many = stack.enter_context(socket.create_connection(("127.0.0.1", sidecar.port)))
        assert too_many.recv(200).startswith(b"421 4.3.2 "), "the limit is told, not met"


def test_more_sessions_than_descriptors_are_warned_of(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"smtp": {"max_connections": 300}}, start=False, wrapper=(
        "sh", "-c", 'ulimit -n 512 && exec "$@"', "sh"))
    sidecar.expect_warning("app.config", key="smtp.max_connections")
    sidecar.start()
    warning = sidecar.wait_for_event("app.config", key="smtp.max_connections")
    assert warning["descriptors"] == 512 < warning["descriptors_wanted"]
