# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes plugins/plugin_utils/model/kubernetes_types.json: fields and types of the objects that variables hold.

The source is Kubernetes' OpenAPI document of the newest supported version, which kubernetes-validate carries:
    .venv/bin/python tests/manifests/write_kubernetes_types.py
"""

from __future__ import annotations

import json
import pathlib

import kubernetes_validate

VERSION = "1.37.0"
TARGET = pathlib.Path(__file__).parents[2] / "plugins" / "plugin_utils" / "model" / "kubernetes_types.json"
ROOTS = (
    "core.v1.Container", "core.v1.Volume", "core.v1.Affinity", "core.v1.Toleration",
    "networking.v1.NetworkPolicyEgressRule",
    "rbac.v1.PolicyRule", "autoscaling.v2.HorizontalPodAutoscalerBehavior", "apps.v1.Deployment", "apps.v1.StatefulSet",
    "apps.v1.DaemonSet", "batch.v1.Job", "batch.v1.CronJob", "core.v1.Service", "core.v1.ConfigMap", "core.v1.Secret",
    "core.v1.PersistentVolumeClaim", "networking.v1.Ingress", "networking.v1.NetworkPolicy",
    "autoscaling.v2.HorizontalPodAutoscaler",
    "policy.v1.PodDisruptionBudget", "core.v1.ServiceAccount", "rbac.v1.Role", "rbac.v1.RoleBinding",
)
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"


def main() -> None:
    TARGET.write_text(text(), encoding="utf-8")


def text() -> str:
    """What the file is to hold."""
    folder = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}-local"
    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    types: dict[str, dict[str, str]] = {}
    waiting = [f"io.k8s.api.{root}" for root in ROOTS]
    while waiting:
        name = waiting.pop()
        if short(name) in types:
            continue
        definition, fields = definitions[name], {}
        required = definition.get("required", [])
        for field, schema in sorted(definition.get("properties", {}).items()):
            if field in ("status", "managedFields"):
                continue
            mark = "!" if field in required else ""
            fields[field] = mark + written(schema, waiting, definitions)
        types[short(name)] = fields
    lines = [f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in sorted(types.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def short(name: str) -> str:
    """The last two parts of a definition's name, such as v1.Container."""
    return ".".join(name.rsplit(".", 2)[-2:])


def written(schema: dict, waiting: list[str], definitions: dict) -> str:
    """A schema as a short text: string, [string], {string}, or the name of a type, which is then to be written too."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name == QUANTITY:
            return "quantity"
        if name == INT_OR_STRING:
            return "integer or string"
        if not definitions[name].get("properties"):
            return written(definitions[name], waiting, definitions)
        waiting.append(name)
        return short(name)
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        kind = next(entry for entry in kind if entry != "null")
    if kind == "array":
        return f"[{written(schema['items'], waiting, definitions)}]"
    if kind == "object" and "additionalProperties" in schema:
        return f"{{{written(schema['additionalProperties'], waiting, definitions)}}}"
    return kind


if __name__ == "__main__":
    main()
