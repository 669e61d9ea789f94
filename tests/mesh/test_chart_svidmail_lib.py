# SPDX-License-Identifier: Apache-2.0
"""The library svidmail-lib in charts of apps: one line gives a workload the sidecar, and keeps what the pods have."""

import copy
import pathlib
import re

import pytest
import yaml
from support import chart_config
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
    sidecar_of,
    with_config,
)
from support.charts import HELM_VERSIONS, ROOT, helm_path
from support.sidecar import merged

OUTBOUND = "traffic.sidecar.istio.io/excludeOutboundPorts"
INBOUND = "traffic.sidecar.istio.io/excludeInboundPorts"
CHECKSUM = "checksum/svidmail-config"


@pytest.fixture(params=HELM_VERSIONS, ids=lambda version: f"helm{version}")
def helm(request):
    return helm_path(request.param)


@pytest.fixture
def app(helm, tmp_path):
    """app(WORKLOAD, dependency=…): the chart of an app."""

    def make(workload, **options) -> AppChart:
        return AppChart(helm, tmp_path / "shop", workload, **options)

    return make


def deployment_with(**pod_spec) -> dict:
    return merged(DEPLOYMENT, {"spec": {"template": {"spec": POD_SPEC | pod_spec}}})


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


@pytest.mark.parametrize(("theirs", "outbound"), [
    (None, "3306,9444,9443,9465"), ("5432", "5432,9443,9444,9465"), ("", "9443,9444,9465"),
])
def test_ports_that_the_mesh_excludes_are_kept(app, theirs, outbound):
    """To Istio a pod's annotation stands instead of the mesh's list; so a pod's own one does here."""
    annotations = {} if theirs is None else {OUTBOUND: theirs}
    workload = merged(DEPLOYMENT, {"spec": {"template": {"metadata": {"annotations": annotations}}}})
    mesh = {"svidmail": {"istio": {"excludeOutboundPorts": [3306, 9444], "excludeInboundPorts": [8081]}}}
    made = pod_of(app(workload).workload(SIDECAR_VALUES, mesh))["metadata"]["annotations"]
    assert (made[OUTBOUND], made[INBOUND]) == (outbound, "8081,9925")


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


def test_a_change_of_configuration_changes_no_job(app):
    """Its pod template cannot be changed: helm upgrade would fail.  A CronJob's next Job takes the change."""
    other = {"svidmail": {"config": {"ses": {"configuration_set": "x"}}}}
    job = app(WORKLOADS["Job"])
    assert job.workload(SIDECAR_VALUES, other) == job.workload(SIDECAR_VALUES)
    assert CHECKSUM in pod_of(app(WORKLOADS["CronJob"]).workload(SIDECAR_VALUES))["metadata"]["annotations"]


def test_each_release_has_a_configuration_of_its_own(helm, tmp_path):
    names = set()
    for release in ("checkout", "billing"):
        rendered = AppChart(helm, tmp_path / release, DEPLOYMENT, release=release).render(SIDECAR_VALUES)
        name = rendered.one("ConfigMap")["metadata"]["name"]
        pod = pod_of(rendered.one("Deployment"))
        [volume] = [entry for entry in pod["spec"]["volumes"] if entry["name"] == "svidmail-config"]
        assert volume["configMap"]["name"] == name == pod["metadata"]["annotations"]["svidmail.io/config"]
        names.add(name)
    assert names == {"checkout-shop-svidmail", "billing-shop-svidmail"}


def test_each_chart_of_one_release_has_a_configuration_of_its_own(helm, tmp_path):
    """An umbrella of two apps, each with svidmail as its dependency; one of them under an alias."""
    whole = AppChart(helm, tmp_path / "shop", DEPLOYMENT)
    dependencies = [{"name": "app", "version": "0.1.0", "repository": (tmp_path / "app").as_uri(), "alias": alias}
                    for alias in ("checkout", "shop")]
    AppChart(helm, tmp_path / "app", merged(DEPLOYMENT, {"metadata": {"name": "app"}}), name="app")
    whole.write("templates/workload.yaml", "")
    whole.write("Chart.yaml", yaml.safe_dump({"apiVersion": "v2", "name": "shop", "version": "0.1.0",
                                              "dependencies": dependencies}))
    whole._run("dependency", "update", str(whole.directory))
    rendered = whole.render({"checkout": SIDECAR_VALUES, "shop": SIDECAR_VALUES})
    made = {entry["metadata"]["name"] for entry in rendered.of("ConfigMap")}
    mounted = {volume["configMap"]["name"] for entry in rendered.of("Deployment")
               for volume in pod_of(entry)["spec"]["volumes"] if volume["name"] == "svidmail-config"}
    assert made == mounted == {"shop-checkout-svidmail", "shop-svidmail"}


