# SPDX-License-Identifier: Apache-2.0
"""The charts for apps, svidmail and svidmail-lib, as helm renders them; no cluster."""

import copy
import pathlib
import re
import subprocess
import tarfile

import pytest
import yaml
from support import chart_config, chart_readme
from support.app_chart import (
    CONFIG,
    DEPLOYMENT,
    IMAGE,
    POD_SPEC,
    POD_TEMPLATE,
    SIDECAR_VALUES,
    STATEFULSET,
    WORKLOADS,
    AppChart,
    pod_of,
)
from support.charts import HELM_VERSIONS, ROOT, Chart, Refused, check_snapshot, helm_path, normalized
from support.sidecar import merged

SNAPSHOTS = pathlib.Path(__file__).parent / "snapshots" / "svidmail"
LIBRARY = ROOT / "helm/svidmail-lib"
CI = Chart("svidmail", "").ci
MINIMAL = CI["minimal"]
OUTBOUND = "traffic.sidecar.istio.io/excludeOutboundPorts"
INBOUND = "traffic.sidecar.istio.io/excludeInboundPorts"
CHECKSUM = "checksum/svidmail-config"


@pytest.fixture(params=HELM_VERSIONS, ids=lambda version: f"helm{version}")
def helm(request):
    return helm_path(request.param)


@pytest.fixture
def chart(helm):
    return Chart("svidmail", helm, namespace="shop")


@pytest.fixture(scope="session")
def any_chart():
    """For what both helms do alike, by the same templates; and for NOTES, which helm 3 tells a cluster only."""
    return Chart("svidmail", helm_path(HELM_VERSIONS[-1]), namespace="shop")


@pytest.fixture
def app(helm, tmp_path):
    """app(WORKLOAD, dependency=…): the chart of an app."""

    def make(workload, **options) -> AppChart:
        return AppChart(helm, tmp_path / "shop", workload, **options)

    return make


@pytest.fixture
def check_config(svidmail, workdir):
    """check_config(TEXT): what `svidmail check-config` says of it."""
    file = pathlib.Path(workdir()) / "svidmail.yaml"

    def check(text: str) -> subprocess.CompletedProcess:
        file.write_text(text)
        file.chmod(0o644)
        return svidmail("check-config", str(file))

    return check


def with_config(*path: str, value) -> dict:
    values = value
    for name in reversed(("config", *path)):
        values = {name: values}
    return values


def config_text(chart: Chart, *values) -> str:
    return chart.render(*values).one("ConfigMap")["data"]["svidmail.yaml"]


def deployment_with(**pod_spec) -> dict:
    return merged(DEPLOYMENT, {"spec": {"template": {"spec": POD_SPEC | pod_spec}}})


def sidecar_of(workload: dict) -> dict:
    [container] = [entry for entry in pod_of(workload)["spec"]["initContainers"] if entry["name"] == "svidmail"]
    return container


# --- what the chart knows of svidmail.yaml

@pytest.fixture(scope="session")
def keys(programs):
    return chart_config.read_keys(programs.svidmail)


def test_schema_and_table_are_made_from_what_svidmail_says(keys):
    check_snapshot(chart_config.TABLE, chart_config.table_text(keys))
    check_snapshot(chart_config.SCHEMA, chart_config.schema_text(keys))


def test_every_pattern_belongs_to_a_key(keys):
    assert set(chart_config.FORMS) <= set(keys)


