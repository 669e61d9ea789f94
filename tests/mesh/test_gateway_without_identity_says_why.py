# SPDX-License-Identifier: Apache-2.0
"""A gateway that SPIRE gives no identity is never ready, and says what docs/troubleshooting.md has it say."""

import re

import pytest
from support.charts import ROOT
from support.mesh_istio import MeshGateway
from support.processes import Failure, poll_until


@pytest.fixture
def new_gateway(programs, session_dir, egress, kube_api, gateway):
    """new_gateway(SOCKET): started in the place of the session's, whose ports it has, and not waited for."""
    pod = kube_api.get("deployment", "mail-egress", "mail-egress")["spec"]["template"]
    started = []

    class Unready(MeshGateway):
        def wait_ready(self, timeout: float = 0) -> None:
            pass

    def start(socket: str) -> MeshGateway:
        started.append(Unready(programs, programs.istio_source, session_dir(), spire_socket=socket, pod=pod))
        started[-1].start()
        return started[-1]

    gateway.stop()
    try:
        yield start
    finally:
        for unready in started:
            unready.stop()
        gateway.start()
        gateway.wait_for_listeners(gateway.api_port, gateway.end_to_end_port, gateway.smtp_port)


def words_of_the_manual(number: int) -> str:
    """What stands in backquotes in that row's first column."""
    text = (ROOT / "docs/troubleshooting.md").read_text().partition("\n## The gateway's pod is never Ready\n")[2]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return re.findall(r"`([^`]+)`", rows[number].split(" | ")[0])[-1]


def test_without_the_socket_it_ends(new_gateway):
    gateway = new_gateway("/nonexistent/spire-agent.sock")
    with pytest.raises(Failure, match="the gateway ended with") as failure:
        poll_until("it to end", gateway.is_ready, 20)
    assert words_of_the_manual(2) in str(failure.value)


def test_without_an_entry_it_waits(new_gateway, new_spire):
    gateway = new_gateway(new_spire(entries=False).socket_path)
    words = words_of_the_manual(3)
    poll_until("Envoy to say why", lambda: words in gateway.process.stderr.tail(), 30)
    assert gateway.process.is_alive() and not gateway.is_ready()
    assert gateway.listeners() <= {15021, 15090}, "and is reached by nobody"
