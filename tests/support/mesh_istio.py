# SPDX-License-Identifier: Apache-2.0
"""A real istiod, and a gateway as it makes them: Istio's own pilot-agent and bootstrap, a vanilla Envoy under it.

The gateway's SVID and trust bundle come from a SPIRE agent by SDS; the roots by which it judges AWS are the system's,
served by pilot-agent.  Envoy is not Istio's build, so istiod is told to leave out what only that one has (metadata
exchange, Istio's ALPN filter): no test here says anything about these.  See tests/README.md.
"""

import base64
import http.client
import json
import os
import pathlib
import shutil
import subprocess

import yaml

from . import certs
from .gateway import ENVOY_UID
from .mesh_kube_api import KubeApi
from .mesh_network import GATEWAY_ADDRESS
from .processes import Failure, Process, has_fields, poll_until

XDS_PORT, ISTIOD_HTTP_PORT, WEBHOOK_PORT, ISTIOD_MONITORING_PORT = 15010, 8080, 15017, 15014
ENVOY_ADMIN_PORT = 15000
SPIRE_SOCKET = "spire-agent.sock"
DRAIN_S = 5

MESH_CONFIG = {
    "trustDomain": "example.org",
    "rootNamespace": "istio-system",
    # The same fields as the default text format, easier to read for a program.
    "accessLogEncoding": "JSON",
    "enablePrometheusMerge": False,
    "defaultConfig": {"discoveryAddress": f"127.0.0.1:{XDS_PORT}"},
}


