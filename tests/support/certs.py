# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority: honest SVIDs, and every dishonest one.

SPIRE issues no defective certificate, so the rules a SPIFFE peer must check (one URI SAN, no CA flag,
no keyCertSign ...) can be tried only with fixtures made here. Everything is made in memory, in a few
milliseconds (EC P-256), so a test makes the certificate it needs where it needs it.

    domain = certs.TrustDomain("example.org")
    svid = domain.issue("spiffe://example.org/ns/shop/sa/checkout")
    svid = domain.issue("spiffe://example.org/x", ca=True)            # one defect, all else right
    svid = domain.intermediate(key_cert_sign=False).issue("spiffe://example.org/x")
    server = certs.HostAuthority().issue("email.eu-central-1.amazonaws.com")
"""

from __future__ import annotations

import datetime
import os
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
CODE_SIGNING = ExtendedKeyUsageOID.CODE_SIGNING

# What SPIRE sets on a leaf; `key_usage=` takes any other set of these names.
LEAF_KEY_USAGE = ("digital_signature", "key_encipherment", "key_agreement")
CA_KEY_USAGE = ("key_cert_sign", "crl_sign")
_KEY_USAGE_NAMES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_SAN_OID = ObjectIdentifier("2.5.29.17")


class _Unset:
    """Told apart from None, which means "leave the extension out"."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()


def now() -> datetime.datetime:
    """The current time, in the whole seconds that X.509 can hold."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def seconds(count: float) -> datetime.timedelta:
    """A span, for `not_before=certs.now() + certs.seconds(60)`."""
    return datetime.timedelta(seconds=count)


def new_key(kind: str = "ec-p256") -> PrivateKey:
    """A private key; the kinds are those a SPIRE server can be told to issue, and ed25519 besides."""
    if kind == "ec-p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "ec-p384":
        return ec.generate_private_key(ec.SECP384R1())
    if kind == "rsa-2048":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "rsa-4096":
        return rsa.generate_private_key(public_exponent=65537, key_size=4096)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"unknown kind of key: {kind}")


def key_der(key: PrivateKey) -> bytes:
    """Unencrypted PKCS#8 DER: the form of X509SVID.x509_svid_key."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_pem(key: PrivateKey) -> bytes:
    """Unencrypted PKCS#8 PEM: the form Envoy and OpenSSL read from files."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def cert_der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def cert_pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def write_private(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> pathlib.Path:
    """Writes a file so that a reader sees the old or the new one, never half of it."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(data)
    os.replace(temporary, path)
    return path


def _der(tag: int, content: bytes) -> bytes:
    """One DER element; lengths beyond two bytes do not occur in a certificate's names."""
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _subject_alt_name(
    uris: Iterable[str | bytes], dns: Iterable[str], emails: Iterable[str]
) -> x509.UnrecognizedExtension:
    """The SAN extension by hand: the library refuses the very bytes that a SPIFFE ID must not hold."""
    names = [_der(0x86, uri.encode() if isinstance(uri, str) else uri) for uri in uris]
    names += [_der(0x82, name.encode("ascii")) for name in dns]
    names += [_der(0x81, name.encode("ascii")) for name in emails]
    return x509.UnrecognizedExtension(_SAN_OID, _der(0x30, b"".join(names)))


def _key_usage(names: Iterable[str]) -> x509.KeyUsage:
    wanted = set(names)
    unknown = wanted - set(_KEY_USAGE_NAMES)
    if unknown:
        raise ValueError(f"unknown key usage: {', '.join(sorted(unknown))}")
    return x509.KeyUsage(**{name: name in wanted for name in _KEY_USAGE_NAMES})


def _name(common_name: str | None, organisation: str | None = "SPIRE") -> x509.Name:
    attributes = []
    if organisation:
        attributes.append(x509.NameAttribute(NameOID.COUNTRY_NAME, "US"))
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]))
    return x509.Name(attributes)


