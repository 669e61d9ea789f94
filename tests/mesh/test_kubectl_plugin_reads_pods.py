# SPDX-License-Identifier: Apache-2.0
"""What `kubectl svidmail check` makes of the pods that a real apiserver has; nobody runs them."""

import json
import re

import pytest
from support.kubectl_plugin import run_plugin

LABEL = {"svidmail.io/inject": "true"}
APP = {"name": "app", "image": "app"}
SIDECAR = {"name": "svidmail", "image": "svidmail", "restartPolicy": "Always"}
RUNNING = {"phase": "Running", "initContainerStatuses": [{
    "name": "svidmail", "image": "svidmail", "imageID": "", "ready": True, "restartCount": 3,
    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}


@pytest.fixture
def make_pod(kube_api, request):
    """make_pod(NAME, labels, status): in the namespace `make_pod.namespace`."""
    namespace = kube_api.make_namespace(f"plugin-{abs(hash(request.node.name)) % 10**8}")

    def make(name: str, labels: dict | None = None, status: dict | None = None, **spec) -> None:
        kube_api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": name, "namespace": namespace, **({"labels": labels} if labels else {})},
            "spec": {"containers": [APP], **spec}})
        if status:
            kube_api.kubectl("patch", "pod", name, "--namespace", namespace, "--subresource=status", "--type=merge",
                             "--patch", json.dumps({"status": status}))

    make.namespace = namespace
    return make


@pytest.fixture
def check(kube_api, programs, tmp_path):
    """check(NAMESPACE): each pod's state, and the result."""

    def run(namespace: str) -> tuple[dict[str, str], int]:
        result = run_plugin("dash", ["check", "-n", namespace, "--kubeconfig", kube_api.kubeconfig],
                            f"{programs.kubernetes_dir}/kubectl", str(tmp_path))
        assert result.stderr == "", result
        rows = [re.split(r"  +", line) for line in result.stdout.splitlines()[1:] if not line.startswith("    ")]
        return {row[1]: row[2] for row in rows}, result.returncode

    return run


def test_a_pod_with_the_label_and_without_the_sidecar_is_told(make_pod, check):
    make_pod("app-1")
    make_pod("app-2", {"svidmail.io/inject": "false"})
    make_pod("app-3", {"app": "shop"})
    make_pod("missed", LABEL)
    make_pod("waits", LABEL, initContainers=[SIDECAR])
    make_pod("by-hand", containers=[APP, {"name": "svidmail", "image": "svidmail"}])
    assert check(make_pod.namespace) == ({"by-hand": "not there", "missed": "no sidecar", "waits": "not there"}, 1)


def condition(status: str, **reason: str) -> dict:
    return RUNNING | {"conditions": [{"type": "Initialized", "status": "Unknown"},
                                     {"type": "Ready", "status": status} | reason]}


def test_a_pod_of_a_lost_node_is_told_from_one_that_is_not_ready(make_pod, check):
    """The node controller sets Ready to False and leaves the reason of True, which is none; kubelet gives one."""
    for name, status in (("lost", condition("False")), ("unknown", condition("Unknown", reason="NodeStatusUnknown")),
                         ("unready", condition("False", reason="ContainersNotReady")), ("fine", condition("True"))):
        make_pod(name, LABEL, status, initContainers=[SIDECAR])
    states, code = check(make_pod.namespace)
    assert states == {"fine": "no answer", "lost": "unreachable", "unknown": "unreachable", "unready": "no answer"}
    assert code == 1, "without a kubelet nobody answers"
