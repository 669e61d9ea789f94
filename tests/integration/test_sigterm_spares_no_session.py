# SPDX-License-Identifier: Apache-2.0
"""SIGTERM with sessions in every phase: each hears a verdict or a close, nobody a 250 for what SES has not taken, and
svidmail has ended within the 2 s that kubelet gives a late sidecar."""

import contextlib
import datetime
import os
import re
import selectors
import signal
import socket
import threading
import time

import pytest
import yaml
from support.mails import RECIPIENT, SENDER, raw
from support.processes import Process, poll_until
from support.sidecar import SANITIZERS, Sidecar

GRACE_S = 2.0  # from a late SIGTERM to kubelet's SIGKILL
MARGIN_S = 0.15
SESSIONS = 200

ENVELOPE = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()


class App:
    """One session, bare: what it sends, and all that it is told."""

    def __init__(self, sidecar, number: int):
        self.number = number
        self.heard = b""
        self.end = ""  # "closed" or "reset"
        self.socket = sidecar.connect()
        self.socket.setblocking(False)

    def __enter__(self) -> "App":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def mail(self, which: str = "a") -> bytes:
        return raw(b"x\r\n", b"X-App: %d%s;" % (self.number, which.encode())) + b".\r\n"

    def read(self) -> None:
        """What is there by now."""
        with contextlib.suppress(BlockingIOError):
            try:
                while not self.end:
                    piece = self.socket.recv(65536)
                    self.heard += piece
                    self.end = "" if piece else "closed"
            except ConnectionResetError:
                self.end = "reset"

    @property
    def replies(self) -> list[str]:
        lines = self.heard.decode().split("\r\n")
        assert lines.pop() == "" or self.end == "reset", f"half a reply: {lines}"
        return [line for line in lines if line[3:4] == " "]

    @property
    def verdicts(self) -> list[str]:
        """The replies to what was sent between 354 and the final dot, one for each mail."""
        return [after for before, after in zip(self.replies, [*self.replies[1:], ""], strict=True)
                if before.startswith("354 ")]


class Crowd:
    """Many sessions, moved along together."""

    def __init__(self, sidecar, count: int):
        self.apps = [App(sidecar, number) for number in range(count)]

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_) -> None:
        for app in self.apps:
            app.socket.close()

    def say(self, apps: list[App], text, expected: bytes) -> None:
        """text, or what text(app) gives; until each has heard `expected` behind it."""
        waiting = {}
        with selectors.DefaultSelector() as selector:
            for app in apps:
                waiting[app.number] = len(app.heard)
                app.socket.sendall(text(app) if callable(text) else text)
                selector.register(app.socket, selectors.EVENT_READ, app)
            deadline = time.monotonic() + 30
            while waiting:
                assert time.monotonic() < deadline, f"{len(waiting)} sessions wait for {expected!r}"
                for key, _ in selector.select(1):
                    app = key.data
                    app.read()
                    assert not app.end, app.heard
                    if app.number in waiting and expected in app.heard[waiting[app.number]:]:
                        del waiting[app.number]
                        selector.unregister(app.socket)

    def read_to_the_end(self, apps: list[App], timeout: float = 10) -> None:
        """As apps do that read: each closes its side when it has heard the end."""
        with selectors.DefaultSelector() as selector:
            for app in apps:
                selector.register(app.socket, selectors.EVENT_READ, app)
            deadline = time.monotonic() + timeout
            while selector.get_map():
                assert time.monotonic() < deadline, f"{len(selector.get_map())} sessions were never closed"
                for key, _ in selector.select(1):
                    key.data.read()
                    if key.data.end:
                        selector.unregister(key.data.socket)
                        key.data.socket.close()


def numbers_of(mails) -> list[str]:
    return [re.search(rb"^X-App: (\w+);", mail.raw, re.MULTILINE).group(1).decode() for mail in mails]


def seconds_to_the_end(sidecar) -> float:
    """By its own log: from the signal to the last line; what a sanitizer does at exit is not in it."""
    at = [datetime.datetime.fromisoformat(sidecar.events(name)[-1]["time"]) for name in ("app.stopping", "app.stopped")]
    return (at[1] - at[0]).total_seconds()


def ask_to_end(sidecar) -> None:
    """SIGTERM; what svidmail does by a clock from then on is not to wait for whatever else the machine has to do."""
    for thread in os.listdir(f"/proc/{sidecar.pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), -20)
    sidecar.process.send_signal(signal.SIGTERM)


def has_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}/fd/0") and not os.path.exists(f"/proc/{pid}/exe")


