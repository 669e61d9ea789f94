# SPDX-License-Identifier: Apache-2.0
"""A fixture's defect must be really there, and be the only one: else a peer check passes for another reason."""

import datetime
import re
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key
from support import certs

ID = "spiffe://example.org/ns/shop/sa/checkout"


@pytest.fixture(scope="module")
def domain():
    return certs.TrustDomain("example.org")


def openssl_text(cert):
    command = ["openssl", "x509", "-inform", "der", "-noout", "-text"]
    done = subprocess.run(command, input=certs.cert_der(cert), capture_output=True, check=True)
    return done.stdout.decode("utf-8", "backslashreplace")


def verify(domain, svid, tmp_path, *options):
    """What OpenSSL says of the chain: "" if it is fine."""
    files = {"root.pem": domain.bundle_pem, "leaf.pem": certs.cert_pem(svid.cert)}
    files["middle.pem"] = b"".join(map(certs.cert_pem, svid.intermediates))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    untrusted = ["-untrusted", str(tmp_path / "middle.pem")] if svid.intermediates else []
    done = subprocess.run(
        ["openssl", "verify", *options, "-CAfile", tmp_path / "root.pem", *untrusted, tmp_path / "leaf.pem"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"error \d+ at \d+ depth lookup: ?(.*)", done.stderr)
    return found.group(1) if found else "" if done.returncode == 0 else done.stderr


def test_an_honest_svid_is_as_spire_makes_it(domain, tmp_path):
    svid = domain.issue(ID)
    text = openssl_text(svid.cert)
    assert f"URI:{ID}\n" in text
    assert "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment, Key Agreement" in text
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert "CA:FALSE" in text
    assert verify(domain, svid, tmp_path, "-x509_strict") == ""


def test_a_chain_with_intermediates(tmp_path):
    domain = certs.TrustDomain("example.org", upstream=True)
    svid = domain.intermediate().issue(ID)
    assert len(svid.intermediates) == 2
    assert verify(domain, svid, tmp_path, "-x509_strict") == ""


def test_a_path_alone_is_put_into_the_domain(domain):
    assert domain.issue("/a").spiffe_id == "spiffe://example.org/a"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"uri_sans": []}, []),
        ({"uri_sans": [ID, ID + "/2"]}, [ID, ID + "/2"]),
        ({"uri_sans": [], "dns": ["a.example"]}, ["a.example"]),
        ({"uri_sans": ["spiffe://example.org"]}, ["spiffe://example.org"]),
        ({"uri_sans": ["https://example.org/x"]}, ["https://example.org/x"]),
    ],
)
def test_names(domain, options, expected):
    text = openssl_text(domain.issue(ID, **options).cert)
    found = re.search(r"Subject Alternative Name: ?\n\s*(.*)", text)
    names = [name.partition(":")[2] for name in found.group(1).split(", ")] if found else []
    assert names == expected


@pytest.mark.parametrize("byte", range(256))
def test_any_byte_can_stand_in_a_spiffe_id(domain, byte):
    name = b"spiffe://example.org/a" + bytes([byte]) + b"b"
    assert name in certs.cert_der(domain.issue(name).cert)


def test_a_long_name(domain):
    name = b"spiffe://example.org/" + b"a" * 3000
    assert f"URI:{name.decode()}" in openssl_text(domain.issue(name).cert)


def test_a_repeated_san_extension(domain, tmp_path):
    svid = domain.issue(ID, second_san=["spiffe://example.org/other"])
    text = openssl_text(svid.cert)
    assert text.count("X509v3 Subject Alternative Name") == 2
    svid.cert.verify_directly_issued_by(domain.authority.cert)