# For each key: values that svidmail takes or refuses.  The chart must judge each the same.
JUDGED = {
    "identity.endpoint": ["unix:///run/spire/agent.sock", "unix:/run/x", "/run/x", "http://x", "tcp://127.0.0.1:8081",
                          ""],
    "identity.mesh.spiffe_id": ["spiffe://example.org/a", "spiffe://example.org", "spiffe://Example.org/a",
                                "https://a/b"],
    "identity.mesh.hint": ["svidmail", "a b", "x" * 1025],
    "identity.aws.spiffe_id": ["spiffe://example.org/a/b.c", "spiffe://example.org/a/../b", "spiffe://example.org/a/"],
    "identity.aws.hint": ["", "svidmail"],
    "smtp.listen": [["127.0.0.1:2525"], ["[::1]:25"], ["unix:/a/b"], [], ["localhost:25"], ["127.0.0.1"],
                    ["0.0.0.0:25"],
                    [":25"], ["[::]:25"], ["[0:0:0:0:0:0:0:1]:25"], ["127.0.0.1:0"], ["127.0.0.1:65536"], ["unix:a"],
                    ["127.9.9.9:25"], ["300.0.0.1:25"], "127.0.0.1:2525", ["10.0.0.1:25"], ["[fe80::1]:25"]],
    "smtp.max_message_bytes": ["1KiB", "40MiB", "41MiB", 1024, 1023, 29000000, 41943040, 41943041, "1kb", "1 MiB",
                               "-1"],
    "smtp.max_recipients": [1, 10000, 0, 10001, "50", 1.5],
    "smtp.max_connections": [1, 10001],
    "smtp.idle_timeout": ["1s", "24h", "1d", "1500ms", "999ms", "25h", "0", "10", "10 m", "1h30m", 10],
    "smtp.auth": ["none", "accept-any", "plain", True],
    "smtp.bare_newline": ["normalize", "reject", "keep"],
    "smtp.allow_any_address": [True, False, "true", "yes", 1],
    "smtp.allow_host_network": [True, False, "false"],
    "gateway.host": ["mail-egress.mail-egress.svc", "10.0.0.1", "fd00::1", "[fd00::1]", "a b", "https://a", "a:9443",
                     "-a",
                     "a.", "x" * 254, "x" * 64, ""],
    "gateway.spiffe_ids": [["spiffe://example.org/ns/a/sa/b"], [], ["spiffe://example.org"], "spiffe://example.org/a"],
    "gateway.ports.api": [1, 65535, 0, 65536, "9443"],
    "gateway.ports.end_to_end": [443, -1],
    "gateway.ports.smtp": [465, 70000],
    "gateway.tls": ["gateway", "end-to-end", "none"],
    "gateway.max_connections": [1, 256, 257],
    "route": ["ses-api", "smtp", "ses-smtp", "postfix"],
    "ses.region": ["eu-central-1", "us-gov-west-1", "cn-north-1", "eu-central", "EU-CENTRAL-1", "eucentral1",
                   "eu-central-1a"],
    "ses.configuration_set": ["a_b-C9", "", "a b", "x" * 65],
    "ses.tags": [{}, {"a": "b"}, {"a b": "c"}, {"a": "b/c"}, {"a": ""}, {"x" * 256: "v"}, {"x" * 257: "v"},
                 {f"n{i}": "v" for i in range(50)}, {f"n{i}": "v" for i in range(51)}, ["a"]],
    "ses.from_identity_arn": ["arn:aws:ses:eu-central-1:123456789012:identity/a.example",
                              "arn:aws:ses:eu-central-1:1:identity/a",
                              "arn:aws-cn:ses:cn-north-1:123456789012:identity/me@a.example",
                               "arn:aws:iam::123456789012:role/a"],
    "ses.tenant": ["shop", "shop/1"],
    "ses.endpoint": ["email-fips.us-east-1.amazonaws.com", "https://email.x", "email:443", ""],
    "ses.allow_headers": [[], ["X-SES-MESSAGE-TAGS"], ["x-ses-foo"], ["Subject"], ["X-SES-"]],
    "aws.source": ["web-identity", "roles-anywhere", "env"],
    "aws.role_arn": ["arn:aws:iam::123456789012:role/a", "arn:aws-us-gov:iam::123456789012:role/a/b+c", "role/a",
                     "arn:aws:iam::12345678901:role/a", "arn:aws:iam::123456789012:user/a",
                      "arn:aws:iam::123456789012:role/a/"],
    "aws.session_name": ["ab", "a", "a b", "x" * 64, "x" * 65, ""],
    "aws.duration": ["15m", "12h", "14m", "13h", "900s", "0"],
    "aws.sts_region": ["", "us-east-1", "x"],
    "aws.sts_endpoint": ["sts.example", "sts_1.example", "sts/x"],
    "aws.ca_file": ["/etc/ca.pem", "ca.pem", ""],
    "aws.audience": ["sts.amazonaws.com", "", "a b", "ü"],
    "aws.roles_anywhere.trust_anchor_arn": ["", "arn:x"],
    "aws.roles_anywhere.profile_arn": ["", "arn:x"],
    "upstream.host": ["", "mail.example"],
    "upstream.credentials_file": ["", "/etc/x"],
    "delivery.reply": ["verdict", "queued", "never"],
    "delivery.patience": ["4s", "5s", "11m"],
    "delivery.spool.path": ["", "/var/spool/svidmail", "spool"],
    "delivery.spool.max_bytes": ["1GiB", "2GiB", "1MiB"],
    "delivery.spool.reserve": ["10%", "11%", "91%", 10],
    "delivery.max_age": ["4d", "5d"],
    "delivery.operator_grace": ["30m", "31m"],
    "delivery.rate_share": [0, 1],
    "policy.senders": [[], ["*"], ["@shop.example"], ["a@b.example"], ["shop.example"], ["*@shop.example"], ["<a@b>"],
                       [""]],
    "policy.recipients.allow": [["a@b"], ["a b@c"], "a@b"],
    "policy.recipients.deny": [["@b"], ["@"]],
    "admin.metrics_listen": [":9925", "127.0.0.1:9925", "[::]:9925", "", "9925", "unix:/a", ":0", "localhost:1"],
    "log.level": ["debug", "info", "warn", "error", "trace"],
    "log.format": ["json", "text", "xml"],
    "log.recipients": ["hash", "full", "off", "none", True],
}
# The sidecar's volumes and probes count on these places, so the chart is stricter than the program.
STRICTER = {"admin.socket"}


