# SPDX-License-Identifier: Apache-2.0
"""kubectl-svidmail's own command line, in every shell it may meet; what it does in a cluster is told by
tests/cluster/test_kubectl_plugin.py."""

import os
import subprocess

import pytest
from support.kubectl_plugin import SHELLS, run_plugin


@pytest.fixture(params=SHELLS)
def plugin(request, tmp_path):
    """plugin(*words): the script in that shell; KUBECTL is `kubectl`, or what the test says."""

    def run(*words: str, kubectl: str = "/bin/false") -> subprocess.CompletedProcess:
        return run_plugin(request.param, list(words), kubectl, str(tmp_path))

    yield run
    assert os.listdir(tmp_path) == [], "nothing is left behind"


@pytest.mark.parametrize("words", [["help"], ["--help"], ["-h"], ["check", "--help"], ["-n", "shop", "status", "-h"]],
                         ids=" ".join)
def test_help_is_for_who_asks(plugin, words):
    result = plugin(*words)
    assert result.returncode == 0 and result.stderr == ""
    for command in ("check", "status", "identity", "doctor", "send", "logs", "gateway-log"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("words, said", [
    ([], "usage: "),
    (["frobnicate"], 'no command "frobnicate"'),
    (["--frobnicate"], "no option --frobnicate"),
    (["status"], "of which POD"),
    (["doctor", "--output", "json"], "of which POD"),
    (["logs", "-f"], "of which POD"),
    (["status", "-n"], "-n wants a value"),
    (["status", "pod-1", "--namespace="], "--namespace wants a value"),
    (["check", "--context"], "--context wants a value"),
    (["check", "pod-1"], "check takes no POD"),
    (["check", "--watch"], "no option --watch"),
    (["gateway-log", "pod-1", "pod-2"], "takes one POD"),
    (["gateway-log", "--tail=all"], "--tail wants a number"),
    (["check", "--timeout", "1m"], "--timeout wants a number"),
    (["gateway-log", "--timeout=5"], "no option --timeout=5"),
    (["status", "pod-1", "--container", 'a"}}{{b'], "no name of a container"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_usage_is_refused_with_2_before_anything_is_asked(plugin, words, said):
    result = plugin(*words, kubectl="/nonexistent/kubectl")
    assert result.returncode == 2 and result.stdout == "", result
    assert said in result.stderr


def test_kubectl_that_is_not_there_is_told(plugin):
    result = plugin("status", "pod-1", kubectl="no-such-kubectl")
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no no-such-kubectl in PATH" in result.stderr


@pytest.mark.parametrize("words", [["status", "pod-1"], ["check"], ["logs", "pod-1"], ["gateway-log"],
                                   ["gateway-log", "pod-1"], ["send", "pod-1", "-"]], ids=" ".join)
def test_kubectl_that_fails_without_a_word_is_a_failure(plugin, words):
    result = plugin(*words, kubectl="/bin/false")
    assert (result.returncode, result.stdout) == (1, "")
    assert "kubectl svidmail: kubectl: " in result.stderr
