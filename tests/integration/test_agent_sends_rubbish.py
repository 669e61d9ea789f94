# SPDX-License-Identifier: Apache-2.0
"""An unusable message of the agent is discarded and told, and the state before serves on; trust that goes is gone."""

import pytest
from support import certs
from support.issued_domain import file_identity
from support.mails import send
from support.processes import poll_until
from support.traffic import Traffic
from support.workload_api import Identity
from support.world import GATEWAY_PATH, SIDECAR_PATH

X509 = "FetchX509SVID"
OTHER_ID = "spiffe://example.org/ns/shop/sa/other"


def first(message, **fields):
    """Sets fields of the first SVID."""
    for name, value in fields.items():
        setattr(message.svids[0], name, value)


def replace(message, svid: certs.Credential):
    first(message, x509_svid=svid.chain_der, x509_svid_key=svid.key_der)


def issue(message, domain, **defects):
    replace(message, domain.issue(SIDECAR_PATH, **defects))


def spoil_key(message, domain, change):
    """Of a new certificate: the key of one that is there already is not looked at again."""
    issue(message, domain)
    first(message, x509_svid_key=change(message.svids[0].x509_svid_key))


def multiply(message, count: int):
    for _ in range(count - len(message.svids)):
        message.svids.add().CopyFrom(message.svids[0])


