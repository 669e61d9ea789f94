# SPDX-License-Identifier: Apache-2.0
"""Whoever reads our log and stops reading (a full disk below the container runtime, a stopped shim) stops no mail."""

import contextlib
import fcntl
import json
import os
import time

import pytest
from support.mails import send
from support.processes import poll_until

EXIT_IN_S = 2.0
SANITIZER_S = 2.0  # the leak check at exit, on a busy machine


class Pipe:
    """The reading end of a sidecar's stderr; nobody reads unless told to."""

    def __init__(self, path: str):
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 16384)
        os.chmod(path, 0o622)
        self._text = b""

    def read(self) -> list[dict]:
        """All lines so far."""
        with contextlib.suppress(BlockingIOError):
            self._text += os.read(self.fd, 65536)
        return [json.loads(line) for line in self._text.splitlines(keepends=True) if line.endswith(b"\n")]

    def wait_for(self, event: str, after: int = 0) -> tuple[int, dict]:
        """The first such line after so many lines, and how many came before it."""
        return poll_until(event, lambda: next(
            ((at, line) for at, line in enumerate(self.read()) if at >= after and line["event"] == event), None),
            timeout=60, interval=0.05)


@pytest.fixture
def unread(workdir, new_sidecar, spire, gateway, aws):
    """A sidecar, and the end of its stderr that nobody reads."""
    log = os.path.join(workdir(), "log")
    pipe = Pipe(log)
    sidecar = new_sidecar(spire, gateway, aws, start=False, wrapper=("sh", "-c", 'exec "$@" 2>"$0"', log))
    sidecar.start(wait=False)
    poll_until("svidmail to be ready", lambda: is_ready(sidecar), timeout=20)
    yield sidecar, pipe
    os.close(pipe.fd)


def is_ready(sidecar) -> bool:
    """Asked of one that may not have got to listen yet."""
    with contextlib.suppress(OSError):
        return sidecar.is_ready()
    return False


def fill_the_log(sidecar) -> None:
    while sidecar.metric("log_lines_dropped_total") == 0:
        assert send(sidecar)[0] == 250


def test_mail_goes_on_and_the_gap_is_counted_and_told(unread):
    sidecar, pipe = unread
    fill_the_log(sidecar)
    began = time.monotonic()
    for _ in range(20):
        assert send(sidecar)[0] == 250
    assert sidecar.cli("health").returncode == 0
    assert time.monotonic() - began < 20 * 0.5, "nothing waits for a reader"

    dropped = sidecar.metric("log_lines_dropped_total")
    at, told = pipe.wait_for("log.dropped")
    assert (told["level"], told["lines"]) == ("warn", dropped)
    kept = [line for line in pipe.read()[:at] if line["event"] == "mail.done"]
    assert len(kept) > 20, "what had room came first"
    assert send(sidecar)[0] == 250
    pipe.wait_for("mail.done", after=at)
    assert sidecar.metric("log_lines_dropped_total") == dropped


def test_sigterm_ends_it_in_time(unread):
    sidecar, _ = unread
    fill_the_log(sidecar)
    began = time.monotonic()
    assert sidecar.stop() == 0
    assert time.monotonic() - began < EXIT_IN_S + SANITIZER_S
