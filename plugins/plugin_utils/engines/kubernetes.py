# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Kubernetes engine: server-side apply straight from Ansible's process, many objects at once."""

from __future__ import annotations

import time
from typing import Callable

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import Engine, EngineError, Put, Scope
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import Api, ApiError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_wait import Watcher, describe, progress
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref, quantity

# Aggregated discovery (every kind of the cluster in two answers); stable since Kubernetes 1.30, the oldest supported.
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
BYPRODUCTS = ("Event", "Endpoints", "EndpointSlice", "Lease", "PodMetrics", "ServiceAccount", "Role", "RoleBinding")
"""Kinds of what the cluster itself puts into namespaces."""
EVERYWHERE = ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert")
"""ConfigMaps that controllers put into every namespace."""
RESTORE_TIMEOUT = 120
"""Seconds that what ran before has to come back."""


class KubernetesEngine(Engine):
    """Applies to the namespace of its scope with field manager ``mlops.mlflow``."""

    name = "kubernetes"

    def __init__(self, scope: Scope, log: Callable[[str], None], kubeconfig: str | None = None, context: str | None = None) -> None:
        super().__init__(scope, log)
        self.api = Api(kubeconfig, context)
        self._resources: dict[tuple[str, str], tuple[str, bool]] | None = None
        self._namespaces: set[str] = set()
        self._before: dict[Ref, dict] = {}

    # -- what the cluster knows ------------------------------------------------------------------------------------

    @property
    def resources(self) -> dict[tuple[str, str], tuple[str, bool]]:
        """(apiVersion, kind) → (its path's last part, whether namespaced), for every kind that the cluster serves."""
        if self._resources is None:
            self._resources = {}
            for document in self.api.map(lambda root: self.api.request("GET", root, accept=DISCOVERY), ("/api", "/apis")):
                if document.get("kind") != "APIGroupDiscoveryList":
                    raise EngineError("The cluster is older than Kubernetes 1.30, the oldest that this collection supports; upgrade it.")
                for group in document["items"]:
                    for version in group["versions"]:
                        name = "/".join(filter(None, (group["metadata"].get("name"), version["version"])))
                        for resource in version.get("resources") or []:
                            kind = (resource.get("responseKind") or {}).get("kind")
                            if kind:
                                self._resources[(name, kind)] = (resource["resource"], resource["scope"] == "Namespaced")
        return self._resources

    def namespaced(self, obj: dict) -> bool:
        return self._resource(obj["apiVersion"], obj["kind"])[1]

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        try:
            return self.resources[(api_version, kind)]
        except KeyError:
            raise EngineError(f"The cluster does not know {kind} of {api_version}; install what provides it (its "
                              f"CustomResourceDefinition), or turn off the variable that asks for it.") from None

    def _path(self, api_version: str, kind: str, namespace: str, name: str = "") -> str:
        plural, namespaced = self._resource(api_version, kind)
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        place = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{root}{place}/{plural}{'/' + name if name else ''}"

    def path(self, obj: dict) -> str:
        """Where a live or desired object stands in the API."""
        metadata = obj["metadata"]
        return self._path(obj["apiVersion"], obj["kind"], metadata.get("namespace") or "", metadata["name"])

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, refs: set[Ref], kinds: set[tuple[str, str]]) -> dict[Ref, dict]:
        everyday = {(version, kind) for (version, kind) in self.resources
                    if kind in manifests.KIND_ORDER and kind not in ("Namespace", "PriorityClass", "ResourceQuota", "LimitRange")}
        lists = self.api.map(self._list, _one_version_each(everyday | (kinds & set(self.resources)), kinds))
        live = {Ref.of(obj): obj for objects in lists for obj in objects}
        version_of = {(version.rpartition("/")[0], kind): version for version, kind in self.resources}
        version_of.update({(version.rpartition("/")[0], kind): version for version, kind in kinds})
        missing = [ref for ref in refs - set(live) if (ref.group, ref.kind) in version_of]
        for obj in self.api.map(lambda ref: self._get(version_of[(ref.group, ref.kind)], ref), missing):
            if obj:
                live[Ref.of(obj)] = obj
        return live

    def _list(self, kind: tuple[str, str]) -> list[dict]:
        """This component's objects of one kind; none where this user may not look, since then it made none either."""
        api_version, name = kind
        selector = f"app.kubernetes.io/instance%3D{self.scope.instance},app.kubernetes.io/managed-by%3D{manifests.MANAGER}"
        if self.scope.components:
            selector += f",app.kubernetes.io/component+in+({','.join(sorted(self.scope.components))})"
        try:
            answer = self.api.request("GET", self._path(api_version, name, self.scope.namespace), f"labelSelector={selector}")
        except ApiError as error:
            if error.status in (403, 404, 405):
                return []
            raise EngineError(f"Kubernetes cannot list {name}: {error}") from error
        return [{"apiVersion": api_version, "kind": name, **obj} for obj in answer["items"]]

    def _get(self, api_version: str, ref: Ref) -> dict | None:
        try:
            return self.api.request("GET", self._path(api_version, ref.kind, ref.namespace, ref.name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise EngineError(f"Kubernetes cannot read {ref} in namespace {ref.namespace}: {error}") from error

    # -- before anything is touched --------------------------------------------------------------------------------

    def preflight(self, objects: list[dict], live: dict[Ref, dict]) -> None:
        for obj in objects:
            before = live.get(Ref.of(obj))
            if obj["kind"] == "PersistentVolumeClaim" and before:
                self._same_volume(Ref.of(obj), before, obj["spec"])

    def _same_volume(self, ref: Ref, before: dict, wanted: dict) -> None:
        """Of a volume that is there nothing can change but its size, and that can only grow."""
        for field in ("storageClassName", "accessModes"):
            was, to_be = before["spec"].get(field), wanted.get(field)
            if was and to_be and was != to_be:
                was, to_be = ([value] if isinstance(value, str) else value for value in (was, to_be))
                raise EngineError(f"{ref} was made with {field} {', '.join(was)}, which cannot become {', '.join(to_be)}; leave it as it was, or "
                                  f"move the data to a new volume.")
        # It may have got more than it asked for, and may not have got yet what it asks for.
        asked, to_be = (spec["resources"]["requests"]["storage"] for spec in (before["spec"], wanted))
        was = min(asked, (before.get("status") or {}).get("capacity", {}).get("storage") or asked, key=lambda size: quantity(size) or 0)
        if (quantity(to_be) or 0) < (quantity(was) or 0):
            raise EngineError(f"{ref} has {was}, which cannot shrink to {to_be}; leave its size as it was, or move the data to a new volume.")

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(self, objects: list[dict], live: dict[Ref, dict], dry_run: bool) -> dict[Ref, Put]:
        if not dry_run:
            for namespace in {obj["metadata"].get("namespace") for obj in objects} - self._namespaces - {None}:
                self._ensure_namespace(namespace)
        self._before.update({ref: before for ref in map(Ref.of, objects) if (before := live.get(ref)) and ref.kind in ("Deployment", "StatefulSet")})
        afters = self.api.map(lambda obj: self._apply(obj, live.get(Ref.of(obj)), dry_run), objects)
        return {Ref.of(obj): Put(after) for obj, after in zip(objects, afters)}

    def _apply(self, obj: dict, before: dict | None, dry_run: bool) -> dict:
        if obj["kind"] == "Job" and before and _condition(before, "Failed"):
            # A Job that failed has nothing more to do; asked for again, it gets another chance.
            return obj if dry_run else self._replace(obj, before)
        if obj["kind"] == "Deployment" and before and "replicas" not in obj["spec"]:
            # Left to an autoscaler. No longer naming a number that was named before would mean one pod until it looks again.
            obj = {**obj, "spec": {**obj["spec"], "replicas": before["spec"].get("replicas", 1)}}
        query = f"fieldManager={manifests.MANAGER}&force=true&fieldValidation=Strict{'&dryRun=All' if dry_run else ''}"
        try:
            return self.api.request("PATCH", self.path(obj), query, obj, "application/apply-patch+yaml")
        except ApiError as error:
            if dry_run and error.status == 404 and "namespaces" in str(error):
                return obj  # the namespace itself would be made first
            if error.status == 422 and obj["kind"] == "Job" and before:
                return obj if dry_run else self._replace(obj, before)
            raise EngineError(f"Kubernetes refuses {Ref.of(obj)}: {error}") from error

    def _replace(self, obj: dict, before: dict) -> dict:
        """A Job's template cannot change: the old one goes, with its pods, before the new one comes."""
        self.delete([before], time.monotonic() + 60)
        return self._apply(obj, None, dry_run=False)

    def _ensure_namespace(self, name: str) -> None:
        try:
            found = self.api.request("GET", f"/api/v1/namespaces/{name}")
            if (found.get("status") or {}).get("phase") == "Terminating":
                raise EngineError(f"Namespace {name} is being deleted; wait until it is gone, or choose another mlflow_namespace.")
        except ApiError as error:
            if error.status == 403:
                pass  # whoever may not look at namespaces was given one; what is applied to it will tell
            elif error.status == 404:
                labels = {k: v for k, v in self.scope.labels("").items() if not k.endswith("/component")}
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
                try:
                    self.api.request("POST", "/api/v1/namespaces", f"fieldManager={manifests.MANAGER}", body)
                except ApiError as refused:
                    if refused.status != 409:  # another instance of the same run was quicker
                        raise EngineError(f"Namespace {name} does not exist and cannot be created ({refused}); "
                                          f"create it, or name an existing one in mlflow_namespace.") from refused
            else:
                raise EngineError(f"Kubernetes cannot read Namespace {name}: {error}") from error
        self._namespaces.add(name)

    # -- waiting and removing --------------------------------------------------------------------------------------

    def wait(self, objects: list[dict], deadline: float) -> None:
        try:
            Watcher(self, deadline).until_ready(objects)
        except EngineError:
            for obj in objects:
                self._restore(obj)
            raise

    def _restore(self, obj: dict) -> None:
        """Put back what ran before, where it has ended to make room for what does not work: one pod alone, or one on a volume.

        A rolling update leaves its old pods running by itself, and the new ones there to be looked at.
        """
        before = self._before.get(Ref.of(obj))
        alone = obj["kind"] == "StatefulSet" or (obj["spec"].get("strategy") or {}).get("type") == "Recreate"
        if not before or not alone or progress(before) or before["spec"]["template"] == obj["spec"]["template"]:
            return
        try:
            if progress(self.api.request("GET", self.path(obj))):
                # Applied, not patched: of fields that were written in two ways one would stay when a later apply leaves them out.
                metadata = {field: obj["metadata"][field] for field in ("name", "namespace", "labels", "annotations") if field in obj["metadata"]}
                spec = {**obj["spec"], "template": before["spec"]["template"]}
                after = self._apply({"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "spec": spec}, None, dry_run=False)
                Watcher(self, time.monotonic() + RESTORE_TIMEOUT).until_ready([after])
                self.log(f"{Ref.of(obj)}: what ran before is running again")
        except (ApiError, EngineError) as error:
            self.log(f"{Ref.of(obj)}: what ran before cannot be put back: {error}")

    def delete(self, objects: list[dict], deadline: float) -> None:
        for obj in objects:
            try:
                self.api.request("DELETE", self.path(obj), body={"propagationPolicy": "Foreground"})
            except ApiError as error:
                if error.status != 404:
                    raise EngineError(f"Kubernetes cannot delete {Ref.of(obj)}: {error}") from error
        left = list(objects)
        while left := [obj for obj in left if self._still(obj)]:
            if time.monotonic() > deadline:
                raise EngineError(f"{Ref.of(left[0])} is still there; it waits for: "
                                  f"{', '.join(left[0]['metadata'].get('finalizers') or ['its dependents'])}.")
            time.sleep(0.3)

    def _still(self, obj: dict) -> bool:
        now = self._get(obj["apiVersion"], Ref.of(obj))
        return bool(now) and now["metadata"].get("uid") == obj["metadata"].get("uid")

    def pods(self) -> list[dict]:
        selector = f"app.kubernetes.io/instance%3D{self.scope.instance},app.kubernetes.io/managed-by%3D{manifests.MANAGER}"
        try:
            answer = self.api.request("GET", f"/api/v1/namespaces/{self.scope.namespace}/pods", f"labelSelector={selector}")
        except ApiError as error:
            raise EngineError(f"Kubernetes cannot list the pods of namespace {self.scope.namespace}: {error}") from error
        return [describe(pod) for pod in sorted(answer["items"], key=lambda pod: pod["metadata"]["name"])]

    def leave(self, purge: bool) -> None:
        """Delete the namespace when this instance made it and nothing of anyone is left in it."""
        namespace = self._get("v1", Ref("", "Namespace", "", self.scope.namespace))
        if not namespace or not self.scope.owns(namespace):
            return
        kinds = {(version, kind) for (version, kind), (_plural, namespaced) in self.resources.items() if namespaced and kind not in BYPRODUCTS}
        if not any(self.api.map(self._somebody_s, _one_version_each(kinds, set()))):
            self.delete([{**namespace, "apiVersion": "v1", "kind": "Namespace"}], time.monotonic() + 120)

    def _somebody_s(self, kind: tuple[str, str]) -> bool:
        """Whether the namespace holds objects of a kind that somebody put there."""
        try:
            answer = self.api.request("GET", self._path(*kind, self.scope.namespace), f"limit={len(EVERYWHERE) + 1}")
        except ApiError as error:
            return error.status not in (404, 405)  # kinds that are questions to the cluster cannot be listed
        return any(item["metadata"]["name"] not in EVERYWHERE for item in answer["items"])

    def close(self) -> None:
        self.api.close()


def _one_version_each(kinds: set[tuple[str, str]], wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """One apiVersion for each group and kind, since all show the same objects: the wanted one, or a stable one before betas."""
    chosen: dict[tuple[str, str], tuple[str, str]] = {}
    for version, kind in sorted(kinds, key=lambda k: (k not in wanted, "alpha" in k[0] or "beta" in k[0], -len(k[0]), k)):
        chosen.setdefault((version.rpartition("/")[0], kind), (version, kind))
    return list(chosen.values())


def _condition(obj: dict, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in (obj.get("status") or {}).get("conditions") or [])
