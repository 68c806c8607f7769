# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kubernetes manifests before any engine sees them: loading, labels, patches, order, references."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import re
from typing import Iterable, Iterator, NamedTuple

import yaml

MANAGER = "mlops.mlflow"
"""Field manager, ``app.kubernetes.io/managed-by`` and prefix of the collection's own annotations."""

GENERATE = f"{MANAGER}/generate"
GENERATE_CA = f"{MANAGER}/generate-ca"
KEEP = f"{MANAGER}/keep"
PUBLISH = f"{MANAGER}/publish"
RECORD = f"{MANAGER}/record"
"""On what a run has recorded about an instance: no component renders it, and it goes when the instance is removed."""
REVISION = f"{MANAGER}/revision"
RENDERED = f"{MANAGER}/rendered"
"""On a workload of a repository: the fingerprint from which ``REVISION`` of its pods was rendered."""
KINDS = f"{MANAGER}/kinds"
VERSION = f"{MANAGER}/version"
"""On the server's ConfigMap: the version that ``mlflow_version: latest`` was resolved to."""
READ_ONCE = f"{MANAGER}/read-once"
"""On a workload: Secrets, by comma, that it reads at its first start only, so that their change restarts nothing."""
DATABASE_LOGIN = f"{MANAGER}/database-login"
"""On a Secret: the database, as JSON, in which its ``username`` and ``password`` are a login that may only read."""
STORE_USER = f"{MANAGER}/object-store-user"
"""On a Secret: the object store, as JSON, in which its ``AWS_ACCESS_KEY_ID`` is a user's, with what that may do."""
WAVE = "argocd.argoproj.io/sync-wave"

# What others refer to comes first; what measures or routes to workloads comes last (the order of `helm install`).
KIND_ORDER = (
    "CustomResourceDefinition", "Namespace", "NetworkPolicy", "ResourceQuota", "LimitRange", "PriorityClass",
    "ServiceAccount", "ClusterSecretStore", "SecretStore", "ExternalSecret", "Secret", "ConfigMap", "StorageClass",
    "PersistentVolume", "PersistentVolumeClaim", "VolumeSnapshot", "ClusterRole", "ClusterRoleBinding", "Role",
    "RoleBinding", "ClusterIssuer", "Issuer", "Certificate", "Service", "Job", "CronJob", "DaemonSet", "StatefulSet",
    "Deployment", "HorizontalPodAutoscaler", "VerticalPodAutoscaler", "PodDisruptionBudget", "IngressClass", "Ingress",
    "GatewayClass", "Gateway", "ReferenceGrant", "HTTPRoute", "Route", "ServiceMonitor", "PodMonitor", "Probe",
    "PrometheusRule", "GrafanaDashboard",
)
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
TEMPLATES = {"CronJob": ("jobTemplate", "spec", "template"), "KaiwoService": ("deployment", "spec", "template")}
"""Where the pod template is in the ``spec`` of other kinds than workloads."""
POSTGRESQL_CLUSTER = ("postgresql.cnpg.io", "Cluster")
"""API group and kind of CloudNativePG's Cluster."""

