# SPDX-License-Identifier: Apache-2.0
"""istioctl analyze -A of the live cluster has no finding, with a pod of each way beside the gateway's.

Each namespace says whether it is Istio's, which no chart can say for it, and docs/install.md asks for.
"""

import contextlib
import json

import pytest
import yaml
from support.processes import poll_until

INJECTION = "istio-injection"


@contextlib.contextmanager
def labelled(cluster, namespaces: list[str], value: str):
    names = [f"namespace/{name}" for name in namespaces]
    cluster.kubectl("label", *names, f"{INJECTION}={value}")
    try:
        yield
    finally:
        cluster.kubectl("label", *names, f"{INJECTION}-")


def findings(cluster) -> list[str]:
    said = cluster.istioctl("analyze", "-A", "--output", "json", check=False).stdout
    return [f"{found['code']} {found['origin']}: {found['message']}" for found in json.loads(said[said.index("["):])]


@pytest.fixture
def in_mesh(new_shop, cluster):
    """A shop whose pod has an istio-proxy beside the sidecar; there is another one, which is in no mesh."""
    def leaving() -> list[str]:
        return [each["metadata"]["name"] for each in cluster.get("namespaces")["items"]
                if each["status"]["phase"] == "Terminating"]

    poll_until("the namespaces of earlier tests to be gone", lambda: not leaving(), 60, interval=0.5)
    shop = new_shop(restricted=False)
    shop.start_pod("serve", mesh=True)
    new_shop().start_pod("serve")
    meshed = ["mail-egress", shop.namespace]
    others = [each["metadata"]["name"] for each in cluster.get("namespaces")["items"]
              if each["metadata"]["name"] not in meshed]
    with labelled(cluster, meshed, "enabled"), labelled(cluster, others, "disabled"):
        yield shop


def test_analyze_of_the_whole_cluster_has_no_finding(in_mesh, cluster):
    assert findings(cluster) == []


def test_analyze_names_a_rule_without_roots_and_a_namespace_that_says_nothing(in_mesh, cluster):
    """That the test above can fail."""
    rule = yaml.safe_load("""
        apiVersion: networking.istio.io/v1
        kind: DestinationRule
        metadata: {name: rootless}
        spec: {host: example.org, trafficPolicy: {tls: {mode: SIMPLE, sni: example.org}}}""")
    cluster.apply(rule, namespace=in_mesh.namespace)
    cluster.kubectl("label", "namespace/default", f"{INJECTION}-")
    found = findings(cluster)
    assert any("rootless" in each for each in found)
    assert any(each.startswith("IST0102 Namespace default") for each in found)


def test_the_gateways_pod_is_the_same_where_istio_injects_by_the_namespace(in_mesh, cluster):
    def containers(of: dict) -> list[str]:
        spec = of["spec"]
        return [each["name"] for each in spec.get("initContainers", []) + spec["containers"]]

    [before] = cluster.pods("mail-egress")
    cluster.kubectl("rollout", "restart", "deployment/mail-egress", "--namespace", "mail-egress")
    cluster.wait_ready("deployment/mail-egress", "mail-egress")
    [after] = [pod for pod in cluster.pods("mail-egress") if pod["metadata"]["uid"] != before["metadata"]["uid"]]
    assert containers(after) == containers(before) == ["istio-proxy"]
    assert in_mesh.send("checkout", "by the new gateway")[0] == 250
