# SPDX-License-Identifier: Apache-2.0
"""Any start order, any rotation, and an identity that is taken back is not used any more: against real SPIRE."""

import base64
import time

import pytest
from cryptography import x509
from support.gateway import ENVOY_UID
from support.mails import plain, send
from support.processes import poll_until
from support.sidecar import SIDECAR_UID
from support.traffic import Traffic
from support.world import GATEWAY_PATH, SIDECAR_PATH, USUAL_ENTRIES


@pytest.fixture
def world(new_spire, new_aws, new_gateway, new_sidecar):
    """world(**spire settings): a trust domain of the test's own with everything behind it."""

    def make(config: dict | None = None, **settings):
        domain = new_spire(**settings)
        aws = new_aws(domain)
        gateway = new_gateway(domain, aws)
        sidecar = new_sidecar(domain, gateway, aws, config)
        return domain, aws, gateway, sidecar

    return make


def test_agent_started_after_the_sidecar(new_spire, new_aws, new_gateway, new_sidecar):
    domain = new_spire()
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws)
    domain.stop_agent()
    sidecar = new_sidecar(domain, gateway, aws)
    waiting = sidecar.wait_for_event("workload_api.waiting")
    assert "agent.sock" in waiting["error"]
    code, text = send(sidecar)
    assert code == 451 and text.startswith("4.7.0 Not ready to send")
    assert sidecar.cli("health").returncode == 0
    assert sidecar.cli("health", "--ready").returncode == 1
    domain.start_agent()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


def test_entry_made_after_the_sidecar_has_asked(new_spire, new_aws, new_gateway, new_sidecar):
    domain = new_spire(entries=False)
    for path, uid in USUAL_ENTRIES:
        if uid != SIDECAR_UID:
            domain.create_entry(path, uid)
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws)
    sidecar = new_sidecar(domain, gateway, aws)
    waiting = sidecar.wait_for_event("workload_api.waiting")
    assert "registration entry" in waiting["error"]
    domain.create_entry(SIDECAR_PATH, SIDECAR_UID)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


def test_agent_killed_and_restarted_mid_traffic_without_a_failed_mail(world):
    domain, aws, _, sidecar = world()
    sidecar.wait_ready()
    with Traffic(sidecar) as traffic:
        traffic.wait_for_more(5)
        domain.kill_agent()
        sidecar.wait_for_event("workload_api.waiting")
        traffic.wait_for_more(20)
        connected = sidecar.count_events("workload_api.connected")
        domain.start_agent()
        sidecar.wait_for_event("workload_api.connected", after=connected, timeout=30)
        traffic.wait_for_more(20)
    assert traffic.failures == []
    assert len(aws.mails) == traffic.sent


def test_agent_frozen_mid_traffic_without_a_failed_mail(world):
    domain, _, _, sidecar = world()
    sidecar.wait_ready()
    with Traffic(sidecar) as traffic:
        traffic.wait_for_more(5)
        domain.freeze_agent()
        traffic.wait_for_more(20)
        domain.thaw_agent()
        traffic.wait_for_more(5)
    assert traffic.failures == []


@pytest.mark.timeout(300)
def test_svids_of_30_s_under_load_for_3_minutes_without_a_failed_mail(world):
    _, aws, _, sidecar = world(x509_svid_ttl="30s", jwt_svid_ttl="30s")
    sidecar.wait_ready()
    until = time.monotonic() + 180
    with Traffic(sidecar, pause_s=0.02) as traffic:
        while time.monotonic() < until:
            traffic.wait_for_more(10)
    assert traffic.failures == []
    assert sidecar.count_events("svid.rotated") >= 8
    assert len(aws.mails) == traffic.sent


def test_svids_of_10_s_under_sessions_without_a_pause_and_without_a_failed_mail(world):
    """A connection that is never idle must not be kept until its SVID ends under it."""
    _, aws, _, sidecar = world(x509_svid_ttl="10s", jwt_svid_ttl="10s")
    sidecar.wait_ready()
    until = time.monotonic() + 30
    with Traffic(sidecar, pause_s=0) as one, Traffic(sidecar, pause_s=0) as two:
        while time.monotonic() < until:
            one.wait_for_more(20)
            two.wait_for_more(20)
    assert one.failures + two.failures == []
    assert len(aws.mails) == one.sent + two.sent
    assert sidecar.events("gateway.closed", cause="identity_gone") == []  # each was given up in time, between two mails
    assert len(sidecar.events("gateway.closed", cause="rotated")) >= 2


def leaf_of(svid: dict) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(svid["x509_svid"]))


def is_signed_by(authority_id: str, svids: list[dict]) -> bool:
    """SPIRE names an X.509 authority by its key's identifier."""
    keys = [leaf_of(svid).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value for svid in svids]
    return bool(keys) and all(key.key_identifier.hex() == authority_id for key in keys)