def test_every_key_is_judged(keys):
    assert set(JUDGED) | STRICTER == set(keys)


@pytest.mark.parametrize("path", JUDGED)
def test_chart_and_svidmail_judge_alike(any_chart, check_config, path):
    for value in JUDGED[path]:
        config = merged(CONFIG, with_config(*path.split("."), value=value)["config"])
        by_program = check_config(yaml.safe_dump(config))
        try:
            text = config_text(any_chart, {"config": config})
        except Refused as refused:
            assert by_program.returncode != 0, f"only the chart refuses {path}: {value!r}: {refused}"
            assert path in str(refused).replace("/", "."), f"{path} is not named in: {refused}"
        else:
            assert by_program.returncode == 0, f"only svidmail refuses {path}: {value!r}: {by_program.stderr}"
            assert yaml.safe_load(text) == config


@pytest.mark.parametrize("values", CI)
def test_svidmail_takes_what_the_chart_renders(chart, check_config, values):
    checked = check_config(config_text(chart, CI[values]))
    assert (checked.returncode, checked.stderr) == (0, "")


def test_unquoted_off_stays_a_word(chart, check_config):
    """Helm's YAML 1.1 reads a bare off as false."""
    text = config_text(chart, MINIMAL, with_config("log", "recipients", value=False))
    assert yaml.safe_load(text)["log"]["recipients"] == "off"
    assert check_config(text).returncode == 0


# --- bad values

@pytest.mark.parametrize(("path", "value"), [
    ("gateway.host", ""), ("gateway.spiffe_ids", []), ("ses.region", ""), ("aws.role_arn", ""),
])
def test_what_is_missing_is_named_with_its_cure(chart, path, value):
    config = copy.deepcopy(CONFIG)
    section, key = path.split(".")
    del config[section][key]
    refusal = chart.refusal({"config": config})
    assert f"config.{path}: is missing" in refusal
    assert "helm get notes mail-egress" in refusal or "as " in refusal


def test_no_configuration_at_all_is_refused(chart):
    assert "config.gateway.host: is missing" in chart.refusal()


@pytest.mark.parametrize(("values", "words"), [
    (with_config("smtp", "lissten", value=["127.0.0.1:25"]), ["/config/smtp", "lissten"]),
    (with_config("smpt", value={}), ["/config", "smpt"]),
    ({"image": {"tga": "1"}}, ["/image", "tga"]),
    ({"podMonitor": {"enabled": "yes"}}, ["/podMonitor/enabled", "got string, want boolean"]),
    ({"extraEnv": [{"value": "x"}]}, ["/extraEnv/0", "name"]),
    ({"networkPolicy": {"enabled": True}}, ["networkPolicy"]),
    ({"configMap": {"name": "Shop_Mail"}}, ["/configMap/name"]),
    (with_config("smtp", "listen", value=["0.0.0.0:2525"]),
     ["config.smtp.listen", "no password", "smtp.allow_any_address: true"]),
    (with_config("smtp", "listen", value=["[::]:2525"]), ["config.smtp.listen", "no password"]),
    (with_config("aws", "duration", value="5m"), ["config.aws.duration", "from 15m to 12h"]),
    (with_config("delivery", "reply", value="queued"), ["config.delivery.reply", "not in this version",
     "leave it out"]),
    ({"spool": {"sizeLimit": "500Mi"}}, ["spool.sizeLimit: 500Mi", "delivery.spool.max_bytes (1GiB)", "evicts",
     "raise"]),
    (merged({"spool": {"sizeLimit": "20Mi"}}, with_config("delivery", "spool", "path", value="")),
     ["spool.sizeLimit: 20Mi", "smtp.max_message_bytes (29000000)"]),
    ({"spool": {"sizeLimit": 0}}, ["sizeLimit"]),
    ({"spool": {"sizeLimit": "1.5Gi"}}, ["sizeLimit"]),
    (with_config("admin", "socket", value="/tmp/admin.sock"), ["config.admin.socket", "probes", "leave it out"]),
    (with_config("admin", "socket", value=""), ["config.admin.socket", "probes"]),
    (merged({"podMonitor": {"enabled": True}}, with_config("admin", "metrics_listen", value="")),
     ["podMonitor.enabled", "config.admin.metrics_listen"]),
    (merged({"podMonitor": {"enabled": True}}, with_config("admin", "metrics_listen", value="127.0.0.1:9925")),
     ["podMonitor.enabled", "config.admin.metrics_listen"]),
])
def test_a_wrong_value_is_refused_with_key_and_cure(chart, values, words):
    refusal = chart.refusal(MINIMAL, values)
    for word in words:
        assert word in refusal


