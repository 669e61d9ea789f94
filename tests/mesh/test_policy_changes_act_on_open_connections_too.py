# SPDX-License-Identifier: Apache-2.0
"""Who may send is a value of the chart: an upgrade lets a client in, or shuts it out, within seconds.

What is open then goes on under the old policy for a little while: one more API call, and byte streams for as long as
the proxy drains (45 s by Istio's default, DRAIN_S here).
"""

import http.client
import smtplib
import time

import pytest
from support.aws_smtp import PASSWORD, USER
from support.mesh_clients import EndToEndHttp, GatewayHttp, GatewaySmtp
from support.mesh_istio import DRAIN_S
from support.mesh_mail import post_mail
from support.processes import poll_until
from support.world import SES_HOST, SMTP_HOST

SECONDS_AT_MOST = 10     # seen: 0.02 s after helm has ended

NEWCOMER_UID, NEWCOMER_PATH = 21016, "/ns/billing/sa/invoices/svidmail"
OLD = {"namespace": "shop", "serviceAccount": "checkout"}
NEW = {"namespace": "billing", "serviceAccount": "invoices"}


@pytest.fixture
def newcomer_svid(spire, svid):
    entry = spire.create_entry(NEWCOMER_PATH, NEWCOMER_UID)
    yield svid(NEWCOMER_UID)
    spire.delete_entry(entry)


@pytest.fixture
def upgrade(egress, gateway, aws, client_svid):
    """upgrade(clients): the chart with these clients, until the next test."""
    yield lambda clients: egress({"clients": clients})
    egress()
    poll_until("the usual policy", lambda: status_of(gateway, aws, client_svid) == 200, SECONDS_AT_MOST)


def status_of(gateway, aws, files) -> int:
    """Of an API call on a connection of its own."""
    connection = GatewayHttp(gateway.api_port, SES_HOST, files, files["bundle"])
    try:
        return post_mail(connection, aws)[0]
    finally:
        connection.close()


def is_shut_out_of_smtp(gateway, files) -> bool:
    try:
        GatewaySmtp(gateway.smtp_port, SMTP_HOST, files, files["bundle"]).close()
    except smtplib.SMTPServerDisconnected:
        return True
    return False


def wait_for_end(ask) -> None:
    """Of the byte stream on which this is asked."""

    def has_ended() -> bool:
        try:
            ask()
        except (OSError, EOFError, http.client.HTTPException):      # smtplib's and ssl's are OSErrors
            return True
        return False

    poll_until("a byte stream to end", has_ended, timeout=DRAIN_S + 5, interval=0.2)


def test_an_upgrade_lets_a_client_in(upgrade, gateway, aws, client_svid, newcomer_svid):
    assert status_of(gateway, aws, newcomer_svid) == 403
    upgrade([OLD, NEW])
    poll_until("the newcomer to be let in", lambda: status_of(gateway, aws, newcomer_svid) == 200, SECONDS_AT_MOST)
    assert status_of(gateway, aws, client_svid) == 200


def test_an_upgrade_shuts_a_client_out(upgrade, gateway, aws, ses_smtp, client_svid):
    http_kept = GatewayHttp(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"])
    smtp_kept = GatewaySmtp(gateway.smtp_port, SMTP_HOST, client_svid, client_svid["bundle"])
    e2e_kept = EndToEndHttp(gateway.end_to_end_port, SES_HOST, client_svid, client_svid["bundle"],
                            ca_file=str(aws.ca_file))
    assert post_mail(http_kept, aws)[0] == post_mail(e2e_kept, aws)[0] == 200
    smtp_kept.login(USER, PASSWORD)

    upgrade([NEW])
    poll_until("the client to be shut out", lambda: status_of(gateway, aws, client_svid) == 403, SECONDS_AT_MOST)
    shut_out = time.monotonic()

    # The open connection carries one more call, which ends it; then the new policy is met.
    status, headers, _ = post_mail(http_kept, aws)
    assert (status, headers["connection"]) == (200, "close")
    assert post_mail(http_kept, aws)[0] == 403

    # istiod may tell of the ports one after the other.
    poll_until("it to be shut out of the SMTP port too", lambda: is_shut_out_of_smtp(gateway, client_svid),
               SECONDS_AT_MOST)
    wait_for_end(smtp_kept.noop)
    wait_for_end(lambda: post_mail(e2e_kept, aws))
    assert time.monotonic() - shut_out > DRAIN_S / 2


def test_an_upgrade_ends_the_streams_of_clients_still_named_too(upgrade, gateway, aws, ses_smtp, client_svid,
                                                               newcomer_svid):
    """What it changes is a whole filter chain; svidmail dials again."""
    stream = GatewaySmtp(gateway.smtp_port, SMTP_HOST, client_svid, client_svid["bundle"])
    assert stream.noop()[0] == 250
    upgrade([OLD, NEW])
    poll_until("the newcomer to be let in", lambda: status_of(gateway, aws, newcomer_svid) == 200, SECONDS_AT_MOST)
    assert stream.noop()[0] == 250
    wait_for_end(stream.noop)
    assert GatewaySmtp(gateway.smtp_port, SMTP_HOST, client_svid, client_svid["bundle"]).noop()[0] == 250
