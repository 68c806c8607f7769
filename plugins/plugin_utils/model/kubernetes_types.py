# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the API server would refuse of the parts of its objects that variables hold, such as containers and volumes.

Fields and types are Kubernetes' own (kubernetes_types.json, written by tests/manifests/write_kubernetes_types.py); the
rules below are those of its validation that a person is likely to break. Messages never show the value of
an environment variable or a Secret.

Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common

PATH = pathlib.Path(__file__).with_suffix(".json")
PROTOCOLS = ("TCP", "UDP", "SCTP")
CHOICES = {
    ("v1.Toleration", "operator"): ("Equal", "Exists", "Lt", "Gt"),
    ("v1.Toleration", "effect"): ("", "NoSchedule", "PreferNoSchedule", "NoExecute"),
    ("v1.Container", "imagePullPolicy"): ("Always", "IfNotPresent", "Never"),
    ("v1.ContainerPort", "protocol"): PROTOCOLS,
    ("v1.NetworkPolicyPort", "protocol"): PROTOCOLS,
    ("v1.ServicePort", "protocol"): PROTOCOLS,
    ("v1.HTTPGetAction", "scheme"): ("HTTP", "HTTPS"),
    ("v1.NodeSelectorRequirement", "operator"): ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    ("v1.LabelSelectorRequirement", "operator"): ("In", "NotIn", "Exists", "DoesNotExist"),
    ("v2.HPAScalingPolicy", "type"): ("Pods", "Percent"),
    ("v2.HPAScalingRules", "selectPolicy"): ("Max", "Min", "Disabled"),
    ("v1.ServiceSpec", "type"): ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    ("v1.ServiceSpec", "externalTrafficPolicy"): ("Cluster", "Local"),
    ("v1.ServiceSpec", "internalTrafficPolicy"): ("Cluster", "Local"),
    ("v1.ServiceSpec", "sessionAffinity"): ("None", "ClientIP"),
    ("v1.ServiceSpec", "ipFamilyPolicy"): ("SingleStack", "PreferDualStack", "RequireDualStack"),
    ("v1.TopologySpreadConstraint", "whenUnsatisfiable"): ("DoNotSchedule", "ScheduleAnyway"),
    ("v1.TopologySpreadConstraint", "nodeAffinityPolicy"): ("Honor", "Ignore"),
    ("v1.TopologySpreadConstraint", "nodeTaintsPolicy"): ("Honor", "Ignore"),
    ("v1.VolumeMount", "mountPropagation"): ("None", "HostToContainer", "Bidirectional"),
}
"""Values that a text field may have."""
LIMITS = {
    ("v1.ContainerPort", "containerPort"): (1, 65535), ("v1.ContainerPort", "hostPort"): (0, 65535),
    ("v1.ServicePort", "port"): (1, 65535),
    ("v1.NetworkPolicyPort", "endPort"): (1, 65535), ("v1.PreferredSchedulingTerm", "weight"): (1, 100),
    ("v1.WeightedPodAffinityTerm", "weight"): (1, 100), ("v2.HPAScalingRules", "stabilizationWindowSeconds"): (0, 3600),
    ("v2.HPAScalingPolicy", "value"): (1, 2**31 - 1), ("v2.HPAScalingPolicy", "periodSeconds"): (1, 1800),
    ("v1.Probe", "periodSeconds"): (1, 2**31 - 1), ("v1.Probe", "timeoutSeconds"): (1, 2**31 - 1),
    ("v1.Probe", "failureThreshold"): (1, 2**31 - 1), ("v1.Probe", "initialDelaySeconds"): (0, 2**31 - 1),
    ("v1.Probe", "successThreshold"): (1, 2**31 - 1), ("v1.ServiceSpec", "healthCheckNodePort"): (1, 65535),
    ("v1.TopologySpreadConstraint", "maxSkew"): (1, 2**31 - 1),
    ("v1.TopologySpreadConstraint", "minDomains"): (1, 2**31 - 1),
    ("v1.DeploymentSpec", "replicas"): (0, 2**31 - 1), ("v1.StatefulSetSpec", "replicas"): (0, 2**31 - 1),
}
"""Least and most of whole numbers."""
FILLED = {
    "v1.NodeSelector": ("nodeSelectorTerms",), "v1.PolicyRule": ("verbs",), "v1.PodAffinityTerm": ("topologyKey",),
    "v1.ConfigMapEnvSource": ("name",), "v1.SecretEnvSource": ("name",), "v1.ConfigMapKeySelector": ("name", "key"),
    "v1.SecretKeySelector": ("name", "key"), "v1.ConfigMapVolumeSource": ("name",),
    "v1.SecretVolumeSource": ("secretName",),
    "v1.PersistentVolumeClaimVolumeSource": ("claimName",), "v1.HostPathVolumeSource": ("path",),
    "v1.Container": ("image",),
    "v1.CSIVolumeSource": ("driver",), "v1.NFSVolumeSource": ("server", "path"),
}
"""Fields that must not be empty, besides those that the schema requires."""
ONE_OF = {"v1.EnvVarSource": "source", "v1.EnvFromSource": "source", "v1.Volume": "source", "v1.Probe": "handler",
          "v1.LifecycleHandler": "handler"}