def moved_into_every_phase(crowd: Crowd, sidecar, aws) -> dict[str, list[App]]:
    """200 sessions: no phase of a session is left out."""
    apps = crowd.apps
    phases = {name: apps[at::8] for at, name in enumerate(
        ["greeted", "idle", "mail", "rcpt", "data", "verdict", "pipelined", "half line"])}
    crowd.say(phases["greeted"], b"", b"220 ")
    later = [app for name, members in phases.items() if name != "greeted" for app in members]
    crowd.say(later, b"EHLO app\r\n", b"250 ENH")
    crowd.say(phases["mail"], b"MAIL FROM:<shop@shop.example>\r\n", b"250 2.1.0")
    crowd.say(phases["rcpt"], b"MAIL FROM:<shop@shop.example>\r\nRCPT TO:<u@customer.example>\r\n", b"250 2.1.5")
    crowd.say(phases["half line"], b"MAIL FROM:<shop@shop.example>\r\nRCPT TO:<u@cust", b"250 2.1.0")
    crowd.say(phases["data"], lambda app: ENVELOPE + app.mail()[:-5], b"354 ")
    crowd.say(phases["verdict"] + phases["pipelined"], ENVELOPE, b"354 ")
    for app in phases["verdict"]:
        app.socket.sendall(app.mail())
    for app in phases["pipelined"]:  # the next mail, whole, behind the dot, and QUIT
        app.socket.sendall(app.mail("a") + ENVELOPE + app.mail("b") + b"QUIT\r\n")
    return phases


@pytest.mark.parametrize("readers", ["read and close", "frozen"])
def test_sigterm_with_200_sessions_in_every_phase(new_sidecar, spire, gateway, aws, readers):
    """SES takes 16 mails at a time and is slow: some answers come in time, some never."""
    may_answer = threading.Event()
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    with Crowd(sidecar, SESSIONS) as crowd:
        aws.inject(until=may_answer, times=12)
        aws.inject(hang=True, times=1000)
        phases = moved_into_every_phase(crowd, sidecar, aws)
        poll_until("all to be seen", lambda: sidecar.metric("smtp_sessions") == SESSIONS, 10)
        aws.wait_for_mails(16, timeout=20)
        pid, began = sidecar.pid, time.monotonic()
        ask_to_end(sidecar)
        sidecar.wait_for_event("app.stopping")
        may_answer.set()
        if readers == "read and close":
            crowd.read_to_the_end(crowd.apps)
        poll_until("its end", lambda: has_gone(pid) or time.monotonic() - began > 30, 30)
        assert sidecar.wait_exit() == 0
        crowd.read_to_the_end([app for app in crowd.apps if not app.end])
    print(f"{SESSIONS} sessions, {readers}: gone {seconds_to_the_end(sidecar):.2f} s after SIGTERM")
    assert seconds_to_the_end(sidecar) < GRACE_S - MARGIN_S
    judge(phases, sidecar, numbers_of(aws.mails))


def judge(phases: dict[str, list[App]], sidecar, taken: list[str]) -> None:
    """Exact accounting between SES, the apps and the log."""
    assert all(app.end == "closed" for apps in phases.values() for app in apps), "no word was lost to a reset"
    for name in ("greeted", "idle", "mail", "rcpt", "half line"):
        for app in phases[name]:
            assert app.replies[-1].startswith("421 4.3.2 "), (name, app.replies)
    for app in phases["data"]:
        assert app.verdicts[0].startswith("421 4.3.2 ") and len(app.verdicts) == 1, app.replies
    told = {}
    for app in phases["verdict"] + phases["pipelined"]:
        [told[f"{app.number}a"]] = app.verdicts
        assert app.replies[-1].startswith("421 4.3.2 "), app.replies
    assert len(taken) == len(set(taken)), "no mail was sent twice"
    delivered, unknown, not_sent = ({number for number, verdict in told.items() if re.match(wanted, verdict)}
                                    for wanted in (r"250 2\.0\.0 Ok ", r"451 4\.4\.2 .*SES may have taken the mail",
                                                   r"451 4\.4\.1 .*; not sent: "))
    assert len(delivered) + len(unknown) + len(not_sent) == len(told) == 50, told
    assert 12 <= len(delivered) < 50 and unknown and not_sent, "the test sees all three"
    assert delivered <= set(taken), "250 is what SES has taken"
    assert not not_sent & set(taken), "not sent is not sent"
    assert set(taken) <= delivered | unknown
    done = sidecar.events("mail.done")
    assert len(done) == 50
    assert sum(line["outcome"] == "unknown" for line in done) == sidecar.count_events("relay.unknown") == len(unknown)
    assert sum(line["outcome"] == "delivered" for line in done) == len(delivered)
    assert sum(line.get("class") == "not_sent" for line in done) == len(not_sent)


