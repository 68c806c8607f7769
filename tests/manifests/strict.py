# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Strict validation of any object that roles render: Kubernetes' own kinds, and custom resources by schemas/ and
published CRDs."""

from __future__ import annotations

import functools
import os
import pathlib

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = pathlib.Path(__file__).parent / "schemas"
BUILT_IN = ("apps", "autoscaling", "batch", "policy", "")
"""API groups of Kubernetes without a domain; with the domain k8s.io, those below are its own as well."""
BUILT_IN_DOMAINS = (
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "scheduling.k8s.io",
    "admissionregistration.k8s.io",
)

SHARED = SCHEMAS.parents[3] / "shared" / "crds"
"""Beside the repository."""
CRDS = os.environ.get("CRDS") or (str(SHARED) if SHARED.is_dir() else "")
"""A folder of CustomResourceDefinitions as their projects publish them; where there is one, a custom resource must
please them too."""
USED: set[str] = set()
"""Kinds of custom resources that were validated by them."""


class Loader(yaml.CSafeLoader):
    """Reads `=`, which is in an enumeration of the Prometheus operator, as text."""


Loader.add_constructor("tag:yaml.org,2002:value", Loader.construct_yaml_str)


@functools.cache
def _published(group: str) -> dict[str, dict[str, jsonschema.Draft202012Validator]]:
    """By kind of the group, and by each version that is served, what the definitions in CRDS say, with unknown fields
    refused as by `kubectl --validate=strict`."""
    found: dict[str, dict[str, jsonschema.Draft202012Validator]] = {}
    texts = [path.read_text() for path in sorted(pathlib.Path(CRDS).glob("*.y*ml"))]
    assert any("CustomResourceDefinition" in text for text in texts), f"CRDS={CRDS} has no CustomResourceDefinition"
    for text in texts:
        for definition in yaml.load_all(text, Loader) if group in text else ():
            if (not definition or definition["kind"] != "CustomResourceDefinition"
                    or definition["spec"]["group"] != group):
                continue
            spec = definition["spec"]
            versions = found.setdefault(spec["names"]["kind"], {})
            for version in spec["versions"]:
                if version["served"]:
                    schema = _closed(version["schema"]["openAPIV3Schema"])
                    known = {"apiVersion": {}, "kind": {}, **schema.get("properties", {}), "metadata": {}}
                    versions[version["name"]] = jsonschema.Draft202012Validator({**schema, "properties": known})
    return found


def _closed(schema: dict) -> dict:
    """The schema without room for fields that it does not name. What its CEL expressions demand remains for a cluster
    to check."""
    closed = {key: value for key, value in schema.items() if key not in ("format", "nullable")}
    for key in ("items", "additionalProperties"):
        if isinstance(closed.get(key), dict):
            closed[key] = _closed(closed[key])
    if "(?i)" in closed.get("pattern", ""):
        # Go's syntax takes flags anywhere, Python's at the beginning only.
        closed["pattern"] = f"(?i:{closed['pattern'].replace('(?i)', '')})"
    closed["properties"] = {name: _closed(value) for name, value in schema.get("properties", {}).items()}
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed


@functools.cache
def _schema(path: pathlib.Path) -> jsonschema.Draft202012Validator:
    metadata = {"type": "object", "required": ["name", "namespace"], "properties": {"name": {"type": "string"}}}
    spec = yaml.safe_load(path.read_text())
    frame = {"type": "object", "additionalProperties": False, "required": ["apiVersion", "kind", "metadata", "spec"],
             "properties": {"apiVersion": {}, "kind": {}, "metadata": metadata, "spec": spec}}
    jsonschema.Draft202012Validator.check_schema(frame)
    return jsonschema.Draft202012Validator(frame)


def validate(obj: dict, version: str) -> None:
    """Raise for any field that the kind does not have, or a kind that nothing is known of."""
    group, _sep, api_version = obj["apiVersion"].rpartition("/")
    if group in (*BUILT_IN, *BUILT_IN_DOMAINS):
        kubernetes_validate.validate(obj, version, strict=True)
        return
    path = SCHEMAS / f"{obj['kind'].lower()}.{group}.{api_version}.yaml"
    assert (
        path.exists()
    ), f"{obj['kind']} of {obj['apiVersion']} has no schema: write {path.relative_to(SCHEMAS.parents[2])}"
    _schema(path).validate(obj)
    if CRDS:
        if versions := _published(group).get(obj["kind"]):
            assert api_version in versions, f"{obj['kind']} of {obj['apiVersion']} is not served; {list(versions)} are"
            versions[api_version].validate(obj)
            USED.add(obj["kind"])
    for name, value in (obj["metadata"].get("annotations") or {}).items():
        assert isinstance(value, str), f"{obj['kind']}: annotation {name} is no text"