"""Types of whose fields exactly one must be set, not counting those in BESIDES."""
BESIDES = {"v1.EnvFromSource": ("prefix",), "v1.Volume": ("name",),
           "v1.Probe": ("failureThreshold", "initialDelaySeconds", "periodSeconds", "successThreshold",
                        "terminationGracePeriodSeconds",
                        "timeoutSeconds")}


@functools.cache
def types() -> dict[str, dict[str, str]]:
    """Fields by type; a field's type is text such as ``[v1.EnvVar]``, after ``!`` where it is required."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def problems(where: str, value: Any, kind: str) -> Iterator[str]:
    """A sentence for each thing in a value that the API server would refuse.

    Args:
        where: what to call the value, such as ``mlflow_tolerations[0]``.
        value: of a variable.
        kind: its type: the name of one in kubernetes_types.json, or ``[...]`` for a list of it.
    """
    if kind.startswith("["):
        if not isinstance(value, list):
            yield f"{where} is {_kind_of(value)}; it must be a list."
            return
        for number, entry in enumerate(value):
            yield from problems(f"{where}[{number}]", entry, kind[1:-1])
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{where} is {_kind_of(value)}; it must be a mapping."
            return
        for key, entry in value.items():
            yield from problems(f"{where}.{key}", entry, kind[1:-1])
    elif kind in SCALARS:
        if not SCALARS[kind][0](value):
            yield f"{where} is {_kind_of(value)}; {SCALARS[kind][1]}."
    elif kind in types():
        yield from _object(where, value, kind)


def of_object(where: str, obj: dict) -> Iterator[str]:
    """The problems of a whole object, where its kind is one of Kubernetes' own that are known here."""
    kind = f"{str(obj.get('apiVersion')).rpartition('/')[2]}.{obj.get('kind')}"
    if kind in types() and "metadata" in types()[kind]:
        yield from problems(where, obj, kind)


def fields(where: str, value: dict, kind: str, allowed: tuple[str, ...]) -> Iterator[str]:
    """The problems of fields that are set in an object that the collection renders.

    Args:
        where: what to call the value.
        value: some of the object's fields.
        kind: of the object.
        allowed: the fields that may be set.
    """
    for field, entry in value.items():
        if field not in allowed:
            near = difflib.get_close_matches(field, allowed, n=1)
            yield (f"{where} has the field {field}; "
                   f"{f'use {near[0]}' if near else 'it may have ' + ', '.join(allowed)}.")
        else:
            yield from _field(where, field, entry, kind, types()[kind][field].lstrip("!"))


def _object(where: str, value: Any, kind: str) -> Iterator[str]:
    name, fields = kind.rpartition(".")[2], types()[kind]
    if not isinstance(value, dict):
        yield f"{where} is {_kind_of(value)}; it must be a mapping, as {_article(name)} of Kubernetes is."
        return
    unknown = sorted(str(field) for field in value if field not in fields)
    if unknown:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        yield (f"{where} has the field {unknown[0]}, which {_article(name)} of Kubernetes does not have; "
               f"{f'use {near[0]}' if near else 'it may have ' + ', '.join(sorted(fields)[:12])}.")
        return
    missing = [field for field, text in fields.items() if text.startswith("!") and value.get(field) is None]
    missing += [field for field in FILLED.get(kind, ()) if field not in missing and not value.get(field)]
    if missing:
        yield f"{where} has no {missing[0]}, which {_article(name)} of Kubernetes must have."
        return
    before = False
    for field, entry in value.items():
        for sentence in _field(where, field, entry, kind, fields[field].lstrip("!")):
            before = True
            yield sentence
    if before:
        return  # the rules below rely on types
    if kind in ONE_OF:
        yield from _one_of(where, value, kind)
    if kind in RULES:
        yield from RULES[kind](where, value)


