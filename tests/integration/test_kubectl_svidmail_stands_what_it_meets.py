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
