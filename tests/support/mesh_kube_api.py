# SPDX-License-Identifier: Apache-2.0
"""A real etcd and kube-apiserver and nothing else of Kubernetes: objects are judged, stored, and nobody acts on them.

    with KubeApi(kubernetes_bin, directory) as api:
        api.apply(manifest)                                   # kubectl apply --server-side; what came out of it
        api.apply(manifest, dry_run=True)                     # admission and schema, nothing stored
        api.get("configmap", "svidmail", "shop")["data"]
        api.kubectl("label", "namespace", "shop", "a=b")

There is no controller: no ServiceAccount is made for a namespace (the admission plugin that asks for one is off), no
Deployment makes a Pod, and a deleted namespace stays Terminating.  So take new names instead of deleting old ones.
"""

import os
import pathlib
import secrets

import yaml

from . import certs, ports
from .kubectl import Kubectl
from .processes import Failure, Process, poll_until

SERVICE_CIDR = "10.96.0.0/16"


class KubeApi(Kubectl):
    """Use as a context manager, or start() and stop(); nothing is kept from one start to the next."""

    def __init__(self, bin_dir: str, directory: str, *, address: str = "127.0.0.1"):
        super().__init__([os.path.join(bin_dir, "kubectl")], os.path.join(directory, "kubeconfig"), directory)
        self.directory = directory
        self.address = address
        self.port = ports.free_port()
        self.etcd: Process | None = None
        self.apiserver: Process | None = None
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
