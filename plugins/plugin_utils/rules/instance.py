# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about what all roles share: names, objects of the cluster, sizes, ports, patches."""

from __future__ import annotations

import ipaddress
import re
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity
from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules.terms import PUBLISH, Rule, Variables

DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
OBJECT = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
VERSION = re.compile(r"^[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?$")
TEXTS = ("mlflow_labels", "mlflow_annotations", "mlflow_node_selector", "mlflow_server_pod_labels", "mlflow_server_pod_annotations",
         "mlflow_server_service_annotations", "mlflow_server_service_account_annotations")
LABELS = ("mlflow_labels", "mlflow_node_selector", "mlflow_server_pod_labels")
NAMED = ("database_existing_secret", "database_ca_secret", "object_storage_existing_secret", "object_storage_existing_claim",
         "mlflow_server_auth_existing_secret", "mlflow_server_tls_secret", "mlflow_server_service_account", "mlflow_priority_class",
         "ingress_tls_secret", "ingress_class")
"""Variables that name an object of the cluster."""


def names(v: Variables) -> Iterator[str]:
    # Services begin with a letter; a StatefulSet's pods carry its name and eleven characters more as a label.
    for variable, longest, first in (("mlflow_instance", 37, "[a-z]"), ("mlflow_namespace", 63, "[a-z0-9]")):
        value = str(v[variable])
        if variable == "mlflow_namespace" and value == v["mlflow_instance"]:
            continue
        if not DNS_LABEL.match(value) or len(value) > longest or not re.match(first, value):
            yield (f"{variable} is {value!r}; it must be a DNS label: at most {longest} lower-case letters, digits and '-', "
                   f"beginning with a letter{' or digit' if '0' in first else ''} and ending with a letter or digit.")
    if int(v["mlflow_wait_timeout"]) < 1:
        yield f"mlflow_wait_timeout is {v['mlflow_wait_timeout']}; it must be at least 1 second."
    if not VERSION.match(str(v["mlflow_version"])):
        yield f"mlflow_version is {v['mlflow_version']!r}; it must be a whole version such as 3.17.2."


def objects(v: Variables) -> Iterator[str]:
    """What Kubernetes would refuse halfway, when other roles have made their objects already."""
    for variable in TEXTS:
        for name, value in v[variable].items():
            if not isinstance(value, str):
                yield f"{variable}: the value of {name} is {value!r}; Kubernetes takes text, so put it in quotes."
            elif variable in LABELS and not LABEL_VALUE.match(value):
                yield (f"{variable}: the value of {name} is {value!r}; a label's value has at most 63 letters, digits, '-', '_' and '.', "
                       f"beginning and ending with a letter or digit.")
    for variable in NAMED:
        if v[variable] and not OBJECT.match(str(v[variable])):
            yield f"{variable} is {v[variable]!r}; it must be an object's name: lower-case letters, digits, '-' and '.'."
    for client in v["mlflow_network_policy_clients"]:
        if not (_network(client) if "/" in str(client) else DNS_LABEL.match(str(client))):
            yield f"mlflow_network_policy_clients holds {client!r}; it must be a namespace's name, or a network such as 10.0.0.0/16."


def _network(text: object) -> bool:
    try:
        return bool(ipaddress.ip_network(str(text)))
    except ValueError:
        return False


def sizes(v: Variables) -> Iterator[str]:
    for variable in ("database_size", "object_storage_size"):
        size = quantity(v[variable])
        if size is None or size < 2**20:
            yield f"{variable} is {v[variable]!r}; it must be a Kubernetes quantity of storage such as 10Gi."


def resources(v: Variables) -> Iterator[str]:
    for variable in ("database_resources", "object_storage_resources", "mlflow_server_resources", "ingress_resources"):
        unknown = set(v[variable]) - {"requests", "limits", "claims"}
        if unknown:
            yield f"{variable} holds {sorted(unknown)[0]!r}; it may hold requests and limits."
            continue
        for part in ("requests", "limits"):
            for name, value in (v[variable].get(part) or {}).items():
                if quantity(value) is None:
                    yield f"{variable}.{part}.{name} is {value!r}; it must be a Kubernetes quantity such as 500m or 2Gi."
    effective = v.get("mlflow_server_effective_resources") or {}
    for variable, value in (("database_resources", v["database_resources"]), ("object_storage_resources", v["object_storage_resources"]),
                            ("mlflow_server_resources", effective), ("ingress_resources", v["ingress_resources"])):
        for name, limit in (value.get("limits") or {}).items():
            request = quantity((value.get("requests") or {}).get(name, 0))
            if request and quantity(limit) and request > quantity(limit):
                yield (f"{variable}.requests.{name} ({value['requests'][name]}) is more than {variable}.limits.{name} ({limit}); "
                       f"it must be at most that.")


def ports(v: Variables) -> Iterator[str]:
    for variable, lowest in (("database_port", 1), ("mlflow_server_port", 1024)):
        if not lowest <= int(v[variable]) <= 65535:
            yield f"{variable} is {v[variable]}; it must be a TCP port from {lowest} to 65535."
    pod = {"mlflow_server_port": int(v["mlflow_server_port"])}  # whose containers share their ports
    if v["database_cloudsql_instance"]:
        pod |= {"database_port": int(v["database_port"]), "the health check of Cloud SQL's proxy": 9801}
    if v["mlflow_server_auth"] == "oidc":
        pod |= {"oauth2-proxy": int(v["mlflow_server_oidc_port"])}
    for number, name in enumerate(pod):
        for other in list(pod)[number + 1:]:
            if pod[name] == pod[other]:
                yield f"{name} is {pod[name]}, which is also the port of {other} in the same pod; choose another."
    publish = str(v["mlflow_server_publish"] or "")
    match = PUBLISH.match(publish)
    if publish and not (match and 1 <= int(match[2]) <= 65535):
        yield f"mlflow_server_publish is {publish!r}; it must be an address and a port such as 127.0.0.1:5000, or empty."


def patches(v: Variables) -> Iterator[str]:
    for variable in ("database_patches", "object_storage_patches", "mlflow_server_patches", "ingress_patches"):
        for number, entry in enumerate(v[variable]):
            if set(entry) != {"target", "patch"} or not isinstance(entry["target"], dict) or not entry["target"].get("kind"):
                yield f"{variable}[{number}] must hold exactly target (kind, and name to reach one object) and patch (the fields to merge)."


RULES: tuple[Rule, ...] = (names, objects, sizes, resources, ports, patches)
