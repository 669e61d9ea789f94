# SPDX-License-Identifier: Apache-2.0
"""What the platform chart refuses: by its schema, with key and cure, for what the cluster lacks; what it asks."""

import json

import pytest
import yaml
from support.charts import HELM_VERSIONS, Chart, Refused, helm_path

CHART = Chart("mail-egress", "")


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart("mail-egress", helm_path("4"))


def test_the_schema_knows_every_key_and_no_other():
    """additionalProperties: false at every object that names its keys, and it names those of values.yaml."""
    schema = json.loads((CHART.directory / "values.schema.json").read_text())
    values = yaml.safe_load((CHART.directory / "values.yaml").read_text())

    def check(schema: dict, value, key: str) -> None:
        if "properties" not in schema:
            return
        assert schema["additionalProperties"] is False, key
        assert isinstance(value, dict)
        for name, one in value.items():
            assert name in schema["properties"], f"{key}.{name}"
            check(schema["properties"][name], one, f"{key}.{name}")
        unused = set(schema["properties"]) - set(value)
        assert unused <= {"global", "svidmail-lib", "matchLabels", "matchExpressions"}, f"{key}: {unused}"

    check(schema, values, "")


@pytest.mark.parametrize(("values", "told"), [
    ({"trustdomain": "example.org"}, ["trustdomain"]),
    ({"gateway": {"port": {"api": 1}}}, ["/gateway", "port"]),
    ({"networkPolicy": {"aws": {"cidr": []}}}, ["/networkPolicy/aws", "cidr"]),
    ({"regions": "eu-central-1"}, ["/regions", "array"]),
    ({"clients": [{"namespace": "shop"}]}, ["/clients/0", "serviceAccount"]),
    ({"clients": ["shop/checkout"]}, ["/clients/0", "object"]),
    ({"extraHosts": [{"host": "a.example.com", "via": "https"}]}, ["/extraHosts/0/via", "end_to_end"]),
    ({"gateway": {"ports": {"api": "9443"}}}, ["/gateway/ports/api", "integer"]),
    ({"smtp": True}, ["/smtp", "object"]),
])
def test_a_value_of_an_unknown_key_or_type_is_refused(chart, values, told):
    text = chart.refusal(chart.ci["default"], values)
    assert all(word in text for word in told), text


