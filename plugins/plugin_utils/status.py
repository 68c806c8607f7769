# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status panel of an instance: what runs, in which version, and whether it is healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model


def panel(model: Model, pods: list[dict], report: dict) -> dict[str, Any]:
    """The panel as values.

    Args:
        model: the instance.
        pods: its pods, as the engine returned them.
        report: what ``health.measure`` returned.
    """
    server, instance = model.mlflow_server, model.instance
    backend, store = server.database, server.artifact_store
    return {
        "installed": bool(pods), "version": report["version"] or "", "engine": instance.engine,
        "namespace": instance.namespace,
        "healthy": report["healthy"],
        "backend_store": _part(report, "database", backend.type, (
            f"{backend.host}:{backend.port}/{backend.name}" if backend.host
            else f"URI in Secret {backend.secret}" if backend.uri_key else f"volume {backend.claim}")),
        "artifact_store": _part(report, "object_storage", store.type, (
            f"volume {store.claim}" if store.claim else "folder of the pod" if store.type == "volume" else store.uri)),
        "server": _part(report, "mlflow_server", "mlflow", report["url"]) | {"url": report["url"]},
        "components": {component.role: _lines(component, model, report) for component in components.COMPONENTS
                       if component.role in report["components"]},
        "pods": pods,
    }


def _part(report: dict, role: str, kind: str, location: str) -> dict[str, Any]:
    """What the probes of a component found, with the facts that they measured."""
    probes = report["components"].get(role) or {}
    facts = {
        key: value
        for probe in probes.values()
        for key, value in probe.items()
        if key not in ("healthy", "checks", "failures")
    }
    return {**facts, "type": kind, "location": location,
            "healthy": bool(probes) and all(p["healthy"] for p in probes.values()),
            "failures": [failure for probe in probes.values() for failure in probe["failures"]]}


def _lines(component: components.Component, model: Model, report: dict) -> list[str]:
    probes = report["components"][component.role]
    facts = {key: value for probe in probes.values() for key, value in probe.items()}
    failures = list(dict.fromkeys(failure for probe in probes.values() for failure in probe["failures"]))
    verdict = f"NOT healthy: {'; '.join(failures)}" if failures else "healthy"
    if checks.kept_from_running(failures):
        verdict = f"not measured: {'; '.join(failure.partition(': ')[2] for failure in failures)}"
    return [verdict, *component.status(model.variables, model, facts)]


def lines(model: Model, panel: dict) -> list[str]:
    """The panel as text."""
    verdict = "healthy" if panel["healthy"] else "NOT healthy"
    result = [f"MLflow instance {model.instance.name}: {verdict if panel['installed'] else 'not installed'}"]
    if not panel["installed"]:
        return result
    newer = f"  (newer: {', '.join(panel['newer_versions'][:5])})" if panel.get("newer_versions") else ""
    reachable = "" if model.mlflow_server.url else "  (playbooks/open.yml opens it here)"
    result += [_row("version", (panel["version"] or "unknown") + newer),
               _row("engine", f"{panel['engine']}, namespace {panel['namespace']}"),
               _row("tracking UI", panel["server"]["url"] + reachable)]
    located = {
        "database": ("backend store", panel["backend_store"]),
        "object_storage": ("artifact store", panel["artifact_store"]),
    }
    for role, about in panel["components"].items():
        label, part = located.get(role, (components.by_role(role).title.removeprefix("The "), None))
        result.append(_row(label, f"{part['type']}, {part['location']}: {about[0]}" if part else about[0]))
        result += [_row("", line) for line in about[1:]]
    measured = panel.get("service_levels")
    if measured:
        verdict = "met" if measured["met"] else f"MISSED: {'; '.join(measured['missed'])}"
        result.append(_row("service levels", f"{verdict} (measured {measured['time']})"))
    result.append("  pods")
    for pod in panel["pods"]:
        ready = "ready" if pod["ready"] else "NOT ready"
        result.append(f"    {pod['name']:<45} {pod['state']:<18} {ready}, {pod['restarts']} restarts")
    return result


def _row(label: str, text: str) -> str:
    return f"  {label:<15} {text}"
