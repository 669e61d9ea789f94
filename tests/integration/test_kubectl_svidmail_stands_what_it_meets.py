# SPDX-License-Identifier: Apache-2.0
"""kubectl-svidmail before pods that have no sidecar, hang, are lost, or say what should not reach a terminal.

kubectl is a stand-in: that its template yields the lines that stand here, tests/mesh/test_kubectl_plugin_reads_pods.py
holds against a real apiserver.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from support.kubectl_plugin import PLUGIN, SHELLS, run_plugin, write_kubectl
from support.processes import poll_until

READY = {"ready": True, "pod": {"ending": False}, "identity": {"mesh": {"expires_in_s": 3000}},
         "gateway": {"streams": 1}, "last": [{"code": 250, "age_s": 5, "text": "Ok"}]}


@pytest.fixture(params=SHELLS)
def plugin(request, tmp_path, tmp_path_factory):
    """plugin(ANSWERS, *words): the script in that shell, with write_kubectl's answers."""
    directory = tmp_path_factory.mktemp("kubectl")

    def run(answers: dict[str, str], *words: str, **options):
        return run_plugin(request.param, list(words), write_kubectl(directory / "kubectl", answers), str(tmp_path),
                          **options)

    yield run
    assert os.listdir(tmp_path) == [], "nothing is left behind"


def pods(*lines: str) -> str:
    """What kubectl's template makes of pods; blanks stand for tabs, _ for blanks."""
    return "cat <<'EOF'\n" + "\n".join("\t".join(line.split()).replace("_", " ") for line in lines) + "\nEOF"


def says(status: dict | str) -> str:
    """svidmail status --output json."""
    text = status if isinstance(status, str) else json.dumps(status, indent=2, ensure_ascii=False)
    return f"cat <<'EOF'\n{text}\nEOF"


# --- check


def test_a_labelled_pod_without_the_sidecar_has_a_row_and_is_not_well(plugin):
    result = plugin({"*get\\ pods\\ *": pods("shop bare Running no_sidecar 0 -", "shop checkout Running running 2 -"),
                     "*\\ exec\\ checkout\\ *": says(READY)}, "check", "-n", "shop")
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["shop", "bare", "no", "sidecar", "-", "-", "-", "0"]
    assert lines[2].startswith("    ") and 'svidmail.io/inject: "true"' in lines[2]
    assert lines[-1].split()[:3] == ["shop", "checkout", "ready"]


def test_one_without_the_sidecar_that_ends_is_no_trouble_any_more(plugin):
    result = plugin({"*get\\ pods\\ *": pods("shop bare Running no_sidecar 0 ending")}, "check")
    assert result.returncode == 0 and result.stdout.splitlines()[1].split()[:3] == ["shop", "bare", "ending"]


def test_a_lost_pod_is_not_asked(plugin):
    result = plugin({"*get\\ pods\\ *": pods("shop lost Running unreachable 0 -", "shop here Running running 0 -"),
                     "*\\ exec\\ here\\ *": says(READY)}, "check")
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[1].split()[:3] == ["shop", "lost", "unreachable"] and "its node" in lines[2]
    assert lines[3].split()[:3] == ["shop", "here", "ready"]


MANY = [f"pod-{number}" for number in range(30)]


def test_many_pods_are_asked_side_by_side_and_told_in_their_order(plugin):
    ill = READY | {"ready": False, "not_ready_because": "no credentials"}
    answers = {"*get\\ pods\\ *": pods(*(f"shop {name} Running running 0 -" for name in MANY)),
               "*\\ exec\\ pod-3\\ *": "sleep 1\n" + says(READY), "*\\ exec\\ pod-7\\ *": says(ill),
               "*\\ exec\\ *": "sleep 0.3\n" + says(READY)}
    began = time.monotonic()
    result = plugin(answers, "check")
    assert time.monotonic() - began < 6, "one after the other it would be 10 s"
    assert (result.returncode, result.stderr) == (1, "")
    rows = [line.split() for line in result.stdout.splitlines()[1:] if not line.startswith("    ")]
    assert [row[1] for row in rows] == MANY
    assert [row[1] for row in rows if row[2:4] != ["ready", "50"]] == ["pod-7"]
    assert "\n    not ready: no credentials\nshop       pod-8 " in result.stdout