REFUSED = [
    ({"trustDomain": ""}, "trustDomain is empty", "e.g. example.org"),
    ({"trustDomain": "spiffe://example.org"}, "trustDomain", "without spiffe://"),
    ({"trustDomain": "Example.org"}, 'trustDomain "Example.org"', "lower-case"),
    ({"regions": []}, "regions is empty", "e.g. regions: [eu-central-1]"),
    ({"regions": ["Frankfurt"]}, 'regions[0] "Frankfurt"', "like eu-central-1"),
    ({"regions": ["eu-central-1a"]}, 'regions[0] "eu-central-1a"', "no availability zone"),
    ({"regions": ["eu-central-1", "us-east-1", "eu-central-1"]}, 'regions[2] "eu-central-1"', "remove one"),
    ({"regions": ["us-iso-east-1"]}, "regions[0]", "extraHosts"),
    ({"clients": []}, "clients is empty", "e.g. clients: [{namespace: shop"),
    ({"clients": [{"namespace": "*", "serviceAccount": "checkout"}]}, "clients[0]", "list them one by one"),
    ({"clients": [{"namespace": "shop", "serviceAccount": "*"}]}, "clients[0]", "list them one by one"),
    ({"clients": [{"namespace": "Shop", "serviceAccount": "a"}]}, 'clients[0].namespace "Shop"', "lower-case"),
    ({"clients": [{"namespace": "shop", "serviceAccount": ""}]}, "clients[0].serviceAccount", "lower-case"),
    ({"clients": [{"namespace": "shop", "serviceAccount": "a"}] * 2}, "clients[1] shop/a", "remove one"),
    ({"extraPrincipals": ["*"]}, 'extraPrincipals[0] "*"', "list them one by one"),
    ({"extraPrincipals": ["example.org/ns/shop/*"]}, "extraPrincipals[0]", "list them one by one"),
    ({"extraPrincipals": ["*/svidmail"]}, "extraPrincipals[0]", "list them one by one"),
    ({"extraPrincipals": ["spiffe://example.org/ns/shop/sa/a"]}, "extraPrincipals[0]", "remove spiffe://"),
    ({"extraPrincipals": ["example.org"]}, "extraPrincipals[0]", "like example.org/ns/shop"),
    ({"extraPrincipals": ["other.org/ns/shop/sa/a"]}, "extraPrincipals[0]", "federatedTrustDomains"),
    ({"extraPrincipals": ["example.org/ns/shop/sa/checkout/svidmail"] * 2}, "extraPrincipals[1]", "remove one"),
    ({"gateway": {"ports": {"api": 9465}}}, "gateway.ports.smtp 9465 is gateway.ports.api", "a port of its own"),
    ({"gateway": {"ports": {"api": 443}}}, "gateway.ports.api 443", "from 1024"),
    ({"gateway": {"ports": {"smtp": 15021}}}, "gateway.ports.smtp 15021", "take another"),
    ({"api": {"calls": []}}, "api.calls is empty", "/v2/email/outbound-emails"),
    ({"api": {"calls": [{"method": "POST", "path": "/v2/*"}]}}, 'api.calls[0].path "/v2/*"', "no wildcard"),
    ({"api": {"calls": [{"method": "POST", "path": "/v2/{*}"}]}}, "api.calls[0].path", "no pattern"),
    ({"upstream": {"timeout": "30"}}, 'upstream.timeout "30"', "e.g. 30s"),
    ({"upstream": {"connectTimeout": "0s"}}, "upstream.connectTimeout", "e.g. 30s"),
    ({"upstream": {"caCertificates": "roots.pem"}}, "upstream.caCertificates", "absolute path"),
    ({"extraHosts": [{"host": "*.example.com", "via": "api"}]}, "extraHosts[0].host", "no wildcard"),
    ({"extraHosts": [{"host": "192.0.2.1", "via": "api"}]}, "extraHosts[0].host", "no address"),
    ({"extraHosts": [{"host": "email.eu-central-1.amazonaws.com", "via": "api"}]}, "extraHosts[0]", "remove it"),
    ({"extraHosts": [{"host": "a.example.com", "via": "smtp"}] * 2}, "extraHosts[1]", "remove one"),
    ({"extraHosts": [{"host": "sts.us-east-1.amazonaws.com", "via": "api"}]}, "extraHosts[0].via", "use end_to_end"),
    ({"extraHosts": [{"host": "vpce-1.sts.us-east-1.vpce.amazonaws.com", "via": "api"}]}, "extraHosts[0].via",
     "use end_to_end"),
    ({"extraHosts": [{"host": "sts.us-east-1.amazonaws.com", "via": "smtp"}]}, "extraHosts[0].via", "use end_to_end"),
    ({"extraHosts": [{"host": "mail.shop.svc.cluster.local", "via": "smtp"}]}, "extraHosts[0].via", "use end_to_end"),
    ({"extraHosts": [{"host": "relay.shop.svc", "via": "api"}]}, "extraHosts[0].via", "use end_to_end"),
    ({"clusterDomain": "k8s.example", "extraHosts": [{"host": "relay.shop.svc.k8s.example", "via": "api"}]},
     "extraHosts[0].via", "use end_to_end"),
    ({"extraHosts": [{"host": "a.example.com", "via": "api", "port": 9444}]}, "extraHosts[0].port 9444",
     "choose another"),
    ({"extraHosts": [{"host": "a.example.com", "via": "api"}, {"host": "a.example.com", "via": "smtp", "port": 443}]},
     "extraHosts[1]", "one way"),
    ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "gateway.autoscaling.minReplicas 9", "correct"),
    ({"gateway": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}},
     "gateway.resources.requests.cpu is missing", "set it"),
    ({"gateway": {"autoscaling": {"enabled": True}, "resources": None}}, "gateway.resources.requests.cpu is missing",
     "set it"),
    ({"federatedTrustDomains": ["spiffe://a.org"]}, 'federatedTrustDomains[0] "spiffe://a.org"', "other.example"),
    ({"federatedTrustDomains": ["Other.org"]}, "federatedTrustDomains[0]", "lower-case"),
    ({"fullnameOverride": "Mail_Egress"}, 'fullnameOverride "Mail_Egress"', "lower-case"),
    ({"fullnameOverride": "m" * 64}, "fullnameOverride", "63"),
    ({"fullnameOverride": "12"}, 'fullnameOverride "12"', "begin with a letter"),
    ({"gateway": {"podLabels": {"app.kubernetes.io/name": "other"}}}, "gateway.podLabels", "remove it"),
    ({"gateway": {"templates": ""}}, "gateway.templates", "e.g. gateway,spire-gateway"),
    ({"gateway": {"podLabels": {"istio": "other"}}}, "gateway.podLabels", "remove it"),
    ({"gateway": {"podAnnotations": {"proxy.istio.io/config": "{}"}}}, "gateway.podAnnotations", "gateway.concurrency"),
    ({"networkPolicy": {"aws": {"internet": False}}}, "networkPolicy.aws.internet is false", "interface endpoints"),
    ({"networkPolicy": {"aws": {"cidrs": ["0.0.0.0/0"]}}}, "networkPolicy.aws.cidrs[0] 0.0.0.0/0", "internet opens"),
    ({"networkPolicy": {"aws": {"cidrs": ["::/0"]}}}, "networkPolicy.aws.cidrs[0] ::/0", "internet opens"),
    ({"networkPolicy": {"aws": {"cidrs": ["169.254.0.0/16"]}}}, "networkPolicy.aws.cidrs[0]", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["169.254.169.254/32"]}}}, "networkPolicy.aws.cidrs[0]", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["169.0.0.0/8"]}}}, "networkPolicy.aws.cidrs[0]", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["fe80::/10"]}}}, "networkPolicy.aws.cidrs[0]", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["fd00:ec2::/64"]}}}, "networkPolicy.aws.cidrs[0]", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["fc00::/7"]}}}, "networkPolicy.aws.cidrs[0]", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["10.0.0.1"]}}}, "networkPolicy.aws.cidrs[0]", "like 10.1.0.0/16"),
    ({"networkPolicy": {"aws": {"cidrs": ["10.0.0.0/33"]}}}, "networkPolicy.aws.cidrs[0]", "like 10.1.0.0/16"),
    ({"networkPolicy": {"aws": {"cidrs": ["100.0.0.0/8"]}}}, "100.100.100.200", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["100.100.96.0/19"]}}}, "100.100.100.200", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["168.63.0.0/16"]}}}, "168.63.129.16", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["192.0.0.0/16"]}}}, "192.0.0.192", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["169.254.20.0/24"]}}}, "169.254.0.0/16", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["fd20:ce::/64"]}}}, "fd20:ce::254", "name the blocks"),
    ({"networkPolicy": {"aws": {"cidrs": ["FD20:00ce:0:0:0:0:0:254/128"]}}}, "fd20:ce::254", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["fd00:ec2::254/128"]}}}, "fd00:ec2::/32", "leave it out"),
    ({"networkPolicy": {"aws": {"cidrs": ["febf:1::/48"]}}}, "fe80::/10", "leave it out"),
    ({"networkPolicy": {"dns": {"nodeCache": "169.254.169.254"}}}, "networkPolicy.dns.nodeCache 169.254.169.254",
     "often 169.254.20.10"),
    ({"networkPolicy": {"dns": {"nodeCache": "169.254.20.0/24"}}}, "networkPolicy.dns.nodeCache", "address alone"),
    ({"networkPolicy": {"extraEgress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}},
     "networkPolicy.extraEgress[0].to[0].ipBlock.cidr", "name the blocks"),
    ({"networkPolicy": {"extraEgress": [{"ports": [{"port": 80}]}]}}, "networkPolicy.extraEgress[0]", "say where to"),
    ({"clients": [], "extraPrincipals": ["other.org/a/b"], "federatedTrustDomains": ["other.org"]},
     "networkPolicy.clientNamespaces", "name the namespaces"),
    ({"extraPrincipals": ["example.org/ns/ops/sa/a/svidmail"]}, "extraPrincipals[0]",
     "add ops to networkPolicy.clientNamespaces"),
    ({"clients": [], "extraPrincipals": ["example.org/ns/ops/sa/a"]}, "extraPrincipals[0]",
     "add ops to networkPolicy.clientNamespaces"),
    ({"istio": {"version": "latest"}}, 'istio.version "latest"', "like 1.31.0"),
    ({"istio": {"version": "1.26.8"}}, "Istio 1.26.8 is too old", "upgrade Istio"),
    ({"istio": {"version": "1.28.3"}, "telemetry": {"disableContextPropagation": False}},
     "Istio 1.28.3 has no late connect", "lateConnect.enabled to false"),
    ({"istio": {"version": "1.30.0"}}, "Istio 1.30.0 does not know", "disableContextPropagation to false"),
]


@pytest.mark.parametrize(("values", "fault", "cure"), REFUSED, ids=[fault for _, fault, _ in REFUSED])
def test_a_value_that_cannot_work_is_named_with_its_cure(chart, values, fault, cure):
    text = chart.refusal(chart.ci["default"], values)
    [line] = [line for line in text.splitlines() if line.startswith("- ")]
    assert fault in line and cure in line, text


@pytest.mark.parametrize("values", [
    {"extraPrincipals": ["example.org/ns/shop/sa/other/svidmail"]},
    {"extraPrincipals": ["example.org/ns/ops/sa/a/svidmail"], "networkPolicy": {"clientNamespaces": ["ops"]}},
    {"extraPrincipals": ["example.org/ns/ops/sa/a/svidmail"], "networkPolicy": {"enabled": False}},
    {"extraPrincipals": ["example.org/batch/mailer"]},
    {"extraPrincipals": ["other.org/ns/ops/sa/a/svidmail"], "federatedTrustDomains": ["other.org"]},
], ids=["of a client's", "named", "no policy", "of no namespace", "of elsewhere"])
def test_a_principal_that_the_network_lets_through_is_taken(chart, values):
    chart.render(chart.ci["default"], values)


def test_a_public_host_that_only_looks_like_a_service_is_taken(chart):
    chart.render(chart.ci["default"], {"extraHosts": [{"host": "relay.svc.example.com", "via": "smtp"}]})


def test_a_cpu_limit_alone_is_enough_for_autoscaling(chart):
    """The apiserver makes the request of it."""
    chart.render(chart.ci["default"], {"gateway": {"autoscaling": {"enabled": True},
                                                   "resources": {"requests": None, "limits": {"cpu": "1"}}}})


@pytest.mark.parametrize("release", ["12-mail-egress", "12"])
def test_a_release_whose_name_no_service_can_have_is_refused(release):
    chart = Chart("mail-egress", helm_path("4"), release=release)
    assert "begin with a letter" in chart.refusal(chart.ci["default"])


def test_all_faults_are_told_at_once(chart):
    text = chart.refusal({"regions": ["x"], "gateway": {"ports": {"api": 80}}})
    for key in ("trustDomain", "regions[0]", "clients", "gateway.ports.api"):
        assert f"\n- {key}" in text, text


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "100.100.0.0/18", "168.63.128.0/24", "192.0.0.0/25", "fd20:cf::/64",
                                  "fd12:3456:789a::/48", "2a05:d000::/32", "fec0::/32", "::1:2:3/112", "10.1.2.3/32"])