def _signing_hash(key: PrivateKey) -> hashes.HashAlgorithm | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256:
        return hashes.SHA384()
    return hashes.SHA256()


@dataclass(frozen=True)
class Credential:
    """A leaf certificate with its key and what stands between it and the root."""

    cert: x509.Certificate
    key: PrivateKey
    intermediates: tuple[x509.Certificate, ...] = ()
    spiffe_id: str = ""

    @property
    def chain_der(self) -> bytes:
        """Leaf first, concatenated DER: the form of X509SVID.x509_svid."""
        return b"".join(cert_der(cert) for cert in (self.cert, *self.intermediates))

    @property
    def chain_pem(self) -> bytes:
        return b"".join(cert_pem(cert) for cert in (self.cert, *self.intermediates))

    @property
    def key_der(self) -> bytes:
        return key_der(self.key)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    @property
    def not_after(self) -> datetime.datetime:
        return self.cert.not_valid_after_utc

    def write(self, directory: str | os.PathLike[str], name: str = "svid") -> tuple[pathlib.Path, pathlib.Path]:
        """Writes NAME.pem and NAME.key; the key first, so that a watcher of the certificate finds its key."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        key_path = write_private(directory / f"{name}.key", self.key_pem)
        cert_path = write_private(directory / f"{name}.pem", self.chain_pem, 0o644)
        return cert_path, key_path


Svid = Credential


@dataclass
class Authority:
    """One CA certificate with its key; `above` is the chain from here up to, but without, the root."""

    cert: x509.Certificate
    key: PrivateKey
    above: tuple[x509.Certificate, ...] = ()
    trust_domain: str = ""

    @classmethod
    def root(
        cls,
        common_name: str = "root",
        *,
        trust_domain: str = "",
        key_kind: str = "ec-p256",
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
        ttl: float = 86400,
        ca: bool = True,
        key_usage: Sequence[str] | None = CA_KEY_USAGE,
        uri_sans: Sequence[str | bytes] | None = None,
    ) -> Authority:
        """A self-signed CA; with a trust domain it carries `spiffe://NAME` as SPIRE's does."""
        key = new_key(key_kind)
        start = not_before or now() - seconds(10)
        if uri_sans is None:
            uri_sans = [f"spiffe://{trust_domain}"] if trust_domain else []
        cert = _build(
            subject=_name(common_name, "SPIFFE" if trust_domain else "svidmail tests"),
            issuer=None,
            public_key=key.public_key(),
            signer=key,
            issuer_public_key=key.public_key(),
            not_before=start,
            not_after=not_after or start + seconds(ttl),
            ca=ca,
            key_usage=key_usage,
            extended_key_usage=None,
            uris=uri_sans,
        )
        return cls(cert, key, (), trust_domain)

    def intermediate(
        self,
        common_name: str = "intermediate",
        *,
        ca: bool | None = True,
        key_cert_sign: bool = True,
        key_usage: Sequence[str] | _Unset | None = UNSET,
        key_kind: str = "ec-p256",
        ttl: float = 86400,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
        uri_sans: Sequence[str | bytes] = (),
    ) -> Authority:
        """A CA below this one; `ca=False` or `key_cert_sign=False` makes the defect a peer must notice."""
        key = new_key(key_kind)
        if isinstance(key_usage, _Unset):
            key_usage = CA_KEY_USAGE if key_cert_sign else ("crl_sign", "digital_signature")
        start = not_before or now() - seconds(10)
        cert = _build(
            subject=_name(common_name, "SPIFFE"),
            issuer=self.cert.subject,
            public_key=key.public_key(),
            signer=self.key,
            issuer_public_key=self.key.public_key(),
            not_before=start,
            not_after=not_after or start + seconds(ttl),
            ca=ca,
            key_usage=key_usage,
            extended_key_usage=None,
            uris=uri_sans,
        )
        above = (cert, *self.above)
        return Authority(cert, key, above, self.trust_domain)

    def issue(
        self,
        spiffe_id: str | bytes = "",
        *,
        uri_sans: Sequence[str | bytes] | None = None,
        dns: Sequence[str] = (),
        emails: Sequence[str] = (),
        ttl: float = 3600,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
        ca: bool | None = False,
        key_usage: Sequence[str] | _Unset | None = UNSET,
        key_usage_critical: bool = True,
        extended_key_usage: Sequence[ObjectIdentifier] | None = (SERVER_AUTH, CLIENT_AUTH),
        san_critical: bool = False,
        second_san: Sequence[str | bytes] | None = None,
        common_name: str | None = None,
        empty_subject: bool = False,
        key: PrivateKey | None = None,
        key_kind: str = "ec-p256",
        extra_extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Credential:
        """A leaf as SPIRE makes it, unless a keyword says otherwise.

        `uri_sans=[]` leaves the URI out, two entries make two; str or bytes (any byte). None for
        `ca`, `key_usage` or `extended_key_usage` leaves that extension out. `ttl=-60` is expired.
        """
        key = key or new_key(key_kind)
        if uri_sans is None:
            uri_sans = [spiffe_id] if spiffe_id else []
        moment = now()
        end = not_after or (not_before or moment) + seconds(ttl)
        # An expired one was valid once: its beginning lies before its end.
        start = not_before or (moment - seconds(10) if end > moment else end - seconds(3600))
        cert = _build(
            subject=x509.Name([]) if empty_subject else _name(common_name or (dns[0] if dns else None)),
            issuer=self.cert.subject,
            public_key=key.public_key(),
            signer=self.key,
            issuer_public_key=self.key.public_key(),
            not_before=start,
            not_after=end,
            ca=ca,
            key_usage=LEAF_KEY_USAGE if isinstance(key_usage, _Unset) else key_usage,
            key_usage_critical=key_usage_critical,
            extended_key_usage=extended_key_usage,
            uris=uri_sans,
            dns=dns,
            emails=emails,
            san_critical=san_critical or empty_subject,
            second_san=second_san,
            extra_extensions=extra_extensions,
        )
        shown = spiffe_id if isinstance(spiffe_id, str) else spiffe_id.decode("latin-1")
        return Credential(cert, key, self.above, shown)

    @property
    def pem(self) -> bytes:
        return cert_pem(self.cert)

    @property
    def der(self) -> bytes:
        return cert_der(self.cert)


def _build(
    *,
    subject: x509.Name,
    issuer: x509.Name | None,
    public_key: object,
    signer: PrivateKey,
    issuer_public_key: object,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
    ca: bool | None,
    key_usage: Sequence[str] | None,
    extended_key_usage: Sequence[ObjectIdentifier] | None,
    uris: Sequence[str | bytes] = (),
    dns: Sequence[str] = (),
    emails: Sequence[str] = (),
    key_usage_critical: bool = True,
    san_critical: bool = False,
    second_san: Sequence[str | bytes] | None = None,
    extra_extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(_key_usage(key_usage), critical=key_usage_critical)
    if extended_key_usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended_key_usage), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    if issuer is not None:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public_key), critical=False
        )
    if uris or dns or emails:
        builder = builder.add_extension(_subject_alt_name(uris, dns, emails), critical=san_critical)
    for extension, critical in extra_extensions:
        builder = builder.add_extension(extension, critical=critical)
    cert = builder.sign(signer, _signing_hash(signer))
    if second_san is not None:
        cert = _with_second_san(cert, _subject_alt_name(second_san, (), ()), signer)
    return cert


