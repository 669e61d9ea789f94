# SPDX-License-Identifier: Apache-2.0
"""The sidecar by a label: the policies of mail-egress in a real apiserver, with Kubernetes' real controllers."""

import copy
import json
import os
import uuid

import pytest
from support.app_chart import CONFIG, IMAGE, POD, SIDECAR_VALUES, WORKLOADS, AppChart, pod_of
from support.charts import HELM_VERSIONS, Chart, helm_path
from support.kubectl import Refused
from support.processes import Process, poll_until
from support.sidecar import merged

LABEL = {"svidmail.io/inject": "true"}
OUTBOUND = "traffic.sidecar.istio.io/excludeOutboundPorts"
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
              "seccompProfile": {"type": "RuntimeDefault"}}
EXTRAS = {
    "extraEnv": [{"name": "TZ", "value": "Europe/\"Berlin\" \\ <&>"}],
    "extraVolumes": [
        {"name": "roots", "configMap": {"name": "roots", "items": [{"key": "a", "path": "ca.pem", "mode": 0o444}]}},
        {"name": "other", "csi": {"driver": "csi.example", "volumeAttributes": {"a/b": "c"}}},
        {"name": "about", "projected": {"sources": [{"secret": {"name": "a"}}, {"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}},
    ],
    "extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots", "readOnly": True}],
    "resources": {"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"memory": "128Mi"}},
}
# What Istio's global.proxy excludes in every pod.
MESH = {"istio": {"excludeOutboundPorts": [3306, 9444], "excludeInboundPorts": [8081]}}


@pytest.fixture(scope="module")
def install(kube_api):
    """install(VALUES): the chart's policies with these values of `injection` and `istio`, in force when it returns."""
    chart = Chart("mail-egress", helm_path("4"))
    installed = []

    def apply(values: dict) -> None:
        injection = {key: value for key, value in values.items() if key != "istio"}
        rendered = chart.render(chart.ci["injection"], {"injection": {"image": IMAGE} | injection,
                                                        "istio": values.get("istio", {})})
        kube_api.apply([entry for entry in rendered.objects if "AdmissionPolicy" in entry["kind"]])

    def wait(what: str, is_so) -> None:
        poll_until(what, lambda: is_so(json.dumps(probe(kube_api)["spec"])), timeout=30, interval=0.2)

    def make(values: dict) -> None:
        if installed == [values]:
            return
        installed.clear()
        # A changed policy acts after a while.  A mark that comes and goes shows that it does.
        env = values.get("extraEnv", [])
        apply(values | {"namespaceSelector": {}, "extraEnv": [*env, {"name": "MARK", "value": "there"}]})
        wait("the policy to act", lambda spec: "MARK" in spec)
        apply(values)
        wait("the policy to act", lambda spec: "MARK" not in spec)
        # The policies that warn and refuse are read by a loop of their own.
        poll_until("the other policies to act", lambda: warns_of(kube_api, labelled(
            POD, shareProcessNamespace=True), "default", "shareProcessNamespace is true"), timeout=30, interval=0.2)
        installed.append(values)

    yield make
    for kind in ("mutatingadmissionpolicy", "validatingadmissionpolicy"):
        for name in (kind, kind + "binding"):
            kube_api.kubectl("delete", name, "--selector", "app.kubernetes.io/component=injection")
    wait("the policies to be gone", lambda spec: "svidmail" not in spec)


@pytest.fixture
def policies(install, request):
    """The policies with the values a test is marked with, else the usual ones."""
    install(getattr(request, "param", {}))


@pytest.fixture
def namespace(kube_api):
    return kube_api.make_namespace(f"inject-{uuid.uuid4().hex[:8]}")


def probe(kube_api) -> dict:
    return created(kube_api, labelled(POD), "default")


def labelled(pod: dict, labels: dict | None = None, annotations: dict | None = None, **spec) -> dict:
    metadata = {"labels": LABEL if labels is None else labels}
    if annotations is not None:
        metadata["annotations"] = annotations
    return merged(pod, {"metadata": metadata, "spec": spec})


def with_template(workload: dict, labels: dict = LABEL, **spec) -> dict:
    """The workload, its pod template having these labels and this in its spec."""
    workload = copy.deepcopy(workload)
    pod = pod_of(workload)
    pod["metadata"] = merged(pod.get("metadata", {}), {"labels": labels})
    pod["spec"] |= spec
    return workload


def canonical(pod: dict) -> str:
    """The pod as canonical JSON, without what differs between any two."""
    pod = copy.deepcopy(pod)
    for name in ("uid", "creationTimestamp", "managedFields", "resourceVersion", "generation"):
        pod["metadata"].pop(name, None)
    pod.pop("status", None)
    return json.dumps(pod, sort_keys=True, indent=1)


def names(entries) -> list[str]:
    return [entry["name"] for entry in entries or []]


def created(kube_api, pod: dict, namespace: str) -> dict:
    [pod] = kube_api.create(pod, dry_run=True, namespace=namespace)
    return pod


def warns_of(kube_api, pod: dict, namespace: str, words: str) -> bool:
    created(kube_api, pod, namespace)
    return any(words in warning for warning in kube_api.warnings)


# --- the same pod, however the sidecar came into it

PODS = {
    "plain": labelled(POD),
    "with annotations": labelled(POD, annotations={OUTBOUND: "5432, 9444 ,", "a": "b"}),
    "with an empty annotation": labelled(POD, annotations={OUTBOUND: ""}),
    "with init containers": labelled(POD, initContainers=[{"name": "migrate", "image": "registry.rig/shop:1"}]),
    "with volumes": labelled(POD, volumes=[{"name": "data", "emptyDir": {}}]),
    "with a spool of its own": labelled(
        POD, volumes=[{"name": "svidmail-spool", "persistentVolumeClaim": {"claimName": "mail"}}]),
    "with an empty name of a configuration": labelled(POD, annotations={"svidmail.io/config": ""}),
    "with a configuration of its own": labelled(POD, annotations={"svidmail.io/config": "billing-mail"}),
}


@pytest.mark.parametrize(("policies", "values"), [({}, {}), (EXTRAS, EXTRAS), (MESH, MESH)], indirect=["policies"],
                         ids=["usual", "extras", "ports of the mesh"])
def test_injected_pod_equals_the_library_charts(kube_api, policies, namespace, tmp_path, values):
    for name, pod in PODS.items():
        config_map = pod["metadata"].get("annotations", {}).get("svidmail.io/config", "")
        chart = AppChart(helm_path("4"), tmp_path / name.replace(" ", "-"), pod, dependency="svidmail-lib")
        by_library = chart.workload({"svidmail": {"image": IMAGE, "configMap": {"name": config_map}} | values})
        assert names(by_library["spec"]["initContainers"])[0] == "svidmail"
        by_label = created(kube_api, pod, namespace)
        assert canonical(by_label) == canonical(created(kube_api, by_library, namespace)), name


def test_pods_without_the_label_are_left_alone(kube_api, policies, namespace):
    for labels in ({}, {"app": "shop"}, {"svidmail.io/inject": "false"}):
        pod = created(kube_api, labelled(POD, labels), namespace)
        assert "initContainers" not in pod["spec"] and "volumes" not in pod["spec"]
        assert "annotations" not in pod["metadata"]
        assert kube_api.warnings == []


def test_injection_is_idempotent(kube_api, policies, namespace):
    once = created(kube_api, PODS["with annotations"], namespace)
    again = copy.deepcopy(once)
    for name in ("uid", "creationTimestamp", "managedFields", "resourceVersion"):
        again["metadata"].pop(name, None)
    assert canonical(created(kube_api, again, namespace)) == canonical(once)


LATECOMER = """\
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: svidmail-test-latecomer}
spec:
  reinvocationPolicy: IfNeeded
  matchConstraints:
    objectSelector: {matchLabels: {latecomer: "true"}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  matchConditions:
  - {name: once, expression: "!object.spec.initContainers.exists(c, c.name == 'late')"}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        [JSONPatch{op: "add", path: "/spec/initContainers/0", value:
          Object.spec.initContainers{name: "late", image: "x:1"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: svidmail-test-latecomer}
spec: {policyName: svidmail-test-latecomer}
"""


def test_another_policy_that_changes_the_pod_makes_no_second_sidecar(kube_api, policies, namespace):
    """Policies run again after each other's changes, as after those of Istio's webhook."""
    kube_api.apply(LATECOMER)
    try:
        labels = LABEL | {"latecomer": "true"}
        pod = labelled(POD, labels, initContainers=[{"name": "migrate", "image": "registry.rig/shop:1"}])
        poll_until("the other policy to act",
                   lambda: "late" in names(created(kube_api, pod, namespace)["spec"]["initContainers"]), timeout=30,
                   interval=0.2)
        both = created(kube_api, pod, namespace)
        assert sorted(names(both["spec"]["initContainers"])) == ["late", "migrate", "svidmail"]
        assert len(names(both["spec"]["volumes"])) == len(set(names(both["spec"]["volumes"]))) == 4
    finally:
        for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
            kube_api.delete(kind, "svidmail-test-latecomer")


def test_a_missing_configmap_does_not_keep_the_pod_away(kube_api, policies, namespace):
    """The kubelet waits for it, and says so; nothing has to be there first."""
    pod = created(kube_api, labelled(POD), namespace)
    [volume] = [entry for entry in pod["spec"]["volumes"] if entry["name"] == "svidmail-config"]
    assert volume["configMap"]["name"] == "svidmail" and "optional" not in volume["configMap"]


# --- what is told

def test_a_pod_that_came_out_without_the_sidecar_is_warned_of(kube_api, policies, namespace):
    """As when the policy fails, or acts in other namespaces only."""
    binding = kube_api.get("mutatingadmissionpolicybinding", "svidmail-inject")
    kube_api.delete("mutatingadmissionpolicybinding", "svidmail-inject")
    try:
        poll_until("the policy to rest", lambda: "initContainers" not in probe(kube_api)["spec"], timeout=30,
                   interval=0.2)
        created(kube_api, labelled(POD), namespace)
        [warning] = kube_api.warnings
        assert "came out without the sidecar" in warning and "svidmail-inject" in warning
    finally:
        kube_api.apply({key: binding[key] for key in ("apiVersion", "kind", "spec")} | {
            "metadata": {"name": "svidmail-inject", "labels": binding["metadata"]["labels"]}})
        poll_until("the policy to act", lambda: "initContainers" in probe(kube_api)["spec"], timeout=30, interval=0.2)


def test_an_injected_pod_is_not_warned_of(kube_api, policies, namespace):
    created(kube_api, labelled(POD), namespace)
    assert kube_api.warnings == []


def test_a_shared_process_namespace_is_warned_of(kube_api, policies, namespace):
    pod = created(kube_api, labelled(POD, shareProcessNamespace=True), namespace)
    assert names(pod["spec"]["initContainers"]) == ["svidmail"]
    [warning] = kube_api.warnings
    assert "shareProcessNamespace is true" in warning and "leave it out" in warning


def test_a_pod_on_the_nodes_network_is_refused(kube_api, policies, namespace):
    with pytest.raises(Refused, match=r"hostNetwork is true.*leave.*hostNetwork or the label"):
        created(kube_api, labelled(POD, hostNetwork=True), namespace)
    created(kube_api, labelled(POD, {}, hostNetwork=True), namespace)


def test_a_pod_on_the_nodes_network_gets_the_sidecar_when_it_says_so(kube_api, policies, namespace):
    wanted = {"svidmail.io/allow-host-network": "true"}
    pod = created(kube_api, labelled(POD, annotations=wanted, hostNetwork=True), namespace)
    assert names(pod["spec"]["initContainers"]) == ["svidmail"]


@pytest.mark.parametrize("kind", [kind for kind in WORKLOADS if kind != "Pod"])
def test_a_workload_is_warned_of_where_somebody_sees_it(kube_api, policies, namespace, kind):
    """A controller creates the pods, and keeps to itself what it is told."""
    for spec, words in (({"hostNetwork": True}, "its pods will be refused"),
                        ({"shareProcessNamespace": True}, "shareProcessNamespace is true")):
        kube_api.create(with_template(WORKLOADS[kind], **spec), dry_run=True, namespace=namespace)
        [warning] = kube_api.warnings
        assert words in warning
        kube_api.create(with_template(WORKLOADS[kind], labels={"app": "shop"}, **spec), dry_run=True,
                        namespace=namespace)
        assert kube_api.warnings == []


@pytest.mark.parametrize("kind", [kind for kind in WORKLOADS if kind != "Pod"])
def test_a_label_on_the_workload_instead_of_its_pods_is_warned_of(kube_api, policies, namespace, kind):
    misplaced = merged(WORKLOADS[kind], {"metadata": {"labels": LABEL}})
    kube_api.create(misplaced, dry_run=True, namespace=namespace)
    [warning] = kube_api.warnings
    assert "belongs into the pod template" in warning
    kube_api.create(with_template(misplaced), dry_run=True, namespace=namespace)
    assert kube_api.warnings == []


@pytest.mark.parametrize("policies", [{"namespaceSelector": {"matchLabels": {"mail": "yes"}}}], indirect=True)
def test_the_label_counts_in_the_chosen_namespaces_only(kube_api, policies, namespace):
    """The policy's own namespaceSelector; the probe of the fixture lives in the namespace default."""
    poll_until("the warning to say so", lambda: warns_of(
        kube_api, labelled(POD), namespace, "it acts in some namespaces only"), timeout=30, interval=0.2)
    assert len(kube_api.warnings) == 1
    chosen = kube_api.make_namespace(f"inject-{uuid.uuid4().hex[:8]}", mail="yes")
    with pytest.raises(Refused, match=r"hostNetwork is true"):
        created(kube_api, labelled(POD, hostNetwork=True), chosen)

    def is_taken() -> bool:
        try:
            return bool(created(kube_api, labelled(POD, hostNetwork=True), namespace))
        except Refused:
            return False

    poll_until("a pod on the node's network to be taken where the label does not count", is_taken, 30, interval=0.2)
    assert warns_of(kube_api, labelled(POD, hostNetwork=True), namespace, "it acts in some namespaces only")
    kube_api.create(with_template(WORKLOADS["Deployment"], hostNetwork=True), dry_run=True, namespace=namespace)
    assert kube_api.warnings == []


# --- Kubernetes' own controllers

@pytest.fixture(scope="module")
def controllers(kube_api, programs, session_dir):
    """The real controller manager, which makes pods of workloads."""
    directory = session_dir()
    manager = Process("kube-controller-manager", [
        os.path.join(programs.kubernetes_dir, "kube-controller-manager"), f"--kubeconfig={kube_api.kubeconfig}",
        "--controllers=deployment,replicaset,statefulset,job,cronjob,validatingadmissionpolicy-status-controller",
        "--leader-elect=false", "--secure-port=0"],
        log_dir=directory)
    yield manager
    manager.kill()


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_pods_of_controllers_get_the_sidecar(kube_api, policies, controllers, namespace, kind):
    """Like the pod somebody creates by hand, but for what the controller adds."""
    kube_api.create(with_template(WORKLOADS[kind]), namespace=namespace)

    def pods():
        return kube_api.get("pods", namespace=namespace)["items"]

    poll_until(f"the pod of the {kind}", pods, timeout=60, interval=0.2)
    [pod] = pods()
    assert names(pod["spec"]["initContainers"]) == ["svidmail"]
    by_hand = created(kube_api, labelled(POD), namespace)
    assert pod["spec"]["initContainers"] == by_hand["spec"]["initContainers"]
    assert pod["spec"]["volumes"] == by_hand["spec"]["volumes"]


def test_kubernetes_finds_nothing_odd_in_the_policies(kube_api, policies, controllers):
    """It compares each expression with the types that the policy matches."""
    def checked():
        return [policy for policy in kube_api.get("validatingadmissionpolicy")["items"]
                if policy["metadata"]["name"].startswith("svidmail-inject")
                and policy.get("status", {}).get("observedGeneration") == policy["metadata"]["generation"]]

    poll_until("the policies to be checked", lambda: len(checked()) == 3, timeout=60, interval=0.2)
    assert [policy["status"].get("typeChecking", {}) for policy in checked()] == [{}] * 3


# --- what the apiserver takes

@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("kind", WORKLOADS)
def test_the_apiserver_takes_a_workload_with_the_sidecar(kube_api, namespace, tmp_path, kind, version):
    objects = AppChart(helm_path(version), tmp_path / "shop", WORKLOADS[kind]).render(SIDECAR_VALUES).objects
    for entry in objects:
        entry["metadata"]["namespace"] = namespace
    for dry_run in (True, False):
        kube_api.apply(objects, dry_run=dry_run)
        assert kube_api.warnings == []


def test_podsecurity_restricted_takes_the_sidecar(kube_api, policies, tmp_path):
    namespace = kube_api.make_namespace(f"inject-{uuid.uuid4().hex[:8]}",
                                        **{"pod-security.kubernetes.io/enforce": "restricted"})
    strict = [{"name": "shop", "image": "registry.rig/shop:1", "securityContext": RESTRICTED}]
    pod = created(kube_api, labelled(POD, containers=strict), namespace)
    assert names(pod["spec"]["initContainers"]) == ["svidmail"]
    by_library = AppChart(helm_path("4"), tmp_path / "shop", merged(POD, {"spec": {"containers": strict}})).workload()
    created(kube_api, by_library, namespace)
    with pytest.raises(Refused, match="violates PodSecurity"):
        created(kube_api, labelled(POD), namespace)


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_helm_installs_upgrades_and_removes_the_configuration(kube_api, namespace, version):
    chart = Chart("svidmail", helm_path(version), release="mail", namespace=namespace)
    chart.deploy(kube_api.kubeconfig, {"config": CONFIG})
    before = kube_api.get("configmap", "svidmail", namespace)["data"]["svidmail.yaml"]
    chart.deploy(kube_api.kubeconfig, {"config": merged(CONFIG, {"log": {"level": "debug"}})})
    after = kube_api.get("configmap", "svidmail", namespace)["data"]["svidmail.yaml"]
    assert "level: debug" in after and "level: debug" not in before
    chart._run("uninstall", "mail", "--namespace", namespace, "--kubeconfig", kube_api.kubeconfig)
    with pytest.raises(Refused, match="not found"):
        kube_api.get("configmap", "svidmail", namespace)


# --- offline: what the chart refuses

@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_an_old_kubernetes_is_named_with_the_other_way(version):
    chart = Chart("mail-egress", helm_path(version))
    refusal = chart.refusal(chart.ci["injection"], kube_version="1.35.9")
    for word in ("injection.enabled", "1.36", "v1.35.9", "svidmail-lib"):
        assert word in refusal
    assert not chart.render(chart.ci["default"], kube_version="1.35.9").has("MutatingAdmissionPolicy")
    assert chart.render(chart.ci["injection"], kube_version="1.36.0-eks-1").has("MutatingAdmissionPolicy")


@pytest.mark.parametrize(("values", "words"), [
    ({"image": {"registry": ""}}, ["injection.image.registry: is missing"]),
    ({"image": {"digest": "sha256:1"}}, ["injection", "digest"]),
    ({"failurePolicy": "Never"}, ["failurePolicy"]),
    ({"spool": {"sizeLimit": "100Mi"}}, ["injection.spool.sizeLimit: 100Mi", "raise"]),
    ({"imagePullPolicy": "Always"}, ["imagePullPolicy"]),
])
def test_wrong_values_are_refused_with_key_and_cure(values, words):
    chart = Chart("mail-egress", helm_path("4"))
    refusal = chart.refusal(chart.ci["injection"], {"injection": values})
    for word in words:
        assert word in refusal


def test_ports_of_the_gateway_are_those_the_pods_exclude():
    chart = Chart("mail-egress", helm_path("4"))
    rendered = chart.render(chart.ci["injection"], {"gateway": {"ports": {"api": 19443}}})
    policy = json.dumps(rendered.one("MutatingAdmissionPolicy"))
    assert '[\\"19443\\",\\"9444\\",\\"9465\\"]' in policy


def test_ports_that_the_mesh_excludes_stand_for_a_pod_that_names_none():
    chart = Chart("mail-egress", helm_path("4"))
    policy = json.dumps(chart.render(chart.ci["injection"], MESH).one("MutatingAdmissionPolicy"))
    for ports in ("3306,9444", "8081"):
        assert f'orValue(\\"{ports}\\")' in policy


def test_notes_say_where_a_labelled_pods_configuration_comes_from():
    chart = Chart("mail-egress", helm_path("4"))
    notes = chart.notes(chart.ci["injection"])
    for words in ('svidmail.io/inject: "true"', "the ConfigMap svidmail of its namespace", "svidmail.io/config",
                  'MountVolume.SetUp failed for volume "svidmail-config"'):
        assert words in notes
    assert "svidmail.io/inject" not in chart.notes(chart.ci["default"])
