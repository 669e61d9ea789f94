# SPDX-License-Identifier: Apache-2.0
"""What the gateway costs with 1, 10 and 100 clients connected: tests/run mesh -m bench -s

Envoy's own CPU time and memory, from /proc; pilot-agent beside it takes what it takes in every pod of the mesh.  The
clients and the stand-in for SES are Python on the same machine, so the rate says nothing of the gateway; the CPU time
of a thousand mails does.
"""

import time

import pytest
from support.mesh_clients import GatewayHttp
from support.mesh_mail import send_email
from support.processes import cpu_seconds, memory_kb
from support.world import SES_HOST

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

CONNECTIONS = (1, 10, 100)
IDLE_S = 5
MAILS = 2000
MAIL = b"From: shop@shop.example\r\nTo: user@customer.example\r\nSubject: bench\r\n\r\n" + b"x" * 3900 + b"\r\n"


@pytest.fixture
def quick_aws(aws):
    """Answers without a look, so that the clients are not kept waiting for it."""
    body, headers = send_email(aws, MAIL)
    aws.quick = True
    aws.cut_connections()
    yield body, headers
    aws.quick = False
    aws.cut_connections()


def measured(pid: int, work) -> tuple[float, float]:
    """(CPU seconds, seconds) of a piece of work."""
    cpu, began = cpu_seconds(pid), time.monotonic()
    work()
    return cpu_seconds(pid) - cpu, time.monotonic() - began


def test_what_the_gateway_costs(gateway, quick_aws, client_svid):
    body, headers = quick_aws
    pid = gateway.envoy_pid

    def mail(connection: GatewayHttp) -> None:
        connection.request("POST", "/v2/email/outbound-emails", body=body, headers=headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200

    rows = []
    kept: list[GatewayHttp] = []
    for count in CONNECTIONS:
        new = [GatewayHttp(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"])
               for _ in range(count - len(kept))]
        handshakes, _ = measured(pid, lambda new=new: [connection.connect() for connection in new])
        kept.extend(new)
        for connection in kept:
            mail(connection)
        idle, idle_s = measured(pid, lambda: time.sleep(IDLE_S))
        at_rest = memory_kb(pid)
        busy, busy_s = measured(pid, lambda: [mail(kept[number % len(kept)]) for number in range(MAILS)])
        loaded = memory_kb(pid)
        rows.append((count, handshakes / len(new) * 1000, idle / idle_s * 100, at_rest["VmRSS"] / 1024,
                     at_rest["RssAnon"] / 1024, busy / MAILS * 1000, MAILS / busy_s, loaded["VmRSS"] / 1024))
    for connection in kept:
        connection.close()
    agent = memory_kb(gateway.process.pid)["VmRSS"] / 1024

    print(f"\n| connections | CPU ms a handshake | idle CPU % | idle RSS MB | of it anonymous MB "
          f"| CPU s per 1,000 mails of {len(MAIL)} bytes | mails/s meanwhile | RSS MB after |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print("| {} | {:.2f} | {:.1f} | {:.1f} | {:.1f} | {:.3f} | {:.0f} | {:.1f} |".format(*row))
    print(f"\npilot-agent: RSS {agent:.1f} MB")