def test_a_block_without_metadata_addresses_is_taken(chart, cidr):
    chart.render(chart.ci["default"], {"networkPolicy": {"aws": {"cidrs": [cidr]}}})


@pytest.mark.parametrize("namespace", ["istio-system", "kube-system", "default"])
def test_a_namespace_of_others_is_refused(namespace):
    chart = Chart("mail-egress", helm_path("4"), namespace=namespace)
    assert f"the namespace {namespace} is shared" in chart.refusal(chart.ci["default"])


def test_an_old_kubernetes_is_named(chart):
    text = chart.refusal(chart.ci["default"], kube_version="1.28.15")
    assert "1.29.0" in text and "v1.28.15" in text


CLUSTER = ["apiregistration.k8s.io/v1"]     # which every apiserver has, and helm without a cluster does not know


@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize(("offered", "told"), [
    (["networking.istio.io/v1beta1", "spire.spiffe.io/v1alpha1"], "older than 1.22"),
    (["spire.spiffe.io/v1alpha1"], "no Istio"),
    (["networking.istio.io/v1"], "no SPIRE controller manager"),
])
def test_a_cluster_that_lacks_a_part_is_told_so(version, offered, told):
    chart = Chart("mail-egress", helm_path(version))
    assert told in chart.refusal(chart.ci["default"], api_versions=CLUSTER + offered)
    chart.render(chart.ci["default"], api_versions=[*CLUSTER, "networking.istio.io/v1", "spire.spiffe.io/v1alpha1"])