# Kubernetes' own merge keys of the lists that a patch may want to reach into; every other list is replaced whole.
# Source: x-kubernetes-patch-merge-key in the API server's OpenAPI document.
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "imagePullSecrets": "name",
    "volumeMounts": "mountPath", "volumeDevices": "devicePath", "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey", "resourceClaims": "name", "secrets": "name",
}
PORT_KEYS = ("containerPort", "port")
ORDER = "$setElementOrder/"
"""Beginning of a patch's directive with the order of a list: a list of the merge keys' values, as mappings."""

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i))?")
UNITS = {None: 1, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
         "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}


class ManifestError(ValueError):
    """Input that no engine should see; the message is one sentence for its author."""


class Ref(NamedTuple):
    """Names one object, without the version of its API, which may change in an upgrade."""

    group: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, obj: dict) -> Ref:
        group = obj["apiVersion"].rpartition("/")[0]
        return cls(group, obj["kind"], obj["metadata"].get("namespace") or "", obj["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def load(source: str | dict | list, origin: str = "manifests") -> list[dict]:
    """Turn text (one or more YAML documents), one object, or a list of either into a list of Kubernetes objects.

    Args:
        source: the manifests.
        origin: what to call them in an error.

    Raises:
        ManifestError: text that is no YAML, or something without apiVersion, kind and metadata.name.
    """
    objects: list[dict] = []
    for part in source if isinstance(source, list) else [source]:
        if isinstance(part, str):
            try:
                documents = list(yaml.load_all(part.encode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
            except yaml.YAMLError as error:
                where = getattr(error, "problem_mark", None)
                line = f" at line {where.line + 1}" if where else ""
                raise ManifestError(f"{origin} are not YAML{line}: {getattr(error, 'problem', error)}.") from error
        else:
            documents = [part]
        for document in documents:
            if not document:
                continue
            if isinstance(document, dict) and document.get("kind") == "List":
                objects.extend(load(document.get("items") or [], origin))
                continue
            objects.append(_checked(document, origin))
    seen: set[Ref] = set()
    for obj in objects:
        ref = Ref.of(obj)
        if ref in seen:
            raise ManifestError(f"{origin} hold {ref} twice; every object must appear once.")
        seen.add(ref)
    return objects


def _checked(document, origin: str) -> dict:
    """One document as a plain object, with the values of a Secret encoded."""
    if not isinstance(document, dict):
        raise ManifestError(f"{origin} must hold Kubernetes objects; found {type(document).__name__} {document!r:.60}.")
    metadata = document.get("metadata") if isinstance(document.get("metadata"), dict) else {}
    required = {field: document.get(field) for field in ("apiVersion", "kind")}
    for field, value in {**required, "metadata.name": metadata.get("name")}.items():
        if not isinstance(value, str) or not value:
            what = " ".join(str(v) for v in (document.get("kind"), metadata.get("name")) if v) or "an object"
            raise ManifestError(f"{origin}: {what} has no {field}; every Kubernetes object needs one.")
    if not NAME.fullmatch(metadata["name"]):
        raise ManifestError(f"{origin}: {document['kind']} has the name {metadata['name']!r}; Kubernetes takes "
                            f"lower-case letters, digits, '-' and '.'.")
    _refuse_labels_that_are_no_text(document, origin)
    # Through JSON, so that engines get plain values: no YAML timestamps, no Ansible string types, no shared references.
    plain = json.loads(json.dumps(document, default=str))
    if plain["kind"] == "Secret" and plain.get("stringData"):
        # The API server would do the same; doing it here lets both engines and every comparison see one form.
        plain["data"] = plain.get("data") or {}
        for key, value in plain.pop("stringData").items():
            plain["data"][key] = base64.b64encode(str(value).encode()).decode()
    return plain


def _refuse_labels_that_are_no_text(obj: dict, origin: str) -> None:
    """Raise ManifestError for a label or annotation that YAML reads as a number, a boolean, a date or nothing."""
    places = [("metadata", obj.get("metadata"))]
    places += [("the pod template's metadata", template.get("metadata")) for template in _pod_templates(obj)]
    for place, metadata in places:
        for field in ("labels", "annotations"):
            entries = (metadata or {}).get(field) or {}
            if not isinstance(entries, dict):
                raise ManifestError(f"{origin}: {Ref.of(obj)} has {field} that are a {type(entries).__name__} in "
                                    f"{place}; they must be a mapping.")
            for key, value in entries.items():
                if not isinstance(key, str) or not isinstance(value, str):
                    raise ManifestError(f"{origin}: {Ref.of(obj)} has {key!r}: {value!r} among the {field} of "
                                        f"{place}; keys and values must be text, so put them in quotes.")


def label(objects: Iterable[dict], labels: dict[str, str], annotations: dict[str, str] | None = None) -> None:
    """Label every object, and the pods that workloads make, whose own labels win (selectors need them)."""
    for obj in objects:
        for target in (obj, *_pod_templates(obj)):
            metadata = target.setdefault("metadata", {})
            own = metadata.get("labels") or {}
            metadata["labels"] = {**own, **labels} if target is obj else {**labels, **own}
            if annotations:
                metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}


def complete_pods(objects: Iterable[dict], spec: dict) -> None:
    """Give every pod the fields of ``spec`` that its template does not set; empty ones count as not set.

    Args:
        objects: what was rendered.
        spec: part of a PodSpec, such as nodeSelector or imagePullSecrets.
    """
    for obj in objects:
        for template in _pod_templates(obj):
            given = {field: copy.deepcopy(value) for field, value in spec.items() if value}
            template["spec"] = {**given, **template["spec"]}


def schedule_pods(objects: Iterable[dict], scheduling: dict) -> None:
    """Set on which nodes the pods of a component run.

    Args:
        objects: what was rendered of the component.
        scheduling: part of a PodSpec. Spread constraints are for replicas, and select them unless they say otherwise;
            an affinity is merged with that of a template, which its pods need.
    """
    for obj in objects:
        for template in _pod_templates(obj):
            given, spec = copy.deepcopy(scheduling), template["spec"]
            constraints = given.pop("topologySpreadConstraints", None)
            replicated = obj["spec"]["deployment"]["spec"] if obj["kind"] == "KaiwoService" else obj["spec"]
            if constraints is not None and obj["kind"] in ("Deployment", "StatefulSet", "KaiwoService"):
                own: dict = {"labelSelector": replicated["selector"]}
                if obj["kind"] != "StatefulSet":
                    own["matchLabelKeys"] = ["pod-template-hash"]
                spec["topologySpreadConstraints"] = [{**({} if "labelSelector" in entry else own), **entry}
                                                     for entry in constraints]
            if "affinity" in given:
                spec["affinity"] = {**given.pop("affinity"), **(spec.get("affinity") or {})}
            spec.update(given)


def _pod_templates(obj: dict) -> list[dict]:
    path = ("template",) if obj["kind"] in WORKLOADS else TEMPLATES.get(obj["kind"])
    found = obj.get("spec") if path else None
    for field in path or ():
        found = (found or {}).get(field)
    return [found] if isinstance(found, dict) else []


def becomes_ready(obj: dict) -> bool:
    """Whether the object runs pods, for which an apply waits."""
    return obj["kind"] in WORKLOADS or is_postgresql_cluster(obj)


def is_postgresql_cluster(obj: dict) -> bool:
    """Whether the object is a Cluster of CloudNativePG."""
    return (obj["apiVersion"].rpartition("/")[0], obj["kind"]) == POSTGRESQL_CLUSTER


def pod_template(obj: dict) -> dict | None:
    """The pod template of a workload, CronJob or KaiwoService, or None for any other object."""
    return next(iter(_pod_templates(obj)), None)


def annotation(obj: dict, name: str, default: str = "") -> str:
    """One annotation of an object, or ``default``."""
    return (obj["metadata"].get("annotations") or {}).get(name, default)


def patch(objects: list[dict], patches: list[dict], variable: str = "patches", required: bool = True) -> None:
    """Merge each patch strategically onto the objects that it targets, in place.

    Args:
        objects: what was rendered.
        patches: entries ``{target: {kind, name}, patch: {...}}``; without a name it reaches every object of the kind.
        variable: what to call the list in an error.
        required: whether each patch must reach an object; False for patches that may be for objects elsewhere.

    Raises:
        ManifestError: an entry of another shape, or a required one that reaches no object (it is a mistake).
    """
    for number, entry in enumerate(patches):
        where = f"{variable}[{number}]"
        reached = targets(objects, entry, where)
        if required and not reached:
            raise ManifestError(unreached(objects, entry, where))
        for obj in reached:
            try:
                merged = strategic_merge(obj, json.loads(json.dumps(entry["patch"], default=str)))
            except ManifestError as error:
                raise ManifestError(f"{where}: {error}") from error
            if Ref.of(merged) != Ref.of(obj):
                raise ManifestError(f"{where} would rename {Ref.of(obj)}; a patch may not change apiVersion's group, "
                                    f"kind, name or namespace.")
            _refuse_labels_that_are_no_text(merged, where)
            obj.clear()
            obj.update(merged)


def targets(objects: list[dict], entry: dict, where: str) -> list[dict]:
    """The objects that a patch reaches.

    Args:
        objects: what was rendered.
        entry: the patch.
        where: what to call it in an error.

    Raises:
        ManifestError: it is of another shape.
    """
    if (not isinstance(entry, dict) or set(entry) != {"target", "patch"}
            or not all(isinstance(part, dict) for part in entry.values())):
        raise ManifestError(f"{where} must hold exactly `target` ({{kind, name}}) and `patch` (the fields to merge).")
    target = entry["target"]
    if not target.get("kind") or set(target) - {"kind", "name"}:
        raise ManifestError(f"{where}.target must hold `kind` and, to reach one object only, `name`.")
    return [obj for obj in objects
            if obj["kind"] == target["kind"] and target.get("name") in (None, obj["metadata"]["name"])]


def unreached(objects: list[dict], entry: dict, where: str) -> str:
    """The sentence about a patch that reaches none of the objects."""
    wanted = " ".join(filter(None, (entry["target"]["kind"], entry["target"].get("name"))))
    there = ", ".join(sorted(str(Ref.of(obj)) for obj in objects))
    return f"{where} reaches no object: there is no {wanted}; there are {there}."


def strategic_merge(base, change):
    """Kubernetes' strategic merge: null removes, named lists merge by their key, ``$patch`` replaces or deletes, and
    ``$setElementOrder/LIST`` puts entries of a list first, in its order.

    Raises:
        ManifestError: an order names an entry that the list does not have.

    Source: kubernetes/community, sig-api-machinery/strategic-merge-patch.md
    """
    if not isinstance(base, dict) or not isinstance(change, dict):
        return copy.deepcopy(change)
    if change.get("$patch") == "replace":
        return {k: copy.deepcopy(v) for k, v in change.items() if k != "$patch"}
    result = dict(base)
    for field, value in change.items():
        if field.startswith(ORDER):
            continue
        if value is None:
            result.pop(field, None)
        elif isinstance(value, list) and {"$patch": "replace"} in value:
            result[field] = [copy.deepcopy(item) for item in value if item != {"$patch": "replace"}]
        elif isinstance(value, list) and isinstance(result.get(field), list) and (key := _merge_key(field, value)):
            result[field] = _merge_list(result[field], value, key)
        elif isinstance(value, dict):
            result[field] = strategic_merge(result.get(field) or {}, value)
        else:
            result[field] = copy.deepcopy(value)
    for field, order in change.items():
        if field.startswith(ORDER):
            name = field[len(ORDER):]
            result[name] = _ordered(name, result.get(name), order)
    return result


def _merge_key(field: str, items: list) -> str | None:
    keys = PORT_KEYS if field == "ports" else (MERGE_KEYS.get(field),)
    return next((k for k in keys if k and all(isinstance(i, dict) and k in i for i in items)), None)


def _merge_list(base: list, change: list, key: str) -> list:
    merged = {item.get(key): item for item in base}
    for item in change:
        if item.get("$patch") == "delete":
            merged.pop(item[key], None)
        else:
            merged[item[key]] = strategic_merge(merged.get(item[key], {}), item)
    return list(merged.values())


def _ordered(field: str, items: object, order: object) -> list:
    """The entries of a list that an order names, in that order, and then the others."""
    key = _merge_key(field, order) if isinstance(order, list) and order else None
    if not key or not isinstance(items, list):
        raise ManifestError(f"{ORDER}{field} must be a list of the names of entries that are there, such as "
                            f"[{{name: proxy}}], for a list that is merged by names.")
    there = {item.get(key): item for item in items}
    for entry in order:
        if entry[key] not in there:
            raise ManifestError(f"{ORDER}{field} names {entry[key]}, which the list does not have; it has "
                                f"{', '.join(map(str, there))}.")
    first = [entry[key] for entry in order]
    return [there[name] for name in first] + [item for item in items if item.get(key) not in first]


def waves(objects: Iterable[dict]) -> Iterator[list[dict]]:
    """Objects in the order in which they must exist, one list per sync wave."""
    by_wave: dict[int, list[dict]] = {}
    for obj in objects:
        try:
            wave = int(annotation(obj, WAVE, "0"))
        except ValueError:
            raise ManifestError(f"{Ref.of(obj)} has the sync wave {annotation(obj, WAVE)!r}; it must be a whole "
                                f"number.") from None
        by_wave.setdefault(wave, []).append(obj)
    for wave in sorted(by_wave):
        yield sorted(by_wave[wave], key=lambda o: (rank(o["kind"]), o["metadata"]["name"]))


def rank(kind: str) -> int:
    """Where a kind stands in the order of creation; deletion goes the other way."""
    return KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER)


def references(obj: dict) -> set[tuple[str, str, bool]]:
    """The ConfigMaps and Secrets that a workload's pods read: (kind, name, required)."""
    spec = (pod_template(obj) or {}).get("spec") or {}
    return {(kind, source[field], not source.get("optional", False)) for kind, source, field in _sources(spec)}


def rename_references(spec: dict, names: dict[tuple[str, str], str]) -> None:
    """Let a pod read other ConfigMaps and Secrets.

    Args:
        spec: of the pod, changed in place.
        names: the other names, by kind and name.
    """
    for kind, source, field in _sources(spec):
        source[field] = names.get((kind, source[field]), source[field])


def _sources(spec: dict) -> Iterator[tuple[str, dict, str]]:
    """Where a pod's spec names a ConfigMap or Secret: its kind, the part of the spec, and the field with its name."""
    found: list[tuple[str, dict | None, str]] = []
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        for entry in container.get("envFrom") or []:
            found += [("ConfigMap", entry.get("configMapRef"), "name"), ("Secret", entry.get("secretRef"), "name")]
        for entry in container.get("env") or []:
            source = entry.get("valueFrom") or {}
            found += [("ConfigMap", source.get("configMapKeyRef"), "name"),
                      ("Secret", source.get("secretKeyRef"), "name")]
    for volume in spec.get("volumes") or []:
        found += [("ConfigMap", volume.get("configMap"), "name"), ("Secret", volume.get("secret"), "secretName")]
        for source in (volume.get("projected") or {}).get("sources") or []:
            found += [("ConfigMap", source.get("configMap"), "name"), ("Secret", source.get("secret"), "name")]
    for kind, source, field in found:
        if source and source.get(field):
            yield kind, source, field


def revision(sources: Iterable[dict]) -> str:
    """A fingerprint of ConfigMaps and Secrets that changes when any value in them does.

    Each is keyed with the object's uid, so the fingerprint (which every reader of the workload sees) is no oracle
    for guessing a short password.
    """
    digest = hashlib.sha256()
    for obj in sorted(sources, key=lambda o: (o["kind"], o["metadata"]["name"])):
        payload = json.dumps([obj.get("data"), obj.get("binaryData")], sort_keys=True).encode()
        digest.update(hmac.new(obj["metadata"].get("uid", "").encode(), payload, "sha256").digest())
    return digest.hexdigest()[:16]


def pod_revision(workload: dict) -> str:
    """The fingerprint that a workload's pods are marked with, or an empty text."""
    template = pod_template(workload) or {}
    return annotation({"metadata": template.get("metadata") or {}}, REVISION)


def comparable(obj: dict | None) -> dict | None:
    """What the author of a manifest sets of an object: without status and the server's own bookkeeping."""
    if obj is None:
        return None
    result = {k: v for k, v in obj.items() if k not in ("status", "metadata")}
    metadata = {k: v for k, v in obj["metadata"].items()
                if k not in ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")}
    annotations = dict(metadata.pop("annotations", None) or {})
    annotations.pop("deployment.kubernetes.io/revision", None)
    if annotations:
        metadata["annotations"] = annotations
    return {**result, "metadata": metadata}


def printable(obj: dict | None, other: dict | None = None) -> str:
    """The object as YAML for a diff, each value of a Secret replaced by whether it differs from ``other``'s."""
    if obj is None:
        return ""
    shown = comparable(obj)
    if obj["kind"] == "Secret":
        before = (other or {}).get("data") or {}
        shown["data"] = {
            key: "(hidden)" if other is None or before.get(key) == value else "(hidden, differs)"
            for key, value in (obj.get("data") or {}).items()
        }
        shown.pop("stringData", None)
        (shown["metadata"].get("annotations") or {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return yaml.safe_dump(shown, default_flow_style=False, sort_keys=True)


def quantity(value: object) -> float | None:
    """A Kubernetes quantity as a number (bytes or cores); None for anything else.

    Args:
        value: text such as ``512Mi``, ``250m``, ``1.5``, ``1e3`` (an exponent) or ``12E`` (exa), or a number.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = QUANTITY.fullmatch(str(value))
    if not match:
        return None
    number, exponent, unit = match.groups()
    return float(f"{number}e{exponent}") if exponent else float(number) * UNITS[unit]
