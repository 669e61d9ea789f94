# SPDX-License-Identifier: Apache-2.0
"""The rig's own images, made without a daemon: OCI archives that are written as they are read.

A layer is a tar file that is there already, or some files put together; images share layers, as the small Debian
under the app, the proxy and SPIRE.
"""

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class TarLayer:
    """A tar file that is there already."""

    def __init__(self, path: str):
        self._path = path

    def write(self, stream: BinaryIO) -> None:
        with open(self._path, "rb") as file:
            while chunk := file.read(1 << 20):
                stream.write(chunk)


class FilesLayer:
    """Files by their place in the image: a path here, their content, or None for a directory anybody may write to."""

    def __init__(self, files: dict[str, str | bytes | None]):
        self._files = files

    def write(self, stream: BinaryIO) -> None:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name, source in sorted(self._files.items()):
                entry = tarfile.TarInfo(name.lstrip("/"))
                if source is None:
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
                    tar.addfile(entry)
                elif isinstance(source, bytes):
                    entry.size, entry.mode = len(source), 0o644
                    tar.addfile(entry, io.BytesIO(source))
                else:
                    entry.size, entry.mode = os.path.getsize(source), 0o755
                    with open(source, "rb") as file:
                        tar.addfile(entry, file)


Layer = TarLayer | FilesLayer


@dataclass
class Image:
    reference: str
    layers: list[Layer]
    entrypoint: list[str] = field(default_factory=list)
    user: str = ""


def write_archive(images: Iterable[Image], stream: BinaryIO) -> None:
    """One archive with all of them; each layer is read twice, first for its digest, and stored once."""
    measured: dict[int, tuple[str, int]] = {}
    layers: dict[str, Layer] = {}
    blobs: dict[str, bytes] = {}
    manifests = []

    def put(value: object, media_type: str, **more: object) -> dict:
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    for image in images:
        described = []
        for layer in image.layers:
            if id(layer) not in measured:
                measured[id(layer)] = _measure(layer)
            digest, size = measured[id(layer)]
            layers[digest] = layer
            described.append({"mediaType": LAYER, "digest": f"sha256:{digest}", "size": size})
        config = put({
            "architecture": ARCHITECTURE, "os": "linux",
            "config": {"Entrypoint": image.entrypoint, "User": image.user, "Env": [PATH]},
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in described]}}, CONFIG)
        manifests.append(put(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described}, MANIFEST,
            platform={"architecture": ARCHITECTURE, "os": "linux"},
            annotations={"io.containerd.image.name": image.reference}))

    with tarfile.open(fileobj=stream, mode="w|") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode())
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", data)
        for digest, layer in layers.items():
            entry = tarfile.TarInfo(f"blobs/sha256/{digest}")
            entry.size = next(size for known, size in measured.values() if known == digest)
            # TarFile.addfile wants to read; a layer writes.
            tar.fileobj.write(entry.tobuf(tar.format, tar.encoding, tar.errors))
            layer.write(tar.fileobj)
            tar.fileobj.write(b"\0" * (-entry.size % tarfile.BLOCKSIZE))


class _Measure:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def _measure(layer: Layer) -> tuple[str, int]:
    measure = _Measure()
    layer.write(measure)
    return measure.digest.hexdigest(), measure.size


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