def _with_second_san(
    cert: x509.Certificate, extension: x509.UnrecognizedExtension, signer: PrivateKey
) -> x509.Certificate:
    """Repeats the SAN extension, which RFC 5280 forbids and no library makes, and signs anew."""
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("a repeated SAN extension needs an EC issuer")
    tbs = cert.tbs_certificate_bytes
    body = _content(tbs)
    offset = 0
    parts = []
    while offset < len(body):
        end = offset + _length(body[offset:])
        parts.append(body[offset:end])
        offset = end
    extensions = _content(_content(parts[-1]))
    extra = _der(0x30, bytes.fromhex("0603551d11") + _der(0x04, extension.value))
    parts[-1] = _der(0xA3, _der(0x30, extensions + extra))
    tbs = _der(0x30, b"".join(parts))
    algorithm = parts[2]
    signature = signer.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return x509.load_der_x509_certificate(_der(0x30, tbs + algorithm + _der(0x03, b"\0" + signature)))


def _header(element: bytes) -> tuple[int, int]:
    """(length of tag and length bytes, length of the content) of the DER element at the front."""
    if element[1] < 0x80:
        return 2, element[1]
    n = element[1] & 0x7F
    return 2 + n, int.from_bytes(element[2 : 2 + n], "big")


def _length(element: bytes) -> int:
    return sum(_header(element))


