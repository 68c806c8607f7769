# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the status of workloads and pods means."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests

HEALTHY = "Cluster in healthy state"
"""The phase of a Cluster of CloudNativePG that works."""
FATAL_PHASES = ("Cluster is unrecoverable and needs manual intervention", "Invalid cluster definition",
                "Cluster has incomplete or invalid image catalog",
                "Cluster cannot proceed to reconciliation due to an unknown plugin being required")
"""Phases in which it stays until somebody changes something."""


def progress(obj: dict) -> str:
    """What a workload still lacks, in words; empty when it is ready."""
    spec, status = obj["spec"], obj.get("status") or {}
    if obj["kind"] == "Job":
        if condition(obj, "Complete"):
            return ""
        return f"{status.get('succeeded', 0)} of {spec.get('completions', 1)} completions"
    if manifests.is_postgresql_cluster(obj):
        return _cluster_progress(obj)
    wanted = status.get("desiredNumberScheduled", 0) if obj["kind"] == "DaemonSet" else spec.get("replicas", 1)
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 1):
        return "change not yet seen by its controller"
    fields = {
        "Deployment": ("updatedReplicas", "availableReplicas"),
        "StatefulSet": ("updatedReplicas", "readyReplicas"),
        "DaemonSet": ("updatedNumberScheduled", "numberAvailable"),
    }[obj["kind"]]
    updated, available = (status.get(field, 0) for field in fields)
    if updated < wanted:
        return f"{updated} of {wanted} pods updated"
    if available < wanted:
        return f"{available} of {wanted} pods ready"
    if obj["kind"] == "Deployment" and status.get("replicas", 0) > wanted:
        return "old pods still ending"
    return ""


def _cluster_progress(obj: dict) -> str:
    """What a Cluster of CloudNativePG still lacks."""
    spec, status = obj["spec"], obj.get("status") or {}
    phase, reason = status.get("phase"), status.get("phaseReason")
    if not phase:
        return "its operator has not looked at it"
    if phase != HEALTHY:
        return f"{phase} ({reason})" if reason else phase
    wanted, available = spec.get("instances", 1), status.get("readyInstances", 0)
    if available != wanted:
        return f"{available} of {wanted} instances ready"
    found = condition(obj, "Ready")
    if not found or found.get("observedGeneration", obj["metadata"].get("generation", 1)) < obj["metadata"].get(
            "generation", 1):
        return "change not yet seen by its operator"
    # A new image is in the specification before the phase changes.
    if spec.get("imageName") and status.get("image", spec["imageName"]) != spec["imageName"]:
        return f"image {status['image']} still runs"
    return ""


def condition(obj: dict, kind: str) -> dict | None:
    """The condition of that type if it is true."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def containers(pod: dict) -> list[dict]:
    """The statuses of all containers of a pod, in the order of their start."""
    status = pod["status"]
    return (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])


def ready(pod: dict) -> bool:
    """Whether the pod takes requests."""
    return condition(pod, "Ready") is not None


def template_revision(pod: dict) -> str | None:
    """Which of a StatefulSet's templates a pod came from."""
    return (pod["metadata"].get("labels") or {}).get("controller-revision-hash")


def last_end(status: dict) -> dict:
    """How a container ended last: reason and exitCode, or nothing."""
    return (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated") or {}


def memory_limit(pod: dict, container: str) -> str:
    """The memory limit of one container, as its manifest writes it."""
    for spec in (pod["spec"].get("initContainers") or []) + pod["spec"]["containers"]:
        if spec["name"] == container:
            return ((spec.get("resources") or {}).get("limits") or {}).get("memory", "none set")
    return "unknown"


def requests(pod: dict) -> dict[str, float]:
    """What a node must have free for the pod, by resource: cores, bytes, or numbers of devices.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
    """
    at_once: dict[str, float] = {}
    one: dict[str, float] = {}
    for container in pod["spec"].get("initContainers") or []:
        own = _own_requests(container)
        target = at_once if container.get("restartPolicy") == "Always" else one
        for name, value in own.items():
            target[name] = at_once.get(name, 0) + value if target is at_once else max(
                one.get(name, 0), at_once.get(name, 0) + value)
    for container in pod["spec"]["containers"]:
        for name, value in _own_requests(container).items():
            at_once[name] = at_once.get(name, 0) + value
    return {name: max(at_once.get(name, 0), one.get(name, 0)) for name in {**at_once, **one}}


def _own_requests(container: dict) -> dict[str, float]:
    resources = container.get("resources") or {}
    return {name: manifests.quantity(value) or 0
            for name, value in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items()}


def pod_state(pod: dict) -> str:
    """A pod's state as `kubectl get pods` shows it, for a report that found no better cause."""
    parts = []
    for status in containers(pod):
        state = status.get("state") or {}
        kind = next(iter(state), "unknown")
        reason = (state.get(kind) or {}).get("reason")
        if not status.get("ready") and reason != "Completed":
            why = f" ({reason})" if reason else ", its probes do not pass"
            parts.append(f"container {status['name']} is {kind}{why}")
    return f"pod {pod['metadata']['name']}: {', '.join(parts) or pod['status'].get('phase')}"


def without_repeated(pods: list[dict]) -> list[dict]:
    """The pods without the failed ones of a Job that has succeeded with a later one."""
    done = {_job(pod) for pod in pods if pod["status"].get("phase") == "Succeeded"} - {""}
    return [pod for pod in pods if pod["status"].get("phase") != "Failed" or _job(pod) not in done]


def _job(pod: dict) -> str:
    return (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name", "")


def describe(pod: dict) -> dict:
    """A pod in the few words of a status panel."""
    statuses = containers(pod)
    waiting = next((s["state"]["waiting"].get("reason") for s in statuses if "waiting" in (s.get("state") or {})), None)
    phase = pod["status"].get("phase", "Unknown")
    return {
        "name": pod["metadata"]["name"],
        "component": (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", ""),
        "state": waiting or ("Completed" if phase == "Succeeded" else phase),
        "ready": ready(pod) or phase == "Succeeded",
        "restarts": sum(s.get("restartCount", 0) for s in statuses),
        "image": pod["spec"]["containers"][0]["image"],
    }
