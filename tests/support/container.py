# SPDX-License-Identifier: Apache-2.0
"""svidmail's image: looked into as an archive, and run by podman as a pod would run it.

podman has a storage of its own in a directory of ours, and containers share the machine's network, where the
stand-ins listen.
"""

import io
import json
import os
import signal
import subprocess
import tarfile

from .sidecar import Sidecar, merged

IMAGE_UID = 65532
LOCKED_DOWN = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")


class ImageArchive:
    """An OCI archive with one image."""

    def __init__(self, path: str):
        with tarfile.open(path) as archive:
            self._blobs = {member.name.rsplit("/", 1)[-1]: archive.extractfile(member).read()
                           for member in archive if member.isfile()}
        [described] = json.loads(self._blobs["index.json"])["manifests"]
        self.digest: str = described["digest"]
        self.name: str = described["annotations"]["io.containerd.image.name"]
        manifest = json.loads(self._blob(described))
        self.config: dict = json.loads(self._blob(manifest["config"]))
        self._layers = manifest["layers"]

    def _blob(self, described: dict) -> bytes:
        return self._blobs[described["digest"].removeprefix("sha256:")]

    def layers(self) -> list[tarfile.TarFile]:
        """Each opened anew."""
        return [tarfile.open(fileobj=io.BytesIO(self._blob(layer))) for layer in self._layers]

    def layer_sizes(self) -> list[tuple[int, int]]:
        """(bytes as stored, bytes of the files in it) by layer."""
        return [(described["size"], sum(member.size for member in layer))
                for described, layer in zip(self._layers, self.layers(), strict=True)]

    def files(self) -> dict[str, tarfile.TarInfo]:
        return {member.name: member for layer in self.layers() for member in layer}

    def read(self, name: str) -> bytes:
        for layer in reversed(self.layers()):
            if name in layer.getnames():
                return layer.extractfile(name).read()
        raise KeyError(name)


class Podman:
    """podman with a storage that lives and goes with `directory`."""

    def __init__(self, directory: str):
        self._directory = directory
        self._count = 0

    def command(self, *arguments: str) -> list[str]:
        place = [option for name in ("root", "runroot", "tmpdir", "network-config-dir")
                 for option in (f"--{name}", os.path.join(self._directory, name))]
        # It warns of control groups version 1 on what should be svidmail's stderr.
        return ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", "podman", *place, "--storage-driver",
                _storage_driver(self._directory), "--cgroup-manager", "cgroupfs", "--runtime", "runc",
                "--events-backend", "file", *arguments]

    def __call__(self, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        usual = {"capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run(self.command(*arguments), **(usual | options))
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
        return done

    def load(self, archive: str) -> None:
        self("load", "--quiet", "--input", archive)

    def run_options(self, *options: str) -> list[str]:
        # The limits of the machine's own session may forbid runc to raise them to its defaults.
        return ["run", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", *LOCKED_DOWN,
                *options]

    def run(self, image: str, *arguments: str, options: tuple[str, ...] = (), **more) -> subprocess.CompletedProcess:
        """A container to its end, locked down as a pod's."""
        return self(*self.run_options("--rm", *options), image, *arguments, **more)

    def new_name(self) -> str:
        self._count += 1
        return f"svidmail-{self._count}"

    def stop(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        self("rmi", "--all", "--force")
        subprocess.run(["umount", os.path.join(self._directory, "root", "overlay")], capture_output=True, check=False)


def _storage_driver(directory: str) -> str:
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True).stdout
    return "vfs" if kind.strip() == "overlayfs" else "overlay"


class ContainerSidecar(Sidecar):
    """svidmail in a container of its image; what it is given lies at the same path inside and outside.

    Its directory is read-only there but for run/, which is a pod's emptyDir.
    """

    def __init__(self, podman: Podman, image: str, directory: str, config: dict, *, volumes: tuple[str, ...] = (),
                 options: tuple[str, ...] = ()):
        self._podman = podman
        self._name = podman.new_name()
        run_dir = os.path.join(directory, "run")
        os.mkdir(run_dir)
        os.chown(run_dir, IMAGE_UID, IMAGE_UID)
        self._pid_file = os.path.join(directory, "pid")
        mounts = [f"--volume={directory}:{directory}:ro", f"--volume={run_dir}:{run_dir}",
                  *(f"--volume={path}:{path}:ro" for path in volumes)]
        wrapper = podman.command(*podman.run_options(
            "--name", self._name, "--pidfile", self._pid_file, "--env", f"TMPDIR={run_dir}", *mounts, *options))
        usual = {"admin": {"socket": os.path.join(run_dir, "admin.sock")}}
        super().__init__(image, directory, merged(usual, config), uid=0, wrapper=tuple(wrapper))
        self.admin_socket = usual["admin"]["socket"]

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM to the program, as kubelet does it: podman, when it passes one on, may find it gone already."""
        os.kill(self.pid, signal.SIGTERM)
        return self._ended(self.process.wait(timeout))

    @property
    def pid(self) -> int:
        """The program's own, as the machine sees it."""
        with open(self._pid_file) as file:
            return int(file.read())

    def memory_kb(self) -> dict[str, int]:
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            pairs = [line.split() for line in file]
        return {key.rstrip(":"): int(value[0]) for key, *value in pairs if value and value[-1] == "kB"}

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def proc_status(self) -> dict[str, str]:
        with open(f"/proc/{self.pid}/status") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}

    def execute(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """As kubectl exec does."""
        return self._podman("exec", self._name, *command, check=check)
