# SPDX-License-Identifier: Apache-2.0
"""A node in namespaces of its own: pid, mount, network.  Whatever runs in it ends with its pid 1, and that one with us.

What it writes lies in its directory, but for cgroups, which no mount namespace hides: those have a name of their own,
and what a killed run has left of either is swept away by the next one.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable

from .processes import Failure, Process

ADDRESS = "192.168.199.1"
# As init.sh gives them to the node: for those who are not in the cluster.
AWS_ADDRESS = "192.168.199.11"
AWS_SMTP_ADDRESS = "192.168.199.12"

INIT = pathlib.Path(__file__).resolve().parent.parent / "rig" / "cluster" / "init.sh"
PREFIX = "svidmail-cluster"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
CLONE_NEWNET = 0x40000000
# A disk, as /tmp may not be: what a pod writes into an emptyDir in memory is charged to its memory limit.
PLACE = os.environ.get("TMPDIR", "/var/tmp")


class Node:
    """Use as a context manager, or start() and stop()."""

    def __init__(self, path: str):
        """`path`: where its programs are looked for, colon separated."""
        _sweep()
        self.directory = tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir=PLACE)
        os.chmod(self.directory, 0o755)
        self.cgroup = os.path.basename(self.directory)
        self.log_dir = os.path.join(self.directory, "log")
        os.mkdir(self.log_dir)
        self.init_pid = 0
        self._env = {"PATH": f"{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._init: Process | None = None
        self._network = -1

    def __enter__(self) -> "Node":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        self._init = Process("init", [
            "unshare", "--fork", "--kill-child=KILL", "--pid", "--mount-proc", "--mount", "--net",
            "--propagation", "private", "bash", str(INIT), "run", self.directory, self.cgroup],
            log_dir=self.log_dir, env=self._env)
        self._init.wait_for_line("ready", stream="stdout", timeout=30)
        children = pathlib.Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self.init_pid = int(children[0])
        self._network = os.open(f"/proc/{self.init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def stop(self, keep: bool = False) -> None:
        """Ends everything; `keep` leaves the directory for a look."""
        if self._init is not None and self.init_pid:
            with contextlib.suppress(ProcessLookupError):
                pid1 = os.pidfd_open(self.init_pid)
                self._init.kill()
                # Readable when the last process in there has ended, for pid 1 waits for them.
                if not select.select([pid1], [], [], 30)[0]:
                    raise Failure("the cluster's pid 1 did not end within 30 s")
                os.close(pid1)
            os.close(self._network)
            self.init_pid = 0
        _remove_cgroups(self.cgroup)
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- in the node

    def command(self, *argv: str) -> list[str]:
        """What runs argv in there: all namespaces, the root directory as working directory."""
        return ["nsenter", f"--target={self.init_pid}", "--mount", "--net", "--pid", "--wd=/", "--", *argv]

    def network_command(self, *argv: str) -> list[str]:
        """What runs argv in the node's network alone: for clients, which keep our files and our process ids."""
        return ["nsenter", f"--net=/proc/{self.init_pid}/ns/net", "--", *argv]

    def process(self, name: str, *argv: str, env: dict | None = None) -> Process:
        return Process(name, self.command(*argv), log_dir=self.log_dir, env=self._env | (env or {}))

    def run(self, *argv: str, check: bool = True, timeout: float = 60, **options) -> subprocess.CompletedProcess:
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, timeout=timeout,
                              env=os.environ | self._env, **options)
        if check and done.returncode != 0:
            raise Failure(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done

    def call(self, function: Callable[[], object]) -> object:
        """function(), by a thread that is in the node's network: the sockets and threads that it makes stay there."""
        outcome: list = []

        def enter_and_call() -> None:
            try:
                if ctypes.CDLL(None, use_errno=True).setns(self._network, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                outcome.append((function(), None))
            except BaseException as problem:
                outcome.append((None, problem))

        thread = threading.Thread(target=enter_and_call, name="in-the-node")
        thread.start()
        thread.join()
        answer, problem = outcome[0]
        if problem is not None:
            raise problem
        return answer


def _sweep() -> None:
    """What runs of the tests that were killed have left behind."""
    owner = re.compile(rf"{PREFIX}-(\d+)-")
    for place in [pathlib.Path(PLACE), CGROUPS, *CGROUPS.glob("*/")]:
        for path in place.glob(f"{PREFIX}-*"):
            found = owner.match(path.name)
            if found and not os.path.exists(f"/proc/{found[1]}"):
                if CGROUPS in path.parents:
                    _remove_cgroups(path.name)
                else:
                    shutil.rmtree(path, ignore_errors=True)


def _remove_cgroups(name: str) -> None:
    for top in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
