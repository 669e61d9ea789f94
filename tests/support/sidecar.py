# SPDX-License-Identifier: Apache-2.0
"""svidmail itself, run as a pod would run it: a configuration file, a uid of its own, its log read line by line.

A test that ends with a WARN or ERROR line it did not announce, with anything a sanitizer has said, or with another
exit code than 0, has failed: see check().
"""

import http.client
import json
import os
import re
import signal
import smtplib
import socket
import subprocess

import yaml

from . import ports
from .processes import Failure, Process, cpu_seconds, has_fields, poll_until

SIDECAR_UID = 21002
ROLE_ARN = "arn:aws:iam::123456789012:role/svidmail-checkout"

# Reports go to stderr, where check() finds them; 86 is an exit code nothing else uses.
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:exitcode=86:abort_on_error=0:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=86",
    "TSAN_OPTIONS": "exitcode=86:halt_on_error=0",
}


def merged(base: dict, over: dict) -> dict:
    """Dicts are merged key by key, everything else is replaced; None takes a key out."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Sidecar:
    """One svidmail.  config is laid over sane defaults; the ports and the paths are this object's own."""

    def __init__(self, program: str, directory: str, config: dict | None = None, *, uid: int = SIDECAR_UID,
                 env: dict | None = None, arguments: tuple[str, ...] = (), wrapper: tuple[str, ...] = ()):
        """`wrapper` is a command that ends by executing the rest of its arguments."""
        self.program = program
        self.directory = directory
        self.uid = uid
        self.port = ports.free_port()
        self.metrics_port = ports.free_port()
        self.admin_socket = os.path.join(directory, "admin.sock")
        self.process: Process | None = None
        self.config = merged(self._defaults(), config or {})
        self.config_file = os.path.join(directory, "svidmail.yaml")
        self._env = SANITIZERS | (env or {})
        self._arguments = list(arguments)
        self._wrapper = list(wrapper)
        self.last_words = ""
        self._expected: list[tuple[str, dict]] = []
        self._past_events: list[dict] = []
        self._past_noise: list[str] = []
        self._exit_codes: list[int] = []

    def _defaults(self) -> dict:
        return {
            "smtp": {"listen": [f"127.0.0.1:{self.port}"]},
            "ses": {"region": "eu-central-1"},
            "aws": {"role_arn": ROLE_ARN},
            "delivery": {"spool": {"path": ""}},
            "admin": {"socket": self.admin_socket, "metrics_listen": f"127.0.0.1:{self.metrics_port}"},
            "log": {"level": "debug"},
        }

    # --- life

    def start(self, wait: bool = True) -> "Sidecar":
        """Comes back when the SMTP port is open; identity and gateway may still be missing."""
        if os.getuid() == 0:
            os.chown(self.directory, self.uid, self.uid)
        with open(self.config_file, "w") as file:
            yaml.safe_dump(self.config, file, sort_keys=False)
        os.chmod(self.config_file, 0o644)
        command = [*self._wrapper, self.program, "run", "--config", self.config_file, *self._arguments]
        self.process = Process("svidmail", command, log_dir=self.directory, uid=self.uid, env=self._env)
        if wait:
            self.wait_for_event("app.started", timeout=20)
        return self

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM, as kubelet does it; the exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        return self._ended(self.process.wait(timeout))

    def kill(self) -> None:
        """SIGKILL: nothing can be finished."""
        self.process.kill()
        self._ended(0)

    def wait_exit(self, timeout: float = 10) -> int:
        """For a sidecar that ends by itself: the exit code; what it said is in last_words, not check()'s business."""
        process = self.process
        code = process.wait(timeout)
        self._ended(0)
        self.last_words = "\n".join(process.stderr.items)
        self._past_noise.clear()
        return code

    def restart(self) -> None:
        self.stop()
        self.start()

    def _ended(self, code: int) -> int:
        self._exit_codes.append(code)
        events, noise = _split(self.process.stderr.items)
        self._past_events += events
        self._past_noise += noise + [line for line in self.process.stdout.items if line.strip()]
        self.process = None
        return code

    @property
    def pid(self) -> int:
        return self.process.pid

    # --- its log

    def events(self, name: str | None = None, **fields) -> list[dict]:
        """The log lines so far, oldest first."""
        lines = self._past_events + (_split(list(self.process.stderr.items))[0] if self.process else [])
        return [line for line in lines if _is(line, name, fields)]

    def wait_for_event(self, name: str, *, timeout: float = 15, after: int = 0, **fields) -> dict:
        """The first line of this event with these fields (a function is asked, anything else must be equal).

        after: how many such lines to pass over, those of an earlier start included.
        """
        seen = sum(_is(line, name, fields) for line in self._past_events)
        if seen > after:
            return [line for line in self._past_events if _is(line, name, fields)][after]
        left = after - seen

        def matching(text: str):
            nonlocal left
            line = _parse(text)
            if line is None or not _is(line, name, fields):
                return None
            left -= 1
            return line if left < 0 else None

        return self.process.wait_for_line(matching, timeout, what=f"{name} {fields or ''}".strip())

    def count_events(self, name: str, **fields) -> int:
        """What to give wait_for_event(after=…) when only what comes from now on counts."""
        return len(self.events(name, **fields))

    def expect_warning(self, event: str, **fields) -> None:
        """This test makes svidmail warn, and that is right."""
        self._expected.append((event, fields))

    def check(self) -> None:
        """What must hold at the end of every test."""
        if self.process is not None:
            try:
                self.stop()
            except Failure as failure:
                self.process.kill()
                self._ended(0)
                raise Failure(f"svidmail did not end on SIGTERM: {failure}") from None
        if self._past_noise:
            raise Failure("svidmail said more than log lines:\n" + "\n".join(self._past_noise[:200]))
        unexpected = [line for line in self._past_events if line["level"] in ("warn", "error")
                      and not any(_is(line, event, fields) for event, fields in self._expected)]
        if unexpected:
            raise Failure("svidmail warned, and the test had not said expect_warning():\n"
                          + "\n".join(json.dumps(line) for line in unexpected[:20]))
        if any(code != 0 for code in self._exit_codes):
            raise Failure(f"svidmail ended with {self._exit_codes}")

    def log_tail(self, count: int) -> list[str]:
        """The end of what it wrote, for a failed test's report."""
        path = os.path.join(self.directory, "svidmail.err")
        if not os.path.exists(path):
            return []
        with open(path, errors="replace") as log:
            return log.read().splitlines()[-count:]

    # --- its doors

    def smtp(self, timeout: float = 40) -> smtplib.SMTP:
        """A stock client, connected."""
        return smtplib.SMTP("127.0.0.1", self.port, timeout=timeout, local_hostname="app.test")

    def connect(self, timeout: float = 40) -> socket.socket:
        """A bare connection to the SMTP port; the greeting is unread."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def wait_ready(self, timeout: float = 20) -> None:
        """Identity chosen and usable, as `svidmail health --ready` tells a probe."""
        poll_until("svidmail to be ready", self.is_ready, timeout)

    def is_ready(self) -> bool:
        return self.ask("/ready")[0] == 200

    def cli(self, *command: str, stdin: str | None = None, timeout: float = 30) -> subprocess.CompletedProcess:
        """A subcommand of the same binary, asked as the sidecar's own uid through its admin socket."""
        prefix = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", "--"]
        subcommand, *rest = command
        return subprocess.run(
            [*(prefix if os.getuid() == 0 else []), self.program, subcommand, "--socket", self.admin_socket, *rest],
            input=stdin, capture_output=True, text=True, timeout=timeout, cwd="/",
            env={"PATH": os.environ["PATH"]} | self._env)

    def status(self) -> dict:
        return json.loads(self.admin("/status"))

    def admin(self, path: str) -> str:
        """GET over the admin socket; anything but 200 is a Failure."""
        status, body = self.ask(path)
        if status != 200:
            raise Failure(f"admin {path}: {status} {body}")
        return body

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body, over the admin socket."""
        return _ask(_UnixHTTPConnection(self.admin_socket), method, path)

    def ask_metrics_port(self, path: str, method: str = "GET") -> tuple[int, str]:
        return _ask(http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=5), method, path)

    def metrics_text(self) -> str:
        """What Prometheus scrapes, from where it scrapes it."""
        return self.ask_metrics_port("/metrics")[1]

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels as written, the prefix left out: metrics()['attempts_total{route="ses-api"…}']."""
        samples = {}
        for line in self.metrics_text().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name.removeprefix("svidmail_")] = float(value)
        return samples

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels; 0 when there is none."""
        total = 0.0
        for sample, value in self.metrics().items():
            base, _, text = sample.partition("{")
            found = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', text))
            if base == name and all(found.get(key) == wanted for key, wanted in labels.items()):
                total += value
        return total

    def wait_for_metric(self, name: str, at_least: float = 1, timeout: float = 10, **labels: str) -> float:
        return poll_until(f"metric {name} {labels} >= {at_least}",
                          lambda: (value := self.metric(name, **labels)) >= at_least and value, timeout)

    def memory_kb(self) -> dict[str, int]:
        return self.process.memory_kb()

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


class _UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, path: str):
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, str]:
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _parse(text: str) -> dict | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line and "level" in line else None


def _split(lines: list[str]) -> tuple[list[dict], list[str]]:
    """Log lines, and what is none."""
    events, noise = [], []
    for text in lines:
        line = _parse(text)
        if line is not None:
            events.append(line)
        elif text.strip():
            noise.append(text)
    return events, noise


def _is(line: dict, name: str | None, fields: dict) -> bool:
    return (name is None or line["event"] == name) and has_fields(line, fields)
