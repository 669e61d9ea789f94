# SPDX-License-Identifier: Apache-2.0
"""A network and a mount namespace of this process's own, so that the true names and ports can be used.

Nothing in it reaches the world: it has loopback, the addresses of a make-believe cluster on it, a hosts file that
says where names lead (for us, for Envoy, for svidmail alike), no name server, and the roots that this process and its
children hold to be the public web's.  It ends with the last of them.
"""

import ctypes
import os
import socket
import subprocess
import threading

from .processes import Failure

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 1 << 18, 0x1000

SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"

# Not loopback ones: Kubernetes takes those neither for a Pod nor for an endpoint.  All of the network is local here.
NETWORK = "10.77.0.0/16"
NODE_ADDRESS = "10.77.0.1"
GATEWAY_ADDRESS = "10.77.1.1"
SES_ADDRESS = "10.77.2.1"
SES_SMTP_ADDRESS = "10.77.2.2"


class PrivateNetwork:
    """enter() once, at the beginning: what a process has started before stays outside."""

    def __init__(self, directory: str, system_roots_pem: bytes):
        self._directory = directory
        self._roots = system_roots_pem
        self._hosts: dict[str, str] = {}

    def enter(self) -> None:
        if threading.active_count() > 1:
            raise Failure("this process has threads already, which would stay outside: run the mesh suite by itself")
        libc = ctypes.CDLL(None, use_errno=True)
        _call(libc.unshare, CLONE_NEWNS | CLONE_NEWNET)
        _call(libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        for name, target, content in (("hosts", "/etc/hosts", b""), ("roots.pem", SYSTEM_ROOTS, self._roots),
                                      ("resolv.conf", "/etc/resolv.conf", b"nameserver 127.0.0.1\n")):
            path = os.path.join(self._directory, name)
            with open(path, "wb") as file:
                file.write(content)
            _call(libc.mount, path.encode(), os.path.realpath(target).encode(), None, MS_BIND, None)
        for command in (["link", "set", "lo", "up"], ["address", "add", f"{NODE_ADDRESS}/{NETWORK.split('/')[1]}",
                                                      "dev", "lo"]):
            subprocess.run(["ip", *command], check=True)
        self.set_hosts({})

    def set_hosts(self, names: dict[str, str | None]) -> None:
        """Where these names lead from now on; None: nowhere.  Others stay as they were."""
        self._hosts |= names
        lines = ["127.0.0.1 localhost", f"127.0.0.1 {socket.gethostname()}"]
        lines += [f"{address} {name}" for name, address in self._hosts.items() if address]
        # In place: the mount is of the file, not of its name.
        with open(os.path.join(self._directory, "hosts"), "w") as file:
            file.write("\n".join(lines) + "\n")


def _call(function, *arguments) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function.__name__}: {os.strerror(code)}")
