# SPDX-License-Identifier: Apache-2.0
"""What the suites with real parts share: the programs, directories, SPIRE, the fake AWS, and svidmail.

SPIRE is started once for the session, with the usual entries; what a test changes there it changes back, or it asks
for a domain of its own (`new_spire`).  Everything is ended by its pid.
"""

import os
import pathlib
import shutil
import subprocess

import pytest
from support.aws import FakeAws
from support.processes import end_all, make_workdir, stage_program
from support.sidecar import ROLE_ARN, SANITIZERS, SIDECAR_UID, Sidecar, merged
from support.spire import Spire
from support.world import GATEWAY_PATH, REGION, SIDECAR_PATH, USUAL_ENTRIES

ROOT = pathlib.Path(__file__).resolve().parent.parent
HAS_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items):
    if os.getuid() != 0:
        skip = pytest.mark.skip(reason="needs root: workloads are told apart by their uid")
        for item in items:
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report


class Programs:
    """Copies of the real parts and of svidmail where every uid can run them."""

    def __init__(self, directory: str):
        self.directory = directory

    @property
    def spire_dir(self) -> str:
        built = self._set_up_path("SPIRE_BIN")
        for name in ("spire-server", "spire-agent"):
            stage_program(os.path.join(built, name), self.directory)
        return self.directory

    @property
    def envoy(self) -> str:
        return stage_program(self._set_up_path("ENVOY_BIN"), self.directory)

    @property
    def kubernetes_dir(self) -> str:
        """kube-apiserver, etcd, kubectl and the others; they run as root, from where they were built."""
        return self._set_up_path("KUBERNETES_BIN")

    @property
    def istio_dir(self) -> str:
        """pilot-discovery, pilot-agent, istioctl."""
        return self._set_up_path("ISTIO_BIN")

    @property
    def istio_source(self) -> str:
        """Istio's manifests/ and its bootstrap for Envoy."""
        return self._set_up_path("ISTIO_SOURCE")

    @property
    def spire_crds(self) -> str:
        """A directory with the custom resource definitions of SPIRE's controller manager."""
        return self._set_up_path("SPIRE_CRDS")

    @property
    def prometheus_crds(self) -> str:
        """A directory with the custom resource definitions of the Prometheus operator."""
        return self._set_up_path("PROMETHEUS_CRDS")

    @property
    def pilot_agent(self) -> str:
        return stage_program(os.path.join(self.istio_dir, "pilot-agent"), self.directory)

    @property
    def svidmail(self) -> str:
        built = os.environ.get("SVIDMAIL_BIN", str(ROOT / "build" / "dev" / "sidecar" / "svidmail"))
        if not os.path.exists(built):
            pytest.fail(f"{built} is not there: tests/run builds it", pytrace=False)
        return stage_program(built, self.directory)

    @staticmethod
    def _set_up_path(variable: str) -> str:
        path = os.environ.get(variable)
        if not path:
            pytest.fail(f"{variable} is not set: run these tests by tests/run", pytrace=False)
        return path


@pytest.fixture(scope="session")
def programs():
    directory = make_workdir("svidmail-bin-")
    yield Programs(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def svidmail(programs):
    """svidmail("check-config", FILE, uid=…, **run's own options): the program alone, to its end."""

    def run(*arguments: str, uid: int = SIDECAR_UID, **options) -> subprocess.CompletedProcess:
        usual = {"capture_output": True, "text": True, "timeout": 60, "cwd": "/", "user": uid, "group": uid,
                 "extra_groups": [], "env": {"PATH": os.environ["PATH"], **SANITIZERS}}
        return subprocess.run([programs.svidmail, *arguments], **(usual | options))

    return run


@pytest.fixture
def workdir(request):
    """workdir(): a new directory other uids may enter.  A failed test leaves its own behind and names them."""
    made = []

    def make() -> str:
        made.append(make_workdir())
        return made[-1]

    yield make
    for directory in made:
        if request.node.stash.get(HAS_FAILED, False):
            print(f"left behind for a look: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def spire(programs):
    """The session's trust domain example.org with the gateway, the sidecar and an intruder."""
    directory = make_workdir()
    with Spire(programs.spire_dir, directory) as domain:
        add_usual_entries(domain)
        yield domain
    shutil.rmtree(directory, ignore_errors=True)


def add_usual_entries(domain: Spire) -> None:
    for path, uid in USUAL_ENTRIES:
        domain.create_entry(path, uid, wait=False)
    for path, uid in USUAL_ENTRIES:
        domain.wait_for_svid(uid, path)


@pytest.fixture
def new_spire(programs, workdir):
    """new_spire(trust_domain="example.org", entries=True, start=True, **settings): a domain of the test's own."""
    domains = []

    def make(trust_domain: str = "example.org", *, entries: bool = True, start: bool = True, **settings) -> Spire:
        domain = Spire(programs.spire_dir, workdir(), trust_domain=trust_domain, **settings)
        domains.append(domain)
        if start:
            domain.start()
            if entries:
                add_usual_entries(domain)
        return domain

    yield make
    end_all([domain.stop for domain in domains])


@pytest.fixture
def new_aws(tmp_path_factory):
    """new_aws(spire, **settings): a fake AWS that takes the sidecar's JWT-SVIDs of that domain, for one role."""
    fakes = []

    def make(domain: Spire, **settings) -> FakeAws:
        usual = {"jwks": domain.jwks, "issuer": domain.jwt_issuer, "subjects": [domain.id(SIDECAR_PATH)],
                 "roles": [ROLE_ARN], "region": REGION}
        fake = FakeAws(tmp_path_factory.mktemp("aws"), **(usual | settings))
        fakes.append(fake)
        fake.start()
        return fake

    yield make
    end_all([fake.stop for fake in fakes])


@pytest.fixture
def new_sidecar(programs, workdir, request):
    """new_sidecar(spire, gateway, aws, config={}, start=True, **settings): svidmail with what it needs to know.

    A suite lays its own fixture of this name over it, which asks for its gateway first: the sidecar ends before it.
    """
    sidecars = []

    def make(domain: Spire, through, before, config: dict | None = None, *, start: bool = True,
             **settings) -> Sidecar:
        directory = workdir()
        ca_file = shutil.copy(before.ca_file, os.path.join(directory, "aws-ca.pem"))
        os.chmod(ca_file, 0o644)
        world = {
            "identity": {"endpoint": domain.endpoint},
            "gateway": {"host": through.host, "spiffe_ids": [domain.id(GATEWAY_PATH)],
                        "ports": {"api": through.api_port, "end_to_end": through.end_to_end_port,
                                  "smtp": through.smtp_port}},
            "aws": {"ca_file": ca_file},
        }
        sidecar = Sidecar(programs.svidmail, directory, merged(world, config or {}), **settings)
        sidecars.append(sidecar)
        return sidecar.start() if start else sidecar

    yield make
    try:
        end_all([sidecar.check for sidecar in sidecars])
    except AssertionError:
        request.node.stash[HAS_FAILED] = True
        raise
    finally:
        if request.node.stash.get(HAS_FAILED, False):
            for sidecar in sidecars:
                print(f"--- the log of {sidecar.directory}:", *sidecar.log_tail(60), sep="\n")
