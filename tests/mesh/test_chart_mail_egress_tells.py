# SPDX-License-Identifier: Apache-2.0
"""What the platform chart tells: NOTES for whoever installs it, README for whoever reads first."""

import pytest
import yaml
from support import chart_readme
from support.charts import Chart, helm_path

CHART = Chart("mail-egress", "")


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart("mail-egress", helm_path("4"))


def notes_config(notes: str) -> dict:
    """What somebody would copy: from the line config: to the next empty one."""
    _, _, rest = notes.partition("\nconfig:\n")
    return yaml.safe_load("config:\n" + rest.partition("\n\n")[0])


@pytest.mark.parametrize("name", sorted(CHART.ci))
def test_notes_give_what_the_apps_chart_takes(chart, name):
    config = notes_config(chart.notes(chart.ci[name]))
    rendered = chart.feature(name)
    account = rendered.one("ServiceAccount")["metadata"]["name"]
    domain = yaml.safe_load(chart.ci[name].read_text())["trustDomain"]
    assert config["config"]["gateway"]["spiffe_ids"] == [f"spiffe://{domain}/ns/mail-egress/sa/{account}"]
    assert rendered.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == account
    service, namespace = config["config"]["gateway"]["host"].split(".")[:2]
    assert (service, namespace) == (rendered.one("Service")["metadata"]["name"], "mail-egress")
    assert {one["port"] for one in rendered.one("Service")["spec"]["ports"]} <= set(
        config["config"]["gateway"]["ports"].values())
    app = Chart("svidmail", helm_path("4"), namespace="shop")
    partition = "aws-us-gov" if config["config"]["ses"]["region"].startswith("us-gov-") else "aws"
    pasted = app.render(config, {"config": {"aws": {"role_arn": f"arn:{partition}:iam::123456789012:role/shop-mail"}}})
    svidmail_yaml = yaml.safe_load(pasted.one("ConfigMap")["data"]["svidmail.yaml"])
    for section in ("gateway", "identity", "ses"):
        for key, value in config["config"][section].items():
            assert svidmail_yaml[section][key] == value


def test_notes_name_the_next_three_commands(chart):
    _, _, rest = chart.notes(chart.ci["default"]).partition("\nNext:\n\n")
    commands = [line.strip() for line in rest.partition("\n\n")[0].splitlines() if line.strip()]
    assert [command.split()[0] for command in commands] == ["kubectl", "helm", "kubectl"]
    assert " logs --selector istio=mail-egress " in commands[2], "of one pod of two it would be half the truth"


@pytest.mark.parametrize(("values", "told"), [
    ({"endToEndMail": {"enabled": True}}, "endToEndMail.enabled"),
    ({"smtp": {"enabled": True}}, "smtp.enabled: this version of svidmail has no route ses-smtp"),
    ({"rolesAnywhere": {"enabled": True}}, "rolesAnywhere.enabled: this version of svidmail has no aws.source"),
    ({"lateConnect": {"enabled": False}}, "lateConnect.enabled is false"),
    ({"networkPolicy": {"enabled": False}}, "networkPolicy.enabled is false"),
    ({"telemetry": {"enabled": False}}, "telemetry.enabled is false"),
    ({"extraPrincipals": ["example.org/ns/shop/sa/checkout"]}, "not a sidecar's own identity"),
    ({"extraPrincipals": ["other.org/ns/a/sa/b/svidmail"], "federatedTrustDomains": ["other.org"]},
     "another trust domain"),
    ({"spire": {"clusterSPIFFEIDs": {"podSelector": None}}}, "may show the wrong one"),
    ({"spire": {"clusterSPIFFEIDs": {"podSelector": {"matchLabels": {"svidmail.io/inject": None, "mail": "yes"}}}}},
     "may show the wrong one"),
    ({"spire": {"clusterSPIFFEIDs": {"podSelector": None, "keepPodIdentity": False}}}, "lose the identity"),
    ({"gateway": {"templates": "gateway"}}, "no template for SPIRE"),
    ({"gateway": {"ports": {"api": 10443}}}, 'excludeOutboundPorts "10443,9444,9465"'),
    ({"gateway": {"replicas": 1}}, "gateway.replicas is less than 2"),
    ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 1}}},
     "gateway.autoscaling.minReplicas is less"),
    ({"gateway": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "cannot be drained"),
])
def test_what_is_weak_or_odd_is_warned_of(chart, values, told):
    warnings = [line for line in chart.notes(chart.ci["default"], values).splitlines() if line.startswith("WARNING: ")]
    assert len(warnings) == 1 and told in warnings[0]


def test_the_usual_values_are_warned_of_by_nobody(chart):
    assert "WARNING" not in chart.notes(chart.ci["default"])


def test_entries_to_be_made_by_hand_are_named(chart):
    notes = chart.notes(chart.ci["default"], {"spire": {"clusterSPIFFEIDs": {"enabled": False}}})
    commands = [line for line in notes.splitlines() if "spire-server entry create" in line]
    assert len(commands) == 2
    assert "-spiffeID spiffe://example.org/ns/mail-egress/sa/mail-egress " in commands[0]
    assert "-spiffeID spiffe://example.org/ns/shop/sa/checkout/svidmail -hint svidmail" in commands[1]
    assert commands[1].endswith("-selector k8s:container-name:svidmail")


def test_the_readme_tells_the_values_as_they_are():
    readme = (CHART.directory / "README.md").read_text()
    values = (CHART.directory / "values.yaml").read_text()
    assert readme == chart_readme.with_table(readme, values), \
        "python3 tests/support/chart_readme.py helm/mail-egress brings README.md up to date"


def test_the_ports_are_the_ones_svidmail_dials(svidmail):
    keys = svidmail("check-config", "--keys").stdout
    values = yaml.safe_load((CHART.directory / "values.yaml").read_text())
    for name, port in values["gateway"]["ports"].items():
        [line] = [line for line in keys.splitlines() if line.startswith(f"gateway.ports.{name} ")]
        assert str(port) in line
