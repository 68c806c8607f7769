# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of what all components share: names, labels, sizes, patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

LONGEST_INSTANCE = 37
"""A StatefulSet's pods carry its name and eleven characters more as a label of at most 63."""
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
TEXTS = ("mlflow_labels", "mlflow_annotations", "mlflow_node_selector", "mlflow_server_pod_labels", "mlflow_server_pod_annotations",
         "mlflow_server_service_annotations", "mlflow_server_service_account_annotations")
LABELS = ("mlflow_labels", "mlflow_node_selector", "mlflow_server_pod_labels")
OBJECT_NAMES = (
    "database_existing_secret", "database_ca_secret", "object_storage_existing_secret", "object_storage_existing_claim",
    "mlflow_server_auth_existing_secret", "mlflow_server_encryption_existing_secret", "mlflow_server_tls_secret", "mlflow_server_service_account", "mlflow_priority_class",
    "ingress_tls_secret", "ingress_class", "database_storage_class", "object_storage_storage_class", "ingress_issuer")
"""Variables that name an object of the cluster."""
RESOURCES = ("cpu", "memory", "ephemeral-storage")


def check(model: Model) -> Iterator[str]:
    """Sentences about what all components share."""
    v = model.variables
    yield from _names(model, v)
    yield from _object_metadata(v)
    yield from _tolerations(v)
    yield from _network_policy(v)
    yield from _sizes(v)
    yield from _resources(v)
    yield from _patches(v)


def _names(model: Model, v: Variables) -> Iterator[str]:
    name, namespace = model.instance.name, model.instance.namespace
    if not common.matches(rf"[a-z]([-a-z0-9]{{0,{LONGEST_INSTANCE - 2}}}[a-z0-9])?", name):
        yield (f"mlflow_instance is {name!r}; it must be a DNS label: at most {LONGEST_INSTANCE} lower-case letters, digits and '-', "
               f"beginning with a letter and ending with a letter or digit.")
    elif not common.matches(common.DNS_LABEL, namespace):
        yield (f"mlflow_namespace is {namespace!r}; it must be a DNS label: at most 63 lower-case letters, digits and '-', beginning with a "
               f"letter or digit and ending with a letter or digit.")
    if not 1 <= v.mlflow_wait_timeout <= 86400:
        yield f"mlflow_wait_timeout is {v.mlflow_wait_timeout}; it must be at least 1 second, and at most 86400."
    if not common.matches(r"[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?|latest", v.mlflow_version):
        yield f"mlflow_version is {v.mlflow_version!r}; it must be a whole version such as 3.17.2, or latest."
    for variable in OBJECT_NAMES:
        if v[variable] and (len(v[variable]) > 253 or not common.matches(common.OBJECT_NAME, v[variable])):
            yield f"{variable} is {v[variable]!r}; it must be an object's name: lower-case letters, digits, '-' and '.'."
    for secret in v.mlflow_image_pull_secrets:
        if not common.matches(common.OBJECT_NAME, secret):
            yield f"mlflow_image_pull_secrets holds {secret!r}; it must be a Secret's name: lower-case letters, digits, '-' and '.'."


def _object_metadata(v: Variables) -> Iterator[str]:
    """What Kubernetes would refuse when other objects have been made already."""
    for variable in TEXTS:
        for name, value in v[variable].items():
            if not isinstance(value, str):
                yield f"{variable}: the value of {name} is {value!r}; Kubernetes takes text, so put it in quotes."
            elif variable in LABELS and not common.matches(LABEL_VALUE, value):
                yield (f"{variable}: the value of {name} is {value!r}; a label's value has at most 63 letters, digits, '-', '_' and '.', "
                       f"beginning and ending with a letter or digit.")
            elif not _key(name):
                yield (f"{variable} has the key {name!r}; it must be a name of at most 63 letters, digits, '-', '_' and '.', after a domain "
                       f"and '/' if there is one, such as example.com/team.")


def _key(text: str) -> bool:
    """Whether a text is the key of a label or annotation."""
    domain, slash, name = text.rpartition("/")
    return bool(common.matches(LABEL_NAME, name)) and (not slash or len(domain) <= 253 and bool(common.matches(common.OBJECT_NAME, domain)))


