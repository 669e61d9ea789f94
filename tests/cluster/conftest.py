# SPDX-License-Identifier: Apache-2.0
"""The world of the cluster tests: a whole Kubernetes, the platform's chart in it once, and a namespace for each test.

What a test changes of the cluster or of the platform's release it changes back.
"""

import contextlib
import pathlib
import sys

import pytest
import yaml
from support.cluster import Cluster, Parts
from support.cluster_shop import CA_VOLUMES, IMAGE, ROOT, SERVICE_ACCOUNT, Shop

# The gateway's policy names its clients: these many tests can have a namespace of their own.
NAMESPACES = [f"shop-{number:02}" for number in range(1, 100)]

PLATFORM = {
    "trustDomain": "example.org",
    "regions": ["eu-central-1"],
    "clients": [{"namespace": name, "serviceAccount": SERVICE_ACCOUNT} for name in NAMESPACES],
    "smtp": {"enabled": True},
    "endToEndMail": {"enabled": True},
    # One node, two cores.
    "gateway": {"replicas": 1, "drainSeconds": 3, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
    "injection": {"enabled": True, "image": IMAGE, **CA_VOLUMES},
}


def pytest_collection_modifyitems(items):
    for item in items:
        # The first one has the whole cluster to wait for.
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def cluster(request):
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"== {text}", file=sys.stderr, flush=True)

    with Cluster(Parts.from_environment(), say) as cluster:
        yield cluster
        if request.session.testsfailed:
            say(f"the logs of the cluster are in {cluster.keep_logs()}")


@pytest.fixture(scope="session")
def platform_values(cluster):
    """The values file of the release mail-egress."""
    path = pathlib.Path(cluster.directory, "mail-egress.yaml")
    path.write_text(yaml.safe_dump(PLATFORM))
    return str(path)


@pytest.fixture(scope="session")
def platform(cluster, platform_values):
    """The chart mail-egress, installed by helm 4; what its notes tell an app team."""
    cluster.helm4("install", "mail-egress", str(ROOT / "helm" / "mail-egress"), "--namespace", "mail-egress",
                  "--create-namespace", "--values", platform_values)
    cluster.wait_ready("deployment/mail-egress", "mail-egress")
    notes = cluster.helm4("get", "notes", "mail-egress", "--namespace", "mail-egress").stdout
    return yaml.safe_load(notes[notes.index("config:"):notes.index("\nNext:")])["config"]


@pytest.fixture
def changed_platform(cluster, platform, platform_values):
    """with changed_platform("KEY=VALUE", …): the release with these values over its own, and then as it was."""

    def upgrade(*settings: str) -> None:
        cluster.helm4("upgrade", "--install", "mail-egress", str(ROOT / "helm" / "mail-egress"), "--namespace",
                      "mail-egress", "--values", platform_values, *(f"--set={setting}" for setting in settings))
        cluster.wait_ready("deployment/mail-egress", "mail-egress")

    @contextlib.contextmanager
    def changed(*settings: str):
        try:
            upgrade(*settings)
            yield
        finally:
            upgrade()

    return changed


@contextlib.contextmanager
def shops(request, cluster, platform):
    made = []
    failed_before = request.session.testsfailed

    def make(*, configured: bool = True, restricted: bool = True) -> Shop:
        made.append(Shop(cluster, NAMESPACES.pop(0), platform, restricted=restricted))
        if configured:
            made[-1].configure()
        return made[-1]

    yield make
    for shop in made:
        if request.session.testsfailed > failed_before:
            print(cluster.describe(shop.namespace))
        shop.remove()


@pytest.fixture
def new_shop(request, cluster, platform):
    """new_shop(configured=True, restricted=True): a namespace whose app may mail.

    `restricted` is Kubernetes' profile of that name, which Istio's own init container does not fit.
    """
    with shops(request, cluster, platform) as make:
        yield make


@pytest.fixture(scope="module")
def new_shared_shop(request, cluster, platform):
    """As new_shop, for all tests of a file."""
    with shops(request, cluster, platform) as make:
        yield make


@pytest.fixture(scope="module")
def shared_shop(new_shared_shop):
    return new_shared_shop()


@pytest.fixture
def shop(new_shop):
    return new_shop()


@pytest.fixture
def mesh_shop(new_shop):
    """For pods with an istio-proxy."""
    return new_shop(restricted=False)


@pytest.fixture
def aws_faults(cluster):
    """The fake AWS, for what goes wrong there; nothing of it is left for the next test."""
    yield cluster.aws
    cluster.aws.clear_faults()
