# SPDX-License-Identifier: Apache-2.0
"""What istiod makes of the platform chart, read in Envoy's own configuration: for what no traffic of these tests shows.

Istio's own filters are switched off here, so what they would add to a request is not seen on the wire; that it would be
taken away again is seen here.
"""

from collections.abc import Iterator

import pytest
from support.mesh_istio import MeshGateway
from support.world import SES_HOST, SMTP_HOST, STS_HOST

TCP_PROXY = "envoy.filters.network.tcp_proxy"


@pytest.fixture(scope="session")
def dump(gateway) -> dict:
    return gateway.config_dump()


def chains(dump: dict, port: int) -> dict[str, dict]:
    """The filter chains of the listener on this port, by the SNI that chooses them."""
    [listener] = [one["active_state"]["listener"] for one in dump["ListenersConfigDump"]["dynamic_listeners"]
                  if one["active_state"]["listener"]["address"]["socket_address"]["port_value"] == port]
    return {name: chain for chain in listener["filter_chains"] for name in chain["filter_chain_match"]["server_names"]}


def tcp_proxy(chain: dict) -> dict:
    [found] = [one["typed_config"] for one in chain["filters"] if one["name"] == TCP_PROXY]
    return found


def clusters(dump: dict) -> dict[str, dict]:
    return {one["cluster"]["name"]: one["cluster"] for one in dump["ClustersConfigDump"]["dynamic_active_clusters"]}


def calls(dump: dict) -> Iterator[dict]:
    """Each route to AWS by HTTP."""
    for config in dump["RoutesConfigDump"]["dynamic_route_configs"]:
        for host in config["route_config"]["virtual_hosts"]:
            yield from (route for route in host["routes"] if "route" in route)


def test_each_port_serves_the_hosts_of_the_chart(dump):
    assert set(chains(dump, MeshGateway.api_port)) == {SES_HOST}
    assert set(chains(dump, MeshGateway.end_to_end_port)) == {SES_HOST, STS_HOST}
    assert set(chains(dump, MeshGateway.smtp_port)) == {SMTP_HOST}


def test_every_header_that_istio_would_add_is_removed(dump):
    [route] = calls(dump)
    assert set(route["request_headers_to_remove"]) >= {
        "x-forwarded-client-cert", "x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "x-request-id",
        "x-envoy-attempt-count", "x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address",
        "x-envoy-decorator-operation", "x-envoy-expected-rq-timeout-ms", "x-envoy-internal", "traceparent", "b3"}


def test_no_call_is_sent_again(dump):
    [route] = calls(dump)
    assert route["route"].get("retry_policy", {}).get("num_retries", 0) == 0
    assert route["route"]["timeout"] == "30s"


def test_aws_is_dialled_late_and_a_silent_stream_ends(dump):
    modes = {MeshGateway.end_to_end_port: "ON_DOWNSTREAM_DATA", MeshGateway.smtp_port: "ON_DOWNSTREAM_TLS_HANDSHAKE"}
    for port, mode in modes.items():
        for chain in chains(dump, port).values():
            assert tcp_proxy(chain)["upstream_connect_mode"] == mode
            assert tcp_proxy(chain)["idle_timeout"] == "600s"


@pytest.mark.parametrize(("port", "host"), [(443, SES_HOST), (465, SMTP_HOST)])
def test_tls_to_aws_sends_the_name_checks_it_and_has_roots(dump, port, host):
    cluster = clusters(dump)[f"outbound|{port}||{host}"]
    tls = cluster["transport_socket"]["typed_config"]
    assert tls["sni"] == host
    judge = tls["common_tls_context"]["combined_validation_context"]
    assert judge["default_validation_context"]["match_subject_alt_names"] == [{"exact": host}]
    assert judge["validation_context_sds_secret_config"]["name"] == "file-root:system"
    assert (cluster["type"], cluster["connect_timeout"]) == ("LOGICAL_DNS", "5s")


@pytest.mark.parametrize("host", [SES_HOST, STS_HOST])
def test_what_runs_through_unread_is_given_no_tls(dump, host):
    cluster = clusters(dump)[f"outbound|{MeshGateway.end_to_end_port}||{host}"]
    assert "tls" not in cluster.get("transport_socket", {}).get("name", "")
    assert not cluster.get("transport_socket_matches")
    [locality] = cluster["load_assignment"]["endpoints"]
    [endpoint] = locality["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": host, "port_value": 443}
