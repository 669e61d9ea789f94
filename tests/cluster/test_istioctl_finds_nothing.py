# SPDX-License-Identifier: Apache-2.0
"""istioctl analyze of the live cluster: what the charts made there, with a pod of each way beside the gateway's."""

import json

import yaml


def findings(cluster, *namespaces: str) -> list[dict]:
    """Of the whole cluster; those that name one of these namespaces' objects.

    IST0102 is of the namespaces themselves, which no chart makes: they carry no label of Istio's injection, for the
    gateway's pods and the apps' choose it one by one.
    """
    said = cluster.istioctl("analyze", "-A", "--output", "json", check=False).stdout
    found = json.loads(said[said.index("["):])
    return [finding for finding in found if finding["code"] != "IST0102" and any(
        f" {namespace}" in finding["origin"] or f"{namespace}." in finding["origin"] for namespace in namespaces)]


def test_analyze_has_no_finding_about_the_gateway_or_the_apps(shop, cluster):
    shop.start_pod("serve")
    assert findings(cluster, "mail-egress", shop.namespace) == []


def test_analyze_names_a_rule_without_roots_in_the_gateways_namespace(shop, cluster):
    """That the test above can fail."""
    rule = yaml.safe_load("""
        apiVersion: networking.istio.io/v1
        kind: DestinationRule
        metadata: {name: rootless}
        spec: {host: example.org, trafficPolicy: {tls: {mode: SIMPLE, sni: example.org}}}""")
    cluster.apply(rule, namespace=shop.namespace)
    assert "rootless" in str(findings(cluster, shop.namespace))
