# SPDX-License-Identifier: Apache-2.0
"""An app team's own workloads: the sidecar by one line in their chart, by the label, by the kustomize component."""

import copy
import json
import os

import pytest
import yaml
from support.cluster_app import AppRelease
from support.cluster_shop import ROOT
from support.processes import poll_until

ALL = {"deployment/checkout", "statefulset/ledger", "job/invoices"}
DEPLOYMENT_ONLY = {"job": False, "statefulSet": False}


@pytest.fixture(scope="module")
def app(new_shared_shop, cluster, tmp_path_factory):
    """The shop whose three workloads are installed by helm 4."""
    shop = new_shared_shop(configured=False)
    AppRelease(shop, cluster.helm4, tmp_path_factory.mktemp("app")).install()
    return shop


def pod_of(shop, app: str, *, but: str = "") -> dict:
    """The pod of a workload, as soon as one has a node; `but` is the uid of one that is not meant."""
    def look():
        return next((pod for pod in shop.cluster.pods(shop.namespace, f"app={app}") if pod["metadata"]["uid"] != but
                     and "deletionTimestamp" not in pod["metadata"] and "nodeName" in pod["spec"]), None)

    return poll_until(f"a pod of {app}", look, 30, interval=0.1)


def name_of(pod: dict) -> str:
    return pod["metadata"]["name"]


@pytest.mark.parametrize("workload", ["checkout", "ledger", "invoices"])
def test_one_line_in_the_chart_is_enough_for_a_workload_to_send_mail(app, workload):
    pod = pod_of(app, workload)
    mail = app.wait_for_mail(name_of(pod))
    # SES has it before svidmail says so.
    [done] = poll_until("mail.done", lambda: [
        line for line in app.sidecar_log(name_of(pod)) if line["event"] == "mail.done"], 20, interval=0.2)
    assert done["ses_message_id"] == mail.message_id


def test_a_job_completes_and_its_sidecar_ends_with_0(app, cluster):
    cluster.wait_ready("job/invoices", app.namespace)
    pod = poll_until("the pod to have succeeded", lambda: (
        pod := pod_of(app, "invoices"))["status"]["phase"] == "Succeeded" and pod, 20)
    [sidecar] = pod["status"]["initContainerStatuses"]
    assert (sidecar["state"]["terminated"]["exitCode"], sidecar["restartCount"]) == (0, 0)
    assert app.sidecar_log(name_of(pod))[-1]["event"] == "app.stopped"


def test_a_statefulset_sends_again_after_a_restart(app, cluster):
    before = pod_of(app, "ledger")
    cluster.kubectl("rollout", "restart", "statefulset/ledger", "--namespace", app.namespace)
    after = pod_of(app, "ledger", but=before["metadata"]["uid"])
    assert name_of(after) == name_of(before) == "ledger-0"
    poll_until("a second mail", lambda: len(app.mails("ledger-0")) == 2, 30)


def test_the_app_installed_by_helm_3_sends_mail(new_shop, cluster, tmp_path):
    shop = new_shop(configured=False)
    AppRelease(shop, cluster.helm3, tmp_path).install(DEPLOYMENT_ONLY)
    shop.wait_for_mail(name_of(pod_of(shop, "checkout")))


# --- the same pod, whichever way the sidecar came into it

def by_label(shop) -> dict:
    """The same Deployment, and the label instead of the line."""
    shop.configure()
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "checkout"},
                  "spec": {"selector": {"matchLabels": {"app": "checkout"}}, "template": shop.pod_template("serve")}}
    shop.apply(deployment)
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
