# SPDX-License-Identifier: Apache-2.0
"""Who listens on a port, as far as /proc tells the one who asks."""

from __future__ import annotations

import os
import socket

_LISTEN = "0A"


def holder(port: int) -> str:
    """ "" if 127.0.0.1:port is free, else "by ..." in words."""
    with socket.socket() as probe:
        # As servers do: what only lingers from a former run is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return "by the kernel for root alone"
        except OSError:
            return _describe(_inodes(port))
    return ""


def _inodes(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}") as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        found |= {row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port}
    return found


def _describe(inodes: set[str]) -> str:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        if links & wanted:
            return f"by process {pid} ({_command(pid)})"
    return "by a process of another user (sudo ss -ltnp names it)"


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        words = ""
    return "".join(char if char.isprintable() else "?" for char in words[:80]) or "unknown"
