# SPDX-License-Identifier: Apache-2.0
"""What the platform restarts, rolls or loses while mail flows; each with an exact account of the mail."""

import contextlib

import pytest
from support.cluster import ISTIOD
from support.cluster_traffic import Traffic
from support.processes import poll_until


@pytest.fixture(scope="module")
def running(shared_shop):
    with Traffic(shared_shop) as traffic:
        yield traffic


@pytest.fixture
def traffic(running):
    """Of the whole file; `since` is the number of replies before the test."""
    running.since = len(running.all())
    running.wait_for_more(1)
    yield running
    running.check_account()


def pod_names(cluster, namespace: str, selector: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.pods(namespace, selector)}


@contextlib.contextmanager
def gone(cluster, deployment: str, namespace: str, selector: str):
    """No pod of it within, and it is ready again afterwards."""
    def scale(replicas: int) -> None:
        cluster.kubectl("scale", deployment, f"--replicas={replicas}", "--namespace", namespace)

    try:
        scale(0)
        poll_until(f"the pods of {deployment} to end", lambda: not pod_names(cluster, namespace, selector), 40, 0.3)
        yield
    finally:
        scale(1)
        cluster.wait_ready(deployment, namespace)


def test_no_mail_fails_while_the_spire_agents_pod_is_replaced(traffic, cluster):
    def times_connected() -> int:
        return sum(line["event"] == "workload_api.connected" for line in traffic.shop.sidecar_log(traffic.pod))

    before, connected = pod_names(cluster, "spire-system", "app=spire-agent"), times_connected()
    cluster.kubectl("delete", "pod", "--selector=app=spire-agent", "--namespace=spire-system")
    cluster.wait_ready("daemonset/spire-agent", "spire-system")
    assert not before & pod_names(cluster, "spire-system", "app=spire-agent")
    # It is ready all the while: its identity outlives the agent.
    poll_until("the new agent to speak to the sidecar", lambda: times_connected() > connected, 20, 0.3)
    assert traffic.shop.svidmail(traffic.pod, "status").splitlines()[0].endswith(": ready")
    traffic.wait_for_more(20)
    assert traffic.codes(traffic.since) == {250}


def test_no_mail_is_lost_while_the_gateway_is_rolled(traffic, cluster):
    before = pod_names(cluster, "mail-egress", "istio=mail-egress")
    cluster.kubectl("rollout", "restart", "deployment/mail-egress", "--namespace=mail-egress")
    cluster.wait_ready("deployment/mail-egress", "mail-egress")
    poll_until("the old gateway to end", lambda: not before & pod_names(
        cluster, "mail-egress", "istio=mail-egress"), 30, 0.3)
    traffic.wait_for_more(20)
    print(f"codes: {traffic.codes(traffic.since)}")
    assert all(200 <= code < 500 for code in traffic.codes(traffic.since))


def test_no_mail_fails_while_istiod_is_gone(traffic, cluster):
    with gone(cluster, *ISTIOD, "app=istiod"):
        traffic.wait_for_more(20)
        # Its injection webhook is gone as well: only pods of the mesh would wait for it.
        traffic.shop.start_pod("serve", name="without-istiod")
        traffic.shop.app_says("without-istiod", "sent")
    assert traffic.codes(traffic.since) == {250}


def test_mail_waits_while_cluster_dns_is_gone(traffic, cluster):
    with gone(cluster, "deployment/coredns", "kube-system", "k8s-app=kube-dns"):
        traffic.shop.start_pod("serve", name="without-dns")
        traffic.shop.wait_for_own_identity("without-dns")
        code, text = traffic.shop.send("without-dns", "now")
        assert code == 451 and "mail-egress.mail-egress.svc.cluster.local" in text
    sent = traffic.shop.app_says("without-dns", "sent")
    assert sent["tries"] > 1
    assert len(traffic.shop.mails("without-dns")) == 1
    assert traffic.shop.mails("now") == []
    traffic.wait_for_more(20)
    assert all(200 <= code < 500 for code in traffic.codes(traffic.since))