def test_an_old_kubernetes_is_named(chart):
    assert re.search(r">=1\.29\.0-0.*v1\.28\.9", chart.refusal(MINIMAL, kube_version="1.28.9"))


def test_an_old_kubernetes_is_named_in_the_apps_chart(app):
    """helm looks at the app's own kubeVersion only; there the app would wait for ever."""
    chart = app(DEPLOYMENT)
    assert re.search(r"Kubernetes 1\.29.*v1\.28\.9.*svidmail\.enabled: false",
                     chart.refusal(SIDECAR_VALUES, kube_version="1.28.9"))
    chart.render(SIDECAR_VALUES, kube_version="1.29.0-eks-1")
    chart.render({"svidmail": {"enabled": False}}, kube_version="1.28.9")


def test_spool_of_the_smallest_size_is_taken(chart):
    chart.render(MINIMAL, {"spool": {"sizeLimit": "1Gi"}})
    chart.render(MINIMAL, {"spool": {"sizeLimit": 1073741824}})


# --- what is told

@pytest.mark.parametrize(("values", "words"), [
    (with_config("aws", "sts_region", value="us-east-1"),
     "config.aws.sts_region is us-east-1 and ses.region is eu-central-1"),
    (with_config("smtp", value={"listen": ["0.0.0.0:2525"], "allow_any_address": True}),
     "whoever reaches one of 0.0.0.0:2525"),
    (with_config("smtp", "allow_host_network", value=True), "every process of the node"),
    (with_config("smtp", "listen", value=["127.0.0.1:25"]), "net.ipv4.ip_unprivileged_port_start=0"),
    (with_config("aws", "ca_file", value="/etc/roots/ca.pem"), "no extraVolumeMounts brings it"),
])
def test_what_works_and_should_be_known_is_a_warning(any_chart, values, words):
    [warning] = [line for line in any_chart.notes(MINIMAL, values).splitlines() if line.startswith("WARNING: ")]
    assert words in warning


@pytest.mark.parametrize("values", [
    {},
    with_config("aws", "sts_region", value="eu-central-1"),
    with_config("aws", "ca_file", value="/etc/ssl/certs/ca-certificates.crt"),
    merged(with_config("aws", "ca_file", value="/etc/roots/ca.pem"),
           {"extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots"}]}),
])
def test_what_is_in_order_is_no_warning(any_chart, values):
    assert "WARNING" not in any_chart.notes(MINIMAL, values)


def test_notes_hold_the_next_three_commands(any_chart):
    notes = any_chart.notes(MINIMAL)
    assert "ConfigMap svidmail in namespace shop" in notes
    for command in ("kubectl rollout restart", "-- svidmail status", "-- svidmail send"):
        assert command in notes


# --- the ConfigMap and the PodMonitor

@pytest.mark.parametrize("values", CI)
def test_snapshot(chart, values):
    check_snapshot(SNAPSHOTS / f"{values}.yaml", normalized(chart.render(CI[values]).text))


@pytest.mark.parametrize("values", CI)
def test_helm_lint_is_content(chart, values):
    chart.lint(CI[values])


def test_beside_an_app_the_configmap_is_where_labelled_pods_look(chart):
    assert chart.render(MINIMAL).one("ConfigMap")["metadata"]["name"] == "svidmail"


