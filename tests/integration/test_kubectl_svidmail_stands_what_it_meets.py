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
    result = plugin(answers, "check", "--timeout", "5")
    assert time.monotonic() - began < 20
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[1].split()[:4] == ["shop", "pod-0", "no", "answer"]
    assert lines[2] == "    none within 5 s"
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


# --- what a pod says reaches a terminal

BELL = "\x1b]0;owned\x07\x1b[2Jred\x9bm\x7f\r"  # ESC, BEL, CSI in one character, DEL


def is_harmless(text: str) -> bool:
    return not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in text)


REASON = f"a\\c {BELL} b\\nc"


@pytest.mark.parametrize("changes", [
    {"ready": False, "not_ready_because": REASON}, {"gateway": {"streams": 1, "last_failure": REASON}},
    {"last": [{"code": 451, "age_s": 5, "text": REASON}]}], ids=["not ready", "gateway", "last mail"])
def test_a_reason_is_told_whole_and_as_text(plugin, changes):
    status = json.dumps(READY | changes, indent=2, ensure_ascii=False)
    status = status.replace("\\u001b", "\x1b").replace("\\u0007", "\x07")  # as svidmail would not send them
    result = plugin({"*get\\ pods\\ *": pods("shop one Running running 0 -"), "*\\ exec\\ *": says(status)}, "check")
    assert (result.returncode, result.stderr) == (1, "")
    assert is_harmless(result.stdout), ascii(result.stdout)
    assert "a\\c " in result.stdout and "red" in result.stdout and "b\\nc" in result.stdout, result.stdout


def test_numbers_that_are_none_do_no_harm(plugin, tmp_path_factory):
    canary = tmp_path_factory.mktemp("canary") / "there"
    word = f"a[$(touch {canary})]{BELL}"
    status = READY | {"identity": {"mesh": {"expires_in_s": word}}, "last": [{"code": word, "age_s": word, "text": ""}]}
    result = plugin({"*get\\ pods\\ *": pods("shop one Running running 0 -"),
                     "*\\ exec\\ *": says(json.dumps(status, indent=2, ensure_ascii=False))}, "check")
    assert result.stderr == "" and is_harmless(result.stdout) and not canary.exists(), result


@pytest.mark.parametrize("words", [["check"], ["status", "one"], ["doctor", "one"], ["gateway-log", "one"],
                                   ["gateway-log"], ["logs", "one"]], ids=" ".join)
def test_errors_reach_the_terminal_as_text(plugin, words):
    fails = f"printf '%s\\n' 'error: a\\c {BELL} the end' >&2; exit 1"
    result = plugin({"*get\\ pods\\ *--output\\ go-template*": pods("shop one Running running 0 -"),
                     **GATEWAYS, "*get\\ pod\\ *": "echo 10.0.0.7", "*": fails} | {"*\\ exec\\ *": fails}, *words)
    assert result.returncode == 1 and is_harmless(result.stdout + result.stderr), ascii(result)
    assert "a\\c " in result.stdout + result.stderr and " the end" in result.stdout + result.stderr


@pytest.mark.parametrize("command", ["status", "identity", "doctor", "send"])
def test_what_svidmail_says_reaches_the_terminal_as_text_and_its_code_is_kept(plugin, command):
    result = plugin({"*exec\\ *": f"printf '%s\\n' '√ a\\c {BELL} Grüße' '\tthe end'; "
                                       f"printf '%s\\n' 'x{BELL}y' 'command terminated with exit code 3' >&2; exit 3"},
                    command, "one")
    assert result.returncode == 3 and is_harmless(result.stdout + result.stderr), ascii(result)
    assert result.stdout.startswith("√ a\\c ") and result.stdout.endswith(" Grüße\n\tthe end\n")
    assert result.stderr.startswith("x") and "terminated" not in result.stderr


def test_the_gateways_log_reaches_the_terminal_as_text(plugin):
    log = REFUSED.replace("us.example", f"us\\c.{BELL}example")
    result = plugin(GATEWAYS | {"*\\ logs\\ *": says(log)}, "gateway-log")
    assert result.returncode == 0 and is_harmless(result.stdout), ascii(result)
    assert "decided by requested_server_name=us\\c." in result.stdout and "example" in result.stdout


def test_a_log_is_text_at_a_terminal_and_as_it_is_in_a_pipe(plugin):
    answers = {"*logs\\ one\\ *": f"printf '%s\\n' 'a{BELL}b'"}
    assert plugin(answers, "logs", "one").stdout == f"a{BELL}b\n"
    reader, writer = os.openpty()
    result = plugin(answers, "logs", "one", stdout=writer)
    os.close(writer)
    said = os.read(reader, 1000).decode().replace("\r\n", "\n")
    os.close(reader)
    assert result.returncode == 0 and is_harmless(said) and said.startswith("a") and said.endswith("b\n"), ascii(said)
    failed = os.openpty()
    result = plugin({"*logs\\ one\\ *": "exit 1"}, "logs", "one", stdout=failed[1])
    assert result.returncode == 1 and "kubectl svidmail: kubectl: " in result.stderr
    for descriptor in failed:
        os.close(descriptor)