# --- what hangs around it must not hold it


def told_and_gone(sidecar, app: App) -> str:
    """The verdict after SIGTERM; svidmail ends in time."""
    ask_to_end(sidecar)
    poll_until("a verdict", lambda: app.read() or app.verdicts != [""], 10)
    assert sidecar.wait_exit() == 0
    assert seconds_to_the_end(sidecar) < GRACE_S - MARGIN_S
    return app.verdicts[0]


def with_a_mail_under_way(sidecar) -> App:
    app = App(sidecar, 0)
    app.socket.setblocking(True)
    app.socket.sendall(b"EHLO app\r\n" + ENVELOPE)
    while b"354 " not in app.heard:
        app.heard += app.socket.recv(4096)
    app.socket.sendall(app.mail())
    app.socket.setblocking(False)
    return app


@pytest.fixture
def frozen():
    """frozen(process): stopped until the end of the test."""
    stopped = []

    def freeze(process):
        process.send_signal(signal.SIGSTOP)
        stopped.append(process)

    yield freeze
    for process in stopped:
        process.send_signal(signal.SIGCONT)


def test_sigterm_while_the_gateway_is_frozen(new_sidecar, spire, gateway, aws, frozen):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    frozen(gateway.process)
    with with_a_mail_under_way(sidecar) as app:
        assert told_and_gone(sidecar, app).startswith("451 4.4.")


def test_sigterm_while_the_agent_is_frozen(new_sidecar, new_spire, new_aws, new_gateway, frozen):
    domain = new_spire()
    aws = new_aws(domain)
    sidecar = new_sidecar(domain, new_gateway(domain, aws), aws)
    sidecar.wait_ready()
    aws.inject(hang=True)
    with with_a_mail_under_way(sidecar) as app:
        aws.wait_for_requests(1)
        frozen(domain.agent)
        assert told_and_gone(sidecar, app).startswith("451 4.4.2 ")


def test_sigterm_while_a_name_server_is_silent(new_sidecar, spire, gateway, aws, workdir):
    """libuv cannot take a look-up back that has begun, and exit() would wait for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.153", 53))
        resolv = os.path.join(workdir(), "resolv.conf")
        with open(resolv, "w") as file:
            file.write("nameserver 127.0.0.153\noptions timeout:30 attempts:5\n")
        sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"host": "gateway.silent.example"}}, wrapper=(
            "unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"',
            resolv))
        sidecar.wait_ready()
        with with_a_mail_under_way(sidecar) as app:
            silent.settimeout(10)
            assert b"\6silent\7example" in silent.recv(512)
            assert told_and_gone(sidecar, app).startswith("451 4.4.1 ")
    assert sidecar.events("app.stopped")[-1]["left_behind"] == "a name look-up"
    assert not os.path.exists(os.path.join(sidecar.directory, "tunnels"))


def test_sigterm_before_it_has_started_is_not_lost(programs, workdir):
    """A pod that is deleted at once: as the first process of its container svidmail would never hear of it."""
    directory = workdir()
    config = os.path.join(directory, "svidmail.yaml")
    os.mkfifo(config)  # it waits for its configuration
    process = Process("svidmail", ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
                                   programs.svidmail, "run", "--config", config], log_dir=directory, env=SANITIZERS)
    try:
        first = poll_until("the process", lambda: children_of(process.pid), 5)[0]
        poll_until("it to wait", lambda: os.readlink(f"/proc/{first}/exe") == programs.svidmail
                   and is_blocked(first, signal.SIGTERM), 5)
        os.kill(first, signal.SIGTERM)
        with open(config, "w") as file:
            yaml.safe_dump(Sidecar(programs.svidmail, directory).config | {
                "identity": {"endpoint": "unix:///nonexistent/agent.sock"},
                "gateway": {"host": "gw.example", "spiffe_ids": ["spiffe://example.org/gw"]}}, file)
        assert process.wait(10) == 0
        assert '"app.started"' in process.stderr.tail() and '"app.stopped"' in process.stderr.tail()
    finally:
        process.kill()


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_blocked(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        [mask] = [int(line.split()[1], 16) for line in status if line.startswith("SigBlk:")]
    return bool(mask >> (number - 1) & 1)
