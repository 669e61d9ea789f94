# SPDX-License-Identifier: Apache-2.0
"""The world of the mesh tests: a real apiserver, a real istiod, the gateway it configures, SPIRE and a fake AWS.

All of it is started once for the session.
"""

import shutil

import pytest
from support.mesh_kube_api import KubeApi
from support.processes import make_workdir


@pytest.fixture(scope="session")
def kube_api(programs):
    """etcd and kube-apiserver alone; take namespaces of your own (`kube_api.make_namespace`)."""
    directory = make_workdir("svidmail-kube-")
    with KubeApi(programs.kubernetes_dir, directory) as api:
        yield api
    shutil.rmtree(directory, ignore_errors=True)