def _field(where: str, field: str, value: Any, kind: str, of: str) -> Iterator[str]:
    if value is None:
        return  # as if it were left out
    before = False
    for sentence in problems(f"{where}.{field}", value, of):
        before = True
        yield sentence
    if before:
        return
    choices, limits = CHOICES.get((kind, field)), LIMITS.get((kind, field))
    if choices and value not in choices:
        yield f"{where}.{field} is {value!r}; it must be one of {', '.join(filter(None, choices))}."
    if limits and not limits[0] <= int(value) <= limits[1]:
        yield f"{where}.{field} is {value}; it must be from {limits[0]} to {limits[1]}."


def _one_of(where: str, value: dict, kind: str) -> Iterator[str]:
    given = [field for field, entry in value.items() if entry is not None and field not in BESIDES.get(kind, ())]
    if len(given) > 1:
        yield f"{where} has both {given[0]} and {given[1]}; it must have one {ONE_OF[kind]}."
    elif not given:
        possible = [field for field in types()[kind] if field not in BESIDES.get(kind, ())]
        example = "emptyDir" if "emptyDir" in possible else possible[0]
        yield f"{where} has no {ONE_OF[kind]}; it must have one, such as {example}."


def _container(where: str, value: dict) -> Iterator[str]:
    if not common.matches(common.DNS_LABEL, value["name"]):
        yield f"{where}.name is {value['name']!r}; it must be a DNS label: lower-case letters, digits and '-'."
    if not common.image(value["image"]):
        yield (f"{where}.image is {value['image']!r}; it must be an image's name, such as "
               "docker.io/library/busybox:1.37.")
    yield from _twice(f"{where}.env", value.get("env"), "name")
    yield from _twice(f"{where}.volumeMounts", value.get("volumeMounts"), "mountPath")
    yield from _resources(f"{where}.resources", value.get("resources") or {})


def _resources(where: str, value: dict) -> Iterator[str]:
    for part in ("requests", "limits"):
        for name, figure in (value.get(part) or {}).items():
            if (quantity(figure) or 0) < 0:
                yield f"{where}.{part}.{name} is {figure!r}; it must not be negative."


def _env(where: str, value: dict) -> Iterator[str]:
    if not common.matches(r"[!-<>-~]+", value["name"]):
        yield (f"{where}.name is {value['name']!r}; it must be the name of an environment variable, such as "
               "MLFLOW_TRACKING_TOKEN.")
    if value.get("value") and value.get("valueFrom") is not None:
        yield f"{where} has both value and valueFrom; it must have one of them."


def _volume(where: str, value: dict) -> Iterator[str]:
    if not common.matches(common.DNS_LABEL, value["name"]):
        yield f"{where}.name is {value['name']!r}; it must be a DNS label: lower-case letters, digits and '-'."


def _volume_mount(where: str, value: dict) -> Iterator[str]:
    if not common.matches(r"/[^:\x00]*", value["mountPath"]):
        yield (f"{where}.mountPath is {value['mountPath']!r}; it must be an absolute path without a colon, such as "
               "/data.")
    path = value.get("subPath") or ""
    if path.startswith("/") or ".." in path.split("/"):
        yield f"{where}.subPath is {path!r}; it must be a path inside the volume, without '..'."
    if path and value.get("subPathExpr"):
        yield f"{where} has both subPath and subPathExpr; it must have one of them."


def _toleration(where: str, value: dict) -> Iterator[str]:
    operator = value.get("operator") or "Equal"
    if operator == "Exists" and value.get("value"):
        yield f"{where} has a value while its operator is Exists; leave the value out, or set operator to Equal."
    elif not value.get("key") and operator != "Exists":
        yield f"{where} has no key; name the taint's key, or set operator to Exists to tolerate every taint."
    elif value.get("key") and not common.label_key(value["key"]):
        yield f"{where}.key is {value['key']!r}; it must be a taint's key, such as nvidia.com/gpu."
    elif not common.matches(common.LABEL_VALUE, value.get("value") or ""):
        yield f"{where}.value is {value['value']!r}; it must have at most 63 letters, digits, '-', '_' and '.'."
    elif value.get("tolerationSeconds") is not None and value.get("effect") != "NoExecute":
        yield (f"{where}.tolerationSeconds is set while its effect is not NoExecute; leave it out, or set effect to "
               "NoExecute.")


def _requirement(where: str, value: dict) -> Iterator[str]:
    operator, values = value["operator"], value.get("values") or []
    if not common.label_key(value["key"]):
        yield f"{where}.key is {value['key']!r}; it must be a label's key, such as kubernetes.io/hostname."
    elif operator in ("In", "NotIn") and not values:
        yield f"{where}.values is empty while its operator is {operator}; name at least one value."
    elif operator in ("Exists", "DoesNotExist") and values:
        yield f"{where}.values is set while its operator is {operator}; leave it out."
    elif operator in ("Gt", "Lt") and not (len(values) == 1 and common.matches(r"-?[0-9]{1,18}", values[0])):
        yield f"{where}.values must be one whole number, in quotes, while its operator is {operator}."