def test_a_configmap_from_elsewhere_is_named(app):
    chart = app(DEPLOYMENT, dependency="svidmail-lib")
    for name, annotation in (("", None), ("platform-mail", "platform-mail")):
        pod = pod_of(chart.workload({"svidmail": {"image": IMAGE, "configMap": {"name": name}}}))
        [volume] = [entry for entry in pod["spec"]["volumes"] if entry["name"] == "svidmail-config"]
        assert volume["configMap"]["name"] == (name or "svidmail")
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


def test_podmonitor_scrapes_what_the_sidecar_offers(app):
    values = merged(SIDECAR_VALUES, {"svidmail": {"podMonitor": {"enabled": True}}})
    rendered = app(DEPLOYMENT).render(values)
    monitor = rendered.one("PodMonitor")["spec"]
    pod = pod_of(rendered.one("Deployment"))
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [port] = sidecar_of(rendered.one("Deployment"))["ports"]
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == [port["name"]]
    assert port["containerPort"] == 9925 and len(port["name"]) <= 15


def test_values_of_the_readme_are_taken(app):
    """What people copy into their own chart."""
    readme = (ROOT / "helm/svidmail/README.md").read_text()
    values = yaml.safe_load(re.search(r"```yaml\n# Chart\.yaml\n.*?(# values\.yaml\n.*?)```", readme, re.DOTALL)[1])
    assert sidecar_of(app(DEPLOYMENT).workload(values))["image"] == "registry.example/svidmail:0.1.0"


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


def test_svidmail_gets_each_variable_that_its_manual_names(app):
    manual = (ROOT / "docs/svidmail.8").read_text()
    [section] = re.findall(r"^\.SH ENVIRONMENT\n(.*?)^\.SH", manual, re.MULTILINE | re.DOTALL)
    named = re.findall(r"[A-Z_]+", " ".join(re.findall(r"^\.TP\n\.B (.*)$", section, re.MULTILINE)))
    given = {entry["name"]: entry for entry in sidecar_of(app(DEPLOYMENT).workload())["env"]}
    assert sorted(given) == sorted(named)
    assert given["NODE_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


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
    roots = {"svidmail": with_config("aws", "ca_file", value="/etc/roots/ca.pem")}
    assert "WARNING: svidmail.config.aws.ca_file is /etc/roots/ca.pem" in app.notes(SIDECAR_VALUES, roots)
    mount = {"svidmail": {"extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots"}]}}
    assert "WARNING" not in app.notes(SIDECAR_VALUES, roots, mount)


@pytest.mark.parametrize("kind", WORKLOADS)
def test_the_apps_notes_tell_of_a_shared_process_namespace(tmp_path, kind):
    """Where they are given the workload's template too."""
    workload = copy.deepcopy(WORKLOADS[kind])
    app = AppChart(helm_path("4"), tmp_path / "shop", workload)
    notes = 'Shop.\n{{- include "svidmail.notes" (list . "shop.workload") }}\n'
    app.write("templates/NOTES.txt", notes)
    assert app.notes(SIDECAR_VALUES).strip() == "Shop."
    pod_of(workload)["spec"]["shareProcessNamespace"] = True
    app = AppChart(helm_path("4"), tmp_path / "sharing", workload)
    app.write("templates/NOTES.txt", notes)
    warning = 'WARNING: template "shop.workload" has shareProcessNamespace: true'
    assert f"\n{warning}" in app.notes(SIDECAR_VALUES)
    assert "WARNING" not in app.notes({"svidmail": {"enabled": False}})


# --- refused

def test_an_old_kubernetes_is_named_in_the_apps_chart(app):
    """helm looks at the app's own kubeVersion only; there the app would wait for ever."""
    chart = app(DEPLOYMENT)
    assert re.search(r"Kubernetes 1\.29.*v1\.28\.9.*svidmail\.enabled: false",
                     chart.refusal(SIDECAR_VALUES, kube_version="1.28.9"))
    chart.render(SIDECAR_VALUES, kube_version="1.29.0-eks-1")
    chart.render({"svidmail": {"enabled": False}}, kube_version="1.28.9")


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
