# SPDX-License-Identifier: Apache-2.0
"""A whole Kubernetes of one node, with SPIRE, Istio and a fake AWS, in namespaces of its own.

    with Cluster(Parts.from_environment()) as cluster:
        cluster.make_namespace("shop")
        cluster.apply(manifest, namespace="shop")
        cluster.wait_ready("deployment/checkout", "shop")
        cluster.exec("shop", "deployment/checkout", "app", "python3", "-c", "…")
        [mail] = cluster.aws.wait_for_mails(1)

Real: etcd, apiserver, controller manager, scheduler, kubelet, containerd, runc, kube-proxy, CNI bridge, CoreDNS, SPIRE
server and agent (k8s_psat; k8s workload attestor), its controller manager and CSI driver, istiod by its own chart.
Stand-ins: AWS (its true names lead to it), and Envoy's own build for Istio's.  Nothing is pulled: the images are made
here (cluster_images.py), and every name in the cluster's DNS that is neither its own nor AWS's does not exist.

The steps do not wait for time but for what the next one needs; each says how long it took.  docs/proven.md tells
what this shows and what it cannot.
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import certs
from .aws import FakeAws
from .aws_smtp import SesSmtp
from .cluster_images import FilesLayer, Image, TarLayer, write_archive
from .cluster_keys import NODE, write_keys
from .cluster_node import ADDRESS, AWS_ADDRESS, AWS_SMTP_ADDRESS, Node
from .kubectl import Kubectl
from .processes import Failure, Process, has_fields, poll_until
from .sidecar import ROLE_ARN
from .spire import Spire
from .world import REGION

CONFIG = pathlib.Path(__file__).resolve().parent.parent / "rig" / "cluster"
TRUST_DOMAIN = "example.org"
APP_IMAGE = "registry.rig/app:1"
SVIDMAIL_IMAGE = "registry.rig/svidmail:dev"
SPIRE_IMAGE = "registry.rig/spire:rig"
PROXY_UID = 1337
ISTIOD = ("deployment/istiod", "istio-system")


@dataclass
class Parts:
    """Where tests/run has put the real parts."""

    kubernetes_bin: str
    runtime_bin: str
    spire_bin: str
    istio_bin: str
    istio_source: str
    envoy_bin: str
    coredns: str
    helm3: str
    helm4: str
    spire_controller_manager: str
    spire_crds: str
    cluster_images: str
    svidmail_image: str
    svidmail_debug_image: str

    @classmethod
    def from_environment(cls) -> "Parts":
        names = {name: name.upper() for name in cls.__dataclass_fields__}
        missing = [variable for variable in names.values() if not os.environ.get(variable)]
        if missing:
            raise Failure(f"{', '.join(missing)} not set: run these tests by tests/run cluster")
        return cls(**{name: os.environ[variable] for name, variable in names.items()})


class ClusterSpire(Spire):
    """SPIRE's server on the node; its agent is a DaemonSet, and the entries are the controller manager's."""

    def __init__(self, node: Node, bin_dir: str, config: str, trust_domain: str):
        directory = os.path.join(node.directory, "spire")
        os.mkdir(directory, 0o755)
        super().__init__(bin_dir, directory, trust_domain=trust_domain)
        self._node = node
        self._config = config

    def start(self) -> None:
        self.server = self._node.process("spire-server", self._server_program, "run", "-config", self._config)
        self.server.wait_for_line("Starting Server APIs", timeout=60, stream="stdout")
        poll_until("the SPIRE server to answer", lambda: self._try_server("healthcheck") is not None, timeout=20)

    def spiffe_ids(self) -> list[str]:
        """Of all entries."""
        return [f"spiffe://{entry['spiffe_id']['trust_domain']}{entry['spiffe_id']['path']}"
                for entry in self.entries()]


class Cluster(Kubectl):
    """Use as a context manager, or start() and stop(); nothing is kept from one start to the next."""

    def __init__(self, parts: Parts, say: Callable[[str], None] | None = None):
        self.parts = parts
        self.subjects: list[str] = []
        self._say = say or (lambda text: print(f"== {text}", file=sys.stderr, flush=True))
        self._lap_began = time.monotonic()
        self._processes: dict[str, Process] = {}
        self.node = Node(f"{parts.runtime_bin}:{parts.kubernetes_bin}:{parts.spire_bin}")
        self.directory = self.node.directory
        super().__init__([], f"{self.directory}/keys/admin.kubeconfig", self.directory)
        self.authority = certs.HostAuthority("svidmail rig web CA")
        self.aws: FakeAws | None = None
        self.aws_smtp: SesSmtp | None = None
        self.spire: ClusterSpire | None = None

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self._say(f"the cluster did not come up; what it wrote is in {self.directory}")
            self.stop(keep=True)
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        began = time.monotonic()
        self.node.start()
        self._command = self.node.network_command(f"{self.parts.kubernetes_bin}/kubectl")
        self._write_config()
        self._lap("namespaces, keys")
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            images = beside.submit(self._start_containers)
            self._start_control_plane()
            self._start_aws()
            self._start_spire_server()
            images.result()
        self._lap("the images (begun beside the control plane)")
        self._start_node()
        self._start_dns_and_spire()
        self._start_istiod()
        self._say(f"cluster: up in {time.monotonic() - began:.1f} s, in {self.directory}")

    def stop(self, keep: bool = False) -> None:
        for server in (self.aws, self.aws_smtp):
            if server is not None:
                server.stop()
        self.node.stop(keep)

    def keep_logs(self) -> str:
        """Copies of the node's and the pods' logs that outlive the cluster; where."""
        kept = tempfile.mkdtemp(prefix="svidmail-logs-")
        shutil.copytree(self.node.log_dir, f"{kept}/node")
        shutil.copytree(f"{self.directory}/var/log/pods", f"{kept}/pods")
        return kept

    def _lap(self, what: str) -> None:
        now = time.monotonic()
        self._say(f"cluster: {what}: {now - self._lap_began:.1f} s")
        self._lap_began = now

    # --- bringing up

    def _write_config(self) -> None:
        write_keys(f"{self.directory}/keys", ADDRESS)
        self._values = {
            "directory": self.directory, "cgroup": self.node.cgroup, "node": NODE, "address": ADDRESS,
            "runtime_bin": self.parts.runtime_bin, "trust_domain": TRUST_DOMAIN,
            "aws_address": AWS_ADDRESS, "aws_smtp_address": AWS_SMTP_ADDRESS}
        os.mkdir(f"{self.directory}/config")
        for path in CONFIG.iterdir():
            if path.suffix in (".yaml", ".toml", ".conf", ".conflist"):
                pathlib.Path(self._config(path.name)).write_text(
                    string.Template(path.read_text()).safe_substitute(self._values))
        os.mkdir(f"{self.directory}/cni")
        shutil.copy(self._config("cni.conflist"), f"{self.directory}/cni/10-rig.conflist")

    def _config(self, name: str) -> str:
        return f"{self.directory}/config/{name}"

    def _run(self, name: str, *arguments: str, env: dict | None = None) -> Process:
        """A daemon of the node."""
        self._processes[name] = self.node.process(name, name, *arguments, env=env)
        return self._processes[name]

    def _await(self, what: str, probe: Callable, timeout: float = 60) -> None:
        """Until probe() is true; not longer than the daemons live."""
        def look():
            for name, process in list(self._processes.items()):  # another thread starts more
                if not process.is_alive():
                    raise Failure(f"{name} ended with {process.returncode}:\n{process.stderr.tail()}")
            return probe()

        poll_until(what, look, timeout, interval=0.1)

    def _start_containers(self) -> None:
        self._run("containerd", "--config", self._config("containerd.toml"))
        self._await("containerd", lambda: self.node.run("ctr", "version", check=False).returncode == 0)
        self._import_images(self._images())
        for path in (self.parts.svidmail_image, self.parts.svidmail_debug_image):
            self.node.run("ctr", "--namespace", "k8s.io", "images", "import", path, timeout=120)

    def _images(self) -> list[Image]:
        parts = self.parts
        base = TarLayer(f"{parts.cluster_images}/base.tar")
        program = "/usr/local/bin"
        users = f"root:x:0:0::/root:/bin/sh\nistio-proxy:x:{PROXY_UID}:{PROXY_UID}::/:/bin/sh\n".encode()
        proxy = FilesLayer({
            f"{program}/pilot-agent": f"{parts.istio_bin}/pilot-agent", f"{program}/envoy": parts.envoy_bin,
            "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": pathlib.Path(
                parts.istio_source, "tools/packaging/common/envoy_bootstrap.json").read_bytes(),
            "/var/lib/istio/data": None, "/etc/istio/proxy": None, "/etc/passwd": users,
            # What this gateway takes for the public web's CAs.
            "/etc/ssl/certs/ca-certificates.crt": self.authority.pem})
        spire = FilesLayer({
            f"{program}/spire-agent": f"{parts.spire_bin}/spire-agent",
            f"{program}/spiffe-csi-driver": f"{parts.runtime_bin}/spiffe-csi-driver",
            f"{program}/csi-registrar": f"{parts.kubernetes_bin}/csi-registrar"})
        pilot = FilesLayer({f"{program}/pilot-discovery": f"{parts.istio_bin}/pilot-discovery", "/tmp": None})
        return [
            Image("registry.rig/pause:3", [FilesLayer({"/pause": f"{parts.cluster_images}/pause"})], ["/pause"]),
            Image(APP_IMAGE, [base]),
            Image(SPIRE_IMAGE, [base, spire]),
            Image("registry.rig/proxyv2:rig", [base, proxy], [f"{program}/pilot-agent"]),
            Image("registry.rig/pilot:rig", [pilot], [f"{program}/pilot-discovery"], user=f"{PROXY_UID}:{PROXY_UID}"),
            Image("registry.rig/coredns:rig", [FilesLayer({"/coredns": parts.coredns, "/tmp": None})], ["/coredns"]),
        ]

    def _import_images(self, images: list[Image]) -> None:
        with subprocess.Popen(self.node.command(f"{self.parts.runtime_bin}/ctr", "--namespace", "k8s.io", "images",
                                                "import", "--local", "-"),
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as importing:
            try:
                write_archive(images, importing.stdin)
            except BrokenPipeError:
                pass        # its own words say more
            finally:
                importing.stdin.close()
            said = importing.stderr.read().decode()
        if importing.returncode != 0:
            raise Failure(f"the images were not imported: {said}")

    def _start_control_plane(self) -> None:
        keys = f"{self.directory}/keys"
        self._run("etcd", "--data-dir", f"{self.directory}/memory/etcd", "--listen-client-urls", "http://127.0.0.1:2379",
                  "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380",
                  "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
                  "--initial-cluster", "default=http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn")
        self._run("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0",
                  f"--advertise-address={ADDRESS}", "--secure-port=6443",
                  f"--tls-cert-file={keys}/apiserver.crt", f"--tls-private-key-file={keys}/apiserver.key",
                  f"--client-ca-file={keys}/ca.crt", "--authorization-mode=Node,RBAC",
                  "--service-account-issuer=https://kubernetes.default.svc",
                  f"--service-account-key-file={keys}/service-accounts.key",
                  f"--service-account-signing-key-file={keys}/service-accounts.key",
                  "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true", "--profiling=false",
                  f"--kubelet-client-certificate={keys}/admin.crt", f"--kubelet-client-key={keys}/admin.key",
                  f"--kubelet-certificate-authority={keys}/ca.crt", "--kubelet-preferred-address-types=InternalIP")
        self._await("the apiserver to be ready",
                    lambda: self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok", timeout=90)
        self._run("kube-controller-manager", f"--kubeconfig={self.kubeconfig}",
                  f"--service-account-private-key-file={keys}/service-accounts.key", f"--root-ca-file={keys}/ca.crt",
                  "--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1",
                  f"--cluster-signing-cert-file={keys}/ca.crt", f"--cluster-signing-key-file={keys}/ca.key")
        self._run("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
                  "--bind-address=127.0.0.1")
        self._lap("control plane")

    def _start_aws(self) -> None:
        self.aws = FakeAws(f"{self.directory}/aws", jwks=lambda: self.spire.jwks(), region=REGION,
                           issuer=f"https://oidc.{TRUST_DOMAIN}", subjects=self.subjects, roles=[ROLE_ARN],
                           authority=self.authority, address=AWS_ADDRESS, port=443)
        self.aws_smtp = SesSmtp(f"{self.directory}/aws", f"email-smtp.{REGION}.amazonaws.com",
                                authority=self.authority, address=AWS_SMTP_ADDRESS)
        self.node.call(self.aws.start)
        self.node.call(self.aws_smtp.start)

    def _start_spire_server(self) -> None:
        self.spire = ClusterSpire(self.node, self.parts.spire_bin, self._config("spire-server.conf"), TRUST_DOMAIN)
        self.spire.start()
        self.add_definitions(self.parts.spire_crds)
        self._processes["spire-controller-manager"] = self.node.process(
            "spire-controller-manager", self.parts.spire_controller_manager,
            "-config", self._config("spire-controller-manager.yaml"),
            # Its webhook serves only where it is a pod itself: what it would refuse, it reports in the status.
            env={"ENABLE_WEBHOOKS": "false", "KUBECONFIG": self.kubeconfig})
        self._lap("SPIRE server and controller manager, AWS")

    def _start_node(self) -> None:
        self._run("kube-proxy", f"--config={self._config('kube-proxy.yaml')}")
        self._run("kubelet", f"--config={self._config('kubelet.yaml')}",
                  f"--kubeconfig={self.directory}/keys/kubelet.kubeconfig", f"--cert-dir={self.directory}/keys",
                  f"--hostname-override={NODE}", f"--node-ip={ADDRESS}", "--v=2")
        self._await("the node", lambda: self.kubectl("get", "node", NODE, check=False).returncode == 0)
        self.kubectl("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=60s", timeout=70)
        self._lap("node")

    def _start_dns_and_spire(self) -> None:
        for name in ("spire-agent.yaml", "coredns.yaml"):
            self.apply(pathlib.Path(self._config(name)).read_text())
        for name in ("daemonset/spiffe-csi-driver", "daemonset/spire-agent"):
            self.wait_ready(name, "spire-system")
        self.wait_ready("deployment/coredns", "kube-system")
        self._lap("CoreDNS, SPIRE agent, CSI driver")

    def _start_istiod(self) -> None:
        charts = f"{self.parts.istio_source}/manifests/charts"
        self.helm4("install", "istio-base", f"{charts}/base", "--namespace", "istio-system", "--create-namespace")
        self.helm4("install", "istiod", f"{charts}/istio-control/istio-discovery", "--namespace", "istio-system",
                   "--values", self._config("istiod-values.yaml"))
        self.wait_ready(*ISTIOD)
        self._lap("istiod")

    # --- what tests ask for

    def trust(self, *subjects: str) -> None:
        """The role in AWS trusts these SPIFFE IDs from now on."""
        self.subjects.extend(subjects)

    def helm3(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess:
        return self._tool(self.parts.helm3, arguments, check, timeout)

    def helm4(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess:
        return self._tool(self.parts.helm4, arguments, check, timeout)

    def istioctl(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess:
        return self._tool(f"{self.parts.istio_bin}/istioctl", arguments, check, timeout)

    def _tool(self, program: str, arguments, check: bool, timeout: float) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.node.network_command(program, *arguments), capture_output=True, text=True, timeout=timeout,
            env={"PATH": os.environ["PATH"], "HOME": f"{self.directory}/helm", "KUBECONFIG": self.kubeconfig})
        if check and done.returncode != 0:
            raise Failure(f"{os.path.basename(program)} {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done

    def wait_ready(self, name: str, namespace: str, timeout: float = 60) -> None:
        """KIND/NAME: a Job until it is complete, a workload until it is rolled out, anything else until Ready."""
        kind = name.split("/")[0]
        if kind in ("deployment", "daemonset", "statefulset"):
            command = ["rollout", "status", name]
        else:
            command = ["wait", f"--for=condition={'Complete' if kind == 'job' else 'Ready'}", name]
        done = self.kubectl(*command, "--namespace", namespace, f"--timeout={timeout:.0f}s", check=False,
                            timeout=timeout + 30)
        if done.returncode != 0:
            raise Failure(f"{name} in {namespace} did not become ready within {timeout:.0f} s: {done.stderr.strip()}\n"
                          f"{self.describe(namespace)}")

    def wait_gone(self, name: str, namespace: str, timeout: float = 60) -> None:
        self.kubectl("wait", "--for=delete", name, "--namespace", namespace, f"--timeout={timeout:.0f}s",
                     timeout=timeout + 10)

    def pods(self, namespace: str, selector: str = "") -> list[dict]:
        where = ["--selector", selector] if selector else []
        return json.loads(self.kubectl("get", "pods", "--namespace", namespace, *where, "--output", "json").stdout)[
            "items"]

    def exec(self, namespace: str, name: str, container: str, *argv: str, stdin: str | None = None,
             check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess:
        """A program in a container of a pod, or of the first pod of KIND/NAME."""
        done = self.kubectl("exec", *(["--stdin"] if stdin is not None else []), "--namespace", namespace, name,
                            "--container", container, "--", *argv, stdin=stdin, check=False, timeout=timeout)
        if check and done.returncode != 0:
            raise Failure(f"{argv[0]} in {namespace}/{name}/{container} ended with {done.returncode}: "
                          f"{done.stderr}{done.stdout}")
        return done

    def logs(self, namespace: str, name: str, container: str, *options: str) -> str:
        return self.kubectl("logs", "--namespace", namespace, name, "--container", container, *options).stdout

    def follow(self, namespace: str, name: str, container: str) -> Process:
        """The pod's container's log as it comes, on stdout; for wait_for_line.  stop() it."""
        # Of a pod without a node kubectl says nothing, and ends well.
        poll_until(f"the node of {name}", lambda: self.get("pod", name, namespace)["spec"].get("nodeName"), 20)
        return Process(f"log-{namespace}-{name}-{container}",
                       [*self._command, "--kubeconfig", self.kubeconfig, "logs", "--follow", "--namespace", namespace,
                        name, "--container", container, "--pod-running-timeout=2m"], log_dir=self.node.log_dir,
                       env={"HOME": self._home})

    def gateway_log(self, namespace: str = "mail-egress", selector: str = "istio=mail-egress") -> list[dict]:
        """The access log of the gateway's pods."""
        text = self.kubectl("logs", "--namespace", namespace, "--selector", selector, "--container", "istio-proxy",
                            "--tail=-1").stdout
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and '"start_time"' in line]

    def wait_for_gateway_log(self, timeout: float = 20, **fields) -> dict:
        """The first call with these fields; one given as a function is asked.  Envoy writes its log every 10 s only."""
        def look():
            return next((entry for entry in self.gateway_log() if has_fields(entry, fields)), None)

        return poll_until(f"{fields} in the gateway's access log", look, timeout, interval=0.5)

    def describe(self, namespace: str) -> str:
        """For a person who looks for what went wrong."""
        said = [self.kubectl(*command, "--namespace", namespace, check=False).stdout for command in (
            ["get", "pods", "--output", "wide"], ["get", "events", "--sort-by=.lastTimestamp"])]
        for pod in self.pods(namespace):
            for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
                log = self.kubectl("logs", "--namespace", namespace, pod["metadata"]["name"], "--container",
                                   container["name"], "--tail=15", check=False)
                said.append(f"--- {pod['metadata']['name']}/{container['name']}\n{log.stdout}{log.stderr}")
        return "\n".join(said)