def test_forced_rotation_of_the_ca_without_a_failed_mail(world):
    domain, aws, _, sidecar = world()
    sidecar.wait_ready()
    with Traffic(sidecar) as traffic:
        traffic.wait_for_more(5)
        new = domain.prepare_ca()
        old = domain.activate_ca(new)
        domain.taint_ca(old)
        for uid in (ENVOY_UID, SIDECAR_UID):
            poll_until(f"uid {uid} to be offered an SVID of the new CA", lambda uid=uid: is_signed_by(
                new, domain.svids(uid)), 60)
        # The new bundle may have come with it, or before it.
        [offered] = domain.svids(SIDECAR_UID)
        until = leaf_of(offered).not_valid_after_utc
        sidecar.wait_for_event("svid.rotated", not_after=f"{until:%FT%T}.000Z")
        traffic.wait_for_more(20)
    assert traffic.failures == []
    assert len(aws.mails) == traffic.sent
    domain.revoke_ca(old)  # whoever was vouched for by it is a stranger now; what is new serves on
    poll_until("the old CA to leave the bundle", lambda: len(domain.bundle_ders()) == 1, 30)
    poll_until("mail to flow under the new CA alone", lambda: send(sidecar)[0] == 250, 30)


def test_entry_deleted_means_451_within_15_s_and_connections_cut(world):
    domain, aws, gateway, sidecar = world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    assert gateway.connections("api") >= 1
    [entry] = [entry for entry in domain.entries() if entry["spiffe_id"]["path"] == SIDECAR_PATH]
    deleted_at = time.monotonic()
    domain.delete_entry(entry["id"])
    sidecar.wait_for_event("svid.redacted", timeout=15)
    code, text = send(sidecar)
    assert time.monotonic() - deleted_at < 15
    assert code == 451 and text.startswith("4.7.0")
    poll_until("the connections to the gateway to be cut",
               lambda: gateway.connections("api") + gateway.connections("end_to_end") == 0, 5)
    sent = len(aws.mails)
    assert send(sidecar)[0] == 451
    assert len(aws.mails) == sent


def test_two_svids_are_told_apart_by_id(new_spire, new_aws, new_gateway, new_sidecar):
    domain = new_spire()
    domain.create_entry("/ns/shop/sa/checkout", SIDECAR_UID, hint="pod")
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws)
    sidecar = new_sidecar(domain, gateway, aws, {"identity": {"mesh": {"spiffe_id": domain.id(SIDECAR_PATH)}}})
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    assert gateway.wait_for_access(log="api")["peer"] == domain.id(SIDECAR_PATH)


def test_two_svids_are_told_apart_by_hint_and_by_role(new_spire, new_aws, new_gateway, new_sidecar):
    domain = new_spire(entries=False)
    for path, uid in USUAL_ENTRIES:
        if uid != SIDECAR_UID:
            domain.create_entry(path, uid)
    domain.create_entry("/ns/shop/sa/checkout", SIDECAR_UID, hint="mesh")
    domain.create_entry(SIDECAR_PATH, SIDECAR_UID, hint="aws")
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws, allowed=["/ns/shop/sa/checkout"])
    sidecar = new_sidecar(domain, gateway, aws,
                          {"identity": {"mesh": {"hint": "mesh"}, "aws": {"hint": "aws"}}})
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    assert gateway.wait_for_access(log="api")["peer"] == domain.id("/ns/shop/sa/checkout")
    assert aws.sts.tokens[-1].subject == domain.id(SIDECAR_PATH)


def test_several_svids_and_none_named_is_not_ready_and_lists_them(new_spire, new_aws, new_gateway, new_sidecar):
    domain = new_spire()
    domain.create_entry("/ns/shop/sa/checkout", SIDECAR_UID, hint="pod")
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws)
    sidecar = new_sidecar(domain, gateway, aws)
    sidecar.wait_for_event("svid.unchosen")
    health = sidecar.cli("health", "--ready")
    assert health.returncode == 1
    for path in (SIDECAR_PATH, "/ns/shop/sa/checkout"):
        assert domain.id(path) in health.stdout + health.stderr
    code, text = send(sidecar, plain())
    assert code == 451 and domain.id(SIDECAR_PATH) in text


def test_gateway_with_a_wrong_spiffe_id_is_refused(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"spiffe_ids": [spire.id("/ns/mail-egress/sa/other")]}})
    code, text = send_until_connected(sidecar)
    assert code in (451, 454), text
    assert spire.id(GATEWAY_PATH) in text
    assert aws.requests == []


def test_gateway_of_another_trust_domain_is_refused(new_spire, new_aws, new_gateway, new_sidecar, spire):
    other = new_spire("other.test")
    aws = new_aws(spire)
    gateway = new_gateway(other, aws)
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"spiffe_ids": [other.id(GATEWAY_PATH)]}})
    code, text = send_until_connected(sidecar)
    assert code in (451, 454), text
    assert "other.test" in text
    assert aws.requests == []


def send_until_connected(sidecar):
    """The first answer that is not only about an identity that has not come yet."""
    sidecar.wait_for_event("svid.rotated")
    return send(sidecar)