def test_a_pod_that_hangs_keeps_nobody_from_the_others(plugin):
    answers = {"*get\\ pods\\ *": pods(*(f"shop {name} Running running 0 -" for name in MANY)),
               "*\\ exec\\ pod-0\\ *": "exec sleep 60", "*\\ exec\\ *": says(READY)}
    began = time.monotonic()
    result = plugin(answers, "check", "--timeout", "2")
    assert time.monotonic() - began < 10
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[1].split()[:4] == ["shop", "pod-0", "no", "answer"]
    assert lines[2] == "    none within 2 s"
    assert sum(" ready " in line for line in lines) == len(MANY) - 1


def test_where_there_is_no_timeout_it_goes_without(plugin, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bin")
    for name in ("dash", "bash", "busybox", "sh", "awk", "sed", "cat", "mktemp", "rm", "mkdir", "mv", "fold", "sleep"):
        (directory / name).symlink_to(shutil.which(name))
    (directory / "timeout").write_text("#!/bin/sh\nexit 1\n")  # busybox's shell has one built in
    (directory / "timeout").chmod(0o755)
    result = plugin({"*get\\ pods\\ *": pods("shop one Running running 0 -"), "*\\ exec\\ one\\ *": says(READY)},
                    "check", path=str(directory))
    assert (result.returncode, result.stderr) == (0, ""), result


@pytest.mark.parametrize("shell", SHELLS)
def test_an_interrupt_ends_what_hangs_too(shell, tmp_path, tmp_path_factory):
    """As ^C does, in the foreground of a terminal."""
    asked = tmp_path_factory.mktemp("asked")
    kubectl = write_kubectl(asked.parent / f"{asked.name}-kubectl", {
        "*get\\ pods\\ *": pods(*(f"shop {name} Running running 0 -" for name in MANY)),
        "*\\ exec\\ *": f"echo $$ >{asked}/$$\nexec sleep 60"})
    plugin = subprocess.Popen([*SHELLS[shell], str(PLUGIN), "check"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, start_new_session=True, restore_signals=True,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                              env={"PATH": os.environ["PATH"], "KUBECTL": kubectl, "TMPDIR": str(tmp_path)})
    poll_until("all to be asked", lambda: len(list(asked.iterdir())) == 12, 10)
    os.killpg(plugin.pid, signal.SIGINT)
    _, said = plugin.communicate(timeout=5)
    assert (plugin.returncode, said) == (130, "")
    poll_until("them to be gone", lambda: not any(os.path.exists(f"/proc/{pid.name}") for pid in asked.iterdir()), 5)
    assert os.listdir(tmp_path) == []


# --- gateway-log

GATEWAYS = {"*get\\ pods\\ *--output\\ name": "printf 'pod/gw-a\\npod/gw-b\\n'", "*\\ exec\\ *": "exit 1"}
STARTING = "echo 'Error from server (BadRequest): container is waiting to start: PodInitializing' >&2; exit 1"
REFUSED = json.dumps({"start_time": "2026-01-01T00:00:00.000Z", "requested_server_name": "us.example", "method": None,
                      "response_code": 0, "response_flags": "NR", "response_code_details": "filter_chain_not_found",
                      "downstream_remote_address": "10.0.0.7:40000", "bytes_received": 0, "bytes_sent": 0})


def test_a_gateway_pod_without_a_log_keeps_the_others_log_from_nobody(plugin):
    result = plugin(GATEWAYS | {"*\\ logs\\ pod/gw-a\\ *": STARTING, "*\\ logs\\ pod/gw-b\\ *": says(REFUSED)},
                    "gateway-log")
    assert result.returncode == 0 and "the gateway serves no such name" in result.stdout, result
    assert "1 of 1 calls were refused" in result.stdout and "by 1 of 2 gateway pods" in result.stdout
    [note] = result.stderr.splitlines()
    assert "no log of gw-a: " in note and "PodInitializing" in note


def test_no_gateway_pod_with_a_log_is_a_failure(plugin):
    result = plugin(GATEWAYS | {"*\\ logs\\ *": STARTING}, "gateway-log")
    assert (result.returncode, result.stdout) == (1, "") and "PodInitializing" in result.stderr
    result = plugin(GATEWAYS | {"*\\ logs\\ *": "echo 'Error from server (Forbidden): no' >&2; exit 1"}, "gateway-log")
    assert result.returncode == 1 and "you may not do this: " in result.stderr