def test_an_existing_configmap_is_not_made(chart):
    assert chart.render({"configMap": {"create": False, "name": "platform-mail"}}).objects == []


def test_notes_name_a_configmap_that_is_not_made(any_chart):
    notes = any_chart.notes({"configMap": {"create": False, "name": "platform-mail"}})
    assert "ConfigMap platform-mail in namespace shop, which this chart does not make" in notes
    assert "svidmail.io/config: platform-mail" in notes


def test_nothing_touches_the_app_pods_own_traffic(chart):
    kinds = {entry["kind"] for values in CI.values() for entry in chart.render(values).objects}
    assert kinds == {"ConfigMap", "PodMonitor"}


def test_podmonitor_scrapes_what_the_sidecar_offers(app):
    values = merged(SIDECAR_VALUES, {"svidmail": {"podMonitor": {"enabled": True}}})
    rendered = app(DEPLOYMENT).render(values)
    monitor = rendered.one("PodMonitor")["spec"]
    pod = pod_of(rendered.one("Deployment"))
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [port] = sidecar_of(rendered.one("Deployment"))["ports"]
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == [port["name"]]
    assert port["containerPort"] == 9925 and len(port["name"]) <= 15


def test_values_file_documents_what_the_library_takes():
    defaults = re.search(r'define "svidmail.defaults" -}}\n(.*?){{- end',
     (LIBRARY / "templates/_values.tpl").read_text(),
                         re.DOTALL)[1]
    documented = yaml.safe_load((ROOT / "helm/svidmail/values.yaml").read_text())
    documented.pop("podMonitor")
    assert documented == yaml.safe_load(defaults)


@pytest.mark.parametrize("name", ["svidmail"])
def test_readme_tells_the_values_as_they_are(name):
    directory = ROOT / "helm" / name
    readme = (directory / "README.md").read_text()
    check_snapshot(directory / "README.md",
                   chart_readme.with_table(readme, (directory / "values.yaml").read_text()))


def test_values_of_the_guide_are_taken(chart, check_config, app):
    """What people copy from docs/install.md, and from the chart's README."""
    guide = (ROOT / "docs/install.md").read_text()
    mail = yaml.safe_load(re.search(r"```yaml\n(# mail\.yaml\n.*?)```", guide, re.DOTALL)[1])
    assert check_config(config_text(chart, mail)).returncode == 0
    egress = re.search(r"```yaml\n(# egress\.yaml\n.*?)```", guide, re.DOTALL)[1]
    assert Chart("mail-egress", chart.helm).render(yaml.safe_load(egress)).has("MutatingAdmissionPolicy")
    readme = (ROOT / "helm/svidmail/README.md").read_text()
    values = yaml.safe_load(re.search(r"```yaml\n# Chart\.yaml\n.*?(# values\.yaml\n.*?)```", readme, re.DOTALL)[1])
    assert sidecar_of(app(DEPLOYMENT).workload(values))["image"] == "registry.example/svidmail:0.1.0"


