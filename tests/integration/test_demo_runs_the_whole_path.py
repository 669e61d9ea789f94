# SPDX-License-Identifier: Apache-2.0
"""deploy/demo, run as a person runs it: what it says, and that it leaves nothing behind however it ends."""

import contextlib
import fcntl
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from support import ports
from support.processes import make_workdir, poll_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIDECAR = "spiffe://example.org/ns/shop/sa/checkout/svidmail"
GATEWAY = "spiffe://example.org/ns/mail-egress/sa/mail-egress"
BUILD_S = 250  # the first demo of a checkout compiles svidmail, perhaps on a busy machine

pytestmark = pytest.mark.timeout(BUILD_S + 50)


def session_of(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def is_running(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def children_of(pid):
    out = []
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            out += [int(child) for child in (task / "children").read_text().split()]
    return out


def name_of(pid):
    return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


class Demo:
    """deploy/demo with ports of its own, its output read line by line."""

    def __init__(self, directory, *options):
        self.directory = pathlib.Path(directory)
        self.smtp_port, self.inbox_port = ports.free_port(), ports.free_port()
        command = [str(ROOT / "deploy" / "demo"), "--smtp-port", str(self.smtp_port), "--inbox-port"]
        self.process = subprocess.Popen(
            [*command, str(self.inbox_port), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Tests that run in the background inherit an ignored SIGINT, and a shell cannot trap what it inherits so.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "TMPDIR": directory},
            text=True,
        )
        self.output = ""
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output += line
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text, timeout=BUILD_S):
        deadline = time.monotonic() + timeout
        while (line := self._lines.get(timeout=max(0.1, deadline - time.monotonic()))) is not None:
            if text in line:
                return line
        raise AssertionError(f"the demo ended without saying {text!r}:\n{self.output}")

    def wait_up(self):
        self.wait_for("Ctrl-C ends everything")
        # Envoy and svidmail have sessions of their own.
        self.children = children_of(self.process.pid)
        assert {name_of(pid) for pid in self.children} == {"envoy", "svidmail"}

    def child(self, name):
        return next(pid for pid in self.children if name_of(pid) == name)

    def left_directories(self):
        return set(self.directory.glob("svidmail-demo-*"))

    def wait(self, timeout=BUILD_S):
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code


@pytest.fixture
def demo():
    started = []
    directory = make_workdir("sm-")  # short: unix sockets lie below it

    def start(*options):
        started.append(Demo(directory, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGTERM)
            one.wait(30)
    shutil.rmtree(directory, ignore_errors=True)


def all_of_session(leader):
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and session_of(int(pid)) == leader]


def assert_nothing_is_left(one):
    pids = [*getattr(one, "children", []), *all_of_session(one.process.pid)]
    poll_until("every process of the demo to end", lambda: not any(map(is_running, pids)), 5)
    # The threads of one that was killed may outlive its first one for a moment.
    for port in (one.smtp_port, one.inbox_port):
        poll_until(f"port {port} to be free", lambda port=port: is_free(port), 5)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    ("mode", "sees"),
    [("gateway", "the mail (tls: gateway)"), ("end-to-end", "bytes only (tls: end-to-end)")],
)
def test_once_delivers_three_mails_and_ends(demo, mode, sees):
    one = demo("--once", "--tls", mode)
    assert one.wait() == 0, one.output
    assert "three mails delivered" in one.output
    assert "!!" not in one.output
    assert len(re.findall(r"svidmail says: 250 2\.0\.0 Ok 0107[0-9a-f]{12}-\S+-000000", one.output)) == 3
    assert one.output.count(f"the gateway sees: {sees}") == 3
    assert one.output.count("signature verified") == 3
    assert one.output.count("token verified") == 1
    assert "stands in for SPIRE" in one.output
    assert f"gateway's own identity: {GATEWAY} (checked by svidmail)" in one.output
    assert one.output.count(SIDECAR) >= 5
    assert "\033" not in one.output
    assert_nothing_is_left(one)
    assert one.left_directories() == set()


def test_one_waits_for_another_that_builds(demo):
    lock = ROOT / "build" / "release.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        one = demo("--once")
        poll_until("it to wait for the lock", lambda: waits_for(one, lock), 60)
    assert one.wait() == 0, one.output


