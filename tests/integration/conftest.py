# SPDX-License-Identifier: Apache-2.0
"""The world of the integration tests: real SPIRE, real Envoy, a fake AWS, and svidmail between them.

Gateway, AWS and sidecar are each test's own.  They are ended in this order, which the factories keep by asking for
each other: sidecar, gateway, AWS, SPIRE.
"""

import pytest
from support.gateway import Gateway, SpireIdentity, Upstream
from support.issued_domain import IssuedDomain
from support.processes import end_all
from support.sidecar import Sidecar
from support.spire import Spire
from support.world import SES_HOST, SIDECAR_PATH, STS_HOST


@pytest.fixture
def new_issuer(workdir):
    """new_issuer(trust_domain="example.org", **Issuer's settings): a domain whose agent does what the test says."""
    domains = []

    def make(trust_domain: str = "example.org", **settings) -> IssuedDomain:
        domains.append(IssuedDomain(workdir(), trust_domain, **settings))
        return domains[-1]

    yield make
    end_all([domain.stop for domain in domains])


@pytest.fixture
def issued_world(new_issuer, new_aws, new_gateway, new_sidecar):
    """issued_world(config={}, **Issuer's settings): (issuer, aws, gateway, sidecar) in a domain of its own."""

    def make(config: dict | None = None, *, start: bool = True, **settings):
        domain = new_issuer(**settings)
        aws = new_aws(domain)
        gateway = new_gateway(domain, aws, identity=domain.gateway_identity())
        return domain.issuer, aws, gateway, new_sidecar(domain, gateway, aws, config, start=start)

    return make


@pytest.fixture
def aws(new_aws, spire):
    """The usual AWS: it trusts the session's SPIRE as its OIDC provider."""
    return new_aws(spire)


@pytest.fixture
def new_gateway(programs, workdir, new_spire, new_aws):
    """new_gateway(spire, aws, allowed=[SIDECAR_PATH], start=True, **settings): an Envoy before that AWS."""
    gateways = []

    def make(domain: Spire, before, *, allowed=(SIDECAR_PATH,), start: bool = True, **settings) -> Gateway:
        ses, sts = (Upstream(host, "127.0.0.1", before.port) for host in (SES_HOST, STS_HOST))
        usual = {"identity": SpireIdentity(domain.socket_path), "api": [ses], "end_to_end": [ses, sts],
                 "upstream_ca_file": str(before.ca_file)}
        gateway = Gateway(programs.envoy, workdir(), allowed=[domain.id(path) for path in allowed],
                          **(usual | settings))
        gateways.append(gateway)
        if start:
            gateway.start()
        return gateway

    yield make
    end_all([gateway.stop for gateway in gateways])


@pytest.fixture
def gateway(new_gateway, spire, aws):
    """The usual gateway: it lets the sidecar's identity alone through to the fake AWS."""
    return new_gateway(spire, aws)


@pytest.fixture
def new_sidecar(new_gateway, new_sidecar):
    """Ends before the gateway."""
    return new_sidecar


@pytest.fixture
def sidecar(new_sidecar, spire, gateway, aws) -> Sidecar:
    """The usual svidmail, ready to relay."""
    usual = new_sidecar(spire, gateway, aws)
    usual.wait_ready()
    return usual