def _spread(where: str, value: dict) -> Iterator[str]:
    if not common.label_key(value["topologyKey"]):
        yield (f"{where}.topologyKey is {value['topologyKey']!r}; it must be the key of a node's label, such as "
               "topology.kubernetes.io/zone.")
    if value.get("minDomains") is not None and value["whenUnsatisfiable"] != "DoNotSchedule":
        yield f"{where}.minDomains needs whenUnsatisfiable to be DoNotSchedule; set it so, or leave minDomains out."


def _policy_rule(where: str, value: dict) -> Iterator[str]:
    if value.get("nonResourceURLs"):
        yield f"{where} has nonResourceURLs, which a Role cannot give; name resources and their apiGroups."
    elif not value.get("resources") or not value.get("apiGroups"):
        missing = "apiGroups" if value.get("resources") else "resources"
        yield f"{where} has no {missing}; name resources and their apiGroups, which is \"\" for those of the core."


def _policy_port(where: str, value: dict) -> Iterator[str]:
    port, end = value.get("port"), value.get("endPort")
    if isinstance(port, int) and not 1 <= port <= 65535:
        yield f"{where}.port is {port}; it must be a port from 1 to 65535, or the name of one."
    elif isinstance(port, str) and not common.matches(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", port):
        yield f"{where}.port is {port!r}; it must be a port as a number without quotes, or the name of one."
    elif end is not None and not (isinstance(port, int) and port <= end):
        yield f"{where}.endPort is {end}; it needs a port that is a number and not above it."


def _peer(where: str, value: dict) -> Iterator[str]:
    if value.get("ipBlock") is not None and len([entry for entry in value.values() if entry is not None]) > 1:
        yield f"{where} has an ipBlock and selectors; it must have one or the other."
    elif not [entry for entry in value.values() if entry is not None]:
        yield f"{where} is empty; it must have ipBlock, namespaceSelector or podSelector."


def _ip_block(where: str, value: dict) -> Iterator[str]:
    if not common.network(value["cidr"]) or "/" not in value["cidr"]:
        yield f"{where}.cidr is {value['cidr']!r}; it must be a network such as 10.0.0.0/16."
        return
    outer = ipaddress.ip_network(value["cidr"])
    for entry in value.get("except") or []:
        inner = ipaddress.ip_network(entry) if common.network(entry) and "/" in entry else None
        if inner is None or inner.version != outer.version or not inner.subnet_of(outer) or inner == outer:
            yield f"{where}.except holds {entry!r}; it must be a network inside {value['cidr']}."


def _twice(where: str, entries: list | None, field: str) -> Iterator[str]:
    names = [entry[field] for entry in entries or []]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where} holds {name} twice; Kubernetes takes each {field} once."


RULES: dict[str, Callable[[str, dict], Iterator[str]]] = {
    "v1.Container": _container, "v1.EnvVar": _env, "v1.Volume": _volume, "v1.VolumeMount": _volume_mount,
    "v1.Toleration": _toleration,
    "v1.NodeSelectorRequirement": _requirement, "v1.LabelSelectorRequirement": _requirement,
    "v1.PolicyRule": _policy_rule, "v1.TopologySpreadConstraint": _spread,
    "v1.NetworkPolicyPort": _policy_port, "v1.NetworkPolicyPeer": _peer, "v1.IPBlock": _ip_block,
}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


SCALARS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "string": (lambda value: isinstance(value, str), "Kubernetes takes text there, so put it in quotes"),
    "integer": (_is_integer, "it must be a whole number, without quotes"),
    "number": (lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
               "it must be a number, without quotes"),
    "boolean": (lambda value: isinstance(value, bool), "it must be true or false, without quotes"),
    "object": (lambda value: isinstance(value, dict), "it must be a mapping"),
    "quantity": (lambda value: not isinstance(value, bool) and quantity(value) is not None,
                 "it must be a quantity such as 500m or 2Gi"),
    "integer or string": (lambda value: isinstance(value, str) or _is_integer(value), "it must be a number or a name"),
    "anything": (lambda value: True, ""),
}


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def _kind_of(value: Any) -> str:
    """What a value is, without the value itself, which may be secret."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    names = {dict: "a mapping", list: "a list", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "something else")
