# SPDX-License-Identifier: Apache-2.0
"""JSON schemas for kubeconform, made from what is at hand: Kubernetes' OpenAPI document and CRDs.

    schemas = KubeSchemas(kubeconform, directory)
    schemas.add_openapi(json.loads(kube_api.kubectl("get", "--raw", "/openapi/v2").stdout))
    schemas.add_definitions(path_of_crds)
    schemas.findings(rendered_yaml)         # [] when nothing is wrong

Strict: a field that the schema does not name is a finding, however deep.
"""

import copy
import json
import os
import pathlib
import subprocess

import yaml

KIND_KEY = "x-kubernetes-group-version-kind"
PREFIX = "#/definitions/"


class KubeSchemas:
    def __init__(self, kubeconform: str, directory: str):
        self._kubeconform = kubeconform
        self._directory = pathlib.Path(directory)

    def add_openapi(self, document: dict) -> None:
        """Every kind of a swagger 2 document, as an apiserver publishes it."""
        definitions = {name: _strict(_with_odd_types(definition, name))
                       for name, definition in document["definitions"].items()}
        for name, definition in document["definitions"].items():
            for kind in definition.get(KIND_KEY, []):
                needed = _needed(definitions, name)
                self._write(kind["group"], kind["version"], kind["kind"],
                            definitions[name] | {"definitions": {one: definitions[one] for one in needed}})

    def add_definitions(self, path: str | os.PathLike) -> None:
        """Every version of every CustomResourceDefinition in this file."""
        for crd in yaml.safe_load_all(pathlib.Path(path).read_text()):
            if crd and crd["kind"] == "CustomResourceDefinition":
                for version in crd["spec"]["versions"]:
                    schema = _strict(_with_odd_types(version["schema"]["openAPIV3Schema"], ""))
                    # An object's own fields are not repeated in a CRD.
                    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
                                             "metadata": {"type": "object"}}
                    self._write(crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"], schema)

    def findings(self, text: str) -> list[str]:
        """What kubeconform -strict says of these objects, one line each; a kind without a schema is a finding too."""
        location = str(self._directory / "{{ .Group }}-{{ .ResourceKind }}-{{ .ResourceAPIVersion }}.json")
        done = subprocess.run([self._kubeconform, "-strict", "-schema-location", location, "-output", "json", "-"],
                              input=text, capture_output=True, text=True, timeout=120)
        resources = json.loads(done.stdout).get("resources") or []
        found = [f"{one['kind']}/{one['name']}: {one['msg']}" for one in resources]
        assert (done.returncode == 0) == (not found), f"kubeconform ended with {done.returncode}: {done.stderr}"
        return found

    def _write(self, group: str, version: str, kind: str, schema: dict) -> None:
        # kubeconform takes what stands before the slash of apiVersion, which is the version where there is no group.
        name = f"{group or version}-{kind.lower()}-{version}.json"
        (self._directory / name).write_text(json.dumps(schema))


def _strict(schema):
    """Fields that are not named are refused wherever fields are named, unless the schema keeps unknown ones."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: ({name: _strict(one) for name, one in value.items()} if key == "properties" else _strict(value))
              for key, value in schema.items()}
    if (isinstance(strict.get("properties"), dict) and "type" in strict and "additionalProperties" not in strict
            and not strict.get("x-kubernetes-preserve-unknown-fields")):
        strict["additionalProperties"] = False
    return strict


def _with_odd_types(schema, name: str):
    """What Kubernetes writes as text or as a number."""
    if name.endswith("api.resource.Quantity"):
        return {"type": ["string", "number"]}
    if name.endswith("util.intstr.IntOrString"):
        return {"type": ["string", "integer"]}
    schema = copy.deepcopy(schema)
    _replace_odd_types(schema)
    return schema


def _replace_odd_types(schema) -> None:
    if isinstance(schema, list):
        for one in schema:
            _replace_odd_types(one)
    elif isinstance(schema, dict):
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.clear()
            schema["type"] = ["string", "integer"]
        if schema.pop("nullable", False) and isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        # Names of formats that a validator of JSON schemas may know differently; the apiserver judges these.
        if isinstance(schema.get("format"), str):
            del schema["format"]
        for one in schema.values():
            _replace_odd_types(one)


def _needed(definitions: dict, name: str) -> list[str]:
    """The definitions that this one refers to, and those that they do."""
    found, to_look_at = [], [name]
    while to_look_at:
        for reference in _references(definitions[to_look_at.pop()]):
            if reference not in found:
                found.append(reference)
                to_look_at.append(reference)
    return found


def _references(schema) -> list[str]:
    if isinstance(schema, list):
        return [found for one in schema for found in _references(one)]
    if isinstance(schema, dict):
        own = schema.get("$ref")
        return ([own.removeprefix(PREFIX)] if isinstance(own, str) else []) + [
            found for one in schema.values() for found in _references(one)]
    return []
