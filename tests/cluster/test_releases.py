# SPDX-License-Identifier: Apache-2.0
"""The releases of the platform and of an app: installed, changed, put back, removed, by helm 3 and by helm 4."""

import concurrent.futures
import itertools
import json

import pytest
from support.cluster_app import AppRelease
from support.cluster_platform import PlatformRelease
from support.cluster_shop import Shop, now
from support.cluster_traffic import Traffic
from support.processes import poll_until

CHECKSUM = "checksum/svidmail-config"
DEPLOYMENT_ONLY = {"job": False, "statefulSet": False}
SECONDS_AT_MOST = 5
SLOW_S = 6


@pytest.fixture(params=["helm3", "helm4"])
def helm(request, cluster):
    return getattr(cluster, request.param)


# --- an app's

def config_of(shop) -> tuple[str, str]:
    """Of the newest pod: the checksum it was made with, and what its svidmail says it runs with."""
    pods = [pod for pod in shop.cluster.pods(shop.namespace, "app=checkout")
            if "deletionTimestamp" not in pod["metadata"]]
    pod = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
    status = json.loads(shop.svidmail(pod["metadata"]["name"], "status", "--output=json"))
    return pod["metadata"]["annotations"][CHECKSUM], status["gateway"]["tls"]


def test_a_changed_configuration_rolls_the_pods_and_a_rollback_rolls_them_back(new_shop, cluster, helm, tmp_path):
    shop = new_shop(configured=False)
    app = AppRelease(shop, helm, tmp_path)

    def rolled_out() -> tuple[str, str]:
        cluster.wait_ready("deployment/checkout", shop.namespace)
        return config_of(shop)

    app.install(DEPLOYMENT_ONLY)
    first = rolled_out()
    app.upgrade(DEPLOYMENT_ONLY, gateway={"tls": "end-to-end"})
    second = rolled_out()
    assert (first[1], second[1]) == ("gateway", "end-to-end") and first[0] != second[0]
    [pod] = poll_until("the old pod to be gone", lambda: len(
        pods := cluster.pods(shop.namespace, "app=checkout")) == 1 and pods, 20)
    shop.wait_for_mail(pod["metadata"]["name"])
    app.rollback()
    assert rolled_out() == first
    app.uninstall()
    left = cluster.kubectl("get", "deployments,configmaps", "--namespace", shop.namespace, "--output", "name").stdout
    assert "shop-svidmail" not in left and "deployment" not in left
    poll_until("the pods to be gone", lambda: not cluster.pods(shop.namespace), 20)


def test_an_upgrade_without_a_change_leaves_the_pods_alone(new_shop, cluster, tmp_path):
    shop = new_shop(configured=False)
    app = AppRelease(shop, cluster.helm4, tmp_path)
    app.install(DEPLOYMENT_ONLY)
    cluster.wait_ready("deployment/checkout", shop.namespace)
    before = [pod["metadata"]["uid"] for pod in cluster.pods(shop.namespace)]
    app.upgrade(DEPLOYMENT_ONLY)
    cluster.wait_ready("deployment/checkout", shop.namespace)
    assert [pod["metadata"]["uid"] for pod in cluster.pods(shop.namespace)] == before


# --- the platform's

@pytest.fixture
def second(request, cluster, platform):
    """second(helm, name): an installed PlatformRelease, and a shop whose pod `checkout` sends through it."""
    releases: list[PlatformRelease] = []
    shops: list[Shop] = []
    failed_before = request.session.testsfailed

    def make(helm, name: str, drain_s: int = 3) -> tuple[PlatformRelease, Shop]:
        release = PlatformRelease(cluster, helm, f"egress-{name}", f"client-{name}", drain_s)
        releases.append(release)
        shop = Shop(cluster, f"client-{name}", release.install())
        shops.append(shop)
        # The first release's policy puts the sidecar into labelled pods of all namespaces.
        shop.configure()
        shop.start_pod("idle")
        return release, shop

    yield make
    for shop in shops:
        if request.session.testsfailed > failed_before:
            print(cluster.describe(shop.namespace))
        shop.remove()
    for release in releases:
        if request.session.testsfailed > failed_before:
            print(cluster.describe(release.namespace))
        cluster.helm4("uninstall", "mail-egress", "--namespace", release.namespace, check=False)
        cluster.kubectl("delete", "namespace", release.namespace, "--wait=false")


