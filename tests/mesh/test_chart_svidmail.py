# SPDX-License-Identifier: Apache-2.0
"""The chart svidmail as helm renders it: what it knows of svidmail.yaml, refuses, tells and makes; no cluster."""

import copy
import pathlib
import re
import subprocess
import tarfile

import pytest
import yaml
from support import chart_config, chart_readme
from support.app_chart import CONFIG, with_config
from support.charts import HELM_VERSIONS, ROOT, Chart, Refused, check_snapshot, helm_path, normalized
from support.sidecar import merged

SNAPSHOTS = pathlib.Path(__file__).parent / "snapshots" / "svidmail"
LIBRARY = ROOT / "helm/svidmail-lib"
CI = Chart("svidmail", "").ci
MINIMAL = CI["minimal"]


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
def check_config(svidmail, workdir):
    """check_config(TEXT): what `svidmail check-config` says of it."""
    file = pathlib.Path(workdir()) / "svidmail.yaml"

    def check(text: str) -> subprocess.CompletedProcess:
        file.write_text(text)
        file.chmod(0o644)
        return svidmail("check-config", str(file))

    return check


def config_text(chart: Chart, *values) -> str:
    return chart.render(*values).one("ConfigMap")["data"]["svidmail.yaml"]


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
    "ses.endpoint": ["email-fips.us-east-1.amazonaws.com", "https://email.x", "email:443", "email.example.", ""],
    "ses.allow_headers": [[], ["X-SES-MESSAGE-TAGS"], ["x-ses-foo"], ["Subject"], ["X-SES-"]],
    "aws.source": ["web-identity", "roles-anywhere", "env"],
    "aws.role_arn": ["arn:aws:iam::123456789012:role/a", "arn:aws-us-gov:iam::123456789012:role/a/b+c", "role/a",
                     "arn:aws:iam::12345678901:role/a", "arn:aws:iam::123456789012:user/a",
                      "arn:aws:iam::123456789012:role/a/"],
    "aws.session_name": ["ab", "a", "a b", "x" * 64, "x" * 65, ""],
    "aws.duration": ["15m", "12h", "14m", "13h", "900s", "0"],
    "aws.sts_region": ["", "us-east-1", "x"],
    "aws.sts_endpoint": ["sts.example", "sts_1.example", "sts/x", "sts.example."],
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


def of_one_partition(config: dict, path: str, value) -> dict:
    """The chart alone looks at what several keys say together: with a region and a role where the value is."""
    places = {"cn": ("cn-north-1", "aws-cn"), "us-gov": ("us-gov-west-1", "aws-us-gov")}
    for mark, (region, partition) in places.items():
        if path == "ses.region" and str(value).startswith(mark):
            return merged(config, {"aws": {"role_arn": f"arn:{partition}:iam::123456789012:role/a"}})
        if str(value).startswith(f"arn:{partition}:"):
            arn = config["aws"]["role_arn"].replace("arn:aws:", f"arn:{partition}:")
            return merged(config, {"ses": {"region": region}, "aws": {"role_arn": arn}})
    return config


@pytest.mark.parametrize("path", JUDGED)
def test_chart_and_svidmail_judge_alike(any_chart, check_config, path):
    for value in JUDGED[path]:
        config = merged(CONFIG, with_config(*path.split("."), value=value)["config"])
        config = of_one_partition(config, path, value)
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
    (with_config("aws", "role_arn", value="arn:aws-cn:iam::123456789012:role/a"),
     ["config.aws.role_arn", "partition aws-cn", "ses.region eu-central-1 is in aws:", "correct"]),
    (with_config("ses", "region", value="us-gov-west-1"), ["config.aws.role_arn", "partition aws,", "aws-us-gov"]),
    (with_config("ses", "region", value="eusc-de-east-1"), ["config.aws.role_arn", "aws-eusc"]),
    (with_config("aws", "role_arn", value="arn:aws-iso:iam::123456789012:role/a"), ["config.aws.role_arn", "aws-iso,"]),
    (with_config("ses", "region", value="us-isob-east-1"), ["config.aws.role_arn", "is in aws-iso-b:"]),
    (with_config("ses", "from_identity_arn", value="arn:aws-cn:ses:cn-north-1:123456789012:identity/a.example"),
     ["config.ses.from_identity_arn", "partition aws-cn"]),
    (with_config("aws", "sts_region", value="cn-north-1"), ["config.aws.sts_region", "partition aws-cn"]),
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


