# SPDX-License-Identifier: Apache-2.0
"""kubectl-svidmail before pods that have no sidecar, hang, are lost, or say what should not reach a terminal.

kubectl is a stand-in: that its template yields the lines that stand here, tests/mesh/test_kubectl_plugin_reads_pods.py
holds against a real apiserver.
"""

import json
import os

import pytest
from support.kubectl_plugin import SHELLS, run_plugin, write_kubectl

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
