# SPDX-License-Identifier: Apache-2.0
"""shareProcessNamespace lets the pod's other containers see svidmail: it says so, what is protected, and says nothing
where nothing is shared."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest
import yaml
from support.processes import Process, poll_until
from support.sidecar import SANITIZERS, SIDECAR_UID, Sidecar

IN_POD = {"POD_NAME": "shop-1", "POD_NAMESPACE": "shop", "SVIDMAIL_POD_IP": "10.0.0.7", "SVIDMAIL_HOST_IP": "10.0.0.1"}

# The first process of the namespace, like a pod's: it goes to a control group of its own, what it starts does not.
PAUSE = """
echo 1 >"$OTHER/cgroup.procs" || exit 3
sh -c 'echo 0 >"$OWN/cgroup.procs" && exec "$@"' sh "$@" &
wait
"""
INIT = '"$@" & wait'  # a small init of the container itself
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def words_of(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


@pytest.fixture
def control_groups():
    """Two control groups, as two containers of a pod have them."""
    hierarchy = "/sys/fs/cgroup" if os.path.exists("/sys/fs/cgroup/cgroup.procs") else "/sys/fs/cgroup/pids"
    groups = [os.path.join(hierarchy, f"svidmail-{os.getpid()}-{name}") for name in ("own", "other")]
    for group in groups:
        try:
            os.mkdir(group)
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
    yield dict(zip(("OWN", "OTHER"), groups, strict=True))
    for group in groups:
        poll_until("its processes to end", lambda group=group: not words_of(f"{group}/cgroup.procs"), 10)
        os.rmdir(group)


@pytest.fixture
def started(programs, workdir, control_groups):
    """started(before, env): svidmail, run by a command that ends by the rest of its arguments; and how to ask it."""
    running = []

    def start(before: list[str], env: dict) -> tuple[Process, Sidecar]:
        directory = workdir()
        os.chown(directory, SIDECAR_UID, SIDECAR_UID)
        settings = Sidecar(programs.svidmail, directory, {
            "identity": {"endpoint": "unix:///nonexistent/agent.sock"},
            "gateway": {"host": "gw.example", "spiffe_ids": ["spiffe://example.org/gw"]}})
        with open(settings.config_file, "w") as file:
            yaml.safe_dump(settings.config, file)
        process = Process("svidmail", [
            *before, "setpriv", "--reuid", str(SIDECAR_UID), "--regid", str(SIDECAR_UID), "--clear-groups", "--",
            programs.svidmail, "run", "--config", settings.config_file], log_dir=directory, env=SANITIZERS | env)
        running.append(process)
        process.wait_for_line('"app.started"', 20)
        return process, settings

    yield start
    for process in running:
        # A svidmail that is the namespace's first process has shed unshare's --kill-child with its uid.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def warnings(process: Process) -> list[dict]:
    return [yaml.safe_load(line) for line in process.stderr.items if '"pod.shared"' in line]


def svidmail_of(process: Process, programs) -> int:
    """Its pid as seen from here."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    [found] = [pid for pid in pids if executable(pid) == programs.svidmail and process.pid in ancestors(pid)]
    return found


def executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def ancestors(pid: int) -> list[int]:
    found = [pid]
    while found[-1] > 1:
        with open(f"/proc/{found[-1]}/stat") as stat:
            found.append(int(stat.read().rsplit(")", 1)[1].split()[1]))
    return found


def can_read(path: str, uid: int) -> bool:
    return subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--", "head", "-c1",
                           path], capture_output=True).returncode == 0


def test_shared_process_namespace_is_warned_of_once_and_truly(started, control_groups, programs):
    process, svidmail = started([*NAMESPACE, "sh", "-c", PAUSE, "sh"], IN_POD | control_groups)
    [warning] = warnings(process)
    assert warning["level"] == "warn" and warning["uid"] == str(SIDECAR_UID)
    assert "command line" in warning["seen"] and "shareProcessNamespace" in warning["cure"]
    status = svidmail.status()["pod"]
    assert status["shares_processes"] is True
    assert "shares its process namespace" in svidmail.cli("status").stdout
    # What it says of its memory is what another container's process meets that has the same uid.
    pid = svidmail_of(process, programs)
    assert can_read(f"/proc/{pid}/cmdline", SIDECAR_UID) and can_read(f"/proc/{pid}/cmdline", 21009)
    is_open = status["memory_open"]
    assert can_read(f"/proc/{pid}/environ", SIDECAR_UID) is is_open
    assert can_read(f"/proc/{pid}/root/etc/passwd", SIDECAR_UID) is is_open
    assert not can_read(f"/proc/{pid}/environ", 21009)
    assert ("nothing:" in warning["protected"]) is is_open
    assert len(warnings(process)) == 1


@pytest.mark.parametrize("before, env", [
    pytest.param([*NAMESPACE, "sh", "-c", PAUSE, "sh"], {}, id="outside of Kubernetes"),
    pytest.param(NAMESPACE, IN_POD, id="first process of its container"),
    pytest.param([*NAMESPACE, "sh", "-c", INIT, "sh"], IN_POD, id="behind a small init"),
    pytest.param([], {}, id="on a plain machine"),
])
def test_nothing_is_said_where_nothing_is_shared(started, control_groups, before, env):
    process, svidmail = started(before, env | control_groups)
    assert warnings(process) == []
    assert svidmail.status()["pod"]["shares_processes"] is False
    assert "shares its process" not in svidmail.cli("status").stdout


def test_nothing_is_said_when_put_into_a_container_later(started, control_groups, workdir):
    """As kubectl exec does it: not the first process, and its parent is outside of the namespace."""
    container = Process("container", [*NAMESPACE, "sleep", "60"], log_dir=workdir())
    try:
        children = f"/proc/{container.pid}/task/{container.pid}/children"
        first = poll_until("its first process", lambda: words_of(children), 5)[0]
        poll_until("its start", lambda: executable(int(first)) == shutil.which("sleep"), 5)
        process, svidmail = started(["nsenter", "--target", first, "--pid", "--mount"], IN_POD)
        assert warnings(process) == [] and svidmail.status()["pod"]["shares_processes"] is False
    finally:
        container.kill()
