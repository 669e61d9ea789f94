# SPDX-License-Identifier: Apache-2.0
"""Child processes under another uid, whose output is read as it comes, and which end with us whatever happens.

setpriv gives the uid (no passwd entry is needed) and the parent-death signal: a test run that is killed leaves
nothing behind.  The pid is the program's own, setpriv having exec'd it.
"""

import concurrent.futures
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable

# The parent whose death counts is the thread that forked: one that lives as long as we do.
_spawner = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="spawner")


class Failure(AssertionError):
    """What was waited for did not come; carries the end of the process's output."""


def poll_until(what: str, probe: Callable, timeout: float, interval: float = 0.05):
    """The first true answer of probe(): for conditions that only asking can tell."""
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise Failure(f"waited {timeout} s in vain for {what}")
        time.sleep(interval)


def make_workdir(prefix: str = "svidmail-") -> str:
    """A directory other uids may pass through, with a short name (a unix socket's path holds 107 bytes)."""
    directory = tempfile.mkdtemp(prefix=prefix)
    os.chmod(directory, 0o755)
    return directory


def stage_program(path: str, directory: str) -> str:
    """A copy of a program where every uid can run it: the original may lie in somebody's closed home directory."""
    target = os.path.join(directory, os.path.basename(path))
    if not os.path.exists(target):
        shutil.copy2(path, target + ".new")
        os.chmod(target + ".new", 0o755)
        os.replace(target + ".new", target)
    return target


def has_fields(entry: dict, fields: dict) -> bool:
    """Of a log line: a field given as a function is asked, anything else must be equal."""
    return all(wanted(entry.get(key)) if callable(wanted) else entry.get(key) == wanted
               for key, wanted in fields.items())


def end_all(endings: list[Callable]) -> None:
    """Each is called, whatever the others do; then the first trouble is told."""
    troubles = []
    for end in endings:
        try:
            end()
        except AssertionError as trouble:
            troubles.append(trouble)
    if troubles:
        raise troubles[0]


def memory_kb(pid: int) -> dict[str, int]:
    """VmRSS, RssAnon, VmHWM and the like from /proc, in kB; and Threads."""
    with open(f"/proc/{pid}/status") as status:
        pairs = [line.split() for line in status]
    return {key.rstrip(":"): int(value[0]) for key, *value in pairs
            if key.startswith(("Vm", "Rss", "Threads")) and value}


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads, so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Lines:
    """The lines of one output stream: kept, written to a file, and a condition to wait on."""

    def __init__(self, stream, log_path: str, on_line: Callable[[str], None] | None = None):
        self.items: list[str] = []
        self._log_path = log_path
        self._on_line = on_line
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream) -> None:
        with stream, open(self._log_path, "ab", buffering=0) as log:
            for raw in stream:
                log.write(raw)
                line = raw.decode("utf-8", "replace").rstrip("\n")
                with self._changed:
                    self.items.append(line)
                    self._changed.notify_all()
                if self._on_line is not None:
                    self._on_line(line)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, matches: Callable, timeout: float, start: int = 0):
        """(index, answer) of the first line from start on for which matches(line) is true; None if it never comes."""
        deadline = time.monotonic() + timeout
        at = start
        with self._changed:
            while True:
                while at < len(self.items):
                    answer = matches(self.items[at])
                    if answer:
                        return at, answer
                    at += 1
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._changed.wait(left)

    def drain(self, timeout: float = 5) -> None:
        """Waits for the end of the stream, that is, for the last line of an ended process."""
        self._thread.join(timeout)

    def tail(self, count: int = 25) -> str:
        return "\n".join(self.items[-count:])


class Process:
    """One child.  stdout and stderr are Lines; stop() asks, kill() does not."""

    def __init__(self, name: str, argv: list[str], *, log_dir: str, uid: int | None = None, env: dict | None = None,
                 cwd: str | None = None, on_stdout: Callable[[str], None] | None = None):
        self.name = name
        setpriv = ["setpriv", "--pdeathsig", "KILL"]
        if uid is not None and os.getuid() == 0:
            setpriv += ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": log_dir, "LC_ALL": "C.UTF-8"}
        environment.update(env or {})
        self._popen = _spawner.submit(
            subprocess.Popen, [*setpriv, "--", *argv], env=environment, cwd=cwd or log_dir, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE).result()
        # A reader that a loaded machine keeps waiting is not to be taken for one that hangs.
        fcntl.fcntl(self._popen.stderr.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
        if uid is not None and os.getuid() == 0:
            # A program that opens /dev/stdout anew needs to own what is behind it.
            os.fchown(self._popen.stdout.fileno(), uid, uid)
            os.fchown(self._popen.stderr.fileno(), uid, uid)
        self.stdout = Lines(self._popen.stdout, os.path.join(log_dir, f"{name}.out"), on_stdout)
        self.stderr = Lines(self._popen.stderr, os.path.join(log_dir, f"{name}.err"))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def wait_for_line(self, matches: Callable | str, timeout: float = 10, start: int = 0, stream: str = "stderr",
                      what: str | None = None):
        """The first answer of matches(line), or the first line that holds a text; Failure with the output else."""
        test = (lambda line: line if matches in line else None) if isinstance(matches, str) else matches
        lines = self.stdout if stream == "stdout" else self.stderr
        found = lines.wait_for(test, timeout, start)
        if found is None:
            state = "is alive" if self.is_alive() else f"ended with {self.returncode}"
            raise Failure(f"{self.name} ({state}) did not say {what or matches!r} within {timeout} s; it said:\n"
                          f"{self.stdout.tail(10)}\n{self.stderr.tail()}")
        return found[1]

    def send_signal(self, number: int) -> None:
        if self.is_alive():
            self._popen.send_signal(number)

    def wait(self, timeout: float) -> int:
        """The exit code; Failure when it does not come in time."""
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {timeout} s; it said:\n{self.stderr.tail()}") from None
        self.stdout.drain()
        self.stderr.drain()
        return code

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM, then SIGKILL when the time is over: at a teardown everything ends."""
        self.send_signal(signal.SIGCONT)
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except Failure:
            return self.kill()

    def kill(self) -> int:
        self.send_signal(signal.SIGKILL)
        return self.wait(10)

    def memory_kb(self) -> dict[str, int]:
        return memory_kb(self.pid)