def wait_for_reply(shop, code: int | None, timeout: float = SECONDS_AT_MOST) -> str:
    """The text of the first reply with this code; None: of one that says to try again."""
    def look() -> str | None:
        got, text = shop.send("checkout")
        return text if got == code or (code is None and 400 <= got < 500) else None

    return poll_until(f"a reply {code or '4xx'}", look, timeout, interval=0.1)


def objects_of(cluster, release: PlatformRelease) -> set[str]:
    """What there is of the release, and of its pods."""
    kinds = ["deployments", "services", "serviceaccounts", "pods", "networkpolicies",
             "poddisruptionbudgets", "gateways.networking.istio.io", "serviceentries", "virtualservices",
             "destinationrules", "envoyfilters", "authorizationpolicies", "telemetries", "clusterspiffeids"]
    said = json.loads(cluster.kubectl("get", ",".join(kinds), "--all-namespaces", "--output", "json").stdout)
    return {f"{entry['kind']}/{entry['metadata']['name']}" for entry in said["items"]
            if (entry["metadata"].get("namespace") == release.namespace and entry["metadata"]["name"] != "default")
            or (entry["kind"] == "ClusterSPIFFEID" and entry["metadata"]["name"].startswith(f"{release.namespace}-"))}


def test_a_platform_release_comes_changes_goes_back_and_goes(second, cluster, helm):
    name = helm.__name__
    release, shop = second(helm, name)
    wait_for_reply(shop, 250, timeout=30)

    # Another account of the namespace: the gateway's policy refuses the sidecar, and SPIRE takes its identity back;
    # which is first is nobody's promise.
    release.upgrade(clients=[release.client | {"serviceAccount": "somebody-else"}])
    text = wait_for_reply(shop, None)
    assert "is not allowed" in text or "403" in text or "is not offered" in text, text
    poll_until("the identity to be taken back", lambda: "is not offered" in shop.send("checkout")[1], 20, interval=0.2)
    release.rollback()
    # The agent has to hear of the entry again.
    wait_for_reply(shop, 250, timeout=20)

    release.uninstall()
    poll_until("nothing to be left", lambda: not objects_of(cluster, release), 30, interval=0.2)
    wait_for_reply(shop, None)


def test_a_namespace_that_is_taken_from_the_clients_is_refused_at_once_and_put_back_may_send(second, cluster):
    release, shop = second(cluster.helm4, "client")
    wait_for_reply(shop, 250, timeout=30)
    release.upgrade(clients=[release.client | {"namespace": "elsewhere"}])
    text = wait_for_reply(shop, None)
    print(text)
    # SPIRE's controller manager hears of the change by itself, and may be later than istiod.
    poll_until("the entry to go", lambda: shop.spiffe_id not in cluster.spire.spiffe_ids(), SECONDS_AT_MOST)
    release.upgrade(clients=[release.client])
    # The agent has to hear of the entry again.
    wait_for_reply(shop, 250, timeout=20)


def test_an_upgrade_that_rolls_the_gateway_cuts_no_mail(second, cluster, aws_faults):
    """SES takes its time for the mail that the old gateway has when it is asked to end."""
    release, shop = second(cluster.helm4, "roll", drain_s=2 * SLOW_S)
    [old] = cluster.pods(release.namespace)

    def is_ending() -> bool:
        return "deletionTimestamp" in cluster.get("pod", old["metadata"]["name"], release.namespace)["metadata"]

    with Traffic(shop) as traffic, concurrent.futures.ThreadPoolExecutor(1) as beside:
        upgrade = beside.submit(release.upgrade, gateway={"podAnnotations": {"example.org/changed": "yes"}})
        poll_until("the new gateway to start", lambda: len(cluster.pods(release.namespace)) == 2, 30, interval=0.1)
        # All of them, for how long the new one takes to be ready is not known.
        slow = aws_faults.inject(name="slow", delay=SLOW_S, times=1000)
        poll_until("the old gateway to be asked to end", is_ending, 60, interval=0.1)
        asked = now()
        poll_until("a slow mail to be under way", lambda: any(
            request.fault == "slow" and not request.answered_at for request in cluster.aws.requests_of("ses")), 10)
        aws_faults.take_back(slow)
        upgrade.result()
        traffic.wait_for_more(20)
    assert any(before["at"] < asked < after["at"] and after["at"] - before["at"] > SLOW_S
               for before, after in itertools.pairwise(traffic.all())), "the slow one was under way"
    assert traffic.codes() == {250}
    traffic.check_account()
