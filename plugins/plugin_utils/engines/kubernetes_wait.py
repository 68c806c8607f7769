# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for workloads on Kubernetes, and saying in Kubernetes' own words why one does not come up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import ApiError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine

FATAL_REASONS = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
"""Waiting reasons that time alone does not mend (a first ErrImagePull may be a passing fault, a back-off is a second one)."""
MISCONFIGURED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
GRACE_PERIODS = {"misconfigured": 15, "unschedulable": 45}
"""Seconds that a state may last before it counts as the cause: controllers and volumes are allowed to be a little late."""
CRASHES = 3
LOG_LINES = 15
LOG_INTERVAL = 10


class Watcher:
    """Follows workloads until all are ready or one cannot become so."""

    def __init__(self, engine: KubernetesEngine, deadline: float) -> None:
        self.engine = engine
        self.deadline = deadline
        self._since: dict[tuple, float] = {}
        self._said: tuple[str, float] = ("", 0.0)

    def until_ready(self, objects: list[dict]) -> None:
        """Return when all are ready; raise EngineError with the cause otherwise."""
        waiting = [obj for obj in objects if progress(obj)]
        pause = 0.25
        while waiting:
            for obj in waiting:
                self._raise_if_hopeless(obj)
            if time.monotonic() > self.deadline:
                raise EngineError(self._report(waiting[0], f"is not ready in time ({progress(waiting[0])})"))
            self._tell(waiting)
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
            waiting = [obj for obj in self.engine.api.map(self._fresh, waiting) if progress(obj)]

    def _fresh(self, obj: dict) -> dict:
        return self.engine.api.request("GET", self.engine.path(obj))

    def _tell(self, waiting: list[dict]) -> None:
        text = "; ".join(f"{Ref.of(obj)}: {progress(obj)}" for obj in waiting)
        before, at = self._said
        if text != before or time.monotonic() - at > LOG_INTERVAL:
            if before:  # what is ready at the second look needs no announcement
                self.engine.log(text)
            self._said = (text, time.monotonic())

    # -- causes ----------------------------------------------------------------------------------------------------

    def _raise_if_hopeless(self, obj: dict) -> None:
        for condition in (obj.get("status") or {}).get("conditions") or []:
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                raise EngineError(self._report(obj, f"cannot make its pods: {condition.get('message')}"))
            if condition["type"] == "Failed" and condition["status"] == "True":
                raise EngineError(self._report(obj, f"failed ({condition.get('reason')})"))
        if (obj.get("status") or {}).get("observedGeneration", 0) < obj["metadata"].get("generation", 1) and obj["kind"] != "Job":
            return  # what is to be seen yet is what the workload was before
        for pod in self._pods(obj):
            if obj["kind"] == "StatefulSet" and _revision(pod) != obj["status"].get("updateRevision"):
                self._unblock(pod)
                continue
            for cause in self._causes(pod):
                raise EngineError(self._report(obj, "cannot become ready", pod, cause))

    def _unblock(self, pod: dict) -> None:
        """A StatefulSet waits for a pod of the old template to become ready before it replaces it, be that pod broken or not.

        Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
        """
        if any(True for _cause in self._causes(pod)):
            self.engine.log(f"Replacing pod {pod['metadata']['name']}, which never became ready")
            self.engine.delete([{"apiVersion": "v1", "kind": "Pod", **pod}], self.deadline)

    def _causes(self, pod: dict) -> Iterator[str]:
        name = pod["metadata"]["name"]
        for condition in pod["status"].get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                if self._lasts((name, "unschedulable"), GRACE_PERIODS["unschedulable"]) and not self._scaling_up(pod):
                    yield f"no node takes pod {name}: {condition.get('message')}"
        for status in _containers(pod):
            waiting = (status.get("state") or {}).get("waiting") or {}
            reason, message = waiting.get("reason", ""), waiting.get("message", "")
            ended = _last_end(status)
            down = ended.get("exitCode", 0) != 0 and "running" not in (status.get("state") or {})
            what = f"pod {name}, container {status['name']}"
            if reason in FATAL_REASONS:
                yield f"{what}: {reason}: {message or status.get('image')}"
            elif reason in MISCONFIGURED and self._lasts((name, status["name"], reason), GRACE_PERIODS["misconfigured"]):
                yield f"{what}: {reason}: {message}"
            elif down and ended.get("reason") == "OOMKilled":
                yield f"{what} was killed for using more than its memory limit ({_limit(pod, status['name'])})"
            elif down and status.get("restartCount", 0) >= CRASHES:
                yield f"{what} ended {status['restartCount']} times, last with exit code {ended.get('exitCode')} ({ended.get('reason')})"

    def _lasts(self, key: tuple, seconds: float) -> bool:
        return time.monotonic() - self._since.setdefault(key, time.monotonic()) >= seconds

    def _scaling_up(self, pod: dict) -> bool:
        """Whether a cluster autoscaler is already bringing a node for the pod."""
        return any(event.get("reason") == "TriggeredScaleUp" for event in self._events(pod))

    # -- what Kubernetes says --------------------------------------------------------------------------------------

    def _pods(self, obj: dict) -> list[dict]:
        """The workload's pods that are not ready, newest first."""
        labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
        selector = ",".join(f"{key}%3D{value}" for key, value in labels.items())
        answer = self.engine.api.request("GET", f"/api/v1/namespaces/{obj['metadata']['namespace']}/pods", f"labelSelector={selector}")
        pods = [pod for pod in answer["items"] if not pod["metadata"].get("deletionTimestamp") and not _ready(pod)]
        if obj["kind"] == "Deployment" and pods:
            # Those of an earlier template may be broken and on their way out; they are no reason to give up on this one.
            newest = self._newest_replica_set(obj)
            pods = [pod for pod in pods if any(owner["name"] == newest for owner in pod["metadata"].get("ownerReferences") or [])]
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)

    def _newest_replica_set(self, deployment: dict) -> str | None:
        metadata = deployment["metadata"]
        labels = ",".join(f"{key}%3D{value}" for key, value in deployment["spec"]["selector"]["matchLabels"].items())
        answer = self.engine.api.request("GET", f"/apis/apps/v1/namespaces/{metadata['namespace']}/replicasets", f"labelSelector={labels}")
        revision = (metadata.get("annotations") or {}).get("deployment.kubernetes.io/revision")
        return next((r["metadata"]["name"] for r in answer["items"]
                     if (r["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision") == revision), None)

    def _events(self, obj: dict) -> list[dict]:
        metadata = obj["metadata"]
        answer = self.engine.api.request("GET", f"/api/v1/namespaces/{metadata['namespace']}/events",
                                         f"fieldSelector=involvedObject.name%3D{metadata['name']}")
        return sorted(answer["items"], key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")

    def _report(self, obj: dict, what: str, pod: dict | None = None, cause: str = "") -> str:
        """One sentence with the cause, then the log's and the events' last lines."""
        pod = pod or next(iter(self._pods(obj)), None)
        if pod and not cause:
            cause = next(self._causes(pod), "") or _state(pod)
        lines = [f"{Ref.of(obj)} {what}{': ' + cause if cause else ''}."]
        if pod:
            lines += self._log(pod)
        warnings = [e for source in (obj, pod) if source for e in self._events(source) if e.get("type") == "Warning"]
        lines += self._claims(pod) if pod else []
        for event in warnings[-4:]:
            lines.append(f"  event: {event.get('reason')}: {' '.join((event.get('message') or '').split())}")
        return "\n".join(lines)

    def _log(self, pod: dict) -> list[str]:
        blamed = next((s for s in _containers(pod) if not s.get("ready") and (_last_end(s) or (s.get("state") or {}).get("running"))), None)
        if not blamed:
            return []
        running = (blamed.get("state") or {}).get("running")
        previous = bool(blamed.get("restartCount")) and not (blamed.get("state") or {}).get("terminated") and not running
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/log"
        query = f"container={blamed['name']}&tailLines={LOG_LINES}{'&previous=true' if previous else ''}"
        try:
            # The log endpoint answers plain text, or JSON only for errors; it refuses to be asked for JSON alone.
            text = self.engine.api.request("GET", path, query, accept="*/*")
        except ApiError:
            return []
        return [f"  log of {blamed['name']}: {line}" for line in str(text).splitlines() if line.strip()]

    def _claims(self, pod: dict) -> list[str]:
        """Why volumes of the pod are not there, if they are not."""
        lines = []
        for volume in pod["spec"].get("volumes") or []:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if not name:
                continue
            claim = self.engine.read({Ref("", "PersistentVolumeClaim", pod["metadata"]["namespace"], name)}, set())
            claim = next((c for r, c in claim.items() if r.kind == "PersistentVolumeClaim" and r.name == name), None)
            if claim and claim["status"].get("phase") != "Bound":
                why = next((e.get("message") for e in reversed(self._events(claim))), "no event tells why")
                lines.append(f"  PersistentVolumeClaim {name} is {claim['status'].get('phase')}: {why}")
        return lines


def progress(obj: dict) -> str:
    """What a workload still lacks, in words; empty when it is ready."""
    spec, status = obj["spec"], obj.get("status") or {}
    if obj["kind"] == "Job":
        if any(c["type"] == "Complete" and c["status"] == "True" for c in status.get("conditions") or []):
            return ""
        return f"{status.get('succeeded', 0)} of {spec.get('completions', 1)} completions"
    wanted = status.get("desiredNumberScheduled", 0) if obj["kind"] == "DaemonSet" else spec.get("replicas", 1)
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 1):
        return "change not yet seen by its controller"
    fields = {"Deployment": ("updatedReplicas", "availableReplicas"), "StatefulSet": ("updatedReplicas", "readyReplicas"),
              "DaemonSet": ("updatedNumberScheduled", "numberAvailable")}[obj["kind"]]
    updated, ready = (status.get(field, 0) for field in fields)
    if updated < wanted:
        return f"{updated} of {wanted} pods updated"
    if ready < wanted:
        return f"{ready} of {wanted} pods ready"
    if obj["kind"] == "Deployment" and status.get("replicas", 0) > wanted:
        return "old pods still ending"
    return ""


def _containers(pod: dict) -> list[dict]:
    status = pod["status"]
    return (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])


