# SPDX-License-Identifier: Apache-2.0
"""A trust domain of the Python issuer, where a test would otherwise have one of SPIRE's (support/spire.py).

Only for what SPIRE cannot be made to do: an answer at an exact moment, or one that no honest agent gives.
"""

import os

from . import certs
from .gateway import FileIdentity
from .workload_api import Identity, Issuer
from .world import GATEWAY_PATH, SIDECAR_PATH


class IssuedDomain:
    """What new_aws(), new_gateway() and new_sidecar() ask of a domain; everything else is done to .issuer."""

    jwt_issuer = "https://oidc.example.org"

    def __init__(self, directory: str, trust_domain: str = "example.org", **settings):
        self.socket_path = os.path.join(directory, "agent.sock")
        self.issuer = Issuer(self.socket_path, trust_domain, jwt_issuer=self.jwt_issuer,
                             **({"identities": [Identity(SIDECAR_PATH)]} | settings))

    @property
    def endpoint(self) -> str:
        return self.issuer.address

    @property
    def certificates(self) -> certs.TrustDomain:
        """Its CA: for SVIDs that no agent issues."""
        return self.issuer.domain

    def id(self, path: str) -> str:
        return self.certificates.id + path

    def jwks(self) -> dict:
        return self.issuer.jwks()

    def gateway_identity(self, *trusts: certs.TrustDomain, **defects) -> FileIdentity:
        """A gateway's SVID of this domain, which trusts it and these others; defects go to Authority.issue()."""
        return file_identity(self.certificates, self.certificates, *trusts, **defects)

    def stop(self) -> None:
        self.issuer.stop()


def file_identity(own: certs.TrustDomain, *trusts: certs.TrustDomain, **defects) -> FileIdentity:
    """A gateway's SVID of one domain that trusts clients of the others."""
    svid = own.issue(GATEWAY_PATH, **defects)
    return FileIdentity(svid.chain_pem.decode(), svid.key_pem.decode(),
                        {domain.name: domain.bundle_pem.decode() for domain in trusts})
