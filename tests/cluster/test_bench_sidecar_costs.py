# SPDX-License-Identifier: Apache-2.0
"""What the sidecar costs in its pod, and how long everything takes: tests/run cluster -m bench -s

The gateway's costs are tests/mesh/test_bench_gateway_costs.py's, the peak under load is test_life_cycle.py's -k 28_mb.
"""

import datetime
import json
import os
import pathlib
import time

import pytest
from support.cluster_container import Container
from support.cluster_platform import PlatformRelease
from support.cluster_shop import Shop, now

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

IDLE_S = 60
SESSIONS, ROUNDS = 200, 5


def started_at(pid: int) -> float:
    """When the process began, to 10 ms."""
    ticks = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def at(line: dict) -> float:
    return datetime.datetime.fromisoformat(line["time"]).timestamp()


def rows(title: str, *cells: tuple[str, str]) -> None:
    print(f"\n| {title} | |\n|---|---|")
    for name, value in cells:
        print(f"| {name} | {value} |")


def test_how_long_it_is_from_helm_install_to_the_first_mail(cluster, platform):
    begun = now()
    release = PlatformRelease(cluster, cluster.helm4, "egress-bench", "client-bench")
    try:
        config = release.install()
        ready = now()
        shop = Shop(cluster, "client-bench", config)
        shop.configure()
        configured = now()
        shop.start_pod("serve", ready=False)
        mail = shop.wait_for_mail("checkout", timeout=60)
        shop.remove()
    finally:
        release.uninstall()
        cluster.kubectl("delete", "namespace", release.namespace, "--wait=false")
    rows("from helm install to the first mail", ("platform: helm install until its gateway is ready",
                                                 f"{ready - begun:.1f} s"),
         ("app: namespace, role's trust, helm install of its configuration", f"{configured - ready:.1f} s"),
         ("app: pod created until SES has its mail", f"{mail.at - configured:.1f} s"),
         ("all", f"{mail.at - begun:.1f} s"))


def test_what_the_sidecar_costs(shop, cluster):
    created = now()
    shop.start_pod("serve")
    mail = shop.wait_for_mail("checkout")
    log = {line["event"]: at(line) for line in reversed(shop.sidecar_log("checkout"))}
    app = shop.app_says("checkout", "started")["at"]
    sidecar = Container(cluster, shop.namespace, "checkout", "svidmail")
    begun = started_at(sidecar.pid)
    rows("start, seconds since the pod's creation",
         ("the sidecar's process, to 10 ms", f"{begun - created:.2f}"),
         ("SMTP answers", f"{log['smtp.listening'] - created:.3f}"),
         ("SVID there", f"{log['svid.rotated'] - created:.3f}"),
         ("AWS credentials there", f"{log['credentials.renewed'] - created:.3f}"),
         ("the app's process", f"{app - created:.3f}"),
         ("SES has the first mail", f"{mail.at - created:.3f}"))

    memory, cpu = sidecar.memory_kb(), sidecar.cpu_seconds()
    time.sleep(IDLE_S)
    rows(f"at rest, {IDLE_S} s", ("CPU, its probes included", f"{(sidecar.cpu_seconds() - cpu) / IDLE_S * 100:.3f} %"),
         ("resident", f"{memory['VmRSS'] / 1024:.1f} MB"), ("of it anonymous", f"{memory['RssAnon'] / 1024:.1f} MB"),
         ("threads", str(memory["Threads"])), ("charged to the container", f"{sidecar.usage_kb() / 1024:.1f} MB"))

    cluster.aws.quick = True
    try:
        cpu, taken = sidecar.cpu_seconds(), 0
        for number in range(ROUNDS):
            said = shop.exec("checkout", "app", "python3", "/app/load.py", "sessions", f"bench-{number}", str(SESSIONS))
            taken += sum(json.loads(line).get("text", "").startswith("250 ") for line in said.stdout.splitlines())
        cpu = sidecar.cpu_seconds() - cpu
    finally:
        cluster.aws.quick = False
        cluster.aws.cut_connections()
    assert taken == SESSIONS * ROUNDS
    memory = sidecar.memory_kb()
    rows(f"{taken} mails of 1 kB, {SESSIONS} sessions at once, a session each",
         ("CPU of a thousand", f"{cpu / taken * 1000:.2f} s"), ("resident at most", f"{memory['VmHWM'] / 1024:.1f} MB"),
         ("anonymous after", f"{memory['RssAnon'] / 1024:.1f} MB"))