def test_an_empty_subject_makes_the_san_critical(domain):
    text = openssl_text(domain.issue(ID, empty_subject=True).cert)
    assert "X509v3 Subject Alternative Name: critical" in text


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ({"ca": True}, "CA:TRUE", "CA:FALSE"),
        ({"ca": None}, "Key Usage", "Basic Constraints"),
        ({"key_usage": None}, "CA:FALSE", "X509v3 Key Usage"),
        ({"key_usage": ("key_encipherment",)}, "Key Encipherment", "Digital Signature"),
        ({"key_usage": ("digital_signature", "key_cert_sign")}, "Certificate Sign", "CRL Sign"),
        ({"key_usage": ("digital_signature", "crl_sign")}, "CRL Sign", "Certificate Sign"),
        ({"key_usage_critical": False}, "X509v3 Key Usage: \n", "Key Usage: critical"),
        ({"extended_key_usage": None}, "CA:FALSE", "Extended Key Usage"),
        ({"extended_key_usage": (certs.SERVER_AUTH,)}, "TLS Web Server", "TLS Web Client"),
        ({"extended_key_usage": (certs.CLIENT_AUTH,)}, "TLS Web Client", "TLS Web Server"),
        ({"extended_key_usage": (certs.CODE_SIGNING,)}, "Code Signing", "TLS Web"),
    ],
)
def test_extensions(domain, options, present, absent):
    text = openssl_text(domain.issue(ID, **options).cert)
    assert present in text
    assert absent not in text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (lambda: {"ttl": -60}, "certificate has expired"),
        (lambda: {"not_before": certs.now() + certs.seconds(600)}, "certificate is not yet valid"),
        (lambda: {"not_after": certs.now() - certs.seconds(1)}, "certificate has expired"),
        (lambda: {"ttl": 60}, ""),
    ],
    ids=["ttl over", "from later on", "until just now", "good"],
)
def test_validity(domain, tmp_path, options, complaint):
    assert verify(domain, domain.issue(ID, **options()), tmp_path) == complaint


def test_lifetime(domain):
    svid = domain.issue(ID, ttl=60)
    assert svid.not_after - svid.cert.not_valid_before_utc == datetime.timedelta(seconds=70)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, ""),
        ({"ca": False}, "invalid CA certificate"),
        ({"key_cert_sign": False}, "key usage does not include certificate signing|invalid CA certificate"),
        ({"ttl": 1, "not_before": certs.now() - certs.seconds(60)}, "certificate has expired"),
    ],
)
def test_intermediates(domain, tmp_path, options, complaint):
    svid = domain.intermediate(**options).issue(ID)
    assert re.fullmatch(complaint, verify(domain, svid, tmp_path))


def test_another_authority_of_the_same_name(domain, tmp_path):
    stranger = certs.TrustDomain("example.org")
    assert verify(domain, stranger.issue(ID), tmp_path) != ""


def test_rotation_keeps_or_drops_the_old_authority(tmp_path):
    domain = certs.TrustDomain("example.org")
    old = domain.issue(ID)
    domain.rotate()
    assert len(domain.roots) == 2
    assert verify(domain, old, tmp_path) == verify(domain, domain.issue(ID), tmp_path) == ""
    domain.retire_old()
    assert verify(domain, old, tmp_path) != ""
    domain.rotate(keep_old=False)
    assert len(domain.roots) == 1


@pytest.mark.parametrize("kind", ["ec-p256", "ec-p384", "rsa-2048", "ed25519"])
def test_kinds_of_keys(domain, tmp_path, kind):
    svid = domain.issue(ID, key_kind=kind)
    assert load_der_private_key(svid.key_der, None).public_key() == svid.cert.public_key()
    assert load_pem_private_key(svid.key_pem, None).public_key() == svid.cert.public_key()
    assert verify(domain, svid, tmp_path) == ""


def test_a_key_can_be_another_ones(domain):
    key = certs.new_key()
    assert domain.issue(ID, key=key).cert.public_key() == key.public_key()


def test_files_are_private(domain, tmp_path):
    cert_path, key_path = domain.issue(ID).write(tmp_path)
    assert key_path.stat().st_mode & 0o777 == 0o600
    assert x509.load_pem_x509_certificates(cert_path.read_bytes())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["svid.key", "svid.pem"]


def test_host_certificates(tmp_path):
    authority = certs.HostAuthority()
    credential = authority.issue("email.eu-central-1.amazonaws.com")
    text = openssl_text(credential.cert)
    assert "DNS:email.eu-central-1.amazonaws.com" in text
    assert "TLS Web Client" not in text
    assert authority.write(tmp_path / "ca.pem").read_bytes() == authority.pem
