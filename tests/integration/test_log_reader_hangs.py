# SPDX-License-Identifier: Apache-2.0
"""Whoever reads our log and stops reading (a full disk below the container runtime, a stopped shim) stops no mail."""

import fcntl
import json
import os
import time

import pytest
from support.mails import send
from support.processes import poll_until


@pytest.fixture
def unread(workdir, new_sidecar, spire, gateway, aws):
    """A sidecar, and the end of its stderr that nobody reads: a pipe of one page."""
    log = os.path.join(workdir(), "log")
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    sidecar = new_sidecar(spire, gateway, aws, start=False, wrapper=("sh", "-c", 'exec "$@" 2>"$0"', log))
    os.chmod(log, 0o622)
    sidecar.start(wait=False)
    poll_until("the admin socket", lambda: os.path.exists(sidecar.admin_socket), timeout=20)
    sidecar.wait_ready()
    yield sidecar, reader
    os.close(reader)


def read_events(reader: int) -> list[dict]:
    """What the pipe holds now; each line of it is whole."""
    return [json.loads(line) for line in os.read(reader, 65536).decode().splitlines()]


def test_mail_goes_on_and_the_gap_is_counted_and_told(unread):
    sidecar, reader = unread
    while sidecar.metric("log_lines_dropped_total") == 0:
        assert send(sidecar)[0] == 250
    began = time.monotonic()
    for _ in range(20):
        assert send(sidecar)[0] == 250
    assert sidecar.cli("health").returncode == 0
    assert time.monotonic() - began < 20 * 0.5, "it waits for a reader once, not for every line"

    assert read_events(reader), "what had come before the gap, each line whole"
    dropped = sidecar.metric("log_lines_dropped_total")
    assert send(sidecar)[0] == 250
    told = read_events(reader)[0]
    assert (told["event"], told["level"]) == ("log.dropped", "warn")
    assert told["lines"] >= dropped


def test_sigterm_ends_it_in_time(unread):
    sidecar, _ = unread
    while sidecar.metric("log_lines_dropped_total") == 0:
        assert send(sidecar)[0] == 250
    began = time.monotonic()
    assert sidecar.stop() == 0
    assert time.monotonic() - began < 2
