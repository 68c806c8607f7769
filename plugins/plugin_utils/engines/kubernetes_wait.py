# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for workloads on Kubernetes, and reporting the cause when one does not become ready."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Iterator
from urllib.parse import quote

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import ApiError, label_selector
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_status import (
    FATAL_PHASES, condition, containers, last_end, memory_limit, pod_state, progress, ready, requests,
    template_revision)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref, quantity

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine

FATAL_REASONS = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
"""Waiting reasons that time alone does not resolve (a first ErrImagePull may pass, a back-off is the second)."""
MISCONFIGURED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
GRACE_PERIODS = {"misconfigured": 15, "unschedulable": 45, "phase": 30, "outdated": 15}
"""Seconds that a state may last before it counts as the cause: controllers and volumes may be a little late."""
SCALING_UP = ("TriggeredScaleUp", "Nominated")
"""Reasons of a pod's events by which the cluster autoscaler and Karpenter tell that a node for it is on its way."""
AFTERWARDS = re.compile(r" (?:no new claims to deallocate,|preemption:)")
"""Where the scheduler's message goes on with what would be if other pods ended."""
INSUFFICIENT = re.compile(r"Insufficient ([a-z0-9./-]*[a-z0-9])")
CRASHES = 3
LOG_LINES = 15
LOG_INTERVAL = 30
REVISION = "deployment.kubernetes.io/revision"


class WorkloadError(EngineError):
    """Workloads that did not become ready, with the cause.

    Attributes:
        failed: the live objects.
    """

    def __init__(self, message: str, failed: list[dict]) -> None:
        super().__init__(message)
        self.failed = failed


class Watcher:
    """Follows workloads until all are ready or one cannot become so."""

    def __init__(self, engine: KubernetesEngine, deadline: float) -> None:
        self.engine = engine
        self.deadline = deadline
        self.inspector = Inspector(engine)
        self._logged: tuple[str, float] = ("", 0.0)
        self._unscheduled: dict[Ref, str] = {}

    def until_ready(self, objects: list[dict]) -> None:
        """Return when all are ready.

        Raises:
            WorkloadError: with the cause.
        """
        waiting = [obj for obj in objects if progress(obj)]
        pause = 0.25
        while waiting:
            for obj in waiting:
                self._raise_if_fatal(obj)
            if time.monotonic() > self.deadline:
                reports = [self.inspector.report(obj, f"is not ready in time ({progress(obj)})") for obj in waiting]
                raise WorkloadError("\n".join(reports), waiting)
            self._log_progress(waiting)
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
            waiting = [obj for obj in self.engine.api.map(self._current, waiting) if progress(obj)]

    def _current(self, obj: dict) -> dict:
        try:
            return self.engine.api.request("GET", self.engine.path(obj))
        except ApiError as error:
            raise EngineError(f"{Ref.of(obj)} cannot be waited for: {error}.") from error

    def _log_progress(self, waiting: list[dict]) -> None:
        states = []
        for obj in waiting:
            unscheduled = self._unscheduled.get(Ref.of(obj))
            states.append(f"{Ref.of(obj)}: {progress(obj)}{f' ({unscheduled})' if unscheduled else ''}")
        text = "; ".join(states)
        before, at = self._logged
        if text != before or time.monotonic() - at > LOG_INTERVAL:
            if before:  # what is ready at the second look needs no announcement
                self.engine.log(text)
            self._logged = (text, time.monotonic())

    def _raise_if_fatal(self, obj: dict) -> None:
        """Raise WorkloadError for a workload that time alone will not make ready."""
        if found := condition(obj, "ReplicaFailure"):
            raise self._error(obj, f"cannot create its pods: {found.get('message')}")
        if found := condition(obj, "Failed"):
            raise self._error(obj, f"failed ({found.get('reason')})")
        status = obj.get("status") or {}
        if manifests.is_postgresql_cluster(obj) and self.inspector.stays_in_fatal_phase(obj):
            reason = status.get("phaseReason")
            raise self._error(obj, f"cannot become ready: {status['phase']}{f' ({reason})' if reason else ''}")
        # A Cluster has no generation in its status.
        observed = obj["metadata"].get("generation", 1) if manifests.is_postgresql_cluster(obj) else status.get(
            "observedGeneration", 0)
        if obj["kind"] != "Job" and observed < obj["metadata"].get("generation", 1):
            return  # its pods are those of the generation before
        self._unscheduled.pop(Ref.of(obj), None)
        for pod in self.inspector.unready_pods(obj):
            cause = next(self.inspector.causes(pod), "")
            if obj["kind"] == "StatefulSet" and template_revision(pod) != obj["status"].get("updateRevision"):
                if cause or self.inspector.stays_unready(pod):
                    self._replace(pod)
            elif cause:
                raise self._error(obj, "cannot become ready", pod, cause)
            elif unscheduled := self.inspector.unscheduled(pod):
                self._unscheduled[Ref.of(obj)] = unscheduled

    def _error(self, obj: dict, what: str, pod: dict | None = None, cause: str = "") -> WorkloadError:
        return WorkloadError(self.inspector.report(obj, what, pod, cause), [obj])

    def _replace(self, pod: dict) -> None:
        """Delete a pod of the old template that is not ready: a StatefulSet waits for it to become ready before it
        replaces it, which is too late where the new template is the remedy.

        Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
        """
        self.engine.log(f"Replacing pod {pod['metadata']['name']}, which is not ready and of an earlier template")
        self.engine.delete([{"apiVersion": "v1", "kind": "Pod", **pod}], self.deadline)


