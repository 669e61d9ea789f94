# SPDX-License-Identifier: Apache-2.0
"""The door to IAM Roles Anywhere: shut unless the chart's value opens it, and then for whom the policy names alone.

AWS's side of it is a certificate of its name: what CreateSession answers is judged by nobody here, for no client of
ours asks it yet.  What comes back tells that the bytes went there and nobody read them on the way.
"""

import ssl

import pytest
from support.mesh_clients import EndToEndHttp
from support.processes import poll_until
from support.sidecar import SIDECAR_UID
from support.world import INTRUDER_UID, ROLES_ANYWHERE_HOST

SHUT_OUT = (ssl.SSLError, ConnectionError, EOFError)


@pytest.fixture
def ask(gateway, aws, svid):
    """ask(UID): (status, text) of CreateSession by the client of this uid."""

    def create_session(uid: int) -> tuple[int, str]:
        files = svid(uid)
        connection = EndToEndHttp(gateway.end_to_end_port, ROLES_ANYWHERE_HOST, files, files["bundle"],
                                  ca_file=str(aws.ca_file))
        try:
            connection.request("POST", "/sessions", body="{}", headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return create_session


@pytest.fixture
def opened(egress, ask):
    def is_open() -> bool:
        try:
            return bool(ask(SIDECAR_UID))
        except SHUT_OUT:
            return False

    egress({"rolesAnywhere": {"enabled": True}})
    poll_until("the door to open", is_open, 20, interval=0.2)
    yield
    egress()
    poll_until("the door to be shut", lambda: not is_open(), 20, interval=0.2)


def test_it_is_shut_by_default(ask):
    with pytest.raises(SHUT_OUT):
        ask(SIDECAR_UID)


def test_whom_the_policy_names_talks_to_aws_itself(opened, ask, aws):
    aws.reset()
    status, text = ask(SIDECAR_UID)
    assert status == 404 and ROLES_ANYWHERE_HOST in text, text
    [request] = aws.requests
    assert (request.method, request.target, request.host) == ("POST", "/sessions", ROLES_ANYWHERE_HOST)
    assert request.connection.sni == ROLES_ANYWHERE_HOST


def test_another_identity_is_shut_out(opened, ask, aws):
    aws.reset()
    with pytest.raises(SHUT_OUT):
        ask(INTRUDER_UID)
    assert aws.requests == []
