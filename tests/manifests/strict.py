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

CRDS = os.environ.get("CRDS", "")
"""A folder of CustomResourceDefinitions as their projects publish them; where it is given, a custom resource must
please them too."""


class Loader(yaml.CSafeLoader):
    """Reads `=`, which is in an enumeration of the Prometheus operator, as text."""


Loader.add_constructor("tag:yaml.org,2002:value", Loader.construct_yaml_str)


@functools.cache
def _published() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    """By API version and kind, what the definitions in CRDS say, with unknown fields refused as by `kubectl
    --validate=strict`."""
    found = {}
    for path in sorted(pathlib.Path(CRDS).glob("*.y*ml")) if CRDS else []:
        for definition in yaml.load_all(path.read_text(), Loader):
            for version in (
                definition["spec"]["versions"]
                if definition and definition["kind"] == "CustomResourceDefinition"
                else []
            ):
                schema = _closed(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {}
                found[f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"]] = (
                    jsonschema.Draft202012Validator(schema))
    return found


def _closed(schema: dict) -> dict:
    """The schema without room for fields that it does not name. What its CEL expressions demand remains for a cluster
    to check."""
    closed = {key: _closed(value) if isinstance(value, dict) and key in ("items", "additionalProperties") else value
              for key, value in schema.items() if key not in ("format", "nullable")}
    if "properties" in schema:
        closed["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
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
        assert _published(), f"CRDS={CRDS} has no CustomResourceDefinition"
        if published := _published().get((obj["apiVersion"], obj["kind"])):
            published.validate(obj)
    for name, value in (obj["metadata"].get("annotations") or {}).items():
        assert isinstance(value, str), f"{obj['kind']}: annotation {name} is no text"