# What is done to an honest message, and the words of the warning.
UNUSABLE = {
    "no SVID": (lambda m, d: m.ClearField("svids"), "holds no SVID"),
    "101 SVIDs": (lambda m, d: multiply(m, 101), "at most 100"),
    "SVID without ID": (lambda m, d: first(m, spiffe_id=""), 'the agent calls it ""'),
    "SVID without chain": (lambda m, d: first(m, x509_svid=b""), "there is no certificate"),
    "SVID without key": (lambda m, d: spoil_key(m, d, lambda key: b""), "there is no private key"),
    "SVID without bundle": (lambda m, d: first(m, bundle=b""), "holds no CA certificate"),
    "key of another": (lambda m, d: spoil_key(m, d, lambda key: certs.key_der(certs.new_key())), "does not belong"),
    "key of garbage": (lambda m, d: spoil_key(m, d, lambda key: b"\x30\x82\xff\xff"), "not one unencrypted PKCS#8 key"),
    "key with a tail": (lambda m, d: spoil_key(m, d, lambda key: key + b"x"), "trailing bytes"),
    "two URI SANs": (lambda m, d: issue(m, d, uri_sans=[d.id + SIDECAR_PATH, OTHER_ID]), "2 URI names"),
    "no URI SAN": (lambda m, d: issue(m, d, uri_sans=[], dns=["svidmail.test"]), "0 URI names"),
    "ID with a query": (lambda m, d: issue(m, d, uri_sans=[d.id + SIDECAR_PATH + "?x"]), "SVID"),
    "CA as leaf": (lambda m, d: issue(m, d, ca=True), "is a CA"),
    "leaf that may sign": (lambda m, d: issue(m, d, key_usage=("digital_signature", "key_cert_sign")), "keyCertSign"),
    "another's name": (lambda m, d: first(m, spiffe_id=OTHER_ID), "the agent calls it"),
    "name with line breaks": (lambda m, d: first(m, spiffe_id="spiffe://x/\r\n\x1b[31m"), "the agent calls it"),
    "chain of garbage": (lambda m, d: first(m, x509_svid=b"\x30\x82\x01\x00" + b"x" * 256), "x509_svid"),
    "chain with a tail": (lambda m, d: first(m, x509_svid=m.svids[0].x509_svid + b"tail"), "x509_svid"),
    "chain of 17": (lambda m, d: first(m, x509_svid=m.svids[0].x509_svid * 17), "x509_svid"),
    "CA that may not sign": (lambda m, d: replace(m, d.intermediate(key_cert_sign=False).issue(d.id + SIDECAR_PATH)),
                             "without keyCertSign"),
    "another's CA": (lambda m, d: issue(m, certs.TrustDomain(d.name)), "which its trust domain's bundle lacks"),
    "expired": (lambda m, d: issue(m, d, ttl=-60), "has expired"),
    "bundle of 5 MB": (lambda m, d: first(m, bundle=d.bundle_der * (5_000_000 // len(d.bundle_der) + 1)),
                       "certificates of more than"),
    "bundle of 129 CAs": (lambda m, d: first(m, bundle=d.bundle_der * 129), "trust bundle"),
    "bundle of garbage": (lambda m, d: first(m, bundle=b"\xff" * 100), "trust bundle"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_message_is_discarded_and_the_state_before_serves_on(issued_world, kind):
    issuer, aws, _, sidecar = issued_world()
    sidecar.wait_ready()
    spoil, words = UNUSABLE[kind]
    sidecar.expect_warning("workload_api.discarded", error=lambda error: words in error)
    if kind == "expired":
        sidecar.expect_warning("svid.expired")
    issuer.edit_x509 = lambda message: spoil(message, issuer.domain)
    issuer.push()
    discarded = sidecar.wait_for_event("workload_api.discarded")
    assert words in discarded["error"] and discarded["error"].isprintable(), discarded
    assert len(discarded["error"]) < 400
    assert send(sidecar)[0] == 250
    assert sidecar.is_ready() and sidecar.status()["identity"]["generation"] == 1
    assert words.split('"')[0] in sidecar.cli("status").stdout  # an operator sees it
    issuer.edit_x509 = None
    issuer.rotate()
    sidecar.wait_for_event("svid.rotated", generation=2)
    assert send(sidecar)[0] == 250
    assert issuer.open_streams() == 1 and len(issuer.calls_of(X509)) == 1
    assert len(aws.mails) == 2


def test_bytes_that_are_no_message_are_discarded(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    sidecar.expect_warning("workload_api.discarded")
    # Each is waited for by its count: the same words are logged once.
    for garbage in (b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05\x0a\x03\xff\xfe\xfd"):
        updates = sidecar.metric("workload_api_updates_total")
        issuer.push(response=garbage)
        sidecar.wait_for_metric("workload_api_updates_total", updates + 1)
    sidecar.wait_for_event("workload_api.discarded")
    assert send(sidecar)[0] == 250


def test_message_over_8_mb_ends_the_stream_is_told_and_costs_no_mail(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    sidecar.expect_warning("workload_api.broken", status="resource_exhausted")
    issuer.push(response=b"\x0a\x82\x80\x80\x08" + b"\0" * 9_000_000)
    sidecar.wait_for_event("workload_api.broken")
    assert send(sidecar)[0] == 250


def test_message_of_many_tiny_parts_has_bounded_memory(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    sidecar.expect_warning("workload_api.discarded")
    before = sidecar.memory_kb()["VmHWM"]
    issuer.push(response=b"\x0a\x00" * 4_000_000)
    sidecar.wait_for_event("workload_api.discarded")
    assert sidecar.memory_kb()["VmHWM"] - before < 200_000  # the sanitizer's own share included
    assert send(sidecar)[0] == 250


def test_first_message_that_is_unusable_is_no_identity_in_its_words(issued_world):
    issuer, _, _, sidecar = issued_world(start=False)
    issuer.edit_x509 = lambda message: issue(message, issuer.domain, ca=True)
    sidecar.expect_warning("workload_api.discarded")
    sidecar.start()
    sidecar.wait_for_event("workload_api.discarded")
    code, text = send(sidecar)
    assert code == 451 and text.startswith("4.7.0") and "is a CA" in text, text
    issuer.edit_x509 = None
    issuer.rotate()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250


def test_hint_of_2000_bytes_is_cut_and_the_svid_used(issued_world):
    _, _, _, sidecar = issued_world(identities=[Identity(SIDECAR_PATH, hint="h" * 2000)])
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    [offered] = sidecar.status()["identity"]["offered"]
    assert offered["hint"] == "h" * 1024


def test_federated_bundle_of_garbage_makes_only_that_domain_untrusted(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    sidecar.expect_warning("bundle.unusable", trust_domain="other.test")
    issuer.set_federated({"spiffe://other.test": b"garbage", "spiffe://third.test": b"", "no name": b"x"})
    sidecar.expect_warning("bundle.unusable", trust_domain="third.test")
    sidecar.wait_for_event("bundle.unusable", trust_domain="other.test")
    sidecar.wait_for_event("svid.rotated", generation=2)
    assert send(sidecar)[0] == 250


def test_rotation_every_second_under_traffic_without_a_failed_mail(issued_world):
    _, aws, _, sidecar = issued_world(rotate_every=1)
    sidecar.wait_ready()
    with Traffic(sidecar, pause_s=0.02) as traffic:
        sidecar.wait_for_event("svid.rotated", after=12, timeout=40)
        traffic.wait_for_more(20)
    assert traffic.failures == []
    assert len(aws.mails) == traffic.sent


@pytest.fixture
def federated(new_issuer, new_aws, new_gateway, new_sidecar):
    """A gateway of the trust domain other.test, whose bundle our agent offers: (issuer, other, gateway, sidecar)."""
    domain = new_issuer()
    other = certs.TrustDomain("other.test")
    domain.issuer.set_federated([other])
    aws = new_aws(domain)
    gateway = new_gateway(domain, aws, identity=file_identity(other, other, domain.certificates))
    sidecar = new_sidecar(domain, gateway, aws, {"gateway": {"spiffe_ids": [other.id + GATEWAY_PATH]}})
    sidecar.wait_ready()
    return domain.issuer, other, gateway, sidecar


def wait_for_cut(gateway):
    poll_until("the gateway's connections to be cut",
               lambda: gateway.connections("api") + gateway.connections("end_to_end") == 0, 5)


def test_gateway_of_a_federated_domain_is_accepted_while_its_bundle_is_offered(federated):
    issuer, other, gateway, sidecar = federated
    assert send(sidecar)[0] == 250
    assert sidecar.wait_for_event("mail.done")["gateway"] == other.id + GATEWAY_PATH
    assert gateway.connections("api") == 1
    issuer.set_federated([])
    wait_for_cut(gateway)
    code, text = send(sidecar)
    assert code in (451, 454) and "no bundle for trust domain other.test" in text, text
    issuer.set_federated([other])
    sidecar.wait_for_event("svid.rotated", generation=3)
    assert send(sidecar)[0] == 250


def test_federated_bundle_vouches_for_no_other_domain(federated):
    issuer, other, gateway, sidecar = federated
    assert send(sidecar)[0] == 250
    # other.test's CA signs a certificate in our own domain's name: only our own bundle may vouch for that.
    ours = issuer.domain
    gateway.set_identity(file_identity(other, other, ours, uri_sans=[ours.id + GATEWAY_PATH]))
    gateway.restart()
    code, text = send(sidecar)
    assert code in (451, 454) and "which its trust domain's bundle lacks" in text, text


def test_own_ca_that_leaves_the_bundle_cuts_the_gateways_stream(issued_world):
    issuer, aws, gateway, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    assert gateway.connections("api") == 1
    issuer.rotate_ca(keep_old=False)
    wait_for_cut(gateway)
    sidecar.wait_for_event("gateway.closed", cause="identity_gone")
    code, text = send(sidecar)
    assert code in (451, 454) and "which its trust domain's bundle lacks" in text, text
    assert len(aws.mails) == 1
    gateway.set_identity(file_identity(issuer.domain, issuer.domain))
    gateway.restart()
    poll_until("mail to flow again", lambda: send(sidecar)[0] == 250, 30)