def test_versions_are_one():
    project = re.search(r"project\(svidmail VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1]
    for name in ("svidmail", "svidmail-lib"):
        about = yaml.safe_load((ROOT / "helm" / name / "Chart.yaml").read_text())
        assert (about["version"], about["appVersion"]) == (project, project)
        for dependency in about.get("dependencies", []):
            assert dependency["version"] == project
    assert f'default "{project}"' in (LIBRARY / "templates/_sidecar.tpl").read_text()


def test_a_packaged_chart_brings_its_library(chart, tmp_path):
    subprocess.run([chart.helm, "package", str(chart.directory), "--destination", str(tmp_path)], check=True,
                   capture_output=True)
    [package] = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        names = archive.getnames()
    assert "svidmail/charts/svidmail-lib/templates/_sidecar.tpl" in names
    assert not [name for name in names if "/ci/" in name]
    packaged = Chart("svidmail", chart.helm, namespace="shop")
    packaged.directory = package
    assert packaged.render(MINIMAL).text == chart.render(MINIMAL).text


# --- the sidecar in the app's pods

@pytest.mark.parametrize("dependency", ["svidmail", "svidmail-lib"])
@pytest.mark.parametrize("kind", WORKLOADS)
def test_one_line_gives_any_workload_the_sidecar(app, kind, dependency):
    workload = app(WORKLOADS[kind], dependency=dependency).workload()
    pod = pod_of(workload)
    assert pod["spec"]["initContainers"][0]["name"] == "svidmail"
    assert pod["spec"]["containers"] == POD_SPEC["containers"]
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {
        mount["name"] for mount in sidecar_of(workload)["volumeMounts"]}
    assert pod["metadata"]["labels"]["svidmail.io/inject"] == "true"


def test_the_rest_of_the_workload_is_left_alone(app):
    workload = app(DEPLOYMENT).workload()
    assert {"svidmail.io/inject"} == set(workload["spec"]["template"]["metadata"].pop("labels")) - {"app"}
    del workload["spec"]["template"]["metadata"]["annotations"], workload["spec"]["template"]["metadata"]
    expected = copy.deepcopy(DEPLOYMENT)
    del expected["spec"]["template"]["metadata"]
    for key in ("initContainers", "volumes"):
        del workload["spec"]["template"]["spec"][key]
    assert workload == expected


def test_a_bare_pod_template_is_taken_too(helm, tmp_path):
    app = AppChart(helm, tmp_path / "shop", DEPLOYMENT)
    whole = app.workload()
    app.write("templates/workload.yaml",
              '{{- define "shop.pod" }}\n' + yaml.safe_dump(POD_TEMPLATE) + "{{- end }}\n"
              + yaml.safe_dump({key: value for key, value in DEPLOYMENT.items() if key != "spec"})
              + 'spec:\n  selector: {matchLabels: {app: shop}}\n'
              '  template: {{- include "svidmail.inject" (list . "shop.pod") | nindent 4 }}\n')
    assert app.workload() == whole


def test_the_parts_are_the_whole(helm, tmp_path):
    app = AppChart(helm, tmp_path / "shop", DEPLOYMENT)
    whole = app.workload()
    app.write("templates/workload.yaml", """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels:
        app: shop
        {{- include "svidmail.labels" . | nindent 8 }}
      annotations:
        {{- include "svidmail.annotations" . | nindent 8 }}
    spec:
      initContainers:
        {{- include "svidmail.container" . | nindent 8 }}
      containers: [{name: shop, image: "registry.rig/shop:1"}]
      volumes:
        {{- include "svidmail.volumes" . | nindent 8 }}
""")
    assert app.workload() == whole


def test_what_the_pod_has_is_kept(app):
    workload = app(deployment_with(
        initContainers=[{"name": "migrate", "image": "registry.rig/shop:1"}],
        volumes=[{"name": "data", "emptyDir": {}}])).workload()
    spec = pod_of(workload)["spec"]
    assert [container["name"] for container in spec["initContainers"]] == ["svidmail", "migrate"]
    assert spec["volumes"][0] == {"name": "data", "emptyDir": {}}


def test_a_volume_of_the_pods_own_is_used_instead(app):
    mine = {"name": "svidmail-spool", "persistentVolumeClaim": {"claimName": "mail"}}
    spec = pod_of(app(deployment_with(volumes=[mine])).workload())["spec"]
    assert [volume for volume in spec["volumes"] if volume["name"] == "svidmail-spool"] == [mine]


def test_a_claim_template_is_used_instead(app):
    claim = {"metadata": {"name": "svidmail-spool"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    spec = pod_of(app(merged(STATEFULSET, {"spec": {"volumeClaimTemplates": [claim]}})).workload())["spec"]
    assert "svidmail-spool" not in {volume["name"] for volume in spec["volumes"]}


def test_a_pod_that_has_the_sidecar_gets_no_second_one(app):
    mine = {"name": "svidmail", "image": "registry.rig/mine:1", "restartPolicy": "Always"}
    workload = deployment_with(initContainers=[mine])
    assert app(workload).workload() == workload


def test_switched_off_the_workload_is_as_it_was(app):
    off = {"svidmail": {"enabled": False}}
    chart = app(DEPLOYMENT)
    assert chart.workload(off) == DEPLOYMENT
    assert not chart.render(off).has("ConfigMap")


@pytest.mark.parametrize(("theirs", "merged_ports"), [
    (None, "9443,9444,9465"),
    ("", "9443,9444,9465"),
    ("5432", "5432,9443,9444,9465"),
    ("9444, 5432 ,", "9444,5432,9443,9465"),
    ("9443,9444,9465", "9443,9444,9465"),
])
def test_excluded_ports_are_merged(app, theirs, merged_ports):
    annotations = {} if theirs is None else {OUTBOUND: theirs}
    workload = merged(DEPLOYMENT, {"spec": {"template": {"metadata": {"annotations": annotations | {"a": "b"}}}}})
    made = pod_of(app(workload).workload())["metadata"]["annotations"]
    assert (made[OUTBOUND], made[INBOUND], made["a"]) == (merged_ports, "9925", "b")


def test_excluded_ports_are_those_of_the_configuration(app):
    ports = {"api": 19443, "end_to_end": 19444, "smtp": 19465}
    config = {"gateway": {"ports": ports}, "admin": {"metrics_listen": ":19925"}}
    workload = app(DEPLOYMENT).workload(SIDECAR_VALUES, {"svidmail": {"config": config}})
    annotations = pod_of(workload)["metadata"]["annotations"]
    assert (annotations[OUTBOUND], annotations[INBOUND]) == ("19443,19444,19465", "19925")
    assert sidecar_of(workload)["ports"][0]["containerPort"] == 19925


@pytest.mark.parametrize("listen", ["", "127.0.0.1:9925", "[::1]:9925"])
def test_without_metrics_for_others_no_port_is_opened(app, listen):
    values = {"svidmail": {"config": {"admin": {"metrics_listen": listen}}}}
    workload = app(DEPLOYMENT).workload(SIDECAR_VALUES, values)
    assert "ports" not in sidecar_of(workload)
    assert INBOUND not in pod_of(workload)["metadata"]["annotations"]


def test_a_change_of_configuration_rolls_the_pods(app):
    chart = app(DEPLOYMENT)

    def checksums(values):
        rendered = chart.render(SIDECAR_VALUES, values)
        return (pod_of(rendered.one("Deployment"))["metadata"]["annotations"][CHECKSUM],
                rendered.one("ConfigMap")["metadata"]["annotations"][CHECKSUM])

    before = checksums({})
    other = checksums({"svidmail": {"config": {"ses": {"configuration_set": "x"}}}})
    assert before[0] == before[1] != other[0] == other[1]
    assert checksums({"svidmail": {"podMonitor": {"interval": "10s"}}}) == before


def test_each_release_has_a_configuration_of_its_own(helm, tmp_path):
    names = set()
    for release in ("checkout", "billing"):
        rendered = AppChart(helm, tmp_path / release, DEPLOYMENT, release=release).render(SIDECAR_VALUES)
        name = rendered.one("ConfigMap")["metadata"]["name"]
        pod = pod_of(rendered.one("Deployment"))
        [volume] = [entry for entry in pod["spec"]["volumes"] if entry["name"] == "svidmail-config"]
        assert volume["configMap"]["name"] == name == pod["metadata"]["annotations"]["svidmail.io/config"]
        names.add(name)
    assert names == {"checkout-svidmail", "billing-svidmail"}


def test_a_configmap_from_elsewhere_is_named(app):
    chart = app(DEPLOYMENT, dependency="svidmail-lib")
    for name, annotation in (("", None), ("platform-mail", "platform-mail")):
        pod = pod_of(chart.workload({"svidmail": {"image": IMAGE, "configMap": {"name": name}}}))
        [volume] = [entry for entry in pod["spec"]["volumes"] if entry["name"] == "svidmail-config"]
        assert volume["configMap"]["name"] == name or "svidmail"
        assert pod["metadata"]["annotations"].get("svidmail.io/config") == annotation
        assert CHECKSUM not in pod["metadata"]["annotations"]


def test_extras_reach_the_sidecar(app):
    extras = {"extraEnv": [{"name": "TZ", "value": "UTC"}],
              "extraVolumes": [{"name": "roots", "configMap": {"name": "roots"}}],
              "extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots"}],
              "resources": {"limits": {"memory": "128Mi"}}}
    workload = app(DEPLOYMENT).workload(SIDECAR_VALUES, {"svidmail": extras})
    container = sidecar_of(workload)
    assert container["env"][-1] == extras["extraEnv"][0]
    assert container["volumeMounts"][-1] == extras["extraVolumeMounts"][0]
    assert pod_of(workload)["spec"]["volumes"][-1] == extras["extraVolumes"][0]
    assert container["resources"] == {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}}


