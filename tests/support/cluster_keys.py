# SPDX-License-Identifier: Apache-2.0
"""The keys of a Kubernetes control plane, and the kubeconfig files that go with them."""

import ipaddress
import os
import pathlib

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from . import certs

NODE = "rig-node"
SERVICE_ADDRESS = "10.96.0.1"       # the first of the service range is the apiserver's


def write_keys(directory: str, address: str) -> None:
    """ca, apiserver, kubelet-server, service-accounts; and for admin and kubelet a kubeconfig."""
    os.mkdir(directory, 0o700)
    authority = certs.Authority.root("rig", ttl=7 * 86400)
    certs.write_private(f"{directory}/ca.crt", authority.pem, 0o644)
    certs.write_private(f"{directory}/ca.key", certs.key_pem(authority.key))
    certs.write_private(f"{directory}/service-accounts.key", certs.key_pem(certs.new_key("rsa-2048")))
    _issue(authority, directory, "apiserver", "kube-apiserver",
           names=["kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"],
           addresses=["127.0.0.1", address, SERVICE_ADDRESS])
    _issue(authority, directory, "kubelet-server", NODE, names=[NODE], addresses=["127.0.0.1", address])
    _issue(authority, directory, "admin", "admin", group="system:masters")
    _issue(authority, directory, "kubelet", f"system:node:{NODE}", group="system:nodes")
    for user in ("admin", "kubelet"):
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "rig",
            "clusters": [{"name": "rig", "cluster": {"server": f"https://{address}:6443",
                                                     "certificate-authority": f"{directory}/ca.crt"}}],
            "users": [{"name": user, "user": {"client-certificate": f"{directory}/{user}.crt",
                                              "client-key": f"{directory}/{user}.key"}}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
        }
        certs.write_private(f"{directory}/{user}.kubeconfig", yaml.safe_dump(config).encode())


def _issue(authority: certs.Authority, directory: str, file: str, name: str, *, group: str = "",
           names: list[str] | None = None, addresses: list[str] | None = None) -> None:
    """certs.py makes SVIDs and web servers' certificates; Kubernetes wants groups as O and addresses as SANs."""
    key = certs.new_key()
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    start = certs.now() - certs.seconds(60)
    builder = (x509.CertificateBuilder().subject_name(x509.Name(subject)).issuer_name(authority.cert.subject)
               .public_key(key.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(start).not_valid_after(start + certs.seconds(6 * 86400))
               .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
               .add_extension(x509.ExtendedKeyUsage([certs.SERVER_AUTH, certs.CLIENT_AUTH]), critical=False))
    alternatives = [x509.DNSName(each) for each in names or []]
    alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses or []]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    cert = builder.sign(authority.key, certs.hashes.SHA256())
    certs.write_private(pathlib.Path(directory, f"{file}.crt"), certs.cert_pem(cert), 0o644)
    certs.write_private(pathlib.Path(directory, f"{file}.key"), certs.key_pem(key))