def _ready(pod: dict) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def _revision(pod: dict) -> str | None:
    """Which of a StatefulSet's templates a pod came from."""
    return (pod["metadata"].get("labels") or {}).get("controller-revision-hash")


def _last_end(status: dict) -> dict:
    return (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated") or {}


def _limit(pod: dict, container: str) -> str:
    for spec in (pod["spec"].get("initContainers") or []) + pod["spec"]["containers"]:
        if spec["name"] == container:
            return ((spec.get("resources") or {}).get("limits") or {}).get("memory", "none set")
    return "unknown"


def _state(pod: dict) -> str:
    """A pod's state as `kubectl get pods` would tell it, for a report that found no better cause."""
    parts = []
    for status in _containers(pod):
        state = status.get("state") or {}
        kind = next(iter(state), "unknown")
        reason = (state.get(kind) or {}).get("reason")
        if not status.get("ready") and reason != "Completed":
            parts.append(f"container {status['name']} is {kind}{' (' + reason + ')' if reason else ', its probes do not pass'}")
    return f"pod {pod['metadata']['name']}: {', '.join(parts) or pod['status'].get('phase')}"


def describe(pod: dict) -> dict:
    """A pod in the few words of a status panel."""
    statuses = _containers(pod)
    waiting = next((s["state"]["waiting"].get("reason") for s in statuses if "waiting" in (s.get("state") or {})), None)
    phase = pod["status"].get("phase", "Unknown")
    return {
        "name": pod["metadata"]["name"],
        "component": (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", ""),
        "state": waiting or ("Completed" if phase == "Succeeded" else phase),
        "ready": _ready(pod) or phase == "Succeeded",
        "restarts": sum(s.get("restartCount", 0) for s in statuses),
        "image": pod["spec"]["containers"][0]["image"],
    }