def _tolerations(v: Variables) -> Iterator[str]:
    fields = {"key", "operator", "value", "effect", "tolerationSeconds"}
    for number, entry in enumerate(v.mlflow_tolerations):
        where = f"mlflow_tolerations[{number}]"
        unknown = sorted(set(entry) - fields)
        operator, effect = entry.get("operator", "Equal"), entry.get("effect", "")
        if unknown:
            yield f"{where} has the field {unknown[0]}, which a toleration does not have; it may have {', '.join(sorted(fields))}."
        elif operator not in ("Equal", "Exists"):
            yield f"{where}.operator is {operator!r}; it must be Equal or Exists."
        elif effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            yield f"{where}.effect is {effect!r}; it must be NoSchedule, PreferNoSchedule or NoExecute."
        elif operator == "Exists" and entry.get("value"):
            yield f"{where} has a value while its operator is Exists; leave the value out, or set operator to Equal."
        elif not entry.get("key") and operator != "Exists":
            yield f"{where} has no key; name the taint's key, or set operator to Exists to tolerate every taint."
        elif not isinstance(entry.get("value", ""), str):
            yield f"{where}.value is {entry['value']!r}; Kubernetes takes text, so put it in quotes."


def _network_policy(v: Variables) -> Iterator[str]:
    for client in v.mlflow_network_policy_clients:
        if not (common.network(client) if "/" in client else common.matches(common.DNS_LABEL, client)):
            yield f"mlflow_network_policy_clients holds {client!r}; it must be a namespace's name, or a network such as 10.0.0.0/16."
    for number, rule in enumerate(v.mlflow_network_policy_egress):
        if set(rule) - {"to", "ports"}:
            yield f"mlflow_network_policy_egress[{number}] may hold to and ports, as an egress rule of a NetworkPolicy does."


def _sizes(v: Variables) -> Iterator[str]:
    for variable in ("database_size", "object_storage_size"):
        size = quantity(v[variable])
        if size is None or not 2**20 <= size <= 2**60:
            yield f"{variable} is {v[variable]!r}; it must be a Kubernetes quantity of storage such as 10Gi."


def _resources(v: Variables) -> Iterator[str]:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.mlflow_server import SIZES
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import strategic_merge

    for variable in ("database_resources", "object_storage_resources", "mlflow_server_resources", "ingress_resources"):
        problems = list(_quantities(variable, v[variable]))
        yield from problems
        if problems:
            continue
        whole = v[variable]
        if variable == "mlflow_server_resources":
            whole = strategic_merge(SIZES[v.mlflow_server_size][1], whole)
        for name, limit in (whole.get("limits") or {}).items():
            request = (whole.get("requests") or {}).get(name)
            if request is not None and (quantity(request) or 0) > (quantity(limit) or 0):
                yield (f"{variable}.requests.{name} ({request}) is more than {variable}.limits.{name} ({limit}); it must be at most that.")


def _quantities(variable: str, value: dict) -> Iterator[str]:
    unknown = sorted(set(value) - {"requests", "limits", "claims"})
    if unknown:
        yield f"{variable} holds {unknown[0]!r}; it may hold requests and limits."
        return
    for part in ("requests", "limits"):
        figures = value.get(part) or {}
        if not isinstance(figures, dict):
            yield f"{variable}.{part} is {figures!r}; it must be a mapping, such as {{cpu: 500m, memory: 2Gi}}."
            continue
        for name, figure in figures.items():
            number = quantity(figure)
            where = f"{variable}.{part}.{name}"
            if name not in RESOURCES and "/" not in name and not name.startswith("hugepages-"):
                yield f"{where} is no resource of a container; it may be {', '.join(RESOURCES)}, or one of a device such as nvidia.com/gpu."
            elif figure is None and variable == "mlflow_server_resources":
                continue  # takes the preset's figure away
            elif number is None or number <= 0:
                yield f"{where} is {figure!r}; it must be a Kubernetes quantity such as 500m or 2Gi."
            elif name == "memory" and (number < 4 * 2**20 or str(figure).endswith("m")):
                yield f"{where} is {figure!r}, which is less than 4 MiB; it must be a quantity of memory such as 2Gi."
            elif name == "cpu" and not 0.001 <= number <= 10000:
                yield f"{where} is {figure!r}; it must be a number of cores such as 500m or 2."


def _patches(v: Variables) -> Iterator[str]:
    for variable in ("database_patches", "object_storage_patches", "mlflow_server_patches", "ingress_patches"):
        for number, entry in enumerate(v[variable]):
            whole = set(entry) == {"target", "patch"} and isinstance(entry["target"], dict) and isinstance(entry["patch"], dict)
            if not whole or not entry["target"].get("kind"):
                yield (f"{variable}[{number}] must hold exactly target (kind, and name to reach one object) and patch (the fields to "
                       f"merge).")