@pytest.mark.parametrize(("image", "name"), [
    ({"registry": "registry.rig"}, "registry.rig/svidmail:0.1.0"),
    ({"registry": "registry.rig", "repository": "mail/svidmail", "tag": "dev"}, "registry.rig/mail/svidmail:dev"),
    ({"registry": "registry.rig", "tag": "dev", "digest": "sha256:" + "0" * 64},
     "registry.rig/svidmail@sha256:" + "0" * 64),
])
def test_image_is_named_by_tag_or_digest(app, image, name):
    workload = app(DEPLOYMENT).workload({"svidmail": {"image": image, "config": CONFIG}})
    assert sidecar_of(workload)["image"] == name


def test_the_sidecar_is_a_native_one_and_asks_for_nothing_special(app):
    """What PodSecurity's level restricted and the life cycle of native sidecars ask for."""
    workload = app(DEPLOYMENT).workload()
    container = sidecar_of(workload)
    assert container["restartPolicy"] == "Always"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
        "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    assert "cpu" not in container["resources"]["limits"]
    assert "readinessProbe" not in container and "postStart" not in container["lifecycle"]
    for probe in ("startupProbe", "livenessProbe"):
        assert list(container[probe]["exec"]["command"]) == ["svidmail", "health"]
        assert container[probe]["timeoutSeconds"] >= 5
    assert all("hostPath" not in volume for volume in pod_of(workload)["spec"]["volumes"])


