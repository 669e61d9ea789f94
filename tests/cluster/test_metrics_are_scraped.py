# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads of a pod, by the PodMonitor that the chart makes, from a pod that is in no mesh."""

import pytest
import yaml
from support.cluster_shop import ROOT
from support.processes import poll_until

# Plain text of those who are not in the mesh is refused.
STRICT = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
          "spec": {"mtls": {"mode": "STRICT"}}}
DELIVERED = 'svidmail_attempts_total{route="ses-api",outcome="delivered",error=""} 1'
GET = """
import sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
        print(answer.status, answer.headers["Content-Type"], answer.read().decode(), sep="\\n")
except OSError as problem:
    print(0, type(problem).__name__, problem, sep="\\n")
"""


@pytest.fixture
def scrape(mesh_shop, cluster):
    """scrape(POD): (status, content type, text) of the endpoint that the PodMonitor names."""
    rendered = cluster.helm4("template", "svidmail", str(ROOT / "helm" / "svidmail"), "--values",
                             f"{cluster.directory}/{mesh_shop.namespace}.yaml", "--set=podMonitor.enabled=true").stdout
    [monitor] = [entry for entry in yaml.safe_load_all(rendered) if entry["kind"] == "PodMonitor"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    selected = ",".join("=".join(pair) for pair in monitor["spec"]["selector"]["matchLabels"].items())
    mesh_shop.start_pod("idle", name="prometheus", labelled=False)

    def get(name: str) -> tuple[int, str, str]:
        [pod] = [pod for pod in cluster.pods(mesh_shop.namespace, selected) if pod["metadata"]["name"] == name]
        [port] = [port["containerPort"] for container in pod["spec"]["initContainers"] + pod["spec"]["containers"]
                  for port in container.get("ports", []) if port.get("name") == endpoint["port"]]
        url = f"http://{pod['status']['podIP']}:{port}{endpoint['path']}"
        status, kind, text = mesh_shop.exec("prometheus", "app", "python3", "-c", GET, url).stdout.split("\n", 2)
        return int(status), kind, text

    return get


def test_the_metrics_are_read_past_istio_proxy_which_refuses_plain_text(mesh_shop, scrape):
    mesh_shop.apply(STRICT)
    mesh_shop.start_pod("serve", mesh=True)
    mesh_shop.wait_for_mail("checkout")
    # SES has it before svidmail counts it.
    poll_until("the mail to be counted", lambda: DELIVERED in scrape("checkout")[2].splitlines(), 10, interval=0.2)
    status, kind, _ = scrape("checkout")
    assert (status, kind.split(";")[0]) == (200, "text/plain")


def test_istio_proxy_would_refuse_them_on_a_port_that_is_not_excluded(mesh_shop, scrape):
    """That the test above can fail."""
    mesh_shop.apply(STRICT)
    mesh_shop.start_pod("idle", mesh=True)
    mesh_shop.start_captured_pod("idle", like="checkout", name="captured")
    assert scrape("checkout")[0] == 200
    poll_until("STRICT to be in force", lambda: scrape("captured")[:2] == (0, "ConnectionResetError"), 20, interval=0.5)