@pytest.fixture
def cluster(kube_api, istiod):
    """cluster(OBJECT…): an apiserver that knows Istio's and SPIRE's kinds, with these in istiod's namespace."""
    added = []

    def with_objects(*objects: dict) -> str:
        added.extend(objects)
        kube_api.apply(objects, namespace="istio-system")
        return kube_api.kubeconfig

    yield with_objects
    for entry in added:
        kube_api.delete(entry["kind"], entry["metadata"]["name"], "istio-system")


def pilot(*images: str, revisions: tuple[str, ...] = ()) -> list[dict]:
    """Deployments of these images, which nobody runs; `revisions` are theirs."""
    return [{"apiVersion": "apps/v1", "kind": "Deployment",
             "metadata": {"name": f"istiod-{number}", "labels": {
                 "app": "istiod", "istio.io/rev": revisions[number] if revisions else "default"}},
             "spec": {"selector": {"matchLabels": {"app": "istiod"}}, "template": {
                 "metadata": {"labels": {"app": "istiod"}},
                 "spec": {"containers": [{"name": "discovery", "image": image}]}}}}
            for number, image in enumerate(images)]


def config_map(name: str, **data: dict) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {key: yaml.safe_dump(value) for key, value in data.items()}}


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_an_old_istio_in_the_cluster_is_named(cluster, version):
    chart = Chart("mail-egress", helm_path(version))
    old = cluster(*pilot("registry.example:5000/istio/pilot:1.28.3-distroless"))
    with pytest.raises(Refused, match=r"Istio 1\.28\.3 has no late connect"):
        chart.try_on(old, chart.ci["default"])
    chart.try_on(old, chart.ci["default"], {"istio": {"lookUp": False}})