def _content(element: bytes) -> bytes:
    start, length = _header(element)
    return element[start : start + length]


class TrustDomain:
    """A trust domain: its signing CA, its bundle, and what it has retired."""

    def __init__(self, name: str = "example.org", *, key_kind: str = "ec-p256", upstream: bool = False) -> None:
        self.name = name
        self.id = f"spiffe://{name}"
        self._upstream = upstream
        self._key_kind = key_kind
        self.roots: list[Authority] = []
        self.authority = self._new_authority()

    def _new_authority(self) -> Authority:
        root = Authority.root(f"{self.name} CA", trust_domain=self.name, key_kind=self._key_kind)
        self.roots.append(root)
        if self._upstream:
            return root.intermediate(f"{self.name} issuing CA", uri_sans=[self.id])
        return root

    def issue(self, spiffe_id: str | bytes = "", **options: object) -> Credential:
        """A leaf of this domain; a path alone (`/ns/shop/sa/checkout`) gets the domain put before it."""
        if isinstance(spiffe_id, str) and spiffe_id.startswith("/"):
            spiffe_id = self.id + spiffe_id
        return self.authority.issue(spiffe_id, **options)

    def intermediate(self, common_name: str = "intermediate", **options: object) -> Authority:
        return self.authority.intermediate(common_name, **options)

    def rotate(self, *, keep_old: bool = True) -> Authority:
        """A new CA signs from now on; the old one stays in the bundle unless told otherwise."""
        self.authority = self._new_authority()
        if not keep_old:
            del self.roots[:-1]
        return self.authority

    def retire_old(self) -> None:
        """Takes every CA but the newest out of the bundle, as a revocation does."""
        del self.roots[:-1]

    @property
    def bundle_der(self) -> bytes:
        """Concatenated DER CAs: the form of X509SVID.bundle."""
        return b"".join(root.der for root in self.roots)

    @property
    def bundle_pem(self) -> bytes:
        return b"".join(root.pem for root in self.roots)


class HostAuthority:
    """The public web's CA in small: certificates for host names, as AWS's front doors have."""

    def __init__(self, common_name: str = "svidmail tests web CA", *, key_kind: str = "ec-p256") -> None:
        self.authority = Authority.root(common_name, key_kind=key_kind, ttl=30 * 86400)

    def issue(self, *hosts: str, **options: object) -> Credential:
        options.setdefault("extended_key_usage", (SERVER_AUTH,))
        options.setdefault("key_usage", ("digital_signature",))
        options.setdefault("ttl", 7 * 86400)
        return self.authority.issue("", dns=hosts, **options)

    @property
    def pem(self) -> bytes:
        return self.authority.pem

    def write(self, path: str | os.PathLike[str]) -> pathlib.Path:
        return write_private(path, self.pem, 0o644)
