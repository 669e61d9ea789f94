# SPDX-License-Identifier: Apache-2.0
"""A namespace with an app that mails: what an app team has, below the platform's gateway."""

import json
import pathlib
import time
from typing import Any

import yaml

from .cluster import APP_IMAGE, SPIRE_IMAGE, TRUST_DOMAIN, Cluster
from .processes import Failure, poll_until
from .sidecar import ROLE_ARN, merged

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# What the containers run.
PROGRAMS = [ROOT / "tests" / "cluster" / name for name in ("app.py", "intruder.py", "load.py")]
GATEWAY_HOST = "mail-egress.mail-egress.svc.cluster.local"
SERVICE_ACCOUNT = "checkout"
# A volume of the sidecar's: a pod that brings it has one for both.
AGENT = "svidmail-spiffe"
# svidmail judges the stand-in for AWS by its CA, which the image cannot have.
CA_VOLUMES = {"extraVolumes": [{"name": "aws-ca", "configMap": {"name": "aws-ca"}}],
              "extraVolumeMounts": [{"name": "aws-ca", "mountPath": "/etc/aws-ca", "readOnly": True}]}
IMAGE = {"registry": "registry.rig", "tag": "dev"}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Shop:
    """Its pods get the sidecar by the label, its configuration by the chart svidmail, from what the platform notes."""

    def __init__(self, cluster: Cluster, namespace: str, platform_config: dict, *, restricted: bool = True):
        self.cluster = cluster
        self.namespace = namespace
        # What every process of its pods has, and what the sidecar alone has.
        self.pod_id = f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{SERVICE_ACCOUNT}"
        self.spiffe_id = f"{self.pod_id}/svidmail"
        self._platform_config = platform_config
        cluster.make_namespace(namespace, **(RESTRICTED if restricted else {}))
        self.add_service_account(SERVICE_ACCOUNT)
        self.add_config_map("aws-ca", {"aws-ca.pem": cluster.authority.pem.decode()})
        self.add_config_map("app", {path.name: path.read_text() for path in PROGRAMS})
        cluster.trust(self.spiffe_id)

    def add_service_account(self, name: str) -> None:
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})

    def add_config_map(self, name: str, data: dict[str, str]) -> None:
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})

    # --- set-up

    def config(self, **changes: Any) -> dict:
        """svidmail.yaml of this shop: what the platform's notes say, the role, and what the test changes."""
        return merged(merged(self._platform_config, {
            "aws": {"role_arn": ROLE_ARN, "ca_file": "/etc/aws-ca/aws-ca.pem"}}), changes)

    def configure(self, **changes: Any) -> None:
        """Installs, or changes, the chart svidmail: the ConfigMap that pods with the label are mounted."""
        values = pathlib.Path(self.cluster.directory, f"{self.namespace}.yaml")
        values.write_text(yaml.safe_dump({"config": self.config(**changes)}))
        self.cluster.helm4("upgrade", "--install", "svidmail", str(ROOT / "helm" / "svidmail"), "--namespace",
                           self.namespace, "--values", str(values))

    def apply(self, *objects: dict) -> None:
        self.cluster.apply(list(objects), namespace=self.namespace)

    def pod_template(self, *command: str, image: str = APP_IMAGE, container: str = "app", agent: bool = False,
                     mesh: bool = False, labelled: bool = True, annotations: dict | None = None, **spec: Any) -> dict:
        """metadata and spec of a pod whose container `app` runs app.py with these words; `spec` is laid over it.

        agent: that container has the SPIRE agent's socket, and SPIRE's client for it.
        """
        labels = {"app": "checkout"}
        if labelled:
            labels["svidmail.io/inject"] = "true"
        notes = {}
        if mesh:
            labels["sidecar.istio.io/inject"] = "true"
            notes["inject.istio.io/templates"] = "sidecar,spire"
        volumes, mounts = [{"name": "app", "configMap": {"name": "app"}}], [{"name": "app", "mountPath": "/app"}]
        if agent:
            image = SPIRE_IMAGE
            volumes.append({"name": AGENT, "csi": {"driver": "csi.spiffe.io", "readOnly": True}})
            mounts.append({"name": AGENT, "mountPath": "/spiffe-workload-api", "readOnly": True})
        usual = {
            "serviceAccountName": SERVICE_ACCOUNT, "terminationGracePeriodSeconds": 10,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": volumes,
            "containers": [{
                "name": container, "image": image, "command": ["python3", "-u", "/app/app.py", *command],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": mounts}]}
        return {"metadata": {"labels": labels, "annotations": notes | (annotations or {})}, "spec": usual | spec}

    def start_pod(self, *command: str, name: str = "checkout", ready: bool = True, **template: Any) -> str:
        """A bare Pod; its name.  `ready` waits until it is."""
        pod = self.pod_template(*command, **template)
        pod["metadata"]["name"] = name
        self.apply({"apiVersion": "v1", "kind": "Pod", **pod})
        if ready:
            self.cluster.wait_ready(f"pod/{name}", self.namespace)
        return name

    def start_stranger(self, name: str = "stranger") -> str:
        """A pod whose sidecar shows what SPIRE gives another service account; the gateway's policy does not name it."""
        identity = self.pod_id.replace(f"/sa/{SERVICE_ACCOUNT}", f"/sa/{name}")
        self.add_service_account(name)
        self.add_config_map(name, {"svidmail.yaml": yaml.safe_dump(self.config(
            identity={"mesh": {"spiffe_id": identity, "hint": ""}}))})
        return self.start_pod("idle", name=name, serviceAccountName=name, annotations={"svidmail.io/config": name})

    def start_captured_pod(self, *command: str, like: str, name: str, **template: Any) -> str:
        """A pod with an istio-proxy whose owner has copied the sidecar of the pod `like`, and not its annotations.

        The policy adds none of these to a pod that has its sidecar.
        """
        injected = self.cluster.get("pod", like, self.namespace)["spec"]
        [sidecar] = [each for each in injected["initContainers"] if each["name"] == "svidmail"]
        # The apiserver adds its token to each pod itself.
        sidecar["volumeMounts"] = [
            each for each in sidecar["volumeMounts"] if not each["name"].startswith("kube-api-access-")]
        mounted = {each["name"] for each in sidecar["volumeMounts"]}
        pod = self.pod_template(*command, mesh=True, initContainers=[sidecar], **template)
        pod["metadata"]["name"] = name
        pod["spec"]["volumes"] += [each for each in injected["volumes"] if each["name"] in mounted]
        self.apply({"apiVersion": "v1", "kind": "Pod", **pod})
        self.cluster.wait_ready(f"pod/{name}", self.namespace)
        return name

    # --- what happens there

    def exec(self, name: str, container: str, *argv: str, **options: Any):
        return self.cluster.exec(self.namespace, name, container, *argv, **options)

    def svidmail(self, name: str, *command: str, check: bool = True) -> str:
        """What `kubectl exec … -c svidmail -- svidmail COMMAND` says."""
        return self.exec(name, "svidmail", "svidmail", *command, check=check).stdout

    def wait_ready_to_relay(self, name: str, timeout: float = 20) -> None:
        poll_until(f"svidmail in {name} to be ready: {self.svidmail(name, 'status', check=False)}", lambda: self.exec(
            name, "svidmail", "svidmail", "health", "--ready", check=False).returncode == 0, timeout, interval=0.2)

    def wait_for_own_identity(self, name: str, timeout: float = 20) -> None:
        """Until the agent has given svidmail in a pod its SVID: until then each mail is put off at once."""
        poll_until(f"svidmail in {name} to have its identity", lambda: "spiffe_id" in json.loads(
            self.svidmail(name, "identity", "--output=json")).get("mesh", {}), timeout, interval=0.2)

    def send(self, name: str, subject: str = "hello") -> tuple[int, str]:
        """One attempt of the app's container; the reply."""
        said = self.exec(name, "app", "python3", "/app/app.py", "send", subject).stdout
        reply = next(line for line in _events(said) if line["event"] == "reply")
        return reply["code"], reply["text"]

    def intrude(self, name: str, container: str, *command: str) -> dict:
        """What came of `intruder.py COMMAND` in a container."""
        return json.loads(self.exec(name, container, "python3", "/app/intruder.py", *command).stdout)

    def wait_for_identities(self, name: str, container: str, *spiffe_ids: str, timeout: float = 20) -> None:
        """Until the agent has heard of the new pod's entries: exactly these are what a container of it is given."""
        said: dict = {}

        def has_them() -> bool:
            said.update(last=self.intrude(name, container, "identities"))
            return sorted(said["last"].get("identities", [])) == sorted(spiffe_ids)

        try:
            poll_until(f"the identities of {container} in {name}", has_them, timeout, interval=0.3)
        except Failure as failure:
            raise Failure(f"{failure}: expected {spiffe_ids}, the last answer was {said}") from None

    def app_says(self, name: str, event: str, timeout: float = 30, **match: Any) -> dict:
        """The first such line of the app's log, waited for."""
        following = self.cluster.follow(self.namespace, name, "app")
        try:
            def find(text: str) -> dict | None:
                line = _event(text)
                return line if line and line["event"] == event and match.items() <= line.items() else None

            return following.wait_for_line(find, timeout, stream="stdout", what=event)
        except Failure as failure:
            raise Failure(f"{failure}\n{self.cluster.describe(self.namespace)}") from None
        finally:
            following.kill()

    def mails(self, subject: str | None = None) -> list:
        """What SES took of this shop's sidecars, as the role session's name tells; of one subject if it is given."""
        return [mail for mail in self.cluster.aws.mails if self._is_mine(mail)
                and subject in (None, str(mail.parsed["Subject"]))]

    def wait_for_mail(self, subject: str, timeout: float = 20):
        return poll_until(f"a mail {subject!r} at SES", lambda: next(iter(self.mails(subject)), None), timeout)

    def _is_mine(self, mail) -> bool:
        key = mail.request.access_key_id
        return any(token.access_key_id == key and token.subject == self.spiffe_id for token in self.cluster.aws.tokens)

    def sidecar_log(self, name: str, *options: str) -> list[dict]:
        text = self.cluster.logs(self.namespace, name, "svidmail", *options)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def remove(self) -> None:
        """Begins to; who comes next has another namespace."""
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")


def _event(text: str) -> dict | None:
    return json.loads(text) if text.startswith("{") else None


def _events(text: str) -> list[dict]:
    return [event for event in map(_event, text.splitlines()) if event]


def now() -> float:
    """The clock that the apps and the stand-ins have too."""
    return time.time()
