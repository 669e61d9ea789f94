# SPDX-License-Identifier: Apache-2.0
"""The rig's gateway is what istiod makes of the chart: identity by SPIRE, roots by pilot-agent, nothing by hand.

If these fail, what the other files say about the egress means nothing.
"""

import pytest
from support.gateway import ENVOY_UID
from support.kubectl import Refused
from support.tls_upstream import mtls_client, peer_uri
from support.world import GATEWAY_PATH, SES_HOST


def test_all_of_the_gateways_configuration_comes_from_istiod(gateway):
    dump = gateway.config_dump()
    static = dump["ListenersConfigDump"].get("static_listeners", [])
    ports = {listener["listener"]["address"]["socket_address"]["port_value"] for listener in static}
    assert not ports & {gateway.api_port, gateway.end_to_end_port, gateway.smtp_port}
    assert gateway.listeners() >= {gateway.api_port, gateway.end_to_end_port, gateway.smtp_port}
    # Nothing was rejected on the way: Envoy says so per resource.
    assert "error_state" not in str(dump)


def test_its_identity_comes_from_spire(gateway, spire, client_svid):
    assert spire.wait_for_svid(ENVOY_UID, GATEWAY_PATH)
    with mtls_client(gateway.api_port, SES_HOST, client_svid, client_svid["bundle"]) as stream:
        assert peer_uri(stream) == [spire.id(GATEWAY_PATH)]


def test_secrets_of_both_sources_are_there(gateway):
    """SVID and bundle from SPIRE, and the web's roots from pilot-agent, whom SPIRE does not know to name."""
    assert gateway.secrets().keys() >= {"default", "ROOTCA", "file-root:system"}


def test_it_runs_as_spire_knows_it(gateway):
    with open(f"/proc/{gateway.envoy_pid}/status") as status:
        uids = next(line for line in status if line.startswith("Uid:")).split()[1:]
    assert set(uids) == {str(ENVOY_UID)}


def test_istiod_judges_what_is_applied(kube_api, istiod):
    namespace = kube_api.make_namespace("rig-judged")
    gateway = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "bad"},
               "spec": {"servers": [{"port": {"number": 9443, "name": "https", "protocol": "HTTPS"},
                                     "hosts": ["ses.example"]}]}}
    with pytest.raises(Refused, match=r'webhook "rev\.validation\.istio\.io" denied .* must have TLS settings'):
        kube_api.apply(gateway, namespace=namespace, dry_run=True)
