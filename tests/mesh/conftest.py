# SPDX-License-Identifier: Apache-2.0
"""The world of the mesh tests: a real apiserver, a real istiod, the gateway it configures, SPIRE and a fake AWS.

All of it is started once for the session, in a network of its own, and what a test changes it changes back.  The
egress is the chart mail-egress, installed by helm as its users do it; nothing about the gateway is configured here.
"""

import pathlib
import shutil

import pytest
from support import certs
from support.aws import FakeAws
from support.aws_smtp import SesSmtp
from support.charts import Chart, helm_path
from support.mesh_istio import Istiod, MeshGateway
from support.mesh_kube_api import KubeApi
from support.mesh_network import GATEWAY_ADDRESS, SES_ADDRESS, SES_SMTP_ADDRESS, PrivateNetwork
from support.processes import make_workdir, poll_until
from support.sidecar import ROLE_ARN, SIDECAR_UID
from support.world import REGION, ROLES_ANYWHERE_HOST, SES_HOST, SIDECAR_PATH, SMTP_HOST, STS_HOST

EGRESS_VALUES = {
    "trustDomain": "example.org", "regions": [REGION],
    "clients": [{"namespace": "shop", "serviceAccount": "checkout"}],
    "endToEndMail": {"enabled": True}, "smtp": {"enabled": True},
}


def pytest_collection_modifyitems(items):
    for item in items:
        # The first one has everything to wait for.
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def session_dir():
    """session_dir(): a directory that other uids may enter, for as long as the session lasts."""
    made = []

    def make() -> str:
        made.append(make_workdir("svidmail-mesh-"))
        return made[-1]

    yield make
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def web_authority():
    """Who certifies AWS's names; the whole network takes it for the public web's."""
    return certs.HostAuthority()


@pytest.fixture(scope="session", autouse=True)
def network(session_dir, web_authority):
    """Names, addresses and roots of our own, for this process and all it starts."""
    network = PrivateNetwork(session_dir(), web_authority.pem)
    network.enter()
    network.set_hosts({MeshGateway.host: GATEWAY_ADDRESS, SES_HOST: SES_ADDRESS, STS_HOST: SES_ADDRESS,
                       ROLES_ANYWHERE_HOST: SES_ADDRESS, SMTP_HOST: SES_SMTP_ADDRESS})
    return network


# --- the control plane


@pytest.fixture(scope="session")
def kube_api(programs, session_dir):
    """etcd and kube-apiserver alone; take namespaces of your own (`kube_api.make_namespace`)."""
    with KubeApi(programs.kubernetes_dir, session_dir()) as api:
        yield api


@pytest.fixture(scope="session")
def istiod(programs, session_dir, kube_api):
    """istiod, and the definitions of Istio's and SPIRE's kinds."""
    for path in sorted(pathlib.Path(programs.spire_crds).glob("*.yaml")):
        kube_api.add_definitions(path)
    with Istiod(programs.istio_dir, programs.istio_source, session_dir(), kube_api) as istiod:
        yield istiod


# --- AWS


@pytest.fixture(scope="session")
def session_aws(session_dir, network, spire, web_authority):
    with FakeAws(session_dir(), jwks=spire.jwks, issuer=spire.jwt_issuer, subjects=[spire.id(SIDECAR_PATH)],
                 roles=[ROLE_ARN], region=REGION, hosts=[ROLES_ANYWHERE_HOST], authority=web_authority,
                 address=SES_ADDRESS, port=443) as fake:
        yield fake


@pytest.fixture
def aws(session_aws):
    """STS and SES at their true names on port 443; nothing seen yet, nobody connected, honest certificates."""
    for host in (SES_HOST, STS_HOST):
        session_aws.serve_certificate(host, session_aws.authority.issue(host))
    session_aws.cut_connections()
    poll_until("the last test's connections to AWS to end", lambda: session_aws.open_connections == 0, 5)
    session_aws.reset()
    yield session_aws
    session_aws.clear_faults()


@pytest.fixture(scope="session")
def session_ses_smtp(session_dir, network, web_authority):
    with SesSmtp(session_dir(), SMTP_HOST, authority=web_authority, address=SES_SMTP_ADDRESS) as server:
        yield server


@pytest.fixture
def ses_smtp(session_ses_smtp):
    """SES's SMTP door at its true name on port 465."""
    session_ses_smtp.serve_certificate(session_ses_smtp.authority.issue(SMTP_HOST))
    session_ses_smtp.reset()
    return session_ses_smtp


# --- the egress


@pytest.fixture(scope="session")
def egress_chart():
    return Chart("mail-egress", helm_path("4"))


@pytest.fixture(scope="session")
def egress_notes(egress_chart):
    """What helm tells whoever installs the egress of these tests."""
    return egress_chart.notes(EGRESS_VALUES)


@pytest.fixture(scope="session")
def egress(kube_api, istiod, egress_chart):
    """egress({values}): the chart installed with these over the usual ones; without any, as it is for all tests."""

    def deploy(values: dict | None = None) -> None:
        egress_chart.deploy(kube_api.kubeconfig, EGRESS_VALUES, values or {})

    deploy()
    return deploy


@pytest.fixture(scope="session")
def gateway(programs, session_dir, spire, egress, kube_api):
    """A gateway as the chart's Deployment would have it, with all its listeners open."""
    pod = kube_api.get("deployment", "mail-egress", "mail-egress")["spec"]["template"]
    gateway = MeshGateway(programs, programs.istio_source, session_dir(), spire_socket=spire.socket_path, pod=pod)
    gateway.start()
    gateway.wait_for_listeners(gateway.api_port, gateway.end_to_end_port, gateway.smtp_port)
    yield gateway
    gateway.stop()


# --- its clients


@pytest.fixture(scope="session")
def svid(spire, session_dir):
    """svid(uid): the files of a workload's SVID; "bundle" is what the gateway is verified by."""
    made: dict[int, dict[str, str]] = {}

    def files(uid: int) -> dict[str, str]:
        if uid not in made:
            made[uid] = spire.write_svid(uid, f"{session_dir()}/svid")
        return made[uid]

    return files


@pytest.fixture
def client_svid(svid):
    """What the policy lets through."""
    return svid(SIDECAR_UID)