class Istiod:
    """Reads the apiserver, judges what is written to it by its validating webhook, and configures gateways."""

    def __init__(self, bin_dir: str, source_dir: str, directory: str, api: KubeApi):
        self.directory = directory
        self.process: Process | None = None
        self._bin_dir = bin_dir
        self._source_dir = source_dir
        self._api = api
        self._is_installed = False

    def __enter__(self) -> "Istiod":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        if not self._is_installed:
            self._api.add_definitions(os.path.join(self._source_dir, "manifests/charts/base/files/crd-all.gen.yaml"))
            self._api.make_namespace("istio-system")
            self._is_installed = True
        mesh = os.path.join(self.directory, "mesh.yaml")
        pathlib.Path(mesh).write_text(yaml.safe_dump(MESH_CONFIG))
        authority = certs.HostAuthority("istiod's webhook CA")
        authority.write(os.path.join(self.directory, "webhook-ca.pem"))
        cert, key = authority.issue("localhost").write(self.directory, "webhook")
        self.process = Process("istiod", [
            os.path.join(self._bin_dir, "pilot-discovery"), "discovery", "--kubeconfig", self._api.kubeconfig,
            "--meshConfig", mesh, "--domain", "cluster.local", "--grpcAddr", f"127.0.0.1:{XDS_PORT}",
            "--secureGRPCAddr=", "--httpAddr", f"127.0.0.1:{ISTIOD_HTTP_PORT}",
            "--httpsAddr", f"127.0.0.1:{WEBHOOK_PORT}", "--monitoringAddr", f"127.0.0.1:{ISTIOD_MONITORING_PORT}",
            "--ctrlz_port", "0", "--caCertFile", f"{self.directory}/webhook-ca.pem", "--tlsCertFile", str(cert),
            "--tlsKeyFile", str(key)], log_dir=self.directory, env={
                "POD_NAME": "istiod", "POD_NAMESPACE": "istio-system", "ENABLE_CA_SERVER": "false",
                "PILOT_CERT_PROVIDER": "none", "XDS_AUTH": "false",
                "PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"})
        self._add_webhook(authority.pem)
        poll_until("istiod to be ready", self._is_ready, timeout=60, interval=0.2)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()     # its orderly end waits for its gateways to go
            self.process = None

    def _add_webhook(self, ca_pem: bytes) -> None:
        """As Istio's chart does it, but for all objects, and never to be passed over."""
        self._api.apply({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "istio-validator"}, "webhooks": [{
                "name": "rev.validation.istio.io", "failurePolicy": "Fail", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": f"https://localhost:{WEBHOOK_PORT}/validate",
                                 "caBundle": base64.b64encode(ca_pem).decode()},
                "rules": [{"operations": ["CREATE", "UPDATE"], "apiVersions": ["*"], "resources": ["*"],
                           "apiGroups": ["security.istio.io", "networking.istio.io", "telemetry.istio.io",
                                         "extensions.istio.io"]}]}]})

    def _is_ready(self) -> bool:
        if not self.process.is_alive():
            raise Failure(f"istiod ended with {self.process.returncode}:\n{self.process.stderr.tail()}")
        return _get("127.0.0.1", ISTIOD_HTTP_PORT, "/ready")[0] == 200

    def gateways(self) -> int:
        """How many are connected."""
        metrics = _get("127.0.0.1", ISTIOD_MONITORING_PORT, "/metrics")[1]
        return sum(int(float(line.split()[-1])) for line in metrics.splitlines() if line.startswith("pilot_xds{"))

    def istioctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """istioctl against the apiserver."""
        done = subprocess.run([os.path.join(self._bin_dir, "istioctl"), *arguments, "--kubeconfig",
                               self._api.kubeconfig], capture_output=True, text=True, timeout=60,
                              env={"PATH": os.environ["PATH"], "HOME": self.directory})
        if check and done.returncode != 0:
            raise Failure(f"istioctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done


class MeshGateway:
    """What a gateway pod's container runs, with the labels and annotations of the Deployment's pods."""

    host = "mail-egress.mail-egress.svc.cluster.local"
    api_port, end_to_end_port, smtp_port = 9443, 9444, 9465

    def __init__(self, programs, source_dir: str, directory: str, *, spire_socket: str, pod: dict):
        """`programs` has pilot_agent and envoy; `pod` is the template in the Deployment."""
        self.directory = directory
        self.process: Process | None = None
        self._programs = programs
        self._bootstrap = os.path.join(source_dir, "tools/packaging/common/envoy_bootstrap.json")
        self._spire_socket = spire_socket
        self._pod = pod

    # --- life

    def start(self) -> None:
        self._lay_out()
        config = {"discoveryAddress": f"127.0.0.1:{XDS_PORT}", "controlPlaneAuthPolicy": "NONE", "concurrency": 1,
                  "binaryPath": f"{self.directory}/envoy", "configPath": f"{self.directory}/etc/istio/proxy",
                  # Seen at once by a test; the default is a second.
                  "fileFlushInterval": "0.05s",
                  # How long connections outlive the configuration they were made under; Istio's default is 45 s.
                  "drainDuration": f"{DRAIN_S}s"}
        self.process = Process("gateway", [self._programs.pilot_agent, "proxy", "router", "--domain",
                                           "mail-egress.svc.cluster.local", "--log_output_level", "default:info"],
                               log_dir=self.directory, cwd=self.directory, uid=ENVOY_UID, env={
            "POD_NAME": "mail-egress-0", "POD_NAMESPACE": "mail-egress", "INSTANCE_IP": GATEWAY_ADDRESS,
            "SERVICE_ACCOUNT": "mail-egress", "TRUST_DOMAIN": MESH_CONFIG["trustDomain"],
            "ISTIO_META_CLUSTER_ID": "Kubernetes", "ISTIO_META_MESH_ID": MESH_CONFIG["trustDomain"],
            "WORKLOAD_IDENTITY_SOCKET_FILE": SPIRE_SOCKET, "PROXY_CONFIG": json.dumps(config),
            "GRPC_XDS_BOOTSTRAP": f"{self.directory}/etc/istio/grpc-bootstrap.json"})
        self.wait_ready()

    def wait_ready(self, timeout: float = 30) -> None:
        try:
            poll_until("the gateway to be ready", self.is_ready, timeout, interval=0.1)
        except Failure as failure:
            raise Failure(f"{failure}; it said:\n{self.process.stdout.tail()}\n{self.process.stderr.tail()}") from None

    def stop(self) -> None:
        if self.process is not None:
            envoys = self._children() if self.process.is_alive() else []
            self.process.kill()     # its orderly end takes as long as the chart lets connections drain
            self.process = None
            # Envoy ends by the end of its parent, a little later; its ports are the next start's.
            poll_until("Envoy to be gone", lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in envoys), 10)

    def _lay_out(self) -> None:
        """The files a pod has, below the working directory: pilot-agent's own paths are relative."""
        root = pathlib.Path(self.directory)
        for name in ("etc/istio/proxy", "etc/istio/pod", "var/lib/istio/envoy", "var/lib/istio/data",
                     "var/run/secrets/workload-spiffe-uds", "var/run/secrets/credential-uds"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(self._bootstrap, root / "var/lib/istio/envoy/envoy_bootstrap_tmpl.json")
        socket_link = root / "var/run/secrets/workload-spiffe-uds" / SPIRE_SOCKET
        socket_link.unlink(missing_ok=True)
        socket_link.symlink_to(self._spire_socket)
        for name in ("labels", "annotations"):
            # The downward API's format.
            lines = [f"{key}={json.dumps(value)}" for key, value in self._pod["metadata"].get(name, {}).items()]
            (root / "etc/istio/pod" / name).write_text("\n".join(lines))
        # Envoy must not outlive a pilot-agent that was killed.
        (root / "envoy").write_text(f'#!/bin/sh\nexec setpriv --pdeathsig KILL -- {self._programs.envoy} "$@"\n')
        (root / "envoy").chmod(0o755)
        for path in (root, *root.rglob("*")):
            os.chown(path, ENVOY_UID, ENVOY_UID, follow_symlinks=False)

    def is_ready(self) -> bool:
        if not self.process.is_alive():
            raise Failure(f"the gateway ended with {self.process.returncode}:\n{self.process.stderr.tail()}")
        return _get("127.0.0.1", 15021, "/healthz/ready")[0] == 200

    # --- what it has been told

    def config_dump(self) -> dict[str, list]:
        """Envoy's configuration; the parts by the end of their type's name (BootstrapConfigDump …)."""
        parts = json.loads(self._admin("GET", "/config_dump?include_eds"))["configs"]
        return {part["@type"].rpartition(".")[2]: part for part in parts}

    def listeners(self) -> set[int]:
        """The ports it listens on."""
        statuses = json.loads(self._admin("GET", "/listeners?format=json"))["listener_statuses"]
        return {status["local_address"]["socket_address"]["port_value"] for status in statuses}

    def wait_for_listeners(self, *ports: int, timeout: float = 20) -> None:
        poll_until(f"listeners on {ports}", lambda: set(ports) <= self.listeners(), timeout)

    def secrets(self) -> dict[str, dict]:
        """The SDS secrets by name."""
        dump = self.config_dump().get("SecretsConfigDump", {})
        return {secret["name"]: secret for secret in dump.get("dynamic_active_secrets", [])}

    # --- what it saw

    def access_log(self, **fields) -> list[dict]:
        return [entry for entry in map(_parse, list(self.process.stdout.items))
                if entry is not None and has_fields(entry, fields)]

    def mark(self) -> int:
        """A place in the log: wait_for_access(after=mark) passes over what was there before."""
        return len(self.process.stdout.items)

    def wait_for_access(self, *, after: int = 0, timeout: float = 10, **fields) -> dict:
        """The first line with these fields; Istio's names (response_flags, requested_server_name …)."""

        def matching(line: str):
            entry = _parse(line)
            return entry if entry is not None and has_fields(entry, fields) else None

        return self.process.wait_for_line(matching, timeout, start=after, stream="stdout",
                                          what=f"an access of {fields}")

    def stats(self, contains: str = "") -> dict[str, int]:
        answer = self._admin("GET", "/stats?format=json")
        return {stat["name"]: stat["value"] for stat in json.loads(answer)["stats"]
                if "name" in stat and contains in stat["name"]}

    def wait_for_stat(self, contains: str, at_least: int = 1, timeout: float = 10) -> int:
        return poll_until(f"{contains} >= {at_least}",
                          lambda: next((v for v in self.stats(contains).values() if v >= at_least), None), timeout)

    @property
    def envoy_pid(self) -> int:
        """pilot-agent's only child."""
        return self._children()[0]

    def _children(self) -> list[int]:
        """Forked by whichever of its threads."""
        return [int(pid) for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
                for pid in (task / "children").read_text().split()]

    def _admin(self, method: str, path: str) -> str:
        status, body = _get("127.0.0.1", ENVOY_ADMIN_PORT, path, method)
        if status != 200:
            raise Failure(f"the gateway's admin answered {status} to {path}: {body}")
        return body


def _get(host: str, port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """(0, why) when there is no answer."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException) as trouble:
        return 0, str(trouble)
    finally:
        connection.close()


def _parse(line: str) -> dict | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "response_flags" in entry else None
