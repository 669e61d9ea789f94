# SPDX-License-Identifier: Apache-2.0
"""Istio lets any namespace name any gateway's pods: what an app team writes there opens nothing."""

import pytest
from support.mesh_clients import GatewayHttp
from support.mesh_mail import post_mail
from support.processes import poll_until
from support.tls_upstream import mtls_client
from support.world import INTRUDER_UID, SES_HOST

# Each test has its own: a listener that is there is not the one of the test before.
OWN_PORT, LATER_PORT = 9555, 9556


@pytest.fixture
def foreign(kube_api, gateway):
    """foreign(objects): written by somebody else, in a namespace of his own; gone after the test."""
    namespace = kube_api.make_namespace("somebody-else")
    written = []

    def write(*objects: dict) -> None:
        for entry in objects:
            entry["metadata"]["namespace"] = namespace
            written.append((entry["kind"], entry["metadata"]["name"]))
        kube_api.apply(list(objects))

    yield write
    for kind, name in written:
        kube_api.delete(kind, name, namespace)
    poll_until("its listeners to be gone", lambda: not {OWN_PORT, LATER_PORT} & gateway.listeners(), 20)


def networking(kind: str, name: str, **spec) -> dict:
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def own_gateway(**server) -> dict:
    return networking("Gateway", "own", selector={"istio": "mail-egress"}, servers=[{"hosts": ["*"], **server}])


def test_a_gateway_of_ones_own_lets_nobody_through(foreign, gateway, aws, svid, client_svid):
    foreign(
        own_gateway(port={"number": OWN_PORT, "name": "https-own", "protocol": "HTTPS"},
                    tls={"mode": "ISTIO_MUTUAL"}),
        networking("VirtualService", "own", hosts=[SES_HOST], gateways=["own"], http=[
            {"route": [{"destination": {"host": SES_HOST, "port": {"number": 443}}}]}]),
        networking("ServiceEntry", "own", hosts=[SES_HOST], location="MESH_EXTERNAL", resolution="DNS",
                   ports=[{"number": 443, "name": "https", "protocol": "HTTPS"}]))
    gateway.wait_for_listeners(OWN_PORT)
    for files in (svid(INTRUDER_UID), client_svid):
        with mtls_client(OWN_PORT, SES_HOST, files, client_svid["bundle"]) as stream:
            connection = GatewayHttp(0, SES_HOST, None, "")
            connection.sock = stream
            status, _, body = post_mail(connection, aws)
            assert (status, body) == (403, b"RBAC: access denied")
    assert aws.dialled == 0


def test_a_route_of_ones_own_is_not_taken(foreign, gateway, aws, client_svid):
    """The chart's Gateway takes routes of its own namespace only."""
    foreign(
        networking("VirtualService", "theirs", hosts=[SES_HOST], gateways=["mail-egress/mail-egress"], http=[
            {"directResponse": {"status": 418}}]),
        # Written after it: when this listener is there, istiod has read both.
        own_gateway(port={"number": LATER_PORT, "name": "tls-own", "protocol": "TLS"}, tls={"mode": "ISTIO_MUTUAL"}),
        networking("VirtualService", "own", hosts=["*"], gateways=["own"], tcp=[
            {"route": [{"destination": {"host": "nowhere.example", "port": {"number": 1}}}]}]))
    gateway.wait_for_listeners(LATER_PORT)
    # It would stand behind the chart's own route, where the policy alone would be left to stop what it is asked for.
    assert "'status': 418" not in str(gateway.config_dump()["RoutesConfigDump"])
    connection = GatewayHttp(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"])
    assert post_mail(connection, aws)[0] == 200
    assert len(aws.wait_for_mails(1)) == 1
