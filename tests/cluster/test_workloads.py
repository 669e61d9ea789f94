# SPDX-License-Identifier: Apache-2.0
"""An app team's own workloads: the sidecar by one line in their chart, by the label, by the kustomize component.

With an istio-proxy beside and without.
"""

import copy
import functools
import itertools
import json
import os

import pytest
import yaml
from support.cluster_app import AppRelease
from support.cluster_shop import ROOT, Shop
from support.processes import poll_until

WORKLOADS = ("checkout", "ledger", "invoices")
DEPLOYMENT_ONLY = {"job": False, "statefulSet": False}


@pytest.fixture(scope="module")
def install(new_shared_shop, cluster, tmp_path_factory):
    """install(WAY, PROXY): a shop whose three workloads have their sidecar by the `library` chart or the `label`."""

    @functools.cache
    def once(way: str, proxy: str) -> Shop:
        mesh = proxy == "istio-proxy"
        shop = new_shared_shop(configured=way == "label", restricted=not mesh)
        if way == "library":
            AppRelease(shop, cluster.helm4, tmp_path_factory.mktemp("app")).install({"mesh": mesh})
        else:
            shop.apply(*labelled_workloads(shop, mesh=mesh))
        return shop

    return once


@pytest.fixture(scope="module")
def app(install):
    """By helm 4, as the README of the library chart has it."""
    return install("library", "bare")


@pytest.fixture(params=itertools.product(("library", "label"), ("bare", "istio-proxy")), ids="-".join)
def each_way(request, install):
    """The shop, by each way, with and without an istio-proxy beside."""
    return install(*request.param)


def labelled_workloads(shop: Shop, *, mesh: bool = False) -> list[dict]:
    """What the chart of the app has, as its team writes it with the label instead of the line."""
    def workload(kind: str, name: str, word: str, spec: dict, **pod) -> dict:
        template = shop.pod_template(word, mesh=mesh, **pod)
        template["metadata"]["labels"]["app"] = name
        if kind != "Job":
            spec = spec | {"selector": {"matchLabels": {"app": name}}}
        return {"apiVersion": "batch/v1" if kind == "Job" else "apps/v1", "kind": kind, "metadata": {"name": name},
                "spec": spec | {"template": template}}

    return [workload("Deployment", "checkout", "serve", {}),
            workload("StatefulSet", "ledger", "serve", {"serviceName": "ledger"}),
            workload("Job", "invoices", "job", {}, restartPolicy="Never")]


def pod_of(shop, app: str, *, but: str = "") -> dict:
    """The pod of a workload, as soon as one has a node; `but` is the uid of one that is not meant."""
    def look():
        return next((pod for pod in shop.cluster.pods(shop.namespace, f"app={app}") if pod["metadata"]["uid"] != but
                     and "deletionTimestamp" not in pod["metadata"] and "nodeName" in pod["spec"]), None)

    return poll_until(f"a pod of {app}", look, 30, interval=0.1)


def name_of(pod: dict) -> str:
    return pod["metadata"]["name"]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_one_line_or_one_label_is_enough_for_a_workload_to_send_mail(each_way, workload):
    pod = pod_of(each_way, workload)
    mail = each_way.wait_for_mail(name_of(pod), timeout=40)
    # SES has it before svidmail says so.
    [done] = poll_until("mail.done", lambda: [
        line for line in each_way.sidecar_log(name_of(pod)) if line["event"] == "mail.done"], 20, interval=0.2)
    assert done["ses_message_id"] == mail.message_id


