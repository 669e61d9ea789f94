# SPDX-License-Identifier: Apache-2.0
"""How a pod ends, by kubelet's own order: the announcement beside the app's SIGTERM, the app's last mails, the
sidecar's SIGTERM, exit 0.  A finalizer keeps the pod's last state for a look."""

import json

import pytest
from support.processes import poll_until

FINALIZER = "svidmail.io/test"


@pytest.fixture
def start(shop, cluster):
    """start(*words, **spec): a pod that stays in sight after its end."""
    started = []

    def make(*words: str, script: str | None = None, **spec) -> str:
        pod = shop.pod_template(*words, **spec)
        pod["metadata"] |= {"name": "ending", "finalizers": [FINALIZER]}
        if script is not None:
            pod["spec"]["containers"][0]["command"] = ["sh", "-c", script]
        shop.apply({"apiVersion": "v1", "kind": "Pod", **pod})
        started.append("ending")
        cluster.wait_ready("pod/ending", shop.namespace)
        shop.wait_ready_to_relay("ending")
        return "ending"

    yield make
    for name in started:
        cluster.kubectl("patch", "pod", name, "-n", shop.namespace, "--type=merge", "--patch",
                        '{"metadata": {"finalizers": null}}', check=False)


def deleted(cluster, shop, name: str) -> tuple[list[dict], dict[str, dict]]:
    """Its sidecar's log to the last line, and how its containers ended."""
    following = cluster.follow(shop.namespace, name, "svidmail")
    cluster.delete("pod", name, shop.namespace)

    def ended() -> dict[str, dict] | None:
        status = cluster.get("pod", name, shop.namespace)["status"]
        states = {each["name"]: each["state"].get("terminated")
                  for each in status["initContainerStatuses"] + status["containerStatuses"]}
        return all(states.values()) and states

    states = poll_until("the end of all containers", ended, 60, interval=0.2)
    following.wait(10)
    return [json.loads(line) for line in following.stdout.items if line.startswith("{")], states


def test_end_is_announced_and_the_apps_last_mails_are_taken(start, shop, cluster):
    log, states = deleted(cluster, shop, start("until-deleted", "ending", "4"))
    events = [line["event"] for line in log]
    order = [events.index(name) for name in ("pod.ending", "app.stopping", "app.stopped")]
    assert order == sorted(order)
    [ending] = [line for line in log if line["event"] == "pod.ending"]
    assert ending["pod"] == "ending"
    mails = [line["outcome"] for line in log if line["event"] == "mail.done"]
    assert set(mails) == {"delivered"} and len(mails) == len(shop.mails())
    assert sum(line["event"] == "mail.done" for line in log[order[0]:order[1]]) > 5, "after the announcement"
    assert states["svidmail"]["exitCode"] == 0 and states["svidmail"]["reason"] == "Completed"
    assert states["svidmail"]["finishedAt"] >= states["app"]["finishedAt"], "the app ended first"


def test_app_that_uses_up_the_grace_leaves_the_sidecar_time_to_end(start, shop, cluster):
    """Kubelet's late SIGTERM: two seconds to SIGKILL, which would be 137."""
    log, states = deleted(cluster, shop, start(
        script="trap '' TERM; while :; do sleep 1; done", terminationGracePeriodSeconds=3))
    assert states["app"]["exitCode"] == 137
    assert states["svidmail"]["exitCode"] == 0, log[-3:]
    events = [line["event"] for line in log]
    assert events.index("pod.ending") < events.index("app.stopping") < events.index("app.stopped")
