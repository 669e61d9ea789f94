# SPDX-License-Identifier: Apache-2.0
"""The native sidecar in a real pod: what starts when, what comes back, what each session hears, what it may use.

How a pod ends is test_pod_ends.py's and test_deletion.py's.
"""

import concurrent.futures
import datetime
import json
import signal

import pytest
import yaml
from support.cluster_container import Container, status_of
from support.cluster_shop import now
from support.processes import poll_until

SESSIONS = 200
GRACE_S = 2.0       # what the kubelet gives a late sidecar
LIMIT_KB = 64 * 1024
BIG_MAILS, BIG_BYTES = 16, 28_000_000


def start_load(shop, *words: str, name: str = "checkout", **spec) -> str:
    """A pod whose app runs load.py with these words."""
    pod = shop.pod_template(**spec)
    pod["metadata"]["name"] = name
    pod["spec"]["containers"][0]["command"] = ["python3", "-u", "/app/load.py", *words]
    shop.apply({"apiVersion": "v1", "kind": "Pod", **pod})
    return name


def lines_of(following) -> list[dict]:
    return [json.loads(line) for line in following.stdout.items if line.startswith("{")]


# --- the start

def test_the_app_starts_after_smtp_is_there(shop):
    shop.start_pod("serve")
    [listening] = [line for line in shop.sidecar_log("checkout")
                   if line["event"] == "smtp.listening" and line["address"] == "127.0.0.1:2525"]
    started = shop.app_says("checkout", "started")
    assert datetime.datetime.fromisoformat(listening["time"]).timestamp() < started["at"]
    assert shop.app_says("checkout", "sent")["code"] == 250


def test_the_app_waits_for_the_sidecars_startup_probe_and_not_for_its_process(new_shop, cluster):
    """svidmail runs, and is not to be found where the probe asks; the chart would have refused the key."""
    shop = new_shop(configured=False)
    config = shop.config(admin={"socket": "/var/spool/svidmail/admin.sock"})
    shop.add_config_map("svidmail", {"svidmail.yaml": yaml.safe_dump(config)})
    shop.start_pod("serve", ready=False)

    def probe_failed() -> bool:
        return any(event["message"].startswith("Startup probe failed")
                   for event in cluster.get("events", namespace=shop.namespace)["items"])

    poll_until("the probe to fail", probe_failed, 30, interval=0.2)
    poll_until("svidmail to listen all the same", lambda: "smtp.listening" in [
        line["event"] for line in shop.sidecar_log("checkout")], 20, interval=0.2)
    assert status_of(cluster, shop.namespace, "checkout", "svidmail")["started"] is False
    app = status_of(cluster, shop.namespace, "checkout", "app")
    assert app["state"]["waiting"]["reason"] == "PodInitializing"


def test_a_sidecar_that_cannot_start_keeps_the_app_back_says_why_and_heals(new_shop, cluster):
    shop = new_shop(configured=False)
    good = shop.config()
    shop.add_config_map("svidmail", {"svidmail.yaml": yaml.safe_dump(good | {"gatewy": {"host": "a.example"}})})
    shop.start_pod("serve", ready=False)

    def failed() -> dict | None:
        """The kubelet reads the message from the log, and now and then before it is there: then the next one counts."""
        status = status_of(cluster, shop.namespace, "checkout", "svidmail")
        ends = [status.get(state, {}).get("terminated") for state in ("state", "lastState")]
        return next((end for end in ends if end and end.get("message")), None)

    ended = poll_until("svidmail to give up", failed, 40, interval=0.2)
    assert ended["exitCode"] != 0 and "gatewy" in ended["message"]
    app = status_of(cluster, shop.namespace, "checkout", "app")
    assert app["state"]["waiting"]["reason"] == "PodInitializing" and not app["started"]
    shop.add_config_map("svidmail", {"svidmail.yaml": yaml.safe_dump(good)})
    shop.app_says("checkout", "sent", timeout=60)


# --- in between

def test_a_killed_sidecar_comes_back_and_the_app_is_untouched(shop, cluster):
    shop.start_pod("idle")
    shop.wait_ready_to_relay("checkout")
    assert shop.send("checkout", "before")[0] == 250
    app = status_of(cluster, shop.namespace, "checkout", "app")
    Container(cluster, shop.namespace, "checkout", "svidmail").kill(signal.SIGKILL)

    def restarted() -> dict | None:
        status = status_of(cluster, shop.namespace, "checkout", "svidmail")
        return status["started"] and status["restartCount"] == 1 and status

    sidecar = poll_until("the sidecar to come back", restarted, 30, interval=0.1)
    assert sidecar["lastState"]["terminated"]["exitCode"] == 137
    # Mail software tries again.
    poll_until("mail to be taken again", lambda: shop.send("checkout", "after")[0] == 250, 20)
    assert len(shop.mails("after")) == 1
    assert status_of(cluster, shop.namespace, "checkout", "app") == app


# --- 200 sessions