@pytest.mark.parametrize("way", ["library", "label"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_istio_proxy_is_beside_it_and_was_there_first(install, way, workload):
    pod = pod_of(install(way, "istio-proxy"), workload)
    assert [each["name"] for each in pod["spec"]["initContainers"]] == ["istio-init", "istio-proxy", "svidmail"]
    assert "9443" in pod["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeOutboundPorts"]


def test_a_job_completes_and_its_sidecars_end_with_0(each_way, cluster):
    cluster.wait_ready("job/invoices", each_way.namespace)
    pod = poll_until("the pod to have succeeded", lambda: (
        pod := pod_of(each_way, "invoices"))["status"]["phase"] == "Succeeded" and pod, 20)
    ends = {each["name"]: (each["state"]["terminated"]["exitCode"], each["restartCount"])
            for each in pod["status"]["initContainerStatuses"]}
    assert ends["svidmail"] == (0, 0) and set(ends.values()) == {(0, 0)}
    assert each_way.sidecar_log(name_of(pod))[-1]["event"] == "app.stopped"


def test_a_statefulset_sends_again_after_a_restart(each_way, cluster):
    before = pod_of(each_way, "ledger")
    each_way.wait_for_mail(name_of(before), timeout=40)
    cluster.kubectl("rollout", "restart", "statefulset/ledger", "--namespace", each_way.namespace)
    after = pod_of(each_way, "ledger", but=before["metadata"]["uid"])
    assert name_of(after) == name_of(before) == "ledger-0"
    poll_until("a second mail", lambda: len(each_way.mails("ledger-0")) == 2, 30)


def test_the_app_installed_by_helm_3_sends_mail(new_shop, cluster, tmp_path):
    shop = new_shop(configured=False)
    AppRelease(shop, cluster.helm3, tmp_path).install(DEPLOYMENT_ONLY)
    shop.wait_for_mail(name_of(pod_of(shop, "checkout")))


# --- the same pod, whichever way the sidecar came into it

def by_label(shop) -> dict:
    """The same Deployment, and the label instead of the line."""
    shop.configure()
    shop.apply(labelled_workloads(shop)[0])
    return pod_of(shop, "checkout")


def by_component(shop, directory) -> dict:
    """With the patch that this shop needs for AWS's CA, which a component has no values for."""
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "checkout"},
                  "spec": {"selector": {"matchLabels": {"app": "checkout"}},
                           "template": shop.pod_template("serve", labelled=False)}}
    authority = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "checkout"}, "spec": {"template": {
        "spec": {"initContainers": [{"name": "svidmail", "volumeMounts": [
                    {"name": "aws-ca", "mountPath": "/etc/aws-ca", "readOnly": True}]}],
                 "volumes": [{"name": "aws-ca", "configMap": {"name": "aws-ca"}}]}}}}
    files = {"deployment.yaml": deployment, "svidmail.yaml": shop.config(), "kustomization.yaml": {
        "resources": ["deployment.yaml"], "components": [os.path.relpath(ROOT / "deploy/kustomize", directory)],
        "images": [{"name": "svidmail", "newName": "registry.rig/svidmail", "newTag": "dev"}],
        "configMapGenerator": [{"name": "svidmail", "files": ["svidmail.yaml"]}],
        "patches": [{"patch": yaml.safe_dump(authority)}]}}
    for name, content in files.items():
        (directory / name).write_text(yaml.safe_dump(content))
    shop.cluster.kubectl("apply", "--namespace", shop.namespace, "--kustomize", str(directory))
    return pod_of(shop, "checkout")


def canonical(pod: dict) -> str:
    """As canonical JSON, less what any two pods differ in, and the names that each way gives its ConfigMap."""
    metadata, spec = pod["metadata"], copy.deepcopy(pod["spec"])
    labels = {key: value for key, value in metadata["labels"].items() if key != "pod-template-hash"}
    own = ("checksum/svidmail-config", "svidmail.io/config", "kubectl.kubernetes.io/restartedAt")
    annotations = {key: value for key, value in metadata["annotations"].items() if key not in own}
    [token] = [volume for volume in spec["volumes"] if volume["name"].startswith("kube-api-access-")]
    [config] = [volume for volume in spec["volumes"] if volume["name"] == "svidmail-config"]
    config["configMap"]["name"] = "the configuration"
    spec["volumes"].sort(key=lambda volume: volume["name"])
    for container in spec["initContainers"] + spec["containers"]:
        container["volumeMounts"].sort(key=lambda mount: mount["mountPath"])
    return json.dumps({"labels": labels, "annotations": annotations, "spec": spec}, sort_keys=True, indent=1).replace(
        token["name"], "kube-api-access")


def test_library_label_and_component_make_the_same_pod_and_each_sends_mail(new_shop, app, tmp_path):
    labelled, patched = new_shop(configured=False), new_shop(configured=False)
    pods = [(app, pod_of(app, "checkout")), (labelled, by_label(labelled)),
            (patched, by_component(patched, tmp_path))]
    library, label, component = (canonical(pod).replace(shop.namespace, "shop") for shop, pod in pods)
    assert label == library
    assert component == library
    for shop, pod in pods:
        shop.wait_for_mail(name_of(pod))
