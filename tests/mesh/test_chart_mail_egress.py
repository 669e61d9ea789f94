# SPDX-License-Identifier: Apache-2.0
"""The platform chart, rendered: what it opens and what it does not, what it refuses, and what it tells.

What its policy does to live connections is test_egress_*'s.
"""

import ipaddress
import itertools
import json
import pathlib

import botocore.session
import pytest
from botocore.config import Config
from support.charts import HELM_VERSIONS, Chart, Rendered, check_snapshot, helm_path, normalized

CHART = Chart("mail-egress", "")
CI = sorted(CHART.ci)
SNAPSHOTS = pathlib.Path(__file__).parent / "snapshots" / "mail-egress"
CLUSTER_WIDE = {"ClusterSPIFFEID", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding",
                "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}

# What a proxy of Istio adds to a request, and what it would pass on of tracing: a route has to remove all of it.
TELLING_HEADERS = {
    "x-forwarded-client-cert", "x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "x-request-id",
    "x-envoy-attempt-count", "x-forwarded-for", "x-envoy-external-address", "x-forwarded-proto",
    "x-envoy-decorator-operation", "x-envoy-expected-rq-timeout-ms", "x-envoy-internal",
    "traceparent", "tracestate", "baggage", "b3",
    "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
}

# Where clouds keep credentials, and what a cluster keeps to itself.
NEVER_REACHED = [
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fe80::1", "100.100.100.200",
    "168.63.129.16", "192.0.0.192", "fd20:ce::254", "10.0.0.1", "10.96.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1",
    "127.0.0.1", "::1", "224.0.0.1", "255.255.255.255",
]


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart("mail-egress", helm_path("4"))


@pytest.fixture(params=CI)
def ci(request, chart) -> Rendered:
    """Each values file of ci/, rendered."""
    return chart.feature(request.param)


def servers(rendered) -> list[tuple[str, int, str]]:
    """(host, port, protocol) of each server of the gateway."""
    return [(host.removeprefix("./"), server["port"]["number"], server["port"]["protocol"])
            for server in rendered.one("Gateway")["spec"]["servers"] for host in server["hosts"]]


def by_host(rendered, kind: str) -> dict[str, dict]:
    key = {"DestinationRule": lambda spec: [spec["host"]]}.get(kind, lambda spec: spec["hosts"])
    return {host: entry["spec"] for entry in rendered.of(kind) for host in key(entry["spec"])}


def routes(rendered) -> list[tuple[str, int, str, int]]:
    """(host, the gateway's port, destination host, destination port) of each route."""
    found = []
    for host, spec in by_host(rendered, "VirtualService").items():
        for route in spec.get("http", []) + spec.get("tcp", []):
            for match in route["match"]:
                for target in route["route"]:
                    found.append((host, match["port"], target["destination"]["host"],
                                  target["destination"]["port"]["number"]))
    return found


# --- what is opened

@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("name", CI)
def test_snapshot_of_each_feature(name, version):
    chart = Chart("mail-egress", helm_path(version))
    check_snapshot(SNAPSHOTS / f"{name}.yaml", normalized(chart.render(chart.ci[name]).text))


@pytest.mark.parametrize("endpoints", [{}, {"fips": True}, {"dualStack": True}, {"fips": True, "dualStack": True}],
                         ids=["usual", "fips", "dual", "fips and dual"])
def test_the_hosts_are_the_ones_that_the_aws_sdk_calls(chart, endpoints):
    regions = ["eu-central-1", "us-east-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1", "ap-southeast-7"]
    rendered = chart.render(chart.ci["default"], {"regions": regions, "endpoints": endpoints,
                                                  "rolesAnywhere": {"enabled": True}})
    called = {sdk_host(service, region, fips, dual)
              for service, region in itertools.product(["sesv2", "sts", "rolesanywhere"], regions)
              for fips in {False, endpoints.get("fips", False)} for dual in {False, endpoints.get("dualStack", False)}}
    opened = {host for host, _, _ in servers(rendered)}
    # In GovCloud the usual STS is FIPS itself; the chart opens the name that it does not need as well.
    assert called <= opened and opened - called <= {"sts-fips.us-gov-west-1.amazonaws.com"}


def sdk_host(service: str, region: str, fips: bool, dual: bool) -> str:
    client = botocore.session.get_session().create_client(
        service, region_name=region, aws_access_key_id="none", aws_secret_access_key="none",
        config=Config(use_fips_endpoint=fips, use_dualstack_endpoint=dual))
    return client.meta.endpoint_url.removeprefix("https://")


def test_each_host_and_port_has_a_server_of_its_own(ci):
    gateway = ci.one("Gateway")["spec"]["servers"]
    assert all(len(server["hosts"]) == 1 for server in gateway)
    assert all(server["tls"]["mode"] == "ISTIO_MUTUAL" for server in gateway)
    places = [(host, port) for host, port, _ in servers(ci)]
    assert len(set(places)) == len(places)
    names = [server["port"]["name"] for server in gateway]
    assert len(set(names)) == len(names)
    assert not any("*" in host for host, _ in places)


def test_each_server_has_one_route_and_the_route_a_destination(ci):
    assert {(host, port) for host, port, _, _ in routes(ci)} == {(host, port) for host, port, _ in servers(ci)}
    entries = by_host(ci, "ServiceEntry")
    for host, _, target, port in routes(ci):
        assert target == host
        assert port in [one["number"] for one in entries[host]["ports"]]


def test_a_byte_stream_is_routed_by_tcp_and_a_call_by_http(ci):
    """tls routes at a server that ends TLS itself would take the whole listener away."""
    specs = by_host(ci, "VirtualService")
    assert not any("tls" in spec for spec in specs.values())
    for host, port, protocol in servers(ci):
        kind = "http" if protocol == "HTTPS" else "tcp"
        assert port in [match["port"] for route in specs[host][kind] for match in route["match"]]


def test_tls_that_the_gateway_makes_names_and_checks_its_host(ci):
    """One of the three alone, or two, and a certificate for any name would do."""
    rules = by_host(ci, "DestinationRule")
    roots = "/etc/aws-roots/roots.pem" if "vpce" in ci.text else "system"
    opaque = {one["number"] for spec in by_host(ci, "ServiceEntry").values() for one in spec["ports"]
              if "targetPort" in one}
    assert set(rules) == {host for host, _, _ in servers(ci)}
    for host, _, _, port in routes(ci):
        [settings] = [one for one in rules[host]["trafficPolicy"]["portLevelSettings"] if one["port"]["number"] == port]
        if port in opaque:
            assert settings["tls"] == {"mode": "DISABLE"}
        else:
            assert settings["tls"] == {"mode": "SIMPLE", "sni": host, "subjectAltNames": [host],
                                       "caCertificates": roots}


def test_credential_hosts_are_reached_end_to_end_alone(ci):
    port = {one["name"]: one["port"] for one in ci.one("Service")["spec"]["ports"]}
    credentials = {(host, number) for host, number, _ in servers(ci) if ".sts." in f".{host}" or
                   host.startswith(("sts", "rolesanywhere"))}
    assert credentials and {number for _, number in credentials} == {port["tls-end-to-end"]}


def test_a_call_leaves_without_a_word_about_the_pod(ci):
    for host, spec in by_host(ci, "VirtualService").items():
        for route in spec.get("http", []):
            removed = route["headers"]["request"]["remove"]
            assert set(removed) >= TELLING_HEADERS, host
            assert len(set(removed)) == len(removed)
            assert set(route["headers"]) == {"request"} and set(route["headers"]["request"]) == {"remove"}


def test_the_gateway_never_sends_a_call_again(ci):
    found = [route for spec in by_host(ci, "VirtualService").values() for route in spec.get("http", [])]
    assert found and all(route["retries"] == {"attempts": 0} and route["timeout"] == "30s" for route in found)


def test_only_the_named_calls_have_a_route(ci):
    calls = {(rule["method"]["exact"], rule["uri"]["exact"])
             for spec in by_host(ci, "VirtualService").values() for route in spec.get("http", [])
             for rule in route["match"]}
    usual = {("POST", "/v2/email/outbound-emails")}
    assert calls == usual | ({("GET", "/v2/email/account")} if "/v2/email/account" in ci.text else set())


def test_a_silent_stream_ends_and_a_hanging_dial_too(ci):
    """Istio reads the idle timeout of byte streams from the rule's top, the other from the port's settings."""
    streams = {host for host, _, protocol in servers(ci) if protocol == "TLS"}
    for host, rule in by_host(ci, "DestinationRule").items():
        policy = rule["trafficPolicy"]
        assert policy.get("connectionPool") == ({"tcp": {"idleTimeout": "10m"}} if host in streams else None)
        assert {one["connectionPool"]["tcp"]["connectTimeout"] for one in policy["portLevelSettings"]} == {"5s"}


def test_names_resolve_to_one_address_and_stay_in_the_namespace(ci):
    for kind in ("ServiceEntry", "VirtualService", "DestinationRule"):
        assert all(spec["exportTo"] == ["."] for spec in by_host(ci, kind).values())
    assert {spec["resolution"] for spec in by_host(ci, "ServiceEntry").values()} == {"DNS_ROUND_ROBIN"}


def test_the_policy_names_identity_and_place_exactly(ci):
    """A rule for each server, and none besides; each with the SNI, on the API port also with host, method and path."""
    placed = []
    for policy in ci.of("AuthorizationPolicy"):
        assert policy["spec"]["action"] == "ALLOW"
        for rule in policy["spec"]["rules"]:
            [source] = rule["from"]
            assert set(source["source"]) == {"principals"}
            assert source["source"]["principals"]
            assert not [one for one in source["source"]["principals"] if "*" in one or "://" in one]
            [sni] = rule["when"]
            assert sni["key"] == "connection.sni"
            [host] = sni["values"]
            [port] = {port for one in rule["to"] for port in one["operation"]["ports"]}
            placed.append((host, int(port), "HTTPS" if "hosts" in rule["to"][0]["operation"] else "TLS"))
            for one in rule["to"]:
                if "hosts" in one["operation"]:
                    assert one["operation"]["hosts"] == [host]
                    assert one["operation"]["methods"] and one["operation"]["paths"]
    assert sorted(placed) == sorted(servers(ci))


def test_a_client_is_its_sidecars_own_identity(chart):
    [principals] = {tuple(rule["from"][0]["source"]["principals"])
                    for policy in chart.feature("full").of("AuthorizationPolicy") for rule in policy["spec"]["rules"]}
    assert principals == ("example.org/ns/shop/sa/checkout/svidmail", "example.org/ns/billing/sa/invoices/svidmail",
                          "example.org/ns/ops/sa/alerts/svidmail")


def test_what_spire_is_told_to_issue_is_what_the_policy_names(chart):
    def issued(name: str, namespace: str, account: str) -> str:
        return (chart.feature("full").one("ClusterSPIFFEID", name)["spec"]["spiffeIDTemplate"]
                .replace("{{ .TrustDomain }}", "example.org").replace("{{ .PodMeta.Namespace }}", namespace)
                .replace("{{ .PodSpec.ServiceAccountName }}", account).removeprefix("spiffe://"))

    sidecar = chart.feature("full").one("ClusterSPIFFEID", "mail-egress-sidecar-checkout")["spec"]
    assert issued("mail-egress-sidecar-checkout", "shop", "checkout") == "example.org/ns/shop/sa/checkout/svidmail"
    assert sidecar["workloadSelectorTemplates"] == ["k8s:container-name:svidmail", "k8s:sa:checkout"]
    assert sidecar["hint"] == "svidmail"
    assert issued("mail-egress-pod", "shop", "checkout") == "example.org/ns/shop/sa/checkout"
    assert issued("mail-egress-gateway", "mail-egress", "mail-egress") == "example.org/ns/mail-egress/sa/mail-egress"


def test_of_a_clients_namespace_its_service_account_alone_is_given_the_sidecars_identity(chart):
    long = "a" * 250
    clients = [("shop", "checkout"), ("shop", "basket"), ("billing", "checkout"), ("ops", long)]
    rendered = chart.render(chart.ci["default"], {"clients": [
        {"namespace": namespace, "serviceAccount": account} for namespace, account in clients]})
    given = []
    for entry in rendered.of("ClusterSPIFFEID"):
        assert len(entry["metadata"]["name"]) <= 253
        selectors = entry["spec"].get("workloadSelectorTemplates", [])
        given += [(namespace, account.removeprefix("k8s:sa:")) for account in selectors[1:]
                  for namespace in entry["spec"]["namespaceSelector"]["matchExpressions"][0]["values"]]
    assert sorted(given) == sorted(clients)


def test_only_pods_that_carry_a_sidecar_are_given_identities(ci):
    """A pod of theirs that has a ClusterSPIFFEID of its own would hold a second SVID, and might show that one."""
    for entry in ci.of("ClusterSPIFFEID"):
        if not entry["metadata"]["name"].endswith("-gateway"):
            assert entry["spec"]["podSelector"]["matchLabels"]["svidmail.io/inject"] == "true"


def test_a_wider_choice_of_pods_can_be_made(chart):
    """By null: an empty mapping would leave the default as it is."""
    rendered = chart.render(chart.ci["default"], {"spire": {"clusterSPIFFEIDs": {"podSelector": None}}})
    assert "podSelector" not in rendered.one("ClusterSPIFFEID", "mail-egress-sidecar-checkout")["spec"]


def test_strangers_fail_the_handshake_where_the_server_would_speak_first(ci):
    """The policy acts at a client's first byte; SES's SMTP greeting would come before."""
    [principals] = {tuple(rule["from"][0]["source"]["principals"])
                    for policy in ci.of("AuthorizationPolicy") for rule in policy["spec"]["rules"]}
    smtp = {one["port"] for one in ci.one("Service")["spec"]["ports"] if one["name"] == "tls-smtp"}
    for server in ci.one("Gateway")["spec"]["servers"]:
        named = server["tls"].get("subjectAltNames")
        assert named == ([f"spiffe://{one}" for one in principals] if server["port"]["number"] in smtp else None)


def test_late_connect_covers_every_byte_stream(ci):
    streams = {port for _, port, protocol in servers(ci) if protocol == "TLS"}
    covered = {patch["match"]["listener"]["portNumber"]
               for entry in ci.of("EnvoyFilter") for patch in entry["spec"]["configPatches"]}
    assert covered == (streams if ci.has("EnvoyFilter") else set())


# --- the gateway's pod

def test_every_object_means_the_gateways_pods_alone(ci):
    pod = ci.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    labels = ci.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert labels.items() <= pod.items()
    for kind, path in {"Service": ["selector"], "Gateway": ["selector"],
                       "AuthorizationPolicy": ["selector", "matchLabels"],
                       "Telemetry": ["selector", "matchLabels"], "EnvoyFilter": ["workloadSelector", "labels"],
                       "NetworkPolicy": ["podSelector", "matchLabels"],
                       "PodDisruptionBudget": ["selector", "matchLabels"]}.items():
        for entry in ci.of(kind):
            selector = entry["spec"]
            for key in path:
                selector = selector[key]
            assert selector == labels, kind
    assert {entry["metadata"]["namespace"] for entry in ci.objects
            if entry["kind"] not in CLUSTER_WIDE} == {"mail-egress"}


def test_releases_of_one_name_in_two_namespaces_mean_different_pods(chart):
    """Istio takes a Gateway's selector for the pods of all namespaces, and Envoy refuses what two have asked for."""
    other = Chart("mail-egress", helm_path("4"), namespace="elsewhere").render(chart.ci["default"])
    pod = other.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert not chart.feature("default").one("Gateway")["spec"]["selector"].items() <= pod.items()
    assert other.one("Gateway")["spec"]["selector"].items() <= pod.items()


@pytest.mark.parametrize(("namespace", "name"), [("on", "on"), ("123", "null")])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(namespace, name):
    rendered = Chart("mail-egress", helm_path("4"), namespace=namespace).render(
        CHART.ci["full"], {"fullnameOverride": name})
    pod = rendered.one("Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"]["svidmail.io/gateway-namespace"] == namespace
    assert pod["metadata"]["labels"]["istio"] == pod["spec"]["serviceAccountName"] == name
    for entry in rendered.objects:
        assert isinstance(entry["metadata"]["name"], str)
        assert entry["metadata"].get("namespace", namespace) == namespace
    assert f'kubernetes.io/metadata.name: "{namespace}"' in rendered.text


def test_the_service_opens_the_ports_in_use_as_tls(ci):
    ports = ci.one("Service")["spec"]["ports"]
    assert {one["port"] for one in ports} == {port for _, port, _ in servers(ci)}
    assert all(one["appProtocol"] == "tls" and one["targetPort"] == one["port"] for one in ports)


def test_the_pod_is_injected_ready_at_once_and_never_pulled_for_its_placeholder(ci):
    template = ci.one("Deployment")["spec"]["template"]
    [proxy] = template["spec"]["containers"]
    assert proxy["name"] == "istio-proxy" and proxy["image"] == "auto" and proxy["imagePullPolicy"] == "IfNotPresent"
    assert proxy["readinessProbe"]["periodSeconds"] == 1
    assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert "spire" in template["metadata"]["annotations"]["inject.istio.io/templates"]
    config = json.loads(template["metadata"]["annotations"]["proxy.istio.io/config"])
    drain = int(config["terminationDrainDuration"].removesuffix("s"))
    assert drain < template["spec"]["terminationGracePeriodSeconds"]


def test_the_pod_is_what_a_restricted_namespace_takes(ci, kube_api):
    namespace = kube_api.make_namespace("chart-restricted", **{"pod-security.kubernetes.io/enforce": "restricted"})
    template = ci.one("Deployment")["spec"]["template"]
    spec = template["spec"] | {"serviceAccountName": "default"}
    spec.pop("priorityClassName", None)
    kube_api.create({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | {"name": "gateway"},
                     "spec": spec}, dry_run=True, namespace=namespace)


def test_an_autoscaler_and_a_number_of_replicas_do_not_quarrel(ci):
    assert ("replicas" in ci.one("Deployment")["spec"]) != ci.has("HorizontalPodAutoscaler")


def test_an_upgrade_of_the_chart_alone_rolls_no_pod(ci):
    labels = ci.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels)


