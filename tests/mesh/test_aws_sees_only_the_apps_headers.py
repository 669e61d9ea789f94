# SPDX-License-Identifier: Apache-2.0
"""What the gateway knows of the pod, its identity and the trace stays in the mesh.

Envoy here is not Istio's build: the filters that would add workload metadata (x-envoy-peer-metadata and its like) are
switched off in istiod.  That those headers would be removed is read from the gateway's configuration, not seen happen.
"""

from support.mesh_clients import GatewayHttp
from support.mesh_mail import send_email
from support.world import SES_HOST

# What a gateway can add, and a client or its tracing library may send along.
OURS_ALONE = {
    "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-envoy-attempt-count",
    "x-envoy-decorator-operation", "x-envoy-expected-rq-timeout-ms", "x-envoy-external-address", "x-envoy-internal",
    "x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "traceparent", "tracestate", "b3", "x-b3-traceid",
    "x-b3-spanid", "x-b3-sampled", "x-b3-parentspanid", "x-b3-flags",
}


def ask(gateway, aws, files, headers: dict[str, str]) -> tuple[set[str], set[str]]:
    """(names that were sent, names that SES saw)."""
    body, signed = send_email(aws)
    connection = GatewayHttp(gateway.api_port, SES_HOST, files, files["bundle"])
    connection.request("POST", "/v2/email/outbound-emails", body=body, headers=signed | headers)
    assert connection.getresponse().status == 200
    [request] = aws.wait_for_requests(1)
    # http.client adds these two by itself.
    sent = {name.lower() for name in signed | headers} | {"accept-encoding", "content-length"}
    return sent, set(request.header_names())


def test_what_the_app_sends_arrives_and_nothing_else(gateway, aws, client_svid):
    sent, seen = ask(gateway, aws, client_svid, {"X-App": "1", "User-Agent": "app"})
    assert seen == sent


def test_a_trace_and_a_forwarders_headers_end_at_the_gateway(gateway, aws, client_svid):
    context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b", "b3": "1",
               "x-b3-traceid": "463ac35c9f6413ad", "x-request-id": "7", "x-forwarded-for": "203.0.113.9",
               "x-forwarded-client-cert": "By=spiffe://example.org/x", "x-envoy-peer-metadata": "Cg"}
    sent, seen = ask(gateway, aws, client_svid, context)
    assert seen == sent - context.keys()


def test_the_gateway_is_set_up_to_add_headers_and_told_to_remove_them(gateway):
    """The first half is why the second matters; where a filter is off, the list is all there is to see."""
    dump = gateway.config_dump()
    forwarding = {manager.get("forward_client_cert_details") for manager in find(dump["ListenersConfigDump"],
                                                                                "HttpConnectionManager")}
    assert "SANITIZE_SET" in forwarding
    routes = [route for config in dump["RoutesConfigDump"]["dynamic_route_configs"]
              for host in config["route_config"].get("virtual_hosts", []) if host["name"].startswith(SES_HOST)
              for route in host["routes"]]
    assert routes
    for route in routes:
        assert set(route["request_headers_to_remove"]) >= OURS_ALONE


def find(value, kind: str):
    """Everything of this type in a dump."""
    if isinstance(value, dict):
        if str(value.get("@type", "")).endswith(f".{kind}"):
            yield value
        for inner in value.values():
            yield from find(inner, kind)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, kind)