def test_svidmail_finds_room_where_the_volumes_are(app, programs):
    """The read-only container has no other place to write: the probes' socket and mails under way."""
    mounts = {mount["mountPath"]: mount.get("readOnly", False)
              for mount in sidecar_of(app(DEPLOYMENT).workload())["volumeMounts"]}
    presets = {path: key["preset"] for path, key in chart_config.read_keys(programs.svidmail).items()}
    assert mounts[str(pathlib.Path(presets["admin.socket"]).parent)] is False
    assert mounts[presets["delivery.spool.path"]] is False


def test_the_apps_notes_can_tell_what_should_be_known(tmp_path):
    """helm shows the notes of the chart it installs, not those of its dependencies."""
    app = AppChart(helm_path("4"), tmp_path / "shop", DEPLOYMENT)
    app.write("templates/NOTES.txt", 'Shop.\n{{- include "svidmail.notes" . }}\n')
    assert app.notes(SIDECAR_VALUES).strip() == "Shop."
    regions = {"svidmail": with_config("aws", "sts_region", value="us-east-1")}
    assert "\nWARNING: svidmail.config.aws.sts_region is us-east-1" in app.notes(SIDECAR_VALUES, regions)


# --- refused

def test_hostnetwork_is_refused_unless_it_is_wanted(app):
    chart = app(deployment_with(hostNetwork=True))
    assert re.search(r"hostNetwork: true.*allow_host_network: true", chart.refusal(SIDECAR_VALUES))
    wanted = {"svidmail": {"config": {"smtp": {"allow_host_network": True}}}}
    annotations = pod_of(chart.workload(SIDECAR_VALUES, wanted))["metadata"]["annotations"]
    assert annotations["svidmail.io/allow-host-network"] == "true"


@pytest.mark.parametrize(("workload", "words"), [
    ("a: b\n---\nc: d\n", "several objects"),
    ("a: [\n", "no YAML mapping"),
    ({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": []}}, "kind Service"),
    ({"containers": POD_SPEC["containers"]}, "it takes a workload or a pod template"),
])
def test_what_is_no_workload_is_refused(app, workload, words):
    refusal = app(workload).refusal(SIDECAR_VALUES)
    assert words in refusal and "shop.workload" in refusal


def test_a_workload_that_is_switched_off_stays_away(app):
    chart = app("{{- if .Values.worker }}\n" + yaml.safe_dump(DEPLOYMENT) + "{{- end }}\n")
    assert not chart.render(SIDECAR_VALUES).has("Deployment")
    assert chart.render(SIDECAR_VALUES, {"worker": True}).has("Deployment")


@pytest.mark.parametrize(("values", "words"), [
    ({"image": {"registry": ""}}, ["svidmail.image.registry: is missing", "there is no public image"]),
    ({"image": {"digest": "sha256:abc"}}, ["digest"]),
    ({"imagePullPolicy": "Always"}, ["imagePullPolicy"]),
    ({"image": {"tga": "1"}}, ["tga"]),
    ({"config": {"smtp": {"listen": ["0.0.0.0:25"]}}}, ["svidmail.config.smtp.listen", "no password"]),
    ({"config": {"smtp": {"lissten": []}}}, ["lissten"]),
])
@pytest.mark.parametrize("dependency", ["svidmail", "svidmail-lib"])
def test_a_wrong_value_is_refused_in_the_apps_chart(app, values, words, dependency):
    """By the library alone as well, which has no schema."""
    refusal = app(DEPLOYMENT, dependency=dependency).refusal(SIDECAR_VALUES, {"svidmail": values})
    for word in words:
        assert word in refusal