# --- the network

def blocks(rendered) -> list[tuple]:
    """(block, its exceptions) of each ipBlock the gateway may send to."""
    return [(ipaddress.ip_network(peer["ipBlock"]["cidr"]),
             [ipaddress.ip_network(one) for one in peer["ipBlock"].get("except", [])])
            for policy in rendered.of("NetworkPolicy") for rule in policy["spec"]["egress"] for peer in rule["to"]
            if "ipBlock" in peer]


def is_open(rendered, address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return any(ip in block and not any(ip in one for one in holes)
               for block, holes in blocks(rendered) if block.version == ip.version)


def test_the_gateway_reaches_no_metadata_service_and_no_private_network(ci):
    if not ci.has("NetworkPolicy"):
        return
    assert not [address for address in NEVER_REACHED if is_open(ci, address)]
    assert is_open(ci, "10.20.0.7" if "vpce" in ci.text else "52.94.1.1")
    for block, holes in blocks(ci):
        assert all(one != block and one.subnet_of(block) for one in holes)      # else the apiserver refuses it


def test_every_rule_of_the_network_says_where_and_by_which_port(ci):
    for policy in ci.of("NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule["to"] and rule["ports"] for rule in policy["spec"]["egress"])
        assert all(rule["from"] and rule["ports"] for rule in policy["spec"]["ingress"])


def test_the_network_opens_the_ports_of_the_hosts(ci):
    wanted = {one.get("targetPort", one["number"])
              for spec in by_host(ci, "ServiceEntry").values() for one in spec["ports"]}
    for policy in ci.of("NetworkPolicy"):
        [ports] = [{one["port"] for one in rule["ports"]} for rule in policy["spec"]["egress"]
                   if all("ipBlock" in peer for peer in rule["to"])]
        assert ports == wanted


def test_of_the_nodes_dns_cache_dns_alone_is_open(chart):
    [policy] = chart.feature("private").of("NetworkPolicy")
    [rule] = [rule for rule in policy["spec"]["egress"]
              if {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]]
    assert {(one["port"], one["protocol"]) for one in rule["ports"]} == {(53, "UDP"), (53, "TCP")}


def test_dns_is_asked_by_the_ports_that_its_pods_listen_on(chart):
    """OpenShift's are openshift-dns, 5353: a NetworkPolicy means a pod's port, not its Service's."""
    labels = {"dns.operator.openshift.io/daemonset-dns": "default"}
    dns = {"namespace": "openshift-dns", "podLabels": labels, "ports": [5353]}
    for node_cache, ports in (("", [5353]), ("169.254.20.10", [53, 5353])):
        values = {"networkPolicy": {"dns": dns | {"nodeCache": node_cache}}}
        [policy] = chart.render(chart.ci["default"], values).of("NetworkPolicy")
        [rule] = [rule for rule in policy["spec"]["egress"] if "openshift-dns" in json.dumps(rule["to"])]
        assert rule["to"][0]["podSelector"]["matchLabels"] == labels
        assert sorted((one["port"], one["protocol"]) for one in rule["ports"]) == [
            (port, protocol) for port in ports for protocol in ("TCP", "UDP")]


def test_pods_of_applications_get_no_policy_of_the_network(ci):
    assert all(policy["metadata"]["namespace"] == "mail-egress" and policy["spec"]["podSelector"]
               for policy in ci.of("NetworkPolicy"))
