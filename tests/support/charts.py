# SPDX-License-Identifier: Apache-2.0
"""Charts as the tests look at them: rendered by helm without a cluster, read as objects, compared with snapshots.

    chart = Chart("mail-egress", helm)
    rendered = chart.render(chart.ci["default"], {"smtp": {"enabled": True}})
    rendered.one("Service")["spec"]["ports"]
    chart.refusal(chart.ci["default"], {"regions": []})      # helm's own words for why it does not render
    chart.notes(chart.ci["default"])                         # what it tells whoever installs it

Values are given as files (a path) or as dicts; the later ones win, as with `helm -f`.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterable

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KUBE_VERSION = "1.36.3"
HELM_VERSIONS = ("3", "4")
# (chart, feature) of every values file in a chart's ci/.
CI_CASES = sorted((values.parent.parent.name, values.name.removesuffix("-values.yaml"))
                  for values in ROOT.glob("helm/*/ci/*-values.yaml"))

Values = dict | str | os.PathLike


class Refused(Exception):
    """helm did not render; the text is what it said."""


def helm_path(version: str) -> str:
    """The helm of this major version, which the set-up has put into HELM3 and HELM4."""
    name = f"HELM{version}"
    path = os.environ.get(name)
    if not path:
        raise RuntimeError(f"{name} is not set: run this by tests/run")
    return path


@dataclasses.dataclass
class Rendered:
    text: str
    objects: list[dict]

    def of(self, kind: str) -> list[dict]:
        return [entry for entry in self.objects if entry["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> dict:
        """The only object of this kind (and name); anything else is a failure."""
        found = [entry for entry in self.of(kind) if name in (None, entry["metadata"]["name"])]
        names = sorted(f"{entry['kind']}/{entry['metadata']['name']}" for entry in self.objects)
        assert len(found) == 1, f"{len(found)} of {kind} {name or ''} among {names}"
        return found[0]

    def has(self, kind: str) -> bool:
        return bool(self.of(kind))


class Chart:
    """A chart of this repository.  release and namespace are what `helm install` would be told."""

    def __init__(self, name: str, helm: str, release: str | None = None, namespace: str | None = None):
        self.name = name
        self.helm = helm
        self.directory = ROOT / "helm" / name
        self.release = release or name
        self.namespace = namespace or name
        self._features: dict[str, Rendered] = {}

    @property
    def ci(self) -> dict[str, pathlib.Path]:
        """The values files in ci/, one for each feature, by what stands before -values.yaml."""
        return {path.name.removesuffix("-values.yaml"): path
                for path in sorted(self.directory.glob("ci/*-values.yaml"))}

    def render(self, *values: Values, kube_version: str = KUBE_VERSION, api_versions: Iterable[str] = ()) -> Rendered:
        """api_versions: what a cluster would offer besides Kubernetes' own, e.g. networking.istio.io/v1."""
        text = self._helm("template", values, "--kube-version", kube_version,
                          *(f"--api-versions={version}" for version in api_versions))
        return Rendered(text, parse(text))

    def feature(self, name: str) -> Rendered:
        """What the values file of ci/ with this name gives, rendered once; not to be changed."""
        if name not in self._features:
            self._features[name] = self.render(self.ci[name])
        return self._features[name]

    def refusal(self, *values: Values, **options) -> str:
        try:
            self.render(*values, **options)
        except Refused as refused:
            return str(refused)
        raise AssertionError(f"{self.name} renders, and should not")

    def notes(self, *values: Values) -> str:
        text = self._helm("install", values, "--dry-run=client")
        _, found, notes = text.partition("\nNOTES:\n")
        assert found, f"no NOTES in {text}"
        return notes

    def deploy(self, kubeconfig: str, *values: Values) -> None:
        """Into a cluster: as a new release, or as the next revision of the one that is there."""
        self._helm("upgrade", values, "--install", "--create-namespace", f"--kubeconfig={kubeconfig}")

    def try_on(self, kubeconfig: str, *values: Values) -> str:
        """What an install into this cluster would say; helm asks it what it has, and changes nothing."""
        return self._run("install", self.release, str(self.directory), "--namespace", self.namespace,
                         "--dry-run=server", "--kubeconfig", kubeconfig, *self._files(values))

    def lint(self, *values: Values) -> str:
        return self._run("lint", str(self.directory), "--strict", *self._files(values))

    def _helm(self, verb: str, values: tuple[Values, ...], *options: str) -> str:
        return self._run(verb, self.release, str(self.directory), "--namespace", self.namespace,
                         *self._files(values), *options)

    def _files(self, values: tuple[Values, ...]) -> list[str]:
        paths = []
        for entry in values:
            if isinstance(entry, dict):
                with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=self._scratch, delete=False) as file:
                    yaml.safe_dump(entry, file)
                paths.append(file.name)
            else:
                paths.append(os.fspath(entry))
        return [f"--values={path}" for path in paths]

    def _run(self, *arguments: str) -> str:
        # No kubeconfig of whoever runs the tests, no repositories, nothing kept.
        environment = {"PATH": os.environ["PATH"], "HOME": self._scratch, "KUBECONFIG": os.devnull,
                       "HELM_CACHE_HOME": self._scratch, "HELM_CONFIG_HOME": self._scratch,
                       "HELM_DATA_HOME": self._scratch}
        done = subprocess.run([self.helm, *arguments], capture_output=True, text=True, env=environment, timeout=60)
        if done.returncode != 0:
            raise Refused(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    @property
    def _scratch(self) -> str:
        if not hasattr(self, "_directory"):
            self._directory = tempfile.TemporaryDirectory(prefix="svidmail-chart-")
        return self._directory.name


def parse(text: str) -> list[dict]:
    """The objects of rendered text; a key that stands twice in one mapping is an error, as for an API server."""
    return [entry for entry in yaml.load_all(text, _StrictLoader) if entry is not None]


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def normalized(text: str) -> str:
    """Rendered text as a snapshot keeps it: helm's marks of source files and empty documents gone, objects in order."""
    documents = re.split(r"^---$", text, flags=re.MULTILINE)
    kept = []
    for document in documents:
        lines = [line.rstrip() for line in document.splitlines()
                 if not line.startswith(("# Source: ", "# SPDX-License-Identifier"))]
        objects = parse("\n".join(lines))
        if objects:
            kept.append(((objects[0]["kind"], objects[0]["metadata"]["name"]), "\n".join(lines).strip("\n")))
    return "".join(f"---\n{document}\n" for _, document in sorted(kept))


def check_snapshot(path: pathlib.Path, text: str) -> None:
    """text must be what path holds; with SVIDMAIL_UPDATE_SNAPSHOTS set it becomes that."""
    if os.environ.get("SVIDMAIL_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    assert path.exists(), f"{path} is missing: SVIDMAIL_UPDATE_SNAPSHOTS=1 tests/run mesh -k snapshot makes it"
    assert text == path.read_text(), f"{path} differs; if that is meant: SVIDMAIL_UPDATE_SNAPSHOTS=1 tests/run mesh"
