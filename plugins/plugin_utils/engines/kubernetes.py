# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Kubernetes engine: server-side apply straight from Ansible's process, many objects at once."""

from __future__ import annotations

import base64
import contextlib
import datetime
import time
from typing import Callable, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import (
    Engine, EngineError, Put, Scope, in_the_way, last_line)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import kubernetes_stream
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import Api, ApiError, label_selector
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_kinds import (
    LISTED, PROVIDERS, STATIC, Resource)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_status import (
    condition, containers, describe, progress, ready, without_repeated)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_wait import Watcher, WorkloadError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref, quantity

# Aggregated discovery, of all kinds of the cluster in two answers; stable since Kubernetes 1.30, the oldest supported.
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
BYPRODUCTS = ("Event", "Endpoints", "EndpointSlice", "Lease", "PodMetrics", "ServiceAccount", "Role", "RoleBinding")
"""Kinds of what the cluster itself puts into namespaces."""
EVERYWHERE = ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert")
"""ConfigMaps that controllers put into every namespace."""
RESTORE_TIMEOUT = 120
"""Seconds that what ran before has to become ready again."""
JOB_LOG_BYTES = 16 * 2**20
RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""The annotation by which `kubectl rollout restart` replaces pods."""


class KubernetesEngine(Engine):
    """Applies to the namespace of its scope with field manager ``mlops.mlflow``."""

    name = "kubernetes"

    def __init__(self, scope: Scope, log: Callable[[str], None], kubeconfig: str | None = None,
                 context: str | None = None) -> None:
        super().__init__(scope, log)
        self.api = Api(kubeconfig, context, log)
        self._discovered: dict[str, dict[str, Resource]] = {}
        self._namespaces: set[str] = set()
        self._before: dict[Ref, dict] = {}

    # -- kinds and paths -------------------------------------------------------------------------------------------

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """How the cluster serves a kind; None when it does not. Only kinds that not every cluster has are asked for."""
        key = (api_version, kind)
        if key in STATIC:
            return STATIC[key]
        if api_version not in self._discovered:
            self._discovered[api_version] = self._discover(api_version)
        return self._discovered[api_version].get(kind)

    def _discover(self, api_version: str) -> dict[str, Resource]:
        """The kinds of one version of one API group."""
        try:
            document = self.api.request("GET", _root(api_version))
        except ApiError as error:
            if error.status == 404:
                return {}
            raise EngineError(f"Kubernetes cannot list the kinds of {api_version}: {error}.") from error
        return {resource["kind"]: Resource(resource["name"], resource["namespaced"])
                for resource in document["resources"] if "/" not in resource["name"]}

    def namespaced(self, obj: dict) -> bool:
        resource = self.resource(obj["apiVersion"], obj["kind"])
        if not resource:
            remedy = PROVIDERS.get(obj["apiVersion"].rpartition("/")[0]) or (
                "install what provides it (its CustomResourceDefinition), or turn off the variable that asks for it")
            raise EngineError(f"The cluster does not know {obj['kind']} of {obj['apiVersion']}; {remedy}.")
        return resource.namespaced

    def finds_by_label(self, obj: dict) -> bool:
        return (obj["apiVersion"], obj["kind"]) in LISTED

    def _path(self, api_version: str, kind: str, namespace: str, name: str = "") -> str:
        plural = LISTED.get((api_version, kind))
        resource = Resource(plural, True) if plural else self.resource(api_version, kind)
        if not resource:
            raise ApiError(404, f"the cluster does not know {kind} of {api_version}")
        place = f"/namespaces/{namespace}" if resource.namespaced and namespace else ""
        return f"{_root(api_version)}{place}/{resource.plural}{'/' + name if name else ''}"

    def path(self, obj: dict) -> str:
        """Where a live or desired object stands in the API."""
        metadata = obj["metadata"]
        return self._path(obj["apiVersion"], obj["kind"], metadata.get("namespace") or "", metadata["name"])

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, refs: set[Ref], kinds: set[tuple[str, str]]) -> dict[Ref, dict]:
        everything = not refs and not kinds
        kinds = {key for key in kinds if key in LISTED or self.resource(*key)}
        listed = _one_version_each(set(LISTED) | kinds, kinds)
        answers = dict(zip(listed, self.api.map(self._list, listed)))
        forbidden = sorted(kind for (version, kind), objects in answers.items()
                           if objects is None and (everything or (version, kind) in kinds))
        if forbidden:
            self.warn(f"This user may not list {', '.join(forbidden)} objects in namespace "
                      f"{self.scope.namespace}; those of them that should go stay.")
        live = {Ref.of(obj): obj for objects in answers.values() for obj in objects or []}
        version_of = {}
        for version, kind in (*STATIC, *LISTED, *kinds):
            version_of[(version.rpartition("/")[0], kind)] = version
        missing = [ref for ref in refs - set(live) if (ref.group, ref.kind) in version_of]
        for obj in self.api.map(lambda ref: self._get(version_of[(ref.group, ref.kind)], ref), missing):
            if obj:
                live[Ref.of(obj)] = obj
        return live

    def _list(self, key: tuple[str, str], query: str = "") -> list[dict] | None:
        """The scope's objects of one kind (apiVersion and kind), or those that a query selects; None where this user
        may not look."""
        api_version, kind = key
        try:
            answer = self.api.request("GET", self._path(api_version, kind, self.scope.namespace),
                                      query or self._selector())
        except ApiError as error:
            if error.status == 403:
                return None
            if error.status in (404, 405):
                return []
            raise EngineError(f"Kubernetes cannot list {kind} objects: {error}.") from error
        return [{"apiVersion": api_version, "kind": kind, **obj} for obj in answer["items"]]

    def _selector(self) -> str:
        """The query for the objects of the scope."""
        query = label_selector({"app.kubernetes.io/instance": self.scope.instance,
                                "app.kubernetes.io/managed-by": manifests.MANAGER})
        if self.scope.components:
            query += f"%2Capp.kubernetes.io/component+in+%28{'%2C'.join(sorted(self.scope.components))}%29"
        return query

    def _get(self, api_version: str, ref: Ref) -> dict | None:
        try:
            return self.api.request("GET", self._path(api_version, ref.kind, ref.namespace, ref.name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise EngineError(f"Kubernetes cannot read {ref} in namespace {ref.namespace}: {error}.") from error

    # -- before anything is touched --------------------------------------------------------------------------------

    def preflight(self, objects: list[dict], live: dict[Ref, dict]) -> None:
        for obj in objects:
            before = live.get(Ref.of(obj))
            if obj["kind"] == "PersistentVolumeClaim" and before:
                _refuse_another_volume(Ref.of(obj), before, obj["spec"])

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(self, objects: list[dict], live: dict[Ref, dict], dry_run: bool) -> dict[Ref, Put]:
        if not dry_run:
            namespaces = {obj["metadata"].get("namespace") for obj in objects} - self._namespaces - {None}
            for namespace in sorted(namespaces):
                self._ensure_namespace(namespace)
        for ref in map(Ref.of, objects):
            if ref.kind in ("Deployment", "StatefulSet") and ref in live:
                self._before[ref] = live[ref]
        afters = self.api.map(lambda obj: self._apply(obj, live.get(Ref.of(obj)), dry_run), objects)
        return {Ref.of(obj): Put(after) for obj, after in zip(objects, afters)}

    def _apply(self, obj: dict, before: dict | None, dry_run: bool) -> dict:
        if obj["kind"] == "Job" and before and condition(before, "Failed"):
            # A Job that failed has nothing more to do; asked for again, it gets another chance.
            return obj if dry_run else self._replace(obj, before)
        if obj["kind"] == "Deployment" and before and "replicas" not in obj["spec"]:
            # Left to an autoscaler. Without the number of before there would be one pod until it looks again.
            obj = {**obj, "spec": {**obj["spec"], "replicas": before["spec"].get("replicas", 1)}}
        query = f"fieldManager={manifests.MANAGER}&force=true&fieldValidation=Strict{'&dryRun=All' if dry_run else ''}"
        try:
            return self.api.request("PATCH", self.path(obj), query, obj, "application/apply-patch+yaml")
        except ApiError as error:
            if dry_run and error.status == 404 and "namespaces" in str(error):
                return obj  # the namespace itself would be made first
            if error.status == 422 and obj["kind"] == "Job" and before:
                return obj if dry_run else self._replace(obj, before)
            raise EngineError(f"Kubernetes refuses {Ref.of(obj)}: {error}.") from error

    def _replace(self, obj: dict, before: dict) -> dict:
        """A Job's template cannot change: the old one goes, with its pods, before the new one comes."""
        self.delete([before], time.monotonic() + 60)
        return self._apply(obj, None, dry_run=False)

    def _ensure_namespace(self, name: str) -> None:
        try:
            found = self.api.request("GET", f"/api/v1/namespaces/{name}")
            if (found.get("status") or {}).get("phase") == "Terminating":
                raise EngineError(f"Namespace {name} is being deleted; wait until it is gone, or choose another "
                                  f"mlflow_namespace.")
        except ApiError as error:
            if error.status == 404:
                self._create_namespace(name)
            elif error.status != 403:  # without the right to read it; if it is missing, the apply fails
                raise EngineError(f"Kubernetes cannot read Namespace {name}: {error}.") from error
        self._namespaces.add(name)

    def _create_namespace(self, name: str) -> None:
        labels = {key: value for key, value in self.scope.labels("").items() if value}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        try:
            self.api.request("POST", "/api/v1/namespaces", f"fieldManager={manifests.MANAGER}", body)
        except ApiError as error:
            if error.status != 409:  # another instance of the same run was quicker
                raise EngineError(
                    f"Namespace {name} does not exist and cannot be created ({error}); create it, or name "
                    f"an existing one in mlflow_namespace."
                ) from error

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, objects: list[dict], deadline: float) -> None:
        try:
            Watcher(self, deadline).until_ready(objects)
        except WorkloadError as error:
            self._restore(error.failed)
            raise

    def _restore(self, failed: list[dict]) -> None:
        """Restore what ran before, where it has ended to make room for what does not work.

        That is a workload of one pod, or of pods with volumes of their own. A rolling update leaves its old pods
        running by itself, and the new ones there to be looked at.
        """
        for obj in failed:
            before = self._before.get(Ref.of(obj))
            alone = obj["kind"] == "StatefulSet" or (obj["spec"].get("strategy") or {}).get("type") == "Recreate"
            if not before or not alone or progress(before) or before["spec"]["template"] == obj["spec"]["template"]:
                continue
            try:
                self._restore_template(obj, before)
            except EngineError as error:
                self.log(f"{Ref.of(obj)}: what ran before cannot be restored: {error}")

    def _restore_template(self, obj: dict, before: dict) -> None:
        """Apply the former pod template, unless the workload has become ready meanwhile."""
        if not progress(self.api.request("GET", self.path(obj))):
            return
        # Applied, not patched: a field that a patch wrote would stay when a later apply leaves it out.
        fields = ("name", "namespace", "labels", "annotations")
        metadata = {field: obj["metadata"][field] for field in fields if field in obj["metadata"]}
        spec = {**obj["spec"], "template": before["spec"]["template"]}
        manifest = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "spec": spec}
        after = self._apply(manifest, None, dry_run=False)
        Watcher(self, time.monotonic() + RESTORE_TIMEOUT).until_ready([after])
        self.log(f"{Ref.of(obj)}: what ran before is running again")

    # -- removing --------------------------------------------------------------------------------------------------

    def delete(self, objects: list[dict], deadline: float) -> None:
        for obj in objects:
            try:
                self.api.request("DELETE", self.path(obj), body={"propagationPolicy": "Foreground"})
            except ApiError as error:
                if error.status != 404:
                    raise EngineError(f"Kubernetes cannot delete {Ref.of(obj)}: {error}.") from error
        left, pause = list(objects), 0.1
        while left := [obj for obj, there in zip(left, self.api.map(self._still_there, left)) if there]:
            if time.monotonic() > deadline:
                blockers = ", ".join(left[0]["metadata"].get("finalizers") or ["its dependents"])
                raise EngineError(f"{Ref.of(left[0])} is still there; it waits for: {blockers}.")
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _still_there(self, obj: dict) -> bool:
        now = self._get(obj["apiVersion"], Ref.of(obj))
        return bool(now) and now["metadata"].get("uid") == obj["metadata"].get("uid")

    def leave(self) -> None:
        """Delete the namespace when this instance made it and nothing of anyone is left in it."""
        try:
            namespace = self.api.request("GET", f"/api/v1/namespaces/{self.scope.namespace}")
        except ApiError as error:
            if error.status in (403, 404):
                return
            raise EngineError(f"Kubernetes cannot read Namespace {self.scope.namespace}: {error}.") from error
        if self.scope.owns(namespace) and not any(self.api.map(self._holds_others, self._namespaced_paths())):
            self.delete([{**namespace, "apiVersion": "v1", "kind": "Namespace"}], time.monotonic() + 120)

    def _namespaced_paths(self) -> list[str]:
        """The lists of every kind of object that somebody may have put into the namespace."""
        plurals = {}
        for document in self.api.map(lambda root: self.api.request("GET", root, accept=DISCOVERY), ("/api", "/apis")):
            if document.get("kind") != "APIGroupDiscoveryList":
                raise EngineError("The cluster is older than Kubernetes 1.30, the oldest supported one; upgrade it.")
            for group in document["items"]:
                for version in group["versions"]:
                    name = "/".join(filter(None, (group["metadata"].get("name"), version["version"])))
                    for resource in version.get("resources") or []:
                        kind = (resource.get("responseKind") or {}).get("kind")
                        if kind and resource["scope"] == "Namespaced" and kind not in BYPRODUCTS:
                            plurals[(name, kind)] = resource["resource"]
        return [f"{_root(version)}/namespaces/{self.scope.namespace}/{plurals[version, kind]}"
                for version, kind in _one_version_each(set(plurals), set())]

    def _holds_others(self, path: str) -> bool:
        """Whether the namespace holds objects of a kind that somebody put there."""
        try:
            answer = self.api.request("GET", path, f"limit={len(EVERYWHERE) + 1}")
        except ApiError as error:
            return error.status not in (404, 405)  # kinds that are questions to the cluster cannot be listed
        return any(item["metadata"]["name"] not in EVERYWHERE for item in answer["items"])

    # -- pods ------------------------------------------------------------------------------------------------------

    def pods(self) -> list[dict]:
        return [describe(pod) for pod in without_repeated(self._own_pods())]

    def _own_pods(self) -> list[dict]:
        return self._list_pods({"app.kubernetes.io/instance": self.scope.instance,
                                "app.kubernetes.io/managed-by": manifests.MANAGER})

    def restart(self, workloads: list[dict], deadline: float) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        body = {"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}}
        for obj in workloads:
            try:
                # With kubectl's field manager, whose annotation a later apply leaves there.
                after = self.api.request("PATCH", self.path(obj), "fieldManager=kubectl-rollout", body,
                                         "application/strategic-merge-patch+json")
            except ApiError as error:
                raise EngineError(f"Kubernetes refuses to restart {Ref.of(obj)}: {error}.") from error
            Watcher(self, deadline).until_ready([{**obj, **after}])

    def logs(self, lines: int) -> dict[str, str]:
        wanted = []
        for pod in self._own_pods():
            restarted = {status["name"] for status in containers(pod) if status.get("restartCount")}
            for spec in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
                wanted.append((pod, spec["name"], False))
                if spec["name"] in restarted:
                    wanted.append((pod, spec["name"], True))

        def read(entry: tuple[dict, str, bool]) -> str:
            try:
                return self.pod_log(entry[0], entry[1], lines, entry[2])
            except EngineError as error:
                return f"{error}\n"

        return {f"{pod['metadata']['name']}/{name}{'/previous' if previous else ''}": text for (pod, name, previous),
                text in zip(wanted, self.api.map(read, wanted))}

    def events(self) -> list[dict]:
        namespace, owners = self.scope.namespace, self._owners()
        try:
            items = self.api.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
        except ApiError as error:
            raise EngineError(f"Kubernetes cannot list the events of namespace {namespace}: {error}.") from error
        found = []
        for event in items:
            about = event.get("involvedObject") or {}
            name = about.get("name") or ""
            # Events stay when their object is gone, so that only its name says whose it was: that of an object which
            # is there, with what controllers append, or that of an instance.
            known = max((other for other in owners if name == other or name.startswith(f"{other}-")), key=len,
                        default="")
            if owners.get(known) == self.scope.instance:
                time_of = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get(
                    "creationTimestamp") or ""
                found.append({"time": time_of, "type": event.get("type") or "", "object": f"{about.get('kind')} {name}",
                              "reason": event.get("reason") or "", "message": event.get("message") or ""})
        return sorted(found, key=lambda event: event["time"])

    def _owners(self) -> dict[str, str]:
        """Instances by the names of the objects that they have in the namespace, and by their own names."""
        query, owners = label_selector({"app.kubernetes.io/managed-by": manifests.MANAGER}), {}
        for objects in self.api.map(lambda key: self._list(key, query), list(LISTED)):
            for obj in objects or []:
                labels = obj["metadata"].get("labels") or {}
                if labels.get("app.kubernetes.io/managed-by") == manifests.MANAGER:
                    owners[obj["metadata"]["name"]] = labels.get("app.kubernetes.io/instance", "")
        return {**{name: name for name in (*owners.values(), self.scope.instance)}, **owners}

    def _list_pods(self, labels: dict[str, str]) -> list[dict]:
        namespace = self.scope.namespace
        try:
            answer = self.api.request("GET", f"/api/v1/namespaces/{namespace}/pods", label_selector(labels))
        except ApiError as error:
            raise EngineError(f"Kubernetes cannot list the pods of namespace {namespace}: {error}.") from error
        return sorted(answer["items"], key=lambda pod: pod["metadata"]["name"])

    def pod_log(self, pod: dict, container: str, lines: int = 0, previous: bool = False) -> str:
        """The log of one container.

        Args:
            pod: the live pod.
            container: its name.
            lines: how many of the last; 0 for all.
            previous: take the log of the container before its last restart.
        """
        metadata = pod["metadata"]
        query = f"container={container}&limitBytes={JOB_LOG_BYTES}"
        query += f"&tailLines={lines}" if lines else ""
        query += "&previous=true" if previous else ""
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        try:
            # This path answers plain text, or JSON only for errors; it refuses to be asked for JSON alone.
            return str(self.api.request("GET", path, query, accept="*/*"))
        except ApiError as error:
            raise EngineError(f"Kubernetes does not show the log of pod {metadata['name']}: {error}.") from error

    def _ready_pod(self, service: str) -> tuple[dict, dict]:
        """A ready pod behind a Service that is not about to end, and the Service."""
        namespace = self.scope.namespace
        found = self._get("v1", Ref("", "Service", namespace, service))
        if not found:
            raise EngineError(f"Service {service} does not exist in namespace {namespace}.")
        selector = found["spec"].get("selector")
        if not selector:
            raise EngineError(f"Service {service} in namespace {namespace} selects no pods.")
        pods = self._list_pods(selector)
        for pod in pods:
            if ready(pod) and not pod["metadata"].get("deletionTimestamp"):
                return pod, found
        states = ", ".join(f"{pod['name']} is {pod['state']}" for pod in map(describe, pods)) or "it has none"
        raise EngineError(f"Service {service} in namespace {namespace} has no ready pod: {states}.")

    def execute(self, service: str, argv: list[str], stdin: str = "", timeout: float = 120) -> str:
        pod, _service = self._ready_pod(service)
        ended = kubernetes_stream.execute(self.api, pod, argv, stdin, timeout)
        if ended.code:
            complaint = last_line(ended.stderr or ended.stdout) or "it wrote nothing"
            name = pod["metadata"]["name"]
            raise EngineError(f"{argv[0]} in pod {name} ended with exit code {ended.code}: {complaint}")
        return ended.stdout

    @contextlib.contextmanager
    def forward(self, service: str, port: int) -> Iterator[tuple[str, int]]:
        self._ready_pod(service)

        def open_connection() -> kubernetes_stream.Channels:
            pod, found = self._ready_pod(service)  # looked up for each connection, since pods are replaced
            return kubernetes_stream.connect(self.api, pod, _target_port(found, pod, port))

        with kubernetes_stream.listening(open_connection, self.log) as address:
            yield address

    def secret(self, name: str) -> dict[str, str]:
        found = self._get("v1", Ref("", "Secret", self.scope.namespace, name))
        if not found:
            raise EngineError(f"Secret {name} does not exist in namespace {self.scope.namespace}.")
        data = found.get("data") or {}
        return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}

    def run_job(self, job: dict, deadline: float) -> str:
        obj = {**job, "metadata": {"namespace": self.scope.namespace, **job["metadata"]}}
        ref = Ref.of(obj)
        before = self._get(obj["apiVersion"], ref)
        if before and not self.scope.owns(before):
            raise EngineError(in_the_way(ref, before, self.scope))
        if before:
            self.delete([before], deadline)
        after = self._apply(obj, None, dry_run=False)
        try:
            Watcher(self, deadline).until_ready([after])
            for pod in self._list_pods(after["spec"]["selector"]["matchLabels"]):
                if pod["status"].get("phase") == "Succeeded":
                    return self.pod_log(pod, pod["spec"]["containers"][0]["name"])
            return ""
        finally:
            with contextlib.suppress(EngineError):  # what went wrong before is the better message
                # Its pods may take their time to end; nothing needs to wait for them.
                self.api.request("DELETE", self.path(after), body={"propagationPolicy": "Background"})

    # -- the connection --------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """The base class' attribute, kept where requests are tried again."""
        return self.api.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self.api.deadline = value

    def close(self) -> None:
        self.api.close()


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _one_version_each(kinds: set[tuple[str, str]], wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """One apiVersion for each group and kind, since all show the same objects: the wanted one, or a stable one."""
    chosen: dict[tuple[str, str], tuple[str, str]] = {}

    def preference(key: tuple[str, str]) -> tuple:
        version = key[0]
        return key not in wanted, "alpha" in version or "beta" in version, -len(version), key

    for version, kind in sorted(kinds, key=preference):
        chosen.setdefault((version.rpartition("/")[0], kind), (version, kind))
    return list(chosen.values())


def _refuse_another_volume(ref: Ref, before: dict, wanted: dict) -> None:
    """Raise EngineError for what a volume cannot become: only its size can change, and that can only grow."""
    for field in ("storageClassName", "accessModes"):
        was, to_be = before["spec"].get(field), wanted.get(field)
        if was and to_be and was != to_be:
            was, to_be = ([value] if isinstance(value, str) else value for value in (was, to_be))
            raise EngineError(f"{ref} was made with {field} {', '.join(was)}, which cannot become {', '.join(to_be)}; "
                              f"leave it as it was, or move the data to a new volume.")
    asked, to_be = (spec["resources"]["requests"]["storage"] for spec in (before["spec"], wanted))
    # It may have got more than it asked for, and may not have got yet what it asks for.
    got = (before.get("status") or {}).get("capacity", {}).get("storage") or asked
    was = min(asked, got, key=lambda size: quantity(size) or 0)
    if (quantity(to_be) or 0) < (quantity(was) or 0):
        raise EngineError(
            f"{ref} has {was}, which cannot shrink to {to_be}; leave its size as it was, or move the data "
            f"to a new volume."
        )


def _target_port(service: dict, pod: dict, port: int) -> int:
    """The number of the pod's port behind a port of its Service."""
    target = next((entry.get("targetPort", port) for entry in service["spec"]["ports"] if entry["port"] == port), port)
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for entry in container.get("ports") or []:
            if entry.get("name") == target:
                return entry["containerPort"]
    raise EngineError(f"Pod {pod['metadata']['name']} has no port {target}, to which port {port} of Service "
                      f"{service['metadata']['name']} leads.")
