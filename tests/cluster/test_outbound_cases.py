# SPDX-License-Identifier: Apache-2.0
"""What istio-proxy does to svidmail's connections, by what the mesh is told; and that doctor names what it breaks.

A pod that was given the sidecar excludes the gateway's ports, and its mail goes whatever the mesh is told.  A pod that
was written by hand and lacks the annotation depends on luck.
"""

import contextlib
import json

import pytest
from support.cluster_shop import GATEWAY_HOST, Shop
from support.world import SES_HOST


def destination_rule(**tls: str) -> dict:
    return {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "gateway"},
            "spec": {"host": GATEWAY_HOST, "trafficPolicy": {"tls": tls}}}


MESH_MTLS = destination_rule(mode="ISTIO_MUTUAL")
DOUBLE_TLS = destination_rule(mode="ISTIO_MUTUAL", sni=SES_HOST)
REGISTRY_ONLY = {
    "apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "default"},
    "spec": {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}, "egress": [{"hosts": ["istio-system/*"]}]}}


class Pods:
    """`excluded`, as the label makes it, and `captured`."""

    def __init__(self, shop: Shop):
        self.shop = shop
        shop.start_pod("idle", name="excluded", mesh=True, ready=False)
        shop.start_captured_pod("idle", like="excluded", name="captured")
        shop.cluster.wait_ready("pod/excluded", shop.namespace)
        # A refusal for want of it has the code of one for a cut connection.
        for name in ("excluded", "captured"):
            shop.wait_for_own_identity(name)

    def code(self, name: str) -> int:
        return self.shop.send(name, name)[0]

    def doctor(self, name: str) -> dict[str, str]:
        """The checks that found something, with its SM code."""
        said = json.loads(self.shop.svidmail(name, "doctor", "--output=json", check=False))
        return {check["id"]: check["code"] for check in said["checks"] if "code" in check}


@pytest.fixture
def pods_where(mesh_shop):
    """pods_where(OBJECT…): in a namespace whose mesh is told so."""

    def start(*told: dict) -> Pods:
        if told:
            mesh_shop.apply(*told)
        return Pods(mesh_shop)

    return start


@contextlib.contextmanager
def gateway_labelled(cluster, **labels: str):
    name = cluster.pods("mail-egress")[0]["metadata"]["name"]
    try:
        cluster.kubectl("label", "pod", name, "--namespace=mail-egress", *(f"{k}={v}" for k, v in labels.items()))
        yield
    finally:
        cluster.kubectl("label", "pod", name, "--namespace=mail-egress", *(f"{key}-" for key in labels))


def test_captured_mail_goes_by_luck_and_doctor_warns(pods_where):
    pods = pods_where()
    assert (pods.code("excluded"), pods.doctor("excluded")) == (250, {})
    assert (pods.code("captured"), pods.doctor("captured")) == (250, {"gateway.capture": "SM036"})


def test_mesh_mtls_by_a_destination_rule_cuts_captured_mail_and_doctor_names_it(pods_where):
    pods = pods_where(MESH_MTLS)
    assert (pods.code("excluded"), pods.doctor("excluded")) == (250, {})
    assert pods.code("captured") == 451
    assert pods.doctor("captured") == {"gateway.capture": "SM036", "gateway.mail.tls": "SM041",
                                       "gateway.sts.tls": "SM041", "mail.last": "SM091"}


def test_mesh_mtls_by_the_gateways_label_cuts_captured_mail_and_doctor_names_it(pods_where, cluster):
    with gateway_labelled(cluster, **{"security.istio.io/tlsMode": "istio"}):
        pods = pods_where()
        assert (pods.code("excluded"), pods.doctor("excluded")) == (250, {})
        assert pods.code("captured") == 451
        assert pods.doctor("captured") == {"gateway.capture": "SM036", "gateway.mail.tls": "SM041",
                                           "gateway.sts.tls": "SM041", "mail.last": "SM091"}


def test_double_tls_cuts_captured_mail_and_doctor_names_it(pods_where):
    pods = pods_where(DOUBLE_TLS)
    assert (pods.code("excluded"), pods.doctor("excluded")) == (250, {})
    assert pods.code("captured") == 451
    assert pods.doctor("captured") == {"gateway.capture": "SM036", "gateway.mail.tls": "SM044",
                                       "gateway.sts.tls": "SM041", "mail.last": "SM091"}


def test_registry_only_cuts_captured_mail_and_doctor_names_it(pods_where):
    pods = pods_where(REGISTRY_ONLY)
    assert (pods.code("excluded"), pods.doctor("excluded")) == (250, {})
    assert pods.code("captured") == 451
    assert pods.doctor("captured") == {"gateway.capture": "SM036", "gateway.mail.tls": "SM041",
                                       "gateway.sts.tls": "SM041", "mail.last": "SM091"}
