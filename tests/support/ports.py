# SPDX-License-Identifier: Apache-2.0
"""Loopback ports that nobody else will take between choosing and listening.

They lie below the kernel's range for outgoing connections, and each is held by a lock file, so that two test runs on
one machine never pick the same one.  The oldest are given back: a whole run would hold more files than select() and
usual limits can bear, and who listens still is seen by the port itself.
"""

import fcntl
import os
import random
import socket
import tempfile

FIRST, LAST = 20000, 32000
HELD_MAX = 200

_held: dict[int, int] = {}  # port -> the lock's descriptor, the oldest first


def free_port() -> int:
    """A TCP port on 127.0.0.1 and [::1], reserved for this process among all runs of the tests."""
    directory = os.path.join(tempfile.gettempdir(), f"svidmail-ports-{os.getuid()}")  # another user's is closed to us
    os.makedirs(directory, exist_ok=True)
    for port in random.SystemRandom().sample(range(FIRST, LAST), 2000):
        if port in _held:
            continue
        lock = os.open(os.path.join(directory, str(port)), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        if _is_free(socket.AF_INET, "127.0.0.1", port) and _is_free(socket.AF_INET6, "::1", port):
            _held[port] = lock
            if len(_held) > HELD_MAX:
                release_port(next(iter(_held)))
            return port
        os.close(lock)
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")


def release_port(port: int) -> None:
    """Gives a port back when its user has ended; one that was given back already is left alone."""
    lock = _held.pop(port, None)
    if lock is not None:
        os.close(lock)


def _is_free(family: int, address: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return True
    except OSError:
        return family == socket.AF_INET6 and not _has_ipv6()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False