def test_spool_of_the_smallest_size_is_taken(chart):
    chart.render(MINIMAL, {"spool": {"sizeLimit": "1Gi"}})
    chart.render(MINIMAL, {"spool": {"sizeLimit": 1073741824}})


# --- what is told

@pytest.mark.parametrize(("values", "words"), [
    (with_config("aws", "sts_region", value="us-east-1"),
     "config.aws.sts_region is us-east-1 and ses.region is eu-central-1"),
    (with_config("ses", "endpoint", value="email.us-east-1.amazonaws.com"),
     "config.ses.endpoint is of us-east-1 and ses.region is eu-central-1"),
    (with_config("aws", "sts_endpoint", value="sts.us-east-1.amazonaws.com"),
     "config.aws.sts_endpoint is of us-east-1 and ses.region is eu-central-1"),
    (with_config("ses", "from_identity_arn", value="arn:aws:ses:us-east-1:123456789012:identity/a.example"),
     "config.ses.from_identity_arn is of us-east-1 and ses.region is eu-central-1"),
    (with_config("smtp", value={"listen": ["0.0.0.0:2525"], "allow_any_address": True}),
     "whoever reaches one of 0.0.0.0:2525"),
    (with_config("smtp", "allow_host_network", value=True), "every process of the node"),
    (with_config("smtp", "listen", value=["127.0.0.1:25"]), "net.ipv4.ip_unprivileged_port_start=0"),
    (with_config("aws", "ca_file", value="/etc/roots/ca.pem"), "mail-egress's injection.extraVolumeMounts"),
    (with_config("gateway", "ports", value={"api": 19443}), "gateway.ports of mail-egress"),
    (with_config("admin", "metrics_listen", value=":19925"), "the port 9925 alone"),
    (with_config("admin", "metrics_listen", value=""), "the port 9925 alone"),
    ({"image": {"registry": "registry.example"}}, "WARNING: image: of no effect here"),
    ({"resources": {"limits": {"memory": "128Mi"}}}, "resources: of no effect here"),
    ({"spool": {"sizeLimit": "2Gi"}}, "spool: of no effect here"),
    ({"spiffe": {"socket": "other.sock"}}, "mail-egress's injection.spiffe"),
    ({"extraEnv": [{"name": "TZ", "value": "UTC"}]}, "extraEnv: of no effect here"),
    ({"extraVolumes": [{"name": "roots", "emptyDir": {}}]}, "extraVolumes: of no effect here"),
    ({"extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots"}]}, "extraVolumeMounts: of no effect here"),
    ({"istio": {"excludeOutboundPorts": [3306]}}, "istio: of no effect here"),
])
def test_what_works_and_should_be_known_is_a_warning(any_chart, values, words):
    [warning] = [line for line in any_chart.notes(MINIMAL, values).splitlines() if line.startswith("WARNING: ")]
    assert words in warning


@pytest.mark.parametrize("values", [
    {},
    with_config("aws", "sts_region", value="eu-central-1"),
    with_config("aws", "sts_endpoint", value="vpce-0a1b2c3d4e5f60718-abcdefgh.sts.eu-central-1.vpce.amazonaws.com"),
    with_config("ses", "endpoint", value="email-fips.eu-central-1.api.aws"),
    with_config("ses", "endpoint", value="ses.rig.example"),
    with_config("aws", "ca_file", value="/etc/ssl/certs/ca-certificates.crt"),
    with_config("admin", "metrics_listen", value="0.0.0.0:9925"),
])
def test_what_is_in_order_is_no_warning(any_chart, values):
    assert "WARNING" not in any_chart.notes(MINIMAL, values)


def test_a_mount_that_labelled_pods_have_not_excuses_no_ca_file(any_chart):
    values = merged(with_config("aws", "ca_file", value="/etc/roots/ca.pem"),
                    {"extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots"}]})
    assert "WARNING: config.aws.ca_file is /etc/roots/ca.pem" in any_chart.notes(MINIMAL, values)


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


def test_values_of_the_guide_are_taken(chart, check_config):
    """What people copy from docs/install.md."""
    guide = (ROOT / "docs/install.md").read_text()
    mail = yaml.safe_load(re.search(r"```yaml\n(# mail\.yaml\n.*?)```", guide, re.DOTALL)[1])
    assert check_config(config_text(chart, mail)).returncode == 0
    egress = re.search(r"```yaml\n(# egress\.yaml\n.*?)```", guide, re.DOTALL)[1]
    assert Chart("mail-egress", chart.helm).render(yaml.safe_load(egress)).has("MutatingAdmissionPolicy")


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