def test_200_sessions_in_flight_in_a_deleted_pod_each_hear_their_verdict(shop, cluster, aws_faults):
    """The app is asked to end and goes on until each has; its sidecar lives so long."""
    aws_faults.inject(delay=1.0, times=SESSIONS)
    start_load(shop, "sessions", "flight", str(SESSIONS), terminationGracePeriodSeconds=30)
    cluster.wait_ready("pod/checkout", shop.namespace)
    with_app = cluster.follow(shop.namespace, "checkout", "app")
    with_app.wait_for_line("under way", 30, stream="stdout")
    deleted = now()
    cluster.kubectl("delete", "pod", "checkout", "--namespace", shop.namespace, "--wait=false")
    with_app.wait(40)
    lines = lines_of(with_app)
    [under_way] = [line["count"] for line in lines if line["event"] == "under way"]
    assert under_way > SESSIONS / 2
    assert any(line["at"] > deleted for line in lines if line["event"] == "verdict"), "it was deleted amid them"
    verdicts = {line["number"]: line["text"] for line in lines if line["event"] == "verdict"}
    assert len(verdicts) == SESSIONS and lines[-1]["event"] == "done"
    told = {number for number, text in verdicts.items() if text.startswith("250 2.0.0 Ok ")}
    assert told == set(range(SESSIONS)), sorted(set(verdicts.values()))[:5]
    assert sorted(str(mail.parsed["Subject"]) for mail in shop.mails()) == sorted(
        f"flight {number}" for number in range(SESSIONS))


def test_sigterm_to_the_sidecar_alone_answers_or_closes_each_of_200_sessions(shop, cluster, aws_faults):
    """SES answers some in time and some never: 250 is what it has taken, and "not sent" what it has not."""
    aws_faults.inject(delay=1.2, times=12)
    aws_faults.inject(hang=True, times=1000)
    start_load(shop, "sessions", "term", str(SESSIONS))
    cluster.wait_ready("pod/checkout", shop.namespace)
    with_app = cluster.follow(shop.namespace, "checkout", "app")
    with_sidecar = cluster.follow(shop.namespace, "checkout", "svidmail")
    with_app.wait_for_line("under way", 30, stream="stdout")
    Container(cluster, shop.namespace, "checkout", "svidmail").kill(signal.SIGTERM)
    with_app.wait_for_line('"done"', 30, stream="stdout")
    with_sidecar.wait_for_line("app.stopped", 10, stream="stdout")
    aws_faults.clear_faults()
    at = {line["event"]: datetime.datetime.fromisoformat(line["time"]) for line in lines_of(with_sidecar)}
    took = (at["app.stopped"] - at["app.stopping"]).total_seconds()
    print(f"{took:.2f} s from SIGTERM to its end")
    assert took < GRACE_S
    verdicts = {line["number"]: line["text"] for line in lines_of(with_app) if line["event"] == "verdict"}
    assert len(verdicts) == SESSIONS and "reset" not in verdicts.values()
    told = {f"term {number}" for number, text in verdicts.items() if text.startswith("250 2.0.0 Ok ")}
    not_sent = {f"term {number}" for number, text in verdicts.items() if "; not sent: " in text}
    taken = [str(mail.parsed["Subject"]) for mail in shop.mails()]
    assert len(taken) == len(set(taken)), "no mail was sent twice"
    assert told and not_sent
    assert told <= set(taken) and not not_sent & set(taken)
    assert set(taken) - told <= {f"term {number}" for number, text in verdicts.items() if text.startswith("451 4.4.2 ")}

    def restarted() -> dict | None:
        status = status_of(cluster, shop.namespace, "checkout", "svidmail")
        return status["started"] and status["restartCount"] == 1 and status

    assert poll_until("its next life", restarted, 30)["lastState"]["terminated"]["exitCode"] == 0


# --- what it may use

@pytest.fixture
def quick_aws(cluster):
    """SES takes everything without a look: what is measured is the way to it."""
    cluster.aws.quick = True
    yield cluster.aws
    cluster.aws.quick = False
    cluster.aws.cut_connections()


def test_16_mails_of_28_mb_and_200_connections_stay_far_below_the_memory_limit(shop, cluster, quick_aws):
    start_load(shop, "idle", str(SESSIONS))
    assert shop.app_says("checkout", "connected")["count"] == SESSIONS
    shop.wait_ready_to_relay("checkout")
    sidecar = Container(cluster, shop.namespace, "checkout", "svidmail")
    before = sidecar.memory_kb()
    held = []
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        load = beside.submit(shop.exec, "checkout", "app", "python3", "/app/load.py", "big", "big", str(BIG_MAILS),
                             str(BIG_BYTES), timeout=240)
        while not load.done():
            held.append(sidecar.held_kb())
            concurrent.futures.wait([load], timeout=0.02)
    codes = [json.loads(line)["code"] for line in load.result().stdout.splitlines() if '"reply"' in line]
    after = sidecar.memory_kb()
    print(f"{BIG_MAILS} x {BIG_BYTES} bytes, {SESSIONS} connections: anonymous {before['RssAnon']} kB before, resident "
          f"{after['VmHWM']} kB at most, charged {sidecar.peak_kb()} kB at most; of it page cache, which the kernel "
          f"takes back, all but {max(held)} kB; limit {LIMIT_KB} kB, {sidecar.cpu_seconds():.2f} CPU s")
    assert codes == [250] * BIG_MAILS
    # The body's pages on disk fill what is left; the kernel takes them back, so the limit is met by nothing else.
    assert len(held) > 20 and max(held) < LIMIT_KB / 2
    assert after["VmHWM"] < LIMIT_KB / 2
    assert sidecar.oom_kills() == 0
    assert status_of(cluster, shop.namespace, "checkout", "svidmail")["restartCount"] == 0
