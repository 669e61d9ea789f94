# SPDX-License-Identifier: Apache-2.0
"""kubectl as the administrator: what the mesh tests ask of an apiserver alone, and the cluster tests of a cluster."""

import json
import os
import subprocess
from collections.abc import Iterable

import yaml

from .processes import Failure


class Refused(Failure):
    """The apiserver did not take it; the text is kubectl's."""


class Kubectl:
    """`command`: the program with what stands before it; `home`: where it keeps its own files."""

    def __init__(self, command: list[str], kubeconfig: str, home: str):
        self.kubeconfig = kubeconfig
        self.warnings: list[str] = []
        self._command = command
        self._home = home

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True,
                timeout: float = 60) -> subprocess.CompletedProcess:
        """What came of it; Refused with kubectl's words unless check=False."""
        done = subprocess.run([*self._command, "--kubeconfig", self.kubeconfig, *arguments], input=stdin,
                              capture_output=True, text=True, timeout=timeout,
                              env={"PATH": os.environ["PATH"], "HOME": self._home})
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
