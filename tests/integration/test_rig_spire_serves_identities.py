# SPDX-License-Identifier: Apache-2.0
"""What the other files ask of SPIRE, SPIRE does: rotation, revocation, federation, an agent that goes and comes.

If these fail, what the other files say about svidmail means nothing.
"""

import base64
import hashlib
import json
import ssl
import time

import jwt
import pytest
from cryptography import x509
from support.gateway import ENVOY_UID, SpireIdentity
from support.processes import Failure, poll_until
from support.sidecar import SIDECAR_UID
from support.tls_upstream import TlsUpstream, mtls_client
from support.world import GATEWAY_PATH, SES_HOST, SIDECAR_PATH, STRANGER_UID


def leaf(svid: dict) -> x509.Certificate:
    """The leaf of what Spire.svids() gave."""
    return x509.load_der_x509_certificate(base64.b64decode(svid["x509_svid"]))


def authority_ids(spire) -> set[str]:
    return {x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier).value.digest.hex() for der in spire.bundle_ders()}


def signer_id(svid: dict) -> str:
    extension = leaf(svid).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier.hex()


def test_each_uid_gets_its_own_identity_and_a_stranger_none(spire):
    assert [svid["spiffe_id"] for svid in spire.svids(SIDECAR_UID)] == [spire.id(SIDECAR_PATH)]
    assert [svid["spiffe_id"] for svid in spire.svids(ENVOY_UID)] == [spire.id(GATEWAY_PATH)]
    assert spire.svids(STRANGER_UID) == []


def test_one_uid_may_have_several_told_apart_by_hints(spire):
    entries = []
    try:
        for path, hint in [("/ns/shop/sa/mesh", "mesh"), ("/ns/shop/sa/aws", "aws")]:
            entries.append(spire.create_entry(path, STRANGER_UID, hint=hint))
        assert {(svid["spiffe_id"], svid["hint"]) for svid in spire.svids(STRANGER_UID)} == {
            (spire.id("/ns/shop/sa/mesh"), "mesh"), (spire.id("/ns/shop/sa/aws"), "aws")}
    finally:
        for entry in entries:
            spire.delete_entry(entry)
    poll_until("the stranger to be one again", lambda: spire.svids(STRANGER_UID) == [], timeout=20)


def test_an_updated_entry_gives_short_lives(new_spire):
    spire = new_spire(entries=False)
    entry = spire.create_entry(SIDECAR_PATH, SIDECAR_UID)
    spire.update_entry(entry, SIDECAR_PATH, SIDECAR_UID, x509_svid_ttl=30, jwt_svid_ttl=20)

    def left() -> float:
        return leaf(spire.svids(SIDECAR_UID)[0]).not_valid_after_utc.timestamp() - time.time()

    poll_until("an SVID of 30 s", lambda: left() <= 30, timeout=20)
    token = jwt.decode(spire.fetch_jwt(SIDECAR_UID, "sts.amazonaws.com"), options={"verify_signature": False})
    assert token["exp"] - token["iat"] == 20


def test_a_jwt_is_verified_by_the_published_keys(spire):
    token = spire.fetch_jwt(SIDECAR_UID, "sts.amazonaws.com")
    keys = jwt.PyJWKSet.from_dict({"keys": [key | {"use": "sig"} for key in spire.jwks()["keys"]]})
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="sts.amazonaws.com", issuer=spire.jwt_issuer)
    assert claims["sub"] == spire.id(SIDECAR_PATH)


def test_the_ca_can_be_rotated_tainted_and_revoked(new_spire):
    spire = new_spire(entries=False)
    spire.create_entry(SIDECAR_PATH, SIDECAR_UID)
    before = spire.svids(SIDECAR_UID)[0]
    old = signer_id(before)
    new = spire.prepare_ca()
    assert authority_ids(spire) == {old, new}
    assert spire.activate_ca(new) == old
    spire.taint_ca(old)
    poll_until("an SVID of the new authority", lambda: signer_id(spire.svids(SIDECAR_UID)[0]) == new, timeout=30)
    spire.revoke_ca(old)
    assert authority_ids(spire) == {new}


@pytest.mark.parametrize("how", ["stop_agent", "kill_agent"])
def test_an_agent_comes_back_with_the_identity_it_kept(new_spire, how):
    spire = new_spire()
    getattr(spire, how)()
    assert spire.svids(SIDECAR_UID) == []
    spire.start_agent()
    assert spire.wait_for_svid(SIDECAR_UID, SIDECAR_PATH)


def test_a_frozen_agent_answers_nobody_until_it_thaws(new_spire):
    spire = new_spire()
    spire.freeze_agent()
    assert spire.svids(SIDECAR_UID) == []
    spire.thaw_agent()
    assert spire.wait_for_svid(SIDECAR_UID, SIDECAR_PATH)


def test_the_server_may_restart_under_a_living_agent(new_spire):
    spire = new_spire()
    digest = hashlib.sha256(json.dumps(spire.bundle()["keys"], sort_keys=True).encode()).hexdigest()
    spire.stop_server()
    assert spire.svids(SIDECAR_UID) != []
    spire.start_server()
    assert hashlib.sha256(json.dumps(spire.bundle()["keys"], sort_keys=True).encode()).hexdigest() == digest
    spire.create_entry("/late", STRANGER_UID)


def test_a_refused_entry_says_why(spire):
    with pytest.raises(Failure, match="entry for"):
        spire.create_entry("spiffe://elsewhere.test/x", STRANGER_UID)


def test_federated_domains_meet_at_the_gateway(new_spire, new_gateway, workdir):
    ours, theirs = new_spire(entries=False), new_spire("partner.test", entries=False)
    ours.trust(theirs)
    theirs.trust(ours)
    ours.create_entry(GATEWAY_PATH, ENVOY_UID, federates_with=("partner.test",))
    theirs.create_entry(SIDECAR_PATH, SIDECAR_UID, federates_with=("example.org",))
    files = theirs.write_svid(SIDECAR_UID, f"{workdir()}/svid")
    our_bundle = f"{workdir()}/ours.pem"
    with open(our_bundle, "w") as file:
        file.write(ours.bundle_pem())

    def status(gate) -> bytes:
        with mtls_client(gate.api_port, SES_HOST, files, our_bundle) as stream:
            stream.sendall(f"POST /v2/email/outbound-emails HTTP/1.1\r\nhost: {SES_HOST}\r\n"
                           "content-length: 0\r\n\r\n".encode())
            return stream.recv(65536)[:12]

    with TlsUpstream(workdir(), SES_HOST) as upstream:
        both = new_gateway(ours, upstream, allowed=[theirs.id(SIDECAR_PATH)],
                           identity=SpireIdentity(ours.socket_path, federated=True))
        assert status(both) == b"HTTP/1.1 200"
        own_only = new_gateway(ours, upstream, allowed=[theirs.id(SIDECAR_PATH)])
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status(own_only)
