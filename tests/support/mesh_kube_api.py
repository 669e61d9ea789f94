# SPDX-License-Identifier: Apache-2.0
"""A real etcd and kube-apiserver and nothing else of Kubernetes: objects are judged and stored, and nothing acts on them.

    with KubeApi(kubernetes_bin, directory) as api:
        api.apply(manifest)                                   # kubectl apply --server-side; what came out of it
        api.apply(manifest, dry_run=True)                     # admission and schema, nothing stored
        api.get("configmap", "svidmail", "shop")["data"]
        api.kubectl("label", "namespace", "shop", "a=b")

There is no controller: no ServiceAccount is made for a namespace (the admission plugin that asks for one is off), no
Deployment makes a Pod, and a deleted namespace stays Terminating.  So take new names instead of deleting old ones.
"""

import json
import os
import pathlib
import secrets
import subprocess
from collections.abc import Iterable

import yaml

from . import certs, ports
from .processes import Failure, Process, poll_until

SERVICE_CIDR = "10.96.0.0/16"


class Refused(Failure):
    """The apiserver did not take it; the text is kubectl's."""


class KubeApi:
    """Use as a context manager, or start() and stop(); nothing is kept from one start to the next."""

    def __init__(self, bin_dir: str, directory: str, *, address: str = "127.0.0.1"):
        self.directory = directory
        self.address = address
        self.port = ports.free_port()
        self.kubeconfig = os.path.join(directory, "kubeconfig")
        self.etcd: Process | None = None
        self.apiserver: Process | None = None
        self.warnings: list[str] = []
        self._bin_dir = bin_dir
        self._token = secrets.token_hex(16)
        self._etcd_ports = (ports.free_port(), ports.free_port())

    def __enter__(self) -> "KubeApi":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    # --- life

    def start(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        self.etcd = Process("etcd", [
            self._program("etcd"), "--data-dir", f"{self.directory}/etcd", "--listen-client-urls", client,
            "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}", "--unsafe-no-fsync", "--log-level", "warn"],
            log_dir=self.directory)
        self._write_keys()
        self.apiserver = Process("kube-apiserver", [
            self._program("kube-apiserver"), f"--etcd-servers={client}", f"--bind-address={self.address}",
            f"--advertise-address={self.address}", f"--secure-port={self.port}", f"--cert-dir={self.directory}",
            f"--token-auth-file={self.directory}/tokens.csv", "--authorization-mode=RBAC",
            # The only apiserver needs no Endpoints object of itself, which may not hold a loopback address.
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory}/service-accounts.key",
            f"--service-account-signing-key-file={self.directory}/service-accounts.key",
            f"--service-cluster-ip-range={SERVICE_CIDR}", "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount", "--profiling=false"], log_dir=self.directory)
        self._write_kubeconfig()
        poll_until("the apiserver to be ready", self._is_ready, timeout=60, interval=0.2)

    def stop(self) -> None:
        for process in (self.apiserver, self.etcd):
            if process is not None:
                process.kill()      # what it stores is not kept
        self.apiserver = self.etcd = None

    def _program(self, name: str) -> str:
        return os.path.join(self._bin_dir, name)

    def _write_keys(self) -> None:
        directory = pathlib.Path(self.directory)
        certs.write_private(directory / "tokens.csv", f"{self._token},admin,admin,system:masters\n".encode())
        certs.write_private(directory / "service-accounts.key", certs.key_pem(certs.new_key("rsa-2048")))

    def _write_kubeconfig(self) -> None:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {
                "server": f"https://{self.address}:{self.port}",
                # Made by the apiserver itself at its first start.
                "certificate-authority": f"{self.directory}/apiserver.crt"}}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        }
        certs.write_private(pathlib.Path(self.kubeconfig), yaml.safe_dump(config).encode())

    def _is_ready(self) -> bool:
        for process in (self.etcd, self.apiserver):
            if not process.is_alive():
                raise Failure(f"{process.name} ended with {process.returncode}:\n{process.stderr.tail()}")
        return self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok"

    # --- objects

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True,
                timeout: float = 60) -> subprocess.CompletedProcess:
        """kubectl as the cluster's administrator; Refused with its words unless check=False."""
        done = subprocess.run([self._program("kubectl"), "--kubeconfig", self.kubeconfig, *arguments], input=stdin,
                              capture_output=True, text=True, timeout=timeout,
                              env={"PATH": os.environ["PATH"], "HOME": self.directory})
        if check and done.returncode != 0:
            raise Refused(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def apply(self, manifest: str | dict | Iterable[dict], *, dry_run: bool = False,
              namespace: str | None = None) -> list[dict]:
        """Server-side apply of YAML text, an object or several; the objects as the apiserver has them afterwards.

        What the apiserver warned of meanwhile (an unknown field, an admission policy's) is then in `warnings`.
        """
        options = ["--dry-run=server"] if dry_run else []
        return self._send("apply", "--server-side", *options, manifest=manifest, namespace=namespace)

    def create(self, manifest: str | dict | Iterable[dict], *, dry_run: bool = False,
               namespace: str | None = None) -> list[dict]:
        """For big definitions, and where generateName is wanted."""
        options = ["--dry-run=server"] if dry_run else []
        return self._send("create", *options, manifest=manifest, namespace=namespace)

    def get(self, kind: str, name: str | None = None, namespace: str | None = None) -> dict:
        """One object; without a name a List (`["items"]`), of all namespaces unless one is named."""
        where = ["--namespace", namespace] if namespace else ([] if name else ["--all-namespaces"])
        return json.loads(self.kubectl("get", kind, *([name] if name else []), *where, "--output", "json").stdout)

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        where = ["--namespace", namespace] if namespace else []
        self.kubectl("delete", kind, name, *where, "--wait=false")

    def make_namespace(self, name: str, **labels: str) -> str:
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return name

    def add_definitions(self, path: str | os.PathLike) -> None:
        """A file of CustomResourceDefinitions; comes back when their kinds are served."""
        self.kubectl("apply", "--server-side", "--filename", str(path))
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", str(path))

    def _send(self, *command: str, manifest: str | dict | Iterable[dict], namespace: str | None) -> list[dict]:
        if isinstance(manifest, dict):
            manifest = [manifest]
        text = manifest if isinstance(manifest, str) else yaml.safe_dump_all(manifest, sort_keys=False)
        where = ["--namespace", namespace] if namespace else []
        done = self.kubectl(*command, *where, "--filename", "-", "--output", "json", stdin=text)
        self.warnings = [line.removeprefix("Warning: ") for line in done.stderr.splitlines()
                         if line.startswith("Warning: ")]
        return _objects(done.stdout)


def _objects(text: str) -> list[dict]:
    """kubectl prints several objects as several JSON documents, or as one List."""
    decoder, objects, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        value, end = decoder.raw_decode(text, at)
        objects += value["items"] if value.get("kind") == "List" else [value]
        at = end
        while at < len(text) and text[at].isspace():
            at += 1
    return objects