def test_of_two_istios_the_one_of_the_gateways_revision_counts(cluster, chart):
    """During an upgrade by revisions both are there.  Which one injects an unnamed revision is not known: the older one
    may, and would refuse what the newer one takes."""
    both = cluster(*pilot("pilot:1.31.0", "pilot:1.28.3", revisions=("new", "old")))
    chart.try_on(both, chart.ci["default"], {"gateway": {"revision": "new"}})
    for revision in ("old", "", "a-tag"):
        with pytest.raises(Refused, match=r"Istio 1\.28\.3 has no late connect"):
            chart.try_on(both, chart.ci["default"], {"gateway": {"revision": revision}})


@pytest.mark.parametrize("images", [["docker.io/istio/pilot:1.31.0"], ["pilot:1.31.0", "pilot:1.31.2"],
                                    ["pilot:latest"], ["pilot@sha256:" + "0" * 64]],
                         ids=["new", "two", "no version", "digest"])
def test_an_istio_that_is_new_or_unknown_is_taken(cluster, chart, images):
    chart.try_on(cluster(*pilot(*images)), chart.ci["default"])


@pytest.mark.parametrize(("mesh", "told"), [({"trustDomain": "other.example"}, "is other.example:"),
                                            ({}, "is cluster.local:")], ids=["another", "Istio's own"])
def test_a_mesh_of_another_trust_domain_is_refused(cluster, chart, mesh, told):
    with pytest.raises(Refused, match=r"trustDomain is example\.org, and the mesh's") as refused:
        chart.try_on(cluster(config_map("istio", mesh=mesh)), chart.ci["default"])
    assert told in str(refused.value)


def test_a_template_that_istiod_lacks_is_refused(cluster, chart):
    with pytest.raises(Refused, match=r"gateway\.templates names spire-gateway, which istiod does not have"):
        chart.try_on(cluster(config_map("istio-sidecar-injector", config={"templates": {"gateway": "spec: {}"}})),
                     chart.ci["default"])


def test_a_mesh_that_is_set_up_for_it_is_taken(cluster, chart):
    templates = {"templates": {"gateway": "spec: {}", "spire-gateway": "spec: {}"}}
    chart.try_on(cluster(config_map("istio", mesh={"trustDomain": "example.org"}),
                         config_map("istio-sidecar-injector", config=templates)), chart.ci["default"])


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_ports_that_the_mesh_excludes_are_taken_over(cluster, version):
    """To Istio the annotation that our policy writes stands instead of the mesh's list."""
    chart = Chart("mail-egress", helm_path(version))
    proxy = {"excludeOutboundPorts": "3306, 6379", "excludeInboundPorts": 8081}
    mesh = cluster(config_map("istio-sidecar-injector", values={"global": {"proxy": proxy}}))
    said = chart.try_on(mesh, chart.ci["injection"])
    assert 'orValue("3306,6379")' in said and 'orValue("8081")' in said
    assert yaml.safe_load("svidmail:" + said.split("\nsvidmail:")[1].split("\n\n")[0]) == {
        "svidmail": {"istio": {"excludeOutboundPorts": [3306, 6379], "excludeInboundPorts": [8081]}}}
    unasked = chart.try_on(mesh, chart.ci["injection"], {"istio": {"lookUp": False}})
    assert "3306" not in unasked and "\nsvidmail:" not in unasked


@pytest.mark.parametrize("revision", ["", "a-tag"])
def test_ports_of_a_mesh_that_has_revisions_only_are_taken_over(cluster, chart, revision):
    def injector(name: str, ports: str) -> dict:
        proxy = {"excludeOutboundPorts": ports}
        return config_map(f"istio-sidecar-injector-{name}", values={"global": {"proxy": proxy}})

    mesh = cluster(injector("1-30", "3306"), injector("1-31", "3306,6379"))
    assert 'orValue("3306,6379")' in chart.try_on(mesh, chart.ci["injection"], {"gateway": {"revision": revision}})
    assert 'orValue("3306")' in chart.try_on(mesh, chart.ci["injection"], {"gateway": {"revision": "1-30"}})