class Inspector:
    """Finds out why pods are not ready. What its user may not read is missing in reports, and stops nothing."""

    def __init__(self, engine: KubernetesEngine) -> None:
        self.engine = engine
        self._since: dict[tuple, float] = {}

    # -- causes ----------------------------------------------------------------------------------------------------

    def causes(self, pod: dict) -> Iterator[str]:
        """Why time alone will not make the pod ready, most certain first; nothing while it still may."""
        unscheduled = self.unscheduled(pod)
        if unscheduled and self._lasts((pod["metadata"]["uid"], "unschedulable"), GRACE_PERIODS["unschedulable"]):
            if not self._scaling_up(pod) and not self._may_fit(pod, unscheduled):
                yield unscheduled
        for status in containers(pod):
            yield from self._container_causes(pod, status)

    def _container_causes(self, pod: dict, status: dict) -> Iterator[str]:
        uid, what = pod["metadata"]["uid"], f"pod {pod['metadata']['name']}, container {status['name']}"
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in FATAL_REASONS:
            yield f"{what}: {reason}: {message or status.get('image')}"
        elif reason in MISCONFIGURED and self._lasts((uid, status["name"], reason), GRACE_PERIODS["misconfigured"]):
            yield f"{what}: {reason}: {message}"
        end = last_end(status)
        if not end.get("exitCode") or "running" in (status.get("state") or {}):
            return
        if end.get("reason") == "OOMKilled":
            yield f"{what} was killed for using more than its memory limit ({memory_limit(pod, status['name'])})"
        elif status.get("restartCount", 0) >= CRASHES:
            yield (f"{what} ended {status['restartCount']} times, last with exit code {end.get('exitCode')} "
                   f"({end.get('reason')})")

    def stays_in_fatal_phase(self, cluster: dict) -> bool:
        """Whether a Cluster of CloudNativePG is in a phase that time alone does not end, for some time."""
        name, phase = cluster["metadata"]["name"], cluster.get("status", {}).get("phase")
        return phase in FATAL_PHASES and self._lasts((name, phase), GRACE_PERIODS["phase"])

    def stays_unready(self, pod: dict) -> bool:
        """Whether the pod has not been ready for some time."""
        return self._lasts((pod["metadata"]["uid"], "outdated"), GRACE_PERIODS["outdated"])

    def _lasts(self, key: tuple, seconds: float) -> bool:
        return time.monotonic() - self._since.setdefault(key, time.monotonic()) >= seconds

    # -- nodes -----------------------------------------------------------------------------------------------------

    def unscheduled(self, pod: dict) -> str:
        """Why no node takes the pod, with what it requests; empty when one has."""
        for found in pod["status"].get("conditions") or []:
            if found["type"] == "PodScheduled" and found["status"] == "False":
                wanted = " and ".join(f"{_amount(name, value)} {name}" for name, value in requests(pod).items())
                message = AFTERWARDS.split(found.get("message") or "")[0]
                return (f"no node takes pod {pod['metadata']['name']}"
                        f"{', which requests ' + wanted if wanted else ''}: {message}")
        return ""

    def _scaling_up(self, pod: dict) -> bool:
        """Whether an autoscaler is already adding a node for the pod."""
        return any(event.get("reason") in SCALING_UP for event in self._events(pod))

    def _may_fit(self, pod: dict, unscheduled: str) -> bool:
        """Whether a node has room for the pod as soon as others end: then, only the timeout ends the wait.

        It is so as well where this user may not look at nodes, which might be added.
        """
        lacking = INSUFFICIENT.findall(unscheduled)
        if not lacking:
            return False
        try:
            nodes = self.engine.api.request("GET", "/api/v1/nodes")["items"]
        except EngineError:
            return True
        wanted = {**requests(pod), "pods": 1}
        room = [node["status"].get("allocatable") or {} for node in nodes]
        return any(all((quantity(node.get(name)) or 0) >= wanted.get(name, 0) for name in lacking) for node in room)

    # -- pods ------------------------------------------------------------------------------------------------------

    def unready_pods(self, obj: dict) -> list[dict]:
        """The workload's pods that are not ready, newest first.

        Of a Deployment only those of its newest template; of a Job those that have not succeeded.
        """
        labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
        if manifests.is_postgresql_cluster(obj):
            labels = {"cnpg.io/cluster": obj["metadata"]["name"]}
        items = self._optional_list(obj["metadata"]["namespace"], "/api/v1", "pods", label_selector(labels))
        pods = []
        for pod in items:
            # Pods of a Cluster's own Jobs end, too.
            ended = obj["kind"] == "Job" or manifests.is_postgresql_cluster(obj)
            done = ended and pod["status"].get("phase") == "Succeeded" or obj["kind"] != "Job" and ready(pod)
            if not done and not pod["metadata"].get("deletionTimestamp"):
                pods.append(pod)
        pods.sort(key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)
        if obj["kind"] == "Deployment" and pods:
            # Those of an earlier template may be broken and about to end; they are no reason to give up on this one.
            newest = self._newest_replica_set(obj) or _owner(pods[0])
            pods = [pod for pod in pods if _owner(pod) == newest]
        return pods

    def _newest_replica_set(self, deployment: dict) -> str:
        metadata, selector = deployment["metadata"], label_selector(deployment["spec"]["selector"]["matchLabels"])
        revision = (metadata.get("annotations") or {}).get(REVISION)
        for replica_set in self._optional_list(metadata["namespace"], "/apis/apps/v1", "replicasets", selector):
            if (replica_set["metadata"].get("annotations") or {}).get(REVISION) == revision:
                return replica_set["metadata"]["name"]
        return ""

    # -- reports ---------------------------------------------------------------------------------------------------

    def report(self, obj: dict, what: str, pod: dict | None = None, cause: str = "") -> str:
        """One sentence with the cause, then the last lines of the log and of the events.

        Args:
            obj: the live workload.
            what: what is wrong with it, without its name.
            pod: the pod that is the cause, if it is known already.
            cause: what is wrong with that pod.
        """
        pod = pod or next(iter(self.unready_pods(obj)), None)
        if pod and not cause:
            cause = next(self.causes(pod), "") or self.unscheduled(pod) or pod_state(pod)
        sentence = f"{Ref.of(obj)} {what}{': ' + cause if cause else ''}"
        lines = [sentence.rstrip(".") + "."]
        if pod:
            lines += self._log(pod)
            lines += self._unbound_claims(pod)
        events = [event for source in (obj, pod) if source for event in self._events(source)]
        for event in [event for event in events if event.get("type") == "Warning"][-4:]:
            lines.append(f"  event: {event.get('reason')}: {' '.join((event.get('message') or '').split())}")
        return "\n".join(lines)

    def _log(self, pod: dict) -> list[str]:
        """The last lines of the log of the first container that is not ready, or else of the last one."""
        begun = [status for status in containers(pod) if last_end(status) or (status.get("state") or {}).get("running")]
        if not begun:
            return []
        status = next((status for status in begun if not status.get("ready")), begun[-1])
        state = status.get("state") or {}
        previous = bool(status.get("restartCount")) and not state.get("terminated") and not state.get("running")
        try:
            text = self.engine.pod_log(pod, status["name"], LOG_LINES, previous)
        except EngineError:
            return []
        return [f"  log of {status['name']}: {line}" for line in text.splitlines() if line.strip()]

    def _unbound_claims(self, pod: dict) -> list[str]:
        """Why volumes of the pod are not there, if they are not."""
        lines, namespace = [], pod["metadata"]["namespace"]
        claims = [volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes") or []]
        for name in [claim["claimName"] for claim in claims if claim]:
            query = f"fieldSelector={quote(f'metadata.name={name}')}"
            for claim in self._optional_list(namespace, "/api/v1", "persistentvolumeclaims", query):
                phase = claim["status"].get("phase")
                if phase != "Bound":
                    why = next((e.get("message") for e in reversed(self._events(claim))), "no event has a reason")
                    lines.append(f"  PersistentVolumeClaim {name} is {phase}: {why}")
        return lines

    def _events(self, obj: dict) -> list[dict]:
        """The events of an object, oldest first."""
        metadata = obj["metadata"]
        # By uid as well: an earlier object of the same name had events of its own.
        selected = f"involvedObject.name={metadata['name']},involvedObject.uid={metadata['uid']}"
        events = self._optional_list(metadata["namespace"], "/api/v1", "events", f"fieldSelector={quote(selected)}")
        return sorted(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def _optional_list(self, namespace: str, root: str, plural: str, query: str) -> list[dict]:
        """What a report is better with: nothing where this user may not look, or the API has trouble."""
        try:
            return self.engine.api.request("GET", f"{root}/namespaces/{namespace}/{plural}", query)["items"]
        except EngineError:
            return []


def _amount(resource: str, value: float) -> str:
    """A quantity as a manifest writes it: bytes in Mi."""
    return f"{value / 2**20:.0f}Mi" if resource in ("memory", "ephemeral-storage") else f"{value:g}"


def _owner(pod: dict) -> str:
    """The name of the controller that made a pod."""
    return next((owner["name"] for owner in pod["metadata"].get("ownerReferences") or []), "")