def waits_for(one, lock):
    """A process of this demo, and not of one that another test runs."""
    own, inode = all_of_session(one.process.pid), lock.stat().st_ino
    # 1: -> FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF
    waiting = [words for line in pathlib.Path("/proc/locks").read_text().splitlines()
               if (words := line.split())[1] == "->"]
    return any(int(words[5]) in own and words[6].endswith(f":{inode}") for words in waiting)


@pytest.mark.slow
def test_once_with_real_spire(demo):
    one = demo("--once", "--spire")
    assert one.wait() == 0, one.output
    assert "three mails delivered" in one.output
    assert "SPIRE server and agent" in one.output
    assert "stands in" not in one.output.replace("a stand-in: STS", "")
    assert one.output.count("signature verified") == 3
    assert_nothing_is_left(one)


def test_the_inbox_is_up_until_ctrl_c(demo):
    one = demo()
    one.wait_up()
    with urllib.request.urlopen(f"http://127.0.0.1:{one.inbox_port}/", timeout=10) as answer:
        page = answer.read().decode()
    assert "We are closed on Friday" in page
    assert SIDECAR in page
    with urllib.request.urlopen(f"http://127.0.0.1:{one.inbox_port}/mail/2", timeout=10) as answer:
        assert "Rechnung für Köln — 請求書" in answer.read().decode()
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.wait() == 0
    assert "everything has ended" in one.output
    assert_nothing_is_left(one)
    assert one.left_directories() == set()


def test_sigterm_ends_it(demo):
    one = demo()
    one.wait_up()
    one.process.terminate()
    assert one.wait() == 128 + signal.SIGTERM
    assert_nothing_is_left(one)


def test_killed_outright_it_takes_its_parts_along(demo):
    one = demo()
    one.wait_up()
    one.process.kill()
    one.wait()
    assert_nothing_is_left(one)
    [directory] = one.left_directories()
    assert demo("--once").wait() == 0
    assert not directory.exists(), "the next demo clears away what a killed one left"


@pytest.mark.parametrize("name", ["svidmail", "envoy"])
def test_a_part_that_dies_is_named_with_its_last_lines(demo, name):
    one = demo()
    one.wait_up()
    os.kill(one.child(name), signal.SIGKILL)
    assert one.wait() == 1
    assert f"!! {name} was ended by SIGKILL; its last lines were:\n    " in one.output
    [directory] = one.left_directories()
    assert f"the logs are kept in {directory}" in one.output
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert_nothing_is_left(one)


@pytest.mark.parametrize(("option", "attribute"), [("--smtp-port", "smtp_port"), ("--inbox-port", "inbox_port")])
def test_a_port_that_is_taken(demo, option, attribute):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        one = demo("--once", option, str(port))
        assert one.wait() == 1
    assert re.search(rf"!! port {port} on 127\.0\.0\.1, .*, is taken by process {os.getpid()} \(", one.output)
    assert f"end that, or {option} N" in one.output
    assert_nothing_is_left(one)
    assert one.left_directories() == set()


def test_ctrl_c_while_setting_up(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("SVIDMAIL_CACHE", str(tmp_path))
    one = demo("--once")
    poll_until("pip to run", lambda: any(pathlib.Path(tmp_path).glob("venv-*")), 60)
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.wait(30) == 130
    assert "stopped while setting up" in one.output
    assert "!!" not in one.output
    assert_nothing_is_left(one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--twice"], "unknown option --twice"),
        (["--tls"], "--tls needs a value"),
        (["--tls", "none"], "--tls is gateway or end-to-end, not none"),
        (["--smtp-port", "25x"], "--smtp-port is a number, not 25x"),
    ],
)
def test_wrong_usage(options, message):
    done = subprocess.run(
        [ROOT / "deploy" / "demo", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_help_names_each_option():
    done = subprocess.run([ROOT / "deploy" / "demo", "--help"], capture_output=True, text=True, timeout=10, check=True)
    for option in ("--once", "--spire", "--tls", "--smtp-port", "--inbox-port"):
        assert option in done.stdout
