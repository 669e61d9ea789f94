# SPDX-License-Identifier: Apache-2.0
"""Deletion in every order: mail that an app sends while it winds up, and what goes before the app."""

import json
import time

import pytest
from support.cluster_traffic import Replies, Traffic
from support.processes import poll_until

NOT_NATIVE = {"sidecar.istio.io/nativeSidecar": "false", "inject.istio.io/templates": "sidecar,spire-gateway"}


def start_winding_up(shop, name: str, seconds: int, **template) -> Replies:
    """A pod that mails from its deletion on, as long."""
    start = shop.start_captured_pod if "like" in template else shop.start_pod
    start("until-deleted", name, str(seconds), name=name, terminationGracePeriodSeconds=15, **template)
    shop.wait_ready_to_relay(name)
    return Replies(shop, name)


def delete_and_wait(shop, *names: str) -> None:
    shop.cluster.kubectl("delete", "pod", *names, "--namespace", shop.namespace, timeout=90)


def test_an_app_mails_until_its_end_beside_whichever_istio_proxy(mesh_shop):
    beside = {"none": {}, "native": {"mesh": True}, "not-native": {"mesh": True, "annotations": NOT_NATIVE}}
    # A non-native istio-proxy is gone 5 s after the deletion.
    apps = {name: start_winding_up(mesh_shop, name, 7, **template) for name, template in beside.items()}
    [pod] = [pod for pod in mesh_shop.cluster.pods(mesh_shop.namespace) if pod["metadata"]["name"] == "not-native"]
    assert "istio-proxy" in [each["name"] for each in pod["spec"]["containers"]]
    # What the excluded ports are good for.
    captured = start_winding_up(mesh_shop, "captured", 7, like="not-native", annotations=NOT_NATIVE)
    delete_and_wait(mesh_shop, *apps, "captured")
    for app in apps.values():
        app.wait_for_end()
        assert app.codes() == {250}
        assert app.all()[-1]["at"] - app.asked_to_end_at() > 5.5, "it mailed when the non-native istio-proxy had gone"
        app.check_account()
    captured.wait_for_end()
    # 454: caught by the proxy amid its end.
    assert {250, 451} <= captured.codes() <= {250, 451, 454}
    captured.check_account()


def test_an_app_mails_until_its_end_while_its_namespace_is_deleted(shop):
    app = start_winding_up(shop, "checkout", 2)
    shop.remove()
    app.wait_for_end()
    assert app.codes() == {250}
    app.check_account()
    shop.cluster.wait_gone(f"namespace/{shop.namespace}", "default", timeout=60)


def test_a_pod_deleted_amid_its_mail_ends_in_time_and_loses_none(shop):
    with Traffic(shop) as traffic:
        traffic.wait_for_more(20)
        begun = time.monotonic()
        delete_and_wait(shop, "traffic")
        took = time.monotonic() - begun
    assert took < 10, "its grace period"
    assert traffic.codes() == {250}
    traffic.check_account()


def test_apps_stay_up_and_are_put_off_when_the_gateway_goes_first(shop, cluster, changed_platform):
    with Traffic(shop) as traffic:
        with changed_platform():
            cluster.helm4("uninstall", "mail-egress", "--namespace", "mail-egress", "--wait")
            traffic.wait_for_more(5, code=451)
            [pod] = cluster.pods(shop.namespace)
            assert all(each["ready"] for each in
                       pod["status"]["containerStatuses"] + pod["status"]["initContainerStatuses"])
            assert sum(each["restartCount"] for each in pod["status"]["initContainerStatuses"]) == 0
        traffic.wait_for_more(10)
    assert traffic.codes() <= {250, 451, 454}  # 454: the gateway went amid a handshake
    traffic.check_account()


@pytest.fixture
def no_spire_agent(cluster):
    """No agent's pod, until the test's end."""
    def schedule(selector: dict | None) -> None:
        cluster.kubectl("patch", "daemonset", "spire-agent", "--namespace=spire-system", "--type=merge", "--patch",
                        json.dumps({"spec": {"template": {"spec": {"nodeSelector": selector}}}}))

    def take_away() -> None:
        schedule({"no-such": "node"})
        poll_until("the agent's pod to end", lambda: not cluster.pods("spire-system", "app=spire-agent"), 30, 0.2)

    yield take_away
    schedule(None)
    cluster.wait_ready("daemonset/spire-agent", "spire-system")


def test_mail_goes_and_pods_end_when_the_spire_agent_goes_first(shop, no_spire_agent):
    with Traffic(shop) as traffic:
        no_spire_agent()
        traffic.wait_for_more(20)
        begun = time.monotonic()
        delete_and_wait(shop, "traffic")
        took = time.monotonic() - begun
    assert took < 10, "its grace period"
    assert traffic.codes() == {250}
    traffic.check_account()
